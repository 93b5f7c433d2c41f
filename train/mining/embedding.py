"""An embedding of lesions: near to each other where they are of one kind, place and size.

As in lesion graphs (Yan et al., CVPR 2018) it learns from sequences of four lesions A, B, C and D: B is of A's label
and near in place and size, C of A's label and far, D of another label. The distances from A shall rise in this order.
Besides, the label is told. The paper's embedding, LesaNet, is larger and learns from reports.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from LesionDetectorLib.files import write_bytes, write_text
from LesionDetectorLib.models.architecture import remembered
from LesionDetectorLib.models.backbone import Pyramid
from LesionDetectorLib.models.detections import network_input
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.slices import DEFAULT, Frame, Recipe
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, relu
from torchvision.ops import roi_align

from train.data.deeplesion import KeySlice
from train.data.prepared import PreparedSlices

SIDE_MM = 102.4
STRIDES = (4, 8, 16)
MARGINS = (0.1, 0.2)
"""By how much d(A, C)^2 shall exceed d(A, B)^2, and d(A, D)^2 that."""
_CELLS = 5
_AT_ONCE = 64


class Patches(NamedTuple):
    """Lesions in their surroundings: images (n, slices, side, side) 0..255, boxes (n, 4) xyxy in their pixels, places
    (n, 4): the centre in the body (0..1 along x and y) and the logarithms of width and height in mm."""

    images: Tensor
    boxes: Tensor
    places: Tensor

    @property
    def device(self) -> torch.device:
        return self.images.device


class Embedding(nn.Module):
    """Gives lesions points on the unit sphere.

    Parameters
    ----------
    backbone: as of `Pyramid`. recipe: how slices are made of a CT. channels, features: width of its maps and of the
    layers after them. num_classes: number of labels. size: of an embedding.
    """

    NAME = "embedding"

    @remembered
    def __init__(
        self,
        backbone: str = "mobilenet_v2",
        recipe: Recipe = DEFAULT,
        channels: int = 64,
        features: int = 128,
        num_classes: int = 8,
        size: int = 256,
    ) -> None:
        super().__init__()
        self.pyramid = Pyramid(backbone, recipe.slices, channels, STRIDES)
        self.of_levels = nn.ModuleList(nn.Linear(channels * _CELLS**2, features) for _ in STRIDES)
        self.of_context = nn.Linear(channels, features)
        self.of_place = nn.Linear(4, features // 4)
        self.point = nn.Linear(features * (len(STRIDES) + 1) + features // 4, size)
        self.label = nn.Linear(size, num_classes)

    @property
    def side(self) -> int:
        """Pixels a patch's side."""
        return max(round(SIDE_MM / self.recipe.pixel_mm / STRIDES[-1]), 1) * STRIDES[-1]

    def forward(self, patches: Patches) -> Tensor:
        """Points (n, size) of length 1."""
        maps = self.pyramid(network_input(patches.images, STRIDES[-1], self.recipe))
        with torch.autocast(patches.images.device.type, enabled=False):
            cut = [
                roi_align(level.float(), list(patches.boxes.split(1)), _CELLS, 1 / stride, sampling_ratio=2).flatten(1)
                for level, stride in zip(maps, STRIDES)
            ]
        parts = [layer(features) for layer, features in zip(self.of_levels, cut)]
        parts += [self.of_context(maps[-1].mean(dim=(2, 3))), self.of_place(patches.places)]
        return normalize(self.point(relu(torch.cat(parts, dim=1))).float())

    def loss(self, points: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The losses "sequence" and "label" of sequences A, B, C, D one after the other, with labels (n,), -1
        unknown."""
        first, near, far, other = points.unflatten(0, (-1, 4)).unbind(dim=1)
        squares = [(first - each).square().sum(dim=1) for each in (near, far, other)]
        rising = [relu(one - next_one + margin) for one, next_one, margin in zip(squares, squares[1:], MARGINS)]
        told = cross_entropy(self.label(points), labels, ignore_index=-1, reduction="sum")
        return {"sequence": sum(rising).mean(), "label": told / (labels >= 0).sum().clamp(min=1)}


def cut(sample: np.ndarray, frame: Frame, box: np.ndarray, side: int, pixel_mm: float) -> Patches:
    """The patch round a `box` (4,) in pixels of the slice, of a prepared slice and its frame: one, without the first
    axis."""
    (box,) = frame.to_network(box[None])
    centre = (box[:2] + box[2:]) / 2
    left, top = np.rint(centre - side / 2).astype(int)
    _, rows, columns = sample.shape
    x0, x1 = np.clip([left, left + side], 0, columns)
    y0, y1 = np.clip([top, top + side], 0, rows)
    patch = np.zeros((len(sample), side, side), np.float16)
    patch[:, y0 - top : y1 - top, x0 - left : x1 - left] = sample[:, y0:y1, x0:x1]
    sides = np.maximum(box[2:] - box[:2], 1) * pixel_mm
    place = np.concatenate([centre / (columns, rows), np.log(sides) / 5])
    return Patches(
        torch.from_numpy(patch),
        torch.from_numpy(box - [left, top, left, top]).float(),
        torch.from_numpy(place).float(),
    )


@torch.inference_mode()
def embed(
    model: Embedding, slices: Sequence[KeySlice], boxes: Sequence[np.ndarray], cache: Path | None = None
) -> list[np.ndarray]:
    """Of each slice the points (n, size) of its `boxes` (n, 4), in 0-based pixels."""
    prepared = PreparedSlices(cache, model.recipe)
    patches = []
    for key_slice, here in zip(slices, boxes):
        if len(here):
            sample, frame = prepared(key_slice)
            patches += [cut(sample, frame, box, model.side, model.recipe.pixel_mm) for box in here]
    model.eval()
    device = next(model.parameters()).device
    points = [np.zeros((0, model.architecture["size"]), np.float32)]
    for first in range(0, len(patches), _AT_ONCE):
        parts = (torch.stack(part).float().to(device) for part in zip(*patches[first : first + _AT_ONCE]))
        points.append(model(Patches(*parts)).cpu().numpy())
    ends = np.cumsum([len(here) for here in boxes])
    return np.split(np.concatenate(points), ends[:-1]) if len(ends) else []


def save(model: Embedding, path: Path, card: dict) -> None:
    """Write the weights (.safetensors) and the card beside them (.json)."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(path, to_bytes(tensors))
    facts = {"architecture": model.architecture, "input": asdict(model.recipe), **card}
    write_text(path.with_suffix(".json"), json.dumps(facts, indent=2) + "\n")


def load(path: Path) -> tuple[Embedding, dict]:
    """The embedding, in evaluation mode, and its card; Refusal names files that are none."""
    try:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        arguments = {name: value for name, value in card["architecture"].items() if name != "detector"}
        model = Embedding(recipe=Recipe(**card["input"]), **arguments)
        model.load_state_dict(from_bytes(path.read_bytes()))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise Refusal(
            f"{path} is no embedding with its card beside it; make one with python -m train.embed."
        ) from error
    return model.eval(), card
