"""Boxes and points in px of the network input, where pixel centres have whole numbers.

`xyxy` is (x0, y0, x1, y1); `ltrb` are the distances from a point to the left, top, right and bottom side.
"""

from __future__ import annotations

import torch
from torch import Tensor


def grid_points(height: int, width: int, stride: int, device: torch.device | None = None) -> Tensor:
    """The centres (x, y) in px of the cells of a feature map, row by row, shape (height * width, 2).

    Cell (x, y) looks at pixel (x * stride, y * stride): a convolution with stride 2 and padding 1 (or kernel 7 and
    padding 3) centres its output x on input 2 x.
    """
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2).float() * stride


def ltrb_to_xyxy(points: Tensor, ltrb: Tensor) -> Tensor:
    """The boxes (..., 4) whose sides lie `ltrb` (..., 4) from `points` (..., 2)."""
    return torch.cat([points - ltrb[..., :2], points + ltrb[..., 2:]], dim=-1)


def xyxy_to_ltrb(points: Tensor, boxes: Tensor) -> Tensor:
    """The distances (..., 4) from `points` (..., 2) to the sides of `boxes` (..., 4), negative for a point outside."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union (...) of each xyxy box (..., 4) with its partner in `others` (..., 4)."""
    overlap = (
        (torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2]))
        .clamp(min=0)
        .prod(dim=-1)
    )
    union = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1) + (others[..., 2:] - others[..., :2]).prod(dim=-1) - overlap
    return overlap / union.clamp(min=1e-6)
