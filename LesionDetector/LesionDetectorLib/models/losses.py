"""Losses that torchvision does not have (it has `generalized_box_iou_loss`)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def varifocal_loss(logits: Tensor, quality: Tensor, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """The varifocal loss of every element, not reduced; same shape as `logits`.

    `quality` is the IoU of the predicted box with its lesion at the lesion's class of a positive point and 0 elsewhere. Positives
    weigh as much as their quality, negatives alpha * p ** gamma. Zhang et al., "VarifocalNet", CVPR 2021, equation 2; as in the
    authors' code the gradient flows through the weight too.
    """
    weight = quality.where(quality > 0, alpha * logits.sigmoid() ** gamma)
    return weight * binary_cross_entropy_with_logits(logits, quality, reduction="none")
