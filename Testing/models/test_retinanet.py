"""RetinaNet: losses by hand, anchors, ignored boxes and decoding."""

from __future__ import annotations

import pytest
import torch
from LesionDetectorLib.models.anchors import match_anchors
from LesionDetectorLib.models.boxes import grid_points
from LesionDetectorLib.models.detections import BACKGROUND, IGNORE
from LesionDetectorLib.models.retinanet import RawOutputs, RetinaNet
from torchvision.ops import box_iou

from Testing.helpers.targets import target


@pytest.fixture(scope="module")
def model() -> RetinaNet:
    return RetinaNet(channels=8)


def made_up(model: RetinaNet, box: list[float] | None = None, logit: float = 0.0, size: int = 64) -> RawOutputs:
    """Outputs for one image in which every anchor says `box`, or stays as it is."""
    logits = tuple(torch.full((1, size // s, size // s, 9, 8), logit).requires_grad_() for s in model.strides)
    deltas = [torch.zeros(*level.shape[:-1], 4) for level in logits]
    if box is not None:
        coder = model.head.regression_head.box_coder
        anchors = model._anchors(RawOutputs(logits, logits))
        deltas = [
            coder.encode_single(torch.tensor(box).expand(len(a), 4), a).view(d.shape) for a, d in zip(anchors, deltas)
        ]
    return RawOutputs(logits, tuple(level.requires_grad_() for level in deltas))


def test_anchors_lie_on_the_points(model: RetinaNet) -> None:
    for anchors, stride in zip(model._anchors(made_up(model)), model.strides):
        centres = ((anchors[:, :2] + anchors[:, 2:]) / 2).view(-1, 9, 2)
        assert torch.equal(centres, grid_points(64 // stride, 64 // stride, stride)[:, None].expand_as(centres))


def test_anchors_fit_the_lesions(model: RetinaNet) -> None:
    anchors = torch.cat(model._anchors(made_up(model, size=256)))
    for side in (12, 16, 22, 32, 48, 84):
        for offset in (0.0, 2.0):
            box = torch.tensor([[100.0, 100, 100 + side, 100 + side]]) + offset
            matched = match_anchors(model.matcher, anchors, box, torch.tensor([False])) >= 0
            assert matched.sum() >= 4
            assert box_iou(anchors[matched], box).min() > 0.45  # none learns a lesion that it hardly overlaps


def test_losses_by_hand(model: RetinaNet) -> None:
    lesion = target([[20.0, 20, 40, 40]], [3])
    raw = made_up(model)
    anchors = torch.cat(model._anchors(raw))
    matched = match_anchors(model.matcher, anchors, lesion.boxes, lesion.ignore)
    positives, negatives = (matched == 0).sum().item(), (matched == BACKGROUND).sum().item()
    assert positives > 0 and (matched == IGNORE).any()
    losses = model.loss(raw, [lesion])
    # At p = 0.5 the focal loss of a label is 0.25 * 0.5 ** 2 * ln 2, of background 0.75 * 0.5 ** 2 * ln 2.
    label, background = 0.0433217, 0.1299651
    expected = (positives * (label + 7 * background) + negatives * 8 * background) / positives
    assert losses["class"].item() == pytest.approx(expected, rel=1e-5)
    chosen = anchors[matched == 0]
    sides, centres = chosen[:, 2:] - chosen[:, :2], (chosen[:, 2:] + chosen[:, :2]) / 2
    expected = (((30 - centres) / sides).abs() + (20 / sides).log().abs()).sum() / positives
    assert losses["box"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_ignored_boxes_have_no_gradient(model: RetinaNet) -> None:
    raw = made_up(model)
    sum(model.loss(raw, [target([[4.0, 4, 20, 20], [30.0, 30, 60, 60]], [1, 2], [False, True])]).values()).backward()
    for anchors, logits, deltas in zip(model._anchors(raw), raw.logits, raw.deltas):
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        ignored = ((centres > 30) & (centres < 60)).all(1)
        assert (logits.grad.flatten(0, 3)[ignored] == 0).all()
        assert deltas.grad is None or (deltas.grad.flatten(0, 3)[ignored] == 0).all()
    assert raw.logits[0].grad.abs().sum() > 0 and raw.deltas[0].grad.abs().sum() > 0


def test_decoding_gives_the_boxes_back(model: RetinaNet) -> None:
    box = [10.25, 8.5, 30.0, 41.75]
    raw = made_up(model, box, logit=-8.0)
    with torch.no_grad():
        raw.logits[0][0, 5, 4, 3, 2] = 2.0
        raw.logits[0][0, 5, 5, 8, 2] = 1.0  # the same box and label: one lesion
        raw.logits[1][0, 3, 2, 0, 6] = 0.0  # another label: kept
    (found,) = model.decode(raw)
    assert found.labels.tolist() == [2, 6]
    torch.testing.assert_close(found.scores, torch.tensor([2.0, 0.0]).sigmoid())
    torch.testing.assert_close(found.boxes, torch.tensor([box, box]), atol=1e-4, rtol=0)
    assert len(model.decode(raw, score_threshold=0.6)[0].boxes) == 1
