"""Real lesions cut out of one patient and put into the organ of another."""

from __future__ import annotations

import numpy as np
import pytest
from LesionDetectorLib.lesion import BodyPart
from scipy import ndimage as ndi

from train.data import data_sets, part_marked
from train.data.layout import write_png
from train.synthetic.cutting import changed, lesions_of
from train.synthetic.noise import noise_of
from train.synthetic.pasting import Slab, Tissue, paste

SPACING = (0.8, 0.8, 2.0)


def cut(folder, hu, label="liver", sides=(34, 36, 66, 64)):
    """The lesions that can be cut out of a slice (rows, columns) with one box."""
    write_png(folder / "a" / "001.png", hu)
    rows = [part_marked.row("a", "a/001.png", 1, (0.8, 0.8, 5.0), "train", sides=sides, label=label)]
    part_marked.write_table(folder, rows)
    return lesions_of(data_sets.read(folder)[0], list(BodyPart))


def picture(lesion=60, organ=110, noise=6.0):
    """An ellipse of 32 x 28 pixels in an even organ."""
    y, x = np.mgrid[:100, :100]
    hu = np.where(np.hypot((x - 49.5) / 16, (y - 49.5) / 14) < 1, lesion, organ)
    return hu + np.random.default_rng(0).normal(0, noise, hu.shape)


def organ(level=100.0, noise=10.0):
    hu = np.random.default_rng(1).normal(level, noise, (3, 160, 160)).astype(np.float32)
    return Slab(hu, 1, SPACING, noise=noise_of(hu))


def tissue(label=BodyPart.LIVER, fit=0.8, in_dark=False):
    """The left half of the slice."""
    mask = np.zeros((160, 160), bool)
    mask[5:155, 5:90] = True
    return Tissue(label, ndi.distance_transform_edt(mask, sampling=0.8), fit, in_dark)


def tried(slab, lesion, place, seeds=12):
    """The boxes of many tries in copies of a slab, with what each made of it."""
    made = []
    for seed in range(seeds):
        copy = Slab(slab.hu.copy(), slab.key, slab.spacing, list(slab.taken), slab.noise)
        box = paste(copy, lesion, place, np.random.default_rng(seed))
        if box is None:
            np.testing.assert_array_equal(copy.hu, slab.hu)
        else:
            made.append((box.astype(int), copy.hu))
    return made


def test_a_lesion_is_cut_out_along_its_outline_and_without_its_surroundings(tmp_path):
    (lesion,) = cut(tmp_path, picture())
    area = (lesion.depth_mm > 0).sum() * 0.64
    assert area == pytest.approx(np.pi * 12.8 * 11.2, rel=0.1)
    assert lesion.level == pytest.approx(110, abs=3) and lesion.mean == pytest.approx(60, abs=3)
    beyond = lesion.hu[0][lesion.depth_mm < 0]
    assert beyond.mean() == pytest.approx(60, abs=5) and beyond.max() < 95, "nothing of the organ comes along"


@pytest.mark.parametrize(
    ("hu", "sides"),
    [
        (np.where(np.mgrid[:100, :100][0] > 52, -900, picture()), (34, 36, 66, 64)),
        (picture(), (0, 36, 66, 64)),
    ],
    ids=["holds air", "cut off by the picture's edge"],
)
def test_what_cannot_be_cut_out_stays_out(tmp_path, hu, sides):
    assert cut(tmp_path, hu, sides=sides) == []


def test_a_bulla_is_no_lung_nodule(tmp_path):
    assert cut(tmp_path, picture(-980, -850), "lung") == []
    assert len(cut(tmp_path, picture(20, -850), "lung")) == 1


def test_scaling_is_in_mm_on_pixels_of_any_size(tmp_path):
    (lesion,) = cut(tmp_path, picture())
    area = (lesion.depth_mm > 0).sum() * 0.64
    for spacing in (SPACING, (2.0, 2.0, 3.0)):
        patch = changed(lesion, spacing, 1.4, np.random.default_rng(3))
        assert (patch.depth_mm > 0).sum() * spacing[0] ** 2 == pytest.approx(1.96 * area, rel=0.15)


def test_a_pasted_lesion_keeps_its_contrast_lies_in_the_organ_and_has_its_noise(tmp_path):
    (lesion,) = cut(tmp_path, picture(60, 150))
    slab, place = organ(100), tissue()
    made = tried(slab, lesion, place)
    assert len(made) >= 8
    for (x0, y0, x1, y1), hu in made:
        changes = np.abs(ndi.gaussian_filter(hu[1] - slab.hu[1], 1)) > 35
        rows, columns = (np.flatnonzero(changes.any(axis)) for axis in (1, 0))
        assert np.abs(np.subtract((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), (x0, y0, x1, y1))).max() <= 2
        assert 0.69 * 22 < (x1 - x0) * 0.8 < 1.45 * 28
        middle = hu[1, (y0 + y1) // 2 - 4 : (y0 + y1) // 2 + 4, (x0 + x1) // 2 - 4 : (x0 + x1) // 2 + 4]
        assert middle.mean() == pytest.approx(10, abs=10), "90 HU below its organ, as where it came from"
        assert 6 < middle.std() < 15
        assert (place.room_mm[changes] > 0).mean() > 0.85
        assert np.abs(hu[0] - slab.hu[0]).max() > 30, "it goes on in the slices beside"


def test_contrast_phases_are_bridged_only_so_far(tmp_path):
    (lesion,) = cut(tmp_path, picture(60, 30))
    for box, hu in tried(organ(180), lesion, tissue()):
        x0, y0, x1, y1 = box
        assert hu[1, y0 + 6 : y1 - 6, x0 + 6 : x1 - 6].mean() == pytest.approx(120, abs=10)


def test_what_could_not_be_seen_is_not_pasted(tmp_path):
    (lesion,) = cut(tmp_path, picture(80, 88, 1.0))
    assert tried(organ(), lesion, tissue()) == []
    (faint,) = cut(tmp_path / "b", picture(80, 100, 1.0))
    assert tried(organ(noise=60.0), faint, tissue()) == [], "nor what noise hides"


def test_nothing_is_pasted_on_vessels_air_or_marks(tmp_path):
    (lesion,) = cut(tmp_path, picture())
    vessels, air, marked = organ(), organ(), organ()
    vessels.hu[:, :, ::6] += 150
    vessels.hu[:, :, 1::6] += 150
    air.hu[:, ::8] = -1000
    marked.taken.append(np.array([10, 10, 85, 150.0]))
    for slab in (vessels, air, marked):
        assert tried(slab, lesion, tissue()) == []


def test_a_lesion_of_bone_needs_bone_and_not_the_canal_within(tmp_path):
    (lesion,) = cut(tmp_path, picture(300, 500), "bone")
    assert tried(organ(450), lesion, tissue(BodyPart.BONE, 0.7))
    assert tried(organ(40), lesion, tissue(BodyPart.BONE, 0.7)) == []


def test_in_fat_a_vessel_stays_and_hu_are_those_of_the_lesion(tmp_path):
    (lesion,) = cut(tmp_path, picture(40, -100), "abdomen")
    fat = organ(-100)
    fat.noise = organ().noise
    fat.hu[:, :, 40:42] = 200
    made = tried(fat, lesion, tissue(BodyPart.ABDOMEN, in_dark=True), 20)
    assert made
    for (x0, y0, x1, y1), hu in made:
        assert (hu[:, :, 40:42] >= 200).all()
        assert np.median(hu[1, y0 + 6 : y1 - 6, x0 + 6 : x1 - 6]) == pytest.approx(40, abs=28)
    no_level = tried(organ(), lesion, tissue(BodyPart.ABDOMEN))
    assert no_level == [], "what lay in fat tells not how it would look in an organ"


def test_nodules_become_masses_and_lie_at_the_wall_with_a_box_of_what_is_in_lung(tmp_path):
    (nodule,) = cut(tmp_path, picture(40, -850), "lung")
    lung = Slab(np.full((3, 160, 160), -850, np.float32), 1, SPACING)
    lung.hu[:, :, 90:] = 50
    place = tissue(BodyPart.LUNG, 0.5)
    made = tried(lung, nodule, place, 60)
    widths = [max(x1 - x0, y1 - y0) * 0.8 for (x0, y0, x1, y1), _ in made]
    assert max(widths) > 36 and np.median(widths) < 30
    at_wall = [box for box, _ in made if box[2] >= 89]
    assert at_wall and all(box[2] <= 90 for box, _ in made)
    assert all((hu[:, :, 92:] >= 50).all() for _, hu in made), "no wall is rubbed out"


def test_a_nodule_is_no_darker_in_emphysema(tmp_path):
    (nodule,) = cut(tmp_path, picture(40, -800), "lung")
    lung = Slab(np.full((3, 160, 160), -950, np.float32), 1, SPACING)
    for (x0, y0, x1, y1), hu in tried(lung, nodule, tissue(BodyPart.LUNG, 0.5)):
        assert hu[1, (y0 + y1) // 2, (x0 + x1) // 2] == pytest.approx(40, abs=15)
