"""What every detector takes and gives: images and targets in, detections out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from LesionDetectorLib.models.boxes import xyxy_to_ltrb
from LesionDetectorLib.models.tone import tone
from LesionDetectorLib.slices import Recipe

BACKGROUND = -1
IGNORE = -2


class Target(NamedTuple):
    """The lesions of one image.

    boxes: (M, 4) xyxy in px of the network input, pixel centres at whole numbers.
    labels: (M,) int64, 0..C-1.
    ignore: (M,) bool, True for a box that shall count neither as lesion nor as background; its label is not read.
    background: (C,) float 0..1, how much it counts that a place without a box has no lesion of each label: 1 where all
        lesions of the label are marked, less where some may not be. None: 1 for all.
    dataset: which of several data sets the image is of: what is a lesion there, and whether all are marked, differs.
    mined: (M,) bool, True for a box that a detector proposed, so that its sides are not to be learnt; None for no such.

    Only `meld` reads the last two, and only it takes labels of -1, a lesion whose label is not known.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    background: Tensor | None = None
    dataset: int = 0
    mined: Tensor | None = None

    @property
    def loose(self) -> Tensor:
        """(M,) bool: which boxes were mined."""
        return torch.zeros_like(self.ignore) if self.mined is None else self.mined


class Detections(NamedTuple):
    """What was found on one image, best first, on the CPU: boxes (D, 4) xyxy in px, scores (D,) 0..1, labels (D,)
    0..C-1."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def pad_to_multiple(images: Tensor, multiple: int = 64) -> Tensor:
    """Images (..., H, W) with air (grey value 0) added at the right and the bottom until H and W are multiples of
    `multiple`."""
    height, width = images.shape[-2:]
    return pad(images, (0, -width % multiple, 0, -height % multiple))


def network_input(images: Tensor, multiple: int, recipe: Recipe) -> Tensor:
    """Images (N, slices, H, W), 0..255, in the recipe's tone; ValueError if a side is not a multiple of `multiple`."""
    if any(side % multiple for side in images.shape[-2:]):
        raise ValueError(
            f"Image sides must be multiples of {multiple}, not {tuple(images.shape[-2:])}; use pad_to_multiple."
        )
    return tone(images, recipe).contiguous(memory_format=torch.channels_last)


def leave_out_ignored(assigned: Tensor, points: Tensor, boxes: Tensor, ignore: Tensor) -> Tensor:
    """IGNORE for all that learns an ignored box, and for background inside one.

    Parameters
    ----------
    assigned: (P,) int64, the index of the box that each point learns, BACKGROUND or IGNORE.
    points: (P, 2), x and y in px.
    boxes: (M, 4) xyxy in px, M > 0.
    ignore: (M,) bool.
    """
    learns_ignored = (assigned >= 0) & ignore[assigned.clamp(min=0)]
    inside_ignored = ((xyxy_to_ltrb(points[:, None], boxes).amin(dim=-1) > 0) & ignore).any(dim=1)
    return assigned.masked_fill(learns_ignored | (inside_ignored & (assigned == BACKGROUND)), IGNORE)


def thin(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    image: Tensor,
    images: int,
    size: tuple[int, int],
    nms_iou: float,
    max_detections: int,
) -> list[Detections]:
    """The best of (K, 4) boxes of several images, thinned image by image and label by label by non-maximum suppression.

    Boxes are clipped to the edges of the images, all of `size` (H, W), 0.5 px beyond their outermost pixel centres.
    `image` (K,) says on which of the `images` each box is. The detections of each image come back on the CPU, all of
    them in one go.
    """
    boxes = clip_boxes_to_image(boxes + 0.5, size) - 0.5
    visible = remove_small_boxes(boxes, 1e-3)
    boxes, scores, labels, image = boxes[visible], scores[visible], labels[visible], image[visible]
    # in float64, since batched_nms moves the boxes of each group away from all others, at the cost of digits
    kept = batched_nms(boxes.double(), scores.double(), labels * images + image, nms_iou)
    boxes, scores, labels, image = (values[kept].cpu() for values in (boxes, scores, labels, image))
    each = [(image == number).nonzero()[:max_detections, 0] for number in range(images)]
    return [Detections(boxes[some], scores[some], labels[some]) for some in each]
