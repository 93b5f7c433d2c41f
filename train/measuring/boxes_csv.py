"""Detections and ground truth as CSV: one box a row, image, x1, y1, x2, y2, and a detection's score.

Optional columns: label (body-part codes 1..8, -1 unknown), and in the ground truth patient, long_mm, short_mm.
"""

from __future__ import annotations

import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from LesionDetectorLib.files import write_text
from LesionDetectorLib.lesion import BodyPart

from train.data.deeplesion import UNKNOWN, DeepLesionError
from train.measuring.boxes import Boxes

SIDES = ["x1", "y1", "x2", "y2"]


def read_detections(path: Path) -> pd.DataFrame:
    """The rows of a csv with the columns image, x1, y1, x2, y2, score and, optional, label.

    DeepLesionError names what is wrong.
    """
    return _checked(path, read_table(path, ["image", *SIDES, "score"]), ["score"])


def read_truth(path: Path) -> pd.DataFrame:
    """The rows of a csv with the columns image, x1, y1, x2, y2 and, optional, label, patient.

    DeepLesionError names what is wrong.
    """
    return _checked(path, read_table(path, ["image", *SIDES]), [])


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """A csv (.csv or .csv.gz) that needs `columns`; DeepLesionError says what is wrong with it."""
    try:
        with warnings.catch_warnings():
            # a row longer than the header would shift or lose values
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, index_col=False, dtype={"image": str, "subvolume": str, "patient": str})
    except FileNotFoundError as error:
        raise DeepLesionError(f"{path} does not exist; give a csv with the columns {', '.join(columns)}.") from error
    except (OSError, EOFError, ValueError, zlib.error, pd.errors.ParserWarning) as error:
        raise DeepLesionError(f"{path} cannot be read as a csv: {str(error).strip().rstrip('.')}.") from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DeepLesionError(f"{path} lacks the column {missing[0]}; it needs {', '.join(columns)}.")
    return table


def _checked(path: Path, table: pd.DataFrame, numbers: list[str]) -> pd.DataFrame:
    complain(path, table, "image", table["image"].isna(), "an image's name or number")
    check_sides(path, table)
    for name in numbers:
        check_number(path, table, name)
    check_label(path, table)
    return table


def check_label(path: Path, table: pd.DataFrame) -> None:
    """Make the column label, where there is one, whole numbers; DeepLesionError names the row that holds no code."""
    if "label" in table:
        codes = pd.to_numeric(table["label"], errors="coerce")
        complain(path, table, "label", ~codes.isin([UNKNOWN, *BodyPart]), "a body-part code, 1 to 8 or -1")
        table["label"] = codes.astype(int)


def check_sides(path: Path, table: pd.DataFrame) -> None:
    """Make the columns x1, y1, x2, y2 numbers; DeepLesionError names the row that holds no box."""
    for name in SIDES:
        check_number(path, table, name)
    for low, high in (("x1", "x2"), ("y1", "y2")):
        complain(path, table, high, table[high] < table[low], f"a number not below {low}")


def check_number(path: Path, table: pd.DataFrame, column: str) -> None:
    """Make a column finite numbers; DeepLesionError names the row that holds none."""
    values = pd.to_numeric(table[column], errors="coerce")
    complain(path, table, column, ~np.isfinite(values), "a finite number")
    table[column] = values


def check_whole(path: Path, table: pd.DataFrame, column: str) -> None:
    """Make a column whole numbers; DeepLesionError names the row that holds none."""
    check_number(path, table, column)
    complain(path, table, column, (table[column] % 1 != 0) | (table[column].abs() > 1e9), "a whole number")
    table[column] = table[column].astype(int)


def complain(path: Path, table: pd.DataFrame, column: str, wrong: pd.Series, wanted: str) -> None:
    """DeepLesionError that names the first row in which a column is `wrong`, and what is `wanted` there."""
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DeepLesionError(
            f"{path}, row {row + 2}, column {column}: {wanted} is expected, not '{table[column].iloc[row]}'."
        )


def to_boxes(table: pd.DataFrame, images: pd.Index, labels: bool) -> Boxes:
    """The rows as `Boxes` whose images are numbered by their place in `images`.

    Without `labels` all known lesions are of one kind.
    """
    codes = table["label"].to_numpy(int) if "label" in table else np.ones(len(table), int)
    if not labels:
        codes = np.where(codes == UNKNOWN, UNKNOWN, 1)
    scores = table["score"].to_numpy(float) if "score" in table else None
    return Boxes(images.get_indexer(table["image"]), table[SIDES].to_numpy(float), codes, scores)


def patients(path: Path, truth: pd.DataFrame, images: pd.Index, count: int) -> np.ndarray:
    """Whose each of `count` images is: (count,) names, from the truth's column patient.

    An image without lesions stands for itself.
    """
    if "patient" not in truth:
        raise DeepLesionError(f"{path} lacks the column patient, which intervals over patients need.")
    complain(path, truth, "patient", truth["patient"].isna(), "a patient's name or number")
    names = "patient " + truth.drop_duplicates("image").set_index("image")["patient"].reindex(images)
    nameless = [f"image {number}" for number in range(count)]
    return np.array([*names.where(names.notna(), nameless[: len(names)]), *nameless[len(names) :]], str)


def write(path: Path, boxes: Boxes, names: list[str], **columns: np.ndarray) -> None:
    """Write boxes, whose images are called `names`, and further `columns` as `read_detections` and `read_truth` want
    them."""
    table = pd.DataFrame({"image": np.array(names, object)[boxes.image], **dict(zip(SIDES, boxes.boxes.T))})
    if boxes.scores is not None:
        table["score"] = boxes.scores
    write_text(path, table.assign(label=boxes.labels, **columns).to_csv(index=False))
