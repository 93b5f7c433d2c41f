"""One scan of one patient with its lesions, slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from LesionDetectorLib.boxes import hull
from LesionDetectorLib.ct.geometry import vector
from LesionDetectorLib.lesion import BodyPart, Box, Lesion, Origin, Recist, stable_id
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter

from train.data.layout import MARGIN_PX
from train.synthetic.canvas import Frame
from train.synthetic.lesions import SyntheticLesion, recist_of, sample, sample_size
from train.synthetic.patient import Patient
from train.synthetic.scanner import Scanner, correlated, pooled
from train.synthetic.shapes import Array
from train.synthetic.sites import NATURAL, REGIONS, SITES, Site
from train.synthetic.tissues import Tissue

OVERSAMPLING = 2


class Study:
    """One scan of one random patient with its lesions.

    Attributes
    ----------
    patient, scanner, frame: what is scanned and how; the frame is in world LPS mm.
    top, slices: z of slice 0 and the number of slices; slice k lies at top - k * interval, so k grows from head to
        feet.
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
        heights = np.linspace(*REGIONS[region], 9)
        outlines = [self.patient.to_world(self.patient.outline(z), z) for z in heights]
        low, high = np.min([o.min(0) for o in outlines], 0), np.max([o.max(0) for o in outlines], 0)
        self.scanner = Scanner.random(rng, float(high[0] - low[0]), size, interval)
        pixel = self.scanner.pixel
        middle = (low + high) / 2 + rng.normal(0, 6, 2)
        self.frame = Frame(
            round(float(middle[0] - pixel * size / 2), 3), round(float(middle[1] - pixel * size / 2), 3), pixel, size
        )
        self._heights = REGIONS[region]
        bottom, self.top = (round(z * float(self.patient.scale[2]), 1) for z in self._heights)
        self.slices = int((self.top - bottom) / self.scanner.interval) + 1
        self._couch = self._couch_picture(float(high[1]) + self.scanner.table)
        self._texture = [correlated(rng, size, 1.3 / pixel, 4.0 / pixel) for _ in range(2)]
        self._loudness = self._noise_map()
        self.lesions: list[SyntheticLesion] = []
        self._replaces: list[tuple[Tissue, ...]] = []
        self._painted: tuple[int, list[Array]] = -1, []
        for _ in range(lesions):
            self.place(rng, balanced, labels)

    def _random(self, *branch: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=branch))

    def z(self, k: int) -> float:
        """World z (LPS mm) of slice k."""
        return self.top - k * self.scanner.interval

    # ------ lesions

    def follow_up(self, seed: Sequence[int], region: str = "torso", interval: float | None = None) -> Study:
        """A later study of the patient: its lesions, in their order, grown to 0.7 to 1.4 times their size and breathed
        0 to 8 mm along the body, in another scanner."""
        later = Study(seed, 0, size=self.frame.size, region=region, interval=interval, patient=self.patient)
        rng = later._random(3)
        for lesion, replaces in zip(self.lesions, self._replaces):
            growth = rng.uniform(0.7, 1.4)
            x, y, z = lesion.centre_mm
            moved = (x, y, z + float(rng.uniform(-8, 8)))
            later.add(replace(lesion, centre_mm=moved, axes_mm=vector(np.array(lesion.axes_mm) * growth)), replaces)
        return later

    @property
    def replaced(self) -> list[tuple[Tissue, ...]]:
        """The tissues that each lesion may replace."""
        return self._replaces

    def add(self, lesion: SyntheticLesion, replaces: tuple[Tissue, ...]) -> None:
        """Put a lesion in, whose tissue may replace others."""
        self.lesions.append(lesion)
        self._replaces.append(replaces)

    def place(self, rng: np.random.Generator, balanced: bool = False, labels: Sequence[BodyPart] | None = None) -> bool:
        """Add one lesion of a random label where the anatomy has room for it; False where ten tries find no room."""
        parts = [
            p
            for p in labels or BodyPart
            if any(self._heights[0] < np.mean(site.z) < self._heights[1] for site in SITES[p])
        ]
        odds = np.array([1.0 if balanced else NATURAL[p - 1] for p in parts])
        part = parts[rng.choice(len(parts), p=odds / odds.sum())]
        sites = [site for site in SITES[part] if self._heights[0] < np.mean(site.z) < self._heights[1]]
        weights = np.array([site.weight for site in sites])
        long_mm, short_mm = sample_size(rng, part)  # drawn once: a new size at every try would favour small lesions
        for attempt in range(10):
            site = sites[rng.choice(len(sites), p=weights / weights.sum())]
            spot = self._spot(
                rng, site, long_mm, 0.6 * site.depth * short_mm if attempt < 6 else 0.0, site.depth * short_mm
            )
            if spot is None:
                continue
            centre, background = spot
            # the scanner blurs it
            lesion = replace(sample(rng, part, centre, long_mm, short_mm, background), edge_mm=0.3)
            if all(
                np.linalg.norm(np.subtract(centre, other.centre_mm)) > 1.05 * (max(lesion.axes_mm) + max(other.axes_mm))
                for other in self.lesions
            ):
                self.add(lesion, site.replaces)
                return True
        return False

    def _spot(
        self, rng: np.random.Generator, site: Site, long_mm: float, least_room: float, wanted_room: float
    ) -> tuple[tuple[float, float, float], float] | None:
        """A random point (mm) of the site's tissue as deep in what a lesion may replace as wanted (mm) or possible,
        and the HU there.

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
        here = (
            np.isin(tissue, site.starts)
            & (np.abs(x) >= site.x[0])
            & (np.abs(x) <= site.x[1])
            & (y >= site.y[0])
            & (y <= site.y[1])
        )
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
        centre = (
            float(coarse.x + column * coarse.pixel + jitter[0]),
            float(coarse.y + row * coarse.pixel + jitter[1]),
            float(z),
        )
        return centre, float(self.patient.hu[tissue[row, column]])

    def key_slice(self, lesion: SyntheticLesion) -> int:
        """k of the slice nearest the lesion's centre."""
        return int(np.clip(round((self.top - lesion.centre_mm[2]) / self.scanner.interval), 0, self.slices - 1))

    def measured(self, k: int) -> list[tuple[SyntheticLesion, Recist]]:
        """The lesions that slice k shows with a cross-section worth annotating, with their RECIST axes in pixels of
        the slice."""
        found = []
        masks: list[Array] | None = None
        for lesion, replaces in zip(self.lesions, self._replaces):
            if abs(lesion.centre_mm[2] - self.z(k)) > lesion.extent_mm[2] + self.scanner.thickness / 2:
                continue
            masks = self._tissues(k) if masks is None else masks
            recist = self._section(lesion, replaces, k, masks)
            own = k == self.key_slice(lesion)
            if recist and recist.short_mm >= 2 and (own or recist.long_mm >= max(5.0, 0.45 * 2 * lesion.axes_mm[0])):
                found.append((lesion, recist))
        return found

    def _section(
        self, lesion: SyntheticLesion, replaces: tuple[Tissue, ...], k: int, tissues: list[Array]
    ) -> Recist | None:
        window = self._window(lesion)
        x, y = self.frame.columns()[window[1]][None], self.frame.rows()[window[0]][:, None]
        if not x.size or not y.size:
            return None
        occupied = [
            lesion.occupancy(x, y, np.float32(z)) * self._share(t, replaces, window)
            for z, t in zip(self._planes(k), tissues)
        ]
        recist = recist_of(np.mean(occupied, 0), (self.frame.pixel, self.frame.pixel))
        if recist is None:
            return None
        i, j = window[1].start, window[0].start
        (a, b), (c, d) = recist.long_axis, recist.short_axis
        long_axis = ((a[0] + i, a[1] + j), (b[0] + i, b[1] + j))
        short_axis = ((c[0] + i, c[1] + j), (d[0] + i, d[1] + j))
        return Recist(long_axis, short_axis, recist.long_mm, recist.short_mm)

    def _window(self, lesion: SyntheticLesion) -> tuple[slice, slice]:
        return lesion.window(self.frame.columns(), self.frame.rows(), np.array([lesion.centre_mm[2]]))[1:]

    def _share(self, tissue: Array, replaces: tuple[Tissue, ...], window: tuple[slice, slice]) -> Array:
        """Fraction 0..1 of tissue that a lesion may replace, in the window (j, i) of the frame."""
        rows, columns = (slice(s.start * OVERSAMPLING, s.stop * OVERSAMPLING) for s in window)
        allowed = np.zeros(256, np.float32)
        allowed[list(replaces)] = 1
        return pooled(allowed[tissue[rows, columns]])

    # ------ slices

    def _planes(self, k: int) -> list[float]:
        """Heights whose average stands for the slice's thickness."""
        count = 1 if self.scanner.thickness < 2 else 2 if self.scanner.thickness < 4 else 3
        return [self.z(k) + self.scanner.thickness * ((n + 0.5) / count - 0.5) for n in range(count)]

    def _tissues(self, k: int) -> list[Array]:
        """The tissues of the slice's planes; those of the last slice are not painted again."""
        if self._painted[0] != k:
            planes = self._planes(k)
            thickness = self.scanner.thickness / len(planes)
            self._painted = k, [self.patient.paint(z, self.frame, OVERSAMPLING, thickness, self._couch) for z in planes]
        return self._painted[1]

    def render(self, k: int) -> Array:
        """Slice k as HU, int16 (rows, cols), at least -1024."""
        hu, texture = np.zeros((self.frame.size,) * 2, np.float32), np.zeros((self.frame.size,) * 2, np.float32)
        planes, tissues = self._planes(k), self._tissues(k)
        for z, tissue in zip(planes, tissues):
            plane = pooled(self.patient.hu[tissue])
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
                plane[window] = before + self._share(tissue, replaces, window) * (
                    lesion.blend(before, x, y, np.float32(z)) - before
                )

    def _scanned(self, hu: Array, k: int) -> Array:
        """Edge overshoot of a sharp kernel, correlated noise that is louder in the middle of the body, and the round
        field of view."""
        if self.scanner.sharp:
            hu = hu + 0.6 * (hu - gaussian_filter(hu, 1.2 / self.frame.pixel, truncate=2))
        fine = 0.35 if self.scanner.sharp else 0.62
        noise = correlated(self._random(2, k), self.frame.size, fine / self.frame.pixel, 1.9 / self.frame.pixel)
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
        """Centre of a lesion relative to the slice's body mask (x, y in 0..1) and to the body's length as DeepLesion
        scores it (z)."""
        z = self.patient.template_z(self.z(k))
        skin = self.patient.to_world(self.patient.outline(z), z)
        points = np.array([*recist.long_axis, *recist.short_axis])
        centre = (points.min(0) + points.max(0)) / 2 * self.frame.pixel + (self.frame.x, self.frame.y)
        x, y = np.clip((centre - skin.min(0)) / np.ptp(skin, axis=0), 0, 1)
        # DeepLesion's mean scores are 0.45 in the mediastinum and 0.80 in the pelvis.
        return float(x), float(y), float(np.clip(0.45 + (360 - z) * 0.00083, 0, 1))


def recist_box(recist: Recist, margin: float = MARGIN_PX) -> Box:
    """(x0, y0, x1, y1): the hull of both axes with DeepLesion's margin of 5 pixels."""
    points = np.array([*recist.long_axis, *recist.short_axis])
    return hull(points, margin)


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

    k grows towards the head, so the direction is the identity. At most `slices` slices are rendered, those round the
    first lesion. Lesions are in continuous voxel indices and balanced over `labels` (all eight unless given). The same
    arguments give the same voxels.
    """
    study = Study((seed, 0), lesions, True, size, region, interval, labels)
    middle = study.key_slice(study.lesions[0]) if study.lesions else study.slices // 2
    first = int(np.clip(middle - slices // 2, 0, max(0, study.slices - slices)))
    shown = range(min(study.slices, first + slices) - 1, first - 1, -1)
    hu = np.stack([study.render(k) for k in shown])
    origin = (study.frame.x, study.frame.y, study.z(shown[0]))
    return (
        hu,
        (study.frame.pixel, study.frame.pixel, study.scanner.interval),
        origin,
        [one for _, one in drawn_lesions(study, shown)],
    )


def drawn_lesions(study: Study, shown: Sequence[int]) -> list[tuple[SyntheticLesion, Lesion]]:
    """The study's lesions whose key slice is shown, each with its `Lesion` of the volume made of the slices `shown`
    (study's k, in volume order)."""
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
        drawn = Lesion(lesion.body_part, None, index[key], span, box, recist, origin=Origin.READER, id=name)
        found.append((lesion, drawn))
    return found
