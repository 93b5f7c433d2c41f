"""The training sets of the class-imbalance experiments: drawn from DeepLesion by body part, lesions of a patient and
size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from LesionDetectorLib.files import write_text
from LesionDetectorLib.lesion import BodyPart

from train.data.deeplesion import REPEAT, SPLITS, UNKNOWN, DeepLesionError, read_numbers, read_spacing, read_table
from train.data.layout import COLUMNS

LARGE_MM = 10.0
"""Short axis from which a lesion counts as large."""
FEW = 2
"""Most lesions of a patient in the group with few."""
SAME_PLACE = 0.02
"""Two marks of one body part are one lesion seen again if they lie no farther apart than this along each axis of the
relative location."""
REPEAT_BELOW = 1 / len(BodyPart)
"""A label on less than this share of the slices has its slices repeated: its share if all labels were equally
common."""
SHARES = (0.6, 0.2, 0.2)


def read_lesions(csv: Path) -> pd.DataFrame:
    """All rows of a `DL_info.csv` and, beside its own columns, `sad_mm` (short axis) and `x`, `y`, `z` (relative
    location, NaN if unknown).

    DeepLesionError names the file, or the row that cannot be right.
    """
    table = read_table(csv, COLUMNS)
    short_px = read_numbers(csv, table, "Lesion_diameters_Pixel_", 2)[:, 1]
    places = read_numbers(csv, table, "Normalized_lesion_location", 3, blank=True)
    read_numbers(csv, table, "Bounding_boxes", 4)
    return table.assign(sad_mm=short_px * read_spacing(csv, table)[:, 0], **dict(zip("xyz", places.T)))


def first_visit(table: pd.DataFrame, reading: str = "lesion", same_place: float = SAME_PLACE) -> pd.DataFrame:
    """The rows that a first visit saw.

    "lesion": those of a lesion's first visit; a mark goes if a kept one of an earlier study of the patient has its
    label and lies at its place. "study": those of the patient's first study. "all": every row.
    """
    if reading == "all":
        return table
    if reading == "study":
        return table[table["Study_index"] == table.groupby("Patient_index")["Study_index"].transform("min")]
    if reading != "lesion":
        raise ValueError(f"'{reading}' is not a reading of a first visit; use lesion, study or all.")
    ordered = table.sort_values("Study_index", kind="stable")
    studies, places = ordered["Study_index"].to_numpy(), ordered[["x", "y", "z"]].to_numpy()
    kept = []
    for rows in ordered.groupby(["Patient_index", "Coarse_lesion_type"]).indices.values():
        seen: list[int] = []
        for row in rows:
            earlier = [other for other in seen if studies[other] < studies[row]]
            if not (np.abs(places[earlier] - places[row]) <= same_place).all(1).any():
                seen.append(row)
        kept += seen
    return ordered.iloc[kept].sort_index()


def limited(table: pd.DataFrame, reading: str = "lesion", same_place: float = SAME_PLACE) -> dict[str, pd.DataFrame]:
    """The steps to D_L by name, each with the rows that it leaves.

    Noisy marks and repeated rows, which no training sees, go first.
    """
    clean = table[(table["Possibly_noisy"] == 0) & ~table.duplicated(["File_name", "Bounding_boxes"])]
    visit = first_visit(clean, reading, same_place)
    labelled = visit[visit["Coarse_lesion_type"] != UNKNOWN]
    return {
        "rows of the csv": table,
        "neither noisy nor repeated": clean,
        "first visit": visit,
        "labelled: D_L": labelled,
    }


def split_by_patient(lesions: pd.DataFrame, seed: int = 0, shares: Sequence[float] = SHARES) -> pd.DataFrame:
    """`lesions` with `Train_Val_Test` drawn again: each patient in one split, `shares` of the patients in train,
    validation and test.

    DeepLesionError where there are too few patients for three splits.
    """
    patients = np.random.default_rng(seed).permutation(np.unique(lesions["Patient_index"]))
    edges = np.rint(np.cumsum(shares)[:2] / np.sum(shares) * len(patients)).astype(int)
    parts = np.split(patients, edges)
    if not all(map(len, parts)):
        raise DeepLesionError(
            f"{len(patients)} patient(s) with labelled lesions are too few to split; use a csv with at least 4."
        )
    split = {patient: code for code, part in zip(SPLITS.values(), parts, strict=True) for patient in part.tolist()}
    return lesions.assign(Train_Val_Test=lesions["Patient_index"].map(split))


def rarest(train: pd.DataFrame) -> int:
    """The most lesions of which every label that occurs can supply the same number: labels x lesions of the rarest."""
    labels = train["Coarse_lesion_type"].value_counts()
    return int(len(labels) * labels.min())


def plain(train: pd.DataFrame, lesions: int, rng: np.random.Generator) -> pd.DataFrame:
    """D_U: `lesions` rows at random, or all there are."""
    return train.iloc[np.sort(rng.permutation(len(train))[:lesions])]


def by_label(train: pd.DataFrame, lesions: int, rng: np.random.Generator) -> pd.DataFrame:
    """D_BP: the same number of every label.

    Where `lesions` asks a label for more than it has, the others make up for it equally.
    """
    return _level(train, train["Coarse_lesion_type"], lesions, rng)


def by_lesions_per_patient(train: pd.DataFrame, lesions: int, rng: np.random.Generator) -> pd.DataFrame:
    """D_N: whole patients, so that those with few lesions in `train` (1-2) hold as many lesions as those with more.

    The largest number up to `lesions` / 2 that both groups can make up exactly.
    """
    counts = train.groupby("Patient_index").size()
    counts = counts.iloc[rng.permutation(len(counts))]
    few, many = (_sums(group, lesions // 2) for group in (counts[counts <= FEW], counts[counts > FEW]))
    each = max(few.keys() & many.keys())
    return train[train["Patient_index"].isin(_summands(few, each) + _summands(many, each))]


def by_size(train: pd.DataFrame, lesions: int, rng: np.random.Generator) -> pd.DataFrame:
    """D_S: as many lesions with a short axis of 10 mm or more as below, as many as both sizes can supply."""
    large = train["sad_mm"] >= LARGE_MM
    return _level(train, large, 2 * min(lesions // 2, large.sum(), (~large).sum()), rng)


def by_label_and_size(train: pd.DataFrame, lesions: int, rng: np.random.Generator) -> pd.DataFrame:
    """BPS: labels as in D_BP, and within each label the two sizes as equal as it allows."""
    labels = train["Coarse_lesion_type"]
    quotas = _quotas(labels.value_counts(), lesions)
    parts = [_level(rows, rows["sad_mm"] >= LARGE_MM, quotas[label], rng) for label, rows in train.groupby(labels)]
    return pd.concat(parts)


class Experiment(NamedTuple):
    """A training set of the class-imbalance experiments.

    Attributes
    ----------
    draw: takes the train split, the number of lesions wanted and a random generator; the rows that the set has.
    balances: what it makes equal, of "label", "patient" and "size"; the picture draws it there beside the plain sample.
    repeats: whether the slices of rare labels are then repeated.
    if_empty: why it may have no row.
    """

    draw: Callable[[pd.DataFrame, int, np.random.Generator], pd.DataFrame]
    balances: tuple[str, ...]
    repeats: bool = False
    if_empty: str = "there is no lesion"


# A new experiment is a function that draws it, and a row here.
EXPERIMENTS = {
    "BP": Experiment(by_label, ("label",)),
    "N": Experiment(
        by_lesions_per_patient, ("patient",), if_empty=f"no patient, or every patient, has more than {FEW} lesions"
    ),
    "S": Experiment(by_size, ("size",), if_empty=f"no lesion, or every lesion, is {LARGE_MM:g} mm or more"),
    "U": Experiment(plain, ()),
    "RF": Experiment(plain, ("label",), repeats=True),
    "BPS": Experiment(by_label_and_size, ("label", "size")),
}


def draw(
    train: pd.DataFrame, experiment: str, seed: int, lesions: int | None = None, repeat_below: float = REPEAT_BELOW
) -> pd.DataFrame:
    """The set of one of the `EXPERIMENTS`: rows of `train`, at most `lesions` of them (default: `rarest`).

    Same seed, same set.

    RF's rows have a column `Repeat`, the same on all rows of a slice. DeepLesionError where a group to balance is
    empty.
    """
    rng, row = np.random.default_rng(seed), EXPERIMENTS[experiment]
    drawn = row.draw(train, rarest(train) if lesions is None else lesions, rng).sort_index()
    if drawn.empty:
        raise DeepLesionError(
            f"D_{experiment} would be empty: in the train split {row.if_empty}; choose another --experiment."
        )
    return repeated(drawn, repeat_below, rng) if row.repeats else drawn


def repeated(lesions: pd.DataFrame, repeat_below: float, rng: np.random.Generator) -> pd.DataFrame:
    """RF: `lesions` with a column `Repeat` >= 1, higher on slices with rare labels.

    Gupta et al., LVIS, CVPR 2019, appendix: a label on the share f of the slices has the factor max(1,
    sqrt(repeat_below / f)), a slice the highest factor of its labels, rounded up or down at random so that it is met on
    average.
    """
    slices, labels = lesions["File_name"], lesions["Coarse_lesion_type"]
    share = slices.groupby(labels).nunique() / slices.nunique()
    factor = labels.map(np.sqrt(repeat_below / share).clip(lower=1)).groupby(slices).max()
    repeat = np.floor(factor + rng.random(len(factor))).astype(int)
    return lesions.assign(**{REPEAT: slices.map(repeat)})


def _level(rows: pd.DataFrame, groups: pd.Series, lesions: int, rng: np.random.Generator) -> pd.DataFrame:
    """`lesions` of `rows` at random, as equally many of each group as there are."""
    quotas = _quotas(groups.value_counts(), lesions)
    return pd.concat([plain(part, quotas[group], rng) for group, part in rows.groupby(groups)])


def _quotas(available: pd.Series, total: int) -> dict[int, int]:
    """How many to take of each group so that they add up to `total`, as equal as what is `available` allows."""
    quotas, left = {}, total
    for place, (group, count) in enumerate(available.sort_values(kind="stable").items()):
        quotas[group] = min(count, left // (len(available) - place))
        left -= quotas[group]
    return quotas


def _sums(counts: pd.Series, limit: int) -> dict[int, tuple[int, int]]:
    """Every sum up to `limit` that some patients' counts make up -> its last patient and the sum before him (0 has
    none)."""
    sums: dict[int, tuple[int, int]] = {0: (0, 0)}
    for patient, count in counts.items():
        for before in [total for total in sums if total + count <= limit and total + count not in sums]:
            sums[before + count] = (patient, before)
    return sums


def _summands(sums: dict[int, tuple[int, int]], total: int) -> list[int]:
    patients = []
    while total:
        patient, total = sums[total]
        patients.append(patient)
    return patients


def subset(split: pd.DataFrame, drawn: pd.DataFrame, others: pd.DataFrame | None = None) -> pd.DataFrame:
    """The rows to write: the drawn ones as train, and all of D_L's validation and test.

    `others` are further marks on these slices (`unused`), which then come along as of unknown label, so that training
    and evaluation ignore them instead of taking them for background.
    """
    parts = [drawn, split[split["Train_Val_Test"] != SPLITS["train"]]]
    if others is not None:
        codes = pd.concat(parts).groupby("File_name")["Train_Val_Test"].first()
        parts.append(others.assign(Coarse_lesion_type=UNKNOWN, Train_Val_Test=others["File_name"].map(codes)))
    rows = pd.concat(parts).sort_index()
    return rows.fillna({REPEAT: 1}).astype({REPEAT: int}) if REPEAT in rows.columns else rows


def unused(marks: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Those of all `marks` that lie on the slices of `rows` without being one of them."""
    return marks[marks["File_name"].isin(rows["File_name"]) & ~marks.index.isin(rows.index)]


def write(rows: pd.DataFrame, out: Path) -> None:
    """Write rows as a `DL_info.csv`, with the column `Repeat` where they have it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, rows.to_csv(index=False, columns=[*COLUMNS, *({REPEAT} & set(rows.columns))]))
