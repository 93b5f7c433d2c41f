"""The response over time in sentences: every number with where it comes from, what decided, and how near it was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from LesionDetectorLib.followup.response import (
    Assessment,
    NonTarget,
    Response,
    State,
    Target,
    least_progression,
    most_partial,
)
from LesionDetectorLib.printable import printable

HEADING = "Response by RECIST 1.1"


def as_text(assessments: Sequence[Assessment]) -> str:
    """All time points in paragraphs, without a line's end at the end."""
    paragraphs = [f"{HEADING}:"]
    for entry in assessments:
        head = entry.when if entry.overall is None else f"{entry.when}: {entry.overall.in_words} ({entry.overall})"
        paragraphs.append("\n".join([head, *(f"  {sentence}" for sentence in sentences(entry))]))
    return "\n\n".join(paragraphs)


def sentences(entry: Assessment) -> list[str]:
    """What a report says of one time point, a sentence each."""
    if entry.number == 0:
        return [printable(sentence) for sentence in _of_baseline(entry)]
    return [printable(sentence) for sentence in (*_of_targets(entry), *_of_others(entry), *entry.notes)]


def millimetres(tenths: int) -> str:
    """Tenths of a mm as a number of mm, with a decimal only where there is one: "58", "40.6"."""
    return str(tenths // 10) if tenths % 10 == 0 else f"{tenths / 10:.1f}"


def percent(now: int, before: int) -> str:
    """The change in per cent with its sign, "-29.3 %".

    Cut after the tenth, not rounded: what is printed reaches a threshold only where the exact change does. Raises
    ZeroDivisionError if `before` is 0.
    """
    tenths = 1000 * abs(now - before) // before
    if tenths == 0:
        return "0 %" if now == before else "below 0.1 %"
    return f"{'-' if now < before else '+'}{millimetres(tenths)} %"


def _of_baseline(entry: Assessment) -> Iterable[str]:
    if entry.point.targets:
        listed = ", ".join(_target(target) for target in entry.point.targets)
        yield f"Baseline. Sum of diameters {millimetres(entry.total)} mm: {listed}."
    else:
        yield "Baseline. No targets."
    if entry.point.non_targets:
        yield f"Non-targets: {', '.join(lesion.name for lesion in entry.point.non_targets)}."


def _of_targets(entry: Assessment) -> Iterable[str]:
    """The sum against baseline and nadir, with the limits that are next to it."""
    if entry.target is None:
        return
    listed = ", ".join(_target(target) for target in entry.point.targets)
    start = f"Sum of diameters {millimetres(entry.baseline)} mm at baseline ({entry.baseline_when})"
    if entry.total is None:
        now = f"{millimetres(entry.measured)} mm without what was not evaluated ({entry.when})"
        yield f"{start}, {now}: {entry.target.in_words}; {entry.target_rule}."
    else:
        change = percent(entry.total, entry.baseline)
        now = f"{millimetres(entry.total)} mm now ({entry.when})"
        yield f"{start}, {now}: {change}, {entry.target.in_words}; {_how_near(entry)}."
    if entry.nadir_when != entry.baseline_when:
        yield f"Nadir {millimetres(entry.nadir)} mm ({entry.nadir_when}){_against_nadir(entry)}."
    yield f"Targets now: {listed}."


def _how_near(entry: Assessment) -> str:
    """What decided, and how far the sum is from the next categories."""
    down, up = most_partial(entry.baseline), least_progression(entry.nadir)
    to_partial = f"{millimetres(entry.total - down)} mm short of partial response ({millimetres(down)} mm or less)"
    to_progression = f"{millimetres(up - entry.total)} mm short of progression ({millimetres(up)} mm or more)"
    match entry.target:
        case Response.SD:
            first, second = (to_partial, to_progression), (entry.total - down, up - entry.total)
            return ", ".join(text for _, text in sorted(zip(second, first)))
        case Response.PR:
            within = f"{millimetres(down - entry.total)} mm below its limit ({millimetres(down)} mm)"
            return f"{within}, {to_progression}"
        case Response.PD if entry.total >= up:
            return f"{entry.target_rule}, {millimetres(entry.total - up)} mm above that limit ({millimetres(up)} mm)"
    return entry.target_rule


def _against_nadir(entry: Assessment) -> str:
    if entry.total is None:
        return f"; progression is {millimetres(least_progression(entry.nadir))} mm or more"
    change = entry.total - entry.nadir
    sign = "-" if change < 0 else "+"
    share = f", {percent(entry.total, entry.nadir)}" if entry.nadir else ""
    return f": {sign}{millimetres(abs(change))} mm{share}"


def _of_others(entry: Assessment) -> Iterable[str]:
    """Non-targets, new lesions and the overall response."""
    if entry.non_target is not None:
        listed = ", ".join(_non_target(lesion) for lesion in entry.point.non_targets)
        yield f"Non-targets {entry.non_target}: {listed}."
    yield f"Overall {entry.overall.in_words}: {entry.overall_rule}."


def _target(target: Target) -> str:
    kind = " short axis" if target.node else ""
    match target.state:
        case State.MEASURED:
            return f"{target.name} {millimetres(target.tenths)} mm{kind}"
        case State.TOO_SMALL:
            return f"{target.name} too small to measure, counted as {millimetres(target.tenths)} mm"
    return f"{target.name} {target.state}"


def _non_target(lesion: NonTarget) -> str:
    return f"{lesion.name} {lesion.state}{', grown' if lesion.grown else ''}"
