"""How fast a lesion grows: change of its diameter, and the doubling time of its volume with what the error of measuring
leaves open.

The volume is a given one, else that of the ellipsoid, long axis x short axis squared x pi / 6, else that of the sphere
on the long axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from LesionDetectorLib.refusal import Refusal

ERROR_MM = 1.0
"""How wrong a diameter may be, either way. Of lung tumours that were scanned twice within 15 minutes, readers measured
a third more than 2 mm apart, which is 1 mm at each end (Oxnard et al., J. Clin. Oncol. 29 (2011) 3114-3119): the range
below is no outer bound."""
MONTH_DAYS = 30


class Verdict(StrEnum):
    """What the two measurements prove."""

    GROWS = "grows"
    SHRINKS = "shrinks"
    OPEN = "no change beyond the error of measuring"


@dataclass(frozen=True, slots=True)
class Measurement:
    """A lesion on one date: its long axis, and where known its short axis and its volume.

    Raises Refusal for what is no size.
    """

    date: date
    long_mm: float
    short_mm: float | None = None
    volume_ml: float | None = None

    def __post_init__(self) -> None:
        for value, what in ((self.long_mm, "long axis"), (self.short_mm, "short axis"), (self.volume_ml, "volume")):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise Refusal(f"A lesion of {self.date} has a {what} of {value}; give a number above 0.")


@dataclass(frozen=True, slots=True)
class Growth:
    """The change from the first to the last measurement.

    days: between them; percent, mm_per_month: change of the long axis, per 30 days.
    doubling_days: of the volume, None where it does not grow; range_days: with the error of measuring, the upper end
        infinite where it may not grow at all, None where it surely shrinks.
    """

    first: Measurement
    last: Measurement
    error_mm: float
    days: int
    percent: float
    mm_per_month: float
    doubling_days: float | None
    range_days: tuple[float, float] | None
    verdict: Verdict

    @property
    def sentence(self) -> str:
        """All of it in words, each number with where it comes from."""
        change = f"{self.percent:+z.0f} %, {self.mm_per_month:+z.1f} mm per {MONTH_DAYS} days"
        sizes = (f"{one.long_mm:.1f} mm ({one.date})" for one in (self.first, self.last))
        error = f"each diameter +-{self.error_mm:g} mm"
        return f"Long axis {', '.join(sizes)}, {self.days} days: {change}; {self._doubling} ({error})."

    @property
    def _doubling(self) -> str:
        source = f"volume from {_source(self.first, self.last)}"
        if self.verdict is Verdict.SHRINKS:
            return f"not growing, {source}"
        low, high = self.range_days
        if self.verdict is Verdict.GROWS:
            return f"doubling time {self.doubling_days:.0f} days, {low:.0f} to {high:.0f}, {source}"
        if self.doubling_days is None:
            return f"not growing, though the error leaves a doubling time of {low:.0f} days or more open, {source}"
        return f"too short an interval for a doubling time: {low:.0f} days or more, or no growth at all, {source}"


def growth(measurements: Sequence[Measurement], error_mm: float = ERROR_MM) -> Growth:
    """The growth from the first to the last measurement. Raises Refusal where there are no two dates."""
    if not 0 <= error_mm < math.inf:
        raise Refusal(f"The error of a diameter is {error_mm} mm; give a number of mm from 0 up.")
    if len(measurements) < 2 or measurements[-1].date <= measurements[0].date:
        raise Refusal("Growth needs measurements of two dates, the earlier first; give the dates of both CTs.")
    first, last = measurements[0], measurements[-1]
    days = (last.date - first.date).days
    low, ratio, high = (_ratio(first, last, sign * error_mm) for sign in (-1, 0, 1))
    verdict = Verdict.GROWS if low > 1 else Verdict.SHRINKS if high < 1 else Verdict.OPEN
    return Growth(
        first=first,
        last=last,
        error_mm=error_mm,
        days=days,
        percent=100 * (last.long_mm / first.long_mm - 1),
        mm_per_month=MONTH_DAYS * (last.long_mm - first.long_mm) / days,
        doubling_days=_doubling_days(ratio, days) if ratio > 1 else None,
        range_days=None if verdict is Verdict.SHRINKS else (_doubling_days(high, days), _doubling_days(low, days)),
        verdict=verdict,
    )


def _doubling_days(ratio: float, days: int) -> float:
    """Infinite where the volume does not grow; 0 where it grew from nothing."""
    return days * math.log(2) / math.log(ratio) if ratio > 1 else math.inf


def _ratio(first: Measurement, last: Measurement, error_mm: float) -> float:
    """How many times the volume grew if every diameter was measured so much too small last, and too large first."""
    both = _source(first, last)
    earlier, later = _volume(first, both, -error_mm), _volume(last, both, error_mm)
    return math.inf if earlier == 0 else later / earlier


def _source(first: Measurement, last: Measurement) -> str:
    """The best that both measurements have: two volumes are compared only if they come from the same."""
    if None not in (first.volume_ml, last.volume_ml):
        return "the outline"
    return "the long axis" if None in (first.short_mm, last.short_mm) else "both axes"


def _volume(measurement: Measurement, source: str, error_mm: float) -> float:
    """The volume in cubic mm with every diameter larger by `error_mm`; a given one as the sphere of that volume."""
    if source == "the outline":
        diameter = (6000 * measurement.volume_ml / math.pi) ** (1 / 3)
        axes = (diameter, diameter, diameter)
    elif source == "both axes":
        axes = (measurement.long_mm, measurement.short_mm, measurement.short_mm)
    else:
        axes = (measurement.long_mm,) * 3
    return math.pi / 6 * math.prod(max(axis + error_mm, 0) for axis in axes)
