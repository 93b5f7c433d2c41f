"""The course of a patient as text: the response, every lesion over time, and what waits for a reader."""

from __future__ import annotations

from collections.abc import Iterator

from LesionDetectorLib import __version__
from LesionDetectorLib.followup.course import TO_CONFIRM, Course, Followed, Step
from LesionDetectorLib.followup.matching import Fate
from LesionDetectorLib.followup.outcome import Outcome
from LesionDetectorLib.followup.response import State
from LesionDetectorLib.followup.wording import as_text
from LesionDetectorLib.report.text import FOOTER, WARNING
from LesionDetectorLib.words import plural, table

# The wording: change it here.
HEADING = "Lesions over time:"
OPEN = " ?"
"""Behind what no reader has confirmed."""
LEGEND = "Long x short axis in mm, change of the long axis from first to last. {mark}: not confirmed by a reader."
NEXT = (
    'Next: look at follow.html, write yes or no into the column "confirmed" of pairs.csv (another number into "lesion" '
    'joins lesions, a word into "state" goes before what was measured), and run again with --pairs.'
)
NOTHING_WAITS = "A reader has confirmed every step."
NOT_FOUND = "not found"
"""What no box shows, and no reader called absent."""
SMALL = {Fate.VANISHED: "absent", Fate.NOT_COVERED: "not covered", Fate.NOT_YET: "-"}
AS_THEY_ARE = {Fate.FIRST, Fate.MATCHED}


def compose(outcome: Outcome) -> str:
    """All of it, in paragraphs."""
    course = outcome.course
    paragraphs = [
        "\n".join(studies(course)),
        as_text(outcome.assessments) if outcome.assessments else "",
        "\n".join(conclusions(outcome)),
        *(WARNING.format(warning=sentence) for sentence in (*outcome.notes, *outcome.warnings)),
        HEADING,
        table(head(course), rows(outcome)),
        LEGEND.format(mark=OPEN.strip()),
        "\n".join(growths(outcome)),
        "\n".join(waiting(course)),
        FOOTER.format(version=__version__),
    ]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n"


def studies(course: Course) -> Iterator[str]:
    """A sentence on each study: its date and who says so, its lesions, and how well it lies over the last one."""
    for number, visit in enumerate(course.visits, start=1):
        reading, alignment = visit.study.reading, visit.study.alignment
        dated = f" ({visit.dated_by})" if visit.dated_by else ""
        lesions = plural(len(reading.reported), "lesion")
        laid = ""
        if number < len(course.visits):
            laid = (
                f"; laid over study {len(course.visits)}, nine of ten places are off by {alignment.residual_mm:.1f} mm "
                "at most, as estimated"
            )
        yield f"Study {number}: {visit.date}{dated}, series {reading.series}, {lesions}{laid}."


def conclusions(outcome: Outcome) -> Iterator[str]:
    """The best overall response, and the responses by iRECIST."""
    if outcome.best is not None:
        response = outcome.best.response
        named = "none" if response is None else f"{response.in_words} ({response})"
        yield f"Best overall response: {named}. {outcome.best.reason}"
    for entry, immune in zip(outcome.assessments[1:], outcome.immune):
        yield f"iRECIST {entry.when}: {immune.response}, {immune.rule}."


def head(course: Course) -> list[str]:
    """The head of the table of lesions."""
    return ["Lesion", "is", *(str(visit.date) for visit in course.visits), "change"]


def rows(outcome: Outcome) -> list[list[str]]:
    """The table of lesions: its name, what it is in the response, its size at every visit, and the change."""
    return [
        [
            lesion.name,
            outcome.role(lesion) or "-",
            *(size(step) + (OPEN if is_open(step) else "") for step in lesion.steps),
            change(outcome, lesion),
        ]
        for lesion in outcome.course.lesions
    ]


def size(step: Step) -> str:
    """What a visit shows of a lesion: "24.0 x 14.3", "new 9.8 x 7.0", "not found", "absent"."""
    if step.state is not None and step.state is not State.MEASURED:
        return step.state
    if not step.lesions:
        return NOT_FOUND if step.fate is Fate.VANISHED and not step.confirmed else SMALL[step.fate]
    parts = " + ".join(
        "not measured" if shown.recist is None else f"{shown.recist.long_mm:.1f} x {shown.recist.short_mm:.1f}"
        for shown in step.lesions
    )
    return parts if step.fate in AS_THEY_ARE else f"{step.fate} {parts}"


def is_open(step: Step) -> bool:
    """Whether a step waits for a reader."""
    return step.fate in TO_CONFIRM and not step.confirmed


def change(outcome: Outcome, lesion: Followed) -> str:
    """The change of its long axis in per cent, "" where it was not measured twice."""
    grown = outcome.growth(lesion)
    return "" if grown is None else f"{grown.percent:+z.0f} %"


def growths(outcome: Outcome) -> Iterator[str]:
    """A sentence on the growth of each lesion that was measured twice."""
    for lesion in outcome.course.lesions:
        grown = outcome.growth(lesion)
        if grown is not None:
            doubt = " Not confirmed by a reader." if any(map(is_open, lesion.steps)) else ""
            yield f"{lesion.name}: {grown.sentence}{doubt}"


def waiting(course: Course) -> Iterator[str]:
    """What waits for a reader, and what to do about it."""
    found = course.waiting
    if not found:
        yield NOTHING_WAITS
        return
    yield f"{plural(len(found), 'step')} of lesions {'waits' if len(found) == 1 else 'wait'} for a reader:"
    for lesion, number in found:
        step, visit = lesion.steps[number], course.visits[number]
        sure = f", {100 * step.match.sureness:.0f} % sure" if step.match is not None else ""
        yield f"  {lesion.name}, {visit.date}: {step.fate}{sure}"
    yield NEXT
