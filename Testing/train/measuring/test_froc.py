"""FROC and confusion matrix against cases counted by hand, plain loops on random cases, and a published detector's
own figures."""

from __future__ import annotations

import json
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train import evaluate
from train.measuring.boxes import Boxes
from train.measuring.froc import confusion, froc, overlapping

LESION = np.array([[10.0, 10, 30, 30]])
HALF, THIRTY_PERCENT = Fraction(1, 2), Fraction(3, 10)


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
    assert result.hits.tolist() == [0, 1]
    assert froc(detections, truth, images=2, same_label=False).found.tolist() == [0.9, 0.6]


def test_sensitivity_at_a_rate_takes_the_lowest_threshold_that_keeps_it():
    truth = of((np.concatenate([LESION, LESION + 100]), [1, 1]))
    detections = of(([[0, 50, 5, 60], LESION[0], [60, 0, 70, 9], LESION[0] + 100], [1, 1, 1, 1], [0.9, 0.8, 0.7, 0.6]))
    result = froc(detections, truth, images=1)
    assert [result.sensitivity(rate) for rate in (0, 1, 2)] == [0, 0.5, 1]


def test_the_two_readings_of_false_positives_per_image_for_one_label():
    """Two false positives of label 2 outscore the hit of label 1: they use up the rate of all labels.

    Label 1 alone has none.
    """
    truth = of((LESION, [1]))
    detections = of(([[50, 50, 60, 60], [70, 70, 80, 80], LESION[0]], [2, 2, 1], [0.9, 0.8, 0.7]))
    result = froc(detections, truth, images=1)
    assert result.sensitivity(1, result.labels == 1) == 0
    assert result.of_label(1).sensitivity(1) == 1 and len(result.of_label(2).false_positives) == 2


def test_unknown_lesions_are_ignored():
    truth = of((LESION, [-1]))
    detections = of(([LESION[0], [60, 60, 70, 70]], [3, 3], [0.9, 0.4]))
    result = froc(detections, truth, images=1)
    assert len(result.found) == 0 and result.false_positives.tolist() == [0.4]
    assert np.isnan(result.sensitivity(4))
    assert confusion(detections, truth, -np.inf).sum() == 0


def test_no_images_at_all():
    result = froc(Boxes.of([]), Boxes.of([]), images=0)
    assert np.isnan(result.sensitivity(4)) and result.threshold(4) == -np.inf


def test_iou_with_and_without_counting_pixels():
    """Two 12 px boxes 4 px apart: .50 without, .53 with the + 1."""
    first, second = of(([[0.0, 0, 12, 12]], [1], [1.0])), of(([[4.0, 0, 16, 12]], [1]))
    for count_pixels, expected in ((False, 0.5), (True, 9 / 17)):
        _, _, overlap = overlapping(first, second, 0.1, count_pixels)
        assert overlap[0] == pytest.approx(expected, abs=1e-3)


def test_the_confusion_matrix_takes_the_best_overlap_whatever_its_score():
    truth = of((np.concatenate([LESION, LESION + 100]), [4, 5]))
    detections = of(([LESION[0], LESION[0] + 5, [0, 0, 1, 1]], [6, 4, 5], [0.5, 0.9, 0.9]))
    matrix = confusion(detections, truth, threshold=0.1)
    assert matrix[4 - 1, 6 - 1] == 1 and matrix[5 - 1, 8] == 1 and matrix.sum() == 2
    assert confusion(detections, truth, threshold=0.5)[4 - 1, 4 - 1] == 1


@st.composite
def cases(draw):
    """Images with whole-numbered boxes, few scores and labels, so that equal scores, equal overlaps and IoUs on the
    limit come up often."""
    side = st.integers(1, 5)
    corner = st.integers(0, 5)
    box = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
    lesions = st.lists(st.tuples(box, st.sampled_from([-1, 1, 2, 3])), max_size=3)
    detections = st.lists(st.tuples(box, st.sampled_from([1, 2, 3]), st.sampled_from([0.1, 0.4, 0.5, 0.9])), max_size=6)
    return draw(st.lists(st.tuples(lesions, detections), min_size=1, max_size=4))


def boxes_of(case) -> tuple[Boxes, Boxes]:
    truth = of(*(([box for box, _ in lesions], [label for _, label in lesions]) for lesions, _ in case))
    return of(*(tuple(zip(*detections)) or ([], [], []) for _, detections in case)), truth


def slow_iou(a, b, extra) -> Fraction:
    width = min(a[2], b[2]) - max(a[0], b[0]) + extra
    height = min(a[3], b[3]) - max(a[1], b[1]) + extra
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (a, b)]
    return Fraction(shared, sum(areas) - shared)


def slow_sensitivity(case, rate, iou, same_label, extra, label=None, own=False) -> float:
    """One threshold after the other, from none shown to all, as long as the false positives keep to the rate."""
    lesions = [
        (n, m)
        for n, (truth, _) in enumerate(case)
        for m, (_, known) in enumerate(truth)
        if known != -1 and label in (None, known)
    ]
    if not lesions:
        return float("nan")
    shown = [
        (n, [m for m, (other, _) in enumerate(truth) if slow_iou(box, other, extra) >= iou], detected, score)
        for n, (truth, detections) in enumerate(case)
        for box, detected, score in detections
    ]
    best = 0.0
    for threshold in sorted({score for *_, score in shown}, reverse=True):
        false, found = 0, set()
        for n, on, detected, score in shown:
            if score < threshold:
                continue
            labels = [case[n][0][m][1] for m in on]
            hit = [m for m, known in zip(on, labels) if known != -1 and (known == detected or not same_label)]
            found.update((n, m) for m in hit)
            if not hit and -1 not in labels and (not own or detected == label):
                false += 1
        if false > rate * len(case):
            break
        best = sum(lesion in found for lesion in lesions) / len(lesions)
    return best


def slow_confusion(case, threshold, iou, extra) -> np.ndarray:
    matrix = np.zeros((8, 9), int)
    for truth, detections in case:
        for other, label in truth:
            best, answer = None, 9
            for place, (box, detected, score) in enumerate(detections):
                overlap = slow_iou(box, other, extra)
                if score > threshold and overlap >= iou and (best is None or (overlap, score, -place) > best):
                    best, answer = (overlap, score, -place), detected
            if label != -1:
                matrix[label - 1, answer - 1] += 1
    return matrix


@settings(max_examples=80, deadline=None)
@given(
    cases(),
    st.sampled_from([0, 0.5, 1, 1.5, 4]),
    st.sampled_from([THIRTY_PERCENT, HALF, Fraction(1)]),
    st.booleans(),
    st.sampled_from([0, 1]),
)
def test_plain_loops_agree(case, rate, iou, same_label, extra):
    detections, truth = boxes_of(case)
    result = froc(detections, truth, len(case), float(iou), same_label, count_pixels=bool(extra))
    np.testing.assert_equal(result.sensitivity(rate), slow_sensitivity(case, rate, iou, same_label, extra))
    for label in (1, 2, 3):
        headline, own = result.sensitivity(rate, result.labels == label), result.of_label(label).sensitivity(rate)
        np.testing.assert_equal(headline, slow_sensitivity(case, rate, iou, same_label, extra, label))
        if same_label:
            np.testing.assert_equal(own, slow_sensitivity(case, rate, iou, same_label, extra, label, own=True))
    rates, curve = result.curve()
    np.testing.assert_allclose(curve, [result.sensitivity(value) for value in rates])
    threshold = 0.3
    np.testing.assert_array_equal(
        confusion(detections, truth, threshold, float(iou), bool(extra)), slow_confusion(case, threshold, iou, extra)
    )


def test_pairs_made_in_several_blocks_are_all_there(monkeypatch):
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 20, (400, 2)).astype(float)
    boxes = np.hstack([corner, corner + 8])
    detections = Boxes(rng.integers(0, 5, 400), boxes, rng.integers(1, 4, 400), rng.random(400))
    truth = Boxes(rng.integers(0, 5, 60), boxes[:60], rng.integers(1, 4, 60))
    whole = froc(detections, truth, 5)
    monkeypatch.setattr("train.measuring.froc.PAIRS_AT_ONCE", 50)
    parts = froc(detections, truth, 5)
    np.testing.assert_array_equal(whole.found, parts.found)
    np.testing.assert_array_equal(whole.false, parts.false)


def test_a_hundred_thousand_detections_take_a_tenth_of_ten_seconds():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 450, (100_000, 2))
    boxes = np.hstack([corner, corner + rng.uniform(10, 60, (100_000, 2))])
    detections = Boxes(rng.integers(0, 1000, 100_000), boxes, rng.integers(1, 9, 100_000), rng.random(100_000))
    truth = Boxes(rng.integers(0, 1000, 2000), boxes[:2000], rng.integers(1, 9, 2000))
    start = time.process_time()
    froc(detections, truth, 1000).sensitivity(4)
    assert time.process_time() - start < 1


def test_a_published_detectors_figures_come_out(shared_data, capsys):
    """MULAN on DeepLesion's validation slices: the sensitivities of its authors' log."""
    folder = shared_data / "froc_reference"
    files = [folder / "mulan_val_detections.csv.gz", folder / "mulan_val_ground_truth.csv.gz"]
    rates = ["0.5", "1", "2", "4", "8", "16"]
    command = [
        "froc",
        "--detections",
        files[0],
        "--ground-truth",
        files[1],
        "--iou",
        "0.5",
        "--fps",
        *rates,
        "--count-pixels",
    ]
    assert evaluate.main([str(part) for part in command]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["images"], result["lesions"], result["detections"]) == (4791, 4887, 64826)
    published = [0.7049, 0.7952, 0.8574, 0.9051, 0.9302, 0.9435]
    np.testing.assert_allclose([result["sensitivity"][rate] for rate in rates], published, atol=0.0005)
