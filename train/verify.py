"""Check a download of DeepLesion: what it counts beside what is published, and which slices are missing or damaged."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from LesionDetectorLib.files import write_text
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.words import ranges
from tqdm import tqdm

from train.data.deeplesion import NEEDED, SPLITS, UNKNOWN, DeepLesionError, located, read_numbers, read_png, read_table

EXAMPLES = """
examples:
  python -m train.verify DeepLesion                         counts, and which slices are there
  python -m train.verify DeepLesion --full --workers 8     decodes every slice as well

exit code: 0 the download is whole, 1 something differs or is missing, 2 it cannot be used
"""
LESIONS_OF_LABEL = {
    BodyPart.BONE: (232, 108),
    BodyPart.ABDOMEN: (2166, 1173),
    BodyPart.MEDIASTINUM: (1638, 864),
    BodyPart.LIVER: (1318, 700),
    BodyPart.LUNG: (2426, 1100),
    BodyPart.KIDNEY: (490, 234),
    BodyPart.SOFT_TISSUE: (677, 339),
    BodyPart.PELVIS: (869, 409),
}
"""In all (Yan et al. 2018) and in the official test split; only validation and test are labelled."""
LISTED = 30
"""How many series with missing or damaged slices are printed."""


def published() -> pd.DataFrame:
    """What a whole download counts, in the form of `counts`; NaN where it is not published.

    Totals: Yan et al. 2018. The test split: its 4,927 official rows. Lesions of train and validation follow, as those
    two splits and only they are without labels and with labels beside the test split's.
    """
    rows = {
        "lesions": (32735, 22919, 4889, 4927),
        "slices": (32120, np.nan, np.nan, 4831),
        "studies": (10594, np.nan, np.nan, 1609),
        "patients": (4427, np.nan, np.nan, 665),
    }
    rows |= {part.title: (total, 0, total - test, test) for part, (total, test) in LESIONS_OF_LABEL.items()}
    rows |= {"unlabelled": (22919, 22919, 0, 0), "possibly noisy": (35, np.nan, np.nan, 15)}
    return pd.DataFrame(rows, index=["all", *SPLITS]).T


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """Lesions, slices, studies, patients, lesions of each label, unlabelled and noisy ones (rows) in all and per
    split (columns)."""
    parts = {"all": table, **{name: table[table["Train_Val_Test"] == code] for name, code in SPLITS.items()}}
    return pd.DataFrame({name: _counts(part) for name, part in parts.items()})


def _counts(table: pd.DataFrame) -> dict[str, int]:
    study = table["File_name"].str.split("_").str[:2].str.join("_")
    labels = table["Coarse_lesion_type"].value_counts()
    return {
        "lesions": len(table),
        "slices": table["File_name"].nunique(),
        "studies": study.nunique(),
        "patients": study.str.split("_").str[0].nunique(),
        **{part.title: int(labels.get(part, 0)) for part in BodyPart},
        "unlabelled": int(labels.get(UNKNOWN, 0)),
        "possibly noisy": int(table["Possibly_noisy"].sum()),
    }


def expected_slices(csv: Path, table: pd.DataFrame) -> dict[str, list[int]]:
    """Folder of each series -> numbers of the slices that belong there: its key slices and all of their
    `Slice_range`."""
    ranges = read_numbers(csv, table, "Slice_range", 2, blank=True)
    expected: dict[str, set[int]] = {}
    for name, (first, last) in zip(table["File_name"], ranges):
        series, number = name.removesuffix(".png").rsplit("_", 1)
        expected.setdefault(series, set()).add(int(number))
        if np.isfinite((first, last)).all():
            expected[series].update(range(int(first), int(last) + 1))
    return {series: sorted(numbers) for series, numbers in sorted(expected.items())}


def faulty_slices(
    images: Path, expected: dict[str, list[int]], full: bool = False, workers: int = 1
) -> dict[str, tuple[list[int], list[int]]]:
    """Folder of each series that is not whole -> numbers of its missing and of its damaged slices.

    Damaged are empty files and, if `full`, those that cannot be decoded as 16-bit PNG; `workers` processes share the
    work.
    """
    check = partial(_faults, full=full)
    folders = [images / series for series in expected]
    progress = partial(tqdm, total=len(expected), desc="decoding" if full else "looking", unit="series", leave=False)
    if workers == 1:
        found = list(progress(map(check, folders, expected.values())))
    else:
        with ProcessPoolExecutor(workers) as pool:
            found = list(progress(pool.map(check, folders, expected.values(), chunksize=8)))
    return {series: faults for series, faults in zip(expected, found, strict=True) if any(faults)}


def _faults(folder: Path, numbers: Sequence[int], full: bool) -> tuple[list[int], list[int]]:
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()} if folder.is_dir() else {}
    there = [number for number in numbers if _file(number) in sizes]
    damaged = [
        number for number in there if not sizes[_file(number)] or (full and not _decodes(folder / _file(number)))
    ]
    return [number for number in numbers if _file(number) not in sizes], damaged


def _file(number: int) -> str:
    return f"{number:03d}.png"


def _decodes(path: Path) -> bool:
    try:
        read_png(path)
    except DeepLesionError:
        return False
    return True


def verify(folder: Path, full: bool = False, workers: int = 1, listing: Path | None = None) -> bool:
    """Print what the download in `folder` counts beside what is published, and its missing and damaged slices.

    True if it is whole.

    `folder` as in `read_info`, `full` and `workers` as in `faulty_slices`; `listing` is a file for all missing and
    damaged slices, of which the first `LISTED` series are printed. DeepLesionError where the folder cannot be used.
    """
    csv, images = located(folder)
    table = read_table(csv, (*NEEDED, "Slice_range"))
    expected = expected_slices(csv, table)
    found, known = counts(table), published()
    differs = bool((known.notna() & (found != known)).any(axis=None))
    print(_beside(found, known))
    print(
        f"{csv} is not the whole DL_info.csv: what is published stands in brackets."
        if differs
        else "All counts are as published."
    )
    faults = faulty_slices(images, expected, full, workers)
    missing, damaged = (sum(len(fault[kind]) for fault in faults.values()) for kind in (0, 1))
    how = "each one was decoded" if full else "damage inside a file shows with --full"
    total = sum(map(len, expected.values()))
    print(
        f"{total:,} slices in {len(expected):,} series belong to it: {missing:,} are missing, {damaged:,} damaged "
        f"({how})."
    )
    lines = [f"{images / series}: {_fault(*fault)}" for series, fault in faults.items()]
    print(*lines[:LISTED], sep="\n", end="\n" if lines else "")
    if listing is not None:
        write_text(listing, "".join(f"{line}\n" for line in lines))
    elif len(lines) > LISTED:
        print(f"... and {len(lines) - LISTED:,} more series; --list FILE writes them all.")
    if faults:
        print(
            "Unpack their archives again. Training leaves out missing key slices; past a missing neighbour the last "
            "slice repeats."
        )
    return not differs and not faults


def _beside(found: pd.DataFrame, known: pd.DataFrame) -> str:
    """The counts as text, a published one in brackets where it differs."""
    cells = [
        [
            f"{value:,}" if np.isnan(target) or value == target else f"{value:,} ({target:,.0f})"
            for value, target in zip(*rows)
        ]
        for rows in zip(found.to_numpy(), known.to_numpy())
    ]
    return pd.DataFrame(cells, index=found.index, columns=found.columns).to_string()


def _fault(missing: Sequence[int], damaged: Sequence[int]) -> str:
    kinds = [f"{kind} {ranges(numbers)}" for kind, numbers in (("missing", missing), ("damaged", damaged)) if numbers]
    return "; ".join(kinds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit code says how the download is, see `EXAMPLES`."""
    parser = argparse.ArgumentParser(
        prog="python -m train.verify",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder with DL_info.csv and Images_png, or a csv beside Images_png")
    parser.add_argument(
        "--full", action="store_true", help="decode every slice too, which takes about an hour on one core"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (%(default)s)")
    parser.add_argument("--list", type=Path, metavar="FILE", help="write all missing and damaged slices there")
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error("--workers must be at least 1")
    try:
        return 0 if verify(options.folder, options.full, options.workers, options.list) else 1
    except (Refusal, OSError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
