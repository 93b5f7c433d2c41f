"""Bootstrap over patients: the replicates are what resampled images give, and the intervals have the width that they
should."""

from __future__ import annotations

import numpy as np
import pytest

from train.measuring.bootstrap import Bootstrap, interval
from train.measuring.boxes import Boxes
from train.measuring.froc import froc


def random_case(images=12, seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 12, (150, 2)).astype(float)
    boxes = np.hstack([corner, corner + 6])
    scores = rng.integers(0, 10, 120) / 10
    detections = Boxes(rng.integers(0, images, 120), boxes[:120], rng.integers(1, 4, 120), scores)
    return detections, Boxes(rng.integers(0, images, 30), boxes[120:], rng.integers(1, 4, 30))


def copies(boxes: Boxes, images: np.ndarray) -> Boxes:
    """The boxes of the images drawn, each drawing an image of its own."""
    rows = [np.flatnonzero(boxes.image == image) for image in images]
    order = np.concatenate(rows)
    numbers = np.repeat(np.arange(len(images)), [len(row) for row in rows])
    return Boxes(
        numbers, boxes.boxes[order], boxes.labels[order], None if boxes.scores is None else boxes.scores[order]
    )


def test_each_replicate_is_the_froc_of_the_images_drawn():
    detections, truth = random_case()
    patients = np.array([3, 3, 3, 5, 5, 8, 8, 8, 8, 9, 11, 11])
    rates, replicates = [0.5, 1, 4], 40
    result = froc(detections, truth, len(patients))
    groups = np.stack([result.labels == label for label in (1, 2, 3)])
    samples = Bootstrap(patients, replicates, seed=7).sensitivities(result, rates, groups)
    names = np.unique(patients)
    drawn = np.random.default_rng(7).multinomial(len(names), np.full(len(names), 1 / len(names)), size=replicates)
    assert samples.shape == (replicates, 3, 3)
    for times, sample in zip(drawn, samples):
        images = np.repeat(np.arange(len(patients)), times[np.searchsorted(names, patients)])
        again = froc(copies(detections, images), copies(truth, images), len(images))
        expected = [[again.sensitivity(rate, again.labels == label) for label in (1, 2, 3)] for rate in rates]
        np.testing.assert_allclose(sample, expected, atol=1e-6)


def found_at_random(patients: int, slices: int) -> tuple[np.ndarray, Boxes, Boxes]:
    """Lesions of which 70 % are found, all or none of a patient's, without false positives."""
    images = patients * slices
    box = np.tile([0.0, 0, 10, 10], (images, 1))
    truth = Boxes(np.arange(images), box, np.ones(images, int))
    found = np.flatnonzero(np.arange(images) // slices < 0.7 * patients)
    owners = np.repeat(np.arange(patients), slices)
    return owners, Boxes(found, box[found], np.ones(len(found), int), np.full(len(found), 0.9)), truth


@pytest.mark.parametrize(("patients", "slices"), [(200, 1), (50, 8)])
def test_an_interval_is_as_wide_as_that_of_so_many_patients(patients, slices):
    owners, detections, truth = found_at_random(patients, slices)
    result = froc(detections, truth, len(owners))
    low, high = interval(Bootstrap(owners, 2000).sensitivities(result, [1], np.ones((1, len(truth)), bool)))
    expected = 1.96 * np.sqrt(0.7 * 0.3 / patients)
    np.testing.assert_allclose([low[0, 0], high[0, 0]], [0.7 - expected, 0.7 + expected], atol=0.02)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    detections, truth = random_case()
    result, groups = froc(detections, truth, 12), np.ones((1, 30), bool)
    first, again, other = (Bootstrap(np.arange(12), 100, seed).sensitivities(result, [1], groups) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_false_positives_beyond_the_first_thousand_count_too():
    """Patient 0 has all the high-scored false positives.

    Where it is not drawn, the threshold lies far down the list.
    """
    box = np.array([[0.0, 0, 10, 10]])
    detections = Boxes(
        np.r_[np.zeros(3000, int), 1, 1],
        np.concatenate([np.tile(box + 50, (3000, 1)), box + 50, box]),
        np.ones(3002, int),
        np.r_[np.full(3000, 0.9), 0.5, 0.4],
    )
    result = froc(detections, Boxes(np.array([1]), box, np.array([1])), 2)
    samples = Bootstrap(np.array([0, 1]), 200).sensitivities(result, [0.5, 1], np.ones((1, 1), bool))[:, :, 0]
    assert {tuple(row) for row in samples if not np.isnan(row).any()} == {(0.0, 0.0), (0.0, 1.0)}


def test_without_replicates_there_is_no_interval():
    detections, truth = random_case()
    samples = Bootstrap(np.arange(12), 0).sensitivities(froc(detections, truth, 12), [1], np.ones((1, 30), bool))
    assert np.isnan(interval(samples)).all()
