"""Mine a partly marked data set with a trained MELD: lesions that readers did not mark, and where one may be.

Yan et al. (MELD), 2020: the key slices of the train split, and as many others as `--added` says, are looked at. With
`--mam` a proposal is a lesion where its embedding is nearer than a threshold to that of a marked lesion of the same
patient; with `--nrm` the experts of single organs find suspicious places. What comes out is a csv of the form of
`DL_info.csv`, to lie beside it, with a column `Origin`: marked; mined, with the label of the mark; suspicious, label
-1, which is neither lesion nor background; nothing, for a slice without any of them. `train.fit --detector meld`
honours it. Validation and test patients are written as they are and never looked at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from LesionDetectorLib.detect import Detector
from LesionDetectorLib.files import write_text
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.models.meld import UNIVERSAL, Meld
from LesionDetectorLib.refusal import Refusal

from train.data.deeplesion import (
    MARKED,
    MINED,
    ORIGIN,
    SUSPICIOUS,
    UNKNOWN,
    DeepLesionError,
    KeySlice,
    located,
    read_info,
    read_table,
)
from train.mining import embedding, matching, proposals
from train.mining import table as mined_table
from train.mining.marks import body_part
from train.mining.proposals import Proposals, other_slices, propose
from train.mining.suspicion import SIGMA, suspicious

CALIBRATED = "calibrated"
EXAMPLES = """
examples:
  python -m train.mine --weights runs/meld/last.safetensors --data runs/U --nrm --out runs/U/mined.csv
  python -m train.mine --weights runs/meld/last.safetensors --data runs/U --nrm --mam \\
      --embedding runs/embedding/last.safetensors --out runs/U/mined.csv
  python -m train.fit --detector meld --data runs/U/mined.csv=3 lung:L liver:V mediastinum:N --out runs/tuned \\
      --start-from runs/half/last.safetensors --rate 1e-4
"""


@dataclass(frozen=True)
class Mining:
    """What is mined.

    sigma: suspicious is what an expert scores above this; None for no such. organs: whose experts; None for all.
    theta: a proposal nearer than this to a mark is a lesion, by the embedding. added: slices without a mark that come
    along, as a share of the key slices, drawn by seed. as_lesions: suspicious places are mined lesions of their
    expert's organ.
    """

    sigma: float | None = SIGMA
    theta: float = 0.0
    added: float = 0.5
    seed: int = 0
    as_lesions: bool = False
    organs: tuple[BodyPart, ...] | None = None

    def experts(self, organs: Sequence[int]) -> dict[int, int]:
        """The experts that are asked for suspicious places, and the code of the organ of each; `organs` are those of
        a Meld."""
        every = {1 + number: organ + 1 for number, organ in enumerate(organs)}
        asked = every.values() if self.organs is None else self.organs
        return {} if self.sigma is None else {expert: code for expert, code in every.items() if code in asked}


def mine(
    detector: Detector,
    source: Path,
    mining: Mining,
    model: embedding.Embedding | None = None,
    cache: Path | None = None,
    kept: Path | None = None,
) -> pd.DataFrame:
    """The rows of a data set, `source` as `read_info` takes it, with those of what is mined.

    `kept` is a csv of what all experts propose, written if it is not there: for several minings with one detector that
    look at the same slices.
    """
    csv, images = located(source)
    table = read_table(csv)
    key_slices = list({entry.name: entry for entry in read_info(csv, "train", images)}.values())  # each once
    if not key_slices:
        raise DeepLesionError(f"{csv} holds no slice of the train split; mining looks at no others.")
    looked_at = [*key_slices, *drawn(other_slices(key_slices), mining.added * len(key_slices), mining.seed)]
    experts = mining.experts(detector.model.organs)
    proposed = _proposed(detector, looked_at, [UNIVERSAL, *experts], cache, kept)
    lesions: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros((0, 4)), np.zeros(0, int))] * len(looked_at)
    if model is not None:
        marks = matching.marks_of(model, key_slices, cache)
        found = matching.match(model, looked_at, [each[0] for each in proposed], marks, cache)
        lesions = [tuple(each.nearer_than(mining.theta))[:2] for each in found]
    organs = list(experts.values())
    parts, series = [table.assign(**{ORIGIN: MARKED})], mined_table.series_of(table)
    for key_slice, mined, said in zip(looked_at, lesions, proposed):
        places = _suspicious(key_slice, mined[0], said[1:], organs, mining)
        parts += _rows(series, key_slice, mined, places, mining)
    return pd.concat(parts, ignore_index=True).fillna("")


def _proposed(
    detector: Detector, slices: list[KeySlice], experts: Sequence[int], cache: Path | None, kept: Path | None
) -> list[list[Proposals]]:
    """What the experts propose on the slices, from the csv `kept` if there is one."""
    if kept is None:
        return propose(detector, slices, experts, matching.LOWEST_SCORE, matching.MOST, cache)
    if not kept.exists():
        every = range(1 + len(detector.model.organs))
        proposals.write(kept, slices, every, _proposed(detector, slices, every, cache, None))
    return proposals.read(kept, slices, experts)


def drawn(slices: list[KeySlice], count: float, seed: int) -> list[KeySlice]:
    """So many of the slices, by chance, in their order."""
    places = np.random.default_rng(seed).choice(len(slices), min(round(count), len(slices)), replace=False)
    return [slices[place] for place in np.sort(places)]


def _suspicious(
    key_slice: KeySlice, mined: np.ndarray, experts: Sequence[Proposals], organs: Sequence[int], mining: Mining
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of suspicious places on a slice, and the organ of each."""
    if mining.sigma is None or not experts:
        return np.zeros((0, 4)), np.zeros(0, int)
    boxes, expert = suspicious(experts, np.concatenate([key_slice.boxes, mined]), mining.sigma)
    return boxes, np.array(organs, int)[expert]


def _rows(
    series: mined_table.Series,
    key_slice: KeySlice,
    mined: tuple[np.ndarray, np.ndarray],
    places: tuple[np.ndarray, np.ndarray],
    mining: Mining,
) -> list[pd.DataFrame]:
    """The rows of what is new on a slice, which may be that nothing is."""
    boxes, organs = places
    origin, labels = (MINED, organs) if mining.as_lesions else (SUSPICIOUS, np.full(len(boxes), UNKNOWN))
    if not len(key_slice.boxes) + len(mined[0]) + len(boxes):
        return [mined_table.row_of_nothing(series, key_slice)]
    return [
        mined_table.rows(series, key_slice, *mined, MINED),
        mined_table.rows(series, key_slice, boxes, labels, origin),
    ]


def summary(rows: pd.DataFrame) -> str:
    """How many rows there are of every origin."""
    counts = rows[ORIGIN].value_counts()
    return ", ".join(f"{counts[name]} {name}" for name in (MARKED, MINED, SUSPICIOUS, "nothing") if name in counts)


def load_meld(path: Path, device: str = "auto") -> Detector:
    """A trained MELD; Refusal where the weights are another detector's."""
    detector = Detector.load(path, device)
    if not isinstance(detector.model, Meld):
        raise Refusal(
            f"{path} is a {detector.model.NAME}, which has no experts; give weights of train.fit --detector meld."
        )
    return detector


def theta_of(given: str | float, card: dict, path: Path) -> float:
    """The threshold that is given, or the one in an embedding's card; Refusal where that has none."""
    if given != CALIBRATED:
        return float(given)
    if "theta" not in card:
        raise Refusal(f"{path} has no threshold; give one after --mam, or run python -m train.embed calibrate.")
    return float(card["theta"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 when the csv stands, 2 with one sentence on stderr when it cannot."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.nrm is None and options.mam is None:
        parser.error("nothing is to be mined: give --nrm, --mam, or both")
    if options.mam is not None and options.embedding is None:
        parser.error("--mam needs --embedding, made by python -m train.embed fit")
    try:
        model, theta = None, 0.0
        if options.mam is not None:
            model, card = embedding.load(options.embedding)
            theta = theta_of(options.mam, card, options.embedding)
        organs = tuple(options.experts) if options.experts else None
        as_lesions = options.suspicious_as == "lesions"
        mining = Mining(options.nrm, theta, options.added, options.seed, as_lesions, organs)
        rows = mine(load_meld(options.weights, options.device), options.data, mining, model, options.cache)
        write_text(options.out, rows.to_csv(index=False))
    except (Refusal, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{options.out}: {summary(rows)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.mine",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--weights", type=Path, required=True, help="of a trained meld (.safetensors)")
    parser.add_argument("--data", type=Path, required=True, help="folder with DL_info.csv and Images_png, or a csv")
    parser.add_argument("--out", type=Path, required=True, help="csv to write, beside Images_png")
    parser.add_argument(
        "--nrm",
        type=float,
        nargs="?",
        const=SIGMA,
        metavar="SIGMA",
        help=f"suspicious is what an expert of one organ scores above this ({SIGMA} if left out)",
    )
    parser.add_argument(
        "--mam",
        nargs="?",
        const=CALIBRATED,
        metavar="THETA",
        help="a proposal nearer than this to a marked lesion of the patient is one (the embedding's own if left out)",
    )
    parser.add_argument(
        "--experts", type=body_part, nargs="+", metavar="LABEL", help="for --nrm, of these organs alone (all there are)"
    )
    parser.add_argument("--embedding", type=Path, help="of train.embed (.safetensors), for --mam")
    parser.add_argument(
        "--added", type=float, default=0.5, help="slices without marks, as a share of the key slices (%(default)s)"
    )
    parser.add_argument(
        "--suspicious-as",
        choices=("ignored", "lesions"),
        default="ignored",
        help="what suspicious places teach: nothing, or that they are lesions (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the added slices (%(default)s)")
    parser.add_argument("--cache", type=Path, help="folder of prepared slices, which several runs may share")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
