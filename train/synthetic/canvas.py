"""The picture that tissues are painted on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from train.synthetic.shapes import shrunk
from train.synthetic.template import Array
from train.synthetic.tissues import Tissue


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


class Canvas:
    """An 8-bit tissue picture, `oversampling` x finer than the frame, on which contours and circles in template mm
    are painted."""

    def __init__(
        self, frame: Frame, deform: Callable[[Array], Array], oversampling: int, behind: Image.Image | None
    ) -> None:
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
            self._draw.line(
                self._pixels(path).ravel().tolist(),
                fill=int(tissue),
                width=max(1, round(width * self._scale)),
                joint="curve",
            )

    def bone(self, outline: Array | None, cortex: float = 1.6) -> None:
        if outline is not None:
            self.fill(outline, Tissue.CORTEX)
            self.fill(shrunk(outline, cortex), Tissue.MARROW)

    def bone_plate(self, path: Array, width: float, cortex: float = 1.8) -> None:
        self.line(path, width, Tissue.CORTEX)
        self.line(path, width - 2 * cortex, Tissue.MARROW)

    def circles(self, circles: Array, tissues: Array, level: float = 0.0) -> None:
        """Filled circles.

        With `level` in -1..1 only their front part (smaller y) up to that height: gas above a fluid level.
        """
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
