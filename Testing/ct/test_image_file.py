"""NRRD, NIfTI and MetaImage: what is read, and what each fault ends in."""

from __future__ import annotations

import gzip
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from LesionDetectorLib import ct
from scipy.spatial.transform import Rotation

from Testing.helpers.dicom_study import body

FORMATS = ["nrrd", "nhdr", "nii", "nii.gz", "mha", "mhd"]
NRRD = "NRRD0004\ntype: short\ndimension: 3\n{geometry}sizes: 32 24 5\nendian: little\nencoding: raw\n\n"


def image(hu: np.ndarray | None = None, direction: np.ndarray | None = None) -> sitk.Image:
    made = sitk.GetImageFromArray(body(5) if hu is None else hu)
    made.SetSpacing((0.75, 0.5, 2.0))
    made.SetOrigin((-10.0, 20.0, -300.0))
    if direction is not None:
        made.SetDirection(np.ravel(direction).tolist())
    return made


def save(made: sitk.Image, path: Path) -> Path:
    sitk.WriteImage(made, str(path))
    return path


def refusal(path: Path, **options: str) -> str:
    with pytest.raises(ct.CTError) as caught:
        ct.read(path, **options)
    sentence = str(caught.value)
    assert sentence.startswith(str(path)) and sentence.endswith(".") and "\n" not in sentence
    return sentence


@pytest.mark.parametrize("ending", FORMATS)
def test_each_format_gives_the_same_volume(tmp_path: Path, ending: str):
    path = save(image(), tmp_path / f"scan.{ending}")
    volume = ct.read(path)
    assert np.array_equal(volume.hu, body(5))
    assert volume.hu.dtype == np.int16
    assert volume.spacing == pytest.approx((0.75, 0.5, 2))
    assert volume.origin == pytest.approx((-10, 20, -300))
    assert np.allclose(volume.direction, np.eye(3))
    assert (volume.study, volume.series, volume.slice_number(4), volume.dicom, volume.warnings) == (
        "1",
        "1",
        5,
        None,
        (),
    )
    assert volume.series_uid == ct.read(path).series_uid != ""


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@given(signs=st.tuples(*[st.sampled_from([-1, 1])] * 3), turn=st.tuples(*[st.floats(-20, 20)] * 3))
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_voxel_stays_in_place_and_the_view_is_the_radiologists(
    tmp_path_factory: pytest.TempPathFactory, axes, signs, turn
):
    """Any order and sense of the stored axes, left-handed ones too, and oblique by up to 20 degrees around each
    axis."""
    direction = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() @ (np.eye(3)[list(axes)] * signs)
    made = image(np.arange(5 * 24 * 32, dtype=np.int16).reshape(5, 24, 32) - 1000, direction)
    volume = ct.read(save(made, tmp_path_factory.mktemp("scan") / "scan.nrrd"))
    assert volume.direction[0, 0] > 0 and volume.direction[1, 1] > 0
    assert abs(volume.direction[2, 2]) == pytest.approx(np.abs(volume.direction[2]).max())
    for index in [(0, 0, 0), (31, 23, 4), (7, 20, 1)]:
        point = made.TransformIndexToPhysicalPoint(index)
        i, j, k = volume.geometry.to_index(point)
        assert np.allclose([i, j, k], np.rint([i, j, k]), atol=1e-3)
        assert volume.hu[round(k), round(j), round(i)] == made[index]


@pytest.mark.parametrize("sense", [1, -1])
def test_axial_slices_keep_their_order(tmp_path: Path, sense: int):
    volume = ct.read(save(image(direction=np.diag([-1, -1, sense])), tmp_path / "scan.nii.gz"))
    assert np.array_equal(volume.hu, body(5)[:, ::-1, ::-1])
    assert volume.direction[2, 2] == sense
    assert volume.warnings == ()


def test_a_coronal_volume_is_turned_with_a_warning(tmp_path: Path):
    volume = ct.read(save(sitk.DICOMOrient(image(), "LSA"), tmp_path / "scan.nrrd"))
    assert volume.hu.shape == (5, 24, 32)
    assert "scan.nrrd is not stored as axial slices: it was turned" in volume.warnings[0]


def test_a_sheared_volume_is_brought_upright(tmp_path: Path):
    """Gantry tilt as Slicer writes it: the slices climb by 1 mm in y and 2 mm in z, so each lies 2 pixels further
    back."""
    rows = "space: left-posterior-superior\nspace directions: (0.75,0,0) (0,0.5,0) (0,1,2)\nspace origin: (1,2,3)\n"
    hu = body(5)
    path = tmp_path / "tilted.nrrd"
    path.write_bytes(NRRD.format(geometry=rows).encode() + hu.tobytes())
    volume = ct.read(path)
    assert "gantry tilt of 26.6 degrees" in volume.warnings[0]
    assert volume.spacing == pytest.approx((0.75, 0.5, 2))
    assert volume.origin == (1, 2, 3)
    for k in range(5):
        assert np.array_equal(volume.hu[k, 2 * k : 2 * k + 24], hu[k])


def test_rescaled_floating_point_values_are_rounded_and_clipped(tmp_path: Path):
    hu = body(5).astype(np.float64)
    hu[0, 0, :4] = 99.6, -3024, 70000, -0.4
    volume = ct.read(save(image(hu), tmp_path / "scan.nii.gz"))
    assert volume.hu[0, 0, :4].tolist() == [100, -1024, 32767, 0]


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "nrrd", "mha"])
def test_nan_is_read_as_air(tmp_path: Path, ending: str):
    hu = body(5).astype(np.float32)
    hu[2, 10, 10], hu[4, 23, 31] = np.nan, np.inf
    volume = ct.read(save(image(hu), tmp_path / f"scan.{ending}"))
    assert volume.hu[2, 10, 10] == volume.hu[4, 23, 31] == -1024
    assert volume.hu[2, 10, 11] == hu[2, 10, 11]
    assert volume.warnings == (f"2 voxels of scan.{ending} hold no number (NaN or infinite) and were read as air.",)


@pytest.mark.parametrize("ending", ["nrrd", "nii", "nii.gz", "mha"])
@pytest.mark.parametrize("left", [0.05, 0.6, 0.99])
def test_a_truncated_file(tmp_path: Path, ending: str, left: float):
    path = save(image(), tmp_path / f"scan.{ending}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * left)])
    assert "truncated" in refusal(path)


@pytest.mark.parametrize("ending", ["nrrd", "nii", "nii.gz", "mha", "nhdr", "mhd"])
@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_a_file_that_is_not_what_its_name_says(tmp_path: Path, ending: str, content: bytes):
    path = tmp_path / f"scan.{ending}"
    path.write_bytes(content)
    assert "truncated or damaged" in refusal(path)


def test_a_detached_header_without_its_data(tmp_path: Path):
    path = save(image(), tmp_path / "scan.nhdr")
    for data in tmp_path.glob("*raw*"):
        data.unlink()
    assert "its data file is missing: copy or export it again" in refusal(path)


def test_gzip_in_several_parts_is_whole(tmp_path: Path):
    data = gzip.decompress(save(image(), tmp_path / "one.nii.gz").read_bytes())
    path = tmp_path / "many.nii.gz"
    path.write_bytes(gzip.compress(data[:3000]) + gzip.compress(data[3000:]))
    assert np.array_equal(ct.read(path).hu, body(5))


@pytest.mark.parametrize("ending", ["nrrd", "nii.gz", "mha"])
def test_colour(tmp_path: Path, ending: str):
    path = save(sitk.Compose([sitk.Cast(image(), sitk.sitkUInt8)] * 3), tmp_path / f"scan.{ending}")
    assert "holds 3 values a voxel (a colour or vector image): give a CT" in refusal(path)


def test_four_dimensions(tmp_path: Path):
    path = save(sitk.JoinSeries([image(), image()]), tmp_path / "scan.nii.gz")
    assert "has 4 dimensions (32 x 24 x 5 x 2): split it and give one 3-D volume" in refusal(path)
    assert ct.read(save(sitk.JoinSeries([image()]), tmp_path / "single.nii.gz")).hu.shape == (5, 24, 32)


@pytest.mark.parametrize("made", [image()[:, :, 2], image()[:, :, 2:3]])
def test_one_slice(tmp_path: Path, made: sitk.Image):
    volume = ct.read(save(made, tmp_path / "scan.nrrd"))
    assert np.array_equal(volume.hu, body(5)[2:3])
    assert volume.warnings[-1] == "scan.nrrd has one slice only: it stands in for its neighbours."


def test_spacing_zero_or_missing_in_nifti(tmp_path: Path):
    data = bytearray(save(image(), tmp_path / "scan.nii").read_bytes())
    data[80:84] = np.float32(0).tobytes()
    (tmp_path / "scan.nii").write_bytes(data)
    assert "gives no voxel spacing, or a spacing of 0: export it again" in refusal(tmp_path / "scan.nii")


@pytest.mark.parametrize(
    "geometry", ["", "spacings: 0 0.5 2\n", "space dimension: 3\nspace directions: (0,0,0) (0,0.5,0) (0,0,2)\n"]
)
def test_spacing_zero_or_missing_in_nrrd(tmp_path: Path, geometry: str):
    path = tmp_path / "scan.nrrd"
    path.write_bytes(NRRD.format(geometry=geometry).encode() + body(5).tobytes())
    sentence = refusal(path)
    assert "spacing" in sentence or "damaged" in sentence


@pytest.mark.parametrize("line", [b"", b"ElementSpacing = 0 0.5 2\n"])
def test_spacing_zero_or_missing_in_metaimage(tmp_path: Path, line: bytes):
    path = save(image(), tmp_path / "scan.mha")
    path.write_bytes(re.sub(rb"ElementSpacing = [^\n]*\n", line, path.read_bytes()))
    assert "gives no voxel spacing, or a spacing of 0" in refusal(path)


@pytest.mark.parametrize("hu", [np.arange(5 * 24 * 32).reshape(5, 24, 32) % 256, np.ones((5, 24, 32))])
def test_an_8_bit_picture_or_label_map(tmp_path: Path, hu: np.ndarray):
    path = save(image(hu.astype(np.uint8)), tmp_path / "scan.nii.gz")
    assert f"holds values from {hu.min():.0f} to {hu.max():.0f}, which are not Hounsfield units" in refusal(path)


def test_values_with_an_offset_are_read_with_a_warning(tmp_path: Path):
    path = save(image((body(5).astype(np.int32) + 1024).astype(np.uint16)), tmp_path / "scan.nrrd")
    assert "No value of scan.nrrd lies below 0 HU" in ct.read(path).warnings[0]


def test_a_nifti_that_does_not_say_how_the_patient_lies(tmp_path: Path):
    data = bytearray(save(image(), tmp_path / "scan.nii").read_bytes())
    data[252:256] = bytes(4)
    (tmp_path / "scan.nii").write_bytes(data)
    assert "left and right may be swapped" in ct.read(tmp_path / "scan.nii").warnings[0]


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The tests may run as root, whom permission bits do not stop: so opening itself is made to fail."""
    path = save(image(), tmp_path / "scan.nrrd")

    def denied(self: Path, *_: object, **__: object):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)
    assert "may not be read by this user" in refusal(path)


def test_a_series_is_refused(tmp_path: Path):
    path = save(image(), tmp_path / "scan.nrrd")
    assert "is not a DICOM folder and has no series 1.2: leave the series out" in refusal(path, series="1.2")


def test_real_nifti(shared_data: Path):
    volume = ct.read(shared_data / "ct" / "totalsegmentator_torso" / "example_ct_sm.nii.gz")
    assert volume.hu.shape == (30, 101, 122)
    assert volume.spacing == (3, 3, 3)
    assert np.allclose(volume.direction, np.eye(3))
    assert volume.warnings == ()


def nrrd(path: Path, header: str, hu: np.ndarray | None = None) -> Path:
    path.write_bytes(NRRD.format(geometry=header).encode() + (body(5) if hu is None else hu).tobytes())
    return path


@pytest.mark.parametrize(
    "unit, mm",
    [
        ("mm", 1),
        ("cm", 10),
        ("m", 1000),
        ("um", 0.001),
        ("microns", 0.001),
        ("\u00b5m", 0.001),
        ("Micrometers", 0.001),
        ("inches", 25.4),
    ],
)
def test_an_nrrd_in_another_unit_is_read_in_mm(tmp_path: Path, unit: str, mm: float):
    directions = " ".join(f"({','.join(str(value / mm) for value in row)})" for row in np.diag([0.75, 0.5, 2]))
    origin = ",".join(str(value / mm) for value in (-10, 20, -300))
    header = f"space: left-posterior-superior\nspace directions: {directions}\nspace origin: ({origin})\n"
    volume = ct.read(nrrd(tmp_path / "scan.nrrd", header + f'space units: "{unit}" "{unit}" "{unit}"\n'))
    assert volume.spacing == pytest.approx((0.75, 0.5, 2)) and volume.origin == pytest.approx((-10, 20, -300))
    assert volume.warnings == () and np.array_equal(volume.hu, body(5))


@pytest.mark.parametrize("units", ['"furlong" "furlong" "furlong"', '"mm" "mm" "cm"', '"mm" "mm" "s"'])
def test_an_nrrd_in_an_unknown_or_in_several_units_is_refused(tmp_path: Path, units: str):
    header = "space: left-posterior-superior\nspace directions: (0.75,0,0) (0,0.5,0) (0,0,2)\nspace origin: (0,0,0)\n"
    assert "export it again with its spacing in mm" in refusal(
        nrrd(tmp_path / "scan.nrrd", header + f"space units: {units}\n")
    )


@pytest.mark.parametrize(
    "header",
    [
        "space dimension: 3\nspace directions: (0.75,0,0) (0,0.5,0) (0,0,2)\nspace origin: (0,0,0)\n",
        "space: scanner-xyz\nspace directions: (0.75,0,0) (0,0.5,0) (0,0,2)\nspace origin: (0,0,0)\n",
        "spacings: 0.75 0.5 2\n",
    ],
)
def test_an_nrrd_that_does_not_say_how_the_patient_lies_is_read_with_a_warning(tmp_path: Path, header: str):
    volume = ct.read(nrrd(tmp_path / "scan.nrrd", header))
    assert volume.spacing == pytest.approx((0.75, 0.5, 2))
    assert "scan.nrrd does not say how the patient lies" in volume.warnings[0]


def test_a_metaimage_that_does_not_say_how_the_patient_lies_is_read_with_a_warning(tmp_path: Path):
    header = "ObjectType = Image\nNDims = 3\nDimSize = 32 24 5\nElementSpacing = 0.75 0.5 2\nElementType = MET_SHORT\n"
    path = tmp_path / "scan.mha"
    path.write_bytes((header + "ElementDataFile = LOCAL\n").encode() + body(5).tobytes())
    assert "scan.mha does not say how the patient lies" in ct.read(path).warnings[0]


@pytest.mark.parametrize(("unit", "mm"), [("?", 1), ("mm", 1), ("cm", 10), ("um", 0.001)])
def test_a_metaimage_in_another_unit_is_read_in_mm(tmp_path: Path, unit: str, mm: float):
    made = image()
    made.SetSpacing([value / mm for value in (0.75, 0.5, 2)])
    made.SetOrigin([value / mm for value in (-10, 20, -300)])
    path = save(made, tmp_path / "scan.mha")
    path.write_bytes(path.read_bytes().replace(b"ElementSpacing", f"DistanceUnits = {unit}\nElementSpacing".encode()))
    volume = ct.read(path)
    assert volume.spacing == pytest.approx((0.75, 0.5, 2)) and volume.origin == pytest.approx((-10, 20, -300))


def with_sform(path: Path, rows: np.ndarray) -> Path:
    """The NIfTI file with these rows (3, 4) in the place of its sform."""
    data = bytearray(path.read_bytes())
    data[280:328] = rows.astype("<f4").tobytes()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "change",
    [np.diag([-1, 1, 1]), np.diag([1, -1, 1]), np.diag([1, 1, 1.2])],
    ids=["left-right", "front-back", "longer"],
)
def test_a_nifti_whose_two_forms_disagree_is_read_with_a_warning_that_names_the_one_taken(
    tmp_path: Path, change: np.ndarray
):
    path = save(image(), tmp_path / "scan.nii")
    form = np.frombuffer(path.read_bytes()[280:328], "<f4").reshape(3, 4)
    expected = ct.read(path)
    assert expected.warnings == ()
    volume = ct.read(with_sform(path, np.column_stack([change @ form[:, :3], form[:, 3]])))
    (warning,) = volume.warnings
    assert (
        "scan.nii says in two ways where its voxels lie (qform and sform)" in warning
        and "left and right may be swapped" in warning
    )
    same = np.allclose(volume.geometry.index_to_lps, expected.geometry.index_to_lps)
    assert ("The qform was taken" in warning) if same else ("The sform was taken" in warning)


def test_a_nifti_whose_forms_agree_within_rounding_is_read_without_a_word(tmp_path: Path):
    direction = Rotation.from_euler("xyz", (9, -7, 12), degrees=True).as_matrix()
    path = save(image(direction=direction), tmp_path / "scan.nii")
    assert ct.read(path).warnings == ()


def test_a_name_that_is_wrong_about_compression_is_said(tmp_path: Path):
    plain = save(image(), tmp_path / "scan.nii").read_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(plain)
    assert "is not compressed, unlike its name: give it a name that ends in .nii." in refusal(tmp_path / "plain.nii.gz")
    (tmp_path / "zipped.nii").write_bytes(gzip.compress(plain))
    assert "is compressed, unlike its name: give it a name that ends in .nii.gz." in refusal(tmp_path / "zipped.nii")
