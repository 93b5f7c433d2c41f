"""What the experts of a trained MELD propose on slices, marked or not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from LesionDetectorLib.detect import Detector, ahead, clipped
from LesionDetectorLib.files import write_text
from LesionDetectorLib.models.detections import pad_to_multiple
from LesionDetectorLib.models.meld import Meld
from LesionDetectorLib.slices import to_device
from tqdm import tqdm

from train.data.deeplesion import MARKED, KeySlice
from train.data.prepared import PreparedSlices

EVERY_MM = 5.0
COLUMNS = ("slice", "expert", "x0", "y0", "x1", "y1", "score", "label")
"""Of the csv in which proposals are kept."""


class Proposals(NamedTuple):
    """What one expert proposes on a slice, the surest first: boxes (n, 4) xyxy in its 0-based pixels, scores (n,)
    0..1, labels (n,) body-part codes."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def other_slices(key_slices: Sequence[KeySlice], every_mm: float = EVERY_MM) -> list[KeySlice]:
    """The slices of the same series on which nothing is marked, one every `every_mm`, as slices without boxes.

    What lies on them is not known.
    """
    series = defaultdict(list)
    for key_slice in key_slices:
        series[key_slice.series].append(key_slice)
    none = np.zeros((0, 4)), np.zeros(0, int), np.zeros((0, 2))
    found = []
    for name, marked in sorted(series.items()):
        first = marked[0]
        numbers = sorted(int(file.stem) for file in first.path(first.number).parent.glob("*.png"))
        step = max(round(every_mm / first.spacing[2]), 1)
        for number in sorted(set(numbers[::step]) - {entry.number for entry in marked}):
            bare = dict(zip(("boxes", "labels", "diameters_mm"), none))
            found.append(replace(first, name=f"{name}_{number:03d}.png", origins=np.zeros(0, str), **bare))
    return found


@torch.inference_mode()
def propose(
    detector: Detector,
    key_slices: Sequence[KeySlice],
    experts: Sequence[int],
    lowest_score: float,
    most: int,
    cache: Path | None = None,
) -> list[list[Proposals]]:
    """Of each slice what each of the `experts` proposes, at most `most` boxes of `lowest_score` or more, in float32."""
    found = []
    model = cast(Meld, detector.model)
    slices = ahead(PreparedSlices(cache, detector.recipe), key_slices)
    for _, prepared in tqdm(slices, desc="proposing", total=len(key_slices), unit="slice", leave=False):
        sample, frame = prepared.result()
        images = to_device(sample[None].astype(np.float32), detector.device)
        raw = model(pad_to_multiple(images, model.strides[-1]))
        height, width = sample.shape[1:]
        of_slice = []
        for expert in experts:
            (said,) = model.decode(raw, lowest_score, max_detections=most, expert=expert)
            boxes, real = clipped(said.boxes.numpy(), height, width)
            of_slice.append(
                Proposals(frame.to_index(boxes[real]), said.scores.numpy()[real], said.labels.numpy()[real] + 1)
            )
        found.append(of_slice)
    return found


def write(file: Path, key_slices: Sequence[KeySlice], experts: Sequence[int], proposed: list[list[Proposals]]) -> None:
    """Keep what `propose` gave in a csv, to the last digit."""
    rows = [
        (key_slice.name, expert, *box, score, label)
        for key_slice, of_slice in zip(key_slices, proposed, strict=True)
        for expert, said in zip(experts, of_slice, strict=True)
        for box, score, label in zip(*said)
    ]
    write_text(file, pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False))


def read(file: Path, key_slices: Sequence[KeySlice], experts: Sequence[int]) -> list[list[Proposals]]:
    """What `write` kept of some slices and experts, as `propose` gave it."""
    table = pd.read_csv(file, float_precision="round_trip")
    kept = dict(list(table.groupby(["slice", "expert"], sort=False)))
    return [
        [_proposals(kept.get((key_slice.name, expert), table[:0])) for expert in experts] for key_slice in key_slices
    ]


def _proposals(rows: pd.DataFrame) -> Proposals:
    boxes, scores = rows[["x0", "y0", "x1", "y1"]].to_numpy(float), rows["score"].to_numpy(np.float32)
    return Proposals(boxes, scores, rows["label"].to_numpy(int))


def marked_boxes(key_slice: KeySlice) -> np.ndarray:
    """The boxes (n, 4) that readers marked."""
    return key_slice.boxes[key_slice.of(MARKED)]
