"""The known lesions of a CT, from a csv with a box a row, such as lesions.csv of this program."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from LesionDetectorLib.lesion import BodyPart, Box
from LesionDetectorLib.printable import printable
from LesionDetectorLib.refusal import Refusal

if TYPE_CHECKING:
    from LesionDetectorLib.ct import Volume

SIDES = (("x1", "box_x0"), ("y1", "box_y0"), ("x2", "box_x1"), ("y2", "box_y1"))
"""The columns of a box, by their names here and in lesions.csv."""
UNKNOWN = ("", "-", "-1", "unknown")
"""What stands for a label that is not known."""


@dataclass(frozen=True)
class Known:
    """A known lesion: its name, its label where that is known, and the k and box of each slice on which it is
    marked."""

    name: str
    label: BodyPart | None
    boxes: tuple[tuple[int, Box], ...]

    def largest(self) -> tuple[int, Box]:
        """The k and box of the slice on which it is largest."""
        return max(self.boxes, key=lambda entry: math.hypot(entry[1][2] - entry[1][0], entry[1][3] - entry[1][1]))


@dataclass(frozen=True)
class Row:
    """A line of the csv: where it stands, for a sentence, and its cells by their columns."""

    place: str
    cells: dict[str, str]

    def cell(self, *names: str) -> str:
        """What stands in the column that has one of these names, "" where nothing does."""
        return next((self.cells[name] for name in names if name in self.cells), "")

    def number(self, *names: str) -> float:
        """The number there; Refusal where it is none."""
        value = self.cell(*names)
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise Refusal(f"{self.place}, column {names[0]}: a number is expected, not '{value}'.")
        return number


def read_rows(path: Path) -> list[Row]:
    """The lines of a csv that are not empty; Refusal if it is no such csv."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise Refusal(f"{path} does not exist: give a csv of the known lesions.") from error
    except UnicodeDecodeError as error:
        raise Refusal(f"{path} is not a text in UTF-8: save it as a csv in UTF-8.") from error
    head = content.partition("\n")[0]
    # spreadsheets write semicolons where numbers have a comma
    european = head.count(";") > head.count(",")
    reader = csv.DictReader(io.StringIO(content), delimiter=";" if european else ",", restval="")
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        _check_columns(path, columns)
        rows = []
        for values in reader:
            if any(values.pop(None, ())):  # type: ignore[call-overload]
                raise Refusal(f"{path}, line {reader.line_num}: it has more cells than the header; correct the line.")
            cells = {name: value.strip() for name, value in zip(columns, values.values())}
            if any(cells.values()):
                rows.append(Row(f"{path}, line {reader.line_num}", _with_points(cells) if european else cells))
    except csv.Error as error:
        raise Refusal(f"{path} cannot be read as a csv: {error}.") from error
    return rows


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    twice = [name for name in columns if name and columns.count(name) > 1]
    if twice:
        raise Refusal(f"{path} has two columns {twice[0]}: keep the one that is right.")
    missing = [names[0] for names in SIDES if not set(names) & set(columns)]
    if not {"slice", "slice_file"} & set(columns):
        missing.insert(0, "slice")
    if missing:
        raise Refusal(f"{path} lacks the column {missing[0]}: it needs slice (or slice_file), x1, y1, x2 and y2.")
    if {"slice", "slice_file"} <= set(columns):
        raise Refusal(f"{path} has the columns slice and slice_file: keep the one that is right.")


def _with_points(cells: dict[str, str]) -> dict[str, str]:
    """The cells with points in the numbers of a box."""
    sides = {name for names in SIDES for name in names}
    return {name: value.replace(",", ".") if name in sides else value for name, value in cells.items()}


def known_lesions(rows: Sequence[Row], volume: Volume, path: Path, margin_px: float = 0.0) -> list[Known]:
    """The lesions on the CT that was read from `path`, in the order of their first lines, each box `margin_px` wider on
    every side.

    Refusal names the line that cannot be right.
    """
    lesions: dict[str, Known] = {}
    files = _Files(volume, path)
    for number, row in enumerate(rows, start=1):
        name = row.cell("lesion") or f"{number}"
        key = f"named {name}" if row.cell("lesion") else f"row {number}"
        label, box = _label(row), (_k(row, volume, files), _box(row, volume, margin_px))
        before = lesions.get(key, Known(printable(name), label, ()))
        if label is not before.label:
            raise Refusal(f"{row.place}: lesion {name} has another label than on the lines before; correct it.")
        lesions[key] = replace(before, boxes=(*before.boxes, box))
    return list(lesions.values())


def _label(row: Row) -> BodyPart | None:
    value = row.cell("label", "body_part")
    if value in UNKNOWN:
        return None
    try:
        return BodyPart(int(value)) if value.isdecimal() else BodyPart.from_title(value)
    except ValueError as error:
        parts = ", ".join(part.title for part in BodyPart)
        raise Refusal(f"{row.place}, column label: '{value}' is no body part; use one of: {parts}.") from error


def _box(row: Row, volume: Volume, margin_px: float) -> Box:
    x0, y0, x1, y1 = (row.number(*names) for names in SIDES)
    height, width = volume.hu.shape[1:]
    if not (x0 < x1 and y0 < y1):
        raise Refusal(f"{row.place}: a box needs x1 < x2 and y1 < y2, not {x0:g}, {y0:g}, {x1:g}, {y1:g}.")
    if x1 < 0 or y1 < 0 or x0 > width - 1 or y0 > height - 1:
        raise Refusal(
            f"{row.place}: the box {x0:g}, {y0:g}, {x1:g}, {y1:g} lies outside the slice of {width} x {height} pixels; "
            "give pixels, not mm."
        )
    return x0 - margin_px, y0 - margin_px, x1 + margin_px, y1 + margin_px


def _k(row: Row, volume: Volume, files: _Files) -> int:
    if "slice_file" in row.cells:
        return files.k_of(row)
    number, last = row.number("slice"), volume.slice_number(len(volume.hu) - 1)
    if number % 1 or not volume.first_slice <= number <= last:
        raise Refusal(
            f"{row.place}: slice {number:g} is not in the CT, whose slices are {volume.first_slice} to {last}."
        )
    return int(number) - volume.first_slice


class _Files:
    """Which slice of a DICOM CT lies in which of its files."""

    def __init__(self, volume: Volume, path: Path) -> None:
        self._folder = path if path.is_dir() else path.parent
        uids = volume.dicom.sop_instance_uids if volume.dicom else ()
        self._ks = {uid: k for k, uid in enumerate(uids) if uid is not None}
        self._is_dicom = volume.dicom is not None

    def k_of(self, row: Row) -> int:
        """The k of the slice that `slice_file` names; Refusal where it is none of the CT's."""
        import pydicom

        if not self._is_dicom:
            raise Refusal(f"{row.place}: slice_file is for DICOM; give the number in a column slice.")
        file = self._folder / row.cell("slice_file")
        try:
            uid = pydicom.dcmread(file, force=True, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID")
            return self._ks[uid]
        except (OSError, KeyError) as error:
            raise Refusal(f"{row.place}: {row.cell('slice_file')} is no file of a slice of {self._folder}.") from error
