"""From boxes on slices to lesions in 3-D: stacking over slices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from LesionDetectorLib.boxes import by_falling_score, kept, pairwise_iou
from LesionDetectorLib.lesion import BodyPart, Box

STACKING_IOU = 0.5  # boxes on neighbouring slices that overlap more belong to one lesion (MELD)
# a lesion ends where the score stays below this share of its best: the tail is a vessel more often than a lesion
SPAN_SCORE = 0.5
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


def stack(
    slices: Iterable[tuple[int, np.ndarray, np.ndarray, np.ndarray]],
    iou_threshold: float = STACKING_IOU,
    lowest_confidence: float = 0.0,
) -> list[Candidate]:
    """Link the boxes of consecutive slices into lesions, as K. Yan et al. (MELD, MICCAI 2020) do for their
    volumetric evaluation.

    Boxes of one slice that overlap by more than `iou_threshold` are one lesion, whatever their labels: the best one
    stands for it, all of them vote on the label. From slice to slice, pairs link in falling order of IoU; each box
    belongs to one lesion, and a slice on which the lesion is not seen ends it. A lesion seen on a single slice is one
    too.

    RECIST measures on the slice with the longest diameter. The box's diagonal stands in for it (an ellipse's box has
    the same diagonal however it is turned), but only slices that score at least `KEY_SLICE_SCORE` of the best compete:
    picking the largest of all adds about 2 mm to what readers measure, and would pull the confidence, which is the key
    slice's, below the threshold.

    Parameters
    ----------
    slices: (k, boxes (n, 4), scores (n,), labels (n,) of `BodyPart` codes) of *every* slice that was looked at, also of
        those without a box: consecutive means next to each other among these, so that every third slice of a thin CT
        will do as well.
    iou_threshold: boxes link above this.
    lowest_confidence: lesions below it are left out.

    Returns
    -------
    The lesions in falling order of confidence, boxes in the frame they came in.
    """
    finished: list[_Chain] = []
    growing: list[_Chain] = []
    for k, boxes, scores, labels in sorted(slices, key=lambda entry: entry[0]):
        found = _lesions_of_slice(k, *kept((boxes, scores, labels), 0.0), iou_threshold)
        finished += _link(growing, found, iou_threshold)
        growing = found
    likely = [chain for chain in finished + growing if max(sighting.score for sighting in chain) >= lowest_confidence]
    candidates = [candidate for candidate in map(_candidate, likely) if candidate.confidence >= lowest_confidence]
    return sorted(candidates, key=lambda candidate: (-candidate.confidence, candidate.key_slice, candidate.box))


def stack_all(slices: Iterable[tuple[int, np.ndarray]], iou_threshold: float = STACKING_IOU) -> dict[int, np.ndarray]:
    """Which boxes of consecutive slices are one 3-D box, as MELD's volumetric evaluation counts them.

    They link as in `stack`, but nothing is merged within a slice, and no tail is cut off: every box is part of one
    3-D box, whose score is that of its best.

    Parameters
    ----------
    slices: (k, boxes (n, 4)) of *every* slice that was looked at, as for `stack`.
    iou_threshold: boxes link above this.

    Returns
    -------
    k -> (n,) int, the number from 0 on of the 3-D box that each box belongs to.
    """
    numbers: dict[int, np.ndarray] = {}
    count, before, theirs = 0, np.zeros((0, 4)), np.zeros(0, int)
    for k, boxes in sorted(slices, key=lambda entry: entry[0]):
        own = np.full(len(boxes), -1)
        for one, other in _linked(before, boxes, iou_threshold):
            own[other] = theirs[one]
        new = own < 0
        own[new] = count + np.arange(new.sum())
        count += int(new.sum())
        numbers[k], before, theirs = own, boxes, own
    return numbers


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A lesion on one slice; `votes[code]` is the sum of the scores of its boxes with that label."""

    k: int
    box: np.ndarray
    score: float
    votes: np.ndarray


_Chain = list[_Sighting]  # a lesion on consecutive slices


def _lesions_of_slice(
    k: int, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou_threshold: float
) -> list[_Chain]:
    """Lesions of one slice: each box joins the best-scored one that it overlaps, whatever its label, or opens one."""
    boxes, scores, labels = by_falling_score(boxes, scores, labels)
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
    before, after = np.stack([chain[-1].box for chain in growing]), np.stack([chain[0].box for chain in found])
    ended = dict(enumerate(growing))
    for one, other in _linked(before, after, iou_threshold):
        found[other][:0] = ended.pop(one)
    return list(ended.values())


def _linked(boxes: np.ndarray, following: np.ndarray, iou_threshold: float) -> list[tuple[int, int]]:
    """Places of the boxes (n, 4) of one slice and of those (m, 4) of the next that are one lesion, pair by pair.

    In falling order of IoU; each box is in one pair at most.
    """
    overlaps = pairwise_iou(boxes, following)
    before, after = np.nonzero(overlaps > iou_threshold)
    order = np.argsort(-overlaps[before, after], kind="stable")
    pairs, taken, continued = [], set(), set()
    for one, other in zip(before[order].tolist(), after[order].tolist()):
        if one not in taken and other not in continued:
            pairs.append((one, other))
            taken.add(one)
            continued.add(other)
    return pairs


def _candidate(chain: _Chain) -> Candidate:
    best = max(sighting.score for sighting in chain)
    sure = [sighting.k for sighting in chain if sighting.score >= SPAN_SCORE * best]
    first, last = min(sure), max(sure)
    chain = [sighting for sighting in chain if first <= sighting.k <= last]
    key = max((sighting for sighting in chain if sighting.score >= KEY_SLICE_SCORE * best), key=_diagonal)
    votes = sum(sighting.votes for sighting in chain)
    boxes = {sighting.k: tuple(sighting.box.tolist()) for sighting in chain}
    return Candidate(
        key.k, (first, last), boxes[key.k], key.score, BodyPart(int(np.argmax(votes[1:])) + 1), MappingProxyType(boxes)
    )


def _diagonal(sighting: _Sighting) -> float:
    return float(np.hypot(*(sighting.box[2:] - sighting.box[:2])))
