"""follow.json: the lesions of a patient over time for programs, versioned; its schema is course.schema.json beside this
file. The readings of the studies are in it as lesions.json has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from LesionDetectorLib import __version__
from LesionDetectorLib.exchange.lesions_json import reading_record
from LesionDetectorLib.followup.course import Course, Decision, Followed, Step, Visit
from LesionDetectorLib.followup.outcome import Outcome
from LesionDetectorLib.followup.response import Assessment
from LesionDetectorLib.followup.wording import sentences

FORMAT = "lesion-detector/course"
VERSION = 1
SCHEMA = Path(__file__).with_name("course.schema.json")


def dumps(outcome: Outcome) -> str:
    """The outcome as JSON text, field by field as the schema says."""
    return json.dumps(record(outcome), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def record(outcome: Outcome) -> dict[str, Any]:
    """The outcome as the object that its JSON text holds."""
    course = outcome.course
    last = len(course.visits) - 1
    return {
        "format": FORMAT,
        "version": VERSION,
        "software_version": __version__,
        "studies": [_visit(visit, is_last=number == last) for number, visit in enumerate(course.visits)],
        "lesions": [_lesion(outcome, lesion, course) for lesion in course.lesions],
        "decisions": [_decision(decision) for decision in outcome.decisions],
        "response": _response(outcome) if outcome.assessments else None,
        "notes": list(outcome.notes),
        "warnings": list(outcome.warnings),
    }


def _visit(visit: Visit, is_last: bool) -> dict[str, Any]:
    alignment = visit.study.alignment
    return {
        "date": visit.date.isoformat(),
        "dated_by": visit.dated_by,
        "alignment": None
        if is_last
        else {
            "matrix": [[float(value) for value in row] for row in alignment.matrix],
            "residual_mm": float(alignment.residual_mm),
            "overlap_mm": float(alignment.overlap_mm),
            "similarity": float(alignment.similarity),
            "warnings": list(alignment.warnings),
        },
        "reading": reading_record(visit.study.reading),
    }


def _lesion(outcome: Outcome, lesion: Followed, course: Course) -> dict[str, Any]:
    grown = outcome.growth(lesion)
    return {
        "number": lesion.number,
        "name": lesion.name,
        "role": outcome.role(lesion) or None,
        "steps": [_step(number, step) for number, step in enumerate(lesion.steps, start=1)],
        "growth": None
        if grown is None
        else {
            "days": grown.days,
            "percent": float(grown.percent),
            "mm_per_30_days": float(grown.mm_per_month),
            "doubling_days": None if grown.doubling_days is None else float(grown.doubling_days),
            "verdict": grown.verdict.value,
            "sentence": grown.sentence,
        },
    }


def _step(number: int, step: Step) -> dict[str, Any]:
    match = step.match
    return {
        "study": number,
        "what": step.fate.value,
        "lesions": [shown.id for shown in step.lesions],
        "apart_mm": None if match is None else float(match.apart_mm),
        "sureness": None if match is None else float(match.sureness),
        "confirmed": step.confirmed,
        "state": None if step.state is None else step.state.value,
    }


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "study": decision.visit + 1,
        "lesion": decision.lesion,
        "id": decision.id,
        "confirmed": decision.confirmed,
        "state": None if decision.state is None else decision.state.value,
    }


def _response(outcome: Outcome) -> dict[str, Any]:
    best = outcome.best
    return {
        "criteria": "RECIST 1.1",
        "time_points": [_time_point(entry) for entry in outcome.assessments],
        "best": {"response": None if best.response is None else best.response.value, "reason": best.reason},
        "immune": [{"response": one.response.value, "rule": one.rule} for one in outcome.immune],
    }


def _time_point(entry: Assessment) -> dict[str, Any]:
    point = entry.point
    counting = {lesion.name for lesion in entry.new_lesions}
    return {
        "date": point.date.isoformat(),
        "targets": [
            {
                "name": target.name,
                "state": target.state.value,
                "axis": "short" if target.node else "long",
                "counted_mm": _mm(target.tenths),
            }
            for target in point.targets
        ],
        "non_targets": [{"name": lesion.name, "state": lesion.state.value} for lesion in point.non_targets],
        "new_lesions": [{"name": lesion.name, "counts": lesion.name in counting} for lesion in point.new_lesions],
        "sum_mm": _mm(entry.total),
        "baseline_mm": _mm(entry.baseline),
        "nadir_mm": _mm(entry.nadir),
        "target_response": None if entry.target is None else entry.target.value,
        "non_target_response": None if entry.non_target is None else entry.non_target.value,
        "overall_response": None if entry.overall is None else entry.overall.value,
        "sentences": sentences(entry),
    }


def _mm(tenths: int | None) -> float | None:
    return None if tenths is None else tenths / 10
