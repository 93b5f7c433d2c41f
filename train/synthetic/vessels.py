"""Arteries, veins and normal lymph nodes."""

from __future__ import annotations

import numpy as np

from train.synthetic.anatomy import Anatomy
from train.synthetic.shapes import Room, Sweep, grow_tree, shrunk
from train.synthetic.template import spine_y
from train.synthetic.tissues import Tissue


def grow_vessels(patient: Anatomy, rng: np.random.Generator) -> None:
    """Arteries and veins of chest and abdomen, those of the liver, and mesenteric ones."""
    aorta_size = rng.uniform(0.88, 1.22)
    _grow_pulmonary(patient, rng)
    _grow_great_veins(patient, rng)
    _grow_arteries(patient, rng, aorta_size)
    _grow_paired(patient, rng)
    _grow_portal(patient, rng)
    _grow_liver_vessels(patient, rng)
    _grow_mesenteric(patient, rng)


def _tube(rng: np.random.Generator, path: list, tissue: int, size: float = 1.0) -> Sweep:
    """A vessel along a path of (x, y, z, radius), shifted and bent a little."""
    drift = rng.normal(0, 1.0, 3)
    return Sweep.along([(*(np.array(p[:3]) + drift + rng.normal(0, 0.7, 3)), p[3] * size) for p in path], tissue)


def _front(z: float) -> float:
    """y of the anterior face of the vertebral bodies."""
    return spine_y(z) - 18


def _grow_pulmonary(patient: Anatomy, rng: np.random.Generator) -> None:
    patient.pulmonary = [
        _tube(
            rng,
            [
                (22, -44, 325, 13),
                (24, -38, 345, 13.5),
                (22, -18, 362, 12.5),
                (30, 2, 366, 11.5),
                (48, 16, 362, 9.5),
                (60, 24, 345, 7),
            ],
            Tissue.PULMONARY_ARTERY,
        ),
        _tube(
            rng,
            [(20, -16, 362, 11), (0, -6, 358, 10.5), (-28, -2, 356, 10), (-50, 2, 348, 8), (-60, 8, 330, 6)],
            Tissue.PULMONARY_ARTERY,
        ),
        _tube(rng, [(4, 8, 318, 8), (-30, 14, 322, 7), (-56, 14, 328, 5)], Tissue.LEFT_HEART),
        _tube(rng, [(12, 8, 318, 8), (38, 16, 322, 7), (58, 18, 328, 5)], Tissue.LEFT_HEART),
    ]


def _grow_great_veins(patient: Anatomy, rng: np.random.Generator) -> None:
    patient.great_veins = [
        _tube(
            rng,
            [
                (-24, -22, 315, 9),
                (-27, -20, 350, 9),
                (-28, -20, 400, 9),
                (-27, -24, 428, 8.5),
                (-38, -22, 455, 8),
                (-44, -15, 490, 7),
            ],
            Tissue.VEIN,
        ),
        _tube(
            rng,
            [(-25, -26, 425, 7), (0, -36, 432, 6.5), (26, -34, 446, 6.5), (42, -20, 470, 7), (46, -12, 500, 6)],
            Tissue.VEIN,
        ),
        _tube(
            rng,
            [
                (-22, -14, 285, 11),
                (-22, 4, 262, 11),
                (-20, 12, 230, 11.5),
                (-20, _front(200) - 4, 195, 11),
                (-20, _front(150) - 8, 150, 11),
                (-18, _front(90) - 8, 90, 10.5),
                (-12, _front(45) - 7, 42, 11),
            ],
            Tissue.VEIN,
            size=rng.uniform(0.8, 1.15),
        ),
        _tube(
            rng,
            [(-3, _front(420) + 2, 392, 3.5), (-4, _front(330) + 1, 330, 3.5), (-3, _front(240) + 1, 230, 3)],
            Tissue.VEIN,
        ),
    ]


def _grow_arteries(patient: Anatomy, rng: np.random.Generator, aorta_size: float) -> None:
    patient.arteries = [
        _tube(
            rng,
            [
                (4, -22, 322, 14.5),
                (-8, -34, 345, 15.5),
                (-14, -36, 375, 15.5),
                (-10, -28, 402, 14.5),
                (2, -8, 414, 14),
                (18, 14, 412, 13.5),
                (26, 32, 396, 13),
                (27, 40, 365, 12.5),
                (25, 40, 320, 12.5),
                (20, 36, 270, 12),
                (12, _front(225) - 10, 225, 11.5),
                (6, _front(180) - 12, 180, 11),
                (4, _front(110) - 12, 110, 9.5),
                (3, _front(50) - 12, 48, 9),
            ],
            Tissue.ARTERY,
            size=aorta_size,
        ),
        _tube(rng, [(-8, -20, 408, 7), (-16, -18, 430, 6.5), (-26, -8, 460, 5.5), (-34, 2, 500, 4)], Tissue.ARTERY),
        _tube(rng, [(4, -8, 412, 5), (12, -8, 440, 4.2), (22, -2, 500, 4)], Tissue.ARTERY),
        _tube(rng, [(16, 8, 412, 5.5), (24, 10, 440, 5), (36, 8, 465, 5), (60, -5, 476, 4.5)], Tissue.ARTERY),
        _tube(
            rng,
            [(5, _front(200) - 18, 200, 3.6), (2, _front(205) - 34, 204, 3.4), (20, -22, 206, 3), (60, 0, 208, 2.8)],
            Tissue.ARTERY,
        ),
        _tube(rng, [(2, _front(204) - 32, 204, 3), (-22, -26, 206, 2.8), (-38, -26, 212, 2.5)], Tissue.ARTERY),
        _tube(
            rng,
            [(4, _front(185) - 14, 186, 3.8), (2, -32, 172, 3.8), (0, -38, 120, 3.4), (-10, -42, 60, 2.4)],
            Tissue.ARTERY,
        ),
    ]


def _grow_paired(patient: Anatomy, rng: np.random.Generator) -> None:
    for side in (-1, 1):
        patient.arteries += [
            _tube(
                rng,
                [(side * 3, _front(165) - 12, 166, 3), (side * 25, 22, 162, 2.8), (side * 46, 30, 158, 2.4)],
                Tissue.ARTERY,
            ),
            _tube(
                rng,
                [
                    (3 + side * 3, _front(50) - 12, 50, 6),
                    (side * 18, 6, 25, 5.5),
                    (side * 38, 18, 0, 5.2),
                    (side * 52, -2, -45, 4.8),
                    (side * 62, -38, -90, 4.6),
                    (side * 70, -58, -125, 4.6),
                    (side * 72, -62, -190, 4.4),
                ],
                Tissue.ARTERY,
            ),
            _tube(rng, [(side * 38, 18, 2, 3.8), (side * 50, 40, -35, 3.2), (side * 58, 48, -75, 2.4)], Tissue.ARTERY),
        ]
        patient.great_veins += [
            _tube(
                rng,
                [(-18, _front(160) - 8, 164, 4.5), (side * 24, 14, 160, 4.5), (side * 48, 28, 156, 3.8)],
                Tissue.VEIN,
            ),
            _tube(
                rng,
                [
                    (-12, _front(45) - 7, 44, 8),
                    (side * 22, 16, 15, 7),
                    (side * 42, 30, -5, 6.5),
                    (side * 50, 12, -45, 6),
                    (side * 56, -26, -90, 6),
                    (side * 60, -52, -125, 6),
                    (side * 62, -55, -190, 5.5),
                ],
                Tissue.VEIN,
            ),
        ]


def _grow_portal(patient: Anatomy, rng: np.random.Generator) -> None:
    patient.portal = [
        _tube(
            rng,
            [
                (80, 18, 206, 3),
                (45, -2, 196, 4.2),
                (12, -18, 188, 5),
                (-16, -18, 188, 6.5),
                (-34, -20, 206, 6.8),
                (-48, -22, 214, 6),
            ],
            Tissue.PORTAL_VEIN,
        ),
        _tube(rng, [(-14, -38, 100, 4), (-12, -34, 140, 5), (-15, -20, 186, 5.8)], Tissue.PORTAL_VEIN),
    ]


def _grow_liver_vessels(patient: Anatomy, rng: np.random.Generator) -> None:
    def liver(z: float) -> list:
        outline = patient.liver.at(z)
        return [] if outline is None else [shrunk(outline, 5)]

    inside = Room(85, 285, liver, lambda z: []).holds
    roots = [
        ((-46, -22, 214), (-1, 0.2, -0.2), 5.5),
        ((-46, -22, 214), (-0.6, -0.7, 0.3), 4.5),
        ((-40, -26, 216), (0.6, -0.8, 0.1), 4.5),
    ]
    roots += [
        ((-24, 4, 246), (-1, 0.1, -0.3), 5.0),
        ((-24, 0, 248), (-0.6, -0.8, -0.3), 4.5),
        ((-20, -4, 248), (0.5, -0.9, -0.2), 4.2),
    ]
    patient.liver_vessels = Sweep.join(grow_tree(rng, *root, inside, Tissue.LIVER_VESSEL, 0.9, 6.0) for root in roots)


def _grow_mesenteric(patient: Anatomy, rng: np.random.Generator) -> None:
    twigs = []
    for _ in range(int(rng.integers(60, 110))):  # mesenteric vessels
        start = np.array([rng.uniform(-60, 70), rng.uniform(-75, -20), rng.uniform(-60, 140)])
        step = rng.normal(0, 14, 3)
        twigs.append(
            Sweep.along(
                [(*start, 1.6), (*(start + step), 1.4), (*(start + 2 * step + rng.normal(0, 6, 3)), 1.0)],
                rng.choice([Tissue.ARTERY, Tissue.PORTAL_VEIN]),
            )
        )
    patient.mesenteric = Sweep.join(twigs)


def grow_nodes(patient: Anatomy, rng: np.random.Generator) -> None:
    """Normal lymph nodes, short axis below 8 mm: beside vessels, in the axillae, groins and mesentery."""
    spots = []
    for region, count in (((-20, 5, 375, 22, 18, 30), 7), ((10, 5, 100, 20, 10, 70), 8), ((0, -50, 60, 55, 15, 60), 8)):
        centre, spread = np.array(region[:3]), np.array(region[3:])
        spots += [(*(centre + rng.uniform(-1, 1, 3) * spread), rng.uniform(1.6, 3.4)) for _ in range(count)]
    for side in (-1, 1):
        for region, count in (
            ((140, -40, 415, 12, 22, 25), 5),
            ((72, -66, -125, 14, 8, 25), 5),
            ((58, 0, -60, 8, 20, 30), 3),
        ):
            centre, spread = np.array(region[:3]) * (side, 1, 1), np.array(region[3:])
            spots += [(*(centre + rng.uniform(-1, 1, 3) * spread), rng.uniform(1.8, 3.8)) for _ in range(count)]
    paths = []
    for *centre, radius in spots:
        half = rng.normal(0, 1, 3)
        half *= radius * rng.uniform(0, 1.1) / np.linalg.norm(half)
        paths.append(
            Sweep.along([(*(np.array(centre) - half), radius), (*(np.array(centre) + half), radius)], Tissue.NODE)
        )
    patient.nodes = Sweep.join(paths)
