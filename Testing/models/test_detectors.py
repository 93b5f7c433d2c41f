"""What all detectors promise alike: the same inputs, outputs, targets and weights files."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from LesionDetectorLib.detect import Detector
from LesionDetectorLib.models import weights
from LesionDetectorLib.models.anchors import match_anchors
from LesionDetectorLib.models.boxes import paired_iou
from LesionDetectorLib.models.dense import points_of
from LesionDetectorLib.models.detections import Target
from LesionDetectorLib.models.foveabox import assign_fovea
from torch.utils._python_dispatch import TorchDispatchMode

from Testing.helpers.targets import target

SMALL = {
    "vfnet": {"channels": 16, "tower_depth": 1},
    "faster_rcnn": {"channels": 16, "head_depth": 1, "features": 32},
    "retinanet": {"channels": 16},
    "foveabox": {"channels": 16, "tower_depth": 1},
    "jmi": {},
    "meld": {"channels": 16, "features": 32},
}
ON_PYRAMID = [name for name in SMALL if name != "jmi"]
BY_ANCHORS_OR_FOVEA = [name for name in SMALL if name != "vfnet"]


def small(name: str, **changes) -> weights.Model:
    torch.manual_seed(0)
    return weights.build({"detector": name, **SMALL[name], **changes})


@cache
def shared(name: str) -> weights.Model:
    """A model that no test trains."""
    return small(name)


FULL = target(
    [[x, y, x + 15, y + 9] for x in range(0, 48, 12) for y in range(0, 54, 6)] + [[-0.5, -0.5, 63.5, 63.5]] * 2
)


class Waits(TorchDispatchMode):
    """Counts the operations whose outcome the CPU would have to wait for on a GPU: what tensors hold, and how many
    elements are chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = name.startswith("index") and any(index is not None and index.dtype == torch.bool for index in args[1])
        self.count += masks or name in ("nonzero", "masked_select", "_local_scalar_dense")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["vfnet", "foveabox"])
def test_a_batch_is_waited_for_no_more_often_the_more_images_it_has(name: str) -> None:
    counts = []
    lesions = target([[8, 8, 30, 24], [20, 20, 52, 52]], [1, 2], [False, True])
    for images in (1, 6):
        raw = small(name)(torch.rand(images, 3, 64, 64) * 255)
        with Waits() as waits:
            sum(small(name).loss(raw, [lesions] * images).values()).backward()
        counts.append(waits.count)
    assert counts[0] == counts[1] > 0


def test_every_detector_is_tested() -> None:
    assert SMALL.keys() == weights.DETECTORS.keys()


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet", "foveabox"])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50"])
def test_backbones(name: str, backbone: str) -> None:
    model = small(name, backbone=backbone).eval()
    with torch.no_grad():
        raw = model(torch.rand(1, 3, 64, 64) * 255)
    assert all(level.isfinite().all() for part in raw for level in part)
    assert len(raw[0]) == 5


@pytest.mark.parametrize("slices", [1, 9])
@pytest.mark.parametrize("name", BY_ANCHORS_OR_FOVEA)
def test_slices(name: str, slices: int) -> None:
    model = small(name, slices=slices).eval()
    with torch.no_grad():
        (found,) = model.decode(model(torch.rand(1, slices, 64, 64) * 255), score_threshold=0.0, max_detections=7)
    assert found.boxes.shape == (7, 4)


@pytest.mark.parametrize("name", SMALL)
def test_detections_are_in_the_image_and_in_order(name: str) -> None:
    model = shared(name).eval()
    with torch.no_grad():
        found = model.decode(model(torch.rand(2, 3, 64, 128) * 255), score_threshold=0.0)
    assert len(found) == 2
    for boxes, scores, labels in found:
        assert 0 < len(boxes) == len(scores) == len(labels) <= 100
        assert boxes.min() >= -0.5 and (boxes.amax(0) <= torch.tensor([127.5, 63.5, 127.5, 63.5])).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (scores.diff() <= 0).all() and scores.min() >= 0 and scores.max() <= 1
        assert labels.dtype == torch.int64 and labels.min() >= 0 and labels.max() <= 7


@pytest.mark.parametrize("name", SMALL)
def test_what_reads_a_ct_takes_images_of_any_size(name: str) -> None:
    detector = Detector(shared(name), torch.device("cpu"))
    found = detector(np.random.default_rng(0).uniform(0, 255, (2, 3, 50, 70)).astype(np.float32), lowest_score=0.0)
    assert len(found) == 2
    for boxes, _, labels in found:
        assert boxes.max() <= 69.5 and set(labels) <= set(range(1, 9))


@pytest.mark.parametrize("name", SMALL)
def test_images_without_and_full_of_lesions_have_finite_losses(name: str) -> None:
    model = small(name).train()
    everything_ignored = target([[-0.5, -0.5, 63.5, 63.5]], ignore=[True])
    with torch.autocast("cpu", torch.bfloat16):
        raw = model(torch.rand(1, 3, 64, 64) * 255)
    assert all(level.dtype == torch.float32 for part in raw for level in part)
    total = 0.0
    for lesions in (target([]), FULL, everything_ignored):
        losses = model.loss(raw, [lesions])
        assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values()), losses
        assert (sum(losses.values()) > 0) == (lesions is not everything_ignored)
        total = total + sum(losses.values())
    total.backward()
    assert not [
        name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.isfinite().all()
    ]


@pytest.mark.parametrize("name", SMALL)
def test_only_ignored_boxes_is_like_no_lesion(name: str) -> None:
    model = shared(name).train()
    with torch.no_grad():
        raw = model(torch.rand(1, 3, 64, 64) * 255)
        losses = model.loss(raw, [target([[20.0, 20, 40, 36]], ignore=[True])])
    names = losses.keys() - {"class", "objectness"}
    assert names and all(losses[each] == 0 for each in names)
    assert losses["class"] > 0


@pytest.mark.parametrize("name", SMALL)
def test_a_side_that_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="multiples of"):
        shared(name)(torch.ones(1, 3, 68, 64))


@pytest.mark.parametrize("name", BY_ANCHORS_OR_FOVEA)
def test_weights_round_trip(name: str, tmp_path) -> None:
    model = shared(name).eval()
    weights.save(model, tmp_path / "a.safetensors", {}, half=name == "jmi")
    loaded, card = weights.load(tmp_path / "a.safetensors")
    assert type(loaded) is type(model) and card["architecture"] == model.architecture
    images = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        for ours, theirs in zip(model(images), loaded(images)):
            torch.testing.assert_close(ours, theirs, atol=0.05 if name == "jmi" else 1e-4, rtol=0)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"detector": "jmi", "backbone": "resnet18"}, "has vgg16 only"),
        ({"detector": "retinanet", "channels": 12}, "multiple of 8"),
        ({"detector": "foveabox", "depth": 3}, "cannot be built"),
        ({"detector": "faster_rcnn", "strides": [4, 12]}, "must double"),
    ],
)
def test_cards_that_cannot_be_built_are_refused(architecture: dict, message: str) -> None:
    with pytest.raises(weights.WeightsError, match=message):
        weights.build(architecture)


SIDE = 192


@cache
def raw_outputs(name: str) -> tuple:
    with torch.no_grad():
        return shared(name).eval()(torch.zeros(1, 3, SIDE, SIDE))


def positives(name: str, lesions: Target) -> torch.Tensor:
    model, raw = shared(name), raw_outputs(name)
    if name == "retinanet":
        return match_anchors(model.matcher, torch.cat(model._anchors(raw)), lesions.boxes, lesions.ignore) >= 0
    if name == "foveabox":
        return assign_fovea(points_of(raw.logits, model.strides), model.strides, lesions.boxes, lesions.ignore) >= 0
    rpn = model.rpns[0] if name == "meld" else model.rpn
    return rpn.assign_targets_to_anchors([model._anchors(raw)], [lesions._asdict()])[0][0] > 0


@pytest.mark.parametrize("name", BY_ANCHORS_OR_FOVEA)
@settings(max_examples=40, deadline=None)
@given(
    st.floats(8, 100), st.floats(0.5, 2), st.floats(0, 1), st.floats(0, 1)
)  # longer side in px, width by height, place from edge to edge
def test_every_lesion_is_learnt(name: str, side: float, ratio: float, x: float, y: float) -> None:
    width, height = max(min(side, side * ratio), 8), max(min(side, side / ratio), 8)
    left, top = x * (SIDE - width) - 0.5, y * (SIDE - height) - 0.5
    count = positives(name, target([[left, top, left + width, top + height]])).sum().item()
    assert 1 <= count <= 150


OVER_FIT = {  # options, steps, highest learning rate
    "faster_rcnn": ({"channels": 32, "head_depth": 1, "features": 64}, 220, 1.5e-3),
    "retinanet": ({"channels": 32}, 150, 2e-3),
    "foveabox": ({"channels": 32, "tower_depth": 1}, 200, 3e-3),
    "meld": ({"channels": 32, "features": 64}, 150, 2e-3),
}


@pytest.mark.parametrize("name", OVER_FIT)
def test_over_fits_one_slice(name: str) -> None:
    options, steps, rate = OVER_FIT[name]
    images = torch.full((1, 3, 64, 96), 90.0)
    lesions = target([[12.0, 14, 28, 28], [50.0, 10, 82, 50]], [1, 6])
    for (x0, y0, x1, y1), grey in zip(lesions.boxes.int().tolist(), (180.0, 140.0)):
        images[:, :, y0:y1, x0:x1] = grey
    model = small(name, strides=(4, 8, 16), **options)
    optimiser = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        sum(model.loss(model(images), [lesions]).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimiser.step()
        schedule.step()
    (found,) = model.eval().decode(model(images), score_threshold=0.2)
    for box, label in zip(lesions.boxes, lesions.labels):
        of_label = found.boxes[found.labels == label]
        assert len(of_label) and paired_iou(of_label[0], box) > 0.7  # the best of its label
