"""What a detector is trained on: crops round key slices, scaled, turned and relit at random, with the boxes that they show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from LesionDetectorLib.models.detections import Target
from LesionDetectorLib.slices import WINDOW
from torch import Tensor
from torch.nn.functional import grid_sample
from torch.utils.data import Dataset

from train.deeplesion import UNKNOWN, KeySlice
from train.prepared import PreparedSlices

VISIBLE = 0.6
"""A box of which a crop shows less is neither lesion nor background."""


@dataclass(frozen=True)
class Augmentation:
    """How far a crop may stray: scale, turning left and right, brightness in HU and contrast as a share, noise in HU."""

    scale: tuple[float, float] = (0.8, 1.2)
    flip: float = 0.5
    brightness: float = 15.0
    contrast: float = 0.08
    noise: float = 8.0


NO_AUGMENTATION = Augmentation((1.0, 1.0), 0.0, 0.0, 0.0, 0.0)


class Crops(Dataset):
    """A fixed plan of random crops.

    Item n is (image (slices, size, size) float32 0..255, Target in crop pixels); it depends on `seed` and n alone; `shares` are the
    relative frequencies of the key slices.
    """

    def __init__(
        self,
        key_slices: list[KeySlice],
        shares: np.ndarray,
        count: int,
        prepared: PreparedSlices,
        size: int = 320,
        augmentation: Augmentation = Augmentation(),
        seed: int = 0,
    ) -> None:
        self.key_slices, self.prepared, self.size, self.augmentation, self.seed = key_slices, prepared, size, augmentation, seed
        self.plan = np.random.default_rng(seed).choice(len(key_slices), size=count, p=shares / shares.sum())

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, item: int) -> tuple[Tensor, Target]:
        rng = np.random.default_rng((self.seed, item))
        key_slice = self.key_slices[self.plan[item]]
        sample, frame = self.prepared(key_slice)
        boxes = frame.to_network(key_slice.boxes)
        return self._crop(torch.from_numpy(sample.astype(np.float32)), boxes, key_slice.labels, rng)

    def _crop(self, sample: Tensor, boxes: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Target]:
        change, size = self.augmentation, self.size
        scale = rng.uniform(*change.scale)
        mirror = -1.0 if rng.random() < change.flip else 1.0
        centre = self._centre(sample.shape, boxes, scale, rng)
        steps = (np.arange(size) - (size - 1) / 2) / scale
        image = _look(sample, centre[0] + steps * mirror, centre[1] + steps)
        if rng.random() < 0.5:
            image = image.flip(0)  # series run head to foot and foot to head
        image = _relight(image, change, rng)
        corners = (boxes.reshape(-1, 2, 2) - centre) * [scale * mirror, scale] + (size - 1) / 2
        return image, _target(np.sort(corners, axis=1).reshape(-1, 4), labels, size)

    def _centre(self, shape: tuple[int, ...], boxes: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
        """Where the crop looks: as a rule so that one of the lesions lies anywhere inside it."""
        extent, half = np.array([shape[2], shape[1]]), self.size / scale / 2
        if len(boxes) and rng.random() < 0.9:
            box = boxes[rng.integers(len(boxes))]
            reach = np.maximum(half - (box[2:] - box[:2]) / 2 - 8, 4)
            centre = (box[:2] + box[2:]) / 2 + rng.uniform(-reach, reach)
        else:
            centre = rng.uniform(0, extent)
        return np.where(extent > 2 * half, np.clip(centre, half - 16, extent - half + 16), extent / 2 + rng.uniform(-16, 16, 2))


def _look(sample: Tensor, x: np.ndarray, y: np.ndarray) -> Tensor:
    """`sample` (slices, rows, columns) seen at columns `x` and rows `y`, bilinear, 0 outside."""
    rows, columns = sample.shape[-2:]
    grid_x = torch.from_numpy(2 * x / max(columns - 1, 1) - 1).float()
    grid_y = torch.from_numpy(2 * y / max(rows - 1, 1) - 1).float()
    grid = torch.stack(torch.meshgrid(grid_x, grid_y, indexing="xy"), dim=-1)[None]
    return grid_sample(sample[None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0]


def _relight(image: Tensor, change: Augmentation, rng: np.random.Generator) -> Tensor:
    grey = 255 / (WINDOW[1] - WINDOW[0])
    water = -WINDOW[0] * grey
    noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32)) * (rng.uniform(0, change.noise) * grey)
    contrast, brightness = 1 + rng.uniform(-change.contrast, change.contrast), rng.uniform(-change.brightness, change.brightness) * grey
    inside = image > 0
    return torch.where(inside, (image - water) * contrast + water + brightness + noise, image).clamp(0, 255)


def _target(boxes: np.ndarray, labels: np.ndarray, size: int) -> Target:
    """What of the boxes a crop of `size` shows: too little of a box, or a box of unknown label, is to be ignored."""
    clipped = boxes.clip(-0.5, size - 0.5)
    visible = (clipped[:, 2:] - clipped[:, :2]).prod(1) / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-6)
    seen = (visible > 0) & (clipped[:, 2:] - clipped[:, :2] > 1).all(1)
    ignore = (visible < VISIBLE) | (labels == UNKNOWN)
    return Target(
        torch.from_numpy(clipped[seen]).float(),
        torch.from_numpy(np.maximum(labels[seen] - 1, 0)).long(),
        torch.from_numpy(ignore[seen]),
    )


def collate(samples: list[tuple[Tensor, Target]]) -> tuple[Tensor, list[Target]]:
    """A batch: images stacked, targets listed."""
    images, targets = zip(*samples)
    return torch.stack(images), list(targets)
