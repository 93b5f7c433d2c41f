"""Volumetric FROC of the detections in one csv on the lesions in another.

Detections have the columns subvolume, slice, x1, y1, x2, y2, score; lesions subvolume, x1, y1, x2, y2 and slice, or z1
and z2 (first and last slice). Optional: in the lesions label (-1: ignored), patient and split; sub-volumes in a csv of
their own with the column subvolume and, optional, patient and split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from LesionDetectorLib.stack import STACKING_IOU

from train.data.deeplesion import DeepLesionError
from train.measuring import boxes_csv
from train.measuring.bootstrap import Bootstrap
from train.measuring.boxes_csv import SIDES, check_whole, complain
from train.measuring.volumes import IOU, PUBLISHED, statement, volumetric_froc

DEEPLESION_NAME = r"^(\d+)_\d+_\d+_\d+-\d+$"
"""Patient, study, series and slices of a sub-volume of DeepLesion: 002666_01_01_001-030."""


@dataclass(frozen=True)
class Counting:
    """How 3-D boxes are made and counted: as in `volumes.volumetric_froc` and `bootstrap.Bootstrap`."""

    iou: float = IOU
    linking_iou: float = STACKING_IOU
    every: int = 1
    replicates: int = 0
    seed: int = 0


def volumes_of_csv(
    detections_csv: Path, truth_csv: Path, subvolumes_csv: Path | None, split: str | None, counting: Counting
) -> dict:
    """Sensitivity at false 3-D boxes per sub-volume, and the published table.

    The sub-volumes that count are those of `subvolumes_csv`; without it those of the lesions, if these have the column
    split, for then they are a whole data set; else all that one of the two files names. Rows of other sub-volumes are
    left out, and counted. `split` keeps the rows of one split. Raises DeepLesionError for a csv that cannot be used.
    """
    found, lesions = read_detections(detections_csv, counting.every), read_truth(truth_csv, split)
    listed = lesions if "split" in lesions else None
    if subvolumes_csv is not None:
        listed = read_subvolumes(subvolumes_csv, split)
    if split is not None and (listed is None or "split" not in listed):
        raise DeepLesionError(f"{subvolumes_csv or truth_csv} lacks the column split; leave --split out.")
    names = pd.Index(pd.unique((pd.concat([lesions, found]) if listed is None else listed)["image"]))
    if not len(names):
        raise DeepLesionError(f"{detections_csv} and {truth_csv} name no sub-volume; list them with --subvolumes.")
    patients = patients_of(truth_csv, names, [lesions] if listed is None else [listed, lesions], counting)
    return {**evaluated(found, lesions, names, patients, counting), "published": PUBLISHED}


def evaluated(
    found: pd.DataFrame, lesions: pd.DataFrame, names: pd.Index, patients: np.ndarray, counting: Counting
) -> dict:
    """What is stated of the sub-volumes `names`, whose `patients` (names,) are; both tables as they are read here."""
    inside, marked = found["image"].isin(names), lesions["image"].isin(names)
    left_out = {"detections": int((~inside).sum()), "lesions": int((~marked).sum())}
    found, lesions = found[inside], lesions[marked]
    detections, truth = (boxes_csv.to_boxes(table, names, labels=False) for table in (found, lesions))
    slices, spans = found["slice"].to_numpy(int), lesions[["z1", "z2"]].to_numpy(int)
    limits = counting.iou, counting.linking_iou, counting.every
    result = volumetric_froc(detections, slices, truth, spans, len(names), *limits)
    return {
        "iou": counting.iou,
        "linking_iou": counting.linking_iou,
        "detections": len(found),
        "left_out_of_other_subvolumes": left_out,
        **statement(result, Bootstrap(patients, counting.replicates, counting.seed)),
    }


def read_detections(path: Path, every: int = 1) -> pd.DataFrame:
    """The rows of a csv of detections on every `every`-th slice, sub-volumes in the column image.

    DeepLesionError names what is wrong.
    """
    table = _named(path, boxes_csv.read_table(path, ["subvolume", "slice", *SIDES, "score"]))
    boxes_csv.check_sides(path, table)
    boxes_csv.check_number(path, table, "score")
    check_whole(path, table, "slice")
    first = table.groupby("image")["slice"].transform("min")
    apart = f"a slice that lies {every} or a multiple of it from the first of its sub-volume"
    complain(path, table, "slice", (table["slice"] - first) % every != 0, apart)
    return table.drop(columns="label", errors="ignore")


def read_truth(path: Path, split: str | None = None) -> pd.DataFrame:
    """The rows of a csv of lesions, sub-volumes in the column image, first and last slice in z1 and z2.

    DeepLesionError names what is wrong.
    """
    table = _named(path, boxes_csv.read_table(path, ["subvolume", *SIDES]))
    boxes_csv.check_sides(path, table)
    boxes_csv.check_label(path, table)
    given = {"slice", "z1", "z2"} & set(table.columns)
    if given not in ({"slice"}, {"z1", "z2"}):
        raise DeepLesionError(f"{path} must say where lesions lie: in one column slice, or in z1 and z2.")
    for name in sorted(given):
        check_whole(path, table, name)
    if given == {"slice"}:
        table = table.assign(z1=table["slice"], z2=table["slice"])
    complain(path, table, "z2", table["z2"] < table["z1"], "a number not below z1")
    return _of_split(path, table, split)


def read_subvolumes(path: Path, split: str | None = None) -> pd.DataFrame:
    """The rows of a csv of sub-volumes, their names in the column image; DeepLesionError names what is wrong."""
    return _of_split(path, _named(path, boxes_csv.read_table(path, ["subvolume"])), split)


def _named(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    complain(path, table, "subvolume", table["subvolume"].isna(), "a sub-volume's name")
    if "patient" in table:
        complain(path, table, "patient", table["patient"].isna(), "a patient's name or number")
    return table.drop(columns="image", errors="ignore").rename(columns={"subvolume": "image"})


def _of_split(path: Path, table: pd.DataFrame, split: str | None) -> pd.DataFrame:
    """The rows of a split; all of a table without that column."""
    if "split" not in table:
        return table
    held = sorted(map(str, table["split"].unique()))
    if split is None and len(held) > 1:
        raise DeepLesionError(f"{path} holds the splits {', '.join(held)}; choose one with --split.")
    if split is not None and split not in held:
        raise DeepLesionError(f"{path} holds no row of the {split} split; it has {', '.join(held) or 'none'}.")
    return table if split is None else table[table["split"] == split]


def patients_of(path: Path, names: pd.Index, tables: list[pd.DataFrame], counting: Counting) -> np.ndarray:
    """Whose each of the sub-volumes `names` is: (names,), from the first table that says it, else from DeepLesion's
    names.

    A sub-volume of which no table says it stands for itself. DeepLesionError where intervals are asked for and nothing
    is known.
    """
    if not counting.replicates:
        return np.array(names, str)
    known = [table[["image", "patient"]] for table in tables if "patient" in table]
    if not known:
        own = names.to_series().str.extract(DEEPLESION_NAME, expand=False)
        if own.isna().any():
            raise DeepLesionError(f"{path} lacks the column patient, which intervals over patients need.")
        return own.to_numpy(str)
    whose = pd.concat(known).drop_duplicates("image").set_index("image")["patient"].reindex(names)
    return ("patient " + whose).where(whose.notna(), "sub-volume " + names.to_series()).to_numpy(str)
