"""iRECIST, RECIST 1.1 for trials of immunotherapies: progression waits for its confirmation.

The rules are those of Seymour et al., Lancet Oncol. 18 (2017) e143-e152 (table 2), with the EORTC's answers to
questions about them. Where they leave a size open ("no change"), 5 mm is taken, as for every other change of a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from LesionDetectorLib.followup.response import (
    LEAST_GROWTH,
    Assessment,
    Response,
    least_progression,
    overall_response,
)
from LesionDetectorLib.words import few

CONFIRM_DAYS = 28
"""Progression is confirmed at least so much later, at best within 8 weeks."""
TARGETS, NON_TARGETS, NEW = "targets", "non-targets", "new lesions"
BEST_FIRST = (Response.CR, Response.PR, Response.SD, Response.NON_CR_NON_PD, Response.PD, Response.NE)


class Immune(StrEnum):
    """The categories of iRECIST."""

    ICR = "iCR"
    IPR = "iPR"
    ISD = "iSD"
    NON_ICR_NON_IUPD = "NON-iCR/NON-iUPD"
    IUPD = "iUPD"
    ICPD = "iCPD"
    NE = "NE"


OF_RECIST = {
    Response.CR: Immune.ICR,
    Response.PR: Immune.IPR,
    Response.SD: Immune.ISD,
    Response.NON_CR_NON_PD: Immune.NON_ICR_NON_IUPD,
    Response.NE: Immune.NE,
}


@dataclass(frozen=True, slots=True)
class ImmuneResponse:
    """The response of a time point after the baseline, and what decided."""

    response: Immune
    rule: str


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Progression that waits for its confirmation: where, and of which lesions."""

    at: Assessment
    causes: tuple[str, ...]


def immune_responses(assessments: Sequence[Assessment], confirm_days: int = CONFIRM_DAYS) -> list[ImmuneResponse]:
    """The responses of all time points after the baseline.

    A time point less than `confirm_days` after unconfirmed progression decides nothing. Without dates every later time
    point may confirm, and the rule says so.
    """
    done: list[ImmuneResponse] = []
    waiting: _Waiting | None = None
    seen: set[str] = set()
    confirmed, smallest = "", None
    for entry in assessments[1:]:
        if confirmed:
            done.append(ImmuneResponse(Immune.ICPD, f"progression was confirmed at {confirmed}"))
            continue
        days = None if waiting is None else _days(waiting.at, entry)
        if days is not None and days < confirm_days:
            rule = f"{days} days after {waiting.at.when}: confirmation needs {confirm_days}"
            done.append(ImmuneResponse(Immune.IUPD, rule))
            continue
        causes = _causes(entry, seen, smallest)
        proofs = [] if waiting is None else _proofs(waiting, entry, causes, seen)
        if proofs:
            confirmed = entry.when
            after = "" if days is not None else "; the days between are not known"
            done.append(ImmuneResponse(Immune.ICPD, f"confirms {waiting.at.when}: {'; '.join(proofs)}{after}"))
        elif waiting is None and causes:
            waiting = _Waiting(entry, causes)
            done.append(ImmuneResponse(Immune.IUPD, f"progression of {', '.join(causes)}, to be confirmed"))
        elif waiting is not None and not _has_changed(waiting, entry):
            done.append(_still(waiting, entry))
        else:
            response = _without_progression(entry)
            waiting = waiting if response is Immune.NE else None
            done.append(ImmuneResponse(response, f"no progression: {entry.target_rule or entry.overall_rule}"))
        seen |= {lesion.name for lesion in entry.new_lesions}
        size = _new_sum(entry)
        smallest = size if smallest is None else min(smallest, size if size is not None else smallest)
    return done


def best_immune(responses: Sequence[ImmuneResponse]) -> Immune | None:
    """The best overall response of iRECIST (its table 3), None without any: the best before confirmed progression;
    without response or stability, progression, confirmed or not."""
    found = [entry.response for entry in responses]
    for wanted in (Immune.ICR, Immune.IPR, Immune.ISD, Immune.NON_ICR_NON_IUPD, Immune.ICPD, Immune.IUPD, Immune.NE):
        if wanted in found:
            return wanted
    return None


def _causes(entry: Assessment, seen: set[str], smallest: int | None) -> tuple[str, ...]:
    """Which lesions progress at this time point by RECIST 1.1. New lesions do where they first appear, and where their
    sum grows as that of targets would have to."""
    causes = [TARGETS] if entry.target is Response.PD else []
    appeared = any(lesion.name not in seen for lesion in entry.new_lesions)
    size = _new_sum(entry)
    grown = smallest is not None and size is not None and size >= least_progression(smallest)
    if entry.non_target is Response.PD or (entry.overall is Response.PD and not causes and not entry.new_lesions):
        causes.append(NON_TARGETS)
    return (*causes, NEW) if appeared or grown else tuple(causes)


def _proofs(waiting: _Waiting, entry: Assessment, causes: tuple[str, ...], seen: set[str]) -> list[str]:
    """What confirms the progression that waits: the same lesions are larger still, or others progress."""
    proofs = [f"{cause} now progress too" for cause in causes if cause not in waiting.causes and cause != NEW]
    more = None if waiting.at.total is None else entry.measured - waiting.at.total
    if TARGETS in waiting.causes and more is not None and more >= LEAST_GROWTH:
        proofs.append(f"the sum of diameters grew by {more / 10:.1f} mm more")
    grown = [lesion.name for lesion in entry.point.non_targets if lesion.grown]
    if NON_TARGETS in waiting.causes and grown:
        proofs.append(f"non-targets grew further ({few(grown)})")
    appeared = [lesion.name for lesion in entry.new_lesions if lesion.name not in seen]
    if appeared:
        proofs.append(f"new lesions appeared ({few(appeared)})")
    now, then = _new_sum(entry), _new_sum(waiting.at)
    if now is not None and then is not None and now - then >= LEAST_GROWTH:
        proofs.append(f"the sum of new lesions grew by {(now - then) / 10:.1f} mm")
    grown = [lesion.name for lesion in entry.new_lesions if lesion.grown and lesion.tenths is None]
    if grown and waiting.at.new_lesions:
        proofs.append(f"new lesions grew ({few(grown)})")
    return proofs


def _has_changed(waiting: _Waiting, entry: Assessment) -> bool:
    """Whether nothing of the progression is left, or the targets shrank after it although its new lesions stay."""
    if Response.PD in (entry.target, entry.non_target):
        return False
    if not entry.new_lesions:
        return True
    before, now = waiting.at.total, entry.total
    shrunk = before is not None and now is not None and before - now >= LEAST_GROWTH
    better = None not in (entry.target, waiting.at.target) and (
        BEST_FIRST.index(entry.target) < BEST_FIRST.index(waiting.at.target)
    )
    return NEW not in waiting.causes or shrunk or better or Response.NE in (entry.target, entry.non_target)


def _still(waiting: _Waiting, entry: Assessment) -> ImmuneResponse:
    return ImmuneResponse(Immune.IUPD, f"neither confirmed nor better since {waiting.at.when}")


def _without_progression(entry: Assessment) -> Immune:
    """The response where no lesion progresses; a new lesion that stays makes a complete response a partial one."""
    response = overall_response(entry.target, entry.non_target, new_lesion=False)
    return Immune.IPR if response is Response.CR and entry.new_lesions else OF_RECIST[response]


def _new_sum(entry: Assessment) -> int | None:
    """The sum of the diameters of the new lesions that were measured, in tenths of a mm."""
    values = [lesion.tenths for lesion in entry.new_lesions if lesion.tenths is not None]
    return sum(values) if values else None


def _days(earlier: Assessment, later: Assessment) -> int | None:
    if earlier.point.date is None or later.point.date is None:
        return None
    return (later.point.date - earlier.point.date).days
