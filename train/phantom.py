"""Synthetic CT studies of a torso with lesions of the eight labels, in DeepLesion's layout, as NRRD or as DICOM.

A study is a random `anatomy.Patient` seen by a random scanner (pixel size, slice interval and thickness, point spread, correlated noise,
couch) with random `lesion_model` lesions in it. Every slice is rendered by itself, so a training set holds only the slices round its key
slices. The same seed gives the same bytes, whatever the number of workers.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import SimpleITK
from LesionDetectorLib.lesion import BodyPart, Box, Lesion, Origin, Recist, stable_id
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter
from tqdm import tqdm

from train.data import layout
from train.data.layout import MARGIN_PX
from train.synthetic.canvas import Frame
from train.synthetic.lesions import SyntheticLesion, recist_of, sample, sample_size
from train.synthetic.patient import Patient
from train.synthetic.tissues import Tissue

Array = np.ndarray
OVERSAMPLING = 2
# Labelled lesions of DeepLesion (Yan et al. 2018): bone, abdomen, mediastinum, liver, lung, kidney, soft tissue, pelvis.
_NATURAL = np.array([232, 2166, 1638, 1318, 2426, 490, 677, 869], float)
# Lesions of a patient in DeepLesion, as a log-normal: its official test part, first visits, labelled, has a median of 4 and a mean of 6.1.
_LOG_LESIONS, _LOG_LESIONS_SPREAD, _MOST_LESIONS = 1.32, 0.98, 30

_T = Tissue
_BONES = (_T.CORTEX, _T.MARROW, _T.ENDPLATE)
_BOWEL = (_T.BOWEL_WALL, _T.BOWEL_FLUID, _T.BOWEL_CONTRAST, _T.BOWEL_GAS, _T.FAECES)
_SOFT = (_T.SKIN, _T.FAT, _T.MUSCLE, _T.BREAST)


@dataclass(frozen=True)
class Site:
    """Where lesions of a label arise: template heights (mm), |x| limits and y limits (mm), the tissues they start in and may replace."""

    z: tuple[float, float]
    starts: tuple[Tissue, ...]
    replaces: tuple[Tissue, ...]
    x: tuple[float, float] = (0, 400)
    y: tuple[float, float] = (-400, 400)
    weight: float = 1.0
    depth: float = 0.45  # how deep the centre lies in the tissue, in short axes


_SITES: dict[BodyPart, tuple[Site, ...]] = {
    BodyPart.BONE: (
        Site((-5, 440), (_T.MARROW, _T.ENDPLATE), _BONES, x=(0, 45), weight=3),
        Site((-140, 30), (_T.MARROW,), (*_BONES, _T.MUSCLE), weight=2),
        Site((200, 450), _BONES, (*_BONES, _T.MUSCLE, _T.FAT, _T.CARTILAGE, _T.LUNG), x=(45, 200), weight=1.5),
        Site((290, 425), (_T.MARROW,), (*_BONES, _T.MEDIASTINAL_FAT, _T.MUSCLE), y=(-200, -60), weight=0.5),
    ),
    BodyPart.ABDOMEN: (
        Site((50, 200), (_T.VISCERAL_FAT,), (_T.VISCERAL_FAT, _T.NODE, _T.MUSCLE, _T.VEIN), x=(0, 45), y=(-25, 60), weight=3),
        Site((20, 190), (_T.VISCERAL_FAT, _T.BOWEL_WALL), (_T.VISCERAL_FAT, _T.NODE, *_BOWEL, _T.PORTAL_VEIN), weight=2.5),
        Site((145, 212), (_T.PANCREAS,), (_T.PANCREAS, _T.VISCERAL_FAT), weight=1),
        Site((190, 214), (_T.ADRENAL,), (_T.ADRENAL, _T.VISCERAL_FAT, _T.MUSCLE), weight=1),
        Site((165, 245), (_T.SPLEEN,), (_T.SPLEEN,), weight=0.6),
    ),
    BodyPart.MEDIASTINUM: (
        Site((330, 440), (_T.MEDIASTINAL_FAT,), (_T.MEDIASTINAL_FAT, _T.NODE, _T.LUNG, _T.OESOPHAGUS), weight=4),
        Site(
            (315, 385),
            (_T.LUNG, _T.LUNG_VESSEL),
            (_T.LUNG, _T.LUNG_VESSEL, _T.MEDIASTINAL_FAT, _T.NODE),
            x=(38, 56),
            y=(-15, 35),
            weight=1.5,
            depth=0.0,
        ),
        Site((255, 330), (_T.MEDIASTINAL_FAT,), (_T.MEDIASTINAL_FAT, _T.NODE, _T.LUNG), weight=1),
    ),
    BodyPart.LIVER: (Site((95, 262), (_T.LIVER,), (_T.LIVER, _T.LIVER_VESSEL, _T.PORTAL_VEIN)),),
    BodyPart.LUNG: (
        Site((210, 465), (_T.LUNG,), (_T.LUNG, _T.LUNG_VESSEL, _T.AIRWAY, _T.BOWEL_WALL), weight=3, depth=0.6),
        Site((210, 465), (_T.LUNG,), (_T.LUNG, _T.LUNG_VESSEL, _T.AIRWAY, _T.BOWEL_WALL), weight=1, depth=0.1),
    ),
    BodyPart.KIDNEY: (
        Site((100, 205), (_T.RENAL_CORTEX, _T.RENAL_MEDULLA), (_T.RENAL_CORTEX, _T.RENAL_MEDULLA, _T.URINE, _T.VISCERAL_FAT), depth=0.2),
    ),
    BodyPart.SOFT_TISSUE: (
        Site((-150, 460), (_T.FAT,), _SOFT, weight=2, depth=0.35),
        Site((-150, 460), (_T.MUSCLE,), (_T.MUSCLE, _T.FAT), weight=1.5),
        Site((370, 450), (_T.FAT,), (_T.FAT, _T.MUSCLE, _T.NODE), x=(125, 165), y=(-60, 10), weight=2, depth=0.2),
    ),
    BodyPart.PELVIS: (
        Site((-120, 20), (_T.VISCERAL_FAT,), (_T.VISCERAL_FAT, _T.NODE, _T.MUSCLE, *_BOWEL), x=(30, 90), weight=3, depth=0.3),
        Site((-120, 0), (_T.VISCERAL_FAT, _T.PELVIC_ORGAN), (_T.VISCERAL_FAT, _T.PELVIC_ORGAN, *_BOWEL), weight=1.5),
        Site((-150, -95), (_T.FAT,), (_T.FAT, _T.NODE, _T.MUSCLE), x=(45, 95), y=(-85, -40), weight=1.5, depth=0.2),
    ),
}

_REGIONS = {"torso": (-170, 470), "chest": (200, 470), "abdomen": (0, 270), "pelvis": (-170, 60)}


@dataclass(frozen=True)
class Scanner:
    """How a study is scanned; mm and HU. `sharp` kernels overshoot at edges and have finer noise."""

    pixel: float
    interval: float
    thickness: float
    blur: float
    noise: float
    sharp: bool
    masked: bool
    table: float

    @classmethod
    def random(cls, rng: np.random.Generator, width_mm: float, size: int, interval: float | None = None) -> Scanner:
        """A scanner whose field of view roughly fits a body `width_mm` wide; intervals as common as in DeepLesion unless given."""
        interval = float(rng.choice([1.0, 2.0, 2.5, 5.0], p=[0.45, 0.05, 0.05, 0.45]) if interval is None else interval)
        sharp = bool(rng.random() < 0.15)
        noise = rng.lognormal(np.log(13), 0.35) * (1.25 if interval < 2 else 1.0) * (1.7 if sharp else 1.0)
        pixel = float(np.clip(width_mm * rng.uniform(0.97, 1.14) / 512, 0.6, 0.95)) * 512 / size
        blur = rng.uniform(0.4, 0.55) if sharp else rng.uniform(0.55, 0.85)
        return cls(
            round(pixel, 6),
            interval,
            float(np.clip(interval, 1.25, 5)),
            float(blur),
            float(noise),
            sharp,
            bool(rng.random() < 0.5),
            float(rng.uniform(2, 14)),
        )


class Study:
    """One scan of one random patient with its lesions.

    Attributes
    ----------
    patient, scanner, frame: what is scanned and how; the frame is in world LPS mm.
    top, slices: z of slice 0 and the number of slices; slice k lies at top - k * interval, so k grows from head to feet.
    lesions: the `SyntheticLesion`s that are in it, in world mm.
    """

    def __init__(
        self,
        seed: Sequence[int],
        lesions: int = 4,
        balanced: bool = False,
        size: int = 512,
        region: str = "torso",
        interval: float | None = None,
        labels: Sequence[BodyPart] | None = None,
        patient: Patient | None = None,
    ) -> None:
        self._seed = tuple(seed)
        self.patient = patient or Patient(self._random(0))
        rng = self._random(1)
        heights = np.linspace(*_REGIONS[region], 9)
        outlines = [self.patient.to_world(self.patient.outline(z), z) for z in heights]
        low, high = np.min([o.min(0) for o in outlines], 0), np.max([o.max(0) for o in outlines], 0)
        self.scanner = Scanner.random(rng, float(high[0] - low[0]), size, interval)
        pixel = self.scanner.pixel
        middle = (low + high) / 2 + rng.normal(0, 6, 2)
        self.frame = Frame(round(float(middle[0] - pixel * size / 2), 3), round(float(middle[1] - pixel * size / 2), 3), pixel, size)
        self._heights = _REGIONS[region]
        bottom, self.top = (round(z * float(self.patient.scale[2]), 1) for z in self._heights)
        self.slices = int((self.top - bottom) / self.scanner.interval) + 1
        self._couch = self._couch_picture(float(high[1]) + self.scanner.table)
        self._texture = [_correlated(rng, size, 1.3 / pixel, 4.0 / pixel) for _ in range(2)]
        self._loudness = self._noise_map()
        self.lesions: list[SyntheticLesion] = []
        self._replaces: list[tuple[Tissue, ...]] = []
        for _ in range(lesions):
            self._place(rng, balanced, labels)

    def _random(self, *branch: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=branch))

    def z(self, k: int) -> float:
        """World z (LPS mm) of slice k."""
        return self.top - k * self.scanner.interval

    # -- lesions -------------------------------------------------------------------------------------------------------------------------

    def _place(self, rng: np.random.Generator, balanced: bool, labels: Sequence[BodyPart] | None) -> None:
        """Add one lesion of a random label where the anatomy has room for it; none where ten tries find no room."""
        parts = [p for p in labels or BodyPart if any(self._heights[0] < np.mean(site.z) < self._heights[1] for site in _SITES[p])]
        odds = np.array([1.0 if balanced else _NATURAL[p - 1] for p in parts])
        part = parts[rng.choice(len(parts), p=odds / odds.sum())]
        sites = [site for site in _SITES[part] if self._heights[0] < np.mean(site.z) < self._heights[1]]
        weights = np.array([site.weight for site in sites])
        long_mm, short_mm = sample_size(rng, part)  # drawn once: a new size at every try would favour small lesions
        for attempt in range(10):
            site = sites[rng.choice(len(sites), p=weights / weights.sum())]
            spot = self._spot(rng, site, long_mm, 0.6 * site.depth * short_mm if attempt < 6 else 0.0, site.depth * short_mm)
            if spot is None:
                continue
            centre, background = spot
            lesion = replace(sample(rng, part, centre, long_mm, short_mm, background), edge_mm=0.3)  # the scanner blurs it
            if all(
                np.linalg.norm(np.subtract(centre, other.centre_mm)) > 1.05 * (max(lesion.axes_mm) + max(other.axes_mm))
                for other in self.lesions
            ):
                self.lesions.append(lesion)
                self._replaces.append(site.replaces)
                return

    def _spot(
        self, rng: np.random.Generator, site: Site, long_mm: float, least_room: float, wanted_room: float
    ) -> tuple[tuple[float, float, float], float] | None:
        """A random point (mm) of the site's tissue as deep in what a lesion may replace as wanted (mm) or possible, and the HU there.

        None where the random slice has no such tissue, or less than `least_room` of it.
        """
        scale = self.patient.scale
        low, high = max(site.z[0], self._heights[0]) * scale[2], min(site.z[1], self._heights[1]) * scale[2]
        z = self.z(round((self.top - rng.uniform(low, high)) / self.scanner.interval)) + rng.uniform(-0.5, 0.5) * min(
            2.0, self.scanner.interval
        )
        coarse = Frame(self.frame.x, self.frame.y, self.frame.pixel * self.frame.size / 256, 256)
        tissue = self.patient.paint(z, coarse, 1)
        x, y = coarse.columns()[None] / scale[0], coarse.rows()[:, None] / scale[1]
        here = np.isin(tissue, site.starts) & (np.abs(x) >= site.x[0]) & (np.abs(x) <= site.x[1]) & (y >= site.y[0]) & (y <= site.y[1])
        edge = 4 + 0.5 * long_mm / coarse.pixel
        here &= (np.abs(np.arange(256) - 127.5) < 127.5 - edge)[None]
        if not here.any():
            return None
        room = distance_transform_edt(np.isin(tissue, site.replaces)) * coarse.pixel
        room[~here] = 0
        if room.max() < least_room:
            return None
        rows, columns = np.nonzero(here & (room >= min(wanted_room, 0.8 * room.max())))
        pick = rng.integers(len(rows))
        row, column = int(rows[pick]), int(columns[pick])
        jitter = rng.uniform(-0.5, 0.5, 2) * coarse.pixel
        centre = (float(coarse.x + column * coarse.pixel + jitter[0]), float(coarse.y + row * coarse.pixel + jitter[1]), float(z))
        return centre, float(self.patient.hu[tissue[row, column]])

    def key_slice(self, lesion: SyntheticLesion) -> int:
        """k of the slice nearest the lesion's centre."""
        return int(np.clip(round((self.top - lesion.centre_mm[2]) / self.scanner.interval), 0, self.slices - 1))

    def measured(self, k: int) -> list[tuple[SyntheticLesion, Recist]]:
        """The lesions that slice k shows with a cross-section worth annotating, with their RECIST axes in pixels of the slice."""
        found = []
        masks = None
        for lesion, replaces in zip(self.lesions, self._replaces):
            if abs(lesion.centre_mm[2] - self.z(k)) > lesion.extent_mm[2] + self.scanner.thickness / 2:
                continue
            masks = self._tissues(k) if masks is None else masks
            recist = self._section(lesion, replaces, k, masks)
            own = k == self.key_slice(lesion)
            if recist and recist.short_mm >= 2 and (own or recist.long_mm >= max(5.0, 0.45 * 2 * lesion.axes_mm[0])):
                found.append((lesion, recist))
        return found

    def _section(self, lesion: SyntheticLesion, replaces: tuple[Tissue, ...], k: int, tissues: list[Array]) -> Recist | None:
        window = self._window(lesion)
        x, y = self.frame.columns()[window[1]][None], self.frame.rows()[window[0]][:, None]
        if not x.size or not y.size:
            return None
        occupied = [lesion.occupancy(x, y, np.float32(z)) * self._share(t, replaces, window) for z, t in zip(self._planes(k), tissues)]
        recist = recist_of(np.mean(occupied, 0), (self.frame.pixel, self.frame.pixel))
        if recist is None:
            return None
        corner = window[1].start, window[0].start
        axes = (tuple((i + corner[0], j + corner[1]) for i, j in axis) for axis in (recist.long_axis, recist.short_axis))
        return Recist(*axes, recist.long_mm, recist.short_mm)

    def _window(self, lesion: SyntheticLesion) -> tuple[slice, slice]:
        return lesion.window(self.frame.columns(), self.frame.rows(), np.array([lesion.centre_mm[2]]))[1:]

    def _share(self, tissue: Array, replaces: tuple[Tissue, ...], window: tuple[slice, slice]) -> Array:
        """Fraction 0..1 of tissue that a lesion may replace, in the window (j, i) of the frame."""
        rows, columns = (slice(s.start * OVERSAMPLING, s.stop * OVERSAMPLING) for s in window)
        allowed = np.zeros(256, np.float32)
        allowed[list(replaces)] = 1
        return _pooled(allowed[tissue[rows, columns]])

    # -- slices --------------------------------------------------------------------------------------------------------------------------

    def _planes(self, k: int) -> list[float]:
        """Heights whose average stands for the slice's thickness."""
        count = 1 if self.scanner.thickness < 2 else 2 if self.scanner.thickness < 4 else 3
        return [self.z(k) + self.scanner.thickness * ((n + 0.5) / count - 0.5) for n in range(count)]

    def _tissues(self, k: int) -> list[Array]:
        planes = self._planes(k)
        return [self.patient.paint(z, self.frame, OVERSAMPLING, self.scanner.thickness / len(planes), self._couch) for z in planes]

    def render(self, k: int) -> Array:
        """Slice k as HU, int16 (rows, cols), at least -1024."""
        hu, texture = np.zeros((self.frame.size,) * 2, np.float32), np.zeros((self.frame.size,) * 2, np.float32)
        planes, tissues = self._planes(k), self._tissues(k)
        for z, tissue in zip(planes, tissues):
            plane = _pooled(self.patient.hu[tissue])
            coarse = tissue[::OVERSAMPLING, ::OVERSAMPLING]
            plane += (coarse == Tissue.LUNG) * (self.patient.dependent * (self.frame.rows()[:, None] / 150))
            self._add_lesions(plane, z, tissue)
            hu += plane / len(planes)
            texture += self.patient.texture[coarse] / len(planes)
        hu = gaussian_filter(hu, self.scanner.blur / self.frame.pixel, truncate=3)
        turn = self.z(k) / 5
        hu += texture * (np.cos(turn) * self._texture[0] + np.sin(turn) * self._texture[1]).astype(np.float32)
        hu = self._scanned(hu, k)
        return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)

    def _add_lesions(self, plane: Array, z: float, tissue: Array) -> None:
        for lesion, replaces in zip(self.lesions, self._replaces):
            if abs(lesion.centre_mm[2] - z) > lesion.extent_mm[2]:
                continue
            window = self._window(lesion)
            x, y = self.frame.columns()[window[1]][None], self.frame.rows()[window[0]][:, None]
            if x.size and y.size:
                before = plane[window]
                plane[window] = before + self._share(tissue, replaces, window) * (lesion.blend(before, x, y, np.float32(z)) - before)

    def _scanned(self, hu: Array, k: int) -> Array:
        """Edge overshoot of a sharp kernel, correlated noise that is louder in the middle of the body, and the round field of view."""
        if self.scanner.sharp:
            hu = hu + 0.6 * (hu - gaussian_filter(hu, 1.2 / self.frame.pixel, truncate=2))
        fine = 0.35 if self.scanner.sharp else 0.62
        noise = _correlated(self._random(2, k), self.frame.size, fine / self.frame.pixel, 1.9 / self.frame.pixel)
        hu = hu + self.scanner.noise * self._loudness * noise
        if self.scanner.masked:
            hu[self._outside] = -1024
        return hu

    def _noise_map(self) -> Array:
        x, y = self.frame.columns()[None], self.frame.rows()[:, None]
        middle = self.frame.pixel * self.frame.size / 2
        self._outside = np.hypot(x - self.frame.x - middle, y - self.frame.y - middle) > middle
        return (0.55 + 0.65 * np.exp(-((x / 120) ** 2 + (y / 85) ** 2) / 2)).astype(np.float32)

    def _couch_picture(self, y: float) -> Image.Image:
        """The couch at the oversampled grid: two thin curved shells with foam between, Tissue.AIR elsewhere."""
        step = self.frame.pixel / OVERSAMPLING
        at = (np.arange(self.frame.size * OVERSAMPLING) + 0.5) * step - self.frame.pixel / 2
        depth = (self.frame.y + at)[:, None] - y + ((self.frame.x + at)[None] / 21) ** 2 * 0.35
        mask = np.zeros(depth.shape, np.uint8)
        mask[(depth > 0) & (depth < 26)] = Tissue.TABLE_FOAM
        mask[((depth > 0) & (depth < 1.6)) | ((depth > 24) & (depth < 26))] = Tissue.TABLE
        return Image.fromarray(mask)

    def location(self, recist: Recist, k: int) -> tuple[float, float, float]:
        """Centre of a lesion relative to the slice's body mask (x, y in 0..1) and to the body's length as DeepLesion scores it (z)."""
        z = self.patient.template_z(self.z(k))
        skin = self.patient.to_world(self.patient.outline(z), z)
        points = np.array([*recist.long_axis, *recist.short_axis])
        centre = (points.min(0) + points.max(0)) / 2 * self.frame.pixel + (self.frame.x, self.frame.y)
        x, y = np.clip((centre - skin.min(0)) / np.ptp(skin, axis=0), 0, 1)
        # DeepLesion's mean scores are 0.45 in the mediastinum and 0.80 in the pelvis.
        return float(x), float(y), float(np.clip(0.45 + (360 - z) * 0.00083, 0, 1))


def _pooled(fine: Array) -> Array:
    return (fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]) * np.float32(0.25)


def _correlated(rng: np.random.Generator, size: int, fine: float, coarse: float) -> Array:
    """Unit-variance noise (size, size), float32, whose spectrum rises and falls like that of filtered backprojection; scales in pixels."""
    white = rng.standard_normal((size, size), dtype=np.float32)
    narrow = gaussian_filter(white, fine, truncate=3, mode="wrap")
    band = narrow - 0.75 * gaussian_filter(narrow, coarse, truncate=2, mode="wrap")
    return band / band.std()


def recist_box(recist: Recist, margin: float = MARGIN_PX) -> Box:
    """(x0, y0, x1, y1): the hull of both axes with DeepLesion's margin of 5 pixels."""
    points = np.array([*recist.long_axis, *recist.short_axis])
    return tuple(float(v) for v in (*(points.min(0) - margin), *(points.max(0) + margin)))


def volume(
    seed: int,
    slices: int = 40,
    size: int = 256,
    interval: float = 5.0,
    region: str = "torso",
    lesions: int = 6,
    labels: Sequence[BodyPart] | None = None,
) -> tuple[Array, tuple[float, float, float], tuple[float, float, float], list[Lesion]]:
    """A phantom CT in memory: (hu int16 (k, j, i), spacing (i, j, k) mm, LPS origin of voxel (0, 0, 0), lesions).

    k grows towards the head, so the direction is the identity. At most `slices` slices are rendered, those round the first lesion. Lesions
    are in continuous voxel indices and balanced over `labels` (all eight unless given). The same arguments give the same voxels.
    """
    study = Study((seed, 0), lesions, True, size, region, interval, labels)
    middle = study.key_slice(study.lesions[0]) if study.lesions else study.slices // 2
    first = int(np.clip(middle - slices // 2, 0, max(0, study.slices - slices)))
    shown = range(min(study.slices, first + slices) - 1, first - 1, -1)
    hu = np.stack([study.render(k) for k in shown])
    origin = (study.frame.x, study.frame.y, study.z(shown[0]))
    return hu, (study.frame.pixel, study.frame.pixel, study.scanner.interval), origin, _annotations(study, shown)


def _annotations(study: Study, shown: Sequence[int]) -> list[Lesion]:
    """The study's lesions whose key slice is shown, as `Lesion`s of the volume made of the slices `shown` (study's k, in volume order)."""
    index = {k: n for n, k in enumerate(shown)}
    found = []
    for lesion in study.lesions:
        key = study.key_slice(lesion)
        recist = next((r for other, r in study.measured(key) if other is lesion), None) if key in index else None
        if recist is None:
            continue
        spans = [index[k] for k in shown if abs(study.z(k) - lesion.centre_mm[2]) <= lesion.axes_mm[2]] or [index[key]]
        box = recist_box(recist)
        span = (min(*spans, index[key]), max(*spans, index[key]))
        name = stable_id("phantom", index[key], box, lesion.body_part)
        found.append(Lesion(lesion.body_part, None, index[key], span, box, recist, origin=Origin.READER, id=name))
    return found


# -- files -------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What a data set holds; one for all patients. `lesions` of a patient: None for as many as in DeepLesion."""

    out: Path
    seed: int
    layout: str
    lesions: int | None
    context_mm: float
    balanced: bool
    region: str
    size: int
    interval: float | None = None


def write_patient(plan: Plan, number: int, split: int) -> list[dict]:
    """Render and write patient `number`; the rows of its `DL_info.csv`."""
    lesions = natural_lesions(plan.seed, number) if plan.lesions is None else plan.lesions
    study = Study((plan.seed, number), lesions, plan.balanced, plan.size, plan.region, plan.interval)
    series = layout.series_folder(number)
    if plan.layout == "deeplesion":
        rows, shown = _rows(study, number, split, plan.context_mm)
        folder = plan.out / "Images_png" / series
        for k in shown:
            layout.write_png(folder / f"{k + 1:03d}.png", study.render(k))
        return rows
    rows, _ = _rows(study, number, split, None, from_feet=True)
    hu = np.stack([study.render(k) for k in range(study.slices - 1, -1, -1)])
    if plan.layout == "nrrd":
        image = SimpleITK.GetImageFromArray(hu)
        image.SetSpacing((study.frame.pixel, study.frame.pixel, study.scanner.interval))
        image.SetOrigin((study.frame.x, study.frame.y, study.z(study.slices - 1)))
        SimpleITK.WriteImage(image, str(plan.out / f"{series}.nrrd"), True)
    else:
        _write_dicom(study, hu, number, plan)
    return rows


def natural_lesions(seed: int, number: int) -> int:
    """How many lesions patient `number` has if patients are to differ as in DeepLesion: at least 1, most have few."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, number), spawn_key=(8,)))
    return int(np.clip(np.rint(rng.lognormal(_LOG_LESIONS, _LOG_LESIONS_SPREAD)), 1, _MOST_LESIONS))


def _rows(study: Study, number: int, split: int, context_mm: float | None, from_feet: bool = False) -> tuple[list[dict], list[int]]:
    """One row per lesion and key slice on which it is worth annotating, and the slices to render: `context_mm` either side (None: all).

    Rows number slices from 1 at the head, as DeepLesion does, or `from_feet`, as a report on a CT from another file does.
    """
    rows, shown = [], set()
    reach = study.slices if context_mm is None else int(np.ceil(context_mm / study.scanner.interval))
    for key in sorted({study.key_slice(lesion) for lesion in study.lesions}):
        measured = study.measured(key)
        first, last = max(0, key - reach), min(study.slices - 1, key + reach)
        if measured:
            shown.update(range(first, last + 1))
        numbers = [study.slices - k if from_feet else k + 1 for k in (key, first, last)]
        rows += [_row(study, number, split, key, lesion, recist, numbers) for lesion, recist in measured]
    return rows, sorted(shown)


def _row(study: Study, number: int, split: int, key: int, lesion: SyntheticLesion, recist: Recist, numbers: Sequence[int]) -> dict:
    """A row; `numbers` are those of its key slice, and of the first and the last slice that is written."""
    key_number, *slices = numbers
    return layout.row(
        number,
        key_number,
        recist,
        lesion.body_part,
        slices=tuple(sorted(slices)),
        spacing=(study.frame.pixel, study.frame.pixel, study.scanner.interval),
        size=(study.frame.size, study.frame.size),
        location=study.location(recist, key),
        window=(-1500, 500) if lesion.body_part == BodyPart.LUNG else (-175, 275),
        gender="F" if study.patient.female else "M",
        age=study.patient.age,
        split=split,
    )


def _write_dicom(study: Study, hu: Array, number: int, plan: Plan) -> None:
    """CT Image Storage, one file a slice, `hu` ordered from feet to head."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    def uid(*what: object) -> str:
        return generate_uid(entropy_srcs=["phantom", str(plan.seed), str(number), *map(str, what)])

    folder = plan.out / layout.series_folder(number)
    folder.mkdir(parents=True)
    day = (date(2020, 1, 1) + timedelta(days=number % 1000)).strftime("%Y%m%d")
    for index, pixels in enumerate(hu):
        z = study.z(study.slices - 1 - index)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = uid("image", index)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = uid("study"), uid("series"), uid("frame")
        image.StudyID, image.SeriesNumber, image.InstanceNumber, image.AcquisitionNumber = "01", 1, len(hu) - index, 1
        image.PatientName, image.PatientID, image.PatientBirthDate = f"Phantom^{number:06d}", f"PHANTOM{number:06d}", ""
        image.PatientSex, image.PatientAge = "F" if study.patient.female else "M", f"{study.patient.age:03d}Y"
        image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = day
        image.StudyTime = image.ContentTime = "120000"
        image.AccessionNumber, image.ReferringPhysicianName, image.PositionReferenceIndicator = "", "", ""
        image.Modality, image.Manufacturer, image.SeriesDescription = "CT", "Phantom", "Synthetic torso"
        image.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        image.KVP, image.PatientPosition = "120", "HFS"
        image.ImagePositionPatient = [f"{value:.4f}" for value in (study.frame.x, study.frame.y, z)]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.PixelSpacing = [f"{study.frame.pixel:.6f}"] * 2
        image.SliceThickness, image.SpacingBetweenSlices = f"{study.scanner.thickness:.3f}", f"{study.scanner.interval:.3f}"
        image.Rows, image.Columns = pixels.shape
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.RescaleIntercept, image.RescaleSlope, image.RescaleType = "0", "1", "HU"
        image.WindowCenter, image.WindowWidth = "50", "450"
        image.PixelData = np.ascontiguousarray(pixels, "<i2").tobytes()
        image.save_as(folder / f"{len(hu) - index:04d}.dcm", enforce_file_format=True)


@contextmanager
def _finished(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` when the work is done, and vanishes when it is not."""
    partial_folder = out.absolute().with_name(f".{out.name}.partial-{os.getpid()}")
    partial_folder.mkdir(parents=True)
    try:
        yield partial_folder
        if out.is_dir():
            out.rmdir()
        partial_folder.rename(out)
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def split_of(patients: int, percent: Sequence[float], seed: int) -> Array:
    """1, 2 or 3 (train, validation, test) for each of `patients`, in the given shares, in random order."""
    edges = np.cumsum(np.asarray(percent, float) / np.sum(percent))[:2]
    ranks = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(9,))).permutation(patients)
    return 1 + np.searchsorted(edges, (ranks + 0.5) / patients, side="right")


def generate(plan: Plan, first: int, patients: int, percent: Sequence[float], workers: int) -> int:
    """Write a whole data set to `plan.out`; returns the number of rows. FileExistsError where the folder holds files already."""
    if plan.out.exists() and (not plan.out.is_dir() or any(plan.out.iterdir())):
        raise FileExistsError(f"{plan.out} exists and is not empty; choose another --out or remove it.")
    numbers, splits = range(first, first + patients), split_of(patients, percent, plan.seed).tolist()
    with _finished(plan.out) as folder:
        work = partial(write_patient, Plan(**{**vars(plan), "out": folder}))
        rows = []
        progress = partial(tqdm, total=patients, unit="patient", disable=not sys.stderr.isatty())
        if workers == 1:
            rows += chain.from_iterable(progress(map(work, numbers, splits)))
        else:
            with ProcessPoolExecutor(workers) as pool:
                rows += chain.from_iterable(progress(pool.map(work, numbers, splits)))
        layout.write_csv(folder / "DL_info.csv", rows)
    return len(rows)


def _lesions(text: str) -> int | None:
    if text != "natural" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number of lesions nor natural")
    return None if text == "natural" else int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 when the data set stands, 2 with one sentence on stderr when it cannot."""
    parser = argparse.ArgumentParser(
        prog="python -m train.phantom",
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python -m train.phantom --out data/phantom --patients 40 --seed 0 --labels balanced\n"
        "  python -m train.phantom --out data/deeplesion-like --patients 900 --lesions-per-patient natural --labels natural\n"
        "  python -m train.phantom --out data/ct --patients 1 --format dicom --region chest\n",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--first-patient", type=int, default=1, help="number of the first patient (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=("deeplesion", "nrrd", "dicom"), default="deeplesion")
    parser.add_argument("--region", choices=tuple(_REGIONS), default="torso")
    parser.add_argument(
        "--lesions-per-patient",
        type=_lesions,
        default=6,
        metavar="N",
        help="or natural: 1 to 30, as in DeepLesion (default 6)",
    )
    parser.add_argument(
        "--labels", choices=("natural", "balanced"), default="natural", help="as common as in DeepLesion, or equally common"
    )
    parser.add_argument("--context-mm", type=float, default=5.0, help="slices rendered either side of a key slice (deeplesion only)")
    parser.add_argument("--interval-mm", type=float, help="distance between slices (default: 1, 2, 2.5 or 5, as common as in DeepLesion)")
    parser.add_argument("--size", type=int, default=512, help="rows and columns of a slice")
    parser.add_argument(
        "--splits", type=float, nargs=3, default=(70, 15, 15), metavar=("TRAIN", "VAL", "TEST"), help="per cent of patients"
    )
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args(arguments)
    if (
        min(given.patients, given.workers, given.first_patient) < 1
        or (given.lesions_per_patient or 0) < 0
        or given.seed < 0
        or given.size < 64
    ):
        parser.error(
            "--patients, --workers and --first-patient must be at least 1, --size at least 64, --seed and --lesions-per-patient at least 0"
        )
    if min(given.splits) < 0 or sum(given.splits) <= 0 or given.context_mm < 0:
        parser.error("--splits and --context-mm must not be negative, and one split must be more than 0")
    if given.interval_mm is not None and not 0.25 <= given.interval_mm <= 50:
        parser.error("--interval-mm must lie in 0.25..50")
    plan = Plan(
        given.out,
        given.seed,
        given.format,
        given.lesions_per_patient,
        given.context_mm,
        given.labels == "balanced",
        given.region,
        given.size,
        given.interval_mm,
    )
    try:
        rows = generate(plan, given.first_patient, given.patients, given.splits, given.workers)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    print(f"{given.out}: {given.patients} patients, {rows} annotated lesions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
