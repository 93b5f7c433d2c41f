"""Where lesions of each label arise, and how common they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from LesionDetectorLib.lesion import BodyPart

from train.synthetic.tissues import Tissue

# Labelled lesions of DeepLesion (Yan et al. 2018): bone, abdomen, mediastinum, liver, lung, kidney, soft tissue,
# pelvis.
NATURAL = np.array([232, 2166, 1638, 1318, 2426, 490, 677, 869], float)
# Lesions of a patient in DeepLesion, as a log-normal: its official test part, first visits, labelled, has a median of 4
# and a mean of 6.1.
LOG_LESIONS, LOG_LESIONS_SPREAD, MOST_LESIONS = 1.32, 0.98, 30
_T = Tissue
_BONES = (_T.CORTEX, _T.MARROW, _T.ENDPLATE)
_BOWEL = (_T.BOWEL_WALL, _T.BOWEL_FLUID, _T.BOWEL_CONTRAST, _T.BOWEL_GAS, _T.FAECES)
_SOFT = (_T.SKIN, _T.FAT, _T.MUSCLE, _T.BREAST)


@dataclass(frozen=True)
class Site:
    """Where lesions of a label arise: template heights (mm), |x| limits and y limits (mm), the tissues they start in
    and may replace."""

    z: tuple[float, float]
    starts: tuple[Tissue, ...]
    replaces: tuple[Tissue, ...]
    x: tuple[float, float] = (0, 400)
    y: tuple[float, float] = (-400, 400)
    weight: float = 1.0
    depth: float = 0.45  # how deep the centre lies in the tissue, in short axes


SITES: dict[BodyPart, tuple[Site, ...]] = {
    BodyPart.BONE: (
        Site((-5, 440), (_T.MARROW, _T.ENDPLATE), _BONES, x=(0, 45), weight=3),
        Site((-140, 30), (_T.MARROW,), (*_BONES, _T.MUSCLE), weight=2),
        Site((200, 450), _BONES, (*_BONES, _T.MUSCLE, _T.FAT, _T.CARTILAGE, _T.LUNG), x=(45, 200), weight=1.5),
        Site((290, 425), (_T.MARROW,), (*_BONES, _T.MEDIASTINAL_FAT, _T.MUSCLE), y=(-200, -60), weight=0.5),
    ),
    BodyPart.ABDOMEN: (
        Site(
            (50, 200),
            (_T.VISCERAL_FAT,),
            (_T.VISCERAL_FAT, _T.NODE, _T.MUSCLE, _T.VEIN),
            x=(0, 45),
            y=(-25, 60),
            weight=3,
        ),
        Site(
            (20, 190), (_T.VISCERAL_FAT, _T.BOWEL_WALL), (_T.VISCERAL_FAT, _T.NODE, *_BOWEL, _T.PORTAL_VEIN), weight=2.5
        ),
        Site((145, 212), (_T.PANCREAS,), (_T.PANCREAS, _T.VISCERAL_FAT), weight=1),
        Site((190, 214), (_T.ADRENAL,), (_T.ADRENAL, _T.VISCERAL_FAT, _T.MUSCLE), weight=1),
        Site((165, 245), (_T.SPLEEN,), (_T.SPLEEN,), weight=0.6),
    ),
    BodyPart.MEDIASTINUM: (
        Site((330, 440), (_T.MEDIASTINAL_FAT,), (_T.MEDIASTINAL_FAT, _T.NODE, _T.LUNG, _T.OESOPHAGUS), weight=4),
        Site(
            (315, 385),
            (_T.LUNG, _T.LUNG_VESSEL),
            (_T.LUNG, _T.LUNG_VESSEL, _T.MEDIASTINAL_FAT, _T.NODE),
            x=(38, 56),
            y=(-15, 35),
            weight=1.5,
            depth=0.0,
        ),
        Site((255, 330), (_T.MEDIASTINAL_FAT,), (_T.MEDIASTINAL_FAT, _T.NODE, _T.LUNG), weight=1),
    ),
    BodyPart.LIVER: (Site((95, 262), (_T.LIVER,), (_T.LIVER, _T.LIVER_VESSEL, _T.PORTAL_VEIN)),),
    BodyPart.LUNG: (
        Site((210, 465), (_T.LUNG,), (_T.LUNG, _T.LUNG_VESSEL, _T.AIRWAY, _T.BOWEL_WALL), weight=3, depth=0.6),
        Site((210, 465), (_T.LUNG,), (_T.LUNG, _T.LUNG_VESSEL, _T.AIRWAY, _T.BOWEL_WALL), weight=1, depth=0.1),
    ),
    BodyPart.KIDNEY: (
        Site(
            (100, 205),
            (_T.RENAL_CORTEX, _T.RENAL_MEDULLA),
            (_T.RENAL_CORTEX, _T.RENAL_MEDULLA, _T.URINE, _T.VISCERAL_FAT),
            depth=0.2,
        ),
    ),
    BodyPart.SOFT_TISSUE: (
        Site((-150, 460), (_T.FAT,), _SOFT, weight=2, depth=0.35),
        Site((-150, 460), (_T.MUSCLE,), (_T.MUSCLE, _T.FAT), weight=1.5),
        Site((370, 450), (_T.FAT,), (_T.FAT, _T.MUSCLE, _T.NODE), x=(125, 165), y=(-60, 10), weight=2, depth=0.2),
    ),
    BodyPart.PELVIS: (
        Site(
            (-120, 20),
            (_T.VISCERAL_FAT,),
            (_T.VISCERAL_FAT, _T.NODE, _T.MUSCLE, *_BOWEL),
            x=(30, 90),
            weight=3,
            depth=0.3,
        ),
        Site((-120, 0), (_T.VISCERAL_FAT, _T.PELVIC_ORGAN), (_T.VISCERAL_FAT, _T.PELVIC_ORGAN, *_BOWEL), weight=1.5),
        Site((-150, -95), (_T.FAT,), (_T.FAT, _T.NODE, _T.MUSCLE), x=(45, 95), y=(-85, -40), weight=1.5, depth=0.2),
    ),
}
REGIONS = {"torso": (-170, 470), "chest": (200, 470), "abdomen": (0, 270), "pelvis": (-170, 60)}
