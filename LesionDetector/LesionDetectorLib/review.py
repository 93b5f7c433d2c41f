"""The state of one review: what the detector found, each thing that the reader changed, and undo and redo of all of it.

The lesions that were found stay as they were; the reader's edits are kept one by one, so that both are on record and a
review that is saved in the middle goes on with its undo.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from LesionDetectorLib.exchange import lesions_json
from LesionDetectorLib.lesion import Axis, BodyPart, Box, Lesion, Mark, Origin, Point, Recist, ReviewStatus
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.words import plural

FORMAT = "lesion-detector/review"
VERSION = 1


class Action(StrEnum):
    """What a reader can do to a lesion, as the undo button calls it."""

    ACCEPT = "accept"
    REJECT = "reject"
    RESET = "set to pending"
    RELABEL = "relabel"
    MARK = "mark"
    UNMARK = "unmark"
    DELETE = "delete"
    ADD = "add"
    MOVE_BOX = "move box"
    DRAW_AXIS = "draw axis"


_ACTION_OF_STATUS = {
    ReviewStatus.ACCEPTED: Action.ACCEPT,
    ReviewStatus.REJECTED: Action.REJECT,
    ReviewStatus.PENDING: Action.RESET,
}


@dataclass(frozen=True, slots=True)
class Edit:
    """One thing that the reader did: `before` is None for a lesion that was added, `after` for one that was deleted.

    One that is `joined` is undone and redone together with the edit before it.
    """

    action: Action
    before: Lesion | None
    after: Lesion | None
    joined: bool = False

    @property
    def lesion_id(self) -> str:
        return (self.before or self.after).id

    @property
    def inverse(self) -> Edit:
        return replace(self, before=self.after, after=self.before)

    def __str__(self) -> str:
        return f"{self.action.value} {(self.before or self.after).body_part.title}"


class Review:
    """One reading under review.

    Every change goes through a method named after it, is one `Edit`, and can be undone; a method that changes nothing
    makes no edit.

    Attributes
    ----------
    found: the reading as the detector left it; its confidence is the threshold below which pending lesions are not
        reported.
    done, undone: the reader's edits in their order, and those taken back, the last one to be redone first.
    """

    def __init__(self, found: Reading) -> None:
        self.found = found
        self.done: list[Edit] = []
        self.undone: list[Edit] = []
        self._lesions: dict[str, Lesion | None] = {
            lesion.id: lesion for lesion in found.lesions
        }  # None: deleted, its place is kept

    @property
    def lesions(self) -> list[Lesion]:
        """The lesions as they are now, those that the reader added last."""
        return [lesion for lesion in self._lesions.values() if lesion is not None]

    @property
    def reading(self) -> Reading:
        """The reading as it is now, for a report."""
        return replace(self.found, lesions=tuple(self.lesions))

    @property
    def confidence(self) -> float:
        """The threshold below which lesions that are pending are neither shown nor reported.

        Setting it is not an edit.
        """
        return self.found.confidence

    @confidence.setter
    def confidence(self, value: float) -> None:
        self.found = replace(self.found, confidence=value)

    def lesion(self, lesion_id: str) -> Lesion:
        """The lesion with this id; KeyError where there is none, or none any more."""
        lesion = self._lesions[lesion_id]
        if lesion is None:
            raise KeyError(lesion_id)
        return lesion

    def set_status(self, lesion_id: str, status: ReviewStatus) -> None:
        """Accept or reject a lesion, or set it back to pending."""
        self._change(_ACTION_OF_STATUS[status], lesion_id, status=status)

    def set_statuses(self, lesion_ids: Iterable[str], status: ReviewStatus) -> None:
        """Accept or reject several lesions, or set them back to pending, in one step."""
        first = len(self.done)
        for lesion_id in lesion_ids:
            self.set_status(lesion_id, status)
        self.done[first + 1 :] = [replace(edit, joined=True) for edit in self.done[first + 1 :]]

    def relabel(self, lesion_id: str, body_part: BodyPart) -> None:
        """Give a lesion another body part."""
        self._change(Action.RELABEL, lesion_id, body_part=body_part)

    def mark(self, lesion_id: str, mark: Mark, on: bool) -> None:
        """Tick something on a lesion, or take the tick away."""
        others = {*self.lesion(lesion_id).marks} - {mark}
        self._change(
            Action.MARK if on else Action.UNMARK, lesion_id, marks=tuple(sorted(others | {mark} if on else others))
        )

    def move_box(self, lesion_id: str, key_slice: int, box: Box, measured: Recist | None) -> None:
        """Give a lesion another box on slice `key_slice`; `measured` are the axes inside it.

        An axis that the reader drew stays, unless the box went to another slice.
        """
        lesion = self.lesion(lesion_id)
        recist, slices = measured, (min(lesion.slices[0], key_slice), max(lesion.slices[1], key_slice))
        if lesion.recist is not None and lesion.recist.drawn and key_slice == lesion.key_slice:
            recist = lesion.recist if measured is None else lesion.recist.measured_anew(measured)
        self._change(Action.MOVE_BOX, lesion_id, key_slice=key_slice, slices=slices, box=box, recist=recist)

    def draw_axis(self, lesion_id: str, axis: Axis, ends: tuple[Point, Point], mm: float) -> None:
        """Take over an axis that the reader drew; it is not measured again from then on."""
        lesion = self.lesion(lesion_id)
        if lesion.recist is None:
            raise ValueError("A lesion that is not measured has no axis to change.")
        if ends != lesion.recist.ends(axis):
            self._change(Action.DRAW_AXIS, lesion_id, recist=lesion.recist.with_axis(axis, ends, mm))

    def add(
        self,
        body_part: BodyPart,
        key_slice: int,
        box: Box,
        measured: Recist | None,
        slices: tuple[int, int] | None = None,
    ) -> Lesion:
        """Add a lesion that the reader drew, accepted by that; it spans `slices`, or its key slice alone."""
        slices = slices or (key_slice, key_slice)
        lesion = Lesion(
            body_part, None, key_slice, slices, box, measured, status=ReviewStatus.ACCEPTED, origin=Origin.READER
        )
        self._do(Edit(Action.ADD, None, lesion))
        return lesion

    def delete(self, lesion_id: str) -> None:
        """Take a lesion out of the list; that it was found stays on record."""
        self._do(Edit(Action.DELETE, self.lesion(lesion_id), None))

    @property
    def undoable(self) -> str:
        """What `undo` takes back, for a button: "accept Liver", "accept 5 lesions"; "" where there is nothing."""
        return _step_name(_last_step(self.done))

    @property
    def redoable(self) -> str:
        """What `redo` does again, as `undoable`."""
        return _step_name(_next_step(self.undone))

    def undo(self) -> Edit | None:
        """Take back the last step, and return its first edit; None where there is none."""
        step = _last_step(self.done)
        for edit in reversed(step):
            self.undone.append(self.done.pop())
            self._apply(edit.inverse)
        return step[0] if step else None

    def redo(self) -> Edit | None:
        """Do again the step that was taken back last, and return its first edit; None where none was."""
        step = _next_step(self.undone)
        for edit in step:
            self.done.append(self.undone.pop())
            self._apply(edit)
        return step[0] if step else None

    def _change(self, action: Action, lesion_id: str, **changes) -> None:
        before = self.lesion(lesion_id)
        after = before.edited(**changes)
        if after != before:
            self._do(Edit(action, before, after))

    def _do(self, edit: Edit) -> None:
        self.undone.clear()
        self.done.append(edit)
        self._apply(edit)

    def _apply(self, edit: Edit) -> None:
        self._lesions[edit.lesion_id] = edit.after


def _last_step(done: list[Edit]) -> list[Edit]:
    """The edits of the last step, in their order."""
    first = len(done) - 1
    while first > 0 and done[first].joined:
        first -= 1
    return done[max(first, 0) :]


def _next_step(undone: list[Edit]) -> list[Edit]:
    """The edits of the step that was undone last, in the order in which they are redone."""
    step = undone[-1:]
    for edit in undone[-2::-1]:
        if not edit.joined:
            break
        step.append(edit)
    return step


def _step_name(step: list[Edit]) -> str:
    if len(step) > 1:
        return f"{step[0].action.value} {plural(len(step), 'lesion')}"
    return str(step[0]) if step else ""


def dumps(review: Review) -> str:
    """The review as JSON text: the reading that was found, as lesions.json has it, and the edits."""
    record = {
        "format": FORMAT,
        "version": VERSION,
        "found": lesions_json.reading_record(review.found),
        "done": [_edit_record(edit) for edit in review.done],
        "undone": [_edit_record(edit) for edit in review.undone],
    }
    return json.dumps(record, ensure_ascii=False)


def loads(content: str) -> Review:
    """The review in JSON text that `dumps` wrote, with its undo; ExchangeError for anything else."""
    try:
        record = lesions_json.parse(content)
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise lesions_json.ExchangeError(f"this is not a review: its 'format' should be '{FORMAT}'.")
        if record.get("version") != VERSION:
            raise lesions_json.ExchangeError(
                f"this review has version {record.get('version')}, and this program reads version {VERSION}."
            )
        review = Review(lesions_json.reading_of(record["found"]))
        review.done, review.undone = ([_edit(entry) for entry in record[name]] for name in ("done", "undone"))
        for lesion in (
            lesion for edit in (*review.done, *review.undone) for lesion in (edit.before, edit.after) if lesion
        ):
            replace(review.found, lesions=(lesion,))  # refuses one that lies outside of the CT
    except lesions_json.ExchangeError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise lesions_json.ExchangeError(f"this review is damaged ({error}).") from error
    for edit in review.done:
        review._apply(edit)
    return review


def _edit_record(edit: Edit) -> dict[str, Any]:
    lesions = {"before": edit.before, "after": edit.after}
    records = {name: lesion and lesions_json.lesion_record(lesion) for name, lesion in lesions.items()}
    return {"action": edit.action.value, **records, **({"joined": True} if edit.joined else {})}


def _edit(record: dict[str, Any]) -> Edit:
    before, after = (
        None if record[name] is None else lesions_json.lesion(record[name], f"{name}.") for name in ("before", "after")
    )
    ids = {lesion.id for lesion in (before, after) if lesion is not None}
    if len(ids) != 1:
        raise ValueError("an edit of two lesions" if ids else "an edit without a lesion")
    return Edit(Action(record["action"]), before, after, joined=record.get("joined") is True)
