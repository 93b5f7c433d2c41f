"""pairs.csv: what a reader fills in is read as it is meant, and every fault in it gets its sentence."""

from __future__ import annotations

import csv
import io
from datetime import date

import pytest
from LesionDetectorLib.exchange import pairs_csv
from LesionDetectorLib.followup.course import Course, Decision, Visit, decided, propose
from LesionDetectorLib.followup.response import State
from LesionDetectorLib.lesion import Mark, ReviewStatus
from LesionDetectorLib.refusal import Refusal

from Testing.helpers.followed import at, study

FORMULA = "=cmd|' /C calc'!A0"
TARGET = {"status": ReviewStatus.ACCEPTED, "marks": (Mark.TARGET,)}


@pytest.fixture
def course() -> Course:
    """Two targets, of which one is gone, and a lesion whose id a spreadsheet would calculate."""
    before = study(at("a", 50, 0, 100, 40, **TARGET), at("b", -60, 20, 200, 20, **TARGET))
    after = study(at("A", 52, 0, 100, 20), at(FORMULA, 0, -80, 40, 15))
    return propose([Visit(date(2025, 3, 1), before), Visit(date(2025, 6, 1), after)])


def read(text: str, course: Course, tmp_path) -> list[Decision]:
    file = tmp_path / "pairs.csv"
    file.write_text(text, encoding="utf-8")
    return pairs_csv.read(file, course)


def test_what_is_written_is_read_again(course, tmp_path):
    decisions = [
        Decision(1, 1, "A", True, State.TOO_SMALL),
        Decision(1, 2, "", False),
        Decision(1, 3, FORMULA, False),
    ]
    text = pairs_csv.compose(decided(course, decisions), decisions)
    again = read(text, course, tmp_path)
    assert again == [
        Decision(0, 1, "a", True),
        decisions[0],
        Decision(0, 2, "b", True),
        *decisions[1:],
    ]
    assert pairs_csv.compose(decided(course, again), again) == text


def test_no_cell_begins_like_a_formula(course):
    rows = list(csv.reader(io.StringIO(pairs_csv.compose(course))))
    assert [cell for row in rows for cell in row if cell[:1] in ("=", "+", "-", "@")] == []
    assert any(FORMULA in cell for row in rows for cell in row)


def test_a_spreadsheet_that_shows_numbers_its_own_way_is_read(course, tmp_path):
    text = "lesion;study;id;confirmed;state\n1,0;2;A;YES;Not evaluated\n2;2;;n;\n"
    assert read(text, course, tmp_path) == [
        Decision(1, 1, "A", True, State.NOT_EVALUATED),
        Decision(1, 2, "", False),
    ]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("1,2,A,perhaps,", "line 2, column confirmed: write yes or no, or leave it blank, not 'perhaps'"),
        ("1,2,A,yes,gone", "line 2, column state: write one of absent, too small to measure"),
        ("1,1,a,yes,absent", "line 2, column state: study 1 is the baseline"),
        ("1,3,A,yes,", "line 2, column study: there are 2 studies, and no study 3"),
        ("1,2,A,yes,\n1,2,zzz,yes,", "line 3, column id: study 2 has no lesion zzz"),
        ("0,2,A,yes,", "line 2, column lesion: a whole number from 1 on is expected, not '0'"),
        ("1.5,2,A,yes,", "line 2, column lesion: a whole number from 1 on is expected, not '1.5'"),
        (",2,A,yes,", "line 2, column lesion: a number is expected, not ''"),
        ("1,2,A,yes,\n2,2,A,no,", "line 3: lesion 2 of study 2 stands there twice"),
        ("1,2,A,yes,,x", "line 2: it has more cells than the header"),
    ],
)
def test_a_fault_is_named_with_its_line(course, tmp_path, rows, sentence):
    with pytest.raises(Refusal) as caught:
        read(f"lesion,study,id,confirmed,state\n{rows}\n", course, tmp_path)
    assert f"pairs.csv, {sentence}" in str(caught.value)


def test_a_file_that_is_none_is_refused(course, tmp_path):
    with pytest.raises(Refusal, match=r"lacks the column confirmed: fill in the pairs\.csv that the program wrote"):
        read("lesion,study,id\n1,2,A\n", course, tmp_path)
