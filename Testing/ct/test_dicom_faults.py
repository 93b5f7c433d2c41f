"""DICOM input that is wrong: each fault, made on purpose, ends in one sentence or in a named warning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from LesionDetectorLib import ct

from Testing.helpers.dicom_study import SPACING, axial, body, compressed, enhanced, image, refusal, save, write


def cut(file: Path, left: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * left)])


def test_a_path_that_does_not_exist(tmp_path: Path):
    assert refusal(tmp_path / "nowhere") == f"{tmp_path / 'nowhere'} does not exist: check the path."


def test_an_empty_folder(tmp_path: Path):
    assert refusal(tmp_path).startswith(f"{tmp_path} is empty: give a DICOM folder")


def test_a_folder_without_dicom(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("x" * 500)
    assert refusal(tmp_path).startswith(
        f"None of the 1 files in {tmp_path} is DICOM, such as notes.txt: give a DICOM folder"
    )


def test_a_file_of_unknown_kind(tmp_path: Path):
    (tmp_path / "scan.docx").write_bytes(b"PK" * 100)
    assert "scan.docx is a file of unknown kind: give a DICOM folder" in refusal(tmp_path / "scan.docx")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The tests may run as root, whom permission bits do not stop: so opening itself is made to fail."""
    files = write(tmp_path, body(2), axial(2))

    def denied(self: Path, *_: object, **__: object):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)
    assert refusal(tmp_path) == f"{files[0]} may not be read by this user: change its permissions or copy it."


@pytest.mark.parametrize("modality", ["MR", "PT", "SEG"])
def test_not_a_ct(tmp_path: Path, modality: str):
    files = write(tmp_path, body(3), axial(3), Modality=modality)
    assert f"no axial CT (3 images of modality {modality}, not CT)" in refusal(tmp_path)
    assert f"is an image of modality {modality}, not CT: give an axial CT" in refusal(files[0])


def test_no_pixel_data(tmp_path: Path):
    files = write(tmp_path, body(2), axial(2), PixelData=None)
    assert f"damaged or hold no pixel data, such as {files[0].name}: copy or export them again" in refusal(tmp_path)
    assert f"{files[1]} is damaged or holds no pixel data" in refusal(files[1])


@pytest.mark.parametrize("left", [0.2, 0.9, 0.999])
def test_truncated_pixels(tmp_path: Path, left: float):
    files = write(tmp_path, body(4), axial(4))
    header = files[2].stat().st_size - body(1).nbytes
    data = files[2].read_bytes()
    files[2].write_bytes(data[: header + int((len(data) - header) * left)])
    assert (
        refusal(tmp_path)
        == f"The pixels of {files[2]} are truncated or damaged, or rarely compressed: copy or export it again."
    )


@pytest.mark.parametrize("compressor", ["JPEG2000", "JPEG"])
def test_truncated_compressed_pixels(tmp_path: Path, compressor: str):
    file = save(
        compressed(image(body(1)[0], (0, 0, 0), "1.2", 1), compressor, tmp_path / "encoded.tmp"),
        tmp_path / "ct" / "0.dcm",
    )
    cut(file, 0.8)
    assert f"The pixels of {file} are truncated" in refusal(tmp_path / "ct")


def test_a_file_that_breaks_off_in_its_header_is_left_out_and_its_slice_interpolated(tmp_path: Path):
    files = write(tmp_path, body(5), axial(5))
    files[2].write_bytes(files[2].read_bytes()[:500])
    volume = ct.read(tmp_path)
    assert volume.warnings[0] == f"The DICOM file {files[2].name} is damaged or holds no pixel data and was left out."
    assert "4 slices were resampled to 5" in volume.warnings[1]


@pytest.mark.parametrize("value", [b"-20.000000", rb"0.8\0.7", b"IS\x02\x004"])
def test_a_file_with_a_value_that_is_no_number_is_left_out(tmp_path: Path, value: bytes):
    """Position, pixel spacing or instance number, with an x in place of a digit."""
    files = write(tmp_path, body(4), axial(4))
    data = files[3].read_bytes()
    assert value in data
    files[3].write_bytes(data.replace(value, value[:-1] + b"x"))
    volume = ct.read(tmp_path)
    assert len(volume.hu) == 3
    assert files[3].name in volume.warnings[0]


def test_a_reading_stops_where_the_progress_callback_raises(tmp_path: Path):
    write(tmp_path, body(3), axial(3))

    def cancel(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ct.read(tmp_path, progress=cancel)


def test_a_localizer_among_the_slices_is_dropped(tmp_path: Path):
    write(tmp_path, body(4), axial(4))
    save(
        image(body(1)[0], (0, 0, 0), "1.2.3.4", 9, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        tmp_path / "scout.dcm",
    )
    save(
        image(body(1)[0], (0, 0, 0), "1.2.3.4", 10, ImageOrientationPatient=(0, 1, 0, 0, 0, -1)),
        tmp_path / "sagittal.dcm",
    )
    volume = ct.read(tmp_path)
    assert len(volume.hu) == 4
    assert volume.warnings == (
        "Some images of the series were left out: 1 image off the axial plane, 1 image of the localizer.",
    )


def test_slices_of_another_orientation_matrix_or_spacing_are_dropped(tmp_path: Path):
    write(tmp_path, body(4), axial(4))
    tilted = (1, 0, 0, 0, np.cos(0.3), np.sin(0.3))
    save(
        image(body(1)[0], (0, 0, 0), "1.2.3.4", 9, ImageOrientationPatient=[f"{value:.6f}" for value in tilted]),
        tmp_path / "tilted.dcm",
    )
    save(image(body(1, shape=(20, 20))[0], (0, 0, 0), "1.2.3.4", 10), tmp_path / "small.dcm")
    save(image(body(1)[0], (0, 0, 0), "1.2.3.4", 11, PixelSpacing=(2, 2)), tmp_path / "coarse.dcm")
    volume = ct.read(tmp_path)
    assert len(volume.hu) == 4
    assert volume.warnings == (
        "3 of 7 slices differ from the others in orientation, matrix or pixel spacing and were left out.",
    )


def test_a_sagittal_series(tmp_path: Path):
    write(tmp_path, body(3), [(k, 0, 0) for k in range(3)], ImageOrientationPatient=(0, 1, 0, 0, 0, -1))
    assert "holds no axial CT (3 images off the axial plane)" in refusal(tmp_path)


def test_two_slices_at_one_position(tmp_path: Path):
    hu = body(4)
    files = write(tmp_path, hu, axial(4))
    save(image(body(1, seed=5)[0], axial(4)[2], "1.2.3.4", 99), tmp_path / "again.dcm")
    (tmp_path / "copy.dcm").write_bytes(files[1].read_bytes())
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu, hu)
    assert volume.warnings == (
        "1 of 6 slices are copies of another and were left out.",
        "Several acquisitions show the same region: instance number 1 to 4 was read, instance number 99 left out.",
    )


@pytest.mark.parametrize("offset", [0.0, 0.7])
def test_two_acquisitions_of_one_region_in_one_series(tmp_path: Path, offset: float):
    """The second acquisition, of the same region at the same or at shifted positions, has fewer slices."""
    hu = body(5)
    write(tmp_path, hu, axial(5), AcquisitionNumber=2)
    for k, position in enumerate(axial(4, start=-50 + offset)):
        save(image(body(1, seed=9)[0], position, "1.2.3.4", k, AcquisitionNumber=3), tmp_path / f"late{k}")
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu, hu)
    assert volume.warnings == (
        "Several acquisitions show the same region: acquisition 2 was read, acquisition 3 left out.",
    )


def test_two_acquisitions_one_above_the_other_are_joined(tmp_path: Path):
    hu = body(8)
    write(tmp_path, hu[:4], axial(4), AcquisitionNumber=1)
    for k, position in enumerate(axial(8)[4:]):
        save(image(hu[4 + k], position, "1.2.3.4", k, AcquisitionNumber=2), tmp_path / f"upper{k}")
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu, hu)
    assert volume.warnings == ()


def test_missing_slices_are_interpolated_at_their_true_positions(tmp_path: Path):
    hu = body(8)
    kept = [0, 1, 2, 4, 5, 6, 7]
    write(tmp_path, hu[kept], [axial(8)[k] for k in kept])
    volume = ct.read(tmp_path)
    assert volume.spacing[2] == pytest.approx(2)
    assert np.array_equal(volume.hu[kept], hu[kept])
    assert np.abs(volume.hu[3] - (hu[2].astype(float) + hu[4]) / 2).max() <= 0.5
    uids = volume.dicom.sop_instance_uids
    assert uids[3] is None and all(uids[k] for k in kept)
    assert volume.warnings == (
        "Slices are missing or uneven (distances 2.00 to 4.00 mm): 7 slices were resampled to 8, 2.00 mm apart.",
    )


def test_uneven_slices_are_resampled_so_that_a_ramp_stays_a_ramp(tmp_path: Path):
    heights = np.array([0.0, 2, 4, 5, 6, 8, 10])
    hu = np.broadcast_to((heights * 20 - 100)[:, None, None], (7, 24, 32)).astype(np.int16)
    write(tmp_path, hu, [(0, 0, height) for height in heights])
    volume = ct.read(tmp_path)
    z = volume.geometry.to_lps([(0, 0, k) for k in range(len(volume.hu))])[:, 2]
    assert np.allclose(np.diff(z), volume.spacing[2])
    assert np.allclose(volume.hu[:, 3, 3], z * 20 - 100, atol=0.51)
    assert "distances 1.00 to 2.00 mm" in volume.warnings[0]


def test_rounded_positions_count_as_even(tmp_path: Path):
    write(tmp_path, body(40), [(0, 0, round(0.625 * k, 1)) for k in range(40)])
    volume = ct.read(tmp_path)
    assert volume.warnings == ()
    assert volume.spacing[2] == pytest.approx(0.625, abs=0.003)


def test_a_series_of_which_most_slices_are_missing(tmp_path: Path):
    write(tmp_path, body(4), [(0, 0, z) for z in (0, 1, 2, 100)])
    assert "holds 4 of the 101 slices that its series should have: export the whole series" in refusal(tmp_path)


def test_gantry_tilt_is_sheared_upright_so_that_a_straight_rod_stays_straight(tmp_path: Path):
    """A rod along the normal of slices that climb along z with a tilt of 20 degrees: in the files it drifts, in the
    volume it does not."""
    angle = np.radians(20)
    row, column = np.array([1, 0, 0]), np.array([0, np.cos(angle), -np.sin(angle)])
    normal = np.cross(row, column)
    rod = np.array([12.0, 10.0, 0.0])
    origins = [np.array([0.0, 0.0, 3.0 * k]) for k in range(6)]
    j, i = np.mgrid[:24, :32]
    pixels = [origin + row * i[..., None] * SPACING[0] + column * j[..., None] * SPACING[1] for origin in origins]
    hu = np.array(
        [-1000 + 2000 * np.clip(3.5 - np.linalg.norm(np.cross(at - rod, normal), axis=-1), 0, 1) for at in pixels]
    )
    write(tmp_path, hu.astype(np.int16), origins, ImageOrientationPatient=[f"{value:.8f}" for value in (*row, *column)])
    volume = ct.read(tmp_path)
    assert "gantry tilt of 20.0 degrees" in volume.warnings[0]
    assert volume.dicom.sop_instance_uids == (None,) * 6
    assert np.allclose(volume.direction, np.column_stack([row, column, normal]), atol=1e-6)
    assert volume.spacing[2] == pytest.approx(3 * np.cos(angle))
    for k, plane in enumerate(volume.hu):
        weight = np.clip(plane.astype(float) + 1000, 0, None)
        j, i = np.mgrid[: plane.shape[0], : plane.shape[1]]
        centre = volume.geometry.to_lps(((i * weight).sum() / weight.sum(), (j * weight).sum() / weight.sum(), k))
        assert np.linalg.norm(np.cross(centre - rod, normal)) < 0.05


def test_slices_that_do_not_lie_over_one_another(tmp_path: Path):
    write(tmp_path, body(3), [(0, 0, 0), (0, 0, 2), (500, 0, 4)])
    assert "do not lie over one another: export the series again" in refusal(tmp_path)


def test_colour_images(tmp_path: Path):
    tags = {
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
    }
    write(tmp_path, body(2), axial(2), PixelData=bytes(24 * 32 * 3), **tags)
    assert "holds no axial CT (2 images in colour)" in refusal(tmp_path)


def test_eight_bit_pictures(tmp_path: Path):
    write(tmp_path, body(2), axial(2), PixelData=bytes(24 * 32), BitsAllocated=8, BitsStored=8, HighBit=7)
    assert "2 images of 8 bits, too few for Hounsfield units" in refusal(tmp_path)


def test_values_that_are_no_hounsfield_units(tmp_path: Path):
    picture = np.random.default_rng(0).integers(0, 255, (2, 24, 32), dtype=np.uint16)
    for k in range(2):
        save(
            image(picture[k], axial(2)[k], "1.2", k, RescaleIntercept=0, PixelData=picture[k].tobytes()),
            tmp_path / f"{k}",
        )
    assert "which are not Hounsfield units" in refusal(tmp_path)


def test_values_with_an_offset_are_read_with_a_warning(tmp_path: Path):
    write(tmp_path, body(2), axial(2), RescaleIntercept=None, RescaleSlope=None)
    assert f"No value of {tmp_path.name} lies below 0 HU" in ct.read(tmp_path).warnings[0]


@pytest.mark.parametrize("spacing", [(0, 0), (0.7, 0), None])
def test_pixel_spacing_zero_or_missing(tmp_path: Path, spacing: tuple[float, float] | None):
    write(tmp_path, body(2), axial(2), PixelSpacing=spacing)
    assert "2 images with a pixel spacing that is missing or zero" in refusal(tmp_path)


@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient"])
def test_no_position_or_orientation(tmp_path: Path, tag: str):
    write(tmp_path, body(2), axial(2), **{tag: None})
    assert "2 images without a position or orientation in the patient" in refusal(tmp_path)


def test_an_orientation_that_is_none(tmp_path: Path):
    write(tmp_path, body(2), axial(2), ImageOrientationPatient=(1, 0, 0, 1, 0, 0))
    assert "not two unit vectors at right angles" in refusal(tmp_path)


def test_one_slice(tmp_path: Path):
    write(tmp_path, body(1), axial(1))
    volume = ct.read(tmp_path)
    assert volume.spacing[2] == 2  # its thickness
    assert volume.warnings == (f"{tmp_path} has one slice only: it stands in for its neighbours.",)


@pytest.mark.parametrize(("told", "thickness"), [(None, None), (0, None), (-3, None), ("nan", None), (7.5, 7.5)])
def test_slices_that_overlap_or_say_nothing_of_their_thickness(
    tmp_path: Path, told: float | str | None, thickness: float | None
):
    write(tmp_path, body(3), axial(3), SliceThickness=told)
    volume = ct.read(tmp_path)
    assert (volume.slice_thickness, volume.spacing[2], volume.warnings) == (thickness, 2, ())


def test_a_multi_frame_image_without_positions(tmp_path: Path):
    save(
        image(body(1)[0], (0, 0, 0), "1.2", 1, NumberOfFrames=2, PixelData=bytes(2 * 24 * 32 * 2)),
        tmp_path / "cine.dcm",
    )
    assert "of many frames that have no position" in refusal(tmp_path)


def test_an_enhanced_ct_whose_frames_are_rescaled_differently(tmp_path: Path):
    save(enhanced(body(2), [0, 2], rescale=[-1024, 0]), tmp_path / "enhanced.dcm")
    assert "of frames with unlike rescale values" in refusal(tmp_path)
