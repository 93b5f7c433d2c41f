"""The course of a patient: every lesion over all studies, what a reader confirmed of it, and the time points on which
the response is assessed.

The program proposes which lesion is which (`matching`); a reader confirms each step, parts lesions or joins them.
Nothing enters the response that no reader confirmed: a target whose step is not confirmed is not evaluated, and a new
lesion that is not confirmed is pending.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise

import numpy as np

from LesionDetectorLib.followup import baseline
from LesionDetectorLib.followup.baseline import Category, Entry
from LesionDetectorLib.followup.matching import Fate, Match, Study, Track, arranged, match, middle
from LesionDetectorLib.followup.response import (
    OF_NON_TARGETS,
    OF_TARGETS,
    NewLesion,
    NonTarget,
    State,
    Target,
    TimePoint,
)
from LesionDetectorLib.lesion import Axis, Lesion, Mark, ReviewStatus
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.words import few

SHOWN = {Fate.FIRST, Fate.MATCHED, Fate.NEW, Fate.SPLIT, Fate.MERGED, Fate.TOO_SMALL}
"""What became of a lesion that a study shows."""
TO_CONFIRM = SHOWN | {Fate.VANISHED}
IN_PLAY = {Category.TARGET, Category.CANDIDATE, Category.NON_TARGET}


class NoBaseline(Refusal):
    """No reader has accepted a lesion of the first study."""


@dataclass(frozen=True, eq=False, slots=True)
class Visit:
    """One study of the patient, its date, and who says so, such as "DICOM StudyDate"."""

    date: date
    study: Study
    dated_by: str = ""


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """One lesion in one study.

    lesions: what shows it there, its parts if it split; none if nothing does.
    match: how near it is to the study before that shows it, None where it is seen first.
    confirmed: whether a reader confirmed all this.
    state: what the reader says instead of what is measured, for example that it is too small.
    """

    lesions: tuple[Lesion, ...]
    fate: Fate
    match: Match | None = None
    confirmed: bool = False
    state: State | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Followed:
    """One lesion of the patient over all visits: its number, and a step for each visit."""

    number: int
    steps: tuple[Step, ...]

    @property
    def first(self) -> Lesion:
        """The lesion where it was first seen."""
        return next(step.lesions[0] for step in self.steps if step.lesions)

    @property
    def name(self) -> str:
        """How texts call it: "3 Liver"."""
        return f"{self.number} {self.first.body_part.title}"


@dataclass(frozen=True, eq=False, slots=True)
class Course:
    """The visits of a patient in order of time, the first of which is the baseline, and every lesion over them."""

    visits: tuple[Visit, ...]
    lesions: tuple[Followed, ...]

    @property
    def waiting(self) -> list[tuple[Followed, int]]:
        """The steps that wait for a reader: a lesion and the number of the visit."""
        return [
            (lesion, number)
            for lesion in self.lesions
            for number, step in enumerate(lesion.steps)
            if step.fate in TO_CONFIRM and not step.confirmed
        ]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a reader says of one step.

    visit: its number, from 0 on; lesion: the number of the lesion over time, which a reader may change to join it with
    another; id: of the lesion in that study, "" where none shows it; confirmed: None while undecided; state: see
    `Step`.
    """

    visit: int
    lesion: int
    id: str = ""
    confirmed: bool | None = None
    state: State | None = None


def propose(visits: Sequence[Visit]) -> Course:
    """The course that the matching proposes; confirmed are lesions of the first visit that a reader accepted, no more.

    Raises Refusal for fewer than two visits, or those that are not in order of time.
    """
    check_dates([visit.date for visit in visits])
    tracks = match([visit.study for visit in visits])
    return Course(tuple(visits), tuple(_followed(number, track) for number, track in enumerate(tracks, start=1)))


def decided(course: Course, decisions: Sequence[Decision]) -> Course:
    """The proposed course as all decisions of a reader make it; what they do not speak of stays as proposed.

    A confirmed step accepts the lesions that show it. A refused one parts a matched lesion from the others, so that it
    stands alone; where the lesion was first seen, it rejects it. Raises Refusal where decisions contradict each other
    or speak of lesions that are not there.
    """
    said = _said(course, decisions)
    visits = tuple(_reviewed(course, number, said) for number in _places(course))
    groups = _regrouped(course, said)
    tracks = arranged([visit.study for visit in visits], list(groups.values()))
    done = []
    for number, track in zip(groups, tracks):
        lesion = _followed(number, track)
        done.append(replace(lesion, steps=tuple(_decided(lesion, place, said) for place in range(len(visits)))))
    return Course(visits, tuple(done))


def time_points(course: Course) -> tuple[list[TimePoint], list[str]]:
    """The course as the response takes it, and sentences on what was left out and why.

    Targets and non-targets are those of the RECIST 1.1 baseline of the first visit; NoBaseline where it has neither.
    Refusal where a reader gave a target the state of a non-target, or the other way round.
    """
    entries = {entry.lesion.id: entry for entry in baseline.assess(course.visits[0].study.reading).entries}
    followed = [(lesion, entries.get(lesion.first.id)) for lesion in course.lesions if lesion.steps[0].lesions]
    counted = [(lesion, entry) for lesion, entry in followed if entry is not None and entry.category in IN_PLAY]
    if not counted:
        raise NoBaseline(
            "No reader has accepted a lesion of the first study, so there is no baseline and no response: review its "
            "lesions first."
        )
    points = [_time_point(course, number, counted) for number in range(len(course.visits))]
    return points, list(_notes(course, counted))


def place(course: Course, lesion: Followed, number: int) -> np.ndarray:
    """Where a lesion lies in the CT of a visit, as continuous (i, j, k): its middle on its key slice, or, where nothing
    shows it, the place over which the alignment lays it from the nearest visit that does."""
    shown = [at for at, step in enumerate(lesion.steps) if step.lesions]
    nearest = min(shown, key=lambda at: (abs(at - number), at))
    found = lesion.steps[nearest].lesions[0]
    index = np.array([*middle(found)[:2], found.key_slice])
    if nearest == number:
        return index
    there, here = course.visits[nearest].study, course.visits[number].study
    points = there.alignment.to_current(there.reading.geometry.to_lps([index]))
    return here.reading.geometry.to_index(here.alignment.to_prior(points))[0]


def tracked(course: Course, number: int) -> Reading:
    """The reading of a visit in which every lesion that a reader confirmed as that of an earlier visit has the id which
    it has there, so that DICOM tracks it by one UID. Parts of a lesion that split keep their own, but for the first."""
    reading = course.visits[number].study.reading
    same = {
        lesion.steps[number].lesions[0].id: lesion.first.id
        for lesion in course.lesions
        if lesion.steps[number].lesions and lesion.steps[number].confirmed
    }
    taken = {lesion.id for lesion in reading.lesions}
    lesions = []
    for lesion in reading.lesions:
        name = same.get(lesion.id, lesion.id)
        if name not in taken:
            taken.add(name)
            lesion = lesion.edited(id=name)
        lesions.append(lesion)
    return replace(reading, lesions=tuple(lesions))


# ------ decisions


def check_dates(dates: Sequence[date]) -> None:
    """Refusal for dates of visits that are not in order of time."""
    for earlier, later in pairwise(dates):
        if later <= earlier:
            raise Refusal(
                f"The study of {later} is given after that of {earlier}: give the studies in order of time, one a day."
            )


def _followed(number: int, track: Track) -> Followed:
    matches = {id(found.later): found for found in track.matches}  # two studies may call a lesion by one id
    steps = []
    for place, (lesions, fate) in enumerate(zip(track.lesions, track.fates)):
        accepted = bool(lesions) and place == 0 and lesions[0].status is ReviewStatus.ACCEPTED
        steps.append(Step(lesions, fate, matches.get(id(lesions[0])) if lesions else None, accepted))
    return Followed(number, tuple(steps))


_Said = dict[tuple[int, str], Decision]
"""Decisions by visit and the lesion's id, or by visit and "#" with the number of a lesion that no box shows there."""


def _said(course: Course, decisions: Iterable[Decision]) -> _Said:
    ids = [{lesion.id for step in _steps(course, number) for lesion in step.lesions} for number in _places(course)]
    said: _Said = {}
    for decision in decisions:
        if not 0 <= decision.visit < len(course.visits):
            raise Refusal(f"Study {decision.visit + 1} is decided on, and there are {len(course.visits)} studies.")
        if decision.id and decision.id not in ids[decision.visit]:
            if decision.confirmed is False and _is_rejected(course, decision):
                continue
            raise Refusal(
                f"Study {decision.visit + 1} of {course.visits[decision.visit].date} has no lesion {decision.id}: the "
                "decisions are of other studies, or of another reading of them; let the pairs be proposed anew."
            )
        key = decision.visit, decision.id or f"#{decision.lesion}"
        if key in said:
            raise Refusal(f"Lesion {decision.lesion} of study {decision.visit + 1} is decided on twice; keep one.")
        said[key] = decision
    return said


def _is_rejected(course: Course, decision: Decision) -> bool:
    """Whether the reading has it rejected already."""
    lesions = course.visits[decision.visit].study.reading.lesions
    return any(lesion.id == decision.id and lesion.status is ReviewStatus.REJECTED for lesion in lesions)


def _steps(course: Course, visit: int) -> Iterator[Step]:
    return (lesion.steps[visit] for lesion in course.lesions)


def _places(course: Course) -> range:
    return range(len(course.visits))


def _reviewed(course: Course, number: int, said: _Said) -> Visit:
    """The visit with the lesions accepted and rejected that decisions say so of."""
    visit = course.visits[number]
    seen_first = {
        shown.id for lesion in course.lesions for shown in lesion.steps[number].lesions if _starts(lesion, number)
    }
    lesions = []
    for lesion in visit.study.reading.lesions:
        decision = said.get((number, lesion.id))
        if decision is not None and decision.confirmed:
            lesion = lesion.edited(status=ReviewStatus.ACCEPTED)
        elif decision is not None and decision.confirmed is False and lesion.id in seen_first:
            lesion = lesion.edited(status=ReviewStatus.REJECTED)
        lesions.append(lesion)
    reading = replace(visit.study.reading, lesions=tuple(lesions))
    return replace(visit, study=replace(visit.study, reading=reading))


def _starts(lesion: Followed, place: int) -> bool:
    """Whether no visit before shows a lesion."""
    return not any(step.lesions for step in lesion.steps[:place])


def _regrouped(course: Course, said: _Said) -> dict[int, list[list[str]]]:
    """The ids of the lesions by number and visit, as the reader has them; what was rejected is gone."""
    groups: dict[int, list[list[str]]] = {}
    alone: list[list[list[str]]] = []
    for lesion in course.lesions:
        for place, step in enumerate(lesion.steps):
            for shown in step.lesions:
                decision = said.get((place, shown.id)) or Decision(place, lesion.number, shown.id)
                if decision.confirmed is not False:
                    groups.setdefault(decision.lesion, [[] for _ in course.visits])[place].append(shown.id)
                elif not _starts(lesion, place):
                    alone.append([[shown.id] if other == place else [] for other in _places(course)])
    number = max([lesion.number for lesion in course.lesions] + list(groups), default=0)
    groups.update({number + more: group for more, group in enumerate(alone, start=1)})
    return dict(sorted(groups.items()))


def _decided(lesion: Followed, place: int, said: _Said) -> Step:
    """A step with what the reader said of it."""
    step = lesion.steps[place]
    absent = said.get((place, f"#{lesion.number}"))
    if step.lesions and absent is not None and absent.confirmed:
        raise Refusal(
            f"Lesion {lesion.number} of study {place + 1} is confirmed as absent, and another row shows it; keep one."
        )
    keys = [shown.id for shown in step.lesions] or [f"#{lesion.number}"]
    decisions = [said[place, key] for key in keys if (place, key) in said]
    states = {decision.state for decision in decisions if decision.state is not None}
    if len(states) > 1:
        raise Refusal(f"The parts of lesion {lesion.number} in study {place + 1} have different states; give one.")
    refused = any(decision.confirmed is False for decision in decisions)
    confirmed = len(decisions) == len(keys) and all(decision.confirmed for decision in decisions)
    return replace(step, confirmed=confirmed or (step.confirmed and not refused), state=next(iter(states), step.state))


# ------ time points


def _time_point(course: Course, number: int, counted: Sequence[tuple[Followed, Entry]]) -> TimePoint:
    targets, non_targets = [], []
    for lesion, entry in counted:
        if entry.is_target:
            _check_state(lesion, number, OF_TARGETS, "target")
            targets.append(_target(lesion, lesion.steps[number], entry))
        else:
            _check_state(lesion, number, OF_NON_TARGETS, "non-target")
            state = _state_of_non_target(lesion.steps[number])
            non_targets.append(NonTarget(lesion.name, state, site=entry.organ))
    new = [
        NewLesion(
            lesion.name,
            _is_new_for_sure(lesion),
            _diameter(lesion.steps[number], baseline.counted_axis(lesion.first)),
            baseline.counted_axis(lesion.first) is Axis.SHORT,
            site=lesion.first.body_part.title,
        )
        for lesion in course.lesions
        if number and lesion.steps[number].lesions and _is_new(lesion)
    ]
    return TimePoint(course.visits[number].date, tuple(targets), tuple(non_targets), tuple(new))


def _target(lesion: Followed, step: Step, entry: Entry) -> Target:
    mm, state = _diameter(step, entry.axis), _state_of_target(step)
    if state is State.MEASURED and mm is None:
        state = State.NOT_EVALUATED
    return Target(lesion.name, mm if state is State.MEASURED else None, state, entry.axis is Axis.SHORT, entry.organ)


def _check_state(lesion: Followed, number: int, known: set[State], what: str) -> None:
    """Refusal for a state that lesions of this kind have not."""
    state = lesion.steps[number].state
    if state is not None and state not in known:
        raise Refusal(
            f"Lesion {lesion.name} of study {number + 1} is a {what}, and those are never '{state}': give it another "
            "state, or none."
        )


def _state_of_target(step: Step) -> State:
    if not step.confirmed or step.fate is Fate.NOT_COVERED:
        return State.NOT_EVALUATED
    if step.state is not None and step.state is not State.MEASURED:
        return step.state
    if step.fate is Fate.VANISHED:
        return State.ABSENT
    too_small = any(Mark.NOT_MEASURABLE in shown.marks for shown in step.lesions)
    return State.TOO_SMALL if too_small else State.MEASURED


def _state_of_non_target(step: Step) -> State:
    if not step.confirmed or step.fate is Fate.NOT_COVERED:
        return State.NOT_EVALUATED
    if step.state is not None:
        return step.state
    return State.ABSENT if step.fate is Fate.VANISHED else State.PRESENT


def _diameter(step: Step, axis: Axis) -> float | None:
    """The diameter in mm as it is printed, of parts their sum; None if nothing shows it or one is not measured."""
    parts = [baseline.counted_mm(shown, axis) for shown in step.lesions]
    if not parts or None in parts:
        return None
    return round(sum(parts), 1)


def _is_new(lesion: Followed) -> bool:
    return any(step.fate is Fate.NEW for step in lesion.steps)


def _is_new_for_sure(lesion: Followed) -> bool:
    return any(step.fate is Fate.NEW and step.confirmed for step in lesion.steps)


def _notes(course: Course, counted: Sequence[tuple[Followed, Entry]]) -> Iterator[str]:
    candidates = [lesion.name for lesion, entry in counted if entry.category is Category.CANDIDATE]
    if candidates:
        yield f"No reader has chosen targets; the largest stand in: {few(candidates)}."
    known = {id(lesion) for lesion, _ in counted}
    unreviewed = [lesion.name for lesion in course.lesions if lesion.steps[0].lesions and id(lesion) not in known]
    if unreviewed:
        yield (
            f"Not in the response, because no reader accepted them at baseline, or they are normal nodes: "
            f"{few(unreviewed)}."
        )
    for number, visit in enumerate(course.visits[1:], start=1):
        waiting = [lesion.name for lesion, at in course.waiting if at == number and id(lesion) in known]
        if waiting:
            yield f"{visit.date}: not evaluated until a reader confirms which lesion is which: {few(waiting)}."
        apart = [lesion.name for lesion, _ in counted if lesion.steps[number].fate is Fate.NOT_COVERED]
        if apart:
            yield f"{visit.date}: not evaluated, because this CT does not show their place: {few(apart)}."
        changed = [
            f"{lesion.name} {lesion.steps[number].fate}"
            for lesion, _ in counted
            if lesion.steps[number].fate in (Fate.SPLIT, Fate.MERGED)
        ]
        if changed:
            yield f"{visit.date}: {few(changed)}; its parts count together."
    later = [lesion.name for lesion in course.lesions if not lesion.steps[0].lesions and not _is_new(lesion)]
    if later:
        yield f"First seen where no earlier CT shows their place, so they are not called new: {few(later)}."
