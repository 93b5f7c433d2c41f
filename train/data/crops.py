"""What a detector is trained on: crops round key slices, scaled, turned and relit at random, with the boxes that
they show.

Processes beside the training cut the crops out; relighting, whose noise costs the most, is left to the training's
device, batch by batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from LesionDetectorLib.models.detections import Target
from LesionDetectorLib.slices import Recipe
from torch import Tensor
from torch.nn.functional import grid_sample
from torch.utils.data import Dataset, default_collate

from train.data.deeplesion import MINED, SUSPICIOUS, UNKNOWN, KeySlice
from train.data.prepared import PreparedSlices

VISIBLE = 0.6
"""A box of which a crop shows less is neither lesion nor background."""


@dataclass(frozen=True)
class Augmentation:
    """How far a crop may stray: scale, turning left and right, brightness in HU and contrast as a share, noise in
    HU."""

    scale: tuple[float, float] = (0.8, 1.2)
    flip: float = 0.5
    brightness: float = 15.0
    contrast: float = 0.08
    noise: float = 8.0


class Light(NamedTuple):
    """How `relight` changes a crop.

    contrast: factor; brightness: grey levels to add then; noise: its standard deviation in grey levels; seed: of the
    noise.
    """

    contrast: float
    brightness: float
    noise: float
    seed: int


class Batch(NamedTuple):
    """Crops on their way from a worker to the training: in few tensors, for each of them costs time to hand over.

    images: (n, slices, size, size) float16, not yet relit; lights: n; lesions: the targets of all images, one after the
    other; counts: how many each image has; datasets: the data set of each.
    """

    images: Tensor
    lights: list[Light]
    lesions: Target
    counts: list[int]
    datasets: list[int]

    def on(self, device: torch.device) -> tuple[Tensor, list[Target]]:
        """Relit images (n, slices, size, size), float32 0..255, and the target of each, on `device`.

        The CPU waits for no copy.
        """
        images = relight(self.images.to(device, non_blocking=True), self.lights)
        parts = *self.lesions[:3], self.lesions.loose
        boxes, labels, ignore, mined = (part.to(device, non_blocking=True).split(self.counts) for part in parts)
        return images, [Target(*each) for each in zip(boxes, labels, ignore, self.datasets, mined)]


class Crops(Dataset):
    """A fixed plan of random crops.

    Item n is (image (slices, size, size) float16 0..255 before it is relit, Light, Target in crop pixels); it depends
    on `seed` and n alone; `shares` are the relative frequencies of the key slices. A lesion of unknown label is to be
    ignored, unless `any_label` makes it one of label -1. Half precision, which prepared
    slices have anyway, is good to half a HU in soft tissue and to one in bone.
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
        any_label: bool = False,
    ) -> None:
        self.key_slices = key_slices
        self.prepared = prepared
        self.size = size
        self.augmentation = augmentation
        self.seed = seed
        self.any_label = any_label
        self.plan = np.random.default_rng(seed).choice(len(key_slices), size=count, p=shares / shares.sum())

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, item: int) -> tuple[Tensor, Light, Target]:
        rng = np.random.default_rng((self.seed, item))
        key_slice = self.key_slices[self.plan[item]]
        sample, frame = self.prepared(key_slice)
        boxes = frame.to_network(key_slice.boxes)
        image, light, target = self._crop(torch.from_numpy(sample), boxes, key_slice, rng)
        return image, light, target._replace(dataset=key_slice.dataset)

    def _crop(
        self, sample: Tensor, boxes: np.ndarray, key_slice: KeySlice, rng: np.random.Generator
    ) -> tuple[Tensor, Light, Target]:
        change, size = self.augmentation, self.size
        scale = rng.uniform(*change.scale)
        mirror = -1.0 if rng.random() < change.flip else 1.0
        centre = self._centre(sample.shape, boxes[~key_slice.of(SUSPICIOUS)], scale, rng)
        steps = (np.arange(size) - (size - 1) / 2) / scale
        image = _look(sample, centre[0] + steps * mirror, centre[1] + steps).half()
        if rng.random() < 0.5:
            image = image.flip(0)  # series run head to foot and foot to head
        corners = (boxes.reshape(-1, 2, 2) - centre) * [scale * mirror, scale] + (size - 1) / 2
        return (
            image,
            random_light(change, self.prepared.recipe, rng),
            self._target(np.sort(corners, axis=1).reshape(-1, 4), key_slice),
        )

    def _target(self, boxes: np.ndarray, key_slice: KeySlice) -> Target:
        """The target of the `boxes` (n, 4) in crop pixels of a key slice's lesions."""
        ignored = key_slice.of(SUSPICIOUS)
        if not self.any_label:
            ignored |= key_slice.labels == UNKNOWN
        return _target(boxes, key_slice.labels, self.size, ignored, key_slice.of(MINED))

    def _centre(self, shape: tuple[int, ...], boxes: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
        """Where the crop looks: as a rule so that one of the lesions lies anywhere inside it."""
        extent, half = np.array([shape[2], shape[1]]), self.size / scale / 2
        if len(boxes) and rng.random() < 0.9:
            box = boxes[rng.integers(len(boxes))]
            reach = np.maximum(half - (box[2:] - box[:2]) / 2 - 8, 4)
            centre = (box[:2] + box[2:]) / 2 + rng.uniform(-reach, reach)
        else:
            centre = rng.uniform(0, extent)
        return np.where(
            extent > 2 * half, np.clip(centre, half - 16, extent - half + 16), extent / 2 + rng.uniform(-16, 16, 2)
        )


def _look(sample: Tensor, x: np.ndarray, y: np.ndarray) -> Tensor:
    """`sample` (slices, rows, columns) seen at columns `x` and rows `y`, bilinear, 0 outside: float32."""
    first_row, end_row = _touched(y, sample.shape[1])
    first_column, end_column = _touched(x, sample.shape[2])
    part = sample[:, first_row:end_row, first_column:end_column].float()
    grid_x = torch.from_numpy((2 * (x - first_column) + 1) / part.shape[2] - 1).float()
    grid_y = torch.from_numpy((2 * (y - first_row) + 1) / part.shape[1] - 1).float()
    grid = torch.stack(torch.meshgrid(grid_x, grid_y, indexing="xy"), dim=-1)[None]
    return grid_sample(part[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]


def _touched(positions: np.ndarray, size: int) -> tuple[int, int]:
    """The first and the end of the pixels of 0..size-1 that lie beside any of `positions`, at least one."""
    first = int(np.clip(np.floor(positions.min()), 0, size - 1))
    return first, int(np.clip(np.floor(positions.max()) + 2, first + 1, size))


def random_light(change: Augmentation, recipe: Recipe, rng: np.random.Generator) -> Light:
    """A light by chance, whose contrast turns round water."""
    noise = rng.uniform(0, change.noise) * recipe.grey
    brightness = rng.uniform(-change.brightness, change.brightness) * recipe.grey
    contrast = 1 + rng.uniform(-change.contrast, change.contrast)
    water = -recipe.window[0] * recipe.grey
    return Light(contrast, (1 - contrast) * water + brightness, noise, int(rng.integers(2**63)))


def relight(images: Tensor, lights: Sequence[Light]) -> Tensor:
    """`images` (n, slices, rows, columns) 0..255 with the light of each, on their device: float32 0..255.

    The noise of an image depends on its seed and the kind of device alone, so not on how many processes share a batch.
    What is 0 was clipped, or lies outside the slice, and stays 0.
    """
    images = images.float()
    noise, generator = torch.empty_like(images, memory_format=torch.contiguous_format), torch.Generator(images.device)
    for picture, light in zip(noise, lights):
        picture.normal_(generator=generator.manual_seed(light.seed))
    changes = torch.tensor([light[:3] for light in lights]).to(images.device, non_blocking=True)
    contrast, brightness, deviation = changes.T[..., None, None, None]
    relit = noise.mul_(deviation).add_(brightness).addcmul_(images, contrast)
    return torch.where(images > 0, relit, images).clamp_(0, 255)


def _target(boxes: np.ndarray, labels: np.ndarray, size: int, ignored: np.ndarray, mined: np.ndarray) -> Target:
    """What of the boxes a crop of `size` shows: too little of a box, and what is `ignored` (n,), is to be ignored."""
    clipped = boxes.clip(-0.5, size - 0.5)
    visible = (clipped[:, 2:] - clipped[:, :2]).prod(1) / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-6)
    seen = (visible > 0) & (clipped[:, 2:] - clipped[:, :2] > 1).all(1)
    ignore = (visible < VISIBLE) | ignored
    return Target(
        torch.from_numpy(clipped[seen]).float(),
        torch.from_numpy(np.maximum(labels[seen] - 1, -1)).long(),
        torch.from_numpy(ignore[seen]),
        mined=torch.from_numpy(mined[seen]),
    )


def collate(samples: list[tuple[Tensor, Light, Target]]) -> Batch:
    """A batch; a worker stacks its images straight into memory that the training shares."""
    images, lights, targets = zip(*samples)
    counts = [len(target.boxes) for target in targets]
    parts = [(target.boxes, target.labels, target.ignore, target.loose) for target in targets]
    boxes, labels, ignore, mined = map(torch.cat, zip(*parts))
    lesions = Target(boxes, labels, ignore, mined=mined)
    return Batch(default_collate(images), list(lights), lesions, counts, [target.dataset for target in targets])
