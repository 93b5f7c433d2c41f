"""Draw the training sets of the class-imbalance experiments from a `DL_info.csv` and write each as a csv of the same form.

Erickson, Mathai, Summers, "Class Imbalance Correction for Improved Universal Lesion Detection and Tagging in CT", 2025: keep the first
visit, then the labelled lesions (D_L), split D_L by patient, and draw from its train split
  BP   the same number of lesions of every body part
  N    as many lesions of patients with 1-2 lesions as of patients with 3 or more
  S    as many lesions with a short axis of 10 mm or more as below
  U    a plain sample, as common as they come
and, which the paper leaves for the future,
  RF   the plain sample with the slices of rare labels repeated (repeat-factor sampling, Gupta et al., LVIS, CVPR 2019)
  BPS  body parts equal, and within each the two sizes as equal as they allow
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from LesionDetectorLib.files import whole, write_text
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.refusal import Refusal

from train.deeplesion import REPEAT, SPLITS, UNKNOWN, DeepLesionError, read_numbers, read_spacing, read_table
from train.deeplesion_layout import COLUMNS

LARGE_MM = 10.0
"""Short axis from which a lesion counts as large."""
FEW = 2
"""Most lesions of a patient in the group with few."""
SAME_PLACE = 0.02
"""Two marks of one body part are one lesion seen again if they lie no farther apart than this along each axis of the relative location."""
REPEAT_BELOW = 1 / len(BodyPart)
"""A label on less than this share of the slices has its slices repeated: its share if all labels were equally common."""
MANY = 15
"""Patients with so many lesions or more share a bar of the picture."""
COLOURS = {"U": "tab:blue", "BP": "tab:orange", "N": "tab:orange", "S": "tab:orange", "BPS": "tab:green", "RF": "tab:red"}
SHARES = (0.6, 0.2, 0.2)
PAPER = {"rows of the csv": (32735, 32120), "first visit": (26034, 25568), "labelled: D_L": (8104, 7953), "drawn": (1331, 1309)}
"""Lesions and slices of the paper after each step."""
EXAMPLES = """
examples:
  python -m train.balance DeepLesion/DL_info.csv --experiment BP --out DeepLesion/bp.csv --picture
  python -m train.balance DeepLesion/DL_info.csv --experiment U --seed 3 --lesions 1331 --out DeepLesion/u3.csv
  python -m train.balance DeepLesion/DL_info.csv --experiment RF --lesions all --out DeepLesion/rf.csv
  python -m train.fit --data DeepLesion/bp.csv --out runs/bp
"""

# --------------------------------------------------------------------------------------------------------- from the csv to D_L


def read_lesions(csv: Path) -> pd.DataFrame:
    """All rows of a `DL_info.csv` and, beside its own columns, `sad_mm` (short axis) and `x`, `y`, `z` (relative location, NaN if unknown).

    DeepLesionError names the file, or the row that cannot be right.
    """
    table = read_table(csv, COLUMNS)
    short_px = read_numbers(csv, table, "Lesion_diameters_Pixel_", 2)[:, 1]
    places = read_numbers(csv, table, "Normalized_lesion_location", 3, blank=True)
    read_numbers(csv, table, "Bounding_boxes", 4)
    return table.assign(sad_mm=short_px * read_spacing(csv, table)[:, 0], **dict(zip("xyz", places.T)))


def first_visit(table: pd.DataFrame, reading: str = "lesion", same_place: float = SAME_PLACE) -> pd.DataFrame:
    """The rows that a first visit saw.

    "lesion": those of a lesion's first visit; a mark goes if a kept one of an earlier study of the patient has its label and lies at its
    place. "study": those of the patient's first study. "all": every row.
    """
    if reading == "all":
        return table
    if reading == "study":
        return table[table["Study_index"] == table.groupby("Patient_index")["Study_index"].transform("min")]
    if reading != "lesion":
        raise ValueError(f"'{reading}' is no reading of a first visit; use lesion, study or all.")
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
    """The steps to D_L by name, each with the rows that it leaves; noisy marks and repeated rows, which no training sees, go first."""
    clean = table[(table["Possibly_noisy"] == 0) & ~table.duplicated(["File_name", "Bounding_boxes"])]
    visit = first_visit(clean, reading, same_place)
    labelled = visit[visit["Coarse_lesion_type"] != UNKNOWN]
    return {"rows of the csv": table, "neither noisy nor repeated": clean, "first visit": visit, "labelled: D_L": labelled}


def split_by_patient(lesions: pd.DataFrame, seed: int = 0, shares: Sequence[float] = SHARES) -> pd.DataFrame:
    """`lesions` with `Train_Val_Test` drawn anew: each patient in one split, `shares` of the patients in train, validation and test.

    DeepLesionError where there are too few patients for three splits.
    """
    patients = np.random.default_rng(seed).permutation(np.unique(lesions["Patient_index"]))
    edges = np.rint(np.cumsum(shares)[:2] / np.sum(shares) * len(patients)).astype(int)
    parts = np.split(patients, edges)
    if not all(map(len, parts)):
        raise DeepLesionError(f"{len(patients)} patient(s) with labelled lesions are too few to split; use a csv with at least 4.")
    split = {patient: code for code, part in zip(SPLITS.values(), parts, strict=True) for patient in part.tolist()}
    return lesions.assign(Train_Val_Test=lesions["Patient_index"].map(split))


# ------------------------------------------------------------------------------------------------------------- drawing a set


def rarest(train: pd.DataFrame) -> int:
    """The most lesions of which every label that occurs can supply the same number: labels x lesions of the rarest."""
    labels = train["Coarse_lesion_type"].value_counts()
    return int(len(labels) * labels.min())


def draw(train: pd.DataFrame, experiment: str, seed: int, lesions: int | None = None, repeat_below: float = REPEAT_BELOW) -> pd.DataFrame:
    """The set of one of the `EXPERIMENTS`: rows of `train`, at most `lesions` of them (default: `rarest`); same seed, same set.

    RF's rows have a column `Repeat`, the same on all rows of a slice. DeepLesionError where a group to balance is empty.
    """
    rng = np.random.default_rng(seed)
    drawn = EXPERIMENTS[experiment](train, rarest(train) if lesions is None else lesions, rng).sort_index()
    if drawn.empty:
        reason = {
            "N": f"no patient, or every patient, has more than {FEW} lesions",
            "S": f"no lesion, or every lesion, is {LARGE_MM:g} mm or more",
        }
        raise DeepLesionError(f"D_{experiment} would be empty: in the train split {reason[experiment]}; choose another --experiment.")
    return repeated(drawn, repeat_below, rng) if experiment == "RF" else drawn


def plain(train: pd.DataFrame, lesions: int, rng: np.random.Generator) -> pd.DataFrame:
    """D_U: `lesions` rows at random, or all there are."""
    return train.iloc[np.sort(rng.permutation(len(train))[:lesions])]


def by_label(train: pd.DataFrame, lesions: int, rng: np.random.Generator) -> pd.DataFrame:
    """D_BP: the same number of every label; where `lesions` asks a label for more than it has, the others make up for it equally."""
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


def repeated(lesions: pd.DataFrame, repeat_below: float, rng: np.random.Generator) -> pd.DataFrame:
    """RF: `lesions` with a column `Repeat` >= 1, higher on slices with rare labels.

    Gupta et al., LVIS, CVPR 2019, appendix: a label on the share f of the slices has the factor max(1, sqrt(repeat_below / f)), a slice the
    highest factor of its labels, rounded up or down at random so that it is met on average.
    """
    slices, labels = lesions["File_name"], lesions["Coarse_lesion_type"]
    share = slices.groupby(labels).nunique() / slices.nunique()
    factor = labels.map(np.sqrt(repeat_below / share).clip(lower=1)).groupby(slices).max()
    repeat = np.floor(factor + rng.random(len(factor))).astype(int)
    return lesions.assign(**{REPEAT: slices.map(repeat)})


EXPERIMENTS: dict[str, Callable[[pd.DataFrame, int, np.random.Generator], pd.DataFrame]] = {
    "BP": by_label,
    "N": by_lesions_per_patient,
    "S": by_size,
    "U": plain,
    "RF": plain,
    "BPS": by_label_and_size,
}
"""Which rows of the train split an experiment takes; RF then repeats some."""


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
    """Every sum up to `limit` that some patients' counts make up -> its last patient and the sum before him (0 has none)."""
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


# ----------------------------------------------------------------------------------------------------------------- the result


def subset(split: pd.DataFrame, drawn: pd.DataFrame, others: pd.DataFrame | None = None) -> pd.DataFrame:
    """The rows to write: the drawn ones as train, and all of D_L's validation and test.

    `others` are further marks on these slices (`unused`), which then come along as of unknown label, so that training and evaluation ignore
    them instead of taking them for background.
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


def _steps(steps: dict[str, pd.DataFrame], split: pd.DataFrame, drawn: pd.DataFrame, name: str) -> str:
    parts = {f"  of it {part}": split[split["Train_Val_Test"] == code] for part, code in SPLITS.items()}
    lines = [f"{'':32}{'lesions':>9}{'slices':>9}{'patients':>9}{'paper: lesions':>17}{'slices':>9}"]
    for step, rows in {**steps, **parts, f"drawn from train: {name}": drawn}.items():
        counts = (len(rows), rows["File_name"].nunique(), rows["Patient_index"].nunique())
        paper = PAPER.get(step.split(" from")[0], ("", ""))
        lines.append(
            f"{step:32}" + "".join(f"{count:9,}" for count in counts) + "".join(f"{n:{w},}" if n else "" for n, w in zip(paper, (17, 9)))
        )
    return "\n".join(lines)


def _groups(train: pd.DataFrame) -> dict[str, pd.Series]:
    """The lesions that an experiment may balance: name of a group -> which rows of the train split it holds."""
    few = train.groupby("Patient_index")["Patient_index"].transform("size") <= FEW
    large = train["sad_mm"] >= LARGE_MM
    return {
        **{part.title: train["Coarse_lesion_type"] == part for part in BodyPart},
        "G1: 1-2 a patient": few,
        "G2: 3 or more": ~few,
        "SAD >= 10 mm": large,
        "SAD < 10 mm": ~large,
    }


def _composition(train: pd.DataFrame, drawn: pd.DataFrame) -> str:
    columns = {"train split": train.index, "drawn": drawn.index}
    for title, large in (("of these SAD >= 10 mm", True), ("< 10 mm", False)):
        columns[title] = drawn.index[(drawn["sad_mm"] >= LARGE_MM) == large]
    if REPEAT in drawn.columns:
        columns["with repeats"] = drawn.index.repeat(drawn[REPEAT])
    groups = _groups(train)
    table = {title: {name: int(held.loc[rows].sum()) for name, held in groups.items()} for title, rows in columns.items()}
    return pd.DataFrame(table).to_string()


def _remarks(steps: dict[str, pd.DataFrame], train: pd.DataFrame, drawn: pd.DataFrame, wanted: int) -> list[str]:
    """Sentences on what the counts alone do not say."""
    clean, visit = steps["neither noisy nor repeated"], steps["first visit"]
    known = (clean["Coarse_lesion_type"] != UNKNOWN).sum()
    kept = len(steps["labelled: D_L"]) / max(known, 1)
    remarks = [
        f"The first visit keeps {len(visit) / len(clean):.1%} of all marks (paper: 79.5%) and {kept:.1%} of the labelled (paper: 82.6%)."
    ]
    if len(steps["rows of the csv"]) != PAPER["rows of the csv"][0]:
        remarks.append(
            "This csv is not the whole DL_info.csv: the share of the labelled marks compares with the paper's, the counts do not."
        )
    absent = [part.title for part in BodyPart if part not in train["Coarse_lesion_type"].to_numpy()]
    if absent:
        remarks.append(f"The train split has no lesion of {', '.join(absent)}; the other labels are balanced among themselves.")
    if len(drawn) != wanted:
        remarks.append(f"{wanted:,} lesions were wanted; {len(drawn):,} are the most that the rule of the experiment allows below that.")
    return remarks


def picture(lesions: pd.DataFrame, train: pd.DataFrame, sets: dict[str, pd.DataFrame], path: Path) -> None:
    """Draw the paper's Figure 1 (a)-(e) as PNG: `lesions` by label and by patient, and the `sets` by label, patients' group and size.

    `lesions` is D_L, `train` its train split, `sets` has "U" beside any of the other experiments; a set is drawn where it is balanced.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 8), layout="constrained")
    panels = figure.subplot_mosaic([list("aaaabbbb"), list("ccccddee")])
    per_label = lesions["Coarse_lesion_type"].value_counts().reindex(list(BodyPart), fill_value=0).sort_values(ascending=False)
    parts = [BodyPart(label).title for label in per_label.index]
    panels["a"].bar_label(panels["a"].bar(parts, per_label), fontsize=8)
    panels["a"].set(title="(a) lesions of each label in $D_L$", ylabel="lesions")
    per_patient = lesions.groupby("Patient_index").size().clip(upper=MANY).value_counts().reindex(range(1, MANY + 1), fill_value=0)
    panels["b"].bar_label(panels["b"].bar([*map(str, range(1, MANY)), f"{MANY}+"], per_patient), fontsize=8)
    panels["b"].set(title="(b) patients with so many lesions in $D_L$", xlabel="lesions of the patient", ylabel="patients")
    groups = _groups(train)
    for panel, experiments, names, title in (
        ("c", ("U", "BP", "BPS", "RF"), parts, "(c) lesions of each label"),
        ("d", ("U", "N"), [name for name in groups if name.startswith("G")], "(d) lesions by patient"),
        ("e", ("U", "S", "BPS"), [name for name in groups if name.startswith("SAD")], "(e) lesions by short axis"),
    ):
        _bars(panels[panel], {name: sets[name] for name in experiments if name in sets}, {name: groups[name] for name in names}, title)
    for panel in ("a", "c"):
        panels[panel].tick_params(axis="x", rotation=20)
    with whole(path) as file:
        figure.savefig(file, dpi=110, format="png")


def _bars(axes, sets: dict[str, pd.DataFrame], groups: dict[str, pd.Series], title: str) -> None:
    width = 0.8 / len(sets)
    for place, (name, rows) in enumerate(sets.items()):
        taken = rows.index.repeat(rows[REPEAT]) if REPEAT in rows.columns else rows.index
        heights = [int(held.loc[taken].sum()) for held in groups.values()]
        x = np.arange(len(groups)) + (place - (len(sets) - 1) / 2) * width
        axes.bar_label(axes.bar(x, heights, width, label=f"$D_{{{name}}}$", color=COLOURS[name]), fontsize=7)
    axes.set_xticks(range(len(groups)), [name.replace(": ", "\n").replace("SAD ", "SAD\n") for name in groups])
    axes.set(title=title, ylabel="lesions")
    axes.margins(y=0.2)
    axes.legend(loc="upper center", ncols=len(sets), fontsize=8)


# --------------------------------------------------------------------------------------------------------------- command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 when the csv stands, 2 with one sentence on stderr when it cannot."""
    options = _parser().parse_args(arguments)
    try:
        _balance(options)
    except (Refusal, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _balance(options: argparse.Namespace) -> None:
    if options.out.resolve() == options.csv.resolve():
        raise DeepLesionError(f"--out {options.out} is the csv that is read; choose another name for the subset.")
    steps = limited(read_lesions(options.csv), options.first_visit, options.same_place)
    split = split_by_patient(steps["labelled: D_L"], options.split_seed)
    train = split[split["Train_Val_Test"] == SPLITS["train"]]
    wanted = {"rarest": rarest(train), "all": len(train)}.get(options.lesions, options.lesions)
    sets = {name: draw(train, name, options.seed, wanted, options.repeat_below) for name in _drawn(options)}
    drawn = sets[options.experiment]
    rows = subset(split, drawn)
    others = unused(steps["neither noisy nor repeated"], rows)
    write(subset(split, drawn, others) if options.ignore_others else rows, options.out)
    if options.picture:
        picture(split, train, sets, options.out.with_suffix(".png"))
    print(_steps(steps, split, drawn, f"D_{options.experiment}"))
    print(f"\n{_composition(train, drawn)}\n")
    print(*_remarks(steps, train, drawn, wanted), sep="\n")
    if len(others):
        fate = (
            "come along with label -1, to be ignored"
            if options.ignore_others
            else "count as background; --ignore-others brings them along with label -1"
        )
        print(f"{len(others)} other marks on the slices of the three splits {fate}.")
    print(f"{options.out} holds {len(rows):,} lesions. To train: python -m train.fit --data {options.out} --out runs/{options.out.stem}")


def _drawn(options: argparse.Namespace) -> list[str]:
    return list(dict.fromkeys([*(("U", "BP", "N", "S") if options.picture else ()), options.experiment]))


def _lesions(text: str) -> int | str:
    if text in ("rarest", "all"):
        return text
    if text.isdecimal() and int(text) > 1:
        return int(text)
    raise argparse.ArgumentTypeError(f"'{text}' is neither 'rarest' nor 'all' nor a number above 1")


def _seed(text: str) -> int:
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 0")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.balance", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path, help="the official DL_info.csv, or one of its form")
    parser.add_argument("--experiment", required=True, choices=tuple(EXPERIMENTS))
    parser.add_argument(
        "--out", type=Path, required=True, metavar="SUBSET.csv", help="csv to write; put it beside Images_png to train on it"
    )
    parser.add_argument("--seed", type=_seed, default=0, help="of the draw; same seed, same set (%(default)s)")
    parser.add_argument("--split-seed", type=_seed, default=0, help="of the split, which all experiments should share (%(default)s)")
    parser.add_argument(
        "--first-visit",
        choices=("lesion", "study", "all"),
        default="lesion",
        help="keep marks of each lesion's first visit (default: fits the paper's counts), of the patient's first study, or all",
    )
    parser.add_argument(
        "--same-place",
        type=float,
        default=SAME_PLACE,
        help="for --first-visit lesion: how far apart, along each axis of the relative location, a lesion is still the same (%(default)s)",
    )
    parser.add_argument(
        "--lesions",
        type=_lesions,
        default="rarest",
        help="size of the set: rarest (default) = labels x lesions of the rarest, all, or a number; the paper has 1331",
    )
    parser.add_argument(
        "--repeat-below", type=float, default=REPEAT_BELOW, help="for RF: repeat labels on less than this share of the slices (%(default)s)"
    )
    parser.add_argument(
        "--ignore-others", action="store_true", help="bring along further marks on these slices with label -1, to be ignored"
    )
    parser.add_argument("--picture", action="store_true", help="also draw the paper's Figure 1 (a)-(e) as SUBSET.png")
    return parser


if __name__ == "__main__":
    sys.exit(main())
