"""The tissues of a patient and their CT numbers."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

Phase = Literal["native", "arterial", "portal", "delayed"]
PHASES: tuple[Phase, ...] = ("native", "arterial", "portal", "delayed")


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


# Mean HU without contrast medium, and in the arterial, portal venous and delayed phase; spread between patients;
# texture within the tissue.
HU: dict[Tissue, tuple[float, float, float, float, float, float]] = {
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
