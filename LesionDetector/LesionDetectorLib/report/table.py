"""The table of lesions for spreadsheets: one row for each lesion of the report, what a reader asks for first, what
programs need last."""

from __future__ import annotations

import csv
import io
import re

from LesionDetectorLib.followup.baseline import Entry, assess
from LesionDetectorLib.lesion import Lesion
from LesionDetectorLib.reading import Reading

COLUMNS = (
    *(
        "number",
        "body_part",
        "confidence",
        "long_axis_mm",
        "short_axis_mm",
        "study",
        "series",
        "slice",
        "status",
        "origin",
        "marks",
    ),
    *("k", "first_k", "last_k", "box_x0", "box_y0", "box_x1", "box_y1"),
    *("long_x0", "long_y0", "long_x1", "long_y1", "short_x0", "short_y0", "short_x1", "short_y1"),
    *("centre_l_mm", "centre_p_mm", "centre_s_mm", "id"),
)

BASELINE_COLUMNS = ("recist_category", "recist_target_mm", "recist_reason")


FORMULA = re.compile(r"(^|[,;\t\r\n])(\s*[=+\-@\uff1d\uff0b\uff0d\uff20])")
"""What a spreadsheet may take for the start of a formula: at the start of a cell, or where it splits one at another
separator."""
NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")


def compose(reading: Reading, baseline: bool = False) -> str:
    """The lesions that the report shows as CSV, by their numbers.

    Diameters are in mm, the centre of the box is in LPS mm, `slice` is the number that the report prints; k, box and
    end points are continuous voxel indices of the CT. What is not known is empty. With `baseline`, more columns have
    the RECIST 1.1 baseline; those of recist_target_mm add up to its sum of diameters. Text that a spreadsheet would
    calculate gets an apostrophe before it.
    """
    shown = reading.reported
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    more = [_recist(entry) for entry in assess(reading).entries] if baseline else [[]] * len(shown)
    writer.writerow(COLUMNS + BASELINE_COLUMNS if baseline else COLUMNS)
    writer.writerows(
        _row(reading, lesion, number) + cells for number, (lesion, cells) in enumerate(zip(shown, more), start=1)
    )
    return file.getvalue()


def _row(reading: Reading, lesion: Lesion, number: int) -> list:
    x0, y0, x1, y1 = lesion.box
    centre = reading.geometry.to_lps(((x0 + x1) / 2, (y0 + y1) / 2, lesion.key_slice))
    recist = lesion.recist
    ends = (
        [None] * 8
        if recist is None
        else [value for point in (*recist.long_axis, *recist.short_axis) for value in point]
    )
    return [
        number,
        lesion.body_part.title,
        _rounded(lesion.confidence, 3),
        _rounded(None if recist is None else recist.long_mm, 1),
        _rounded(None if recist is None else recist.short_mm, 1),
        _text(reading.study),
        _text(reading.series),
        reading.slice_number(lesion.key_slice),
        lesion.status.value,
        lesion.origin.value,
        ", ".join(lesion.marks),
        lesion.key_slice,
        *lesion.slices,
        *(_rounded(value, 3) for value in (*lesion.box, *ends, *centre.tolist())),
        _text(lesion.id),
    ]


def _recist(entry: Entry) -> list[str]:
    return [entry.category.value, _rounded(entry.diameter_mm if entry.is_target else None, 1), entry.reason]


def _text(value: str) -> str:
    return value if NUMBER.fullmatch(value) else FORMULA.sub(r"\1'\2", value)


def _rounded(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
