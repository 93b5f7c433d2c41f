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
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.models.detections import Target
from LesionDetectorLib.slices import Recipe
from torch import Tensor
from torch.nn.functional import grid_sample
from torch.utils.data import Dataset, default_collate

from train.data.deeplesion import MINED, SUSPICIOUS, UNKNOWN, KeySlice
from train.data.prepared import PreparedSlices

OUTSIDE = 0
"""The label of what lies beyond the edge of a slice, to be ignored."""
_TISSUE_HU = -500.0
_CUT_SHARE = 0.25
WINDOWS_HU = ((-175.0, 275.0), (-160.0, 240.0), (-1500.0, 500.0))
"""The windows through which CT is mostly read, and pictures of it are mostly kept."""
WINDOW_JITTER_HU = 25.0
VISIBLE = 0.6
"""A box of which a crop shows less is neither lesion nor background."""


@dataclass(frozen=True)
class Augmentation:
    """How far a crop may stray: scale, turning left and right, brightness in HU and contrast as a share, noise in HU;
    the share of crops that are clipped to a window (`WINDOWS_HU`), and of those that are alone, their neighbours being
    themselves. So are pictures of scattered slices, and a network must not take either for a sign of their lesions."""

    scale: tuple[float, float] = (0.8, 1.2)
    flip: float = 0.5
    brightness: float = 15.0
    contrast: float = 0.08
    noise: float = 8.0
    clipped: float = 0.2
    alone: float = 0.15


class Light(NamedTuple):
    """How `relight` changes a crop.

    contrast: factor; brightness: grey levels to add then; noise: its standard deviation in grey levels; seed: of the
    noise; window: the grey levels to which it is clipped at last.
    """

    contrast: float
    brightness: float
    noise: float
    seed: int
    window: tuple[float, float] = (0.0, 255.0)


class Batch(NamedTuple):
    """Crops on their way from a worker to the training: in few tensors, for each of them costs time to hand over.

    images: (n, slices, size, size) float16, not yet relit; lights: n; lesions: the boxes, labels, what to ignore
    and what was mined of all images, one after the other; counts: how many each image has; background: (n, labels) as
    in `Target`; datasets: the data set of each.
    """

    images: Tensor
    lights: list[Light]
    lesions: tuple[Tensor, Tensor, Tensor, Tensor]
    counts: list[int]
    background: Tensor
    datasets: list[int]

    def on(self, device: torch.device) -> tuple[Tensor, list[Target]]:
        """Relit images (n, slices, size, size), float32 0..255, and the target of each, on `device`.

        The CPU waits for no copy.
        """
        images = relight(self.images.to(device, non_blocking=True), self.lights)
        lesions = [part.to(device, non_blocking=True).split(self.counts) for part in self.lesions]
        background = self.background.to(device, non_blocking=True)
        *known, mined = lesions
        return images, [Target(*parts) for parts in zip(*known, background, self.datasets, mined)]


class Crops(Dataset):
    """A fixed plan of random crops.

    Item n is (image (slices, size, size) float16 0..255 before it is relit, Light, Target in crop pixels); it depends
    on `seed` and n alone; `shares` are the relative frequencies of the key slices. Half precision, which prepared
    slices have anyway, is good to half a HU in soft tissue and to one in bone. `unmarked` 0..1 is how much background
    counts for a label whose lesions are not all marked on a slice. A lesion of unknown label is to be ignored, unless
    `any_label` makes it one of label -1.
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
        unmarked: float = 0.0,
        any_label: bool = False,
    ) -> None:
        self.key_slices = key_slices
        self.prepared = prepared
        self.size = size
        self.augmentation = augmentation
        self.seed = seed
        self.unmarked = unmarked
        self.any_label = any_label
        self.plan = np.random.default_rng(seed).choice(len(key_slices), size=count, p=shares / shares.sum())

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, item: int) -> tuple[Tensor, Light, Target]:
        rng = np.random.default_rng((self.seed, item))
        key_slice = self.key_slices[self.plan[item]]
        sample, frame = self.prepared(key_slice)
        boxes, look_alikes = frame.to_network(key_slice.boxes), frame.to_network(key_slice.look_alikes)
        labels = np.where(key_slice.of(SUSPICIOUS), OUTSIDE, key_slice.labels)
        marks = labels, key_slice.of(MINED)
        image, light, lesions = self._crop(torch.from_numpy(sample), boxes, marks, look_alikes, rng)
        complete = torch.isin(torch.arange(1, len(BodyPart) + 1), torch.tensor(key_slice.complete))
        background = torch.where(complete, 1.0, self.unmarked)
        return image, light, Target(*lesions[:3], background, key_slice.dataset, lesions[3])

    def _crop(
        self,
        sample: Tensor,
        boxes: np.ndarray,
        marks: tuple[np.ndarray, np.ndarray],
        look_alikes: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[Tensor, Light, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """A crop of a sample whose lesions have `boxes` (n, 4), labels (n,), and were mined or not (n,): its
        lesions."""
        change, size = self.augmentation, self.size
        scale = rng.uniform(*change.scale)
        mirror = -1.0 if rng.random() < change.flip else 1.0
        (labels, mined), places = marks, np.concatenate([boxes[marks[0] != OUTSIDE], look_alikes])
        centre = self._centre(sample.shape, places, scale, rng)
        if self._is_cut(sample):
            boxes, labels, mined = _with_outside(boxes, labels, mined, sample.shape)
            padding = "border"
        else:
            padding = "zeros"
        steps = (np.arange(size) - (size - 1) / 2) / scale
        image = _look(sample, centre[0] + steps * mirror, centre[1] + steps, padding).half()
        if rng.random() < 0.5:
            image = image.flip(0)  # series run head to foot and foot to head
        if rng.random() < change.alone:
            image = image[len(image) // 2].expand_as(image).contiguous()
        corners = (boxes.reshape(-1, 2, 2) - centre) * [scale * mirror, scale] + (size - 1) / 2
        return (
            image,
            random_light(change, self.prepared.recipe, rng),
            _target(np.sort(corners, axis=1).reshape(-1, 4), labels, mined, size, self.any_label),
        )

    def _is_cut(self, sample: Tensor) -> bool:
        """Whether a slice ends amid the body, as a part cut out of one does."""
        recipe, middle = self.prepared.recipe, sample[len(sample) // 2]
        tissue = (_TISSUE_HU - recipe.window[0]) * recipe.grey
        edge = torch.cat([middle[0], middle[-1], middle[:, 0], middle[:, -1]])
        return float((edge > tissue).float().mean()) > _CUT_SHARE

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


def _with_outside(
    boxes: np.ndarray, labels: np.ndarray, mined: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The boxes, and all that lies outside a sample of `shape` (slices, rows, columns) as four more to ignore."""
    right, bottom = shape[2] - 0.5, shape[1] - 0.5
    far = 2 * max(right, bottom) + 2000
    outside = [(-far, -far, -0.5, far), (right, -far, far, far), (-far, -far, far, -0.5), (-far, bottom, far, far)]
    more = outside, np.full(4, OUTSIDE), np.zeros(4, bool)
    boxes, labels, mined = (np.concatenate(pair) for pair in zip((boxes, labels, mined), more))
    return boxes, labels, mined


def _look(sample: Tensor, x: np.ndarray, y: np.ndarray, padding: str) -> Tensor:
    """`sample` (slices, rows, columns) seen at columns `x` and rows `y`, bilinear: float32.

    Outside it is 0 with the padding "zeros", and goes on as its edge with "border".
    """
    first_row, end_row = _touched(y, sample.shape[1])
    first_column, end_column = _touched(x, sample.shape[2])
    part = sample[:, first_row:end_row, first_column:end_column].float()
    grid_x = torch.from_numpy((2 * (x - first_column) + 1) / part.shape[2] - 1).float()
    grid_y = torch.from_numpy((2 * (y - first_row) + 1) / part.shape[1] - 1).float()
    grid = torch.stack(torch.meshgrid(grid_x, grid_y, indexing="xy"), dim=-1)[None]
    return grid_sample(part[None], grid, mode="bilinear", padding_mode=padding, align_corners=False)[0]


def _touched(positions: np.ndarray, size: int) -> tuple[int, int]:
    """The first and the end of the pixels of 0..size-1 that lie beside any of `positions`, at least one."""
    first = int(np.clip(np.floor(positions.min()), 0, size - 1))
    return first, int(np.clip(np.floor(positions.max()) + 2, first + 1, size))


def random_light(change: Augmentation, recipe: Recipe, rng: np.random.Generator) -> Light:
    """A light by chance, whose contrast turns round water."""
    low, high = recipe.window
    noise = rng.uniform(0, change.noise) * recipe.grey
    brightness = rng.uniform(-change.brightness, change.brightness) * recipe.grey
    contrast = 1 + rng.uniform(-change.contrast, change.contrast)
    water = -low * recipe.grey
    seed, window = int(rng.integers(2**63)), (low, high)
    if rng.random() < change.clipped:
        window = WINDOWS_HU[rng.integers(len(WINDOWS_HU))] + rng.uniform(-WINDOW_JITTER_HU, WINDOW_JITTER_HU, 2)
    first, last = (np.clip(window, low, high) - low) * recipe.grey
    return Light(contrast, (1 - contrast) * water + brightness, noise, seed, (float(first), float(last)))


def relight(images: Tensor, lights: Sequence[Light]) -> Tensor:
    """`images` (n, slices, rows, columns) 0..255 with the light of each, on their device: float32 0..255.

    The noise of an image depends on its seed and the kind of device alone, so not on how many processes share a batch.
    What is 0 was clipped, or lies outside the slice, and stays 0, or becomes the lower end of the window.
    """
    images = images.float()
    noise, generator = torch.empty_like(images, memory_format=torch.contiguous_format), torch.Generator(images.device)
    for picture, light in zip(noise, lights):
        picture.normal_(generator=generator.manual_seed(light.seed))
    changes = torch.tensor([light[:3] + light.window for light in lights]).to(images.device, non_blocking=True)
    contrast, brightness, deviation, low, high = changes.T[..., None, None, None]
    relit = noise.mul_(deviation).add_(brightness).addcmul_(images, contrast)
    return torch.where(images > 0, relit, images).clamp_(low, high)


def _target(
    boxes: np.ndarray, labels: np.ndarray, mined: np.ndarray, size: int, any_label: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What of the boxes a crop of `size` shows: boxes, labels from 0 on, what to ignore, and what was mined.

    Too little of a box is to be ignored, and one of unknown label, which `any_label` makes a lesion of label -1.
    """
    clipped = boxes.clip(-0.5, size - 0.5)
    visible = (clipped[:, 2:] - clipped[:, :2]).prod(1) / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-6)
    seen = (visible > 0) & (clipped[:, 2:] - clipped[:, :2] > 1).all(1)
    ignore = (visible < VISIBLE) | ((labels == OUTSIDE) if any_label else (labels < 1))
    return (
        torch.from_numpy(clipped[seen]).float(),
        torch.from_numpy(np.where(labels == UNKNOWN, -int(any_label), np.maximum(labels - 1, 0))[seen]).long(),
        torch.from_numpy(ignore[seen]),
        torch.from_numpy(mined[seen]),
    )


def collate(samples: list[tuple[Tensor, Light, Target]]) -> Batch:
    """A batch; a worker stacks its images straight into memory that the training shares."""
    images, lights, targets = zip(*samples)
    counts = [len(target.boxes) for target in targets]
    boxes, labels, ignore, background, datasets, _ = zip(*targets)
    lesions = torch.cat(boxes), torch.cat(labels), torch.cat(ignore), torch.cat([target.loose for target in targets])
    return Batch(default_collate(images), list(lights), lesions, counts, torch.stack(background), list(datasets))
