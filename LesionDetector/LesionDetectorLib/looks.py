"""How a lesion looks, in pictures and in views: the window of grey values of its body part, the colour of its
status."""

from __future__ import annotations

from LesionDetectorLib.lesion import BodyPart, Lesion, Origin, ReviewStatus

SOFT_TISSUE_WINDOW = (-160, 240)
WINDOWS = {BodyPart.LUNG: (-1350, 150), BodyPart.BONE: (-500, 1300)}


def window(body_part: BodyPart) -> tuple[int, int]:
    """The lowest and the highest HU that are told apart where a lesion of this body part is looked at."""
    return WINDOWS.get(body_part, SOFT_TISSUE_WINDOW)


COLOURS = {
    "pending": (1.0, 0.78, 0.16),
    "accepted": (0.35, 0.9, 0.4),
    "rejected": (0.62, 0.62, 0.62),
    "added by hand": (0.35, 0.75, 1.0),
}


def kind(lesion: Lesion) -> str:
    """Which of the `COLOURS` a lesion has: that of its status, or, for one that a reader added and did not reject,
    its own."""
    by_hand = lesion.origin is Origin.READER and lesion.status is not ReviewStatus.REJECTED
    return "added by hand" if by_hand else lesion.status.value


def colour(lesion: Lesion) -> tuple[float, float, float]:
    """The colour of a lesion in views and pictures, RGB 0..1."""
    return COLOURS[kind(lesion)]
