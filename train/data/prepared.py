"""Key slices as a network sees them, kept on disk so that their PNGs are decoded and resampled once."""

from __future__ import annotations

import json
from pathlib import Path
from zlib import crc32

import numpy as np
from LesionDetectorLib.files import whole, write_text
from LesionDetectorLib.slices import DEFAULT, Frame, NetworkSlices, Recipe

from train.data.deeplesion import KeySlice


class PreparedSlices:
    """Prepares key slices, and keeps them in the folder `cache`, if there is one, as half-precision arrays.

    Several processes may share a folder: every file appears whole or not at all.
    """

    def __init__(self, cache: Path | None, recipe: Recipe = DEFAULT) -> None:
        self.cache, self.recipe = cache, recipe
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)

    def __call__(self, key_slice: KeySlice) -> tuple[np.ndarray, Frame]:
        """The slice with its neighbours (slices, rows, columns), 0..255, and the way back to its own pixels."""
        if self.cache is None:
            return self._prepare(key_slice)
        data_set = crc32(str(key_slice.images.resolve()).encode())  # patients of two data sets may bear the same number
        stem = f"{data_set:08x}_{Path(key_slice.name).stem}_{_made_by(self.recipe)}"
        array, frame_file = self.cache / f"{stem}.npy", self.cache / f"{stem}.json"
        if not frame_file.exists():
            sample, frame = self._prepare(key_slice)
            with whole(array) as file:
                np.save(file, sample.astype(np.float16))
            write_text(frame_file, json.dumps([frame.origin, frame.scale, frame.shape]))
        return np.load(array, mmap_mode="c"), Frame(*map(tuple, json.loads(frame_file.read_text())))

    def _prepare(self, key_slice: KeySlice) -> tuple[np.ndarray, Frame]:
        hu, k = key_slice.read(self.recipe)
        prepared = NetworkSlices(hu, key_slice.spacing, self.recipe)
        return prepared.sample(k), prepared.frame


def _made_by(recipe: Recipe) -> str:
    """What of a recipe the prepared slices depend on, as a part of their names."""
    name = f"{recipe.slices}_{recipe.pixel_mm:g}mm"
    rest = ("neighbour_mm", "max_size", "window")
    if any(getattr(recipe, field) != getattr(DEFAULT, field) for field in rest):
        low, high = recipe.window
        name += f"_{low:g}to{high:g}HU_{recipe.neighbour_mm:g}mm_{recipe.max_size}px"
    return name
