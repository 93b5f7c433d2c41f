"""Train a detector on data sets in DeepLesion's layout: a plain loop that can be killed and resumed.

Every sample is a crop round a key slice, scaled, flipped and brightened at random; what crop comes when is fixed by the seed, so that a
resumed run continues as if it had never stopped. Started by torchrun, every process trains on its share of each batch, on a GPU of its own.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from LesionDetectorLib.detect import Detector, pick_device
from LesionDetectorLib.files import whole
from LesionDetectorLib.models import weights
from LesionDetectorLib.models.detections import Target
from LesionDetectorLib.models.losses import process_number, processes, sum_over_processes
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.slices import PIXEL_MM
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from train.crops import Batch, Crops, collate
from train.deeplesion import DeepLesionError, KeySlice, read_info
from train.evaluate import detect_key_slices, label_sensitivities, match
from train.prepared import PreparedSlices

EXAMPLES = """
examples:
  python -m train.fit --data runs/phantoms --out runs/vfnet
  python -m train.fit --data runs/phantoms runs/inserted=2 runs/real=0.5 --out runs/vfnet --backbone-weights mobilenet_v2.pth
  python -m train.fit --data DeepLesion/bp.csv --out runs/bp          a training set of train.balance
  python -m train.fit --out runs/vfnet --resume          continue a run that was stopped
  python -m train.fit --detector retinanet --data runs/phantoms --out runs/retinanet
  torchrun --nproc-per-node 4 -m train.fit --data DeepLesion/bp.csv --out runs/bp --batch 32          four GPUs, 8 crops each
  python -m train.fit --detector jmi --data DeepLesion --out runs/jmi --backbone-weights vgg16.pth --steps 22000
"""
DEFAULTS = {
    "jmi": {  # Yan et al., 2018; momentum and weight decay, which the paper leaves out, are the usual ones of Faster R-CNN
        "backbone": "vgg16",
        "size": 512,
        "optimiser": "sgd",
        "schedule": "step",
        "rate": 2e-3,
        "backbone_rate": 1.0,
        "warm_up": 0,
        "weight_decay": 5e-4,
        "ema": 0.0,
        "frozen_stages": 2,
    }
}
"""The options that a detector has other defaults for."""


class TrainingError(RuntimeError):
    """A training cannot go on; the message says why and what to change."""


@dataclass(frozen=True)
class Plan:
    """Everything that fixes a run; kept in its checkpoint."""

    data: tuple[str, ...]
    architecture: dict
    steps: int = 2000
    batch: int = 8
    size: int = 320
    optimiser: str = "adamw"
    schedule: str = "cosine"
    rate: float = 1e-3
    backbone_rate: float = 1 / 3
    warm_up: int = 100
    weight_decay: float = 0.01
    clip: float = 10.0
    frozen_stages: int = 1
    ema: float = 0.998
    evaluate_every: int = 250
    patience: int = 8
    validation_slices: int = 120
    seed: int = 0
    workers: int | None = None
    cache: str = ""
    precision: str = "bfloat16"


def read_data(specification: tuple[str, ...], split: str) -> tuple[list[KeySlice], np.ndarray]:
    """The key slices of several folders, or csv files as `read_info` takes them, and how often each is to be drawn.

    "FOLDER=2" draws a folder's slices twice as often in all.
    """
    key_slices, shares = [], []
    for entry in specification:
        folder, _, share = entry.partition("=")
        found = read_info(Path(folder), split)
        key_slices += found
        shares += [float(share or 1) / max(len(found), 1)] * len(found)
    return key_slices, np.array(shares)


def learning_rate(step: int, plan: Plan) -> float:
    """Linear warm-up, then half a cosine down to 1 % of the rate, or a step down to 10 % after three quarters of the run."""
    if step < plan.warm_up:
        return plan.rate * (step + 1) / plan.warm_up
    if plan.schedule == "step":
        return plan.rate * (1.0 if step < 0.75 * plan.steps else 0.1)
    progress = (step - plan.warm_up) / max(plan.steps - plan.warm_up, 1)
    return plan.rate * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)


class Losses(nn.Module):
    """A model and its loss as one module, which is how several processes train it: some parameters are used in the loss only."""

    def __init__(self, model: weights.Model, precision: str) -> None:
        super().__init__()
        self.model, self.mixed = model, precision == "bfloat16"

    def forward(self, images: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """The losses by name, in float32 whatever the layers' precision."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.mixed):
            return self.model.loss(self.model(images), targets)  # a second stage is part of the loss


class Pace:
    """How fast a training goes, counted from the end of its first step on, which waits for much that happens once.

    A GPU is still at work on a step while this process waits for the crops of the next, so it was idle for want of crops for that long at
    most.
    """

    def __init__(self, batch: int) -> None:
        self.batch, self.steps, self.started, self.waiting, self.training = batch, -1, 0.0, 0.0, 0.0

    def add(self, waiting: float, training: float) -> None:
        """Count one step: the seconds that its crops were waited for, and those that it took."""
        self.steps += 1
        if self.steps == 0:
            self.started = time.monotonic()
        else:
            self.waiting, self.training = self.waiting + waiting, self.training + training

    def figures(self) -> dict[str, str]:
        """What the bar shows."""
        if self.steps < 1:
            return {}
        seconds = self.waiting + self.training
        return {"images a second": f"{self.steps * self.batch / seconds:.1f}", "waiting for crops": f"{100 * self.waiting / seconds:.0f} %"}

    def summary(self) -> str:
        """The same for the end, with what validating and saving took of all the time."""
        if self.steps < 1:
            return "one step is too few to time"
        elsewhere = 1 - (self.waiting + self.training) / (time.monotonic() - self.started)
        images, waiting = self.figures().values()
        ended = f"validating and saving took {100 * elsewhere:.0f} % of all time"
        return f"{images} images a second, {waiting} of the time waiting for crops; {ended}"


class Run:
    """One training: the model, its running average and optimiser, and the folder that they are saved in."""

    def __init__(self, plan: Plan, folder: Path, device: torch.device, backbone_weights: Path | None = None) -> None:
        torch.manual_seed(plan.seed)
        self.plan, self.folder, self.device = plan, folder, device
        self.model = weights.build(plan.architecture)
        if backbone_weights is not None:
            weights.load_backbone(self.model, backbone_weights)
        for stage in self.model.pyramid.stages[: plan.frozen_stages]:
            stage.requires_grad_(False)
        self.model.to(device, memory_format=torch.channels_last)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(plan.ema), use_buffers=True)
        groups = _parameter_groups(self.model, plan.weight_decay, plan.backbone_rate)
        if plan.optimiser == "sgd":
            self.optimizer = torch.optim.SGD(groups, lr=plan.rate, momentum=0.9)
        else:
            self.optimizer = torch.optim.AdamW(groups, lr=plan.rate)
        losses = Losses(self.model, plan.precision)
        self.losses = DistributedDataParallel(losses) if distributed.is_initialized() else losses
        self.step, self.best, self.since_best = 0, -1.0, 0
        self.log: list[dict[str, float]] = []

    def start_from(self, path: Path) -> None:
        """Take over trained weights of the same architecture; WeightsError where they are none."""
        trained, _ = weights.load(path)
        if trained.architecture != self.model.architecture:
            raise weights.WeightsError(f"{path} has the architecture {trained.architecture}, this run {self.model.architecture}.")
        for model in (self.model, self.average.module):
            model.load_state_dict(trained.state_dict())

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def save(self) -> None:
        """Write the checkpoint so that a kill at any moment leaves a whole one; of several processes the first does.

        TrainingError where the weights are not finite: then the last checkpoint stays.
        """
        self._check_weights()
        if not is_first():
            return
        state = {
            "plan": vars(self.plan),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": {"step": self.step, "best": self.best, "since_best": self.since_best},
            "log": self.log,
        }
        with whole(self.checkpoint) as file:
            torch.save(state, file)

    @classmethod
    def resumed(cls, folder: Path, device: torch.device) -> Run:
        """The run that was stopped in `folder`."""
        state = torch.load(folder / "checkpoint.pt", map_location=device, weights_only=True)
        run = cls(Plan(**state["plan"]), folder, device)
        run.model.load_state_dict(state["model"])
        run.average.load_state_dict(state["average"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.log = state["log"]
        vars(run).update(state["progress"])
        return run

    def train(self) -> None:
        """Train to the end of the plan, or until validation sensitivity has not risen for `patience` evaluations."""
        plan = self.plan
        key_slices, shares = read_data(plan.data, "train")
        if not key_slices:
            raise DeepLesionError(f"{' '.join(plan.data)} hold no slice of the train split; check Train_Val_Test in DL_info.csv.")
        validation = _spread(read_data(plan.data, "val")[0], plan.validation_slices)
        crops = Crops(key_slices, shares, plan.steps * plan.batch, self._prepared(), plan.size, seed=plan.seed)
        epoch = math.ceil(len(key_slices) / plan.batch)
        loader = DataLoader(
            Subset(crops, self._own_share(len(crops))),
            plan.batch // processes(),
            collate_fn=collate,
            num_workers=spare_cores() if plan.workers is None else plan.workers,
            pin_memory=self.device.type == "cuda",
        )
        pace = Pace(plan.batch)
        with tqdm(initial=self.step, total=plan.steps, unit="step", smoothing=0.05, disable=not is_first()) as bar:
            for batch, waited in _timed(loader):
                started = time.monotonic()
                losses = self._step(batch)
                pace.add(waited, time.monotonic() - started)
                bar.update()
                bar.set_postfix({**{name: f"{value:.3f}" for name, value in losses.items()}, **pace.figures()})
                if self.step % plan.evaluate_every == 0 or self.step == plan.steps:
                    self._evaluate(validation)
                    if self.since_best >= plan.patience:
                        bar.write(f"Stopped early: no better for {plan.patience} evaluations.")
                        break
                elif self.step % epoch == 0:
                    self.save()
        if is_first():
            print(f"{self.step} steps done: {pace.summary()}.")

    def _prepared(self) -> PreparedSlices:
        cache = Path(self.plan.cache) if self.plan.cache else self.folder / "cache"
        return PreparedSlices(cache, self.model.architecture["slices"], self.model.architecture["pixel_mm"])

    def _own_share(self, count: int) -> np.ndarray:
        """Which of `count` crops this process still has to see: its part of every batch, so that all together see the whole batch."""
        batches = np.arange(self.step * self.plan.batch, count).reshape(-1, processes(), self.plan.batch // processes())
        return batches[:, process_number()].reshape(-1)

    def _step(self, batch: Batch) -> dict[str, float]:
        """Learn from a batch; the losses are waited for at the end, so that a GPU has the rest of the step to do meanwhile."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.plan) * group.get("factor", 1.0)
        torch.manual_seed(self.plan.seed + self.step)  # two-stage detectors draw regions; a resumed run draws the same
        self.model.train()
        losses = self.losses(*batch.on(self.device))
        arriving = _on_its_way(sum_over_processes(torch.stack(list(losses.values()))) / processes())
        self.optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        values = dict(zip(losses, arriving()))
        if not all(map(math.isfinite, values.values())):
            shown = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise TrainingError(f"The loss is not finite at step {self.step} ({shown}); train again with a lower --rate.")
        self.step += 1
        self.log.append({"step": self.step, **values})
        return values

    def _check_weights(self) -> None:
        """TrainingError where the last update left weights that are not finite, so that they are never kept: the average has them all."""
        tensors = [tensor for tensor in self.average.state_dict().values() if tensor.is_floating_point()]
        if not torch.stack([tensor.isfinite().all() for tensor in tensors]).all():
            raise TrainingError(f"The weights are not finite after step {self.step - 1}; train again with a lower --rate.")

    def _evaluate(self, validation: list[KeySlice]) -> None:
        """Validate, and write checkpoint, weights and log: the first process does, the others learn the outcome."""
        self._check_weights()
        sensitivity = self._sensitivity(validation) if is_first() else float("nan")
        if distributed.is_initialized():
            outcome = torch.tensor(sensitivity, device=self.device)
            distributed.broadcast(outcome, 0)
            sensitivity = float(outcome)
        if validation:
            self.log[-1]["sensitivity"] = sensitivity
        better = not validation or sensitivity > self.best
        self.best, self.since_best = (sensitivity, 0) if better else (self.best, self.since_best + 1)
        if is_first():
            for name in ("best", "last") if better else ("last",):
                self.export(self.folder / f"{name}.safetensors", sensitivity)
            self._write_log()
        self.save()

    def _sensitivity(self, validation: list[KeySlice]) -> float:
        if not validation:
            return float("nan")
        found = detect_key_slices(Detector(self.average.module, self.device), validation, cache=self._prepared().cache)
        return label_sensitivities(match(validation, found))["mean"]

    def export(self, path: Path, sensitivity: float) -> None:
        """Write the averaged weights with a card."""
        weights.save(self.average.module, path, card(self.plan, self.step, sensitivity))

    def _write_log(self) -> None:
        with (self.folder / "log.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["step", *[name for name in self.log[0] if name != "step"], "sensitivity"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.log)
        picture(self.log, self.folder / "curves.png")


def _timed(batches: Iterable) -> Iterator[tuple]:
    """Each of `batches`, and the seconds that it was waited for."""
    batches = iter(batches)
    while True:
        started = time.monotonic()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.monotonic() - started


def _on_its_way(values: Tensor) -> Callable[[], list[float]]:
    """`values` on their way to the CPU: calling waits until they are there, not until the device has done what it is given later."""
    copy = values.to("cpu", non_blocking=True)
    if not values.is_cuda:
        return copy.tolist
    there = torch.cuda.current_stream(values.device).record_event()

    def arrived() -> list[float]:
        there.synchronize()
        return copy.tolist()

    return arrived


def spare_cores() -> int:
    """How many processes are to prepare crops for this one: one for each core that it leaves of its share of the machine, 1 to 4."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1, 1), 4)


def is_first() -> bool:
    """Whether this process is the one that validates, saves and talks."""
    return process_number() == 0


def card(plan: Plan, step: int, sensitivity: float) -> dict:
    """What the weights' card says about how they were made."""
    return {
        "training": {
            **{name: value for name, value in vars(plan).items() if name not in ("architecture", "cache")},
            "data": [Path(entry).name for entry in plan.data],
            "steps_done": step,
        },
        "results": {"validation": {"mean_sensitivity_4_fp_iou_0.3": None if math.isnan(sensitivity) else sensitivity}},
    }


def _parameter_groups(model: nn.Module, decay: float, backbone_rate: float) -> list[dict]:
    """No weight decay on biases and norms; a pretrained backbone learns at `backbone_rate` times the rate."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((parameter.ndim > 1, name.startswith("pyramid.stages")), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay if decayed else 0.0, "factor": backbone_rate if body else 1.0}
        for (decayed, body), parameters in groups.items()
    ]


def _spread(items: list, count: int) -> list:
    """At most `count` of `items`, evenly spread."""
    return items if len(items) <= count else [items[place] for place in np.linspace(0, len(items) - 1, count).astype(int)]


def picture(log: list[dict[str, float]], path: Path) -> None:
    """Draw the losses (mean over 25 steps) and the validation sensitivity over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    losses, sensitivity = figure.subplots(1, 2)
    for name in (name for name in log[0] if name not in ("step", "sensitivity")):
        values = np.array([entry[name] for entry in log])
        window = min(25, len(values))
        losses.plot(np.arange(window, len(values) + 1), np.convolve(values, np.ones(window) / window, "valid"), label=name)
    losses.set(xlabel="step", ylabel="loss (mean over 25 steps)", yscale="log")
    losses.legend()
    points = [(entry["step"], entry["sensitivity"]) for entry in log if "sensitivity" in entry]
    sensitivity.plot(*zip(*points) if points else ([], []), marker="o")
    sensitivity.set(xlabel="step", ylabel="validation sensitivity at 4 FP an image", ylim=(0, 1))
    figure.savefig(path, dpi=110)


# ----------------------------------------------------------------------------------------------------------- command line


def parse(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    """The options, a detector's own defaults among them, and the parser, which ends the program where they cannot be read."""
    first = argparse.ArgumentParser(prog="python -m train.fit", add_help=False, allow_abbrev=False)
    first.add_argument("--detector", default="vfnet", choices=weights.DETECTORS, help="what to train; sets some defaults (%(default)s)")
    parser = argparse.ArgumentParser(
        prog="python -m train.fit",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[first],
    )
    plan = Plan((), {})
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="DATA[=SHARE]",
        help="folders with DL_info.csv and Images_png, or csv files of train.balance beside Images_png; SHARE weighs one of them (1)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the run: checkpoint, best and last weights, log, picture of the curves"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out; other options are taken from its checkpoint")
    parser.add_argument(
        "--backbone", default="mobilenet_v2", help="mobilenet_v2, resnet18, resnet34, resnet50; vgg16 for jmi (%(default)s)"
    )
    parser.add_argument("--backbone-weights", type=Path, metavar="FILE", help="ImageNet state_dict of torchvision to start from")
    parser.add_argument(
        "--start-from", type=Path, metavar="FILE", help="trained weights (.safetensors) of the same architecture to go on from"
    )
    parser.add_argument("--slices", type=int, default=3, choices=(1, 3, 9), help="slices of a sample (%(default)s)")
    parser.add_argument(
        "--pixel-mm", type=float, default=PIXEL_MM, help="side of a pixel; 1.6 is four times as fast and misses small lesions (%(default)s)"
    )
    parser.add_argument("--cache", default="", help="folder for prepared slices, which several runs may share (OUT/cache)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--optimiser", default=plan.optimiser, choices=("adamw", "sgd"), help="%(default)s")
    parser.add_argument(
        "--precision",
        default=plan.precision,
        choices=("bfloat16", "float32"),
        help="of the network; losses and weights are float32 (%(default)s)",
    )
    parser.add_argument(
        "--schedule", default=plan.schedule, choices=("cosine", "step"), help="of the learning rate; step: a tenth after 3/4 (%(default)s)"
    )
    for name, kind, text in (
        ("steps", int, "optimiser steps"),
        ("batch", int, "crops a step, of all processes together"),
        ("size", int, "pixels a crop's side, a multiple of 64"),
        ("rate", float, "highest learning rate"),
        ("backbone_rate", float, "learning rate of the backbone, as a share of --rate"),
        ("weight_decay", float, "weight decay"),
        ("warm_up", int, "steps until the learning rate is at its highest"),
        ("ema", float, "decay of the running average of the weights, which is what is kept"),
        ("frozen_stages", int, "first stages of the backbone that keep their weights"),
        ("evaluate_every", int, "steps between validations and checkpoints"),
        ("patience", int, "validations without a gain before stopping"),
        ("validation_slices", int, "most slices to validate on"),
        ("seed", int, "same seed, same run"),
        ("workers", int, "processes that prepare crops"),
    ):
        default = "one for each core left, at most 4" if getattr(plan, name) is None else "%(default)s"
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=getattr(plan, name), help=f"{text} ({default})")
    parser.set_defaults(**DEFAULTS.get(first.parse_known_args(arguments)[0].detector, {}))
    return parser.parse_args(arguments), parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options, parser = parse(arguments)
    try:
        _join_others(options.device)
        _run(options, parser).train()
    except KeyboardInterrupt:
        parser.exit(130, f"\nStopped; continue from the last checkpoint with: python -m train.fit --out {options.out} --resume\n")
    except (Refusal, TrainingError) as error:
        parser.exit(2, f"{error}\n")
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _join_others(device: str) -> None:
    """Where torchrun started this process, join the others; each has a GPU of its own, or all work on the CPU."""
    if "LOCAL_RANK" not in os.environ:
        return
    if pick_device(device).type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("nccl")
    else:
        distributed.init_process_group("gloo")


def _check_shares(batch: int, parser: argparse.ArgumentParser) -> None:
    if batch % processes():
        parser.error(f"a batch of {batch} cannot be shared by {processes()} processes; start as many processes as divide it")


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Run:
    device = pick_device(options.device)
    if options.resume:
        if not (options.out / "checkpoint.pt").exists():
            parser.error(f"{options.out} holds no checkpoint.pt to resume from; start the run without --resume")
        run = Run.resumed(options.out, device)
        _check_shares(run.plan.batch, parser)
        return run
    if not options.data:
        parser.error("--data is needed: a folder with DL_info.csv and Images_png, for example one made by python -m train.phantom")
    if (options.out / "checkpoint.pt").exists():
        parser.error(f"{options.out} already holds a run; continue it with --resume, or choose another --out")
    _check_shares(options.batch, parser)
    options.out.mkdir(parents=True, exist_ok=True)
    architecture = {"detector": options.detector, "backbone": options.backbone, "slices": options.slices, "pixel_mm": options.pixel_mm}
    names = vars(options).keys() & Plan.__dataclass_fields__.keys() - {"data"}
    plan = Plan(tuple(options.data), architecture, **{name: getattr(options, name) for name in names})
    run = Run(plan, options.out, device, options.backbone_weights)
    if options.start_from:
        run.start_from(options.start_from)
    return run


if __name__ == "__main__":
    main()
