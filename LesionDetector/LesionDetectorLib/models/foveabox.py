"""FoveaBox: a one-stage detector without anchors, whose positive points are the central part of a lesion.

Kong et al., "FoveaBox: beyond anchor-based object detection", TIP 2020, with the losses of its best-known
implementation (mmdet). Two things differ: levels, and with them all sizes, are half as coarse, and every lesion has a
positive point: by the paper's rule a third of the lesions of 16 px lie between the points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss
from torchvision.ops import sigmoid_focal_loss

from LesionDetectorLib.models.architecture import remembered
from LesionDetectorLib.models.backbone import Pyramid
from LesionDetectorLib.models.boxes import ltrb_to_xyxy, xyxy_to_ltrb
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
from LesionDetectorLib.models.detections import BACKGROUND, Detections, Target, leave_out_ignored, network_input
from LesionDetectorLib.models.losses import divisor
from LesionDetectorLib.slices import DEFAULT, Recipe

_CENTRAL = 0.4
_LOG_LARGEST_FACTOR = math.log(16)
_ALPHA, _GAMMA = 0.4, 1.5
_BETA = 0.11


class RawOutputs(NamedTuple):
    """What the network says at every cell, per level of the pyramid: raw tensors in float32.

    logits: (N, C, h, w).
    log_ltrb: (N, 4, h, w), logarithms of the distances from the cell's point to the left, top, right and bottom side,
        in units of two strides.
    """

    logits: tuple[Tensor, ...]
    log_ltrb: tuple[Tensor, ...]


class FoveaBox(nn.Module):
    """Detects lesions on stacks of grey CT slices.

    Parameters
    ----------
    backbone: "mobilenet_v2", "resnet18", "resnet34" or "resnet50".
    recipe: how the input is made of a CT.
    num_classes: number of labels.
    strides: px per cell of each level, doubling.
    channels: width of the pyramid and the head, a multiple of 8.
    tower_depth: convolutions before the outputs, for class and box part each.
    """

    NAME = "foveabox"

    @remembered
    def __init__(
        self,
        backbone: str = "mobilenet_v2",
        recipe: Recipe = DEFAULT,
        num_classes: int = 8,
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        channels: int = 64,
        tower_depth: int = 4,
    ) -> None:
        super().__init__()
        check_channels(channels)
        self.strides = tuple(strides)
        self.num_classes = num_classes
        self.pyramid = Pyramid(backbone, recipe.slices, channels, self.strides)
        self.head = FoveaBoxHead(channels, num_classes, tower_depth)

    def forward(self, images: Tensor) -> RawOutputs:
        """Raw outputs for `images` (N, slices, H, W), grey values 0..255, H and W multiples of the coarsest stride."""
        return self.head(self.pyramid(network_input(images, self.strides[-1], self.recipe)))

    def loss(self, raw: RawOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses "class" (focal) and "box" (smooth L1) of `targets`, one per image.

        Their sum is to be minimised.
        """
        points = points_of(raw.logits, self.strides)
        # (N, P)
        assigned = torch.stack([assign_fovea(points, self.strides, target.boxes, target.ignore) for target in targets])
        image, point = (assigned > BACKGROUND).nonzero(as_tuple=True)
        boxes, labels = learnt_lesions(targets, image, assigned[image, point])

        logits = torch.cat([by_point(level) for level in raw.logits], dim=1)  # (N, P, C)
        truth = torch.zeros_like(logits)
        truth[image, point, labels] = 1
        each = sigmoid_focal_loss(logits, truth, _ALPHA, _GAMMA) * counting(assigned, targets, self.num_classes)

        log_ltrb = torch.cat([by_point(level) for level in raw.log_ltrb], dim=1)[image, point]
        units = torch.cat([torch.full((len(level),), 2.0 * stride) for level, stride in zip(points, self.strides)]).to(
            boxes.device
        )
        ltrb = xyxy_to_ltrb(torch.cat(points)[point], boxes) / units[point, None]
        wanted = ltrb.clamp(min=1e-3).log().clamp(-_LOG_LARGEST_FACTOR, _LOG_LARGEST_FACTOR)
        box_loss = smooth_l1_loss(log_ltrb, wanted, beta=_BETA, reduction="sum")
        positives = (assigned > BACKGROUND).sum()
        return {"class": each.sum() / divisor(positives + len(targets)), "box": box_loss / divisor(positives)}

    @torch.no_grad()
    def decode(
        self,
        raw: RawOutputs,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 100,
        top_k: int = 1000,
    ) -> list[Detections]:
        """The detections of each image: the `top_k` best of every level above the threshold, thinned label by label."""
        boxes = []
        for points, log_ltrb, stride in zip(points_of(raw.logits, self.strides), raw.log_ltrb, self.strides):
            ltrb = by_point(log_ltrb).clamp(-_LOG_LARGEST_FACTOR, _LOG_LARGEST_FACTOR).exp() * (2 * stride)
            boxes.append(ltrb_to_xyxy(points.expand(len(ltrb), -1, -1), ltrb))
        size = tuple(side * self.strides[0] for side in raw.logits[0].shape[-2:])
        logits = [by_point(level) for level in raw.logits]
        return best_detections(logits, boxes, size, score_threshold, nms_iou, max_detections, top_k)


class FoveaBoxHead(nn.Module):
    """The head that all levels share: one tower for the class, one for the box."""

    def __init__(self, channels: int, num_classes: int, tower_depth: int) -> None:
        super().__init__()
        self.class_tower = nn.Sequential(*[conv_norm(channels) for _ in range(tower_depth)])
        self.box_tower = nn.Sequential(*[conv_norm(channels) for _ in range(tower_depth)])
        self.logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.log_ltrb = nn.Conv2d(channels, 4, 3, padding=1)
        initialise(self, self.logits)

    def forward(self, maps: Sequence[Tensor]) -> RawOutputs:
        logits = tuple(self.logits(self.class_tower(features)).float() for features in maps)
        return RawOutputs(logits, tuple(self.log_ltrb(self.box_tower(features)).float() for features in maps))


@torch.no_grad()
def assign_fovea(points: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, ignore: Tensor) -> Tensor:
    """The index of the box that each point learns, or BACKGROUND (-1), or IGNORE (-2).

    1. A level takes the boxes whose size, the root of their area, lies between two and eight strides; the finest level
       also smaller and the coarsest also larger ones. So most boxes are on two levels.
    2. There, the points in the central 40 % of a box, in width and height, learn it, and so does the point nearest to
       its centre.
    3. A point that several boxes claim learns the smallest of them.
    4. Points that learn an ignored box, and background points inside one, become IGNORE.

    Parameters
    ----------
    points: per level (P_l, 2), x and y in px.
    strides: px per cell of each level.
    boxes: (M, 4) xyxy in px.
    ignore: (M,) bool, True for a box that is neither lesion nor background.

    Returns
    -------
    (sum of P_l,) int64, in the order of the levels.
    """
    all_points = torch.cat(list(points))
    if len(boxes) == 0:
        return torch.full((len(all_points),), BACKGROUND, device=all_points.device)
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    area = 4 * half.prod(dim=1)  # (M,)
    claims = []
    for level, stride in zip(points, strides):
        smallest = 0 if stride == strides[0] else 2 * stride
        largest = math.inf if stride == strides[-1] else 8 * stride
        taken = (area >= smallest**2) & (area <= largest**2)
        offset = (level[:, None] - centre).abs()  # (P_l, M, 2)
        distance = offset.square().sum(dim=-1)
        central = (offset <= _CENTRAL * half).all(dim=-1) | (distance == distance.amin(dim=0))
        claims.append(central & taken)
    smallest_area, box = torch.where(torch.cat(claims), area, math.inf).min(dim=1)
    return leave_out_ignored(torch.where(smallest_area < math.inf, box, BACKGROUND), all_points, boxes, ignore)
