"""Real CT slices on which one kind of lesion is marked: a `boxes.csv` beside 16-bit PNGs, a folder a patient.

A row is a box, or a slice without a lesion of that kind; its column `exhaustive` says of which label all lesions are
marked ("yes": of the source's own, "liver only"; "all": of every label), or "no". What lies outside of that may be
unmarked: false positives of other labels are no errors of a detector, and a loss must not call them background. A box
without a label is a look-alike, which training shows and nothing learns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
from LesionDetectorLib.ct.deeplesion import USUAL_SPACING
from LesionDetectorLib.files import write_text
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.measure.margins import DETECTOR_MARGIN_MM

from train.data.deeplesion import MARKED, SPLITS, SUSPICIOUS, UNKNOWN, DeepLesionError, KeySlice

NEEDED = ("patient", "file", "slice", "x0", "y0", "x1", "y1", "label", "spacing_x", "spacing_y", "interval", "size_mm")
NEEDED += ("annotation", "exhaustive", "key")
AS_PUBLISHED = "DeepLesion"
"""Annotations that begin so are boxes of DeepLesion: 1-based, with a margin of 5 pixels. All others are tight."""
ALL = "all"
"""In the column `exhaustive`: lesions of every label are marked."""
UNSURE = "unknown"
"""The label of a box that may hold a lesion: neither learnt nor background."""
TENTHS = {"test": (0, 1), "val": (2,)}
"""Of ten groups of patients, drawn by their names, those of the splits; the others train."""


@dataclass(frozen=True)
class MarkedSlice(KeySlice):
    """A slice of which some labels are marked completely.

    Attributes
    ----------
    file: of the slice, below `images`; its last digits are the number of the slice.
    owner: the patient's name in the table.
    """

    file: str = ""
    owner: str = ""

    @property
    def patient(self) -> int:
        return crc32(self.owner.encode())

    def path(self, number: int) -> Path:
        file = self.images / self.file
        digits = len(file.stem) - len(file.stem.rstrip("0123456789"))
        return file.with_name(f"{file.stem[: len(file.stem) - digits]}{number:0{digits}d}.png")


def read(folder: Path, split: str | None = None) -> list[MarkedSlice]:
    """The key slices in `folder`, with and without lesions, in the order of their files; DeepLesionError names a fault.

    Boxes get the margin of a detector's, 4 mm, where they are tight. Patients are split by their names: seven tenths
    train, one is for validation, two for tests; a column `split` says otherwise.
    """
    csv = folder / "boxes.csv"
    try:
        found = _slices(csv)
    except DeepLesionError:
        raise
    except ValueError as error:  # pandas' word for what is no table, and ours for a label that is no body part
        raise DeepLesionError(f"{csv} cannot be read: {error}; correct the row, or fetch the file again.") from error
    return [entry for entry in found if split is None or entry.split == SPLITS[split]]


def row(patient: str, file: str, number: int, spacing: tuple[float, float, float], split: str, **box: Any) -> dict:
    """One row of a table: a slice without a lesion, or, with `sides` (x0, y0, x1, y1), a box that ends at the edges of
    pixels, tight round the lesion, and its `label`. All labels are marked completely, if `exhaustive` says nothing
    else."""
    values: dict[str, Any] = dict.fromkeys((*NEEDED, "split"), "")
    sides = box.get("sides", ("",) * 4)
    values.update(zip(("x0", "y0", "x1", "y1"), sides))
    values.update(zip(("spacing_x", "spacing_y", "interval"), spacing))
    values.update(patient=patient, file=file, slice=number, label=box.get("label", ""), key=1)
    values.update(exhaustive=box.get("exhaustive", ALL), split=split)
    return values


def write_table(folder: Path, rows: Iterable[dict]) -> None:
    """Write rows made by `row` as the boxes.csv of `folder`."""
    write_text(folder / "boxes.csv", pd.DataFrame(rows).to_csv(index=False))


def tight(key_slice: KeySlice) -> np.ndarray:
    """The boxes of a slice without the margin, as `row` takes them: (n, 4) at the edges of pixels."""
    margin = DETECTOR_MARGIN_MM / np.array(key_slice.spacing[:2])
    return key_slice.boxes + 0.5 + np.concatenate([margin, -margin])


def _slices(csv: Path) -> list[MarkedSlice]:
    table = pd.read_csv(csv)
    missing = [name for name in NEEDED if name not in table.columns]
    if missing:
        raise DeepLesionError(f"{csv} lacks the column {missing[0]}, so it is not a table of part-marked slices.")
    table = table[table["key"] == 1]
    own = {_code(label) for label in table["label"].dropna().unique()} - {UNKNOWN}
    return [_slice(csv.parent, str(file), rows, own) for file, rows in table.groupby("file")]


def _slice(folder: Path, file: str, rows: pd.DataFrame, own: set[int]) -> MarkedSlice:
    first = rows.iloc[0]
    boxed = rows.dropna(subset=["x0"])
    marked, look_alikes = boxed[boxed["label"].notna()], boxed[boxed["label"].isna()]
    spacing = (float(first["spacing_x"]), float(first["spacing_y"]), _known(first["interval"], USUAL_SPACING[2]))
    return MarkedSlice(
        images=folder,
        name=file.replace("/", "_"),
        boxes=_boxes(marked, spacing),
        labels=np.array([_code(label) for label in marked["label"]], int),
        diameters_mm=np.array([(size, np.nan) for size in marked["size_mm"]], float).reshape(-1, 2),
        spacing=spacing,
        split=SPLITS[first["split"]] if "split" in rows.columns else _split(str(first["patient"])),
        file=file,
        owner=str(first["patient"]),
        complete=_complete(str(first["exhaustive"]), own),
        look_alikes=_boxes(look_alikes, spacing),
        origins=np.where(marked["label"] == UNSURE, SUSPICIOUS, MARKED),
    )


def _complete(exhaustive: str, own: set[int]) -> tuple[int, ...]:
    if exhaustive == ALL:
        return tuple(BodyPart)
    return () if exhaustive in ("no", "this nodule only") else tuple(sorted(own))


def _boxes(rows: pd.DataFrame, spacing: tuple[float, float, float]) -> np.ndarray:
    return np.array([_box(row, spacing) for _, row in rows.iterrows()]).reshape(-1, 4)


def _box(row: pd.Series, spacing: tuple[float, float, float]) -> list[float]:
    """(x0, y0, x1, y1) with whole numbers at pixel centres; the csv's x1 and y1 are exclusive."""
    box = row[["x0", "y0", "x1", "y1"]].to_numpy(float)
    if str(row["annotation"]).startswith(AS_PUBLISHED):
        return (box - 1).tolist()
    margin = DETECTOR_MARGIN_MM / np.array(spacing[:2])
    return (box - 0.5 + np.concatenate([-margin, margin])).tolist()


def _code(label: str) -> int:
    return UNKNOWN if label == UNSURE else int(BodyPart.from_title(label))


def _known(value: float, otherwise: float) -> float:
    return float(value) if np.isfinite(value) and value > 0 else otherwise


def _split(patient: str) -> int:
    tenth = crc32(patient.encode()) % 10
    return SPLITS[next((name for name, tenths in TENTHS.items() if tenth in tenths), "train")]
