"""RECIST 1.1 over time: the sum of diameters, its baseline and nadir, and the response at every time point.

The rules are those of Eisenhauer et al., Eur. J. Cancer 45 (2009) 228-247, with the clarifications of the EORTC. What
is compared is what is printed, tenths of a mm, as whole numbers: a sum is exactly 20 % above another, or it is not. A
sum in which a target is missing is no nadir, and proves nothing but progression. A lesion that only a detector calls
new is pending and never progression.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from itertools import pairwise

from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.words import few

TOO_SMALL_MM = 5.0
"""What a target counts that is there and too small to measure."""
NORMAL_NODE = 100
"""A node below this short axis, in tenths of a mm, is normal: it is gone, and no new lesion."""
LEAST_GROWTH = 50
"""Progression is at least so many tenths of a mm above the nadir, and at least 20 %."""


class Response(StrEnum):
    """The categories of RECIST 1.1."""

    CR = "CR"
    PR = "PR"
    SD = "SD"
    NON_CR_NON_PD = "NON-CR/NON-PD"
    PD = "PD"
    NE = "NE"

    @property
    def in_words(self) -> str:
        """The category as a report writes it."""
        return WORDS[self]


WORDS = {
    Response.CR: "complete response",
    Response.PR: "partial response",
    Response.SD: "stable disease",
    Response.NON_CR_NON_PD: "neither complete response nor progression",
    Response.PD: "progressive disease",
    Response.NE: "not evaluable",
}


class State(StrEnum):
    """What a reader saw of a target (measured, absent, too small to measure, not evaluated) or of a non-target
    (present, absent, unequivocal progression, not evaluated)."""

    MEASURED = "measured"
    ABSENT = "absent"
    TOO_SMALL = "too small to measure"
    PRESENT = "present"
    PROGRESSED = "unequivocal progression"
    NOT_EVALUATED = "not evaluated"


OF_TARGETS = {State.MEASURED, State.ABSENT, State.TOO_SMALL, State.NOT_EVALUATED}
OF_NON_TARGETS = {State.PRESENT, State.ABSENT, State.PROGRESSED, State.NOT_EVALUATED}


@dataclass(frozen=True, slots=True)
class Target:
    """A target at one time point.

    mm: its long axis, of a `node` its short axis; None unless measured. Of one too small to measure: what it counts
        instead of 5 mm.
    Raises Refusal where state and diameter do not fit.
    """

    name: str
    mm: float | None = None
    state: State = State.MEASURED
    node: bool = False
    site: str = ""

    def __post_init__(self) -> None:
        if self.state not in OF_TARGETS:
            raise Refusal(f"Target {self.name} is '{self.state}'; a target is one of: {_words(OF_TARGETS)}.")
        if self.state is State.MEASURED and self.mm is None:
            raise Refusal(f"Target {self.name} has no diameter; give one in mm, or say that it was not evaluated.")
        if self.mm is not None:
            as_tenths(self.mm, f"Target {self.name}")
            if self.state not in (State.MEASURED, State.TOO_SMALL) and self.mm != 0:
                raise Refusal(f"Target {self.name} is {self.state} and has {self.mm} mm; leave out one of them.")

    @property
    def tenths(self) -> int | None:
        """What the sum of diameters counts, in tenths of a mm; None if it was not evaluated."""
        match self.state:
            case State.NOT_EVALUATED:
                return None
            case State.ABSENT:
                return 0
            case State.TOO_SMALL:
                return as_tenths(TOO_SMALL_MM if self.mm is None else self.mm, self.name)
        return as_tenths(self.mm, self.name)

    @property
    def is_gone(self) -> bool:
        """Whether it is as complete response asks: absent, or a node below 10 mm."""
        return self.tenths is not None and (self.tenths < NORMAL_NODE if self.node else self.tenths == 0)


@dataclass(frozen=True, slots=True)
class NonTarget:
    """A non-target at one time point. A node below 10 mm is absent.

    grown: larger than at the time point before, which iRECIST asks. Raises Refusal for a state of targets alone.
    """

    name: str
    state: State = State.PRESENT
    grown: bool = False
    site: str = ""

    def __post_init__(self) -> None:
        if self.state not in OF_NON_TARGETS:
            raise Refusal(f"Non-target {self.name} is '{self.state}'; it is one of: {_words(OF_NON_TARGETS)}.")


@dataclass(frozen=True, slots=True)
class NewLesion:
    """A lesion that the baseline had not, at every time point that shows it.

    confirmed: whether a reader is sure of it; else it is pending, as all are that a detector alone found.
    mm: its diameter, of a `node` its short axis, None if not measured; grown: larger than at the time point before.
    Diameter and growth are what iRECIST asks.
    """

    name: str
    confirmed: bool = False
    mm: float | None = None
    node: bool = False
    grown: bool = False
    site: str = ""

    def __post_init__(self) -> None:
        if self.mm is not None:
            as_tenths(self.mm, f"New lesion {self.name}")

    @property
    def tenths(self) -> int | None:
        """Its diameter in tenths of a mm."""
        return None if self.mm is None else as_tenths(self.mm, self.name)

    @property
    def is_normal(self) -> bool:
        """Whether it is a node of normal size."""
        return self.node and self.tenths is not None and self.tenths < NORMAL_NODE


@dataclass(frozen=True, slots=True)
class TimePoint:
    """What a reader saw at one time point. Raises Refusal where two lesions have one name."""

    date: date | None = None
    targets: tuple[Target, ...] = ()
    non_targets: tuple[NonTarget, ...] = ()
    new_lesions: tuple[NewLesion, ...] = ()
    label: str = ""

    def __post_init__(self) -> None:
        names = Counter(lesion.name for lesion in self.lesions)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise Refusal(f"The time point {self.date or self.label} has two lesions of one name: {few(twice)}.")

    @property
    def lesions(self) -> tuple[Target | NonTarget | NewLesion, ...]:
        """All of them: targets, non-targets, new lesions."""
        return (*self.targets, *self.non_targets, *self.new_lesions)


@dataclass(frozen=True, slots=True)
class Assessment:
    """A time point with its responses. All diameters are in tenths of a mm.

    number: 0 is the baseline, which has no responses.
    point: as given, with a target that was left out as not evaluated, in the order of the baseline.
    total: the sum of diameters, None if a target was not evaluated; measured: of those that were.
    baseline, nadir: the sums that it is compared with, None without targets; nadir_when: where the nadir comes from.
    new_lesions: those that count; pending: those that wait for a reader.
    target, non_target, overall: the responses, None where there is no such disease.
    target_rule, overall_rule: what decided, for a sentence; notes: sentences on what a reader must know or check.
    """

    number: int
    point: TimePoint
    total: int | None = None
    measured: int = 0
    baseline: int | None = None
    nadir: int | None = None
    baseline_when: str = ""
    nadir_when: str = ""
    new_lesions: tuple[NewLesion, ...] = ()
    pending: tuple[NewLesion, ...] = ()
    target: Response | None = None
    non_target: Response | None = None
    overall: Response | None = None
    target_rule: str = ""
    overall_rule: str = ""
    notes: tuple[str, ...] = ()

    @property
    def when(self) -> str:
        """Its date, else its label, else its number."""
        return _when(self.number, self.point)

    @property
    def sum_mm(self) -> float | None:
        """The sum of diameters, None if there is no target or one was not evaluated."""
        return None if self.total is None else self.total / 10


# ------ the rules, on tenths of a mm


def as_tenths(mm: float, what: str) -> int:
    """A diameter as it is printed, in tenths of a mm. Raises Refusal if it is no length."""
    if not math.isfinite(mm) or mm < 0:
        raise Refusal(f"{what} has a diameter of {mm} mm; give a number of mm from 0 up.")
    return round(10 * round(mm, 1))


def least_progression(nadir: int) -> int:
    """The smallest sum that is progression: 20 % and 5 mm above the nadir. From a nadir of 0 that is 5 mm."""
    return max(nadir + LEAST_GROWTH, -(-6 * nadir // 5))


def most_partial(baseline: int) -> int:
    """The largest sum that is partial response: 30 % below the baseline."""
    return 7 * baseline // 10


def target_response(
    targets: Sequence[Target], baseline: int, nadir: int, after_cr: bool = False
) -> tuple[Response, str]:
    """The response of the targets, and what decided.

    baseline, nadir: sums in tenths of a mm. after_cr: whether the last overall response was CR; then any target that is
    back is progression (EORTC).
    """
    missing = [target.name for target in targets if target.tenths is None]
    total = sum(target.tenths for target in targets if target.tenths is not None)
    if not missing and all(target.is_gone for target in targets):
        nodes = any(target.node for target in targets)
        return Response.CR, "all targets are absent" + (", nodes below 10 mm" if nodes else "")
    if total >= least_progression(nadir):
        without = f", even without {few(missing)}, not evaluated" if missing else ""
        return Response.PD, f"at least 20 % and 5 mm above the nadir{without}"
    back = [target.name for target in targets if target.tenths is not None and not target.is_gone]
    if after_cr and back:
        return Response.PD, f"disease is back after complete response: {few(back)}"
    if missing:
        return Response.NE, f"{few(missing)} not evaluated, and the others prove no progression"
    if total <= most_partial(baseline):
        return Response.PR, "at least 30 % below baseline"
    return Response.SD, "neither 30 % below baseline nor 20 % and 5 mm above the nadir"


def non_target_response(non_targets: Iterable[NonTarget]) -> Response | None:
    """The response of the non-targets, None without any."""
    states = {lesion.state for lesion in non_targets}
    if not states:
        return None
    if State.PROGRESSED in states:
        return Response.PD
    if State.NOT_EVALUATED in states:
        return Response.NE
    return Response.CR if states == {State.ABSENT} else Response.NON_CR_NON_PD


def overall_response(target: Response | None, non_target: Response | None, new_lesion: bool) -> Response:
    """Table 1 of RECIST 1.1, and table 2 where there is no target: None is no such disease."""
    if new_lesion or Response.PD in (target, non_target):
        return Response.PD
    if target is None:
        return non_target or Response.NE
    if target is Response.CR and non_target not in (None, Response.CR):
        return Response.PR
    return target


# ------ time points in a row


def assess(points: Sequence[TimePoint]) -> list[Assessment]:
    """Every time point with its responses; the first is the baseline.

    A new lesion that a reader confirms later counts from the first time point that shows it. Raises Refusal where the
    time points do not fit together.
    """
    _check(points)
    confirmed = {lesion.name for point in points for lesion in point.new_lesions if lesion.confirmed}
    done: list[Assessment] = []
    for number, point in enumerate(points):
        done.append(_assessed(number, _completed(point, points[0]), confirmed, done))
    return done


def _assessed(number: int, point: TimePoint, confirmed: set[str], before: list[Assessment]) -> Assessment:
    values = [target.tenths for target in point.targets]
    measured = sum(value for value in values if value is not None)
    total = None if not values or None in values else measured
    if not before:
        return Assessment(number, point, total, measured, total, total, _when(0, point), _when(0, point))
    counted = tuple(lesion for lesion in point.new_lesions if lesion.name in confirmed and not lesion.is_normal)
    pending = tuple(lesion for lesion in point.new_lesions if lesion.name not in confirmed)
    nadir = min((past for past in before if past.total is not None), key=lambda past: past.total, default=before[0])
    after_cr = _last_evaluable(before) is Response.CR
    target, target_rule = None, ""
    if point.targets:
        target, target_rule = target_response(point.targets, before[0].total, nadir.total, after_cr)
    non_target = non_target_response(point.non_targets)
    relapsed = after_cr and non_target is Response.NON_CR_NON_PD
    overall = Response.PD if relapsed else overall_response(target, non_target, bool(counted))
    assessment = Assessment(
        number=number,
        point=point,
        total=total,
        measured=measured,
        baseline=before[0].total,
        nadir=nadir.total,
        baseline_when=before[0].when,
        nadir_when=nadir.when,
        new_lesions=counted,
        pending=pending,
        target=target,
        non_target=non_target,
        overall=overall,
        target_rule=target_rule,
        overall_rule=_overall_rule(point, target, non_target, counted, relapsed),
    )
    return _with_notes(assessment, before)


def _overall_rule(
    point: TimePoint,
    target: Response | None,
    non_target: Response | None,
    new_lesions: Sequence[NewLesion],
    relapsed: bool,
) -> str:
    causes = [f"new lesion {lesion.name}" for lesion in new_lesions]
    if target is Response.PD:
        causes.append("progression of the targets")
    progressed = [lesion.name for lesion in point.non_targets if lesion.state is State.PROGRESSED]
    if progressed:
        causes.append(f"unequivocal progression of non-targets ({few(progressed)})")
    if relapsed:
        causes.append("non-targets are back after complete response")
    if causes:
        return "; ".join(causes)
    if target is None:
        return f"no targets, non-targets {non_target}, no new lesion (table 2)"
    return f"targets {target}, non-targets {non_target or 'none'}, no new lesion (table 1)"


def _with_notes(assessment: Assessment, before: list[Assessment]) -> Assessment:
    return replace(assessment, notes=tuple(_notes(assessment, before)))


def _notes(assessment: Assessment, before: list[Assessment]) -> Iterable[str]:
    for lesion in assessment.pending:
        yield (
            f"New lesion {lesion.name} is pending: no reader has confirmed it, so it does not count; once confirmed, "
            "progression dates from here."
        )
    for lesion in assessment.point.new_lesions:
        if lesion.is_normal:
            yield f"New node {lesion.name} does not count: its short axis, {lesion.mm:.1f} mm, is below 10 mm."
        elif lesion in assessment.new_lesions and not lesion.confirmed:
            yield f"New lesion {lesion.name} counts from here, because a reader confirmed it later."
    if "is back after" in assessment.target_rule:
        yield (
            "The EORTC asks that the complete response be confirmed first: what was indistinct may have been there all "
            "the time, and both time points be partial response."
        )
    partial = [past for past in before if past.target is Response.PR]
    if assessment.target is Response.SD and partial and not any(past.overall is Response.PD for past in before):
        yield (
            f"Partial response was reached before ({partial[-1].when}). The EORTC reads a confirmed one on until "
            "progression; here the table decides every time point by itself."
        )
    if assessment.target in (Response.PR, Response.SD):
        yield from _notes_on_growth(assessment.total - assessment.nadir, assessment.nadir)


def _notes_on_growth(grown: int, nadir: int) -> Iterable[str]:
    """What to say where one of the two conditions of progression is met and the other is not."""
    if nadir == 0 and grown:
        yield "The nadir is 0 mm, so there is no percentage: progression is 5 mm or more."
    elif grown and 5 * grown >= nadir:
        yield "At least 20 % above the nadir, but less than 5 mm: progression needs both."
    elif grown >= LEAST_GROWTH:
        yield "At least 5 mm above the nadir, but less than 20 %: progression needs both."


def _last_evaluable(before: list[Assessment]) -> Response | None:
    responses = [past.overall for past in before if past.overall not in (None, Response.NE)]
    return responses[-1] if responses else None


def _completed(point: TimePoint, baseline: TimePoint) -> TimePoint:
    """The time point with every lesion of the baseline: what is left out was not evaluated."""
    targets = {target.name: target for target in point.targets}
    others = {lesion.name: lesion for lesion in point.non_targets}
    return replace(
        point,
        targets=tuple(
            targets.get(target.name) or replace(target, mm=None, state=State.NOT_EVALUATED)
            for target in baseline.targets
        ),
        non_targets=tuple(
            others.get(lesion.name) or replace(lesion, state=State.NOT_EVALUATED, grown=False)
            for lesion in baseline.non_targets
        ),
    )


def _check(points: Sequence[TimePoint]) -> None:
    """Raise Refusal where time points do not fit together."""
    if not points:
        raise Refusal("There is no time point; give the baseline first, then the others in the order of their dates.")
    baseline = points[0]
    if not baseline.targets and not baseline.non_targets:
        raise Refusal("The baseline has neither targets nor non-targets, so there is no response; mark its lesions.")
    if baseline.new_lesions:
        raise Refusal(f"{baseline.new_lesions[0].name} is new at baseline; make it a target or a non-target.")
    for target in baseline.targets:
        if not target.tenths:
            raise Refusal(f"Target {target.name} has no diameter at baseline; measure it, or make it a non-target.")
    dated = [point.date for point in points if point.date is not None]
    for earlier, later in pairwise(dated):
        if later <= earlier:
            raise Refusal(
                f"The time point of {later} follows that of {earlier}; give them in the order of their dates."
            )
    nodes = {target.name: target.node for target in baseline.targets}
    others = {lesion.name for lesion in baseline.non_targets}
    for number, point in enumerate(points):
        unknown = [lesion.name for lesion in point.targets if lesion.name not in nodes]
        unknown += [lesion.name for lesion in point.non_targets if lesion.name not in others]
        if unknown:
            raise Refusal(f"{few(unknown)} at {_when(number, point)}: not so at baseline; what was not there is new.")
        for target in point.targets:
            if target.node != nodes[target.name]:
                raise Refusal(f"Target {target.name} is a node at one time point and none at another; say which.")


def _when(number: int, point: TimePoint) -> str:
    if point.date is not None:
        return point.date.isoformat()[:10]
    return point.label or ("baseline" if number == 0 else f"time point {number}")


def _words(states: set[State]) -> str:
    return ", ".join(sorted(states))
