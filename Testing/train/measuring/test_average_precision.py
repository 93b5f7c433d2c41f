"""Average precision against cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from train.measuring.average_precision import average_precision
from train.measuring.boxes import Boxes

BOX, ELSEWHERE = [10.0, 10, 30, 30], [60.0, 60, 80, 80]


def of(*per_image):
    return Boxes.of([tuple(np.array(part) for part in entry) for entry in per_image])


def test_each_label_apart_and_their_mean():
    """Liver: a false positive before the only hit, 1/2.

    Lung: one of two lesions, precision 1 up to recall 1/2: 51 of 101 points.
    """
    truth = of(([BOX], [4]), ([BOX, ELSEWHERE], [5, 5]))
    detections = of(([ELSEWHERE, BOX], [4, 4], [0.9, 0.8]), ([BOX], [5], [0.7]))
    values = average_precision(detections, truth, 2, 0.5)
    assert values == pytest.approx({"Liver": 0.5, "Lung": 51 / 101, "mean": (0.5 + 51 / 101) / 2})


def test_the_iou_limit_ignored_lesions_and_labels_without_lesions():
    truth = of(([BOX, ELSEWHERE], [4, -1]), (np.zeros((0, 4)), []))
    shifted = [[20.0, 10, 40, 30], ELSEWHERE, ELSEWHERE]
    detections = of((shifted, [4, 4, 1], [0.7, 0.9, 0.9]), ([BOX], [1], [0.9]))
    assert average_precision(detections, truth, 2, 0.3) == pytest.approx({"Liver": 1.0, "mean": 1.0})
    assert average_precision(detections, truth, 2, 0.5) == pytest.approx({"Liver": 0.0, "mean": 0.0})


def test_no_lesion():
    values = average_precision(of((np.zeros((0, 4)), [], [])), of((np.zeros((0, 4)), [])), 1, 0.3)
    assert np.isnan(values["mean"])
