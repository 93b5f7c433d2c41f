"""Put synthetic lesions into real CT and write the slices in DeepLesion's layout.

Each "patient" is a slab of one CT with one to four lesions on its key slice, every one of them in `DL_info.csv` (split
1, train). Labels get even shares as far as the CT has places for them (`train.places`); sizes follow DeepLesion, with
more small mediastinal nodes and small liver lesions, and a share of 30 to 90 mm (`--large`). A lesion pushes its
neighbours away, so that an organ's contour bulges, or infiltrates them with a ragged edge; large ones may have a dead
core, in the lung be consolidations with air in their bronchi. Small ones lie off the vessels, those of bone in bone and
not in the canal. The anatomy is scaled a little and its contrast enhancement varied; it is never mirrored, for that
would move the liver to the left.

What these slices cannot teach: the CTs may hold real lesions that nobody marked, so a detector learns a few of them as
background; vessels and normal nodes stay as distractors, but a lesion that grows along a vessel, duct or pleura,
breaks out of a bone, or shuts a bronchus and what lies behind it, is not made.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from LesionDetectorLib.ct import read
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.refusal import Refusal
from tqdm import tqdm

from train.data.layout import row, series_folder, write_csv, write_png
from train.synthetic.insertion import Scan, insert, narrow_view, prepare


def write(
    out: Path,
    scans: list[Scan],
    count: int,
    seed: int,
    first_patient: int,
    context_mm: float,
    narrow: float = 0.0,
    large: float = 0.25,
) -> int:
    """Write `count` patients below `out` (Images_png, DL_info.csv) and return the number of lesions.

    `narrow`: share in a narrow view; `large`: share of lesions of 30 to 90 mm.
    """
    rows = []
    for number in tqdm(range(count), desc="Inserting lesions", unit="patient"):
        rng = np.random.default_rng([seed, number])
        slab, key, spacing, lesions = insert(scans[rng.integers(len(scans))], rng, context_mm, large)
        while not lesions:
            slab, key, spacing, lesions = insert(scans[rng.integers(len(scans))], rng, context_mm, large)
        if rng.random() < narrow:
            slab, spacing, lesions = narrow_view(slab, spacing, lesions, rng)
        patient = first_patient + number
        for k, section in enumerate(slab):
            write_png(out / "Images_png" / series_folder(patient) / f"{k + 1:03d}.png", section)
        for made in lesions:
            part = made.lesion.body_part
            window = (-1500, 500) if part == BodyPart.LUNG else (-175, 275)
            shape = {
                "slices": (1, len(slab)),
                "spacing": spacing,
                "size": slab.shape[:0:-1],
                "location": made.location,
                "window": window,
            }
            rows.append(row(patient, key + 1, made.recist, part, **shape))
    write_csv(out / "DL_info.csv", rows)
    return len(rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.insert",
        description="Put synthetic lesions into real CT and write training slices in DeepLesion's layout.",
        epilog="examples:\n"
        "  python -m train.insert --ct chest_dicom/ abdomen.nii.gz --out inserted --count 500 --seed 1\n"
        "  python -m train.insert --ct torso.nrrd --out more --count 50 --seed 2 --first-patient 920000 --context-mm "
        "12",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--ct", nargs="+", type=Path, required=True, help="CTs: DICOM folders, NRRD, NIfTI or MetaImage files"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder that gets Images_png and DL_info.csv")
    parser.add_argument(
        "--count", type=int, default=200, help="patients to make, each one key slice with 1-4 lesions (default 200)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same slices (default 0)")
    parser.add_argument(
        "--first-patient", type=int, default=900_000, help="number of the first patient (default 900000)"
    )
    parser.add_argument(
        "--context-mm",
        type=float,
        default=6.0,
        help="neighbours written on either side of the key slice (default 6 mm)",
    )
    parser.add_argument(
        "--narrow",
        type=float,
        default=0.0,
        help="share of patients in a narrow field of view, fine pixels (%(default)s)",
    )
    parser.add_argument(
        "--large",
        type=float,
        default=0.25,
        help="share of lesions of 30 to 90 mm, where their place has room or lets them bulge (%(default)s)",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.count < 1 or options.context_mm < 0 or not 0 <= options.narrow <= 1 or not 0 <= options.large <= 1:
        parser.error("--count must be at least 1, --context-mm at least 0, --narrow and --large 0 to 1.")
    if (options.out / "DL_info.csv").exists():
        parser.error(f"{options.out} already holds a DL_info.csv: give another folder.")
    try:
        scans = [prepare(read(path)) for path in tqdm(options.ct, desc="Reading CT", unit="CT")]
    except Refusal as error:
        print(error, file=sys.stderr)
        return 2
    lesions = write(
        options.out,
        scans,
        options.count,
        options.seed,
        options.first_patient,
        options.context_mm,
        options.narrow,
        options.large,
    )
    print(f"Wrote {lesions} lesions in {options.count} patients to {options.out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
