"""Weighted boxes fusion against the package of its authors, and stacking on cases drawn by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from LesionDetectorLib.boxes import pairwise_iou
from LesionDetectorLib.fuse import weighted_boxes_fusion
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.stack import stack, stack_all

LIVER, LUNG = BodyPart.LIVER.value, BodyPart.LUNG.value


def random_predictions(rng: np.random.Generator, models: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Each model sees the same 12 lesions a little differently, misses some and adds some; boxes in -60..620 px."""
    corners = rng.uniform(-50, 550, (12, 2))
    lesions = np.hstack([corners, corners + rng.uniform(8, 60, (12, 2))])
    predictions = []
    for _ in range(models):
        seen = np.repeat(lesions[rng.random(12) < 0.8], 2, axis=0)
        boxes = seen + rng.uniform(-4, 4, seen.shape)
        predictions.append(
            (boxes, rng.uniform(0.01, 1, len(boxes)), rng.choice([LIVER, LUNG], len(boxes), p=[0.8, 0.2]))
        )
    return predictions


def oracle(predictions, weights, iou_threshold, skip_below):
    """The authors' package, which wants boxes within 0..1: shift and scale leave every IoU as it is."""
    ensemble_boxes = pytest.importorskip("ensemble_boxes")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        boxes, scores, labels = ensemble_boxes.weighted_boxes_fusion(
            [(boxes + 100) / 800 for boxes, _, _ in predictions],
            [scores for _, scores, _ in predictions],
            [labels for _, _, labels in predictions],
            weights=weights,
            iou_thr=iou_threshold,
            skip_box_thr=skip_below,
        )
    return boxes * 800 - 100, np.minimum(scores, 1), labels


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("models", "weights", "iou_threshold", "skip_below"),
    [(2, None, 0.55, 0.0), (4, None, 0.55, 0.05), (3, [2.0, 1.0, 0.5], 0.4, 0.0), (6, None, 0.7, 0.3)],
)
def test_fusion_is_that_of_the_authors(seed, models, weights, iou_threshold, skip_below):
    predictions = random_predictions(np.random.default_rng(seed), models)
    expected_boxes, expected_scores, expected_labels = oracle(predictions, weights, iou_threshold, skip_below)
    boxes, scores, labels = weighted_boxes_fusion(predictions, weights, iou_threshold, skip_below)
    assert len(scores) < sum(len(scores) for _, scores, _ in predictions)  # something was fused
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_allclose(boxes, expected_boxes, atol=1e-3)


def test_box_that_one_of_two_models_saw_keeps_half_of_its_score():
    box, nothing = np.array([[10.0, 10, 30, 30]]), np.zeros((0, 4))
    boxes, scores, labels = weighted_boxes_fusion([(box, [0.9], [LIVER]), (nothing, [], [])])
    np.testing.assert_allclose(boxes, box)
    assert scores.tolist() == pytest.approx([0.45])
    assert labels.tolist() == [LIVER]


def test_single_model_comes_back_as_it_is():
    boxes = np.array([[0.0, 0, 10, 10], [1, 1, 11, 11], [50, 50, 50, 60], [20, 20, 40, 40]])
    kept, scores, labels = weighted_boxes_fusion([(boxes, [0.3, 0.8, 0.9, 0.04], [4, 4, 4, 4])], skip_below=0.05)
    # overlapping boxes stay apart, the empty and the unlikely one go
    np.testing.assert_array_equal(kept, boxes[[1, 0]])
    assert scores.tolist() == [0.8, 0.3]
    assert labels.tolist() == [4, 4]


def test_score_stays_within_1_when_a_weighty_model_sees_a_lesion_twice():
    twice = np.array([[10.0, 10, 30, 30], [11, 10, 31, 30]])
    _, scores, _ = weighted_boxes_fusion([(twice, [1.0, 1.0], [LIVER, LIVER]), (twice[:0], [], [])], weights=[3, 1])
    assert scores.tolist() == [1.0]


@pytest.mark.parametrize("models", [0, 1, 3])
def test_nothing_found(models):
    boxes, scores, labels = weighted_boxes_fusion([(np.zeros((0, 4)), np.zeros(0), np.zeros(0))] * models)
    assert boxes.shape == (0, 4)
    assert scores.shape == labels.shape == (0,)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, float("nan")]])
def test_weights_must_fit(weights):
    empty = (np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="one positive weight for each of 2 models"):
        weighted_boxes_fusion([empty, empty], weights)


def test_iou():
    boxes = np.array([[0.0, 0, 2, 2], [5, 5, 5, 5]])
    np.testing.assert_allclose(pairwise_iou(boxes, np.array([[1.0, 0, 3, 2], [5, 5, 5, 5]])), [[1 / 3, 0], [0, 0]])


def on_slice(k: int, *found: tuple[float, float, float, float, int]) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Slice k with square boxes (centre x, centre y, side, score, label)."""
    rows = np.array(found, dtype=float).reshape(-1, 5)
    half = rows[:, 2:3] / 2
    return k, np.hstack([rows[:, :2] - half, rows[:, :2] + half]), rows[:, 3], rows[:, 4].astype(int)


def test_consecutive_slices_become_one_lesion():
    lesion, other = stack(
        [
            on_slice(7, (50, 50, 20, 0.9, LIVER)),
            on_slice(8, (51, 50, 22, 0.95, LIVER), (200, 200, 30, 0.6, LUNG)),
            on_slice(9, (51, 51, 20, 0.9, LIVER)),
            on_slice(10),
        ]
    )
    assert lesion.slices == (7, 9)
    assert lesion.key_slice == 8
    assert lesion.box == (40, 39, 62, 61)
    assert lesion.confidence == pytest.approx(0.95)
    assert lesion.body_part is BodyPart.LIVER
    assert dict(lesion.boxes) == {7: (40, 40, 60, 60), 8: (40, 39, 62, 61), 9: (41, 41, 61, 61)}
    assert (other.slices, other.key_slice, other.body_part) == ((8, 8), 8, BodyPart.LUNG)  # thick slices: one is enough
    with pytest.raises(TypeError):
        lesion.boxes[7] = (0, 0, 1, 1)


def test_order_of_slices_does_not_matter():
    slices = [on_slice(k, (50 + k, 50, 20, 0.5 + k / 20, LIVER)) for k in range(6)]
    assert stack(slices) == stack(slices[::-1])


def test_slice_without_the_lesion_ends_it():
    box = (50, 50, 20, 0.9, LIVER)
    assert [lesion.slices for lesion in stack([on_slice(1, box), on_slice(2), on_slice(3, box)])] == [(1, 1), (3, 3)]
    assert [lesion.slices for lesion in stack([on_slice(1, box), on_slice(3, box)])] == [
        (1, 3)
    ]  # every second slice was looked at


def test_boxes_that_overlap_too_little_stay_apart():
    # IoU 13 / 27
    assert len(stack([on_slice(0, (50, 50, 20, 0.9, LIVER)), on_slice(1, (57, 50, 20, 0.9, LIVER))])) == 2
    # IoU 14 / 26
    assert len(stack([on_slice(0, (50, 50, 20, 0.9, LIVER)), on_slice(1, (56, 50, 20, 0.9, LIVER))])) == 1


def test_box_joins_the_lesion_that_it_overlaps_most():
    neighbours = on_slice(0, (50, 50, 40, 0.8, LIVER), (64, 50, 40, 0.7, LIVER))
    lesions = stack([neighbours, on_slice(1, (62, 50, 40, 0.9, LIVER))], iou_threshold=0.49)
    assert {lesion.slices: lesion.boxes[0][0] for lesion in lesions} == {(0, 0): 30, (0, 1): 44}


def test_label_is_the_score_weighted_vote_over_slices_and_labels():
    slices = [
        on_slice(0, (50, 50, 20, 0.6, LIVER)),
        on_slice(1, (50, 50, 20, 0.9, LUNG), (51, 50, 20, 0.5, LIVER)),
        on_slice(2, (50, 50, 20, 0.5, LIVER)),
    ]
    (lesion,) = stack(slices)  # one lesion, though slice 1 has a box for each label
    assert lesion.body_part is BodyPart.LIVER  # 1.6 against 0.9
    assert lesion.confidence == pytest.approx(0.9)
    assert dict(lesion.votes) == pytest.approx({BodyPart.LIVER: 1.6, BodyPart.LUNG: 0.9})
    (lesion,) = stack(slices[1:2])
    assert lesion.body_part is BodyPart.LUNG


def test_key_slice_is_the_largest_of_the_sure_ones():
    (lesion,) = stack(
        [
            on_slice(0, (50, 50, 20, 0.90, LIVER)),
            on_slice(1, (50, 50, 22, 0.85, LIVER)),
            on_slice(2, (50, 50, 26, 0.60, LIVER)),
        ]
    )
    assert lesion.key_slice == 1  # slice 2 is larger, but the detector doubts it
    assert lesion.confidence == pytest.approx(0.85)
    assert lesion.slices == (0, 2)


def test_doubtful_tail_of_a_vessel_does_not_lengthen_the_lesion():
    scores = [0.1, 0.2, 0.9, 0.3, 0.8, 0.1]
    (lesion,) = stack([on_slice(k, (50, 50, 20, score, LIVER)) for k, score in enumerate(scores)])
    assert lesion.slices == (2, 4)
    assert set(lesion.boxes) == {2, 3, 4}


@pytest.mark.parametrize(("spacing", "slices"), [(1.0, 17), (5.0, 3)])
def test_thin_and_thick_slices_find_the_same_sphere(spacing, slices):
    heights = np.arange(-(slices // 2), slices // 2 + 1) * spacing
    sides = 2 * np.sqrt(10**2 - heights**2) + 10  # a sphere of 20 mm, seen with a margin of 5 mm
    (lesion,) = stack(
        [on_slice(k, (50, 50, side, 0.9 - abs(z) / 40, LUNG)) for k, (z, side) in enumerate(zip(heights, sides))]
    )
    assert lesion.key_slice == slices // 2
    assert lesion.slices == (0, slices - 1)


def test_no_slices_no_lesions():
    assert stack([]) == []
    assert stack([on_slice(0), on_slice(1)]) == []


def numbers(*slices) -> dict[int, list[int]]:
    return {k: own.tolist() for k, own in stack_all([(k, boxes) for k, boxes, _, _ in slices]).items()}


def test_for_volumetric_figures_every_box_is_part_of_a_3d_box():
    """No tail is cut off, boxes of one slice stay apart, and those that nothing continues stand alone."""
    faint, sure, other = (50, 50, 20, 0.1, LIVER), (50, 50, 20, 0.9, LIVER), (51, 50, 20, 0.9, LUNG)
    assert numbers(on_slice(3, sure), on_slice(4, faint), on_slice(5, faint, other)) == {3: [0], 4: [0], 5: [0, 1]}
    assert numbers(on_slice(3, sure), on_slice(4), on_slice(5, sure)) == {3: [0], 4: [], 5: [1]}
    assert numbers(on_slice(5, sure), on_slice(3, sure, other)) == {3: [0, 1], 5: [0]}, "every second slice, any order"
    assert stack_all([]) == {}


MM = (0.8, 0.8)
"""A pixel; boxes leave a margin of 4 mm, 5 px, round the lesion."""


@pytest.mark.parametrize(
    ("interval", "scores", "mean"),
    [
        (1.0, [0.9], 0.9 / 5),  # one slice of five that 5 mm cover
        (1.0, [0.5, 0.7, 0.9, 0.9, 0.8, 0.6], 3.9 / 5),
        (2.5, [0.9], 0.45),
        (2.5, [0.5, 0.9], 0.7),
        (5.0, [0.9], 0.9),
        (8.0, [0.6, 0.9, 0.6], 0.9),
    ],
)
def test_a_lesion_of_20_mm_is_as_likely_as_the_slices_over_5_mm_are_in_the_mean(interval, scores, mean):
    slices = [on_slice(4 + n, (50, 50, 35, score, LIVER)) for n, score in enumerate(scores)]
    slices = [*(on_slice(k) for k in range(4)), *slices, *(on_slice(k) for k in range(4 + len(scores), 15))]
    (lesion,) = stack(slices, spacing=(*MM, interval))
    assert lesion.confidence == pytest.approx(mean)
    (unmeasured,) = stack(slices)
    assert unmeasured.confidence == pytest.approx(max(scores))


def test_a_small_lesion_is_seen_over_its_own_size_and_slices_that_do_not_exist_count_for_nothing():
    nodule = (50, 50, 14, 0.8, LUNG)  # of 3 mm
    seen = [on_slice(k, *([nodule] if k in (3, 4, 5) else [])) for k in range(10)]
    (lesion,) = stack(seen, spacing=(*MM, 1.0))
    assert lesion.confidence == pytest.approx(0.8)
    for ends in ([on_slice(0, (50, 50, 35, 0.8, LUNG)), on_slice(1, (50, 50, 35, 0.8, LUNG))], [on_slice(7, nodule)]):
        (lesion,) = stack(ends, spacing=(*MM, 1.0))
        assert lesion.confidence == pytest.approx(0.8), "the CT is no longer"


def test_every_third_slice_of_a_thin_ct_is_3_mm_away():
    slices = [on_slice(3 * n, *([(50, 50, 35, 0.8, LIVER)] if n == 4 else [])) for n in range(9)]
    (lesion,) = stack(slices, spacing=(*MM, 1.0))
    assert lesion.confidence == pytest.approx(0.8 / 2), "two slices cover 5 mm"


@pytest.mark.parametrize(("length_mm", "less"), [(28, 1), (56, 1), (84, (2 / 3) ** 2), (112, 1 / 4), (280, 1 / 25)])
def test_what_is_longer_than_twice_its_box_is_a_vessel_rather_than_a_lesion(length_mm, less):
    """A box of 28 mm through more and more slices of 4 mm."""
    slices = [on_slice(k, (50 + k / 8, 50, 35, 0.8, LIVER)) for k in range(length_mm // 4)]
    (lesion,) = stack([*slices, on_slice(200)], spacing=(*MM, 4.0))
    assert lesion.confidence == pytest.approx(0.8 * less)
    assert lesion.slices == (0, length_mm // 4 - 1)
    assert stack([*slices, on_slice(200)], lowest_confidence=0.5, spacing=(*MM, 4.0)) == (
        [lesion] if less > 0.7 else []
    )


def test_a_large_mass_through_many_slices_stays_as_likely():
    slices = [on_slice(k, (150, 150, 60 + 80 * np.sin(np.pi * k / 30), 0.9, LIVER)) for k in range(31)]
    (mass,) = stack(slices, spacing=(*MM, 2.5))
    assert mass.confidence == pytest.approx(0.9)


def test_lesions_come_in_the_order_of_their_confidence_in_3d():
    one, many = (50, 50, 35, 0.9, LIVER), (150, 50, 35, 0.6, LUNG)
    slices = [on_slice(k, *([one] if k == 3 else []), many) for k in range(9)]
    assert [lesion.body_part for lesion in stack(slices, spacing=(*MM, 2.0))] == [BodyPart.LUNG, BodyPart.LIVER]
