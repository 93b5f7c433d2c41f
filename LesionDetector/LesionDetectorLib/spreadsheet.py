"""A csv as spreadsheets write and read it: commas or semicolons, decimal points or commas, and no formulas from
outside."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from LesionDetectorLib.refusal import Refusal

FORMULA = re.compile(r"(^|[,;\t\r\n])(\s*[=+\-@\uff1d\uff0b\uff0d\uff20])")
"""What a spreadsheet may take for the start of a formula: at the start of a cell, or where it splits one at another
separator."""
NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")


@dataclass(frozen=True)
class Row:
    """A line of a csv: where it stands, for a sentence, its cells by their columns, and whether its numbers have a
    decimal comma."""

    place: str
    cells: dict[str, str]
    decimal_comma: bool = False

    def cell(self, *names: str) -> str:
        """What stands in the column that has one of these names, "" where nothing does."""
        return next((self.cells[name] for name in names if name in self.cells), "")

    def number(self, *names: str) -> float:
        """The number there; Refusal where it is none."""
        value = self.cell(*names)
        try:
            number = float(value.replace(",", ".") if self.decimal_comma else value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise Refusal(f"{self.place}, column {names[0]}: a number is expected, not '{value}'.")
        return number


def read_rows(path: Path, what: str, check: Callable[[Path, Sequence[str]], None]) -> list[Row]:
    """The lines of a csv that are not empty; `what` it should be, for a sentence, and `check` refuses wrong columns.

    Raises Refusal if it is no such csv.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise Refusal(f"{path} does not exist: give {what}.") from error
    except UnicodeDecodeError as error:
        raise Refusal(f"{path} is not a text in UTF-8: save it as a csv in UTF-8.") from error
    head = content.partition("\n")[0]
    # spreadsheets write semicolons where numbers have a comma
    european = head.count(";") > head.count(",")
    reader = csv.DictReader(io.StringIO(content), delimiter=";" if european else ",", restval="")
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        twice = [name for name in columns if name and columns.count(name) > 1]
        if twice:
            raise Refusal(f"{path} has two columns {twice[0]}: keep the one that is right.")
        check(path, columns)
        rows = []
        for values in reader:
            if any(values.pop(None, ())):  # type: ignore[call-overload]
                raise Refusal(f"{path}, line {reader.line_num}: it has more cells than the header; correct the line.")
            cells = {name: value.strip() for name, value in zip(columns, values.values())}
            if any(cells.values()):
                rows.append(Row(f"{path}, line {reader.line_num}", cells, european))
    except csv.Error as error:
        raise Refusal(f"{path} cannot be read as a csv: {error}.") from error
    return rows


def safe(text: str) -> str:
    """`text` for a cell: what a spreadsheet would calculate gets an apostrophe before it."""
    return text if NUMBER.fullmatch(text) else FORMULA.sub(r"\1'\2", text)
