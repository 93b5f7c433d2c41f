"""Put real nodules into the lungs of other real CT, for training and for tests.

A nodule is cut out of its slice with a soft edge, turned, scaled, brought to the grey of the lung that it comes to lie
in, and written with the slices beside it; a mark that lung does not surround stays out. What is written is a folder of
part-marked slices (`boxes.csv`) on which every label counts as completely marked: the CTs are taken as free of other
lesions, less what --weights marks there. Slices that are part-marked themselves keep their marks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from LesionDetectorLib.ct import Volume, read
from LesionDetectorLib.files import is_taken, whole_folder
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.slices import DEFAULT
from tqdm import tqdm

from train.data import data_sets
from train.data.deeplesion import UNKNOWN, DeepLesionError
from train.data.layout import write_png
from train.data.part_marked import ALL, UNSURE, row, tight, write_table
from train.mining.marks import marks_on
from train.synthetic.pasting import Nodule, nodules_of, paste, room_in_lungs

LEAST_ROOM_MM = 12.0
MOST_NODULES = 3
MOST_TRIES = 100
EXAMPLES = """
examples:
  python -m train.paste --nodules lidc_patches --ct chest_dicom torso.nii.gz --out pasted --count 1000
  python -m train.paste --nodules lidc_patches --split test --ct other_chest --out pasted_test --count 100
"""


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m train.paste",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--ct",
        nargs="+",
        type=Path,
        required=True,
        help="CTs (DICOM folders, NRRD, NIfTI, MetaImage), or folders of part-marked slices",
    )
    parser.add_argument("--nodules", type=Path, required=True, help="data set whose marked lung lesions are pasted")
    parser.add_argument(
        "--split", default="train", choices=("train", "val", "test"), help="of the nodules (%(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="new folder, which gets boxes.csv and the slices")
    parser.add_argument("--count", type=int, default=500, help="slices to make (%(default)s)")
    parser.add_argument("--weights", type=Path, help="a detector: what it surely marks in the CTs' lungs is left out")
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same slices (%(default)s)")
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error("--count must be at least 1.")
    if is_taken(options.out):
        parser.error(f"{options.out} holds something already: give another folder.")
    try:
        nodules = _nodules(options.nodules, options.split)
        places = [place for path in options.ct for place in _lungs(path, options.weights)]
        if not places:
            raise DeepLesionError(f"{' '.join(map(str, options.ct))} show no lungs; give a CT of the chest.")
        with whole_folder(options.out) as folder:
            boxes = _write(folder, nodules, places, options)
    except Refusal as error:
        print(error, file=sys.stderr)
        return 2
    print(f"Wrote {boxes} nodules on {options.count} slices to {options.out}.")
    return 0


def _nodules(folder: Path, split: str) -> list[Nodule]:
    """Every nodule that can be pasted."""
    key_slices = data_sets.read(folder, split)
    found = [nodule for entry in tqdm(key_slices, desc="reading nodules", unit="slice") for nodule in nodules_of(entry)]
    if not found:
        raise DeepLesionError(f"{folder} holds no lung nodule amid lung in its {split} split; give another data set.")
    return found


@dataclass(frozen=True, eq=False)
class Place:
    """A slice with lungs.

    hu: (k, j, i) the slice and those beside it; key: which it is; spacing: mm along i, j, k; room_mm: how much room the
    lungs have (see `room_in_lungs`); marks: what is, or may be, a lesion there already, as `part_marked.row` takes it;
    exhaustive: what the table says of it.
    """

    hu: np.ndarray
    key: int
    spacing: tuple[float, float, float]
    room_mm: np.ndarray
    marks: list[dict[str, Any]]
    exhaustive: str = ALL


def _lungs(path: Path, weights: Path | None) -> Iterator[Place]:
    """The slices of a CT, or of a folder of part-marked slices, whose lungs have room for a nodule."""
    slices = _slices_of_data_set(path) if (path / "boxes.csv").is_file() else _slices_of_ct(read(path), weights)
    return (place for place in slices if place.room_mm.max() >= LEAST_ROOM_MM)


def _slices_of_ct(volume: Volume, weights: Path | None) -> Iterator[Place]:
    marks = marks_on(volume, weights, [BodyPart.LUNG])
    reach = int(np.ceil(DEFAULT.neighbour_mm / volume.spacing[2]))
    for k, section in enumerate(tqdm(volume.hu, desc="looking for lungs", unit="slice")):
        first, unsure = max(k - reach, 0), [mark for mark in marks[k] if "label" in mark]
        room = room_in_lungs(section, volume.spacing).astype(np.float32)
        yield Place(volume.hu[first : k + reach + 1], k - first, volume.spacing, room, unsure)


def _slices_of_data_set(folder: Path) -> Iterator[Place]:
    for entry in tqdm(data_sets.read(folder), desc="looking for lungs", unit="slice"):
        hu, key = entry.read()
        names = [UNSURE if code == UNKNOWN else BodyPart(code).title for code in entry.labels]
        marks = [{"sides": box.round(2), "label": name} for box, name in zip(tight(entry), names)]
        exhaustive = ALL if entry.complete == tuple(BodyPart) else "yes" if BodyPart.LUNG in entry.complete else "no"
        yield Place(hu, key, entry.spacing, room_in_lungs(hu[key], entry.spacing), marks, exhaustive)


def _write(out: Path, nodules: list[Nodule], places: list[Place], options: argparse.Namespace) -> int:
    """Write the slices and their table; returns the number of boxes pasted."""
    rows, pasted = [], 0
    for number in tqdm(range(options.count), desc="pasting", unit="slice"):
        place, slab, boxes = _one(nodules, places, np.random.default_rng([options.seed, number]))
        folder = f"{number:05d}"
        for k, section in enumerate(slab):
            write_png(out / folder / f"{k + 1:03d}.png", section)
        marks = [{"sides": box.round(2), "label": BodyPart.LUNG.title} for box in boxes] + place.marks
        common = folder, f"{folder}/{place.key + 1:03d}.png", place.key + 1, place.spacing, options.split
        rows += [row(*common, exhaustive=place.exhaustive, **mark) for mark in marks]
        pasted += len(boxes)
    write_table(out, rows)
    return pasted


def _one(
    nodules: list[Nodule], places: list[Place], rng: np.random.Generator
) -> tuple[Place, np.ndarray, list[np.ndarray]]:
    """One of the places with nodules in it: its slices, float32 HU, and the nodules' boxes."""
    for _ in range(MOST_TRIES):
        place = places[rng.integers(len(places))]
        slab = place.hu.astype(np.float32)
        boxes: list[np.ndarray] = []
        for _ in range(1 + rng.integers(MOST_NODULES)):
            taken = [*boxes, *(mark["sides"] for mark in place.marks)]
            nodule = nodules[rng.integers(len(nodules))]
            box = paste(slab, place.key, place.spacing, nodule, place.room_mm, taken, rng)
            if box is not None:
                boxes.append(box)
        if boxes:
            return place, slab, boxes
    raise DeepLesionError("No nodule fits into the lungs of these CTs; give CTs of the whole chest.")


if __name__ == "__main__":
    sys.exit(main())
