"""The arms of an experiment, each trained with several seeds, measured on whole volumes and compared with one another.

Sensitivity is the mean over the seven rates of the volumetric FROC. False positives are those of all labels together.
An effect counts as shown where there are three seeds or more, all of them have its sign, and the interval of a paired
bootstrap over patients, of the means over seeds, leaves out 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from LesionDetectorLib.lesion import BodyPart

from train.data.deeplesion import read_boxes, read_table
from train.data.subvolumes import SubVolume
from train.measuring.bootstrap import Bootstrap, interval
from train.measuring.boxes import Boxes
from train.measuring.boxes_csv import SIDES
from train.measuring.froc import Froc
from train.measuring.volumes import RATES, volumetric_froc

MISSING = (BodyPart.MEDIASTINUM, BodyPart.LIVER, BodyPart.LUNG)
"""The types of which few are marked in the universal data set."""
SEEDS = 3
"""So many seeds at least show an effect."""
GROUPS = ("missing types", "other types", "all lesions", "mean of labels")
COLUMNS = (*GROUPS, *(part.title for part in BodyPart))


@dataclass(frozen=True)
class Truth:
    """Every lesion of the test volumes: cross-sections, the slice and the number of the lesion of each (n,), the
    names of the volumes, and whose they are."""

    sections: Boxes
    slices: np.ndarray
    lesions: np.ndarray
    names: pd.Index
    patients: np.ndarray

    @classmethod
    def read(cls, csv: Path, volumes: Sequence[SubVolume]) -> Truth:
        """From the `lesions.csv` of `train.phantom`."""
        table = read_table(csv)
        series = pd.Index([volume.series for volume in volumes])
        parts = table["File_name"].str.removesuffix(".png").str.rsplit("_", n=1)
        image = series.get_indexer(parts.str[0])
        table, image, parts = table[image >= 0], image[image >= 0], parts[image >= 0]
        lesions = pd.MultiIndex.from_arrays([image, table["Lesion"].to_numpy(int)]).factorize()[0]
        sections = Boxes(image, read_boxes(csv, table), table["Coarse_lesion_type"].to_numpy(int))
        names = pd.Index([volume.name for volume in volumes])
        return cls(sections, parts.str[1].to_numpy(int), lesions, names, np.array([each.patient for each in volumes]))

    def matched(self, found: pd.DataFrame) -> Froc:
        """The volumetric FROC of what `detect_subvolumes` found."""
        image = self.names.get_indexer(found["image"])
        columns = found[list(SIDES)].to_numpy(float), found["label"].to_numpy(int), found["score"].to_numpy(float)
        detections = Boxes(image, *columns)
        spans = np.column_stack([self.slices, self.slices])
        slices = found["slice"].to_numpy(int)
        return volumetric_froc(detections, slices, self.sections, spans, len(self.names), lesions=self.lesions)


@dataclass(frozen=True)
class Measured:
    """One run: its arm and seed, the sensitivity (columns,) of every one of the COLUMNS, and the same in every
    replicate (replicates, columns)."""

    arm: str
    seed: int
    values: np.ndarray
    samples: np.ndarray


def measured(arm: str, seed: int, found: pd.DataFrame, truth: Truth, replicates: int) -> Measured:
    """What a run reached; the replicates of all runs draw the same patients."""
    result = truth.matched(found)
    labels = np.array([result.labels == part for part in BodyPart])
    few = np.isin(result.labels, MISSING)
    masks = np.array([few, ~few, np.ones(len(few), bool), *labels])
    values = np.array([[result.sensitivity(rate, mask) for mask in masks] for rate in RATES])
    samples = Bootstrap(truth.patients, replicates).sensitivities(result, list(RATES), masks)
    return Measured(arm, seed, _columns(values.mean(axis=0)), _columns(samples.mean(axis=1)))


def _columns(values: np.ndarray) -> np.ndarray:
    """Values (..., groups and labels) with the mean over the labels that there are in its place."""
    labels = values[..., 3:]
    there = np.isfinite(labels)
    mean = np.where(there, labels, 0).sum(axis=-1) / np.maximum(there.sum(axis=-1), 1)
    return np.concatenate([values[..., :3], mean[..., None], labels], axis=-1)


@dataclass(frozen=True)
class Contrast:
    """One arm less another, over the seeds that both have: the gain (columns,), low and high end of its interval, the
    gain of every seed (seeds, columns), and whether it is shown."""

    arms: tuple[str, str]
    gain: np.ndarray
    low: np.ndarray
    high: np.ndarray
    of_seeds: np.ndarray

    @property
    def shown(self) -> np.ndarray:
        """(columns,) 1 for a gain, -1 for a loss, 0 for neither."""
        signs = np.sign(self.of_seeds)
        agree = (signs == signs[:1]).all(axis=0) & (len(signs) >= SEEDS)
        return np.where(agree & (self.low > 0), 1, np.where(agree & (self.high < 0), -1, 0))


def contrast(runs: Sequence[Measured], arm: str, other: str) -> Contrast | None:
    """What `arm` gains over `other`; None where they have no seed in common."""
    by_name = {(run.arm, run.seed): run for run in runs}
    seeds = sorted({run.seed for run in runs if (arm, run.seed) in by_name and (other, run.seed) in by_name})
    if not seeds:
        return None
    of_seeds = np.array([by_name[arm, seed].values - by_name[other, seed].values for seed in seeds])
    samples = np.mean([by_name[arm, seed].samples - by_name[other, seed].samples for seed in seeds], axis=0)
    return Contrast((arm, other), of_seeds.mean(axis=0), *interval(samples), of_seeds)


def page(runs: Sequence[Measured], titles: Mapping[str, str], contrasts: Sequence[tuple[str, str]], head: str) -> str:
    """The results as markdown: each arm, each contrast, and what is to be accepted."""
    found = {pair: result for pair in contrasts if (result := contrast(runs, *pair)) is not None}
    return "\n\n".join([head, _arms(runs, titles), _contrasts(found), _acceptance(found)]) + "\n"


def table(runs: Sequence[Measured]) -> pd.DataFrame:
    """The sensitivity of every run: arm, seed and the COLUMNS."""
    rows = [{"arm": run.arm, "seed": run.seed, **dict(zip(COLUMNS, run.values))} for run in runs]
    return pd.DataFrame(rows, columns=["arm", "seed", *COLUMNS])


def _arms(runs: Sequence[Measured], titles: Mapping[str, str]) -> str:
    lines = ["## Every arm", "", "Mean over the seeds, and the lowest and highest of them, %.", ""]
    lines += [_row(["arm", "trained on", "seeds", *COLUMNS]), _row(["---"] * (3 + len(COLUMNS)))]
    for arm, title in titles.items():
        values = np.array([run.values for run in runs if run.arm == arm])
        if len(values):
            cells = [
                f"{100 * mean:.1f} ({100 * low:.1f}–{100 * high:.1f})" if np.isfinite(mean) else "no lesion"
                for mean, low, high in zip(values.mean(axis=0), values.min(axis=0), values.max(axis=0))
            ]
            lines.append(_row([arm, title, str(len(values)), *cells]))
    return "\n".join(lines)


def _contrasts(found: Mapping[tuple[str, str], Contrast]) -> str:
    lines = ["## What one arm gains over another", ""]
    lines += [
        "Percentage points [95 % interval over patients, of the means over seeds]; signs of the seeds. Bold: shown, as "
        f"gain or as cost; fewer than {SEEDS} seeds show nothing.",
        "",
        _row(["arms", *GROUPS]),
        _row(["---"] * (1 + len(GROUPS))),
    ]
    for (arm, other), result in found.items():
        lines.append(_row([f"{arm} − {other}", *(_gain(result, column) for column in range(len(GROUPS)))]))
    return "\n".join(lines)


def _gain(result: Contrast, column: int) -> str:
    gain, low, high = (100 * float(part[column]) for part in (result.gain, result.low, result.high))
    signs = "".join("+" if value > 0 else "−" if value < 0 else "0" for value in result.of_seeds[:, column])
    text = f"{gain:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"{f'**{text}**' if result.shown[column] else text} {signs}"


def _acceptance(found: Mapping[tuple[str, str], Contrast]) -> str:
    """The rules, and whether they hold."""
    lines = ["## What was to be shown", ""]
    both, bound, several, as_one = (found.get(pair) for pair in (("G", "B"), ("A", "B"), ("D", "B"), ("D", "C")))
    missing = COLUMNS.index("missing types")
    if both:
        lines.append(f"- G finds more of the missing types than B: {_verdict(both.shown[missing] > 0)}.")
    if both and bound:
        share = both.gain[missing] / bound.gain[missing] if bound.gain[missing] > 0 else float("nan")
        lines.append(
            f"- G wins back at least half of what B lacks of A on the missing types: {_verdict(share >= 0.5)} "
            f"({100 * share:.0f} %)."
        )
    if several:
        lines.append(f"- D finds more of the missing types than B: {_verdict(several.shown[missing] > 0)}.")
    for pair in (("F", "D"), ("F", "F'"), ("G", "E")):
        if pair in found:
            holds = _verdict(found[pair].gain[missing] >= 0)
            lines.append(f"- {pair[0]} is not below {pair[1]} on the missing types: {holds}.")
    if as_one:
        lines.append(f"- D is not below C on the missing types: {_verdict(as_one.gain[missing] >= 0)}.")
    return "\n".join(lines if len(lines) > 2 else [*lines, "- The arms A, B, C, D and G are needed to say."])


def _verdict(holds: bool) -> str:
    return "yes" if holds else "no"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
