"""Targets for tests of the detectors."""

from __future__ import annotations

import torch
from LesionDetectorLib.models.detections import Target


def target(boxes: list[list[float]], labels: list[int] | None = None, ignore: list[bool] | None = None) -> Target:
    """The target of `boxes`, all of label 0 and none to be ignored unless said otherwise."""
    return Target(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels or [0] * len(boxes), dtype=torch.long),
        torch.tensor(ignore or [False] * len(boxes), dtype=torch.bool),
    )
