"""A coarse torso in CT, shifted and turned, to be aligned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from LesionDetectorLib.ct import Volume

SIZE, LENGTH = (200.0, 120.0), 480.0


def body(points: np.ndarray) -> np.ndarray:
    """HU of a torso at points (..., 3) in mm: lungs with a nodule, liver, spine, ribs of a pelvis."""
    x, y, z = np.moveaxis(points, -1, 0)
    wide = 140 + 25 * np.cos(z / 90)
    hu = np.where((x / wide) ** 2 + (y / (wide * 0.65)) ** 2 < 1, 30.0, -1000.0)
    for side in (-1, 1):
        hu[((x - 65 * side) / 50) ** 2 + ((y - 15) / 60) ** 2 + ((z - 370) / 110) ** 2 < 1] = -850
        hu[((x - 80 * side) / 35) ** 2 + ((y - 25) / 40) ** 2 + ((z - 40) / 60) ** 2 < 1] = 400
    hu[((x + 60) / 60) ** 2 + ((y + 10) / 60) ** 2 + ((z - 230) / 60) ** 2 < 1] = 110
    hu[((x - 10) / 35) ** 2 + ((y + 35) / 40) ** 2 + ((z - 360) / 50) ** 2 < 1] = 150
    hu[(np.hypot(x, y - 60) < 20) & (np.mod(z, 32) > 8)] = 350
    return hu


def scan(
    bottom: float = 0.0,
    top: float = LENGTH,
    shift: tuple[float, float, float] = (0, 0, 0),
    degrees: float = 0.0,
    spacing: tuple[float, float, float] = (8.0, 8.0, 6.0),
    table: float | None = 140.0,
    seed: int = 0,
    breath: float = 0.0,
    half_turn: bool = False,
) -> tuple[Volume, np.ndarray]:
    """A CT of the torso between two heights, turned about z and shifted, and the matrix from torso mm to its LPS mm.

    `table` is the y of a table, `breath` how far it moves the organs at the diaphragm along z.
    """
    origin = np.array([-SIZE[0], -SIZE[1] - 60, bottom])
    counts = [int(2 * SIZE[0] / spacing[0]), int((2 * SIZE[1] + 120) / spacing[1]), int((top - bottom) / spacing[2])]
    grid = np.stack(np.meshgrid(*map(np.arange, counts[::-1]), indexing="ij"), axis=-1)[..., ::-1] * spacing + origin
    angle = np.radians(degrees + 180 * half_turn)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    places = grid @ turn  # the inverse of the turn
    places[..., 2] -= breath * np.exp(-(((places[..., 2] - 260) / 90) ** 2))
    hu = body(places)
    if table is not None:
        hu[np.abs(grid[..., 1] - table) < 8] = 0
    hu += np.random.default_rng(seed).normal(0, 20, hu.shape)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, shift
    origin = tuple((origin + shift).tolist())
    return Volume(np.clip(hu, -1024, 3000).astype(np.int16), spacing, origin, np.eye(3), Path("ct.nrrd")), matrix


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]
