"""Volumetric FROC of a detector on the sub-volumes of a data set in DeepLesion's layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from LesionDetectorLib.files import write_text

from train.data import subvolumes as layout
from train.data.deeplesion import DeepLesionError
from train.data.subvolumes import SubVolume
from train.measuring.boxes_csv import SIDES
from train.measuring.detected import detect_subvolumes
from train.measuring.volumes import PUBLISHED
from train.measuring.volumes_csv import Counting, evaluated, read_subvolumes, read_truth

if TYPE_CHECKING:
    from LesionDetectorLib.detect import Detector

MARKS = "marks_on_the_key_slices"


def volumes_of_folder(
    detector: Detector,
    folder: Path,
    split: str,
    counting: Counting,
    truth_csv: Path | None = None,
    subvolumes_csv: Path | None = None,
    out: Path | None = None,
) -> dict:
    """Detect on all slices of the sub-volumes, or of those that `subvolumes_csv` names; what is stated on the marks of
    the key slices, and on the lesions of `truth_csv` in the sub-volumes that it names.

    The two are different truths and never mixed. `out` gets report.json, and detections, marks and sub-volumes as
    `volumes_of_csv` reads them. Raises DeepLesionError for a folder or csv that cannot be used, and OSError.
    """
    subvolumes = layout.read(folder, split)
    if subvolumes_csv is not None:
        wanted = set(read_subvolumes(subvolumes_csv, split)["image"])
        subvolumes = [subvolume for subvolume in subvolumes if subvolume.name in wanted]
    if not subvolumes:
        named = f" that {subvolumes_csv} names" if subvolumes_csv else ""
        raise DeepLesionError(f"{folder} holds no sub-volume of the {split} split{named}; choose another with --split.")
    lesions = {MARKS: marks(subvolumes)}
    if truth_csv is not None:
        lesions[truth_csv.name] = read_truth(truth_csv, split)
    found = detect_subvolumes(detector, subvolumes)
    names = pd.Index([subvolume.name for subvolume in subvolumes])
    patients = np.array([str(subvolume.patient) for subvolume in subvolumes])
    result: dict = {"missing_slices": sum(len(subvolume.missing) for subvolume in subvolumes)}
    for truth, table in lesions.items():
        held = np.ones(len(names), bool) if truth == MARKS else names.isin(table["image"])
        if not held.any():
            raise DeepLesionError(f"{truth_csv} names none of the sub-volumes of {folder}, such as {names[0]}.")
        result[truth] = evaluated(found, table, names[held], patients[held], counting)
    result["published"] = PUBLISHED
    if out is not None:
        _write(out, result, found, lesions[MARKS], pd.DataFrame({"image": names, "patient": patients}))
    return result


def marks(subvolumes: Sequence[SubVolume]) -> pd.DataFrame:
    """The marks on the key slices, each on one slice, as `read_truth` gives lesions."""
    parts = [
        pd.DataFrame(
            {
                "image": subvolume.name,
                "z1": key_slice.number,
                "z2": key_slice.number,
                **dict(zip(SIDES, key_slice.boxes.T)),
                "label": key_slice.labels,
                "patient": key_slice.patient,
            }
        )
        for subvolume in subvolumes
        for key_slice in subvolume.key_slices
    ]
    return pd.concat(parts, ignore_index=True)


def _write(out: Path, result: dict, found: pd.DataFrame, lesions: pd.DataFrame, names: pd.DataFrame) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, table in ("detections", found), ("ground_truth", lesions), ("subvolumes", names):
        write_text(out / f"{name}.csv", table.rename(columns={"image": "subvolume"}).to_csv(index=False))
    write_text(out / "report.json", json.dumps(result, indent=2) + "\n")
