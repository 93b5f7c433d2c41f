"""The review of one CT inside a scene: kept in the scene, drawn over the slices in view, changed by hand and by mouse.

A text node holds the review, so that a scene that is saved and loaded goes on where it was, undo included; the table and the overlay are
drawn from it. Nothing here knows Qt: a script can review without a panel.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from LesionDetectorLib import recist, review
from LesionDetectorLib.lesion import Axis, BodyPart, Box, Lesion, Mark, Origin, Recist, ReviewStatus
from LesionDetectorLib.report.reading import Reading, ordered

from .markups import ras_to_ijk
from .mrml import ATTRIBUTE, VOLUME, SceneError, all_nodes, ijk_to_world, slice_views, slicer_module
from .overlay import Overlay, lesion_slices, slices_in_view
from .shown import add_table, fill_table

if TYPE_CHECKING:
    from slicer import vtkMRMLMarkupsNode, vtkMRMLNode, vtkMRMLScalarVolumeNode, vtkMRMLScene

REVIEW = ATTRIBUTE + "review"
SELECTED = ATTRIBUTE + "selected"
READER_MARGIN_MM = 1.0
"""Between a lesion and the box that a reader draws."""
CLICK_MM = 30.0
"""Side of the box in which a lesion is looked for where a reader clicks."""


class Session:
    """One CT under review.

    `changed(session)` is called after everything that changes what a panel shows. All ids are those of lesions.

    Attributes
    ----------
    volume_node: the CT.
    review: what was found, and every edit.
    selected: the id of the lesion that is looked at, None if none is.
    listed: the lesions of the list in the order of a report, with their numbers in it; a rejected one has none. Renewed with every
        change, not with every slice.
    closed: whether the session has ended, by `close`, or because its CT or its review was taken out of the scene.
    """

    def __init__(
        self, volume_node: vtkMRMLScalarVolumeNode, state: review.Review, changed: Callable[[Session], None] = lambda session: None
    ) -> None:
        self.volume_node, self.review, self.selected = volume_node, state, None
        self._scene: vtkMRMLScene = volume_node.GetScene()
        self._changed = changed
        self.closed = False
        self._editing = False
        self._drawing = False
        self._observed: list[tuple[Any, int]] = []
        self._text = None
        self.listed: list[tuple[int | None, Lesion]] = []
        self._overlay = Overlay(volume_node, self._observe_markup)
        self._observe_scene()

    @classmethod
    def start(
        cls, volume_node: vtkMRMLScalarVolumeNode, found: Reading, changed: Callable[[Session], None] = lambda session: None
    ) -> Session:
        """A new review of what was found on `volume_node`; in place of one that there is."""
        for node in _kept_reviews(volume_node.GetScene(), volume_node):
            volume_node.GetScene().RemoveNode(node)
        session = cls(volume_node, review.Review(found), changed)
        session._update()
        return session

    @classmethod
    def kept(
        cls, scene: vtkMRMLScene, changed: Callable[[Session], None] = lambda session: None, besides: Container[str] = ()
    ) -> list[Session]:
        """The reviews in a scene, each on its CT, without those of CTs whose ids are in `besides`; ExchangeError for a damaged one."""
        sessions = []
        for node in _kept_reviews(scene):
            volume_node = node.GetNodeReference(VOLUME)
            if volume_node is not None and volume_node.GetID() not in besides:
                session = cls(volume_node, review.loads(node.GetText()), changed)
                session._text, session.selected = node, node.GetAttribute(SELECTED) or None
                session._update()
                sessions.append(session)
        return sessions

    # ------------------------------------------------------------------------------------------------------------- what is shown

    def _numbered(self) -> list[tuple[int | None, Lesion]]:
        reported = self.review.reading.reported
        numbers = {lesion.id: number for number, lesion in enumerate(reported, 1)}
        rejected = [
            lesion
            for lesion in self.review.lesions
            if lesion.status is ReviewStatus.REJECTED and (lesion.confidence is None or lesion.confidence >= self.review.confidence)
        ]
        return [(numbers.get(lesion.id), lesion) for lesion in ordered([*reported, *rejected])]

    @property
    def confidence(self) -> float:
        """Pending lesions below this confidence are hidden. Setting it filters at once."""
        return self.review.confidence

    @confidence.setter
    def confidence(self, value: float) -> None:
        self.review.confidence = value
        self._update()

    def report(self, accepted_only: bool = False) -> Reading:
        """The reading as it is now: all that a report shows, or only what the reader accepted."""
        return self.review.reading.accepted_only() if accepted_only else self.review.reading

    def select(self, lesion_id: str | None, jump: bool = True) -> None:
        """Look at a lesion: the slice views go to its key slice."""
        self.selected = lesion_id
        if lesion_id is not None and jump:
            self._jump(self.review.lesion(lesion_id))
        self._update()

    def step(self, by: int) -> None:
        """Select the lesion `by` places further down the list (1: the next, -1: the one before), round its ends."""
        ids = [lesion.id for _, lesion in self.listed]
        if ids:
            place = ids.index(self.selected) + by if self.selected in ids else (0 if by > 0 else -1)
            self.select(ids[place % len(ids)])

    @property
    def editing(self) -> bool:
        """Whether the box and the axes of the selected lesion can be dragged."""
        return self._editing

    @editing.setter
    def editing(self, value: bool) -> None:
        self._editing = value
        self._update()

    def refresh(self) -> None:
        """Draw the overlay for the slices that are in view now."""
        if self._drawing:
            return
        with self._drawn():
            slices = slices_in_view(self._scene, self.volume_node)
            self._overlay.show(self.listed, slices, self.selected if self._editing else None)

    # ------------------------------------------------------------------------------------------------------------ what is changed

    def set_status(self, lesion_id: str, status: ReviewStatus) -> None:
        """Accept or reject a lesion, or set it back to pending."""
        self._edit(self.review.set_status, lesion_id, status)

    def relabel(self, lesion_id: str, body_part: BodyPart) -> None:
        """Give a lesion another body part."""
        self._edit(self.review.relabel, lesion_id, body_part)

    def mark(self, lesion_id: str, mark: Mark, on: bool) -> None:
        """Tick something on a lesion, or take the tick away."""
        self._edit(self.review.mark, lesion_id, mark, on)

    def delete(self, lesion_id: str) -> None:
        """Take a lesion out of the list."""
        self._edit(self.review.delete, lesion_id)

    def undo(self) -> None:
        """Take back the last change."""
        self._edit(self.review.undo)

    def redo(self) -> None:
        """Do again what was taken back last."""
        self._edit(self.review.redo)

    def add_box(self, body_part: BodyPart, corners: np.ndarray) -> Lesion:
        """Add the lesion in a box between two opposite corners (2, 3), RAS mm in the world, on one slice; it is selected."""
        ijk = ras_to_ijk(corners, self.volume_node)
        low, high = ijk[:, :2].min(axis=0), ijk[:, :2].max(axis=0)
        if min(high - low) < 1:
            raise SceneError("The box is smaller than a voxel; draw a larger one.")
        return self._add(body_part, round(float(ijk[:, 2].mean())), (*map(float, low), *map(float, high)), READER_MARGIN_MM)

    def add_at(self, body_part: BodyPart, point: np.ndarray) -> Lesion:
        """Add the lesion round a point (3,), RAS mm in the world; its box is fitted to what is measured there. It is selected."""
        (ijk,) = ras_to_ijk(np.atleast_2d(point), self.volume_node)
        half = CLICK_MM / 2 / np.array(self.volume_node.GetSpacing()[:2])
        return self._add(body_part, round(float(ijk[2])), (*map(float, ijk[:2] - half), *map(float, ijk[:2] + half)), 0.0, fit=True)

    def to_largest_slice(self, lesion_id: str) -> None:
        """Outline a lesion on every slice that it spans, and make the one where it is largest its key slice; it is selected."""
        lesion = self.review.lesion(lesion_id)
        areas = {k: self._area(k, lesion) for k in lesion_slices(lesion)}
        k = max(areas, key=lambda k: (areas[k], k == lesion.key_slice))
        if k != lesion.key_slice:
            self._edit(self.review.move_box, lesion_id, k, lesion.box, self._measured(k, lesion.box, lesion.origin))
        self.select(lesion_id)

    def close(self) -> None:
        """Stop drawing and listening; what was reviewed stays in the scene."""
        self.closed = True
        for sender, tag in self._observed:
            sender.RemoveObserver(tag)
        self._observed.clear()
        with self._drawn():
            self._overlay.remove()

    @property
    def observers(self) -> int:
        """How many observers the session has, for tests that count them."""
        return len(self._observed)

    # ------------------------------------------------------------------------------------------------------------------- inside

    def _edit(self, change: Callable[..., Any], *arguments: Any) -> None:
        change(*arguments)
        if self.selected is not None and self.selected not in {lesion.id for lesion in self.review.lesions}:
            self.selected = None
        self._update()

    def _add(self, body_part: BodyPart, k: int, box: Box, margin_mm: float, fit: bool = False) -> Lesion:
        if not 0 <= k < self.volume_node.GetImageData().GetDimensions()[2]:
            raise SceneError("The lesion lies outside of the CT; draw it on one of its slices.")
        measured = self._measure(k, box, margin_mm)
        if fit:
            ends = np.array([*measured.long_axis, *measured.short_axis])
            margin = READER_MARGIN_MM / np.array(self.volume_node.GetSpacing()[:2])
            box = (*map(float, ends.min(axis=0) - margin), *map(float, ends.max(axis=0) + margin))
        lesion = self.review.add(body_part, k, box, measured)
        self.select(lesion.id, jump=False)
        return lesion

    def _measured(self, k: int, box: Box, origin: Origin) -> Recist:
        return self._measure(k, box, _margin_mm(origin))

    def _measure(self, k: int, box: Box, margin_mm: float) -> Recist:
        return recist.measure(self._hu(k), self.volume_node.GetSpacing()[:2], box, recist.pixels(margin_mm, self.volume_node.GetSpacing()))

    def _area(self, k: int, lesion: Lesion) -> float:
        margin_px = recist.pixels(_margin_mm(lesion.origin), self.volume_node.GetSpacing())
        return float(recist.segment(self._hu(k), lesion.box, margin_px).mask.sum())

    def _hu(self, k: int) -> np.ndarray:
        return slicer_module().util.arrayFromVolume(self.volume_node)[k]

    def _jump(self, lesion: Lesion) -> None:
        x0, y0, x1, y1 = lesion.box
        point = (ijk_to_world(self.volume_node) @ ((x0 + x1) / 2, (y0 + y1) / 2, lesion.key_slice, 1))[:3]
        for view in slice_views(self._scene, self.volume_node):
            view.JumpSliceByCentering(*point)

    def _update(self) -> None:
        """Keep the review in the scene, and draw what it shows."""
        with self._drawn():
            if self._text is None:
                self._text = self._scene.AddNewNodeByClass("vtkMRMLTextNode", f"Lesion review of {self.volume_node.GetName()}")
                self._text.SetNodeReferenceID(VOLUME, self.volume_node.GetID())
                self._text.SetAttribute(REVIEW, "1")
                self._text.SetForceCreateStorageNode(True)
            self._text.SetText(review.dumps(self.review))
            self._text.SetAttribute(SELECTED, self.selected or "")
            self.listed = self._numbered()
            table = self._kept_table() or add_table(self._scene, self.volume_node, [], self._slice_number)
            fill_table(table, self.listed, self._slice_number)
        self.refresh()
        self._changed(self)

    def _slice_number(self, k: int) -> int:
        return self.review.found.slice_number(k)

    def _kept_table(self) -> vtkMRMLNode | None:
        tables = all_nodes(self._scene, "vtkMRMLTableNode")
        return next((table for table in tables if table.GetNodeReferenceID(VOLUME) == self.volume_node.GetID()), None)

    @contextmanager
    def _drawn(self) -> Iterator[None]:
        """While the session itself changes nodes, their events are not the reader's."""
        before, self._drawing = self._drawing, True
        try:
            yield
        finally:
            self._drawing = before

    # ------------------------------------------------------------------------------------------------------------------- events

    def _observe(self, sender: Any, event: int | str, callback: Callable) -> None:
        self._observed.append((sender, sender.AddObserver(event, callback)))

    def _observe_scene(self) -> None:
        scene_class = slicer_module().vtkMRMLScene
        self._observe(self._scene, scene_class.NodeAddedEvent, lambda *_: self._on_node_added())
        self._observe(self._scene, scene_class.NodeRemovedEvent, lambda *_: self._on_node_removed())
        self._observe_views()

    def _on_node_added(self) -> None:
        if not self._drawing:
            self._observe_views()
            self.refresh()

    def _on_node_removed(self) -> None:
        """Without its CT or its review the session has nothing to show; a lost table or overlay is made anew."""
        if self._drawing or self.closed:
            return
        if not all(self._scene.IsNodePresent(node) for node in (self.volume_node, self._text)):
            self.close()
            self._changed(self)
        elif self._kept_table() is None:
            self._update()

    def _observe_views(self) -> None:
        """Listen to the views that are not listened to yet."""
        known = {id(sender) for sender, _ in self._observed}
        for name in ("vtkMRMLSliceNode", "vtkMRMLSliceCompositeNode"):
            for view in all_nodes(self._scene, name):
                if id(view) not in known:
                    self._observe(view, "ModifiedEvent", lambda *_: self.refresh())

    def _observe_markup(self, node: vtkMRMLMarkupsNode, axis: Axis | None) -> None:
        node.SetSaveWithScene(False)
        markups_class = slicer_module().vtkMRMLMarkupsNode
        if axis is None:
            self._observe(node, markups_class.PointEndInteractionEvent, lambda *_: self._on_box_dragged(node))
        else:
            self._observe(node, markups_class.PointModifiedEvent, lambda *_: self._on_axis_moves(node, axis))
            self._observe(node, markups_class.PointEndInteractionEvent, lambda *_: self._on_axis_dragged(node, axis))

    def _on_box_dragged(self, node: vtkMRMLMarkupsNode) -> None:
        lesion_id = self._overlay.lesion_of(node)
        if lesion_id is not None and not self._drawing:
            k, box = self._overlay.box(lesion_id)
            k = min(max(k, 0), self.volume_node.GetImageData().GetDimensions()[2] - 1)
            self._edit(self.review.move_box, lesion_id, k, box, self._measured(k, box, self.review.lesion(lesion_id).origin))

    def _on_axis_moves(self, node: vtkMRMLMarkupsNode, axis: Axis) -> None:
        lesion_id = self._overlay.lesion_of(node)
        if lesion_id is not None and not self._drawing:
            number, lesion = self._overlay.shown[lesion_id]
            ends, mm = self._overlay.axis(lesion_id, axis)
            self._overlay.caption(lesion_id, lesion.edited(recist=lesion.recist.with_axis(axis, ends, mm)).caption(number))

    def _on_axis_dragged(self, node: vtkMRMLMarkupsNode, axis: Axis) -> None:
        lesion_id = self._overlay.lesion_of(node)
        if lesion_id is not None and not self._drawing:
            self._edit(self.review.draw_axis, lesion_id, axis, *self._overlay.axis(lesion_id, axis))


def _kept_reviews(scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode | None = None) -> list[vtkMRMLNode]:
    nodes = [node for node in all_nodes(scene, "vtkMRMLTextNode") if node.GetAttribute(REVIEW)]
    return [node for node in nodes if volume_node is None or node.GetNodeReferenceID(VOLUME) == volume_node.GetID()]


def _margin_mm(origin: Origin) -> float:
    return recist.DETECTOR_MARGIN_MM if origin is Origin.DETECTOR else READER_MARGIN_MM
