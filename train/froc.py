"""FROC: sensitivity against false positives per image, for detections of labelled boxes.

A lesion is found at a threshold when some detection of at least that score overlaps it (IoU >= the limit); further hits on a found lesion
are neither true nor false positives; a detection that overlaps no lesion is a false positive. Lesions of unknown label (-1) are *ignored*:
a detection on one counts as nothing. These are the semantics of the DeepLesion detectors' evaluator (Yan et al., MULAN, 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from train.deeplesion import UNKNOWN


@dataclass(frozen=True)
class Boxes:
    """Boxes of many images: image (n,) int, boxes (n, 4) xyxy, labels (n,) int, scores (n,) (detections) or None (ground truth)."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None

    @classmethod
    def of(cls, per_image: list[tuple[np.ndarray, ...]]) -> Boxes:
        """From one (boxes, labels) or (boxes, labels, scores) an image."""
        image = np.repeat(np.arange(len(per_image)), [len(entry[0]) for entry in per_image])
        boxes = np.concatenate([np.reshape(entry[0], (-1, 4)) for entry in per_image]) if per_image else np.zeros((0, 4))
        columns = [np.concatenate([np.ravel(entry[c]) for entry in per_image]) for c in range(1, len(per_image[0]) if per_image else 1)]
        return cls(image, boxes, *columns) if columns else cls(image, boxes, np.zeros(0, int))


@dataclass(frozen=True)
class Froc:
    """What was found.

    found: (lesions,) best score of a hit on each known lesion, -inf where none; labels: (lesions,) their labels; lesion: (lesions,) their
    places in the ground truth; false_positives: scores, falling; images: how many images there are.
    """

    found: np.ndarray
    labels: np.ndarray
    lesion: np.ndarray
    false_positives: np.ndarray
    images: int

    def threshold(self, false_positives_per_image: float) -> float:
        """The lowest score above which at most so many false positives an image remain."""
        allowed = int(false_positives_per_image * self.images + 1e-9)
        return self.false_positives[allowed] if allowed < len(self.false_positives) else -np.inf

    def sensitivity(self, false_positives_per_image: float, among: np.ndarray | None = None) -> float:
        """Share of the lesions (`among`: a mask over them) found at that many false positives an image; NaN where there are none."""
        found = self.found if among is None else self.found[among]
        return float((found > self.threshold(false_positives_per_image)).mean()) if len(found) else float("nan")


def froc(detections: Boxes, truth: Boxes, images: int, iou: float = 0.3, same_label: bool = True, count_pixels: bool = False) -> Froc:
    """Match detections with the truth.

    `same_label`: a hit needs the lesion's label, and a detection with a wrong label is a false positive; else only the place counts.
    `count_pixels`: widths are x1 - x0 + 1, as older published figures have it.
    """
    detection, lesion = _pairs(detections.image, truth.image)
    overlap = pairwise_iou(detections.boxes[detection], truth.boxes[lesion], count_pixels) >= iou
    unknown = truth.labels[lesion] == UNKNOWN
    hit = overlap & ~unknown
    if same_label:
        hit &= detections.labels[detection] == truth.labels[lesion]
    found = np.full(len(truth.image), -np.inf)
    np.maximum.at(found, lesion[hit], detections.scores[detection[hit]])
    counts_not = np.zeros(len(detections.image), bool)
    counts_not[detection[hit | (overlap & unknown)]] = True
    known = np.flatnonzero(truth.labels != UNKNOWN)
    return Froc(found[known], truth.labels[known], known, -np.sort(-detections.scores[~counts_not]), images)


def pairwise_iou(first: np.ndarray, second: np.ndarray, count_pixels: bool = False) -> np.ndarray:
    """IoU of (n, 4) xyxy boxes with the (n, 4) boxes beside them: (n,)."""
    extra = 1.0 if count_pixels else 0.0
    overlap = np.clip(np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2]) + extra, 0, None).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2] + extra).prod(1) for boxes in (first, second)]
    return overlap / np.maximum(areas[0] + areas[1] - overlap, 1e-9)


def _pairs(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of places in `first` and `second` (image numbers, any order) that belong to the same image."""
    order = np.argsort(second, kind="stable")
    start = np.searchsorted(second[order], first, "left")
    count = np.searchsorted(second[order], first, "right") - start
    left = np.repeat(np.arange(len(first)), count)
    within = np.arange(len(left)) - np.repeat(np.cumsum(count) - count, count)
    return left, order[np.repeat(start, count) + within]
