"""Table 1 of the class-imbalance paper from the runs of `train.reproduce`, beside the paper's figures, with summary
and pictures.

Sensitivity with the right label at 4 false positives per image of all labels together, IoU >= 0.3, mean over the seeds.
Intervals are by bootstrap over the test patients, the same ones for every run, so that differences between experiments
are paired; they do not hold the spread between seeds, which is stated beside them.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from LesionDetectorLib.files import write_text
from LesionDetectorLib.lesion import BodyPart

from train.data.deeplesion import DeepLesionError, read_info
from train.measuring import boxes_csv, plots
from train.measuring.bootstrap import Bootstrap, interval
from train.measuring.froc import Froc, confusion, froc
from train.measuring.statement import LARGE_SAD_MM, label_groups
from train.measuring.tables import markdown_table, percent

RATE, IOU, REPLICATES = 4.0, 0.3, 1000
EXPERIMENTS = ("U", "BP", "N", "S")
NAMES = {"faster_rcnn": "Faster R-CNN", "retinanet": "RetinaNet", "foveabox": "FoveaBox", "vfnet": "VFNet"}
RARE = (BodyPart.BONE, BodyPart.KIDNEY, BodyPart.SOFT_TISSUE, BodyPart.PELVIS)
COMMON = (BodyPart.ABDOMEN, BodyPart.MEDIASTINUM, BodyPart.LUNG, BodyPart.LIVER)
TITLES = [part.title for part in (*RARE, *COMMON)]
LARGE = "SAD >= 1 cm"
STRATA = ("all sizes", LARGE, "SAD < 1 cm")
PAPER = {
    ("faster_rcnn", "U"): (23.3, 40.5, 50.4, 67.5, 57.7, 79.6, 66.8, 77.3),
    ("faster_rcnn", "BP"): (63.3, 75.1, 58.1, 68.5, 55.6, 83.3, 74.9, 69.8),
    ("faster_rcnn", "N"): (16.6, 49.3, 44.1, 63.2, 65.5, 78.7, 72.6, 76.9),
    ("faster_rcnn", "S"): (30.0, 49.7, 51.7, 56.4, 61.1, 74.8, 74.5, 73.1),
    ("retinanet", "U"): (21.7, 38.4, 48.2, 55.8, 70.5, 82.8, 76.1, 75.9),
    ("retinanet", "BP"): (66.7, 66.7, 60.3, 59.8, 62.3, 85.3, 79.7, 71.0),
    ("retinanet", "N"): (27.5, 53.1, 26.1, 49.6, 68.7, 86.2, 77.4, 76.5),
    ("retinanet", "S"): (26.2, 22.4, 25.0, 21.1, 51.9, 61.7, 58.8, 58.2),
    ("foveabox", "U"): (28.3, 46.4, 54.2, 59.2, 64.8, 88.3, 69.2, 76.7),
    ("foveabox", "BP"): (65.0, 67.9, 66.7, 63.4, 56.2, 84.5, 76.9, 70.0),
    ("foveabox", "N"): (18.3, 56.5, 46.9, 34.1, 70.1, 85.1, 74.7, 71.5),
    ("foveabox", "S"): (41.66, 40.9, 46.3, 47.6, 71.1, 86.8, 75.1, 74.9),
    ("vfnet", "U"): (46.7, 61.6, 60.0, 76.0, 76.8, 85.6, 70.8, 77.7),
    ("vfnet", "BP"): (80.0, 77.6, 70.7, 83.4, 69.5, 87.7, 78.9, 76.3),
    ("vfnet", "N"): (28.8, 63.3, 63.6, 73.5, 69.6, 78.8, 68.2, 91.0),
    ("vfnet", "S"): (51.6, 67.0, 67.3, 87.2, 82.1, 89.8, 82.7, 82.1),
}
"""The paper's Table 1: lesions with SAD >= 1 cm, in the order of `TITLES`, per cent."""


@dataclass(frozen=True)
class Measured:
    """One run on the test patients: its matched detections, and which lesions belong to each stratum and label.

    values: (strata, labels) sensitivities in the order of `STRATA` and `TITLES`; samples: (replicates, strata, labels);
        both NaN where
    there is no such lesion. lesions: (strata, labels).
    """

    detector: str
    experiment: str
    seed: int
    result: Froc
    values: np.ndarray
    samples: np.ndarray
    lesions: np.ndarray


def write(out: Path) -> str:
    """Write results.md, table1.csv, results.csv and the pictures of all runs in `out` that are done.

    A sentence that says so.
    """
    runs = [
        _measure(folder) for folder in sorted((out / "runs").glob("*")) if (folder / "test" / "report.json").exists()
    ]
    if not runs:
        raise DeepLesionError(
            f"{out} holds no run that is done; make some with python -m train.reproduce --data DIR --out {out}."
        )
    order = {name: place for place, name in enumerate((*NAMES, *EXPERIMENTS))}
    runs.sort(key=lambda run: (order[run.detector], order.get(run.experiment, len(order)), run.experiment, run.seed))
    write_text(out / "table1.csv", table1(runs).to_csv(index=False))
    write_text(out / "results.csv", each_run(runs).to_csv(index=False))
    pictures = _pictures(runs, out)
    write_text(out / "results.md", _page(runs, out, pictures))
    return f"Written to {out}: results.md, table1.csv, results.csv and pictures of {len(runs)} runs."


def _measure(folder: Path) -> Measured:
    detector, experiment, seed = folder.name.rsplit("_", 2)
    found, truth = (
        read(folder / "test" / f"{name}.csv")
        for name, read in (("detections", boxes_csv.read_detections), ("ground_truth", boxes_csv.read_truth))
    )
    images = pd.Index(truth["image"].unique())
    result = froc(boxes_csv.to_boxes(found, images, True), boxes_csv.to_boxes(truth, images, True), len(images), IOU)
    large = truth["short_mm"].to_numpy()[result.lesion] >= LARGE_SAD_MM
    groups = [label_groups(result, among) for among in (np.ones(len(large), bool), large, ~large)]
    masks = np.stack([stratum[title] for stratum in groups for title in TITLES])
    patients = boxes_csv.patients(folder / "test" / "ground_truth.csv", truth, images, len(images))
    samples = Bootstrap(patients, REPLICATES).sensitivities(result, [RATE], masks)[:, 0]
    values = [result.sensitivity(RATE, mask) if mask.any() else np.nan for mask in masks]
    shape = (len(STRATA), len(TITLES))
    return Measured(
        detector,
        experiment,
        int(seed),
        result,
        np.reshape(values, shape),
        samples.reshape(-1, *shape),
        masks.sum(1).reshape(shape),
    )


# ------ tables


def pairs(runs: Sequence[Measured]) -> list[tuple[str, str]]:
    """Detector and experiment of the runs, each once, in their order."""
    return list(dict.fromkeys((run.detector, run.experiment) for run in runs))


def mean_of_seeds(runs: Sequence[Measured], detector: str, experiment: str) -> tuple[np.ndarray, np.ndarray]:
    """`values` and `samples` of one cell of the table, mean over its seeds."""
    own = [run for run in runs if (run.detector, run.experiment) == (detector, experiment)]
    return np.mean([run.values for run in own], axis=0), np.mean([run.samples for run in own], axis=0)


def each_run(runs: Sequence[Measured]) -> pd.DataFrame:
    """One row a run, stratum and label."""
    rows = [
        (run.detector, run.experiment, run.seed, stratum, title, run.lesions[s, n], round(float(run.values[s, n]), 4))
        for run in runs
        for s, stratum in enumerate(STRATA)
        for n, title in enumerate(TITLES)
    ]
    return pd.DataFrame(rows, columns=["detector", "experiment", "seed", "stratum", "label", "lesions", "sensitivity"])


def table1(runs: Sequence[Measured]) -> pd.DataFrame:
    """Sensitivity in per cent, lesions with SAD >= 1 cm: a row for each experiment and detector, then the paper's."""
    rows = []
    for detector, experiment in pairs(runs):
        ours = (100 * mean_of_seeds(runs, detector, experiment)[0][STRATA.index(LARGE)]).round(1)
        paper = PAPER.get((detector, experiment), [np.nan] * len(TITLES))
        rows.append([experiment, detector, *ours, *paper])
    return pd.DataFrame(rows, columns=["experiment", "detector", *TITLES, *(f"paper: {title}" for title in TITLES)])


def group_mean(values: np.ndarray, parts: Sequence[BodyPart]) -> np.ndarray:
    """Mean of the last axis over the labels `parts`, over those that have lesions."""
    chosen = values[..., [TITLES.index(part.title) for part in parts]]
    held = ~np.isnan(chosen)
    return np.where(held.any(-1), np.where(held, chosen, 0).sum(-1) / np.maximum(held.sum(-1), 1), np.nan)


def gain(runs: Sequence[Measured], detector: str, stratum: int) -> tuple[np.ndarray, np.ndarray] | None:
    """BP minus U of one detector: values (labels + rare mean + common mean,) and samples (replicates, the same).

    None without both.
    """
    if not {(detector, "BP"), (detector, "U")} <= set(pairs(runs)):
        return None
    (after, after_samples), (before, before_samples) = (mean_of_seeds(runs, detector, name) for name in ("BP", "U"))
    return tuple(
        np.concatenate([part, group_mean(part, RARE)[..., None], group_mean(part, COMMON)[..., None]], axis=-1)
        for part in ((after - before)[stratum], (after_samples - before_samples)[:, stratum])
    )


def _cell(value: float, samples: np.ndarray, sign: bool = False) -> str:
    low, high = interval(samples)
    shown = "{:+.1f}" if sign else "{:.1f}"
    if np.isnan(value):
        return "-"
    return f"{shown.format(100 * value)} ({' to '.join(shown.format(100 * float(edge)) for edge in (low, high))})"


def _page(runs: Sequence[Measured], out: Path, pictures: dict[str, str]) -> str:
    settings = json.loads((out / "settings.json").read_text(encoding="utf-8"))
    seeds = {detector: sorted({run.seed for run in runs if run.detector == detector}) for detector in NAMES}
    parts = [
        "# Class imbalance: Table 1 of the paper, reproduced",
        f"Data set `{settings['data']}`. Sensitivity in % with the right label at {RATE:g} false positives per image "
        "(of all labels "
        f"together), IoU >= {IOU:g}, mean over the seeds. Intervals: 95 %, bootstrap over the test patients "
        f"({REPLICATES} replicates), "
        "paired between experiments; they do not hold the spread between seeds. The sets are those of `train.balance`.",
        _sets(runs, out),
        f"## Table 1: lesions with SAD >= 1 cm (in brackets the paper's, on DeepLesion)\n\n{_table1(runs)}",
        *(f"## Rare and common labels, {STRATA[s]}\n\n{_groups(runs, s)}" for s in (0, 1)),
        *(f"## What balancing by body part gains: BP minus U, {STRATA[s]}\n\n{_gains(runs, s)}" for s in (0, 1)),
        *(f"![{caption}]({name})\n\n{caption}." for name, caption in pictures.items()),
        "## How it was made",
        f"```sh\npython -m train.reproduce --data {settings['data']} --out {out.name} "
        f"{' '.join(map(_shown, settings['training']))}\n```",
        "Seeds: "
        + "; ".join(f"{NAMES[name]} {', '.join(map(str, found))}" for name, found in seeds.items() if found)
        + f". {_hardware()}",
    ]
    return "\n\n".join(parts) + "\n"


def _shown(option: str) -> str:
    """An option as it is told to others: of a path the file's name."""
    return Path(option).name if Path(option).is_absolute() else option


def _hardware() -> str:
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else "no GPU, "
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = next(
            (
                line.split(":", 1)[1].strip()
                for line in cpuinfo.read_text().splitlines()
                if line.startswith("model name")
            ),
            model,
        )
    return f"Hardware: {gpu}{os.cpu_count()} cores ({model}), torch {torch.__version__}."


def _sets(runs: Sequence[Measured], out: Path) -> str:
    rows = []
    for experiment in dict.fromkeys(run.experiment for run in runs):
        seed = min(run.seed for run in runs if run.experiment == experiment)
        drawn = read_info(out / "sets" / f"{experiment}_{seed}.csv", "train")
        labels = np.concatenate([key_slice.labels for key_slice in drawn])
        counts = [int((labels == BodyPart.from_title(title)).sum()) for title in TITLES]
        rows.append([f"D_{experiment}, to train", *map(str, counts), str(sum(counts))])
    test = runs[0].lesions
    rows += [[f"test, {stratum}", *map(str, test[s]), str(test[s].sum())] for s, stratum in enumerate(STRATA)]
    return "Lesions (of the first seed's sets):\n\n" + markdown_table(["", *TITLES, "all"], rows)


def _table1(runs: Sequence[Measured]) -> str:
    rows = []
    for experiment in dict.fromkeys(run.experiment for run in runs):
        for detector in (name for name in NAMES if (name, experiment) in pairs(runs)):
            ours = mean_of_seeds(runs, detector, experiment)[0][STRATA.index(LARGE)]
            paper = [f" ({value:g})" for value in PAPER.get((detector, experiment), ())] or [""] * len(TITLES)
            rows.append(
                [f"E_{experiment} {NAMES[detector]}", *(percent(value) + theirs for value, theirs in zip(ours, paper))]
            )
    return markdown_table(["experiment, detector", *TITLES], rows)


def _groups(runs: Sequence[Measured], stratum: int) -> str:
    rows = []
    for detector, experiment in pairs(runs):
        values, samples = mean_of_seeds(runs, detector, experiment)
        own = [run.values[stratum] for run in runs if (run.detector, run.experiment) == (detector, experiment)]
        spread = [percent(group_mean(value, RARE)) for value in own] if len(own) > 1 else ["-"]
        means = [
            _cell(group_mean(values[stratum], parts), group_mean(samples[:, stratum], parts))
            for parts in (RARE, COMMON)
        ]
        theirs = PAPER.get((detector, experiment))
        paper = [f"{np.mean(part):.1f}" if theirs else "-" for part in ((theirs or ())[:4], (theirs or ())[4:])]
        rows.append([NAMES[detector], f"E_{experiment}", *means, ", ".join(spread), *paper])
    head = [
        "detector",
        "experiment",
        "rare labels (UR), mean",
        "common labels (OR), mean",
        "UR of each seed",
        "paper: UR, SAD >= 1 cm",
    ]
    return markdown_table([*head, "paper: OR, SAD >= 1 cm"], rows)


def _gains(runs: Sequence[Measured], stratum: int) -> str:
    rows, sentences = [], []
    for detector in NAMES:
        if (both := gain(runs, detector, stratum)) is None:
            continue
        values, samples = both
        rows.append(
            [
                NAMES[detector],
                *(_cell(values[n], samples[:, n], sign=True) for n in (-2, -1)),
                *map(_signed, values[:-2]),
            ]
        )
        behind = [title for title, value in zip(TITLES[: len(RARE)], values) if value <= 0]
        sure = interval(samples[:, -2])[0] > 0
        certainty = (
            ", with the whole interval above 0" if sure else ", but its interval holds 0" if values[-2] > 0 else ""
        )
        sentences.append(
            f"{NAMES[detector]}: the rare labels' mean {'rises' if values[-2] > 0 else 'does not rise'}{certainty}; "
            + (
                f"{' and '.join(behind)} {'do' if len(behind) > 1 else 'does'} not follow."
                if behind
                else "all four rise."
            )
        )
    table = markdown_table(["detector", "UR mean", "OR mean", *TITLES], rows)
    return "\n\n".join([table, "\n".join(f"- {sentence}" for sentence in sentences)])


def _signed(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:+.1f}"


# ------ pictures


def _pictures(runs: Sequence[Measured], out: Path) -> dict[str, str]:
    by_cell = {pair: mean_of_seeds(runs, *pair) for pair in pairs(runs)}
    bars: dict[str, dict] = {}
    for (detector, experiment), (values, samples) in by_cell.items():
        bars.setdefault(NAMES[detector], {})[f"E_{experiment}"] = (values[0], np.stack(interval(samples[:, 0])))
    plots.grouped_bars(bars, TITLES, len(RARE), out / "labels.png")
    captions = {"labels.png": "Sensitivity by label, all sizes, with 95 % intervals; left of the line the rare labels"}
    gains = {
        NAMES[name]: (both[0], np.stack(interval(both[1])))
        for name in NAMES
        if (both := gain(runs, name, 0)) is not None
    }
    if gains:
        plots.gains(gains, [*TITLES, "rare, mean", "common, mean"], out / "gain.png")
        captions["gain.png"] = "BP minus U, all sizes, with 95 % intervals"
    for detector in dict.fromkeys(run.detector for run in runs):
        matrices = {
            f"E_{experiment}": sum(
                _confusion(run) for run in runs if (run.detector, run.experiment) == (detector, experiment)
            )
            for name, experiment in by_cell
            if name == detector
        }
        plots.confusion_matrices(matrices, out / f"confusion_{detector}.png")
        captions[f"confusion_{detector}.png"] = (
            f"{NAMES[detector]}: which label is detected, at {RATE:g} false positives per image, all seeds together"
        )
    return captions


def _confusion(run: Measured) -> np.ndarray:
    return confusion(run.result.detections, run.result.truth, run.result.threshold(RATE), IOU)
