"""pairs.csv: which lesion is which from study to study, a row a step, in which a reader confirms, parts and joins.

The program writes it; the reader fills the column `confirmed` in a spreadsheet, or another number into the column
`lesion`, which joins lesions, and the program reads it again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from LesionDetectorLib.followup.course import Course, Decision, Followed, Step
from LesionDetectorLib.followup.matching import Fate
from LesionDetectorLib.followup.response import State
from LesionDetectorLib.lesion import Lesion, ReviewStatus
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.spreadsheet import Row, read_rows, safe

COLUMNS = (
    *("lesion", "study", "date", "number", "id", "body_part", "long_mm", "short_mm", "what", "apart_mm", "sure"),
    *("confirmed", "state"),
)
NEEDED = ("lesion", "study", "id", "confirmed")
ANSWERS = {"yes": True, "y": True, "no": False, "n": False, "": None}
STATES = (State.ABSENT, State.TOO_SMALL, State.PROGRESSED, State.NOT_EVALUATED)
REJECTED = "rejected"

_Said = dict[tuple[int, str], Decision]
"""Decisions by visit and the lesion's id, or "#" and its number where nothing shows it."""


def compose(course: Course, decisions: Sequence[Decision] = ()) -> str:
    """The steps of a course as CSV, with what a reader decided of them.

    `number` is that of the lesion in its study's report, `sure` how sure the match is in per cent. Text that a
    spreadsheet would calculate gets an apostrophe before it.
    """
    said = {(each.visit, each.id or f"#{each.lesion}"): each for each in decisions}
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for lesion in course.lesions:
        for visit, step in enumerate(lesion.steps):
            if step.fate is not Fate.NOT_YET:
                writer.writerows(_rows(course, lesion, visit, step, said))
    writer.writerows(_rejected(course, decisions))
    return file.getvalue()


def read(path: Path, course: Course) -> list[Decision]:
    """The decisions in a pairs.csv on the lesions of a course as it is proposed. Refusal names the line at fault."""
    rows = read_rows(path, "the pairs.csv that was filled in", _check_columns)
    ids = [{_cell(lesion): lesion.id for lesion in visit.study.reading.lesions} for visit in course.visits]
    found: dict[tuple[int, str], Decision] = {}
    for row in rows:
        decision = _decision(row, ids)
        key = decision.visit, decision.id or f"#{decision.lesion}"
        if key in found:
            raise Refusal(f"{row.place}: lesion {decision.lesion} of study {decision.visit + 1} stands there twice.")
        found[key] = decision
    return list(found.values())


def _rows(course: Course, lesion: Followed, visit: int, step: Step, said: _Said) -> Iterator[dict[str, object]]:
    reading = course.visits[visit].study.reading
    numbers = {shown.id: number for number, shown in enumerate(reading.reported, start=1)}
    common = {
        "lesion": lesion.number,
        "study": visit + 1,
        "date": course.visits[visit].date,
        "what": step.fate,
        "state": step.state or "",
    }
    if not step.lesions:
        decision = said.get((visit, f"#{lesion.number}"))
        refused = decision is not None and decision.confirmed is False
        answer = "yes" if step.confirmed else "no" if refused else ""
        yield common | {"body_part": lesion.first.body_part.title, "confirmed": answer}
    for place, shown in enumerate(step.lesions):
        decision = said.get((visit, shown.id))
        confirmed = step.confirmed or (decision is not None and decision.confirmed)
        match = step.match if place == 0 else None
        yield (
            common
            | _of_lesion(shown)
            | {
                "number": numbers.get(shown.id, ""),
                "apart_mm": "" if match is None else f"{match.apart_mm:.1f}",
                "sure": "" if match is None else f"{100 * match.sureness:.0f}",
                "confirmed": "yes" if confirmed else "",
            }
        )


def _rejected(course: Course, decisions: Iterable[Decision]) -> Iterator[dict[str, object]]:
    """A row for each lesion that the reader rejected here, so that it stays so when the file is read again."""
    for decision in decisions:
        visit = course.visits[decision.visit]
        lesion = next((one for one in visit.study.reading.lesions if one.id == decision.id), None)
        if lesion is not None and decision.confirmed is False and lesion.status is ReviewStatus.REJECTED:
            where = {"lesion": decision.lesion, "study": decision.visit + 1, "date": visit.date}
            yield where | _of_lesion(lesion) | {"what": REJECTED, "confirmed": "no"}


def _of_lesion(lesion: Lesion) -> dict[str, object]:
    axes = lesion.recist
    return {
        "id": _cell(lesion),
        "body_part": lesion.body_part.title,
        "long_mm": "" if axes is None else f"{axes.long_mm:.1f}",
        "short_mm": "" if axes is None else f"{axes.short_mm:.1f}",
    }


def _cell(lesion: Lesion) -> str:
    return safe(lesion.id).strip()


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise Refusal(f"{path} lacks the column {missing[0]}: fill in the pairs.csv that the program wrote.")


def _decision(row: Row, ids: Sequence[dict[str, str]]) -> Decision:
    lesion, study = _whole(row, "lesion"), _whole(row, "study")
    if study > len(ids):
        raise Refusal(f"{row.place}, column study: there are {len(ids)} studies, and no study {study}.")
    name, answer, words = row.cell("id"), row.cell("confirmed").lower(), row.cell("state").lower()
    if name and name not in ids[study - 1]:
        raise Refusal(
            f"{row.place}, column id: study {study} has no lesion {name}; give the lesions.json that the pairs were "
            "proposed of, or let them be proposed anew."
        )
    if answer not in ANSWERS:
        raise Refusal(f"{row.place}, column confirmed: write yes or no, or leave it blank, not '{answer}'.")
    if words and words not in STATES:
        raise Refusal(f"{row.place}, column state: write one of {', '.join(STATES)}, or nothing, not '{words}'.")
    if words and study == 1:
        raise Refusal(f"{row.place}, column state: study 1 is the baseline, whose lesions have none; clear the cell.")
    return Decision(study - 1, lesion, ids[study - 1].get(name, ""), ANSWERS[answer], State(words) if words else None)


def _whole(row: Row, name: str) -> int:
    """The number from 1 on in a column; Refusal where it is none."""
    number = row.number(name)
    if number % 1 or not 1 <= number < 2**31:
        raise Refusal(f"{row.place}, column {name}: a whole number from 1 on is expected, not '{row.cell(name)}'.")
    return int(number)
