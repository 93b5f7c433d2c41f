"""Measure a lesion as RECIST asks: its longest diameter on the key slice, and the longest diameter perpendicular to that.

No trained mask is needed. A DeepLesion box is the extent of the two axes plus 5 pixels on every side, so the ellipse inside that extent
is a strong prior. Rays leave its centre; grey values near the centre tell what the lesion looks like and those near the box's edge what it
does not; dynamic programming finds the closed outline that parts the two best. The extent then bounds what the axes can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

from .lesion import Box, Origin, Point, Recist
from .slices import PIXEL_MM

DETECTOR_MARGIN_MM = 5 * PIXEL_MM
"""Between a lesion and the box that a detector draws: DeepLesion's 5 px, which a detector has learnt as pixels of its own input."""
READER_MARGIN_MM = 1.0
"""Between a lesion and the box that a reader draws."""
_RAYS = 128
_ANGLES = 2 * np.pi * np.arange(_RAYS) / _RAYS
_RADII = (np.arange(45) + 0.5) / 30  # in radii of the prior ellipse; a round lesion measured along the box's diagonals reaches 1.41
_CORE = 0.8  # first guess of the lesion, in the same unit
_GAP = 1.05  # the surroundings begin this much farther out than the outline, beyond the partial volume of the edge
_PRIOR_LOG_ODDS = 5.0  # of being lesion at the centre; 0 on the ellipse, negative beyond
_HU_RANGE = (-1024.0, 3071.0)
_SMOOTHING_PX = 0.7
_GREY_LEVELS = 32
_GREY_SPREAD = 4.0  # smoothing of the histograms in grey levels; wide, so that two greys part halfway between them
_UNSEEN_GREY = 0.02  # share of a histogram spread over all grey levels, so that none is impossible
_ROUNDS = 3


@dataclass(frozen=True)
class Segmentation:
    """A lesion on its slice.

    Attributes
    ----------
    outline: (n, 2), vertices (i, j) of the closed outline in continuous voxel index.
    mask: (rows, columns) float of 0..1, about the share of each pixel that lies inside the outline; binarize at 0.5.
    offset: (i, j) of the mask's first pixel in the slice.
    """

    outline: np.ndarray
    mask: np.ndarray
    offset: tuple[int, int]


def pixels(mm: float, spacing: Sequence[float]) -> float:
    """A length in mm as pixels of a slice with the `spacing` (si, sj, ...) mm, the mean of both directions."""
    return mm / (sum(spacing[:2]) / 2)


def margin_mm(origin: Origin) -> float:
    """Between a lesion and the box of who marked it."""
    return DETECTOR_MARGIN_MM if origin is Origin.DETECTOR else READER_MARGIN_MM


def reader_box(axes: Recist, spacing: Sequence[float]) -> Box:
    """The box that a reader would draw round a lesion with these axes, on a slice with the `spacing` (si, sj, ...) mm."""
    ends = np.array([*axes.long_axis, *axes.short_axis])
    margin = READER_MARGIN_MM / np.array(spacing[:2])
    return (*(ends.min(axis=0) - margin).tolist(), *(ends.max(axis=0) + margin).tolist())


def measure(slice_hu: np.ndarray, spacing: tuple[float, float], box: Box, margin_px: float = 5.0) -> Recist:
    """The RECIST axes of the lesion in a box, from its outline and the extent that the box leaves them.

    A line at an angle t to the rows fits in an extent of w x h mm when it is no longer than min(w / cos t, h / sin t). The long axis is
    the longest diameter of the outline so limited, but not less than the longer side where the extent has room for that; the short axis
    is the longest perpendicular chord, limited likewise.

    Parameters
    ----------
    slice_hu: (rows, columns), the key slice in HU.
    spacing: (si, sj), mm from column to column and from row to row.
    box: (x0, y0, x1, y1), continuous voxel index; clipped at the image's border.
    margin_px: pixels between the extent of the axes and the box; 5 in DeepLesion. A detector's own is `DETECTOR_MARGIN_MM`.

    Raises
    ------
    ValueError: the box lies outside the image, or has no area.
    """
    outline = segment(slice_hu, box, margin_px).outline
    return _axes(outline, spacing, _axes_extent(slice_hu.shape, box, margin_px))


def segment(slice_hu: np.ndarray, box: Box, margin_px: float = 5.0) -> Segmentation:
    """The outline and mask of the lesion in a box; parameters and errors as for `measure`.

    Of all outlines around the centre whose radius changes by at most one step from ray to ray, this is the one with the greatest integral
    over its inside of log(p(grey | lesion) / p(grey | surroundings)) + the prior's log odds. Both histograms are learnt from the slice
    itself and renewed with each outline.
    """
    extent = np.reshape(_axes_extent(slice_hu.shape, box, margin_px), (2, 2))
    centre, semi_axes = extent.mean(axis=0), (extent[1] - extent[0]) / 2
    crop, offset = _smoothed_crop(slice_hu, box)
    pixels = np.stack(np.meshgrid(*map(np.arange, crop.shape[::-1])), axis=-1) + offset
    in_radii = (pixels - centre) / semi_axes

    rays = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=-1) * semi_axes
    samples = centre + _RADII[:, None] * rays[:, None] - offset
    radius = _outline_radius(crop, samples, in_radii)

    pixel_radius, pixel_angle = _polar(in_radii)
    ray_px = np.hypot(semi_axes[0] * np.cos(pixel_angle), semi_axes[1] * np.sin(pixel_angle))
    depth_px = (_at_angle(radius, pixel_angle) - pixel_radius) * ray_px
    low, high = np.reshape(_clipped(slice_hu.shape, box), (2, 2))
    outline = np.clip(centre + radius[:, None] * rays, low, high)
    return Segmentation(outline, np.clip(depth_px + 0.5, 0, 1), (int(offset[0]), int(offset[1])))


def axes(mask: np.ndarray, spacing: tuple[float, float], offset: Point = (0.0, 0.0)) -> Recist:
    """The long axis of a mask and the longest chord perpendicular to it.

    The outline is the 0.5 level of the mask; the long axis is the longest distance between two vertices of its convex hull.

    Parameters
    ----------
    mask: (rows, columns), boolean, or soft with values of 0..1.
    spacing: (si, sj), mm from column to column and from row to row.
    offset: (i, j) of the mask's first pixel, added to the end points.

    Raises
    ------
    ValueError: no pixel of the mask reaches 0.5.
    """
    from skimage.measure import find_contours

    contours = find_contours(np.pad(np.asarray(mask, float), 1), 0.5)
    if not contours:
        raise ValueError("The mask is empty: no pixel exceeds 0.5, so there is nothing to measure.")
    return _axes(np.concatenate(contours)[:, ::-1] - 1 + offset, spacing)


def _clipped(shape: tuple[int, int], box: Box) -> Box:
    """The part of a box that lies in the image; ValueError when there is none."""
    rows, columns = shape
    x0, y0, x1, y1 = box
    clipped = (max(x0, -0.5), max(y0, -0.5), min(x1, columns - 0.5), min(y1, rows - 0.5))
    if not (clipped[0] < clipped[2] and clipped[1] < clipped[3]):
        raise ValueError(f"The box {tuple(box)} has no area inside the image of {columns} x {rows} pixels; give x0 y0 x1 y1 in pixels.")
    return clipped


def _axes_extent(shape: tuple[int, int], box: Box, margin_px: float) -> Box:
    """The box without its margin; at least a pixel wide, or half of a smaller box."""
    x0, y0, x1, y1 = _clipped(shape, box)

    def shrunk(low: float, high: float) -> tuple[float, float]:
        middle, half = (low + high) / 2, (high - low) / 2
        half = max(half - margin_px, min(0.5, half / 2))
        return middle - half, middle + half

    (x0, x1), (y0, y1) = shrunk(x0, x1), shrunk(y0, y1)
    return x0, y0, x1, y1


def _smoothed_crop(slice_hu: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """The smoothed pixels (rows, columns) that a box touches, and (i, j) of the first one."""
    x0, y0, x1, y1 = (int(np.floor(value + 0.5)) for value in _clipped(slice_hu.shape, box))
    halo = int(3 * _SMOOTHING_PX)
    left, top = max(x0 - halo, 0), max(y0 - halo, 0)
    around = np.nan_to_num(np.asarray(slice_hu[top : y1 + 1 + halo, left : x1 + 1 + halo], float))
    smoothed = ndimage.gaussian_filter(np.clip(around, *_HU_RANGE), _SMOOTHING_PX, mode="nearest")
    return smoothed[y0 - top : y1 + 1 - top, x0 - left : x1 + 1 - left], np.array([x0, y0])


def _outline_radius(crop: np.ndarray, samples: np.ndarray, in_radii: np.ndarray) -> np.ndarray:
    """The outline's radius on each ray, in radii of the prior ellipse.

    `samples` (rays, radii, 2) are the places (i, j) in the crop that the rays visit; `in_radii` (rows, columns, 2) the places of its
    pixels from the centre, in units of the semi-axes.
    """
    pixel_radius, pixel_angle = _polar(in_radii)
    outside_extent = (np.abs(in_radii) > 1).any(axis=-1)
    low, high = np.percentile(crop, [1, 99])
    grey = np.clip((crop - low) / max(high - low, 1.0), 0, 1) * (_GREY_LEVELS - 1)
    sampled = ndimage.map_coordinates(grey, np.moveaxis(samples, -1, 0)[::-1], order=1, mode="nearest").astype(int)
    grey = grey.astype(int)
    beyond = ((samples < -0.5) | (samples > np.array(crop.shape[::-1]) - 0.5)).any(axis=-1)
    area = np.broadcast_to(_RADII, sampled.shape)
    radius = np.full(_RAYS, _CORE)
    for _ in range(_ROUNDS):
        inside = area <= radius[:, None]
        around = outside_extent & (pixel_radius > _GAP * _at_angle(radius, pixel_angle))
        evidence = _log_histogram(sampled[inside], area[inside]) - _log_histogram(grey[around])
        log_odds = evidence[sampled] + _PRIOR_LOG_ODDS * (1 - _RADII)
        log_odds[beyond] = -2 * _PRIOR_LOG_ODDS
        radius = _RADII[_best_closed_path(np.cumsum(log_odds * area, axis=1))] + _RADII[0]
    return radius


def _polar(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.hypot(places[..., 0], places[..., 1]), np.arctan2(places[..., 1], places[..., 0])


def _at_angle(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """The radius that an outline has at any angle."""
    return np.interp(angle, _ANGLES, radius, period=2 * np.pi)


def _log_histogram(grey: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Logarithm of the smoothed share of each grey level."""
    counts = np.bincount(grey, weights, _GREY_LEVELS).astype(float)
    share = ndimage.gaussian_filter1d(counts, _GREY_SPREAD, mode="nearest") / max(counts.sum(), 1e-9)
    return np.log((1 - _UNSEEN_GREY) * share + _UNSEEN_GREY / _GREY_LEVELS)


def _best_closed_path(score: np.ndarray) -> np.ndarray:
    """The radius index on every ray with the greatest sum of `score` (rays, radii), neighbours at most one step apart.

    Two turns of dynamic programming; the middle of the path feels neither end, so it closes.
    """
    rays, radii = score.shape
    turns = np.concatenate([score, score])
    step = np.empty(turns.shape, int)
    total = np.full(radii + 2, -np.inf)
    total[1:-1] = turns[0]
    candidates = np.lib.stride_tricks.sliding_window_view(total, 3)
    for ray in range(1, 2 * rays):
        step[ray] = candidates.argmax(axis=1)
        total[1:-1] = candidates.max(axis=1) + turns[ray]
    path = np.empty(2 * rays, int)
    path[-1] = total[1:-1].argmax()
    for ray in range(2 * rays - 1, 0, -1):
        path[ray - 1] = path[ray] + step[ray, path[ray]] - 1
    middle = np.arange(rays // 2, rays // 2 + rays)
    closed = np.empty(rays, int)
    closed[middle % rays] = path[middle]
    return closed


def _axes(outline: np.ndarray, spacing: tuple[float, float], extent: Box | None = None) -> Recist:
    """The axes of an outline (n, 2) of (i, j): brute force over its convex hull's vertices, within an extent if one is given."""
    points = outline[ConvexHull(outline).vertices] * spacing
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
    return np.min(size / np.maximum(np.abs(directions), 1e-9), axis=-1)


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


def _fitted(line: np.ndarray, low: np.ndarray, high: np.ndarray, at_least: float = 0.0, at_most: float = np.inf) -> np.ndarray:
    """A line (2, 2) in mm made as short as an extent and `at_most` ask, or as long as `at_least` if there is room, and moved inside."""
    length = np.hypot(*(line[1] - line[0]))
    half = (line[1] - line[0]) / length / 2
    longest = min(_room(2 * half, high - low), at_most)
    half = half * min(max(length, at_least), longest)
    middle = np.clip(line.mean(axis=0), low + np.abs(half), high - np.abs(half))
    return np.stack([middle - half, middle + half])
