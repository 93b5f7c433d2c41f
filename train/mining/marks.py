"""What a detector marks on CT whose lesions nobody marked: look-alikes to learn from, or lesions to leave out.

The rule is that of negative region mining: what the expert for a label finds with confidence is suspicious, and neither
lesion nor background (Yan et al., "Learning from multiple datasets with heterogeneous and partial labels for universal
lesion detection in CT", 2020).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from LesionDetectorLib.ct import Volume
from LesionDetectorLib.detect import Detector
from LesionDetectorLib.lesion import BodyPart

from train.data.part_marked import UNSURE
from train.measuring.detected import detect_ct

SUSPICIOUS = 0.5


def body_part(text: str) -> BodyPart:
    """The label that an option names; ArgumentTypeError names the eight that exist."""
    try:
        return BodyPart.from_title(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def marks_on(
    volume: Volume, weights: Path | None, experts: Sequence[BodyPart], score: float = SUSPICIOUS
) -> list[list[dict[str, Any]]]:
    """Per slice what `part_marked.row` wants of every mark of the detector that reaches `score`: its `sides`, and the
    label UNSURE where a mark of one of the `experts`, labels that the detector knows, reaches SUSPICIOUS. Without
    `weights` there are none.
    """
    if weights is None:
        return [[] for _ in volume.hu]
    marks: list[list[dict[str, Any]]] = []
    for entry in detect_ct(Detector.load(weights), volume):
        found = zip(entry.boxes, entry.scores, entry.labels)
        marks.append(
            [
                {"sides": (box + 0.5).round(2)} | ({"label": UNSURE} if one >= SUSPICIOUS and label in experts else {})
                for box, one, label in found
                if one >= score
            ]
        )
    return marks
