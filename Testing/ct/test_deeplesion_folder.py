"""DeepLesion sub-volumes of 16-bit PNGs with the row of DL_info.csv."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from LesionDetectorLib import ct

from Testing.helpers.dicom_study import body

HEADER = "File_name,Key_slice_index,Spacing_mm_px_\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images_png/000001_02_03 with slices 9 to 12 beside a DL_info.csv."""
    subvolume = tmp_path / "DeepLesion" / "Images_png" / "000001_02_03"
    subvolume.mkdir(parents=True)
    for number, hu in enumerate(body(4), start=9):
        png(subvolume / f"{number:03d}.png", hu)
    table(tmp_path / "DeepLesion" / "DL_info.csv", "0.75, 0.75, 5")
    return subvolume


def png(path: Path, hu: np.ndarray) -> None:
    sitk.WriteImage(sitk.GetImageFromArray((hu.astype(np.int32) + 32768).astype(np.uint16)), str(path))


def table(path: Path, spacing: str) -> None:
    path.write_text(HEADER + f'000001_02_0_003.png,3,"1, 1, 1"\n000001_02_03_010.png,10,"{spacing}"\n')


def refusal(path: Path) -> str:
    with pytest.raises(ct.CTError) as caught:
        ct.read(path)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    return sentence


def test_a_sub_volume_is_read_with_the_names_that_deeplesion_gives_it(folder: Path):
    volume = ct.read(folder)
    assert np.array_equal(volume.hu, body(4))
    assert volume.spacing == (0.75, 0.75, 5)
    assert np.array_equal(volume.direction, np.diag([1, 1, -1]))  # from head to feet
    assert (volume.study, volume.series, volume.series_uid) == ("02", "03", "000001_02_03")
    assert [volume.slice_number(k) for k in (0, 3)] == [9, 12]
    assert volume.warnings == ()
    calls: list[tuple[int, int]] = []
    ct.read(folder, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (4, 4)


@pytest.mark.parametrize("place", [".", "..", "../..", "../../.."])
def test_the_table_may_have_another_name_and_lie_in_the_folder_or_up_to_three_above(folder: Path, place: str):
    (folder.parents[1] / "DL_info.csv").unlink()
    (folder.parent / "boxes.csv").write_text("File_name,x1\n000001_02_03_010.png,5\n")
    table(folder / place / "DL_info_test.csv", "0.5, 0.5, 1")
    assert ct.read(folder).spacing == (0.5, 0.5, 1)


def test_missing_slices_are_interpolated(folder: Path):
    (folder / "011.png").unlink()
    volume = ct.read(folder)
    hu = body(4).astype(float)
    assert np.array_equal(volume.hu[[0, 1, 3]], body(4)[[0, 1, 3]])
    assert np.abs(volume.hu[2] - (hu[1] + hu[3]) / 2).max() <= 0.5
    assert volume.warnings == ("1 slice of 000001_02_03 is missing and was interpolated: 11.",)


def test_one_slice(folder: Path):
    for number in (10, 11, 12):
        (folder / f"{number:03d}.png").unlink()
    volume = ct.read(folder)
    assert volume.hu.shape == (1, 24, 32)
    assert volume.warnings == ("000001_02_03 has one slice only: it stands in for its neighbours.",)


@pytest.mark.parametrize("left", [0.0, 0.4, 0.98])
def test_a_truncated_png(folder: Path, left: float):
    file = folder / "010.png"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * left)])
    assert refusal(folder) == f"{file} is truncated or no PNG: unpack it from DeepLesion again."


@pytest.mark.parametrize("components", [1, 3])
def test_eight_bit_or_colour_png(folder: Path, components: int):
    grey = sitk.Image(32, 24, sitk.sitkUInt8)
    sitk.WriteImage(grey if components == 1 else sitk.Compose([grey] * 3), str(folder / "010.png"))
    assert "010.png is a" in refusal(folder) and "not 16-bit grey (HU + 32768)" in refusal(folder)


def test_slices_of_different_size(folder: Path):
    png(folder / "010.png", body(1, shape=(20, 20))[0])
    assert "differ in size" in refusal(folder)


def test_no_row_in_any_table(folder: Path):
    (folder.parents[1] / "DL_info.csv").write_text(HEADER)
    assert (
        refusal(folder)
        == f"No table gives the spacing of 000001_02_03: put DeepLesion's DL_info.csv into {folder.parents[1]}."
    )


@pytest.mark.parametrize(
    "spacing, taken, said",
    [
        ("0.75, 0.75, -5", (0.75, 0.75, 5), "was taken without its sign"),
        ("0, 0.75, 5", (0.8, 0.75, 5), "0.8 x 0.8 x 5 mm stand in"),
        ("0.75, 0.75, nan", (0.75, 0.75, 5), "0.8 x 0.8 x 5 mm stand in"),
        ("", (0.8, 0.8, 5), "0.8 x 0.8 x 5 mm stand in"),
    ],
)
def test_spacing_that_is_signed_zero_or_missing_follows_the_rule_of_training(
    folder: Path, spacing: str, taken, said: str
):
    train_deeplesion = pytest.importorskip(
        "train.data.deeplesion", reason="needs pandas: pip install 'lesion-detector[train]'"
    )
    import pandas as pd

    table(folder.parents[1] / "DL_info.csv", spacing)
    volume = ct.read(folder)
    assert volume.spacing == taken and said in volume.warnings[0]
    rows = pd.DataFrame({"File_name": ["000001_02_03_010.png"], "Spacing_mm_px_": [spacing]})
    assert tuple(train_deeplesion.read_spacing(Path("DL_info.csv"), rows)[0]) == taken


@pytest.mark.parametrize("spacing", ["0.75, 5", "wide"])
def test_a_spacing_that_is_no_three_numbers(folder: Path, spacing: str):
    table(folder.parents[1] / "DL_info.csv", spacing)
    assert f"DL_info.csv gives the spacing of 000001_02_03 as '{spacing}': it must be three numbers" in refusal(folder)


def test_pngs_that_are_not_deeplesion(folder: Path):
    other = folder.rename(folder.parent / "screenshots")
    assert "is not named like DeepLesion's (000001_01_01/109.png): give DICOM, NRRD or NIfTI" in refusal(other)


def test_pictures_that_are_not_hu(folder: Path):
    for file in folder.glob("*.png"):
        png(file, np.abs(body(1)[0]) % 256)
    assert "which are not Hounsfield units" in refusal(folder)


def test_real_sub_volume(shared_data: Path):
    volume = ct.read(shared_data / "deeplesion" / "Images_png" / "000001_01_01")
    assert volume.hu.shape == (13, 512, 512)
    assert volume.spacing == (0.488281, 0.488281, 5)
    assert (volume.study, volume.series, volume.slice_number(6)) == ("01", "01", 109)
    assert volume.hu[6, :20].max() < -900 or volume.hu.min() == -1024
    assert volume.warnings == ()
