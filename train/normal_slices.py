"""Write slices of CT on which no lesion is marked, for training: what normal anatomy looks like.

They become a folder of part-marked slices (`boxes.csv`) on which every label counts as completely marked. With
--weights a detector marks what it takes for lesions there: these look-alikes are written as boxes without a label,
round which training then cuts most of its crops; mine them anew whenever the detector has learnt the last ones. No
CT is surely free of lesions: where --experts says that the detector knows a label, what it marks with confidence is
left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from LesionDetectorLib import ct
from LesionDetectorLib.files import is_taken, whole_folder
from LesionDetectorLib.refusal import Refusal
from tqdm import tqdm

from train.data.layout import write_png
from train.data.part_marked import row, write_table
from train.mining.marks import body_part, marks_on

BODY_SHARE = 0.02
"""Of a slice that is worth learning from."""
SCORE = 0.2
EXAMPLES = """
examples:
  python -m train.normal_slices --ct chest_dicom abdomen.nii.gz --out normal --every-mm 5
  python -m train.normal_slices --ct chest_dicom abdomen.nii.gz --out hard --weights runs/first/best.safetensors
"""


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m train.normal_slices",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ct", nargs="+", type=Path, required=True, help="CTs: DICOM folders, NRRD, NIfTI, MetaImage")
    parser.add_argument("--out", type=Path, required=True, help="new folder, which gets boxes.csv and the slices")
    parser.add_argument("--every-mm", type=float, default=5.0, help="distance between the slices (%(default)s)")
    parser.add_argument("--weights", type=Path, help="a detector that marks the look-alikes")
    parser.add_argument(
        "--experts",
        nargs="+",
        type=body_part,
        default=[],
        metavar="LABEL",
        help="labels that the detector knows: its marks of them from 0.5 on may be lesions, and are left out",
    )
    parser.add_argument("--score", type=float, default=SCORE, help="from which a mark is a look-alike (%(default)s)")
    options = parser.parse_args(arguments)
    if not options.every_mm > 0:
        parser.error("--every-mm must be above 0.")
    if is_taken(options.out):
        parser.error(f"{options.out} holds something already: give another folder.")
    try:
        with whole_folder(options.out) as folder:
            rows = [
                line
                for number, path in enumerate(options.ct, 1)
                for line in _write(ct.read(path), f"{number}_{path.name.partition('.')[0]}", folder, options)
            ]
            write_table(folder, rows)
    except Refusal as error:
        print(error, file=sys.stderr)
        return 2
    print(f"Wrote {len({line['file'] for line in rows})} slices to {options.out}.")
    return 0


def _write(volume: ct.Volume, name: str, out: Path, options: argparse.Namespace) -> list[dict]:
    """Write all slices of a CT into the folder `name` of `out`, and return the rows of those that are to be learnt."""
    step = max(round(options.every_mm / volume.spacing[2]), 1)
    marks = marks_on(volume, options.weights, options.experts, options.score)
    rows: list[dict] = []
    for k, section in enumerate(tqdm(volume.hu, desc=name, unit="slice")):
        file = f"{name}/{k + 1:04d}.png"
        write_png(out / file, section)
        if (k % step and not marks[k]) or (section > -300).mean() < BODY_SHARE:
            continue
        common = name, file, k + 1, volume.spacing, "train"
        rows += [row(*common, **mark) for mark in marks[k]] or [row(*common)]
    return rows


if __name__ == "__main__":
    sys.exit(main())
