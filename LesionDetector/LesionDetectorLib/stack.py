"""From boxes on slices to lesions in 3-D: stacking over slices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from LesionDetectorLib.boxes import by_falling_score, kept, pairwise_iou
from LesionDetectorLib.lesion import BodyPart, Box
from LesionDetectorLib.measure.margins import DETECTOR_MARGIN_MM

STACKING_IOU = 0.5  # boxes on neighbouring slices that overlap more belong to one lesion (MELD)
# a lesion ends where the score stays below this share of its best: the tail is a vessel more often than a lesion
SPAN_SCORE = 0.5
KEY_SLICE_SCORE = 0.8  # the key slice is chosen among the slices that score at least this share of the best
SEEN_OVER_MM = 5.0  # a lesion is seen on all slices over its own size, of which more than this need not be averaged
# along z a lesion is hardly ever longer than this many times the longer side of its box (0.3 % of 5,442 lesions of
# DeepLesion that are boxed in 3-D, none 3 times): a vessel, the spinal canal or a muscle is. Confidence falls with the
# square of what is beyond
LONGEST = 2.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A lesion in 3-D as the detector sees it, not measured yet.

    Attributes
    ----------
    key_slice: k of the slice to measure.
    slices: first and last k, both included.
    box: (x0, y0, x1, y1) on the key slice.
    confidence: 0..1, the score on the key slice, or, where mm are known, what `_certainty` makes of those round it.
    body_part: the score-weighted vote of all its boxes.
    votes: of each body part that its boxes were called, the sum of their scores.
    boxes: k -> box on every slice where it was seen.
    """

    key_slice: int
    slices: tuple[int, int]
    box: Box
    confidence: float
    body_part: BodyPart
    votes: Mapping[BodyPart, float]
    boxes: Mapping[int, Box]


def stack(
    slices: Iterable[tuple[int, np.ndarray, np.ndarray, np.ndarray]],
    iou_threshold: float = STACKING_IOU,
    lowest_confidence: float = 0.0,
    spacing: tuple[float, float, float] | None = None,
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
    spacing: (si, sj, sk) mm. With it the confidence is the mean over the slices that the lesion's size covers, up to 5
        mm, and falls for one that is longer than twice its box, as vessels are.

    Returns
    -------
    The lesions in falling order of confidence, boxes in the frame they came in.
    """
    finished: list[_Chain] = []
    growing: list[_Chain] = []
    ordered = sorted(slices, key=lambda entry: entry[0])
    for k, boxes, scores, labels in ordered:
        found = _lesions_of_slice(k, *kept((boxes, scores, labels), 0.0), iou_threshold)
        finished += _link(growing, found, iou_threshold)
        growing = found
    likely = [chain for chain in finished + growing if max(sighting.score for sighting in chain) >= lowest_confidence]
    ks = [entry[0] for entry in ordered]
    candidates = [_candidate(chain, ks, spacing) for chain in likely]
    candidates = [candidate for candidate in candidates if candidate.confidence >= lowest_confidence]
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


def _candidate(chain: _Chain, ks: Sequence[int], spacing: tuple[float, float, float] | None) -> Candidate:
    best = max(sighting.score for sighting in chain)
    sure = [sighting.k for sighting in chain if sighting.score >= SPAN_SCORE * best]
    first, last = min(sure), max(sure)
    span = [sighting for sighting in chain if first <= sighting.k <= last]
    key = max((sighting for sighting in span if sighting.score >= KEY_SLICE_SCORE * best), key=_diagonal)
    summed = sum(sighting.votes for sighting in span)
    votes = {part: float(summed[part]) for part in BodyPart if summed[part] > 0}
    boxes = {sighting.k: tuple(sighting.box.tolist()) for sighting in span}
    part = BodyPart(int(np.argmax(summed[1:])) + 1)
    confidence = _certainty(chain, span, key, ks, spacing) if spacing else key.score
    return Candidate(
        key.k, (first, last), boxes[key.k], confidence, part, MappingProxyType(votes), MappingProxyType(boxes)
    )


def _certainty(
    chain: _Chain, span: _Chain, key: _Sighting, ks: Sequence[int], spacing: tuple[float, float, float]
) -> float:
    """The score of a lesion in 3-D: of slices that lie round the key slice, the mean, where a slice without it counts
    0; and less for one that is too long.

    `chain` is all that was linked, `span` what of it is the lesion, `ks` the slices that were looked at.
    """
    step = float(np.median(np.diff(ks))) * spacing[2] if len(ks) > 1 else spacing[2]
    sides = np.array([sighting.box[2:] - sighting.box[:2] for sighting in span]) * spacing[:2]
    size = float(np.min((key.box[2:] - key.box[:2]) * spacing[:2])) - 2 * DETECTOR_MARGIN_MM
    count = min(max(round(min(size, SEEN_OVER_MM) / step), 1), len(ks))
    length = (span[-1].k - span[0].k) * spacing[2] + step
    across = float(np.median(sides, axis=0).max())
    return _best_mean(chain, key.k, ks, count) * min(1.0, LONGEST * across / length) ** 2


def _best_mean(chain: _Chain, key_slice: int, ks: Sequence[int], count: int) -> float:
    """The highest mean score of `count` neighbours among the slices `ks`, the key slice one of them."""
    scores, place = {sighting.k: sighting.score for sighting in chain}, ks.index(key_slice)
    first, last = max(place - count + 1, 0), min(place, len(ks) - count)
    return max(sum(scores.get(k, 0.0) for k in ks[start : start + count]) / count for start in range(first, last + 1))


def _diagonal(sighting: _Sighting) -> float:
    return float(np.hypot(*(sighting.box[2:] - sighting.box[:2])))
