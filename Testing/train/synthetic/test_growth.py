"""How inserted lesions grow in the anatomy: push, infiltration, necrosis, size, vessels, bone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.lesion import BodyPart

from train.synthetic import insertion
from train.synthetic.growth import on_vessel, push, replaceable
from train.synthetic.insertion import insert, prepare
from train.synthetic.lesions import SyntheticLesion, recist_of, sample
from train.synthetic.places import find_places
from train.synthetic.tumours import as_tumour, ripples

SPACING = (1.0, 1.0, 2.0)
MIDDLE = (50.0, 50.0, 14.0)
GRID = np.arange(101, dtype=np.float32)


def ball(radius: float = 12.0, part: BodyPart = BodyPart.LIVER, **tissue) -> SyntheticLesion:
    return SyntheticLesion(part, MIDDLE, (radius,) * 3, np.eye(3), **({"tissue_hu": 40.0} | tissue))


def half_space(edge: float) -> np.ndarray:
    """An organ of 100 HU up to column `edge`, fat beyond."""
    slab = np.full((15, 101, 101), -100.0, np.float32)
    slab[:, :, : int(edge)] = 100
    return slab


def test_the_contour_of_an_organ_bulges_round_the_lesion_and_is_as_it_was_further_off():
    before = half_space(60)
    pushed = push(before, ball(), 0.9, SPACING)
    column = (pushed[7] > 0).sum(1)
    assert column[50] > 60 + 2, "the edge 10 mm beside the centre moves out"
    assert column[20] == column[80] == 60
    k, j, i = np.ogrid[:15, :101, :101]
    far = np.sqrt((i - 50) ** 2 + (j - 50) ** 2 + (2 * k - 14) ** 2) > 12 * 2.2
    assert (pushed == before)[far].all()
    assert not (pushed == before).all()


def test_what_a_small_lesion_pushes_away_is_not_lost():
    """A shell of fat that lay just round the ball is pushed outward with its volume, and out of the ball."""
    k, j, i = np.ogrid[:41, :101, :101]
    radius = np.sqrt((i - 50) ** 2 + (j - 50) ** 2 + (k - 20) ** 2)
    slab = np.where((radius > 5) & (radius < 12), 100, 0).astype(np.float32)
    lesion = replace(ball(10), centre_mm=(50.0, 50.0, 20.0))
    pushed = push(slab, lesion, 0.8, (1.0, 1.0, 1.0))
    outward = pushed[20, 50, 62:]
    edge = 12 + np.interp(-50, -outward[:3], np.arange(3))
    assert edge == pytest.approx((11.5**3 + 8**3) ** (1 / 3), abs=0.3), "its outer edge, at 11.5 mm, is volume-true"


def test_nothing_moves_more_than_some_mm_and_bone_stays():
    before = half_space(75)
    assert ((push(before, ball(30), 1.0, (1.0, 1.0, 3.0))[5] > 0).sum(1) <= 75 + 12).all()
    slab = half_space(60)
    slab[:, :, 60:70] = 1000
    assert np.abs(push(slab, ball(), 0.9, SPACING) - slab)[:, :, 62:68].max() < 1


@pytest.mark.parametrize("part", [BodyPart.LIVER, BodyPart.PELVIS, BodyPart.LUNG])
def test_some_lesions_infiltrate_and_their_edge_is_longer_than_that_of_others(part):
    def jagged(lesion: SyntheticLesion) -> float:
        inside = lesion.occupancy(GRID, GRID[:, None], MIDDLE[2]) > 0.5
        edge = (inside[1:] != inside[:-1]).sum() + (inside[:, 1:] != inside[:, :-1]).sum()
        return float(edge / np.sqrt(inside.sum()))

    rng = np.random.default_rng(0)
    shapes = []
    for _ in range(20):
        plain = sample(rng, part, MIDDLE, 40, 32, -850 if part == BodyPart.LUNG else 110)
        if plain.opacity < 1:
            continue
        grown, _ = as_tumour(replace(plain, spicules=np.zeros((0, 5))), rng)
        shapes.append((bool(len(grown.fronds)), jagged(grown)))
    ragged, smooth = ([value for frayed, value in shapes if frayed is kind] for kind in (True, False))
    assert ragged and smooth
    assert np.median(ragged) > 1.1 * np.median(smooth)


def test_consolidated_lung_keeps_air_in_its_bronchi():
    rng = np.random.default_rng(1)
    lesions = (as_tumour(sample(rng, BodyPart.LUNG, MIDDLE, 50, 40, -850), rng)[0] for _ in range(40))
    lesion = next(made for made in lesions if len(made.tubes))
    start = lesion.tubes[0, :3]
    middle = np.add(MIDDLE, start + 0.6 * (lesion.tubes[0, 3:6] - start)).astype(np.float32)
    assert lesion.occupancy(*middle) > 0.5
    assert lesion.blend(np.full(1, -850, np.float32), *middle).item() < -300
    away = replace(lesion, tubes=lesion.tubes[:0])
    assert away.blend(np.full(1, -850, np.float32), *middle).item() > -100


def test_large_lesions_may_have_a_dark_uneven_core_in_a_bright_rim():
    rng = np.random.default_rng(2)
    lesions = [as_tumour(sample(rng, BodyPart.LIVER, MIDDLE, 60, 50, 110), rng)[0] for _ in range(30)]
    dying = [lesion for lesion in lesions if lesion.core_radius]
    assert 5 < len(dying) < 25
    lesion = replace(dying[0], mottle_hu=0.0, texture_hu=0.0, spots=dying[0].spots[:0])
    hu = lesion.blend(np.full((101, 101), 110, np.float32), GRID, GRID[:, None], np.float32(MIDDLE[2]))
    radius = lesion.radius(GRID, GRID[:, None], MIDDLE[2])
    rim = hu[(radius > 0.8) & (radius < 0.9)]
    assert hu[radius < 0.2].mean() < rim.mean() - 15
    dark = hu < (lesion.core_hu + rim.mean()) / 2
    spread = [dark[(radius > low) & (radius < low + 0.05)].mean() for low in np.arange(0.2, 0.9, 0.05)]
    assert sum(0.05 < share < 0.95 for share in spread) >= 2, "the core does not end at one radius"


def test_ripples_have_the_asked_lengths_and_repeat_themselves():
    waves = ripples(np.random.default_rng(0), (20.0, 5.0), 0.1)
    lengths = 2 * np.pi / np.linalg.norm(waves[:, :3], axis=1)
    assert (lengths[:4] > 13).all() and (lengths[4:] < 7.2).all()
    assert np.array_equal(waves, ripples(np.random.default_rng(0), (20.0, 5.0), 0.1))


def test_a_node_leaves_the_vessel_beside_it_and_a_mass_leaves_bone_and_air():
    within = np.ones((1, 101, 101), np.float32)
    fat = np.full((1, 101, 101), -100, np.float32)
    fat[:, :, 70:80], fat[:, :, 30:32] = 250, 60
    free = replaceable(fat, within, ball(5), True, -100.0, SPACING)[0, 50]
    assert free[75] < 0.01 and free[50] > 0.99
    assert free[31] > 0.9, "a thin strand is overgrown"
    organ = np.full((1, 101, 101), 50, np.float32)
    organ[:, :, :10], organ[:, :, 90:] = -1000, 700
    free = replaceable(organ, within, ball(20), False, 50.0, SPACING)[0, 50]
    assert free[5] < 0.01 and free[95] < 0.01 and free[50] > 0.99


def test_lung_lesions_replace_the_vessels_but_not_the_wall():
    lung = np.full((1, 101, 101), -850, np.float32)
    lung[:, :, 40:44], lung[:, :, 70:] = 50, 30
    free = replaceable(lung, np.ones_like(lung), ball(20, BodyPart.LUNG), True, -850.0, SPACING)[0, 50]
    assert free[42] > 0.99 and free[85] < 0.01


@pytest.mark.parametrize(
    ("part", "tissue", "vessel"),
    [(BodyPart.LIVER, 100, 180), (BodyPart.LUNG, -850, 0), (BodyPart.ABDOMEN, -100, 150)],
)
def test_a_vessel_is_told_from_its_surroundings(part, tissue, vessel):
    section = np.random.default_rng(0).normal(tissue, 10, (120, 120))
    section[:, 58:63] = vessel
    assert on_vessel(section, (60, 60), part, 0.9)
    assert not on_vessel(section, (60, 25), part, 0.9)
    assert not on_vessel(section, (60, 60), BodyPart.BONE, 0.9)


def chest(seed: int = 0) -> Volume:
    """Two lungs, a spine with its canal; in the abdomen below a liver with vessels of 9 mm all over."""
    k, j, i = np.ogrid[:40, :100, :120]
    x, y, z = (i - 59.5) * 3.0, (j - 49.5) * 3.0, k * 5.0

    def ellipse(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + 0 * z < 1

    hu = np.full((40, 100, 120), -1000.0)
    liver = ellipse(-60, 0, 58, 78) & (z < 100)
    for region, value in [
        (ellipse(0, 0, 170, 140), -100),
        (ellipse(0, 0, 155, 125), 55),
        (ellipse(0, 0, 138, 106), -95),
        (liver, 100),
        (liver & ((x + 60) % 36 < 9), 190),
        ((ellipse(-75, 0, 50, 85) | ellipse(75, 0, 50, 85)) & (z > 105), -850),
        (ellipse(0, 78, 26, 22), 220),
        (ellipse(0, 78, 20, 16), 190),
        (ellipse(0, 108, 18, 16), 400),
        (ellipse(0, 108, 11, 10), 20),
    ]:
        hu[region] = value
    hu += np.random.default_rng(seed).normal(0, 8, hu.shape)
    return Volume(hu.astype(np.int16), (3.0, 3.0, 5.0), (0.0, 0.0, 0.0), np.eye(3), Path("chest"))


@pytest.fixture(scope="module")
def scan():
    return prepare(chest())


def test_bone_lesions_lie_in_bone_and_never_in_the_canal():
    body = find_places(chest())
    bone = next(place for place in body.places if place.name == "bone")
    canal = np.hypot(*np.meshgrid((np.arange(120) - 59.5) * 3, (np.arange(100) - 49.5) * 3 - 108)) < 9
    spine = np.hypot(*np.meshgrid((np.arange(120) - 59.5) * 3, (np.arange(100) - 49.5) * 3 - 78)) < 12
    assert bone.body_part == BodyPart.BONE
    assert not (bone.room_mm > 0)[:, canal].any()
    assert not bone.within[:, canal].any()
    assert (bone.room_mm > 0)[:, spine].mean() > 0.9


def test_no_place_lies_outside_the_body_and_lung_lesions_reach_no_further_than_the_chest():
    body = find_places(chest())
    for place in body.places:
        assert not ((place.room_mm > 0) & ~body.body).any()
    lung = next(place for place in body.places if place.body_part == BodyPart.LUNG)
    assert (lung.room_mm > 0).any()
    assert not lung.within[:18].any(), "there is no lung in the abdomen"


def test_small_liver_lesions_keep_off_the_vessels(scan, monkeypatch):
    rng = np.random.default_rng(4)
    liver = next(place for place in scan.body.places if place.body_part == BodyPart.LIVER)
    monkeypatch.setattr(insertion, "_size", lambda rng, part: (8.0, 6.0))
    spots = [insertion._choose_spot(scan, liver, rng, large=0.0)[0] for _ in range(60)]
    centres = [centre for centre in spots if centre is not None]
    assert len(centres) > 10
    x = np.array([centre[2] for centre in centres]) * scan.spacing[0] - 59.5 * 3
    assert not ((x + 60) % 36 < 8).any()


def test_the_box_is_that_of_what_was_painted(scan, monkeypatch):
    painted = []
    measured = insertion._measured

    def spy(section, window, shape, spacing):
        whole = np.zeros(shape, np.float32)
        whole[window[1:]] = section
        painted.append((whole, measured(section, window, shape, spacing)))
        return painted[-1][1]

    monkeypatch.setattr(insertion, "_measured", spy)
    rng, compared = np.random.default_rng(8), 0
    for _ in range(12):
        *_, spacing, lesions = insert(scan, rng, context_mm=5)
        for made in lesions:
            section = next(section for section, recist in painted if recist is made.recist)
            again = recist_of(section, spacing[:2])
            assert made.recist.long_axis == again.long_axis
            rows, columns = np.nonzero(section > 0.5)
            for i, j in made.recist.long_axis:
                assert columns.min() - 1 <= i <= columns.max() + 1 and rows.min() - 1 <= j <= rows.max() + 1
            compared += 1
    assert compared > 5


def test_a_share_of_lesions_is_large_and_the_same_seed_repeats_them(scan):
    def sizes(large: float) -> np.ndarray:
        rng = np.random.default_rng(6)
        drawn = []
        for _ in range(60):
            place = scan.body.places[rng.integers(len(scan.body.places))]
            if place.body_part != BodyPart.BONE:
                drawn.append(insertion._choose_spot(scan, place, rng, large)[1][0])
        return np.array(drawn)

    assert (sizes(1.0) >= 30).mean() > 0.5 and sizes(1.0).max() <= 90
    assert (sizes(1.0) >= 30).mean() > (sizes(0.0) >= 30).mean() + 0.2
    first, second = (insert(scan, np.random.default_rng(9), 5)[0] for _ in range(2))
    assert np.array_equal(first, second)
