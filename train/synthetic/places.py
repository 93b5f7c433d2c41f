"""Where in a real CT lesions of each label may lie, found with classical masks only: no trained network, no label map.

Everything happens on a coarse grid (voxels of 2-4 mm) and is made to be strict rather than complete: a place that is
missed costs nothing, a wrong one teaches a wrong label. Organs that are not found (no contrast, not in the scan) are
simply left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import SimpleITK
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.lesion import BodyPart
from scipy import ndimage as ndi
from skimage.morphology import convex_hull_image

COARSE_MM = 3.0
LEAST_ROOM_MM = 3.0
FAT = (-140, -50)
SOLID_BONE = 100
"""HU of spongy bone at the least: canal, discs and joints are darker."""
METAL_HU = 1800
Mask: TypeAlias = np.ndarray


@dataclass(frozen=True, eq=False)
class Place:
    """A tissue that may hold lesions of one label.

    Attributes
    ----------
    body_part: the label.
    name: the tissue, for messages.
    room_mm: (k, j, i) float32 on the coarse grid, distance to the edge of the tissue; 0 outside it.
    fit: how much of a lesion's short semi-axis must lie inside the tissue; below 1 it may touch or leave it.
    within: (k, j, i) bool on the coarse grid, how far its lesions may reach: the cavity of an organ, the bone itself.
    in_dark: the tissue is fat or lung, so that anything denser than the lesion there (vessel, wall) stays visible.
    """

    body_part: BodyPart
    name: str
    room_mm: np.ndarray
    fit: float
    within: Mask
    in_dark: bool = False


@dataclass(frozen=True, eq=False)
class Body:
    """The places of a CT, and how its coarse grid lies on the voxels: coarse voxel (k, j, i) is centred on step *
    (k, j, i) + centre."""

    places: tuple[Place, ...]
    body: Mask
    step: tuple[int, int, int]

    def to_voxel(self, index: np.ndarray) -> np.ndarray:
        """Voxel (k, j, i) of the CT at the centre of coarse voxel `index`."""
        step = np.asarray(self.step)
        return np.asarray(index) * step + (step - 1) / 2

    def room_on(self, place: Place, number: int) -> np.ndarray:
        """The coarse room_mm (j, i) of a place on a slice of the CT."""
        return place.room_mm[min(number // self.step[0], len(place.room_mm) - 1)]

    def to_pixels(self, room_mm: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A coarse slice of room_mm on the pixels of a slice of that shape; 0 beyond what it covers."""
        fine = room_mm.repeat(self.step[1], 0).repeat(self.step[2], 1)
        return np.pad(fine, [(0, size - have) for size, have in zip(shape, fine.shape)])


def find_places(volume: Volume) -> Body:
    """The places of `volume`, an axial CT whose i grows to the patient's left and j to the back, whatever the order
    of its slices."""
    si, sj, sk = (max(1, round(COARSE_MM / mm)) for mm in volume.spacing)
    step = sk, sj, si
    mm = np.array(volume.spacing[::-1]) * step
    hu = _block_mean(volume.hu, step)
    noise = _spread(hu, _block_mean(volume.hu.astype(np.float32) ** 2, step))
    headward = 1 if volume.direction[2, 2] > 0 else -1
    hu, noise = hu[::headward], noise[::headward]  # feet first, as all below expects

    body = _body(hu, mm)
    lungs = _lungs(hu, body, mm)
    bone = _bone(hu, noise, body, lungs, mm)
    core = _core(hu, body, lungs, mm)
    behind = _behind_spine(bone, mm)
    inside = _shrink(core, 16, mm) & ~behind & ~_grow(bone, 3, mm)
    chest = _by_slice(convex_hull_image, lungs)
    lung_share = lungs.sum((1, 2)) / np.maximum(body.sum((1, 2)), 1)
    liver = _liver(hu, _shrink(body, 12, mm) & ~lungs & ~_grow(bone, 3, mm), bone, mm)
    kidneys = _kidneys(
        hu, _shrink(core, 6, mm) & ~_grow(bone, 3, mm) & (lung_share < 0.03)[:, None, None], bone, liver, mm
    )
    pelvis = _pelvis(inside, bone, mm, lung_share) & ~_above(liver)

    is_fat = (hu > FAT[0]) & (hu < FAT[1])
    vertebrae = _close(bone, 15, mm)  # with their marrow, which is as soft as an organ where no contrast was given
    organs = _grow(liver | kidneys | bone, 4, mm) | vertebrae | lungs
    in_chest = chest & ~organs & (lung_share > 0.15)[:, None, None] & ~behind & _shrink(chest, 6, mm)
    in_belly = inside & ~organs & ~pelvis & ~_above(lungs & (lung_share > 0.04)[:, None, None])
    wall = _shrink(body, 5, mm) & ~_grow(inside | chest | lungs | bone, 5, mm) & ~_grow(liver, 15, mm)
    wall &= ~_shrink(core, 10, mm) | behind | (lung_share > 0.15)[:, None, None]
    soft = (hu > 10) & (hu < 180)
    solid = _solid(hu, bone, chest, mm)
    cavity = _shrink(core, 14, mm) & ~_grow(bone, 2, mm)
    flesh = _shrink(body, 3, mm) & ~cavity & ~chest & ~bone
    candidates = [
        (BodyPart.LUNG, "lung", lungs & (hu < -550) & _shrink(body, 8, mm), 0.55, chest, True),
        (BodyPart.MEDIASTINUM, "mediastinal fat", in_chest & (hu > -140) & (hu < -15), 0.85, chest & ~bone, True),
        (BodyPart.LIVER, "liver", liver, 0.8, cavity | liver, False),
        (BodyPart.KIDNEY, "kidney", kidneys, 0.5, cavity | kidneys, False),
        (BodyPart.BONE, "bone", solid, 0.6, solid, False),
        (BodyPart.SOFT_TISSUE, "subcutaneous fat", wall & is_fat, 0.8, flesh, True),
        (BodyPart.SOFT_TISSUE, "muscle", wall & soft, 0.7, flesh, False),
        (BodyPart.ABDOMEN, "abdominal fat", in_belly & (hu > -140) & (hu < -15), 0.8, cavity, True),
        (BodyPart.ABDOMEN, "abdominal organ", _open(in_belly & soft, 8, mm), 0.8, cavity, False),
        (BodyPart.PELVIS, "pelvic fat", pelvis & (hu > -140) & (hu < -15), 0.8, cavity, True),
        (BodyPart.PELVIS, "pelvic organ", _open(pelvis & soft, 8, mm), 0.8, cavity, False),
    ]
    rooms = (
        (part, name, _depth(mask & body, mm)[::headward], fit, within[::headward], in_dark)
        for part, name, mask, fit, within, in_dark in candidates
        if mask.any()
    )
    places = [Place(*made) for made in rooms if made[2].max() > LEAST_ROOM_MM]
    return Body(tuple(places), body[::headward], step)


def _block_mean(values: np.ndarray, step: tuple[int, int, int]) -> np.ndarray:
    """Means of blocks of `step` voxels (k, j, i); what does not fill a block is left out."""
    (nk, sk), (nj, sj), (ni, si) = ((n // s, s) for n, s in zip(values.shape, step))
    cut = values[: nk * sk, : nj * sj, : ni * si].reshape(nk, sk, nj, sj, ni, si)
    return cut.mean((1, 3, 5), dtype=np.float32)


def _spread(mean: np.ndarray, mean_square: np.ndarray) -> np.ndarray:
    """Standard deviation of the HU in the 3 x 3 coarse voxels around each one, on its slice."""
    mean, mean_square = (ndi.uniform_filter(values, (1, 3, 3)) for values in (mean, mean_square))
    return np.sqrt(np.maximum(mean_square - mean**2, 0))


def _body(hu: np.ndarray, mm: np.ndarray) -> Mask:
    """The patient without table and blanket, holes filled slice by slice."""
    return _by_slice(ndi.binary_fill_holes, _largest(_open(hu > -300, 3, mm)))


def _lungs(hu: np.ndarray, body: Mask, mm: np.ndarray) -> Mask:
    """Large air spaces of the body that hold tissue too (bowel gas does not), with their vessels."""
    lungs = np.zeros_like(body)
    for part in _parts(_open((hu < -450) & body, 4, mm), 60_000, mm):
        if -930 < hu[_shrink(part, 4, mm)].mean() < -600:
            lungs |= part
    return _by_slice(ndi.binary_fill_holes, _close(lungs, 5, mm)) & body


def _bone(hu: np.ndarray, noise: np.ndarray, body: Mask, lungs: Mask, mm: np.ndarray) -> Mask:
    """HU > 180 with filled marrow, less vessels, heart and kidneys full of contrast, which are large and even.

    On slices with lungs, bone lies within 45 mm of the skin or around the spine: what is bright elsewhere are streaks
    beside the heart.
    """
    soft = (hu > 20) & (hu < 150)
    even = noise < max(45.0, 2.2 * float(np.median(noise[soft])) if soft.any() else 0.0)
    blood = _grow(_open((hu > 170) & even, 6, mm), 7, mm)
    spine = _posterior_middle(hu > 180, mm)
    blood_hu = float(np.median(hu[blood & (hu > 170)])) if blood.any() else 300.0
    # it may be even, but not as bright as blood
    marrow = spine & (ndi.gaussian_filter(hu, 3 / mm) < np.clip(0.8 * blood_hu, 200, 270))
    bright = (hu > 180) & body & (~blood | marrow) & ~_shrink(lungs, 4, mm)
    bright &= spine | ~_shrink(body, 45, mm) | ~lungs.any((1, 2))[:, None, None]
    bone = np.zeros_like(bright)
    for part in _parts(bright, 2_000, mm):
        bone |= part
    return _by_slice(ndi.binary_fill_holes, _close(bone, 5, mm)) & ~lungs


def _solid(hu: np.ndarray, bone: Mask, chest: Mask, mm: np.ndarray) -> Mask:
    """The bone that may hold a lesion: no canal, disc or joint, no contrast in a vein of the chest, far from metal."""
    spine = _posterior_middle(bone, mm)
    metal = _grow(hu > METAL_HU, 30, mm)
    return bone & (hu > SOLID_BONE) & ~_canal(hu, bone, mm) & (spine | ~_shrink(chest, 5, mm)) & ~metal


def _canal(hu: np.ndarray, bone: Mask, mm: np.ndarray) -> Mask:
    """The spinal canal with its wall: soft holes of the filled bone of 80-900 mm2, near its middle, in each slice."""
    canal = np.zeros_like(bone)
    middle = _middle(bone, bone)
    for k, section in enumerate(bone):
        labels, count = ndi.label(section & (hu[k] < SOLID_BONE))
        areas = np.bincount(labels.ravel(), minlength=1) * mm[1] * mm[2]
        columns = ndi.center_of_mass(section, labels, range(1, count + 1))
        for number, (_, column) in enumerate(columns, 1):
            if 80 < areas[number] < 900 and abs(column - middle) * mm[2] < 30:
                canal[k] |= labels == number
    return _grow(canal, 3, mm)


def _posterior_middle(bright: Mask, mm: np.ndarray) -> Mask:
    """The spine's neighbourhood in each slice: 35 mm beside the middle and behind, from the hindmost bright voxels
    there 75 mm forward."""
    zone = np.zeros_like(bright)
    middle = int(np.median(np.nonzero(bright)[2])) if bright.any() else bright.shape[2] // 2
    half = round(35 / mm[2])
    columns = slice(max(0, middle - half), middle + half + 1)
    for k, section in enumerate(bright):
        rows = np.flatnonzero(section[:, columns].sum(1) > 1)
        if rows.size:
            zone[k, max(0, rows[-1] - round(75 / mm[1])) :, columns] = True
    return zone


def _behind_spine(bone: Mask, mm: np.ndarray) -> Mask:
    """What lies behind the middle of the spine, by slices.

    The spine is taken as the bone near the middle in the rear half.
    """
    middle = round(float(np.median(np.nonzero(bone)[2]))) if bone.any() else bone.shape[2] // 2
    half = round(30 / mm[2])
    behind = np.zeros_like(bone)
    for k, section in enumerate(bone):
        rows = np.nonzero(section[:, max(0, middle - half) : middle + half + 1])[0]
        rows = rows[rows > bone.shape[1] * 0.45]
        if rows.size:
            behind[k, round(float(rows.mean())) :] = True
    return behind


def _core(hu: np.ndarray, body: Mask, lungs: Mask, mm: np.ndarray) -> Mask:
    """The body less its subcutaneous fat, which is the fat that hangs together with the skin."""
    skin = body & ~_shrink(body, 6, mm)
    fat = (_open(body & (hu < FAT[1]) & ~lungs, 3, mm)) | skin
    outer = np.zeros_like(body)
    for k, section in enumerate(fat):
        labels, _ = ndi.label(section)
        outer[k] = np.isin(labels, np.unique(labels[skin[k] & (labels > 0)]))
    core = _by_slice(lambda section: _largest(ndi.binary_opening(section, iterations=3)), body & ~outer)
    return _by_slice(ndi.binary_fill_holes, core)


def _liver(hu: np.ndarray, inside: Mask, bone: Mask, mm: np.ndarray) -> Mask:
    """The largest even soft organ on the patient's right, at its own HU +- 28; empty when smaller than 150 ml.

    It ends 30 mm left of the middle, for the spleen or the heart may follow there without a visible border.
    """
    smooth = ndi.gaussian_filter(hu, 3 / mm)
    middle = _middle(bone, inside)
    right = np.zeros_like(inside)
    right[:, :, :middle] = True
    inside = inside.copy()
    inside[:, :, middle + round(30 / mm[2]) :] = False
    soft = _open(inside & (smooth > 40) & (smooth < 170), 10, mm)
    if (soft & right).sum() * mm.prod() < 150_000:
        return np.zeros_like(inside)
    counts, edges = np.histogram(smooth[soft & right], np.arange(40, 171, 5))
    level = edges[counts.argmax()] + 2.5
    liver = _largest(_open(soft & (np.abs(smooth - level) < 28), 10, mm))
    if (liver & right).sum() < 0.6 * liver.sum() or liver.sum() * mm.prod() < 150_000:
        return np.zeros_like(inside)
    return liver


def _kidneys(hu: np.ndarray, inside: Mask, bone: Mask, liver: Mask, mm: np.ndarray) -> Mask:
    """Enhanced blobs of 20-350 ml, 30-100 mm beside the spine and in the rear half of the cavity.

    Empty unless clearly seen.
    """
    middle, kidneys = _middle(bone, inside), np.zeros_like(inside)
    level = max(105.0, float(np.median(hu[liver])) + 15 if liver.any() else 105.0)
    rows = np.nonzero(inside)[1]
    if not rows.size:
        return kidneys
    bright = inside & (hu > level) & (hu < 350)
    for part in _parts(_open(_by_slice(ndi.binary_fill_holes, _close(bright, 3, mm)) & inside, 5, mm), 20_000, mm):
        _, j, i = (index.mean() for index in np.nonzero(part))
        beside = abs(i - middle) * mm[2]
        if part.sum() * mm.prod() < 350_000 and 30 < beside < 100 and j > np.median(rows):
            kidneys |= part
    return kidneys


def _pelvis(inside: Mask, bone: Mask, mm: np.ndarray, lung_share: np.ndarray) -> Mask:
    """The cavity between the hip bones, on slices with much bone 45 mm or more to both sides and no lung."""
    middle, apart, arms = _middle(bone, inside), round(45 / mm[2]), round(160 / mm[2])
    pelvis = np.zeros_like(inside)
    for k, section in enumerate(bone):
        right = np.nonzero(section[:, : middle - apart])[1]
        left = np.nonzero(section[:, middle + apart :])[1] + middle + apart
        right, left = right[right > middle - arms], left[left < middle + arms]
        if min(right.size, left.size) * mm[1] * mm[2] < 700 or lung_share[k] > 0:
            continue
        between = slice(round(np.median(right)), round(np.median(left)) + 1)
        pelvis[k, :, between] = inside[k, :, between]
    return _shrink(pelvis, 4, mm)


def _above(organ: Mask) -> Mask:
    """All slices from the organ's lowest on."""
    above = np.zeros_like(organ)
    if organ.any():
        above[np.flatnonzero(organ.any((1, 2)))[0] :] = True
    return above


def _middle(bone: Mask, inside: Mask) -> int:
    """Column of the patient's middle: the median of the bone, else of the cavity."""
    columns = np.nonzero(bone if bone.any() else inside)[2]
    return int(np.median(columns)) if columns.size else inside.shape[2] // 2


def _depth(mask: Mask, mm: np.ndarray) -> np.ndarray:
    """Distance in mm from inside `mask` to its edge, 0 outside, float32."""
    image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing([float(value) for value in mm[::-1]])
    distance = SimpleITK.SignedMaurerDistanceMap(
        image, insideIsPositive=True, squaredDistance=False, useImageSpacing=True
    )
    return np.where(mask, SimpleITK.GetArrayFromImage(distance) + mm.min() / 2, 0).astype(np.float32)


def _size(radius_mm: float, mm: np.ndarray) -> tuple[int, ...]:
    return tuple(2 * round(float(radius / voxel)) + 1 for radius, voxel in zip((radius_mm,) * 3, mm))


def _shrink(mask: Mask, radius_mm: float, mm: np.ndarray) -> Mask:
    """Erosion by a box, whose separable filter is many times faster than a ball's.

    What leaves the picture goes on outside it.
    """
    return ndi.minimum_filter(mask, _size(radius_mm, mm), mode="nearest")


def _grow(mask: Mask, radius_mm: float, mm: np.ndarray) -> Mask:
    return ndi.maximum_filter(mask, _size(radius_mm, mm), mode="nearest")


def _open(mask: Mask, radius_mm: float, mm: np.ndarray) -> Mask:
    return _grow(_shrink(mask, radius_mm, mm), radius_mm, mm) & mask


def _close(mask: Mask, radius_mm: float, mm: np.ndarray) -> Mask:
    return _shrink(_grow(mask, radius_mm, mm), radius_mm, mm) | mask


def _parts(mask: Mask, least_mm3: float, mm: np.ndarray) -> list[Mask]:
    labels, _ = ndi.label(mask)
    sizes = np.bincount(labels.ravel())[1:] * mm.prod()
    return [labels == label + 1 for label in np.flatnonzero(sizes >= least_mm3)]


def _largest(mask: Mask) -> Mask:
    labels, count = ndi.label(mask)
    return labels == np.bincount(labels.ravel())[1:].argmax() + 1 if count else mask


def _by_slice(function, mask: Mask) -> Mask:
    return np.stack([function(section) if section.any() else section for section in mask])
