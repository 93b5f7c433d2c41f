"""Draw the training sets of the class-imbalance experiments from a `DL_info.csv` and write each as a csv of the same
form.

Erickson, Mathai, Summers, "Class Imbalance Correction for Improved Universal Lesion Detection and Tagging in CT", 2025:
keep the first visit, then the labelled lesions (D_L), split D_L by patient, and draw from its train split
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
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from LesionDetectorLib.files import write_figure
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.refusal import Refusal

from train.data.deeplesion import REPEAT, SPLITS, UNKNOWN, DeepLesionError
from train.data.sets import (
    EXPERIMENTS,
    FEW,
    LARGE_MM,
    REPEAT_BELOW,
    SAME_PLACE,
    draw,
    limited,
    rarest,
    read_lesions,
    split_by_patient,
    subset,
    unused,
    write,
)

MANY = 15
"""Patients with so many lesions or more share a bar of the picture."""
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")
"""Of the plain sample, and of the sets beside it."""
PAPER = {
    "rows of the csv": (32735, 32120),
    "first visit": (26034, 25568),
    "labelled: D_L": (8104, 7953),
    "drawn": (1331, 1309),
}
"""Lesions and slices of the paper after each step."""
EXAMPLES = """
examples:
  python -m train.balance DeepLesion/DL_info.csv --experiment BP --out DeepLesion/bp.csv --picture
  python -m train.balance DeepLesion/DL_info.csv --experiment U --seed 3 --lesions 1331 --out DeepLesion/u3.csv
  python -m train.balance DeepLesion/DL_info.csv --experiment RF --lesions all --out DeepLesion/rf.csv
  python -m train.fit --data DeepLesion/bp.csv --out runs/bp
"""


def _steps(steps: dict[str, pd.DataFrame], split: pd.DataFrame, drawn: pd.DataFrame, name: str) -> str:
    parts = {f"  of it {part}": split[split["Train_Val_Test"] == code] for part, code in SPLITS.items()}
    lines = [f"{'':32}{'lesions':>9}{'slices':>9}{'patients':>9}{'paper: lesions':>17}{'slices':>9}"]
    for step, rows in {**steps, **parts, f"drawn from train: {name}": drawn}.items():
        counts = (len(rows), rows["File_name"].nunique(), rows["Patient_index"].nunique())
        paper = PAPER.get(step.split(" from")[0], ("", ""))
        lines.append(
            f"{step:32}"
            + "".join(f"{count:9,}" for count in counts)
            + "".join(f"{n:{w},}" if n else "" for n, w in zip(paper, (17, 9)))
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
    table = {
        title: {name: int(held.loc[rows].sum()) for name, held in groups.items()} for title, rows in columns.items()
    }
    return pd.DataFrame(table).to_string()


def _remarks(steps: dict[str, pd.DataFrame], train: pd.DataFrame, drawn: pd.DataFrame, wanted: int) -> list[str]:
    """Sentences on what the counts alone do not say."""
    clean, visit = steps["neither noisy nor repeated"], steps["first visit"]
    known = (clean["Coarse_lesion_type"] != UNKNOWN).sum()
    kept = len(steps["labelled: D_L"]) / max(known, 1)
    remarks = [
        f"The first visit keeps {len(visit) / len(clean):.1%} of all marks (paper: 79.5%) and {kept:.1%} of the "
        "labelled (paper: 82.6%)."
    ]
    if len(steps["rows of the csv"]) != PAPER["rows of the csv"][0]:
        remarks.append(
            "This csv is not the whole DL_info.csv: the share of the labelled marks compares with the paper's, the "
            "counts do not."
        )
    absent = [part.title for part in BodyPart if part not in train["Coarse_lesion_type"].to_numpy()]
    if absent:
        remarks.append(
            f"The train split has no lesion of {', '.join(absent)}; the other labels are balanced among themselves."
        )
    if len(drawn) != wanted:
        remarks.append(
            f"{wanted:,} lesions were wanted; {len(drawn):,} are the most that the rule of the experiment allows "
            "below that."
        )
    return remarks


def picture(lesions: pd.DataFrame, train: pd.DataFrame, sets: dict[str, pd.DataFrame], path: Path) -> None:
    """Draw the paper's Figure 1 (a)-(e) as PNG: `lesions` by label and by patient, and the `sets` by label,
    patients' group and size.

    `lesions` is D_L, `train` its train split, `sets` has "U" beside any of the other experiments; a set is drawn where
    it is balanced.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 8), layout="constrained")
    panels = figure.subplot_mosaic([list("aaaabbbb"), list("ccccddee")])
    per_label = (
        lesions["Coarse_lesion_type"].value_counts().reindex(list(BodyPart), fill_value=0).sort_values(ascending=False)
    )
    parts = [BodyPart(label).title for label in per_label.index]
    panels["a"].bar_label(panels["a"].bar(parts, per_label), fontsize=8)
    panels["a"].set(title="(a) lesions of each label in $D_L$", ylabel="lesions")
    per_patient = (
        lesions.groupby("Patient_index")
        .size()
        .clip(upper=MANY)
        .value_counts()
        .reindex(range(1, MANY + 1), fill_value=0)
    )
    panels["b"].bar_label(panels["b"].bar([*map(str, range(1, MANY)), f"{MANY}+"], per_patient), fontsize=8)
    panels["b"].set(
        title="(b) patients with so many lesions in $D_L$", xlabel="lesions of the patient", ylabel="patients"
    )
    groups = _groups(train)
    for panel, what, names, title in (
        ("c", "label", parts, "(c) lesions of each label"),
        ("d", "patient", [name for name in groups if name.startswith("G")], "(d) lesions by patient"),
        ("e", "size", [name for name in groups if name.startswith("SAD")], "(e) lesions by short axis"),
    ):
        shown = {name: rows for name, rows in sets.items() if name == "U" or what in EXPERIMENTS[name].balances}
        _bars(panels[panel], shown, {name: groups[name] for name in names}, title)
    for panel in ("a", "c"):
        panels[panel].tick_params(axis="x", rotation=20)
    write_figure(path, figure, dpi=110)


def _bars(axes, sets: dict[str, pd.DataFrame], groups: dict[str, pd.Series], title: str) -> None:
    width = 0.8 / len(sets)
    for place, (name, rows) in enumerate(sets.items()):
        taken = rows.index.repeat(rows[REPEAT]) if REPEAT in rows.columns else rows.index
        heights = [int(held.loc[taken].sum()) for held in groups.values()]
        x = np.arange(len(groups)) + (place - (len(sets) - 1) / 2) * width
        axes.bar_label(
            axes.bar(x, heights, width, label=f"$D_{{{name}}}$", color=COLOURS[place % len(COLOURS)]), fontsize=7
        )
    axes.set_xticks(range(len(groups)), [name.replace(": ", "\n").replace("SAD ", "SAD\n") for name in groups])
    axes.set(title=title, ylabel="lesions")
    axes.margins(y=0.2)
    axes.legend(loc="upper center", ncols=len(sets), fontsize=8)


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
    print(
        f"{options.out} holds {len(rows):,} lesions. To train: python -m train.fit --data {options.out} --out "
        f"runs/{options.out.stem}"
    )


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
    raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.balance",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("csv", type=Path, help="the official DL_info.csv, or one of its form")
    parser.add_argument("--experiment", required=True, choices=tuple(EXPERIMENTS))
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="SUBSET.csv",
        help="csv to write; put it beside Images_png to train on it",
    )
    parser.add_argument("--seed", type=_seed, default=0, help="of the draw; same seed, same set (%(default)s)")
    parser.add_argument(
        "--split-seed", type=_seed, default=0, help="of the split, which all experiments should share (%(default)s)"
    )
    parser.add_argument(
        "--first-visit",
        choices=("lesion", "study", "all"),
        default="lesion",
        help=(
            "keep marks of each lesion's first visit (default: fits the paper's counts), of the patient's first "
            "study, or all"
        ),
    )
    parser.add_argument(
        "--same-place",
        type=float,
        default=SAME_PLACE,
        help=(
            "for --first-visit lesion: how far apart, along each axis of the relative location, a lesion is still the "
            "same (%(default)s)"
        ),
    )
    parser.add_argument(
        "--lesions",
        type=_lesions,
        default="rarest",
        help="size of the set: rarest (default) = labels x lesions of the rarest, all, or a number; the paper has 1331",
    )
    parser.add_argument(
        "--repeat-below",
        type=float,
        default=REPEAT_BELOW,
        help="for RF: repeat labels on less than this share of the slices (%(default)s)",
    )
    parser.add_argument(
        "--ignore-others",
        action="store_true",
        help="bring along further marks on these slices with label -1, to be ignored",
    )
    parser.add_argument("--picture", action="store_true", help="also draw the paper's Figure 1 (a)-(e) as SUBSET.png")
    return parser


if __name__ == "__main__":
    sys.exit(main())
