"""Solids as functions of height, for painting axial slices: lofts of contours, swept tubes, and branching trees of
them.

Coordinates are mm; z is the height of the slice, contours are (64, 2) vertices of x, y.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageDraw

Array: TypeAlias = np.ndarray

VERTICES = 64
TURN = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
_UNIT = np.c_[np.cos(TURN), np.sin(TURN)]


def ellipse(x: float, y: float, a: float, b: float, degrees: float = 0.0, power: float = 2.0) -> Array:
    """(64, 2) vertices of an ellipse, or of a superellipse for power > 2, turned by `degrees`."""
    unit = np.sign(_UNIT) * np.abs(_UNIT) ** (2 / power) * (a, b)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return unit @ np.array([[c, s], [-s, c]]) + (x, y)


def closed_curve(points: Sequence[tuple[float, float]]) -> Array:
    """(64, 2) vertices of the closed Catmull-Rom curve through `points`, evenly spaced, starting at the patient's
    left of the centre."""
    p = np.asarray(points, float)
    t = np.linspace(0, 1, 16, endpoint=False)[:, None]
    before, after, beyond = np.roll(p, 1, 0)[:, None], np.roll(p, -1, 0)[:, None], np.roll(p, -2, 0)[:, None]
    here = p[:, None]
    dense = 0.5 * (
        2 * here
        + (after - before) * t
        + (2 * before - 5 * here + 4 * after - beyond) * t**2
        + (3 * here - before - 3 * after + beyond) * t**3
    )
    dense = dense.reshape(-1, 2)
    x, y = dense.T
    if np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) < 0:
        dense = dense[::-1]
    offset = dense - dense.mean(0)
    dense = np.roll(dense, -int(np.abs(np.arctan2(offset[:, 1], offset[:, 0])).argmin()), 0)
    ring = np.vstack([dense, dense[:1]])
    length = np.r_[0, np.hypot(*np.diff(ring, axis=0).T).cumsum()]
    at = np.linspace(0, length[-1], VERTICES, endpoint=False)
    return np.c_[np.interp(at, length, ring[:, 0]), np.interp(at, length, ring[:, 1])]


def shrunk(outline: Array, mm: float) -> Array:
    """The outline moved towards its centre by `mm` (away from it if negative); meant for star-shaped outlines."""
    offset = outline - outline.mean(0)
    distance = np.hypot(*offset.T)[:, None]
    return outline - offset * np.minimum(mm / np.maximum(distance, 1e-3), 0.95)


class Room:
    """Where a tree may grow: a coarse 3-D mask, 4 mm in the plane and 6 mm along z, of `fills(z)` without `cuts(z)`
    (lists of outlines)."""

    STEP, RISE, HALF = 4.0, 6.0, 160.0

    def __init__(
        self, bottom: float, top: float, fills: Callable[[float], list], cuts: Callable[[float], list]
    ) -> None:
        self._bottom = bottom
        self._mask = np.stack([self._layer(fills(z), cuts(z)) for z in np.arange(bottom, top, self.RISE)])

    def _layer(self, fills: list, cuts: list) -> Array:
        side = int(2 * self.HALF / self.STEP)
        image = Image.new("L", (side, side))
        draw = ImageDraw.Draw(image)
        for outlines, value in ((fills, 1), (cuts, 0)):
            for outline in outlines:
                if outline is not None:
                    draw.polygon(((outline + self.HALF) / self.STEP).ravel().tolist(), fill=value)
        return np.asarray(image, bool)

    def holds(self, point: Sequence[float]) -> bool:
        """Whether (x, y, z) lies in the mask."""
        i = int((point[0] + self.HALF) / self.STEP)
        j = int((point[1] + self.HALF) / self.STEP)
        k = int((point[2] - self._bottom) // self.RISE)
        depth, height, width = self._mask.shape
        return 0 <= k < depth and 0 <= j < height and 0 <= i < width and bool(self._mask[k, j, i])


class Loft:
    """A solid whose contours at a few z are known.

    Linear between them, rounded off over `cap` mm beyond the first and the last.
    """

    def __init__(self, contours: Mapping[Any, Any], cap: float = 10.0) -> None:
        self.z = np.array(sorted(contours), float)
        outlines = [np.asarray(contours[z], float) for z in sorted(contours)]
        self.outlines = np.array([o if len(o) == VERTICES else closed_curve(o) for o in outlines])
        self.cap = cap

    @property
    def bottom(self) -> float:
        return float(self.z[0] - self.cap)

    @property
    def top(self) -> float:
        return float(self.z[-1] + self.cap)

    def varied(self, rng: np.random.Generator, shift: float = 4.0, size: float = 0.07, shape: float = 0.05) -> Loft:
        """Another patient's organ: moved by about `shift` mm, scaled by about 1 +- `size`, radius rippled by about
        `shape`."""
        centre = np.append(self.outlines.mean((0, 1)), self.z.mean())
        scale = np.exp(rng.normal(0, size, 3))
        order = np.array([2, 3, 5])
        phase = rng.uniform(0, 2 * np.pi, 3)
        amplitude = rng.normal(0, shape, 3) / (1, 1.5, 3)
        ripple = 1 + (amplitude * np.cos(order * TURN[:, None] + phase)).sum(1)
        middles = self.outlines.mean(1, keepdims=True)
        other = Loft.__new__(Loft)
        moved = middles + (self.outlines - middles) * ripple[:, None] * scale[:2]
        other.outlines = moved + (middles - centre[:2]) * (scale[:2] - 1) + rng.normal(0, shift, 2)
        other.z = centre[2] + (self.z - centre[2]) * scale[2] + rng.normal(0, shift)
        other.cap = self.cap
        return other

    def scaled(self, size: float = 1.0, side: int = 1) -> Loft:
        """Every contour scaled about its centre.

        Side -1 also mirrors the solid to the other side of the body (x -> -x).
        """
        other = Loft.__new__(Loft)
        middle = self.outlines.mean(1, keepdims=True)
        other.outlines = (middle + (self.outlines - middle) * size) * (side, 1)
        other.z, other.cap = self.z, self.cap
        return other

    def at(self, z: float) -> Array | None:
        """(64, 2) contour at height z, or None beyond the ends."""
        if not self.bottom < z < self.top:
            return None
        inner = min(max(z, self.z[0]), self.z[-1])
        above = min(max(int(np.searchsorted(self.z, inner)), 1), len(self.z) - 1) if len(self.z) > 1 else 0
        if above:
            t = (inner - self.z[above - 1]) / (self.z[above] - self.z[above - 1])
            outline = (1 - t) * self.outlines[above - 1] + t * self.outlines[above]
        else:
            outline = self.outlines[0]
        beyond = abs(z - inner) / self.cap if self.cap else 0.0
        if beyond:
            middle = outline.mean(0)
            outline = middle + (outline - middle) * np.sqrt(1 - beyond**2)
        return outline


@dataclass(frozen=True, eq=False)
class Sweep:
    """Spheres (N, 4: x, y, z, radius) along one or many paths, painted as one tissue per sphere (N,)."""

    spheres: Array
    tissue: Array

    @staticmethod
    def along(path: Sequence[Sequence[float]], tissue: int, step: float = 0.45) -> Sweep:
        """A tube through (x, y, z, radius) points, smoothed; spheres every `step` radii."""
        points = smooth_path(np.asarray(path, float))
        length = np.r_[0, np.linalg.norm(np.diff(points[:, :3], axis=0), axis=1).cumsum()]
        spacing = max(0.4, step * float(points[:, 3].min()))
        at = np.linspace(0, length[-1], max(2, int(length[-1] / spacing) + 1))
        spheres = np.stack([np.interp(at, length, column) for column in points.T], 1)
        return Sweep(spheres, np.full(len(spheres), tissue))

    @staticmethod
    def join(sweeps: Iterable[Sweep]) -> Sweep:
        parts = list(sweeps)
        if not parts:
            return Sweep(np.zeros((0, 4)), np.zeros(0, int))
        return Sweep(np.concatenate([s.spheres for s in parts]), np.concatenate([s.tissue for s in parts]))

    def shifted(self, rng: np.random.Generator, by: float) -> Sweep:
        """The tube moved by about `by` mm."""
        return Sweep(self.spheres + np.append(rng.normal(0, by, 3), 0), self.tissue)

    def inner(self, wall: float, tissue: int) -> Sweep:
        """The lumen of a tube with walls of `wall` mm."""
        spheres = self.spheres - (0, 0, 0, wall)
        keep = spheres[:, 3] > 0.2
        return Sweep(spheres[keep], np.full(int(keep.sum()), tissue))

    def at(self, z: float, thickness: float = 0.0) -> tuple[Array, Array]:
        """Circles (n, 3: x, y, radius) and tissues where the plane z cuts the spheres.

        Spheres thinner than `thickness` reach that far.
        """
        radius = self.spheres[:, 3]
        reach = np.maximum(radius, thickness / 2)
        offset = np.abs(self.spheres[:, 2] - z)
        hit = np.flatnonzero(offset < reach)
        circle = radius[hit] * np.sqrt(1 - (offset[hit] / reach[hit]) ** 2)
        return np.c_[self.spheres[hit, :2], circle], self.tissue[hit]


def smooth_path(points: Array, rounds: int = 2) -> Array:
    """Chaikin's corner cutting, ends kept."""
    for _ in range(rounds):
        quarter, three = 0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]
        points = np.vstack([points[:1], np.stack([quarter, three], 1).reshape(-1, points.shape[1]), points[-1:]])
    return points


def grow_tree(
    rng: np.random.Generator,
    root: Sequence[float],
    direction: Sequence[float],
    radius: float,
    inside: Callable[[Array], bool],
    tissue: int,
    smallest: float = 0.6,
    stretch: float = 7.0,
) -> Sweep:
    """A branching vessel tree that stays `inside`: lengths about `stretch` radii, daughters' radii by Murray's law
    (r^3 is kept)."""
    rods: list[tuple[float, ...]] = []  # start x, y, z, radius, end x, y, z, radius
    tips = [(np.asarray(root, float), np.asarray(direction, float) / np.linalg.norm(direction), radius)]
    while tips and len(rods) < 840:
        start, heading, size = tips.pop(0)
        length = min(38.0, max(9.0, stretch * size)) * rng.uniform(0.6, 1.3)
        end = start + heading * length
        if not inside(end):
            end = start + heading * length * 0.4
            if not inside(end):
                continue
        share = rng.uniform(0.25, 0.75)
        middle = (start + end) / 2 + rng.normal(0, 0.06 * length, 3)
        rods += [(*start, size, *middle, 0.93 * size), (*middle, 0.93 * size, *end, 0.85 * size)]
        for part in (share, 1 - share):
            daughter = 0.92 * size * part ** (1 / 3)
            if daughter >= smallest:
                bend = heading + rng.normal(0, 0.55 * (1.3 - part), 3)
                tips.append((end, bend / np.linalg.norm(bend), daughter))
    return _filled_with_spheres(np.array(rods).reshape(-1, 2, 4), tissue)


def _filled_with_spheres(rods: Array, tissue: int, step: float = 0.6) -> Sweep:
    """Spheres every `step` radii along straight rods (N, start and end, x y z radius)."""
    length = np.linalg.norm(rods[:, 1, :3] - rods[:, 0, :3], axis=1)
    counts = np.maximum(2, (length / np.maximum(0.4, step * rods[:, 1, 3])).astype(int) + 1)
    rod = np.repeat(np.arange(len(rods)), counts)
    t = ((np.arange(len(rod)) - np.repeat(np.cumsum(counts) - counts, counts)) / (counts - 1)[rod])[:, None]
    return Sweep((1 - t) * rods[rod, 0] + t * rods[rod, 1], np.full(len(rod), tissue))
