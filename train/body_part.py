"""The body-part regressor, which tells how far down the body a slice lies: learn it from series, and measure it.

`fit` learns from whole series, phantoms and real ones, of which only the order and the distance of the slices are used
(self-supervised); what the scores are in terms of DeepLesion's levels, 0 at the head and 1 at the feet, the phantoms
say. `evaluate` measures on those that were held out; `ship` writes the weights at half the size with what was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from LesionDetectorLib.detect import fast_bfloat16, pick_device
from LesionDetectorLib.models import body_part_regressor
from LesionDetectorLib.refusal import Refusal

from train.data.series import read
from train.measuring.levels import measured
from train.training.loop import Run
from train.training.ordering import OrderingTask
from train.training.plan import Plan

EXAMPLES = """
examples:
  python -m train.phantom --out runs/torsos --format nrrd --patients 80 --size 160 --interval-mm 5 --splits 75 0 25
  python -m train.body_part fit --data runs/torsos ../shared/data/body_part --hold-out 4dlung_113 --out runs/levels
  python -m train.body_part fit --out runs/levels --resume
  python -m train.body_part evaluate --weights runs/levels/last.safetensors --data runs/torsos chest.nii.gz \\
      --hold-out chest.nii.gz
  python -m train.body_part ship runs/levels/last.safetensors --out body_part_regressor.safetensors --result levels.json
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 when done, 2 with one sentence on stderr when it cannot be."""
    options = _parser().parse_args(arguments)
    try:
        return {"fit": _fit, "evaluate": _evaluate, "ship": _ship}[options.kind](options)
    except (Refusal, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; fit goes on from its last checkpoint with --resume", file=sys.stderr)
        return 130


def _fit(options: argparse.Namespace) -> int:
    device = pick_device(options.device)
    if options.resume:
        if not (options.out / "checkpoint.pt").exists():
            raise Refusal(f"{options.out} holds no checkpoint.pt to resume from; start the run without --resume.")
        Run.resumed(OrderingTask, options.out, device).train()
        return 0
    if (options.out / "checkpoint.pt").exists():
        raise Refusal(f"{options.out} already holds a run; continue it with --resume, or choose another --out.")
    if not options.data:
        raise Refusal("--data is needed: a folder of python -m train.phantom --format nrrd, and what else there is.")
    plan = Plan(
        tuple(options.data),
        {},
        steps=options.steps,
        batch=options.batch,
        rate=options.rate,
        seed=options.seed,
        evaluate_every=options.evaluate_every,
        patience=options.steps,
        ema=0.995,
        workers=options.workers,
        precision="bfloat16" if fast_bfloat16(device) else "float32",
        validate_on=tuple(options.hold_out),
    )
    options.out.mkdir(parents=True, exist_ok=True)
    run = Run(OrderingTask(plan, options.out), plan, options.out, device)
    if options.start_from:
        run.start_from(body_part_regressor.load(options.start_from)[0].state_dict())
    run.train()
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    series = read(options.data, options.hold_out, test=True)
    if not series:
        raise Refusal("No series is held out: name some with --hold-out, or give phantoms with a test split.")
    model, card = body_part_regressor.load(options.weights)
    print(json.dumps(measured(model, card, series), indent=2))
    return 0


def _ship(options: argparse.Namespace) -> int:
    model, card = body_part_regressor.load(options.weights)
    facts = {**card, "name": options.out.stem}
    if options.result:
        facts["results"] = json.loads(options.result.read_bytes())
        facts["z"] = {**card["z"], **facts["results"]["errors"]}
    body_part_regressor.save(model, options.out, facts, half=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.body_part",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--data",
        nargs="+",
        default=(),
        metavar="DATA[=SHARE]",
        help=(
            "folders of train.phantom --format nrrd, folders with volumes.csv and volumes/*.npz, or any CT; SHARE "
            "weighs one of them in a training (1)"
        ),
    )
    common.add_argument(
        "--hold-out",
        nargs="+",
        default=(),
        metavar="NAME",
        help="series that are not learnt from but measured on, besides the test split of phantoms: all of a patient's",
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    learn = kinds.add_parser("fit", parents=[common], help="learn a regressor")
    learn.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoint, weights, log, curves")
    learn.add_argument("--start-from", type=Path, metavar="FILE", help="trained weights (.safetensors) to go on from")
    learn.add_argument("--resume", action="store_true", help="continue the run in --out, with the options that it had")
    learn.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    for name, kind, default, text in (
        ("steps", int, 1200, "optimiser steps"),
        ("batch", int, 16, "runs of 8 slices a step"),
        ("rate", float, 2e-3, "highest learning rate, of AdamW"),
        ("evaluate-every", int, 400, "steps between validations and checkpoints"),
        ("seed", int, 0, "same seed, same run"),
    ):
        learn.add_argument(f"--{name}", type=kind, default=default, help=f"{text} (%(default)s)")
    learn.add_argument("--workers", type=int, help="processes that prepare slices (one for each core left)")
    judge = kinds.add_parser("evaluate", parents=[common], help="measure on what was held out; JSON on stdout")
    judge.add_argument("--weights", type=Path, default=body_part_regressor.DEFAULT_WEIGHTS, help="(those that ship)")
    ready = kinds.add_parser("ship", help="weights at half the size, with what was measured in their card")
    ready.add_argument("weights", type=Path, help="of fit (.safetensors)")
    ready.add_argument("--out", type=Path, required=True, help="file to write (.safetensors)")
    ready.add_argument("--result", type=Path, metavar="FILE", help="what evaluate printed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
