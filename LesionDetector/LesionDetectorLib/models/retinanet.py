"""RetinaNet: a one-stage detector on anchors, with torchvision's head.

Lin et al., "Focal loss for dense object detection", ICCV 2017. The anchors fit DeepLesion's boxes at 0.8 mm: the usual
ones, of 32 to 512 px, overlap a lesion of 12 px by a seventh.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import sigmoid_focal_loss

from LesionDetectorLib.models.anchors import RATIOS, lay_anchors, match_anchors, pyramid_anchors
from LesionDetectorLib.models.architecture import remembered
from LesionDetectorLib.models.backbone import Pyramid
from LesionDetectorLib.models.dense import best_detections, check_channels, counting, group_norm, learnt_lesions
from LesionDetectorLib.models.detections import BACKGROUND, Detections, Target, network_input
from LesionDetectorLib.slices import DEFAULT, Recipe

_SIZES_PER_OCTAVE = 3
_ANCHORS_PER_CELL = _SIZES_PER_OCTAVE * len(RATIOS)


class RawOutputs(NamedTuple):
    """What the network says of every anchor, per level of the pyramid: raw tensors in float32.

    logits: (N, h, w, A, C).
    deltas: (N, h, w, A, 4), shift and log scale of the anchor in its own width and height.
    """

    logits: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...]


class RetinaNet(nn.Module):
    """Detects lesions on stacks of grey CT slices.

    Parameters
    ----------
    backbone: "mobilenet_v2", "resnet18", "resnet34" or "resnet50".
    recipe: how the input is made of a CT.
    num_classes: number of labels.
    strides: px per cell of each level, doubling.
    channels: width of the pyramid and the head, a multiple of 8.
    anchor_scale: size of the smallest anchor of a level, in strides at 0.8 mm a pixel.
    """

    NAME = "retinanet"

    @remembered
    def __init__(
        self,
        backbone: str = "mobilenet_v2",
        recipe: Recipe = DEFAULT,
        num_classes: int = 8,
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        channels: int = 64,
        anchor_scale: float = 3.5,
    ) -> None:
        super().__init__()
        check_channels(channels)
        self.strides = tuple(strides)
        self.pyramid = Pyramid(backbone, recipe.slices, channels, self.strides)
        self.head = RetinaNetHead(channels, _ANCHORS_PER_CELL, num_classes, norm_layer=group_norm)
        self.anchors = pyramid_anchors(
            self.strides, anchor_scale * DEFAULT.pixel_mm / recipe.pixel_mm, _SIZES_PER_OCTAVE
        )
        self.matcher = Matcher(high_threshold=0.5, low_threshold=0.4, allow_low_quality_matches=True)

    def forward(self, images: Tensor) -> RawOutputs:
        """Raw outputs for `images` (N, slices, H, W), grey values 0..255, H and W multiples of the coarsest stride."""
        logits, deltas = [], []
        for features in self.pyramid(network_input(images, self.strides[-1], self.recipe)):
            outputs = self.head([features])
            shape = (len(features), *features.shape[-2:], _ANCHORS_PER_CELL, -1)
            logits.append(outputs["cls_logits"].float().view(shape))
            deltas.append(outputs["bbox_regression"].float().view(shape))
        return RawOutputs(tuple(logits), tuple(deltas))

    def loss(self, raw: RawOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses "class" (focal) and "box" (L1) of `targets`, one per image; their sum is to be minimised.

        As torchvision does, each image's losses are divided by its number of positive anchors.
        """
        anchors = torch.cat(self._anchors(raw))
        matched = [match_anchors(self.matcher, anchors, target.boxes, target.ignore) for target in targets]
        deltas = torch.cat([level.flatten(1, 3) for level in raw.deltas], dim=1)
        lesions = [{"boxes": target.boxes, "labels": target.labels} for target in targets]
        box_loss = self.head.regression_head.compute_loss(
            lesions, {"bbox_regression": deltas}, [anchors] * len(targets), matched
        )

        assigned = torch.stack(matched)  # (N, A)
        image, anchor = (assigned > BACKGROUND).nonzero(as_tuple=True)
        _, labels = learnt_lesions(targets, image, assigned[image, anchor])
        logits = torch.cat([level.flatten(1, 3) for level in raw.logits], dim=1)
        truth = torch.zeros_like(logits)
        truth[image, anchor, labels] = 1
        each = sigmoid_focal_loss(logits, truth) * counting(assigned, targets, logits.shape[-1])
        positives = (assigned > BACKGROUND).sum(dim=1).clamp(min=1)
        return {"class": (each.sum(dim=(1, 2)) / positives).mean(), "box": box_loss}

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
        coder = self.head.regression_head.box_coder
        boxes = [
            coder.decode_single(deltas.reshape(-1, 4), anchors.repeat(len(deltas), 1)).view(len(deltas), -1, 4)
            for anchors, deltas in zip(self._anchors(raw), raw.deltas)
        ]
        size = tuple(side * self.strides[0] for side in raw.logits[0].shape[1:3])
        logits = [level.flatten(1, 3) for level in raw.logits]
        return best_detections(logits, boxes, size, score_threshold, nms_iou, max_detections, top_k)

    def _anchors(self, raw: RawOutputs) -> list[Tensor]:
        return lay_anchors(self.anchors, [level.shape[1:3] for level in raw.logits], self.strides, raw.logits[0].device)
