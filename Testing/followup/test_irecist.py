"""iRECIST: progression that waits, its confirmation lesion by lesion, and the way back from it."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from LesionDetectorLib.followup.irecist import Immune, ImmuneResponse, best_immune, immune_responses
from LesionDetectorLib.followup.response import NewLesion, NonTarget, State, Target, TimePoint, assess

N1, GROWN = NewLesion("N1", True, 10), NewLesion("N1", True, 15)
OTHER = NonTarget("O1")
WORSE, WORSE_STILL = NonTarget("O1", State.PROGRESSED), NonTarget("O1", State.PROGRESSED, grown=True)


def responses(*seen: tuple, days: int = 35) -> str:
    """The responses of time points `days` apart; each is the sum of diameters and more lesions."""
    points = []
    for number, (size, *more) in enumerate(((100,), *seen)):
        targets = (Target("T1", state=State.NOT_EVALUATED),) if size is None else (Target("T1", size),)
        others = tuple(one for one in more if isinstance(one, NonTarget))
        if any(isinstance(one, NonTarget) for step in seen for one in step) and not others:
            others = (OTHER,)
        new = tuple(one for one in more if isinstance(one, NewLesion))
        points.append(TimePoint(date(2026, 1, 1) + timedelta(days * number), targets, others, new))
    return " ".join(entry.response for entry in immune_responses(assess(points)))


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (((125,), (130,)), "iUPD iCPD"),
        (((125,), (129.9,)), "iUPD iUPD"),
        (((125,), (128,), (130,)), "iUPD iUPD iCPD"),  # growth adds up from the first
        (((125,), (50,)), "iUPD iPR"),
        (((125,), (90,)), "iUPD iSD"),
        (((125,), (50,), (62,)), "iUPD iPR iUPD"),  # the bar is reset: progression waits anew
        (((125,), (None,), (130,)), "iUPD NE iCPD"),
        (((125,), (130,), (10,)), "iUPD iCPD iCPD"),
        (((0,), (4,)), "iCR iUPD"),
    ],
)
def test_targets(seen, expected):
    assert responses(*seen) == expected


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (((100, N1), (100, N1)), "iUPD iUPD"),
        (((100, N1), (100, GROWN)), "iUPD iCPD"),
        (((100, NewLesion("N1", True, 3.2)), (100, NewLesion("N1", True, 8.2))), "iUPD iCPD"),
        (((100, NewLesion("N1", True)), (100, NewLesion("N1", True, grown=True))), "iUPD iCPD"),
        (((100, N1), (100, N1, NewLesion("N2", True))), "iUPD iCPD"),
        (((100, N1), (100, N1, NewLesion("N2"))), "iUPD iUPD"),
        (((100, N1), (100,)), "iUPD iSD"),
        (((100, N1), (60, N1)), "iUPD iPR"),
        (((50,), (50, N1), (50, N1)), "iPR iUPD iUPD"),  # no change at all: not back to partial response
        (((50,), (50, N1), (45, N1)), "iPR iUPD iPR"),
        (((50,), (50, N1), (45.1, N1)), "iPR iUPD iUPD"),
        (((100, N1), (0, N1)), "iUPD iPR"),  # a new lesion that stays is no complete response
        (((100, N1), (0,)), "iUPD iCR"),
        (((100, N1), (60, N1), (60, N1), (60, GROWN)), "iUPD iPR iPR iUPD"),
        (((100, NewLesion("N1")),), "iSD"),
    ],
)
def test_new_lesions(seen, expected):
    assert responses(*seen) == expected


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (((100, WORSE), (100, WORSE)), "iUPD iUPD"),
        (((100, WORSE), (100, WORSE_STILL)), "iUPD iCPD"),
        (((100, WORSE), (100, NonTarget("O1", grown=True))), "iUPD iCPD"),
        (((100, WORSE), (100, OTHER)), "iUPD iSD"),
        (((100, WORSE), (125, WORSE)), "iUPD iCPD"),  # other lesions progress now
        (((100, WORSE), (100, WORSE, N1)), "iUPD iCPD"),
    ],
)
def test_non_targets(seen, expected):
    assert responses(*seen) == expected


def test_confirmation_needs_28_days():
    assert responses((125,), (130,), days=27) == "iUPD iUPD"
    assert responses((125,), (130,), days=28) == "iUPD iCPD"
    assert responses((125,), (130,), (130,), days=27) == "iUPD iUPD iCPD"


def test_without_dates_the_days_are_said_to_be_unknown():
    points = [TimePoint(None, (Target("T1", size),)) for size in (100, 125, 130)]
    last = immune_responses(assess(points))[-1]
    assert last.response is Immune.ICPD
    assert last.rule.endswith("grew by 5.0 mm more; the days between are not known")


def test_without_targets():
    states = (State.PRESENT, State.PRESENT, State.ABSENT, State.PRESENT)
    points = [TimePoint(None, (), (NonTarget("O1", state),)) for state in states]
    assert [entry.response.value for entry in immune_responses(assess(points))] == ["NON-iCR/NON-iUPD", "iCR", "iUPD"]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("iCR iPR NE iUPD iCPD", "iCR"),
        ("iUPD NE iCR iUPD", "iCR"),
        ("iUPD iSD iPR iSD", "iPR"),
        ("iUPD iSD iCPD iCPD", "iSD"),
        ("iUPD iCPD iCPD", "iCPD"),
        ("iUPD NE NE", "iUPD"),
        ("", None),
    ],
)
def test_best_response(found, expected):
    assert best_immune([ImmuneResponse(Immune(name), "") for name in found.split()]) == expected
