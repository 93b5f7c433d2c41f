"""Key slices as a network sees them, kept on disk so that their PNGs are decoded and resampled once."""

from __future__ import annotations

import json
from pathlib import Path
from zlib import crc32

import numpy as np
from LesionDetectorLib.files import whole, write_text
from LesionDetectorLib.slices import PIXEL_MM, Frame, NetworkSlices

from train.data.deeplesion import KeySlice


class PreparedSlices:
    """Prepares key slices, and keeps them in the folder `cache`, if there is one, as half-precision arrays.

    Several processes may share a folder: every file appears whole or not at all.
    """

    def __init__(self, cache: Path | None, slices: int = 3, pixel_mm: float = PIXEL_MM) -> None:
        self.cache, self.slices, self.pixel_mm = cache, slices, pixel_mm
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)

    def __call__(self, key_slice: KeySlice) -> tuple[np.ndarray, Frame]:
        """The slice with its neighbours (slices, rows, columns), 0..255, and the way back to its own pixels."""
        if self.cache is None:
            return self._prepare(key_slice)
        data_set = crc32(str(key_slice.images.resolve()).encode())  # patients of two data sets may bear the same number
        stem = f"{data_set:08x}_{key_slice.name.removesuffix('.png')}_{self.slices}_{self.pixel_mm:g}mm"
        array, frame_file = self.cache / f"{stem}.npy", self.cache / f"{stem}.json"
        if not frame_file.exists():
            sample, frame = self._prepare(key_slice)
            with whole(array) as file:
                np.save(file, sample.astype(np.float16))
            write_text(frame_file, json.dumps([frame.origin, frame.scale, frame.shape]))
        return np.load(array, mmap_mode="c"), Frame(*map(tuple, json.loads(frame_file.read_text())))

    def _prepare(self, key_slice: KeySlice) -> tuple[np.ndarray, Frame]:
        hu, k = key_slice.read(self.slices)
        prepared = NetworkSlices(hu, key_slice.spacing, self.slices, pixel_mm=self.pixel_mm)
        return prepared.sample(k), prepared.frame
