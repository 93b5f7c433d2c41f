"""lesions.csv: its rows, its numbers, its coordinates."""

from __future__ import annotations

import csv

import pytest
from LesionDetectorLib.formats import BY_NAME, write
from LesionDetectorLib.lesion import BodyPart, Location, Mark, Origin, ReviewStatus
from LesionDetectorLib.report import table, text

from Testing.helpers.readings import AXES, lesion, reading


def rows(path, *lesions, **changes) -> list[dict[str, str]]:
    write(path / "lesions.csv", BY_NAME["csv"], reading(*lesions, **changes), {})
    with (path / "lesions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_row_of_a_measured_lesion(tmp_path):
    marked = lesion(
        BodyPart.SOFT_TISSUE, 0.8765, k=50, slices=(49, 52), recist=AXES, marks=(Mark.LYMPH_NODE, Mark.TARGET)
    )
    (row,) = rows(tmp_path, marked, study='a,"b" ü')
    assert row == {
        "number": "1",
        "body_part": "Soft tissue",
        "confidence": "0.876",
        "long_axis_mm": "18.0",
        "short_axis_mm": "12.0",
        "study": 'a,"b" ü',
        "series": "01",
        "slice": "51",
        "status": "pending",
        "origin": "detector",
        "marks": "lymph node, target",
        "k": "50",
        "first_k": "49",
        "last_k": "52",
        "box_x0": "100.000",
        "box_y0": "100.000",
        "box_x1": "120.000",
        "box_y1": "120.000",
        "long_x0": "100.000",
        "long_y0": "110.000",
        "long_x1": "122.500",
        "long_y1": "110.000",
        "short_x0": "110.000",
        "short_y0": "102.500",
        "short_x1": "110.000",
        "short_y1": "117.500",
        "centre_l_mm": "-112.000",  # -200 + 110 * 0.8
        "centre_p_mm": "-102.500",
        "centre_s_mm": "262.500",
        "id": "SOFT_TISSUE-0.8765-50",
    }


def test_what_is_unknown_is_empty(tmp_path):
    (row,) = rows(tmp_path, lesion(BodyPart.LUNG, None, origin=Origin.READER))
    assert {name for name, value in row.items() if not value} == {
        *("confidence", "long_axis_mm", "short_axis_mm", "long_x0", "long_y0", "long_x1", "long_y1"),
        *("short_x0", "short_y0", "short_x1", "short_y1", "marks"),
    }


def test_the_lesions_are_those_of_the_report(tmp_path):
    lesions = (
        lesion(BodyPart.LUNG, 0.9, k=30),
        lesion(BodyPart.BONE, 0.95, k=10, status=ReviewStatus.REJECTED),
        lesion(BodyPart.LIVER, 0.6, k=20),
        lesion(BodyPart.KIDNEY, 0.2, k=5),
    )
    found = [(row["number"], row["body_part"]) for row in rows(tmp_path, *lesions)]
    assert found == [("1", "Liver"), ("2", "Lung")]
    assert len(text.compose(reading(*lesions)).split("Lesion ")) == 1 + len(found)


@pytest.mark.parametrize(
    ("said", "cell"),
    [
        ("=1+1", "'=1+1"),
        ('=HYPERLINK("http://x","y")', '\'=HYPERLINK("http://x","y")'),
        ("+1+cmd|' /C calc'!A0", "'+1+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(1)", "'@SUM(1)"),
        (" =1", "' =1"),
        ("\t=1", "' =1"),
        ("\r=1", "' =1"),
        ("＝1+1", "'＝1+1"),
        ("1;=1+1", "1;'=1+1"),
        ("7", "7"),
        ("-7", "-7"),
        ("CT-abdomen=1", "CT-abdomen=1"),
    ],
)
def test_text_from_outside_is_no_formula(tmp_path, said, cell):
    (row,) = rows(tmp_path, lesion(BodyPart.LUNG, 0.9, recist=AXES, id=said), study=said, series=said)
    assert (row["study"], row["series"], row["id"]) == (cell, cell, cell)
    assert (row["centre_l_mm"], row["confidence"], row["slice"]) == ("-112.000", "0.900", "51"), "numbers stay numbers"


def test_no_lesions_leave_the_header_whose_order_is_a_promise(tmp_path):
    assert rows(tmp_path) == []
    assert (tmp_path / "lesions.csv").read_text(encoding="utf-8") == (
        "number,body_part,confidence,long_axis_mm,short_axis_mm,study,series,slice,status,origin,marks,k,first_k,last_k,"
        "box_x0,box_y0,box_x1,box_y1,long_x0,long_y0,long_x1,long_y1,short_x0,short_y0,short_x1,short_y1,"
        "centre_l_mm,centre_p_mm,centre_s_mm,id\n"
    )


@pytest.mark.parametrize("baseline", [False, True])
def test_the_place_in_the_body_stands_at_the_end(tmp_path, baseline):
    lesions = lesion(BodyPart.LIVER, 0.9, location=Location(0.43, 0.28, 0.61)), lesion(BodyPart.LUNG, 0.8)
    header, placed, other = (line.split(",") for line in table.compose(reading(*lesions), baseline).splitlines())
    assert header[-4:] == ["location_x", "location_y", "location_z", "region"]
    assert placed[-4:] == ["0.430", "0.280", "0.610", "abdomen"] and other[-4:] == [""] * 4


@pytest.mark.parametrize("baseline", [False, True])
def test_without_a_location_in_the_report_there_are_no_columns_for_it(baseline):
    faint = lesion(BodyPart.LIVER, 0.1, location=Location(0.43, 0.28, 0.61))
    header = table.compose(reading(lesion(BodyPart.LUNG, 0.8), faint), baseline).splitlines()[0].split(",")
    assert header == [*table.COLUMNS, *(table.BASELINE_COLUMNS if baseline else ())]
