"""The mean of several weights of one network, of two rounds of training for example: often better than either, and as
fast as one (Wortsman et al., "Model soups", ICML 2022).

The rounds must come from one another or from a common start: networks that were trained apart have no meaningful mean.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from LesionDetectorLib.files import is_taken
from LesionDetectorLib.models import weights
from LesionDetectorLib.refusal import Refusal

EXAMPLES = """
example:
  python -m train.average runs/round2/last.safetensors runs/round3/last.safetensors --out runs/mean.safetensors
"""
ALIKE = ("architecture", "input", "labels")
"""What of the cards must be the same."""


def average(sources: Sequence[Path], out: Path) -> None:
    """Write the mean of the weights `sources` to `out`, with the last one's card, which names the others' trainings.

    Raises Refusal where they cannot be read, or are not of one network.
    """
    models, cards = zip(*map(weights.load, sources))
    for source, card in zip(sources, cards):
        differing = [name for name in ALIKE if card.get(name) != cards[0].get(name)]
        if differing:
            raise Refusal(f"{source} has another {differing[0]} than {sources[0]}; give weights of one network.")
    states = [model.state_dict() for model in models]
    mean = {name: _mean([state[name] for state in states]) for name in states[-1]}
    models[-1].load_state_dict(mean)
    facts = {name: value for name, value in cards[-1].items() if name not in ("calibration", "results")}
    facts |= {"name": out.stem, "mean_of": [card.get("training", {}) for card in cards]}
    weights.save(models[-1], out, facts, labels=cards[-1]["labels"])


def _mean(parts: list[torch.Tensor]) -> torch.Tensor:
    """The mean of what is learnt; of a count the last one's."""
    return torch.stack(parts).mean(dim=0) if parts[0].is_floating_point() else parts[-1]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m train.average",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("weights", type=Path, nargs="+", help="two weights or more (.safetensors) with their cards")
    parser.add_argument("--out", type=Path, required=True, help="file to write (.safetensors), with its card beside it")
    options = parser.parse_args(arguments)
    if len(options.weights) < 2:
        parser.error("a mean needs two weights or more.")
    if is_taken(options.out):
        parser.error(f"{options.out} is there already: give another file.")
    try:
        average(options.weights, options.out)
    except (Refusal, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
