"""The csv of what was mined: of the form of `DL_info.csv`, with a column `Origin`."""

from __future__ import annotations

from collections.abc import Sequence

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


def rows(
    table: pd.DataFrame, key_slice: KeySlice, boxes: np.ndarray, labels: Sequence[int], origin: str
) -> pd.DataFrame:
    """Rows for `boxes` (n, 4) in 0-based pixels on a slice, with what `table` says of the slice's series.

    A box's diameters stand in for a lesion's: without the margin of 5 pixels.
    """
    series = table[table["File_name"].str.startswith(f"{key_slice.series}_")].iloc[0]
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2] - 2 * MARGIN_PX, 1)
    written = pd.DataFrame(
        {
            "Bounding_boxes": [_joined(box + 1) for box in boxes],
            "Lesion_diameters_Pixel_": [_joined(np.sort(pair)[::-1]) for pair in sides],
            "Coarse_lesion_type": np.asarray(labels, int),
        }
    )
    return written.assign(**_of_slice(series, key_slice, table), **{ORIGIN: origin})


def row_of_nothing(table: pd.DataFrame, key_slice: KeySlice) -> pd.DataFrame:
    """The row of a slice that was looked at, without a box."""
    series = table[table["File_name"].str.startswith(f"{key_slice.series}_")].iloc[0]
    blank = {"Bounding_boxes": [""], "Lesion_diameters_Pixel_": [""], "Coarse_lesion_type": [UNKNOWN]}
    return pd.DataFrame(blank).assign(**_of_slice(series, key_slice, table), **{ORIGIN: NOTHING})


def _of_slice(series: pd.Series, key_slice: KeySlice, table: pd.DataFrame) -> dict:
    same = {name: series[name] for name in _SAME_IN_A_SERIES if name in table.columns}
    return {**same, "File_name": key_slice.name, "Key_slice_index": key_slice.number}


def _joined(values: np.ndarray) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
