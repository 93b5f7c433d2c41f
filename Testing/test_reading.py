"""What a reading takes from a volume, its order of lesions, and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.ct.geometry import DicomSeries, Geometry
from LesionDetectorLib.exchange import lesions_json
from LesionDetectorLib.lesion import BodyPart, Origin, ReviewStatus
from LesionDetectorLib.reading import Model, Reading, ordered, reported
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.report import page, table, text

from Testing.helpers.readings import GEOMETRY, lesion, reading

TURN = np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]])


def volume(**changes) -> Volume:
    """A CT of 4 slices of 3 rows and 2 columns."""
    facts = {
        "hu": np.zeros((4, 3, 2), np.int16),
        "spacing": (np.float32(0.5), 0.75, 2),
        "origin": np.array([1.0, 2, 3]),
        "direction": TURN,
        "source": Path("/home/jane.doe/ct/scan.nrrd"),
        "study": "S1",
        "series": "2",
        "series_uid": "1.2",
        "first_slice": 1,
        "slice_thickness": 2.5,
        "warnings": ("Slice 3 is missing.",),
    }
    return Volume(**facts | changes)


def test_a_body_part_is_known_by_its_title_however_it_is_written():
    for title in ("Soft tissue", "soft_tissue", " SOFT_TISSUE "):
        assert BodyPart.from_title(title) is BodyPart.SOFT_TISSUE
    with pytest.raises(ValueError, match="'soft-tissue' is not a body part; use one of: Bone, "):
        BodyPart.from_title("soft-tissue")


def test_reading_of_a_volume():
    found = [lesion(BodyPart.LUNG, 0.7, k=2), lesion(BodyPart.LIVER, 0.9, k=1)]
    made = Reading.of(volume(), found, confidence=0.6)
    assert made.source == "scan.nrrd"  # the path, which may name a patient, stays here
    assert made.geometry == Geometry((2, 3, 4), (0.5, 0.75, 2.0), (1.0, 2.0, 3.0), ((0, 0, 1), (1, 0, 0), (0, -1, 0)))
    assert (made.study, made.series, made.series_uid, made.warnings) == ("S1", "2", "1.2", ("Slice 3 is missing.",))
    assert (made.dicom, made.slice_thickness) == (None, 2.5)
    assert made.lesions == (found[1], found[0])
    assert made.slice_number(2) == 3
    assert {type(value) for value in (*made.geometry.spacing, *made.geometry.origin)} == {float}


def test_dicom_identifiers_are_kept():
    uids = DicomSeries("1", "2", "3", ("4", None))
    assert Reading.of(volume(dicom=uids), []).dicom == uids


def test_file_name_of_any_bytes_can_be_written():
    assert Reading.of(volume(source=Path("scan\udcff.nrrd")), []).source == "scan?.nrrd"


def test_warnings_do_not_tell_the_path():
    warnings = ("1 damaged file was left out, such as /home/jane.doe/ct/IM1.", "/home/jane.doe/ct has one slice.")
    assert Reading.of(volume(source=Path("/home/jane.doe/ct"), warnings=warnings), []).warnings == (
        "1 damaged file was left out.",
        "The CT has one slice.",
    )
    here = Reading.of(volume(source=Path()), [])
    assert here.source == Path.cwd().name
    assert here.warnings == ("Slice 3 is missing.",)


@pytest.mark.parametrize(
    ("source", "said", "kept"),
    [
        ("/x/DOE_JANE", "DOE_JANE has one slice only.", "The CT has one slice only."),
        ("DOE_JANE", "3 slices of DOE_JANE are missing.", "3 slices of the CT are missing."),
        (
            "/x/DOE_JANE.nrrd",
            "No value of DOE_JANE.nrrd lies below 0 HU (2 to 9).",
            "No value of the CT lies below 0 HU (2 to 9).",
        ),
        (
            "/x/DOE (2).nrrd",
            "Slice 3 of /x/DOE (2).nrrd: DOE (2).nrrd is short.",
            "Slice 3 of the CT: the CT is short.",
        ),
        ("/x/DOE_JANE", "The file /x/DOE_JANE/a/DOE1.dcm lies apart.", "The file the CT lies apart."),
        ("/x/DOE_JANE", "2 files are damaged, such as DOE_JANE 1.dcm.", "2 files are damaged."),
        ("/x/3", "3 slices of 3 are missing.", "3 slices of the CT are missing."),
        ("/x/3", "3 has one slice only.", "The CT has one slice only."),
        (
            "/x/CT",
            "There are other axial CT series; CT has one slice.",
            "There are other axial CT series; CT has one slice.",
        ),
    ],
)
def test_warnings_do_not_tell_a_name(source, said, kept):
    assert Reading.of(volume(source=Path(source), warnings=(said,)), []).warnings == (kept,)


HOSTILE = "a\x1b[31mb\r\nc\u202ed\u2028e\x9bf\x07g\u2066h\udcffi\tj\x00k\x85l"
HARMLESS = "a?[31mb c?d e?f?g?h?i j?k l"


def test_no_text_from_outside_breaks_a_line_or_commands_a_terminal():
    uids = DicomSeries(HOSTILE, HOSTILE, HOSTILE, (HOSTILE, "4"))
    facts = volume(
        source=Path(HOSTILE.replace("\x00", "")),
        study=HOSTILE,
        series=HOSTILE,
        series_uid=HOSTILE,
        warnings=(HOSTILE,),
        dicom=uids,
    )
    made = Reading.of(facts, [lesion(BodyPart.LUNG, 0.9, k=1, id=HOSTILE)], [Model(HOSTILE, HOSTILE)])
    made = replace(made, software_version=HOSTILE)
    assert (made.study, made.series, made.series_uid, made.software_version) == (HARMLESS,) * 4
    assert made.lesions[0].id == made.models[0].name == HARMLESS
    assert made.dicom == DicomSeries(HARMLESS, HARMLESS, HARMLESS, (None, "4"))
    assert lesions_json.loads(lesions_json.dumps(made)) == made
    written = json.loads(lesions_json.dumps(made))
    written["ct"].update(study=HOSTILE, series=HOSTILE, warnings=[HOSTILE])
    read = lesions_json.loads(json.dumps(written))
    for report in (text.compose(read), table.compose(read), page.compose(read), lesions_json.dumps(read)):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", report)
        assert HARMLESS in report


def test_text_that_is_harmless_stays():
    said = "肝 Größe ☃ می‌خواهم שלום 'a' \"b\" <c> – …"
    assert reading(study=said).study == said


@pytest.mark.parametrize("size", [(512, 512, 10**9), (10**6, 512, 80), (512, 100_001, 80)])
def test_a_size_that_no_ct_has_is_refused(size):
    with pytest.raises(Refusal, match="voxels is none: at most 100000 a side"):
        replace(GEOMETRY, size=size)
    record = json.loads(lesions_json.dumps(reading()))
    record["ct"]["size"] = size
    with pytest.raises(lesions_json.ExchangeError, match="voxels is none: at most 100000 a side"):
        lesions_json.loads(json.dumps(record))


def test_more_lesions_than_any_ct_has_are_refused():
    made = reading(*(lesion(BodyPart.LUNG, 0.9, id=str(number)) for number in range(10_000)))
    with pytest.raises(Refusal, match="10001 lesions are more than any CT has: at most 10000 are read"):
        replace(made, lesions=(*made.lesions, lesion(BodyPart.LUNG, 0.9)))


def test_lps():
    geometry = Geometry((2, 3, 4), (0.5, 0.75, 2.0), (1.0, 2.0, 3.0), tuple(map(tuple, TURN)))
    np.testing.assert_allclose(
        geometry.to_lps([(0, 0, 0), (2, 0, 0), (0, 4, 0), (0, 0, 3)]), [[1, 2, 3], [1, 3, 3], [1, 2, 0], [7, 2, 3]]
    )
    np.testing.assert_allclose(geometry.to_lps((2, 0, 0)), [1, 3, 3])


def test_one_order_whatever_order_they_came_in():
    lesions = [
        lesion(BodyPart.LUNG, 0.9, k=1),
        lesion(BodyPart.LUNG, 0.9, k=3, box=(1.0, 0, 2, 2)),
        lesion(BodyPart.LIVER, 0.9, k=3, box=(2.0, 0, 3, 2)),
        lesion(BodyPart.LUNG, 0.1, k=3),
        lesion(BodyPart.LUNG, None, k=3, origin=Origin.READER),
    ]
    assert ordered(lesions[::-1]) == ordered(lesions) == lesions
    assert reported(lesions[::-1]) == [*lesions[:3], lesions[4]]


def test_moved_threshold_shows_more():
    made = reading(lesion(BodyPart.LUNG, 0.4))
    assert made.reported == []
    assert len(replace(made, confidence=0.4).reported) == 1


def test_what_cannot_be_is_refused():
    twin = lesion(BodyPart.LUNG, 0.9)
    with pytest.raises(ValueError, match="same id"):
        reading(twin, twin)
    with pytest.raises(ValueError, match=r"spans slices \(80, 80\), but the CT has slices 0..79"):
        reading(lesion(BodyPart.LUNG, 0.9, k=80))
    with pytest.raises(ValueError, match=r"0..1, not 50"):
        reading(confidence=50)
    with pytest.raises(ValueError, match="spacing above 0"):
        replace(GEOMETRY, spacing=(0.0, 1.0, 1.0))


def test_what_a_reader_accepted_can_be_had_alone():
    kept = lesion(BodyPart.LUNG, 0.2, status=ReviewStatus.ACCEPTED)
    made = reading(lesion(BodyPart.LIVER, 0.9), kept, lesion(BodyPart.BONE, 0.9, status=ReviewStatus.REJECTED))
    assert made.accepted_only() == replace(made, lesions=(kept,))


@pytest.mark.parametrize("thickness", [0.0, -1.0, float("nan"), float("inf")])
def test_a_slice_thickness_that_none_can_have_is_refused(thickness):
    with pytest.raises(ValueError, match="slice thickness must be above 0 mm"):
        reading(slice_thickness=thickness)
