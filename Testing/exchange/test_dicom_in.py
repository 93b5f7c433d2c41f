"""DICOM SR back in: nothing that we wrote is lost; other programs' measurements become lesions of a reader.

The rest is refused.
"""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from LesionDetectorLib import ct
from LesionDetectorLib.exchange import dicom_in, lesions_json
from LesionDetectorLib.exchange.dicom_source import DicomReportError, source_slices
from LesionDetectorLib.lesion import Axis, BodyPart, Lesion, Origin, Recist, ReviewStatus
from LesionDetectorLib.reading import Model, Reading, ordered
from pydicom.sr.coding import Code
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from Testing.helpers import dicom_readings
from Testing.helpers.dicom_readings import KINDS, SLICES, axes_in, lesions, read_ct


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[Path, Reading, list]:
    """A CT, its reading without lesions, and its slices."""
    folder = tmp_path_factory.mktemp("study") / "ct"
    dicom_readings.upright(folder)
    reading = Reading.of(ct.read(folder), [])
    return folder, reading, source_slices(folder, reading)


def same(one: Reading, other: Reading) -> None:
    """Asserts that two readings say the same: points to 0.001 pixels (an SR has single precision), lengths and
    confidences to rounding."""
    assert replace(one, lesions=()) == replace(other, lesions=())
    by_id = {lesion.id: lesion for lesion in one.lesions}
    assert by_id.keys() == {lesion.id for lesion in other.lesions}
    for b in other.lesions:
        a = by_id[b.id]
        assert replace(a, box=b.box, recist=b.recist, confidence=b.confidence) == b
        assert a.box == pytest.approx(b.box, abs=1e-3)
        assert a.confidence == (None if b.confidence is None else pytest.approx(b.confidence, abs=1e-12))
        assert (a.recist is None) == (b.recist is None)
        if b.recist is not None:
            assert np.array([*a.recist.long_axis, *a.recist.short_axis]) == pytest.approx(
                np.array([*b.recist.long_axis, *b.recist.short_axis]), abs=1e-3
            )
            assert (a.recist.long_mm, a.recist.short_mm, a.recist.drawn) == (
                b.recist.long_mm,
                b.recist.short_mm,
                b.recist.drawn,
            )


# An SR's text: no control characters, and no blanks at the ends of a name.
names = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), min_size=1, max_size=12)
models = st.lists(st.builds(Model, names, st.text("0123456789abcdef", min_size=64, max_size=64)), max_size=3).map(tuple)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    found=st.lists(lesions(), min_size=1, max_size=4, unique_by=lambda one: one.id),
    made_by=models,
    confidence=st.floats(0, 1),
)
def test_json_to_sr_to_json_loses_nothing(study, tmp_path, found, made_by, confidence):
    folder, empty, slices = study
    by_detector = any(lesion.origin is Origin.DETECTOR for lesion in found)
    measured = any(lesion.recist is not None and len(lesion.recist.drawn) < 2 for lesion in found)
    made = replace(
        empty,
        lesions=tuple(ordered(found)),
        models=made_by if by_detector else (),  # models and threshold are told of what the detector found
        confidence=confidence if by_detector else 0.5,
        software_version="0.9 β" if by_detector or measured else empty.software_version,
    )
    dicom_readings.write_sr(
        tmp_path / "lesions.dcm", lesions_json.loads(lesions_json.dumps(made)), slices, everything=True
    )
    back = dicom_in.read(tmp_path / "lesions.dcm", folder)
    same(lesions_json.loads(lesions_json.dumps(back)), made)


@pytest.mark.parametrize("kind", KINDS)
def test_ct_of_every_kind_round_trips(kind, tmp_path):
    KINDS[kind](tmp_path / "ct")
    _, reading = read_ct(tmp_path / "ct")
    for everything in (True, False):
        dicom_readings.write_sr(tmp_path / "lesions.dcm", reading, source_slices(tmp_path / "ct", reading), everything)
        expected = reading if everything else replace(reading, lesions=tuple(reading.reported))
        same(dicom_in.read(tmp_path / "lesions.dcm", tmp_path / "ct"), expected)


def test_forty_lesions_with_names_of_many_scripts(study, tmp_path):
    folder, empty, slices = study
    boxes = [(n / 3, n / 4, n / 3 + 15.5 + n / 7, n / 4 + 20 - n / 11) for n in range(40)]
    found = [
        Lesion(
            BodyPart(1 + n % 8),
            0.5 + n / 81,
            n % SLICES,
            (n % SLICES, n % SLICES),
            boxes[n],
            axes_in(boxes[n], (0.7, 0.8, 2.5)),
        )
        for n in range(40)
    ]
    made = replace(
        empty, lesions=tuple(ordered(found)), models=(Model("肝 Größe ☃ Ω", "ab" * 32), Model("модель", "cd" * 32))
    )
    dicom_readings.write_sr(tmp_path / "lesions.dcm", made, slices)
    same(dicom_in.read(tmp_path / "lesions.dcm", folder), made)


# ------ other programs' reports


def report(
    path: Path, slices: list, groups: list, edit: Callable[[pydicom.Dataset], None] = lambda document: None
) -> Path:
    """A measurement report as another program might write it."""
    device = hd.sr.DeviceObserverIdentifyingAttributes(hd.UID())
    context = hd.sr.ObservationContext(hd.sr.ObserverContext(Code("121007", "DCM", "Device"), device))
    headers = []
    for item in slices:
        header = pydicom.Dataset()
        header.update(item.header)
        for name in (
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "PatientSex",
            "StudyDate",
            "StudyTime",
            "AccessionNumber",
        ):
            setattr(header, name, "")
        headers.append(header)
    content = hd.sr.MeasurementReport(context, Code("25045-6", "LN", "CT"), groups, referenced_images=headers)
    document = hd.sr.Comprehensive3DSR(headers, content, hd.UID(), 7, hd.UID(), 1, manufacturer="Somebody")
    edit(document)
    document.save_as(path)
    return path


FREE_TEXT = Code("CORNERSTONEFREETEXT", "CORNERSTONEJS", "seen in the liver")
LONG, SHORT = Code("G-A185", "SRT", "Long Axis"), Code("G-A186", "SRT", "Short Axis")


def bidirectional(item, mm=(18.5, 6.0), unit="mm", long=LONG, finding=FREE_TEXT, site=None):
    """A group as OHIF lays it out: its finding is a free text, the axes have codes of SRT; here on the image `item`."""

    def axis(name: Code, value: float, points: list) -> hd.sr.Measurement:
        image = hd.sr.SourceImageForRegion(item.header.SOPClassUID, item.uid)
        line = hd.sr.CoordinatesForMeasurement("POLYLINE", np.array(points), image)
        return hd.sr.Measurement(name, value, Code(unit, "UCUM", unit), referenced_coordinates=[line])

    return hd.sr.MeasurementsAndQualitativeEvaluations(
        hd.sr.TrackingIdentifier("1.2.826.0.1.99", "Cornerstone3DTools@^0.1.0:Bidirectional"),
        finding_type=finding,
        finding_sites=[hd.sr.FindingSite(site)] if site else None,
        measurements=[
            axis(long, mm[0], [(10.5, 20.5), (30.5, 25.5)]),
            axis(SHORT, mm[1], [(20.5, 18.5), (19.0, 27.5)]),
        ],
    )


def test_bidirectional_measurement_of_ohif_becomes_a_lesion_of_a_reader(study, tmp_path):
    folder, empty, slices = study
    read = dicom_in.read(report(tmp_path / "ohif.dcm", [slices[3]], [bidirectional(slices[3])]), folder)
    (lesion,) = read.lesions
    assert (lesion.body_part, lesion.origin, lesion.confidence) == (BodyPart.LIVER, Origin.READER, None)
    assert lesion.status is ReviewStatus.ACCEPTED
    assert (lesion.key_slice, lesion.slices, lesion.id) == (3, (3, 3), "1.2.826.0.1.99")
    assert lesion.recist == Recist(((10, 20), (30, 25)), ((20, 18), (18.5, 27)), 18.5, 6.0, (Axis.LONG, Axis.SHORT))
    # a millimetre round the axes
    assert lesion.box == pytest.approx((10 - 1 / 0.7, 18 - 1 / 0.8, 30 + 1 / 0.7, 27 + 1 / 0.8))
    assert (read.models, read.warnings, read.geometry) == ((), (), empty.geometry)
    dicom_readings.write_sr(tmp_path / "ours.dcm", read, slices)
    same(dicom_in.read(tmp_path / "ours.dcm", folder), read)  # and its tracking UID is kept


def test_axes_in_pixels_or_exchanged_are_measured_by_their_lines(study, tmp_path):
    folder, _, slices = study
    group = bidirectional(slices[2], mm=(3.0, 9.0), unit="[px]", site=Code("72410000", "SCT", "Mediastinum"))
    (lesion,) = dicom_in.read(report(tmp_path / "sr.dcm", [slices[2]], [group]), folder).lesions
    assert lesion.recist.long_mm == pytest.approx(np.hypot(20 * 0.7, 5 * 0.8))
    assert lesion.body_part is BodyPart.MEDIASTINUM
    group = bidirectional(slices[2], mm=(3.0, 9.0), long=Code("103339001", "SCT", "Long axis"))
    (lesion,) = dicom_in.read(report(tmp_path / "sr.dcm", [slices[2]], [group]), folder).lesions
    assert (lesion.recist.long_mm, lesion.recist.long_axis) == (9.0, ((20, 18), (18.5, 27)))


def test_unknown_body_part_is_told(study, tmp_path):
    folder, _, slices = study
    group = bidirectional(slices[4], finding=Code("52988006", "SCT", "Lesion"), site=Code("78961009", "SCT", "Spleen"))
    read = dicom_in.read(report(tmp_path / "sr.dcm", [slices[4]], [group]), folder)
    assert read.lesions[0].body_part is BodyPart.SOFT_TISSUE
    assert read.warnings == ("The SR names no body part of ours for lesions on slice 5: Soft tissue was put in.",)


def test_axes_in_space_are_taken_where_they_lie_in_a_slice(study, tmp_path):
    folder, reading, slices = study

    def in_space(
        k: float, frame: str = reading.dicom.frame_of_reference_uid
    ) -> hd.sr.MeasurementsAndQualitativeEvaluations:
        ends = [[(10, 20, 3), (30, 25, k)], [(20, 18, 3), (18.5, 27, k)]]
        lines = [
            hd.sr.CoordinatesForMeasurement3D("POLYLINE", reading.geometry.to_lps(points), frame) for points in ends
        ]
        group = bidirectional(slices[3])
        for item, scoord in zip([item for item in group[0].ContentSequence if item.ValueType == "NUM"], lines):
            item.ContentSequence = [scoord]
        return group

    (lesion,) = dicom_in.read(report(tmp_path / "sr.dcm", [slices[3]], [in_space(3)]), folder).lesions
    assert (lesion.key_slice, lesion.recist.long_mm) == (3, 18.5)
    assert np.array(lesion.recist.long_axis) == pytest.approx(np.array([(10, 20), (30, 25)]), abs=1e-3)
    for group, reason in (
        (in_space(6), "lie across the CT's slices"),
        (in_space(3, "1.2.3.4.5"), "in another frame of reference"),
    ):
        with pytest.raises(DicomReportError, match=reason):
            dicom_in.read(report(tmp_path / "sr.dcm", [slices[3]], [group]), folder)


def test_what_is_no_lesion_is_passed_over_and_told(study, tmp_path):
    folder, _, slices = study

    def strange() -> list:
        """A group with one axis alone, and one on an image that is to be renamed."""
        only_long, elsewhere = bidirectional(slices[1]), bidirectional(slices[4])
        del only_long[0].ContentSequence[-1]
        only_long[0].ContentSequence[1].UID, elsewhere[0].ContentSequence[1].UID = "1.2.7", "1.2.8"
        return [only_long, elsewhere]

    def renamed(document: pydicom.Dataset) -> None:
        for element in document.iterall():
            if element.keyword == "ReferencedSOPInstanceUID" and element.value == slices[4].uid:
                element.value = "1.2.3.4.5"

    read = dicom_in.read(report(tmp_path / "sr.dcm", slices, [bidirectional(slices[1]), *strange()], renamed), folder)
    assert [lesion.id for lesion in read.lesions] == ["1.2.826.0.1.99"]
    assert read.warnings == (
        "The SR: 1 measurements with one axis alone, or with several places for one tracking UID were passed over.",
        "The SR: 1 measurements on images that are not among the CT's slices were passed over.",
    )
    report(tmp_path / "sr.dcm", slices, strange(), renamed)
    with pytest.raises(
        DicomReportError, match=r"holds no lesion on .*, but 1 measurements with one axis.*, 1 measurements on images"
    ):
        dicom_in.read(tmp_path / "sr.dcm", folder)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (None, "that do not say on which one frame of a file with many they lie"),
        ([3, 4], "that do not say on which one frame of a file with many they lie"),
        (99, "on images that are not among the CT's slices"),
        (0, "on images that are not among the CT's slices"),
        (-1, "on images that are not among the CT's slices"),
        ([6, 6], None),
        (6, None),
    ],
)
def test_on_a_file_with_many_frames_one_must_be_named(tmp_path, frames, reason):
    dicom_readings.multi_frame(tmp_path / "ct")
    reading = Reading.of(ct.read(tmp_path / "ct"), [])
    found = [
        Lesion(BodyPart.LIVER, 0.9, k, (k, k), box, axes_in(box, reading.geometry.spacing), id=f"1.2.{k}")
        for k, box in ((2, (9.0, 9.0, 20.0, 20.0)), (6, (9.0, 9.0, 30.0, 20.0)))
    ]
    path = tmp_path / "sr.dcm"
    dicom_readings.write_sr(path, replace(reading, lesions=tuple(found)), source_slices(tmp_path / "ct", reading))
    document = pydicom.dcmread(path)
    for item in dicom_in._below(document.ContentSequence):
        for image in item.get("ReferencedSOPSequence") or []:
            if image.get("ReferencedFrameNumber") == 6:  # frames run from head to feet: slice k = 2
                image.ReferencedFrameNumber = frames
                if frames is None:
                    del image.ReferencedFrameNumber
    document.save_as(path)
    read = dicom_in.read(path, tmp_path / "ct")
    if reason is None:
        assert ([lesion.key_slice for lesion in read.lesions], read.warnings) == ([2, 6], ())
    else:
        assert [lesion.key_slice for lesion in read.lesions] == [6]
        assert read.warnings == (f"The SR: 1 measurements {reason} were passed over.",)


def test_a_line_on_two_slices_is_passed_over(study, tmp_path):
    folder, _, slices = study
    group = bidirectional(slices[1])
    for item in (item for item in group[0].ContentSequence if item.ValueType == "NUM"):
        second = hd.sr.SourceImageForRegion(slices[5].header.SOPClassUID, slices[5].uid)
        item.ContentSequence[0].ContentSequence.append(second)
    with pytest.raises(DicomReportError, match="1 measurements with lines on several slices"):
        dicom_in.read(report(tmp_path / "sr.dcm", slices, [group]), folder)


def test_file_without_lesions_gets_one_sentence(study, tmp_path):
    folder, _, slices = study
    (tmp_path / "text.dcm").write_text("no DICOM")
    with pytest.raises(DicomReportError, match=r"text.dcm is not a DICOM file, or a damaged one: give a DICOM SR"):
        dicom_in.read(tmp_path / "text.dcm", folder)
    with pytest.raises(DicomReportError, match="is DICOM, but no structured report"):
        dicom_in.read(sorted(folder.iterdir())[0], folder)
    whole = report(tmp_path / "whole.dcm", [slices[3]], [bidirectional(slices[3])]).read_bytes()
    for part in range(1000, len(whole), 997):
        (tmp_path / "part.dcm").write_bytes(whole[:part])
        with pytest.raises(
            DicomReportError, match=r"part.dcm is (not a DICOM file, or a damaged one|DICOM, but no structured report)"
        ):
            dicom_in.read(tmp_path / "part.dcm", folder)
    with pytest.raises(OSError, match=r"none\.dcm"):
        dicom_in.read(tmp_path / "none.dcm", folder)

    def without_groups(document: pydicom.Dataset) -> None:
        document.ContentSequence = [
            item for item in document.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue != "126010"
        ]

    path = report(tmp_path / "empty.dcm", [slices[3]], [bidirectional(slices[3])], without_groups)
    with pytest.raises(DicomReportError, match="without measurement groups"):
        dicom_in.read(path, folder)


def nested(depth: int, undefined: bool, implicit: bool = False, deflated: bool = False) -> bytes:
    """A DICOM SR whose content is `depth` sequences in one another, each with one item."""
    tag, item = b"\x40\x00\x30\xa7", b"\xfe\xff\x00\xe0"
    start = tag if implicit else tag + b"SQ\0\0"
    if undefined:
        ends = b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)
        content = (start + b"\xff" * 4 + item + b"\xff" * 4) * depth + ends * depth
    else:
        lengths = [(len(start) + 12) * level for level in range(depth)]
        content = b"".join(start + struct.pack("<L", n + 8) + item + struct.pack("<L", n) for n in lengths[::-1])
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = (
        ImplicitVRLittleEndian if implicit else DeflatedExplicitVRLittleEndian if deflated else ExplicitVRLittleEndian
    )
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.3"
    file = io.BytesIO()
    pydicom.filewriter.write_file_meta_info(file, meta, enforce_standard=True)
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return (
        bytes(128) + b"DICM" + file.getvalue() + (squeeze.compress(content) + squeeze.flush() if deflated else content)
    )


@pytest.mark.parametrize("kind", [{}, {"implicit": True}, {"deflated": True}])
@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("depth", [51, 340, 100_000])
def test_deep_nesting_is_refused_at_once(tmp_path, depth, undefined, kind):
    path = tmp_path / "deep.dcm"
    path.write_bytes(nested(depth, undefined, **kind))
    started = time.monotonic()
    with pytest.raises(
        DicomReportError, match=r"deep.dcm nests its content more than 50 deep, which no report does: give a DICOM SR\."
    ):
        dicom_in.read(path, tmp_path)
    assert time.monotonic() - started < 1
    path.write_bytes(nested(50, undefined, **kind))
    with pytest.raises(DicomReportError, match="without measurement groups"):
        dicom_in.read(path, tmp_path)


@pytest.mark.parametrize("deflated", [True, False])
def test_a_report_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch, deflated):
    monkeypatch.setattr(dicom_in, "LARGEST", 2**20)
    path = tmp_path / "large.dcm"
    path.write_bytes(nested(10**5, undefined=True, deflated=deflated))
    assert not deflated or path.stat().st_size < 2**14
    with pytest.raises(DicomReportError, match="holds more than 1 MB, as no report does"):
        dicom_in.read(path, tmp_path)


def test_numbers_that_are_none_are_refused_or_passed_over(study, tmp_path):
    folder, _, slices = study

    def spoilt(points: list) -> list:
        groups = [bidirectional(slices[1]), bidirectional(slices[2])]
        groups[1][0].ContentSequence[1].UID = "1.2.7"
        measured = next(item for item in groups[1][0].ContentSequence if item.ValueType == "NUM")
        measured.ContentSequence[0].GraphicData = points
        return groups

    for points in ([1.0, 2.0, 3.0], [1.0, float("nan"), 3.0, 4.0], [1.0, float("inf"), 3.0, 4.0]):
        read = dicom_in.read(report(tmp_path / "sr.dcm", slices, spoilt(points)), folder)
        assert [lesion.key_slice for lesion in read.lesions] == [1]
        assert read.warnings == ("The SR: 1 measurements with values that no lesion has were passed over.",)

    def as_text(document: pydicom.Dataset) -> None:
        for element in document.iterall():
            if element.keyword == "GraphicData":
                element.VR, element.value = "LO", "far away"

    with pytest.raises(DicomReportError, match="is not a DICOM file, or a damaged one"):
        dicom_in.read(report(tmp_path / "sr.dcm", slices, [bidirectional(slices[1])], as_text), folder)


@pytest.mark.parametrize("threshold", ["7.5", "5abc", "1e999"])
def test_a_threshold_that_is_none_is_refused(study, tmp_path, threshold):
    folder, empty, slices = study
    box = (9.0, 9.0, 20.0, 20.0)
    path = tmp_path / "sr.dcm"
    dicom_readings.write_sr(
        path,
        replace(empty, lesions=(Lesion(BodyPart.LIVER, 0.9, 1, (1, 1), box, axes_in(box, (0.7, 0.8, 2.5))),)),
        slices,
    )
    document = pydicom.dcmread(path)
    texts = [
        item for item in dicom_in._below(document.ContentSequence) if str(item.get("TextValue", "")).endswith("0.5")
    ]
    for item in texts:
        item.TextValue = item.TextValue.replace("0.5", threshold)
    document.save_as(path)
    assert texts
    with pytest.raises(DicomReportError, match=r"sr.dcm holds what no reading has: "):
        dicom_in.read(path, folder)


def test_sr_of_another_series_is_refused(study, tmp_path):
    _, _, slices = study
    other = tmp_path / "other"
    dicom_readings.upright(other, series="1.2.3.77")
    path = report(tmp_path / "sr.dcm", [slices[3]], [bidirectional(slices[3])])
    with pytest.raises(ct.CTError, match=r"has no series 1.2.3.4: its axial CT series are 1.2.3.77"):
        dicom_in.read(path, other)
