"""Boxes as arrays, (n, 4) xyxy, a width is x1 - x0: what they share, their intersection over union, and detections
in order."""

from __future__ import annotations

import numpy as np

from LesionDetectorLib.lesion import Box

Detections = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Boxes (n, 4), scores (n,) in 0..1, labels (n,) of `BodyPart` codes."""


def hull(points: np.ndarray, margin: float | np.ndarray = 0.0) -> Box:
    """The box round points (n, 2), with a margin that is a length, or one along x and one along y."""
    (x0, y0), (x1, y1) = points.min(axis=0) - margin, points.max(axis=0) + margin
    return float(x0), float(y0), float(x1), float(y1)


def shared_areas(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The area that each of `boxes` (n, 4) xyxy shares with each of `others` (m, 4): (n, m)."""
    sides = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
    return np.maximum(sides[..., 0], 0) * np.maximum(sides[..., 1], 0)


def pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of `boxes` (n, 4) with `others` (m, 4): (n, m).

    Width is x1 - x0, an empty box overlaps nothing.
    """
    intersection = shared_areas(boxes, others)
    union = _areas(boxes)[:, None] + _areas(others) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=intersection > 0)


def paired_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of `boxes` (n, 4) with the one of `others` (n, 4) beside each: (n,).

    An empty box overlaps nothing.
    """
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    intersection = np.maximum(sides, 0).prod(axis=1)
    return intersection / np.maximum(_areas(boxes) + _areas(others) - intersection, 1e-9)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def kept(detections: Detections, skip_below: float) -> Detections:
    """The detections as arrays, without boxes that have no area or a lower score."""
    boxes = np.asarray(detections[0], dtype=float).reshape(-1, 4)
    scores, labels = np.asarray(detections[1], dtype=float), np.asarray(detections[2], dtype=np.int64)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (scores >= skip_below)
    return boxes[keep], scores[keep], labels[keep]


def by_falling_score(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Detections:
    """The detections, the surest first; equally sure ones stay in their order."""
    order = np.argsort(-scores, kind="stable")
    return boxes[order], scores[order], labels[order]
