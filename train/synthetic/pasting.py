"""Real lung nodules put into the lungs of other patients' CT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from LesionDetectorLib.lesion import BodyPart
from scipy import ndimage as ndi

from train.data.deeplesion import KeySlice
from train.data.part_marked import tight

LUNG_HU = -500.0
WALL_HU = -400.0
SURROUNDED = 0.6
"""Share of lung among what lies round a nodule that can be pasted."""
RING_MM = 6.0
FEATHER_MM = (4.0, 8.0)
SCALE = (0.75, 1.35)
LEAST_LUNG_MM2 = 1500.0
MEAN_LUNG_HU = (-950.0, -600.0)
FIT = 0.5
"""How much of half a nodule's size must be lung at its new centre: below 1 it may touch the pleura."""


@dataclass(frozen=True, eq=False)
class Nodule:
    """A nodule with what lies round it.

    hu: (k, j, i) float32; key: the slice on which it is marked; box: (x0, y0, x1, y1) at the edges of pixels, tight;
    spacing: mm along i, j, k.
    """

    hu: np.ndarray
    key: int
    box: np.ndarray
    spacing: tuple[float, float, float]

    def round_it(self, margin_mm: float) -> tuple[slice, slice]:
        """The rows and columns of the box and `margin_mm` on every side, as far as the slice reaches."""
        margin = margin_mm / self.spacing[0]
        first = np.maximum(np.floor(self.box[:2] - margin), 0).astype(int)
        end = np.minimum(np.ceil(self.box[2:] + margin), self.hu.shape[:0:-1]).astype(int)
        return slice(first[1], end[1]), slice(first[0], end[0])


def nodules_of(key_slice: KeySlice) -> list[Nodule]:
    """The lung nodules marked on a slice that lie amid lung."""
    boxes = tight(key_slice)[key_slice.labels == BodyPart.LUNG]
    if not len(boxes):
        return []
    hu, key = key_slice.read()
    found = [Nodule(hu.astype(np.float32), key, box, key_slice.spacing) for box in boxes]
    return [nodule for nodule in found if _surroundings(nodule).size and _lung_share(nodule) >= SURROUNDED]


def room_in_lungs(section: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance in mm from inside the lungs of a slice (rows, columns) of HU to their edge, 0 outside of them.

    Lungs are large dark parts of the body, the largest thing on the slice, that are not as dark as air.
    """
    tissue, parts = ndi.label(ndi.binary_opening(section > LUNG_HU, iterations=2))
    if not parts:
        return np.zeros(section.shape)
    body = tissue == np.bincount(tissue.ravel())[1:].argmax() + 1
    inside = ndi.binary_fill_holes(body) & ~body
    labels, count = ndi.label(ndi.binary_opening(inside & (section < LUNG_HU), iterations=2))
    if not count:
        return np.zeros(section.shape)
    numbers = np.arange(1, count + 1)
    areas = ndi.sum_labels(np.ones_like(labels), labels, numbers) * spacing[0] * spacing[1]
    means = ndi.mean(section, labels, numbers)
    lungs = numbers[(areas >= LEAST_LUNG_MM2) & (means > MEAN_LUNG_HU[0]) & (means < MEAN_LUNG_HU[1])]
    mask = ndi.binary_closing(np.isin(labels, lungs), iterations=3)
    return ndi.distance_transform_edt(mask, sampling=(spacing[1], spacing[0]))


def paste(
    slab: np.ndarray,
    key: int,
    spacing: tuple[float, float, float],
    nodule: Nodule,
    room_mm: np.ndarray,
    taken: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray | None:
    """Put `nodule` somewhere into the lungs of slice `key` of `slab` (k, j, i) float32 HU, and of the slices beside it.

    Returns its box (x0, y0, x1, y1) at the edges of pixels, or None, and the slab as it was, where there is no room
    for it or one of the boxes `taken` is in its way. `room_mm` is `room_in_lungs` of the key slice.
    """
    scale, feather = rng.uniform(*SCALE), rng.uniform(*FEATHER_MM)
    patch, alpha, box = _patch(nodule, scale * nodule.spacing[0] / spacing[0], feather / spacing[0], rng)
    half_mm = max(box[2:] - box[:2]) / 2 * spacing[0]
    spots = np.argwhere(room_mm >= max(FIT * half_mm, 2.0))
    if not len(spots):
        return None
    centre = spots[rng.integers(len(spots))]
    corner = centre - np.round((box[1::2].mean(), box[::2].mean())).astype(
        int
    )  # row, column of the patch's first pixel
    placed = box + np.tile(corner[::-1], 2)
    rows, columns = patch.shape[1:]
    inside = (corner >= 0).all() and (corner <= np.subtract(slab.shape[1:], (rows, columns))).all()
    if not inside or any(_near(placed, other) for other in taken):
        return None
    window = slice(corner[0], corner[0] + rows), slice(corner[1], corner[1] + columns)
    lung = slab[key][window][room_mm[window] > 0]
    surroundings = _surroundings(nodule)
    shift = np.median(lung) - np.median(surroundings[surroundings < LUNG_HU])
    for k in range(len(slab)):
        away_mm = (k - key) * spacing[2]
        if abs(away_mm) <= max(half_mm, 2.0):
            source = patch[np.clip(nodule.key + round(away_mm / nodule.spacing[2]), 0, len(patch) - 1)] + shift
            slab[k][window] = _blended(slab[k][window], np.maximum(source, -1024), alpha)
    return placed


def _patch(
    nodule: Nodule, zoom: float, feather: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nodule cut out, turned and scaled: HU (k, rows, columns), how much of it shows (rows, columns), and its
    box in pixels of that."""
    rows, columns = nodule.round_it(FEATHER_MM[1] + 2)
    hu = nodule.hu[:, rows, columns]
    box = nodule.box - (columns.start, rows.start, columns.start, rows.start)
    width = hu.shape[2]
    if rng.random() < 0.5:
        hu, box = hu[:, :, ::-1], np.array([width - box[2], box[1], width - box[0], box[3]])
    for _ in range(rng.integers(4)):
        width = hu.shape[2]
        hu, box = np.rot90(hu, axes=(1, 2)), np.array([box[1], width - box[2], box[3], width - box[0]])
    scaled = ndi.zoom(hu, (1, zoom, zoom), order=1, mode="nearest", grid_mode=True)
    factor = np.array(scaled.shape[:0:-1]) / hu.shape[:0:-1]
    box = box * np.tile(factor, 2)
    y, x = (np.arange(size) + 0.5 for size in scaled.shape[1:])
    beside = np.maximum(np.maximum(box[0] - x, x - box[2]), 0)
    above = np.maximum(np.maximum(box[1] - y, y - box[3]), 0)[:, None]
    to_edge = np.minimum(np.minimum(x, x[::-1]), np.minimum(y, y[::-1])[:, None])
    shown = np.clip(1 - np.hypot(beside, above) / feather, 0, 1) * np.clip(to_edge / 2, 0, 1)
    return scaled, (3 * shown**2 - 2 * shown**3), box


def _blended(before: np.ndarray, source: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`source` over `before`; a wall that is there already is not rubbed out by the lung round a nodule."""
    mixed = before + alpha * (source - before)
    return np.where(before > WALL_HU, np.maximum(before, mixed), mixed)


def _near(box: np.ndarray, other: np.ndarray) -> bool:
    gap = np.maximum(box[:2], other[:2]) - np.minimum(box[2:], other[2:])
    return bool((gap < 6).all())


def _surroundings(nodule: Nodule) -> np.ndarray:
    """HU of what lies round the nodule on its slice."""
    section, mask = nodule.hu[nodule.key], np.zeros(nodule.hu.shape[1:], bool)
    mask[nodule.round_it(RING_MM)] = True
    mask[nodule.round_it(1.0)] = False
    return section[mask]


def _lung_share(nodule: Nodule) -> float:
    return float((_surroundings(nodule) < LUNG_HU).mean())
