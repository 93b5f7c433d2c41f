import numpy as np
import pytest
from LesionDetectorLib.lesion import BodyPart

from train.synthetic.lesions import SyntheticLesion, recist_of, sample, sample_size

GRID = np.arange(-30, 30.5, 0.5, dtype=np.float32)
COARSE = GRID[::4]


def section(lesion: SyntheticLesion) -> np.ndarray:
    return lesion.occupancy(GRID, GRID[:, None], lesion.centre_mm[2])


def test_recist_of_a_tilted_ellipse_has_its_axes_and_end_points():
    turn = np.radians(30)
    rotation = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    recist = recist_of(section(SyntheticLesion(BodyPart.LIVER, (2.0, -3.0, 0.0), (12, 7, 9), rotation, 40)), (0.5, 0.5))
    assert recist.long_mm == pytest.approx(24, abs=0.3)
    assert recist.short_mm == pytest.approx(14, abs=0.3)
    ends = np.array(recist.long_axis) * 0.5 - 30
    assert np.abs(ends - [2, -3]) == pytest.approx(np.tile([12 * np.cos(turn), 12 * np.sin(turn)], (2, 1)), abs=0.6)
    long, short = (np.subtract(*axis) for axis in (recist.long_axis, recist.short_axis))
    assert abs(long @ short) < 1e-6 * np.linalg.norm(long) * np.linalg.norm(short)


def test_recist_follows_anisotropic_pixels_and_counts_the_largest_part_only():
    mask = np.zeros((40, 60))
    mask[10:30, 5:15] = 1
    mask[2:4, 40:43] = 1
    recist = recist_of(mask, (2.0, 0.5))
    assert recist.long_mm == pytest.approx(np.hypot(20, 10), rel=0.05)
    assert max(i for i, _ in (*recist.long_axis, *recist.short_axis)) < 16


@pytest.mark.parametrize("mask", [np.zeros((9, 9)), np.eye(9)[4:5].T @ np.eye(9)[4:5]])
def test_nothing_to_measure_gives_none(mask):
    assert recist_of(mask, (1.0, 1.0)) is None


@pytest.mark.parametrize("part", BodyPart)
def test_sampled_lesions_have_the_asked_size_lie_in_their_extent_and_are_seen(part):
    rng = np.random.default_rng(part.value)
    background = {BodyPart.LUNG: -850.0, BodyPart.LIVER: 110.0, BodyPart.KIDNEY: 150.0, BodyPart.BONE: 250.0}.get(
        part, -90.0
    )
    ratios = []
    for _ in range(8):
        lesion = sample(rng, part, (1.0, 2.0, 3.0), 20, 14, background)
        inside = lesion.occupancy(COARSE, COARSE[:, None], COARSE[:, None, None])
        window = lesion.window(COARSE, COARSE, COARSE)
        assert inside[window].sum() == pytest.approx(inside.sum(), rel=1e-3)
        ratios.append(recist_of(section(lesion), (0.5, 0.5)).long_mm / 20)
        painted = lesion.blend(np.full((121, 121), background, np.float32), GRID, GRID[:, None], np.float32(3))
        change = np.abs(painted - background)
        assert np.average(change, weights=section(lesion)) > 10
        assert change[section(lesion) < 0.01].max() < 0.02 * change.max() + 3
    assert np.median(ratios) == pytest.approx(1, abs=0.2)


def test_sizes_follow_the_label_and_the_same_seed_gives_the_same_lesion():
    rng = np.random.default_rng(1)
    lung, liver = (
        np.median([sample_size(rng, part)[0] for _ in range(600)]) for part in (BodyPart.LUNG, BodyPart.LIVER)
    )
    assert lung == pytest.approx(13.1, rel=0.2)
    assert liver == pytest.approx(23.8, rel=0.2)
    first, second = (sample(np.random.default_rng(5), BodyPart.LUNG, (0, 0, 0), 12, 9, -850) for _ in range(2))
    assert np.array_equal(section(first), section(second))


def test_impossible_axes_are_refused():
    with pytest.raises(ValueError, match="short axis"):
        sample(np.random.default_rng(0), BodyPart.LIVER, (0, 0, 0), 5, 9, 100)
