"""FROC: sensitivity against false positives per image, for detections of labelled boxes.

A lesion is found at a threshold when some detection above it overlaps the lesion (IoU >= the limit); further hits on a
found lesion are neither true nor false positives; one detection may find several lesions; a detection that overlaps no
lesion is a false positive. Lesions of unknown label (-1) are *ignored*: a detection on one counts as nothing. These are
the semantics of the DeepLesion detectors' evaluator (Yan et al., MULAN, 2019).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from LesionDetectorLib.boxes import paired_iou
from LesionDetectorLib.lesion import BodyPart

from train.data.deeplesion import UNKNOWN
from train.measuring.boxes import Boxes

SECOND_HIT = "neither a true nor a false positive"
PAIRS_AT_ONCE = 200_000


@dataclass(frozen=True)
class Froc:
    """What was found of the known lesions in `images` images.

    detections, truth: what was matched; lesion: (lesions,) places of the known lesions in the truth; found: (lesions,)
    best score of a hit on each, -inf where none; hits: (hits,) places in the detections of those that hit a lesion;
    false: (n,) those of the false positives, highest score first.
    """

    detections: Boxes
    truth: Boxes
    images: int
    lesion: np.ndarray
    found: np.ndarray
    hits: np.ndarray
    false: np.ndarray

    @cached_property
    def labels(self) -> np.ndarray:
        """(lesions,) labels of the known lesions."""
        return self.truth.labels[self.lesion]

    @cached_property
    def false_positives(self) -> np.ndarray:
        """(n,) scores of the false positives, falling."""
        return self.detections.scores[self.false]

    def of_label(self, label: int) -> Froc:
        """The lesions of one label against the false positives of that label only."""
        own = self.labels == label
        false = self.false[self.detections.labels[self.false] == label]
        return replace(self, lesion=self.lesion[own], found=self.found[own], false=false)

    def threshold(self, false_positives_per_image: float) -> float:
        """The lowest score above which at most so many false positives per image remain; -inf where all may stay."""
        allowed = allowed_false_positives(false_positives_per_image, self.images)
        scores = self.false_positives
        return float(scores[allowed]) if allowed < len(scores) else -np.inf

    def sensitivity(self, false_positives_per_image: float, among: np.ndarray | None = None) -> float:
        """Share of the lesions (`among`: a mask over them) found at that many false positives per image.

        NaN where there are none.
        """
        found = self.found if among is None else self.found[among]
        return float((found > self.threshold(false_positives_per_image)).mean()) if len(found) else float("nan")

    def curve(self, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The FROC curve: false positives per image (n + 1,), rising, and the sensitivity at each.

        `among` as in `sensitivity`.
        """
        found = np.sort(self.found if among is None else self.found[among])
        thresholds = np.append(self.false_positives, -np.inf)
        missed = np.searchsorted(found, thresholds, side="right")
        sensitivity = 1 - missed / len(found) if len(found) else np.full(len(thresholds), np.nan)
        return np.arange(len(thresholds)) / max(self.images, 1), sensitivity


def allowed_false_positives(per_image: float, images: int | np.ndarray) -> int | np.ndarray:
    """How many false positives a rate allows in that many images."""
    return np.floor(per_image * images + 1e-9).astype(int)


def froc(
    detections: Boxes, truth: Boxes, images: int, iou: float = 0.3, same_label: bool = True, count_pixels: bool = False
) -> Froc:
    """Match detections with the truth.

    `same_label`: a hit needs the lesion's label, and a detection with a wrong label is a false positive; else only the
        place counts.
    `count_pixels`: widths are x1 - x0 + 1, as older published figures have it.
    """
    detection, lesion, _ = overlapping(detections, truth, iou, count_pixels)
    return of_pairs(detections, truth, images, detection, lesion, same_label)


def of_pairs(
    detections: Boxes, truth: Boxes, images: int, detection: np.ndarray, lesion: np.ndarray, same_label: bool
) -> Froc:
    """The FROC of detections and lesions of which pairs touch: (pairs,) places in both; other arguments as in
    `froc`."""
    unknown = truth.labels[lesion] == UNKNOWN
    hit = ~unknown
    if same_label:
        hit &= detections.labels[detection] == truth.labels[lesion]
    found = np.full(len(truth), -np.inf)
    np.maximum.at(found, lesion[hit], detections.scores[detection[hit]])
    counts_not = np.zeros(len(detections), bool)
    counts_not[detection[hit | unknown]] = True
    false = np.flatnonzero(~counts_not)
    false = false[np.argsort(-detections.scores[false], kind="stable")]
    known = np.flatnonzero(truth.labels != UNKNOWN)
    return Froc(detections, truth, images, known, found[known], np.unique(detection[hit]), false)


def confusion(
    detections: Boxes, truth: Boxes, threshold: float, iou: float = 0.3, count_pixels: bool = False
) -> np.ndarray:
    """Lesions by label and by the label of the detection above `threshold` that overlaps them best: (8, 9) counts.

    A row is a true label (body-part codes 1..8), a column a detected one; the last column counts the lesions that
    nothing overlaps. Best is the highest IoU; of equal ones the highest score.
    """
    detection, lesion, overlap = overlapping(detections, truth, iou, count_pixels)
    shown = detections.scores[detection] > threshold
    detection, lesion, overlap = detection[shown], lesion[shown], overlap[shown]
    best_last = np.lexsort((-detection, detections.scores[detection], overlap))
    missed = len(BodyPart) + 1
    answer = np.full(len(truth), missed)
    answer[lesion[best_last]] = detections.labels[detection[best_last]]
    known = truth.labels != UNKNOWN
    matrix = np.zeros((len(BodyPart), missed), int)
    np.add.at(matrix, (truth.labels[known] - 1, answer[known] - 1), 1)
    return matrix


def overlapping(
    detections: Boxes, truth: Boxes, iou: float, count_pixels: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a detection and a lesion of the same image with an IoU of at least `iou`: places in both, and the
    IoU, each (pairs,)."""
    parts = []
    widened = np.array([0, 0, 1, 1]) if count_pixels else 0
    for detection, lesion in _pairs(detections.image, truth.image):
        overlap = paired_iou(detections.boxes[detection] + widened, truth.boxes[lesion] + widened)
        near = overlap >= iou
        parts.append((detection[near], lesion[near], overlap[near]))
    detection, lesion, overlap = (np.concatenate(column) for column in zip(*parts))
    return detection, lesion, overlap


def _pairs(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of places in `first` and `second` (image numbers, any order) that belong to the same image, in
    blocks."""
    order = np.argsort(second, kind="stable")
    start = np.searchsorted(second[order], first, "left")
    count = np.searchsorted(second[order], first, "right") - start
    block = np.cumsum(count) // PAIRS_AT_ONCE
    for rows in np.split(np.arange(len(first)), np.flatnonzero(np.diff(block)) + 1):
        left = np.repeat(rows, count[rows])
        within = np.arange(len(left)) - np.repeat(np.cumsum(count[rows]) - count[rows], count[rows])
        yield left, order[np.repeat(start[rows], count[rows]) + within]
