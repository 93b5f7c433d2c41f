"""Colon and small bowel, and what they hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from train.synthetic.anatomy import Anatomy
from train.synthetic.shapes import Sweep
from train.synthetic.tissues import Tissue


def grow_bowel(patient: Anatomy, rng: np.random.Generator) -> None:
    def wobble(path: list, by: float) -> list:
        return [(*(np.array(p[:3]) + rng.normal(0, by, 3)), p[3] * np.exp(rng.normal(0, 0.12))) for p in path]

    colon = [
        (-88, -8, -10, 18),
        (-95, 2, 20, 23),
        (-98, 8, 60, 21),
        (-98, 8, 100, 21),
        (-92, 0, 130, 21),
        (-78, -42, 138, 20),
        (-40, -70, 118, 19),
        (0, -76, 105, 18),
        (40, -74, 118, 18),
        (78, -55, 155, 17),
        (98, -12, 196, 18),
        (104, 22, 190, 16),
        (104, 24, 150, 14),
        (102, 18, 100, 14),
        (100, 8, 50, 14),
        (92, -8, 10, 14),
        (72, -22, -15, 14),
        (38, -15, -40, 15),
        (5, 5, -30, 15),
        (-18, 22, -50, 15),
        (0, 50, -62, 16),
        (0, 58, -90, 18),
        (0, 54, -120, 17),
        (0, 52, -150, 11),
    ]
    colon = Sweep.along(wobble(colon, 6), Tissue.BOWEL_WALL, 0.3)
    length = np.arange(len(colon.spheres))
    haustra = 1 + 0.13 * np.sin(length / rng.uniform(2.2, 3.2)) * (rng.random() < 0.8)
    colon = Sweep(colon.spheres * np.c_[np.ones((len(length), 3)), haustra], colon.tissue)
    loops = [
        Sweep.along(
            wobble(
                [
                    (-20, -62, 160, 13),
                    (-45, -50, 165, 12),
                    (-52, -28, 150, 12),
                    (-48, -12, 115, 12),
                    (-10, -8, 95, 11),
                    (28, -8, 110, 10.5),
                ],
                3,
            ),
            Tissue.BOWEL_WALL,
            0.4,
        )
    ]
    for _ in range(int(rng.integers(9, 19))):
        loops.append(Sweep.along(small_bowel_path(patient, rng), Tissue.BOWEL_WALL, 0.4))
    patient.bowel = []
    fill_bowel(patient, rng, colon, wall=2.2, odds=(0.1, 0.12, 0.0, 0.78), gas=0.6)
    oral = 0.5 * (rng.random() < 0.6)
    for loop in loops:
        fill_bowel(patient, rng, loop, wall=2.0, odds=(0.75 - oral, oral, 0.25, 0.0), gas=0.12)


def small_bowel_path(patient: Anatomy, rng: np.random.Generator) -> list[tuple[float, float, float, float]]:
    point = np.array([rng.uniform(-55, 65), rng.uniform(-70, -25), rng.uniform(-70, 110)])
    heading = rng.normal(size=3)
    path = []
    for _ in range(int(rng.integers(9, 17))):
        path.append((*point, rng.uniform(8.5, 13)))
        heading = 0.4 * heading / np.linalg.norm(heading) + rng.normal(0, 0.6, 3) * (1.2, 0.9, 0.8)
        point = point + heading / np.linalg.norm(heading) * rng.uniform(22, 34)
        low, high = (-72, -76, -95), (78, -18 if point[2] > -20 else 10, 120)
        heading = np.where((point < low) | (point > high), -heading, heading)
        point = np.clip(point, low, high)
    return path


def fill_bowel(
    patient: Anatomy, rng: np.random.Generator, tube: Sweep, wall: float, odds: Sequence[float], gas: float
) -> None:
    """Cut a bowel tube into stretches.

    Each holds fluid, oral contrast medium, nothing or faeces, and perhaps gas in front.
    """
    count = max(1, len(tube.spheres) // 16)
    contents = (Tissue.BOWEL_FLUID, Tissue.BOWEL_CONTRAST, Tissue.BOWEL_WALL, Tissue.FAECES)
    lumen = tube.inner(wall, Tissue.BOWEL_FLUID)
    tissue, gassy = lumen.tissue.copy(), np.zeros(len(lumen.tissue), bool)
    for part in np.array_split(np.arange(len(tissue)), count):
        tissue[part] = contents[rng.choice(4, p=odds)]
        gassy[part] = rng.random() < gas
    patient.bowel.append(
        (tube, Sweep(lumen.spheres, tissue), Sweep(lumen.spheres[gassy], np.full(int(gassy.sum()), Tissue.BOWEL_GAS)))
    )
