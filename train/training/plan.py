"""The plan of a training: everything that fixes a run, from the command line's words."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from LesionDetectorLib.models import weights
from LesionDetectorLib.slices import DEFAULT, TONES

EXAMPLES = """
examples:
  python -m train.fit --data runs/phantoms --out runs/vfnet
  python -m train.fit --data phantoms inserted=2 real=0.5 --out runs/vfnet --backbone-weights mobilenet_v2.pth
  python -m train.fit --data DeepLesion/bp.csv --out runs/bp          a training set of train.balance
  python -m train.fit --out runs/vfnet --resume          continue a run that was stopped
  python -m train.fit --detector retinanet --data runs/phantoms --out runs/retinanet
  python -m train.fit --detector meld --data U=3 lung:L liver:V mediastinum:N --out runs/meld
  torchrun --nproc-per-node 4 -m train.fit --data DeepLesion/bp.csv --out runs/bp --batch 32     four GPUs, 8 crops each
  python -m train.fit --detector jmi --data DeepLesion --out runs/jmi --backbone-weights vgg16.pth --steps 22000
"""
DEFAULTS = {
    # Yan et al., 2018; momentum and weight decay, which the paper leaves out, are the usual ones of Faster R-CNN
    "jmi": {
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
BY_BACKBONE = {"densenet121": {"strides": (4,), "channels": 512, "features": 1024}}
"""What of an architecture a backbone asks for: meld as published."""


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
    validate_on: tuple[str, ...] = ()
    unmarked: float = 0.0


def parse(
    arguments: Sequence[str] | None = None, description: str | None = None
) -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    """The options, a detector's own defaults among them, and the parser, which ends the program where they cannot be
    read."""
    first = argparse.ArgumentParser(prog="python -m train.fit", add_help=False, allow_abbrev=False)
    first.add_argument(
        "--detector", default="vfnet", choices=weights.DETECTORS, help="what to train; sets some defaults (%(default)s)"
    )
    parser = argparse.ArgumentParser(
        prog="python -m train.fit",
        description=description,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[first],
    )
    _add_run(parser)
    _add_input(parser)
    _add_course(parser)
    parser.set_defaults(**DEFAULTS.get(first.parse_known_args(arguments)[0].detector, {}))
    return parser.parse_args(arguments), parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    """What is trained on, from where, and the folder of the run."""
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="[LABEL:]DATA[=SHARE]",
        help=(
            "folders with DL_info.csv and Images_png, or with boxes.csv and part-marked slices, or csv files of "
            "DL_info's form beside Images_png; SHARE weighs one of them (1); for meld, LABEL: before a folder says "
            "that of it all lesions of that label are marked, and no others"
        ),
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder of the run: checkpoint, best and last weights, log, picture of the curves",
    )
    parser.add_argument(
        "--validate-on",
        nargs="+",
        default=(),
        metavar="DATA",
        help="the data sets whose validation slices choose the best weights, real patients for example (--data's)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --out; other options are taken from its checkpoint"
    )
    parser.add_argument(
        "--backbone",
        default="mobilenet_v2",
        help="mobilenet_v2, resnet18, resnet34, resnet50; vgg16 for jmi; also densenet121 for meld (%(default)s)",
    )
    parser.add_argument(
        "--backbone-weights", type=Path, metavar="FILE", help="ImageNet state_dict of torchvision to start from"
    )
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="FILE",
        help="trained weights (.safetensors) of the same architecture to go on from",
    )


def _add_input(parser: argparse.ArgumentParser) -> None:
    """What the network eats."""
    parser.add_argument("--slices", type=int, default=3, choices=(1, 3, 9), help="slices of a sample (%(default)s)")
    parser.add_argument(
        "--pixel-mm",
        type=float,
        default=DEFAULT.pixel_mm,
        help="side of a pixel; 1.6 is four times as fast and misses small lesions (%(default)s)",
    )
    parser.add_argument(
        "--window",
        type=float,
        nargs=2,
        default=DEFAULT.window,
        metavar=("LOW", "HIGH"),
        help="HU between which the network tells greys apart (-1024 3071)",
    )
    parser.add_argument(
        "--tone",
        default=DEFAULT.tone,
        choices=TONES,
        help="how the network sees them; ct gives soft tissue most of the range (%(default)s)",
    )


def _add_course(parser: argparse.ArgumentParser) -> None:
    """How it is trained."""
    plan = Plan((), {})
    parser.add_argument(
        "--cache", default="", help="folder for prepared slices, which several runs may share (OUT/cache)"
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--optimiser", default=plan.optimiser, choices=("adamw", "sgd"), help="%(default)s")
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "bfloat16", "float32"),
        help="of the network, whose losses and weights are float32; auto: bfloat16 where that is fast (%(default)s)",
    )
    parser.add_argument(
        "--schedule",
        default=plan.schedule,
        choices=("cosine", "step", "constant"),
        help="of the learning rate; step: a tenth after 3/4 (%(default)s)",
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
        (
            "unmarked",
            float,
            "how much background counts, 0 to 1, for labels of which a slice may hold unmarked lesions",
        ),
        ("seed", int, "same seed, same run"),
        ("workers", int, "processes that prepare crops"),
    ):
        default = "one for each core left, at most 4" if getattr(plan, name) is None else "%(default)s"
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=getattr(plan, name), help=f"{text} ({default})"
        )
