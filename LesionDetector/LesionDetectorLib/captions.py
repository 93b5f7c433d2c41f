"""Where the caption of a lesion goes, in a picture or in a view: beside its box, over no lesion and no other
caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from LesionDetectorLib.boxes import shared_areas

Rectangle: TypeAlias = Sequence[float] | np.ndarray
"""Left, bottom, right and top, in any frame with y upwards."""


def place_caption(
    size: tuple[float, float], own: Rectangle, taken: np.ndarray, bounds: Rectangle, gap: float, reach: float = 8
) -> np.ndarray:
    """A place (4,) for a caption of `size` (width, height) beside the box `own`, inside `bounds`, that covers none
    of `taken` (n, 4).

    The nearest of a ring of candidates around the box that is free, `gap` away from it or more, up to `reach` heights
    of the text; where all are taken, the one that covers least. All in one frame, for example the pixels of a picture.
    """
    width, height = size
    x0, y0, x1, y1 = own
    corners = [
        (x, y)
        for space in (gap, *(height * factor for factor in (1, 2.5, 5, 8) if factor <= reach))
        for x in (x0, x1 - width, x1 + space, x0 - space - width)
        for y in (y1 + space, y0 - space - height, y1 - height, y0)
    ]
    corners = np.clip(corners, bounds[:2], np.subtract(bounds[2:], size))
    candidates = np.concatenate([corners, corners + size], axis=1)
    return candidates[np.argmin(shared_areas(candidates, np.reshape(taken, (-1, 4))).sum(axis=1))]
