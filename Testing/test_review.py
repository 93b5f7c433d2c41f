"""A review: every edit, undone and redone, kept with what was found, through its JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from LesionDetectorLib import review
from LesionDetectorLib.exchange import lesions_json
from LesionDetectorLib.exchange.lesions_json import ExchangeError
from LesionDetectorLib.lesion import Axis, BodyPart, Mark, Origin, Recist, ReviewStatus
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.review import Review

from Testing.helpers.readings import AXES, lesion, reading

LIVER, LUNG = lesion(BodyPart.LIVER, 0.87, recist=AXES), lesion(BodyPart.LUNG, 0.3, k=20, recist=AXES)


LESION = lesions_json.lesion_record(LIVER)


def fresh() -> Review:
    return Review(reading(LIVER, LUNG))


def test_accepting_rejecting_and_relabelling_change_the_lesion_and_nothing_else():
    state = fresh()
    state.set_status(LIVER.id, ReviewStatus.ACCEPTED)
    state.relabel(LIVER.id, BodyPart.KIDNEY)
    assert state.lesion(LIVER.id) == LIVER.edited(status=ReviewStatus.ACCEPTED, body_part=BodyPart.KIDNEY)
    assert state.lesion(LUNG.id) == LUNG and state.found.lesions == (LIVER, LUNG)
    state.set_status(LIVER.id, ReviewStatus.ACCEPTED)
    assert [str(edit) for edit in state.done] == ["accept Liver", "relabel Liver"]


def test_a_box_that_moves_is_measured_anew_except_for_an_axis_that_the_reader_drew():
    state, again = fresh(), Recist(((0, 0), (30, 0)), ((5, -5), (5, 5)), 24.0, 8.0)
    state.draw_axis(LIVER.id, Axis.SHORT, ((110, 100), (110, 120)), 16.0)
    assert state.lesion(LIVER.id).recist.short_mm == 16.0 and state.lesion(LIVER.id).recist.drawn == (Axis.SHORT,)
    state.move_box(LIVER.id, 50, (90, 90, 130, 130), again)
    moved = state.lesion(LIVER.id).recist
    assert (moved.long_mm, moved.short_mm) == (24.0, 16.0) and moved.short_axis == ((110, 100), (110, 120))
    state.move_box(LIVER.id, 52, (90, 90, 130, 130), again)
    assert state.lesion(LIVER.id).recist == again and state.lesion(LIVER.id).slices == (50, 52)


def test_a_short_axis_drawn_longer_than_the_long_one_is_the_long_axis():
    drawn = AXES.with_axis(Axis.SHORT, ((110, 80), (110, 120)), 32.0)
    assert (drawn.long_mm, drawn.short_mm) == (32.0, 18.0) and drawn.drawn == (Axis.LONG,)
    assert drawn.long_axis == ((110, 80), (110, 120))


def test_ticking_and_unticking_are_edits_of_one_lesion():
    state = fresh()
    state.mark(LIVER.id, Mark.TARGET, True)
    state.mark(LIVER.id, Mark.LYMPH_NODE, True)
    assert (
        state.lesion(LIVER.id) == LIVER.edited(marks=(Mark.LYMPH_NODE, Mark.TARGET)) and state.lesion(LUNG.id) == LUNG
    )
    state.mark(LIVER.id, Mark.TARGET, True)
    state.mark(LUNG.id, Mark.TARGET, False)
    state.mark(LIVER.id, Mark.TARGET, False)
    assert [str(edit) for edit in state.done] == ["mark Liver", "mark Liver", "unmark Liver"]
    state.undo()
    assert state.lesion(LIVER.id).marks == (Mark.LYMPH_NODE, Mark.TARGET)


def test_what_the_reader_adds_is_accepted_and_the_readers():
    state = fresh()
    added = state.add(BodyPart.BONE, 30, (10, 10, 30, 30), None)
    assert (added.origin, added.status, added.confidence) == (Origin.READER, ReviewStatus.ACCEPTED, None)
    assert added in state.reading.reported
    with pytest.raises(ValueError, match="not measured"):
        state.draw_axis(added.id, Axis.LONG, ((0, 0), (1, 1)), 1.0)


def test_a_deleted_lesion_comes_back_to_its_place():
    state = fresh()
    state.delete(LIVER.id)
    assert state.lesions == [LUNG]
    with pytest.raises(KeyError):
        state.set_status(LIVER.id, ReviewStatus.ACCEPTED)
    state.undo()
    assert state.lesions == [LIVER, LUNG]


def test_undo_and_redo_end_quietly_and_a_new_edit_forgets_what_was_undone():
    state = fresh()
    assert state.undo() is None and state.redo() is None
    state.set_status(LIVER.id, ReviewStatus.REJECTED)
    assert str(state.undo()) == "reject Liver"
    state.relabel(LUNG.id, BodyPart.BONE)
    assert state.redo() is None and [str(edit) for edit in state.done] == ["relabel Lung"]


def test_the_threshold_is_kept_and_is_no_edit():
    state = fresh()
    state.confidence = 0.25
    assert state.reading.reported == [LUNG, LIVER] and not state.done
    assert review.loads(review.dumps(state)).confidence == 0.25


edits = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.sampled_from(BodyPart)), max_size=25)


def edit_at_random(state: Review, steps: list[tuple[int, int, BodyPart]]) -> None:
    for kind, which, part in steps:
        if kind == 0:
            state.undo()
        elif kind == 1:
            state.redo()
        elif kind == 2:
            state.add(part, 10 + which, (0, 0, 5 + which, 5), AXES)
        elif state.lesions:
            chosen = state.lesions[which % len(state.lesions)].id
            if kind == 3:
                state.delete(chosen)
            elif kind == 4:
                state.relabel(chosen, part)
            elif kind == 5:
                state.move_box(chosen, 40 + which, (1, 1, 9, 9 + which), AXES)
            elif kind == 6:
                state.draw_axis(chosen, Axis.LONG, ((which, 0), (9, 9)), 20.0 + which)
            elif kind == 7:
                state.mark(chosen, list(Mark)[which], part is not BodyPart.LIVER)
            else:
                state.set_status(chosen, list(ReviewStatus)[which % 3])


@given(edits)
@settings(max_examples=60, deadline=None)
def test_undoing_all_gives_what_was_found_and_redoing_all_what_was_made_of_it(steps):
    state = fresh()
    edit_at_random(state, steps)
    made = state.lesions
    count = len(state.done)
    while state.undo():
        pass
    assert state.lesions == [LIVER, LUNG]
    for _ in range(count):
        state.redo()
    assert state.lesions == made


@given(edits)
@settings(max_examples=60, deadline=None)
def test_a_review_goes_through_its_json_with_its_undo(steps):
    state = fresh()
    edit_at_random(state, steps)
    again = review.loads(review.dumps(state))
    assert (again.lesions, again.done, again.undone, again.found) == (
        state.lesions,
        state.done,
        state.undone,
        state.found,
    )


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda record: record.update(format="other"), "not a review"),
        (lambda record: record.update(version=9), "version 9"),
        (lambda record: record.pop("done"), "damaged"),
        (lambda record: record["done"].append({"action": "accept", "before": None, "after": None}), "without a lesion"),
        (lambda record: record["done"].append({"action": "fly", "before": None, "after": None}), "damaged"),
        (
            lambda record: record["done"].append({"action": "relabel", "before": LESION, "after": []}),
            "'after.body_part' is missing",
        ),
        (lambda record: record["done"].append({"action": "relabel", "before": LESION, "after": 0}), "damaged"),
        (
            lambda record: record["done"].append(
                {"action": "relabel", "before": LESION, "after": LESION | {"id": "b"}}
            ),
            "of two lesions",
        ),
        (lambda record: record["found"].pop("ct"), "'ct' is missing"),
    ],
)
def test_a_damaged_review_is_named(spoil, sentence):
    record = json.loads(review.dumps(fresh()))
    spoil(record)
    with pytest.raises(ExchangeError, match=sentence):
        review.loads(json.dumps(record))
    number = '{"version": 1' + "0" * 5000 + "}"
    for content in ("{", "[" * 100_000, '{"a":' * 100_000, number, '{"version": NaN}', '{"version": -Infinity}'):
        with pytest.raises(ExchangeError, match="not valid JSON"):
            review.loads(content)


@pytest.mark.parametrize("done", ["done", "undone"])
@pytest.mark.parametrize("change", [{"slices": [0, 999_999_999]}, {"slices": [-1, 50]}, {"slices": [50, 80]}])
def test_an_edit_that_puts_a_lesion_outside_of_the_ct_is_refused(done, change):
    state = fresh()
    state.relabel(LIVER.id, BodyPart.LUNG)
    record = json.loads(review.dumps(state))
    record["done"], record["undone"] = [], record["done"]
    record["undone"][0]["after"] |= change
    record["done"], record["undone"] = (record["undone"], []) if done == "done" else ([], record["undone"])
    with pytest.raises(ExchangeError, match=r"damaged .*spans slices"):
        review.loads(json.dumps(record))


def test_a_text_that_is_too_large_is_refused(monkeypatch):
    content = review.dumps(fresh())
    monkeypatch.setattr(lesions_json, "LARGEST", len(content) - 1)
    with pytest.raises(ExchangeError, match="more than 200 MB, as no list of lesions does"):
        review.loads(content)


def test_the_reading_of_a_review_is_one_that_every_report_takes():
    assert isinstance(fresh().reading, Reading)


def test_several_lesions_are_accepted_in_one_step_that_survives_saving():
    state = fresh()
    state.relabel(LUNG.id, BodyPart.LIVER)
    state.set_statuses([LIVER.id, LUNG.id], ReviewStatus.ACCEPTED)
    assert state.undoable == "accept 2 lesions" and len(state.done) == 3
    state = review.loads(review.dumps(state))
    state.undo()
    assert {lesion.status for lesion in state.lesions} == {ReviewStatus.PENDING}
    assert (state.undoable, state.redoable) == ("relabel Lung", "accept 2 lesions")
    state = review.loads(review.dumps(state))
    state.redo()
    assert {lesion.status for lesion in state.lesions} == {ReviewStatus.ACCEPTED} and not state.undone
    state.undo()
    state.undo()
    assert state.lesions == [LIVER, LUNG] and state.undoable == ""


def test_a_step_of_no_or_one_change_has_the_name_of_that():
    state = fresh()
    state.set_statuses([], ReviewStatus.ACCEPTED)
    assert state.undoable == ""
    state.set_statuses([LIVER.id], ReviewStatus.REJECTED)
    assert state.undoable == "reject Liver"
