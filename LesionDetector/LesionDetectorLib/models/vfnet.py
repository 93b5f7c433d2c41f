"""VFNet (VarifocalNet): a dense one-stage detector whose scores foretell how well its boxes fit.

Zhang et al., "VarifocalNet: an IoU-aware dense object detector", CVPR 2021, with the defaults of the authors' code; here on
finer strides, so that lesions of 8 to 16 px have points that learn them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, linear, pad, relu
from torchvision.ops import batched_nms, clip_boxes_to_image, generalized_box_iou_loss, remove_small_boxes

from .atss import BACKGROUND, IGNORE, assign
from .backbone import Pyramid
from .boxes import grid_points, ltrb_to_xyxy, paired_iou
from .losses import varifocal_loss
from .tone import tone

_CHANNELS_PER_GROUP = 8
_LOG_LARGEST_FACTOR = math.log(1000 / 16)
_STAR_GRADIENT = 0.1
_PRIOR = 0.01
_LOSS_WEIGHTS = {"class": 1.0, "initial": 1.5, "refined": 2.0}


class RawOutputs(NamedTuple):
    """What the network says at every cell, per level of the pyramid: raw tensors in float32.

    logits: (N, C, h, w).
    initial, refined: (N, 4, h, w), distances in px from the cell's point to the left, top, right and bottom side.
    """

    logits: tuple[Tensor, ...]
    initial: tuple[Tensor, ...]
    refined: tuple[Tensor, ...]


class Target(NamedTuple):
    """The lesions of one image.

    boxes: (M, 4) xyxy in px of the network input, pixel centres at whole numbers.
    labels: (M,) int64, 0..C-1.
    ignore: (M,) bool, True for a box that shall count neither as lesion nor as background; its label is not read.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor


class Detections(NamedTuple):
    """What was found on one image, best first: boxes (D, 4) xyxy in px, scores (D,) 0..1, labels (D,) 0..C-1."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def pad_to_multiple(images: Tensor, multiple: int = 64) -> Tensor:
    """Images (..., H, W) with air (grey value 0) added at the right and the bottom until H and W are multiples of `multiple`."""
    height, width = images.shape[-2:]
    return pad(images, (0, -width % multiple, 0, -height % multiple))


class VFNet(nn.Module):
    """Detects lesions on stacks of grey CT slices.

    Parameters
    ----------
    backbone: "mobilenet_v2", "resnet18", "resnet34" or "resnet50".
    slices: how many neighbouring slices are the input channels; the middle one is examined.
    num_classes: number of labels.
    strides: px per cell of each level, doubling.
    channels: width of the pyramid and the head, a multiple of 8.
    tower_depth: convolutions before the branches for class and box part.
    anchor_scale: side of the square that stands for a cell in ATSS, in strides; also the box of a zero output.
    """

    def __init__(
        self,
        backbone: str = "mobilenet_v2",
        slices: int = 3,
        num_classes: int = 8,
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        channels: int = 64,
        tower_depth: int = 2,
        anchor_scale: float = 8,
    ) -> None:
        super().__init__()
        if channels <= 0 or channels % _CHANNELS_PER_GROUP:
            raise ValueError(f"Channels must be a multiple of {_CHANNELS_PER_GROUP}, not {channels}.")
        self.architecture = {
            "detector": "vfnet",
            "backbone": backbone,
            "slices": slices,
            "num_classes": num_classes,
            "strides": list(strides),
            "channels": channels,
            "tower_depth": tower_depth,
            "anchor_scale": anchor_scale,
        }
        self.strides = tuple(strides)
        self.anchor_scale = anchor_scale
        self.num_classes = num_classes
        self.pyramid = Pyramid(backbone, slices, channels, self.strides)
        self.head = VFNetHead(channels, num_classes, tower_depth, self.strides, anchor_scale)

    def forward(self, images: Tensor) -> RawOutputs:
        """Raw outputs for `images` (N, slices, H, W), grey values 0..255, H and W multiples of the coarsest stride."""
        if any(side % self.strides[-1] for side in images.shape[-2:]):
            raise ValueError(f"Image sides must be multiples of {self.strides[-1]}, not {tuple(images.shape[-2:])}; use pad_to_multiple.")
        images = tone(images).contiguous(memory_format=torch.channels_last)  # the layout that the star reads
        return self.head(self.pyramid(images))

    def label_points(self, points: Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        """Per image and point the index of the box that it learns, BACKGROUND or IGNORE (see `atss.assign`), shape (N, P)."""
        sides = [self.anchor_scale * stride for stride in self.strides]
        return torch.stack([assign(points, sides, target.boxes, target.ignore) for target in targets])

    def loss(self, raw: RawOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The weighted losses "class", "initial" and "refined" of `targets`, one per image; their sum is to be minimised."""
        points = self._points(raw)
        assigned = self.label_points(points, targets)  # (N, P)
        positive = assigned > BACKGROUND
        image, point = positive.nonzero(as_tuple=True)
        boxes = torch.cat([target.boxes[chosen[chosen > BACKGROUND]] for target, chosen in zip(targets, assigned)])
        labels = torch.cat([target.labels[chosen[chosen > BACKGROUND]] for target, chosen in zip(targets, assigned)])

        centres = torch.cat(points)[point]
        initial = ltrb_to_xyxy(centres, _join(raw.initial)[image, point])
        refined = ltrb_to_xyxy(centres, _join(raw.refined)[image, point])
        refined_iou = paired_iou(refined.detach(), boxes)

        logits = _join(raw.logits)  # (N, P, C)
        quality = torch.zeros_like(logits)
        quality[image, point, labels] = refined_iou
        class_loss = varifocal_loss(logits, quality)[assigned != IGNORE].sum() / max(len(boxes), 1)
        losses = {
            "class": class_loss,
            "initial": _box_loss(initial, boxes, paired_iou(initial.detach(), boxes)),
            "refined": _box_loss(refined, boxes, refined_iou),
        }
        return {name: _LOSS_WEIGHTS[name] * value for name, value in losses.items()}

    @torch.no_grad()
    def decode(
        self, raw: RawOutputs, score_threshold: float = 0.05, nms_iou: float = 0.6, max_detections: int = 100, top_k: int = 1000
    ) -> list[Detections]:
        """The detections of each image: the `top_k` best of every level above the threshold, thinned label by label.

        Boxes are clipped to the edges of the image, 0.5 px beyond its outermost pixel centres.
        """
        points = self._points(raw)
        size = tuple(side * self.strides[0] for side in raw.logits[0].shape[-2:])
        found = []
        for image in range(len(raw.logits[0])):
            boxes, scores, labels = [], [], []
            for level, logits, ltrb in zip(points, raw.logits, raw.refined):
                level_scores = logits[image].flatten(1).T.sigmoid()  # (P_l, C)
                candidates = level_scores.flatten()
                best = candidates.topk(min(top_k, len(candidates))).indices
                best = best[candidates[best] > score_threshold]
                cell = best // self.num_classes
                boxes.append(ltrb_to_xyxy(level[cell], ltrb[image].flatten(1).T[cell]))
                scores.append(candidates[best])
                labels.append(best % self.num_classes)
            boxes, scores, labels = clip_boxes_to_image(torch.cat(boxes) + 0.5, size) - 0.5, torch.cat(scores), torch.cat(labels)
            visible = remove_small_boxes(boxes, 1e-3)
            kept = visible[batched_nms(boxes[visible], scores[visible], labels[visible], nms_iou)[:max_detections]]
            found.append(Detections(boxes[kept], scores[kept], labels[kept]))
        return found

    def _points(self, raw: RawOutputs) -> list[Tensor]:
        return [grid_points(*level.shape[-2:], stride, level.device) for level, stride in zip(raw.logits, self.strides)]


class VFNetHead(nn.Module):
    """The head that all levels share: an initial box, then class and refined box from the star of that box."""

    def __init__(self, channels: int, num_classes: int, tower_depth: int, strides: Sequence[int], anchor_scale: float) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.anchor_scale = anchor_scale
        self.class_tower = nn.Sequential(*[_conv_norm(channels) for _ in range(tower_depth)])
        self.box_tower = nn.Sequential(*[_conv_norm(channels) for _ in range(tower_depth)])
        self.initial_conv = _conv_norm(channels)
        self.initial = nn.Conv2d(channels, 4, 3, padding=1)
        self.class_star = nn.Parameter(torch.empty(channels, 9 * channels))
        self.box_star = nn.Parameter(torch.empty(channels, 9 * channels))
        self.refined = nn.Conv2d(channels, 4, 3, padding=1)
        self.logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.initial_scales = nn.Parameter(torch.ones(len(self.strides)))
        self.refined_scales = nn.Parameter(torch.ones(len(self.strides)))

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.class_star, std=0.01)
        nn.init.normal_(self.box_star, std=0.01)
        nn.init.constant_(self.logits.bias, -math.log((1 - _PRIOR) / _PRIOR))

    def forward(self, maps: Sequence[Tensor]) -> RawOutputs:
        return RawOutputs(*zip(*[self._level(level, features) for level, features in enumerate(maps)]))

    def _level(self, level: int, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stride = self.strides[level]
        class_features, box_features = self.class_tower(features), self.box_tower(features)
        initial = _factor(self.initial(self.initial_conv(box_features)), self.initial_scales[level]) * (self.anchor_scale * stride)
        arms = (1 - _STAR_GRADIENT) * initial.detach() + _STAR_GRADIENT * initial
        class_taps, box_taps = sample_star(torch.cat([class_features, box_features], dim=1), arms / stride).chunk(2, dim=-1)
        class_features, box_features = star_conv(class_taps, self.class_star), star_conv(box_taps, self.box_star)
        refined = _factor(self.refined(relu(box_features)), self.refined_scales[level]) * initial.detach()
        return self.logits(relu(class_features)).float(), initial, refined


def sample_star(features: Tensor, ltrb: Tensor) -> Tensor:
    """Features at the nine points of each cell's star: the corners, the sides and the cell itself.

    The points are rows (y - t, y, y + b) times columns (x - l, x, x + r), in this order, so that a 3 x 3 kernel on them is the
    star-shaped deformable convolution of the paper. Sampling is bilinear, zero outside. `embedding_bag` does it many times
    faster on a CPU than `deform_conv2d` or `grid_sample`, because it reads all channels of a cell at once.

    Parameters
    ----------
    features: (N, C, h, w).
    ltrb: (N, 4, h, w) float32, arms of the star in cells.

    Returns
    -------
    (N, h, w, 9, C)
    """
    count, channels, height, width = features.shape
    left, top, right, bottom = ltrb.unbind(dim=1)
    row, row_weight = _neighbours(torch.arange(height, device=ltrb.device)[:, None], top, bottom, height)
    column, column_weight = _neighbours(torch.arange(width, device=ltrb.device), left, right, width)
    cell = row[..., :, None, :, None] * width + column[..., None, :, None, :]  # (N, h, w, 3, 3, 2, 2)
    cell = cell + torch.arange(count, device=cell.device).view(-1, 1, 1, 1, 1, 1, 1) * (height * width)
    weight = row_weight[..., :, None, :, None] * column_weight[..., None, :, None, :]
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    taps = embedding_bag(cell.reshape(-1, 4), table, mode="sum", per_sample_weights=weight.reshape(-1, 4).to(table.dtype))
    return taps.view(count, height, width, 9, channels)


def _neighbours(position: Tensor, before: Tensor, after: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two cells around each of three taps along one axis, and their weights (0 outside 0..size-1), both (N, h, w, 3, 2)."""
    tap = torch.stack([position - before, position.expand_as(before), position + after], dim=-1)
    lower = tap.detach().floor()
    share = tap - lower
    cells = torch.stack([lower, lower + 1], dim=-1)
    weights = torch.stack([1 - share, share], dim=-1) * ((cells >= 0) & (cells < size))
    return cells.clamp(0, size - 1).long(), weights


def star_conv(taps: Tensor, weight: Tensor) -> Tensor:
    """A 3 x 3 kernel `weight` (out, 9 * C) on the taps (N, h, w, 9, C) of `sample_star`; gives (N, out, h, w)."""
    return linear(taps.flatten(3), weight).permute(0, 3, 1, 2)


def _conv_norm(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.GroupNorm(channels // _CHANNELS_PER_GROUP, channels), nn.ReLU()
    )


def _factor(outputs: Tensor, scale: Tensor) -> Tensor:
    """exp(scale * outputs) in float32, bounded so that no output overflows."""
    return (scale * outputs.float()).clamp(max=_LOG_LARGEST_FACTOR).exp()


def _box_loss(predicted: Tensor, boxes: Tensor, iou: Tensor) -> Tensor:
    """GIoU loss of (M, 4) boxes, each weighted with its `iou` (M,)."""
    weight = iou.clamp(min=1e-6)
    return (weight * generalized_box_iou_loss(predicted, boxes)).sum() / weight.sum().clamp(min=1)


def _join(levels: Sequence[Tensor]) -> Tensor:
    """Per-level maps (N, K, h, w) as one tensor (N, P, K), points in the order of `grid_points`."""
    return torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)
