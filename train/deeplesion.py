"""Read DeepLesion's layout: `DL_info.csv` and 16-bit slices in `Images_png/{patient}_{study}_{series}/{slice}.png`.

Yan et al., "DeepLesion: automated mining of large-scale lesion annotations", J. Med. Imaging 5(3), 2018. The file's coordinates are
1-based; here they are 0-based pixels, the centre of a pixel has whole numbers. HU = pixel - 32768.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK
from LesionDetectorLib.slices import NEIGHBOUR_MM

HU_OFFSET = 32768
UNKNOWN = -1
SPLITS = {"train": 1, "val": 2, "test": 3}
NEEDED = (
    "File_name",
    "Bounding_boxes",
    "Lesion_diameters_Pixel_",
    "Coarse_lesion_type",
    "Possibly_noisy",
    "Spacing_mm_px_",
    "Train_Val_Test",
)


class DeepLesionError(ValueError):
    """A data set cannot be used; the message says which file or row and what to do."""


@dataclass(frozen=True)
class KeySlice:
    """An annotated slice.

    images: the `Images_png` folder; name: the file's name in the csv; boxes: (n, 4) xyxy in 0-based pixels; labels: (n,) body-part codes
    1..8, or -1 where unknown; diameters_mm: (n, 2) long and short axis; spacing: (x, y, z) mm; split: 1 train, 2 validation, 3 test.
    """

    images: Path
    name: str
    boxes: np.ndarray
    labels: np.ndarray
    diameters_mm: np.ndarray
    spacing: tuple[float, float, float]
    split: int

    @property
    def patient(self) -> int:
        return int(self.name.split("_", 1)[0])

    @property
    def number(self) -> int:
        return int(self.name.removesuffix(".png").rsplit("_", 1)[1])

    def path(self, number: int) -> Path:
        return self.images / self.name.rsplit("_", 1)[0] / f"{number:03d}.png"

    def read(self, slices: int) -> tuple[np.ndarray, int]:
        """The key slice and what is there of its neighbours: HU (k, j, i) int16, and the key slice's k.

        As many slices are read on either side as `slices` neighbours 2 mm apart need; past a missing one the last present one repeats.
        """
        reach = int(np.ceil(slices // 2 * NEIGHBOUR_MM / self.spacing[2] - 1e-9))
        below = self._contiguous(-1, reach)
        above = self._contiguous(1, reach)
        numbers = [*reversed(below), self.number, *above]
        return np.stack([read_png(self.path(number)) for number in numbers]), len(below)

    def _contiguous(self, step: int, reach: int) -> list[int]:
        found = []
        for distance in range(1, reach + 1):
            number = self.number + step * distance
            if not self.path(number).exists():
                break
            found.append(number)
        return found


def read_png(path: Path) -> np.ndarray:
    """One slice as HU (rows, columns) int16; DeepLesionError names a file that cannot be read or is no 16-bit grey PNG."""
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise DeepLesionError(f"{path} cannot be read as a PNG: fetch this slice again.") from error
    pixels = SimpleITK.GetArrayViewFromImage(image)
    if pixels.ndim != 2 or pixels.dtype != np.uint16:
        raise DeepLesionError(f"{path} is not a 16-bit grey PNG; DeepLesion stores HU + 32768 in 16 bits.")
    return np.clip(pixels.astype(np.int32) - HU_OFFSET, -32768, 32767).astype(np.int16)


def read_info(folder: Path, split: str | None = None) -> list[KeySlice]:
    """The annotated slices of the data set in `folder` (`DL_info.csv` beside `Images_png`), noisy rows dropped.

    `split` keeps "train", "val" or "test". DeepLesionError names a missing file or column, or the row that cannot be read.
    """
    csv, images = folder / "DL_info.csv", folder / "Images_png"
    if not csv.is_file() or not images.is_dir():
        raise DeepLesionError(f"{folder} needs DL_info.csv and the folder Images_png; give the folder that holds both.")
    table = pd.read_csv(csv)
    missing = [name for name in NEEDED if name not in table.columns]
    if missing:
        raise DeepLesionError(f"{csv} lacks the column {missing[0]}; use the official DL_info.csv.")
    table = table[table["Possibly_noisy"] == 0]
    if split is not None:
        table = table[table["Train_Val_Test"] == SPLITS[split]]
    return [_key_slice(csv, images, rows) for _, rows in table.groupby("File_name", sort=True)]


def _key_slice(csv: Path, images: Path, rows: pd.DataFrame) -> KeySlice:
    first = rows.iloc[0]
    try:
        spacing = _numbers(first["Spacing_mm_px_"], 3)
        boxes = np.array([_numbers(text, 4) for text in rows["Bounding_boxes"]]) - 1
        diameters = np.array([_numbers(text, 2) for text in rows["Lesion_diameters_Pixel_"]]) * spacing[0]
    except ValueError as error:
        raise DeepLesionError(f"{csv}, row {rows.index[0] + 2} ({first['File_name']}): {error}") from error
    labels = rows["Coarse_lesion_type"].to_numpy(int)
    return KeySlice(images, first["File_name"], boxes, labels, diameters, tuple(spacing), int(first["Train_Val_Test"]))


def _numbers(text: str, count: int) -> list[float]:
    values = [float(part) for part in str(text).split(",")]
    if len(values) != count:
        raise ValueError(f"{count} numbers are expected, not '{text}'.")
    return values
