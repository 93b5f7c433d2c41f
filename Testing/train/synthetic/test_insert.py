import csv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from LesionDetectorLib.ct import Volume, read
from LesionDetectorLib.lesion import BodyPart

from train.insert import main
from train.synthetic.insertion import insert, narrow_view, prepare
from train.synthetic.places import find_places

SPACING = (4.0, 4.0, 6.0)


def torso(headward: int = 1) -> Volume:
    """A plain chest and upper abdomen: fat under the skin, muscle wall, two lungs above a liver on the right, a
    spine."""
    k, j, i = np.ogrid[:32, :84, :98]
    x, y, z = (i - 48.5) * 4.0, (j - 41.5) * 4.0, k * 6.0

    def ellipse(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + 0 * z < 1

    hu = np.full((32, 84, 98), -1000.0)
    for region, value in [
        (ellipse(0, 0, 180, 145), -100),
        (ellipse(0, 0, 155, 120), 55),
        (ellipse(0, 0, 135, 100), -95),
        (ellipse(-60, 0, 55, 75) & (z < 95), 110),
        ((ellipse(-75, 0, 50, 85) | ellipse(75, 0, 50, 85)) & (z > 100), -850),
        (spine := ellipse(0, 85, 24, 22), 400),
    ]:
        hu[region] = value
    hu += np.random.default_rng(0).normal(0, 8, hu.shape) * np.where(spine, 12, 1)
    direction = np.diag([1.0, 1.0, float(headward)])
    return Volume(hu[::headward].astype(np.int16), SPACING, (0.0, 0.0, 0.0), direction, Path("torso"))


@pytest.fixture(scope="module")
def scan():
    return prepare(torso())


def test_places_lie_where_their_label_lives_whatever_the_order_of_slices():
    for headward in (1, -1):
        places = {place.name: place for place in find_places(torso(headward)).places}
        assert {"lung", "mediastinal fat", "liver", "abdominal fat", "subcutaneous fat", "bone"} <= set(places)
        deepest = {
            name: np.unravel_index(place.room_mm.argmax(), place.room_mm.shape) for name, place in places.items()
        }
        above = (np.array([deepest["lung"][0], deepest["mediastinal fat"][0]]) - 15.5) * headward
        below = (np.array([deepest["liver"][0], deepest["abdominal fat"][0]]) - 15.5) * headward
        assert above.min() > below.max()
        assert deepest["liver"][2] < 49, "the liver lies on the patient's right"
        assert (places["liver"].room_mm > 0).sum() * 96 == pytest.approx(np.pi * 55 * 75 * 95, rel=0.25)


def test_a_lesion_changes_the_picture_only_around_its_axes(scan):
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(16):
        slab, key, spacing, inserted = insert(scan, rng, context_mm=5)
        assert spacing[0] <= 1.2 * 1.1
        for made in inserted:
            seen.add(made.lesion.body_part)
            points = np.array([*made.recist.long_axis, *made.recist.short_axis])
            assert np.abs(points.mean(0) * spacing[:2] - made.lesion.centre_mm[:2]).max() < made.recist.long_mm
            assert (points > 0).all() and (points < slab.shape[:0:-1]).all()
            assert min(made.location) >= 0 and max(made.location) <= 1
            assert abs(made.lesion.centre_mm[2] / spacing[2] - key) < 1
    assert len(seen) >= 4


def test_inserted_tissue_is_as_noisy_as_its_surroundings(scan):
    rng = np.random.default_rng(0)
    ratios = []
    while len(ratios) < 3:
        slab, key, spacing, inserted = insert(scan, rng, context_mm=5)
        for made in inserted:
            lesion = made.lesion
            if (
                lesion.body_part != BodyPart.LIVER
                or made.recist.short_mm < 16
                or lesion.core_radius
                or len(lesion.spots)
            ):
                continue
            i, j = (round(value / mm) for value, mm in zip(lesion.centre_mm[:2], spacing[:2]))
            half = int(0.25 * made.recist.short_mm / spacing[0])
            steps = np.diff(slab[key, j - half : j + half + 1, i - half : i + half + 1], axis=1).std()
            ratios.append(steps / np.diff(scan.hu[26, 160:180, 100:130].astype(float), axis=1).std())
    assert 0.5 < np.median(ratios) < 2


def test_a_narrow_view_shows_each_lesion_where_its_axes_are(scan):
    rng = np.random.default_rng(5)
    slab, key, spacing, inserted = insert(scan, rng, context_mm=5)
    while not inserted:
        slab, key, spacing, inserted = insert(scan, rng, context_mm=5)
    marked = np.full_like(slab, -1000)
    for made in inserted:
        i, j = np.rint(np.mean(made.recist.long_axis, axis=0)).astype(int)
        marked[key, j - 1 : j + 2, i - 1 : i + 2] = 1000
    near, fine, seen = narrow_view(marked, spacing, inserted, rng)
    assert near.shape == slab.shape and seen
    assert spacing[0] / 2.2 <= fine[0] <= spacing[0] / 1.3 and fine[2] == spacing[2]
    for made in seen:
        i, j = np.rint(np.mean(made.recist.long_axis, axis=0)).astype(int)
        assert near[key, j, i] > 0
        ends = np.subtract(*made.recist.long_axis) * fine[:2]
        assert np.hypot(*ends) == pytest.approx(made.recist.long_mm, rel=0.01)


def test_the_command_writes_deeplesions_layout_and_repeats_itself(tmp_path):
    image = SimpleITK.GetImageFromArray(torso().hu)
    image.SetSpacing(SPACING)
    SimpleITK.WriteImage(image, str(tmp_path / "torso.nii.gz"))
    for name in ("first", "second"):
        assert (
            main(
                [
                    "--ct",
                    str(tmp_path / "torso.nii.gz"),
                    "--out",
                    str(tmp_path / name),
                    "--count",
                    "3",
                    "--seed",
                    "4",
                    "--narrow",
                    "0.5",
                ]
            )
            == 0
        )
    rows = list(csv.DictReader((tmp_path / "first" / "DL_info.csv").open()))
    assert (tmp_path / "first" / "DL_info.csv").read_text() == (tmp_path / "second" / "DL_info.csv").read_text()
    assert {row["Patient_index"] for row in rows} == {"900000", "900001", "900002"}
    assert {row["Train_Val_Test"] for row in rows} == {"1"}
    folder = tmp_path / "first" / "Images_png" / rows[0]["File_name"][:12]
    volume = read(folder)
    assert volume.hu.shape[0] == int(rows[0]["Slice_range"].split(",")[1]) >= 3
    assert volume.hu.min() >= -1024 and volume.hu.max() > 100


def test_a_ct_that_cannot_be_read_ends_with_one_sentence(tmp_path, capsys):
    assert main(["--ct", str(tmp_path / "nothing.nii.gz"), "--out", str(tmp_path / "out"), "--count", "1"]) == 2
    assert "nothing.nii.gz" in capsys.readouterr().err
