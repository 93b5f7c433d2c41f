"""Published worked examples of RECIST 1.1 and iRECIST: what the rules here say of each, where the data is at hand.

Rows of the qualities `agrees` and `computed` are asserted. What others dispute, and two best responses that contradict
the guideline's text, are listed in docs/followup.md with what is said of them here; the tests hold that list.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from datetime import date
from pathlib import Path

import pytest
from LesionDetectorLib.followup.best import best_response
from LesionDetectorLib.followup.irecist import immune_responses
from LesionDetectorLib.followup.response import (
    Assessment,
    NewLesion,
    NonTarget,
    Response,
    State,
    Target,
    TimePoint,
    assess,
    overall_response,
)

ASSERTED = ("agrees", "computed")
SAID_OTHERWISE = {"PYR-1 3": "SD"}
"""Of the disputed time points, those for which another response than the published one is given here."""
AGAINST_THE_GUIDELINE = {"BG-006": "NE", "BG-011": "SD"}
"""Best responses that are published, and contradicted by the guideline's text, with what is said here."""


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    found = shared_data / "followup" / "recist"
    if not found.is_dir():
        pytest.skip(f"needs the worked examples, and {found} is absent")
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def examples(folder: Path) -> list[tuple[dict[str, str], Assessment]]:
    """Every time point after a baseline, and its assessment; by single lesions where they are published."""
    lesions, cases = defaultdict(list), defaultdict(list)
    for row in rows(folder / "lesions.csv"):
        lesions[row["case"], row["timepoint"]].append(row)
    for row in rows(folder / "timepoints.csv"):
        cases[row["case"]].append(row)
    found = []
    for case in cases.values():
        if case[0]["timepoint"] == "0":
            points = [time_point(row, lesions[row["case"], row["timepoint"]]) for row in case]
            found += list(zip(case, assess(points)))[1:]
    return found


def time_point(row: dict[str, str], lesions: list[dict[str, str]]) -> TimePoint:
    targets = [
        Target(one["lesion"], float(one["diameter_mm"]), node=one["is_node"] == "1")
        for one in lesions
        if one["diameter_mm"]
    ]
    others = {one["lesion"]: NonTarget(one["lesion"], State[one["state"]]) for one in lesions if one["state"]}
    if not lesions and row["target_sum_mm"]:
        targets = [Target("sum", float(row["target_sum_mm"]))]
    return TimePoint(None, tuple(targets), tuple(others.values()), label=row["date"])


def agrees(expected: str, found: Response | None) -> bool:
    if expected.startswith("not "):
        return found != expected.removeprefix("not ")
    return not expected or found == expected


def test_time_points(examples):
    asserted = [(row, entry) for row, entry in examples if row["quality"] in ASSERTED]
    assert len(asserted) >= 80
    for row, entry in asserted:
        said = f"{row['case']} {row['timepoint']}: {entry.target}, {entry.overall}; {row['rule_tested']}"
        assert agrees(row["expected_target"], entry.target) and agrees(row["expected_overall"], entry.overall), said


def test_disputed_time_points_are_listed(examples):
    otherwise = {
        f"{row['case']} {row['timepoint']}": entry.overall.value
        for row, entry in examples
        if row["quality"] == "disputed" and not agrees(row["expected_overall"], entry.overall)
    }
    assert otherwise == SAID_OTHERWISE


def test_time_points_without_a_baseline(folder):
    alone = [
        row
        for row in rows(folder / "timepoints.csv")
        if row["timepoint"] == "1" and row["nontarget"] in ("CR", "NON-CR/NON-PD")
    ]
    assert alone
    for row in alone:
        found = overall_response(Response(row["expected_target"]), Response(row["nontarget"]), row["new_lesion"] == "Y")
        assert found == row["expected_overall"], row


def test_best_responses(folder):
    otherwise = {}
    for row in rows(folder / "best_response.csv"):
        pairs = [word.split(":", 1) for word in row["sequence"].split()]
        sequence = [(int(day), Response(name)) for day, name in pairs]
        found = best_response(sequence, int(row["min_sd_days"]), int(row["confirm_days"])).response
        if (found or "MISSING") != row["expected_bor"]:
            otherwise[row["case"]] = found
    assert otherwise == AGAINST_THE_GUIDELINE


def test_official_tables_1_and_2(folder):
    states = {"any": list(Response), "NON-PD": [Response.CR, Response.NON_CR_NON_PD]}
    states["NON-PD or NE"] = [*states["NON-PD"], Response.NE]
    targets = [Response.CR, Response.PR, Response.SD, Response.PD, Response.NE]
    checked = 0
    for row in rows(folder / "official_tables.csv"):
        if row["table"].startswith("3"):
            continue
        first, second = row["first_or_target"], row["second_or_nontarget"]
        for target in [None] if first == "none" else targets if first == "any" else [Response(first)]:
            for non_target in states.get(second) or [Response(second)]:
                for new in [mark == "Y" for mark in row["new_lesion"].split(" or ")]:
                    assert overall_response(target, non_target, new) == row["result"], row
                    checked += 1
    assert checked > 40


def test_irecist_sequences(folder):
    for row in rows(folder / "irecist_sequences.csv"):
        points = [TimePoint(None, (Target("T1", float(row["baseline_mm"])),))]
        for visit in row["visits"].split("; "):
            day, sizes = visit.split(":")
            size, _, new = sizes.partition(" new ")
            new_lesions = (NewLesion("N1", True, float(new)),) if new else ()
            points.append(TimePoint(date.fromisoformat(day), (Target("T1", float(size)),), new_lesions=new_lesions))
        found = " ".join(entry.response for entry in immune_responses(assess(points)))
        assert found == row["expected"], row
