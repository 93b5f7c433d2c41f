"""The csv of what was mined: of the form of `DL_info.csv`, with a column `Origin`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from train.data.deeplesion import NOTHING, ORIGIN, UNKNOWN, KeySlice
from train.data.layout import MARGIN_PX

_SAME_IN_A_SERIES = (
    "Patient_index",
    "Study_index",
    "Series_ID",
    "Possibly_noisy",
    "Slice_range",
    "Spacing_mm_px_",
    "Image_size",
    "DICOM_windows",
    "Patient_gender",
    "Patient_age",
    "Train_Val_Test",
)

Series = Mapping[str, Mapping[str, Any]]
"""By the name of a series ("000001_01_01"), the columns that are the same in all its rows."""


def series_of(table: pd.DataFrame) -> Series:
    """What a table in the form of `DL_info.csv` says of each series, in its first row."""
    names = table["File_name"].str.rsplit("_", n=1).str[0]
    first = ~names.duplicated()
    return dict(zip(names[first], table[first].filter(_SAME_IN_A_SERIES).to_dict("records")))


def rows(series: Series, key_slice: KeySlice, boxes: np.ndarray, labels: Sequence[int], origin: str) -> pd.DataFrame:
    """Rows for `boxes` (n, 4) in 0-based pixels on a slice, with what is the same in its series.

    A box's diameters stand in for a lesion's: without the margin of 5 pixels.
    """
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2] - 2 * MARGIN_PX, 1)
    written = pd.DataFrame(
        {
            "Bounding_boxes": [_joined(box + 1) for box in boxes],
            "Lesion_diameters_Pixel_": [_joined(np.sort(pair)[::-1]) for pair in sides],
            "Coarse_lesion_type": np.asarray(labels, int),
        }
    )
    return written.assign(**_of_slice(series, key_slice), **{ORIGIN: origin})


def row_of_nothing(series: Series, key_slice: KeySlice) -> pd.DataFrame:
    """The row of a slice that was looked at, without a box."""
    blank = {"Bounding_boxes": [""], "Lesion_diameters_Pixel_": [""], "Coarse_lesion_type": [UNKNOWN]}
    return pd.DataFrame(blank).assign(**_of_slice(series, key_slice), **{ORIGIN: NOTHING})


def _of_slice(series: Series, key_slice: KeySlice) -> dict[str, Any]:
    return {**series[key_slice.series], "File_name": key_slice.name, "Key_slice_index": key_slice.number}


def _joined(values: np.ndarray) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
