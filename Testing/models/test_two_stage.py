"""Faster R-CNN and the JMI detector: their two stages, ignored boxes, geometry, and VGG-16."""

from __future__ import annotations

import math

import pytest
import torch
from LesionDetectorLib.models.backbone import IMAGENET_DEVIATION, Vgg16
from LesionDetectorLib.models.faster_rcnn import FasterRCNN, RawOutputs
from LesionDetectorLib.models.jmi import Jmi
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from Testing.helpers.targets import target


@pytest.fixture
def model() -> FasterRCNN:
    torch.manual_seed(0)
    return FasterRCNN(channels=8, head_depth=1, features=16, strides=(4, 8, 16))


def made_up(model: FasterRCNN, box: list[float] | None = None, size: int = 64) -> RawOutputs:
    """Outputs for one image in which every anchor is as likely and says `box`, or stays as it is."""
    sides = [size // stride for stride in model.strides]
    maps = tuple(torch.rand(1, 8, side, side) for side in sides)
    objectness = tuple(torch.zeros(1, 6, side, side) for side in sides)
    deltas = tuple(torch.zeros(1, 24, side, side) for side in sides)
    if box is not None:
        raw = RawOutputs(maps, objectness, deltas)
        anchors = model._anchors(raw)
        codes = model.rpn.box_coder.encode_single(torch.tensor(box).expand(len(anchors), 4), anchors)
        per_level = codes.split([6 * side * side for side in sides])
        deltas = tuple(
            level.view(1, side, side, 6, 4).permute(0, 3, 4, 1, 2).reshape(1, 24, side, side)
            for level, side in zip(per_level, sides)
        )
    return RawOutputs(maps, objectness, deltas)


def say(model: FasterRCNN, label: int | None = None) -> None:
    """Make the second stage answer `label`, or nothing, for every region, and leave the region as it is."""
    for parameter in model.roi_heads.box_predictor.parameters():
        nn.init.zeros_(parameter)
    if label is not None:
        with torch.no_grad():
            model.roi_heads.box_predictor.cls_score.bias[label + 1] = 5.0


def test_losses_by_hand(model: FasterRCNN) -> None:
    say(model)
    losses = model.loss(made_up(model), [target([[20.0, 20, 40, 40]], [3])])
    assert losses["objectness"].item() == pytest.approx(math.log(2), abs=1e-5)
    assert losses["class"].item() == pytest.approx(math.log(9), abs=1e-5)
    perfect = model.loss(made_up(model, [20.0, 20, 40, 40]), [target([[20.0, 20, 40, 40]], [3])])
    assert perfect["proposal"].item() == pytest.approx(0, abs=1e-6) and losses["proposal"] > 0
    assert perfect["box"].item() == pytest.approx(0, abs=1e-6)


def test_proposals_that_say_the_lesion_are_its_label(model: FasterRCNN) -> None:
    say(model, 3)
    right, wrong = (
        model.loss(made_up(model, [20.0, 20, 40, 40]), [target([[20.0, 20, 40, 40]], [label])])["class"].item()
        for label in (3, 4)
    )
    assert right == pytest.approx(math.log(1 + 8 * math.exp(-5)), abs=1e-5)
    assert wrong == pytest.approx(right + 5, abs=1e-4)


def test_anchors_and_regions_that_are_left_out(model: FasterRCNN) -> None:
    raw = made_up(model)
    boxes, labels = torch.tensor([[4.0, 4, 20, 20], [30.0, 30, 60, 60]]), torch.tensor([2, -1])
    anchors = model._anchors(raw)
    (learnt,), (wanted,) = model.rpn.assign_targets_to_anchors([anchors], [{"boxes": boxes, "labels": labels}])
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert (learnt[((centres > 30) & (centres < 60)).all(1)] == -1).all()
    assert (learnt == 1).any() and (learnt == 0).any()
    assert (wanted[learnt == 1] == boxes[0]).all()

    regions = torch.tensor([[4.0, 4, 20, 21], [31.0, 31, 60, 59], [40.0, 40, 44, 44], [0.0, 40, 10, 50]])
    _, (learnt,) = model.roi_heads.assign_targets_to_proposals([regions], [boxes], [labels])
    assert learnt.tolist() == [2, -1, -1, 0]


def test_decoding_gives_the_boxes_back(model: FasterRCNN) -> None:
    say(model, 6)
    box = [10.25, 8.5, 30.0, 41.75]
    (found,) = model.eval().decode(made_up(model, box))
    assert found.labels.tolist() == [6]
    torch.testing.assert_close(found.boxes, torch.tensor([box]), atol=1e-3, rtol=0)
    assert found.scores.item() == pytest.approx(1 / (1 + 8 * math.exp(-5)), abs=1e-5)
    assert len(model.decode(made_up(model, box), score_threshold=0.99)[0].boxes) == 0


def test_regions_are_cut_where_they_lie(model: FasterRCNN) -> None:
    maps = {str(n): grid(64 // s, s) for n, s in enumerate(model.strides)}
    regions = torch.tensor([[8.0, 12, 24, 40], [20.0, 20, 28, 26]])
    cut = model.roi_heads.box_roi_pool(maps, [regions], [(64, 64)]).mean(dim=(2, 3))
    torch.testing.assert_close(cut, (regions[:, :2] + regions[:, 2:]) / 2, atol=1e-3, rtol=0)


def grid(side: int, stride: int) -> torch.Tensor:
    """A map (1, 2, side, side) whose cells hold the x and y of the pixel that they look at."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([x, y])[None].float() * stride


def test_vgg_looks_at_the_pixel_that_the_coordinates_name() -> None:
    trunk = Vgg16(slices=1)
    for stage in trunk.stages:
        for name, module in stage.named_children():
            if isinstance(module, nn.MaxPool2d):
                setattr(stage, name, nn.AvgPool2d(2))  # which side of a pooling window wins depends on the picture
    for parameter in trunk.parameters():
        nn.init.constant_(parameter, 0 if parameter.ndim == 1 else 1 / parameter[0].numel())
    image = torch.ones(1, 1, 64, 256, requires_grad=True)
    (features,) = trunk(image)
    assert features.shape == (1, 512, 8, 32)
    (seen,) = torch.autograd.grad(features[0, 0, 4, 16], image)
    centre = (seen[0, 0].sum(dim=0) * torch.arange(256)).sum() / seen.sum()
    assert centre.item() == pytest.approx(128, abs=0.51)


def test_vgg_takes_the_weights_of_the_classifier() -> None:
    features = make_layers(cfgs["D"])
    state = {f"features.{name}": value for name, value in features.state_dict().items()} | {
        "classifier.0.bias": torch.zeros(4096)
    }
    trunk = Vgg16(slices=3)
    trunk.load_backbone(state)
    deviation = torch.tensor(IMAGENET_DEVIATION).view(1, 3, 1, 1)
    torch.testing.assert_close(trunk.stages[0][0].weight, features[0].weight * 0.5 / deviation)
    assert torch.equal(trunk.stages[4][4].weight, features[28].weight)
    with pytest.raises(RuntimeError, match="Missing key"):
        trunk.load_backbone({"features.0.weight": state["features.0.weight"]})


def test_jmi_is_the_detector_of_the_paper() -> None:
    model = Jmi()
    assert sum(isinstance(module, nn.MaxPool2d) for module in model.pyramid.modules()) == 3
    assert model.rpn.anchor_generator.num_anchors_per_location() == [15]
    convolutions = [module for module in model.roi_heads.box_head if isinstance(module, nn.Conv2d)]
    assert [(conv.out_channels, conv.kernel_size, conv.padding) for conv in convolutions] == [
        (512, (3, 3), (0, 0)),
        (512, (5, 5), (0, 0)),
    ]
    assert model.roi_heads.box_roi_pool.output_size == (7, 7)
    assert model.roi_heads.fg_bg_sampler.batch_size_per_image == 32
    assert model.rpn.nms_thresh == 0.7
