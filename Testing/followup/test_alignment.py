"""Where a prior CT lies in the current one: shifts and turns are found back, and what shares nothing is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.followup.alignment import Alignment, align
from LesionDetectorLib.refusal import Refusal

SIZE, LENGTH = (200.0, 120.0), 480.0
INSIDE = np.array([[x, y, z] for x in (-90, 0, 90) for y in (-50, 0, 50) for z in (120, 200, 280, 360)], float)


def body(points: np.ndarray) -> np.ndarray:
    """HU of a torso at points (..., 3) in mm: lungs with a nodule, liver, spine, ribs of a pelvis."""
    x, y, z = np.moveaxis(points, -1, 0)
    wide = 140 + 25 * np.cos(z / 90)
    hu = np.where((x / wide) ** 2 + (y / (wide * 0.65)) ** 2 < 1, 30.0, -1000.0)
    for side in (-1, 1):
        hu[((x - 65 * side) / 50) ** 2 + ((y - 15) / 60) ** 2 + ((z - 370) / 110) ** 2 < 1] = -850
        hu[((x - 80 * side) / 35) ** 2 + ((y - 25) / 40) ** 2 + ((z - 40) / 60) ** 2 < 1] = 400
    hu[((x + 60) / 60) ** 2 + ((y + 10) / 60) ** 2 + ((z - 230) / 60) ** 2 < 1] = 110
    hu[((x - 10) / 35) ** 2 + ((y + 35) / 40) ** 2 + ((z - 360) / 50) ** 2 < 1] = 150
    hu[(np.hypot(x, y - 60) < 20) & (np.mod(z, 32) > 8)] = 350
    return hu


def scan(
    bottom: float = 0.0,
    top: float = LENGTH,
    shift: tuple[float, float, float] = (0, 0, 0),
    degrees: float = 0.0,
    spacing: tuple[float, float, float] = (8.0, 8.0, 6.0),
    table: float | None = 140.0,
    seed: int = 0,
    breath: float = 0.0,
    half_turn: bool = False,
) -> tuple[Volume, np.ndarray]:
    """A CT of the torso between two heights, turned about z and shifted, and the matrix from torso mm to its LPS mm.

    `table` is the y of a table, `breath` how far it moves the organs at the diaphragm along z.
    """
    origin = np.array([-SIZE[0], -SIZE[1] - 60, bottom])
    counts = [int(2 * SIZE[0] / spacing[0]), int((2 * SIZE[1] + 120) / spacing[1]), int((top - bottom) / spacing[2])]
    grid = np.stack(np.meshgrid(*map(np.arange, counts[::-1]), indexing="ij"), axis=-1)[..., ::-1] * spacing + origin
    angle = np.radians(degrees + 180 * half_turn)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    places = grid @ turn  # the inverse of the turn
    places[..., 2] -= breath * np.exp(-(((places[..., 2] - 260) / 90) ** 2))
    hu = body(places)
    if table is not None:
        hu[np.abs(grid[..., 1] - table) < 8] = 0
    hu += np.random.default_rng(seed).normal(0, 20, hu.shape)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, shift
    origin = tuple((origin + shift).tolist())
    return Volume(np.clip(hu, -1024, 3000).astype(np.int16), spacing, origin, np.eye(3), Path("ct.nrrd")), matrix


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def off(found: Alignment, prior: np.ndarray, current: np.ndarray, points: np.ndarray = INSIDE) -> float:
    """How far off most places of the torso are, in mm: four of five are nearer."""
    apart = np.linalg.norm(found.to_current(moved(points, prior)) - moved(points, current), axis=1)
    return float(np.percentile(apart, 80))


PRIORS = {
    "another table and zero": {"shift": (30.0, -60.0, 700.0), "table": 190.0},
    "a turn": {"degrees": 6.0, "shift": (0.0, 10.0, -300.0)},
    "thicker slices, no table": {"spacing": (6.0, 6.0, 10.0), "table": None, "shift": (5.0, 5.0, 2000.0)},
    "finer pixels": {"spacing": (4.0, 4.0, 5.0), "shift": (-12.0, 0.0, -900.0)},
}


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_a_shift_and_a_turn_are_found_back(prior):
    (before, from_torso), (now, to_torso) = scan(seed=1, **prior), scan()
    found = align(before, now)
    assert off(found, from_torso, to_torso) < 4
    np.testing.assert_allclose(found.to_prior(found.to_current(INSIDE)), INSIDE, atol=0.1)
    assert found.similarity > 0.9 and found.overlap_mm > 0.9 * LENGTH and found.residual_mm < 4
    assert found.warnings == ()


def test_a_chest_is_found_in_a_whole_torso_and_the_other_way_round():
    (chest, from_torso), (torso, to_torso) = scan(250, LENGTH, (0, 0, -1000), seed=1), scan()
    points = INSIDE[INSIDE[:, 2] > 270]
    found = align(chest, torso)
    assert off(found, from_torso, to_torso, points) < 5
    assert found.overlap_mm == pytest.approx(230, abs=16)
    assert off(align(torso, chest), to_torso, from_torso, points) < 5


def test_the_same_cts_always_give_the_same_map():
    before, now = scan(seed=1, degrees=3)[0], scan()[0]
    first, second = align(before, now), align(before, now)
    np.testing.assert_array_equal(first.matrix, second.matrix)
    np.testing.assert_array_equal(first.drift.mm, second.drift.mm)


def test_breathing_is_followed_by_a_drift():
    (before, _), (now, _) = scan(seed=1), scan(breath=12.0)
    found = align(before, now)
    points = INSIDE[(INSIDE[:, 2] > 150) & (INSIDE[:, 2] < 350)]
    breathed = points + np.array([0, 0, 1]) * 12 * np.exp(-(((points[:, 2:] - 260) / 90) ** 2))
    straight = np.linalg.norm(Alignment(found.matrix).to_current(points) - breathed, axis=1)
    drifted = np.linalg.norm(found.to_current(points) - breathed, axis=1)
    assert np.median(drifted) < 0.7 * np.median(straight)
    assert found.residual_mm > 1


def test_other_parts_of_a_body_are_refused():
    with pytest.raises(Refusal, match="no part of the body in common"):
        align(scan(330, LENGTH)[0], scan(0, 150)[0])


def test_a_cut_that_is_too_thin_is_refused():
    with pytest.raises(Refusal, match="less than 5 cm"):
        align(scan(200, 230)[0], scan()[0])


def test_prone_and_supine_are_told():
    (before, from_torso), (now, to_torso) = scan(table=-140.0, seed=1), scan()
    found = align(before, now)
    assert off(found, from_torso, to_torso) < 4
    assert any("prone in one" in warning for warning in found.warnings)


def test_a_file_that_says_wrongly_how_the_patient_lay_is_told():
    (before, from_torso), (now, to_torso) = scan(half_turn=True, table=-140, shift=(0, 0, 50), seed=1), scan()
    found = align(before, now)
    assert off(found, from_torso, to_torso) < 4
    (warning,) = found.warnings
    assert "turned by half" in warning
