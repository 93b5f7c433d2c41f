"""Losses that torchvision does not have (it has `generalized_box_iou_loss`), and losses of a batch that several
processes share."""

from __future__ import annotations

from torch import Tensor, distributed
from torch.nn.functional import binary_cross_entropy_with_logits


def varifocal_loss(logits: Tensor, quality: Tensor, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """The varifocal loss of every element, not reduced; same shape as `logits`.

    `quality` is the IoU of the predicted box with its lesion at the lesion's class of a positive point and 0 elsewhere.
    Positives weigh as much as their quality, negatives alpha * p ** gamma. Zhang et al., "VarifocalNet", CVPR 2021,
    equation 2; as in the authors' code the gradient flows through the weight too.
    """
    weight = quality.where(quality > 0, alpha * logits.sigmoid() ** gamma)
    return weight * binary_cross_entropy_with_logits(logits, quality, reduction="none")


def processes() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process_number() -> int:
    """Which of them this one is, from 0."""
    return distributed.get_rank() if processes() > 1 else 0


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of every process's `value`, without a gradient."""
    value = value.detach().clone()
    if processes() > 1:
        distributed.all_reduce(value)
    return value


def divisor(count: Tensor) -> Tensor:
    """What to divide a sum over this process's images by to get the mean over `count`, at least 1, of the whole
    batch's.

    The processes' gradients are averaged, so each divides by its share of what all of them count.
    """
    return sum_over_processes(count.float()).clamp(min=1) / processes()
