"""What is known of synthetic patients: every lesion, from the `lesions.csv` of `train.phantom --slices all`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from LesionDetectorLib.boxes import pairwise_iou
from LesionDetectorLib.refusal import Refusal

from train.data.deeplesion import MARKED, MINED, NOTHING, ORIGIN, SUSPICIOUS, read_boxes, read_table

RIGHT_IOU = 0.3


class Truth:
    """Every lesion of synthetic patients on every slice."""

    def __init__(self, csv: Path) -> None:
        table = read_table(csv)
        if "Lesion" not in table.columns:
            raise Refusal(f"{csv} lacks the column Lesion; give the lesions.csv of train.phantom --slices all.")
        self._boxes, self._lesions = read_boxes(csv, table), table["Lesion"].to_numpy(int)
        self._rows = table.reset_index(drop=True).groupby("File_name").indices

    def on(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (n, 4) of the lesions on a slice, in 0-based pixels, and their numbers (n,) in the patient."""
        rows = self._rows.get(name, np.zeros(0, int))
        return self._boxes[rows], self._lesions[rows]

    def lesions(self, name: str, boxes: np.ndarray) -> np.ndarray:
        """The number (n,) of the patient's lesion that each of `boxes` (n, 4) on a slice overlaps, 0 for none."""
        known, numbers = self.on(name)
        if not len(known) or not len(boxes):
            return np.zeros(len(boxes), int)
        overlap = pairwise_iou(boxes, known)
        return np.where(overlap.max(axis=1) >= RIGHT_IOU, numbers[overlap.argmax(axis=1)], 0)


def quality(csv: Path, rows: pd.DataFrame, truth: Truth) -> str:
    """How many of the mined and of the suspicious boxes are on a lesion, and how many of the lesions that are not
    marked, on the slices that were looked at, they find. `rows` as `train.mine` writes them, into `csv`."""
    right: dict[str, list[bool]] = {MINED: [], SUSPICIOUS: []}
    found: dict[str, list[bool]] = {MINED: [], SUSPICIOUS: []}
    boxed = rows[rows[ORIGIN] != NOTHING]
    boxes, origins = read_boxes(csv, boxed), boxed[ORIGIN].to_numpy(str)
    places = boxed.reset_index(drop=True).groupby("File_name").indices
    for name in rows["File_name"].unique():
        here = places.get(name, np.zeros(0, int))
        known, _ = truth.on(name)
        overlap = pairwise_iou(known, boxes[here]) >= RIGHT_IOU
        hidden = ~overlap[:, origins[here] == MARKED].any(axis=1)
        for origin in right:
            own = overlap[:, origins[here] == origin]
            right[origin] += own.any(axis=0).tolist()
            found[origin] += own[hidden].any(axis=1).tolist()
    parts = [
        f"{len(right[origin])} {origin}, {_share(right[origin])} of them on a lesion, which are "
        f"{_share(found[origin])} of the {len(found[origin])} cross-sections without a mark"
        for origin in right
    ]
    return "; ".join(parts)


def _share(values: list[bool]) -> str:
    return f"{100 * np.mean(values):.0f} %" if values else "none"
