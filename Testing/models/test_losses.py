"""Losses against values computed by hand."""

from __future__ import annotations

import pytest
import torch
from LesionDetectorLib.models import weights
from LesionDetectorLib.models.boxes import grid_points, ltrb_to_xyxy, paired_iou, xyxy_to_ltrb
from LesionDetectorLib.models.dense import counting
from LesionDetectorLib.models.detections import BACKGROUND, IGNORE, Target
from LesionDetectorLib.models.losses import varifocal_loss


@pytest.mark.parametrize(
    ("logit", "quality", "expected"),
    [
        (0.0, 0.0, 0.129965),  # 0.75 * 0.5 ** 2 * ln 2
        (2.0, 0.0, 1.237559),  # 0.75 * 0.880797 ** 2 * ln(1 + e ** 2)
        (0.0, 0.8, 0.554518),  # 0.8 * ln 2
        (2.0, 0.5, 0.563464),  # 0.5 * (ln(1 + e ** 2) - 0.5 * 2)
    ],
)
def test_varifocal_loss_by_hand(logit: float, quality: float, expected: float) -> None:
    loss = varifocal_loss(torch.tensor([logit]), torch.tensor([quality]))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_varifocal_gradient_of_a_positive_vanishes_at_its_quality() -> None:
    logit = torch.tensor([0.7]).logit().requires_grad_()
    varifocal_loss(logit, torch.tensor([0.7])).sum().backward()
    assert logit.grad.item() == pytest.approx(0, abs=1e-7)


def test_iou_by_hand() -> None:
    box = torch.tensor([[0.0, 0, 20, 20]])
    assert paired_iou(box, box + 10).item() == pytest.approx(1 / 7)
    assert paired_iou(box, box + 30).item() == 0
    assert paired_iou(box, box).item() == pytest.approx(1)
    assert paired_iou(box * 0, box * 0).item() == 0


def test_distances_give_their_box_back() -> None:
    points = grid_points(3, 5, 8)
    assert points[6].tolist() == [8.0, 8.0]
    box = torch.tensor([3.5, -2.0, 17.25, 9.0])
    distances = xyxy_to_ltrb(points, box.expand(len(points), 4))
    assert distances[6].tolist() == [4.5, 10.0, 9.25, 1.0]
    torch.testing.assert_close(ltrb_to_xyxy(points, distances), box.expand(len(points), 4))


@pytest.mark.parametrize("detector", ["vfnet", "retinanet", "foveabox"])
def test_what_may_be_unmarked_weighs_less_in_the_loss(detector: str) -> None:
    torch.manual_seed(0)
    model = weights.build({"detector": detector, "channels": 8, "strides": (4, 8, 16)})
    raw = model(255 * torch.rand(1, 3, 64, 64))
    boxes, nothing = torch.tensor([[12.0, 12, 52, 52]]), torch.zeros(0, 4)

    def class_loss(weight: float, lesion: bool) -> float:
        labels, ignore = torch.tensor([2]), torch.tensor([False])
        target = Target(boxes, labels, ignore) if lesion else Target(nothing, labels[:0], ignore[:0])
        return float(model.loss(raw, [target._replace(background=torch.full((8,), weight))])["class"])

    full = class_loss(1.0, lesion=False)
    assert class_loss(0.25, lesion=False) == pytest.approx(0.25 * full, rel=1e-4)
    assert class_loss(0.0, lesion=False) == 0
    assert 0 < class_loss(0.0, lesion=True) < class_loss(1.0, lesion=True), "the lesion itself is learnt all the same"
    target = Target(boxes, torch.tensor([2]), torch.tensor([False]))
    assert float(model.loss(raw, [target])["class"]) == pytest.approx(class_loss(1.0, lesion=True))


def test_each_label_has_a_weight_of_its_own_and_each_image() -> None:
    assigned = torch.tensor([[BACKGROUND, 0, IGNORE], [BACKGROUND, BACKGROUND, 0]])
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=bool))
    weight = counting(assigned, [nothing._replace(background=torch.tensor([0.5, 1.0])), nothing], 2)
    assert weight.tolist() == [[[0.5, 1], [1, 1], [0, 0]], [[1, 1], [1, 1], [1, 1]]]
