"""Synthetic lesions put into real CT."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from LesionDetectorLib.ct import CTError, Volume
from LesionDetectorLib.lesion import BodyPart, Recist
from scipy import ndimage as ndi

from train.synthetic.growth import SMALL_MM, on_vessel, push, replaceable
from train.synthetic.lesions import SyntheticLesion, recist_of, sample, sample_size
from train.synthetic.noise import PATCH, noise_like, noise_of
from train.synthetic.places import Body, Place, find_places
from train.synthetic.tumours import as_tumour

WEIGHTS = dict.fromkeys(BodyPart, 1.0) | {BodyPart.MEDIASTINUM: 1.6, BodyPart.LIVER: 1.6, BodyPart.LUNG: 1.3}
COARSEST_MM = 1.2
LEAST_CONTRAST = 12.0
LARGE_MM = (30.0, 90.0)
BULGE = 0.5
"""How much of a place's `fit` a large lesion needs, or one of half the others that bulge beyond it."""
LEAST_LEFT = 0.4
"""Share of its section that must be left of a lesion where it meets what it may not replace."""
TRIES = 12


@dataclass(frozen=True, eq=False)
class Scan:
    """A CT prepared for insertion: slices run from head to feet (k), pixels are COARSEST_MM or finer.

    hu: (k, j, i) int16; spacing: mm along i, j, k; body: its places on a coarse grid, for slices in the same order;
    spectrum: (PATCH, PATCH) mean amplitude of its noise; persistence: correlation of the noise between neighbouring
        slices.
    """

    hu: np.ndarray
    spacing: tuple[float, float, float]
    body: Body
    spectrum: np.ndarray
    persistence: float


@dataclass(frozen=True, eq=False)
class Inserted:
    """A lesion in a slab: its RECIST axes in 0-based pixels of the key slice and the relative location of its centre
    in the body."""

    lesion: SyntheticLesion
    recist: Recist
    location: tuple[float, float, float]


def prepare(volume: Volume) -> Scan:
    """Turn a CT to head-first slices and fine pixels, find its places and measure its noise.

    CTError where nothing is found that could hold a lesion.
    """
    if volume.direction[2, 2] > 0:
        volume = replace(volume, hu=volume.hu[::-1], direction=volume.direction * [1, 1, -1])
    finer = np.ceil(np.array(volume.spacing[:2]) / COARSEST_MM).astype(int)
    if finer.max() > 1:
        hu = ndi.zoom(volume.hu.astype(np.float32), (1, finer[1], finer[0]), order=3, mode="nearest", grid_mode=True)
        volume = replace(
            volume, hu=hu.astype(np.int16), spacing=(*(np.array(volume.spacing[:2]) / finer), volume.spacing[2])
        )
    body = find_places(volume)
    if not body.places:
        raise CTError(
            f"{volume.source}: no organ or tissue was found that could hold a lesion; give a CT of chest, abdomen or "
            "pelvis."
        )
    return Scan(volume.hu, volume.spacing, body, *noise_of(volume.hu))


def insert(
    scan: Scan, rng: np.random.Generator, context_mm: float, large: float = 0.25
) -> tuple[np.ndarray, int, tuple[float, float, float], list[Inserted]]:
    """One slab of `scan` with one to four lesions on its key slice, a share `large` of them of LARGE_MM.

    Returns HU (k, j, i) float32, the index of the key slice in the slab, the spacing (mm along i, j, k) and the
    lesions; none of them where no place had room for one that can be measured.
    """
    stretch = rng.uniform(0.92, 1.08)
    spacing = (scan.spacing[0] * stretch, scan.spacing[1] * stretch, scan.spacing[2])
    place = _choose_place(scan, rng)
    centre, size = _choose_spot(scan, place, rng, large)
    if centre is None:
        return scan.hu[:1].astype(np.float32), 0, spacing, []
    key = round(float(centre[0]))
    reach = max(1, int(np.ceil(context_mm / spacing[2])))
    first, last = max(0, key - reach), min(len(scan.hu) - 1, key + reach)
    slab = _vary_enhancement(scan.hu[first : last + 1].astype(np.float32), rng)
    inserted: list[Inserted] = []
    for _ in range(1 + min(3, int(rng.geometric(0.55)) - 1)):
        if inserted:
            place = _choose_place(scan, rng, key)
            if place is None:
                break
            centre, size = _choose_spot(scan, place, rng, large, key)
            if centre is None:
                continue
        made = _insert_one(scan, slab, place, centre, size, (first, key), spacing, inserted, rng)
        if made is not None:
            inserted.append(made)
    return slab, key - first, spacing, inserted


def narrow_view(
    slab: np.ndarray, spacing: tuple[float, float, float], lesions: list[Inserted], rng: np.random.Generator
) -> tuple[np.ndarray, tuple[float, float, float], list[Inserted]]:
    """The slab as if it had been reconstructed with a 1.3 to 2.2 times narrower field of view round one of its lesions.

    Pixels are finer then, and so DeepLesion's margin of 5 px round a lesion is fewer mm. Returns slab and spacing of
    the same shape as before, and the lesions that are still in the picture, in its pixels; all as it was where none
    would be.
    """
    zoom = rng.uniform(1.3, 2.2)
    size = np.array(slab.shape[:0:-1]) / zoom  # i, j
    middle = np.mean(lesions[rng.integers(len(lesions))].recist.long_axis, axis=0) + rng.uniform(-0.25, 0.25, 2) * size
    corner = np.clip(middle - size / 2, 0, np.array(slab.shape[:0:-1]) - size) - 0.5
    first = corner + 0.5 / zoom  # where pixel (0, 0) looks
    planes = [
        ndi.affine_transform(
            plane, [1 / zoom, 1 / zoom], first[::-1], output_shape=plane.shape, order=1, mode="nearest"
        )
        for plane in slab
    ]
    seen = [replace(made, recist=_seen_from(made.recist, first, zoom)) for made in lesions]
    seen = [made for made in seen if _inside_picture(made.recist, slab.shape[1:])]
    if not seen:
        return slab, spacing, lesions
    return np.stack(planes), (spacing[0] / zoom, spacing[1] / zoom, spacing[2]), seen


def _seen_from(recist: Recist, first: np.ndarray, zoom: float) -> Recist:
    (a, b), (c, d) = (
        [(float(i), float(j)) for i, j in (np.array(axis) - first) * zoom]
        for axis in (recist.long_axis, recist.short_axis)
    )
    return replace(recist, long_axis=(a, b), short_axis=(c, d))


def _choose_place(scan: Scan, rng: np.random.Generator, key: int | None = None) -> Place | None:
    """A place by the weight of its label; with `key`, one that has tissue on that slice (None if none has)."""
    places = [place for place in scan.body.places if key is None or (_coarse_slice(scan, place, key) > 1.5).any()]
    if not places:
        return None
    share = {part: sum(place.body_part == part for place in places) for part in BodyPart}
    weights = np.array([WEIGHTS[place.body_part] / share[place.body_part] for place in places])
    return places[rng.choice(len(places), p=weights / weights.sum())]


def _coarse_slice(scan: Scan, place: Place, key: int) -> np.ndarray:
    return place.room_mm[min(key // scan.body.step[0], len(place.room_mm) - 1)]


def _choose_spot(
    scan: Scan, place: Place, rng: np.random.Generator, large: float, key: int | None = None
) -> tuple[np.ndarray | None, tuple[float, float]]:
    """A centre (k, j, i) in voxels and (long, short) mm; no centre where all that were tried lie on a vessel.

    The lesion is made smaller where the place (on slice `key`) lacks room for it.
    """
    grows_large = place.body_part != BodyPart.BONE and rng.random() < large
    long_mm, short_mm = _large_size(rng) if grows_large else _size(rng, place.body_part)
    fit = place.fit * (BULGE if grows_large or rng.random() < 0.5 else 1)
    room = place.room_mm if key is None else _coarse_slice(scan, place, key)[None]
    scale = min(1.0, 0.95 * float(room.max()) / (fit * short_mm / 2))
    spots = np.argwhere(room >= fit * scale * short_mm / 2)
    step = np.array(scan.body.step)
    size = max(3.0, long_mm * scale), max(2.0, short_mm * scale)
    for _ in range(TRIES):
        centre = scan.body.to_voxel(spots[rng.integers(len(spots))]) + rng.uniform(-0.5, 0.5, 3) * step
        centre[0] = np.clip(round(centre[0]), 0, len(scan.hu) - 1) if key is None else key
        section = scan.hu[round(float(centre[0]))]
        if size[1] > SMALL_MM or not on_vessel(section, centre[1:], place.body_part, scan.spacing[0]):
            return centre, size
    return None, size


def _size(rng: np.random.Generator, part: BodyPart) -> tuple[float, float]:
    """DeepLesion's sizes, but half the mediastinal nodes have a short axis of 3-8 mm and half the liver lesions a
    long one of 5-30 mm."""
    long_mm, short_mm = sample_size(rng, part)
    if part == BodyPart.MEDIASTINUM and rng.random() < 0.5:
        return (scaled := rng.uniform(3, 8)) * min(long_mm / short_mm, 2.5), scaled
    if part == BodyPart.LIVER and rng.random() < 0.5:
        return (scaled := rng.uniform(5, 30)), scaled * short_mm / long_mm
    return long_mm, short_mm


def _large_size(rng: np.random.Generator) -> tuple[float, float]:
    """A long axis of LARGE_MM, more often near its lower end, and the short one."""
    long_mm = LARGE_MM[0] + (LARGE_MM[1] - LARGE_MM[0]) * rng.beta(1, 1.7)
    return long_mm, long_mm * rng.uniform(0.6, 0.95)


def _insert_one(
    scan: Scan,
    slab: np.ndarray,
    place: Place,
    centre: np.ndarray,
    size: tuple[float, float],
    slices: tuple[int, int],
    spacing: tuple[float, float, float],
    others: list[Inserted],
    rng: np.random.Generator,
) -> Inserted | None:
    """Paint one lesion into `slab`, whose (first, key) slice are `slices`.

    None, and no paint, if it cannot be measured or seen, or what it may replace is too little.
    """
    first, key = slices
    x, y, z = (np.arange(n, dtype=np.float32) * np.float32(mm) for n, mm in zip(slab.shape[::-1], spacing))
    centre_mm = (centre - [first, 0, 0])[::-1] * spacing
    centre_mm[2] += rng.uniform(-0.3, 0.3) * min(spacing[2], size[1])
    for other in others:
        apart = np.linalg.norm(np.subtract(other.lesion.centre_mm, centre_mm)[:2])
        if apart < (other.recist.long_mm + size[0]) / 2 + 4:
            return None
    background = _background(slab[key - first], centre[1:], spacing, size[1], place)
    lesion, share = as_tumour(sample(rng, place.body_part, centre_mm, *size, background), rng)
    lesion = replace(lesion, edge_mm=max(lesion.edge_mm, 0.6 * spacing[0]))
    window = lesion.window(x, y, z)
    if min(part.stop - part.start for part in window) < 1:
        return None
    pushed = push(slab, lesion, share, spacing)
    if any((pushed != slab)[key - first][_box_of(other.recist)].any() for other in others):
        pushed = slab.copy()  # a lesion that is there already stays where its axes are
    before = pushed[window]
    depth = (np.arange(3) - 1) / 3 * spacing[2]  # three planes through the thickness of a slice
    painted, whole = _paint(lesion, before, x[window[2]], y[window[1]], z[window[0]], depth)
    free = replaceable(before, _within(scan, place, window, first), lesion, place.in_dark, background, spacing)
    on = key - first - window[0].start
    occupancy = _in_one_piece(whole * free, on, centre[1:] - [part.start for part in window[1:]])
    recist = _measured(occupancy[on], window, slab.shape[1:], spacing)
    if recist is None or recist.short_mm < 2 or not _inside_picture(recist, slab.shape[1:]):
        return None
    share_left = np.divide(occupancy, whole, out=np.zeros_like(whole), where=whole > 1e-3)
    noise = lesion.opacity * whole * noise_like(rng, before.shape, scan.spectrum, scan.persistence)
    painted = before + share_left * (painted + noise - before)
    there = occupancy[on] > 0.5
    if there.sum() < LEAST_LEFT * (whole[on] > 0.5).sum():
        return None
    change = abs(float((painted - before)[on][there].mean()))
    if change < max(LEAST_CONTRAST, 0.5 * np.sqrt((scan.spectrum**2).sum()) / PATCH**2):
        return None
    pushed[window] = painted
    slab[:] = pushed
    return Inserted(lesion, recist, _location(scan.body, centre))


def _paint(
    lesion: SyntheticLesion, before: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray, depth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`before` (k, j, i) with the lesion averaged over the slice thickness, and how much of each voxel it fills."""
    painted, occupancy = np.empty_like(before), np.empty_like(before)
    for k, height in enumerate(z):
        planes = (height + depth).astype(np.float32)[:, None, None]
        painted[k] = lesion.blend(before[k][None], x, y[:, None], planes).mean(0)
        occupancy[k] = lesion.occupancy(x, y[:, None], planes).mean(0)
    return painted, occupancy


def _within(scan: Scan, place: Place, window: tuple[slice, slice, slice], first: int) -> np.ndarray:
    """How far (0..1) the place's lesions may reach, on the voxels of a window of the slab that begins at slice
    `first`."""
    grids = np.ogrid[window]
    grids = [(grid + start - (step - 1) / 2) / step for grid, start, step in zip(grids, (first, 0, 0), scan.body.step)]
    inside = ndi.map_coordinates(place.within.astype(np.float32), np.broadcast_arrays(*grids), order=1, mode="nearest")
    return np.clip(2 * inside - 0.5, 0, 1)


def _in_one_piece(occupancy: np.ndarray, key: int, centre: np.ndarray) -> np.ndarray:
    """The lesion without parts that what it may not replace cuts off from the one nearest its centre (j, i) on slice
    `key`."""
    labels, count = ndi.label(occupancy > 0.5)
    if not labels[key].any():
        return np.zeros_like(occupancy)
    if count == 1:
        return occupancy
    found = np.argwhere(labels[key])
    j, i = found[np.linalg.norm(found - centre, axis=1).argmin()]
    others = (labels > 0) & (labels != labels[key, j, i])
    return np.where(ndi.binary_dilation(others, iterations=2) & (labels != labels[key, j, i]), 0, occupancy)


def _measured(
    section: np.ndarray,
    window: tuple[slice, slice, slice],
    shape: tuple[int, int],
    spacing: tuple[float, float, float],
) -> Recist | None:
    """The RECIST axes of a section of the window, in pixels of the whole slice."""
    whole = np.zeros(shape, np.float32)
    whole[window[1:]] = section
    return recist_of(whole, spacing[:2])


def _background(
    section: np.ndarray, centre: np.ndarray, spacing: tuple[float, float, float], short_mm: float, place: Place
) -> float:
    """HU that surrounds the lesion: the median near its centre, of the dark half where the place is fat or lung."""
    half = max(2, round(max(4.0, short_mm / 2) / spacing[0]))
    j, i = (round(float(value)) for value in centre)
    near = section[max(0, j - half) : j + half + 1, max(0, i - half) : i + half + 1]
    return float(np.percentile(near, 25 if place.in_dark else 50))


def _inside_picture(recist: Recist, shape: tuple[int, int], margin: int = 6) -> bool:
    points = np.array([*recist.long_axis, *recist.short_axis])
    return bool((points > margin).all() and (points < np.array(shape[::-1]) - 1 - margin).all())


def _box_of(recist: Recist) -> tuple[slice, slice]:
    """The rows and columns that the axes span."""
    points = np.array([*recist.long_axis, *recist.short_axis])
    first, end = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int) + 1
    return slice(first[1], end[1]), slice(first[0], end[0])


def _location(body: Body, centre: np.ndarray) -> tuple[float, float, float]:
    """Relative x and y within the body on the slice, and z within the scan."""
    k = min(int(centre[0]) // body.step[0], len(body.body) - 1)
    rows, columns = (np.flatnonzero(body.body[k].any(axis)) for axis in (1, 0))
    if not rows.size:
        return 0.5, 0.5, float(k / len(body.body))
    j, i = centre[1:] / body.step[1:]
    x, y = ((value - span[0]) / max(1, span[-1] - span[0]) for value, span in ((i, columns), (j, rows)))
    return float(np.clip(x, 0, 1)), float(np.clip(y, 0, 1)), float(k / len(body.body))


def _vary_enhancement(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same anatomy at another contrast phase: HU between 40 and 300 stretched or squeezed about 40, bone
    unchanged."""
    factor = rng.uniform(0.7, 1.1)
    return np.interp(hu, [-4000, 40, 300, 700, 4000], [-4000, 40, 40 + 260 * factor, 700, 4000]).astype(np.float32)
