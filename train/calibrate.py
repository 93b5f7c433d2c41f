"""Make a detector's confidence mean what it says: of marks at 50 %, about half are lesions of their label.

Fits, on real CT that no training saw, a line through the log odds of each label's scores (Platt scaling, drawn towards
one line of all labels where marks are few), writes weights with it in their card, and tells how far confidence and
share of right marks lie apart before and after (five groups of patients, each measured with what the others gave).
A mark is right where it overlaps a lesion of its label with an IoU of at least 0.3. On a slice of a folder with
`boxes.csv` only the labels count that are marked completely; of DeepLesion's layout, and of whole CTs, all do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from LesionDetectorLib import ct
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.models import weights
from LesionDetectorLib.refusal import Refusal

from train.data import data_sets
from train.data.deeplesion import DeepLesionError, KeySlice
from train.measuring import calibration, plots
from train.measuring.calibration import SHOWN, Line, Looked, Reliability
from train.measuring.detected import detect_ct, detect_key_slices, lesions_of_ct

if TYPE_CHECKING:
    from LesionDetectorLib.detect import Detector, SliceBoxes

EXAMPLES = """
examples:
  python -m train.calibrate --weights runs/vfnet/best.safetensors --data real/lits_jpg --data runs/real \\
      --ct healthy/chest --ct liver_17/PATIENT_DICOM=boxes.csv --out runs/vfnet/calibrated.safetensors
  python -m train.ship runs/vfnet/calibrated.safetensors --out weights/vfnet.safetensors
"""
ALL_LABELS = frozenset(map(int, BodyPart))


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        print(calibrate(options))
    except (Refusal, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.calibrate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--weights", type=Path, help="weights file (the ones that ship)")
    parser.add_argument(
        "--out", type=Path, required=True, help="file to write (.safetensors); its card gets the same name with .json"
    )
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="data set of key slices, any number",
    )
    parser.add_argument(
        "--all-marked",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="as --data, but every lesion is taken to be marked, whatever the data set says",
    )
    parser.add_argument(
        "--split",
        nargs="+",
        default=["val", "test"],
        choices=("train", "val", "test"),
        help="of the data sets (val test)",
    )
    parser.add_argument(
        "--ct",
        action="append",
        default=[],
        metavar="CT[=BOXES]",
        help="whole CT without lesions, or with all of them in a csv as of train.evaluate ct",
    )
    parser.add_argument(
        "--share",
        type=_share,
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="how much a data set or CT, by the name of its folder or file, weighs beside the others (1)",
    )
    parser.add_argument("--picture", type=Path, help="reliability picture (beside --out, with .png)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    return parser


def _share(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        share = float(number)
    except ValueError:
        share = 0.0
    if not name or not 0 < share < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a share; write it as name=2, a number above 0")
    return name, share


def calibrate(options: argparse.Namespace) -> str:
    """Fit, write weights and picture; what is to be said of it.

    Raises Refusal for what cannot be used, OSError where nothing can be written.
    """
    from LesionDetectorLib.detect import DEFAULT_WEIGHTS, Detector, pick_device

    source = options.weights or DEFAULT_WEIGHTS
    if options.out.resolve() == source.resolve():
        raise Refusal(f"{options.out} are the weights themselves; give another file with --out.")
    picture = options.picture or options.out.with_suffix(".png")
    for file in (options.out, picture):
        if not file.parent.is_dir():
            raise Refusal(f"There is no folder {file.parent} to write {file.name} to; make it first.")
    model, card = weights.load(source)
    labels = card["labels"]
    slices = _looked_at(Detector(model, pick_device(options.device), labels), options)
    shares = {entry.source: 1.0 for entry in slices} | dict(options.share)
    if unknown := sorted(dict(options.share).keys() - {entry.source for entry in slices}):
        raise Refusal(f"--share names {unknown[0]}, which is none of: {', '.join(sorted(shares.keys() - {*unknown}))}.")
    before = calibration.marks(slices, shares)
    if len({entry.patient for entry in slices}) < 2 or not before.right.any():
        raise Refusal(
            f"{len(before.right)} marks, {before.right.sum()} of them right, of "
            f"{len({entry.patient for entry in slices})} patient(s) are too few to calibrate with; give more --data."
        )
    after = calibration.marks(calibration.moved_by_others(slices, shares), shares)
    lines = calibration.fit(before)
    tables = Reliability.of(before), Reliability.of(after)
    own = {label: lines[part]._asdict() for label, part in zip(labels, weights.body_parts(labels))}
    results = {**card.get("results", {}), "calibration": _statement(slices, before, *tables)}
    weights.copy(source, options.out, {"name": options.out.stem, "calibration": own, "results": results})
    plots.reliability(*tables, picture)
    return "\n".join([*_table(*tables), "", *_lines(lines, before), "", f"Written to {options.out}."])


def _looked_at(detector: Detector, options: argparse.Namespace) -> list[Looked]:
    """Every slice that is given, with what the detector finds on it."""
    slices = []
    for folder, all_marked in [(each, False) for each in options.data] + [(each, True) for each in options.all_marked]:
        entries = [entry for split in options.split for entry in data_sets.read(folder, split)]
        if not entries:
            raise DeepLesionError(f"{folder} holds no slice of {' or '.join(options.split)}; choose with --split.")
        found = detect_key_slices(detector, entries)
        slices += [
            _of_key_slice(entry, boxes, folder.name, all_marked) for entry, boxes in zip(entries, found, strict=True)
        ]
    for text in options.ct:
        path, _, csv = text.partition("=")
        slices += _of_ct(detector, Path(path), Path(csv) if csv else None)
    return slices


def _of_key_slice(entry: KeySlice, found: SliceBoxes, source: str, all_marked: bool) -> Looked:
    complete = ALL_LABELS if all_marked else frozenset(entry.complete)
    return Looked(found, entry.boxes, entry.labels, complete, entry.owner, source)


def _of_ct(detector: Detector, path: Path, csv: Path | None) -> list[Looked]:
    volume = ct.read(path)
    found = detect_ct(detector, volume)
    if csv is None:
        return [Looked(entry, np.zeros((0, 4)), np.zeros(0, int), ALL_LABELS, path.name, path.name) for entry in found]
    truth, _ = lesions_of_ct(volume, path, csv)
    own = [truth.image == entry.k for entry in found]
    return [
        Looked(entry, truth.boxes[rows], truth.labels[rows], ALL_LABELS, path.name, path.name)
        for entry, rows in zip(found, own)
    ]


def _statement(slices: Sequence[Looked], seen: calibration.Marks, before: Reliability, after: Reliability) -> dict:
    return {
        "sources": sorted({entry.source for entry in slices}),
        "slices": len(slices),
        "patients": len({entry.patient for entry in slices}),
        "marks": len(seen.right),
        "right": int(seen.right.sum()),
        "right_means": f"IoU >= {calibration.RIGHT_IOU} with a lesion of its label",
        f"error_of_marks_from_{SHOWN:g}_on": {"before": before.error(SHOWN), "after": after.error(SHOWN)},
    }


def _table(before: Reliability, after: Reliability) -> list[str]:
    """How often marks are right, by what the detector says, before and after."""
    rows = ["confidence    before: marks  said   right    after: marks  said   right"]
    for place, (low, high) in enumerate(zip(calibration.EDGES, calibration.EDGES[1:])):
        cells = [
            f"{table.count[place]:6.0f} {_percent(table.confidence[place])} {_percent(table.right[place])}"
            for table in (before, after)
        ]
        rows.append(f"{100 * low:3.0f} - {100 * high:3.0f} %  {cells[0]:>28}{cells[1]:>32}")
    for name, lowest in ((f"from {100 * SHOWN:.0f} % on", SHOWN), ("all", 0.0)):
        rows.append(
            f"Expected calibration error, marks {name}: {100 * before.error(lowest):.1f} % before, "
            f"{100 * after.error(lowest):.1f} % after."
        )
    return rows


def _percent(value: float) -> str:
    return "    -  " if np.isnan(value) else f"{100 * value:4.0f} % "


def _lines(lines: dict[BodyPart, Line], seen: calibration.Marks) -> list[str]:
    """What the calibration is, a label a row."""
    rows = ["label          marks  right   slope  offset"]
    for part, line in lines.items():
        own = seen.labels == part
        rows.append(f"{part.title:12} {own.sum():7} {seen.right[own].sum():6} {line.slope:7.2f} {line.offset:7.2f}")
    return rows


if __name__ == "__main__":
    sys.exit(main())
