"""Boxes of many images: detections, or the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Boxes:
    """Boxes of many images: image (n,) int, boxes (n, 4) xyxy, labels (n,) int, scores (n,) (detections) or None
    (ground truth)."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None

    @classmethod
    def of(cls, per_image: list[tuple[np.ndarray, ...]]) -> Boxes:
        """From one (boxes, labels) or (boxes, labels, scores) an image."""
        if not per_image:
            return cls(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
        image = np.repeat(np.arange(len(per_image)), [len(entry[0]) for entry in per_image])
        boxes, *columns = (np.concatenate(column) for column in zip(*(_flat(entry) for entry in per_image)))
        return cls(image, boxes, *columns)

    def __len__(self) -> int:
        return len(self.image)


def _flat(entry: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    boxes, labels, *scores = entry
    return np.reshape(boxes, (-1, 4)), np.ravel(labels).astype(int), *map(np.ravel, scores)
