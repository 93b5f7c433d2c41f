"""What the one-stage detectors share: the layers of their heads, and the way from scores at every point to
detections."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from LesionDetectorLib.models.boxes import grid_points
from LesionDetectorLib.models.detections import BACKGROUND, IGNORE, Detections, Target, thin

CHANNELS_PER_GROUP = 8
_PRIOR = 0.01


def check_channels(channels: int) -> None:
    """ValueError if group normalisation cannot divide `channels`."""
    if channels <= 0 or channels % CHANNELS_PER_GROUP:
        raise ValueError(f"Channels must be a multiple of {CHANNELS_PER_GROUP}, not {channels}.")


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // CHANNELS_PER_GROUP, channels)


def conv_norm(channels: int) -> nn.Sequential:
    """A 3 x 3 convolution, group normalisation and ReLU."""
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), group_norm(channels), nn.ReLU())


def initialise(head: nn.Module, logits: nn.Conv2d) -> None:
    """Small random convolutions in the `head`.

    The `logits` among them begin at a probability of 1 % for every label.
    """
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.constant_(logits.bias, -math.log((1 - _PRIOR) / _PRIOR))


def points_of(levels: Sequence[Tensor], strides: Sequence[int]) -> list[Tensor]:
    """The centres (P, 2) in px of the cells of each of the maps (N, K, h, w)."""
    sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
    return [grid_points(*size, stride, level.device) for size, stride, level in zip(sizes, strides, levels)]


def by_point(level: Tensor) -> Tensor:
    """A map (N, K, h, w) as (N, P, K), points in the order of `grid_points`."""
    return level.flatten(2).transpose(1, 2)


def learnt_lesions(targets: Sequence[Target], image: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The boxes (K, 4) and labels (K,) of number `index` (K,) among those of the images `image` (K,)."""
    boxes, labels = (pad_sequence(parts, batch_first=True) for parts in list(zip(*targets))[:2])  # (N, M, 4) and (N, M)
    return boxes[image, index], labels[image, index]


def counting(assigned: Tensor, targets: Sequence[Target], classes: int) -> Tensor:
    """How much each logit counts in the loss: (N, P, C), 0 where `assigned` (N, P) says IGNORE, 1 at a lesion's point,
    and elsewhere what the image's target says of the background."""
    full = torch.ones(classes, device=assigned.device)
    background = torch.stack([full if target.background is None else target.background for target in targets])[:, None]
    at_points = torch.where((assigned == BACKGROUND)[..., None], background, 1.0)
    return at_points.masked_fill((assigned == IGNORE)[..., None], 0.0)


def best_detections(
    logits: Sequence[Tensor],
    boxes: Sequence[Tensor],
    size: tuple[int, int],
    score_threshold: float,
    nms_iou: float,
    max_detections: int,
    top_k: int,
) -> list[Detections]:
    """The detections of each image: the `top_k` best of every level above the threshold, thinned label by label.

    Parameters
    ----------
    logits: per level (N, P, C).
    boxes: per level (N, P, 4) xyxy in px.
    size: height and width of the images in px, to which boxes are clipped.
    """
    best = [_best_of_level(*level, top_k) for level in zip(logits, boxes)]
    boxes, scores, labels = (torch.cat(values, dim=1) for values in zip(*best))
    image, place = (scores > score_threshold).nonzero(as_tuple=True)
    found = boxes[image, place], scores[image, place], labels[image, place], image
    return thin(*found, len(scores), size, nms_iou, max_detections)


def _best_of_level(logits: Tensor, boxes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each image the boxes (N, count, 4), scores and labels (N, count) of the highest of the logits (N, P, C)."""
    images, points, classes = logits.shape
    logits, best = logits.reshape(images, -1).topk(min(count, points * classes))
    boxes = boxes.expand(images, -1, -1).gather(1, (best // classes)[..., None].expand(-1, -1, 4))
    return boxes, logits.sigmoid(), best % classes
