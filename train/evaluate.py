"""Measure a detector: sensitivity per label at a rate of false positives per image.

`slices` and `ct` run a trained detector; `froc` reads the detections of any detector from a csv. A lesion counts as
found when a detection of *its label* overlaps it (IoU >= 0.3, the class-imbalance paper's limit), at the one score
threshold at which all false positives together, of all labels, reach the rate. A second hit on a found lesion counts as
nothing. Other readings are stated beside, by name.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from LesionDetectorLib.refusal import Refusal

from train.data import data_sets
from train.data.deeplesion import DeepLesionError
from train.measuring.detected import detect_key_slices, each_lesion, report_on_ct, summary
from train.measuring.froc_csv import froc_of_csv
from train.measuring.statement import Evaluation, plain, report

if TYPE_CHECKING:
    from LesionDetectorLib.detect import Detector

EXAMPLES = """
examples:
  python -m train.evaluate slices runs/phantoms --split test
  python -m train.evaluate slices runs/real --split test --weights runs/vfnet/best.safetensors --out runs/vfnet/test
  python -m train.evaluate froc --detections test/detections.csv --ground-truth test/ground_truth.csv --iou 0.3
  python -m train.evaluate ct ircad17/PATIENT_DICOM --boxes boxes_derived.csv
"""
FROC_EXAMPLES = """
Both csv have the columns image, x1, y1, x2, y2 (one box a row; image is a number or a name), the detections also score.
Optional: label in both (body-part codes 1..8, -1 unknown), for figures by label; patient in the ground truth, for
--bootstrap. May be gzipped.

example:
  python -m train.evaluate froc --detections D.csv --ground-truth G.csv --iou 0.5 --fps 0.5 1 2 4 8 16 --count-pixels
"""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        print({"slices": _slices, "ct": _ct, "froc": _froc}[options.kind](options))
    except (Refusal, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    plain_text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate", description=__doc__, epilog=EXAMPLES, formatter_class=plain_text
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--weights", type=Path, help="weights file (the ones that ship)")
    common.add_argument("--fps", type=_rate, default=4.0, help="false positives per image (%(default)s)")
    common.add_argument("--iou", type=_iou, default=0.3, help="IoU from which a box is a hit (%(default)s)")
    common.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    kinds = parser.add_subparsers(dest="kind", required=True)

    slices = kinds.add_parser(
        "slices", parents=[common], help="a detector on the key slices of a data set in DeepLesion's layout"
    )
    slices.add_argument(
        "folder", type=Path, help="folder with DL_info.csv and Images_png, or a csv of train.balance beside Images_png"
    )
    slices.add_argument("--split", default="test", choices=("train", "val", "test"))
    slices.add_argument("--each", action="store_true", help="list every lesion and whether it was found")
    slices.add_argument("--out", type=Path, help="folder for report.md, report.json, the boxes as csv, and pictures")
    slices.add_argument("--cache", type=Path, help="folder of prepared slices, which several runs may share")
    slices.add_argument(
        "--replicates", type=_count, default=1000, help="bootstrap replicates for the report's intervals (%(default)s)"
    )
    slices.add_argument("--seed", type=_count, default=0, help="of the bootstrap (%(default)s)")

    whole = kinds.add_parser("ct", parents=[common], help="a detector on every slice of one CT with a csv of boxes")
    whole.add_argument("ct", type=Path)
    whole.add_argument("--boxes", type=Path, required=True, help="csv: slice_file, tumor, class, x1, y1, x2, y2")

    table = kinds.add_parser(
        "froc", help="any detector's boxes from a csv", epilog=FROC_EXAMPLES, formatter_class=plain_text
    )
    table.add_argument(
        "--detections", type=Path, required=True, help="csv: image, x1, y1, x2, y2, score and, optional, label"
    )
    table.add_argument(
        "--ground-truth", type=Path, required=True, help="csv: image, x1, y1, x2, y2 and, optional, label, patient"
    )
    table.add_argument("--iou", type=_iou, default=0.5, help="IoU from which a box is a hit (%(default)s)")
    table.add_argument(
        "--fps", type=_rate, nargs="+", default=[0.5, 1, 2, 4, 8, 16], help="false positives per image (0.5 1 2 4 8 16)"
    )
    table.add_argument(
        "--count-pixels", action="store_true", help="widths are x2 - x1 + 1, as older published figures have it"
    )
    table.add_argument(
        "--images", type=_count, help="how many images there are, if some have no detection and no lesion"
    )
    table.add_argument(
        "--bootstrap",
        type=_count,
        default=0,
        metavar="REPLICATES",
        help="add 95 %% intervals over patients, such as 1000",
    )
    table.add_argument("--seed", type=_count, default=0, help="of the bootstrap (%(default)s)")
    return parser


def _iou(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not an IoU; give a number above 0 and up to 1")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a rate of false positives; give 0 or more")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0; give 0 or more")
    return value


def _slices(options: argparse.Namespace) -> str:
    if options.out and options.out.exists() and not options.out.is_dir():
        raise DeepLesionError(f"{options.out} is a file; name a folder with --out.")
    detector = _detector(options)
    key_slices = data_sets.read(options.folder, options.split)
    if not key_slices:
        raise DeepLesionError(
            f"{options.folder} holds no slice of the {options.split} split; choose another with --split."
        )
    found = detect_key_slices(detector, key_slices, cache=options.cache)
    if options.out:
        evaluation = Evaluation.of(key_slices, found)
        result = report(evaluation, options.fps, options.iou, options.replicates, options.seed)
    else:
        result = summary(key_slices, found, options.fps, options.iou)
    if options.each:
        result["each_lesion"] = each_lesion(key_slices, found, options.fps, options.iou)
    if not options.out:
        return json.dumps(plain(result), indent=2)
    name = options.weights.stem if options.weights else "The detector that ships"
    from train.measuring import files  # brings matplotlib

    title = f"{name} on {options.folder.resolve().name}, {options.split}"
    files.write(options.out, result, evaluation, key_slices, title)
    return f"Written to {options.out}: report.md, report.json, detections.csv, ground_truth.csv and pictures."


def _ct(options: argparse.Namespace) -> str:
    return json.dumps(
        plain(report_on_ct(options.ct, options.boxes, _detector(options), options.fps, options.iou)), indent=2
    )


def _froc(options: argparse.Namespace) -> str:
    files = options.detections, options.ground_truth
    rest = options.count_pixels, options.images, options.bootstrap, options.seed
    return json.dumps(froc_of_csv(*files, options.iou, options.fps, *rest), indent=2)


def _detector(options: argparse.Namespace) -> Detector:
    # brings torch, which takes seconds and `froc` needs not
    from LesionDetectorLib.detect import (
        DEFAULT_WEIGHTS,
        Detector,
    )

    return Detector.load(options.weights or DEFAULT_WEIGHTS, options.device)


if __name__ == "__main__":
    sys.exit(main())
