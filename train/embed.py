"""An embedding of lesions, for `train.mine --mam`: learn it, and choose the distance below which two are one.

`fit` learns from the marks of the train split, less every fifth patient. `calibrate` looks at those: a trained MELD
proposes, proposals are matched with the patient's marks, and the threshold is the largest at which 90 % of the matches
are lesions, which is how the MELD paper checked its own. That needs to be known of every lesion, so it works on
synthetic patients alone (`lesions.csv` of `train.phantom --slices all`); for others, give `train.mine --mam` a
threshold.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from LesionDetectorLib.detect import Detector, pick_device
from LesionDetectorLib.files import write_text
from LesionDetectorLib.models.meld import UNIVERSAL
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.slices import DEFAULT

from train.data.deeplesion import read_info
from train.mine import drawn, load_meld
from train.mining import embedding, matching
from train.mining.proposals import other_slices, propose
from train.mining.sequences import EmbeddingTask, held_out
from train.mining.truth import Truth
from train.training.loop import Run
from train.training.plan import Plan

CURVE = "theta.csv"
EXAMPLES = """
examples:
  python -m train.embed fit --data runs/U --out runs/embedding --backbone-weights mobilenet_v2.pth
  python -m train.embed calibrate --embedding runs/embedding/last.safetensors --weights runs/meld/last.safetensors \\
      --data runs/U --lesions runs/U/lesions.csv
"""


def fit(plan: Plan, folder: Path, device: torch.device, backbone_weights: Path | None = None) -> None:
    """Learn an embedding, or go on learning it, in a folder."""
    if (folder / "checkpoint.pt").exists():
        Run.resumed(EmbeddingTask, folder, device).train()
    else:
        folder.mkdir(parents=True, exist_ok=True)
        Run(EmbeddingTask(plan, folder, backbone_weights), plan, folder, device).train()


def calibrate(
    path: Path, detector: Detector, source: Path, lesions: Path, most: int, cache: Path | None = None
) -> pd.DataFrame:
    """Write the threshold into the card of the embedding at `path`, and its curve beside it, which is returned.

    At most `most` slices without a mark are looked at.
    """
    model, card = embedding.load(path)
    key_slices = [entry for entry in read_info(source, "train") if held_out(entry.patient)]
    looked_at = [*key_slices, *drawn(other_slices(key_slices), most, 0)]
    proposed = propose(detector, looked_at, [UNIVERSAL], matching.LOWEST_SCORE, matching.MOST, cache)
    marks = matching.marks_of(model, key_slices, cache)
    found = matching.match(model, looked_at, [each[0] for each in proposed], marks, cache)
    judgements = matching.judged(looked_at, found, marks, Truth(lesions))
    by_theta = matching.curve(judgements)
    write_text(path.parent / CURVE, by_theta.to_csv(index=False, float_format="%.4f"))
    card["theta"] = matching.calibrated(judgements)
    card["theta_from"] = {"matches": len(judgements), "patients": len({entry.patient for entry in key_slices})}
    write_text(path.with_suffix(".json"), json.dumps(card, indent=2) + "\n")
    return by_theta


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 when done, 2 with one sentence on stderr when it cannot be."""
    options = _parser().parse_args(arguments)
    try:
        return {"fit": _fit, "calibrate": _calibrate}[options.kind](options)
    except (Refusal, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def _fit(options: argparse.Namespace) -> int:
    architecture = {"backbone": options.backbone, "pixel_mm": options.pixel_mm}
    plan = Plan(
        (str(options.data),),
        architecture,
        steps=options.steps,
        batch=options.batch,
        seed=options.seed,
        evaluate_every=options.steps,
        ema=0.99,
        workers=options.workers,
        cache=options.cache,
    )
    fit(plan, options.out, pick_device(options.device), options.backbone_weights)
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    detector = load_meld(options.weights, options.device)
    cache = Path(options.cache) if options.cache else None
    by_theta = calibrate(options.embedding, detector, options.data, options.lesions, options.most_slices, cache)
    _, card = embedding.load(options.embedding)
    shown = by_theta.iloc[:: max(len(by_theta) // 20, 1)]
    print(shown.to_string(index=False, float_format="%.3f"))
    theta = f"theta {card['theta']:.4f}, of {len(by_theta)} matches"
    print(f"{options.embedding}: {theta}; the whole curve is {CURVE} beside it")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.embed",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", type=Path, required=True, help="folder with DL_info.csv and Images_png, or a csv")
    common.add_argument("--cache", default="", help="folder for prepared slices, which several runs may share")
    common.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    kinds = parser.add_subparsers(dest="kind", required=True)
    learn = kinds.add_parser("fit", parents=[common], help="learn an embedding")
    learn.add_argument("--out", type=Path, required=True, help="folder of the run, which goes on where it stopped")
    learn.add_argument("--backbone", default="mobilenet_v2", help="%(default)s")
    learn.add_argument("--backbone-weights", type=Path, metavar="FILE", help="ImageNet state_dict to start from")
    learn.add_argument("--pixel-mm", type=float, default=DEFAULT.pixel_mm, help="side of a pixel (%(default)s)")
    learn.add_argument("--steps", type=int, default=600, help="(%(default)s)")
    learn.add_argument("--batch", type=int, default=8, help="sequences of four lesions a step (%(default)s)")
    learn.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    learn.add_argument("--workers", type=int, help="processes that prepare patches (one for each core left)")
    choose = kinds.add_parser("calibrate", parents=[common], help="choose the threshold for train.mine --mam")
    choose.add_argument("--embedding", type=Path, required=True, help="of fit (.safetensors)")
    choose.add_argument("--weights", type=Path, required=True, help="of a trained meld")
    choose.add_argument("--lesions", type=Path, required=True, help="lesions.csv of train.phantom --slices all")
    choose.add_argument("--most-slices", type=int, default=1000, help="without a mark (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
