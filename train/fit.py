"""Train a detector on data sets in DeepLesion's layout: a plain loop that can be killed and resumed.

Every sample is a crop round a key slice, scaled, flipped and brightened at random; what crop comes when is fixed by the seed, so that a
resumed run continues as if it had never stopped.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from LesionDetectorLib.detect import Detector, pick_device
from LesionDetectorLib.models import weights
from LesionDetectorLib.models.detections import Target
from LesionDetectorLib.slices import WINDOW, Frame, NetworkSlices
from torch import Tensor, nn
from torch.nn.functional import grid_sample
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from train.deeplesion import UNKNOWN, DeepLesionError, KeySlice, read_info
from train.evaluate import detect_key_slices, label_sensitivities, match

EXAMPLES = """
examples:
  python -m train.fit --data runs/phantoms --out runs/vfnet
  python -m train.fit --data runs/phantoms runs/inserted=2 runs/real=0.5 --out runs/vfnet --backbone-weights mobilenet_v2.pth
  python -m train.fit --data DeepLesion/bp.csv --out runs/bp          a training set of train.balance
  python -m train.fit --out runs/vfnet --resume          continue a run that was stopped
  python -m train.fit --detector retinanet --data runs/phantoms --out runs/retinanet
  python -m train.fit --detector jmi --data DeepLesion --out runs/jmi --backbone-weights vgg16.pth --steps 22000
"""
VISIBLE = 0.6
"""A box of which a crop shows less is neither lesion nor background."""
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


# ---------------------------------------------------------------------------------------------------------------- samples


@dataclass(frozen=True)
class Augmentation:
    """How far a crop may stray: scale, turning left and right, brightness in HU and contrast as a share, noise in HU."""

    scale: tuple[float, float] = (0.8, 1.2)
    flip: float = 0.5
    brightness: float = 15.0
    contrast: float = 0.08
    noise: float = 8.0


NO_AUGMENTATION = Augmentation((1.0, 1.0), 0.0, 0.0, 0.0, 0.0)


class Crops(Dataset):
    """A fixed plan of random crops.

    Item n is (image (slices, size, size) float32 0..255, Target in crop pixels); it depends on `seed` and n alone; `shares` are the
    relative frequencies of the key slices. Prepared slices are kept in `cache` as half-precision arrays, so that a PNG is decoded once.
    """

    def __init__(
        self,
        key_slices: list[KeySlice],
        shares: np.ndarray,
        count: int,
        cache: Path,
        slices: int = 3,
        size: int = 320,
        augmentation: Augmentation = Augmentation(),
        seed: int = 0,
    ) -> None:
        self.key_slices, self.slices, self.size, self.augmentation, self.seed = key_slices, slices, size, augmentation, seed
        self.cache = cache
        cache.mkdir(parents=True, exist_ok=True)
        self.plan = np.random.default_rng(seed).choice(len(key_slices), size=count, p=shares / shares.sum())

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, item: int) -> tuple[Tensor, Target]:
        rng = np.random.default_rng((self.seed, item))
        key_slice = self.key_slices[self.plan[item]]
        sample, frame = self._prepared(key_slice)
        boxes = frame.to_network(key_slice.boxes)
        return self._crop(torch.from_numpy(sample.astype(np.float32)), boxes, key_slice.labels, rng)

    def _prepared(self, key_slice: KeySlice) -> tuple[np.ndarray, Frame]:
        data_set = crc32(str(key_slice.images.resolve()).encode())  # patients of two data sets may bear the same number
        stem = self.cache / f"{data_set:08x}_{key_slice.name.removesuffix('.png')}_{self.slices}"
        array, frame_file = stem.with_suffix(".npy"), stem.with_suffix(".json")
        if not frame_file.exists():
            hu, k = key_slice.read(self.slices)
            prepared = NetworkSlices(hu, key_slice.spacing, slices=self.slices)
            np.save(array, prepared.sample(k).astype(np.float16))
            frame_file.write_text(json.dumps([prepared.frame.origin, prepared.frame.scale, prepared.frame.shape]))
        return np.load(array, mmap_mode="r"), Frame(*map(tuple, json.loads(frame_file.read_text())))

    def _crop(self, sample: Tensor, boxes: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Target]:
        change, size = self.augmentation, self.size
        scale = rng.uniform(*change.scale)
        mirror = -1.0 if rng.random() < change.flip else 1.0
        centre = self._centre(sample.shape, boxes, scale, rng)
        steps = (np.arange(size) - (size - 1) / 2) / scale
        image = _look(sample, centre[0] + steps * mirror, centre[1] + steps)
        if rng.random() < 0.5:
            image = image.flip(0)  # series run head to foot and foot to head
        image = _relight(image, change, rng)
        corners = (boxes.reshape(-1, 2, 2) - centre) * [scale * mirror, scale] + (size - 1) / 2
        return image, _target(np.sort(corners, axis=1).reshape(-1, 4), labels, size)

    def _centre(self, shape: tuple[int, ...], boxes: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
        """Where the crop looks: as a rule so that one of the lesions lies anywhere inside it."""
        extent, half = np.array([shape[2], shape[1]]), self.size / scale / 2
        if len(boxes) and rng.random() < 0.9:
            box = boxes[rng.integers(len(boxes))]
            reach = np.maximum(half - (box[2:] - box[:2]) / 2 - 8, 4)
            centre = (box[:2] + box[2:]) / 2 + rng.uniform(-reach, reach)
        else:
            centre = rng.uniform(0, extent)
        return np.where(extent > 2 * half, np.clip(centre, half - 16, extent - half + 16), extent / 2 + rng.uniform(-16, 16, 2))


def _look(sample: Tensor, x: np.ndarray, y: np.ndarray) -> Tensor:
    """`sample` (slices, rows, columns) seen at columns `x` and rows `y`, bilinear, 0 outside."""
    rows, columns = sample.shape[-2:]
    grid_x = torch.from_numpy(2 * x / max(columns - 1, 1) - 1).float()
    grid_y = torch.from_numpy(2 * y / max(rows - 1, 1) - 1).float()
    grid = torch.stack(torch.meshgrid(grid_x, grid_y, indexing="xy"), dim=-1)[None]
    return grid_sample(sample[None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0]


def _relight(image: Tensor, change: Augmentation, rng: np.random.Generator) -> Tensor:
    grey = 255 / (WINDOW[1] - WINDOW[0])
    water = -WINDOW[0] * grey
    noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32)) * (rng.uniform(0, change.noise) * grey)
    contrast, brightness = 1 + rng.uniform(-change.contrast, change.contrast), rng.uniform(-change.brightness, change.brightness) * grey
    inside = image > 0
    return torch.where(inside, (image - water) * contrast + water + brightness + noise, image).clamp(0, 255)


def _target(boxes: np.ndarray, labels: np.ndarray, size: int) -> Target:
    """What of the boxes a crop of `size` shows: too little of a box, or a box of unknown label, is to be ignored."""
    clipped = boxes.clip(-0.5, size - 0.5)
    visible = (clipped[:, 2:] - clipped[:, :2]).prod(1) / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-6)
    seen = (visible > 0) & (clipped[:, 2:] - clipped[:, :2] > 1).all(1)
    ignore = (visible < VISIBLE) | (labels == UNKNOWN)
    return Target(
        torch.from_numpy(clipped[seen]).float(),
        torch.from_numpy(np.maximum(labels[seen] - 1, 0)).long(),
        torch.from_numpy(ignore[seen]),
    )


def collate(samples: list[tuple[Tensor, Target]]) -> tuple[Tensor, list[Target]]:
    """A batch: images stacked, targets listed."""
    images, targets = zip(*samples)
    return torch.stack(images), list(targets)


# ------------------------------------------------------------------------------------------------------------------- loop


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
    workers: int = 1


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
        self.step, self.best, self.since_best = 0, -1.0, 0
        self.log: list[dict[str, float]] = []

    def start_from(self, path: Path) -> None:
        """Take over trained weights of the same architecture; WeightsError where they are none."""
        trained, card = weights.load(path)
        if card["architecture"] != self.model.architecture:
            raise weights.WeightsError(f"{path} has the architecture {card['architecture']}, this run {self.model.architecture}.")
        for model in (self.model, self.average.module):
            model.load_state_dict(trained.state_dict())

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def save(self) -> None:
        """Write the checkpoint so that a kill at any moment leaves a whole one."""
        state = {
            "plan": vars(self.plan),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": {"step": self.step, "best": self.best, "since_best": self.since_best},
            "log": self.log,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

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
        crops = Crops(
            key_slices, shares, plan.steps * plan.batch, self.folder / "cache", plan.architecture["slices"], plan.size, seed=plan.seed
        )
        rest = Subset(crops, range(self.step * plan.batch, len(crops)))
        loader = DataLoader(rest, plan.batch, collate_fn=collate, num_workers=plan.workers, persistent_workers=plan.workers > 0)
        with tqdm(loader, initial=self.step, total=plan.steps, unit="step", smoothing=0.05) as bar:
            for images, targets in bar:
                losses = self._step(images, targets)
                bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
                if self.step % plan.evaluate_every == 0 or self.step == plan.steps:
                    self._evaluate(validation)
                    if self.since_best >= plan.patience:
                        bar.write(f"Stopped early: no better for {plan.patience} evaluations.")
                        break

    def _step(self, images: Tensor, targets: list[Target]) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.plan) * group.get("factor", 1.0)
        torch.manual_seed(self.plan.seed + self.step)  # two-stage detectors draw regions; a resumed run draws the same
        self.model.train()
        images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        targets = [Target(*(part.to(self.device) for part in target)) for target in targets]
        with torch.autocast(self.device.type, torch.bfloat16):
            raw = self.model(images)
        losses = self.model.loss(raw, targets)
        total = sum(losses.values())
        if not torch.isfinite(total):
            raise RuntimeError(f"The loss is not finite at step {self.step}: {losses}. Lower --rate.")
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        self.step += 1
        values = {name: float(value.detach()) for name, value in losses.items()}
        self.log.append({"step": self.step, **values})
        return values

    def _evaluate(self, validation: list[KeySlice]) -> None:
        sensitivity = float("nan")
        if validation:
            found = detect_key_slices(Detector(self.average.module, self.device), validation)
            sensitivity = self.log[-1]["sensitivity"] = label_sensitivities(match(validation, found))["mean"]
        if not validation or sensitivity > self.best:
            self.best, self.since_best = sensitivity, 0
            self.export(self.folder / "best.safetensors", sensitivity)
        else:
            self.since_best += 1
        self.export(self.folder / "last.safetensors", sensitivity)
        self.save()
        self._write_log()

    def export(self, path: Path, sensitivity: float) -> None:
        """Write the averaged weights with a card."""
        weights.save(self.average.module, path, card(self.plan, self.step, sensitivity))

    def _write_log(self) -> None:
        with (self.folder / "log.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["step", *[name for name in self.log[0] if name != "step"], "sensitivity"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.log)
        picture(self.log, self.folder / "curves.png")


def card(plan: Plan, step: int, sensitivity: float) -> dict:
    """What the weights' card says about how they were made."""
    return {
        "training": {
            **{name: value for name, value in vars(plan).items() if name != "architecture"},
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


def main(arguments: list[str] | None = None) -> None:
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
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--optimiser", default=plan.optimiser, choices=("adamw", "sgd"), help="%(default)s")
    parser.add_argument(
        "--schedule", default=plan.schedule, choices=("cosine", "step"), help="of the learning rate; step: a tenth after 3/4 (%(default)s)"
    )
    for name, kind, text in (
        ("steps", int, "optimiser steps"),
        ("batch", int, "crops a step"),
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
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=getattr(plan, name), help=f"{text} (%(default)s)")
    parser.set_defaults(**DEFAULTS.get(first.parse_known_args(arguments)[0].detector, {}))
    options = parser.parse_args(arguments)
    try:
        _run(options, parser).train()
    except KeyboardInterrupt:
        parser.exit(130, f"\nStopped; continue from the last checkpoint with: python -m train.fit --out {options.out} --resume\n")
    except (DeepLesionError, weights.WeightsError) as error:
        parser.exit(2, f"{error}\n")


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Run:
    device = pick_device(options.device)
    if options.resume:
        if not (options.out / "checkpoint.pt").exists():
            parser.error(f"{options.out} holds no checkpoint.pt to resume from; start the run without --resume")
        return Run.resumed(options.out, device)
    if not options.data:
        parser.error("--data is needed: a folder with DL_info.csv and Images_png, for example one made by python -m train.phantom")
    if (options.out / "checkpoint.pt").exists():
        parser.error(f"{options.out} already holds a run; continue it with --resume, or choose another --out")
    options.out.mkdir(parents=True, exist_ok=True)
    architecture = {"detector": options.detector, "backbone": options.backbone, "slices": options.slices}
    names = vars(options).keys() & Plan.__dataclass_fields__.keys() - {"data"}
    plan = Plan(tuple(options.data), architecture, **{name: getattr(options, name) for name in names})
    run = Run(plan, options.out, device, options.backbone_weights)
    if options.start_from:
        run.start_from(options.start_from)
    return run


if __name__ == "__main__":
    main()
