"""DICOM series: what is read, against SimpleITK's own reader."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from LesionDetectorLib import ct
from LesionDetectorLib.ct import dicom
from scipy.spatial.transform import Rotation

from Testing.helpers.dicom_study import SPACING, axial, body, compressed, enhanced, image, save, write


def same_as_itk(volume: ct.Volume, files: list[Path]) -> None:
    """Asserts that SimpleITK, given the files in order, reads the same voxels at the same places."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    expected = reader.Execute()
    assert np.array_equal(sitk.GetArrayViewFromImage(expected), volume.hu)
    corners = [(0, 0, 0), *(np.array(expected.GetSize()) - 1) * np.eye(3, dtype=int)]
    for corner in corners:
        point = expected.TransformIndexToPhysicalPoint([int(value) for value in corner])
        assert volume.geometry.to_lps(corner) == pytest.approx(point, abs=1e-3)


@pytest.mark.parametrize("names", ["{}.dcm", "IM{}", "deep/er/{}"])
def test_a_series_is_read_with_its_geometry_and_identifiers(tmp_path: Path, names: str):
    hu = body(5)
    files = write(tmp_path / "in", hu, axial(5))
    moved = [tmp_path / "ct" / names.format(k) for k in range(5)]
    for old, new in zip(files, moved):
        new.parent.mkdir(parents=True, exist_ok=True)
        old.rename(new)
    (tmp_path / "ct" / "notes.txt").write_text("not DICOM")
    volume = ct.read(tmp_path / "ct")
    assert volume.warnings == ()
    assert volume.hu.dtype == np.int16
    assert np.array_equal(volume.hu, np.clip(hu, -1024, None))
    assert volume.spacing == pytest.approx((*SPACING, 2.0))
    assert volume.slice_thickness == 2
    assert volume.origin == (-10.0, -20.0, -50.0)
    assert np.array_equal(volume.direction, np.eye(3))
    assert (volume.study, volume.series, volume.series_uid) == ("7", "4", "1.2.3.4")
    assert (volume.slice_number(0), volume.source) == (1, tmp_path / "ct")
    assert volume.dicom.study_uid == "1.2.3"
    assert volume.dicom.frame_of_reference_uid == "1.2.3.9"
    assert len(set(volume.dicom.sop_instance_uids)) == 5
    same_as_itk(volume, moved)


def test_every_file_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, body(5), axial(5))
    decoded, decode = [], dicom._decode
    monkeypatch.setattr(dicom, "_decode", lambda path: decoded.append(path) or decode(path))
    ct.read(tmp_path)
    assert len(decoded) == len(set(decoded)) == 5


def test_the_first_file_is_decoded_before_the_threads_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """ITK's global objects, made at the first reading, are corrupted when several threads make them."""
    decode, threads = dicom._decode, []
    monkeypatch.setattr(dicom, "_decode", lambda path: threads.append(threading.current_thread()) or decode(path))
    write(tmp_path, body(5), axial(5))
    ct.read(tmp_path)
    assert threads[0] is threading.main_thread() and threading.main_thread() not in threads[1:] and len(threads) == 5


def test_slices_are_ordered_by_position_not_by_name_or_number(tmp_path: Path):
    hu = body(6)
    files = write(tmp_path, hu[::-1], axial(6)[::-1])
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu, hu)
    same_as_itk(volume, files[::-1])


def test_a_progress_callback_counts_files(tmp_path: Path):
    write(tmp_path, body(4), axial(4))
    calls: list[tuple[int, int]] = []
    ct.read(tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


@given(
    turn=st.tuples(st.floats(-30, 30), st.floats(-30, 30), st.floats(-30, 30)),
    step=st.floats(0.4, 8),
    start=st.floats(-900, 900),
)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_oblique_series_lies_where_itk_puts_it(tmp_path_factory: pytest.TempPathFactory, turn, step, start):
    folder = tmp_path_factory.mktemp("oblique")
    axes = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    origins = [np.array([3.0, -7.0, start]) + axes[:, 2] * step * k for k in range(3)]
    tags = {"ImageOrientationPatient": [f"{value:.9f}" for value in (*axes[:, 0], *axes[:, 1])]}
    files = write(folder, body(3), origins, **tags)
    volume = ct.read(folder)
    assert volume.warnings == ()
    assert np.allclose(volume.direction, axes, atol=1e-5)
    same_as_itk(volume, files)
    assert np.allclose(
        volume.geometry.to_index(volume.geometry.to_lps([[1.5, 2, 0.25], [0, 0, 2]])), [[1.5, 2, 0.25], [0, 0, 2]]
    )


def test_a_prone_series_is_turned_to_the_usual_view_and_its_voxels_stay_in_place(tmp_path: Path):
    hu = body(3)
    positions = [(10.0, 20.0, 2.0 * k) for k in range(3)]
    write(tmp_path, hu, positions, ImageOrientationPatient=(-1, 0, 0, 0, -1, 0))
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.direction, np.eye(3))
    assert np.array_equal(volume.hu, hu[:, ::-1, ::-1])
    assert volume.geometry.to_lps((31, 23, 1)) == pytest.approx((10, 20, 2))
    assert volume.dicom.sop_instance_uids == (None,) * 3
    assert "turned" in volume.warnings[0]


def test_the_largest_axial_series_is_read_unless_another_is_asked_for(tmp_path: Path):
    write(tmp_path, body(3), axial(3), series="1.2.30", SeriesNumber=30)
    write(tmp_path, body(5), axial(5), series="1.2.50", SeriesNumber=50)
    write(
        tmp_path, body(7), [(k, 0, 0) for k in range(7)], series="1.2.70", ImageOrientationPatient=(0, 1, 0, 0, 0, -1)
    )
    largest, asked = ct.read(tmp_path), ct.read(tmp_path, series="1.2.30")
    assert (largest.series, len(largest.hu)) == ("50", 5)
    assert "1.2.30 (3 slices)" in largest.warnings[0]
    assert (asked.series, len(asked.hu)) == ("30", 3)
    with pytest.raises(
        ct.CTError, match=r"no series 9\.9: its axial CT series are 1\.2\.30 \(3 slices\), 1\.2\.50 \(5 slices\)\."
    ):
        ct.read(tmp_path, series="9.9")
    with pytest.raises(ct.CTError, match=r"Series 1\.2\.70 .* is not an axial CT \(7 images off the axial plane\)"):
        ct.read(tmp_path, series="1.2.70")


def test_one_file_stands_for_its_series(tmp_path: Path):
    small = write(tmp_path, body(3), axial(3), series="1.2.30")
    write(tmp_path, body(5), axial(5), series="1.2.50")
    volume = ct.read(small[1])
    assert (volume.series_uid, len(volume.hu)) == ("1.2.30", 3)


@pytest.mark.parametrize("compressor", ["JPEG2000", "JPEG", "RLE"])
def test_compressed_pixels_are_read_exactly(tmp_path: Path, compressor: str):
    hu = body(3)
    for k, (plane, position) in enumerate(zip(hu, axial(3))):
        dataset = image(plane, position, "1.2.3.4", k)
        if compressor == "RLE":
            dataset.compress("1.2.840.10008.1.2.5")
        else:
            dataset = compressed(dataset, compressor, tmp_path / "encoded.tmp")
        save(dataset, tmp_path / "ct" / f"{k}.dcm")
        assert dataset.file_meta.TransferSyntaxUID.is_compressed
    assert np.array_equal(ct.read(tmp_path / "ct").hu, hu)


def test_an_enhanced_multi_frame_ct_is_read_in_the_order_of_its_frames_positions(tmp_path: Path):
    hu = body(4)
    save(enhanced(hu, [6, 0, 2, 4]), tmp_path / "enhanced.dcm")
    volume = ct.read(tmp_path / "enhanced.dcm")
    assert np.array_equal(volume.hu, hu[[1, 2, 3, 0]])
    assert volume.spacing == pytest.approx((*SPACING, 2.0))
    assert volume.warnings == ()


def test_each_slice_has_its_own_rescale(tmp_path: Path):
    hu = body(2)
    save(image(hu[0], axial(2)[0], "1.2", 1), tmp_path / "0")
    stored = (hu[1].astype(np.int32) + 2000) // 2
    save(
        image(
            hu[1],
            axial(2)[1],
            "1.2",
            2,
            RescaleSlope=2,
            RescaleIntercept=-2000,
            PixelData=stored.astype(np.uint16).tobytes(),
        ),
        tmp_path / "1",
    )
    assert np.array_equal(ct.read(tmp_path).hu, [hu[0], stored * 2 - 2000])


def test_a_file_without_preamble_is_read(tmp_path: Path):
    files = write(tmp_path, body(3), axial(3))
    for file in files:
        file.write_bytes(file.read_bytes()[132:])
    assert len(ct.read(tmp_path).hu) == 3


def test_padding_below_air_is_clipped(tmp_path: Path):
    hu = body(2)
    hu[:, :2] = -2000
    tags = {"PixelRepresentation": 1, "RescaleIntercept": 0}
    for k in range(2):
        save(image(hu[k], axial(2)[k], "1.2", k, PixelData=hu[k].tobytes(), **tags), tmp_path / f"{k}")
    assert np.array_equal(ct.read(tmp_path).hu, hu.clip(-1024))


def test_real_jpeg_2000_slices(shared_data: Path, tmp_path: Path):
    files = sorted((shared_data / "ct" / "totalsegmentator_torso" / "example_ct_dicom").iterdir(), reverse=True)[:3]
    for file in files:
        (tmp_path / file.name).symlink_to(file)
    volume = ct.read(tmp_path)
    assert volume.warnings == ()
    assert volume.hu.shape == (3, 512, 512)
    same_as_itk(volume, files)
    soft = (volume.hu > 0) & (volume.hu < 200)
    # the liver lies on the patient's right, at low i
    assert soft[:, 200:320, 132:212].mean() > soft[:, 200:320, 300:380].mean()
