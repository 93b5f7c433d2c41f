"""Read DeepLesion's layout; `python -m train.verify` checks a download of it.

The layout is `DL_info.csv` beside 16-bit slices in `Images_png/{patient}_{study}_{series}/{slice}.png`. Yan et al.,
"DeepLesion: automated mining of large-scale lesion annotations", J. Med. Imaging 5(3), 2018. The file's coordinates are
1-based; here they are 0-based pixels, the centre of a pixel has whole numbers. HU = pixel - 32768.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK
from LesionDetectorLib.ct.deeplesion import USUAL_STANDS_IN, usable_spacing
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.slices import DEFAULT, Recipe

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
REPEAT = "Repeat"
"""A column that `DL_info.csv` has not and a subset may have: how often a slice counts when training draws from its
split."""
MARKED, MINED, SUSPICIOUS, NOTHING = "marked", "mined", "suspicious", "nothing"
ORIGIN = "Origin"
"""A column that `DL_info.csv` has not and a csv of `train.mine` has: who says that a lesion is there. MINED: a
detector, where it is like a marked lesion of the patient; it is one, its box is not exact. SUSPICIOUS: a detector;
neither lesion nor background. NOTHING, with a blank box: the slice was looked at, and what no other row names on it is
background."""
WHOLE_NUMBERS: dict[str, tuple[int, ...]] = {
    "Patient_index": (),
    "Study_index": (),
    "Series_ID": (),
    "Key_slice_index": (),
    "Coarse_lesion_type": (UNKNOWN, *BodyPart),
    "Possibly_noisy": (0, 1),
    "Train_Val_Test": tuple(SPLITS.values()),
    REPEAT: (),
}
"""Columns of whole numbers, and the values they may have (none given: any above 0)."""
_log = logging.getLogger(__name__)


class DeepLesionError(Refusal):
    """A data set cannot be used; the message says which file or row and what to do."""


@dataclass(frozen=True)
class KeySlice:
    """An annotated slice.

    images: the `Images_png` folder; name: the file's name in the csv; boxes: (n, 4) xyxy in 0-based pixels; labels:
    (n,) body-part codes 1..8, or -1 where unknown; diameters_mm: (n, 2) long and short axis; spacing: (x, y, z) mm;
    split: 1 train, 2 validation, 3 test; complete: the body-part codes of which every lesion is marked (DeepLesion's
    slices count as complete, as in its papers); look_alikes: (m, 4) boxes of what looks like a lesion and is none;
    origins: (n,) MARKED, MINED or SUSPICIOUS, all MARKED if None; dataset: which of several data sets it is of, for a
    detector that tells them apart.
    """

    images: Path
    name: str
    boxes: np.ndarray
    labels: np.ndarray
    diameters_mm: np.ndarray
    spacing: tuple[float, float, float]
    split: int
    complete: tuple[int, ...] = tuple(BodyPart)
    look_alikes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    origins: np.ndarray | None = None
    dataset: int = 0

    def of(self, origin: str) -> np.ndarray:
        """(n,) bool: which boxes are of that origin."""
        return np.full(len(self.boxes), origin == MARKED) if self.origins is None else self.origins == origin

    @property
    def owner(self) -> str:
        """The patient's name: "000001"."""
        return self.name.split("_", 1)[0]

    @property
    def patient(self) -> int:
        return int(self.owner)

    @property
    def series(self) -> str:
        """The folder of its series: "000001_01_01"."""
        return self.name.rsplit("_", 1)[0]

    @property
    def number(self) -> int:
        return int(Path(self.name).stem.rsplit("_", 1)[1])

    def path(self, number: int) -> Path:
        return self.images / self.series / f"{number:03d}.png"

    def read(self, recipe: Recipe = DEFAULT) -> tuple[np.ndarray, int]:
        """The key slice and what is there of its neighbours: HU (k, j, i) int16, and the key slice's k.

        As many slices are read on either side as `slices` neighbours 2 mm apart need; past a missing one the last
        present one repeats.
        """
        reach = int(np.ceil(recipe.slices // 2 * recipe.neighbour_mm / self.spacing[2] - 1e-9))
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
    """One slice as HU (rows, columns) int16.

    DeepLesionError names a file that cannot be read or is no 16-bit grey PNG.
    """
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise DeepLesionError(f"{path} cannot be read as a PNG: fetch this slice again.") from error
    pixels = SimpleITK.GetArrayViewFromImage(image)
    if pixels.ndim != 2 or pixels.dtype != np.uint16:
        raise DeepLesionError(f"{path} is not a 16-bit grey PNG; DeepLesion stores HU + 32768 in 16 bits.")
    return np.clip(pixels.astype(np.int32) - HU_OFFSET, -32768, 32767).astype(np.int16)


# ------ the csv file


def read_info(folder: Path, split: str | None = None, images: Path | None = None) -> list[KeySlice]:
    """The annotated slices of a data set in the order of their names; noisy rows are dropped.

    `folder` holds `DL_info.csv` and `Images_png`, or is itself a csv of that form beside `Images_png`, for example one
    that `train.balance` wrote; `images` names `Images_png` where it lies elsewhere. `split` keeps "train", "val" or
    "test". A slice whose rows have a `Repeat` of n is listed n times. Of a column `Origin` the rows of NOTHING give
    slices without boxes.

    What else had to be mended is logged, one sentence a kind: repeated rows, spacing that is missing or not positive,
    boxes that leave the image, key slices that are not there. DeepLesionError names a missing file or column, or the
    row that cannot be read.
    """
    csv, images = located(folder, images)
    table = read_table(csv)
    table = table[table["Possibly_noisy"] == 0]
    if split is not None:
        table = table[table["Train_Val_Test"] == SPLITS[split]]
    table, bare = _without_bare(csv, table, images)
    again = table.duplicated(["File_name", "Bounding_boxes"])
    _tell(csv, table[again], "repeat a row above them and are left out")
    table = table[~again]
    boxes = read_boxes(csv, table)
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    _tell(csv, table[empty], "have a box that holds no pixel of the image and are left out")
    table, boxes = table[~empty], boxes[~empty]
    spacing = read_spacing(csv, table)
    diameters = read_numbers(csv, table, "Lesion_diameters_Pixel_", 2) * spacing[:, :1]
    labels, splits = (table[name].to_numpy(int) for name in ("Coarse_lesion_type", "Train_Val_Test"))
    origins = table[ORIGIN].to_numpy(str) if ORIGIN in table.columns else np.full(len(table), MARKED)
    repeats = table[REPEAT].to_numpy(int) if REPEAT in table.columns else np.ones(len(table), int)
    found = [
        KeySlice(
            images,
            name,
            boxes[rows],
            labels[rows],
            diameters[rows],
            tuple(spacing[rows[0]]),
            int(splits[rows[0]]),
            origins=origins[rows],
        )
        for name, rows in sorted(table.groupby("File_name").indices.items())
        for _ in range(repeats[rows].max())
    ]
    return _there(csv, images, sorted(found + bare, key=lambda entry: entry.name))


def _without_bare(csv: Path, table: pd.DataFrame, images: Path) -> tuple[pd.DataFrame, list[KeySlice]]:
    """The rows with a box, and the slices on which there is none, which rows of NOTHING name."""
    if ORIGIN not in table.columns:
        return table, []
    known = (MARKED, MINED, SUSPICIOUS, NOTHING)
    _refuse(csv, table, ORIGIN, ~table[ORIGIN].isin(known), f"one of {', '.join(known)}")
    boxed, bare = (table[chosen] for chosen in (table[ORIGIN] != NOTHING, table[ORIGIN] == NOTHING))
    bare = bare[~bare["File_name"].isin(boxed["File_name"])].drop_duplicates("File_name")
    spacing, splits = read_spacing(csv, bare), bare["Train_Val_Test"].to_numpy(int)
    none = np.zeros((0, 4)), np.zeros(0, int), np.zeros((0, 2))
    return boxed, [
        KeySlice(images, name, *none, tuple(spacing[row]), int(splits[row]), origins=np.zeros(0, str))
        for row, name in enumerate(bare["File_name"])
    ]


def read_table(csv: Path, needed: Sequence[str] = NEEDED) -> pd.DataFrame:
    """All rows of a `DL_info.csv`: text as it stands in the file, `WHOLE_NUMBERS` as int.

    Row n of the file has the index n - 2.

    DeepLesionError names a file that is not such a table, a column of `needed` that it lacks, or the row and value that
    cannot be right.
    """
    try:
        table = pd.read_csv(csv, dtype=str, keep_default_na=False, skip_blank_lines=False).fillna("")
    except (OSError, ValueError) as error:
        raise DeepLesionError(
            f"{csv} cannot be read as a csv table ({str(error).strip()}); use the official DL_info.csv."
        ) from error
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise DeepLesionError(f"{csv} lacks the column {missing[0]}; use the official DL_info.csv.")
    table = table[(table != "").any(axis=1)]
    _refuse(
        csv,
        table,
        "File_name",
        ~table["File_name"].str.fullmatch(r"\d+_\d+_\d+_\d+\.png"),
        "a name like 000001_01_01_109.png",
    )
    for name in WHOLE_NUMBERS.keys() & set(table.columns):
        numbers, allowed = pd.to_numeric(table[name], errors="coerce"), WHOLE_NUMBERS[name]
        known = numbers.isin(allowed) if allowed else (numbers >= 1) & (numbers % 1 == 0)
        expected = f"one of {', '.join(str(int(value)) for value in allowed)}" if allowed else "a whole number above 0"
        _refuse(csv, table, name, ~known, expected)
        table = table.assign(**{name: numbers.astype(int)})
    if "Patient_index" in table.columns:
        named = table["File_name"].str.split("_").str[0].astype(int)
        _refuse(csv, table, "Patient_index", named != table["Patient_index"], "the patient that File_name names")
    return table


def read_numbers(csv: Path, table: pd.DataFrame, column: str, count: int, blank: bool = False) -> np.ndarray:
    """The numbers that a column holds as text ("0.8, 0.8, 5"): (rows, `count`).

    Where nothing is written, NaN, if `blank` allows it; DeepLesionError names any other row that does not hold `count`
    numbers.
    """
    values = np.full((len(table), count), np.nan)
    for place, (row, text) in enumerate(table[column].items()):
        if blank and not text.strip():
            continue
        try:
            values[place] = _numbers(text, count)
            if not blank and not np.isfinite(values[place]).all():
                raise ValueError(f"'{text}' holds what is not a number.")
        except ValueError as error:
            raise DeepLesionError(f"{csv}, row {row + 2} ({table.at[row, 'File_name']}), {column}: {error}") from error
    return values


def read_spacing(csv: Path, table: pd.DataFrame) -> np.ndarray:
    """Spacing of each row: (rows, 3) mm along x, y, z.

    The rule is that of `ct.deeplesion.usable_spacing`; what it mends is logged.
    """
    spacing, signed, unknown = usable_spacing(read_numbers(csv, table, "Spacing_mm_px_", 3, blank=True))
    _tell(csv, table[signed.any(1)], "have a spacing below 0, which is taken without its sign")
    _tell(csv, table[unknown.any(1)], f"have no spacing: {USUAL_STANDS_IN} there")
    return spacing


def read_boxes(csv: Path, table: pd.DataFrame) -> np.ndarray:
    """Boxes of the rows: (rows, 4) xyxy in 0-based pixels, cut off where they leave the image, which is logged."""
    boxes = read_numbers(csv, table, "Bounding_boxes", 4).reshape(-1, 2, 2) - 1
    boxes = np.sort(boxes, axis=1)
    if "Image_size" in table.columns:
        sizes = read_numbers(csv, table, "Image_size", 2, blank=True)[:, None]
        inside = np.clip(boxes, -0.5, np.where(np.isfinite(sizes), sizes, np.inf) - 0.5)
        _tell(csv, table[(inside != boxes).any((1, 2))], "have a box that leaves its image and is cut off there")
        boxes = inside
    return boxes.reshape(-1, 4)


def located(folder: Path, images: Path | None = None) -> tuple[Path, Path]:
    """The csv and the folder of images of a data set, as `read_info` takes it; DeepLesionError where one is missing."""
    csv = folder if folder.suffix.lower() == ".csv" else folder / "DL_info.csv"
    images = images or csv.parent / "Images_png"
    if csv.is_file() and images.is_dir():
        return csv, images
    if csv == folder:
        missing = images if csv.is_file() else csv
        raise DeepLesionError(
            f"{missing} is missing; give a csv that lies beside the folder Images_png (or beside a link to it)."
        )
    raise DeepLesionError(f"{folder} needs DL_info.csv and the folder Images_png; give the folder that holds both.")


def _there(csv: Path, images: Path, key_slices: list[KeySlice]) -> list[KeySlice]:
    there = [entry for entry in key_slices if entry.path(entry.number).exists()]
    if key_slices and not there:
        raise DeepLesionError(
            f"{images} holds none of the {len(key_slices)} slices of {csv}; unpack DeepLesion's archives there."
        )
    if len(there) < len(key_slices):
        check = "python -m train.verify lists them"
        _log.warning(
            "%s: %d of %d key slices are not in %s and are left out; %s.",
            csv,
            len(key_slices) - len(there),
            len(key_slices),
            images,
            check,
        )
    return there


def _tell(csv: Path, rows: pd.DataFrame, what: str) -> None:
    if len(rows):
        _log.warning(
            "%s: %d row(s) %s; the first is row %d (%s).",
            csv,
            len(rows),
            what,
            rows.index[0] + 2,
            rows["File_name"].iloc[0],
        )


def _refuse(csv: Path, table: pd.DataFrame, column: str, wrong: pd.Series, expected: str) -> None:
    if wrong.any():
        row = table.index[wrong][0]
        value = table.at[row, column]
        raise DeepLesionError(
            f"{csv}, row {row + 2}: {column} is '{value}' instead of {expected}; correct the row or fetch the file "
            "again."
        )


def _numbers(text: str, count: int) -> list[float]:
    values = [float(part) for part in text.split(",")]
    if len(values) != count:
        raise ValueError(f"{count} numbers are expected, not '{text}'.")
    return values
