"""VFNet (VarifocalNet): a dense one-stage detector whose scores foretell how well its boxes fit.

Zhang et al., "VarifocalNet: an IoU-aware dense object detector", CVPR 2021, with the defaults of the authors' code;
here on finer strides, so that lesions of 8 to 16 px have points that learn them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, linear, relu
from torchvision.ops import generalized_box_iou_loss

from LesionDetectorLib.models.architecture import remembered
from LesionDetectorLib.models.atss import assign
from LesionDetectorLib.models.backbone import Pyramid
from LesionDetectorLib.models.boxes import ltrb_to_xyxy, paired_iou
from LesionDetectorLib.models.dense import (
    best_detections,
    by_point,
    check_channels,
    conv_norm,
    counting,
    initialise,
    learnt_lesions,
    points_of,
)
from LesionDetectorLib.models.detections import BACKGROUND, Detections, Target, network_input
from LesionDetectorLib.models.losses import divisor, varifocal_loss
from LesionDetectorLib.slices import DEFAULT, Recipe

_LOG_LARGEST_FACTOR = math.log(1000 / 16)
_STAR_GRADIENT = 0.1
_LOSS_WEIGHTS = {"class": 1.0, "initial": 1.5, "refined": 2.0}


class RawOutputs(NamedTuple):
    """What the network says at every cell, per level of the pyramid: raw tensors in float32.

    logits: (N, C, h, w).
    initial, refined: (N, 4, h, w), distances in px from the cell's point to the left, top, right and bottom side.
    """

    logits: tuple[Tensor, ...]
    initial: tuple[Tensor, ...]
    refined: tuple[Tensor, ...]


class VFNet(nn.Module):
    """Detects lesions on stacks of grey CT slices.

    Parameters
    ----------
    backbone: "mobilenet_v2", "resnet18", "resnet34" or "resnet50".
    recipe: how the input is made of a CT.
    num_classes: number of labels.
    strides: px per cell of each level, doubling.
    channels: width of the pyramid and the head, a multiple of 8.
    tower_depth: convolutions before the branches for class and box part.
    anchor_scale: side of the square that stands for a cell in ATSS, in strides at 0.8 mm a pixel; also the box of a
        zero output.
    """

    NAME = "vfnet"

    @remembered
    def __init__(
        self,
        backbone: str = "mobilenet_v2",
        recipe: Recipe = DEFAULT,
        num_classes: int = 8,
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        channels: int = 64,
        tower_depth: int = 2,
        anchor_scale: float = 8,
    ) -> None:
        super().__init__()
        check_channels(channels)
        self.strides = tuple(strides)
        self.anchor_scale = anchor_scale * DEFAULT.pixel_mm / recipe.pixel_mm
        self.num_classes = num_classes
        self.pyramid = Pyramid(backbone, recipe.slices, channels, self.strides)
        self.head = VFNetHead(channels, num_classes, tower_depth, self.strides, self.anchor_scale)

    def forward(self, images: Tensor) -> RawOutputs:
        """Raw outputs for `images` (N, slices, H, W), grey values 0..255, H and W multiples of the coarsest stride."""
        return self.head(self.pyramid(network_input(images, self.strides[-1], self.recipe)))

    def label_points(self, points: Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        """Per image and point the index of the box that it learns, BACKGROUND or IGNORE (see `atss.assign`), shape
        (N, P)."""
        sides = [self.anchor_scale * stride for stride in self.strides]
        return assign(points, sides, targets)

    def loss(self, raw: RawOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The weighted losses "class", "initial" and "refined" of `targets`, one per image.

        Their sum is to be minimised.
        """
        points = points_of(raw.logits, self.strides)
        assigned = self.label_points(points, targets)  # (N, P)
        image, point = (assigned > BACKGROUND).nonzero(as_tuple=True)
        boxes, labels = learnt_lesions(targets, image, assigned[image, point])

        centres = torch.cat(points)[point]
        initial = ltrb_to_xyxy(centres, _join(raw.initial)[image, point])
        refined = ltrb_to_xyxy(centres, _join(raw.refined)[image, point])
        refined_iou = paired_iou(refined.detach(), boxes)

        logits = _join(raw.logits)  # (N, P, C)
        quality = torch.zeros_like(logits)
        quality[image, point, labels] = refined_iou
        each = varifocal_loss(logits, quality) * counting(assigned, targets, self.num_classes)
        class_loss = each.sum() / divisor((assigned > BACKGROUND).sum())
        losses = {
            "class": class_loss,
            "initial": _box_loss(initial, boxes, paired_iou(initial.detach(), boxes)),
            "refined": _box_loss(refined, boxes, refined_iou),
        }
        return {name: _LOSS_WEIGHTS[name] * value for name, value in losses.items()}

    @torch.no_grad()
    def decode(
        self,
        raw: RawOutputs,
        score_threshold: float = 0.05,
        nms_iou: float = 0.6,
        max_detections: int = 100,
        top_k: int = 1000,
    ) -> list[Detections]:
        """The detections of each image: the `top_k` best of every level above the threshold, thinned label by label."""
        boxes = [
            ltrb_to_xyxy(points, by_point(ltrb))
            for points, ltrb in zip(points_of(raw.logits, self.strides), raw.refined)
        ]
        size = tuple(side * self.strides[0] for side in raw.logits[0].shape[-2:])
        logits = [by_point(level) for level in raw.logits]
        return best_detections(logits, boxes, size, score_threshold, nms_iou, max_detections, top_k)


class VFNetHead(nn.Module):
    """The head that all levels share: an initial box, then class and refined box from the star of that box."""

    def __init__(
        self, channels: int, num_classes: int, tower_depth: int, strides: Sequence[int], anchor_scale: float
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.anchor_scale = anchor_scale
        self.class_tower = nn.Sequential(*[conv_norm(channels) for _ in range(tower_depth)])
        self.box_tower = nn.Sequential(*[conv_norm(channels) for _ in range(tower_depth)])
        self.initial_conv = conv_norm(channels)
        self.initial = nn.Conv2d(channels, 4, 3, padding=1)
        self.class_star = nn.Parameter(torch.empty(channels, 9 * channels))
        self.box_star = nn.Parameter(torch.empty(channels, 9 * channels))
        self.refined = nn.Conv2d(channels, 4, 3, padding=1)
        self.logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.initial_scales = nn.Parameter(torch.ones(len(self.strides)))
        self.refined_scales = nn.Parameter(torch.ones(len(self.strides)))

        initialise(self, self.logits)
        nn.init.normal_(self.class_star, std=0.01)
        nn.init.normal_(self.box_star, std=0.01)

    def forward(self, maps: Sequence[Tensor]) -> RawOutputs:
        return RawOutputs(*zip(*[self._level(level, features) for level, features in enumerate(maps)]))

    def _level(self, level: int, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stride = self.strides[level]
        class_features, box_features = self.class_tower(features), self.box_tower(features)
        initial = _factor(self.initial(self.initial_conv(box_features)), self.initial_scales[level]) * (
            self.anchor_scale * stride
        )
        arms = (1 - _STAR_GRADIENT) * initial.detach() + _STAR_GRADIENT * initial
        points = star_points(arms / stride)
        class_features = star_conv(class_features, points, self.class_star)
        box_features = star_conv(box_features, points, self.box_star)
        refined = _factor(self.refined(relu(box_features)), self.refined_scales[level]) * initial.detach()
        return self.logits(relu(class_features)).float(), initial, refined


class StarPoints(NamedTuple):
    """The nine points of every cell's star, each between four cells: their places in the flattened map and weights
    (N * h * w * 9, 4)."""

    cells: Tensor
    weights: Tensor


def star_points(ltrb: Tensor) -> StarPoints:
    """The corners, the sides and the cell itself of each star with arms `ltrb` (N, 4, h, w) float32, in cells.

    The points are rows (y - t, y, y + b) times columns (x - l, x, x + r), in this order, so that a 3 x 3 kernel on them
    is the star-shaped deformable convolution of the paper. Sampling is bilinear, zero outside.
    """
    count, _, height, width = ltrb.shape
    left, top, right, bottom = ltrb.unbind(dim=1)
    row, row_weight = _neighbours(torch.arange(height, device=ltrb.device)[:, None], top, bottom, height)
    column, column_weight = _neighbours(torch.arange(width, device=ltrb.device), left, right, width)
    row = row + torch.arange(count, dtype=row.dtype, device=row.device)[:, None, None] * height
    cell = (row * width)[:, None, :, None] + column[:, None]  # (3, 3, 2, 2, N, h, w)
    weight = row_weight[:, None, :, None] * column_weight[:, None]
    return StarPoints(_by_star(cell), _by_star(weight))


def _by_star(values: Tensor) -> Tensor:
    """(3, 3, 2, 2, N, h, w), the order in which they are computed fast, as (N * h * w * 9, 4)."""
    return values.flatten(4).flatten(0, 3).t().reshape(-1, 4)


def _neighbours(position: Tensor, before: Tensor, after: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two cells around each of three taps along one axis, and their weights (0 outside 0..size-1), both (3, 2, N,
    h, w)."""
    tap = torch.stack([position - before, position.expand_as(before), position + after])
    lower = tap.detach().floor()
    share = tap - lower
    cells = torch.stack([lower, lower + 1], dim=1)
    weights = torch.stack([1 - share, share], dim=1) * ((cells >= 0) & (cells < size))
    places = cells.clamp(0, size - 1).nan_to_num().int()  # what overflowed has no place, and stays NaN by its weight
    return places, weights


def star_conv(features: Tensor, points: StarPoints, weight: Tensor) -> Tensor:
    """A 3 x 3 kernel `weight` (out, 9 * C) on the stars of `features` (N, C, h, w); gives (N, out, h, w).

    `embedding_bag` samples many times faster on a CPU than `deform_conv2d` or `grid_sample`, because it reads all
    channels of a cell at once; what it gives is the layout that the matrix product wants.
    """
    count, channels, height, width = features.shape
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    taps = embedding_bag(points.cells, table, mode="sum", per_sample_weights=points.weights.to(table.dtype))
    return linear(taps.view(count, height, width, -1), weight).permute(0, 3, 1, 2)


def _factor(outputs: Tensor, scale: Tensor) -> Tensor:
    """exp(scale * outputs) in float32, bounded so that no output overflows."""
    return (scale * outputs.float()).clamp(max=_LOG_LARGEST_FACTOR).exp()


def _box_loss(predicted: Tensor, boxes: Tensor, iou: Tensor) -> Tensor:
    """GIoU loss of (M, 4) boxes, each weighted with its `iou` (M,)."""
    weight = iou.clamp(min=1e-6)
    return (weight * generalized_box_iou_loss(predicted, boxes)).sum() / divisor(weight.sum())


def _join(levels: Sequence[Tensor]) -> Tensor:
    """Per-level maps (N, K, h, w) as one tensor (N, P, K), points in the order of `grid_points`."""
    return torch.cat([by_point(level) for level in levels], dim=1)
