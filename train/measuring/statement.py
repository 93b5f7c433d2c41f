"""All that one evaluation states, as a dictionary for JSON.

Sensitivity is stated at one score threshold, at which the false positives of all labels together reach the rate (the
headline), and at a threshold for each label, at which the false positives of that label alone reach it; the
class-imbalance paper does not say which it means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from LesionDetectorLib.lesion import BodyPart
from tqdm import tqdm

from train.data.deeplesion import KeySlice
from train.measuring import average_precision
from train.measuring.bootstrap import Bootstrap, interval
from train.measuring.boxes import Boxes
from train.measuring.froc import SECOND_HIT, Froc, confusion, froc

if TYPE_CHECKING:
    from LesionDetectorLib.detect import SliceBoxes

RATES = (0.5, 1, 2, 4, 8, 16)
IOUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PRECISION_IOUS = (0.3, 0.5)
SIZES_MM = (10, 15, 20, 30, 50)
LARGE_SAD_MM = 10
ALL_LABELS = "false_positives_of_all_labels"
OWN_LABEL = "false_positives_of_that_label"
HOW_COUNTED = {
    "false_positives_of_all_labels": (
        "headline: one score threshold, at which the false positives of all labels together reach the rate"
    ),
    "false_positives_of_that_label": (
        "a threshold for each label, at which the false positives of that label alone reach the rate"
    ),
    "second_hit_on_a_found_lesion": SECOND_HIT,
    "wrong_label": "a false positive, except in the figures whatever the label, where only the place counts",
    "ignored_lesions": "of unknown label: neither found nor missed, and a detection on one counts as nothing",
    "interval_95": (
        "percentiles of a bootstrap over patients; none where the lesions are of one patient, or all replicates agree"
    ),
}


@dataclass(frozen=True)
class Evaluation:
    """Detections and ground truth of many images.

    names, patients: one an image; diameters_mm: (lesions, 2) long and short axis of every lesion of the truth.
    """

    names: list[str]
    patients: np.ndarray
    detections: Boxes
    truth: Boxes
    diameters_mm: np.ndarray

    @classmethod
    def of(cls, key_slices: Sequence[KeySlice], found: Sequence[SliceBoxes]) -> Evaluation:
        """What was `found` on the key slices."""
        return cls(
            [key_slice.name for key_slice in key_slices],
            np.array([key_slice.patient for key_slice in key_slices], int),
            Boxes.of([(entry.boxes, entry.labels, entry.scores) for entry in found]),
            Boxes.of([(key_slice.boxes, key_slice.labels) for key_slice in key_slices]),
            np.concatenate([np.zeros((0, 2)), *(key_slice.diameters_mm for key_slice in key_slices)]),
        )

    def froc(self, iou: float, same_label: bool = True) -> Froc:
        """Detections matched with the truth."""
        return froc(self.detections, self.truth, len(self.names), iou, same_label)


def label_sensitivities(result: Froc, rate: float = 4.0) -> dict[str, float]:
    """Sensitivity of each label, by title, at `rate` false positives per image, and their "mean".

    Labels without lesions are left out.
    """
    per_label = {
        part.title: result.sensitivity(rate, result.labels == part)
        for part in BodyPart
        if (result.labels == part).any()
    }
    return {**per_label, "mean": float(np.mean(list(per_label.values()))) if per_label else float("nan")}


def report(evaluation: Evaluation, rate: float = 4.0, iou: float = 0.3, replicates: int = 1000, seed: int = 0) -> dict:
    """Sensitivities with intervals by label, rate, size and IoU, average precision, the confusion matrix.

    How each is counted.
    """
    labelled, anywhere = evaluation.froc(iou), evaluation.froc(iou, same_label=False)
    bootstrap = Bootstrap(evaluation.patients, replicates, seed)
    return plain(
        {
            "images": len(evaluation.names),
            "patients": len(np.unique(evaluation.patients)),
            "lesions": len(labelled.lesion),
            "ignored_lesions": len(evaluation.truth) - len(labelled.lesion),
            "detections": len(evaluation.detections),
            "iou": iou,
            "false_positives_per_image": rate,
            "score_threshold": labelled.threshold(rate),
            "false_positives_per_image_of_all_detections": len(labelled.false) / max(len(evaluation.names), 1),
            "bootstrap": {"replicates": replicates, "seed": seed},
            "how_counted": HOW_COUNTED,
            "by_label": _by_label(labelled, anywhere, evaluation, bootstrap, rate),
            "by_rate": _by_rate(labelled, anywhere, bootstrap),
            "by_size_mm": _by_size(labelled, anywhere, evaluation, bootstrap, rate),
            "by_iou": _by_iou(evaluation, rate),
            "average_precision": {
                "how_counted": average_precision.HOW,
                **{
                    f"{limit:g}": average_precision.average_precision(
                        evaluation.detections, evaluation.truth, len(evaluation.names), limit
                    )
                    for limit in PRECISION_IOUS
                },
            },
            "confusion": {
                "score_threshold": anywhere.threshold(rate),
                "columns": [*(part.title for part in BodyPart), "missed"],
                "rows": dict(zip((part.title for part in BodyPart), matrix(evaluation, rate, iou).tolist())),
            },
        }
    )


def matrix(evaluation: Evaluation, rate: float, iou: float) -> np.ndarray:
    """The confusion matrix (8, 9) of `froc.confusion` at `rate` false positives per image whatever the label."""
    threshold = evaluation.froc(iou, same_label=False).threshold(rate)
    return confusion(evaluation.detections, evaluation.truth, threshold, iou)


def stated(
    result: Froc, bootstrap: Bootstrap, rates: Sequence[float], groups: dict[str, np.ndarray], mean: bool = False
) -> dict[str, list]:
    """For each group, a mask over the lesions: its lesions, sensitivity and interval at each rate.

    Groups without lesions are left out.

    `mean` adds the mean over the groups.
    """
    groups = {name: among for name, among in groups.items() if among.any()}
    if not groups:
        return {}
    masks = np.stack(list(groups.values()))
    values = np.array([[result.sensitivity(rate, among) for among in masks] for rate in rates])
    samples = bootstrap.sensitivities(result, list(rates), masks)
    owners = bootstrap.patients[result.truth.image[result.lesion]]
    return _entries(list(groups), values, samples, [owners[among] for among in masks], mean)


def of_that_label(result: Froc, bootstrap: Bootstrap, rates: Sequence[float]) -> dict[str, list]:
    """As `stated`, for each label, with the false positives of that label only, and the mean over the labels."""
    parts = []
    for part in tqdm(
        [part for part in BodyPart if (result.labels == part).any()],
        desc="bootstrap by label",
        unit="label",
        leave=False,
    ):
        own = result.of_label(part)
        values = np.array([[own.sensitivity(rate)] for rate in rates])
        samples = bootstrap.sensitivities(own, list(rates), np.ones((1, len(own.found)), bool))
        parts.append((part.title, values, samples, bootstrap.patients[own.truth.image[own.lesion]]))
    if not parts:
        return {}
    names, values, samples, owners = zip(*parts)
    return _entries(
        list(names), np.concatenate(values, axis=1), np.concatenate(samples, axis=2), list(owners), mean=True
    )


def _entries(
    names: list[str], values: np.ndarray, samples: np.ndarray, owners: list[np.ndarray], mean: bool
) -> dict[str, list]:
    """values (rates, groups), samples (replicates, rates, groups), and whose the lesions of each group are -> {name:
    one entry a rate}."""
    if mean:
        names, owners = [*names, "mean"], [*owners, np.concatenate(owners)]
        values = np.column_stack([values, values.mean(1)])
        samples = np.concatenate([samples, _mean(samples)], axis=2)
    low, high = interval(samples)
    entries = {}
    for g, (name, whose) in enumerate(zip(names, owners)):
        several = len(np.unique(whose)) > 1
        bounds = [[low[r, g], high[r, g]] if several and low[r, g] < high[r, g] else None for r in range(len(values))]
        entries[name] = [
            {"lesions": len(whose), "sensitivity": values[r, g], "interval_95": bounds[r]} for r in range(len(values))
        ]
    return entries


def _mean(samples: np.ndarray) -> np.ndarray:
    """Mean over the groups that a replicate holds, the last axis kept; NaN where it holds none."""
    held = ~np.isnan(samples)
    total = np.where(held, samples, 0).sum(2, keepdims=True)
    return np.where(held.any(2, keepdims=True), total / np.maximum(held.sum(2, keepdims=True), 1), np.nan)


def label_groups(result: Froc, among: np.ndarray | bool = True) -> dict[str, np.ndarray]:
    """Masks over the lesions by the title of their label, restricted to `among`."""
    return {part.title: (result.labels == part) & among for part in BodyPart}


def _by_label(
    labelled: Froc, anywhere: Froc, evaluation: Evaluation, bootstrap: Bootstrap, rate: float
) -> dict[str, dict]:
    large = evaluation.diameters_mm[labelled.lesion, 1] >= LARGE_SAD_MM
    columns = {
        ALL_LABELS: stated(labelled, bootstrap, [rate], label_groups(labelled), mean=True),
        OWN_LABEL: of_that_label(labelled, bootstrap, [rate]),
        "sad_at_least_1_cm": stated(labelled, bootstrap, [rate], label_groups(labelled, large), mean=True),
        "sad_below_1_cm": stated(labelled, bootstrap, [rate], label_groups(labelled, ~large), mean=True),
        "whatever_the_label": stated(anywhere, bootstrap, [rate], label_groups(anywhere), mean=True),
    }
    names = columns[ALL_LABELS]
    return {
        name: {column: entries[name][0] for column, entries in columns.items() if name in entries} for name in names
    }


def _by_rate(labelled: Froc, anywhere: Froc, bootstrap: Bootstrap) -> dict[str, dict]:
    everything = {"all": np.ones(len(labelled.found), bool)}
    columns = {
        "with_the_right_label": stated(labelled, bootstrap, RATES, everything).get("all"),
        "mean_over_labels": stated(labelled, bootstrap, RATES, label_groups(labelled), mean=True).get("mean"),
        "whatever_the_label": stated(anywhere, bootstrap, RATES, everything).get("all"),
    }
    return {
        f"{rate:g}": {
            **{name: entries[r] for name, entries in columns.items() if entries},
            "by_label": label_sensitivities(labelled, rate),
        }
        for r, rate in enumerate(RATES)
    }


def _by_size(
    labelled: Froc, anywhere: Froc, evaluation: Evaluation, bootstrap: Bootstrap, rate: float
) -> dict[str, dict]:
    groups = size_groups(evaluation.diameters_mm[labelled.lesion])
    columns = {
        "with_the_right_label": stated(labelled, bootstrap, [rate], groups),
        "whatever_the_label": stated(anywhere, bootstrap, [rate], groups),
    }
    return {
        name: {column: entries[name][0] for column, entries in columns.items() if name in entries} for name in groups
    }


def size_groups(diameters_mm: np.ndarray) -> dict[str, np.ndarray]:
    """Masks over lesions by the mean of their two diameters (lesions, 2) in mm, with the bins of the DeepLesion
    paper."""
    place = np.searchsorted(SIZES_MM, diameters_mm.mean(1), side="right")
    names = [f"< {SIZES_MM[0]}", *(f"{low} to {high}" for low, high in pairwise(SIZES_MM)), f">= {SIZES_MM[-1]}"]
    return {name: place == bin_ for bin_, name in enumerate(names)}


def _by_iou(evaluation: Evaluation, rate: float) -> dict[str, dict]:
    answer = {}
    for iou in IOUS:
        labelled, anywhere = evaluation.froc(iou), evaluation.froc(iou, same_label=False)
        answer[f"{iou:g}"] = {
            "with_the_right_label": labelled.sensitivity(rate),
            "mean_over_labels": label_sensitivities(labelled, rate)["mean"],
            "whatever_the_label": anywhere.sensitivity(rate),
            "by_label": label_sensitivities(labelled, rate),
        }
    return answer


def plain(value):
    """The value with numbers rounded to 4 digits and those that JSON cannot hold as None, an interval of which as a
    whole."""
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        entries = [plain(entry) for entry in value]
        return None if entries and all(entry is None for entry in entries) else entries
    if isinstance(value, (float, np.floating)):
        return round(float(value), 4) if np.isfinite(value) else None
    return value
