"""Make trained weights ready to ship: half the size (float16), with measured results in their card."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from LesionDetectorLib.models import weights
from LesionDetectorLib.refusal import Refusal

EXAMPLES = """
example:
  python -m train.evaluate slices runs/phantoms --weights runs/vfnet/best.safetensors > phantoms.json
  python -m train.ship runs/vfnet/best.safetensors --out weights/vfnet.safetensors --result "phantoms=phantoms.json"
"""


def ship(source: Path, out: Path, results: dict[str, dict]) -> None:
    """Write the weights `source` as float16 to `out` with `results` (what was measured on -> a report of
    train.evaluate) in its card.

    Raises WeightsError where `source` is not usable.
    """
    model, card = weights.load(source)
    facts = {**card, "name": out.stem, "results": {**card.get("results", {}), **results}}
    weights.save(model, out, facts, half=True, labels=card["labels"])


def _result(text: str) -> tuple[str, dict]:
    name, _, file = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"'{text}' names no result; write it as \"what was measured on=report.json\"")
    try:
        return name, json.loads(Path(file).read_bytes())
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f"{file} cannot be read as JSON ({error}); make it with python -m train.evaluate"
        ) from error


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m train.ship",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("weights", type=Path, help="trained weights (.safetensors) with their card beside them")
    parser.add_argument(
        "--out", type=Path, required=True, help="file to write (.safetensors); its card gets the same name with .json"
    )
    parser.add_argument(
        "--result",
        type=_result,
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="a report of train.evaluate for the card",
    )
    options = parser.parse_args(arguments)
    try:
        ship(options.weights, options.out, dict(options.result))
    except Refusal as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
