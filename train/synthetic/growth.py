"""How a lesion grows in real anatomy: what it pushes away and may replace, and whether it would sit on a vessel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from LesionDetectorLib.lesion import BodyPart
from scipy import ndimage as ndi

from train.synthetic.lesions import SyntheticLesion
from train.synthetic.shapes import Array

MOST_PUSH_MM = 12.0
FADE_MM = 30.0
FIRM_HU = 300.0
AIR_HU = -300.0
LUNG_HU = -350.0
SMALL_MM = 15.0
"""Short axis below which a lesion must lie off the vessels, and leaves the solid neighbours in fat alone."""
VESSEL_HU = {BodyPart.LUNG: 200.0, BodyPart.LIVER: 30.0, BodyPart.MEDIASTINUM: 60.0, BodyPart.ABDOMEN: 60.0}
"""How much brighter than its surroundings a vessel is."""


def push(slab: Array, lesion: SyntheticLesion, share: float, spacing: tuple[float, float, float]) -> Array:
    """`slab` (k, j, i) with the anatomy round the lesion moved outward, as if the lesion had grown there.

    A ball of `share` (0..1) of the lesion's radius is made room for, volume-true, but nothing moves more than
    MOST_PUSH_MM. The shift fades over about the lesion's radius and is nought beyond; bone stays.
    """
    size = float(np.mean(lesion.axes_mm))
    share = min(share, (1 - max(0.0, 1 - MOST_PUSH_MM / size) ** 3) ** (1 / 3), 0.97)
    if share <= 0.05:
        return slab
    reach = 1 + min(1.2, FADE_MM / size)
    x, y, z = (np.arange(n, dtype=np.float32) * np.float32(mm) for n, mm in zip(slab.shape[::-1], spacing))
    window = _window(lesion, reach, (x, y, z))
    x, y, z = x[window[2]], y[window[1]][:, None], z[window[0]][:, None, None]
    none = np.zeros((0, 5), np.float32)
    radius = replace(lesion, fronds=none, spicules=none).radius(x, y, z)
    factor = _shift(radius, share, reach) * _movable(slab[window], spacing)
    origin = [centre / mm - w.start for centre, mm, w in zip(lesion.centre_mm[::-1], spacing[::-1], window)]
    grids = np.ogrid[tuple(slice(0, size) for size in factor.shape)]
    source = [grid - factor * (grid - start) for grid, start in zip(grids, origin)]
    pushed = slab.copy()
    resampled = ndi.map_coordinates(slab[window], source, order=3, mode="nearest")  # cubic, for it keeps the noise
    pushed[window] = np.where(factor > 0, resampled, slab[window])
    return pushed


def _window(lesion: SyntheticLesion, reach: float, axes: tuple[Array, Array, Array]) -> tuple[slice, slice, slice]:
    """The part (k, j, i) of the grid that may move."""
    slices = []
    for values, centre, half in zip(axes[::-1], lesion.centre_mm[::-1], lesion.extent_mm[::-1]):
        near = np.flatnonzero(np.abs(values - centre) <= reach * half)
        slices.append(slice(int(near[0]), int(near[-1]) + 1))
    return slices[0], slices[1], slices[2]


def _shift(radius: Array, share: float, reach: float) -> Array:
    """Share of its distance from the centre by which the tissue at a relative radius came outward."""
    outside = np.maximum(radius, 1)
    shift = outside - np.cbrt(outside**3 - share**3)
    fade = np.clip((reach - outside) / (0.6 * (reach - 1)), 0, 1)
    return shift * fade**2 * (3 - 2 * fade) / outside


def _movable(hu: Array, spacing: tuple[float, float, float]) -> Array:
    """0 in bone to 1 some mm away from it."""
    sigma = [4.0 / mm for mm in spacing[::-1]]
    firm = ndi.gaussian_filter((hu > FIRM_HU).astype(np.float32), sigma, mode="nearest", truncate=2.5)
    return np.clip(1 - 2.5 * firm, 0, 1)


def replaceable(
    before: Array, within: Array, lesion: SyntheticLesion, in_dark: bool, background: float, spacing: tuple
) -> Array:
    """How much (0..1) of the tissue `before` (k, j, i) a lesion may replace.

    In the lung, air and the vessels in it, not the wall; in bone, bone; in fat, a small one only fat and thin strands;
    elsewhere all but bone, large vessels full of contrast and air. `within`: 0..1 likewise, where its organ may reach.
    """
    pixel = spacing[0]
    smooth = ndi.gaussian_filter(before, (0, 0.8 / pixel, 0.8 / pixel))
    if lesion.body_part == BodyPart.LUNG:
        free = _box(ndi.grey_closing, smooth < LUNG_HU, 9.0, pixel)
    elif lesion.body_part == BodyPart.BONE:
        return within
    else:
        bright = max(200.0, background + 80)
        if in_dark and 2 * min(lesion.axes_mm[:2]) < SMALL_MM:
            bright = (background + lesion.tissue_hu) / 2
        free = (smooth > AIR_HU) & ~_box(ndi.grey_opening, smooth > bright, 4.0, pixel)
    return within * ndi.gaussian_filter(free.astype(np.float32), (0, 0.5 / pixel, 0.5 / pixel))


def _box(operation, mask: Array, width_mm: float, pixel: float) -> Array:
    width = 2 * round(width_mm / pixel / 2) + 1
    return operation(mask.astype(np.uint8), (1, width, width), mode="nearest") > 0


def on_vessel(section: Array, centre: Array, part: BodyPart, pixel: float) -> bool:
    """Whether something narrow and bright lies within 2.5 mm of `centre` (j, i) of a slice.

    That is what a white top-hat, wider than a vessel, leaves of the smoothed slice. False for labels whose lesions need
    not keep off vessels.
    """
    if part not in VESSEL_HU:
        return False
    half, near = round(14 / pixel), round(2.5 / pixel)
    j, i = (round(float(value)) for value in centre)
    top, left = max(0, j - half), max(0, i - half)
    crop = section[top : j + half + 1, left : i + half + 1].astype(np.float32)
    smooth = ndi.gaussian_filter(crop, (1.5 if part == BodyPart.LIVER else 0.8) / pixel)
    narrow = smooth - ndi.grey_opening(smooth, (2 * round(5 / pixel) + 1,) * 2, mode="nearest")
    j, i = j - top, i - left
    return bool(narrow[max(0, j - near) : j + near + 1, max(0, i - near) : i + near + 1].max() > VESSEL_HU[part])
