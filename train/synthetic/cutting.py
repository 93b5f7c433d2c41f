"""Real lesions cut out of their slices, turned, scaled and bent."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.measure.margins import DETECTOR_MARGIN_MM, pixels
from LesionDetectorLib.measure.outline import segment
from scipy import ndimage as ndi

from train.data.deeplesion import MARKED, KeySlice
from train.data.part_marked import tight

LUNG_HU = -500.0
AIR_HU = -250.0
MARGIN_MM = 10.0
"""Round a lesion, what is cut out with it."""
RING_MM = (1.0, 6.0)
"""Beyond a lesion's outline, what it lies in."""
SURROUNDED = 0.6
"""Share of lung among what lies round a nodule that can be pasted."""
SMOOTH_MM = 0.8
"""Takes most of the noise from a lesion, which gets that of where it is pasted."""
BEND = 0.06
"""Standard deviation of the elastic deformation, in half sizes of the lesion."""
LEVELS = {BodyPart.LUNG: (-1100.0, LUNG_HU), BodyPart.BONE: (100.0, 1600.0)}
SOFT = (0.0, 250.0)
"""HU of what a lesion of each label lies in; of soft tissue for the labels that are not named."""
LEAST_OF_LEVEL = 0.25
SOLID_HU = 150.0
"""Above lung, in the mean of a nodule; an outline round less is that of a bulla, or missed the nodule."""


@dataclass(frozen=True, eq=False)
class RealLesion:
    """A lesion with what lies round it.

    hu: (k, j, i) float32, in lung as it is, else of the lesion alone, without its noise; key: the slice on which it is
    marked; depth_mm: (j, i), how far inside its outline there, negative outside; spacing: mm along i, j, k; owner: the
    patient; level: HU of the tissue that it lies in, None where there is little of it (fat, air).
    """

    hu: np.ndarray
    key: int
    depth_mm: np.ndarray
    spacing: tuple[float, float, float]
    label: BodyPart
    owner: str
    level: float | None

    @property
    def amid_lung(self) -> bool:
        return self.label == BodyPart.LUNG

    @property
    def mean(self) -> float:
        """HU of the lesion on its slice."""
        return float(self.hu[self.key][self.depth_mm > 0].mean())


@dataclass(frozen=True, eq=False)
class Patch:
    """A lesion on the pixels of another CT: hu (k, j, i), depth_mm (j, i) as in `RealLesion`; there: (j, i), 1 where
    its slice showed something, 0 beyond."""

    hu: np.ndarray
    depth_mm: np.ndarray
    there: np.ndarray

    def cropped(self, shown: np.ndarray) -> Patch:
        """The smallest part that holds all of the mask `shown` (j, i)."""
        rows, columns = (np.flatnonzero(shown.any(axis)) for axis in (1, 0))
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        return Patch(self.hu[(slice(None), *window)], self.depth_mm[window], self.there[window])


def lesions_of(key_slice: KeySlice, labels: Collection[BodyPart]) -> list[RealLesion]:
    """The lesions of these labels marked on a slice that can be cut out: nodules amid lung, and what holds no air."""
    wanted = np.isin(key_slice.labels, list(labels)) & key_slice.of(MARKED)
    if not wanted.any():
        return []
    hu, key = key_slice.read()
    marked = zip(tight(key_slice)[wanted], key_slice.labels[wanted])
    cut = [_cut(hu.astype(np.float32), key, box, BodyPart(label), key_slice) for box, label in marked]
    return [lesion for lesion in cut if lesion is not None]


def changed(lesion: RealLesion, spacing: Sequence[float], scale: float, rng: np.random.Generator) -> Patch:
    """The lesion turned, mirrored, scaled and a little bent, on pixels of `spacing` mm."""
    sides = np.array(lesion.depth_mm.shape) * lesion.spacing[1::-1]
    half = np.ceil(np.hypot(*sides) / 2 * scale / np.array(spacing[1::-1])).astype(int)
    y, x = np.mgrid[-half[0] : half[0] + 1, -half[1] : half[1] + 1] * np.reshape(spacing[1::-1], (2, 1, 1))
    bend_y, bend_x = _bend((2, *y.shape), float(lesion.depth_mm.max()) * scale, spacing, rng)
    y, x = y + bend_y, x + bend_x
    angle, mirror = rng.uniform(0, 2 * np.pi), rng.choice((-1, 1))
    turned = np.cos(angle) * y - np.sin(angle) * x, mirror * (np.sin(angle) * y + np.cos(angle) * x)
    middle = (np.array(lesion.depth_mm.shape) - 1) / 2
    places = [centre + mm / scale / side for centre, mm, side in zip(middle, turned, lesion.spacing[1::-1])]
    coarser = spacing[0] / (scale * lesion.spacing[0])
    blur = 0.5 * np.sqrt(max(coarser**2 - 1, 0))  # so that larger pixels hold means
    planes = ndi.gaussian_filter(lesion.hu, (0, blur, blur))
    hu = np.stack([ndi.map_coordinates(plane, places, order=1, mode="nearest") for plane in planes])
    depth = ndi.map_coordinates(lesion.depth_mm, places, order=1, mode="nearest") * scale
    there = ndi.map_coordinates(_to_edge(lesion.depth_mm.shape), places, order=1, mode="constant")
    return Patch(hu, depth, there)


def level_of(hu: np.ndarray, label: BodyPart) -> float | None:
    """The median HU of the tissue of a label among the pixels `hu`, None where it is less than a quarter of them."""
    low, high = LEVELS.get(label, SOFT)
    tissue = hu[(hu > low) & (hu < high)]
    return float(np.median(tissue)) if tissue.size and tissue.size >= LEAST_OF_LEVEL * hu.size else None


def _cut(hu: np.ndarray, key: int, box: np.ndarray, label: BodyPart, key_slice: KeySlice) -> RealLesion | None:
    """The lesion in a tight box, which ends at the edges of pixels; None where it cannot be cut out."""
    spacing = key_slice.spacing
    mask = _mask(hu[key], box, spacing)
    rows, columns = _round(box, spacing, hu.shape)
    if not mask.any() or (box[:2] < 1).any() or (box[2:] > np.array(hu.shape[:0:-1]) - 1).any():
        return None  # a lesion that the edge of the picture cuts off
    mask, around = mask[rows, columns], hu[:, rows, columns]
    depth = _depth(mask, spacing)
    ring = around[key][(depth < -RING_MM[0]) & (depth > -RING_MM[1])]
    level = level_of(ring, label)
    if label == BodyPart.LUNG:
        if (ring < LUNG_HU).sum() < max(SURROUNDED * ring.size, 1) or around[key][mask].mean() < level + SOLID_HU:
            return None
    elif (around[key][mask] < AIR_HU).any():
        return None
    else:
        around = _alone(around, depth, spacing)
    return RealLesion(around, key, depth, spacing, label, key_slice.owner, level)


def _mask(section: np.ndarray, box: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The lesion in a box that ends at the edges of pixels, as a mask of its slice."""
    margin = pixels(DETECTOR_MARGIN_MM, spacing)
    found = segment(section, tuple(box - 0.5 + np.array([-margin, -margin, margin, margin])), margin)
    mask = np.zeros(section.shape, bool)
    (i, j), (rows, columns) = found.offset, found.mask.shape
    mask[j : j + rows, i : i + columns] = found.mask >= 0.5
    x0, y0, x1, y1 = np.maximum(np.round(box), 0).astype(int)
    inside = np.zeros_like(mask)
    inside[y0:y1, x0:x1] = True
    return mask & inside


def _round(box: np.ndarray, spacing: Sequence[float], shape: Sequence[int]) -> tuple[slice, slice]:
    """The rows and columns of the box and MARGIN_MM on every side, as far as the slice reaches."""
    margin = MARGIN_MM / np.array(spacing[:2])
    first = np.maximum(np.floor(box[:2] - margin), 0).astype(int)
    end = np.minimum(np.ceil(box[2:] + margin), shape[:0:-1]).astype(int)
    return slice(first[1], end[1]), slice(first[0], end[0])


def _depth(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    sampling = spacing[1::-1]
    inside, outside = (ndi.distance_transform_edt(part, sampling=sampling) for part in (mask, ~mask))
    half = min(sampling) / 2
    return np.where(mask, inside - half, half - outside).astype(np.float32)


def _alone(hu: np.ndarray, depth: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The lesion's own HU, smoothed, and beyond its outline what is nearest of it, so that it brings no surroundings.

    Its rim, half of which is surroundings, counts little.
    """
    weight = np.clip(depth, 0.05, 1) * (depth > 0)
    sigma = SMOOTH_MM / spacing[0]
    total = ndi.gaussian_filter(weight, sigma)
    rows, columns = ndi.distance_transform_edt(total < 0.1 * total.max(), return_distances=False, return_indices=True)
    smooth = [ndi.gaussian_filter(plane * weight, sigma) / np.maximum(total, 1e-6) for plane in hu]
    return np.stack(smooth)[:, rows, columns].astype(np.float32)


def _to_edge(shape: Sequence[int]) -> np.ndarray:
    """1 within a picture, falling to 0 over the last two pixels (rows, columns)."""
    y, x = (np.minimum(np.arange(size), np.arange(size)[::-1]) for size in shape)
    return np.clip(np.minimum(y[:, None], x) / 2, 0, 1)


def _bend(
    shape: tuple[int, int, int], half_mm: float, spacing: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """A smooth random displacement in mm, of BEND half sizes."""
    sigma = 0.6 * half_mm / np.array(spacing[1::-1])
    field = ndi.gaussian_filter(rng.normal(size=shape), (0, *sigma))
    return BEND * half_mm * field / max(float(field.std()), 1e-9)
