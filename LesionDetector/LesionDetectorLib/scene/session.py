"""The review of one CT inside a scene: kept in the scene, drawn over the slices in view, changed by hand and by mouse.

A text node holds the review, so that a scene that is saved and loaded goes on where it was, undo included; the table
and the overlay are drawn from it, once a change, not once a slice. Nothing here knows Qt: a script can review without a
panel.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from LesionDetectorLib import review
from LesionDetectorLib.boxes import hull, pairwise_iou
from LesionDetectorLib.exchange.lesions_json import ExchangeError
from LesionDetectorLib.lesion import Axis, BodyPart, Box, Lesion, Mark, Origin, Recist, ReviewStatus
from LesionDetectorLib.looks import window
from LesionDetectorLib.measure import margins, outline
from LesionDetectorLib.reading import Reading, ordered
from LesionDetectorLib.scene.kept import keep_review, kept_reviews
from LesionDetectorLib.scene.markups import lesion_slices, ras_to_ijk
from LesionDetectorLib.scene.mrml import (
    ATTRIBUTE,
    VOLUME,
    SceneError,
    all_nodes,
    ijk_to_world,
    is_in_view,
    slice_views,
    slicer_module,
)
from LesionDetectorLib.scene.overlay import Entry, Overlay
from LesionDetectorLib.scene.shown import add_table, fill_table, geometry_of, remove_lesions, set_window

if TYPE_CHECKING:
    from slicer import vtkMRMLMarkupsNode, vtkMRMLNode, vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLSliceNode

SELECTED = ATTRIBUTE + "selected"
FIELD_MM = 120.0
"""Width of the field that a step to a lesion shows, at least; of a large lesion, three times its box."""
SAME_PLACE = 0.5
"""Share of their common area from which two boxes on common slices are of one lesion."""
OTHER_IMAGE = (
    "this CT is not the image any more on which the lesions were found (it was cropped, resampled or moved). "
    "Undo that, or detect lesions again."
)


class Session:
    """One CT under review.

    `changed(session)` is called after everything that changes what a panel shows. All ids are those of lesions.

    Attributes
    ----------
    volume_node, scene: the CT, and the scene that it is in.
    review: what was found, and every edit.
    selected: the id of the lesion that is looked at, None if none is.
    listed: the lesions of the list in the order of a report, with their numbers in it; a rejected one has none.
    closed: whether the session has ended, by `close`, or because its CT or its review was taken out of the scene, or
        its CT has become another image.
    why_closed: a sentence on what ended it, if that was not asked for.
    zooms, windows: whether selecting a lesion shows a small field round it, and in the window of its body part.
    """

    def __init__(
        self,
        volume_node: vtkMRMLScalarVolumeNode,
        state: review.Review,
        changed: Callable[[Session], None] = lambda session: None,
    ) -> None:
        self.volume_node, self.review = volume_node, state
        self.selected: str | None = None
        self.scene: vtkMRMLScene = volume_node.GetScene()
        self._changed = changed
        self.closed = False
        self.why_closed = ""
        self.zooms = self.windows = False
        self._fields: dict[str, tuple[float, ...]] = {}
        self._editing = False
        self._drawing = False
        self._observed: list[tuple[Any, int]] = []
        self._text: Any = None
        self.listed: list[Entry] = []
        self._overlay = Overlay(volume_node, self._observe_handle)
        self._observe_scene()

    @classmethod
    def start(
        cls,
        volume_node: vtkMRMLScalarVolumeNode,
        found: Reading,
        changed: Callable[[Session], None] = lambda session: None,
    ) -> Session:
        """A new review of what was found on `volume_node`; in place of one that there is."""
        remove_lesions(volume_node.GetScene(), volume_node)
        for node in kept_reviews(volume_node.GetScene(), volume_node):
            volume_node.GetScene().RemoveNode(node)
        session = cls(volume_node, review.Review(found), changed)
        session._update()
        return session

    @classmethod
    def kept(
        cls,
        scene: vtkMRMLScene,
        changed: Callable[[Session], None] = lambda session: None,
        besides: Container[str] = (),
        warn: Callable[[str], None] = lambda sentence: None,
    ) -> list[Session]:
        """The reviews in a scene, each on its CT, without those of CTs whose ids are in `besides`.

        Lesions that `show_lesions` drew there for a Slicer without this module give way. `warn` is told of a review
        that is damaged or of another image than the CT is now; it stays as it is.
        """
        sessions = []
        for node in kept_reviews(scene):
            volume_node = node.GetNodeReference(VOLUME)
            if volume_node is not None and volume_node.GetID() not in besides:
                try:
                    continued = review.loads(node.GetText())
                except ExchangeError as error:
                    warn(f"The review of {volume_node.GetName()} cannot be continued: {error}")
                    continue
                if not _is_on(continued, volume_node):
                    warn(f"The review of {volume_node.GetName()} cannot be continued: {OTHER_IMAGE}")
                    continue
                session = cls(volume_node, continued, changed)
                session._text, session.selected = node, node.GetAttribute(SELECTED) or None
                remove_lesions(scene, volume_node)
                session._update()
                sessions.append(session)
        return sessions

    # ------ what is shown

    def _numbered(self) -> list[Entry]:
        reported = self.review.reading.reported
        numbers = {lesion.id: number for number, lesion in enumerate(reported, 1)}
        rejected = [
            lesion
            for lesion in self.review.lesions
            if lesion.status is ReviewStatus.REJECTED
            and (lesion.confidence is None or lesion.confidence >= self.review.confidence)
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

    def select(self, lesion_id: str | None) -> None:
        """Look at a lesion: the slice views go to its key slice, and move sideways where they would not show it."""
        self.selected = lesion_id
        if lesion_id is not None:
            self._jump(self.review.lesion(lesion_id))
        self._show()

    def step(self, by: int, ids: Sequence[str] = ()) -> None:
        """Select the lesion `by` places further down the list (1: the next, -1: the one before), round its ends.

        `ids` is the list in another order, as a reader may have sorted it.
        """
        ids = ids or [lesion.id for _, lesion in self.listed]
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
        self._show()

    # ------ what is changed

    def set_status(self, lesion_id: str, status: ReviewStatus) -> None:
        """Accept or reject a lesion, or set it back to pending."""
        self._edit(self.review.set_status, lesion_id, status)

    def set_statuses(self, status: ReviewStatus) -> None:
        """Accept or reject all lesions of the list that are pending, in one step."""
        pending = [lesion.id for _, lesion in self.listed if lesion.status is ReviewStatus.PENDING]
        self._edit(self.review.set_statuses, pending, status)

    def toggle_status(self, lesion_id: str, status: ReviewStatus) -> None:
        """Give a lesion a status, or take it away: what is accepted twice is pending again."""
        self.set_status(lesion_id, ReviewStatus.PENDING if self.review.lesion(lesion_id).status is status else status)

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

    def add(self, body_part: BodyPart, points: np.ndarray) -> Lesion:
        """Add the lesion in a box with these opposite corners (2, 3), or round this point (1, 3), RAS mm in the world.

        It is selected.

        Raises SceneError where the box is too small, or the lesion is not on the CT; ValueError where it is beside the
        image.
        """
        ijk = ras_to_ijk(points, self.volume_node)
        k = round(float(ijk[:, 2].mean()))
        if not 0 <= k < self.volume_node.GetImageData().GetDimensions()[2]:
            raise SceneError("The lesion lies outside of the CT; draw it on one of its slices.")
        box = self._around(k, ijk[0, :2]) if len(points) == 1 else _between(ijk[:, :2])
        measured = self._measure(k, box, margins.READER_MARGIN_MM)
        lesion = self.review.add(body_part, k, box, measured, self._spanned(k, box, measured))
        self.selected = lesion.id
        self._update()
        return lesion

    def twin(self, lesion_id: str) -> Entry | None:
        """The listed lesion that lies where this one lies, with its number; None if none does.

        Rejected ones do not count.
        """
        lesion = self.review.lesion(lesion_id)
        others = [
            entry for entry in self.listed if entry[1].id != lesion_id and entry[1].status is not ReviewStatus.REJECTED
        ]
        return next((entry for entry in others if _same_place(entry[1], lesion)), None)

    def show_whole(self) -> None:
        """Show the fields again that the views had before a step to a lesion made them small."""
        for name, field in self._fields.items():
            view = self.scene.GetNodeByID(name)
            if view is not None:
                view.SetFieldOfView(*field)
        self._fields = {}

    def to_largest_slice(self, lesion_id: str) -> None:
        """Outline a lesion on every slice that it spans, and make the one where it is largest its key slice.

        It is selected.
        """
        lesion = self.review.lesion(lesion_id)
        areas = {k: self._area(k, lesion) for k in lesion_slices(lesion)}
        k = max(areas, key=lambda k: (areas[k], k == lesion.key_slice))
        if k != lesion.key_slice:
            self.selected = lesion_id
            self._edit(self.review.move_box, lesion_id, k, lesion.box, self._measured(k, lesion.box, lesion.origin))
        self.select(lesion_id)

    def close(self) -> None:
        """Stop drawing and listening; what was reviewed stays in the scene."""
        self.closed = True
        self._ignore(lambda sender: True)
        self._remove_overlay()

    @property
    def observers(self) -> int:
        """How many observers the session has, for tests that count them."""
        return len(self._observed)

    # ------ inside

    def _edit(self, change: Callable[..., Any], *arguments: Any) -> None:
        change(*arguments)
        if self.selected is not None and self.selected not in {lesion.id for lesion in self.review.lesions}:
            self.selected = None
        self._update()

    def _around(self, k: int, point: np.ndarray) -> Box:
        """The box of the lesion round a point (2,) on slice k."""
        return outline.box_around(self._hu(k), self.volume_node.GetSpacing()[:2], point)

    def _measured(self, k: int, box: Box, origin: Origin) -> Recist:
        return self._measure(k, box, margins.margin_mm(origin))

    def _measure(self, k: int, box: Box, margin_mm: float) -> Recist:
        return outline.measure(
            self._hu(k),
            self.volume_node.GetSpacing()[:2],
            box,
            margins.pixels(margin_mm, self.volume_node.GetSpacing()),
        )

    def _spanned(self, k: int, box: Box, measured: Recist) -> tuple[int, int]:
        """The slices of a lesion that was drawn on slice k."""
        hu = slicer_module().util.arrayFromVolume(self.volume_node)
        margin_px = margins.pixels(margins.READER_MARGIN_MM, self.volume_node.GetSpacing())
        return outline.slices_spanned(hu, self.volume_node.GetSpacing(), k, box, margin_px, measured.long_mm)

    def _area(self, k: int, lesion: Lesion) -> float:
        margin_px = margins.pixels(margins.margin_mm(lesion.origin), self.volume_node.GetSpacing())
        return float(outline.segment(self._hu(k), lesion.box, margin_px).mask.sum())

    def _hu(self, k: int) -> np.ndarray:
        return slicer_module().util.arrayFromVolume(self.volume_node)[k]

    def _jump(self, lesion: Lesion) -> None:
        x0, y0, x1, y1 = lesion.box
        spacing = self.volume_node.GetSpacing()
        point = (ijk_to_world(self.volume_node) @ ((x0 + x1) / 2, (y0 + y1) / 2, lesion.key_slice, 1))[:3]
        if self.windows:
            set_window(self.volume_node, *window(lesion.body_part))
        for view in slice_views(self.scene, self.volume_node):
            if self.zooms:
                self._zoom(view, max(FIELD_MM, 3 * max((x1 - x0) * spacing[0], (y1 - y0) * spacing[1])))
            in_view = not self.zooms and is_in_view(view, point)
            (view.JumpSliceByOffsetting if in_view else view.JumpSliceByCentering)(*point)

    def _zoom(self, view: vtkMRMLSliceNode, width_mm: float) -> None:
        """Show a field of this width; the one before is kept for `show_whole`."""
        width, height, depth = view.GetFieldOfView()
        self._fields.setdefault(view.GetID(), (width, height, depth))
        view.SetFieldOfView(width_mm, width_mm * height / width, depth)

    def _update(self) -> None:
        """Keep the review in the scene, and list and draw what it shows."""
        if self._ends_on_another_image():
            return
        with self._drawn():
            self._text = keep_review(self.volume_node, self.review, self._text)
            self.listed = self._numbered()
            table = self._kept_table() or add_table(self.scene, self.volume_node, [], self._slice_number)
            fill_table(table, self.listed, self._slice_number)
        self._show()

    def _show(self) -> None:
        """Draw what is selected and editable, and tell the panel."""
        with self._drawn():
            self._text.SetAttribute(SELECTED, self.selected or "")
            self._overlay.show(self.listed, self.selected, self._editing)
        self._changed(self)

    def _slice_number(self, k: int) -> int:
        return self.review.found.slice_number(k)

    def _kept_table(self) -> vtkMRMLNode | None:
        tables = all_nodes(self.scene, "vtkMRMLTableNode")
        return next((table for table in tables if table.GetNodeReferenceID(VOLUME) == self.volume_node.GetID()), None)

    @contextmanager
    def _drawn(self) -> Iterator[None]:
        """While the session itself changes nodes, their events are not the reader's."""
        before, self._drawing = self._drawing, True
        try:
            yield
        finally:
            self._drawing = before

    # ------ events

    def _observe(self, sender: Any, event: int | str, callback: Callable) -> None:
        self._observed.append((sender, sender.AddObserver(event, callback)))

    def _ignore(self, unwanted: Callable[[Any], bool]) -> None:
        for sender, tag in filter(lambda observed: unwanted(observed[0]), self._observed):
            sender.RemoveObserver(tag)
        self._observed = [observed for observed in self._observed if not unwanted(observed[0])]

    def _observe_scene(self) -> None:
        scene_class = slicer_module().vtkMRMLScene
        self._observe(self.scene, scene_class.NodeAddedEvent, lambda *_: self._observe_views())
        self._observe(self.scene, scene_class.NodeRemovedEvent, lambda *_: self._on_node_removed())
        self._observe(self.volume_node, self.volume_node.TransformModifiedEvent, lambda *_: self._overlay.follow())
        # the second: its origin, spacing or directions
        for event in (
            self.volume_node.ImageDataModifiedEvent,
            "ModifiedEvent",
        ):
            self._observe(self.volume_node, event, lambda *_: self._on_image_changed())
        self._observe_views()

    def _observe_views(self) -> None:
        """Listen to the views that are not listened to yet for the CT that they show."""
        known = {id(sender) for sender, _ in self._observed}
        for view in all_nodes(self.scene, "vtkMRMLSliceCompositeNode"):
            if id(view) not in known:
                self._observe(view, "ModifiedEvent", lambda *_: self._show_in_views())
        self._show_in_views()

    def _show_in_views(self) -> None:
        with self._drawn():
            self._overlay.show_in([view.GetID() for view in slice_views(self.scene, self.volume_node)])

    def _on_image_changed(self) -> None:
        if not self._drawing and not self.closed:
            self._ends_on_another_image()

    def _ends_on_another_image(self) -> bool:
        """Whether the CT has become another image, with which the session ends."""
        if _is_on(self.review, self.volume_node):
            return False
        self._end(f"The review of {self.volume_node.GetName()} has ended, but stays in the scene: {OTHER_IMAGE}")
        return True

    def _end(self, why: str = "") -> None:
        self.why_closed = why
        self.close()
        self._changed(self)

    def _on_node_removed(self) -> None:
        """Without its CT or its review the session has nothing to show; a lost table or overlay is made again."""
        if self._drawing or self.closed:
            return
        if not all(self.scene.IsNodePresent(node) for node in (self.volume_node, self._text)):
            self._end()
        elif self._kept_table() is None or not self._overlay.complete:
            self._remove_overlay()
            self._update()

    def _remove_overlay(self) -> None:
        self._ignore(lambda sender: sender.IsA("vtkMRMLMarkupsNode"))
        with self._drawn():
            self._overlay.remove()

    def _observe_handle(self, node: vtkMRMLMarkupsNode, axis: Axis | None) -> None:
        markups_class = slicer_module().vtkMRMLMarkupsNode
        if axis is None:
            self._observe(node, markups_class.PointEndInteractionEvent, lambda *_: self._on_box_dragged())
        else:
            self._observe(node, markups_class.PointModifiedEvent, lambda *_: self._on_axis_moves(axis))
            self._observe(node, markups_class.PointEndInteractionEvent, lambda *_: self._on_axis_dragged(axis))

    @property
    def _dragged(self) -> Entry | None:
        return None if self._drawing else self._overlay.edited

    def _on_box_dragged(self) -> None:
        if self._dragged is not None:
            _, lesion = self._dragged
            k, box = self._overlay.box()
            k = min(max(k, 0), self.volume_node.GetImageData().GetDimensions()[2] - 1)
            try:
                measured = self._measured(k, box, lesion.origin)
            except ValueError:  # dragged out of the CT: it goes back to where it was
                self._update()
            else:
                self._edit(self.review.move_box, lesion.id, k, box, measured)

    def _on_axis_moves(self, axis: Axis) -> None:
        if self._dragged is not None:
            number, lesion = self._dragged
            ends, mm = self._overlay.axis(axis)
            self._overlay.caption(lesion.edited(recist=lesion.recist.with_axis(axis, ends, mm)).caption(number))

    def _on_axis_dragged(self, axis: Axis) -> None:
        if self._dragged is not None:
            self._edit(self.review.draw_axis, self._dragged[1].id, axis, *self._overlay.axis(axis))


def _is_on(state: review.Review, volume_node: vtkMRMLScalarVolumeNode) -> bool:
    """Whether the CT still is the image on which the lesions of a review lie."""
    return volume_node.GetImageData() is not None and state.found.geometry.matches(geometry_of(volume_node))


def _same_place(one: Lesion, other: Lesion) -> bool:
    on_common_slices = one.slices[0] <= other.slices[1] and other.slices[0] <= one.slices[1]
    return on_common_slices and bool(pairwise_iou(np.array([one.box]), np.array([other.box]))[0, 0] >= SAME_PLACE)


def _between(corners: np.ndarray) -> Box:
    """The box between two corners (2, 2); SceneError where it is too small."""
    if np.ptp(corners, axis=0).min() < 1:
        raise SceneError("The box is smaller than a voxel; draw a larger one.")
    return hull(corners)
