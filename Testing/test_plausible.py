"""What a finding is called and where it lies must go together: the body without its table, lungs round "lung"."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.plausible import Places, plausible
from LesionDetectorLib.stack import Candidate, stack

LUNG, LIVER, SOFT = BodyPart.LUNG, BodyPart.LIVER, BodyPart.SOFT_TISSUE
PIXEL_MM = 2.5
AIR, LUNGS, TISSUE = -1000, -850, 40


def chest(slices: int = 4, air: int = AIR, lungs: int = LUNGS) -> np.ndarray:
    """A chest with two lungs in 400 mm of air: its arm at the left, a table below it, a cable above it."""
    j, i = np.mgrid[:160, :160]
    hu = np.random.default_rng(0).normal(np.full((slices, 160, 160), air, float), 15)

    def ellipse(x: float, y: float, rx: float, ry: float) -> np.ndarray:
        return np.hypot((i - x) / rx, (j - y) / ry) < 1

    for place, value in (
        (ellipse(90, 75, 50, 35), TISSUE),
        (ellipse(68, 75, 18, 25), lungs),
        (ellipse(112, 75, 18, 25), lungs),
        (ellipse(20, 80, 13, 13), TISSUE),  # the arm, with air between it and the chest
        (ellipse(90, 30, 1.5, 1.5), 300),
        ((j > 119) & (j < 122) & (i > 20), TISSUE),  # the table touches nothing; below it is a core of foam
        ((j > 121) & (j < 130) & (i > 20), -930),
        ((j > 129) & (j < 132) & (i > 20), TISSUE),
    ):
        hu[:, place] = value
    return hu.astype(np.int16)


def ct_of(hu: np.ndarray, pixel_mm: float = PIXEL_MM) -> Volume:
    return Volume(hu, (pixel_mm, pixel_mm, 5.0), (0.0, 0.0, 0.0), np.eye(3), Path("chest"))


def box(x: float, y: float, half: float = 4.0) -> tuple[float, float, float, float]:
    return x - half, y - half, x + half, y + half


def found(*boxes: tuple[tuple[float, float, float, float], BodyPart, float], k: int = 1) -> list[Candidate]:
    places, labels, scores = zip(*boxes)
    return stack([(k, np.array(places), np.array(scores), np.array(labels, int))])


INSIDE = {"lung": (68, 75), "mediastinum": (90, 75), "arm": (20, 80), "skin": (90, 41), "side": (41, 75)}
OUTSIDE = {
    "cable": (90, 30),
    "table": (90, 121),
    "foam": (60, 126),
    "air": (20, 30),
    "between": (36, 100),
    "edge": (2, 2),
}


@pytest.mark.parametrize("air", [AIR, -1024])
@pytest.mark.parametrize("slices", [1, 4])
def test_the_body_is_the_patient_without_what_lies_round_him(air, slices):
    places = Places(ct_of(chest(slices, air)))
    assert [name for name, at in INSIDE.items() if not places.in_body(0, box(*at))] == []
    assert [name for name, at in OUTSIDE.items() if places.in_body(slices - 1, box(*at))] == []


@pytest.mark.parametrize("padding", [-2000, -2048, -3024])
def test_a_round_field_of_view_that_cuts_the_body_and_a_lung_loses_nothing(padding):
    """Outside of its circle the scanner has written what is no HU."""
    hu = chest()
    j, i = np.mgrid[:160, :160]
    hu[:, np.hypot(i - 90, j - 75) > 32] = padding
    places = Places(ct_of(hu))
    for x in (62, 75, 90, 118):
        assert places.in_body(1, box(x, 75)), x
    assert not places.in_body(1, box(30, 75)) and places.amid_lung(1, box(66, 75))


@pytest.mark.parametrize("prone", [False, True])
@pytest.mark.parametrize(
    ("rows", "columns"),
    [((50, 110), (55, 125)), ((55, 95), (55, 85)), ((66, 84), (60, 76)), ((0, 160), (68, 160)), ((40, 110), (0, 160))],
)
def test_a_part_of_a_slice_loses_nothing(rows, columns, prone):
    """The edge of the image cuts body and lungs, down to a patch of lung without any tissue."""
    hu = chest(1)[:, slice(*rows), slice(*columns)]
    x, y = 70 - columns[0], 75 - rows[0]
    if prone:
        hu, y = hu[:, ::-1], hu.shape[1] - 1 - y
    places = Places(ct_of(hu))
    assert places.in_body(0, box(x, y)) and places.amid_lung(0, box(x, y))


def test_values_that_are_clipped_and_all_tissue_tell_nothing():
    for hu in (np.clip(chest(), -175, 275), np.full((2, 64, 64), TISSUE, np.int16)):
        places = Places(ct_of(hu))
        assert places.amid_lung(1, box(30, 30)) and places.in_body(1, box(30, 30))
    assert Places(ct_of(np.full((2, 64, 64), AIR, np.int16))).in_body(1, box(30, 30)), "all may be body"


def test_a_nodule_fills_its_box_and_one_at_the_pleura_half_of_its_ring():
    hu = chest()
    j, i = np.mgrid[:160, :160]
    hu[:, np.hypot(i - 68, j - 75) < 8] = TISSUE  # a mass of 40 mm amid the lung
    hu[:, np.hypot(i - 112, j - 98) < 5] = TISSUE  # one of 25 mm on the pleura
    places = Places(ct_of(hu))
    margin = 4 / PIXEL_MM
    assert places.amid_lung(1, box(68, 75, 8 + margin)) and places.amid_lung(1, box(112, 98, 5 + margin))
    assert not places.amid_lung(1, box(90, 48)) and not places.amid_lung(1, box(20, 80)), "chest wall and arm"


def test_gas_in_the_bowel_is_no_lung():
    hu = chest(lungs=-1000)
    assert not Places(ct_of(hu)).amid_lung(1, box(68, 75))


def test_findings_outside_go_and_lung_without_lung_takes_the_next_label():
    (cable,), (lung,) = found((box(90, 30), LIVER, 0.9)), found((box(68, 75), LUNG, 0.6))
    (no_lung,) = found((box(90, 100), LUNG, 0.8), (box(90.5, 100), SOFT, 0.4))
    (only_lung,) = found((box(20, 80), LUNG, 0.7))
    kept = plausible(ct_of(chest()), [cable, no_lung, only_lung, lung])
    assert [(each.body_part, each.box) for each in kept] == [(LUNG, lung.box), (SOFT, no_lung.box)]
    assert [each.confidence for each in kept] == pytest.approx([0.6, 0.4]), "as much less as it had fewer votes"


def test_a_box_that_leaves_the_image_is_looked_at_where_it_is():
    places = Places(ct_of(chest()))
    for outside in ((-30.0, 60.0, -5.0, 90.0), (150.0, 150.0, 190.0, 190.0), (200.0, 200.0, 210.0, 210.0)):
        assert not places.in_body(1, outside) and not places.amid_lung(1, outside)
    assert places.in_body(1, (-40.0, 60.0, 60.0, 100.0)), "more than a tenth of it is the arm"
