"""DICOM SR: every value in its place, on CTs of every kind, the same UIDs again, and a sentence for all that cannot
be written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from LesionDetectorLib import ct
from LesionDetectorLib.ct.geometry import DicomSeries, Geometry
from LesionDetectorLib.exchange import dicom_codes, dicom_in
from LesionDetectorLib.exchange.dicom_source import DicomReportError, source_slices, with_series
from LesionDetectorLib.lesion import BodyPart, Lesion, Origin
from LesionDetectorLib.reading import Reading
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from Testing.helpers import dicom_readings
from Testing.helpers.dicom_readings import KINDS, MODELS, read_ct, several
from Testing.helpers.dicom_study import axial, body, write

PATIENT = {
    "PatientName": "Yamada^Tarou=山田^太郎",
    "PatientID": "4711",
    "PatientBirthDate": "19700102",
    "PatientSex": "M",
    "StudyDate": "20240203",
    "StudyTime": "101112",
    "AccessionNumber": "",
    "SpecificCharacterSet": "ISO_IR 192",
}


@pytest.fixture(scope="module")
def upright(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("upright") / "ct"
    dicom_readings.upright(folder, **PATIENT)
    return folder


def written(path: Path, reading: Reading, folder: Path, everything: bool = False) -> list[str]:
    return dicom_readings.write_sr(path, reading, source_slices(folder, reading), everything)


def items(group, name: Code) -> list[pydicom.Dataset]:
    """The content items of a highdicom group that have a name."""
    return [item for item in group[0].ContentSequence if item.name == name]


def in_patient(scoord: pydicom.Dataset, folder: Path) -> np.ndarray:
    """LPS mm (n, 3) of spatial coordinates, by the header of the image that they refer to and by nothing of ours
    (PS3.3 C.7.6.2.1.1)."""
    reference = scoord.ContentSequence[0].ReferencedSOPSequence[0]
    headers = (pydicom.dcmread(file, stop_before_pixels=True) for file in sorted(folder.rglob("*.dcm")))
    header = next(header for header in headers if header.SOPInstanceUID == reference.ReferencedSOPInstanceUID)
    position = orientation = spacing = header
    if "PerFrameFunctionalGroupsSequence" in header:
        frame = header.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1]
        position = frame.PlanePositionSequence[0]
        shared = header.SharedFunctionalGroupsSequence[0]
        orientation, spacing = shared.PlaneOrientationSequence[0], shared.PixelMeasuresSequence[0]
    axes = np.array(orientation.ImageOrientationPatient, float).reshape(2, 3)
    columns_rows = np.reshape(scoord.GraphicData, (-1, 2)) - 0.5
    return (
        np.array(position.ImagePositionPatient, float)
        + (columns_rows * np.array(spacing.PixelSpacing, float)[::-1]) @ axes
    )


@pytest.fixture(scope="module")
def made(upright, tmp_path_factory):
    """A reading, the images of its slices, and what highdicom reads of its report: the document, groups of axes,
    groups of boxes."""
    volume, reading = read_ct(upright)
    path = tmp_path_factory.mktemp("sr") / "lesions.dcm"
    assert written(path, reading, upright) == []
    report = hd.sr.srread(path)
    axes, boxes = report.content.get_image_measurement_groups(), report.content.get_planar_roi_measurement_groups()
    assert len(axes) == len(boxes) == len(reading.reported) == 3
    return reading, volume.dicom.sop_instance_uids, report, axes, boxes


def test_document_belongs_to_the_study_and_is_not_final(made):
    _, _, report, _, _ = made
    assert isinstance(report, hd.sr.ComprehensiveSR)
    assert (str(report.PatientName), report.PatientID, report.PatientSex) == (PATIENT["PatientName"], "4711", "M")
    assert (report.StudyInstanceUID, report.StudyDate) == ("1.2.3", "20240203")
    assert (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag) == (
        "COMPLETE",
        "PRELIMINARY",
        "UNVERIFIED",
    )


def test_both_groups_of_a_lesion_name_it(made):
    reading, _, _, axes, boxes = made
    for number, (lesion, measured, box) in enumerate(zip(reading.reported, axes, boxes), start=1):
        label = str(box.tracking_identifier)
        assert label.startswith(f"Lesion {number}: {lesion.body_part.title}")
        assert [item.value for item in items(measured, codes.DCM.Comment)] == [label]
        assert measured.tracking_identifier == "Cornerstone3DTools@^0.1.0:Bidirectional"
        assert measured.tracking_uid == box.tracking_uid == dicom_codes.tracking_uid(lesion.id)
        for group in (measured, box):
            assert group.finding_type == Code("52988006", "SCT", "Lesion")
            assert [site.value.meaning for site in group.finding_sites] == [lesion.body_part.title]


def test_axes_have_their_lines_on_the_key_slice(made):
    reading, images, _, axes, _ = made
    for lesion, measured in zip(reading.reported, axes):
        found, recist = measured.get_measurements(), lesion.recist
        assert [axis.name.meaning for axis in found] == ["Long Axis", "Short Axis"]  # OHIF compares the words
        assert [(axis.value, axis.unit.value) for axis in found] == [(recist.long_mm, "mm"), (recist.short_mm, "mm")]
        for axis, ends in zip(found, (recist.long_axis, recist.short_axis)):
            (line,) = axis.referenced_coordinates
            # (0.5, 0.5) is the centre of the first pixel
            assert line.value - 0.5 == pytest.approx(np.array(ends), abs=1e-4)
            assert line.ContentSequence[0].referenced_sop_instance_uid == images[lesion.key_slice]
    measured_by_us = [
        [bool(items([axis[0]], codes.DCM.AlgorithmName)) for axis in group.get_measurements()] for group in axes
    ]
    assert measured_by_us == [[True, True], [True, False], [False, False]]  # the others were drawn


def test_boxes_have_confidence_status_algorithm_and_extent(made):
    reading, images, _, _, boxes = made
    for lesion, box in zip(reading.reported, boxes):
        x0, y0, x1, y1 = lesion.box
        assert box.roi.value - 0.5 == pytest.approx(
            np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]), abs=1e-4
        )
        certainty = [(item.name.meaning, item.value, item.unit.value) for item in box.get_measurements()]
        percent = None if lesion.confidence is None else pytest.approx(100 * lesion.confidence)
        assert certainty == ([] if percent is None else [("Certainty of Finding", percent, "%")])
        evaluations = {(item.name.meaning, item.value.meaning) for item in box.get_qualitative_evaluations()}
        assert ("Review status", lesion.status.value.capitalize()) in evaluations
        assert ("Geometric purpose of region", "Bounded by") in evaluations
        planes = [item for value in ("128121", "128120") for item in items(box, Code(value, "DCM", ""))]
        assert [item.referenced_sop_instance_uid for item in planes] == [images[k] for k in lesion.slices]
        by_detector = lesion.origin is Origin.DETECTOR
        assert [item.value for item in items(box, codes.DCM.AlgorithmName)] == ["LesionDetector"] * by_detector
        parameters = " ".join(item.value for item in items(box, codes.DCM.AlgorithmParameters))
        assert all(
            (model.name in parameters, model.sha256 in parameters) == (by_detector, by_detector) for model in MODELS
        )
    marks = {
        item.value.meaning for item in boxes[0].get_qualitative_evaluations() if item.name.meaning == "Mark of a reader"
    }
    assert marks == {"Target Lesion at Baseline", "Lymph Node"}


def test_evidence_and_image_library_are_the_images_that_are_used(made):
    reading, images, report, _, _ = made
    key_images = {images[lesion.key_slice] for lesion in reading.reported}
    ends = {images[k] for lesion in reading.reported for k in lesion.slices}
    assert {instance for *_, instance, _ in report.get_evidence()} == key_images | ends
    library = next(item for item in report.content[0].ContentSequence if item.name == codes.DCM.ImageLibrary)
    assert {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in library.ContentSequence[0].ContentSequence
    } == key_images


@pytest.mark.parametrize("kind", KINDS)
def test_lines_and_boxes_lie_at_the_same_places_of_the_patient(kind, tmp_path):
    KINDS[kind](tmp_path / "ct")
    volume, reading = read_ct(tmp_path / "ct")
    written(tmp_path / "lesions.dcm", reading, tmp_path / "ct")
    report = hd.sr.srread(tmp_path / "lesions.dcm")
    axes, boxes = report.content.get_image_measurement_groups(), report.content.get_planar_roi_measurement_groups()
    for lesion, measured, box in zip(reading.reported, axes, boxes, strict=True):
        k = lesion.key_slice
        for axis, ends in zip(measured.get_measurements(), (lesion.recist.long_axis, lesion.recist.short_axis)):
            expected = volume.geometry.to_lps([(*end, k) for end in ends])
            line = in_patient(axis.referenced_coordinates[0], tmp_path / "ct")
            assert line == pytest.approx(expected, abs=1e-3)
            assert np.linalg.norm(line[1] - line[0]) == pytest.approx(axis.value, abs=0.01)
        x0, y0, x1, y1 = lesion.box
        corners = volume.geometry.to_lps([(x0, y0, k), (x1, y0, k), (x1, y1, k), (x0, y1, k)])
        distances = np.linalg.norm(corners[:, None] - in_patient(box.roi, tmp_path / "ct"), axis=-1)
        assert distances.min(axis=0).max() < 1e-3
        assert distances.min(axis=1).max() < 1e-3


def test_3d_slicers_own_loader_knows_the_boxes(upright, tmp_path):
    """What Slicer 5.12's DICOMTID1500Plugin asks of a report with highdicom before it draws boxes, and what it takes
    from it."""
    _, reading = read_ct(upright)
    written(tmp_path / "lesions.dcm", reading, upright, everything=True)
    report = hd.sr.srread(tmp_path / "lesions.dcm")
    assert report.Modality == "SR"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert report.SeriesDescription
    assert (
        report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3.4"
    )
    groups = report.content.get_planar_roi_measurement_groups()
    polylines = report.content.get_planar_roi_measurement_groups(
        reference_type=codes.DCM.ImageRegion, graphic_type=hd.sr.GraphicTypeValues.POLYLINE
    )
    # all that it takes for a box is one: a line would be an IndexError
    assert len(groups) == len(polylines) == len(reading.lesions)
    for group in groups:
        purposes = group.get_qualitative_evaluations(name=Code("130400", "DCM", "Geometric purpose of region"))
        assert [purpose.value for purpose in purposes] == [Code("75958009", "SCT", "Bounded by")]
        assert len(group.finding_sites) == 1
        assert group.finding_type.meaning == "Lesion"
        assert group.roi.value.shape == (5, 2)
        assert group.roi.ContentSequence[0].referenced_sop_instance_uid


def test_the_same_reading_gets_the_same_uids(upright, tmp_path):
    _, reading = read_ct(upright)
    documents = []
    for name in ("first.dcm", "again.dcm"):
        written(tmp_path / name, reading, upright)
        documents.append(pydicom.dcmread(tmp_path / name))
    first, again = documents
    assert first.SOPInstanceUID == again.SOPInstanceUID == first.file_meta.MediaStorageSOPInstanceUID
    lesion = reading.reported[0]
    edited = replace(
        reading,
        lesions=tuple(one if one is not lesion else one.edited(body_part=BodyPart.PELVIS) for one in reading.lesions),
    )
    written(tmp_path / "edited.dcm", edited, upright)
    other = pydicom.dcmread(tmp_path / "edited.dcm")
    assert other.SOPInstanceUID != first.SOPInstanceUID
    assert other.SeriesInstanceUID == first.SeriesInstanceUID
    tracked = [
        {group.tracking_uid for group in hd.sr.srread(tmp_path / name).content.get_planar_roi_measurement_groups()}
        for name in ("first.dcm", "edited.dcm")
    ]
    assert tracked[0] == tracked[1]


def test_uids_are_valid_and_go_back_to_ids():
    for lesion_id in ("6b1d4c0e-8f3f-4c39-9d3c-1d7a4a5b0c11", "1.2.840.113", "2.25.7", "any text at all", "é" * 100):
        uid = dicom_codes.tracking_uid(lesion_id)
        assert pydicom.uid.UID(uid).is_valid
        assert dicom_codes.tracking_uid(dicom_codes.lesion_id(uid)) == uid
    assert (
        dicom_codes.lesion_id(dicom_codes.tracking_uid("6b1d4c0e-8f3f-4c39-9d3c-1d7a4a5b0c11"))
        == "6b1d4c0e-8f3f-4c39-9d3c-1d7a4a5b0c11"
    )
    assert dicom_codes.tracking_uid("1.2.840.113") == "1.2.840.113"


def test_what_the_report_leaves_out_is_written_only_when_asked_for(upright, tmp_path):
    _, reading = read_ct(upright)
    written(tmp_path / "all.dcm", reading, upright, everything=True)
    report = hd.sr.srread(tmp_path / "all.dcm")
    names = [group.tracking_identifier for group in report.content.get_planar_roi_measurement_groups()]
    assert len(names) == 5
    assert [name for name in names if not name.startswith("Lesion")] == [
        "Kidney (31%), not reported",
        "Bone (93%), not reported",
    ]
    kinds = [group.tracking_identifier for group in report.content.get_image_measurement_groups()]
    assert kinds.count(dicom_codes.BIDIRECTIONAL) == 3  # a rejected lesion must not become a measurement in OHIF
    assert kinds.count("Bone (93%), not reported") == 1


def test_lesions_of_interpolated_slices_are_left_out_with_a_sentence(tmp_path):
    positions = axial(9, 2.5)
    del positions[4]
    write(tmp_path / "ct", body(8, shape=(48, 64)), positions)
    volume = ct.read(tmp_path / "ct")
    assert volume.dicom.sop_instance_uids.count(None) == 1
    reading = several(Reading.of(volume, [], confidence=0))
    liver = next(lesion for lesion in reading.lesions if lesion.body_part is BodyPart.LIVER)
    on_gap, beside = liver.edited(key_slice=4, slices=(3, 4)), liver.edited(slices=(2, 4), id="beside")
    sentences = written(tmp_path / "lesions.dcm", replace(reading, lesions=(on_gap, beside)), tmp_path / "ct")
    why = "slice 5, on which it lies, was interpolated and is in no image of the CT"
    assert sentences[0] == f"Lesion 2: Liver (87%) is left out: {why}."
    (group,) = hd.sr.srread(tmp_path / "lesions.dcm").content.get_planar_roi_measurement_groups()
    assert group.tracking_uid == dicom_codes.tracking_uid("beside")
    with pytest.raises(DicomReportError, match=r"was interpolated and is in no image of the CT\. Write JSON or text"):
        written(tmp_path / "none.dcm", replace(reading, lesions=(on_gap,)), tmp_path / "ct")
    assert not (tmp_path / "none.dcm").exists()


def test_points_beyond_the_border_are_moved_onto_it(upright, tmp_path):
    _, reading = read_ct(upright)
    lesion = Lesion(BodyPart.LUNG, 0.9, 3, (3, 3), (-7.0, -3.0, 20.0, 30.0))
    beyond = Lesion(BodyPart.BONE, 0.9, 3, (3, 3), (70.0, 3.0, 80.0, 30.0))
    sentences = written(tmp_path / "lesions.dcm", replace(reading, lesions=(lesion, beyond)), upright)
    assert sentences == ["Lesion 2: Bone (90%) is left out: its box lies outside of the image."]
    (group,) = hd.sr.srread(tmp_path / "lesions.dcm").content.get_planar_roi_measurement_groups()
    assert group.roi.value.min(axis=0).tolist() == [0, 0]
    assert group.roi.value.max(axis=0).tolist() == [20.5, 30.5]


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_anonymised_headers_are_filled_in_and_told(tmp_path):
    gone = dict.fromkeys(("StudyID", "FrameOfReferenceUID", "SliceThickness"))
    dicom_readings.upright(
        tmp_path / "ct", **{**PATIENT, "PatientBirthDate": "ANON", "PatientSex": None, "StudyTime": "10:11"}, **gone
    )
    before = {file.name: file.read_bytes() for file in (tmp_path / "ct").iterdir()}
    _, reading = read_ct(tmp_path / "ct")
    emptied, filled = written(tmp_path / "lesions.dcm", reading, tmp_path / "ct")
    assert (
        "lack PatientBirthDate, PatientSex, StudyID, StudyTime or hold it in a wrong form: it is empty in the report."
        in emptied
    )
    assert filled.endswith("one was put in: frame of reference, slice thickness (2.5 mm).")
    document = pydicom.dcmread(tmp_path / "lesions.dcm")
    assert (document.PatientID, document.PatientBirthDate, document.PatientSex, document.StudyTime) == (
        "4711",
        "",
        "",
        "",
    )
    assert before == {file.name: file.read_bytes() for file in (tmp_path / "ct").iterdir()}


@pytest.mark.parametrize(
    ("charset", "name"), [("ISO_IR 100", "Müller^Jürgen"), ("ISO_IR 144", "Люкceмбypг"), (None, "Doe^Jane")]
)
def test_names_in_older_character_sets_survive(tmp_path, charset, name):
    nested = pydicom.Dataset()
    nested.CodeValue, nested.CodingSchemeDesignator, nested.CodeMeaning = "1", "99X", name
    tags = {
        **PATIENT,
        "SpecificCharacterSet": charset,
        "PatientName": name,
        "StudyDescription": name,
        "ProcedureCodeSequence": (nested,),
    }
    dicom_readings.upright(tmp_path / "ct", **tags)
    _, reading = read_ct(tmp_path / "ct")
    written(tmp_path / "lesions.dcm", reading, tmp_path / "ct")
    document = pydicom.dcmread(tmp_path / "lesions.dcm")
    assert document.SpecificCharacterSet == "ISO_IR 192"
    assert (str(document.PatientName), document.StudyDescription) == (name, name)
    assert document.ProcedureCodeSequence[0].CodeMeaning == name


def test_a_reading_of_a_scene_is_written_by_its_places(tmp_path):
    """Slices that count from head to feet, and no DICOM identifiers, as a CT in a scene may have them."""
    folder = tmp_path / "ct"
    dicom_readings.tilted(folder)
    volume, reading = read_ct(folder)
    last = len(volume.hu) - 1
    geometry = reading.geometry
    upside_down = Geometry(
        geometry.size,
        geometry.spacing,
        tuple(volume.geometry.to_lps((0, 0, last)).tolist()),
        tuple(tuple(row) for row in (volume.direction * (1, 1, -1)).tolist()),
    )
    turned = [(last - lesion.slices[1], last - lesion.slices[0]) for lesion in reading.lesions]
    lesions = tuple(
        lesion.edited(key_slice=last - lesion.key_slice, slices=slices)
        for lesion, slices in zip(reading.lesions, turned)
    )
    in_scene = replace(reading, geometry=upside_down, lesions=lesions, dicom=None, series_uid="")
    files = sorted(folder.iterdir())
    identified = with_series(in_scene, files)
    dicom_readings.write_sr(tmp_path / "lesions.dcm", identified, source_slices(files, identified))
    measured = {
        group.tracking_uid: group
        for group in hd.sr.srread(tmp_path / "lesions.dcm").content.get_image_measurement_groups()
    }
    for lesion in reading.reported:
        long = measured[dicom_codes.tracking_uid(lesion.id)].get_measurements()[0]
        expected = volume.geometry.to_lps([(*end, lesion.key_slice) for end in lesion.recist.long_axis])
        assert in_patient(long.referenced_coordinates[0], folder) == pytest.approx(expected, abs=1e-3)
    back = dicom_in.read(tmp_path / "lesions.dcm", folder)
    assert [lesion.slices for lesion in back.lesions] == [lesion.slices for lesion in reading.reported]
    with pytest.raises(DicomReportError, match="is another CT than"):
        with_series(replace(in_scene, geometry=replace(upside_down, origin=(0, 0, 1000))), files)


def test_what_cannot_be_pointed_to_gets_one_sentence(upright, tmp_path):
    _, reading = read_ct(upright)
    with pytest.raises(DicomReportError, match="was not DICOM, so no DICOM report can point to it: write JSON or text"):
        source_slices(upright, replace(reading, dicom=None, source="01.nrrd"))
    with pytest.raises(DicomReportError, match="do not name their study and series"):
        source_slices(upright, replace(reading, dicom=DicomSeries("", "", "", ())))
    other = tmp_path / "other"
    dicom_readings.upright(other, series="1.2.3.77")
    with pytest.raises(ct.CTError, match=r"has no series 1.2.3.4: its axial CT series are 1.2.3.77"):
        source_slices(other, reading)
    half = sorted(upright.iterdir())[:5]
    with pytest.raises(
        DicomReportError, match=r"lacks 3 of the 8 images that were read, such as .*: give the whole series"
    ):
        source_slices(half, reading)
    with pytest.raises(ct.CTError, match="does not exist"):
        source_slices(tmp_path / "none", reading)
    with pytest.raises(DicomReportError, match="No DICOM file of the CT was given"):
        source_slices([], reading)
    with pytest.raises(
        DicomReportError, match=r"has no lesion to report, and a DICOM report cannot be empty\. Write JSON or text"
    ):
        written(tmp_path / "none.dcm", replace(reading, lesions=()), upright)
    assert list(tmp_path.iterdir()) == [other]
