"""Write the report of an evaluation on key slices: numbers, tables, the boxes themselves, and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from train.data.deeplesion import KeySlice, read_png
from train.measuring import boxes_csv, plots
from train.measuring.froc import Froc
from train.measuring.statement import Evaluation, matrix
from train.measuring.tables import markdown


def write(folder: Path, result: dict, evaluation: Evaluation, key_slices: Sequence[KeySlice], title: str) -> None:
    """Write into `folder`: report.json (`result`, of `report.report`), report.md, detections.csv, ground_truth.csv
    and the pictures.

    `key_slices` are those that were evaluated, in order. Raises OSError where the folder cannot be written,
    DeepLesionError for a slice that cannot be read.
    """
    rate, iou = result["false_positives_per_image"], result["iou"]
    labelled, anywhere = evaluation.froc(iou), evaluation.froc(iou, same_label=False)
    examples = slice_examples(labelled, rate, key_slices)
    folder.mkdir(parents=True, exist_ok=True)
    truth, diameters = evaluation.truth, evaluation.diameters_mm
    boxes_csv.write(folder / "detections.csv", evaluation.detections, evaluation.names)
    patients = evaluation.patients[truth.image]
    boxes_csv.write(
        folder / "ground_truth.csv",
        truth,
        evaluation.names,
        patient=patients,
        long_mm=diameters[:, 0],
        short_mm=diameters[:, 1],
    )
    plots.froc_curves({"with the right label": labelled, "whatever the label": anywhere}, folder / "froc.png")
    plots.label_froc_curves(labelled, folder / "froc_by_label.png")
    plots.confusion_matrix(matrix(evaluation, rate, iou), folder / "confusion.png")
    plots.key_slices(examples, folder / "key_slices.png")
    captions = {
        "froc.png": "FROC curves",
        "froc_by_label.png": "FROC curves of each label",
        "confusion.png": "Confusion matrix of the labels",
        "key_slices.png": "Key slices: of each label the first lesion that is found and the first that is missed",
    }
    (folder / "report.md").write_text(markdown(result, title, captions), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def slice_examples(result: Froc, rate: float, key_slices: Sequence[KeySlice]) -> list[plots.SliceExample]:
    """For each label the first slice with a lesion found at `rate` false positives per image, and the first with one
    that is missed."""
    threshold = result.threshold(rate)
    image, found = result.truth.image[result.lesion], result.found > threshold
    chosen: list[int] = []
    for label in np.unique(result.labels):
        for wanted in (True, False):
            fitting = [n for n in image[(result.labels == label) & (found == wanted)] if n not in chosen]
            chosen += fitting[:1]
    return [_example(result, threshold, n, key_slices[n]) for n in chosen]


def _example(result: Froc, threshold: float, number: int, key_slice: KeySlice) -> plots.SliceExample:
    detections = result.detections
    shown = np.flatnonzero((detections.image == number) & (detections.scores > threshold))
    return plots.SliceExample(
        key_slice.name.removesuffix(".png"),
        read_png(key_slice.path(key_slice.number)),
        key_slice.boxes,
        key_slice.labels,
        detections.boxes[shown],
        detections.labels[shown],
        detections.scores[shown],
        np.isin(shown, result.hits),
        np.isin(shown, result.false),
    )
