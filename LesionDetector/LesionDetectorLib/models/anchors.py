"""Anchors for lesions, and which of them learn which lesion: for RetinaNet and the two-stage detectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou

from LesionDetectorLib.models.detections import BACKGROUND, leave_out_ignored

RATIOS = (2 / 3, 1.0, 3 / 2)
"""Height by width: nine lesions in ten of DeepLesion's official test part lie between 0.7 and 1.5."""


def pyramid_anchors(strides: Sequence[int], scale: float, per_octave: int) -> AnchorGenerator:
    """`per_octave` sizes, from `scale` strides on, times the three ratios at every cell of every level."""
    sizes = tuple(tuple(scale * stride * 2 ** (step / per_octave) for step in range(per_octave)) for stride in strides)
    return AnchorGenerator(sizes, (RATIOS,) * len(sizes))


def lay_anchors(
    generator: AnchorGenerator, shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device
) -> list[Tensor]:
    """Per level of `shapes` (h, w) the anchors (h * w * A, 4) xyxy in px, centred on the points of `grid_points`."""
    generator.set_cell_anchors(torch.float32, device)
    return generator.grid_anchors([list(shape) for shape in shapes], [[stride, stride] for stride in strides])


@torch.no_grad()
def match_anchors(matcher: Matcher, anchors: Tensor, boxes: Tensor, ignore: Tensor) -> Tensor:
    """The index of the box that each of `anchors` (A, 4) learns, BACKGROUND or IGNORE, shape (A,).

    IGNORE is what overlaps a box too much for background and too little for a lesion, what learns one of the `boxes`
    (M, 4) to `ignore` (M,), and background whose centre lies inside one of these.
    """
    if len(boxes) == 0:
        return torch.full((len(anchors),), BACKGROUND, device=anchors.device)
    matched = matcher(box_iou(boxes, anchors))  # its codes are BACKGROUND and IGNORE
    return leave_out_ignored(matched, (anchors[:, :2] + anchors[:, 2:]) / 2, boxes, ignore)
