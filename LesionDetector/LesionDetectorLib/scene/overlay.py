"""Lesions over the slices of a CT: a box, two axes and a caption each, and, for one of them, markups that a reader
can drag.

All lesions of one colour share one node for their frames and one for their captions. Hundreds of markups, even hidden
ones, would make every step from slice to slice slow; so only the lesion that is edited has markups. What lesions there
are is not kept here but in the review (`session.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from LesionDetectorLib import looks
from LesionDetectorLib.boxes import hull
from LesionDetectorLib.lesion import Axis, Box, Lesion, Point
from LesionDetectorLib.scene import markups
from LesionDetectorLib.scene.captions import anchor_in_view, anchors
from LesionDetectorLib.scene.frames import add_frames, set_frames
from LesionDetectorLib.scene.mrml import remove_with_display

if TYPE_CHECKING:
    from slicer import (
        vtkMRMLMarkupsFiducialNode,
        vtkMRMLMarkupsLineNode,
        vtkMRMLMarkupsNode,
        vtkMRMLMarkupsROINode,
        vtkMRMLModelNode,
        vtkMRMLNode,
        vtkMRMLScalarVolumeNode,
        vtkMRMLScene,
    )

FRAME_PX, SELECTED_PX = 2, 4
SMALL_MM = 20.0
"""A smaller box has no handle in its middle, where the lesion and the ends of its axes lie.

Its sides and corners move it.
"""
HANDLE_SCALE = 1.2
"""Of the box's handles, in percent of the view; Slicer's own 3 would cover a small lesion and the ends of its axes."""

Entry = tuple[int | None, Lesion]
"""A lesion with its number in the report, None for one that is not in it."""


@dataclass
class _Layer:
    """The nodes for all lesions of one colour, and what they show now."""

    frames: vtkMRMLModelNode
    labels: vtkMRMLMarkupsFiducialNode
    framed: list[Lesion] = field(default_factory=list)
    captions: list[markups.Caption] = field(default_factory=list)


@dataclass
class _Handles:
    """The markups of the lesion that is edited."""

    box: vtkMRMLMarkupsROINode
    axes: dict[Axis, vtkMRMLMarkupsLineNode]

    def all(self) -> list[vtkMRMLMarkupsNode]:
        return [self.box, *self.axes.values()]


class Overlay:
    """Draws the lesions of one CT.

    `on_handle(node, axis)` is called once for each markup that can be dragged, axis None for the box, so that its owner
    can observe it.
    """

    def __init__(
        self,
        volume_node: vtkMRMLScalarVolumeNode,
        on_handle: Callable[[vtkMRMLMarkupsNode, Axis | None], None] = lambda node, axis: None,
    ) -> None:
        self._volume_node = volume_node
        self._scene: vtkMRMLScene = volume_node.GetScene()
        self._on_handle = on_handle
        self._layers: dict[str, _Layer] = {}
        self._selected: vtkMRMLModelNode | None = None
        self._handles: _Handles | None = None
        self._edited: Entry | None = None
        self._views: list[str] = []
        self._around: list[tuple] = []
        self._places: list[Point] = []

    @property
    def edited(self) -> Entry | None:
        """The lesion that can be dragged, with its number; None if none can."""
        return self._edited

    def show(self, entries: Sequence[Entry], selected: str | None = None, editable: bool = False) -> None:
        """Draw the lesions, given with their numbers, and no others.

        `selected` is the id of one to be drawn bolder, and, where `editable`, with markups that can be dragged.
        """
        if not self._layers:
            self._make_layers()
        chosen = next((entry for entry in entries if entry[1].id == selected), None)
        self._edited = chosen if editable else None
        captions = self._captions(entries, chosen[1] if chosen is not None else None)
        for kind, layer in self._layers.items():
            of_kind = [caption for caption in captions if looks.kind(caption[1]) == kind]
            framed = [lesion for _, lesion, _ in of_kind if not (editable and lesion.id == selected)]
            self._draw(layer, framed, of_kind)
        self._bolden(chosen[1] if chosen is not None and not editable else None)
        self._free(self._edited)

    def show_in(self, views: Sequence[str]) -> None:
        """Draw in the views with these node ids alone: another view may show another CT of the same patient."""
        if list(views) != self._views:
            self._views = list(views)
            for node in self._nodes():
                self._show_node(node, self._handles is None or node not in self._handles.all() or not node.GetLocked())

    def follow(self) -> None:
        """Lie under the transform that the CT lies under now."""
        for node in self._nodes():
            node.SetAndObserveTransformNodeID(self._volume_node.GetTransformNodeID())

    def _show_node(self, node: vtkMRMLNode, shown: bool) -> None:
        display = node.GetDisplayNode()
        display.SetViewNodeIDs(self._views)
        display.SetVisibility(shown and bool(self._views))

    def caption(self, text: str) -> None:
        """Change the caption of the lesion that is edited, as while an axis of it is dragged."""
        _, lesion = self._edited
        layer = self._layers[looks.kind(lesion)]
        for index in range(layer.labels.GetNumberOfControlPoints()):
            if layer.labels.GetNthControlPointDescription(index) == lesion.id:
                layer.labels.SetNthControlPointLabel(index, text)
        layer.captions = []  # to be drawn again

    def box(self) -> tuple[int, Box]:
        """Where the box that can be dragged is now: its slice, and (x0, y0, x1, y1) in voxel indices."""
        _, lesion = self._edited
        corners = markups.box_corners(self._handles.box, self._volume_node)
        key_slice = lesion.key_slice + round(float(corners[:, 2].mean()) - sum(lesion.slices) / 2)
        return key_slice, hull(corners[:, :2])

    def axis(self, axis: Axis) -> tuple[tuple[Point, Point], float]:
        """Where an axis that can be dragged is now: its ends (i, j) in voxel indices, and its length in mm."""
        return markups.read_axis(self._handles.axes[axis], self._volume_node)

    @property
    def complete(self) -> bool:
        """Whether every node that the overlay made is still in the scene."""
        return all(map(self._scene.IsNodePresent, self._nodes()))

    def remove(self) -> None:
        """Take every node of the overlay out of the scene."""
        for node in filter(self._scene.IsNodePresent, self._nodes()):
            remove_with_display(self._scene, node)
        self._layers, self._selected, self._handles, self._edited = {}, None, None, None

    def _nodes(self) -> list[vtkMRMLNode]:
        layers = [node for layer in self._layers.values() for node in (layer.frames, layer.labels)]
        return (
            layers
            + [self._selected] * (self._selected is not None)
            + (self._handles.all() if self._handles is not None else [])
        )

    def _make_layers(self) -> None:
        for kind, colour in looks.COLOURS.items():
            frames = add_frames(self._volume_node, f"Lesions {kind}", colour, FRAME_PX)
            labels = markups.add_markup(
                self._scene, "vtkMRMLMarkupsFiducialNode", f"Captions {kind}", self._volume_node
            )
            markups.style_labels(labels, colour)
            self._layers[kind] = _Layer(frames, labels)
            _hide_from_lists(frames, labels)
        self._selected = add_frames(self._volume_node, "Selected lesion", looks.COLOURS["pending"], SELECTED_PX)
        _hide_from_lists(self._selected)
        for node in self._nodes():
            self._show_node(node, True)

    def _captions(self, entries: Sequence[Entry], selected: Lesion | None) -> list[markups.Caption]:
        """The captions with their places, which take a while to find and are found again only where something moved.

        That of the selected lesion stays inside the view that shows it, however small.
        """
        texts = [(lesion.caption(number), lesion) for number, lesion in entries]
        around = [(len(text), lesion.box, lesion.slices) for text, lesion in texts]
        if around != self._around:
            self._around, self._places = around, anchors(self._volume_node, texts)
        seen = anchor_in_view(self._volume_node, texts, selected) if selected is not None else None
        return [
            (*text, seen if seen is not None and text[1] is selected else place)
            for text, place in zip(texts, self._places)
        ]

    def _draw(self, layer: _Layer, framed: list[Lesion], captions: list[markups.Caption]) -> None:
        if framed != layer.framed:
            set_frames(layer.frames, self._volume_node, framed)
        if captions != layer.captions:
            markups.set_labels(layer.labels, self._volume_node, captions)
        layer.framed, layer.captions = framed, captions

    def _bolden(self, lesion: Lesion | None) -> None:
        set_frames(self._selected, self._volume_node, [lesion] if lesion is not None else [])
        if lesion is not None:
            self._selected.GetDisplayNode().SetColor(looks.colour(lesion))

    def _free(self, entry: Entry | None) -> None:
        """Put the markups where the lesion that is edited is, or hide them."""
        if entry is None and self._handles is None:
            return
        from slicer.util import NodeModify

        self._handles = self._handles or self._make_handles()
        for axis, node in ((None, self._handles.box), *self._handles.axes.items()):
            lesion = entry[1] if entry is not None else None
            shown = lesion is not None and (axis is None or lesion.recist is not None)
            node.SetLocked(not shown)
            self._show_node(node, shown)
            if not shown:
                continue
            markups.set_colour(node, looks.colour(lesion))
            with NodeModify(node):
                if axis is None:
                    markups.set_box(node, self._volume_node, lesion, lesion.slices)
                    node.GetDisplayNode().SetTranslationHandleVisibility(min(node.GetSize()[:2]) >= SMALL_MM)
                else:
                    markups.set_line(node, self._volume_node, lesion.recist.ends(axis), lesion.key_slice)

    def _make_handles(self) -> _Handles:
        box = markups.add_markup(self._scene, "vtkMRMLMarkupsROINode", "Box of the lesion", self._volume_node)
        axes = {
            axis: markups.add_markup(
                self._scene, "vtkMRMLMarkupsLineNode", f"{axis.capitalize()} axis of the lesion", self._volume_node
            )
            for axis in Axis
        }
        handles = _Handles(box, axes)
        _hide_from_lists(*handles.all())
        markups.style_box(box)
        box.GetDisplayNode().SetHandlesInteractive(True)
        box.GetDisplayNode().SetRotationHandleVisibility(False)
        box.GetDisplayNode().SetInteractionHandleScale(HANDLE_SCALE)
        for line in axes.values():
            markups.style_line(line)
        for node in handles.all():
            node.GetDisplayNode().SetVisibility3D(False)
        self._on_handle(box, None)
        for axis, line in axes.items():
            self._on_handle(line, axis)
        return handles


def _hide_from_lists(*nodes: vtkMRMLNode) -> None:
    """Neither list nor save nodes that are drawn again from the review."""
    for node in nodes:
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        node.GetDisplayNode().SetSaveWithScene(False)
