"""What a course comes to: the response at every time point, the best one, iRECIST, and the growth of every lesion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from LesionDetectorLib.followup.best import CONFIRM_DAYS, MIN_SD_DAYS, Best, best_overall
from LesionDetectorLib.followup.course import Course, Decision, Followed, NoBaseline, time_points
from LesionDetectorLib.followup.growth import Growth, Measurement, growth
from LesionDetectorLib.followup.irecist import ImmuneResponse, immune_responses
from LesionDetectorLib.followup.matching import Fate
from LesionDetectorLib.followup.response import Assessment, assess

NOTHING_CONFIRMED = "No reader has confirmed anything of the studies after the first, so there is no response."


@dataclass(frozen=True, eq=False, slots=True)
class Outcome:
    """A course, the decisions of a reader that made it, and what it comes to.

    assessments: of the time points, none where there is no response; best and immune likewise, immune only if asked
        for. notes: what was left out and why, or why there is no response. warnings: of the CTs and their alignment.
    """

    course: Course
    decisions: tuple[Decision, ...] = ()
    assessments: tuple[Assessment, ...] = ()
    best: Best | None = None
    immune: tuple[ImmuneResponse, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        course: Course,
        decisions: Sequence[Decision] = (),
        warnings: Sequence[str] = (),
        min_sd_days: int = MIN_SD_DAYS,
        confirm_days: int = CONFIRM_DAYS,
        immune: bool = False,
    ) -> Outcome:
        """The outcome of a course as its reader decided it. Raises Refusal for states that cannot be."""
        given = course, tuple(decisions)
        try:
            points, notes = time_points(course)
        except NoBaseline as reason:
            return cls(*given, notes=(str(reason),), warnings=tuple(warnings))
        if not any(step.confirmed for lesion in course.lesions for step in lesion.steps[1:]):
            return cls(*given, notes=(NOTHING_CONFIRMED,), warnings=tuple(warnings))
        assessments = assess(points)
        return cls(
            *given,
            tuple(assessments),
            best_overall(assessments, min_sd_days, confirm_days),
            tuple(immune_responses(assessments)) if immune else (),
            tuple(notes),
            tuple(warnings),
        )

    def role(self, lesion: Followed) -> str:
        """What a lesion is in the response: "target", "non-target", "new", or "" for none of them."""
        for entry in self.assessments:
            for names, role in (
                (entry.point.targets, "target"),
                (entry.point.non_targets, "non-target"),
                (entry.point.new_lesions, "new"),
            ):
                if any(one.name == lesion.name for one in names):
                    return role
        return ""

    def growth(self, lesion: Followed) -> Growth | None:
        """Its growth from the first to the last visit that measured it as one; None without two such visits, and where
        it is gone."""
        covered = [step for step in lesion.steps if step.fate is not Fate.NOT_COVERED]
        if not covered[-1].lesions:
            return None
        found = []
        for visit, step in zip(self.course.visits, lesion.steps):
            recist = step.lesions[0].recist if len(step.lesions) == 1 else None
            if recist is not None and min(recist.long_mm, recist.short_mm) > 0:
                found.append(Measurement(visit.date, recist.long_mm, recist.short_mm))
        return growth(found) if len(found) > 1 else None
