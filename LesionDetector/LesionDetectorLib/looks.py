"""How a lesion is looked at: the window of grey values of its body part, in pictures and in views."""

from __future__ import annotations

from LesionDetectorLib.lesion import BodyPart

SOFT_TISSUE_WINDOW = (-160, 240)
WINDOWS = {BodyPart.LUNG: (-1350, 150), BodyPart.BONE: (-500, 1300)}


def window(body_part: BodyPart) -> tuple[int, int]:
    """The lowest and the highest HU that are told apart where a lesion of this body part is looked at."""
    return WINDOWS.get(body_part, SOFT_TISSUE_WINDOW)
