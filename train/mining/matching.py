"""Missing annotation matching: a proposal that is like a marked lesion of the same patient is a lesion.

Yan et al. (MELD), 2020, section 3.2. Left open there, and chosen here: proposals score 0.1 or more, at most 20 a slice;
one that overlaps a mark on its own slice, IoU above 0.5, is the mark; of the proposals on a slice that are nearest to
the same mark, the nearest stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from LesionDetectorLib.boxes import pairwise_iou

from train.data.deeplesion import MARKED, KeySlice
from train.mining.embedding import Embedding, embed
from train.mining.proposals import Proposals, marked_boxes
from train.mining.truth import Truth

LOWEST_SCORE = 0.1
MOST = 20
PRECISION = 0.9
_OWN_IOU = 0.5


class Marks(NamedTuple):
    """Marked lesions: patients (m,), labels (m,), points (m, size), and the slice (m,) and box (m, 4) of each."""

    patients: np.ndarray
    labels: np.ndarray
    points: np.ndarray
    slices: list[KeySlice]
    boxes: np.ndarray


class Matches(NamedTuple):
    """Proposals of a slice and the mark nearest to each: boxes (n, 4), labels (n,) of the marks, distances (n,), and
    the places (n,) of the marks."""

    boxes: np.ndarray
    labels: np.ndarray
    distances: np.ndarray
    marks: np.ndarray

    def nearer_than(self, theta: float) -> Matches:
        near = self.distances < theta
        return Matches(*(part[near] for part in self))


def marks_of(model: Embedding, key_slices: Sequence[KeySlice], cache: Path | None = None) -> Marks:
    """The marked lesions of some slices, embedded."""
    boxes = [marked_boxes(entry) for entry in key_slices]
    points = embed(model, key_slices, boxes, cache)
    owners = [entry for entry, here in zip(key_slices, boxes) for _ in here]
    labels = [entry.labels[entry.of(MARKED)] for entry in key_slices]
    return Marks(
        np.array([entry.patient for entry in owners], int),
        np.concatenate([*labels, np.zeros(0, int)]).astype(int),
        np.concatenate([*points, np.zeros((0, model.architecture["size"]), np.float32)]),
        owners,
        np.concatenate([*boxes, np.zeros((0, 4))]),
    )


def match(
    model: Embedding,
    slices: Sequence[KeySlice],
    proposals: Sequence[Proposals],
    marks: Marks,
    cache: Path | None = None,
) -> list[Matches]:
    """Of each slice the proposals that are no marks, and the nearest mark of the patient, however far it is."""
    free = [_not_marked(entry, found) for entry, found in zip(slices, proposals)]
    points = embed(model, slices, free, cache)
    return [_nearest(entry, boxes, here, marks) for entry, boxes, here in zip(slices, free, points)]


def _not_marked(key_slice: KeySlice, found: Proposals) -> np.ndarray:
    is_mark = (pairwise_iou(found.boxes, marked_boxes(key_slice)) > _OWN_IOU).any(axis=1)
    return found.boxes[~is_mark]


def _nearest(key_slice: KeySlice, boxes: np.ndarray, points: np.ndarray, marks: Marks) -> Matches:
    own = np.flatnonzero(marks.patients == key_slice.patient)
    if not len(own) or not len(boxes):
        return Matches(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), np.zeros(0, int))
    distances = np.linalg.norm(points[:, None] - marks.points[own], axis=2)
    nearest, distance = own[distances.argmin(axis=1)], distances.min(axis=1)
    order = np.argsort(distance, kind="stable")
    _, first = np.unique(nearest[order], return_index=True)
    kept = order[np.sort(first)]
    return Matches(boxes[kept], marks.labels[nearest[kept]], distance[kept], nearest[kept])


# ------ the threshold


def judged(slices: Sequence[KeySlice], found: Sequence[Matches], marks: Marks, truth: Truth) -> pd.DataFrame:
    """Of every match its distance, whether it is a lesion, and whether it is the lesion of its mark; nearest first."""
    marked = [truth.lesions(entry.name, box[None])[0] for entry, box in zip(marks.slices, marks.boxes)]
    parts = []
    for entry, matches in zip(slices, found):
        lesion = truth.lesions(entry.name, matches.boxes)
        same = (lesion > 0) & (lesion == np.array(marked, int)[matches.marks])
        parts.append(pd.DataFrame({"distance": matches.distances, "lesion": lesion > 0, "same": same}))
    empty = pd.DataFrame({"distance": np.zeros(0), "lesion": np.zeros(0, bool), "same": np.zeros(0, bool)})
    return pd.concat([empty, *parts]).astype({"lesion": bool, "same": bool}).sort_values("distance", ignore_index=True)


def curve(judgements: pd.DataFrame) -> pd.DataFrame:
    """By theta, the distance of each match: how many are nearer or as near, and what share of them are lesions, and are
    the same lesion."""
    kept = np.arange(1, len(judgements) + 1)
    return pd.DataFrame(
        {
            "theta": judgements["distance"],
            "kept": kept,
            "lesions": judgements["lesion"].cumsum() / kept,
            "same_lesion": judgements["same"].cumsum() / kept,
        }
    )


def calibrated(judgements: pd.DataFrame, precision: float = PRECISION) -> float:
    """The largest theta at which `precision` of the matches are lesions, the paper's own check; 0 where none is."""
    by_theta = curve(judgements)
    good = by_theta[by_theta["lesions"] >= precision]
    return float(np.nextafter(good["theta"].iloc[-1], np.inf)) if len(good) else 0.0
