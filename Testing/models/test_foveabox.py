"""FoveaBox: which points learn what, losses by hand, ignored boxes and decoding."""

from __future__ import annotations

import pytest
import torch
from LesionDetectorLib.models.boxes import grid_points, xyxy_to_ltrb
from LesionDetectorLib.models.dense import points_of
from LesionDetectorLib.models.detections import BACKGROUND, IGNORE
from LesionDetectorLib.models.foveabox import FoveaBox, RawOutputs, assign_fovea

from Testing.helpers.targets import target

STRIDES = (4, 8, 16, 32, 64)


def points(size: int = 128) -> list[torch.Tensor]:
    return [grid_points(size // stride, size // stride, stride) for stride in STRIDES]


def learners(boxes: list[list[float]], ignore: list[bool] | None = None) -> list[list[tuple[int, tuple[float, ...]]]]:
    """For each box the stride and place of the points that learn it."""
    lesions = target(boxes, ignore=ignore)
    assigned = assign_fovea(points(), STRIDES, lesions.boxes, lesions.ignore)
    strides = [stride for stride, level in zip(STRIDES, points()) for _ in level]
    places = torch.cat(points()).tolist()
    return [[(strides[p], tuple(places[p])) for p in (assigned == box).nonzero()[:, 0]] for box in range(len(boxes))]


@pytest.fixture(scope="module")
def model() -> FoveaBox:
    return FoveaBox(channels=8, tower_depth=1)


def made_up(model: FoveaBox, box: list[float], shift: float = 0.0, logit: float = -8.0, size: int = 64) -> RawOutputs:
    """Outputs for one image in which every cell inside `box` says it, its logarithms off by `shift`."""
    logits, log_ltrb = [], []
    for stride in model.strides:
        side = size // stride
        ltrb = xyxy_to_ltrb(grid_points(side, side, stride), torch.tensor(box).expand(side * side, 4)).clamp(min=0.1)
        log_ltrb.append(((ltrb / (2 * stride)).log() + shift).T.reshape(1, 4, side, side).requires_grad_())
        logits.append(torch.full((1, 8, side, side), logit).requires_grad_())
    return RawOutputs(tuple(logits), tuple(log_ltrb))


def test_the_central_points_of_two_levels_learn_a_lesion() -> None:
    (found,) = learners([[43.0, 43, 85, 85]])
    assert sorted(found) == [*((8, (x, y)) for x in (56.0, 64.0, 72.0) for y in (56.0, 64.0, 72.0)), (16, (64.0, 64.0))]


def test_a_lesion_between_the_points_is_learnt_by_the_nearest() -> None:
    (found,) = learners([[61.0, 61, 69, 69]])
    assert found == [(4, (64.0, 64.0))]
    (found,) = learners([[62.0, 62, 70, 70]])  # as near to four
    assert sorted(found) == [(4, (x, y)) for x in (64.0, 68.0) for y in (64.0, 68.0)]


def test_the_smaller_of_two_lesions_wins_and_the_larger_keeps_the_rest() -> None:
    large, small = learners([[43.0, 43, 85, 85], [52.0, 52, 76, 76]])
    assert {place for stride, place in small if stride == 8} == {(64.0, 64.0)}
    assert len([place for stride, place in large if stride == 8]) == 8


def test_a_huge_and_a_tiny_lesion_have_a_level() -> None:
    huge, tiny = learners([[1.0, 1, 127, 127], [9.0, 9, 12, 12]])
    assert {stride for stride, _ in huge} == {16, 32}
    assert tiny == [(4, (12.0, 12.0))]
    lesions = target([[-600.0, -600, 600, 600]])
    assigned = assign_fovea(points(), STRIDES, lesions.boxes, lesions.ignore)
    assert (assigned[-4:] == 0).any() and (assigned[:-4] == BACKGROUND).all()


def test_losses_by_hand(model: FoveaBox) -> None:
    lesion = target([[20.0, 20, 40, 40]], [3])
    raw = made_up(model, [20.0, 20, 40, 40], shift=0.5, logit=0.0)
    assigned = assign_fovea(points_of(raw.logits, model.strides), model.strides, lesion.boxes, lesion.ignore)
    positives = (assigned == 0).sum().item()
    losses = model.loss(raw, [lesion])
    # At p = 0.5 the focal loss of a label is 0.4 * 0.5 ** 1.5 * ln 2, of background 0.6 * 0.5 ** 1.5 * ln 2.
    label, background = 0.0980258, 0.1470387
    expected = (positives * (label - background) + 8 * len(assigned) * background) / (positives + 1)
    assert losses["class"].item() == pytest.approx(expected, rel=1e-4)
    assert losses["box"].item() == pytest.approx(4 * (0.5 - 0.11 / 2), rel=1e-4)
    assert model.loss(made_up(model, [20.0, 20, 40, 40]), [lesion])["box"].item() == pytest.approx(0, abs=1e-6)


def test_ignored_boxes_have_no_gradient(model: FoveaBox) -> None:
    lesions = target([[4.0, 4, 20, 20], [30.0, 30, 60, 60]], [1, 2], [False, True])
    raw = made_up(model, [6.0, 6, 22, 22], logit=0.0)
    sum(model.loss(raw, [lesions]).values()).backward()
    ignored = assign_fovea(points_of(raw.logits, model.strides), model.strides, lesions.boxes, lesions.ignore) == IGNORE
    assert ignored.sum() >= 49
    for part in raw:
        gradient = torch.cat([level.grad.flatten(2) for level in part], dim=2)[0].abs().sum(dim=0)
        assert (gradient[ignored] == 0).all()
        assert gradient.sum() > 0


def test_decoding_gives_the_boxes_back(model: FoveaBox) -> None:
    box = [10.25, 8.5, 30.0, 41.75]
    raw = made_up(model, box)
    with torch.no_grad():
        raw.logits[0][0, 2, 5, 4] = 2.0
        raw.logits[0][0, 2, 5, 5] = 1.0  # the same box and label: one lesion
        raw.logits[1][0, 6, 3, 2] = 0.0  # another label: kept
    (found,) = model.decode(raw)
    assert found.labels.tolist() == [2, 6]
    torch.testing.assert_close(found.scores, torch.tensor([2.0, 0.0]).sigmoid())
    torch.testing.assert_close(found.boxes, torch.tensor([box, box]), atol=1e-3, rtol=0)
