"""The table of lesions for spreadsheets: one row for each lesion of the report, what a reader asks for first, what
programs need last."""

from __future__ import annotations

import csv
import io

from LesionDetectorLib.followup.baseline import Entry, assess
from LesionDetectorLib.lesion import Lesion
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.spreadsheet import safe

BOX = ("box_x0", "box_y0", "box_x1", "box_y1")
ENDS = ("long_x0", "long_y0", "long_x1", "long_y1", "short_x0", "short_y0", "short_x1", "short_y1")
CENTRE = ("centre_l_mm", "centre_p_mm", "centre_s_mm")
# A new column is a name here, at the end so that what reads the table by place goes on to work, and a value in `_row`.
COLUMNS = (
    *("number", "body_part", "confidence", "long_axis_mm", "short_axis_mm", "study", "series", "slice", "status"),
    *("origin", "marks", "k", "first_k", "last_k", *BOX, *ENDS, *CENTRE, "id"),
)
LOCATION_COLUMNS = ("location_x", "location_y", "location_z", "region")
BASELINE_COLUMNS = ("recist_category", "recist_target_mm", "recist_reason")


def compose(reading: Reading, baseline: bool = False) -> str:
    """The lesions that the report shows as CSV, by their numbers.

    Diameters are in mm, the centre of the box is in LPS mm, `slice` is the number that the report prints; k, box and
    end points are continuous voxel indices of the CT. What is not known is empty. With `baseline`, more columns have
    the RECIST 1.1 baseline; those of recist_target_mm add up to its sum of diameters. If a
    lesion has a `Location`, the last columns say where in the body each lies. Text that a spreadsheet would calculate
    gets an apostrophe before it.
    """
    shown = reading.reported
    entries = assess(reading).entries if baseline else [None] * len(shown)
    file = io.StringIO()
    columns = COLUMNS + (BASELINE_COLUMNS if baseline else ())
    if any(lesion.location for lesion in shown):
        columns += LOCATION_COLUMNS
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    for number, (lesion, entry) in enumerate(zip(shown, entries, strict=True), start=1):
        writer.writerow(_row(reading, lesion, number) | _location(lesion) | ({} if entry is None else _recist(entry)))
    return file.getvalue()


def _row(reading: Reading, lesion: Lesion, number: int) -> dict[str, object]:
    """What stands under each of the `COLUMNS`."""
    x0, y0, x1, y1 = lesion.box
    recist = lesion.recist
    ends = (
        [None] * 8
        if recist is None
        else [value for point in (*recist.long_axis, *recist.short_axis) for value in point]
    )
    centre = reading.geometry.to_lps(((x0 + x1) / 2, (y0 + y1) / 2, lesion.key_slice)).tolist()
    return {
        "number": number,
        "body_part": lesion.body_part.title,
        "confidence": _rounded(lesion.confidence, 3),
        "long_axis_mm": _rounded(None if recist is None else recist.long_mm, 1),
        "short_axis_mm": _rounded(None if recist is None else recist.short_mm, 1),
        "study": safe(reading.study),
        "series": safe(reading.series),
        "slice": reading.slice_number(lesion.key_slice),
        "status": lesion.status.value,
        "origin": lesion.origin.value,
        "marks": ", ".join(lesion.marks),
        "k": lesion.key_slice,
        "first_k": lesion.slices[0],
        "last_k": lesion.slices[1],
        **{name: _rounded(value, 3) for name, value in zip(BOX, lesion.box, strict=True)},
        **{name: _rounded(value, 3) for name, value in zip(ENDS, ends, strict=True)},
        **{name: _rounded(value, 3) for name, value in zip(CENTRE, centre, strict=True)},
        "id": safe(lesion.id),
    }


def _location(lesion: Lesion) -> dict[str, str]:
    """What stands under each of the `LOCATION_COLUMNS`; nothing for a lesion without a location."""
    if lesion.location is None:
        return {}
    told = (*(_rounded(value, 3) for value in lesion.location), lesion.location.region.value)
    return dict(zip(LOCATION_COLUMNS, told, strict=True))


def _recist(entry: Entry) -> dict[str, str]:
    """What stands under each of the `BASELINE_COLUMNS`."""
    target_mm = _rounded(entry.diameter_mm if entry.is_target else None, 1)
    return {"recist_category": entry.category.value, "recist_target_mm": target_mm, "recist_reason": entry.reason}


def _rounded(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
