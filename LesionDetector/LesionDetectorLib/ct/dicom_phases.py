"""One image for each place: of energies, phases and reconstructions that share a series, one is chosen by what the
headers say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from LesionDetectorLib.ct.dicom_marks import COUNTS, MARKS, Mark, number, preference
from LesionDetectorLib.ct.dicom_slices import Slice
from LesionDetectorLib.words import few

SAME_PLACE = 0.01  # mm
# of the distance of neighbours: what lies nearer to a slice than this is not a neighbour but shows the same
BETWEEN = 0.6


def without_copies(slices: list[Slice]) -> tuple[list[Slice], list[str]]:
    """Each image once, of which a folder may hold several copies."""
    kept: dict[tuple, Slice] = {}
    for item in slices:
        key = (item.uid, item.frame, *np.round(item.origin, 2), *item.marks) if item.uid else (id(item),)
        kept.setdefault(key, item)
    left = len(slices) - len(kept)
    return list(kept.values()), [
        f"{left} of {len(slices)} slices are copies of another and were left out."
    ] if left else []


def one_of_each(slices: list[Slice]) -> tuple[list[Slice], list[str]]:
    """`slices`, in order along the body, without those that by their headers show again what others show.

    Of several energies, phases or reconstructions of one region the one with most slices stays (plain slices before
    projections); of equal ones the first by `preference`. Those that lie one above the other are kept together.
    """
    warnings = []
    for index, mark in enumerate(MARKS):
        groups = _by_value(slices, [item.marks[index] for item in slices])
        # else nearly every image has a value of its own, which joins none of them
        if 1 < len(groups) <= len(slices) / 2:
            slices, more = _choose(slices, groups, mark, partial(preference, mark))
            warnings += more
    for mark in COUNTS:
        if len(places(slices)) < len(slices):
            slices, more = _choose(slices, _runs(slices, mark), mark, lambda label: 0)
            warnings += more
    return slices, warnings


def places(slices: list[Slice]) -> list[list[Slice]]:
    """`slices`, in order along the body, by their position."""
    found: list[list[Slice]] = []
    for item in slices:
        if found and (item.origin - found[-1][0].origin) @ slices[0].normal <= SAME_PLACE:
            found[-1].append(item)
        else:
            found.append([item])
    return found


def _by_value(slices: list[Slice], values: Sequence[str]) -> dict[str, list[Slice]]:
    groups: dict[str, list[Slice]] = defaultdict(list)
    for item, value in zip(slices, values, strict=True):
        groups[value].append(item)
    return groups


def _choose(
    slices: list[Slice], groups: dict[str, list[Slice]], mark: Mark, order: Callable[[str], Any]
) -> tuple[list[Slice], list[str]]:
    """The groups that go over different parts of the body; of those that go over the same part one."""
    kept: list[str] = []
    covered = np.empty((0, 2))  # position and reach of slices, mm along the body
    for value in sorted(
        groups, key=lambda value: (min(item.rank for item in groups[value]), -len(groups[value]), order(value))
    ):
        positions = np.array([item.origin @ slices[0].normal for item in groups[value]])
        again = (np.abs(positions[:, None] - covered[:, 0]) <= covered[:, 1]).any(axis=1)
        if 2 * again.sum() < len(positions):
            steps = np.diff(positions)
            steps = steps[steps > SAME_PLACE]
            reach = BETWEEN * np.median(steps) if len(steps) else SAME_PLACE
            covered = np.vstack([covered, np.column_stack([positions, np.full(len(positions), reach)])])
            kept.append(value)
    dropped = [value for value in groups if value not in kept]
    if not dropped:
        return slices, []
    read, left = (
        mark.text.format(few([value or "unknown" for value in sorted(values, key=order)])) for values in (kept, dropped)
    )
    chosen = {id(item) for value in kept for item in groups[value]}
    text = f"Several {mark.plural} show the same region: {read} was read, {left} left out."
    return [item for item in slices if id(item) in chosen], [text]


def _runs(slices: list[Slice], mark: Mark) -> dict[str, list[Slice]]:
    """Runs over the body, by their first and last number: slices in the order of `mark`, cut where they turn back.

    Empty where `mark` does not tell: where images of one place have the same number, or none of the runs covers half of
    the places.
    """
    place = {id(item): index for index, items in enumerate(places(slices)) for item in items}
    numbers = {id(item): number(item.says(mark)[:21]) for item in slices}  # 21 letters: a time without its zone
    pairs = {(place[key], value) for key, value in numbers.items()}
    if None in numbers.values() or len(pairs) < len(slices):
        return {}
    runs: list[list[Slice]] = []
    steps: set[bool] = set()  # the senses in which a run goes: one, or it is two runs
    for item in sorted(slices, key=lambda item: numbers[id(item)]):
        step = place[id(item)] - place[id(runs[-1][-1])] if runs else 0
        if step == 0 or len(steps | {step > 0}) == 2:
            runs.append([])
            steps = set()
        else:
            steps.add(step > 0)
        runs[-1].append(item)
    longest = max(map(len, runs))
    if longest == 1 or 2 * longest < len(set(place.values())):
        return {}
    return {_ends([item.says(mark) for item in run]): sorted(run, key=lambda item: place[id(item)]) for run in runs}


def _ends(values: list[str]) -> str:
    return values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"
