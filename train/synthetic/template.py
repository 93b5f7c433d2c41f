"""The template that every patient is a deformation of: body cavity, spine, sternum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from train.synthetic.shapes import Array, ellipse

TOP_MM, BOTTOM_MM = 470.0, -170.0
# Half width, half depth and y of the centre of the body cavity (inside ribs and muscles).
CAVITY_Z = np.array(
    [-190, -140, -100, -60, -20, 20, 60, 100, 140, 180, 220, 260, 300, 340, 380, 420, 450, 475, 500], float
)
CAVITY = np.array(
    [
        (46, 52, 8),
        (64, 62, 6),
        (84, 74, 0),
        (104, 80, -6),
        (112, 76, -10),
        (115, 73, -13),
        (115, 74, -14),
        (116, 78, -12),
        (121, 84, -10),
        (126, 90, -8),
        (130, 95, -6),
        (132, 97, -6),
        (131, 96, -5),
        (127, 93, -4),
        (120, 87, -2),
        (106, 77, 0),
        (86, 64, 3),
        (58, 50, 6),
        (40, 42, 8),
    ],
    float,
)
SPINE_Z = np.array([-120, -80, -40, 0, 50, 110, 170, 215, 260, 300, 345, 385, 430, 475, 520], float)
SPINE_Y = np.array([86, 84, 66, 40, 24, 24, 33, 42, 50, 55, 56, 52, 44, 34, 26], float)
VERTEBRAE = np.r_[
    0.0, np.cumsum([37, 37, 37, 37, 36, 30, 28.5, 27.5, 26.5, 25.5, 25, 24, 23.5, 23, 22, 21, 20, 18, 17, 17])
]


def spine_y(z: float) -> float:
    """y of the vertebral bodies' centres."""
    return float(np.interp(z, SPINE_Z, SPINE_Y))


def cavity(z: float, grow: float = 0.0) -> Array:
    """(64, 2) contour of the body cavity at z, grown by `grow` mm."""
    a, b, y = (float(np.interp(z, CAVITY_Z, column)) for column in CAVITY.T)
    return ellipse(0, y, a + grow, b + grow, power=2.25)


def mirrored(path: Sequence[Sequence[float]], side: int) -> Array:
    return np.asarray(path, float) * ([side] + [1] * (len(path[0]) - 1))


def sternum_y(z: float) -> float:
    return float(np.interp(z, [255, 300, 350, 400, 430], [-104, -104, -98, -86, -72]))
