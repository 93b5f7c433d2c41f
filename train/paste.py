"""Put real nodules into the lungs of other real CT, for training and for tests.

A nodule is cut out of its slice with a soft edge, turned, scaled, brought to the grey of the lung that it comes to lie
in, and written with the slices beside it; a mark that lung does not surround stays out. What is written is a folder of
part-marked slices (`boxes.csv`) on which every label counts as completely marked: the CTs are taken as free of other
lesions.
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
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.slices import DEFAULT
from tqdm import tqdm

from train.data import data_sets
from train.data.deeplesion import DeepLesionError
from train.data.layout import write_png
from train.data.part_marked import row, write_table
from train.synthetic.pasting import Nodule, nodules_of, paste, room_in_lungs
from train.training.suspicious import marks_on

LEAST_ROOM_MM = 12.0
MOST_NODULES = 3
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
    parser.add_argument("--ct", nargs="+", type=Path, required=True, help="CTs: DICOM folders, NRRD, NIfTI, MetaImage")
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
    if (options.out / "boxes.csv").exists():
        parser.error(f"{options.out} already holds a boxes.csv: give another folder.")
    try:
        nodules = _nodules(options.nodules, options.split)
        places = [place for path in options.ct for place in _lungs(read(path), options.weights)]
        if not places:
            raise DeepLesionError(f"{' '.join(map(str, options.ct))} show no lungs; give a CT of the chest.")
        boxes = _write(options.out, nodules, places, options)
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
    """A slice with lungs: the CT, k, how much room they have (see `room_in_lungs`), and what may be a lesion there."""

    volume: Volume
    k: int
    room_mm: np.ndarray
    unsure: list[dict[str, Any]]


def _lungs(volume: Volume, weights: Path | None) -> Iterator[Place]:
    marks = marks_on(volume, weights, [BodyPart.LUNG.title])
    for k, section in enumerate(tqdm(volume.hu, desc="looking for lungs", unit="slice")):
        room = room_in_lungs(section, volume.spacing)
        if room.max() >= LEAST_ROOM_MM:
            yield Place(volume, k, room.astype(np.float32), [mark for mark in marks[k] if "label" in mark])


def _write(out: Path, nodules: list[Nodule], places: list[Place], options: argparse.Namespace) -> int:
    """Write the slices and their table; returns the number of boxes."""
    rows = []
    for number in tqdm(range(options.count), desc="pasting", unit="slice"):
        rng = np.random.default_rng([options.seed, number])
        boxes: list[np.ndarray] = []
        while not boxes:
            place = places[rng.integers(len(places))]
            slab, key, boxes = _one(place, nodules, rng)
        folder = f"{number:05d}"
        for k, section in enumerate(slab):
            write_png(out / folder / f"{k + 1:03d}.png", section)
        marks = [{"sides": box.round(2), "label": BodyPart.LUNG.title} for box in boxes] + place.unsure
        common = folder, f"{folder}/{key + 1:03d}.png", key + 1, place.volume.spacing, options.split
        rows += [row(*common, **mark) for mark in marks]
    write_table(out, rows)
    return len(rows)


def _one(place: Place, nodules: list[Nodule], rng: np.random.Generator) -> tuple[np.ndarray, int, list[np.ndarray]]:
    """A slab round a slice with nodules: HU, the place of the slice in it, and the boxes."""
    volume, k = place.volume, place.k
    reach = int(np.ceil(DEFAULT.neighbour_mm / volume.spacing[2]))
    first = max(k - reach, 0)
    slab, key = volume.hu[first : k + reach + 1].astype(np.float32), k - first
    boxes: list[np.ndarray] = []
    for _ in range(1 + rng.integers(MOST_NODULES)):
        nodule = nodules[rng.integers(len(nodules))]
        box = paste(slab, key, volume.spacing, nodule, place.room_mm, boxes, rng)
        if box is not None:
            boxes.append(box)
    return slab, key, boxes


if __name__ == "__main__":
    sys.exit(main())
