"""Train a detector on data sets in DeepLesion's layout: a plain loop that can be killed and resumed.

Every sample is a crop round a key slice, scaled, flipped and brightened at random; what crop comes when is fixed by the
seed, so that a resumed run continues as if it had never stopped. Started by torchrun, every process trains on its share
of each batch, on a GPU of its own.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import torch
from LesionDetectorLib.detect import fast_bfloat16, pick_device
from LesionDetectorLib.models.losses import processes
from LesionDetectorLib.refusal import Refusal
from torch import distributed

from train.training import detection
from train.training.loop import Run
from train.training.plan import BY_BACKBONE, Plan, parse


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options, parser = parse(arguments, __doc__)
    try:
        _join_others(options.device)
        _run(options, parser).train()
    except KeyboardInterrupt:
        parser.exit(
            130,
            f"\nStopped; continue from the last checkpoint with: python -m train.fit --out {options.out} --resume\n",
        )
    except Refusal as error:
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
        parser.error(
            f"a batch of {batch} cannot be shared by {processes()} processes; start as many processes as divide it"
        )


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Run:
    device = pick_device(options.device)
    if options.resume:
        if not (options.out / "checkpoint.pt").exists():
            parser.error(f"{options.out} holds no checkpoint.pt to resume from; start the run without --resume")
        run = detection.resumed(options.out, device)
        _check_shares(run.plan.batch, parser)
        return run
    if not options.data:
        parser.error(
            "--data is needed: a folder with DL_info.csv and Images_png, for example one made by python -m "
            "train.phantom"
        )
    if (options.out / "checkpoint.pt").exists():
        parser.error(f"{options.out} already holds a run; continue it with --resume, or choose another --out")
    _check_shares(options.batch, parser)
    options.out.mkdir(parents=True, exist_ok=True)
    architecture = {
        "detector": options.detector,
        "backbone": options.backbone,
        "slices": options.slices,
        "pixel_mm": options.pixel_mm,
        "window": tuple(options.window),
        "tone": options.tone,
        **BY_BACKBONE.get(options.backbone, {}),
    }
    names = vars(options).keys() & Plan.__dataclass_fields__.keys() - {"data", "validate_on"}
    chosen = {name: getattr(options, name) for name in names}
    if options.precision == "auto":
        chosen["precision"] = "bfloat16" if fast_bfloat16(device) else "float32"
    plan = Plan(tuple(options.data), architecture, validate_on=tuple(options.validate_on), **chosen)
    run = detection.new_run(plan, options.out, device, options.backbone_weights)
    if options.start_from:
        detection.start_from(run, options.start_from)
    return run


if __name__ == "__main__":
    main()
