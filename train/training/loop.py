"""The loop of a training, of any module that has a loss, a data set and a figure by which it is validated.

It can be killed at any moment and resumed.
"""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from LesionDetectorLib.files import whole, write_text
from LesionDetectorLib.models.losses import process_number, processes, sum_over_processes
from LesionDetectorLib.refusal import Refusal
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from train.training.curves import picture
from train.training.pace import Pace
from train.training.plan import Plan


class TrainingError(Refusal):
    """A training cannot go on; the message says why and what to change."""


def learning_rate(step: int, plan: Plan) -> float:
    """Linear warm-up, then half a cosine down to 1 % of the rate, a step down to 10 % after three quarters of the run,
    or no change."""
    if step < plan.warm_up:
        return plan.rate * (step + 1) / plan.warm_up
    if plan.schedule == "constant":
        return plan.rate
    if plan.schedule == "step":
        return plan.rate * (1.0 if step < 0.75 * plan.steps else 0.1)
    progress = (step - plan.warm_up) / max(plan.steps - plan.warm_up, 1)
    return plan.rate * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)


class Losses(nn.Module):
    """A model and its loss as one module, which is how several processes train it: some parameters are used in the
    loss only."""

    def __init__(self, model: nn.Module, precision: str) -> None:
        super().__init__()
        self.model, self.mixed = model, precision == "bfloat16"

    def forward(self, images: Tensor, targets: Any) -> dict[str, Tensor]:
        """The losses by name, in float32 whatever the layers' precision."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.mixed):
            return self.model.loss(self.model(images), targets)  # a second stage is part of the loss


class Task(Protocol):
    """What is trained: a module that has a loss, a data set, and a figure by which it is validated.

    model: `model(inputs)` gives outputs, and `model.loss(outputs, targets)` the losses by name.
    figure: the name of the validation figure; more is better.
    """

    model: nn.Module
    figure: str

    def data(self) -> tuple[Dataset, Callable, int]:
        """The items of the whole training, `plan.steps * plan.batch` in their order; how several become a batch, which
        has `on(device)` for its inputs and targets; and how many steps an epoch has."""

    def validate(self, model: nn.Module, device: torch.device) -> float:
        """The figure that `model` reaches; NaN where there is nothing to validate on."""

    def export(self, model: nn.Module, path: Path, step: int, figure: float) -> None:
        """Write the weights to `path`, with the figure that they reach."""


class Run:
    """One training: the model, its running average and optimiser, and the folder that they are saved in."""

    def __init__(self, task: Task, plan: Plan, folder: Path, device: torch.device) -> None:
        self.task, self.plan, self.folder, self.device = task, plan, folder, device
        self.model = task.model
        self.model.to(device, memory_format=torch.channels_last)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(plan.ema), use_buffers=True)
        groups = _parameter_groups(self.model, plan.weight_decay, plan.backbone_rate)
        if plan.optimiser == "sgd":
            self.optimizer = torch.optim.SGD(groups, lr=plan.rate, momentum=0.9)
        else:
            self.optimizer = torch.optim.AdamW(groups, lr=plan.rate)
        losses = Losses(self.model, plan.precision)
        self.losses = DistributedDataParallel(losses) if distributed.is_initialized() else losses
        self.step, self.best, self.since_best = 0, -math.inf, 0
        self.log: list[dict[str, float]] = []

    def start_from(self, state: dict[str, Tensor]) -> None:
        """Take over trained weights of the same architecture."""
        for model in (self.model, self.average.module):
            model.load_state_dict(state)

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
    def resumed(cls, task_of: Callable[[Plan, Path], Task], folder: Path, device: torch.device) -> Run:
        """The run that was stopped in `folder`; `task_of` makes its task again, of its plan and the folder."""
        state = torch.load(folder / "checkpoint.pt", map_location=device, weights_only=True)
        plan = Plan(**state["plan"])
        run = cls(task_of(plan, folder), plan, folder, device)
        run.model.load_state_dict(state["model"])
        run.average.load_state_dict(state["average"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.log = state["log"]
        vars(run).update(state["progress"])
        return run

    def train(self) -> None:
        """Train to the end of the plan, or until the validation figure has not risen for `patience` evaluations."""
        plan = self.plan
        items, collate, epoch = self.task.data()
        loader = DataLoader(
            Subset(items, self._own_share(len(items))),
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
                    self._evaluate()
                    if self.since_best >= plan.patience:
                        bar.write(f"Stopped early: no better for {plan.patience} evaluations.")
                        break
                elif self.step % epoch == 0:
                    self.save()
        if is_first():
            print(f"{self.step} steps done: {pace.summary()}.")

    def _own_share(self, count: int) -> np.ndarray:
        """Which of `count` crops this process still has to see: its part of every batch, so that all together see
        the whole batch."""
        batches = np.arange(self.step * self.plan.batch, count).reshape(-1, processes(), self.plan.batch // processes())
        return batches[:, process_number()].reshape(-1)

    def _step(self, batch: Any) -> dict[str, float]:
        """Learn from a batch.

        The losses are waited for at the end, so that a GPU has the rest of the step to do meanwhile.
        """
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
            raise TrainingError(
                f"The loss is not finite at step {self.step} ({shown}); train again with a lower --rate."
            )
        self.step += 1
        self.log.append({"step": self.step, **values})
        return values

    def _check_weights(self) -> None:
        """TrainingError where the last update left weights that are not finite, so that they are never kept: the
        average has them all."""
        tensors = [tensor for tensor in self.average.state_dict().values() if tensor.is_floating_point()]
        if not torch.stack([tensor.isfinite().all() for tensor in tensors]).all():
            raise TrainingError(
                f"The weights are not finite after step {self.step - 1}; train again with a lower --rate."
            )

    def _evaluate(self) -> None:
        """Validate, and write checkpoint, weights and log: the first process does, the others learn the outcome."""
        self._check_weights()
        figure = self.task.validate(self.average.module, self.device) if is_first() else float("nan")
        if distributed.is_initialized():
            outcome = torch.tensor(figure, device=self.device)
            distributed.broadcast(outcome, 0)
            figure = float(outcome)
        if not math.isnan(figure):
            self.log[-1][self.task.figure] = figure
        better = math.isnan(figure) or figure > self.best
        self.best, self.since_best = (figure, 0) if better else (self.best, self.since_best + 1)
        if is_first():
            for name in ("best", "last") if better else ("last",):
                self.task.export(self.average.module, self.folder / f"{name}.safetensors", self.step, figure)
            self._write_log()
        self.save()

    def _write_log(self) -> None:
        columns = ["step", *[name for name in self.log[0] if name != "step"], self.task.figure]
        file = io.StringIO()
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self.log)
        write_text(self.folder / "log.csv", file.getvalue())
        picture(self.log, self.task.figure, self.folder / "curves.png")


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
    """`values` on their way to the CPU: calling waits until they are there, not until the device has done what it is
    given later."""
    copy = values.to("cpu", non_blocking=True)
    if not values.is_cuda:
        return copy.tolist
    there = torch.cuda.current_stream(values.device).record_event()

    def arrived() -> list[float]:
        there.synchronize()
        return copy.tolist()

    return arrived


def spare_cores() -> int:
    """How many processes are to prepare crops for this one: one for each core that it leaves of its share of the
    machine, 1 to 4."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1, 1), 4)


def is_first() -> bool:
    """Whether this process is the one that validates, saves and talks."""
    return process_number() == 0


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
