"""Slices at their true positions, brought onto one even and orthogonal grid."""

from __future__ import annotations

import numpy as np

from LesionDetectorLib.ct.volume import AIR

EVEN = 0.1  # largest distance from the even grid, in slices, that still counts as even
# the same in mm, for positions that a scanner rounded to 0.1 mm: half of that at the slice and half at the ends
ROUNDED = 0.101
UPRIGHT = 0.5  # largest sideways shift of a slice, in pixels, that still counts as none


def even_positions(positions: np.ndarray) -> np.ndarray:
    """The even grid, (n,), that ascending slice positions (m,) in mm lie on or are to be resampled to.

    Its ends are the first and the last position; its step is the median distance of neighbours.
    """
    if len(positions) == 1:
        return positions
    step = np.median(np.diff(positions))
    even = np.linspace(positions[0], positions[-1], len(positions))
    if np.abs(positions - even).max() <= max(EVEN * step, ROUNDED):
        return even
    return np.linspace(positions[0], positions[-1], round((positions[-1] - positions[0]) / step) + 1)


def interpolate_slices(
    hu: np.ndarray, positions: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, list[int | None]]:
    """`hu` (m, rows, columns) at ascending `positions`, interpolated linearly at `targets` (n,), which lie between
    its ends.

    Returns the slices (n, rows, columns) int16 and, for each, the index of the slice that it equals or None where it
    was interpolated.
    """
    step = targets[1] - targets[0]
    out = np.empty((len(targets), *hu.shape[1:]), np.int16)
    sources: list[int | None] = []
    for k, target in enumerate(targets):
        nearest = int(np.abs(positions - target).argmin())
        if abs(positions[nearest] - target) <= EVEN * step:
            out[k] = hu[nearest]
            sources.append(nearest)
            continue
        upper = int(np.searchsorted(positions, target))
        weight = np.float32((target - positions[upper - 1]) / (positions[upper] - positions[upper - 1]))
        out[k] = np.rint(hu[upper - 1] * (1 - weight) + hu[upper] * weight)
        sources.append(None)
    return out, sources


def sideways_shift(
    origins: np.ndarray, row: np.ndarray, column: np.ndarray, spacing: tuple[float, float]
) -> np.ndarray:
    """How far each slice lies sideways of the foremost ones, (n, 2) pixels along i and j, all >= 0.

    `origins` are (n, 3) LPS mm of the slices' pixels (0, 0); all zero where the slices lie upright over one another.
    """
    shift = np.stack([origins @ row / spacing[0], origins @ column / spacing[1]], axis=1)
    shift -= shift.min(axis=0)
    return shift if shift.max() > UPRIGHT else np.zeros_like(shift)


def tilt(origins: np.ndarray, row: np.ndarray, column: np.ndarray) -> str:
    """The gantry tilt of slices with pixels (0, 0) at `origins` (n, 3) in words, "a gantry tilt of 12.0 degrees"."""
    along = origins[-1] - origins[0]
    normal = np.cross(row, column)
    angle = np.degrees(np.arctan2(np.linalg.norm(np.cross(along, normal)), abs(along @ normal)))
    return f"a gantry tilt of {angle:.1f} degrees"


def shift_slices(hu: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """`hu` (n, rows, columns) with each slice moved by its `shift` (n, 2) in pixels along i and j, on a canvas that
    holds them all.

    This undoes gantry tilt: slices that are sheared against their normal come to lie upright, with air filled in beside
    them.
    """
    from scipy import ndimage

    extra_i, extra_j = np.ceil(shift.max(axis=0)).astype(int)
    rows, columns = hu.shape[1:]
    out = np.empty((len(hu), rows + extra_j, columns + extra_i), np.int16)
    for k, (i, j) in enumerate(shift):
        canvas = np.full(out.shape[1:], AIR, np.float32)
        canvas[int(j) : int(j) + rows, int(i) : int(i) + columns] = hu[k]
        out[k] = np.rint(ndimage.shift(canvas, (j % 1, i % 1), order=1, cval=AIR))
    return out
