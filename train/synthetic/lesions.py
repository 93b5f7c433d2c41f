"""A synthetic lesion as an implicit function of world mm, for phantoms and for lesions put into real CT.

The surface is an ellipsoid of random axes and orientation whose radius is modulated by low-frequency waves (lobulation)
and narrow spikes (spiculation); its edge is a cumulative Gaussian, which is what a scanner's point spread makes of a
sharp edge. Inside are tissue, and perhaps a necrotic core, an enhancing rim, calcified or fatty spots, airways and a
heterogeneity. `train.synthetic.tumours` makes more of one: fronds, an uneven core, air bronchograms.

Coordinates are mm of any right-angled frame with x along an image row, y along a column and z across slices (LPS of an
axial CT), float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from LesionDetectorLib.ct.geometry import vector
from LesionDetectorLib.lesion import BodyPart, Recist
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist, squareform
from scipy.special import ndtr
from skimage.measure import find_contours

from train.synthetic.shapes import Array

Vector = tuple[float, float, float]

UNEVEN_CORE = 0.4
"""How much of the core's radius one unit of mottle adds or takes."""

# Quantiles 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98 of the long axis (mm = px * in-plane spacing) and of short / long, of
# the 4,927 lesions of
# DeepLesion's official test split (`Lesion_diameters_Pixel_`, `Spacing_mm_px_`, per `Coarse_lesion_type`).
_LEVELS = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
_LONG_MM = {
    BodyPart.BONE: (5.0, 7.9, 10.5, 16.1, 24.5, 31.6, 38.9),
    BodyPart.ABDOMEN: (6.9, 10.2, 13.7, 20.5, 34.5, 53.2, 91.0),
    BodyPart.MEDIASTINUM: (7.5, 10.7, 13.5, 18.9, 27.1, 37.5, 56.5),
    BodyPart.LIVER: (5.4, 9.4, 13.1, 23.8, 39.0, 64.1, 115.4),
    BodyPart.LUNG: (2.7, 4.0, 6.7, 13.1, 23.3, 43.3, 78.7),
    BodyPart.KIDNEY: (4.6, 9.2, 13.6, 19.8, 29.5, 47.4, 72.9),
    BodyPart.SOFT_TISSUE: (6.7, 10.9, 15.5, 22.1, 31.2, 44.0, 64.0),
    BodyPart.PELVIS: (7.3, 11.2, 15.0, 21.8, 37.2, 59.3, 91.2),
}
_SHORT_TO_LONG = {
    BodyPart.BONE: (0.37, 0.55, 0.63, 0.74, 0.84, 0.94, 1.0),
    BodyPart.ABDOMEN: (0.30, 0.47, 0.59, 0.73, 0.85, 0.93, 0.98),
    BodyPart.MEDIASTINUM: (0.32, 0.48, 0.59, 0.70, 0.82, 0.90, 0.98),
    BodyPart.LIVER: (0.49, 0.60, 0.72, 0.82, 0.90, 0.96, 1.0),
    BodyPart.LUNG: (0.32, 0.48, 0.61, 0.76, 0.87, 0.94, 1.0),
    BodyPart.KIDNEY: (0.51, 0.66, 0.76, 0.84, 0.92, 0.96, 0.98),
    BodyPart.SOFT_TISSUE: (0.31, 0.47, 0.57, 0.70, 0.82, 0.89, 0.97),
    BodyPart.PELVIS: (0.34, 0.45, 0.56, 0.71, 0.84, 0.93, 0.99),
}


@dataclass(frozen=True, eq=False)
class SyntheticLesion:
    """One lesion in world mm.

    Attributes
    ----------
    body_part: its label.
    centre_mm: (x, y, z).
    axes_mm: the three semi-axes.
    rotation: (3, 3), rows are the unit vectors of the three axes.
    tissue_hu: HU of its tissue; `opacity` 0..1 is how much of the background that tissue replaces (below 1: ground
        glass).
    edge_mm: standard deviation of the Gaussian that blurs its edge.
    waves: (n, 5) lobulation of the relative radius: wave vector (3), phase, amplitude.
    spicules: (n, 5) spikes of the relative radius: unit direction (3), sharpness, height.
    core_radius, core_hu: relative radius (0: none) and HU of a core, either necrotic or, in a part-solid nodule, the
        solid part.
    rim_hu: HU added in the outer shell.
    texture_hu: amplitude of the heterogeneity inside.
    spots: (n, 5) calcifications or fat: offset from the centre in mm (3), radius in mm, HU.
    fronds: (n, 5) unevenness of the relative radius in space, not in direction: wave vector per mm (3), phase,
        amplitude. It breaks the edge into strands and islands.
    mottle: (n, 5) likewise a pattern of the inside; it shapes the core, and varies the tissue by `mottle_hu`.
    tubes: (n, 8) air-filled bronchi: ends as offsets from the centre in mm (3 + 3), radius in mm, HU.
    """

    body_part: BodyPart
    centre_mm: Vector
    axes_mm: Vector
    rotation: Array
    tissue_hu: float
    opacity: float = 1.0
    edge_mm: float = 0.6
    waves: Array = field(default_factory=lambda: np.zeros((0, 5), np.float32))
    spicules: Array = field(default_factory=lambda: np.zeros((0, 5), np.float32))
    core_radius: float = 0.0
    core_hu: float = 0.0
    rim_hu: float = 0.0
    texture_hu: float = 0.0
    spots: Array = field(default_factory=lambda: np.zeros((0, 5), np.float32))
    fronds: Array = field(default_factory=lambda: np.zeros((0, 5), np.float32))
    mottle: Array = field(default_factory=lambda: np.zeros((0, 5), np.float32))
    mottle_hu: float = 0.0
    tubes: Array = field(default_factory=lambda: np.zeros((0, 8), np.float32))

    @property
    def extent_mm(self) -> Vector:
        """Half sizes (x, y, z) in mm of a box that holds the whole lesion with its edge."""
        fronds = min(np.abs(self.fronds[:, 4]).sum(), 3 * np.sqrt((self.fronds[:, 4] ** 2).sum()))
        bulge = 1 + float(np.abs(self.waves[:, 4]).sum() + self.spicules[:, 4].sum() + fronds)
        half = bulge * np.sqrt(((self.rotation * np.asarray(self.axes_mm)[:, None]) ** 2).sum(0)) + 3 * self.edge_mm
        return vector(half)

    def window(self, x: Array, y: Array, z: Array) -> tuple[slice, slice, slice]:
        """The part (k, j, i) of an open grid (1-D mm coordinates, any step sign) that the lesion can touch.

        Slices may be empty.
        """
        slices: list[slice] = []
        for values, centre, half in zip((z, y, x), self.centre_mm[::-1], self.extent_mm[::-1]):
            near = np.flatnonzero(np.abs(np.ravel(values) - centre) <= half)
            slices.append(slice(int(near[0]), int(near[-1]) + 1) if near.size else slice(0, 0))
        return slices[0], slices[1], slices[2]

    def occupancy(self, x: Array, y: Array, z: Array) -> Array:
        """Fraction 0..1 of lesion at the mm coordinates x, y, z (broadcast against each other), float32; 0.5 on its
        surface."""
        return self._inside(*self._relative(x, y, z))

    def radius(self, x: Array, y: Array, z: Array) -> Array:
        """Distance from the centre relative to the surface, 1 on it, at mm coordinates."""
        return self._relative(x, y, z)[0]

    def blend(self, hu: Array, x: Array, y: Array, z: Array) -> Array:
        """`hu` (of the shape that x, y and z broadcast to) with the lesion painted in, float32.

        For slices of finite thickness, average the blends of several z. Evaluate it in `window` only: it costs time per
        voxel.
        """
        radius, reach = self._relative(x, y, z)
        weight = self._inside(radius, reach)
        opacity = weight * np.float32(self.opacity)
        tissue = np.full(radius.shape, self.tissue_hu, np.float32)
        tissue += self.rim_hu * np.exp(-(((radius - 0.85) / 0.12) ** 2))
        tissue += self.texture_hu * self._texture(x, y, z)
        mottle = self._pattern(self.mottle, x, y, z)
        tissue += self.mottle_hu * mottle
        if self.core_radius:
            core = ndtr((self.core_radius * (1 + UNEVEN_CORE * mottle) - radius) * reach / (1.5 * self.edge_mm))
            tissue += core * (self.core_hu - tissue)
            if self.opacity < 1:
                opacity = np.maximum(opacity, core)
        for *offset, size, spot_hu in self.spots:
            distance = _norm(
                *(values - centre - shift for values, centre, shift in zip((x, y, z), self.centre_mm, offset))
            )
            tissue += ndtr((size - distance) / self.edge_mm) * (spot_hu - tissue)
        for tube in self.tubes:
            distance = self._to_segment(tube[:3], tube[3:6], x, y, z)
            tissue += ndtr((tube[6] - distance) / self.edge_mm) * (tube[7] - tissue)
        return (hu + opacity * (tissue - hu)).astype(np.float32)

    def _relative(self, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
        """Radius relative to the surface in the point's direction, and the mm that one unit of it is worth."""
        offsets = [
            np.asarray(values, np.float32) - np.float32(centre) for values, centre in zip((x, y, z), self.centre_mm)
        ]
        local = [
            sum(np.float32(w) * value for w, value in zip(axis, offsets)) / np.float32(a)
            for axis, a in zip(self.rotation, self.axes_mm)
        ]
        ellipsoid = np.maximum(_norm(*local), 1e-4)
        surface = np.ones_like(ellipsoid)
        for wx, wy, wz, phase, amplitude in self.waves:
            surface += amplitude * np.cos((wx * local[0] + wy * local[1] + wz * local[2]) / ellipsoid + phase)
        for dx, dy, dz, sharpness, height in self.spicules:
            surface += height * np.exp(sharpness * ((dx * local[0] + dy * local[1] + dz * local[2]) / ellipsoid - 1))
        if len(self.fronds):
            surface = np.maximum(surface + self._pattern(self.fronds, x, y, z), 0.2)
        reach = np.clip(_norm(*offsets) / ellipsoid, min(self.axes_mm), max(self.axes_mm)) * surface
        return ellipsoid / surface, reach

    def _inside(self, radius: Array, reach: Array) -> Array:
        return ndtr((1 - radius) * reach / np.float32(self.edge_mm)).astype(np.float32)

    def _pattern(self, waves: Array, x: Array, y: Array, z: Array) -> Array | np.float32:
        """The sum of plane waves (n, 5) about the centre."""
        u, v, w = (
            np.asarray(values, np.float32) - np.float32(centre) for values, centre in zip((x, y, z), self.centre_mm)
        )
        return sum((a * np.cos((p * u + phase) + q * v + r * w) for p, q, r, phase, a in waves), np.float32(0))

    def _to_segment(self, start: Array, end: Array, x: Array, y: Array, z: Array) -> Array:
        """Distance in mm from a straight line between two offsets from the centre."""
        offsets = [values - centre - from_ for values, centre, from_ in zip((x, y, z), self.centre_mm, start)]
        along = end - start
        share = np.clip(sum(a * value for a, value in zip(along, offsets)) / (along @ along), 0, 1)
        return _norm(*(value - share * a for value, a in zip(offsets, along)))

    def _texture(self, x: Array, y: Array, z: Array) -> Array:
        """A smooth pattern in about -1..1 that differs between lesions (its phases come from the centre)."""
        scale = max(3.0, 0.7 * float(np.mean(self.axes_mm)))
        cx, cy, cz = self.centre_mm
        pattern = np.sin(x / scale * 1.9 + 1.3 * y / scale + cx) + np.sin(y / scale * 2.3 - 0.9 * z / scale + cy)
        return (pattern + np.sin(z / scale * 1.7 + 1.1 * x / scale + cz)) / np.float32(2)


def sample_size(rng: np.random.Generator, body_part: BodyPart) -> tuple[float, float]:
    """(long, short) axis in mm, drawn from DeepLesion's distribution for that label; long axis 3 mm or more."""
    long_mm = max(3.0, float(np.interp(rng.uniform(0.02, 0.98), _LEVELS, _LONG_MM[body_part])))
    return long_mm, long_mm * float(np.interp(rng.uniform(0.02, 0.98), _LEVELS, _SHORT_TO_LONG[body_part]))


def sample(
    rng: np.random.Generator,
    body_part: BodyPart,
    centre_mm: Sequence[float],
    long_mm: float,
    short_mm: float,
    background_hu: float,
) -> SyntheticLesion:
    """A random lesion of about `long_mm` x `short_mm` on its central axial section.

    `background_hu` is what surrounds it: parenchyma for a liver, kidney or other organ lesion, fat for a node, aerated
    lung for a nodule. ValueError for axes that are not 0 < short <= long.
    """
    if not 0 < short_mm <= long_mm:
        raise ValueError(f"A lesion needs 0 < short axis <= long axis, not {short_mm} and {long_mm} mm.")
    height = rng.uniform(short_mm, long_mm) * rng.choice([1.0, 0.8, 1.25])
    axes = (long_mm / 2, short_mm / 2, height / 2)
    size = float(np.mean(axes))
    tissue = _tissue(rng, body_part, background_hu, size)
    spots = tissue.pop("spots", np.zeros((0, 5), np.float32))
    return SyntheticLesion(
        body_part,
        vector(centre_mm),
        axes,
        _orientation(rng),
        edge_mm=float(rng.uniform(0.45, 0.95)) * (1.5 if rng.random() < 0.2 and size > 6 else 1.0),
        waves=_waves(rng, rng.uniform(0.04, 0.3)),
        spicules=_spicules(rng, body_part, size),
        spots=spots,
        **tissue,
    )


def recist_of(section: Array, spacing: tuple[float, float]) -> Recist | None:
    """Ground truth RECIST axes of a section: the longest diameter of its 0.5 contour and the longest chord
    perpendicular to it.

    `section` is a mask or an occupancy (rows, cols); `spacing` is mm along (i, j). Of several parts the largest counts.
    End points are (i, j) in pixels of the section. None where the contour is shorter than two pixels, too little to be
    measured.
    """
    contours = find_contours(np.pad(np.asarray(section, np.float32), 1), 0.5)
    if not contours:
        return None
    step = np.asarray(spacing, float)
    points = (max(contours, key=_area)[:, ::-1] - 1) * step
    try:
        hull = points[ConvexHull(points).vertices]
    except QhullError:  # a contour without area
        return None
    distance = squareform(pdist(hull))
    first, second = np.unravel_index(distance.argmax(), distance.shape)
    start, end, long_mm = hull[first], hull[second], float(distance[first, second])
    if long_mm < 2 * step.max():
        return None
    along = (end - start) / long_mm
    across = np.array([-along[1], along[0]])
    position, low, high = _longest_chord(np.c_[(points - start) @ along, (points - start) @ across])
    chord = [start + position * along + value * across for value in (low, high)]
    a, b, c, d = ((float(p[0] / step[0]), float(p[1] / step[1])) for p in (start, end, *chord))
    return Recist((a, b), (c, d), long_mm, float(high - low))


def _longest_chord(contour: Array) -> tuple[float, float, float]:
    """(position, low, high) of the longest chord of a closed contour (N, 2) at a constant first coordinate."""
    u, v = contour[:-1].T
    next_u, next_v = contour[1:].T
    levels = np.linspace(u.min(), u.max(), 130)[1:-1, None]
    crossing = (u <= levels) != (next_u <= levels)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(crossing, v + (levels - u) / (next_u - u) * (next_v - v), np.nan)
    low, high = np.nanmin(value, 1), np.nanmax(value, 1)
    best = int((high - low).argmax())
    return float(levels[best, 0]), float(low[best]), float(high[best])


def _area(contour: Array) -> float:
    y, x = contour.T
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))) / 2


def _norm(x: Array, y: Array, z: Array) -> Array:
    return np.sqrt(x * x + y * y + z * z)


def _orientation(rng: np.random.Generator) -> Array:
    """Any turn in the axial plane, then a tilt out of it that leaves the first two axes mainly axial."""
    turn, tilt, azimuth = rng.uniform(0, np.pi), rng.normal(0, np.radians(18)), rng.uniform(0, np.pi)
    return _turn_z(turn) @ _turn_z(-azimuth) @ _turn_x(tilt) @ _turn_z(azimuth)


def _turn_z(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])


def _turn_x(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


def _waves(rng: np.random.Generator, strength: float, count: int = 5) -> Array:
    frequency = rng.uniform(1.5, 5, (count, 1))
    amplitude = strength * rng.uniform(0.4, 1, (count, 1)) / np.sqrt(frequency)
    return np.hstack([_directions(rng, count) * frequency, rng.uniform(0, 2 * np.pi, (count, 1)), amplitude]).astype(
        np.float32
    )


def _spicules(rng: np.random.Generator, body_part: BodyPart, size: float) -> Array:
    if body_part != BodyPart.LUNG or size < 4 or rng.random() > 0.35:
        return np.zeros((0, 5), np.float32)
    count = int(rng.integers(4, 14))
    shape = np.hstack([rng.uniform(30, 150, (count, 1)), rng.uniform(0.1, 0.45, (count, 1))])
    return np.hstack([_directions(rng, count), shape]).astype(np.float32)


def _directions(rng: np.random.Generator, count: int) -> Array:
    vectors = rng.normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _spots(
    rng: np.random.Generator, size: float, count: int, radius: tuple[float, float], hu: tuple[float, float]
) -> Array:
    offset = _directions(rng, count) * size * rng.uniform(0, 0.6, (count, 1))
    return np.hstack([offset, rng.uniform(*radius, (count, 1)), rng.uniform(*hu, (count, 1))]).astype(np.float32)


def _tissue(rng: np.random.Generator, body_part: BodyPart, background: float, size: float) -> dict:
    """What a lesion of that label is made of, as keyword arguments of `SyntheticLesion`.

    `size` is its mean radius in mm.
    """
    if body_part == BodyPart.LUNG:
        return _nodule(rng, size)
    if body_part == BodyPart.BONE:
        if rng.random() < 0.55:
            return {"tissue_hu": rng.uniform(30, 90), "texture_hu": rng.uniform(0, 15)}
        return {"tissue_hu": max(rng.uniform(500, 900), background + 200), "texture_hu": rng.uniform(20, 80)}
    if body_part == BodyPart.LIVER:
        return _parenchymal(rng, background, size, cystic=0.12, hyper=0.13)
    if body_part == BodyPart.KIDNEY:
        if rng.random() < 0.1:
            return {"tissue_hu": rng.uniform(-80, -20), "texture_hu": rng.uniform(5, 25)}
        return _parenchymal(rng, background, size, cystic=0.5, hyper=0.08)
    if background > 0:
        return _parenchymal(rng, background, size, cystic=0.2, hyper=0.3)
    return _node(rng, size)


def _nodule(rng: np.random.Generator, size: float) -> dict:
    kind = rng.random()
    if kind < 0.2 and size > 3:
        return {"tissue_hu": rng.uniform(-50, 50), "opacity": rng.uniform(0.25, 0.6), "texture_hu": rng.uniform(20, 80)}
    if kind < 0.32 and size > 4:
        solid = {"core_radius": rng.uniform(0.3, 0.6), "core_hu": rng.uniform(20, 70)}
        return {
            "tissue_hu": rng.uniform(-50, 30),
            "opacity": rng.uniform(0.3, 0.6),
            "texture_hu": rng.uniform(10, 50),
            **solid,
        }
    made = {"tissue_hu": rng.uniform(20, 80), "texture_hu": rng.uniform(0, 12)}
    if rng.random() < 0.08:
        made["spots"] = _spots(rng, size, 2, (0.2 * size, 0.4 * size), (150, 600))
    elif size > 8 and rng.random() < 0.08:
        made |= {"core_radius": rng.uniform(0.3, 0.6), "core_hu": -900.0}
    return made


def _node(rng: np.random.Generator, size: float) -> dict:
    made = {"tissue_hu": rng.uniform(30, 110), "texture_hu": rng.uniform(0, 10)}
    chance = rng.random()
    if size > 5 and chance < 0.2:
        made |= {"core_radius": rng.uniform(0.4, 0.75), "core_hu": rng.uniform(5, 30), "rim_hu": rng.uniform(0, 25)}
    elif size > 4 and chance < 0.3:
        made["spots"] = _spots(rng, size, 1, (0.2 * size, 0.35 * size), (-90, -40))
    elif chance < 0.36:
        made["spots"] = _spots(rng, size, int(rng.integers(1, 4)), (0.8, 2.0), (200, 700))
    return made


def _parenchymal(rng: np.random.Generator, background: float, size: float, cystic: float, hyper: float) -> dict:
    """A lesion inside an organ of `background` HU: with the given chances a cyst or brighter than the organ, else
    darker."""
    kind = rng.random()
    if kind < cystic and background > 30:
        return {"tissue_hu": rng.uniform(-2, 20)}
    texture = {"texture_hu": rng.uniform(0, 10)}
    if kind < cystic + hyper:
        made = {"tissue_hu": background + rng.uniform(20, 60), **texture}
    else:
        made = {"tissue_hu": max(background - rng.uniform(20, 70), min(10.0, background - 20)), **texture}
    if size > 4 and rng.random() < 0.35:
        made["rim_hu"] = rng.uniform(8, 35)
    if size > 8 and rng.random() < 0.3:
        made |= {"core_radius": rng.uniform(0.3, 0.7), "core_hu": max(5.0, made["tissue_hu"] - rng.uniform(10, 40))}
    if rng.random() < 0.05:
        made["spots"] = _spots(rng, size, 2, (0.8, 2.0), (200, 700))
    return made
