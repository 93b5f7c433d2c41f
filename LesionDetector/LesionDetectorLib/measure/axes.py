"""RECIST axes: the longest diameter of an outline, and the longest one perpendicular to that."""

from __future__ import annotations

import numpy as np
import scipy

from LesionDetectorLib.lesion import Box, Point, Recist
from LesionDetectorLib.refusal import Refusal


def axes(mask: np.ndarray, spacing: tuple[float, float], offset: Point = (0.0, 0.0)) -> Recist:
    """The long axis of a mask and the longest chord perpendicular to it.

    The outline is the 0.5 level of the mask; the long axis is the longest distance between two vertices of its convex
    hull.

    Parameters
    ----------
    mask: (rows, columns), boolean, or soft with values of 0..1.
    spacing: (si, sj), mm from column to column and from row to row.
    offset: (i, j) of the mask's first pixel, added to the end points.

    Raises
    ------
    Refusal: no pixel of the mask reaches 0.5.
    """
    from skimage.measure import find_contours

    contours = find_contours(np.pad(np.asarray(mask, float), 1), 0.5)
    if not contours:
        raise Refusal("The mask is empty: no pixel exceeds 0.5, so there is nothing to measure.")
    return axes_of_outline(np.concatenate(contours)[:, ::-1] - 1 + offset, spacing)


def axes_of_outline(outline: np.ndarray, spacing: tuple[float, float], extent: Box | None = None) -> Recist:
    """The axes of an outline (n, 2) of (i, j): brute force over its convex hull's vertices, within an extent if one
    is given."""
    points = outline[scipy.spatial.ConvexHull(outline).vertices] * spacing
    lines = points - points[:, None]
    lengths = np.hypot(lines[..., 0], lines[..., 1])
    low, high = (np.full(2, -np.inf), np.full(2, np.inf)) if extent is None else np.reshape(extent, (2, 2)) * spacing
    directions = lines / np.maximum(lengths, 1e-9)[..., None]
    first, second = np.unravel_index(np.argmax(np.minimum(lengths, _room(directions, high - low))), lengths.shape)

    long, short = points[[first, second]], _longest_chord(points, directions[first, second])
    if extent is not None:
        long = _fitted(long, low, high, at_least=max(high - low))
        short = _fitted(short, low, high, at_most=np.hypot(*(long[1] - long[0])))
    return _recist(long, short, spacing)


def _recist(long: np.ndarray, short: np.ndarray, spacing: tuple[float, float]) -> Recist:
    (a, b), (c, d) = (tuple((float(i), float(j)) for i, j in line / spacing) for line in (long, short))
    return Recist((a, b), (c, d), float(np.hypot(*(long[1] - long[0]))), float(np.hypot(*(short[1] - short[0]))))


def _room(directions: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The longest line in a direction (..., 2) that fits in an extent of `size` (width, height)."""
    room = size / np.maximum(np.abs(directions), 1e-9)
    return np.minimum(room[..., 0], room[..., 1])


def _longest_chord(points: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """The end points (2, 2) of a convex polygon's longest chord perpendicular to a direction.

    A chord's length is a concave, piecewise linear function of its place, so the longest one passes through a vertex.
    """
    normal = np.array([-direction[1], direction[0]])
    along, across = points @ direction, points @ normal
    start = np.argmin(along)
    order = np.roll(np.arange(len(points)), -start)
    end = int(np.flatnonzero(order == np.argmax(along))[0])
    there, back = order[: end + 1], np.append(order[end:], start)[::-1]
    sides = np.stack([np.interp(along, along[side], across[side]) for side in (there, back)])
    widest = np.argmax(np.abs(sides[1] - sides[0]))
    return along[widest] * direction + sides[:, widest, None] * normal


def _fitted(
    line: np.ndarray, low: np.ndarray, high: np.ndarray, at_least: float = 0.0, at_most: float = np.inf
) -> np.ndarray:
    """A line (2, 2) in mm made as short as an extent and `at_most` ask, or as long as `at_least` if there is room,
    and moved inside."""
    length = np.hypot(*(line[1] - line[0]))
    half = (line[1] - line[0]) / length / 2
    longest = min(_room(2 * half, high - low), at_most)
    half = half * min(max(length, at_least), longest)
    middle = np.clip(line.mean(axis=0), low + np.abs(half), high - np.abs(half))
    return np.stack([middle - half, middle + half])
