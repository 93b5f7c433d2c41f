"""One patient: size, habitus, tissues and organs, and the way from the template to the world."""

from __future__ import annotations

import numpy as np

from train.synthetic.shapes import Array, Loft, Sweep
from train.synthetic.template import BOTTOM_MM, TOP_MM
from train.synthetic.tissues import HU, PHASES, Phase, Tissue


class Anatomy:
    """Size, habitus and tissues of a random patient.

    The rooms beside this file grow the organs that are declared here, and paint them.

    World coordinates are LPS mm with the template's origin; `to_world` and `template_z` lead there. `hu` and `texture`
    turn tissues into CT numbers.
    """

    mediastinum: Loft
    heart: Loft
    chambers: list[tuple[Loft, Tissue]]
    airway: Sweep
    oesophagus: Sweep
    oesophagus_gas: float
    gland: float
    thyroid: list[Loft]
    pectorals: list[Loft]
    breasts: list[Loft]
    right_dome: Loft
    left_dome: Loft
    middle_dome: Loft
    liver: Loft
    gallbladder: Loft
    spleen: Loft
    stomach: Loft
    bladder: Loft
    genital: Loft
    has_gallbladder: bool
    bladder_jet: bool
    stomach_content: Tissue
    stomach_gas: float
    stomach_wall: float
    pancreas: Sweep
    adrenals: list[tuple[list, list, float]]
    kidneys: list[tuple[Loft, Loft, Loft, Loft, list[Loft]]]
    psoas: list[Loft]
    ovaries: list[Loft]
    bowel: list[tuple[Sweep, Sweep, Sweep]]
    pulmonary: list[Sweep]
    great_veins: list[Sweep]
    arteries: list[Sweep]
    portal: list[Sweep]
    liver_vessels: Sweep
    mesenteric: Sweep
    lung_vessels: Sweep
    bronchi: Sweep
    nodes: Sweep
    dependent: float
    ribs: Sweep
    cartilage: Sweep
    clavicles: Sweep
    sternum: Loft
    scapula: list[Array]
    scoliosis: tuple[float, float, float]
    islands: list[tuple[int, float, float, float]]

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

    def _set_hu(self, rng: np.random.Generator) -> None:
        column = PHASES.index(self.phase)
        self.hu, self.texture = np.zeros(256, np.float32), np.zeros(256, np.float32)
        for tissue, row in HU.items():
            self.hu[tissue] = row[column] + rng.normal(0, row[4] * (0.35 if self.phase == "native" else 1.0))
            self.texture[tissue] = row[5] * rng.uniform(0.6, 1.3)
        self.hu[Tissue.MARROW] -= 1.6 * max(0, self.age - 55)
        if rng.random() < 0.15:  # fatty liver
            self.hu[Tissue.LIVER] -= rng.uniform(15, 45)

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
