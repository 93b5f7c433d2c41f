"""How fast a lesion grows, and what the error of measuring leaves open."""

from __future__ import annotations

import math
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from LesionDetectorLib.followup.growth import Growth, Measurement, Verdict, growth
from LesionDetectorLib.refusal import Refusal

DAY = date(2025, 3, 2)


def grown(first: tuple, last: tuple, days: int = 90, error_mm: float = 1.0) -> Growth:
    return growth([Measurement(DAY, *first), Measurement(DAY + timedelta(days), *last)], error_mm)


def test_a_sphere_that_doubles_its_volume():
    found = grown((20,), (20 * 2 ** (1 / 3),), days=100, error_mm=0)
    assert found.doubling_days == pytest.approx(100)
    assert found.range_days == pytest.approx((100, 100))


def test_an_ellipsoid_is_long_axis_times_short_axis_squared():
    assert grown((20, 10), (40, 10), 50, 0).doubling_days == pytest.approx(50)
    assert grown((20, 10), (20, 20), 50, 0).doubling_days == pytest.approx(25)


def test_a_given_volume_comes_first():
    assert grown((20, 10, 3), (20, 10, 6), 70, 0).doubling_days == pytest.approx(70)


def test_two_volumes_come_from_the_same():
    assert grown((20, 10, 3), (20, 20), 50, 0).doubling_days == pytest.approx(25)
    assert grown((20, 10), (20 * 2 ** (1 / 3),), 50, 0).doubling_days == pytest.approx(50)


def test_the_range_is_of_diameters_that_are_1_mm_wrong():
    found = grown((12,), (15,), 91)
    assert found.doubling_days == pytest.approx(91 * math.log(2) / (3 * math.log(15 / 12)))
    low, high = (91 * math.log(2) / (3 * math.log(ratio)) for ratio in (16 / 11, 14 / 13))
    assert found.range_days == pytest.approx((low, high))
    assert found.sentence == (
        "Long axis 12.0 mm (2025-03-02), 15.0 mm (2025-06-01), 91 days: +25 %, +1.0 mm per 30 days; doubling time 94 "
        "days, 56 to 284, volume from the long axis (each diameter +-1 mm)."
    )


@pytest.mark.parametrize(
    ("last", "verdict", "says"),
    [
        (14.1, Verdict.GROWS, "doubling time"),
        (14, Verdict.OPEN, "too short an interval for a doubling time: "),
        (12.1, Verdict.OPEN, "or no growth at all"),
        (12, Verdict.OPEN, "not growing, though the error leaves a doubling time of"),
        (11, Verdict.OPEN, "not growing, though"),
        (9.9, Verdict.SHRINKS, "; not growing, volume"),
    ],
)
def test_what_the_error_leaves_open_is_said(last, verdict, says):
    found = grown((12,), (last,))
    assert found.verdict is verdict
    assert says in found.sentence
    assert (found.range_days is None) is (verdict is Verdict.SHRINKS)


def test_a_lesion_smaller_than_the_error():
    found = grown((1,), (5,))
    assert found.range_days[0] == 0
    assert math.isfinite(found.range_days[1])


def test_no_change_has_no_minus_sign():
    assert "+0 %, +0.0 mm per 30 days" in grown((12,), (11.99,)).sentence


@given(*(st.floats(2, 100) for _ in range(2)), st.integers(1, 3000), st.floats(0, 3))
def test_the_doubling_time_lies_in_its_range(first, last, days, error):
    found = grown((first,), (last,), days, error)
    if found.range_days is not None:
        low, high = found.range_days
        assert low <= (found.doubling_days or math.inf) * (1 + 1e-9) and low <= high
    assert found.sentence


@pytest.mark.parametrize(
    "measurements",
    [[], [Measurement(DAY, 12)], [Measurement(DAY, 12), Measurement(DAY, 13)]],
)
def test_growth_needs_two_dates(measurements):
    with pytest.raises(Refusal, match="needs measurements of two dates"):
        growth(measurements)


@pytest.mark.parametrize("values", [(0,), (math.nan,), (12, -1), (12, 8, math.inf)])
def test_what_is_no_size_is_refused(values):
    with pytest.raises(Refusal, match="give a number above 0"):
        Measurement(DAY, *values)


@pytest.mark.parametrize("error", [-1, math.nan, math.inf])
def test_what_is_no_error_is_refused(error):
    with pytest.raises(Refusal, match="error of a diameter"):
        grown((12,), (15,), error_mm=error)
