"""Compare ways to measure a lesion in its box with what readers measured: `python -m train.measure_readers
DEEPLESION_DIR`.

The folder holds `Images_png`, `boxes.csv` (marks with `diameters_px`) and `DL_info_test.csv`, on which the linear fit
learns what the sides of a box alone say; patients whose marks are measured here take no part in that fit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from LesionDetectorLib.lesion import Box, Recist
from LesionDetectorLib.measure.axes import axes
from LesionDetectorLib.measure.outline import measure, segment
from LesionDetectorLib.refusal import Refusal
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.segmentation import morphological_chan_vese, random_walker

from train.data.deeplesion import DeepLesionError, read_boxes, read_numbers, read_png, read_spacing, read_table

MARGIN_PX = 5


@dataclass(frozen=True)
class Mark:
    """A reader's mark: its slice, (si, sj) mm, box in 0-based pixels, and long and short diameter in mm."""

    patient: int
    path: Path
    spacing: tuple[float, float]
    box: Box
    diameters_mm: tuple[float, float]

    @cached_property
    def hu(self) -> np.ndarray:
        return read_png(self.path)

    @property
    def sides_mm(self) -> tuple[float, float]:
        """The longer and the shorter side of the box without its margin."""
        x0, y0, x1, y1 = self.box
        sides = ((x1 - x0 - 2 * MARGIN_PX) * self.spacing[0], (y1 - y0 - 2 * MARGIN_PX) * self.spacing[1])
        return max(sides), min(sides)


Method = Callable[[Mark], tuple[float, float]]


def read_marks(folder: Path) -> list[Mark]:
    """The marks of `boxes.csv` whose diameters are known; DeepLesionError when the file is absent."""
    csv = folder / "boxes.csv"
    if not csv.is_file():
        raise DeepLesionError(
            f"{csv} is missing; give the folder that holds boxes.csv, DL_info_test.csv and Images_png."
        )
    marks = []
    for row in pd.read_csv(csv).dropna(subset="diameters_px").itertuples():
        series, number = row.File_name.removesuffix(".png").rsplit("_", 1)
        si, sj, _ = _numbers(row.spacing)
        long, short = _numbers(row.diameters_px)
        box = (row.x1 - 1, row.y1 - 1, row.x2 - 1, row.y2 - 1)
        marks.append(
            Mark(row.patient, folder / "Images_png" / series / f"{number}.png", (si, sj), box, (long * si, short * si))
        )
    return marks


def errors_mm(method: Method, marks: list[Mark]) -> np.ndarray:
    """(marks, 2): the measured minus the reader's long and short diameter."""
    return np.array([np.subtract(method(mark), mark.diameters_mm) for mark in marks])


def tight_box(mark: Mark) -> tuple[float, float]:
    return mark.sides_mm


def outline_in_box(mark: Mark) -> tuple[float, float]:
    return _diameters(measure(mark.hu, mark.spacing, mark.box))


def outline_alone(mark: Mark) -> tuple[float, float]:
    found = segment(mark.hu, mark.box)
    return _diameters(axes(found.mask, mark.spacing, found.offset))


def otsu(mark: Mark) -> tuple[float, float]:
    crop, core, outside = _seeds(mark)
    lesion, surroundings = np.median(crop[core]), np.median(crop[outside])
    reach = abs(surroundings - lesion) + 1
    bright = crop > threshold_otsu(np.clip(crop, min(lesion, surroundings) - reach, max(lesion, surroundings) + reach))
    mask = (bright == (lesion > surroundings)) & ~outside
    return _central_component(mask, core, mark)


def walker(mark: Mark) -> tuple[float, float]:
    crop, core, outside = _seeds(mark)
    unlike = np.minimum(np.abs(crop - np.median(crop[core])) / _spread(crop[core]), 4)
    probability = random_walker(unlike, core + 2 * (outside & ~core), beta=1000, mode="bf", return_full_prob=True)[0]
    return _central_component(probability > 0.5, core, mark)


def chan_vese(mark: Mark) -> tuple[float, float]:
    crop, core, outside = _seeds(mark)
    standardized = np.clip((crop - np.median(crop[core])) / _spread(crop[core]), -4, 4)
    mask = morphological_chan_vese(standardized, 30, init_level_set=~outside, smoothing=2) > 0
    mask = mask == (mask[core].mean() >= 0.5)
    return _central_component(mask & ~outside, core, mark)


def linear_fit(rows: pd.DataFrame) -> Callable[[np.ndarray], np.ndarray]:
    """The least-squares map of (n, 2) long and short sides to diameters, from rows of `read_geometry`."""
    weights, *_ = np.linalg.lstsq(rows[["w", "h"]].to_numpy(), rows[["long", "short"]].to_numpy(), rcond=None)
    return lambda sides: np.asarray(sides) @ weights


def read_geometry(folder: Path) -> pd.DataFrame:
    """Patient, sides w >= h of the box without its margin, and diameters, in mm, of every row of `DL_info_test.csv`."""
    csv = folder / "DL_info_test.csv"
    table = read_table(
        csv, ("File_name", "Patient_index", "Bounding_boxes", "Lesion_diameters_Pixel_", "Spacing_mm_px_")
    )
    pixel_mm = read_spacing(csv, table)[:, :1]
    boxes = read_boxes(csv, table)
    sides = np.sort((boxes[:, 2:] - boxes[:, :2] - 2 * MARGIN_PX) * pixel_mm)[:, ::-1]
    diameters = read_numbers(csv, table, "Lesion_diameters_Pixel_", 2) * pixel_mm
    return pd.DataFrame(
        {
            "patient": table["Patient_index"],
            **dict(zip("wh", sides.T)),
            "long": diameters[:, 0],
            "short": diameters[:, 1],
        }
    )


def summary(errors: np.ndarray, patients: np.ndarray, draws: int = 2000) -> str:
    """A table's cells: bias and mean absolute error of both diameters, and their mean error's 95 % interval over
    patients drawn again."""
    random = np.random.default_rng(0)
    of_patient = [np.abs(errors[patients == patient]) for patient in np.unique(patients)]
    means = [
        np.concatenate([of_patient[k] for k in random.integers(len(of_patient), size=len(of_patient))]).mean()
        for _ in range(draws)
    ]
    (bias_long, bias_short), (long, short) = errors.mean(axis=0), np.abs(errors).mean(axis=0)
    low, high = np.percentile(means, [2.5, 97.5])
    return (
        f"{bias_long:+.2f} / {long:.2f} | {bias_short:+.2f} / {short:.2f} | {np.abs(errors).mean():.2f} ({low:.2f} to "
        f"{high:.2f})"
    )


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _diameters(recist: Recist) -> tuple[float, float]:
    return recist.long_mm, recist.short_mm


def _seeds(mark: Mark) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The smoothed pixels of the box, those certainly lesion and those certainly not."""
    x0, y0, x1, y1 = mark.box
    i0, j0, i1, j1 = int(x0), int(y0), int(np.ceil(x1)), int(np.ceil(y1))
    crop = ndimage.gaussian_filter(mark.hu[j0 : j1 + 1, i0 : i1 + 1].astype(float), 0.7)
    j, i = np.ogrid[j0 : j1 + 1, i0 : i1 + 1]
    half_i, half_j = (x1 - x0) / 2 - MARGIN_PX, (y1 - y0) / 2 - MARGIN_PX
    from_i, from_j = np.abs(i - (x0 + x1) / 2), np.abs(j - (y0 + y1) / 2)
    radius = np.hypot(from_i / half_i, from_j / half_j)
    return crop, radius <= max(0.5, radius.min()), (from_i > half_i + 1) | (from_j > half_j + 1)


def _spread(values: np.ndarray) -> float:
    return max(1.4826 * np.median(np.abs(values - np.median(values))), 15.0)


def _central_component(mask: np.ndarray, core: np.ndarray, mark: Mark) -> tuple[float, float]:
    """Diameters of the component that holds most of the core, opened and without holes."""
    opened = ndimage.binary_opening(mask)
    labels, count = ndimage.label(opened if opened[core].any() else mask | core)
    component = labels == np.argmax(np.bincount(labels[core], minlength=count + 1)[1:]) + 1
    return _diameters(axes(ndimage.binary_fill_holes(component), mark.spacing))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DEEPLESION_DIR")
    folder = parser.parse_args(arguments).folder
    try:
        marks = read_marks(folder)
        geometry = read_geometry(folder)
    except (Refusal, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    patients = np.array([mark.patient for mark in marks])
    unseen = geometry[~geometry["patient"].isin(patients)]
    fit = linear_fit(unseen[unseen["patient"] % 2 == 0])
    methods: dict[str, Method] = {
        "sides of the tight box": tight_box,
        "linear fit of the sides": lambda mark: tuple(fit(mark.sides_mm)),
        "Otsu's threshold, central component": otsu,
        "random walker": walker,
        "morphological Chan-Vese": chan_vese,
        "`segment`, its outline alone": outline_alone,
        "`measure`, outline and box": outline_in_box,
    }
    head = "| long: bias / MAE, mm | short: bias / MAE, mm | mean MAE (95 % over patients) |\n|---|---|---|---|"
    print(f"| {len(marks)} marks of {len(set(patients))} patients, readers' boxes {head}")
    for name, method in methods.items():
        print(f"| {name} | {summary(errors_mm(method, marks), patients)} |", flush=True)

    tested = unseen[unseen["patient"] % 2 == 1]
    sides, diameters = tested[["w", "h"]].to_numpy(), tested[["long", "short"]].to_numpy()
    print(f"\n| {len(tested)} marks of {tested['patient'].nunique()} patients, no images {head}")
    for name, estimate in {"sides of the tight box": sides, "linear fit of the sides": fit(sides)}.items():
        print(f"| {name} | {summary(estimate - diameters, tested['patient'].to_numpy())} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
