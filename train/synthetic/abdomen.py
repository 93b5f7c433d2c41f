"""Liver, spleen, stomach, pancreas, kidneys and what lies in the pelvis: grown and painted."""

from __future__ import annotations

import numpy as np

from train.synthetic.anatomy import Anatomy
from train.synthetic.canvas import Canvas
from train.synthetic.shapes import TURN, VERTICES, Loft, Sweep, closed_curve, ellipse, shrunk
from train.synthetic.skeleton import paint_hip_bone
from train.synthetic.template import cavity, spine_y
from train.synthetic.tissues import Tissue

_LIVER = {
    92: ellipse(-102, 2, 12, 20),
    130: [(-118, 5), (-108, -34), (-90, -50), (-70, -42), (-68, -5), (-78, 28), (-104, 38)],
    170: [(-121, 8), (-110, -45), (-82, -72), (-50, -74), (-42, -42), (-50, -5), (-60, 22), (-80, 48), (-108, 44)],
    200: [
        (-124, 8),
        (-112, -48),
        (-80, -78),
        (-40, -86),
        (8, -78),
        (30, -58),
        (0, -42),
        (-28, -26),
        (-34, 5),
        (-46, 28),
        (-75, 60),
        (-110, 48),
    ],
    228: [
        (-122, 10),
        (-108, -48),
        (-78, -76),
        (-30, -84),
        (22, -78),
        (62, -60),
        (38, -42),
        (2, -34),
        (-12, -8),
        (-24, 16),
        (-45, 42),
        (-80, 66),
        (-110, 46),
    ],
    250: [
        (-116, 0),
        (-100, -48),
        (-70, -66),
        (-30, -68),
        (15, -62),
        (42, -52),
        (20, -38),
        (-10, -22),
        (-22, 10),
        (-45, 40),
        (-78, 56),
        (-104, 38),
    ],
    266: ellipse(-74, -4, 36, 46),
}
_SPLEEN = {
    165: ellipse(104, 42, 12, 20),
    190: [(116, 12), (122, 40), (108, 68), (82, 76), (80, 62), (94, 42), (100, 15)],
    218: [(118, 5), (124, 40), (108, 70), (76, 80), (74, 62), (92, 42), (98, 10)],
    245: [(104, 20), (112, 44), (98, 64), (74, 68), (72, 52), (88, 30)],
}
_STOMACH = {
    150: ellipse(5, -58, 24, 13),
    165: ellipse(28, -60, 42, 17, -8),
    185: ellipse(50, -52, 36, 24, 12),
    210: ellipse(60, -35, 31, 34, 8),
    232: ellipse(62, -14, 32, 38),
    250: ellipse(64, -2, 26, 30),
}
_PANCREAS = [
    (-42, -22, 150, 12),
    (-38, -24, 168, 13),
    (-22, -26, 178, 10),
    (0, -36, 184, 9),
    (30, -22, 190, 9.5),
    (58, 2, 198, 10),
    (82, 22, 206, 8),
]
_PSOAS = {
    -85: ellipse(58, -22, 17, 18),
    -50: ellipse(55, -12, 19, 21),
    0: ellipse(50, 12, 20, 22),
    50: ellipse(44, 22, 19, 21),
    100: ellipse(37, 30, 15, 17),
    150: ellipse(30, 36, 9, 12),
    185: ellipse(26, 42, 5, 7),
}


def grow_abdomen(patient: Anatomy, rng: np.random.Generator) -> None:
    """The domes of the diaphragm, the organs below them, and what lies in the pelvis."""
    _grow_domes(patient, rng)
    _grow_upper_organs(patient, rng)
    patient.kidneys = [_kidney(rng, side) for side in (-1, 1)]
    bulk = rng.normal(0, 0.12)
    patient.psoas = [Loft(_PSOAS, 10).varied(rng, 1.5, 0.05).scaled(float(np.exp(bulk)), side) for side in (-1, 1)]
    _grow_pelvis(patient, rng)


def _grow_domes(patient: Anatomy, rng: np.random.Generator) -> None:
    patient.right_dome = Loft(
        {
            205: ellipse(-60, -18, 72, 82),
            232: ellipse(-66, -10, 63, 82),
            255: ellipse(-72, -6, 50, 66),
            272: ellipse(-74, -4, 32, 42),
        },
        12,
    ).varied(rng, 3, 0.03, 0.02)
    patient.left_dome = Loft(
        {
            205: ellipse(62, -18, 70, 84),
            228: ellipse(68, -8, 58, 80),
            248: ellipse(72, -4, 46, 62),
            262: ellipse(74, -2, 28, 38),
        },
        12,
    ).varied(rng, 3, 0.03, 0.02)
    patient.middle_dome = Loft(
        {195: ellipse(0, -18, 132, 84), 222: ellipse(0, -34, 100, 58), 240: ellipse(4, -40, 80, 42)}, 10
    )


def _grow_upper_organs(patient: Anatomy, rng: np.random.Generator) -> None:
    patient.liver = Loft(_LIVER, 12).varied(rng, 4, 0.06, 0.03)
    patient.gallbladder = Loft({150: ellipse(-52, -48, 11, 13), 172: ellipse(-48, -38, 12, 16, 20)}, 16).varied(
        rng, 5, 0.2
    )
    patient.has_gallbladder = bool(rng.random() < 0.82)
    patient.spleen = Loft(_SPLEEN, 12).varied(rng, 4, 0.10, 0.03)
    patient.stomach = Loft(_STOMACH, 9).varied(rng, 5, 0.10, 0.05)
    content = rng.choice(4, p=[0.35, 0.3, 0.2, 0.15])
    patient.stomach_content = (Tissue.BOWEL_FLUID, Tissue.BOWEL_CONTRAST, Tissue.FAECES, Tissue.BOWEL_FLUID)[content]
    patient.stomach_gas = float(rng.uniform(-0.6, 0.3)) if content != 3 else -1.0
    patient.stomach_wall = float(rng.uniform(3, 6))
    patient.pancreas = Sweep.join([Sweep.along(_PANCREAS, Tissue.PANCREAS)]).shifted(rng, 4)
    patient.adrenals = [
        ([(-30, 24, 0), (-40, 36, 0), (-52, 46, 0)], [(-40, 36, 0), (-34, 48, 0)], rng.uniform(196, 214)),
        ([(32, 16, 0), (38, 32, 0), (52, 42, 0)], [(38, 32, 0), (34, 46, 0)], rng.uniform(190, 208)),
    ]


def _grow_pelvis(patient: Anatomy, rng: np.random.Generator) -> None:
    full = rng.uniform(0.55, 1.2)
    patient.bladder = Loft(
        {
            -128: ellipse(0, -25, 24 * full, 18 * full),
            -105: ellipse(0, -30, 42 * full, 32 * full),
            -82: ellipse(0, -32, 36 * full, 27 * full),
        },
        14,
    ).varied(rng, 4, 0.08)
    patient.bladder_jet = bool(rng.random() < 0.5)
    if patient.female:
        patient.genital = Loft(
            {
                -112: ellipse(0, 18, 18, 14),
                -85: ellipse(rng.normal(0, 8), 12, 26, 19),
                -60: ellipse(rng.normal(0, 12), 4, 24, 18),
            },
            12,
        ).varied(rng, 5, 0.15)
        patient.ovaries = [Loft({-62: ellipse(side * 48, 12, 13, 10)}, 12).varied(rng, 8, 0.2) for side in (-1, 1)]
    else:
        patient.genital = Loft({-142: ellipse(0, 0, 20, 16), -125: ellipse(0, 4, 25, 19)}, 10).varied(rng, 3, 0.15)
        patient.ovaries = [
            Loft({-112: ellipse(side * 20, 28, 20, 6, side * -18)}, 8).varied(rng, 3) for side in (-1, 1)
        ]


def _kidney(rng: np.random.Generator, side: int) -> tuple[Loft, Loft, Loft, Loft, list[Loft]]:
    """Cortex, medulla region, sinus fat, renal pelvis, calyces (as lofts) of one kidney."""
    z = 148.0 if side < 0 else 158.0
    bean = [(84, 40), (80, 22), (66, 12), (48, 14), (42, 26), (54, 38), (50, 52), (60, 66), (76, 62)]
    closed = [(82, 40), (78, 24), (66, 16), (52, 20), (46, 34), (46, 46), (52, 60), (64, 64), (76, 58)]
    cortex = {
        z - 46: ellipse(68, 38, 15, 17),
        z - 28: closed,
        z - 10: bean,
        z + 10: bean,
        z + 28: closed,
        z + 44: ellipse(58, 44, 15, 17),
    }
    state = rng.bit_generator.state
    outer = Loft(cortex, 10).varied(rng, 4, 0.08, 0.02)
    rng.bit_generator.state = state
    inner = Loft(
        {h: shrunk(closed_curve(o) if len(o) != VERTICES else o, 6) for h, o in cortex.items() if abs(h - z) < 40}, 8
    ).varied(rng, 4, 0.08, 0.02)
    sinus = Loft({z - 26: ellipse(56, 38, 7, 8), z: ellipse(54, 37, 13, 12), z + 26: ellipse(56, 40, 7, 8)}, 6).varied(
        rng, 2, 0.1
    )
    pelvis = Loft({z - 14: ellipse(46, 34, 5, 4), z + 6: ellipse(47, 34, 10, 5, 20)}, 6).varied(rng, 2, 0.2)
    calyces = [
        Loft({z + h: ellipse(58 + rng.normal(0, 3), 38 + rng.normal(0, 5), 4.5, 3.5)}, 6) for h in (-20, -8, 4, 16)
    ]
    outer, inner, sinus, pelvis = (loft.scaled(side=side) for loft in (outer, inner, sinus, pelvis))
    return outer, inner, sinus, pelvis, [loft.scaled(side=side) for loft in calyces]


def paint_abdomen(patient: Anatomy, canvas: Canvas, z: float, thickness: float) -> None:
    if z < 285:
        for dome in (patient.right_dome, patient.left_dome, patient.middle_dome):
            shape = dome.at(z)
            if shape is not None:
                canvas.fill(shape, Tissue.MUSCLE)
        for dome in (patient.right_dome, patient.left_dome, patient.middle_dome):
            shape = dome.at(z)
            if shape is not None:
                canvas.fill(shrunk(shape, 2.2), Tissue.VISCERAL_FAT)
        if z < 198:
            canvas.fill(cavity(z), Tissue.VISCERAL_FAT)
        canvas.circles(*patient.nodes.at(z))
        paint_upper_organs(patient, canvas, z, thickness)
    else:
        canvas.circles(*patient.nodes.at(z))
    for psoas in patient.psoas:
        canvas.fill(psoas.at(z), Tissue.MUSCLE)
    if z < 200:
        for wall, lumen, gas in patient.bowel:
            canvas.circles(*wall.at(z))
            canvas.circles(*lumen.at(z))
            canvas.circles(*gas.at(z), level=0.15)
    for vessel in (*patient.portal, patient.great_veins[2], *patient.great_veins[4:], *patient.arteries):
        canvas.circles(*vessel.at(z))


def paint_upper_organs(patient: Anatomy, canvas: Canvas, z: float, thickness: float) -> None:
    if -80 < z < 160:
        canvas.circles(*patient.mesenteric.at(z, thickness))
    if 170 < z < 245:  # crura of the diaphragm
        for side in (-1, 1):
            y = spine_y(z) - 12
            canvas.line(
                np.array([(side * 16, y + 4), (side * 20 + 3, y - 12), (6 + side * 8, y - 32)]),
                float(np.interp(z, [170, 215, 245], [5, 7, 3])),
                Tissue.MUSCLE,
            )
    stomach = patient.stomach.at(z)
    if stomach is not None:
        canvas.fill(stomach, Tissue.BOWEL_WALL)
        lumen = shrunk(stomach, patient.stomach_wall)
        canvas.fill(lumen, patient.stomach_content)
        middle, half = lumen.mean(0), float(np.ptp(lumen[:, 1])) / 2
        if patient.stomach_gas > -1:
            canvas.fill(
                np.c_[lumen[:, 0], np.minimum(lumen[:, 1], middle[1] + patient.stomach_gas * half)], Tissue.BOWEL_GAS
            )
    canvas.fill(patient.spleen.at(z), Tissue.SPLEEN)
    canvas.circles(*patient.pancreas.at(z))
    for body, limb, height in patient.adrenals:
        if abs(z - height) < 11:
            width = 5.5 * float(np.sqrt(1 - ((z - height) / 11) ** 2))
            canvas.line(np.array(body)[:, :2], width, Tissue.ADRENAL)
            canvas.line(np.array(limb)[:, :2], width, Tissue.ADRENAL)
    for cortex, medulla, sinus, pelvis, calyces in patient.kidneys:
        canvas.fill(cortex.at(z), Tissue.RENAL_CORTEX)
        inner = medulla.at(z)
        if inner is not None:
            lobed = inner.mean(0) + (inner - inner.mean(0)) * (0.88 + 0.12 * np.cos(7 * TURN + 0.1 * z))[:, None]
            canvas.fill(lobed, Tissue.RENAL_MEDULLA)
            canvas.fill(sinus.at(z), Tissue.VISCERAL_FAT)
            for calyx in calyces:
                canvas.fill(calyx.at(z), Tissue.URINE)
            canvas.fill(pelvis.at(z), Tissue.URINE)
    liver = patient.liver.at(z)
    if liver is not None:
        canvas.fill(liver, Tissue.LIVER)
        canvas.circles(*patient.liver_vessels.at(z, thickness))
    if patient.has_gallbladder:
        shape = patient.gallbladder.at(z)
        if shape is not None:
            canvas.fill(shrunk(shape, -1.5), Tissue.BOWEL_WALL)
            canvas.fill(shape, Tissue.GALLBLADDER)


def paint_pelvis(patient: Anatomy, canvas: Canvas, z: float) -> None:
    if z > 60:
        return
    for side in (-1, 1):
        paint_hip_bone(patient, canvas, z, side)
    bladder = patient.bladder.at(z)
    for loft in (patient.genital, *patient.ovaries):
        canvas.fill(loft.at(z), Tissue.PELVIC_ORGAN)
    if bladder is not None:
        canvas.fill(shrunk(bladder, -3), Tissue.PELVIC_ORGAN)
        canvas.fill(bladder, Tissue.BLADDER_URINE)
        if patient.phase == "delayed" and patient.bladder_jet:
            canvas.fill(
                np.c_[bladder[:, 0], np.maximum(bladder[:, 1], bladder[:, 1].mean() + 6)], Tissue.BOWEL_CONTRAST
            )
