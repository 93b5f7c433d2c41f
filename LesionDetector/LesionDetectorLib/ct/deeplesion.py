"""A DeepLesion sub-volume: a folder of 16-bit PNG slices and its row of `DL_info.csv` (Yan et al., J Med Imaging
2018)."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from LesionDetectorLib.ct.grid import interpolate_slices
from LesionDetectorLib.ct.volume import CTError, Volume, check_hu, to_hu
from LesionDetectorLib.words import plural, ranges

FOLDER = re.compile(r"\d+_(?P<study>\d+)_(?P<series>\d+)")
HU_OFFSET = 32768
USUAL_SPACING = (0.8, 0.8, 5.0)
"""mm, where a spacing is not known; DeepLesion's medians."""
USUAL_STANDS_IN = "DeepLesion's usual {:g} x {:g} x {:g} mm stand in, so sizes in mm are rough".format(*USUAL_SPACING)
HEAD_TO_FEET = np.diag([1.0, 1.0, -1.0])
FOLDERS_ABOVE = 3


def is_subvolume(folder: Path) -> bool:
    """Whether `folder` holds PNG slices."""
    return any(file.suffix.lower() == ".png" for file in folder.iterdir())


def read(folder: Path, progress: Callable[[int, int], None] | None = None) -> Volume:
    """The sub-volume `folder`, such as `Images_png/000001_01_01`.

    K runs from head to feet, and slices keep DeepLesion's numbers.

    Raises CTError for a folder or file that is not named as in DeepLesion, a row or spacing that is missing, a PNG that
    is not 16-bit grey.
    """
    folder = folder.absolute()
    name = FOLDER.fullmatch(folder.name)
    files = {int(file.stem): file for file in sorted(folder.glob("*.[pP][nN][gG]")) if file.stem.isdecimal()}
    if not name or not files:
        raise CTError(
            f"{folder} holds PNG files but is not named like DeepLesion's (000001_01_01/109.png): give DICOM, NRRD or "
            "NIfTI."
        )
    spacing, warnings = _spacing(folder)
    numbers = sorted(files)
    slices = []
    for number in numbers:
        slices.append(_slice(files[number]))
        if progress:
            progress(len(slices), len(numbers))
    if len({slice_hu.shape for slice_hu in slices}) > 1:
        raise CTError(f"The PNG slices of {folder} differ in size: unpack this sub-volume from DeepLesion again.")
    hu = np.stack(slices)
    warnings += check_hu(hu, folder)
    positions = np.array(numbers)
    wanted = np.arange(numbers[0], numbers[-1] + 1)
    missing = sorted(set(wanted.tolist()) - set(numbers))
    if missing:
        hu, _ = interpolate_slices(hu, positions, wanted)
        were = "is missing and was" if len(missing) == 1 else "are missing and were"
        told = f"{plural(len(missing), 'slice')} of {folder.name} {were}"
        warnings.append(f"{told} interpolated: {ranges(missing)}.")
    if len(numbers) == 1:
        warnings.append(f"{folder.name} has one slice only: it stands in for its neighbours.")
    return Volume(
        hu=hu,
        spacing=spacing,
        origin=(0.0, 0.0, 0.0),
        direction=HEAD_TO_FEET.copy(),
        source=folder,
        study=name["study"],
        series=name["series"],
        series_uid=folder.name,
        first_slice=numbers[0],
        warnings=tuple(warnings),
    )


def _slice(file: Path) -> np.ndarray:
    """(rows, columns) int16 HU of one PNG."""
    import SimpleITK as sitk  # noqa: N813

    with file.open("rb"):  # so that a file without permission says so
        pass
    try:
        image = sitk.ReadImage(str(file), imageIO="PNGImageIO")
    except RuntimeError as error:
        raise CTError(f"{file} is truncated or no PNG: unpack it from DeepLesion again.") from error
    if image.GetPixelID() != sitk.sitkUInt16:
        raise CTError(
            f"{file} is a {image.GetPixelIDTypeAsString()} image, not 16-bit grey (HU + 32768): give DeepLesion's own "
            "PNG."
        )
    return to_hu(sitk.GetArrayViewFromImage(image).astype(np.int32) - HU_OFFSET)


def usable_spacing(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The spacing in mm to take for what rows of `DL_info.csv` give (..., 3), NaN where that is nothing.

    Below 0 only the direction is meant, so the sign goes; for one that is 0 or missing `USUAL_SPACING` stands in. Also
    returns where the one and where the other was done: (..., 3) each. Reading a sub-volume and training follow this one
    rule.
    """
    unknown = ~np.isfinite(stored) | (stored == 0)
    return np.where(unknown, USUAL_SPACING, np.abs(stored)), stored < 0, unknown


def _spacing(folder: Path) -> tuple[tuple[float, float, float], list[str]]:
    """Spacing (i, j, k) in mm, from the row of this sub-volume in the nearest table, and what was mended about it."""
    places = [folder, *folder.parents[:FOLDERS_ABOVE]]
    for table in (table for place in places for table in sorted(place.glob("*.csv"))):
        with table.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            if not {"File_name", "Spacing_mm_px_"} <= set(reader.fieldnames or ()):
                continue
            for row in reader:
                if row["File_name"].rpartition("_")[0] == folder.name:
                    return _parse_spacing(row["Spacing_mm_px_"], table, folder)
    raise CTError(f"No table gives the spacing of {folder.name}: put DeepLesion's DL_info.csv into {places[-2]}.")


def _parse_spacing(text: str, table: Path, folder: Path) -> tuple[tuple[float, float, float], list[str]]:
    try:
        stored = np.array([float(value) for value in text.split(",")] if text.strip() else [np.nan] * 3)
    except ValueError:
        stored = np.array([])
    if stored.shape != (3,):
        raise CTError(
            f"{table} gives the spacing of {folder.name} as '{text}': it must be three numbers, such as 0.8, 0.8, 5."
        )
    spacing, signed, unknown = usable_spacing(stored)
    warnings = []
    if signed.any():
        warnings.append(f"{table.name} gives the spacing of {folder.name} as '{text}': it was taken without its sign.")
    if unknown.any():
        warnings.append(f"{table.name} has no spacing of {folder.name}: {USUAL_STANDS_IN}.")
    return tuple(spacing.tolist()), warnings
