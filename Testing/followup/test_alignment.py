"""Where a prior CT lies in the current one: shifts and turns are found back, and what shares nothing is refused."""

from __future__ import annotations

import numpy as np
import pytest
from LesionDetectorLib.followup.alignment import Alignment, align
from LesionDetectorLib.refusal import Refusal

from Testing.helpers.torso import LENGTH, moved, scan

INSIDE = np.array([[x, y, z] for x in (-90, 0, 90) for y in (-50, 0, 50) for z in (120, 200, 280, 360)], float)


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
