"""The body's wall: skin, fat and muscles round the cavity, from the hips to the shoulders."""

from __future__ import annotations

import numpy as np

from train.synthetic.anatomy import Anatomy
from train.synthetic.canvas import Canvas
from train.synthetic.shapes import Array, ellipse, shrunk, smooth_path
from train.synthetic.skeleton import paint_hips
from train.synthetic.template import CAVITY, CAVITY_Z, cavity
from train.synthetic.tissues import Tissue


def outline(patient: Anatomy, z: float) -> Array:
    """(64, 2) skin at template z."""
    wall = muscle_wall(patient, z)
    middle = wall.mean(0)
    offset = wall - middle
    distance = np.hypot(*offset.T)[:, None]
    direction = offset / distance
    girth = float(np.interp(z, [-190, -100, -20, 60, 130, 220, 320, 440], [1.5, 1.5, 1.35, 1.2, 1.0, 0.65, 0.6, 0.6]))
    front, back = np.clip(-direction[:, 1:], 0, 1), np.clip(direction[:, 1:], 0, 1)
    thickness = patient.fat_mm * girth * (0.75 + 0.5 * front + 0.55 * back * (z < 120)) + 2
    return wall + direction * thickness


def muscle_wall(patient: Anatomy, z: float) -> Array:
    wall = cavity(z)
    direction = (wall - wall.mean(0)) / np.hypot(*(wall - wall.mean(0)).T)[:, None]
    side, front, back = np.abs(direction[:, :1]), np.clip(-direction[:, 1:], 0, 1), np.clip(direction[:, 1:], 0, 1)
    lateral = np.interp(
        z, [-190, -100, -40, 0, 40, 120, 250, 330, 400, 440, 475], [95, 62, 38, 24, 15, 15, 13, 17, 32, 62, 95]
    )
    anterior = np.interp(z, [-190, -100, 0, 250, 350, 400, 450], [25, 18, 9, 10, 10, 12, 14])
    posterior = np.interp(z, [-190, -100, -40, 60, 130, 250, 400, 475], [48, 46, 34, 26, 22, 17, 22, 34])
    return wall + direction * (lateral * side**2 + anterior * front**2 + posterior * back**2)


def paint_wall(patient: Anatomy, canvas: Canvas, z: float) -> None:
    skin, wall = outline(patient, z), muscle_wall(patient, z)
    for breast in patient.breasts:
        shape = breast.at(z)
        if shape is not None:
            canvas.fill(shape, Tissue.SKIN)
    canvas.fill(skin, Tissue.SKIN)
    canvas.fill(shrunk(skin, 1.8), Tissue.FAT)
    for breast in patient.breasts:
        shape = breast.at(z)
        if shape is not None:
            canvas.fill(shrunk(shape, 1.8), Tissue.FAT)
            canvas.fill((shape - shape.mean(0)) * patient.gland + shape.mean(0) - (0, 3), Tissue.BREAST)
    if z < -45:
        paint_hips(patient, canvas, z, wall)
    elif z < 235:
        canvas.fill(wall, Tissue.MUSCLE)
    else:
        paint_chest_wall(patient, canvas, z)
    if -60 < z < 240:  # fat between the muscle layers of the flank, and the white line between the recti
        middle = cavity(z, 4.5)
        canvas.line(middle[np.r_[2:9]], 1.3, Tissue.FAT)
        canvas.line(middle[np.r_[24:31]], 1.3, Tissue.FAT)
        canvas.line(cavity(z, 8.5)[np.r_[0:7]], 1.1, Tissue.FAT)
        canvas.line(cavity(z, 8.5)[np.r_[26:33]], 1.1, Tissue.FAT)
        front = float(cavity(z)[:, 1].min())
        canvas.line(np.array([(0, front + 2), (0, front - 14)]), 3.0, Tissue.FAT)
        for side in (-1, 1):
            canvas.line(np.array([(side * 58, front + 8), (side * 72, front - 6)]), 2.5, Tissue.FAT)


def paint_chest_wall(patient: Anatomy, canvas: Canvas, z: float) -> None:
    pectorals = [shape for shape in (pectoral.at(z) for pectoral in patient.pectorals) if shape is not None]
    for pectoral in pectorals:
        canvas.fill(shrunk(pectoral, -(4 + 0.5 * patient.fat_mm)), Tissue.SKIN)
    for pectoral in pectorals:
        canvas.fill(shrunk(pectoral, -(2.2 + 0.5 * patient.fat_mm)), Tissue.FAT)
    canvas.fill(shrunk(outline(patient, z), 1.8), Tissue.FAT)
    if z > 330:
        paint_shoulder(patient, canvas, z)
    canvas.fill(cavity(z, 9.5), Tissue.MUSCLE)
    a, b, y = (float(np.interp(z, CAVITY_Z, column)) for column in CAVITY.T)
    latissimus = float(np.interp(z, [235, 300, 400, 430, 470], [5, 8, 15, 12, 0]))
    trapezius = float(np.interp(z, [235, 300, 400, 470], [5, 5, 8, 16]))
    for side in (-1, 1):
        flank = [
            (side * (a + 12), y - 0.15 * b),
            (side * (a + 14), y + 0.2 * b),
            (side * (0.86 * a + 14), y + 0.62 * b),
            (side * (0.6 * a + 8), y + 0.95 * b),
        ]
        canvas.line(smooth_path(np.array(flank)), latissimus, Tissue.MUSCLE)
        if z < 400:  # serratus anterior
            canvas.line(
                smooth_path(
                    np.array(
                        [
                            (side * (a + 9), y + 0.25 * b),
                            (side * (a + 10), y - 0.1 * b),
                            (side * (0.9 * a + 9), y - 0.5 * b),
                        ]
                    )
                ),
                7,
                Tissue.MUSCLE,
            )
        canvas.line(
            smooth_path(np.array([(side * 4, y + b + 22), (side * 40, y + b + 21), (side * 85, y + b + 8)])),
            trapezius,
            Tissue.MUSCLE,
        )
    for pectoral in pectorals:
        canvas.fill(pectoral, Tissue.MUSCLE)
        canvas.line((pectoral * 0.35 + pectoral.mean(0) * 0.65)[[0, 31]] + np.array([0, 2]), 1.2, Tissue.FAT)


def paint_shoulder(patient: Anatomy, canvas: Canvas, z: float) -> None:
    size = float(np.interp(z, [330, 345, 420, 470], [0.15, 0.55, 1, 1.25]))
    for side, blade in zip((-1, 1), patient.scapula):
        path = smooth_path(blade.mean(0) + (blade - blade.mean(0)) * size + np.array([side * 2, 0]))
        cover = path + np.array([side * 3, 8])
        canvas.line(cover, 18 * size + patient.fat_mm + 8, Tissue.SKIN)
        canvas.line(cover, 18 * size + patient.fat_mm + 4, Tissue.FAT)
        canvas.line(path + np.array([side * 3, 9]), 13 * size, Tissue.MUSCLE)  # infraspinatus
        canvas.line(path + np.array([-side * 2, -9]), 13 * size, Tissue.MUSCLE)  # subscapularis
        canvas.bone_plate(path, 5.0 + 2 * (z > 400), 1.3)
        if z > 425:
            grow = float(np.interp(z, [425, 450], [0.3, 1]))
            canvas.fill(ellipse(side * 165, 18, 34 * grow, 38 * grow), Tissue.MUSCLE)  # deltoid
            canvas.bone(ellipse(side * 146, 34, 13 * grow, 15 * grow))
            canvas.bone(ellipse(side * 168, 16, 23 * grow, 23 * grow))
