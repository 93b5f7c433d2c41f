"""FROC of the detections in one csv on the lesions in another, whichever detector they are of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from train.data.deeplesion import DeepLesionError
from train.measuring import boxes_csv
from train.measuring.bootstrap import Bootstrap
from train.measuring.froc import SECOND_HIT, Froc, froc
from train.measuring.statement import ALL_LABELS, HOW_COUNTED, OWN_LABEL, label_groups, of_that_label, plain, stated


def froc_of_csv(
    detections_csv: Path,
    truth_csv: Path,
    iou: float,
    rates: Sequence[float],
    count_pixels: bool = False,
    images: int | None = None,
    replicates: int = 0,
    seed: int = 0,
) -> dict:
    """Sensitivity at each of `rates` (false positives per image), whatever the label and, where both files have
    labels, by label.

    `images` says how many images there are where some have neither a detection nor a lesion; `replicates` > 0 adds 95 %
    intervals by bootstrap over the ground truth's column patient. Raises DeepLesionError for a csv that cannot be used.
    """
    found, lesions = boxes_csv.read_detections(detections_csv), boxes_csv.read_truth(truth_csv)
    names = pd.Index(pd.unique(pd.concat([lesions["image"], found["image"]])))
    images = _count(images, names, detections_csv, truth_csv)
    patients = boxes_csv.patients(truth_csv, lesions, names, images) if replicates else np.arange(images)
    bootstrap = Bootstrap(patients, replicates, seed)

    def matched(labels: bool) -> Froc:
        detections, truth = (boxes_csv.to_boxes(table, names, labels) for table in (found, lesions))
        return froc(detections, truth, images, iou, same_label=labels, count_pixels=count_pixels)

    anywhere = matched(labels=False)
    result = {
        "images": images,
        "lesions": len(anywhere.lesion),
        "ignored_lesions": len(lesions) - len(anywhere.lesion),
        "detections": len(found),
        "iou": iou,
        "width_of_a_box": "x2 - x1 + 1" if count_pixels else "x2 - x1",
        "second_hit_on_a_found_lesion": SECOND_HIT,
        "false_positives_per_image_of_all_detections": len(anywhere.false) / images,
        "score_threshold": {f"{rate:g}": anywhere.threshold(rate) for rate in rates},
        **_all(anywhere, bootstrap, rates),
    }
    if "label" in found and "label" in lesions:
        result["with_the_right_label"] = _right_label(matched(labels=True), bootstrap, rates)
    return plain(result)


def _count(images: int | None, names: pd.Index, detections_csv: Path, truth_csv: Path) -> int:
    if not images and not len(names):
        raise DeepLesionError(f"{detections_csv} and {truth_csv} name no image; say with --images how many there are.")
    if images is not None and images < len(names):
        raise DeepLesionError(f"--images {images} is too few: {detections_csv} and {truth_csv} name {len(names)}.")
    return images or len(names)


def _all(result: Froc, bootstrap: Bootstrap, rates: Sequence[float]) -> dict:
    entries = stated(result, bootstrap, rates, {"all": np.ones(len(result.found), bool)}).get("all")
    return (
        _at_rates(entries, rates) if entries else {"sensitivity": dict.fromkeys((f"{rate:g}" for rate in rates), None)}
    )


def _right_label(result: Froc, bootstrap: Bootstrap, rates: Sequence[float]) -> dict:
    headline = stated(result, bootstrap, rates, label_groups(result), mean=True)
    own = of_that_label(result, bootstrap, rates)
    by_label = {
        name: {
            "lesions": headline[name][0]["lesions"],
            ALL_LABELS: _at_rates(headline[name], rates),
            OWN_LABEL: _at_rates(own[name], rates),
        }
        for name in headline
    }
    counted = {name: HOW_COUNTED[name] for name in (ALL_LABELS, OWN_LABEL)}
    return {**_all(result, bootstrap, rates), "how_counted": counted, "by_label": by_label}


def _at_rates(entries: list[dict], rates: Sequence[float]) -> dict:
    """One entry of `stated` a rate -> the sensitivities and, where there are such, the intervals by rate."""
    columns = {
        name: {f"{rate:g}": entry[name] for rate, entry in zip(rates, entries)}
        for name in ("sensitivity", "interval_95")
    }
    return columns if any(columns["interval_95"].values()) else {"sensitivity": columns["sensitivity"]}
