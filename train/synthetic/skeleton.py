"""Ribs, sternum, spine and hips: grown and painted."""

from __future__ import annotations

import numpy as np

from train.synthetic.anatomy import Anatomy
from train.synthetic.canvas import Canvas
from train.synthetic.shapes import VERTICES, Array, Loft, Sweep, closed_curve, ellipse, shrunk, smooth_path
from train.synthetic.template import CAVITY, CAVITY_Z, VERTEBRAE, mirrored, spine_y, sternum_y
from train.synthetic.tissues import Tissue


def grow_bones(patient: Anatomy, rng: np.random.Generator) -> None:
    """Ribs, sternum, shoulders, the bend of the spine and islands of dense bone."""
    _grow_ribs(patient)
    _grow_front_and_spine(patient, rng)


def _grow_ribs(patient: Anatomy) -> None:
    ribs, cartilage = [], []
    for number in range(1, 13):
        top = float(np.mean(VERTEBRAE[17 - number : 19 - number]))
        drop, reach = 30 + 6 * min(number, 9), np.radians({11: 120, 12: 95}.get(number, 150 - 1.5 * abs(5 - number)))
        progress = np.linspace(0, 1, 26)
        angle = np.radians(20) + progress * (reach - np.radians(20))
        z = top - drop * progress**1.15 * (1.0 if number > 2 else 0.7)
        for side in (-1, 1):
            points = []
            for turn, height in zip(angle, z):
                a, b, y = (float(np.interp(height, CAVITY_Z, column)) for column in CAVITY.T)
                squeeze = 2 / 2.25
                points.append(
                    (
                        side * (a + 4.5) * np.sin(turn) ** squeeze,
                        y + (b + 4.5) * np.sign(np.cos(turn)) * abs(np.cos(turn)) ** squeeze,
                        height,
                    )
                )
            path = np.c_[np.array(points), np.linspace(5.2, 5.8, len(points))]
            ribs.append(Sweep.along(path, Tissue.CORTEX, 0.3))
            if number <= 10:
                end = path[-1]
                target = max(float(np.interp(number, [1, 7, 10], [430, 292, 255])), end[2] + 2)
                cartilage.append(
                    Sweep.along(
                        [
                            end,
                            (end[0] * 0.7, end[1] - 6, (end[2] + target) / 2, 5.2),
                            (side * max(14, 4 * (number - 5)), sternum_y(target), target, 5),
                        ],
                        Tissue.CARTILAGE,
                    )
                )
    patient.ribs, patient.cartilage = Sweep.join(ribs), Sweep.join(cartilage)


def _grow_front_and_spine(patient: Anatomy, rng: np.random.Generator) -> None:
    patient.sternum = Loft(
        {
            270: ellipse(0, sternum_y(270), 6, 4),
            295: ellipse(0, sternum_y(295), 17, 6),
            380: ellipse(0, sternum_y(380), 16, 6.5),
            395: ellipse(0, sternum_y(395), 20, 7),
            425: ellipse(0, sternum_y(425), 30, 8),
        },
        8,
    ).varied(rng, 1.5, 0.05)
    patient.clavicles = Sweep.join(
        Sweep.along(
            [(s * 26, -62, 428, 8), (s * 60, -66, 440, 6.5), (s * 100, -50, 458, 6.5), (s * 150, -30, 475, 7)],
            Tissue.CORTEX,
            0.3,
        )
        for s in (-1, 1)
    )
    spread = rng.normal(0, 4)
    patient.scapula = [
        np.array([(s * (76 + spread), 82), (s * (108 + spread), 78), (s * (132 + spread), 58)], float) for s in (-1, 1)
    ]
    patient.scoliosis = rng.normal(0, 5), rng.uniform(250, 500), rng.uniform(0, 2 * np.pi)
    patient.islands = [
        (int(rng.integers(0, 17)), *rng.uniform(-12, 12, 2), rng.uniform(1.5, 3.0))
        for _ in range(int(rng.integers(0, 3)))
    ]


def paint_hips(patient: Anatomy, canvas: Canvas, z: float, wall: Array) -> None:
    canvas.fill(shrunk(wall, 4), Tissue.MUSCLE)
    for side in (-1, 1):
        for path in (
            [(60, 62), (88, 52), (128, 58)],
            [(92, -10), (120, 5), (146, 40)],
            [(52, -62), (86, -52), (112, -40)],
            [(48, -40), (70, -30), (96, -34)],
            [(30, 92), (40, 70), (52, 58)],
        ):
            canvas.line(mirrored(path, side), 3.2, Tissue.FAT)
        canvas.fill(ellipse(side * 68, -60, 15, 11), Tissue.FAT)
    canvas.fill(ellipse(0, 100, 7, 24), Tissue.FAT)


def paint_hip_bone(patient: Anatomy, canvas: Canvas, z: float, side: int) -> None:
    grow = float(np.clip((50 - z) / 25, 0, 1))
    if z > -72:  # iliac wing
        t = float(np.clip((40 - z) / 100, 0, 1))
        front = np.array([122 - 22 * t, -28 + 8 * t])
        bend = np.array([122 - 34 * t, 20 - 2 * t])
        back = np.array([58 - 2 * t, 68 - 2 * t])
        middle = (front + back) / 2 + (bend - (front + back) / 2) * 0.8
        path = smooth_path(
            np.array(
                [
                    front + np.array([-8, -6]),
                    front + np.array([2, 12]),
                    bend,
                    middle * 0.6 + back * 0.4 + np.array([-6, -4]),
                    back,
                ]
            )
        )
        keep = path if grow >= 1 else path.mean(0) + (path - path.mean(0)) * max(grow, 0.05)
        inner = keep + np.array([-10, -8])
        canvas.line(mirrored(inner, side), 13 * grow, Tissue.MUSCLE)
        canvas.bone_plate(mirrored(keep, side), (8 + 8 * t) * max(grow, 0.3))
    if -118 < z < -52:  # acetabulum
        r = 27 * float(np.sqrt(np.clip(1 - ((z + 88) / 37) ** 2, 0, 1)))
        canvas.bone(ellipse(side * 84, 6, r * 0.95, r * 1.1))
    if -200 < z < -100:  # ischium and pubis
        canvas.bone(ellipse(side * 66, 42, 13, 18, side * -25))
        if z > -150:
            canvas.bone_plate(mirrored([(72, -18), (45, -40), (12, -52)], side), 13 if z < -112 else 9)
        canvas.line(mirrored([(58, 30), (48, 5), (50, -20)], side), 11, Tissue.MUSCLE)
    if -142 < z < -82:  # femoral head
        r = 24 * float(np.sqrt(np.clip(1 - ((z + 110) / 26) ** 2, 0, 1)))
        if r > 1:
            canvas.fill(ellipse(side * 88, 2, r + 2.5, r + 2.5), Tissue.CARTILAGE)
            canvas.bone(ellipse(side * 88, 2, r, r), 1.2)
    if z < -112:  # femoral neck, trochanter and shaft
        if z > -150:
            canvas.bone_plate(mirrored([(92, 4), (112, 12), (126, 22)], side), 22)
        canvas.bone(ellipse(side * 128, 20, 17, 20), 3.0 if z < -150 else 1.8)


def paint_spine(patient: Anatomy, canvas: Canvas, z: float) -> None:
    amplitude, period, phase = patient.scoliosis
    x, y = amplitude * np.sin(2 * np.pi * z / period + phase), spine_y(z)
    if z < 0:
        paint_sacrum(patient, canvas, z, x, y)
        return
    level = min(int(np.searchsorted(VERTEBRAE, z, side="right")) - 1, len(VERTEBRAE) - 2)
    t = (z - VERTEBRAE[level]) / (VERTEBRAE[level + 1] - VERTEBRAE[level])
    size = float(np.interp(z, [0, 100, 215, 330, 475], [1.12, 1.05, 0.92, 0.8, 0.68]))
    back = y + 17 * size + 12  # canal
    for side in (-1, 1):  # paraspinal muscles
        a, b = (30, 21) if z < 215 else (26, float(np.interp(z, [215, 300, 475], [18, 13, 13])))
        canvas.fill(ellipse(x + side * (a + 3), back + 14, a, b, side * -8), Tissue.MUSCLE)
        canvas.line(np.array([(x + side * (a + 3), back + 2), (x + side * (a + 6), back + 26)]), 1.2, Tissue.FAT)
        if 40 < z < 175:  # quadratus lumborum
            canvas.fill(ellipse(x + side * 66, y + 26, 20, 9, side * 25), Tissue.MUSCLE)
    if 0.3 < t < 0.8:
        length = 30 * size if z < 200 else 26 * size
        for side in (-1, 1):
            canvas.bone_plate(
                np.array(
                    [(x + side * 14 * size, back - 2), (x + side * (14 * size + length), back + (2 if z < 200 else 10))]
                ),
                7 * size,
                1.5,
            )
    if 0.1 < t < 0.75:
        for side in (-1, 1):
            canvas.bone_plate(
                np.array([(x + side * 13 * size, back + 1), (x + side * 8, back + 11), (x, back + 15)]), 6.5 * size, 1.6
            )
        canvas.bone_plate(
            np.array([(x, back + 12), (x, back + 15 + 24 * size * (1 - abs(t - 0.42) / 0.4))]), 6.5 * size, 1.5
        )
    if t < 0.25 or t > 0.8:
        for side in (-1, 1):
            canvas.bone(ellipse(x + side * 17 * size, back + 4, 7.5 * size, 8 * size, side * 30))
    body = ellipse(x, y, 22.5 * size, 17 * size, power=2.3)
    body = body - np.c_[np.zeros(VERTICES), 2.5 * size * np.exp(-(((body[:, 0] - x) / 9) ** 2)) * (body[:, 1] > y)]
    if t < 0.11 or t > 0.89:
        canvas.fill(body, Tissue.DISC)
    elif t < 0.17 or t > 0.83:
        canvas.bone(body, 2.0)
        canvas.fill(shrunk(body, 2.0), Tissue.ENDPLATE)
    else:
        canvas.bone(body, 1.7)
        for number, dx, dy, radius in patient.islands:
            if number == level and abs(t - 0.5) < 0.12:
                canvas.fill(ellipse(x + dx, y + dy, radius, radius), Tissue.CORTEX)
    if 0.45 < t < 0.85:
        for side in (-1, 1):
            canvas.bone_plate(
                np.array([(x + side * 15 * size, y + 10 * size), (x + side * 15 * size, back + 2)]), 8 * size, 1.8
            )
    canvas.fill(ellipse(x, back, 11.5, 8), Tissue.VISCERAL_FAT)
    canvas.fill(ellipse(x, back, 9.5, 7), Tissue.CANAL)


def paint_sacrum(patient: Anatomy, canvas: Canvas, z: float, x: float, y: float) -> None:
    for side in (-1, 1):
        canvas.fill(ellipse(x + side * 30, y + 34, 26, float(np.interp(z, [-90, 0], [8, 20]))), Tissue.MUSCLE)
    width = float(np.interp(z, [-120, -100, -60, -20, 0], [8, 14, 40, 56, 54]))
    if z < -125:
        return
    depth = float(np.interp(z, [-120, -60, 0], [6, 13, 20]))
    outline = closed_curve(
        [
            (x + width, y + 4),
            (x + 0.6 * width, y - 0.6 * depth),
            (x, y - depth),
            (x - 0.6 * width, y - 0.6 * depth),
            (x - width, y + 4),
            (x - 0.55 * width, y + depth),
            (x, y + 1.2 * depth),
            (x + 0.55 * width, y + depth),
        ]
    )
    canvas.bone(outline)
    if z > -75:
        canvas.fill(ellipse(x, y + 0.55 * depth, 10, 5), Tissue.CANAL)
        if (z // 14) % 2:
            for side in (-1, 1):
                canvas.fill(ellipse(x + side * 0.45 * width, y, 5, 5), Tissue.VISCERAL_FAT)


def paint_ribs(patient: Anatomy, canvas: Canvas, z: float) -> None:
    canvas.circles(*patient.cartilage.at(z))
    for bones in (patient.ribs, patient.clavicles):
        canvas.circles(*bones.at(z))
        canvas.circles(*bones.inner(1.5, Tissue.MARROW).at(z))
    canvas.bone(patient.sternum.at(z), 1.4)
