"""Whether learning from partly marked data works: MELD, missing annotation matching and negative region mining, on
synthetic patients of whom every lesion is known.

Yan et al., "Learning from multiple datasets with heterogeneous and partial labels for universal lesion detection in
CT", 2020. U is a data set of all kinds of lesions, of which 45 % are marked, of the lung, the liver and the mediastinum
10 %; in L, V and N all lesions of one of these are marked, and no others. Every arm learns for the same number of
steps, half of them at the full rate, half at a tenth; the arms with mined lesions start their second half from D's
first. All are measured on whole volumes of the same patients, on which every lesion is marked. What is done stays done:
the same command goes on where it stopped, and more arms or seeds may be added.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from LesionDetectorLib.detect import Detector, pick_device
from LesionDetectorLib.files import write_text
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.refusal import Refusal

from train import embed, phantom
from train.data import subvolumes
from train.data.deeplesion import MARKED, ORIGIN, SUSPICIOUS, UNKNOWN, read_info, read_table
from train.measuring import arms as measuring
from train.measuring.detected import detect_subvolumes
from train.mine import Mining, drawn, load_meld, mine, summary
from train.mining import embedding
from train.mining import table as mined_table
from train.mining.proposals import other_slices
from train.mining.suspicion import SIGMA
from train.mining.truth import Truth, quality
from train.reproduce import check_settings
from train.training import detection
from train.training.plan import Plan

ORGANS = {"L": BodyPart.LUNG, "V": BodyPart.LIVER, "N": BodyPart.MEDIASTINUM}
"""The data sets of one type of lesion, all of which are marked."""
MARKS = {part: 0.1 if part in measuring.MISSING else 0.45 for part in BodyPart}
ARMS = {
    "A": "U, all lesions marked",
    "B": "U as marked, all else background",
    "C": "U, L, V and N as one data set",
    "C+": "C, with background from U alone",
    "D": "MELD: U, L, V and N, an expert each",
    "E": "D, and lesions matched with marks",
    "F": "D, suspicious places ignored",
    "F'": "D, suspicious places as lesions",
    "G": "D, both matched and suspicious",
    **{f"F-{name}": f"F, with the expert of {name} alone" for name in ORGANS},
}
USUAL = [arm for arm in ARMS if not arm.startswith("F-")]
"""The arms that are done unless others are named; those of a single expert make the paper's table 2."""
CONTRASTS = [("A", "B"), ("C", "B"), ("C+", "C"), ("D", "B"), ("D", "C"), ("E", "D"), ("F", "D"), ("F'", "D")]
CONTRASTS += [("F", "F'"), ("G", "D"), ("G", "E"), ("G", "F"), ("G", "B")]
CONTRASTS += [(f"F-{name}", "D") for name in ORGANS]
ALL = tuple(ORGANS.values())
MINING = {
    "E": (True, (), False),
    "F": (False, ALL, False),
    "F'": (False, ALL, True),
    "G": (True, ALL, False),
    **{f"F-{name}": (False, (part,), False) for name, part in ORGANS.items()},
}
"""Of each arm that mines: whether it matches with marks, whose experts look for suspicious places, and whether these
are taken for lesions."""
UNIVERSAL_SHARE = 3
"""How often an image of U is drawn for one of each of the others."""
EXAMPLES = """
examples:
  python -m train.reproduce_meld --out runs/meld --backbone-weights mobilenet_v2.pth
  python -m train.reproduce_meld --out runs/meld --arms B D F --seeds 0 1 2      these arms alone, or these first
  python -m train.reproduce_meld --out runs/meld --table                         write the page again
  python -m train.reproduce_meld --out runs/try --patients 4 --single 2 --test 2 --steps 8 --seeds 0 --slice-size 64
"""


@dataclass(frozen=True)
class Settings:
    """What all runs in a folder have in common."""

    patients: int
    single: int
    test: int
    lesions: int
    slice_size: int
    interval_mm: float
    steps: int
    batch: int
    size: int
    pixel_mm: float
    slices: int
    tone: str
    rate: float
    fine_tune: float
    added: float
    embedding_steps: int
    backbone_weights: str | None


@dataclass(frozen=True)
class Experiment:
    """The experiment in the folder `out`."""

    out: Path
    settings: Settings
    device: torch.device
    workers: int | None = None

    def data(self, name: str) -> Path:
        """The folder of a data set: U, L, V, N, or T, the test."""
        return self.out / "data" / name

    def run(self, name: str, seed: int) -> Path:
        return self.out / "runs" / f"{name.replace('+', '_plus').replace(chr(39), '_prime')}_{seed}"

    @property
    def cache(self) -> Path:
        return self.out / "cache"

    # ------ data

    def make_data(self) -> None:
        """Write the data sets that are not there; the same for all arms and seeds."""
        own = self.settings
        for number, (name, patients) in enumerate(
            [("U", own.patients), *((name, own.single) for name in ORGANS), ("T", own.test)]
        ):
            if not self.data(name).exists():
                print(f"{name}: {patients} synthetic patients", flush=True)
                self._patients(name, number * 10_000 + 1, patients)
        if not (self.data("U") / "all.csv").exists():
            write_text(self.data("U") / "all.csv", every_lesion(self.data("U")).to_csv(index=False))
        for name in ORGANS:
            if not (self.data(name) / "positives.csv").exists():
                with_negatives, positives = single_type(self.data(name))
                write_text(self.data(name) / "slices.csv", with_negatives.to_csv(index=False))
                write_text(self.data(name) / "positives.csv", positives.to_csv(index=False))

    def _patients(self, name: str, first: int, patients: int) -> None:
        own = self.settings
        if name in ORGANS:
            marks: dict[BodyPart, float] | None = {part: float(part == ORGANS[name]) for part in BodyPart}
        else:
            marks = MARKS if name == "U" else None
        plan = phantom.Plan(
            self.data(name),
            seed=0,
            layout="deeplesion",
            lesions=own.lesions,
            context_mm=0,
            balanced=True,
            region="torso",
            size=own.slice_size,
            interval=own.interval_mm,
            marks=marks,
            whole=True,
            annotate_all=name != "U",
            studies=2 if name == "U" else 1,
        )
        splits = (0, 0, 100) if name == "T" else (100, 0, 0)
        phantom.generate(plan, first, patients, splits, 1)

    def sources(self, arm: str, seed: int) -> tuple[str, ...]:
        """What an arm learns from, as `train.fit --data` has it."""
        universal = self.data("U") / {"A": "all.csv"}.get(arm, "DL_info.csv")
        if arm in ("A", "B"):
            return (str(universal),)
        if arm in MINING:
            universal = self.mined(arm, seed)
        file = "positives.csv" if arm == "C+" else "slices.csv"
        prefix = "" if arm in ("C", "C+") else "{}:"
        others = [f"{prefix.format(part.title)}{self.data(name) / file}" for name, part in ORGANS.items()]
        return (f"{universal}={UNIVERSAL_SHARE}", *others)

    def mined(self, arm: str, seed: int) -> Path:
        return self.data("U") / f"mined_{self.run(arm, seed).name}.csv"

    # ------ runs

    def train(self, arm: str, seed: int) -> Path:
        """The weights of an arm, trained if they are not there."""
        if arm in MINING:
            self._mine(arm, seed)
        steps, own = self.settings.steps // 2, self.settings
        half = self._fit("D" if arm in MINING else arm, seed, "half", steps, own.rate, "constant")
        return self._fit(arm, seed, "whole", own.steps - steps, own.rate * own.fine_tune, "step", half)

    def _fit(
        self, arm: str, seed: int, part: str, steps: int, rate: float, schedule: str, start: Path | None = None
    ) -> Path:
        folder = self.run(arm, seed) / part
        weights = folder / "last.safetensors"
        if (folder / "done").exists():
            return weights
        print(f"{arm}, seed {seed}, {part}: {steps} steps", flush=True)
        if (folder / "checkpoint.pt").exists():
            run = detection.resumed(folder, self.device)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            own = self.settings
            eaten = {"slices": own.slices, "pixel_mm": own.pixel_mm, "tone": own.tone}
            plan = Plan(
                self.sources(arm, seed),
                {"detector": "meld", "backbone": "mobilenet_v2", **eaten},
                steps=steps,
                batch=own.batch,
                size=own.size,
                rate=rate,
                schedule=schedule,
                warm_up=0 if start else min(100, steps // 10),
                ema=0.99,
                evaluate_every=steps,
                seed=seed,
                workers=self.workers,
                cache=str(self.cache),
            )
            pretrained = Path(own.backbone_weights) if own.backbone_weights and not start else None
            run = detection.new_run(plan, folder, self.device, pretrained)
            if start:
                detection.start_from(run, start)
        run.train()
        (folder / "done").touch()
        return weights

    def _mine(self, arm: str, seed: int) -> None:
        """Mine U for an arm with the detector of D."""
        csv = self.mined(arm, seed)
        if csv.exists():
            return
        detector = load_meld(self.train("D", seed), self.device.type)
        matching, organs, as_lesions = MINING[arm]
        model, theta = self._embedding(seed, detector) if matching else (None, 0.0)
        mining = Mining(SIGMA if organs else None, theta, self.settings.added, seed, as_lesions, organs)
        rows = mine(detector, self.data("U"), mining, model, self.cache, self.run("D", seed) / "proposals.csv")
        print(f"{arm}, seed {seed}: {summary(rows)}", flush=True)
        self.run(arm, seed).mkdir(parents=True, exist_ok=True)
        write_text(self.run(arm, seed) / "mined.txt", quality(csv, rows, Truth(self.data("U") / "lesions.csv")))
        write_text(csv, rows.to_csv(index=False))

    def _embedding(self, seed: int, detector: Detector) -> tuple[embedding.Embedding, float]:
        """The embedding of a seed, learnt and calibrated if it is not there, and its threshold."""
        folder, own = self.run("embedding", seed), self.settings
        path = folder / "last.safetensors"
        if not (folder / embed.CURVE).exists():
            plan = Plan(
                (str(self.data("U")),),
                {"backbone": "mobilenet_v2", "pixel_mm": own.pixel_mm, "slices": own.slices, "tone": own.tone},
                steps=own.embedding_steps,
                batch=8,
                warm_up=min(100, own.embedding_steps // 10),
                ema=0.99,
                evaluate_every=own.embedding_steps,
                seed=seed,
                workers=self.workers,
                cache=str(self.cache),
            )
            embed.fit(plan, folder, self.device, Path(own.backbone_weights) if own.backbone_weights else None)
            source = self.data("U")
            embed.calibrate(path, detector, source, source / "lesions.csv", 1000, self.cache)
        model, card = embedding.load(path)
        return model.to(self.device), float(card["theta"])

    def detect(self, arm: str, seed: int) -> None:
        """Write what an arm finds on the test volumes, if that is not there."""
        file = self.run(arm, seed) / "detections.csv"
        if not file.exists():
            detector = Detector.load(self.train(arm, seed), self.device.type)
            print(f"{arm}, seed {seed}: test", flush=True)
            found = detect_subvolumes(detector, subvolumes.read(self.data("T"), "test"))
            write_text(file, found.to_csv(index=False, float_format="%.5g"))

    def page(self, seeds: Sequence[int], replicates: int) -> Path:
        """Write results.csv and results.md of the runs that are done; Refusal where none is."""
        runs = [(arm, seed) for arm in ARMS for seed in seeds if (self.run(arm, seed) / "detections.csv").exists()]
        if not runs:
            raise Refusal(f"{self.out} holds no run that is done; give the command without --table.")
        truth = measuring.Truth.read(self.data("T") / "lesions.csv", subvolumes.read(self.data("T"), "test"))
        results = [
            measuring.measured(arm, seed, pd.read_csv(self.run(arm, seed) / "detections.csv"), truth, replicates)
            for arm, seed in runs
        ]
        write_text(self.out / "results.csv", measuring.table(results).to_csv(index=False, float_format="%.4f"))
        page = measuring.page(results, ARMS, CONTRASTS, self._head(len(truth.names), int(truth.lesions.max()) + 1))
        mined = [self.run(arm, seed) / "mined.txt" for arm, seed in runs if arm in MINING]
        lines = [f"- {file.parent.name}: {file.read_text(encoding='utf-8').strip()}" for file in mined]
        write_text(
            self.out / "results.md", page + ("\n## What was mined\n\n" + "\n".join(lines) + "\n" if lines else "")
        )
        return self.out / "results.md"

    def _head(self, volumes: int, lesions: int) -> str:
        given = ", ".join(f"{name} {value}" for name, value in asdict(self.settings).items())
        return (
            "# MELD on partly marked synthetic patients\n\n"
            "Volumetric sensitivity, the mean at 1/8 to 8 false 3-D boxes a volume, IoU above 0.5, whatever the label: "
            f"{lesions} lesions of {volumes} volumes. Missing types: lung, liver, mediastinum, of which U marks 10 %; "
            f"of the others it marks 45 %. Settings: {given}."
        )


def every_lesion(folder: Path) -> pd.DataFrame:
    """The rows of U with all lesions marked: on every slice that is the key slice of one."""
    rows = pd.read_csv(folder / "lesions.csv", dtype=str)
    keys = rows.loc[rows["Key"] == "1", "File_name"]
    return rows[rows["File_name"].isin(keys)].drop(columns=["Lesion", "Key", "Marked"])


def single_type(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of a data set of one type with as many slices without a lesion of it as with, and its rows with a place
    on every slice, all of it, where there is no background to learn."""
    table = read_table(folder / "DL_info.csv").assign(**{ORIGIN: MARKED})
    key_slices = read_info(folder, "train")
    bare = drawn(other_slices(key_slices, every_mm=0), len(key_slices), 0)
    series = mined_table.series_of(table)
    nothing = [mined_table.row_of_nothing(series, entry) for entry in bare]
    whole = []
    for entry in key_slices:
        columns, rows = map(float, series[entry.series]["Image_size"].split(","))
        box = np.array([[-0.5, -0.5, columns - 0.5, rows - 0.5]])
        whole.append(mined_table.rows(series, entry, box, [UNKNOWN], SUSPICIOUS))
    return pd.concat([table, *nothing]).fillna(""), pd.concat([table, *whole]).fillna("")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 when all runs are done, 2 with one sentence on stderr when they cannot be."""
    options = _parser().parse_args(arguments)
    weights = str(options.backbone_weights) if options.backbone_weights else None
    named = {name: getattr(options, name) for name in Settings.__dataclass_fields__}
    settings = Settings(**{**named, "backbone_weights": weights})
    experiment = Experiment(options.out, settings, pick_device(options.device), options.workers)
    try:
        check_settings(options.out, asdict(settings))
        if not options.table:
            experiment.make_data()
            for seed in options.seeds:
                for arm in options.arms:
                    experiment.detect(arm, seed)
        print(experiment.page(options.seeds, options.replicates))
    except (Refusal, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nStopped; the same command goes on from the last checkpoints in {options.out}.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.reproduce_meld",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and the page")
    parser.add_argument("--arms", nargs="+", default=USUAL, choices=tuple(ARMS), help="A to G if left out")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the trainings (0 1 2)")
    parser.add_argument("--table", action="store_true", help="only write the page of the runs that are done")
    parser.add_argument("--replicates", type=int, default=1000, help="of the bootstrap (%(default)s)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--workers", type=int, help="processes that prepare crops (one for each core left)")
    parser.add_argument("--backbone-weights", type=Path, metavar="FILE", help="ImageNet state_dict of mobilenet_v2")
    parser.add_argument("--tone", default="ct", choices=("ct", "linear"), help="linear is the paper's (%(default)s)")
    for name, kind, default, text in (
        ("patients", int, 120, "patients of U, two studies each"),
        ("single", int, 40, "patients of each of L, V and N"),
        ("test", int, 60, "patients of the test"),
        ("lesions", int, 12, "lesions of a patient"),
        ("slice_size", int, 256, "rows and columns of a slice"),
        ("interval_mm", float, 5.0, "distance between slices"),
        ("steps", int, 1500, "optimiser steps of an arm"),
        ("batch", int, 12, "crops a step"),
        ("size", int, 128, "pixels a crop's side"),
        ("pixel_mm", float, 1.6, "side of a pixel"),
        ("slices", int, 3, "slices of a sample"),
        ("rate", float, 1e-3, "learning rate of the first half"),
        ("fine_tune", float, 0.1, "that of the second half, as a share"),
        ("added", float, 0.5, "slices of U without marks to mine, as a share of its key slices"),
        ("embedding_steps", int, 600, "optimiser steps of the embedding"),
    ):
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, help=f"{text} (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
