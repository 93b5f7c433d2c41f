"""DICOM SEG: the outlines in the pixels of the CT's files, with the tracking UIDs of the SR."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from LesionDetectorLib import ct
from LesionDetectorLib.exchange import dicom_codes
from LesionDetectorLib.exchange.dicom_source import DicomReportError, source_slices
from LesionDetectorLib.lesion import BodyPart, Lesion, Origin
from LesionDetectorLib.measure import margins, outline
from LesionDetectorLib.reading import Reading

from Testing.helpers import dicom_readings
from Testing.helpers.dicom_readings import KINDS, read_ct
from Testing.helpers.dicom_study import write


def written(path: Path, folder: Path, reading: Reading, volume: ct.Volume, everything: bool = False):
    """The SEG as highdicom reads it, and the sentences that writing it returned."""
    sentences = dicom_readings.write_seg(path, reading, source_slices(folder, reading), volume, everything)
    return hd.seg.segread(path), sentences


def in_patient(seg: hd.seg.Segmentation, number: int) -> np.ndarray:
    """LPS mm (n, 3) of the pixels of one segment, by the geometry of the SEG and by nothing of ours."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    axes = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)[::-1]
    points = []
    for frame, mask in zip(
        seg.PerFrameFunctionalGroupsSequence, np.reshape(seg.pixel_array, (-1, seg.Rows, seg.Columns))
    ):
        if frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
            columns_rows = np.argwhere(mask)[:, ::-1]
            points.append(
                np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float) + (columns_rows * spacing) @ axes
            )
    return np.concatenate(points)


def outlined(volume: ct.Volume, lesion: Lesion) -> np.ndarray:
    """LPS mm (n, 3) of the voxels of the mask by which a lesion is measured."""
    margin = margins.pixels(margins.margin_mm(lesion.origin), volume.spacing)
    segmentation = outline.segment(volume.hu[lesion.key_slice], lesion.box, margin)
    columns_rows = np.argwhere(segmentation.mask >= 0.5)[:, ::-1] + segmentation.offset
    return volume.geometry.to_lps(np.column_stack([columns_rows, np.full(len(columns_rows), lesion.key_slice)]))


@pytest.mark.parametrize("kind", KINDS)
def test_segments_are_the_outlines_that_were_measured(kind, tmp_path):
    KINDS[kind](tmp_path / "ct")
    volume, reading = read_ct(tmp_path / "ct")
    seg, _ = written(tmp_path / "outlines.dcm", tmp_path / "ct", reading, volume)
    assert seg.number_of_segments == len(reading.reported) == 3
    for number, lesion in enumerate(reading.reported, start=1):
        description = seg.get_segment_description(number)
        assert description.segment_label.startswith(f"Lesion {number}: {lesion.body_part.title}")
        assert description.tracking_uid == dicom_codes.tracking_uid(lesion.id)
        assert description.segmented_property_type.meaning == "Lesion"
        assert [region.meaning for region in description.anatomic_regions] == [lesion.body_part.title]
        by_reader = lesion.origin is Origin.READER
        assert description.algorithm_type.value == ("SEMIAUTOMATIC" if by_reader else "AUTOMATIC")
        drawn, expected = in_patient(seg, number), outlined(volume, lesion)
        apart = np.linalg.norm(drawn[:, None] - expected, axis=-1)
        near = max(volume.spacing[:2])  # the files' pixels of a tilted CT lie between the voxels
        assert np.quantile(apart.min(axis=0), 0.95) < near
        assert np.quantile(apart.min(axis=1), 0.95) < near
        assert len(drawn) == pytest.approx(len(expected), rel=0.15)


def test_frames_point_to_their_images(tmp_path):
    dicom_readings.upright(tmp_path / "ct")
    volume, reading = read_ct(tmp_path / "ct")
    seg, _ = written(tmp_path / "outlines.dcm", tmp_path / "ct", reading, volume)
    assert seg.NumberOfFrames == 3
    images = {
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber: frame.DerivationImageSequence[0]
        .SourceImageSequence[0]
        .ReferencedSOPInstanceUID
        for frame in seg.PerFrameFunctionalGroupsSequence
    }
    uids = volume.dicom.sop_instance_uids
    assert images == {number: uids[lesion.key_slice] for number, lesion in enumerate(reading.reported, start=1)}
    assert (seg.StudyInstanceUID, seg.ReferencedSeriesSequence[0].SeriesInstanceUID) == ("1.2.3", "1.2.3.4")


def test_overlapping_outlines_keep_all_their_pixels(tmp_path):
    hu = np.full((3, 48, 64), -100, np.int16)
    hu[:, 15:35, 20:44] = 120
    write(tmp_path / "ct", hu, [(0, 0, 2.0 * k) for k in range(3)])
    volume = ct.read(tmp_path / "ct")
    boxes = [(17.0, 12.0, 47.0, 38.0), (18.0, 13.0, 46.0, 37.0)]
    lesions = [
        Lesion(BodyPart.LIVER, 0.9 - n / 10, 1, (1, 1), box, origin=Origin.READER, id=str(n))
        for n, box in enumerate(boxes)
    ]
    seg, _ = written(tmp_path / "outlines.dcm", tmp_path / "ct", Reading.of(volume, lesions), volume)
    assert seg.SegmentsOverlap == "YES"
    for number, lesion in enumerate(lesions, start=1):
        assert len(in_patient(seg, number)) == pytest.approx(len(outlined(volume, lesion)), rel=0.05)


def test_uids_are_stable_and_follow_the_content(tmp_path):
    dicom_readings.upright(tmp_path / "ct")
    volume, reading = read_ct(tmp_path / "ct")
    first, _ = written(tmp_path / "first.dcm", tmp_path / "ct", reading, volume)
    again, _ = written(tmp_path / "again.dcm", tmp_path / "ct", reading, volume)
    everything, sentences = written(tmp_path / "all.dcm", tmp_path / "ct", reading, volume, everything=True)
    assert (
        first.SOPInstanceUID
        == again.SOPInstanceUID
        == pydicom.dcmread(tmp_path / "first.dcm").file_meta.MediaStorageSOPInstanceUID
    )
    assert everything.SOPInstanceUID != first.SOPInstanceUID
    assert everything.SeriesInstanceUID == first.SeriesInstanceUID
    assert everything.number_of_segments == 5
    assert "PatientID" in sentences[0]


def test_another_ct_is_refused(tmp_path):
    for name in ("ct", "other"):
        write(
            tmp_path / name,
            dicom_readings.body(8, shape=(48, 64)),
            [(0, 0, 2.0 * k + 50 * (name == "other")) for k in range(8)],
        )
    volume, reading = read_ct(tmp_path / "ct")
    with pytest.raises(
        DicomReportError, match=r"The lesions lie on another CT than .*other: give the one that was read"
    ):
        written(tmp_path / "outlines.dcm", tmp_path / "ct", reading, ct.read(tmp_path / "other"))
    with pytest.raises(DicomReportError, match="no lesion to report"):
        written(tmp_path / "outlines.dcm", tmp_path / "ct", replace(reading, lesions=()), volume)
    assert not (tmp_path / "outlines.dcm").exists()
