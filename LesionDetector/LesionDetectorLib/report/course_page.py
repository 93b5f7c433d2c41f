"""The course of a patient as one HTML file that needs nothing else: the response, its curves, and every lesion in all
studies side by side.

Its layout and wording are in course.html and style.css beside this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from LesionDetectorLib import __version__
from LesionDetectorLib.followup.course import TO_CONFIRM, Followed, place
from LesionDetectorLib.followup.matching import Fate
from LesionDetectorLib.followup.outcome import Outcome
from LesionDetectorLib.followup.wording import sentences
from LesionDetectorLib.looks import window
from LesionDetectorLib.report import course_text, text
from LesionDetectorLib.report.page import data_uri, template

if TYPE_CHECKING:
    from LesionDetectorLib.ct import Volume


def compose(
    outcome: Outcome, volumes: Sequence[Volume], progress: Callable[[int, int], None] = lambda done, total: None
) -> str:
    """The page as HTML; `volumes` are the CTs of the visits. `progress` is told how many lesions have their pictures,
    of how many; it may raise to stop."""
    course = outcome.course
    lesions = []
    for done, lesion in enumerate(course.lesions):
        progress(done, len(course.lesions))
        lesions.append(_lesion(outcome, lesion, volumes))
    progress(len(lesions), len(lesions))
    return template("course.html").render(
        dates=[str(visit.date) for visit in course.visits],
        studies=list(course_text.studies(course)),
        responses=[
            {
                "when": entry.when,
                "response": "" if entry.overall is None else f"{entry.overall.in_words} ({entry.overall})",
                "sentences": sentences(entry),
            }
            for entry in outcome.assessments
        ],
        conclusions=list(course_text.conclusions(outcome)),
        notes=outcome.notes,
        warnings=outcome.warnings,
        curves=_curves(outcome),
        lesions=lesions,
        legend=course_text.LEGEND.format(mark="open"),
        waiting=list(course_text.waiting(course)),
        disclaimer=text.NOT_A_MEDICAL_DEVICE,
        footer=text.FOOTER.format(version=__version__),
    )


def _curves(outcome: Outcome) -> list[dict[str, str]]:
    """The pictures of the response; none without targets."""
    entries = outcome.assessments
    if not entries or not entries[0].point.targets:
        return []
    from LesionDetectorLib.report import curves, figures

    changes = curves.best_changes(entries)
    drawn = [
        ("Sum of diameters over time, with the limits of response and progression", curves.sum_figure(entries)),
        ("Every target over time", curves.targets_figure(entries)),
        *([("Best change of every target", curves.waterfall_figure(changes, "target"))] if changes else []),
    ]
    return [{"title": title, "picture": data_uri(figures.png(figure), "png")} for title, figure in drawn]


def _lesion(outcome: Outcome, lesion: Followed, volumes: Sequence[Volume]) -> dict[str, object]:
    """What the page says of one lesion and shows of it."""
    from LesionDetectorLib.report import figures

    shown = [(volume, one) for volume, step in zip(volumes, lesion.steps) for one in step.lesions]
    width_mm = max(figures.enlarged_mm(volume, one) for volume, one in shown)
    grown = outcome.growth(lesion)
    return {
        "number": lesion.number,
        "name": lesion.name,
        "role": outcome.role(lesion),
        "change": course_text.change(outcome, lesion),
        "growth": "" if grown is None else grown.sentence,
        "width": f"{width_mm:.0f} mm wide, {{}} to {{}} HU".format(*window(lesion.first.body_part)),
        "steps": [_step(outcome, lesion, number, volume, width_mm) for number, volume in enumerate(volumes)],
    }


def _step(outcome: Outcome, lesion: Followed, number: int, volume: Volume, width_mm: float) -> dict[str, str]:
    from LesionDetectorLib.report import figures

    step, visit = lesion.steps[number], outcome.course.visits[number]
    found = {
        "date": str(visit.date),
        "size": course_text.size(step),
        "state": "" if step.fate not in TO_CONFIRM else "pending" if course_text.is_open(step) else "confirmed",
        "sure": "" if step.match is None else f"{100 * step.match.sureness:.0f} %, {step.match.apart_mm:.0f} mm apart",
        "slice": "",
        "picture": "",
    }
    if step.fate is Fate.NOT_COVERED:
        return found
    where = place(outcome.course, lesion, number)
    picture = figures.place_figure(volume, where, width_mm, lesion.first.body_part, step.lesions)
    k = min(max(round(where[2]), 0), len(volume.hu) - 1)
    return found | {"slice": str(volume.slice_number(k)), "picture": data_uri(figures.jpeg(picture))}
