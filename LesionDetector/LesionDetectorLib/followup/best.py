"""The best overall response of RECIST 1.1, with and without confirmation (table 3 of Eisenhauer et al. 2009)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from LesionDetectorLib.followup.response import Assessment, Response
from LesionDetectorLib.refusal import Refusal

MIN_SD_DAYS = 42
"""Stable disease lasts at least so long; the guideline leaves it to the protocol, and names 6 to 8 weeks."""
CONFIRM_DAYS = 28
"""A response is confirmed at least so much later."""
NE_BETWEEN = 1
"""So many time points that were not evaluable may lie between a response and its confirmation."""

STABLE = (Response.CR, Response.PR, Response.SD)


@dataclass(frozen=True, slots=True)
class Best:
    """The best overall response, None without any time point after the baseline, and the sentence that says why."""

    response: Response | None
    reason: str


def best_overall(
    assessments: Sequence[Assessment],
    min_sd_days: int = MIN_SD_DAYS,
    confirm_days: int = CONFIRM_DAYS,
    start: date | None = None,
) -> Best:
    """The best overall response. Days are counted from `start`, the baseline's date by default.

    Raises Refusal where a date is missing.
    """
    undated = [entry.when for entry in assessments if entry.point.date is None]
    if undated:
        raise Refusal(f"The best overall response needs the date of every time point; {undated[0]} has none.")
    first = start or assessments[0].point.date
    return best_response(
        [((entry.point.date - first).days, entry.overall) for entry in assessments[1:]], min_sd_days, confirm_days
    )


def best_response(
    sequence: Sequence[tuple[int, Response]], min_sd_days: int = MIN_SD_DAYS, confirm_days: int = CONFIRM_DAYS
) -> Best:
    """The best of overall responses, each with its day from the start, in the order of the days.

    confirm_days: 0 for no confirmation. What follows progression does not count; disease that is seen after complete
    response is progression.
    """
    if not sequence:
        return Best(None, "There is no time point after the baseline.")
    counted, progressed = _until_progression(sequence)
    for wanted in (Response.CR, Response.PR):
        for place, (day, response) in enumerate(counted):
            if response is wanted or (wanted is Response.PR and response is Response.CR):
                found = _confirmed(counted, place, wanted, confirm_days) if confirm_days else response is wanted
                if found:
                    return Best(wanted, _says(wanted, day, confirm_days, found))
    for wanted, alike in ((Response.SD, STABLE), (Response.NON_CR_NON_PD, (Response.NON_CR_NON_PD,))):
        lasting = [(day, response) for day, response in counted if response in alike and day >= min_sd_days]
        if lasting:
            day, response = lasting[-1]
            seen = "" if response is wanted else f" ({response} without confirmation)"
            return Best(wanted, f"{wanted.in_words.capitalize()} until day {day}{seen}, at least {min_sd_days} days.")
    if progressed is not None:
        return Best(
            Response.PD, f"Progressive disease on day {progressed}, before {min_sd_days} days of stable disease."
        )
    return Best(Response.NE, f"No evaluable time point from day {min_sd_days} on, and no progression.")


def _until_progression(sequence: Sequence[tuple[int, Response]]) -> tuple[list[tuple[int, Response]], int | None]:
    """The responses before progression, and the day of it."""
    counted: list[tuple[int, Response]] = []
    for day, response in sequence:
        relapsed = response is not Response.NE and any(past is Response.CR for _, past in counted)
        if response is Response.PD or (relapsed and response is not Response.CR):
            return counted, day
        counted.append((day, response))
    return counted, None


def _confirmed(counted: list[tuple[int, Response]], place: int, wanted: Response, confirm_days: int) -> int | None:
    """The day that confirms the response at `place`, None if none does."""
    first, not_evaluable = counted[place][0], 0
    for day, response in counted[place + 1 :]:
        if response is Response.NE:
            not_evaluable += 1
            if not_evaluable > NE_BETWEEN:
                return None
        elif response is not Response.CR and response is not wanted:
            return None
        elif day - first >= confirm_days:
            return day
    return None


def _says(wanted: Response, day: int, confirm_days: int, confirmed: int) -> str:
    how = f"confirmed on day {confirmed}" if confirm_days else "no confirmation asked"
    return f"{wanted.in_words.capitalize()} on day {day}, {how}."
