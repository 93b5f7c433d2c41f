"""The course of a patient: what is proposed, what a reader decides, and what of it enters the response."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from LesionDetectorLib.followup.alignment import Alignment
from LesionDetectorLib.followup.course import Course, Decision, Visit, decided, place, propose, time_points, tracked
from LesionDetectorLib.followup.matching import Fate
from LesionDetectorLib.followup.response import Response, State, assess
from LesionDetectorLib.lesion import BodyPart, Mark, ReviewStatus
from LesionDetectorLib.refusal import Refusal

from Testing.helpers.followed import at, study

ACCEPTED = {"status": ReviewStatus.ACCEPTED}
TARGET = {**ACCEPTED, "marks": (Mark.TARGET,)}


def visits(*lesions) -> list[Visit]:
    return [Visit(date(2025, 3 * number, 1), study(*here)) for number, here in enumerate(lesions, start=1)]


def course() -> Course:
    """Two targets, of which one shrinks and one is gone, and a new lesion."""
    before = at("a", 50, 0, 100, 40, **TARGET), at("b", -60, 20, 200, 20, **TARGET)
    return propose(visits(before, (at("A", 52, 0, 100, 20), at("new", 0, -80, 40, 15))))


YES = [Decision(1, 1, "A", True), Decision(1, 2, "", True), Decision(1, 3, "new", True)]


def test_what_no_reader_confirmed_is_not_evaluated_and_a_new_lesion_is_pending():
    proposed = course()
    assert [(lesion.name, number) for lesion, number in proposed.waiting] == [
        ("1 Liver", 1),
        ("2 Liver", 1),
        ("3 Liver", 1),
    ]
    points, notes = time_points(proposed)
    assert [(target.mm, target.state) for target in points[1].targets] == [(None, State.NOT_EVALUATED)] * 2
    assert [lesion.confirmed for lesion in points[1].new_lesions] == [False]
    assert assess(points)[1].overall is Response.NE
    assert notes == ["2025-06-01: not evaluated until a reader confirms which lesion is which: 1 Liver, 2 Liver."]


def test_what_a_reader_confirms_counts_by_its_measured_diameter():
    points, notes = time_points(decided(course(), YES[:2]))
    assert [(target.mm, target.state) for target in points[1].targets] == [(20.0, State.MEASURED), (None, State.ABSENT)]
    assert assess(points)[1].overall is Response.PR and not notes
    points, _ = time_points(decided(course(), YES))
    assert assess(points)[1].overall is Response.PD, "the new lesion is confirmed"


def test_confirming_accepts_lesions_and_refusing_rejects_or_parts_them():
    done = decided(course(), [Decision(1, 1, "A", False), Decision(1, 3, "new", False)])
    statuses = {lesion.id: lesion.status for lesion in done.visits[1].study.reading.lesions}
    assert statuses == {"A": ReviewStatus.PENDING, "new": ReviewStatus.REJECTED}
    fates = {lesion.first.id: [step.fate for step in lesion.steps] for lesion in done.lesions}
    assert fates == {
        "a": [Fate.FIRST, Fate.VANISHED],
        "b": [Fate.FIRST, Fate.VANISHED],
        "A": [Fate.NOT_YET, Fate.NEW],
    }
    accepted = decided(course(), YES).visits[1].study.reading.lesions
    assert {lesion.status for lesion in accepted} == {ReviewStatus.ACCEPTED}


def test_a_reader_joins_lesions_that_were_not_matched():
    done = decided(course(), [Decision(1, 2, "new", True), Decision(1, 1, "A", True)])
    assert [lesion.number for lesion in done.lesions] == [1, 2]
    assert [step.fate for step in done.lesions[1].steps] == [Fate.FIRST, Fate.MATCHED]
    assert [target.mm for target in time_points(done)[0][1].targets] == [20.0, 15.0]


def test_parts_of_a_split_lesion_count_together():
    before = (at("a", 0, 0, 100, 40, **TARGET),)
    proposed = propose(visits(before, (at("A", -8, 0, 100, 15), at("B", 10, 0, 100, 14))))
    (lesion,) = proposed.lesions
    assert lesion.steps[1].fate is Fate.SPLIT
    half = decided(proposed, [Decision(1, 1, "A", True)])
    assert not half.lesions[0].steps[1].confirmed, "a reader confirmed one of two parts"
    points, notes = time_points(decided(proposed, [Decision(1, 1, "A", True), Decision(1, 1, "B", True)]))
    assert points[1].targets[0].mm == pytest.approx(29.0)
    assert notes == ["2025-06-01: 1 Liver split; its parts count together."]


def test_a_node_counts_by_its_short_axis_and_a_state_of_the_reader_goes_before_what_is_measured():
    node = at("a", 0, 0, 100, 40, BodyPart.MEDIASTINUM, **{**TARGET, "marks": (Mark.TARGET, Mark.LYMPH_NODE)})
    proposed = propose(visits((node,), (at("A", 0, 0, 100, 30, BodyPart.MEDIASTINUM),)))
    points, _ = time_points(decided(proposed, [Decision(1, 1, "A", True)]))
    assert [point.targets[0].mm for point in points] == [32.0, 24.0]
    points, _ = time_points(decided(proposed, [Decision(1, 1, "A", True, State.TOO_SMALL)]))
    assert points[1].targets[0].tenths == 50


def test_non_targets_are_present_absent_or_as_the_reader_says():
    before = at("a", 50, 0, 100, 40, **TARGET), at("n", -60, 20, 200, 8, **ACCEPTED)
    proposed = propose(visits(before, (at("A", 50, 0, 100, 40), at("N", -60, 20, 200, 9))))
    both = [Decision(1, 1, "A", True), Decision(1, 2, "N", True)]
    assert time_points(decided(proposed, both))[0][1].non_targets[0].state is State.PRESENT
    worse = [both[0], Decision(1, 2, "N", True, State.PROGRESSED)]
    assert assess(time_points(decided(proposed, worse))[0])[1].overall is Response.PD


def test_where_the_prior_shows_nothing_of_the_place_a_lesion_is_not_called_new():
    covered = study(at("a", 0, 0, 40, **TARGET), unread=frozenset(range(60, 100)))
    later = study(at("A", 0, 0, 40), at("high", 0, 0, 320))
    proposed = propose([Visit(date(2025, 1, 1), covered), Visit(date(2025, 2, 1), later)])
    points, notes = time_points(decided(proposed, [Decision(1, 1, "A", True), Decision(1, 2, "high", True)]))
    assert not points[1].new_lesions
    assert notes == ["First seen where no earlier CT shows their place, so they are not called new: 2 Liver."]


@pytest.mark.parametrize(
    ("decisions", "sentence"),
    [
        ([Decision(1, 1, "zzz", True)], "has no lesion zzz"),
        ([Decision(2, 1, "A", True)], "there are 2 studies"),
        ([Decision(1, 1, "A", True), Decision(1, 2, "A", True)], "decided on twice"),
    ],
)
def test_decisions_that_cannot_be_are_refused(decisions, sentence):
    with pytest.raises(Refusal, match=sentence):
        decided(course(), decisions)


def test_studies_must_be_in_order_of_time():
    one, other = visits((at("a", 0, 0, 40),), (at("b", 0, 0, 40),))
    with pytest.raises(Refusal, match="in order of time"):
        propose([other, one])


def test_without_a_lesion_that_a_reader_accepted_there_is_no_response():
    proposed = propose(visits((at("a", 0, 0, 40),), (at("b", 0, 0, 40),)))
    with pytest.raises(Refusal, match="No reader has accepted"):
        time_points(proposed)
    points, notes = time_points(decided(proposed, [Decision(0, 1, "a", True), Decision(1, 1, "b", True)]))
    assert [point.targets[0].mm for point in points] == [20.0, 20.0]
    assert notes == ["No reader has chosen targets; the largest stand in: 1 Liver."]


def test_a_confirmed_lesion_is_tracked_by_the_id_that_it_had_first():
    assert {lesion.id for lesion in tracked(course(), 1).lesions} == {"A", "new"}, "nothing is confirmed"
    done = decided(course(), YES)
    assert [{lesion.id for lesion in tracked(done, number).lesions} for number in (0, 1)] == [{"a", "b"}, {"a", "new"}]


def test_an_id_that_another_lesion_of_the_study_has_is_not_given_twice():
    before, after = (at("a", 50, 0, 100, 40, **TARGET),), (at("A", 52, 0, 100, 38), at("a", 0, -80, 40, 15))
    done = decided(propose(visits(before, after)), [Decision(1, 1, "A", True)])
    assert sorted(lesion.id for lesion in tracked(done, 1).lesions) == ["A", "a"]


def test_studies_that_call_a_lesion_by_one_id_keep_each_its_match():
    proposed = propose(visits(*((at("a", x, 0, 100, 40),) for x in (0, 1, 7))))
    (lesion,) = proposed.lesions
    assert [step.match and round(step.match.apart_mm) for step in lesion.steps] == [None, 1, 6]


def test_a_place_is_that_of_the_lesion_or_of_the_nearest_study_that_shows_it():
    gone = course().lesions[1]
    assert [place(course(), gone, number).tolist() for number in (0, 1)] == [[140.0, 220.0, 50.0]] * 2
    moved = study(at("a", 50, 0, 100, 40, **TARGET), alignment=Alignment(matrix=shifted(10, 0, 40)))
    both = propose([Visit(date(2025, 1, 1), moved), Visit(date(2025, 2, 1), study())])
    assert place(both, both.lesions[0], 1) == pytest.approx([240.0, 200.0, 15.0])


def shifted(*mm: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = mm
    return matrix


def test_a_rejected_lesion_may_be_refused_again():
    before = at("a", 50, 0, 100, 40, **TARGET), at("x", -60, 20, 200, 20, status=ReviewStatus.REJECTED)
    proposed = propose(visits(before, (at("A", 52, 0, 100, 20),)))
    assert [lesion.first.id for lesion in decided(proposed, [Decision(0, 2, "x", False)]).lesions] == ["a"]
    with pytest.raises(Refusal, match="has no lesion x"):
        decided(proposed, [Decision(0, 2, "x", True)])


@pytest.mark.parametrize(
    ("decision", "sentence"),
    [
        (Decision(1, 1, "A", True, State.PROGRESSED), "is a target, and those are never 'unequivocal progression'"),
        (Decision(1, 2, "N", True, State.TOO_SMALL), "is a non-target, and those are never 'too small to measure'"),
    ],
)
def test_a_state_that_a_lesion_of_its_kind_has_not_is_refused(decision, sentence):
    before = at("a", 50, 0, 100, 40, **TARGET), at("n", -60, 20, 200, 8, **ACCEPTED)
    proposed = propose(visits(before, (at("A", 50, 0, 100, 40), at("N", -60, 20, 200, 9))))
    with pytest.raises(Refusal, match=sentence):
        time_points(decided(proposed, [decision]))


def test_a_lesion_that_is_confirmed_as_absent_and_shown_is_refused():
    with pytest.raises(Refusal, match="confirmed as absent, and another row shows it"):
        decided(course(), [Decision(1, 2, "", True), Decision(1, 2, "new", True)])
