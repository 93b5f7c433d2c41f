"""How well lesions are followed over the studies of synthetic patients: alignment in mm, and pairs of the same lesion.

Each patient has some studies, as `train.phantom --studies` makes them as NRRD: other scanners, tables and regions,
lesions that grow, vanish, split and come new. The CTs are aligned by their pixels; then the true lesions are matched. A
pair are two lesions of two studies. As a control the boxes of each study are dealt out anew to its lesions.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.ct.geometry import vector
from LesionDetectorLib.followup import matching
from LesionDetectorLib.followup.alignment import Alignment, align
from LesionDetectorLib.lesion import Lesion
from LesionDetectorLib.reading import Reading

from train.synthetic.study import Study, drawn_lesions
from train.synthetic.visits import Visit, course

REGIONS = ("torso", "torso", "chest", "torso", "abdomen")
_POINTS = 200


class Followed(NamedTuple):
    """A study of a synthetic patient: its lesions, which of the patient's each is (by id), the alignment with the last
    study, and how far off the alignment is at some places in the body, in mm."""

    reading: Reading
    numbers: dict[str, int]
    alignment: Alignment
    errors_mm: np.ndarray


class Counts(NamedTuple):
    """Pairs of lesions: found and right, found, and true."""

    right: int
    found: int
    true: int

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return 2 * self.right / max(self.found + self.true, 1)

    def __str__(self) -> str:
        precision, recall = self.right / max(self.found, 1), self.right / max(self.true, 1)
        return f"{self.true} pairs, precision {precision:.3f}, recall {recall:.3f}, F1 {self.f1:.3f}"


def followed(
    seed: Sequence[int],
    studies: int = 3,
    lesions: int = 8,
    size: int = 128,
    interval: float = 5.0,
    regions: Sequence[str] = REGIONS,
    by_pixels: bool = True,
) -> list[Followed]:
    """The studies of one synthetic patient with true lesions, aligned with the last by their pixels, or else truly."""
    regions = [regions[(seed[-1] + index) % len(regions)] for index in range(studies)]
    first = Study(seed, lesions, True, size, regions[0], interval)
    visits = course(first, seed, studies, regions, interval)
    volumes = [_volume(visit, by_pixels) for visit in visits]
    rng = np.random.default_rng(np.random.SeedSequence(tuple(seed), spawn_key=(12,)))
    done = []
    for visit, volume in zip(visits, volumes):
        shift = np.subtract(visits[-1].shift_mm, visit.shift_mm)
        true = Alignment(matrix=_shift(-shift))
        found = true
        if by_pixels and visit is not visits[-1]:
            found = align(volume, volumes[-1])
        points = _body_points(visit, visits[-1], rng) + visit.shift_mm
        errors = np.linalg.norm(found.to_current(points) - true.to_current(points), axis=1)
        done.append(Followed(*_reading(visit, volume), found, errors))
    return done


def _shift(mm: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = mm
    return matrix


def _volume(visit: Visit, rendered: bool) -> Volume:
    """The CT of a visit, from feet to head; black where it is not rendered."""
    study, frame = visit.study, visit.study.frame
    shown = range(study.slices - 1, -1, -1)
    hu = np.full((study.slices, frame.size, frame.size), -1024, np.int16)
    if rendered:
        hu = np.stack([study.render(k) for k in shown])
    spacing = (frame.pixel, frame.pixel, study.scanner.interval)
    return Volume(hu, spacing, vector(visit.corner_mm(shown[0])), np.eye(3), Path(f"study {visit.day}"), str(visit.day))


def _body_points(visit: Visit, last: Visit, rng: np.random.Generator) -> np.ndarray:
    """Points (n, 3) in the middle of the patient, in the patient's mm, that both studies show."""
    bottoms, tops = zip(*((one.study.z(one.study.slices - 1), one.study.top) for one in (visit, last)))
    z = rng.uniform(max(bottoms), min(tops), _POINTS)
    return np.c_[rng.uniform(-100, 100, _POINTS), rng.uniform(-60, 60, _POINTS), z]


def _reading(visit: Visit, volume: Volume) -> tuple[Reading, dict[str, int]]:
    pairs = drawn_lesions(visit.study, range(visit.study.slices - 1, -1, -1))
    which = {id(lesion): number for lesion, number in zip(visit.study.lesions, visit.numbers)}
    return Reading.of(volume, [drawn for _, drawn in pairs]), {drawn.id: which[id(lesion)] for lesion, drawn in pairs}


def tracks(studies: Sequence[Followed]) -> list[matching.Track]:
    """The lesions of the studies, matched."""
    return matching.match([matching.Study(study.reading, study.alignment) for study in studies])


def counted(studies: Sequence[Followed], found: Sequence[matching.Track]) -> Counts:
    """The pairs of a patient's lesions that are one lesion, as found and in truth."""
    said = {pair for track in found for pair in _pairs([[one.id for one in here] for here in track.lesions])}
    lesions = {number for study in studies for number in study.numbers.values()}
    true = {
        pair
        for wanted in lesions
        for pair in _pairs([[name for name, number in study.numbers.items() if number == wanted] for study in studies])
    }
    return Counts(len(said & true), len(said), len(true))


def _pairs(by_study: Sequence[Sequence[str]]) -> set[tuple[int, str, int, str]]:
    found = set()
    for (one, theirs), (other, ours) in combinations(enumerate(by_study), 2):
        found |= {(one, a, other, b) for a in theirs for b in ours}
    return found


def shuffled(studies: Sequence[Followed], rng: np.random.Generator) -> list[Followed]:
    """The studies with the places and sizes of each one's lesions dealt out anew among them."""
    return [study._replace(reading=_dealt(study.reading, rng)) for study in studies]


def _dealt(reading: Reading, rng: np.random.Generator) -> Reading:
    order = rng.permutation(len(reading.lesions))
    lesions = tuple(_in_place_of(one, reading.lesions[other]) for one, other in zip(reading.lesions, order))
    return replace(reading, lesions=lesions)


def _in_place_of(one: Lesion, other: Lesion) -> Lesion:
    return replace(other, id=one.id)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0."""
    parser = argparse.ArgumentParser(prog="python -m train.measure_following", description=__doc__.split("\n\n")[0])
    parser.add_argument("--patients", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--studies", type=int, default=3, choices=(2, 3, 4))
    parser.add_argument("--lesions-per-patient", type=int, default=8)
    parser.add_argument("--size", type=int, default=128, help="rows and columns of a slice (%(default)s)")
    parser.add_argument("--interval-mm", type=float, default=5.0, help="distance between slices (%(default)s)")
    parser.add_argument(
        "--no-pixels", action="store_true", help="take the true alignment: fast, for the matching alone"
    )
    given = parser.parse_args(arguments)
    rng = np.random.default_rng(given.seed)
    pairs, control, fates, errors = [], [], Counter(), []
    for number in range(1, given.patients + 1):
        studies = followed(
            (given.seed, number), given.studies, given.lesions_per_patient, given.size, given.interval_mm,
            by_pixels=not given.no_pixels,
        )  # fmt: skip
        found = tracks(studies)
        pairs.append(counted(studies, found))
        dealt = shuffled(studies, rng)
        control.append(counted(dealt, tracks(dealt)))
        fates.update(fate for track in found for fate in track.fates)
        errors += [study.errors_mm for study in studies[:-1]]
    print(f"{given.patients} patients of {given.studies} studies: {_summed(pairs)}")
    print(f"shuffled control: {_summed(control)}")
    print("alignment: median {:.1f} mm, 90 % within {:.1f} mm".format(*np.percentile(np.concatenate(errors), (50, 90))))
    print(", ".join(f"{fate} {count}" for fate, count in fates.most_common()))
    return 0


def _summed(counts: Sequence[Counts]) -> Counts:
    return Counts(*np.sum(counts, axis=0).tolist())


if __name__ == "__main__":
    sys.exit(main())
