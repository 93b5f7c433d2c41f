"""From boxes to lesions: weighted boxes fusion on one slice, then stacking over slices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from LesionDetectorLib.boxes import pairwise_iou
from LesionDetectorLib.lesion import BodyPart, Box

Detections = tuple[np.ndarray, np.ndarray, np.ndarray]

STACKING_IOU = 0.5  # boxes on neighbouring slices that overlap more belong to one lesion (MELD)
SPAN_SCORE = 0.5  # a lesion ends where the score stays below this share of its best: the tail is a vessel more often than a lesion
KEY_SLICE_SCORE = 0.8  # the key slice is chosen among the slices that score at least this share of the best


@dataclass(frozen=True, slots=True)
class Candidate:
    """A lesion in 3-D as the detector sees it, not measured yet.

    Attributes
    ----------
    key_slice: k of the slice to measure.
    slices: first and last k, both included.
    box: (x0, y0, x1, y1) on the key slice.
    confidence: 0..1, the score on the key slice.
    body_part: the score-weighted vote of all its boxes.
    boxes: k -> box on every slice where it was seen.
    """

    key_slice: int
    slices: tuple[int, int]
    box: Box
    confidence: float
    body_part: BodyPart
    boxes: Mapping[int, Box]


def weighted_boxes_fusion(
    predictions: Sequence[Detections],
    weights: Sequence[float] | None = None,
    iou_threshold: float = 0.55,
    skip_below: float = 0.0,
) -> Detections:
    """Fuse what several models, epochs or flips found on one slice into one set of boxes.

    Weighted boxes fusion as R. Solovyev et al., Image and Vision Computing 107 (2021) 104117, with `conf_type="avg"` of their
    `ensemble_boxes` package; but boxes are in pixels of any frame and are not clipped, scores stay within 1, and the prediction
    of a single model comes back as it is, because its own non-maximum suppression has already been done.

    Parameters
    ----------
    predictions: for each model the boxes (n, 4), scores (n,) in 0..1 and labels (n,); boxes without an area are left out.
    weights: one for each model; all 1 by default. A box that one of two equal models saw keeps half of its score.
    iou_threshold: a box joins the fused box of its label that it overlaps most, if by more than this.
    skip_below: boxes with a lower score are left out.

    Returns
    -------
    boxes (n, 4) float64, scores (n,) float64, labels (n,) int64, in falling order of score.

    Raises
    ------
    ValueError: not one positive weight for each model.
    """
    weights = np.ones(len(predictions)) if weights is None else np.asarray(weights, dtype=float)
    if len(weights) != len(predictions) or not (weights > 0).all():
        raise ValueError(f"Weighted boxes fusion needs one positive weight for each of {len(predictions)} models, not {weights.tolist()}.")
    kept = [_kept(prediction, skip_below) for prediction in predictions]
    if len(kept) == 1:
        return _by_falling_score(*kept[0])

    boxes = np.concatenate([boxes for boxes, _, _ in kept] or [np.zeros((0, 4))])
    scores = np.concatenate([weight * scores for weight, (_, scores, _) in zip(weights, kept)] or [np.zeros(0)])
    labels = np.concatenate([labels for _, _, labels in kept] or [np.zeros(0, dtype=np.int64)])
    boxes, scores, labels = _by_falling_score(boxes, scores, labels)

    fused = [(*_fuse_one_label(boxes[labels == label], scores[labels == label], iou_threshold), label) for label in np.unique(labels)]
    if not fused:
        return boxes, scores, labels
    fused_boxes, means, counts, fused_labels = zip(*fused)
    counts = np.concatenate(counts)
    boxes, scores, labels = _by_falling_score(
        np.concatenate(fused_boxes),
        np.concatenate(means) * np.minimum(len(weights), counts) / weights.sum(),
        np.repeat(np.array(fused_labels), [len(each) for each in means]),
    )
    return boxes, np.minimum(scores, 1), labels  # several boxes of a model with much weight can add up to more than 1


def stack(
    slices: Iterable[tuple[int, np.ndarray, np.ndarray, np.ndarray]],
    iou_threshold: float = STACKING_IOU,
    lowest_confidence: float = 0.0,
) -> list[Candidate]:
    """Link the boxes of consecutive slices into lesions, as K. Yan et al. (MELD, MICCAI 2020) do for their volumetric evaluation.

    Boxes of one slice that overlap by more than `iou_threshold` are one lesion, whatever their labels: the best one stands for
    it, all of them vote on the label. From slice to slice, pairs link in falling order of IoU; each box belongs to one lesion,
    and a slice on which the lesion is not seen ends it. A lesion seen on a single slice is one too.

    RECIST measures on the slice with the longest diameter. The box's diagonal stands in for it (an ellipse's box has the same
    diagonal however it is turned), but only slices that score at least `KEY_SLICE_SCORE` of the best compete: picking the largest
    of all adds about 2 mm to what readers measure, and would pull the confidence, which is the key slice's, below the threshold.

    Parameters
    ----------
    slices: (k, boxes (n, 4), scores (n,), labels (n,) of `BodyPart` codes) of *every* slice that was looked at, also of those
        without a box: consecutive means next to each other among these, so that every third slice of a thin CT will do as well.
    iou_threshold: boxes link above this.
    lowest_confidence: lesions below it are left out.

    Returns
    -------
    The lesions in falling order of confidence, boxes in the frame they came in.
    """
    finished: list[_Chain] = []
    growing: list[_Chain] = []
    for k, boxes, scores, labels in sorted(slices, key=lambda entry: entry[0]):
        found = _lesions_of_slice(k, *_kept((boxes, scores, labels), 0.0), iou_threshold)
        finished += _link(growing, found, iou_threshold)
        growing = found
    likely = [chain for chain in finished + growing if max(sighting.score for sighting in chain) >= lowest_confidence]
    candidates = [candidate for candidate in map(_candidate, likely) if candidate.confidence >= lowest_confidence]
    return sorted(candidates, key=lambda candidate: (-candidate.confidence, candidate.key_slice, candidate.box))


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A lesion on one slice; `votes[code]` is the sum of the scores of its boxes with that label."""

    k: int
    box: np.ndarray
    score: float
    votes: np.ndarray


_Chain = list[_Sighting]  # a lesion on consecutive slices


def _kept(detections: Detections, skip_below: float) -> Detections:
    """The detections as arrays, without boxes that have no area or a lower score."""
    boxes = np.asarray(detections[0], dtype=float).reshape(-1, 4)
    scores, labels = np.asarray(detections[1], dtype=float), np.asarray(detections[2], dtype=np.int64)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (scores >= skip_below)
    return boxes[keep], scores[keep], labels[keep]


def _by_falling_score(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Detections:
    order = np.argsort(-scores, kind="stable")
    return boxes[order], scores[order], labels[order]


def _fuse_one_label(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float) -> Detections:
    """Clusters of boxes of one label, in falling order of score: fused boxes (m, 4), mean scores (m,), numbers of boxes (m,)."""
    fused, sums, score_sums, counts = np.empty_like(boxes), np.zeros_like(boxes), np.zeros(len(boxes)), np.zeros(len(boxes), dtype=int)
    clusters = 0
    for box, score in zip(boxes, scores):
        overlaps = pairwise_iou(fused[:clusters], box[None])[:, 0]
        best = int(overlaps.argmax()) if clusters else 0
        if not clusters or overlaps[best] <= iou_threshold:
            best = clusters
            clusters += 1
        sums[best] += score * box
        score_sums[best] += score
        counts[best] += 1
        fused[best] = sums[best] / score_sums[best] if score_sums[best] > 0 else box
    return fused[:clusters], score_sums[:clusters] / counts[:clusters], counts[:clusters]


def _lesions_of_slice(k: int, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou_threshold: float) -> list[_Chain]:
    """Lesions of one slice: each box joins the best-scored one that it overlaps, whatever its label, or opens one."""
    boxes, scores, labels = _by_falling_score(boxes, scores, labels)
    overlaps = pairwise_iou(boxes, boxes) > iou_threshold
    lesions: list[_Chain] = []
    free = np.ones(len(boxes), dtype=bool)
    for index in range(len(boxes)):
        if free[index]:
            members = (overlaps[index] | (np.arange(len(boxes)) == index)) & free
            votes = np.bincount(labels[members], weights=scores[members], minlength=len(BodyPart) + 1)
            lesions.append([_Sighting(k, boxes[index], float(scores[index]), votes)])
            free &= ~members
    return lesions


def _link(growing: list[_Chain], found: list[_Chain], iou_threshold: float) -> list[_Chain]:
    """Put each growing lesion before the one of the next slice that it continues in; return those that end here."""
    if not growing or not found:
        return growing
    overlaps = pairwise_iou(np.stack([chain[-1].box for chain in growing]), np.stack([chain[0].box for chain in found]))
    ended, free = dict(enumerate(growing)), set(range(len(found)))
    for flat in np.argsort(-overlaps, axis=None, kind="stable"):
        before, after = divmod(int(flat), len(found))
        if overlaps[before, after] <= iou_threshold:
            break
        if before in ended and after in free:
            found[after][:0] = ended.pop(before)
            free.remove(after)
    return list(ended.values())


def _candidate(chain: _Chain) -> Candidate:
    best = max(sighting.score for sighting in chain)
    sure = [sighting.k for sighting in chain if sighting.score >= SPAN_SCORE * best]
    first, last = min(sure), max(sure)
    chain = [sighting for sighting in chain if first <= sighting.k <= last]
    key = max((sighting for sighting in chain if sighting.score >= KEY_SLICE_SCORE * best), key=_diagonal)
    votes = sum(sighting.votes for sighting in chain)
    boxes = {sighting.k: tuple(sighting.box.tolist()) for sighting in chain}
    return Candidate(key.k, (first, last), boxes[key.k], key.score, BodyPart(int(np.argmax(votes[1:])) + 1), MappingProxyType(boxes))


def _diagonal(sighting: _Sighting) -> float:
    return float(np.hypot(*(sighting.box[2:] - sighting.box[:2])))
