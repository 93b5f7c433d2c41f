"""Measure a lesion as RECIST asks: its longest diameter on the key slice, and the longest diameter perpendicular to
that.

No trained mask is needed. A DeepLesion box is the extent of the two axes plus 5 pixels on every side, so the ellipse
inside that extent is a strong prior. Rays leave its centre; grey values near the centre tell what the lesion looks like
and those near the box's edge what it does not; dynamic programming finds the closed outline that parts the two best.
The extent then bounds what the axes can be.

SciPy brings its parts when they are first used, which matters: 3D Slicer imports this at its start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from LesionDetectorLib.boxes import hull
from LesionDetectorLib.lesion import Box, Point, Recist
from LesionDetectorLib.measure.axes import axes_of_outline
from LesionDetectorLib.measure.margins import READER_MARGIN_MM
from LesionDetectorLib.refusal import Refusal

_RAYS = 128
_ANGLES = 2 * np.pi * np.arange(_RAYS) / _RAYS
_DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=-1)
_RADII = (
    np.arange(45) + 0.5
) / 30  # in radii of the prior ellipse; a round lesion measured along the box's diagonals reaches 1.41
_CORE = 0.8  # first guess of the lesion, in the same unit
_GAP = 1.05  # the surroundings begin this much farther out than the outline, beyond the partial volume of the edge
_PRIOR_LOG_ODDS = 5.0  # of being lesion at the centre; 0 on the ellipse, negative beyond
_HU_RANGE = (-1024.0, 3071.0)
_SMOOTHING_PX = 0.7
_GREY_LEVELS = 32
_GREY_SPREAD = 4.0  # smoothing of the histograms in grey levels; wide, so that two greys part halfway between them
_UNSEEN_GREY = 0.02  # share of a histogram spread over all grey levels, so that none is impossible
_ROUNDS = 3
_SIZES_MM = np.geomspace(5, 60, 12)  # of the boxes in which a lesion of unknown size is looked for
_EDGE_MM = 1.0  # inside and outside of an outline, where its edge is judged
_EDGE_NOISE_HU = 10.0  # differences that come of noise, so that a flat outline does not seem clear


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


def box_around(slice_hu: np.ndarray, spacing: tuple[float, float], point: Point) -> Box:
    """The box that a reader would draw round the lesion at a point, of whatever size it is.

    Outlines are found in square boxes of many sizes round the point. Taken is the one that runs along the clearest
    edge: whose greys just inside differ most from those just outside, in the mean over the outline, beside the spread
    of that difference.

    Parameters
    ----------
    slice_hu: (rows, columns), the slice in HU.
    spacing: (si, sj), mm from column to column and from row to row.
    point: (i, j), continuous voxel index, somewhere near the middle of the lesion.

    Raises
    ------
    Refusal: the point lies outside the image.
    """
    halves = [size / 2 / np.array(spacing) for size in _SIZES_MM]
    rays = [_Rays(slice_hu, (*(point - half), *(point + half)), 0.0) for half in halves]
    outlines = [each.outline(radius) for each, radius in zip(rays, _outline_radii(rays))]
    smoothed = scipy.ndimage.gaussian_filter(
        np.clip(np.nan_to_num(slice_hu.astype(float)), *_HU_RANGE), _SMOOTHING_PX, mode="nearest"
    )
    clearest = max(outlines, key=lambda outline: _clearness(smoothed, spacing, outline))
    return hull(clearest, READER_MARGIN_MM / np.array(spacing))


def _clearness(slice_hu: np.ndarray, spacing: tuple[float, float], outline: np.ndarray) -> float:
    """How much greys differ across an outline (n, 2), in the mean, beside the spread of that difference."""
    outward = (outline - outline.mean(axis=0)) * spacing
    outward *= _EDGE_MM / np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-6) / spacing
    inside, outside = (
        scipy.ndimage.map_coordinates(slice_hu, (outline + way * outward).T[::-1], order=1, mode="nearest")
        for way in (-1, 1)
    )
    return abs((inside - outside).mean()) / ((inside - outside).std() + _EDGE_NOISE_HU)


def measure(slice_hu: np.ndarray, spacing: tuple[float, float], box: Box, margin_px: float = 5.0) -> Recist:
    """The RECIST axes of the lesion in a box, from its outline and the extent that the box leaves them.

    A line at an angle t to the rows fits in an extent of w x h mm when it is no longer than min(w / cos t, h / sin t).
    The long axis is the longest diameter of the outline so limited, but not less than the longer side where the extent
    has room for that; the short axis is the longest perpendicular chord, limited likewise.

    Parameters
    ----------
    slice_hu: (rows, columns), the key slice in HU.
    spacing: (si, sj), mm from column to column and from row to row.
    box: (x0, y0, x1, y1), continuous voxel index; clipped at the image's border.
    margin_px: pixels between the extent of the axes and the box; 5 in DeepLesion. A detector's own is
        `DETECTOR_MARGIN_MM`.

    Raises
    ------
    Refusal: the box lies outside the image, or has no area.
    """
    (recist,) = measure_each([(slice_hu, box)], spacing, margin_px)
    return recist


def measure_each(
    lesions: Sequence[tuple[np.ndarray, Box]], spacing: tuple[float, float], margin_px: float = 5.0
) -> list[Recist]:
    """`measure` for many lesions, each a key slice and a box, many times faster than one by one."""
    rays = [_Rays(slice_hu, box, margin_px) for slice_hu, box in lesions]
    return [
        axes_of_outline(each.outline(radius), spacing, _axes_extent(slice_hu.shape, box, margin_px))
        for each, radius, (slice_hu, box) in zip(rays, _outline_radii(rays), lesions)
    ]


def segment(slice_hu: np.ndarray, box: Box, margin_px: float = 5.0) -> Segmentation:
    """The outline and mask of the lesion in a box; parameters and errors as for `measure`.

    Of all outlines around the centre whose radius changes by at most one step from ray to ray, this is the one with the
    greatest integral over its inside of log(p(grey | lesion) / p(grey | surroundings)) + the prior's log odds. Both
    histograms are learnt from the slice itself and renewed with each outline.
    """
    rays = _Rays(slice_hu, box, margin_px)
    (radius,) = _outline_radii([rays])
    return rays.segmentation(radius)


def slices_spanned(
    volume_hu: np.ndarray, spacing: Sequence[float], k: int, box: Box, margin_px: float, long_mm: float
) -> tuple[int, int]:
    """The first and the last slice of a lesion that was marked on slice `k` alone, both included.

    From slice to slice it goes on while the greys inside its outline on `k` are nearer to those of the lesion there
    than to those of its surroundings, and no farther than half its long axis: lesions are about as high as they are
    long.

    Parameters
    ----------
    volume_hu: (k, j, i), HU.
    spacing: (si, sj, sk), mm.
    box, margin_px: as for `measure`.
    long_mm: the long axis on slice `k`.
    """
    found = segment(volume_hu[k], box, margin_px)
    (i, j), (rows, columns) = found.offset, found.mask.shape
    region = volume_hu[:, j : j + rows, i : i + columns]
    inside = found.mask >= 0.5
    if inside.all() or not inside.any():
        return k, k
    half_way = (region[k][inside].mean() + region[k][~inside].mean()) / 2
    brighter = region[k][inside].mean() > half_way
    reach = int(long_mm / 2 / spacing[2])

    def end(way: int) -> int:
        last = k
        for other in range(k + way, k + way * (reach + 1), way):
            if not 0 <= other < len(region) or (region[other][inside].mean() > half_way) != brighter:
                break
            last = other
        return last

    return end(-1), end(1)


def _clipped(shape: tuple[int, int], box: Box) -> Box:
    """The part of a box that lies in the image; Refusal when there is none."""
    rows, columns = shape
    x0, y0, x1, y1 = box
    clipped = (max(x0, -0.5), max(y0, -0.5), min(x1, columns - 0.5), min(y1, rows - 0.5))
    if not (clipped[0] < clipped[2] and clipped[1] < clipped[3]):
        raise Refusal(
            f"The box {tuple(box)} has no area inside the image of {columns} x {rows} pixels; give x0 y0 x1 y1 in "
            "pixels."
        )
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
    smoothed = scipy.ndimage.gaussian_filter(np.clip(around, *_HU_RANGE), _SMOOTHING_PX, mode="nearest")
    return smoothed[y0 - top : y1 + 1 - top, x0 - left : x1 + 1 - left], np.array([x0, y0])


class _Rays:
    """What the rays from the centre of one lesion's extent see, and what lies around it.

    Parameters as for `measure`. Radii are in units of the prior ellipse's.
    """

    def __init__(self, slice_hu: np.ndarray, box: Box, margin_px: float) -> None:
        extent = np.reshape(_axes_extent(slice_hu.shape, box, margin_px), (2, 2))
        self._centre, self._semi_axes = extent.mean(axis=0), (extent[1] - extent[0]) / 2
        self._bounds = np.reshape(_clipped(slice_hu.shape, box), (2, 2))
        crop, self._offset = _smoothed_crop(slice_hu, box)
        places = np.stack(np.meshgrid(*map(np.arange, crop.shape[::-1])), axis=-1) + self._offset
        in_radii = (places - self._centre) / self._semi_axes
        self._pixel_radius = np.hypot(in_radii[..., 0], in_radii[..., 1])
        self._pixel_angle = np.arctan2(in_radii[..., 1], in_radii[..., 0])
        outside = (np.abs(in_radii) > 1).any(axis=-1)
        self._outside_radius, self._outside_angle = self._pixel_radius[outside], self._pixel_angle[outside]

        samples = self._centre + _RADII[:, None] * (_DIRECTIONS * self._semi_axes)[:, None] - self._offset
        low, high = np.percentile(crop, [1, 99])
        grey = np.clip((crop - low) / max(high - low, 1.0), 0, 1) * (_GREY_LEVELS - 1)
        self._sampled = scipy.ndimage.map_coordinates(
            grey, np.moveaxis(samples, -1, 0)[::-1], order=1, mode="nearest"
        ).astype(int)
        self._beyond = ((samples < -0.5) | (samples > np.array(crop.shape[::-1]) - 0.5)).any(axis=-1)
        self._outside_grey = grey.astype(int)[outside]

    def log_odds(self, radius: np.ndarray) -> np.ndarray:
        """log(p(lesion) / p(surroundings)) at every sample (rays, radii), by the histograms inside and outside an
        outline (rays,)."""
        inside = radius[:, None] >= _RADII
        around = self._outside_radius > _GAP * _at_angle(radius, self._outside_angle)
        area = np.broadcast_to(_RADII, inside.shape)
        evidence = _log_histogram(self._sampled[inside], area[inside]) - _log_histogram(self._outside_grey[around])
        log_odds = evidence[self._sampled] + _PRIOR_LOG_ODDS * (1 - _RADII)
        log_odds[self._beyond] = -2 * _PRIOR_LOG_ODDS
        return log_odds

    def outline(self, radius: np.ndarray) -> np.ndarray:
        """The vertices (rays, 2) of an outline, (i, j) in continuous voxel index, within the box."""
        return np.clip(self._centre + radius[:, None] * _DIRECTIONS * self._semi_axes, *self._bounds)

    def segmentation(self, radius: np.ndarray) -> Segmentation:
        """An outline with its mask."""
        ray_px = np.hypot(
            self._semi_axes[0] * np.cos(self._pixel_angle), self._semi_axes[1] * np.sin(self._pixel_angle)
        )
        depth_px = (_at_angle(radius, self._pixel_angle) - self._pixel_radius) * ray_px
        return Segmentation(
            self.outline(radius), np.clip(depth_px + 0.5, 0, 1), (int(self._offset[0]), int(self._offset[1]))
        )


def _outline_radii(lesions: Sequence[_Rays]) -> np.ndarray:
    """The radius of each lesion's outline on each of its rays (lesions, rays)."""
    radii = np.full((len(lesions), _RAYS), _CORE)
    for _ in range(_ROUNDS):
        log_odds = np.stack([rays.log_odds(radius) for rays, radius in zip(lesions, radii)])
        radii = _RADII[_best_closed_paths(np.cumsum(log_odds * _RADII, axis=2))] + _RADII[0]
    return radii


def _at_angle(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """The radius that an outline has at any angle."""
    return np.interp(angle, _ANGLES, radius, period=2 * np.pi)


def _log_histogram(grey: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Logarithm of the smoothed share of each grey level."""
    counts = np.bincount(grey, weights, _GREY_LEVELS).astype(float)
    share = scipy.ndimage.gaussian_filter1d(counts, _GREY_SPREAD, mode="nearest") / max(counts.sum(), 1e-9)
    return np.log((1 - _UNSEEN_GREY) * share + _UNSEEN_GREY / _GREY_LEVELS)


def _best_closed_paths(score: np.ndarray) -> np.ndarray:
    """Of each of `score` (n, rays, radii) the radius index on every ray with the greatest sum, neighbours at most
    one step apart.

    Two turns of dynamic programming; the middle of the path feels neither end, so it closes.
    """
    count, rays, radii = score.shape
    step = np.empty((2 * rays, count, radii), np.int8)
    total = np.full((count, radii + 2), -np.inf)
    total[:, 1:-1] = score[:, 0]
    inner, same, outer = total[:, :-2], total[:, 1:-1], total[:, 2:]
    for ray in range(1, 2 * rays):
        best = np.maximum(inner, same)
        step[ray] = np.where(outer > best, 1, np.where(same > inner, 0, -1))
        total[:, 1:-1] = np.maximum(best, outer) + score[:, ray % rays]
    each = np.arange(count)
    path = np.empty((2 * rays, count), int)
    path[-1] = same.argmax(axis=1)
    for ray in range(2 * rays - 1, 0, -1):
        path[ray - 1] = path[ray] + step[ray, each, path[ray]]
    middle = np.arange(rays // 2, rays // 2 + rays)
    closed = np.empty((count, rays), int)
    closed[:, middle % rays] = path[middle].T
    return closed
