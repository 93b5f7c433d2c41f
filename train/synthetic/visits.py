"""The studies of one patient over time: lesions that grow, shrink, vanish, split and come, on tables and days of their
own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
from LesionDetectorLib.ct.geometry import Vector, vector

from train.synthetic.lesions import SyntheticLesion
from train.synthetic.study import Study

GROWTH, BREATH_MM = (0.7, 1.4), 8.0
NEW, VANISHED, SPLIT = 0.2, 0.2, 0.1
SPLIT_FROM_MM = 18.0
"""A lesion splits if its long axis has so much."""


@dataclass(frozen=True, eq=False)
class Visit:
    """One study in a patient's course.

    Attributes
    ----------
    study: what is scanned, in the patient's own mm.
    numbers: of each lesion of the study, which of the patient's lesions it is, from 1; parts of one share its number.
    shift_mm: what its file adds to the patient's mm: where the table stood and the scanner's zero was.
    day: when.
    """

    study: Study
    numbers: tuple[int, ...]
    shift_mm: Vector = (0.0, 0.0, 0.0)
    day: date = date(2020, 1, 1)

    def corner_mm(self, k: int) -> np.ndarray:
        """Where the first pixel of slice k of the study lies in its file, (3,) LPS mm."""
        frame = self.study.frame
        return np.add((frame.x, frame.y, self.study.z(k)), self.shift_mm)


def course(
    first: Study, seed: Sequence[int], count: int, regions: Sequence[str], interval: float | None = None
) -> list[Visit]:
    """`count` studies of a patient, of which `first` is the first, of the first of the `regions`, which are scanned in
    turn.

    From each study to the next a fifth of the lesions vanishes, the others grow to 0.7 to 1.4 times their size and are
    breathed 0 to 8 mm along the body, one in ten of the large ones splits in two, and a fifth as many come new.
    """
    rng = np.random.default_rng(np.random.SeedSequence(tuple(seed), spawn_key=(11,)))
    day = date(2020, 1, 1) + timedelta(days=seed[-1] % 1000)
    visits = [Visit(first, tuple(range(1, len(first.lesions) + 1)), day=day)]
    ever = len(first.lesions)
    for index in range(2, count + 1):
        last = visits[-1]
        region = regions[(index - 1) % len(regions)]
        study = Study((*seed, index), 0, False, first.frame.size, region, interval, patient=first.patient)
        numbers = []
        for lesion, sites, number in zip(last.study.lesions, last.study.replaced, last.numbers):
            for part in _later(lesion, rng):
                study.add(part, sites)
                numbers.append(number)
        for _ in range(int(rng.binomial(max(len(first.lesions), 1), NEW))):
            if study.place(rng):
                ever += 1
                numbers.append(ever)
        shift = vector(np.round([*rng.normal(0, 15, 2), rng.uniform(-600, 600)], 1))
        visits.append(Visit(study, tuple(numbers), shift, last.day + timedelta(days=int(rng.integers(42, 120)))))
    return visits


def _later(lesion: SyntheticLesion, rng: np.random.Generator) -> list[SyntheticLesion]:
    """What becomes of a lesion: nothing, itself in another size, or two parts of it."""
    if rng.random() < VANISHED:
        return []
    centre = np.add(lesion.centre_mm, (0, 0, rng.uniform(-BREATH_MM, BREATH_MM)))
    axes = np.array(lesion.axes_mm) * rng.uniform(*GROWTH)
    if rng.random() < SPLIT and 2 * lesion.axes_mm[0] >= SPLIT_FROM_MM:
        apart = 0.6 * axes[0] * lesion.rotation[0]
        return [_grown(lesion, centre + side * apart, 0.5 * axes) for side in (-1, 1)]
    return [_grown(lesion, centre, axes)]


def _grown(lesion: SyntheticLesion, centre: np.ndarray, axes: np.ndarray) -> SyntheticLesion:
    return replace(lesion, centre_mm=vector(centre), axes_mm=vector(axes))
