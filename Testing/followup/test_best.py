"""The best overall response: table 3 of RECIST 1.1, the least duration of stable disease, and confirmation."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from LesionDetectorLib.followup.best import best_overall, best_response
from LesionDetectorLib.followup.response import Response, Target, TimePoint, assess
from LesionDetectorLib.refusal import Refusal


def best(sequence: str, min_sd_days: int = 42, confirm_days: int = 28) -> str | None:
    """The best of responses such as "28:SD 56:PD"."""
    pairs = [word.split(":") for word in sequence.split()]
    return best_response([(int(day), Response(name)) for day, name in pairs], min_sd_days, confirm_days).response


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ("56:CR 84:CR", "CR"),
        ("56:CR 84:PR", "SD"),
        ("28:CR 56:PR", "PD"),
        ("56:CR 84:SD", "SD"),
        ("28:CR 56:SD", "PD"),
        ("56:CR 84:PD", "SD"),
        ("28:CR 56:PD", "PD"),
        ("56:CR 84:NE", "SD"),
        ("28:CR 56:NE", "NE"),
        ("56:PR 84:CR", "PR"),
        ("56:PR 84:PR", "PR"),
        ("56:PR 84:SD", "SD"),
        ("56:PR 84:PD", "SD"),
        ("28:PR 56:PD", "PD"),
        ("56:PR 84:NE", "SD"),
        ("28:PR 56:NE", "NE"),
        ("56:NE 84:NE", "NE"),
    ],
)
def test_table_3(sequence, expected):
    assert best(sequence) == expected


@pytest.mark.parametrize(
    ("sequence", "confirm_days", "expected"),
    [
        ("56:PR 83:PR", 28, "SD"),
        ("56:PR 84:PR", 28, "PR"),
        ("56:PR 70:PR 84:PR", 28, "PR"),
        ("56:PR 84:NE 112:PR", 28, "PR"),
        ("56:PR 84:NE 112:NE 140:PR", 28, "SD"),
        ("56:PR 84:SD 112:PR", 28, "SD"),
        ("56:PR 84:SD 112:PR 140:PR", 28, "PR"),
        ("56:PR 84:CR 112:CR", 28, "CR"),
        ("56:PR 84:PD 112:CR", 0, "PR"),
        ("56:SD 84:CR", 0, "CR"),
        ("10:PR", 0, "PR"),
        ("10:PR", 28, "NE"),
    ],
)
def test_confirmation(sequence, confirm_days, expected):
    assert best(sequence, confirm_days=confirm_days) == expected


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ("42:SD", "SD"),
        ("41:SD", "NE"),
        ("41:SD 50:PD", "PD"),
        ("41:SD 70:NE", "NE"),
        ("50:NON-CR/NON-PD", "NON-CR/NON-PD"),
        ("41:NON-CR/NON-PD 60:PD", "PD"),
        ("15:PD 60:SD", "PD"),
        ("", None),
    ],
)
def test_stable_disease_lasts(sequence, expected):
    assert best(sequence) == expected


def test_the_reason_has_the_days():
    assert (
        best_response([(56, Response.PR), (84, Response.PR)]).reason
        == "Partial response on day 56, confirmed on day 84."
    )
    assert best_response([(56, Response.PR), (84, Response.PD)]).reason == (
        "Stable disease until day 56 (PR without confirmation), at least 42 days."
    )


def test_days_are_counted_from_the_start_of_the_treatment_or_the_baseline():
    first = date(2025, 1, 1)
    points = [TimePoint(first, (Target("T1", 20),)), TimePoint(first + timedelta(45), (Target("T1", 19),))]
    assert best_overall(assess(points)).response is Response.SD
    assert best_overall(assess(points), start=first + timedelta(10)).response is Response.NE
    with pytest.raises(Refusal, match="needs the date of every time point; baseline has none"):
        best_overall(assess([TimePoint(None, (Target("T1", 20),)), points[1]]))


@given(
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from(list(Response))), max_size=8),
    st.integers(0, 60),
    st.integers(1, 60),
)
def test_confirmation_never_improves_the_best_response(steps, min_sd_days, confirm_days):
    day, sequence = 0, []
    for step, response in steps:
        day += step
        sequence.append((day, response))
    order = [Response.CR, Response.PR, Response.SD, Response.NON_CR_NON_PD, Response.PD, Response.NE, None]
    without = best_response(sequence, min_sd_days, 0).response
    assert order.index(without) <= order.index(best_response(sequence, min_sd_days, confirm_days).response)
