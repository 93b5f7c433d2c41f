"""A mouse over a view of trame-slicer, for tests."""

from __future__ import annotations

import numpy as np
import slicer
from LesionDetectorLib.scene import mrml


class Mouse:
    """A mouse over an axial view."""

    def __init__(self, view) -> None:
        self.interactor = view.interactor()
        self.node = slicer.mrmlScene.GetSingletonNode("Red", "vtkMRMLSliceNode")

    def display(self, ras: np.ndarray) -> tuple[int, int]:
        x, y = (np.linalg.inv(mrml.matrix_of(self.node.GetXYToRAS())) @ (*ras, 1))[:2]
        return round(float(x)), round(float(y))

    def at(self, position: tuple[int, int], event: str) -> None:
        self.interactor.SetEventInformation(*position, 0, 0, "\0", 0, None)
        self.interactor.InvokeEvent(event)

    def click(self, position: tuple[int, int]) -> None:
        for event in ("MouseMoveEvent", "LeftButtonPressEvent", "LeftButtonReleaseEvent"):
            self.at(position, event)

    def drag(self, start: tuple[int, int], end: tuple[int, int], steps: int = 5) -> None:
        self.at(start, "MouseMoveEvent")
        self.at(start, "LeftButtonPressEvent")
        for step in range(1, steps + 1):
            self.at(tuple(round(a + (b - a) * step / steps) for a, b in zip(start, end)), "MouseMoveEvent")
        self.at(end, "LeftButtonReleaseEvent")
