"""Lesions over the slices that are looked at: a box, two axes and a label each, as markups of 3D Slicer that a reader can drag.

Only lesions on the slices in view have nodes, and the nodes are used again as the slices change: hundreds of markups, even hidden ones,
would make every step from slice to slice slow. What lesions there are is not kept here but in the review (`session.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from LesionDetectorLib.lesion import Axis, Box, Lesion, Point

from . import markups
from .mrml import ijk_to_world, matrix_of, remove_with_display, slice_views

if TYPE_CHECKING:
    from slicer import vtkMRMLMarkupsLineNode, vtkMRMLMarkupsNode, vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLScene


@dataclass
class _Nodes:
    """The nodes that draw one lesion."""

    box: vtkMRMLMarkupsROINode
    axes: dict[Axis, vtkMRMLMarkupsLineNode]

    def all(self) -> list[vtkMRMLMarkupsNode]:
        return [self.box, *self.axes.values()]


class Overlay:
    """Draws lesions on one CT.

    `on_new_node(node, axis)` is called once for every node that is made, axis None for a box, so that its owner can observe it.
    """

    def __init__(self, volume_node: vtkMRMLScalarVolumeNode, on_new_node=lambda node, axis: None) -> None:
        self._volume_node = volume_node
        self._scene: vtkMRMLScene = volume_node.GetScene()
        self._on_new_node = on_new_node
        self._shown: dict[str, tuple[int, Lesion]] = {}
        self._nodes: dict[str, _Nodes] = {}
        self._spare: list[_Nodes] = []
        self._slices: set[int] = set()
        self._editable: str | None = None
        self._labels = None

    @property
    def shown(self) -> dict[str, tuple[int, Lesion]]:
        """What is drawn now: id -> (number, lesion)."""
        return self._shown

    def show(self, entries: Iterable[tuple[int, Lesion]], slices: set[int], editable: str | None = None) -> None:
        """Draw those of the lesions, given with their numbers, that span one of `slices`, and no others; `editable` is the id of
        one that can be dragged."""
        wanted = {lesion.id: (number, lesion) for number, lesion in entries if any(k in slices for k in lesion_slices(lesion))}
        if (wanted, slices, editable) == (self._shown, self._slices, self._editable):
            return
        for lesion_id in self._shown.keys() - wanted.keys():
            self._put_away(self._nodes.pop(lesion_id))
        for lesion_id, (number, lesion) in wanted.items():
            changed = self._shown.get(lesion_id) != (number, lesion) or lesion_id in (editable, self._editable)
            if lesion_id not in self._nodes:
                self._nodes[lesion_id] = self._spare.pop() if self._spare else self._make()
            elif not changed:
                continue
            self._draw(self._nodes[lesion_id], number, lesion, lesion_id == editable)
        self._shown, self._slices, self._editable = wanted, set(slices), editable
        self._label([(number, lesion, k) for number, lesion in wanted.values() for k in lesion_slices(lesion) if k in slices])

    def caption(self, lesion_id: str, text: str) -> None:
        """Change the label of a lesion that is drawn, as while an axis of it is dragged."""
        if self._labels is not None and lesion_id in self._shown:
            for index in range(self._labels.GetNumberOfControlPoints()):
                if self._labels.GetNthControlPointDescription(index) == lesion_id:
                    self._labels.SetNthControlPointLabel(index, text)

    def lesion_of(self, node: vtkMRMLMarkupsNode) -> str | None:
        """The id of the lesion that a box or an axis draws; None for a node that draws none."""
        return next((lesion_id for lesion_id, nodes in self._nodes.items() if node in nodes.all()), None)

    def box(self, lesion_id: str) -> tuple[int, Box]:
        """Where the box of a drawn lesion is now: its slice, and (x0, y0, x1, y1) in voxel indices."""
        node, lesion = self._nodes[lesion_id].box, self._shown[lesion_id][1]
        corners = markups.box_corners(node, self._volume_node)
        middle = sum(lesion.slices) / 2
        key_slice = lesion.key_slice + round(float(corners[:, 2].mean()) - middle)
        return key_slice, (*map(float, corners[:, :2].min(axis=0)), *map(float, corners[:, :2].max(axis=0)))

    def axis(self, lesion_id: str, axis: Axis) -> tuple[tuple[Point, Point], float]:
        """Where an axis of a drawn lesion is now: its ends (i, j) in voxel indices, and its length in mm."""
        return markups.read_axis(self._nodes[lesion_id].axes[axis], self._volume_node)

    def remove(self) -> None:
        """Take every node of the overlay out of the scene."""
        self._remove([node for nodes in (*self._nodes.values(), *self._spare) for node in nodes.all()])
        self._remove([self._labels] if self._labels is not None else [])
        self._nodes, self._spare, self._shown, self._labels = {}, [], {}, None

    def _remove(self, nodes: list[vtkMRMLMarkupsNode]) -> None:
        for node in nodes:
            remove_with_display(self._scene, node)

    def _make(self) -> _Nodes:
        box = markups.add_markup(self._scene, "vtkMRMLMarkupsROINode", "", self._volume_node)
        axes = {axis: markups.add_markup(self._scene, "vtkMRMLMarkupsLineNode", "", self._volume_node) for axis in Axis}
        nodes = _Nodes(box, axes)
        for node in nodes.all():
            node.SetHideFromEditors(True)
            node.GetDisplayNode().SetVisibility3D(False)
        markups.style_box(box)
        for line in axes.values():
            markups.style_line(line)
        self._on_new_node(box, None)
        for axis, line in axes.items():
            self._on_new_node(line, axis)
        return nodes

    def _put_away(self, nodes: _Nodes) -> None:
        for node in nodes.all():
            node.GetDisplayNode().SetVisibility(False)
        self._spare.append(nodes)

    def _draw(self, nodes: _Nodes, number: int, lesion: Lesion, editable: bool) -> None:
        from slicer.util import NodeModify

        colour = markups.STATUS_COLOURS[lesion.status]
        with NodeModify(nodes.box):
            markups.set_box(nodes.box, self._volume_node, lesion, lesion.slices)
        for axis, line in nodes.axes.items():
            if lesion.recist is not None:
                with NodeModify(line):
                    markups.set_line(line, self._volume_node, lesion.recist.ends(axis), lesion.key_slice)
        for node in nodes.all():
            display = node.GetDisplayNode()
            with NodeModify(node), NodeModify(display):
                node.SetName(lesion.caption(number) if node is nodes.box else f"{number} axis")
                node.SetLocked(not editable)
                markups.set_colour(node, colour)
                display.SetVisibility(node is nodes.box or lesion.recist is not None)
                if node is nodes.box:
                    display.SetHandlesInteractive(editable)
                    display.SetRotationHandleVisibility(False)

    def _label(self, entries: Iterable[tuple[int, Lesion, int]]) -> None:
        if self._labels is None:
            self._labels = markups.add_markup(self._scene, "vtkMRMLMarkupsFiducialNode", "Lesion labels", self._volume_node)
            self._labels.SetHideFromEditors(True)
            markups.style_labels(self._labels)
        markups.set_labels(self._labels, self._volume_node, entries)


def lesion_slices(lesion: Lesion) -> range:
    """Every slice k that the lesion spans."""
    return range(lesion.slices[0], lesion.slices[1] + 1)


def slices_in_view(scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode) -> set[int]:
    """The slices k of the CT that views along its slices show now."""
    found = set()
    for view in slice_views(scene, volume_node):
        plane = matrix_of(view.GetSliceToRAS())
        to_ijk = np.linalg.inv(ijk_to_world(volume_node))
        normal = to_ijk[:3, :3] @ plane[:3, 2]
        if abs(normal[2]) >= 0.9 * np.linalg.norm(normal):
            found.add(round(float((to_ijk @ plane[:, 3])[2])))
    return found
