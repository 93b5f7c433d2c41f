"""Reports of a review that leave Slicer and come back, through the files that Slicer's DICOM database knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from LesionDetectorLib import ct
from LesionDetectorLib import scene as lesion_scene
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.lesion import Lesion
from LesionDetectorLib.reading import Reading
from pydicom import dcmread

from Testing.helpers.dicom_readings import KINDS, lesions, read_ct

slicer = pytest.importorskip("slicer", reason="needs slicer-core: pip install 'lesion-detector[scene]'")


@pytest.fixture(params=["upright", "oblique", "turned", "multi-frame", "upright, from head to feet"])
def session(request, tmp_path, monkeypatch):
    """Several lesions under review on a CT that Slicer loaded from its DICOM database."""
    kind, _, reversed_slices = request.param.partition(", ")
    (tmp_path / "ct").mkdir()
    KINDS[kind](tmp_path / "ct")
    volume, reading = read_ct(tmp_path / "ct")
    files = {dcmread(path, stop_before_pixels=True).SOPInstanceUID: path for path in (tmp_path / "ct").iterdir()}
    monkeypatch.setattr(
        slicer, "dicomDatabase", SimpleNamespace(fileForInstance=lambda uid: str(files.get(uid, ""))), raising=False
    )
    if reversed_slices:
        top = tuple(volume.geometry.to_lps((0, 0, len(volume.hu) - 1)))
        volume = Volume(volume.hu[::-1], volume.spacing, top, volume.direction * (1, 1, -1), volume.source)
    scene = lesion_scene.new_scene()
    node = lesion_scene.add_volume(scene, volume)
    node.SetAttribute("DICOM.instanceUIDs", " ".join(files))
    session = lesion_scene.Session.start(node, lesion_scene.reading_on(node, replace(reading, dicom=None)))
    yield session
    session.close()


def back(session: lesion_scene.Session, path: Path) -> Reading:
    return lesion_scene.reading_on(session.volume_node, lesion_scene.read_lesions_file(session.volume_node, path))


def assert_same(again: Lesion, lesion: Lesion) -> None:
    """Points to 0.002 pixels: an SR has single precision."""
    assert again.box == pytest.approx(lesion.box, abs=2e-3)
    for axis in ("long_axis", "short_axis") if lesion.recist else ():
        np.testing.assert_allclose(getattr(again.recist, axis), getattr(lesion.recist, axis), atol=2e-3)
    assert (again.recist and again.recist.drawn) == (lesion.recist and lesion.recist.drawn)
    confidence = None if lesion.confidence is None else pytest.approx(lesion.confidence, abs=1e-9)
    assert again.confidence == confidence
    assert again.edited(box=lesion.box, recist=lesion.recist, confidence=lesion.confidence) == lesion


@pytest.mark.parametrize("name", ["lesions.json", "report.dcm"])
def test_a_review_comes_back_to_the_same_scene_through_a_file(session, tmp_path, name):
    lesion_scene.save_report(session, tmp_path / name)
    found = {lesion.id: lesion for lesion in back(session, tmp_path / name).lesions}
    reported = session.report().reported
    assert len(reported) == 3
    for lesion in reported:
        assert_same(found[lesion.id], lesion)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    found=st.lists(lesions(), min_size=1, max_size=40, unique_by=lambda one: one.id),
    name=st.sampled_from(["lesions.json", "r.dcm"]),
)
@pytest.mark.parametrize("session", ["upright, from head to feet"], indirect=True)
def test_whatever_is_reviewed_comes_back(session, tmp_path, found, name):
    reading = replace(session.review.found, lesions=tuple(found))
    again = lesion_scene.Session.start(session.volume_node, reading)
    reported = {lesion.id: lesion for lesion in again.report().reported}
    if reported:
        lesion_scene.save_report(again, tmp_path / name)
        came_back = {lesion.id: lesion for lesion in back(again, tmp_path / name).lesions}
        for lesion in reported.values():
            assert_same(came_back[lesion.id], lesion)
    again.close()


def test_outlines_lie_in_their_boxes(session, tmp_path):
    lesion_scene.save_report(session, tmp_path / "outlines.seg.dcm")
    written = dcmread(tmp_path / "outlines.seg.dcm")
    assert len(written.SegmentSequence) == len(session.report().reported)
    to_mm = session.report().geometry.to_lps
    frames = written.PerFrameFunctionalGroupsSequence
    assert len(frames) == len(written.SegmentSequence)
    for frame, mask, lesion in zip(frames, written.pixel_array, session.report().reported):
        orientation = (
            frame if "PlaneOrientationSequence" in frame else written.SharedFunctionalGroupsSequence[0]
        ).PlaneOrientationSequence
        rows, columns = np.nonzero(mask)
        di, dj = np.reshape(orientation[0].ImageOrientationPatient, (2, 3)).astype(float)
        sj, si = map(float, written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing)
        middle = (
            np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
            + columns.mean() * si * di
            + rows.mean() * sj * dj
        )
        x0, y0, x1, y1 = lesion.box
        centre = to_mm(((x0 + x1) / 2, (y0 + y1) / 2, lesion.key_slice))
        assert np.linalg.norm(middle - centre) < 0.25 * np.linalg.norm(to_mm((x1, y1, 0)) - to_mm((x0, y0, 0)))


def test_the_slice_thickness_is_that_of_the_files(session, tmp_path):
    assert lesion_scene.slice_thickness(session.volume_node) == pytest.approx(ct.read(tmp_path / "ct").slice_thickness)
    session.volume_node.SetAttribute("DICOM.instanceUIDs", "1.2.3.9999")
    assert lesion_scene.slice_thickness(session.volume_node) is None


def test_files_that_the_database_lost_are_named(session, tmp_path, monkeypatch):
    monkeypatch.setattr(slicer, "dicomDatabase", SimpleNamespace(fileForInstance=lambda uid: ""))
    with pytest.raises(lesion_scene.SceneError, match="not in it any more"):
        lesion_scene.save_report(session, tmp_path / "report.dcm")
    assert not (tmp_path / "report.dcm").exists()
