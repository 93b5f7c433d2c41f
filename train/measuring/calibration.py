"""How often a detector is right when it says how sure it is, and the line that makes its scores say so.

Platt scaling, a line through the log odds of the scores of each label. Labels of which little is known lean on the line
of all labels together, as a Gaussian prior on the difference has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from LesionDetectorLib.boxes import pairwise_iou
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.stack import stack
from scipy.optimize import minimize
from scipy.special import expit, logit

from train.data.deeplesion import UNKNOWN

if TYPE_CHECKING:
    from LesionDetectorLib.detect import SliceBoxes

RIGHT_IOU = 0.3
IDENTITY = np.array([1.0, 0.0])
AROUND_IDENTITY = np.array([2.0, 4.0])
"""Standard deviations of slope and offset of the common line round those that change nothing, which few marks move."""
AROUND_COMMON = np.array([0.15, 0.35])
"""Those of a label's slope and offset round the common line; twice as much did worse on other patients."""
LEAST_SLOPE = 0.05
HEAVIEST = 3.0
EDGES = (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1)
SHOWN = 0.2
"""From this confidence on a mark can be in a list of findings."""
FOLDS = 5


class Line(NamedTuple):
    """How the log odds of one label's scores are moved."""

    slope: float
    offset: float


class Looked(NamedTuple):
    """A slice that a detector has looked at.

    found: its boxes, with the network's own scores; boxes (m, 4) and labels (m,): the lesions that are marked on it, -1
    where the label is unknown; complete: body-part codes of which every lesion is marked; patient, source: whose and
    where from.
    """

    found: SliceBoxes
    boxes: np.ndarray
    labels: np.ndarray
    complete: frozenset[int]
    patient: str
    source: str


@dataclass(frozen=True)
class Marks:
    """What a list would show of some slices, and is either right or wrong: scores, labels (body-part codes), right
    (bool) and weights, each (n,)."""

    scores: np.ndarray
    labels: np.ndarray
    right: np.ndarray
    weights: np.ndarray


def marks(slices: Sequence[Looked], shares: Mapping[str, float]) -> Marks:
    """The marks of some slices, boxes of a slice made one as a list of findings does.

    A mark is right where it overlaps a lesion of its label (IoU >= 0.3). Of a label that is not marked completely, and
    on a lesion of unknown label, it is neither right nor wrong and left out. The marks of a source weigh its share
    together, all sources as much as there are marks; but no mark more than `HEAVIEST`, for a few prove little.
    """
    rows = [(*mark, entry.source) for entry in slices for mark in _marks_of(entry)]
    scores, labels, right, sources = (np.array(column) for column in zip(*rows)) if rows else [np.zeros(0)] * 4
    names, which, counts = np.unique(sources, return_inverse=True, return_counts=True)
    share = np.array([shares[str(name)] for name in names])
    weights = np.minimum(share / counts * len(rows) / share.sum(), HEAVIEST)[which] if rows else np.zeros(0)
    return Marks(scores.astype(float), labels.astype(int), right.astype(bool), weights)


def _marks_of(entry: Looked) -> list[tuple[float, int, bool]]:
    found = []
    for mark in stack([entry.found]):
        over = pairwise_iou(np.array([mark.box]), np.reshape(entry.boxes, (-1, 4)))[0] >= RIGHT_IOU
        if mark.body_part in entry.complete and not (entry.labels[over] == UNKNOWN).any():
            found.append((mark.confidence, int(mark.body_part), bool((entry.labels[over] == mark.body_part).any())))
    return found


def fit(seen: Marks) -> dict[BodyPart, Line]:
    """The line of every label: that of its own marks drawn to the common one, which a label without marks has.

    Lines rise, so that of one label the surer of two boxes stays the surer.
    """
    common = _most_likely(seen, np.ones(len(seen.scores), bool), IDENTITY, AROUND_IDENTITY)
    lines = {part: _most_likely(seen, seen.labels == part, common, AROUND_COMMON) for part in BodyPart}
    return {part: Line(*map(float, line)) for part, line in lines.items()}


def _most_likely(seen: Marks, among: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Slope and offset with the highest posterior, given the marks `among` and a Gaussian prior."""
    odds, right, weights = _log_odds(seen.scores[among]), seen.right[among], seen.weights[among]

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        moved = line[0] * odds + line[1]
        away = (line - mean) / deviation
        error = weights * (expit(moved) - right)
        return (
            float((weights * (np.logaddexp(0, moved) - right * moved)).sum() + 0.5 * (away**2).sum()),
            np.array([(error * odds).sum(), error.sum()]) + away / deviation,
        )

    return minimize(loss, mean, jac=True, method="L-BFGS-B", bounds=[(LEAST_SLOPE, None), (None, None)]).x


def _log_odds(scores: np.ndarray) -> np.ndarray:
    return logit(np.clip(scores, 1e-6, 1 - 1e-6))


def moved(slices: Sequence[Looked], lines: Mapping[BodyPart, Line]) -> list[Looked]:
    """The slices with the scores that a detector with this calibration gives."""
    from LesionDetectorLib.detect import calibrated

    table = np.array([IDENTITY] + [lines[part] for part in BodyPart])
    return [
        entry._replace(found=entry.found._replace(scores=calibrated(entry.found.scores, *table[entry.found.labels].T)))
        for entry in slices
    ]


def moved_by_others(slices: Sequence[Looked], shares: Mapping[str, float]) -> list[Looked]:
    """The slices of each patient with the scores that a calibration fitted on other patients gives: five groups, each
    with patients of every source. The order of the slices is kept."""
    first_source = {entry.patient: entry.source for entry in reversed(slices)}
    patients = np.random.default_rng(0).permutation(sorted(first_source))
    ordered = sorted(patients.tolist(), key=first_source.__getitem__)
    group = {patient: place % FOLDS for place, patient in enumerate(ordered)}
    done: dict[int, Looked] = {}
    for number in range(FOLDS):
        lines = fit(marks([entry for entry in slices if group[entry.patient] != number], shares))
        own = [place for place, entry in enumerate(slices) if group[entry.patient] == number]
        done.update(zip(own, moved([slices[place] for place in own], lines)))
    return [done[place] for place in range(len(slices))]


@dataclass(frozen=True)
class Reliability:
    """In each bin of `EDGES`: how many marks, their mean confidence, and the share of them that is right, NaN where
    there are none; and what all marks of it weigh together."""

    count: np.ndarray
    confidence: np.ndarray
    right: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, seen: Marks) -> Reliability:
        place = np.clip(np.digitize(seen.scores, EDGES) - 1, 0, len(EDGES) - 2)
        count, weight, confidence, right = (
            np.bincount(place, values, len(EDGES) - 1)
            for values in (None, seen.weights, seen.weights * seen.scores, seen.weights * seen.right)
        )
        with np.errstate(invalid="ignore"):
            return cls(count, confidence / weight, right / weight, weight)

    def error(self, lowest: float = 0.0) -> float:
        """The expected calibration error of the marks from a confidence on: how far confidence and share of right
        ones lie apart in the mean. NaN without marks."""
        own = (self.count > 0) & (np.array(EDGES[:-1]) >= lowest)
        apart = np.abs(self.confidence - self.right)[own]
        return float(np.average(apart, weights=self.weight[own])) if own.any() else float("nan")
