"""Measure a trained detector: sensitivity per label at a rate of false positives per image.

A lesion counts as found when a detection of *its label* overlaps it (IoU >= 0.3, the class-imbalance paper's limit), at the one score
threshold at which all false positives together, of all labels, reach the rate. A second hit on a found lesion counts as nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import torch
from LesionDetectorLib import ct
from LesionDetectorLib.detect import DEFAULT_WEIGHTS, Detector, SliceBoxes, detect
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.models.weights import WeightsError
from tqdm import tqdm

from train.deeplesion import UNKNOWN, DeepLesionError, KeySlice, read_info
from train.froc import Boxes, Froc, froc

EXAMPLES = """
examples:
  python -m train.evaluate slices runs/phantoms --split test
  python -m train.evaluate slices runs/real --split test --weights runs/vfnet/best.safetensors
  python -m train.evaluate ct ircad17/PATIENT_DICOM --boxes boxes_derived.csv
"""


def detect_key_slices(detector: Detector, key_slices: Sequence[KeySlice], quiet: bool = False) -> list[SliceBoxes]:
    """What the detector finds on each key slice, boxes in its 0-based pixels."""
    found = []
    for key_slice in tqdm(key_slices, desc="detecting", unit="slice", disable=quiet, leave=False):
        hu, k = key_slice.read(detector.wanted_slices)
        prepared = detector.slices(hu, key_slice.spacing)
        boxes, scores, labels = detector(prepared.sample(k)[None])[0]
        found.append(SliceBoxes(k, prepared.frame.to_index(boxes), scores, labels))
    return found


def match(key_slices: Sequence[KeySlice], found: Sequence[SliceBoxes], iou: float = 0.3, same_label: bool = True) -> Froc:
    """FROC of what was `found` on the key slices."""
    truth = Boxes.of([(key_slice.boxes, key_slice.labels) for key_slice in key_slices])
    detections = Boxes.of([(entry.boxes, entry.labels, entry.scores) for entry in found])
    return froc(detections, truth, len(key_slices), iou, same_label)


def label_sensitivities(result: Froc, rate: float = 4.0) -> dict[str, float]:
    """Sensitivity of each label, by title, at `rate` false positives an image, and their "mean"; labels without lesions are left out."""
    per_label = {part.title: result.sensitivity(rate, result.labels == part) for part in BodyPart if (result.labels == part).any()}
    return {**per_label, "mean": float(np.mean(list(per_label.values()))) if per_label else float("nan")}


def report(key_slices: Sequence[KeySlice], found: Sequence[SliceBoxes], rate: float, iou: float) -> dict:
    """All that a model card states about one set of slices."""
    labelled, anywhere = match(key_slices, found, iou), match(key_slices, found, iou, same_label=False)
    return {
        "slices": len(key_slices),
        "patients": len({key_slice.patient for key_slice in key_slices}),
        "lesions": {part.title: int((labelled.labels == part).sum()) for part in BodyPart if (labelled.labels == part).any()},
        "iou": iou,
        "false_positives_per_image": rate,
        "sensitivity_with_the_right_label": _rounded(label_sensitivities(labelled, rate)),
        "sensitivity_whatever_the_label": _rounded(label_sensitivities(anywhere, rate)),
        "sensitivity_at_rates_whatever_the_label": {f"{fps:g}": round(anywhere.sensitivity(fps), 4) for fps in (0.5, 1, 2, 4, 8)},
        "score_threshold": round(float(labelled.threshold(rate)), 4),
    }


def each_lesion(key_slices: Sequence[KeySlice], found: Sequence[SliceBoxes], rate: float, iou: float) -> list[dict]:
    """For every labelled lesion: its slice, label and box, and whether it is found at `rate` false positives an image."""
    result = match(key_slices, found, iou)
    threshold = result.threshold(rate)
    lesions = [(entry.name, label, box) for entry in key_slices for label, box in zip(entry.labels, entry.boxes) if label != UNKNOWN]
    return [
        {"slice": name, "label": BodyPart(label).title, "box": box.round(1).tolist(), "found": bool(score > threshold)}
        for (name, label, box), score in zip(lesions, result.found, strict=True)
    ]


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def report_on_ct(path: Path, boxes_csv: Path, detector: Detector, rate: float, iou: float) -> dict:
    """Which of the lesions drawn on the slices of one CT are found.

    `boxes_csv` has the columns slice_file, tumor, class, x1, y1, x2, y2 (0-based pixels). Every slice of the CT counts as an image.
    """
    volume = ct.read(path)
    table = pd.read_csv(boxes_csv)
    ks = table["slice_file"].map({name: _k_of(volume, path / name) for name in table["slice_file"].unique()})
    with tqdm(desc="detecting", unit="slice", leave=False) as bar:
        found = detect(volume, [detector], progress=lambda done, total: bar.update(done - bar.n))
    labels = np.array([BodyPart.from_title(name.replace("_", " ")) for name in table["class"]])
    truth = Boxes(ks.to_numpy(int), table[["x1", "y1", "x2", "y2"]].to_numpy(float), labels)
    result = froc(Boxes.of([(entry.boxes, entry.labels, entry.scores) for entry in found]), truth, len(found), iou)
    hit = result.found > result.threshold(rate)
    return {
        "slices": len(found),
        "false_positives_per_image": rate,
        "iou": iou,
        "boxes_found": {name: f"{hit[rows].sum()} of {len(rows)}" for name, rows in table.groupby("tumor").indices.items()},
        "score_threshold": round(float(result.threshold(rate)), 4),
    }


def _k_of(volume: ct.Volume, file: Path) -> int:
    try:
        uid = pydicom.dcmread(file, force=True, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID")
        return volume.dicom["sop_instance_uids"].index(uid)
    except (OSError, ValueError, KeyError) as error:
        raise DeepLesionError(f"{file}, which the boxes name, is no slice of the CT.") from error


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--weights", type=Path, help="weights file (the ones that ship)")
    common.add_argument("--fps", type=float, default=4.0, help="false positives per image (%(default)s)")
    common.add_argument("--iou", type=float, default=0.3, help="IoU from which a box is a hit (%(default)s)")
    common.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    kinds = parser.add_subparsers(dest="kind", required=True)
    slices = kinds.add_parser("slices", parents=[common], help="on the key slices of a data set in DeepLesion's layout")
    slices.add_argument("folder", type=Path, help="folder with DL_info.csv and Images_png, or a csv of train.balance beside Images_png")
    slices.add_argument("--split", default="test", choices=("train", "val", "test"))
    slices.add_argument("--each", action="store_true", help="list every lesion and whether it was found")
    whole = kinds.add_parser("ct", parents=[common], help="on every slice of one CT with a csv of boxes")
    whole.add_argument("ct", type=Path)
    whole.add_argument("--boxes", type=Path, required=True, help="csv: slice_file, tumor, class, x1, y1, x2, y2")
    options = parser.parse_args(arguments)
    try:
        print(json.dumps(_evaluate(options), indent=2))
    except (DeepLesionError, WeightsError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _evaluate(options: argparse.Namespace) -> dict:
    detector = Detector.load(options.weights or DEFAULT_WEIGHTS, options.device)
    if options.kind == "ct":
        return report_on_ct(options.ct, options.boxes, detector, options.fps, options.iou)
    key_slices = read_info(options.folder, options.split)
    if not key_slices:
        raise DeepLesionError(f"{options.folder} holds no slice of the {options.split} split; choose another with --split.")
    found = detect_key_slices(detector, key_slices)
    result = report(key_slices, found, options.fps, options.iou)
    if options.each:
        result["each_lesion"] = each_lesion(key_slices, found, options.fps, options.iou)
    return result


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
