"""Between a lesion and the box round it: how much, by who drew the box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from LesionDetectorLib.boxes import hull
from LesionDetectorLib.lesion import Box, Origin, Recist

DETECTOR_MARGIN_MM = 4.0
"""Between a lesion and the box that a detector draws: DeepLesion's 5 px, which a detector has learnt as pixels of
0.8 mm."""
READER_MARGIN_MM = 1.0
"""Between a lesion and the box that a reader draws."""


def pixels(mm: float, spacing: Sequence[float]) -> float:
    """A length in mm as pixels of a slice with the `spacing` (si, sj, ...) mm, the mean of both directions."""
    return mm / (sum(spacing[:2]) / 2)


def margin_mm(origin: Origin) -> float:
    """Between a lesion and the box of who marked it."""
    return DETECTOR_MARGIN_MM if origin is Origin.DETECTOR else READER_MARGIN_MM


def reader_box(axes: Recist, spacing: Sequence[float]) -> Box:
    """The box that a reader would draw round a lesion with these axes, on a slice with the `spacing` (si, sj, ...)
    mm."""
    return hull(np.array([*axes.long_axis, *axes.short_axis]), READER_MARGIN_MM / np.array(spacing[:2]))
