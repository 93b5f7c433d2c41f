"""Lungs, mediastinum, heart and airway: grown and painted."""

from __future__ import annotations

import numpy as np

from train.synthetic.anatomy import Anatomy
from train.synthetic.canvas import Canvas
from train.synthetic.shapes import Array, Loft, Room, Sweep, ellipse, grow_tree, shrunk
from train.synthetic.template import cavity
from train.synthetic.tissues import Tissue

_MEDIASTINUM = {
    235: ellipse(15, -25, 75, 55),
    265: [(95, -35), (80, -70), (20, -92), (-45, -75), (-58, -30), (-40, 15), (-28, 60), (35, 60), (48, 25)],
    300: [(90, -25), (70, -62), (15, -92), (-35, -72), (-52, -30), (-38, 20), (-28, 60), (40, 60), (50, 20)],
    330: [(70, -25), (45, -62), (5, -90), (-25, -65), (-48, -25), (-40, 15), (-26, 60), (40, 60), (48, 20)],
    360: [(48, -5), (32, -50), (3, -86), (-18, -60), (-42, -25), (-40, 10), (-24, 58), (38, 58), (45, 25)],
    400: [(38, 5), (20, -45), (2, -80), (-14, -60), (-34, -25), (-28, 15), (-22, 52), (34, 52), (36, 25)],
    435: [(36, 0), (25, -35), (0, -64), (-28, -42), (-38, -5), (-26, 25), (-20, 45), (22, 45), (30, 25)],
    475: ellipse(0, 2, 46, 46),
}
_PECTORAL = {
    355: ellipse(75, -104, 30, 3, 22),
    385: ellipse(78, -98, 46, 8, 24),
    420: ellipse(84, -86, 52, 12, 28),
    450: ellipse(95, -68, 50, 14, 30),
}


def grow_chest(patient: Anatomy, rng: np.random.Generator) -> None:
    """The mediastinum with heart and airway, the thyroid, and what lies on the front of the chest."""
    patient.mediastinum = Loft(_MEDIASTINUM, 30).varied(rng, 3, 0.04, 0.02)
    _grow_heart(patient, rng)
    _grow_airway(patient, rng)
    patient.thyroid = [
        Loft({470: ellipse(s * 18, -2, 9, 14), 495: ellipse(s * 18, 0, 8, 12)}, 12).varied(rng) for s in (-1, 1)
    ]
    _grow_front(patient, rng)


def _grow_heart(patient: Anatomy, rng: np.random.Generator) -> None:
    tilt = rng.normal(28, 8)
    patient.heart = Loft(
        {
            258: ellipse(34, -36, 50, 34, tilt),
            280: ellipse(30, -32, 62, 45, tilt),
            305: ellipse(22, -28, 60, 48, tilt),
            328: ellipse(12, -25, 48, 42, tilt),
            343: ellipse(6, -24, 36, 32, tilt),
        },
        10,
    ).varied(rng, 3, 0.07, 0.03)
    patient.chambers = [
        (
            Loft({275: ellipse(52, -24, 30, 20, 40), 300: ellipse(44, -16, 26, 19, 40)}, 16).varied(rng, 2),
            Tissue.LEFT_HEART,
        ),
        (
            Loft(
                {270: ellipse(22, -52, 34, 15, 25), 300: ellipse(12, -50, 30, 16, 25), 325: ellipse(14, -48, 18, 12)},
                12,
            ).varied(rng, 2),
            Tissue.RIGHT_HEART,
        ),
        (
            Loft(
                {275: ellipse(-20, -20, 18, 22), 305: ellipse(-24, -22, 20, 25), 325: ellipse(-24, -24, 14, 18)}, 12
            ).varied(rng, 2),
            Tissue.RIGHT_HEART,
        ),
        (Loft({298: ellipse(10, 8, 28, 14), 320: ellipse(8, 8, 34, 15)}, 14).varied(rng, 2), Tissue.LEFT_HEART),
    ]


def _grow_airway(patient: Anatomy, rng: np.random.Generator) -> None:
    patient.airway = Sweep.join(
        Sweep.along(path, Tissue.OESOPHAGUS)
        for path in (
            [(0, 4, 520, 9.5), (1, 12, 450, 9.5), (0, 14, 385, 9.5)],
            [(0, 14, 387, 8.5), (-18, 14, 374, 8), (-42, 10, 360, 6.5), (-55, 10, 340, 4.5), (-62, 14, 310, 3.2)],
            [(-42, 10, 362, 5), (-60, 0, 385, 3), (-68, -5, 405, 2.2)],
            [(0, 14, 387, 8), (22, 16, 372, 7.5), (46, 20, 355, 6), (58, 22, 330, 4.2), (64, 26, 300, 3)],
            [(46, 18, 356, 5), (62, 5, 375, 3), (68, -5, 395, 2.2)],
        )
    )
    patient.oesophagus = Sweep.along(
        [(6, 26, 520, 7), (5, 32, 440, 7), (6, 34, 380, 7), (8, 32, 320, 7.5), (14, 28, 270, 8), (28, 15, 245, 9)],
        Tissue.OESOPHAGUS,
    )
    patient.oesophagus_gas = rng.uniform(1.5, 4.5) if rng.random() < 0.5 else 0.0


def _grow_front(patient: Anatomy, rng: np.random.Generator) -> None:
    patient.pectorals = [Loft(_PECTORAL, 12).varied(rng, 2).scaled(side=side) for side in (-1, 1)]
    volume = rng.uniform(0.6, 1.3)
    breast = {
        290: ellipse(78, -108, 42, 12),
        325: ellipse(80, -122, 58, 38 * volume),
        360: ellipse(78, -115, 52, 26 * volume),
        395: ellipse(80, -100, 42, 10),
    }
    patient.breasts = [Loft(breast, 25).varied(rng, 3).scaled(side=side) for side in (-1, 1)] if patient.female else []
    patient.gland = rng.uniform(0.0, 0.7)


def grow_lung_vessels(patient: Anatomy, rng: np.random.Generator) -> None:
    trees, bronchi = [], []
    room = Room(
        195,
        480,
        lambda z: [cavity(z, -4)],
        lambda z: [
            loft.at(z) for loft in (patient.mediastinum, patient.right_dome, patient.left_dome, patient.middle_dome)
        ],
    )
    for side in (-1, 1):

        def inside(p: Array, side: int = side) -> bool:
            return p[0] * side > 12 and (room.holds(p) or 40 < p[0] * side < 60)

        for _ in range(11):
            root = np.array([side * rng.uniform(46, 56), rng.uniform(0, 28), rng.uniform(325, 372)])
            heading = np.array([side * rng.uniform(0.3, 1), rng.uniform(-1, 0.8), rng.uniform(-1, 1)])
            trees.append(grow_tree(rng, root, heading, rng.uniform(3.0, 4.6), inside, Tissue.LUNG_VESSEL, 0.55, 8.0))
    patient.lung_vessels = Sweep.join(trees)
    for path in (
        ((52, 20, 340), (70, 40, 300), (78, 52, 260)),
        ((50, 10, 360), (75, -20, 390), (85, -35, 410)),
        ((50, 8, 350), (80, -30, 330), (92, -50, 310)),
        ((50, 16, 362), (72, 40, 400), (74, 50, 430)),
    ):
        for side in (-1, 1):
            bronchi.append(
                Sweep.along([(side * x, y, z, r) for (x, y, z), r in zip(path, (3.6, 2.6, 1.8))], Tissue.BOWEL_WALL)
            )
    patient.bronchi = Sweep.join(bronchi)
    patient.dependent = float(rng.uniform(20, 110))


def paint_lungs(patient: Anatomy, canvas: Canvas, z: float, thickness: float) -> None:
    if z > 190:
        canvas.fill(cavity(z, 0.5), Tissue.LUNG)
        canvas.circles(*patient.lung_vessels.at(z, thickness))
        for circles, tissues in (patient.bronchi.at(z), patient.bronchi.inner(0.9, Tissue.AIRWAY).at(z)):
            canvas.circles(circles, tissues)
    else:
        canvas.fill(cavity(z), Tissue.VISCERAL_FAT)


def paint_mediastinum(patient: Anatomy, canvas: Canvas, z: float) -> None:
    if z < 200:
        return
    canvas.fill(patient.mediastinum.at(z), Tissue.MEDIASTINAL_FAT)
    for thyroid in patient.thyroid:
        canvas.fill(thyroid.at(z), Tissue.THYROID)
    heart = patient.heart.at(z)
    if heart is not None:
        canvas.fill(shrunk(heart, -3), Tissue.MYOCARDIUM)
        canvas.fill(shrunk(heart, -2), Tissue.MEDIASTINAL_FAT)
        canvas.fill(heart, Tissue.MYOCARDIUM)
        for chamber, tissue in patient.chambers:
            canvas.fill(chamber.at(z), tissue)
    canvas.circles(*patient.oesophagus.at(z))
    if patient.oesophagus_gas:
        gas = patient.oesophagus.inner(7 - patient.oesophagus_gas, Tissue.BOWEL_GAS)
        canvas.circles(*gas.at(z))
    for vessel in (*patient.pulmonary, *patient.great_veins[:2], patient.great_veins[3]):
        canvas.circles(*vessel.at(z))
    canvas.circles(*patient.airway.at(z))
    canvas.circles(*patient.airway.inner(1.4, Tissue.AIRWAY).at(z))
