"""The scanner: pixels, slices, point spread and correlated noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from train.synthetic.shapes import Array


@dataclass(frozen=True)
class Scanner:
    """How a study is scanned; mm and HU. `sharp` kernels overshoot at edges and have finer noise."""

    pixel: float
    interval: float
    thickness: float
    blur: float
    noise: float
    sharp: bool
    masked: bool
    table: float

    @classmethod
    def random(cls, rng: np.random.Generator, width_mm: float, size: int, interval: float | None = None) -> Scanner:
        """A scanner whose field of view roughly fits a body `width_mm` wide.

        Intervals as common as in DeepLesion unless given.
        """
        interval = float(rng.choice([1.0, 2.0, 2.5, 5.0], p=[0.45, 0.05, 0.05, 0.45]) if interval is None else interval)
        sharp = bool(rng.random() < 0.15)
        noise = rng.lognormal(np.log(13), 0.35) * (1.25 if interval < 2 else 1.0) * (1.7 if sharp else 1.0)
        pixel = float(np.clip(width_mm * rng.uniform(0.97, 1.14) / 512, 0.6, 0.95)) * 512 / size
        blur = rng.uniform(0.4, 0.55) if sharp else rng.uniform(0.55, 0.85)
        return cls(
            round(pixel, 6),
            interval,
            float(np.clip(interval, 1.25, 5)),
            float(blur),
            float(noise),
            sharp,
            bool(rng.random() < 0.5),
            float(rng.uniform(2, 14)),
        )


def pooled(fine: Array) -> Array:
    return (fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]) * np.float32(0.25)


def correlated(rng: np.random.Generator, size: int, fine: float, coarse: float) -> Array:
    """Unit-variance noise (size, size), float32, whose spectrum rises and falls like that of filtered backprojection.

    Scales in pixels.
    """
    white = rng.standard_normal((size, size), dtype=np.float32)
    narrow = gaussian_filter(white, fine, truncate=3, mode="wrap")
    band = narrow - 0.75 * gaussian_filter(narrow, coarse, truncate=2, mode="wrap")
    return band / band.std()
