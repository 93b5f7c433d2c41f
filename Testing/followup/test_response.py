"""The response of RECIST 1.1 at every time point: a hand case for every rule, every limit, and every fault that was
seen in the code of others."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from LesionDetectorLib.followup.response import (
    Assessment,
    NewLesion,
    NonTarget,
    Response,
    State,
    Target,
    TimePoint,
    assess,
    least_progression,
    most_partial,
    non_target_response,
    overall_response,
    target_response,
)
from LesionDetectorLib.followup.wording import as_text, millimetres, percent, sentences
from LesionDetectorLib.refusal import Refusal

CR, PR, SD, PD, NE, NON = Response.CR, Response.PR, Response.SD, Response.PD, Response.NE, Response.NON_CR_NON_PD
DAY = date(2025, 3, 2)
ABSENT, TOO_SMALL, UNSEEN, WORSE = State.ABSENT, State.TOO_SMALL, State.NOT_EVALUATED, State.PROGRESSED


def point(number: int, *targets: Target | float, **more) -> TimePoint:
    """Time point `number`, 30 days after the one before; a number is the diameter of the target T1, T2, ..."""
    made = [
        target if isinstance(target, Target) else Target(f"T{place}", target) for place, target in enumerate(targets, 1)
    ]
    return TimePoint(DAY + timedelta(30 * number), tuple(made), **more)


def course(*sums: float | tuple[float, ...]) -> list[Assessment]:
    """The assessments of time points that have these diameters."""
    return assess([point(number, *(s if isinstance(s, tuple) else (s,))) for number, s in enumerate(sums)])


def last(*sums: float | tuple[float, ...]) -> Response | None:
    """The response of the targets at the last of these."""
    return course(*sums)[-1].target


# ------ limits, exactly


@pytest.mark.parametrize(
    ("sums", "expected"),
    [
        ((100, 70), PR),
        ((100, 70.1), SD),
        ((14, 9.8), PR),  # floating point says -29.999999999999993 %
        ((14, 9.9), SD),
        ((3.2, 3.2, 8.2), PD),  # floating point says 4.999999999999999 mm
        ((3.2, 3.2, 8.1), SD),
        ((25.5, 30.6), PD),  # floating point says 19.999999999999996 %
        ((25.5, 30.5), SD),
        ((150, 100, 120), PD),
        ((150, 100, 119.9), SD),
        ((100, 20, 24.9), PR),  # +24.5 %, but 4.9 mm
        ((100, 20, 25), PD),
        ((100, 90, 107.9), SD),  # +17.9 mm, but 19.9 %
        ((100, 90, 108), PD),
    ],
)
def test_the_limits_are_exact(sums, expected):
    assert last(*sums) is expected


def test_what_is_compared_is_what_is_printed():
    assert course(57.96)[0].sum_mm == 58.0
    assert last(100.04, 70.04) is PR
    assert last(Decimal("14"), Decimal("9.8")) is PR


def test_a_sum_of_tenths_is_exact():
    assert course((0.1,) * 10, (0.3, 0.3, 0.1, *(0.0,) * 7))[1].target is PR
    assert course((0.1, 0.2), (0.1, 0.2))[0].sum_mm == 0.3


def test_progression_and_partial_response_begin_where_the_guideline_says():
    for before in range(1, 1500):
        up, down = least_progression(before), most_partial(before)
        assert 5 * (up - before) >= before and up - before >= 50
        assert 5 * (up - 1 - before) < before or up - 1 - before < 50
        assert 10 * (before - down) >= 3 * before > 10 * (before - down - 1)


# ------ baseline and nadir


def test_the_nadir_is_the_smallest_sum_before_baseline_included():
    entries = course(50, 55, 40, 45, 30)
    assert [entry.nadir for entry in entries] == [500, 500, 500, 400, 400]
    assert [entry.nadir_when for entry in entries[1:]] == ["2025-03-02", "2025-03-02", "2025-05-01", "2025-05-01"]


def test_partial_response_is_against_baseline_and_progression_against_the_nadir():
    assert [entry.target for entry in course(165, 63, 65)] == [None, PR, PR]
    assert last(100, 120) is PD
    assert last(100, 80, 99) is PD


def test_progression_comes_before_partial_response():
    assert last(100, 20, 30) is PD


def test_a_sum_without_a_target_is_no_nadir():
    entries = course((30, 48), (15, 23), (14, Target("T2", state=UNSEEN)), (14, 25))
    assert [entry.target for entry in entries] == [None, PR, NE, PR]
    assert entries[3].nadir == 380


def test_from_a_nadir_of_nothing_progression_is_5_mm():
    """A target that was gone comes back, where the overall response was not complete."""
    persists = {"non_targets": (NonTarget("N1"),)}
    for size, expected in ((4.9, PR), (5.0, PD)):
        entries = assess([point(0, 30, **persists), point(1, 0, **persists), point(2, size, **persists)])
        assert [entries[1].overall, entries[2].target] == [PR, expected]
    assert (
        "The nadir is 0 mm"
        in assess([point(0, 30, **persists), point(1, 0, **persists), point(2, 4.9, **persists)])[2].notes[-1]
    )


@pytest.mark.parametrize("between", [[], [point(2, Target("T1", state=UNSEEN))]])
def test_what_is_back_after_complete_response_is_progression(between):
    points = [point(0, 10), point(1, 0), *between, point(3, 4)]
    assert assess(points)[-1].target is PD
    assert "asks that the complete response be confirmed" in " ".join(assess(points)[-1].notes)


def test_the_sum_decides_first_where_much_is_back_after_complete_response():
    said = sentences(course(20, 0, 12)[2])[0]
    assert said.endswith(
        "12 mm now (2025-05-01): -40 %, progressive disease; at least 20 % and 5 mm above the nadir, 7 mm above that "
        "limit (5 mm)."
    )
    assert sentences(course(20, 0, 4)[2])[0].endswith(
        "progressive disease; disease is back after complete response: T1."
    )


def test_a_non_target_that_is_back_after_complete_response_is_progression():
    states = (State.PRESENT, ABSENT, State.PRESENT)
    entries = assess([TimePoint(non_targets=(NonTarget("N1", state),)) for state in states])
    assert [entry.overall for entry in entries] == [None, CR, PD]
    assert entries[2].non_target is NON
    assert "back after complete response" in entries[2].overall_rule


# ------ single targets


def test_complete_response_asks_every_node_to_be_below_10_mm():
    def nodes(lung: float, *sizes: float) -> tuple[Target, ...]:
        return (Target("lung", lung), *(Target(f"node {n}", size, node=True) for n, size in enumerate(sizes)))

    baseline = point(0, *nodes(20, 20, 30))
    assert assess([baseline, point(1, *nodes(0, 9.9, 4))])[1].target is CR
    assert assess([baseline, point(1, *nodes(0, 10, 4))])[1].target is PR
    assert assess([baseline, point(1, *nodes(1, 5, 4))])[1].target is PR
    assert assess([baseline, point(1, *nodes(0, 9.9, 4))])[1].sum_mm == 13.9


def test_nodes_that_stay_normal_are_complete_response_whatever_their_sum():
    node = [point(number, Target("T1", size, node=True)) for number, size in enumerate((20, 3, 9.9))]
    assert [entry.target for entry in assess(node)] == [None, CR, CR]
    assert assess([*node, point(3, Target("T1", 10, node=True))])[3].target is PD


@pytest.mark.parametrize(
    ("target", "counts"),
    [
        (Target("T1", state=TOO_SMALL), 50),
        (Target("T1", 3, TOO_SMALL), 30),
        (Target("T1", 2.5), 25),
        (Target("T1", state=ABSENT), 0),
        (Target("T1", state=UNSEEN), None),
    ],
)
def test_what_a_target_counts(target, counts):
    assert target.tenths == counts


def test_too_small_to_measure_is_not_gone():
    assert course(20, (Target("T1", state=TOO_SMALL),))[1].target is PR


def test_a_target_that_was_not_evaluated_makes_it_not_evaluable():
    unseen = Target("T2", state=UNSEEN)
    assert course((20, 20), (10, unseen))[1].target is NE
    assert course((20, 20), (0, unseen))[1].target is NE
    assert assess([point(0, 20, 20), point(1, 20)])[1].target is NE, "a target that is left out was not evaluated"


def test_progression_that_the_others_prove_needs_no_missing_target():
    unseen = Target("T2", state=UNSEEN)
    entry = course((20, 20), (48, unseen))[1]
    assert (entry.target, entry.overall, entry.total) == (PD, PD, None)
    assert "even without T2" in entry.target_rule
    assert course((20, 20), (47.9, unseen))[1].target is NE


# ------ non-targets and tables


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], None),
        ([ABSENT, ABSENT], CR),
        ([ABSENT, State.PRESENT], NON),
        ([ABSENT, UNSEEN], NE),
        ([State.PRESENT, UNSEEN], NE),
        ([WORSE, UNSEEN], PD),
    ],
)
def test_non_targets(states, expected):
    assert non_target_response([NonTarget(f"N{n}", state) for n, state in enumerate(states)]) is expected


@pytest.mark.parametrize(
    ("target", "non_target", "new", "expected"),
    [
        (CR, CR, False, CR),
        (CR, None, False, CR),
        (CR, NON, False, PR),
        (CR, NE, False, PR),
        *((PR, other, False, PR) for other in (CR, NON, NE, None)),
        *((SD, other, False, SD) for other in (CR, NON, NE, None)),
        *((NE, other, False, NE) for other in (CR, NON, NE, None)),
        *((PD, other, new, PD) for other in (CR, NON, NE, PD, None) for new in (False, True)),
        *((other, PD, new, PD) for other in (CR, PR, SD, NE) for new in (False, True)),
        *((one, other, True, PD) for one in (CR, PR, SD, NE) for other in (CR, NON, NE, None)),
        (None, CR, False, CR),
        (None, NON, False, NON),
        (None, NE, False, NE),
        (None, PD, False, PD),
        (None, CR, True, PD),
    ],
)
def test_tables_1_and_2(target, non_target, new, expected):
    assert overall_response(target, non_target, new) is expected


def test_a_non_target_that_is_left_out_was_not_evaluated():
    entry = assess([point(0, 20, non_targets=(NonTarget("N1"),)), point(1, 0)])[1]
    assert (entry.target, entry.non_target, entry.overall) == (CR, NE, PR)


# ------ new lesions


def test_a_new_lesion_that_no_reader_confirmed_is_never_progression():
    entry = assess([point(0, 20), point(1, 20, new_lesions=(NewLesion("N1", mm=30),))])[1]
    assert (entry.overall, entry.new_lesions, len(entry.pending)) == (SD, (), 1)
    assert "pending: no reader has confirmed it" in entry.notes[0]


def test_a_confirmed_new_lesion_is_progression_even_in_complete_response():
    entry = assess([point(0, 20), point(1, 0, new_lesions=(NewLesion("N1", confirmed=True),))])[1]
    assert (entry.target, entry.overall, entry.overall_rule) == (CR, PD, "new lesion N1")


def test_progression_dates_from_the_scan_that_showed_the_new_lesion_first():
    seen, sure = NewLesion("N1"), NewLesion("N1", confirmed=True)
    points = [point(0, 20), point(1, 20, new_lesions=(seen,)), point(2, 20, new_lesions=(sure,))]
    entries = assess(points)
    assert [entry.overall for entry in entries] == [None, PD, PD]
    assert "because a reader confirmed it later" in entries[1].notes[0]


@pytest.mark.parametrize(("mm", "expected"), [(9.9, SD), (10.0, PD), (None, PD)])
def test_a_new_node_counts_from_10_mm(mm, expected):
    new = NewLesion("N1", confirmed=True, mm=mm, node=True)
    assert assess([point(0, 20), point(1, 20, new_lesions=(new,))])[1].overall is expected


# ------ faults seen in the code of others


def test_20_per_cent_without_5_mm_is_no_progression():
    assert last(10, 12.5) is SD


def test_progression_is_not_against_baseline():
    assert last(100, 50, 60) is PD


def test_complete_response_is_not_a_sum_of_nothing():
    node = [point(number, Target("T1", size, node=True)) for number, size in enumerate((20, 7))]
    assert assess(node)[1].target is CR


def test_partial_response_does_not_stick():
    entry = course(30, 21, 25.2)[2]
    assert entry.target is SD
    assert any("EORTC reads a confirmed one on" in note for note in entry.notes)


def test_there_is_a_response_after_progression():
    assert [entry.target for entry in course(94, 91, 110, 92)] == [None, SD, PD, SD]


# ------ what holds for any course

diameters = st.floats(0, 100)
seen_targets = st.builds(lambda mm: {"mm": mm}, diameters) | st.sampled_from(
    [{"state": state} for state in (ABSENT, TOO_SMALL, UNSEEN)]
)


@st.composite
def courses(draw) -> list[TimePoint]:
    """A baseline and up to four time points of the same one to four targets, and perhaps a non-target."""
    nodes = draw(st.lists(st.booleans(), min_size=1, max_size=4))
    state = st.sampled_from([State.PRESENT, ABSENT, WORSE, UNSEEN])
    others = draw(st.booleans())
    points = []
    for number in range(draw(st.integers(2, 5))):
        seen = [{"mm": draw(st.floats(10, 100))} if number == 0 else draw(seen_targets) for _ in nodes]
        targets = [Target(f"T{n}", node=node, **values) for n, (node, values) in enumerate(zip(nodes, seen))]
        rest = (NonTarget("N0", State.PRESENT if number == 0 else draw(state)),) if others else ()
        points.append(point(number, *targets, non_targets=rest))
    return points


WORSE_LAST = [CR, PR, SD, NON, NE, PD]


@settings(deadline=None)
@given(courses(), st.randoms(use_true_random=False))
def test_the_order_of_the_targets_does_not_matter(points, random):
    shuffled = []
    for one in points:
        targets = list(one.targets)
        random.shuffle(targets)
        shuffled.append(TimePoint(one.date, tuple(targets), one.non_targets))
    assert [entry.overall for entry in assess(shuffled)] == [entry.overall for entry in assess(points)]


@settings(deadline=None)
@given(courses(), st.booleans())
def test_a_new_lesion_never_improves_the_response(points, confirmed):
    more = [*points[:-1], TimePoint(points[-1].date, points[-1].targets, points[-1].non_targets, (NewLesion("new"),))]
    assert assess(more)[-1].overall is assess(points)[-1].overall
    if confirmed:
        sure = TimePoint(points[-1].date, points[-1].targets, points[-1].non_targets, (NewLesion("new", True),))
        assert assess([*points[:-1], sure])[-1].overall is PD


@settings(deadline=None)
@given(courses(), st.floats(0, 50))
def test_a_larger_target_never_improves_the_response(points, more):
    first = points[-1].targets[0]
    if first.state is not State.MEASURED:
        return
    larger = Target(first.name, first.mm + more, node=first.node)
    grown = TimePoint(points[-1].date, (larger, *points[-1].targets[1:]), points[-1].non_targets)
    before, after = assess(points)[-1].overall, assess([*points[:-1], grown])[-1].overall
    assert WORSE_LAST.index(after) >= WORSE_LAST.index(before)


@settings(deadline=None)
@given(courses())
def test_every_time_point_is_said_and_no_past_depends_on_the_future(points):
    entries = assess(points)
    assert as_text(entries).count("Overall ") == len(points) - 1
    for number in range(1, len(points)):
        assert assess(points[:number]) == entries[:number]
    for entry in entries[1:]:
        measured = [target.tenths for target in entry.point.targets]
        assert entry.measured == sum(value for value in measured if value is not None)
        target, _ = target_response(entry.point.targets, entry.baseline, entry.nadir)
        assert entry.target in (target, PD)


# ------ what is refused


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ([], "no time point"),
        ([TimePoint()], "neither targets nor non-targets"),
        ([point(0, Target("T1", state=UNSEEN))], "Target T1 has no diameter at baseline"),
        ([point(0, 0)], "Target T1 has no diameter at baseline"),
        ([point(0, 20, new_lesions=(NewLesion("N1"),))], "N1 is new at baseline"),
        ([point(1, 20), point(0, 20)], "The time point of 2025-03-02 follows that of 2025-04-01"),
        ([point(0, 20), point(0, 20)], "in the order of their dates"),
        ([point(0, 20), point(1, 20, 5)], "T2 at 2025-04-01: not so at baseline"),
        ([point(0, 20), point(1, 20, non_targets=(NonTarget("N1"),))], "N1 at 2025-04-01: not so at baseline"),
        ([point(0, 20), point(1, Target("T1", 20, node=True))], "T1 is a node at one time point"),
        ([point(0, 20), point(1, new_lesions=(NewLesion("T1"),))], "two lesions of one name: T1"),
    ],
)
def test_time_points_that_do_not_fit_are_refused(points, says):
    with pytest.raises(Refusal, match=says):
        assess(points)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Target("T1"), "Target T1 has no diameter"),
        (lambda: Target("T1", float("nan")), "Target T1 has a diameter of nan mm"),
        (lambda: Target("T1", float("inf")), "diameter of inf mm"),
        (lambda: Target("T1", -1), "diameter of -1 mm"),
        (lambda: Target("T1", 12, ABSENT), "T1 is absent and has 12 mm"),
        (lambda: Target("T1", 12, UNSEEN), "T1 is not evaluated and has 12 mm"),
        (lambda: Target("T1", 12, State.PRESENT), "a target is one of: absent, measured"),
        (lambda: NonTarget("N1", State.MEASURED), "it is one of: absent, not evaluated, present"),
        (lambda: NewLesion("N1", mm=float("nan")), "New lesion N1 has a diameter of nan mm"),
        (lambda: point(0, Target("T1", 12), Target("T1", 13)), "two lesions of one name: T1"),
    ],
)
def test_what_is_no_lesion_is_refused(make, says):
    with pytest.raises(Refusal, match=says):
        make()


# ------ sentences


def test_the_sum_is_said_with_its_sources_and_how_near_it_is():
    entry = assess([point(0, 58), TimePoint(date(2025, 6, 1), (Target("T1", 41.0),))])[1]
    assert sentences(entry)[0] == (
        "Sum of diameters 58 mm at baseline (2025-03-02), 41 mm now (2025-06-01): -29.3 %, stable disease; 0.4 mm "
        "short of partial response (40.6 mm or less), 28.6 mm short of progression (69.6 mm or more)."
    )


def test_the_nadir_is_named_with_its_date():
    said = sentences(course(58, 38, 50)[2])
    assert said[0].endswith(
        "50 mm now (2025-05-01): -13.7 %, progressive disease; at least 20 % and 5 mm above the nadir, 4.4 mm above "
        "that limit (45.6 mm)."
    )
    assert said[1] == "Nadir 38 mm (2025-04-01): +12 mm, +31.5 %."
    assert said[-1] == "Overall progressive disease: progression of the targets."


def test_partial_response_says_how_far_it_is_from_its_limits():
    assert sentences(course(58, 38)[1])[0].endswith(
        "partial response; 2.6 mm below its limit (40.6 mm), 31.6 mm short of progression (69.6 mm or more)."
    )


def test_what_is_missing_is_named():
    entry = course((20, 20), (10, Target("T2", state=UNSEEN)))[1]
    assert "10 mm without what was not evaluated (2025-04-01): not evaluable; T2 not evaluated" in sentences(entry)[0]


def test_what_meets_one_condition_of_progression_alone_is_said():
    assert "At least 20 % above the nadir, but less than 5 mm: progression needs both." in course(10, 12)[1].notes
    assert "At least 5 mm above the nadir, but less than 20 %: progression needs both." in course(100, 105)[1].notes
    assert course(100, 104)[1].notes == ()


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [(410, 580, "-29.3 %"), (7004, 10000, "-29.9 %"), (11996, 10000, "+19.9 %"), (700, 1000, "-30 %"), (5, 5, "0 %")],
)
def test_no_printed_percentage_reaches_a_limit_that_the_sum_does_not(now, before, said):
    assert percent(now, before) == said


def test_a_change_that_is_too_small_to_print_is_not_said_to_be_none():
    assert percent(99999, 100000) == "below 0.1 %"
    assert (millimetres(580), millimetres(406), millimetres(5)) == ("58", "40.6", "0.5")


def test_names_from_outside_are_harmless():
    entry = assess([point(0, Target("T\x1b[31m\n1", 20)), point(1, Target("T\x1b[31m\n1", 20))])
    assert "\x1b" not in as_text(entry)


def test_time_points_without_a_date_go_by_their_label_or_number():
    entries = assess([TimePoint(targets=(Target("T1", 20),), label=label) for label in ("", "week 8", "")])
    assert [entry.when for entry in entries] == ["baseline", "week 8", "time point 2"]
