"""Reproduce Table 1 of the class-imbalance paper: every detector trained on every balanced set, measured on the same
test patients.

Erickson, Mathai, Summers, "Class Imbalance Correction for Improved Universal Lesion Detection and Tagging in CT", 2025.
On DeepLesion this is the paper's experiment; any data set of its layout will do. Each run draws its training set
(`train.balance`), trains (`train.fit`) and is evaluated (`train.evaluate`), as processes of their own. What is done
stays done: the same command again goes on where it stopped, and more detectors, experiments or seeds may be added to an
--out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from queue import SimpleQueue

import torch
from LesionDetectorLib.files import write_text
from LesionDetectorLib.refusal import Refusal
from tqdm import tqdm

from train.data import sets
from train.data.deeplesion import SPLITS, DeepLesionError
from train.measuring import paper_table
from train.training import plan

DETECTORS = ("faster_rcnn", "retinanet", "foveabox", "vfnet")
EXAMPLES = """
examples:
  python -m train.reproduce --data DeepLesion --out table1 --steps 4000 \\
      --backbone resnet50 --backbone-weights resnet50.pth
  python -m train.reproduce --data DeepLesion --out table1 --detectors vfnet --seeds 0 1 2     two more seeds of one
  python -m train.reproduce --data runs/phantoms --out runs/table1 --at-once 2 --steps 500 --pixel-mm 1.6 --size 192
  python -m train.reproduce --out runs/table1 --table          write tables and pictures again

All other options are train.fit's and hold for every run.
"""


@dataclass(frozen=True)
class Run:
    """One training: its detector, experiment and seed, and the folder of all runs."""

    out: Path
    detector: str
    experiment: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.detector}_{self.experiment}_{self.seed}"

    @property
    def folder(self) -> Path:
        return self.out / "runs" / self.name

    @property
    def training_set(self) -> Path:
        return self.out / "sets" / f"{self.experiment}_{self.seed}.csv"

    @property
    def done(self) -> bool:
        return (self.folder / "test" / "report.json").exists()


class RunError(Refusal):
    """A run ended badly; the message names it, where its output is, and the last line of that."""


def draw_sets(csv: Path, runs: Sequence[Run], split_seed: int) -> None:
    """Write the training set of every run, all with the same validation and test patients.

    Marks that are not drawn but lie on a slice of the set come along as of unknown label, so that nothing takes them
    for background.
    """
    steps = sets.limited(sets.read_lesions(csv))
    split = sets.split_by_patient(steps["labelled: D_L"], split_seed)
    train = split[split["Train_Val_Test"] == SPLITS["train"]]
    for run in {run.training_set: run for run in runs if not run.training_set.exists()}.values():
        drawn = sets.draw(train, run.experiment, run.seed)
        others = sets.unused(steps["neither noisy nor repeated"], sets.subset(split, drawn))
        sets.write(sets.subset(split, drawn, others), run.training_set)


def link_images(data: Path, out: Path) -> None:
    """A link to the data set's `Images_png` beside the training sets."""
    link = out / "sets" / "Images_png"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to((data / "Images_png").resolve(), target_is_directory=True)


def train_and_evaluate(run: Run, training: Sequence[str], environment: dict[str, str]) -> None:
    """Train, or go on training, and evaluate the averaged last weights on the test patients.

    RunError if either fails.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    cache = str(run.out / "cache")
    if not (run.folder / "trained").exists():
        if (run.folder / "checkpoint.pt").exists():
            options = ["--resume"]
        else:
            options = [
                "--detector",
                run.detector,
                "--data",
                str(run.training_set),
                "--seed",
                str(run.seed),
                "--cache",
                cache,
                *training,
            ]
        _process(run, ["train.fit", "--out", str(run.folder), *options], environment)
        (run.folder / "trained").touch()
    weights, out = str(run.folder / "last.safetensors"), str(run.folder / "test")
    _process(
        run,
        ["train.evaluate", "slices", str(run.training_set), "--weights", weights, "--cache", cache, "--out", out],
        environment,
    )


def _process(run: Run, command: Sequence[str], environment: dict[str, str]) -> None:
    output = run.folder / "output.txt"
    with output.open("a", encoding="utf-8") as file:
        ended = subprocess.run(
            [sys.executable, "-m", *command], stdout=file, stderr=file, env={**os.environ, **environment}, check=False
        )
    if ended.returncode:
        lines = output.read_text(encoding="utf-8", errors="replace").strip().replace("\r", "\n").splitlines()
        raise RunError(f"{run.name} failed ({lines[-1] if lines else ended.returncode}); all of its output: {output}")


def run_all(runs: Sequence[Run], training: Sequence[str], at_once: int) -> list[str]:
    """Do the runs that are not done, `at_once` at a time, each on a GPU or a share of the processors.

    A sentence for each that failed.
    """
    places: SimpleQueue[int] = SimpleQueue()
    for place in range(at_once):
        places.put(place)

    def work(run: Run) -> None:
        place = places.get()
        try:
            train_and_evaluate(run, training, _environment(place, at_once))
        finally:
            places.put(place)

    failures = []
    with (
        ThreadPoolExecutor(at_once) as pool,
        tqdm(total=len(runs), unit="run", initial=sum(run.done for run in runs)) as bar,
    ):
        futures = {pool.submit(work, run): run for run in runs if not run.done}
        try:
            for future in as_completed(futures):
                if isinstance(error := future.exception(), RunError):
                    failures.append(str(error))
                else:
                    future.result()
                bar.set_postfix_str(f"{futures[future].name} ended")
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def _environment(place: int, at_once: int) -> dict[str, str]:
    gpus = torch.cuda.device_count()
    if gpus > 1:
        return {"CUDA_VISIBLE_DEVICES": str(place % gpus)}
    return {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // at_once, 1))} if at_once > 1 else {}


def check_settings(out: Path, settings: dict) -> None:
    """Write what all runs in `out` have in common, or see that it is what stands there.

    DeepLesionError where it differs.
    """
    file = out / "settings.json"
    if file.exists():
        standing = json.loads(file.read_text(encoding="utf-8"))
        different = [name for name in settings if standing.get(name) != settings[name]]
        if different:
            name = different[0]
            raise DeepLesionError(
                f"The runs in {out} were made with {name} = {standing.get(name)}, not {settings[name]}; give the same "
                "or another --out."
            )
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(settings, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 when all runs are done, 1 when some failed, 2 with one sentence on stderr when nothing can be
    done."""
    parser = _parser()
    options, training = parser.parse_known_args(arguments)
    runs = [Run(options.out, *names) for names in product(options.detectors, options.experiments, options.seeds)]
    try:
        failures = [] if options.table else _run(options, runs, training)
        print(paper_table.write(options.out))
    except (Refusal, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nStopped; the same command goes on from the last checkpoints in {options.out}.", file=sys.stderr)
        return 130
    print(*failures, sep="\n", end="\n" if failures else "", file=sys.stderr)
    return 1 if failures else 0


def _run(options: argparse.Namespace, runs: Sequence[Run], training: Sequence[str]) -> list[str]:
    if options.data is None:
        raise DeepLesionError("--data is needed: a folder with DL_info.csv and Images_png.")
    for detector in options.detectors:  # so that a wrong option shows at once, and not in the output of every run
        plan.parse(["--detector", detector, "--data", str(options.data), "--out", str(options.out), *training])
    csv = options.data / "DL_info.csv"
    check_settings(
        options.out, {"data": options.data.resolve().name, "split_seed": options.split_seed, "training": list(training)}
    )
    link_images(options.data, options.out)
    draw_sets(csv, runs, options.split_seed)
    return run_all(runs, training, options.at_once)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.reproduce",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--data", type=Path, help="folder with DL_info.csv and Images_png")
    parser.add_argument("--out", type=Path, required=True, help="folder for sets, runs, tables and pictures")
    parser.add_argument("--detectors", nargs="+", default=DETECTORS, choices=DETECTORS, help="all four if left out")
    parser.add_argument(
        "--experiments",
        nargs="+",
        default=list(paper_table.EXPERIMENTS),
        choices=tuple(sets.EXPERIMENTS),
        help="U BP N S if left out",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of draw and training, one run for each (0)")
    parser.add_argument(
        "--split-seed", type=int, default=0, help="of the split by patient, which all runs share (%(default)s)"
    )
    parser.add_argument(
        "--at-once", type=int, default=1, help="trainings at a time; several GPUs are dealt out in turn (%(default)s)"
    )
    parser.add_argument("--table", action="store_true", help="only write tables and pictures of the runs that are done")
    return parser


if __name__ == "__main__":
    sys.exit(main())
