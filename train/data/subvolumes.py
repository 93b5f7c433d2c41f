"""The sub-volumes of a data set in DeepLesion's layout: the slices round key slices that `Slice_range` of
`DL_info.csv` names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.ct.deeplesion import HEAD_TO_FEET
from LesionDetectorLib.words import plural

from train.data.deeplesion import (
    NEEDED,
    DeepLesionError,
    KeySlice,
    located,
    read_info,
    read_numbers,
    read_png,
    read_table,
)

RANGE = "Slice_range"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubVolume:
    """Neighbouring slices of a series.

    key_slices: those that are marked, of one series; first, last: numbers of its slices, both included.
    """

    key_slices: tuple[KeySlice, ...]
    first: int
    last: int

    @property
    def name(self) -> str:
        """As DeepLesion has it: 000001_01_01_103-115."""
        return f"{self.series}_{self.first:03d}-{self.last:03d}"

    @property
    def series(self) -> str:
        return self.key_slices[0].series

    @property
    def patient(self) -> int:
        return self.key_slices[0].patient

    def path(self, number: int) -> Path:
        return self.key_slices[0].path(number)

    @property
    def missing(self) -> list[int]:
        """The numbers of its slices that are not there."""
        return [number for number in range(self.first, self.last + 1) if not self.path(number).exists()]

    def runs(self) -> list[list[int]]:
        """The numbers of its slices that are there, those without a gap together."""
        missing = set(self.missing)
        there = [number for number in range(self.first, self.last + 1) if number not in missing]
        return [[number for _, number in run] for _, run in groupby(enumerate(there), lambda pair: pair[1] - pair[0])]

    def read(self, numbers: list[int]) -> Volume:
        """Some slices without a gap as a CT; DeepLesionError names one that cannot be read or has another size."""
        slices = [read_png(self.path(number)) for number in numbers]
        for number, pixels in zip(numbers, slices):
            if pixels.shape != slices[0].shape:
                raise DeepLesionError(
                    f"{self.path(number)} has another size than {self.path(numbers[0])}: fetch both slices again."
                )
        return Volume(
            hu=np.stack(slices),
            spacing=self.key_slices[0].spacing,
            origin=(0.0, 0.0, 0.0),
            direction=HEAD_TO_FEET.copy(),
            source=self.path(numbers[0]).parent,
            first_slice=numbers[0],
        )


def read(folder: Path, split: str | None = None) -> list[SubVolume]:
    """The sub-volumes of the key slices of a split, in the order of their names.

    Ranges of one series that overlap are one sub-volume (DeepLesion has none), so that every mark on its slices is its
    own. `folder` as in `read_info`; what is mended there, and slices that are not there, are logged. DeepLesionError
    names a missing file or column, or the row that cannot be read.
    """
    csv, images = located(folder)
    ranges = _ranges(csv)
    # a key slice that training repeats counts once
    marked = {key_slice.name: key_slice for key_slice in read_info(folder, split)}.values()
    found: list[SubVolume] = []
    for key_slice in sorted(marked, key=lambda entry: (entry.series, ranges[entry.name])):
        first, last = ranges[key_slice.name]
        before = found[-1] if found else None
        if before and before.series == key_slice.series and first <= before.last:
            together = (*before.key_slices, key_slice)
            found[-1] = SubVolume(together, before.first, max(before.last, last))
        else:
            found.append(SubVolume((key_slice,), first, last))
    _tell_missing(images, found)
    return found


def _ranges(csv: Path) -> dict[str, tuple[int, int]]:
    """First and last slice of the sub-volume of each key slice, by its name."""
    table = read_table(csv, (*NEEDED, RANGE))
    numbers = read_numbers(csv, table, RANGE, 2)
    ranges = {}
    for row, name, (first, last) in zip(table.index, table["File_name"], numbers):
        if not first <= int(name[:-4].rsplit("_", 1)[1]) <= last or first % 1 or last % 1:
            raise DeepLesionError(
                f"{csv}, row {row + 2}: {RANGE} is '{table.at[row, RANGE]}' instead of the first and last slice round "
                f"{name}; correct the row or fetch the file again."
            )
        ranges[name] = int(first), int(last)
    return ranges


def _tell_missing(images: Path, subvolumes: Sequence[SubVolume]) -> None:
    missing = [subvolume.path(number) for subvolume in subvolumes for number in subvolume.missing]
    if missing:
        _log.warning(
            "%s lacks %s of the sub-volumes, on which nothing can be found; the first is %s.",
            images,
            plural(len(missing), "slice"),
            missing[0].relative_to(images),
        )
