"""VFNet: its pyramid, star convolution, losses and decoding, and that it can learn."""

from __future__ import annotations

import pytest
import torch
import torchvision
from LesionDetectorLib.models.backbone import BACKBONES, Pyramid
from LesionDetectorLib.models.boxes import grid_points, paired_iou, xyxy_to_ltrb
from LesionDetectorLib.models.dense import points_of
from LesionDetectorLib.models.detections import IGNORE, pad_to_multiple
from LesionDetectorLib.models.vfnet import RawOutputs, VFNet, star_conv, star_points
from torchvision.ops import deform_conv2d

from Testing.helpers.targets import target

STAR_YX = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0), (0, 1), (1, -1), (1, 0), (1, 1)]


def small(**changes) -> VFNet:
    torch.manual_seed(0)
    return VFNet(**{"channels": 16, "tower_depth": 1, **changes})


def made_up(model: VFNet, box: list[float], logit: float = -8.0, size: int = 64) -> RawOutputs:
    """Outputs for one image in which every cell says `box`."""
    logits, ltrb = [], []
    for stride in model.strides:
        side = size // stride
        points = grid_points(side, side, stride)
        ltrb.append(
            xyxy_to_ltrb(points, torch.tensor(box).expand(len(points), 4)).T.reshape(1, 4, side, side).requires_grad_()
        )
        logits.append(torch.full((1, model.num_classes, side, side), logit).requires_grad_())
    return RawOutputs(tuple(logits), tuple(ltrb), tuple(level.detach().clone().requires_grad_() for level in ltrb))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones(backbone: str) -> None:
    raw = small(backbone=backbone).eval()(torch.rand(1, 3, 64, 128) * 255)
    assert [tuple(level.shape) for level in raw.logits] == [(1, 8, 64 // s, 128 // s) for s in (4, 8, 16, 32, 64)]
    assert [tuple(level.shape) for level in raw.refined] == [(1, 4, 64 // s, 128 // s) for s in (4, 8, 16, 32, 64)]
    assert all(level.isfinite().all() for part in raw for level in part)
    assert all((level > 0).all() for level in (*raw.initial, *raw.refined))
    torch.testing.assert_close(raw.logits[0].sigmoid().mean().item(), 0.01, atol=0.01, rtol=0)


def test_equal_slices_give_what_one_slice_gives() -> None:
    state = _random_classifier()
    slice_ = torch.rand(1, 1, 64, 64)
    features = []
    for slices in (1, 3, 9):
        pyramid = Pyramid("mobilenet_v2", slices, 16, (4, 8))
        pyramid.load_backbone(state)
        features.append(pyramid.stages[0](slice_.expand(1, slices, 64, 64)))
    torch.testing.assert_close(features[0], features[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(features[0], features[2], atol=1e-4, rtol=1e-4)


def test_folding_keeps_the_classifiers_function() -> None:
    state = _random_classifier()
    net = torchvision.models.mobilenet_v2(weights=None).eval()
    net.load_state_dict(state)
    pyramid = Pyramid("mobilenet_v2", 3, 16, (4, 8, 16, 32))
    pyramid.load_backbone(state)
    images = torch.rand(1, 3, 64, 64)
    expected, got = net.features[:18](images), images
    for stage in pyramid.stages:
        got = stage(got)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)


def _random_classifier() -> dict[str, torch.Tensor]:
    """A classifier's weights with batch statistics that are not trivial."""
    torch.manual_seed(1)
    net = torchvision.models.mobilenet_v2(weights=None)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
    return net.state_dict()


def test_cells_look_at_the_pixel_that_their_coordinates_name() -> None:
    pyramid = Pyramid("mobilenet_v2", 1, 16, (4, 8, 16, 32))
    for parameter in pyramid.stages.parameters():
        torch.nn.init.constant_(parameter, 0 if parameter.ndim == 1 else 1 / parameter[0].numel())
    features = image = torch.full((1, 1, 32, 512), 1e-3, requires_grad=True)
    for stride, stage in zip((4, 8, 16, 32), pyramid.stages):
        features = stage(features)
        (seen,) = torch.autograd.grad(features[0, 0, 0, 256 // stride], image, retain_graph=True)
        centre = (seen[0, 0].sum(dim=0) * torch.arange(512)).sum() / seen.sum()
        assert centre.item() == pytest.approx(256, abs=1e-2)


@pytest.mark.parametrize(
    ("training", "precision", "in_place"),
    [(True, torch.bfloat16, True), (False, torch.float32, True), (False, torch.bfloat16, False)],
)
def test_relu6_is_in_place_where_that_is_faster_or_saves_memory(training, precision, in_place) -> None:
    conv = Pyramid("mobilenet_v2", 3, 16, (4, 8)).stages[0][0].train(training)
    before = torch.tensor([-1.0, 0, 3, 6, 9], dtype=precision)
    after = conv[-1](before)
    assert after.tolist() == [0, 0, 3, 6, 6] and (after is before) == in_place


def test_star_is_the_deformable_convolution_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 6, 7, 9, generator=generator, dtype=torch.float64).requires_grad_()
    ltrb = (torch.rand(2, 4, 7, 9, generator=generator, dtype=torch.float64) * 6).requires_grad_()
    weight = torch.randn(5, 6, 3, 3, generator=generator, dtype=torch.float64)

    left, top, right, bottom = ltrb.unbind(1)
    arms = {-1: (top, left), 1: (bottom, right)}
    offsets = []
    for y, x in STAR_YX:
        offsets.append(y * arms[y][0] - y if y else torch.zeros_like(top))
        offsets.append(x * arms[x][1] - x if x else torch.zeros_like(left))
    expected = deform_conv2d(features, torch.stack(offsets, dim=1), weight, padding=1)
    got = star_conv(features, star_points(ltrb), weight.permute(0, 2, 3, 1).reshape(5, -1))

    torch.testing.assert_close(got, expected)
    upstream = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    for ours, theirs in zip(*(torch.autograd.grad(out, (features, ltrb), upstream) for out in (got, expected))):
        torch.testing.assert_close(ours, theirs)


def test_star_gradient_is_a_tenth() -> None:
    model = small(strides=(4,))
    head = model.head
    torch.nn.init.constant_(head.logits.bias, 0)
    features = torch.randn(1, 16, 8, 8)
    head._level(0, features)[0].sum().backward()
    scaled = head.initial.bias.grad.clone()
    head.zero_grad()

    tower, box = head.class_tower(features), head.box_tower(features)
    arms = (head.initial(head.initial_conv(box)) * head.initial_scales[0]).exp() * 8
    head.logits(star_conv(tower, star_points(arms), head.class_star).relu()).sum().backward()
    torch.testing.assert_close(scaled, 0.1 * head.initial.bias.grad, rtol=1e-3, atol=1e-9)


def test_losses_by_hand() -> None:
    model = small()
    lesion = target([[20.0, 20, 40, 40]], [3])
    raw = made_up(model, [30.0, 30, 50, 50], logit=0.0)
    positives = (model.label_points(points_of(raw.logits, model.strides), [lesion]) >= 0).sum().item()
    losses = model.loss(raw, [lesion])
    # Every box has IoU 1 / 7 and GIoU 1 / 7 - 2 / 9; the sum of IoU weights is bounded from below by 1.
    share = min(positives / 7, 1)
    assert losses["initial"].item() == pytest.approx(1.5 * (1 - 1 / 7 + 2 / 9) * share, abs=1e-5)
    assert losses["refined"].item() == pytest.approx(2.0 * (1 - 1 / 7 + 2 / 9) * share, abs=1e-5)
    elements = 8 * sum(level[0, 0].numel() for level in raw.logits)
    expected = 0.693147 * (positives / 7 + (elements - positives) * 0.75 * 0.25) / positives
    assert losses["class"].item() == pytest.approx(expected, rel=1e-5)


def test_a_perfect_box_costs_nothing() -> None:
    model = small()
    losses = model.loss(made_up(model, [20.0, 20, 40, 40]), [target([[20.0, 20, 40, 40]])])
    assert losses["refined"].item() == pytest.approx(0, abs=1e-6)
    assert losses["initial"].item() == pytest.approx(0, abs=1e-6)


def test_refined_loss_leaves_the_initial_box_alone() -> None:
    model = small()
    losses = model.loss(model(torch.rand(1, 3, 64, 64) * 255), [target([[20.0, 20, 40, 40]])])
    losses["refined"].backward(retain_graph=True)
    from_refined = model.head.initial_scales.grad.abs().sum()
    losses["initial"].backward()
    # What is left is the way through the star's arms.
    assert from_refined < 0.1 * model.head.initial_scales.grad.abs().sum()


def test_images_without_lesions_have_a_finite_loss_and_gradient() -> None:
    model = small()
    losses = model.loss(model(torch.zeros(2, 3, 64, 64)), [target([]), target([])])
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert losses["class"] > 0
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_ignored_boxes_have_no_gradient() -> None:
    model = small()
    lesions = target([[4.0, 4, 20, 20], [30.0, 30, 60, 60]], [1, 2], [False, True])
    raw = made_up(model, [6.0, 6, 22, 22], logit=0.0)
    sum(model.loss(raw, [lesions]).values()).backward()
    ignored = model.label_points(points_of(raw.logits, model.strides), [lesions])[0] == IGNORE
    gradient = torch.cat([level.grad.flatten(2) for level in raw.logits], dim=2)[0].abs().sum(dim=0)
    assert ignored.sum() >= 49
    assert (gradient[ignored] == 0).all()
    assert (gradient[~ignored] > 0).all()
    for level in (*raw.initial, *raw.refined):
        assert level.grad is not None
    box_gradient = torch.cat([level.grad.flatten(2) for level in raw.refined], dim=2)[0].abs().sum(dim=0)
    assert (box_gradient[ignored] == 0).all()
    assert box_gradient.sum() > 0


def test_only_ignored_boxes_is_like_no_lesion() -> None:
    model = small()
    raw = made_up(model, [6.0, 6, 22, 22])
    losses = model.loss(raw, [target([[30.0, 30, 60, 60]], ignore=[True])])
    assert losses["initial"] == 0
    assert losses["refined"] == 0
    assert losses["class"] > 0


def test_decoding_gives_the_boxes_back() -> None:
    model = small()
    box = [10.25, 8.5, 30.0, 41.75]
    raw = made_up(model, box)
    with torch.no_grad():
        raw.logits[0][0, 2, 5, 4] = 2.0
        raw.logits[0][0, 2, 5, 5] = 1.0  # the same box and label: one lesion
        raw.logits[1][0, 6, 3, 2] = 0.0  # another label: kept
    (found,) = model.decode(raw)
    assert found.labels.tolist() == [2, 6]
    torch.testing.assert_close(found.scores, torch.tensor([2.0, 0.0]).sigmoid())
    torch.testing.assert_close(found.boxes, torch.tensor([box, box]))
    assert len(model.decode(raw, max_detections=1)[0].boxes) == 1
    assert len(model.decode(raw, score_threshold=0.6)[0].boxes) == 1
    assert len(model.decode(raw, score_threshold=0.9)[0].boxes) == 0


def test_decoded_boxes_stay_in_the_image() -> None:
    model = small()
    (found,) = model.decode(made_up(model, [-20.0, 50.0, 30.0, 90.0], logit=1.0))
    torch.testing.assert_close(found.boxes[0], torch.tensor([-0.5, 50.0, 30.0, 63.5]))
    (found,) = model.decode(made_up(model, [80.0, 80.0, 90.0, 90.0], logit=1.0))
    assert len(found.boxes) == 0


def test_padding() -> None:
    padded = pad_to_multiple(torch.ones(3, 70, 64))
    assert padded.shape == (3, 128, 64)
    assert padded.sum() == 3 * 70 * 64
    with pytest.raises(ValueError, match="multiples of 64"):
        small()(torch.ones(1, 3, 70, 64))


def test_autocast_runs_and_stays_close() -> None:
    model = small().eval()
    images = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images)
    assert rough.logits[0].dtype == rough.refined[0].dtype == torch.float32
    torch.testing.assert_close(rough.refined[0], exact.refined[0], rtol=0.05, atol=0.5)


def test_over_fits_one_slice() -> None:
    torch.manual_seed(0)
    images = torch.full((1, 3, 64, 128), 90.0)
    lesions = target([[12.0, 14, 28, 28], [70.0, 10, 102, 50]], [1, 6])
    for (x0, y0, x1, y1), grey in zip(lesions.boxes.int().tolist(), (180.0, 140.0)):
        images[:, :, y0:y1, x0:x1] = grey
    model = small(strides=(4, 8, 16), channels=32)
    optimiser = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=300, pct_start=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        sum(model.loss(model(images), [lesions]).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimiser.step()
        schedule.step()
    (found,) = model.decode(model(images), score_threshold=0.5)
    assert sorted(found.labels.tolist()) == [1, 6]
    order = found.labels.argsort()
    assert (paired_iou(found.boxes[order], lesions.boxes) > 0.9).all()
