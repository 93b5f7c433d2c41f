"""Put real lesions into the same organ or tissue of other patients' CT, for training and for tests.

A lesion is cut out of its slice along its outline, turned, mirrored, scaled and a little bent, brought to the HU of
where it comes to lie, given the noise of that CT, and written with the slices beside it; a nodule amid lung brings the
lung round it along, with a soft edge. It stays out where its organ is not found on the CT, where vessels or other marks
are in its way, and where it could hardly be seen. What is written is a folder of part-marked slices (`boxes.csv`) on
which every label counts as completely marked: the CTs are taken as free of other lesions, less what --weights marks
there. Slices that are part-marked themselves keep their marks, and get lung nodules alone.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
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
from train.mining.marks import body_part, marks_on
from train.synthetic.cutting import RealLesion, lesions_of
from train.synthetic.noise import noise_of
from train.synthetic.pasting import Slab, Tissue, paste, room_in_lungs
from train.synthetic.places import Body, Place, find_places

LEAST_LUNG_MM = 12.0
LEAST_ROOM_MM = 3.0
MOST_LESIONS = 3
MOST_TRIES = 40
ENOUGH = 10
"""Different lesions of a label, with which it is pasted as often as any other; with fewer, less often."""
EXAMPLES = """
examples:
  python -m train.paste --lesions lidc_patches lits_jpg real --ct chest_dicom torso.nii.gz --out pasted --count 1000
  python -m train.paste --lesions lidc_patches --labels lung --ct chest_dicom torso.nii.gz --out nodules
  python -m train.paste --lesions lidc_patches --split test --ct other_chest --out pasted_test --count 100
"""


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error("--count must be at least 1.")
    if is_taken(options.out):
        parser.error(f"{options.out} holds something already: give another folder.")
    try:
        lesions = _lesions(options.lesions, options.split, options.labels)
        scenes = _scenes(options.ct, options.weights, lesions, options.labels)
        lesions = {label: lesions[label] for label in scenes}
        with whole_folder(options.out) as folder:
            pasted = _write(folder, lesions, scenes, options)
    except Refusal as error:
        print(error, file=sys.stderr)
        return 2
    counts = ", ".join(f"{number} {label.title.lower()}" for label, number in sorted(pasted.items()))
    print(f"Wrote {pasted.total()} lesions ({counts}) on {options.count} slices to {options.out}.")
    return 0


def _parser() -> argparse.ArgumentParser:
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
    parser.add_argument("--lesions", nargs="+", type=Path, required=True, help="data sets whose lesions are pasted")
    parser.add_argument(
        "--labels",
        nargs="+",
        type=body_part,
        metavar="LABEL",
        help="which of them, such as lung soft_tissue (all that have a place in the CTs)",
    )
    parser.add_argument(
        "--split", default="train", choices=("train", "val", "test"), help="of the lesions (%(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="new folder, which gets boxes.csv and the slices")
    parser.add_argument("--count", type=int, default=500, help="slices to make (%(default)s)")
    parser.add_argument("--weights", type=Path, help="a detector: what it surely marks in the CTs is left out")
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same slices (%(default)s)")
    return parser


def _lesions(
    folders: Sequence[Path], split: str, asked: Collection[BodyPart] | None
) -> dict[BodyPart, list[RealLesion]]:
    """Every lesion that can be pasted, by its label; a label that was `asked` for must have some."""
    labels = asked or list(BodyPart)
    key_slices = [entry for folder in folders for entry in data_sets.read(folder, split)]
    found: dict[BodyPart, list[RealLesion]] = {}
    for entry in tqdm(key_slices, desc="reading lesions", unit="slice"):
        for lesion in lesions_of(entry, labels):
            found.setdefault(lesion.label, []).append(lesion)
    wanting = [label for label in asked or (() if found else labels) if label not in found]
    if wanting:
        raise DeepLesionError(
            f"{' '.join(map(str, folders))} hold no lesion of {_names(wanting)} in the {split} split that can be cut "
            "out; give another data set."
        )
    return found


def _names(labels: Collection[BodyPart]) -> str:
    return ", ".join(label.title.lower() for label in labels)


@dataclass(frozen=True, eq=False)
class Scene:
    """A slice in which lesions may be pasted.

    hu: (k, j, i) the slice and those beside it; key: which it is; spacing: mm along i, j, k; marks: what is, or may be,
    a lesion there already, as `part_marked.row` takes it; lungs: room in its lungs (see `room_in_lungs`); body: the
    places of its CT, and number: which of the CT's slices it is; noise: see `noise_of`; complete: labels of which every
    lesion is marked; owner: the patient, where known.
    """

    hu: np.ndarray
    key: int
    spacing: tuple[float, float, float]
    marks: list[dict[str, Any]]
    lungs: np.ndarray | None = None
    body: Body | None = None
    number: int = 0
    noise: tuple[np.ndarray, float] | None = None
    complete: tuple[int, ...] = tuple(BodyPart)
    owner: str = ""

    def tissues(self, label: BodyPart) -> list[Tissue]:
        """What may hold lesions of a label here."""
        if label == BodyPart.LUNG:
            return [] if self.lungs is None else [Tissue(label, self.lungs)]
        return [
            Tissue(label, self.body.to_pixels(room, self.hu.shape[1:]), place.fit, place.in_dark)
            for place, room in self._places()
            if self.body and place.body_part == label
        ]

    def labels(self) -> set[BodyPart]:
        """Those of which lesions may lie here."""
        return {place.body_part for place, _ in self._places()} | (set() if self.lungs is None else {BodyPart.LUNG})

    def _places(self) -> list[tuple[Place, np.ndarray]]:
        """The places of its CT that have room here, lungs left out, with their coarse room_mm."""
        if self.body is None:
            return []
        on_slice = ((place, self.body.room_on(place, self.number)) for place in self.body.places)
        return [
            (place, room)
            for place, room in on_slice
            if place.body_part != BodyPart.LUNG and room.max() >= LEAST_ROOM_MM
        ]


def _scenes(
    paths: Sequence[Path],
    weights: Path | None,
    labels: Collection[BodyPart],
    asked: Collection[BodyPart] | None,
) -> dict[BodyPart, list[Scene]]:
    """The slices that have a place for lesions of each label that has one; a label that was `asked` for must."""
    found: dict[BodyPart, list[Scene]] = {}
    for path in paths:
        marked = (path / "boxes.csv").is_file()
        for scene in _of_data_set(path) if marked else _of_ct(read(path), weights, labels):
            for label in scene.labels() & set(labels):
                found.setdefault(label, []).append(scene)
    wanting = [label for label in asked or (() if found else labels) if label not in found]
    if wanting:
        names = "lungs" if wanting == [BodyPart.LUNG] else f"place for lesions of {_names(wanting)}"
        raise DeepLesionError(f"{' '.join(map(str, paths))} show no {names}; give CTs that do, or other --labels.")
    return {label: found[label] for label in sorted(found)}


def _of_ct(volume: Volume, weights: Path | None, labels: Collection[BodyPart]) -> Iterator[Scene]:
    marks = marks_on(volume, weights, sorted(labels))
    elsewhere = set(labels) - {BodyPart.LUNG}
    body, noise = (find_places(volume), noise_of(volume.hu)) if elsewhere else (None, None)
    reach = int(np.ceil(DEFAULT.neighbour_mm / volume.spacing[2]))
    for k, section in enumerate(tqdm(volume.hu, desc="looking for places", unit="slice")):
        first, unsure = max(k - reach, 0), [mark for mark in marks[k] if "label" in mark]
        is_chest = BodyPart.LUNG in labels and (body is None or _has_lung(body, k))
        lungs = _lungs(section, volume.spacing) if is_chest else None
        yield Scene(volume.hu[first : k + reach + 1], k - first, volume.spacing, unsure, lungs, body, k, noise)


def _has_lung(body: Body, number: int) -> bool:
    """Whether a slice of a CT has lung, not bowel full of gas and stool, which looks alike on a slice alone."""
    return any(place.body_part == BodyPart.LUNG and body.room_on(place, number).any() for place in body.places)


def _of_data_set(folder: Path) -> Iterator[Scene]:
    for entry in tqdm(data_sets.read(folder), desc="looking for places", unit="slice"):
        hu, key = entry.read()
        names = [UNSURE if code == UNKNOWN else BodyPart(code).title for code in entry.labels]
        marks = [{"sides": box.round(2), "label": name} for box, name in zip(tight(entry), names)]
        lungs = _lungs(hu[key], entry.spacing)
        yield Scene(hu, key, entry.spacing, marks, lungs, complete=entry.complete, owner=entry.owner)


def _lungs(section: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray | None:
    room = room_in_lungs(section, spacing).astype(np.float32)
    return room if room.max() >= LEAST_LUNG_MM else None


def _write(
    out: Path,
    lesions: dict[BodyPart, list[RealLesion]],
    scenes: dict[BodyPart, list[Scene]],
    options: argparse.Namespace,
) -> Counter[BodyPart]:
    """Write the slices and their table; returns how many lesions of each label were pasted."""
    rows, pasted = [], Counter()
    for number in tqdm(range(options.count), desc="pasting", unit="slice"):
        scene, slab, boxes = _one(lesions, scenes, np.random.default_rng([options.seed, number]))
        folder = f"{number:05d}"
        for k, section in enumerate(slab.hu):
            write_png(out / folder / f"{k + 1:03d}.png", section)
        marks = [{"sides": box.round(2), "label": label.title} for label, box in boxes] + scene.marks
        common = folder, f"{folder}/{scene.key + 1:03d}.png", scene.key + 1, scene.spacing, options.split
        rows += [row(*common, exhaustive=_exhaustive(scene, scenes), **mark) for mark in marks]
        pasted.update(label for label, _ in boxes)
    write_table(out, rows)
    return pasted


def _exhaustive(scene: Scene, labels: Collection[BodyPart]) -> str:
    """What the table says of a slice: "yes" means all labels that the table has."""
    if scene.complete == tuple(BodyPart):
        return ALL
    marked = {BodyPart.from_title(mark["label"]) for mark in scene.marks if mark["label"] != UNSURE}
    return "yes" if {*labels, *marked} <= set(scene.complete) else "no"


def _one(
    lesions: dict[BodyPart, list[RealLesion]], scenes: dict[BodyPart, list[Scene]], rng: np.random.Generator
) -> tuple[Scene, Slab, list[tuple[BodyPart, np.ndarray]]]:
    """One of the slices with lesions in it, whose labels have about even chances, and their boxes."""
    weights = np.array([min(len(same), ENOUGH) for same in lesions.values()], float)
    for label in rng.choice(list(lesions), len(lesions), replace=False, p=weights / weights.sum()):
        for _ in range(MOST_TRIES):
            scene = scenes[label][rng.integers(len(scenes[label]))]
            slab = Slab(
                scene.hu.astype(np.float32),
                scene.key,
                scene.spacing,
                [np.asarray(mark["sides"]) for mark in scene.marks],
                scene.noise,
            )
            first = _pasted(slab, scene, lesions, label, rng)
            if first is None:
                continue
            here = sorted(scene.labels() & set(lesions))
            others = rng.choice(here, size=rng.integers(MOST_LESIONS))
            more = (_pasted(slab, scene, lesions, other, rng) for other in others)
            return scene, slab, [first, *(box for box in more if box is not None)]
    raise DeepLesionError("No lesion fits into these CTs; give others, such as CTs of the whole chest or abdomen.")


def _pasted(
    slab: Slab, scene: Scene, lesions: dict[BodyPart, list[RealLesion]], label: int, rng: np.random.Generator
) -> tuple[BodyPart, np.ndarray] | None:
    """A lesion of another patient pasted into the slab: its label and box; None where it did not fit."""
    tissues, same = scene.tissues(BodyPart(label)), lesions[BodyPart(label)]
    lesion, tissue = same[rng.integers(len(same))], tissues[rng.integers(len(tissues))]
    box = paste(slab, lesion, tissue, rng) if lesion.owner != scene.owner else None
    return None if box is None else (lesion.label, box)


if __name__ == "__main__":
    sys.exit(main())
