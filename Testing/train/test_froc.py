"""FROC against cases counted by hand and against a published detector's own figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from train.froc import Boxes, froc, pairwise_iou

LESION = np.array([[10.0, 10, 30, 30]])


def of(*per_image):
    return Boxes.of([tuple(np.array(part) for part in entry) for entry in per_image])


def test_a_second_hit_counts_as_nothing_and_a_miss_as_false_positive():
    truth = of((LESION, [4]), (LESION, [5]))
    detections = of(
        ([[10, 10, 30, 30], [11, 11, 31, 31], [100, 100, 120, 120]], [4, 4, 4], [0.9, 0.8, 0.7]),
        ([[10, 10, 30, 30]], [4], [0.6]),
    )
    result = froc(detections, truth, images=2)
    assert result.false_positives.tolist() == [0.7, 0.6]
    assert result.found.tolist() == [0.9, -np.inf]
    assert froc(detections, truth, images=2, same_label=False).found.tolist() == [0.9, 0.6]


def test_sensitivity_at_a_rate_takes_the_lowest_threshold_that_keeps_it():
    truth = of((np.concatenate([LESION, LESION + 100]), [1, 1]))
    detections = of(([[0, 50, 5, 60], LESION[0], [60, 0, 70, 9], LESION[0] + 100], [1, 1, 1, 1], [0.9, 0.8, 0.7, 0.6]))
    result = froc(detections, truth, images=1)
    assert [result.sensitivity(rate) for rate in (0, 1, 2)] == [0, 0.5, 1]


def test_unknown_lesions_are_ignored():
    truth = of((LESION, [-1]))
    detections = of(([LESION[0], [60, 60, 70, 70]], [3, 3], [0.9, 0.4]))
    result = froc(detections, truth, images=1)
    assert len(result.found) == 0 and result.false_positives.tolist() == [0.4]
    assert np.isnan(result.sensitivity(4))


def test_iou_with_and_without_counting_pixels():
    """Two 12 px boxes 4 px apart: .50 without, .53 with the + 1."""
    first, second = np.array([[0.0, 0, 12, 12]]), np.array([[4.0, 0, 16, 12]])
    assert pairwise_iou(first, second)[0] == pytest.approx(0.5)
    assert pairwise_iou(first, second, count_pixels=True)[0] == pytest.approx(9 / 17, abs=1e-3)


def test_a_published_detectors_figures_come_out(shared_data):
    """MULAN on DeepLesion's validation slices: the sensitivities of its authors' log."""
    folder = shared_data / "froc_reference"
    truth = pd.read_csv(folder / "mulan_val_ground_truth.csv.gz")
    detections = pd.read_csv(folder / "mulan_val_detections.csv.gz")
    names = pd.Index(sorted(set(truth.iloc[:, 0]) | set(detections.iloc[:, 0])))
    box = ["x1", "y1", "x2", "y2"]
    found = Boxes(
        names.get_indexer(detections.iloc[:, 0]), detections[box].to_numpy(), np.ones(len(detections), int), detections["score"].to_numpy()
    )
    lesions = Boxes(names.get_indexer(truth.iloc[:, 0]), truth[box].to_numpy(), np.ones(len(truth), int))
    result = froc(found, lesions, images=4791, iou=0.5, count_pixels=True)
    figures = [result.sensitivity(rate) for rate in (0.5, 1, 2, 4, 8, 16)]
    np.testing.assert_allclose(figures, [0.7049, 0.7952, 0.8574, 0.9051, 0.9302, 0.9435], atol=0.0005)
