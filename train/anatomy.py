"""A parametric torso: every organ is a function of world mm, so that any axial slice can be painted by itself.

Template coordinates are LPS mm of a medium-sized adult: x grows to the patient's left, y to the back, z to the head; z = 0 is the disc
L5/S1, the lungs' apices lie near 480, the hip joints near -110. Solid organs are lofts (closed contours interpolated along z), tubes are
sweeps (spheres along a path), and bones a little of both. A patient deforms the template: body size, habitus, organ shapes and positions,
a smooth random warp in the plane, and the HU of every tissue by contrast phase.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from train.shapes import TURN, VERTICES, Loft, Room, Sweep, closed_curve, ellipse, grow_tree, shrunk, smooth_path

Array = np.ndarray
Phase = Literal["native", "arterial", "portal", "delayed"]
PHASES: tuple[Phase, ...] = ("native", "arterial", "portal", "delayed")

TOP_MM, BOTTOM_MM = 470.0, -170.0


class Tissue(IntEnum):
    """What a pixel of a painted slice shows."""

    AIR = 0
    SKIN = 1
    FAT = 2
    VISCERAL_FAT = 3
    MEDIASTINAL_FAT = 4
    MUSCLE = 5
    CORTEX = 6
    MARROW = 7
    DISC = 8
    CANAL = 9
    CARTILAGE = 10
    LUNG = 11
    AIRWAY = 12
    LUNG_VESSEL = 13
    MYOCARDIUM = 14
    RIGHT_HEART = 15
    LEFT_HEART = 16
    ARTERY = 17
    VEIN = 18
    PORTAL_VEIN = 19
    PULMONARY_ARTERY = 20
    OESOPHAGUS = 21
    LIVER = 22
    LIVER_VESSEL = 23
    GALLBLADDER = 24
    SPLEEN = 25
    PANCREAS = 26
    ADRENAL = 27
    RENAL_CORTEX = 28
    RENAL_MEDULLA = 29
    URINE = 30
    BLADDER_URINE = 31
    BOWEL_WALL = 32
    BOWEL_FLUID = 33
    BOWEL_CONTRAST = 34
    BOWEL_GAS = 35
    FAECES = 36
    PELVIC_ORGAN = 37
    NODE = 38
    THYROID = 39
    BREAST = 40
    ENDPLATE = 41
    TABLE = 42
    TABLE_FOAM = 43


# Mean HU without contrast medium, and in the arterial, portal venous and delayed phase; spread between patients; texture within the tissue.
_HU: dict[Tissue, tuple[float, float, float, float, float, float]] = {
    Tissue.AIR: (-1000, -1000, -1000, -1000, 0, 0),
    Tissue.SKIN: (20, 30, 40, 40, 10, 5),
    Tissue.FAT: (-105, -105, -103, -103, 5, 9),
    Tissue.VISCERAL_FAT: (-100, -98, -96, -96, 6, 12),
    Tissue.MEDIASTINAL_FAT: (-92, -90, -88, -88, 8, 14),
    Tissue.MUSCLE: (50, 55, 60, 60, 7, 14),
    Tissue.CORTEX: (750, 750, 760, 750, 120, 60),
    Tissue.MARROW: (170, 175, 185, 180, 55, 45),
    Tissue.DISC: (85, 85, 88, 88, 10, 8),
    Tissue.CANAL: (25, 28, 30, 30, 6, 6),
    Tissue.CARTILAGE: (95, 95, 98, 98, 15, 15),
    Tissue.LUNG: (-855, -850, -850, -850, 30, 22),
    Tissue.AIRWAY: (-990, -990, -990, -990, 5, 0),
    Tissue.LUNG_VESSEL: (35, 200, 120, 90, 15, 0),
    Tissue.MYOCARDIUM: (42, 95, 110, 90, 10, 7),
    Tissue.RIGHT_HEART: (40, 230, 150, 115, 25, 6),
    Tissue.LEFT_HEART: (40, 290, 155, 115, 25, 6),
    Tissue.ARTERY: (40, 310, 160, 118, 35, 4),
    Tissue.VEIN: (40, 75, 150, 115, 20, 7),
    Tissue.PORTAL_VEIN: (40, 90, 170, 120, 18, 4),
    Tissue.PULMONARY_ARTERY: (40, 260, 150, 115, 40, 4),
    Tissue.OESOPHAGUS: (38, 50, 60, 55, 8, 8),
    Tissue.LIVER: (57, 70, 110, 92, 11, 4),
    Tissue.LIVER_VESSEL: (42, 85, 150, 108, 14, 3),
    Tissue.GALLBLADDER: (8, 8, 10, 10, 6, 2),
    Tissue.SPLEEN: (48, 115, 122, 95, 9, 4),
    Tissue.PANCREAS: (38, 90, 88, 68, 10, 12),
    Tissue.ADRENAL: (25, 60, 65, 50, 8, 5),
    Tissue.RENAL_CORTEX: (34, 165, 185, 145, 18, 5),
    Tissue.RENAL_MEDULLA: (32, 65, 150, 140, 15, 5),
    Tissue.URINE: (4, 5, 15, 420, 5, 3),
    Tissue.BLADDER_URINE: (5, 5, 8, 120, 5, 3),
    Tissue.BOWEL_WALL: (38, 75, 80, 65, 12, 8),
    Tissue.BOWEL_FLUID: (18, 20, 25, 25, 10, 8),
    Tissue.BOWEL_CONTRAST: (260, 260, 260, 260, 90, 25),
    Tissue.BOWEL_GAS: (-960, -960, -960, -960, 25, 10),
    Tissue.FAECES: (-30, -30, -25, -25, 30, 75),
    Tissue.PELVIC_ORGAN: (42, 60, 85, 80, 10, 12),
    Tissue.NODE: (38, 60, 75, 70, 10, 5),
    Tissue.THYROID: (100, 150, 140, 120, 20, 10),
    Tissue.BREAST: (10, 20, 25, 25, 20, 25),
    Tissue.ENDPLATE: (330, 330, 340, 335, 50, 70),
    Tissue.TABLE: (60, 60, 60, 60, 120, 0),
    Tissue.TABLE_FOAM: (-930, -930, -930, -930, 15, 5),
}


# Half width, half depth and y of the centre of the body cavity (inside ribs and muscles).
_CAVITY_Z = np.array([-190, -140, -100, -60, -20, 20, 60, 100, 140, 180, 220, 260, 300, 340, 380, 420, 450, 475, 500], float)
_CAVITY = np.array(
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
_SPINE_Z = np.array([-120, -80, -40, 0, 50, 110, 170, 215, 260, 300, 345, 385, 430, 475, 520], float)
_SPINE_Y = np.array([86, 84, 66, 40, 24, 24, 33, 42, 50, 55, 56, 52, 44, 34, 26], float)
_VERTEBRAE = np.r_[0.0, np.cumsum([37, 37, 37, 37, 36, 30, 28.5, 27.5, 26.5, 25.5, 25, 24, 23.5, 23, 22, 21, 20, 18, 17, 17])]


def spine_y(z: float) -> float:
    """y of the vertebral bodies' centres."""
    return float(np.interp(z, _SPINE_Z, _SPINE_Y))


def cavity(z: float, grow: float = 0.0) -> Array:
    """(64, 2) contour of the body cavity at z, grown by `grow` mm."""
    a, b, y = (float(np.interp(z, _CAVITY_Z, column)) for column in _CAVITY.T)
    return ellipse(0, y, a + grow, b + grow, power=2.25)


def _mirrored(path: Sequence[Sequence[float]], side: int) -> Array:
    return np.asarray(path, float) * ([side] + [1] * (len(path[0]) - 1))


@dataclass(frozen=True)
class Frame:
    """The pixel grid of a slice: mm of the centre of pixel (0, 0), mm a pixel, pixels a side."""

    x: float
    y: float
    pixel: float
    size: int

    def columns(self) -> Array:
        return (self.x + self.pixel * np.arange(self.size)).astype(np.float32)

    def rows(self) -> Array:
        return (self.y + self.pixel * np.arange(self.size)).astype(np.float32)


class _Canvas:
    """An 8-bit tissue picture, `oversampling` x finer than the frame, on which contours and circles in template mm are painted."""

    def __init__(self, frame: Frame, deform: Callable[[Array], Array], oversampling: int, behind: Image.Image | None) -> None:
        side = frame.size * oversampling
        self.image = behind.copy() if behind else Image.new("L", (side, side), int(Tissue.AIR))
        self._draw = ImageDraw.Draw(self.image)
        self._deform = deform
        self._scale = oversampling / frame.pixel
        self._offset = np.array([frame.x - frame.pixel / 2, frame.y - frame.pixel / 2])

    def _pixels(self, points: Array) -> Array:
        return (self._deform(points) - self._offset) * self._scale  # PIL truncates: this rounds pixel centres at 0.5

    def fill(self, outline: Array | None, tissue: int) -> None:
        if outline is not None:
            self._draw.polygon(self._pixels(outline).ravel().tolist(), fill=int(tissue))

    def line(self, path: Array, width: float, tissue: int) -> None:
        if width > 0:
            self._draw.line(self._pixels(path).ravel().tolist(), fill=int(tissue), width=max(1, round(width * self._scale)), joint="curve")

    def bone(self, outline: Array | None, cortex: float = 1.6) -> None:
        if outline is not None:
            self.fill(outline, Tissue.CORTEX)
            self.fill(shrunk(outline, cortex), Tissue.MARROW)

    def bone_plate(self, path: Array, width: float, cortex: float = 1.8) -> None:
        self.line(path, width, Tissue.CORTEX)
        self.line(path, width - 2 * cortex, Tissue.MARROW)

    def circles(self, circles: Array, tissues: Array, level: float = 0.0) -> None:
        """Filled circles; with `level` in -1..1 only their front part (smaller y) up to that height: gas above a fluid level."""
        if not len(circles):
            return
        centres, radii = self._pixels(circles[:, :2]), np.maximum(circles[:, 2] * self._scale, 0.5)
        boxes = np.c_[centres - radii[:, None], centres + radii[:, None]].tolist()
        if not level:
            for box, tissue in zip(boxes, tissues.tolist()):
                self._draw.ellipse(box, fill=tissue)
            return
        dip = float(np.degrees(np.arcsin(level)))
        for box, tissue in zip(boxes, tissues.tolist()):
            self._draw.chord(box, 180 - dip, 360 + dip, fill=tissue)

    def array(self) -> Array:
        return np.asarray(self.image)


class Patient:
    """One random patient; `paint` shows any axial slice of it as tissues, `hu` and `texture` turn tissues into CT numbers.

    World coordinates are LPS mm with the template's origin; `to_world` and `template_z` lead there.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.female = bool(rng.random() < 0.45)
        self.age = int(np.clip(rng.normal(58, 15), 18, 87))
        stature = rng.normal(0.96 if self.female else 1.02, 0.05)
        self.scale = np.array([stature * np.exp(rng.normal(0, 0.05)), stature * np.exp(rng.normal(0, 0.06)), stature])
        self.fat_mm = float(np.clip(rng.lognormal(np.log(15 if self.female else 11), 0.55), 3, 45))
        self.phase: Phase = PHASES[rng.choice(4, p=[0.17, 0.18, 0.55, 0.10])]
        self._warp = [(rng.normal(0, 1.6), *rng.uniform(-0.035, 0.035, 3), rng.uniform(0, 2 * np.pi)) for _ in range(6)]
        self._bend = rng.normal(0, 4.0), rng.uniform(150, 400), rng.uniform(0, 2 * np.pi)
        self._set_hu(rng)
        self._grow_chest(rng)
        self._grow_abdomen(rng)
        self._grow_bowel(rng)
        self._grow_vessels(rng)
        self._grow_bones(rng)
        self._grow_lung_vessels(rng)
        self._grow_nodes(rng)

    # -- geometry ------------------------------------------------------------------------------------------------------------------------

    def to_world(self, points: Array, z: float) -> Array:
        """(N, 2) template x, y at template height z -> world mm."""
        x, y = points[:, 0], points[:, 1]
        dx, dy = np.zeros_like(x), np.zeros_like(y)
        for number, (amplitude, kx, ky, kz, phase) in enumerate(self._warp):
            wave = amplitude * np.sin(kx * x + ky * y + kz * z + phase)
            if number % 2:
                dx = dx + wave
            else:
                dy = dy + wave
        amplitude, period, phase = self._bend
        return np.c_[x + dx + amplitude * np.sin(2 * np.pi * z / period + phase), y + dy] * self.scale[:2]

    def template_z(self, z: float) -> float:
        return z / float(self.scale[2])

    @property
    def top_mm(self) -> float:
        return TOP_MM * float(self.scale[2])

    @property
    def bottom_mm(self) -> float:
        return BOTTOM_MM * float(self.scale[2])

    # -- making a patient ----------------------------------------------------------------------------------------------------------------

    def _set_hu(self, rng: np.random.Generator) -> None:
        column = PHASES.index(self.phase)
        self.hu, self.texture = np.zeros(256, np.float32), np.zeros(256, np.float32)
        for tissue, row in _HU.items():
            self.hu[tissue] = row[column] + rng.normal(0, row[4] * (0.35 if self.phase == "native" else 1.0))
            self.texture[tissue] = row[5] * rng.uniform(0.6, 1.3)
        self.hu[Tissue.MARROW] -= 1.6 * max(0, self.age - 55)
        if rng.random() < 0.15:  # fatty liver
            self.hu[Tissue.LIVER] -= rng.uniform(15, 45)

    def _grow_chest(self, rng: np.random.Generator) -> None:
        self.mediastinum = Loft(
            {
                235: ellipse(15, -25, 75, 55),
                265: [(95, -35), (80, -70), (20, -92), (-45, -75), (-58, -30), (-40, 15), (-28, 60), (35, 60), (48, 25)],
                300: [(90, -25), (70, -62), (15, -92), (-35, -72), (-52, -30), (-38, 20), (-28, 60), (40, 60), (50, 20)],
                330: [(70, -25), (45, -62), (5, -90), (-25, -65), (-48, -25), (-40, 15), (-26, 60), (40, 60), (48, 20)],
                360: [(48, -5), (32, -50), (3, -86), (-18, -60), (-42, -25), (-40, 10), (-24, 58), (38, 58), (45, 25)],
                400: [(38, 5), (20, -45), (2, -80), (-14, -60), (-34, -25), (-28, 15), (-22, 52), (34, 52), (36, 25)],
                435: [(36, 0), (25, -35), (0, -64), (-28, -42), (-38, -5), (-26, 25), (-20, 45), (22, 45), (30, 25)],
                475: ellipse(0, 2, 46, 46),
            },
            30,
        ).varied(rng, 3, 0.04, 0.02)
        tilt = rng.normal(28, 8)
        self.heart = Loft(
            {
                258: ellipse(34, -36, 50, 34, tilt),
                280: ellipse(30, -32, 62, 45, tilt),
                305: ellipse(22, -28, 60, 48, tilt),
                328: ellipse(12, -25, 48, 42, tilt),
                343: ellipse(6, -24, 36, 32, tilt),
            },
            10,
        ).varied(rng, 3, 0.07, 0.03)
        self.chambers = [
            (Loft({275: ellipse(52, -24, 30, 20, 40), 300: ellipse(44, -16, 26, 19, 40)}, 16).varied(rng, 2), Tissue.LEFT_HEART),
            (
                Loft({270: ellipse(22, -52, 34, 15, 25), 300: ellipse(12, -50, 30, 16, 25), 325: ellipse(14, -48, 18, 12)}, 12).varied(
                    rng, 2
                ),
                Tissue.RIGHT_HEART,
            ),
            (
                Loft({275: ellipse(-20, -20, 18, 22), 305: ellipse(-24, -22, 20, 25), 325: ellipse(-24, -24, 14, 18)}, 12).varied(rng, 2),
                Tissue.RIGHT_HEART,
            ),
            (Loft({298: ellipse(10, 8, 28, 14), 320: ellipse(8, 8, 34, 15)}, 14).varied(rng, 2), Tissue.LEFT_HEART),
        ]
        self.airway = Sweep.join(
            Sweep.along(path, Tissue.OESOPHAGUS)
            for path in (
                [(0, 4, 520, 9.5), (1, 12, 450, 9.5), (0, 14, 385, 9.5)],
                [(0, 14, 387, 8.5), (-18, 14, 374, 8), (-42, 10, 360, 6.5), (-55, 10, 340, 4.5), (-62, 14, 310, 3.2)],
                [(-42, 10, 362, 5), (-60, 0, 385, 3), (-68, -5, 405, 2.2)],
                [(0, 14, 387, 8), (22, 16, 372, 7.5), (46, 20, 355, 6), (58, 22, 330, 4.2), (64, 26, 300, 3)],
                [(46, 18, 356, 5), (62, 5, 375, 3), (68, -5, 395, 2.2)],
            )
        )
        self.oesophagus = Sweep.along(
            [(6, 26, 520, 7), (5, 32, 440, 7), (6, 34, 380, 7), (8, 32, 320, 7.5), (14, 28, 270, 8), (28, 15, 245, 9)], Tissue.OESOPHAGUS
        )
        self.oesophagus_gas = rng.uniform(1.5, 4.5) if rng.random() < 0.5 else 0.0
        self.thyroid = [Loft({470: ellipse(s * 18, -2, 9, 14), 495: ellipse(s * 18, 0, 8, 12)}, 12).varied(rng) for s in (-1, 1)]
        pectoral = {
            355: ellipse(75, -104, 30, 3, 22),
            385: ellipse(78, -98, 46, 8, 24),
            420: ellipse(84, -86, 52, 12, 28),
            450: ellipse(95, -68, 50, 14, 30),
        }
        self.pectorals = [Loft(pectoral, 12).varied(rng, 2).scaled(side=side) for side in (-1, 1)]
        volume = rng.uniform(0.6, 1.3)
        breast = {
            290: ellipse(78, -108, 42, 12),
            325: ellipse(80, -122, 58, 38 * volume),
            360: ellipse(78, -115, 52, 26 * volume),
            395: ellipse(80, -100, 42, 10),
        }
        self.breasts = [Loft(breast, 25).varied(rng, 3).scaled(side=side) for side in (-1, 1)] if self.female else []
        self.gland = rng.uniform(0.0, 0.7)

    def _grow_abdomen(self, rng: np.random.Generator) -> None:
        self.right_dome = Loft(
            {205: ellipse(-60, -18, 72, 82), 232: ellipse(-66, -10, 63, 82), 255: ellipse(-72, -6, 50, 66), 272: ellipse(-74, -4, 32, 42)},
            12,
        ).varied(rng, 3, 0.03, 0.02)
        self.left_dome = Loft(
            {205: ellipse(62, -18, 70, 84), 228: ellipse(68, -8, 58, 80), 248: ellipse(72, -4, 46, 62), 262: ellipse(74, -2, 28, 38)}, 12
        ).varied(rng, 3, 0.03, 0.02)
        self.middle_dome = Loft({195: ellipse(0, -18, 132, 84), 222: ellipse(0, -34, 100, 58), 240: ellipse(4, -40, 80, 42)}, 10)
        self.liver = Loft(
            {
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
            },
            12,
        ).varied(rng, 4, 0.06, 0.03)
        self.gallbladder = Loft({150: ellipse(-52, -48, 11, 13), 172: ellipse(-48, -38, 12, 16, 20)}, 16).varied(rng, 5, 0.2)
        self.has_gallbladder = bool(rng.random() < 0.82)
        self.spleen = Loft(
            {
                165: ellipse(104, 42, 12, 20),
                190: [(116, 12), (122, 40), (108, 68), (82, 76), (80, 62), (94, 42), (100, 15)],
                218: [(118, 5), (124, 40), (108, 70), (76, 80), (74, 62), (92, 42), (98, 10)],
                245: [(104, 20), (112, 44), (98, 64), (74, 68), (72, 52), (88, 30)],
            },
            12,
        ).varied(rng, 4, 0.10, 0.03)
        self.stomach = Loft(
            {
                150: ellipse(5, -58, 24, 13),
                165: ellipse(28, -60, 42, 17, -8),
                185: ellipse(50, -52, 36, 24, 12),
                210: ellipse(60, -35, 31, 34, 8),
                232: ellipse(62, -14, 32, 38),
                250: ellipse(64, -2, 26, 30),
            },
            9,
        ).varied(rng, 5, 0.10, 0.05)
        content = rng.choice(4, p=[0.35, 0.3, 0.2, 0.15])
        self.stomach_content = (Tissue.BOWEL_FLUID, Tissue.BOWEL_CONTRAST, Tissue.FAECES, Tissue.BOWEL_FLUID)[content]
        self.stomach_gas = float(rng.uniform(-0.6, 0.3)) if content != 3 else -1.0
        self.stomach_wall = float(rng.uniform(3, 6))
        self.pancreas = Sweep.join(
            [
                Sweep.along(
                    [
                        (-42, -22, 150, 12),
                        (-38, -24, 168, 13),
                        (-22, -26, 178, 10),
                        (0, -36, 184, 9),
                        (30, -22, 190, 9.5),
                        (58, 2, 198, 10),
                        (82, 22, 206, 8),
                    ],
                    Tissue.PANCREAS,
                )
            ]
        )
        self.pancreas = self.pancreas.shifted(rng, 4)
        self.adrenals = [
            ([(-30, 24, 0), (-40, 36, 0), (-52, 46, 0)], [(-40, 36, 0), (-34, 48, 0)], rng.uniform(196, 214)),
            ([(32, 16, 0), (38, 32, 0), (52, 42, 0)], [(38, 32, 0), (34, 46, 0)], rng.uniform(190, 208)),
        ]
        self.kidneys = [self._kidney(rng, side) for side in (-1, 1)]
        psoas = {
            -85: ellipse(58, -22, 17, 18),
            -50: ellipse(55, -12, 19, 21),
            0: ellipse(50, 12, 20, 22),
            50: ellipse(44, 22, 19, 21),
            100: ellipse(37, 30, 15, 17),
            150: ellipse(30, 36, 9, 12),
            185: ellipse(26, 42, 5, 7),
        }
        bulk = rng.normal(0, 0.12)
        self.psoas = [Loft(psoas, 10).varied(rng, 1.5, 0.05).scaled(float(np.exp(bulk)), side) for side in (-1, 1)]
        full = rng.uniform(0.55, 1.2)
        self.bladder = Loft(
            {
                -128: ellipse(0, -25, 24 * full, 18 * full),
                -105: ellipse(0, -30, 42 * full, 32 * full),
                -82: ellipse(0, -32, 36 * full, 27 * full),
            },
            14,
        ).varied(rng, 4, 0.08)
        self.bladder_jet = bool(rng.random() < 0.5)
        if self.female:
            self.genital = Loft(
                {-112: ellipse(0, 18, 18, 14), -85: ellipse(rng.normal(0, 8), 12, 26, 19), -60: ellipse(rng.normal(0, 12), 4, 24, 18)}, 12
            ).varied(rng, 5, 0.15)
            self.ovaries = [Loft({-62: ellipse(side * 48, 12, 13, 10)}, 12).varied(rng, 8, 0.2) for side in (-1, 1)]
        else:
            self.genital = Loft({-142: ellipse(0, 0, 20, 16), -125: ellipse(0, 4, 25, 19)}, 10).varied(rng, 3, 0.15)
            self.ovaries = [Loft({-112: ellipse(side * 20, 28, 20, 6, side * -18)}, 8).varied(rng, 3) for side in (-1, 1)]

    def _kidney(self, rng: np.random.Generator, side: int) -> tuple[Loft, Loft, Loft, Loft, list[Loft]]:
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
        inner = Loft({h: shrunk(closed_curve(o) if len(o) != VERTICES else o, 6) for h, o in cortex.items() if abs(h - z) < 40}, 8).varied(
            rng, 4, 0.08, 0.02
        )
        sinus = Loft({z - 26: ellipse(56, 38, 7, 8), z: ellipse(54, 37, 13, 12), z + 26: ellipse(56, 40, 7, 8)}, 6).varied(rng, 2, 0.1)
        pelvis = Loft({z - 14: ellipse(46, 34, 5, 4), z + 6: ellipse(47, 34, 10, 5, 20)}, 6).varied(rng, 2, 0.2)
        calyces = [Loft({z + h: ellipse(58 + rng.normal(0, 3), 38 + rng.normal(0, 5), 4.5, 3.5)}, 6) for h in (-20, -8, 4, 16)]
        return (*(loft.scaled(side=side) for loft in (outer, inner, sinus, pelvis)), [loft.scaled(side=side) for loft in calyces])

    def _grow_bowel(self, rng: np.random.Generator) -> None:
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
            loops.append(Sweep.along(self._small_bowel_path(rng), Tissue.BOWEL_WALL, 0.4))
        self.bowel: list[tuple[Sweep, Sweep, Sweep]] = []
        self._fill_bowel(rng, colon, wall=2.2, odds=(0.1, 0.12, 0.0, 0.78), gas=0.6)
        oral = 0.5 * (rng.random() < 0.6)
        for loop in loops:
            self._fill_bowel(rng, loop, wall=2.0, odds=(0.75 - oral, oral, 0.25, 0.0), gas=0.12)

    def _small_bowel_path(self, rng: np.random.Generator) -> list[tuple[float, float, float, float]]:
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

    def _fill_bowel(self, rng: np.random.Generator, tube: Sweep, wall: float, odds: Sequence[float], gas: float) -> None:
        """Cut a bowel tube into stretches; each holds fluid, oral contrast medium, nothing or faeces, and perhaps gas in front."""
        count = max(1, len(tube.spheres) // 16)
        contents = (Tissue.BOWEL_FLUID, Tissue.BOWEL_CONTRAST, Tissue.BOWEL_WALL, Tissue.FAECES)
        lumen = tube.inner(wall, Tissue.BOWEL_FLUID)
        tissue, gassy = lumen.tissue.copy(), np.zeros(len(lumen.tissue), bool)
        for part in np.array_split(np.arange(len(tissue)), count):
            tissue[part] = contents[rng.choice(4, p=odds)]
            gassy[part] = rng.random() < gas
        self.bowel.append((tube, Sweep(lumen.spheres, tissue), Sweep(lumen.spheres[gassy], np.full(int(gassy.sum()), Tissue.BOWEL_GAS))))

    def _grow_vessels(self, rng: np.random.Generator) -> None:
        aorta_size = rng.uniform(0.88, 1.22)

        def tube(path: list, tissue: int, shift: float = 1.0, size: float = 1.0) -> Sweep:
            drift = rng.normal(0, shift, 3)
            return Sweep.along([(*(np.array(p[:3]) + drift + rng.normal(0, 0.7, 3)), p[3] * size) for p in path], tissue)

        art, vein, porta, pulm = Tissue.ARTERY, Tissue.VEIN, Tissue.PORTAL_VEIN, Tissue.PULMONARY_ARTERY

        def front(z: float) -> float:
            return spine_y(z) - 18  # the anterior face of the vertebral bodies

        self.pulmonary = [
            tube(
                [(22, -44, 325, 13), (24, -38, 345, 13.5), (22, -18, 362, 12.5), (30, 2, 366, 11.5), (48, 16, 362, 9.5), (60, 24, 345, 7)],
                pulm,
            ),
            tube([(20, -16, 362, 11), (0, -6, 358, 10.5), (-28, -2, 356, 10), (-50, 2, 348, 8), (-60, 8, 330, 6)], pulm),
            tube([(4, 8, 318, 8), (-30, 14, 322, 7), (-56, 14, 328, 5)], Tissue.LEFT_HEART),
            tube([(12, 8, 318, 8), (38, 16, 322, 7), (58, 18, 328, 5)], Tissue.LEFT_HEART),
        ]
        self.great_veins = [
            tube(
                [(-24, -22, 315, 9), (-27, -20, 350, 9), (-28, -20, 400, 9), (-27, -24, 428, 8.5), (-38, -22, 455, 8), (-44, -15, 490, 7)],
                vein,
            ),
            tube([(-25, -26, 425, 7), (0, -36, 432, 6.5), (26, -34, 446, 6.5), (42, -20, 470, 7), (46, -12, 500, 6)], vein),
            tube(
                [
                    (-22, -14, 285, 11),
                    (-22, 4, 262, 11),
                    (-20, 12, 230, 11.5),
                    (-20, front(200) - 4, 195, 11),
                    (-20, front(150) - 8, 150, 11),
                    (-18, front(90) - 8, 90, 10.5),
                    (-12, front(45) - 7, 42, 11),
                ],
                vein,
                size=rng.uniform(0.8, 1.15),
            ),
            tube([(-3, front(420) + 2, 392, 3.5), (-4, front(330) + 1, 330, 3.5), (-3, front(240) + 1, 230, 3)], vein),
        ]
        self.arteries = [
            tube(
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
                    (12, front(225) - 10, 225, 11.5),
                    (6, front(180) - 12, 180, 11),
                    (4, front(110) - 12, 110, 9.5),
                    (3, front(50) - 12, 48, 9),
                ],
                art,
                size=aorta_size,
            ),
            tube([(-8, -20, 408, 7), (-16, -18, 430, 6.5), (-26, -8, 460, 5.5), (-34, 2, 500, 4)], art),
            tube([(4, -8, 412, 5), (12, -8, 440, 4.2), (22, -2, 500, 4)], art),
            tube([(16, 8, 412, 5.5), (24, 10, 440, 5), (36, 8, 465, 5), (60, -5, 476, 4.5)], art),
            tube([(5, front(200) - 18, 200, 3.6), (2, front(205) - 34, 204, 3.4), (20, -22, 206, 3), (60, 0, 208, 2.8)], art),
            tube([(2, front(204) - 32, 204, 3), (-22, -26, 206, 2.8), (-38, -26, 212, 2.5)], art),
            tube([(4, front(185) - 14, 186, 3.8), (2, -32, 172, 3.8), (0, -38, 120, 3.4), (-10, -42, 60, 2.4)], art),
        ]
        for side in (-1, 1):
            self.arteries += [
                tube([(side * 3, front(165) - 12, 166, 3), (side * 25, 22, 162, 2.8), (side * 46, 30, 158, 2.4)], art),
                tube(
                    [
                        (3 + side * 3, front(50) - 12, 50, 6),
                        (side * 18, 6, 25, 5.5),
                        (side * 38, 18, 0, 5.2),
                        (side * 52, -2, -45, 4.8),
                        (side * 62, -38, -90, 4.6),
                        (side * 70, -58, -125, 4.6),
                        (side * 72, -62, -190, 4.4),
                    ],
                    art,
                ),
                tube([(side * 38, 18, 2, 3.8), (side * 50, 40, -35, 3.2), (side * 58, 48, -75, 2.4)], art),
            ]
            self.great_veins += [
                tube([(-18, front(160) - 8, 164, 4.5), (side * 24, 14, 160, 4.5), (side * 48, 28, 156, 3.8)], vein),
                tube(
                    [
                        (-12, front(45) - 7, 44, 8),
                        (side * 22, 16, 15, 7),
                        (side * 42, 30, -5, 6.5),
                        (side * 50, 12, -45, 6),
                        (side * 56, -26, -90, 6),
                        (side * 60, -52, -125, 6),
                        (side * 62, -55, -190, 5.5),
                    ],
                    vein,
                ),
            ]
        self.portal = [
            tube(
                [(80, 18, 206, 3), (45, -2, 196, 4.2), (12, -18, 188, 5), (-16, -18, 188, 6.5), (-34, -20, 206, 6.8), (-48, -22, 214, 6)],
                porta,
            ),
            tube([(-14, -38, 100, 4), (-12, -34, 140, 5), (-15, -20, 186, 5.8)], porta),
        ]

        def liver(z: float) -> list:
            outline = self.liver.at(z)
            return [] if outline is None else [shrunk(outline, 5)]

        inside = Room(85, 285, liver, lambda z: []).holds
        roots = [
            ((-46, -22, 214), (-1, 0.2, -0.2), 5.5),
            ((-46, -22, 214), (-0.6, -0.7, 0.3), 4.5),
            ((-40, -26, 216), (0.6, -0.8, 0.1), 4.5),
        ]
        roots += [((-24, 4, 246), (-1, 0.1, -0.3), 5.0), ((-24, 0, 248), (-0.6, -0.8, -0.3), 4.5), ((-20, -4, 248), (0.5, -0.9, -0.2), 4.2)]
        self.liver_vessels = Sweep.join(grow_tree(rng, *root, inside, Tissue.LIVER_VESSEL, 0.9, 6.0) for root in roots)
        twigs = []
        for _ in range(int(rng.integers(60, 110))):  # mesenteric vessels
            start = np.array([rng.uniform(-60, 70), rng.uniform(-75, -20), rng.uniform(-60, 140)])
            step = rng.normal(0, 14, 3)
            twigs.append(
                Sweep.along(
                    [(*start, 1.6), (*(start + step), 1.4), (*(start + 2 * step + rng.normal(0, 6, 3)), 1.0)], rng.choice([art, porta])
                )
            )
        self.mesenteric = Sweep.join(twigs)

    def _grow_bones(self, rng: np.random.Generator) -> None:
        ribs, cartilage = [], []
        for number in range(1, 13):
            top = float(np.mean(_VERTEBRAE[17 - number : 19 - number]))
            drop, reach = 30 + 6 * min(number, 9), np.radians({11: 120, 12: 95}.get(number, 150 - 1.5 * abs(5 - number)))
            progress = np.linspace(0, 1, 26)
            angle = np.radians(20) + progress * (reach - np.radians(20))
            z = top - drop * progress**1.15 * (1.0 if number > 2 else 0.7)
            for side in (-1, 1):
                points = []
                for turn, height in zip(angle, z):
                    a, b, y = (float(np.interp(height, _CAVITY_Z, column)) for column in _CAVITY.T)
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
                                (side * max(14, 4 * (number - 5)), _sternum_y(target), target, 5),
                            ],
                            Tissue.CARTILAGE,
                        )
                    )
        self.ribs, self.cartilage = Sweep.join(ribs), Sweep.join(cartilage)
        self.sternum = Loft(
            {
                270: ellipse(0, _sternum_y(270), 6, 4),
                295: ellipse(0, _sternum_y(295), 17, 6),
                380: ellipse(0, _sternum_y(380), 16, 6.5),
                395: ellipse(0, _sternum_y(395), 20, 7),
                425: ellipse(0, _sternum_y(425), 30, 8),
            },
            8,
        ).varied(rng, 1.5, 0.05)
        self.clavicles = Sweep.join(
            Sweep.along(
                [(s * 26, -62, 428, 8), (s * 60, -66, 440, 6.5), (s * 100, -50, 458, 6.5), (s * 150, -30, 475, 7)], Tissue.CORTEX, 0.3
            )
            for s in (-1, 1)
        )
        spread = rng.normal(0, 4)
        self.scapula = [np.array([(s * (76 + spread), 82), (s * (108 + spread), 78), (s * (132 + spread), 58)], float) for s in (-1, 1)]
        self.scoliosis = rng.normal(0, 5), rng.uniform(250, 500), rng.uniform(0, 2 * np.pi)
        self.islands = [(int(rng.integers(0, 17)), *rng.uniform(-12, 12, 2), rng.uniform(1.5, 3.0)) for _ in range(int(rng.integers(0, 3)))]

    def _grow_lung_vessels(self, rng: np.random.Generator) -> None:
        trees, bronchi = [], []
        room = Room(
            195,
            480,
            lambda z: [cavity(z, -4)],
            lambda z: [loft.at(z) for loft in (self.mediastinum, self.right_dome, self.left_dome, self.middle_dome)],
        )
        for side in (-1, 1):

            def inside(p: Array, side: int = side) -> bool:
                return p[0] * side > 12 and (room.holds(p) or 40 < p[0] * side < 60)

            for _ in range(11):
                root = np.array([side * rng.uniform(46, 56), rng.uniform(0, 28), rng.uniform(325, 372)])
                heading = np.array([side * rng.uniform(0.3, 1), rng.uniform(-1, 0.8), rng.uniform(-1, 1)])
                trees.append(grow_tree(rng, root, heading, rng.uniform(3.0, 4.6), inside, Tissue.LUNG_VESSEL, 0.55, 8.0))
        self.lung_vessels = Sweep.join(trees)
        for path in (
            ((52, 20, 340), (70, 40, 300), (78, 52, 260)),
            ((50, 10, 360), (75, -20, 390), (85, -35, 410)),
            ((50, 8, 350), (80, -30, 330), (92, -50, 310)),
            ((50, 16, 362), (72, 40, 400), (74, 50, 430)),
        ):
            for side in (-1, 1):
                bronchi.append(Sweep.along([(side * x, y, z, r) for (x, y, z), r in zip(path, (3.6, 2.6, 1.8))], Tissue.BOWEL_WALL))
        self.bronchi = Sweep.join(bronchi)
        self.dependent = float(rng.uniform(20, 110))

    def _grow_nodes(self, rng: np.random.Generator) -> None:
        """Normal lymph nodes, short axis below 8 mm: beside vessels, in the axillae, groins and mesentery."""
        spots = []
        for region, count in (((-20, 5, 375, 22, 18, 30), 7), ((10, 5, 100, 20, 10, 70), 8), ((0, -50, 60, 55, 15, 60), 8)):
            centre, spread = np.array(region[:3]), np.array(region[3:])
            spots += [(*(centre + rng.uniform(-1, 1, 3) * spread), rng.uniform(1.6, 3.4)) for _ in range(count)]
        for side in (-1, 1):
            for region, count in (((140, -40, 415, 12, 22, 25), 5), ((72, -66, -125, 14, 8, 25), 5), ((58, 0, -60, 8, 20, 30), 3)):
                centre, spread = np.array(region[:3]) * (side, 1, 1), np.array(region[3:])
                spots += [(*(centre + rng.uniform(-1, 1, 3) * spread), rng.uniform(1.8, 3.8)) for _ in range(count)]
        paths = []
        for *centre, radius in spots:
            half = rng.normal(0, 1, 3)
            half *= radius * rng.uniform(0, 1.1) / np.linalg.norm(half)
            paths.append(Sweep.along([(*(np.array(centre) - half), radius), (*(np.array(centre) + half), radius)], Tissue.NODE))
        self.nodes = Sweep.join(paths)

    # -- painting ------------------------------------------------------------------------------------------------------------------------

    def paint(self, z_mm: float, frame: Frame, oversampling: int = 2, thickness: float = 1.0, behind: Image.Image | None = None) -> Array:
        """Tissue codes, uint8 (size * oversampling, same), of the axial plane at world z.

        `thickness` mm keeps thin vessels from vanishing between planes; `behind` is a picture of tissues to paint on, such as the couch.
        """
        z = self.template_z(z_mm)
        canvas = _Canvas(frame, lambda points: self.to_world(points, z), oversampling, behind)
        self._paint_wall(canvas, z)
        self._paint_lungs(canvas, z, thickness)
        self._paint_mediastinum(canvas, z)
        self._paint_abdomen(canvas, z, thickness)
        self._paint_pelvis(canvas, z)
        self._paint_spine(canvas, z)
        self._paint_ribs(canvas, z)
        return canvas.array()

    def outline(self, z: float) -> Array:
        """(64, 2) skin at template z."""
        wall = self._muscle_wall(z)
        middle = wall.mean(0)
        offset = wall - middle
        distance = np.hypot(*offset.T)[:, None]
        direction = offset / distance
        girth = float(np.interp(z, [-190, -100, -20, 60, 130, 220, 320, 440], [1.5, 1.5, 1.35, 1.2, 1.0, 0.65, 0.6, 0.6]))
        front, back = np.clip(-direction[:, 1:], 0, 1), np.clip(direction[:, 1:], 0, 1)
        thickness = self.fat_mm * girth * (0.75 + 0.5 * front + 0.55 * back * (z < 120)) + 2
        return wall + direction * thickness

    def _muscle_wall(self, z: float) -> Array:
        wall = cavity(z)
        direction = (wall - wall.mean(0)) / np.hypot(*(wall - wall.mean(0)).T)[:, None]
        side, front, back = np.abs(direction[:, :1]), np.clip(-direction[:, 1:], 0, 1), np.clip(direction[:, 1:], 0, 1)
        lateral = np.interp(z, [-190, -100, -40, 0, 40, 120, 250, 330, 400, 440, 475], [95, 62, 38, 24, 15, 15, 13, 17, 32, 62, 95])
        anterior = np.interp(z, [-190, -100, 0, 250, 350, 400, 450], [25, 18, 9, 10, 10, 12, 14])
        posterior = np.interp(z, [-190, -100, -40, 60, 130, 250, 400, 475], [48, 46, 34, 26, 22, 17, 22, 34])
        return wall + direction * (lateral * side**2 + anterior * front**2 + posterior * back**2)

    def _paint_wall(self, canvas: _Canvas, z: float) -> None:
        skin, wall = self.outline(z), self._muscle_wall(z)
        for breast in self.breasts:
            shape = breast.at(z)
            if shape is not None:
                canvas.fill(shape, Tissue.SKIN)
        canvas.fill(skin, Tissue.SKIN)
        canvas.fill(shrunk(skin, 1.8), Tissue.FAT)
        for breast in self.breasts:
            shape = breast.at(z)
            if shape is not None:
                canvas.fill(shrunk(shape, 1.8), Tissue.FAT)
                canvas.fill((shape - shape.mean(0)) * self.gland + shape.mean(0) - (0, 3), Tissue.BREAST)
        if z < -45:
            self._paint_hips(canvas, z, wall)
        elif z < 235:
            canvas.fill(wall, Tissue.MUSCLE)
        else:
            self._paint_chest_wall(canvas, z)
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

    def _paint_chest_wall(self, canvas: _Canvas, z: float) -> None:
        pectorals = [shape for shape in (pectoral.at(z) for pectoral in self.pectorals) if shape is not None]
        for pectoral in pectorals:
            canvas.fill(shrunk(pectoral, -(4 + 0.5 * self.fat_mm)), Tissue.SKIN)
        for pectoral in pectorals:
            canvas.fill(shrunk(pectoral, -(2.2 + 0.5 * self.fat_mm)), Tissue.FAT)
        canvas.fill(shrunk(self.outline(z), 1.8), Tissue.FAT)
        if z > 330:
            self._paint_shoulder(canvas, z)
        canvas.fill(cavity(z, 9.5), Tissue.MUSCLE)
        a, b, y = (float(np.interp(z, _CAVITY_Z, column)) for column in _CAVITY.T)
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
                        np.array([(side * (a + 9), y + 0.25 * b), (side * (a + 10), y - 0.1 * b), (side * (0.9 * a + 9), y - 0.5 * b)])
                    ),
                    7,
                    Tissue.MUSCLE,
                )
            canvas.line(
                smooth_path(np.array([(side * 4, y + b + 22), (side * 40, y + b + 21), (side * 85, y + b + 8)])), trapezius, Tissue.MUSCLE
            )
        for pectoral in pectorals:
            canvas.fill(pectoral, Tissue.MUSCLE)
            canvas.line((pectoral * 0.35 + pectoral.mean(0) * 0.65)[[0, 31]] + np.array([0, 2]), 1.2, Tissue.FAT)

    def _paint_shoulder(self, canvas: _Canvas, z: float) -> None:
        size = float(np.interp(z, [330, 345, 420, 470], [0.15, 0.55, 1, 1.25]))
        for side, blade in zip((-1, 1), self.scapula):
            path = smooth_path(blade.mean(0) + (blade - blade.mean(0)) * size + np.array([side * 2, 0]))
            cover = path + np.array([side * 3, 8])
            canvas.line(cover, 18 * size + self.fat_mm + 8, Tissue.SKIN)
            canvas.line(cover, 18 * size + self.fat_mm + 4, Tissue.FAT)
            canvas.line(path + np.array([side * 3, 9]), 13 * size, Tissue.MUSCLE)  # infraspinatus
            canvas.line(path + np.array([-side * 2, -9]), 13 * size, Tissue.MUSCLE)  # subscapularis
            canvas.bone_plate(path, 5.0 + 2 * (z > 400), 1.3)
            if z > 425:
                grow = float(np.interp(z, [425, 450], [0.3, 1]))
                canvas.fill(ellipse(side * 165, 18, 34 * grow, 38 * grow), Tissue.MUSCLE)  # deltoid
                canvas.bone(ellipse(side * 146, 34, 13 * grow, 15 * grow))
                canvas.bone(ellipse(side * 168, 16, 23 * grow, 23 * grow))

    def _paint_hips(self, canvas: _Canvas, z: float, wall: Array) -> None:
        canvas.fill(shrunk(wall, 4), Tissue.MUSCLE)
        for side in (-1, 1):
            for path in (
                [(60, 62), (88, 52), (128, 58)],
                [(92, -10), (120, 5), (146, 40)],
                [(52, -62), (86, -52), (112, -40)],
                [(48, -40), (70, -30), (96, -34)],
                [(30, 92), (40, 70), (52, 58)],
            ):
                canvas.line(_mirrored(path, side), 3.2, Tissue.FAT)
            canvas.fill(ellipse(side * 68, -60, 15, 11), Tissue.FAT)
        canvas.fill(ellipse(0, 100, 7, 24), Tissue.FAT)

    def _paint_lungs(self, canvas: _Canvas, z: float, thickness: float) -> None:
        if z > 190:
            canvas.fill(cavity(z, 0.5), Tissue.LUNG)
            canvas.circles(*self.lung_vessels.at(z, thickness))
            for circles, tissues in (self.bronchi.at(z), self.bronchi.inner(0.9, Tissue.AIRWAY).at(z)):
                canvas.circles(circles, tissues)
        else:
            canvas.fill(cavity(z), Tissue.VISCERAL_FAT)

    def _paint_mediastinum(self, canvas: _Canvas, z: float) -> None:
        if z < 200:
            return
        canvas.fill(self.mediastinum.at(z), Tissue.MEDIASTINAL_FAT)
        for thyroid in self.thyroid:
            canvas.fill(thyroid.at(z), Tissue.THYROID)
        heart = self.heart.at(z)
        if heart is not None:
            canvas.fill(shrunk(heart, -3), Tissue.MYOCARDIUM)
            canvas.fill(shrunk(heart, -2), Tissue.MEDIASTINAL_FAT)
            canvas.fill(heart, Tissue.MYOCARDIUM)
            for chamber, tissue in self.chambers:
                canvas.fill(chamber.at(z), tissue)
        canvas.circles(*self.oesophagus.at(z))
        if self.oesophagus_gas:
            gas = self.oesophagus.inner(7 - self.oesophagus_gas, Tissue.BOWEL_GAS)
            canvas.circles(*gas.at(z))
        for vessel in (*self.pulmonary, *self.great_veins[:2], self.great_veins[3]):
            canvas.circles(*vessel.at(z))
        canvas.circles(*self.airway.at(z))
        canvas.circles(*self.airway.inner(1.4, Tissue.AIRWAY).at(z))

    def _paint_abdomen(self, canvas: _Canvas, z: float, thickness: float) -> None:
        if z < 285:
            for dome in (self.right_dome, self.left_dome, self.middle_dome):
                shape = dome.at(z)
                if shape is not None:
                    canvas.fill(shape, Tissue.MUSCLE)
            for dome in (self.right_dome, self.left_dome, self.middle_dome):
                shape = dome.at(z)
                if shape is not None:
                    canvas.fill(shrunk(shape, 2.2), Tissue.VISCERAL_FAT)
            if z < 198:
                canvas.fill(cavity(z), Tissue.VISCERAL_FAT)
            canvas.circles(*self.nodes.at(z))
            self._paint_upper_organs(canvas, z, thickness)
        else:
            canvas.circles(*self.nodes.at(z))
        for psoas in self.psoas:
            canvas.fill(psoas.at(z), Tissue.MUSCLE)
        if z < 200:
            for wall, lumen, gas in self.bowel:
                canvas.circles(*wall.at(z))
                canvas.circles(*lumen.at(z))
                canvas.circles(*gas.at(z), level=0.15)
        for vessel in (*self.portal, self.great_veins[2], *self.great_veins[4:], *self.arteries):
            canvas.circles(*vessel.at(z))

    def _paint_upper_organs(self, canvas: _Canvas, z: float, thickness: float) -> None:
        if -80 < z < 160:
            canvas.circles(*self.mesenteric.at(z, thickness))
        if 170 < z < 245:  # crura of the diaphragm
            for side in (-1, 1):
                y = spine_y(z) - 12
                canvas.line(
                    np.array([(side * 16, y + 4), (side * 20 + 3, y - 12), (6 + side * 8, y - 32)]),
                    float(np.interp(z, [170, 215, 245], [5, 7, 3])),
                    Tissue.MUSCLE,
                )
        stomach = self.stomach.at(z)
        if stomach is not None:
            canvas.fill(stomach, Tissue.BOWEL_WALL)
            lumen = shrunk(stomach, self.stomach_wall)
            canvas.fill(lumen, self.stomach_content)
            middle, half = lumen.mean(0), float(np.ptp(lumen[:, 1])) / 2
            if self.stomach_gas > -1:
                canvas.fill(np.c_[lumen[:, 0], np.minimum(lumen[:, 1], middle[1] + self.stomach_gas * half)], Tissue.BOWEL_GAS)
        canvas.fill(self.spleen.at(z), Tissue.SPLEEN)
        canvas.circles(*self.pancreas.at(z))
        for body, limb, height in self.adrenals:
            if abs(z - height) < 11:
                width = 5.5 * float(np.sqrt(1 - ((z - height) / 11) ** 2))
                canvas.line(np.array(body)[:, :2], width, Tissue.ADRENAL)
                canvas.line(np.array(limb)[:, :2], width, Tissue.ADRENAL)
        for cortex, medulla, sinus, pelvis, calyces in self.kidneys:
            canvas.fill(cortex.at(z), Tissue.RENAL_CORTEX)
            inner = medulla.at(z)
            if inner is not None:
                lobed = inner.mean(0) + (inner - inner.mean(0)) * (0.88 + 0.12 * np.cos(7 * TURN + 0.1 * z))[:, None]
                canvas.fill(lobed, Tissue.RENAL_MEDULLA)
                canvas.fill(sinus.at(z), Tissue.VISCERAL_FAT)
                for calyx in calyces:
                    canvas.fill(calyx.at(z), Tissue.URINE)
                canvas.fill(pelvis.at(z), Tissue.URINE)
        liver = self.liver.at(z)
        if liver is not None:
            canvas.fill(liver, Tissue.LIVER)
            canvas.circles(*self.liver_vessels.at(z, thickness))
        if self.has_gallbladder:
            shape = self.gallbladder.at(z)
            if shape is not None:
                canvas.fill(shrunk(shape, -1.5), Tissue.BOWEL_WALL)
                canvas.fill(shape, Tissue.GALLBLADDER)

    def _paint_pelvis(self, canvas: _Canvas, z: float) -> None:
        if z > 60:
            return
        for side in (-1, 1):
            self._paint_hip_bone(canvas, z, side)
        bladder = self.bladder.at(z)
        for loft in (self.genital, *self.ovaries):
            canvas.fill(loft.at(z), Tissue.PELVIC_ORGAN)
        if bladder is not None:
            canvas.fill(shrunk(bladder, -3), Tissue.PELVIC_ORGAN)
            canvas.fill(bladder, Tissue.BLADDER_URINE)
            if self.phase == "delayed" and self.bladder_jet:
                canvas.fill(np.c_[bladder[:, 0], np.maximum(bladder[:, 1], bladder[:, 1].mean() + 6)], Tissue.BOWEL_CONTRAST)

    def _paint_hip_bone(self, canvas: _Canvas, z: float, side: int) -> None:
        grow = float(np.clip((50 - z) / 25, 0, 1))
        if z > -72:  # iliac wing
            t = float(np.clip((40 - z) / 100, 0, 1))
            front = np.array([122 - 22 * t, -28 + 8 * t])
            bend = np.array([122 - 34 * t, 20 - 2 * t])
            back = np.array([58 - 2 * t, 68 - 2 * t])
            middle = (front + back) / 2 + (bend - (front + back) / 2) * 0.8
            path = smooth_path(
                np.array(
                    [front + np.array([-8, -6]), front + np.array([2, 12]), bend, middle * 0.6 + back * 0.4 + np.array([-6, -4]), back]
                )
            )
            keep = path if grow >= 1 else path.mean(0) + (path - path.mean(0)) * max(grow, 0.05)
            inner = keep + np.array([-10, -8])
            canvas.line(_mirrored(inner, side), 13 * grow, Tissue.MUSCLE)
            canvas.bone_plate(_mirrored(keep, side), (8 + 8 * t) * max(grow, 0.3))
        if -118 < z < -52:  # acetabulum
            r = 27 * float(np.sqrt(np.clip(1 - ((z + 88) / 37) ** 2, 0, 1)))
            canvas.bone(ellipse(side * 84, 6, r * 0.95, r * 1.1))
        if -200 < z < -100:  # ischium and pubis
            canvas.bone(ellipse(side * 66, 42, 13, 18, side * -25))
            if z > -150:
                canvas.bone_plate(_mirrored([(72, -18), (45, -40), (12, -52)], side), 13 if z < -112 else 9)
            canvas.line(_mirrored([(58, 30), (48, 5), (50, -20)], side), 11, Tissue.MUSCLE)
        if -142 < z < -82:  # femoral head
            r = 24 * float(np.sqrt(np.clip(1 - ((z + 110) / 26) ** 2, 0, 1)))
            if r > 1:
                canvas.fill(ellipse(side * 88, 2, r + 2.5, r + 2.5), Tissue.CARTILAGE)
                canvas.bone(ellipse(side * 88, 2, r, r), 1.2)
        if z < -112:  # femoral neck, trochanter and shaft
            if z > -150:
                canvas.bone_plate(_mirrored([(92, 4), (112, 12), (126, 22)], side), 22)
            canvas.bone(ellipse(side * 128, 20, 17, 20), 3.0 if z < -150 else 1.8)

    def _paint_spine(self, canvas: _Canvas, z: float) -> None:
        amplitude, period, phase = self.scoliosis
        x, y = amplitude * np.sin(2 * np.pi * z / period + phase), spine_y(z)
        if z < 0:
            self._paint_sacrum(canvas, z, x, y)
            return
        level = min(int(np.searchsorted(_VERTEBRAE, z, side="right")) - 1, len(_VERTEBRAE) - 2)
        t = (z - _VERTEBRAE[level]) / (_VERTEBRAE[level + 1] - _VERTEBRAE[level])
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
                    np.array([(x + side * 14 * size, back - 2), (x + side * (14 * size + length), back + (2 if z < 200 else 10))]),
                    7 * size,
                    1.5,
                )
        if 0.1 < t < 0.75:
            for side in (-1, 1):
                canvas.bone_plate(np.array([(x + side * 13 * size, back + 1), (x + side * 8, back + 11), (x, back + 15)]), 6.5 * size, 1.6)
            canvas.bone_plate(np.array([(x, back + 12), (x, back + 15 + 24 * size * (1 - abs(t - 0.42) / 0.4))]), 6.5 * size, 1.5)
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
            for number, dx, dy, radius in self.islands:
                if number == level and abs(t - 0.5) < 0.12:
                    canvas.fill(ellipse(x + dx, y + dy, radius, radius), Tissue.CORTEX)
        if 0.45 < t < 0.85:
            for side in (-1, 1):
                canvas.bone_plate(np.array([(x + side * 15 * size, y + 10 * size), (x + side * 15 * size, back + 2)]), 8 * size, 1.8)
        canvas.fill(ellipse(x, back, 11.5, 8), Tissue.VISCERAL_FAT)
        canvas.fill(ellipse(x, back, 9.5, 7), Tissue.CANAL)

    def _paint_sacrum(self, canvas: _Canvas, z: float, x: float, y: float) -> None:
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

    def _paint_ribs(self, canvas: _Canvas, z: float) -> None:
        canvas.circles(*self.cartilage.at(z))
        for bones in (self.ribs, self.clavicles):
            canvas.circles(*bones.at(z))
            canvas.circles(*bones.inner(1.5, Tissue.MARROW).at(z))
        canvas.bone(self.sternum.at(z), 1.4)


def _sternum_y(z: float) -> float:
    return float(np.interp(z, [255, 300, 350, 400, 430], [-104, -104, -98, -86, -72]))
