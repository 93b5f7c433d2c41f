"""Write training slices in the layout of DeepLesion: `Images_png/{patient}_{study}_{series}/{slice}.png` and
`DL_info.csv`.

Yan et al., "DeepLesion: automated mining of large-scale lesion annotations", J. Med. Imaging 5(3), 2018. Coordinates
given to this module are 0-based pixels (the centre of a pixel has whole numbers); those in the file are 1-based. A box
is the hull of the two axes + 5 pixels.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK
from LesionDetectorLib.files import write_text
from LesionDetectorLib.lesion import BodyPart, Recist

COLUMNS = (
    "File_name",
    "Patient_index",
    "Study_index",
    "Series_ID",
    "Key_slice_index",
    "Measurement_coordinates",
    "Bounding_boxes",
    "Lesion_diameters_Pixel_",
    "Normalized_lesion_location",
    "Coarse_lesion_type",
    "Possibly_noisy",
    "Slice_range",
    "Spacing_mm_px_",
    "Image_size",
    "DICOM_windows",
    "Patient_gender",
    "Patient_age",
    "Train_Val_Test",
)
MARGIN_PX = 5
HU_OFFSET = 32768


def series_folder(patient: int, study: int = 1, series: int = 1) -> str:
    """The folder below `Images_png` that holds a series: "000001_01_01"."""
    return f"{patient:06d}_{study:02d}_{series:02d}"


def write_png(path: Path, hu: np.ndarray) -> None:
    """Write a slice (rows, cols) of HU as a 16-bit PNG, pixel = HU + 32768; makes the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(np.rint(hu) + HU_OFFSET, 0, 65535).astype(np.uint16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels), str(path), useCompression=True)


def row(
    patient: int,
    key_slice: int,
    recist: Recist,
    body_part: BodyPart,
    *,
    slices: tuple[int, int],
    spacing: tuple[float, float, float],
    size: tuple[int, int],
    location: tuple[float, float, float],
    study: int = 1,
    series: int = 1,
    window: tuple[int, int] = (-175, 275),
    gender: str = "",
    age: int | str = "",
    noisy: bool = False,
    split: int = 1,
) -> dict[str, object]:
    """One lesion as the 18 columns of `DL_info.csv`.

    `key_slice` and `slices` (first and last slice written) number the slices as in the file names; `recist` is in
    0-based pixels of the key slice; `spacing` is mm along (i, j, k); `size` is (columns, rows); `location` is relative
    in the body, 0..1; `split` is 1 train, 2 validation, 3 test.
    """
    points = np.array([*recist.long_axis, *recist.short_axis]) + 1
    box = (*(points.min(0) - MARGIN_PX), *(points.max(0) + MARGIN_PX))
    diameters = recist.long_mm / spacing[0], recist.short_mm / spacing[0]
    values = (
        f"{series_folder(patient, study, series)}_{key_slice:03d}.png",
        patient,
        study,
        series,
        key_slice,
        _join(points.ravel()),
        _join(box),
        _join(diameters),
        _join(location),
        int(body_part),
        int(noisy),
        _join(slices),
        _join(spacing),
        _join(size),
        _join(window),
        gender,
        age,
        split,
    )
    return dict(zip(COLUMNS, values, strict=True))


def write_csv(path: Path, rows: Iterable[dict[str, object]], more: Sequence[str] = ()) -> None:
    """Write rows made by `row` as a `DL_info.csv`, with `more` columns that they have at its end."""
    write_table(path, rows, (*COLUMNS, *more))


def write_table(path: Path, rows: Iterable[dict[str, object]], columns: Sequence[str]) -> None:
    """Write some `columns` of rows as csv; makes the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, file.getvalue())


def _join(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
