"""Measure a detector: sensitivity per label at a rate of false positives per image.

`slices` and `ct` run a trained detector; `froc` reads the detections of any detector from a csv; `volumes` does either
for 3-D boxes, whatever their label, at a rate per sub-volume. A lesion counts as
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
from train.measuring.volumes_csv import Counting, volumes_of_csv
from train.measuring.volumes_folder import volumes_of_folder

if TYPE_CHECKING:
    from LesionDetectorLib.detect import Detector

EXAMPLES = """
examples:
  python -m train.evaluate slices runs/phantoms --split test
  python -m train.evaluate slices runs/real --split test --weights runs/vfnet/best.safetensors --out runs/vfnet/test
  python -m train.evaluate froc --detections test/detections.csv --ground-truth test/ground_truth.csv --iou 0.3
  python -m train.evaluate ct ircad17/PATIENT_DICOM --boxes boxes_derived.csv
  python -m train.evaluate volumes DeepLesion --weights runs/vfnet/best.safetensors --out runs/vfnet/volumes
"""
FROC_EXAMPLES = """
Both csv have the columns image, x1, y1, x2, y2 (one box a row; image is a number or a name), the detections also score.
Optional: label in both (body-part codes 1..8, -1 unknown), for figures by label; patient in the ground truth, for
--bootstrap. May be gzipped.

example:
  python -m train.evaluate froc --detections D.csv --ground-truth G.csv --iou 0.5 --fps 0.5 1 2 4 8 16 --count-pixels
"""
VOLUMES_EXAMPLES = """
Volumetric FROC of the MELD paper (Yan et al., 2020): boxes of consecutive slices with IoU > 0.5 are one 3-D box, which
is right if any of its cross-sections has IoU > 0.5 with a lesion. Printed is the sensitivity at 1/8 to 8 false 3-D
boxes per sub-volume.

Of two csv, plain or gzipped:
  D.csv  subvolume, slice, x1, y1, x2, y2, score
  G.csv  subvolume, x1, y1, x2, y2 and slice, or z1, z2 (first and last slice); optional label (-1: ignored), patient,
         split (G then names all sub-volumes that count)
  S.csv  subvolume and, optional, patient, split: the sub-volumes that count; else all that D or G names
Of a FOLDER in DeepLesion's layout: the detector looks at every slice of the Slice_range of the key slices. The truth
are the marks on the key slices, and, beside them, the lesions of G.csv where it is given.

examples:
  python -m train.evaluate volumes --detections D.csv --ground-truth G.csv --bootstrap 1000
  python -m train.evaluate volumes DeepLesion --weights best.safetensors --subvolumes boxes3d.csv \\
      --ground-truth boxes3d.csv --out runs/volumes
"""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        print({"slices": _slices, "ct": _ct, "froc": _froc, "volumes": _volumes}[options.kind](options))
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
    _add_volumes(kinds)
    return parser


def _add_volumes(kinds: argparse._SubParsersAction) -> None:
    parser = kinds.add_parser(
        "volumes",
        help="3-D boxes, at false ones per sub-volume: of a detector, or any detector's from a csv",
        epilog=VOLUMES_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, nargs="?", help="data set in DeepLesion's layout, to run a detector on")
    parser.add_argument("--weights", type=Path, help="weights file, with FOLDER (the ones that ship)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--out", type=Path, help="with FOLDER: folder for report.json and the boxes as csv")
    parser.add_argument("--detections", type=Path, metavar="D.csv", help="boxes of any detector, in place of FOLDER")
    parser.add_argument("--ground-truth", type=Path, metavar="G.csv", help="lesions, on one slice or on several")
    parser.add_argument("--subvolumes", type=Path, metavar="S.csv", help="the sub-volumes that count")
    parser.add_argument(
        "--split", choices=("train", "val", "test"), help="of FOLDER (test), and of a csv that has the column split"
    )
    parser.add_argument("--iou", type=_iou, default=0.5, help="IoU above which a box is a hit (%(default)s)")
    parser.add_argument(
        "--linking-iou", type=_iou, default=0.5, help="IoU above which boxes of consecutive slices link (%(default)s)"
    )
    parser.add_argument(
        "--every", type=_above_0, default=1, metavar="N", help="D.csv is of every N-th slice only (%(default)s)"
    )
    parser.add_argument(
        "--bootstrap", type=_count, default=0, metavar="REPLICATES", help="add 95 %% intervals over patients"
    )
    parser.add_argument("--seed", type=_count, default=0, help="of the bootstrap (%(default)s)")


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


def _above_0(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0; give 1 or more")
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


def _volumes(options: argparse.Namespace) -> str:
    counting = Counting(options.iou, options.linking_iou, options.every, options.bootstrap, options.seed)
    if options.folder is None:
        if options.detections is None or options.ground_truth is None:
            raise DeepLesionError("Give a FOLDER to run a detector on, or both --detections and --ground-truth.")
        if options.weights or options.out:
            raise DeepLesionError("--weights and --out go with a FOLDER to run a detector on; leave them out.")
        files = options.detections, options.ground_truth, options.subvolumes
        return json.dumps(volumes_of_csv(*files, options.split, counting), indent=2)
    if options.detections or options.every != 1:
        raise DeepLesionError(
            "--detections and --every go without a FOLDER, all slices of which are looked at; leave one out."
        )
    if options.out and options.out.exists() and not options.out.is_dir():
        raise DeepLesionError(f"{options.out} is a file; name a folder with --out.")
    files = options.ground_truth, options.subvolumes, options.out
    detector = _detector(options)
    return json.dumps(volumes_of_folder(detector, options.folder, options.split or "test", counting, *files), indent=2)


def _detector(options: argparse.Namespace) -> Detector:
    # brings torch, which takes seconds and `froc` needs not
    from LesionDetectorLib.detect import (
        DEFAULT_WEIGHTS,
        Detector,
    )

    return Detector.load(options.weights or DEFAULT_WEIGHTS, options.device)


if __name__ == "__main__":
    sys.exit(main())
