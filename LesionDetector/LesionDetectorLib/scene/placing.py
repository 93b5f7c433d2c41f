"""Letting a reader draw a new lesion in a slice view: a box by two clicks, or one click on the lesion."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from LesionDetectorLib.scene.mrml import slicer_module

if TYPE_CHECKING:
    from slicer import vtkMRMLScene


class Shape(Enum):
    """What a reader draws, and the class of the markup to draw it with."""

    BOX = "vtkMRMLMarkupsROINode"
    POINT = "vtkMRMLMarkupsFiducialNode"


class Placing:
    """One drawing under way in the views of the application.

    Once it is done `placed` gets the points, RAS mm in the world: two opposite corners (2, 3) of a box as they were
    clicked, or the one point (1, 3); `given_up` is called where the reader leaves the drawing, as with the escape key.
    The markup with which it was drawn is taken away, then or by `stop`. `later` runs a function once the application
    has handled the event that it is at: a markup that is taken away while a view handles a click on it crashes the
    application.
    """

    def __init__(
        self,
        scene: vtkMRMLScene,
        shape: Shape,
        placed: Callable[[np.ndarray], None],
        given_up: Callable[[], None],
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        self._scene, self._shape, self._placed, self._given_up, self._later = scene, shape, placed, given_up, later
        self._first: np.ndarray | None = None
        self._node = scene.AddNewNodeByClass(shape.value, "New lesion")
        self._node.SetSaveWithScene(False)
        self._node.SetHideFromEditors(True)
        selection = scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
        selection.SetReferenceActivePlaceNodeClassName(shape.value)
        selection.SetActivePlaceNodeID(self._node.GetID())
        self._interaction = scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
        self._interaction.SetPlaceModePersistence(0)
        self._interaction.SetCurrentInteractionMode(self._interaction.Place)
        self._tags = [
            (
                self._node,
                self._node.AddObserver(slicer_module().vtkMRMLMarkupsNode.PointPositionDefinedEvent, self._on_point),
            ),
            (
                self._interaction,
                self._interaction.AddObserver(self._interaction.InteractionModeChangedEvent, self._on_mode),
            ),
        ]

    def stop(self) -> None:
        """End the drawing; what is drawn so far is gone."""
        self._ignore()
        if self._scene.IsNodePresent(self._node):
            self._scene.RemoveNode(self._node)
        if self._interaction.GetCurrentInteractionMode() == self._interaction.Place:
            self._interaction.SetCurrentInteractionMode(self._interaction.ViewTransform)

    def _ignore(self) -> None:
        for sender, tag in self._tags:
            sender.RemoveObserver(tag)
        self._tags.clear()

    def _on_point(self, *_) -> None:
        point = np.array(self._node.GetNthControlPointPositionWorld(0))
        if self._shape is Shape.BOX and self._first is None:
            self._first = point
            return
        # With its second corner the box has one point left, its centre; its sides lie along the axes of the world, not
        # of the CT.
        points = point[None] if self._first is None else np.array([self._first, 2 * point - self._first])
        self._end_with(lambda: self._placed(points))

    def _on_mode(self, *_) -> None:
        if self._interaction.GetCurrentInteractionMode() != self._interaction.Place:
            self._end_with(self._given_up)

    def _end_with(self, news: Callable[[], None]) -> None:
        def end() -> None:
            self.stop()
            news()

        self._ignore()
        self._later(end)
