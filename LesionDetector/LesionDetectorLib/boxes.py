"""Boxes as arrays: (n, 4) xyxy, a width is x1 - x0. What they share, and their intersection over union."""

from __future__ import annotations

import numpy as np


def shared_areas(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The area that each of `boxes` (n, 4) xyxy shares with each of `others` (m, 4): (n, m)."""
    sides = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
    return np.maximum(sides[..., 0], 0) * np.maximum(sides[..., 1], 0)


def pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of `boxes` (n, 4) with `others` (m, 4): (n, m); width is x1 - x0, an empty box overlaps nothing."""
    intersection = shared_areas(boxes, others)
    union = _areas(boxes)[:, None] + _areas(others) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=intersection > 0)


def paired_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of `boxes` (n, 4) with the one of `others` (n, 4) beside each: (n,); an empty box overlaps nothing."""
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    intersection = np.maximum(sides, 0).prod(axis=1)
    return intersection / np.maximum(_areas(boxes) + _areas(others) - intersection, 1e-9)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
