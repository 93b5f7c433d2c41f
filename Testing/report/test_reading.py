"""What a reading takes from a volume, its order of lesions, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from LesionDetectorLib.lesion import BodyPart, Origin, ReviewStatus
from LesionDetectorLib.report import DicomSeries, Geometry, Reading, ordered, reported
from readings import GEOMETRY, lesion, reading

TURN = np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]])


def volume(**changes) -> SimpleNamespace:
    """What a reading needs of a CT of 4 slices of 3 rows and 2 columns, without reading one."""
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
        "dicom": {},
        "warnings": ("Slice 3 is missing.",),
    }
    return SimpleNamespace(**facts | changes)


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


def test_dicom_identifiers_and_no_others_are_kept():
    uids = {"study_uid": "1", "series_uid": "2", "frame_of_reference_uid": "3", "sop_instance_uids": ["4", None]}
    assert Reading.of(volume(dicom=uids | {"patient_name": "Doe"}), []).dicom == DicomSeries("1", "2", "3", ("4", None))


def test_file_name_of_any_bytes_can_be_written():
    assert Reading.of(volume(source=Path("scan\udcff.nrrd")), []).source == "scan?.nrrd"


def test_warnings_do_not_tell_the_path():
    warnings = ("1 damaged file, such as /home/jane.doe/ct/IM1.", "/home/jane.doe/ct has one slice.")
    assert Reading.of(volume(source=Path("/home/jane.doe/ct"), warnings=warnings), []).warnings == (
        "1 damaged file, such as ct/IM1.",
        "ct has one slice.",
    )
    here = Reading.of(volume(source=Path()), [])
    assert here.source == Path.cwd().name
    assert here.warnings == ("Slice 3 is missing.",)


def test_lps():
    geometry = Geometry((2, 3, 4), (0.5, 0.75, 2.0), (1.0, 2.0, 3.0), tuple(map(tuple, TURN)))
    np.testing.assert_allclose(geometry.to_lps([(0, 0, 0), (2, 0, 0), (0, 4, 0), (0, 0, 3)]), [[1, 2, 3], [1, 3, 3], [1, 2, 0], [7, 2, 3]])
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
