"""Real lesions put into the same organ or tissue of other patients' CT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from LesionDetectorLib.lesion import BodyPart
from scipy import ndimage as ndi

from train.synthetic.cutting import LUNG_HU, Patch, RealLesion, changed, level_of
from train.synthetic.noise import noise_like

WALL_HU = -400.0
FEATHER_MM = (4.0, 8.0)
"""Over which the lung round a nodule, which comes along, passes into the other lung."""
EDGE_MM = 0.8
"""Half the width of the edge of a lesion that comes alone."""
SCALE = (0.7, 1.4)
NODULE_SCALE = (0.75, 1.35)
MASS_SCALE = (1.35, 2.2)
MASSES = 0.2
"""Share of the lung nodules that are made larger, some of them masses."""
LEAST_LUNG_MM2 = 1500.0
MEAN_LUNG_HU = (-950.0, -600.0)
LUNG_FIT = 0.5
BORDER_FIT = 0.1
AT_THE_BORDER = 0.25
"""Share of the lung nodules that may lie with their middle at the pleura or the mediastinum."""
LEAST_MM = 4.0
LEAST_PX = 2
MOST_SHIFT = 60.0
"""HU, between two contrast phases."""
FAT_SHIFT = 20.0
LEAST_CONTRAST = 12.0
SPOTS = 6
DENSE, AIR = 300.0, -250.0
MOST_FOREIGN = 0.02
MOST_UNEVEN = {BodyPart.KIDNEY: 0.35, BodyPart.LUNG: 0.25, BodyPart.MEDIASTINUM: 0.25, BodyPart.BONE: 1.0}
"""Share of a place that may be vessels, or else unlike the rest of it."""
LEAST_INSIDE = {BodyPart.LUNG: 0.5, BodyPart.MEDIASTINUM: 0.65}
"""Share of a lesion that must lie in its tissue, where it may abut others."""
CANAL = 80.0
"""HU below which the inside of a bony ring is the spinal canal or a joint, not marrow."""
MOST_BRIGHTER = 60.0
"""HU by which a lesion exceeds its organ; what does by more had another organ, or none, round it."""


@dataclass(frozen=True, eq=False)
class Tissue:
    """What may hold lesions of one label on a slice.

    room_mm: (j, i), distance to its edge, 0 outside; fit: how much of a lesion's inner radius must lie inside; in_dark:
    it is fat, in which vessels and walls stay visible.
    """

    label: BodyPart
    room_mm: np.ndarray
    fit: float = LUNG_FIT
    in_dark: bool = False


@dataclass(eq=False)
class Slab:
    """A slice and those beside it, in which lesions are pasted.

    hu: (k, j, i) float32; key: the slice; spacing: mm along i, j, k; taken: boxes (x0, y0, x1, y1) at the edges of
    pixels where nothing must be pasted; noise: amplitude spectrum and correlation from slice to slice
    (`noise.noise_of`), which only lesions outside of lungs want.
    """

    hu: np.ndarray
    key: int
    spacing: tuple[float, float, float]
    taken: list[np.ndarray] = field(default_factory=list)
    noise: tuple[np.ndarray, float] | None = None


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


def paste(slab: Slab, lesion: RealLesion, tissue: Tissue, rng: np.random.Generator) -> np.ndarray | None:
    """Put `lesion` somewhere into `tissue` of the key slice, and of the slices beside it.

    Returns its tight box (x0, y0, x1, y1) at the edges of pixels, now among `taken`; or None, and the slab as it was,
    where there is no room for it, vessels or one of the boxes `taken` are in its way, or it could not be seen.
    """
    patch = changed(lesion, slab.spacing, _scale(lesion, rng), rng)
    outer, inner = (rng.uniform(*FEATHER_MM), 0.0) if lesion.amid_lung else (_edge_mm(slab),) * 2
    patch = patch.cropped((patch.depth_mm > -outer) & (patch.there > 0))
    core, radius = patch.depth_mm > 0, float(patch.depth_mm.max())
    fit = BORDER_FIT if lesion.amid_lung and rng.random() < AT_THE_BORDER else tissue.fit
    spots = np.argwhere(tissue.room_mm >= max(fit * radius, 2.0))
    if not len(spots):
        return None
    for centre in spots[rng.integers(len(spots), size=SPOTS)]:
        corner = centre - np.round([(np.flatnonzero(core.any(axis))[[0, -1]]).mean() for axis in (1, 0)]).astype(int)
        rows, columns = (slice(first, first + size) for first, size in zip(corner, core.shape))
        window = rows, columns
        if (corner < 0).any() or (corner + core.shape > slab.hu.shape[1:]).any():
            continue
        if not _suits(slab.hu[slab.key][window], core, tissue, tissue.room_mm[window]):
            continue
        box = _painted(slab, window, lesion, tissue, patch, (outer, inner), rng)
        if box is not None:
            slab.taken.append(box)
            return box
    return None


def _painted(
    slab: Slab,
    window: tuple[slice, slice],
    lesion: RealLesion,
    tissue: Tissue,
    patch: Patch,
    edge_mm: tuple[float, float],
    rng: np.random.Generator,
) -> np.ndarray | None:
    """Paint the patch into a window (rows, columns) of the slab and return its box; None, and no paint, if it cannot be
    seen, is tiny, or is in the way of another."""
    before = slab.hu[(slice(None), *window)]
    inside = tissue.room_mm[window] > 0
    shift = _shift(before[slab.key][inside], tissue, lesion, rng)
    if shift is None:
        return None
    noise = noise_like(rng, before.shape, *slab.noise) if slab.noise and not lesion.amid_lung else np.zeros(1)
    painted = before.copy()
    for k, z in enumerate((np.arange(len(before)) - slab.key) * slab.spacing[2]):
        alpha = _alpha(patch, z, edge_mm, len(lesion.hu) == 1)
        source = patch.hu[np.clip(lesion.key + round(z / lesion.spacing[2]), 0, len(patch.hu) - 1)]
        source = source + shift * (_darkness(source) if lesion.amid_lung else 1) + noise[k % len(noise)]
        painted[k] = _blended(before[k], np.maximum(source, -1024), alpha, tissue)
    core = patch.depth_mm > 0
    shown = core & (before[slab.key] <= (WALL_HU if lesion.amid_lung else painted[slab.key]) + 1e-3)
    if not tissue.in_dark and not lesion.amid_lung:
        shown = core
    round_it = (patch.depth_mm < -0.5) & inside
    if shown.sum() < 0.5 * core.sum() or not _is_seen(before[slab.key], painted[slab.key], shown, round_it, slab):
        return None
    box = _box(shown, window)
    sides = box[2:] - box[:2]
    if (sides * slab.spacing[:2]).max() < LEAST_MM or sides.min() < LEAST_PX:
        return None
    if any(_near(box, other) for other in slab.taken):
        return None
    slab.hu[(slice(None), *window)] = painted
    return box


def _scale(lesion: RealLesion, rng: np.random.Generator) -> float:
    if lesion.amid_lung and rng.random() < MASSES:
        return rng.uniform(*MASS_SCALE)
    return rng.uniform(*(NODULE_SCALE if lesion.amid_lung else SCALE))


def _edge_mm(slab: Slab) -> float:
    return max(EDGE_MM, 0.75 * slab.spacing[0])


def _suits(before: np.ndarray, core: np.ndarray, tissue: Tissue, room_mm: np.ndarray) -> bool:
    """Whether a lesion may lie on the pixels `core` of a window: within its tissue, and on no vessel or air."""
    inside = core & (room_mm > 0)
    if inside.sum() < LEAST_INSIDE.get(tissue.label, (1 + tissue.fit) / 2) * core.sum():
        return False
    smooth = ndi.gaussian_filter(before, 1.0)
    if tissue.label == BodyPart.LUNG:
        foreign, uneven = np.zeros_like(core), smooth > WALL_HU
    elif tissue.label == BodyPart.BONE:
        foreign, uneven = smooth < CANAL, np.zeros_like(core)
    else:
        foreign = (smooth < AIR) | (smooth > DENSE)
        uneven = smooth > -20 if tissue.in_dark else np.abs(smooth - np.median(smooth[inside])) > 40
    uneven_share = uneven[inside].mean()
    return foreign[core].mean() <= MOST_FOREIGN and uneven_share <= MOST_UNEVEN.get(tissue.label, 0.12)


def _shift(hu: np.ndarray, tissue: Tissue, lesion: RealLesion, rng: np.random.Generator) -> float | None:
    """HU to add to a lesion in a tissue with the pixels `hu`; None where that is not known."""
    if tissue.in_dark:
        return rng.uniform(-FAT_SHIFT, FAT_SHIFT)  # fat tells nothing of the contrast phase
    here = level_of(hu, tissue.label)
    if lesion.level is None or here is None:
        return None
    if lesion.label == BodyPart.LUNG:
        return here - lesion.level
    too_bright = lesion.label != BodyPart.BONE and lesion.mean > lesion.level + MOST_BRIGHTER
    return None if too_bright else float(np.clip(here - lesion.level, -MOST_SHIFT, MOST_SHIFT))


def _darkness(hu: np.ndarray) -> np.ndarray:
    """1 for lung, 0 for what is solid: a nodule is no darker in emphysema."""
    return np.clip((hu + 100) / (LUNG_HU + 100), 0, 1)


def _alpha(patch: Patch, away_mm: float, edge_mm: tuple[float, float], is_ball: bool) -> np.ndarray:
    """How much of the patch shows on a slice so far from its own (rows, columns). A lesion whose neighbouring slices
    are not known, `is_ball`, ends as a ball does; any other at half its size."""
    radius, (outer, inner) = float(patch.depth_mm.max()), edge_mm
    if abs(away_mm) > max(radius, 2.0):
        return np.zeros_like(patch.depth_mm)
    smaller = radius - np.sqrt(max(radius**2 - away_mm**2, 0)) if is_ball else 0.0
    shown = np.clip((patch.depth_mm - smaller + outer) / (outer + inner), 0, 1) * patch.there
    return 3 * shown**2 - 2 * shown**3


def _blended(before: np.ndarray, source: np.ndarray, alpha: np.ndarray, tissue: Tissue) -> np.ndarray:
    """`source` over `before`; the lung round a nodule rubs out no wall, and a lesion in fat no vessel."""
    mixed = before + alpha * (source - before)
    if tissue.in_dark:
        return np.maximum(before, mixed)
    return np.where((before > WALL_HU) & (tissue.label == BodyPart.LUNG), np.maximum(before, mixed), mixed)


def _is_seen(before: np.ndarray, after: np.ndarray, shown: np.ndarray, round_it: np.ndarray, slab: Slab) -> bool:
    """Whether the lesion differs from its tissue `round_it`, and from what was there, by more than noise."""
    least = LEAST_CONTRAST
    if slab.noise is not None:
        noise = noise_like(np.random.default_rng(0), (1, 64, 64), *slab.noise)[0]
        least = max(least, 2 * float(ndi.gaussian_filter(noise, 1.0).std()))
    contrast = after[shown].mean() - np.median(before[round_it if round_it.any() else shown])
    return abs(contrast) >= least and abs((after - before)[shown].mean()) >= least


def _box(shown: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
    rows, columns = (np.flatnonzero(shown.any(axis))[[0, -1]] for axis in (1, 0))
    top, left = window[0].start, window[1].start
    return np.array([left + columns[0], top + rows[0], left + columns[1] + 1, top + rows[1] + 1], float)


def _near(box: np.ndarray, other: np.ndarray) -> bool:
    gap = np.maximum(box[:2], other[:2]) - np.minimum(box[2:], other[2:])
    return bool((gap < 6).all())
