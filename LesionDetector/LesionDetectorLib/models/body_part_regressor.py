"""A body-part regressor: how far down the body a slice lies, learnt from the order of slices alone.

Yan, Lu and Summers, "Unsupervised body part regression via spatially self-ordering convolutional neural networks", ISBI
2018 (SSBR): of slices that lie equally far apart, head to feet, the scores must rise, and by equal steps. It differs
from the paper in its smaller network, trained from scratch, in the pixels, which have a size in mm, in a second window
for lung and bone, and in a third loss: as CT tells how far slices lie apart, a step of the score has a length, the same
in all patients (as the order loss of Schuhegger, 2021, has it).
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn.functional import interpolate, logsigmoid, smooth_l1_loss

from LesionDetectorLib.files import write_bytes, write_text
from LesionDetectorLib.models.weights import WeightsError

DEFAULT_WEIGHTS = Path(__file__).parents[1] / "weights" / "body_part_regressor.safetensors"
PIXEL_MM, SIDE = 5.0, 96
AIR_HU = -1024.0
STEP_MM = 25.0
"""How much of the body a step of 1 in the score is."""
PER_MM, LEVEL_OF_ZERO = 0.00083, 0.6
"""How much of DeepLesion's 0..1 from head to feet is a mm of the usual body, and where on it the score 0 lies."""
_LENGTH_WEIGHT = 4.0
"""Less, and the order of near slices, whose loss never ends, drives them farther apart than they lie."""
_WINDOWS = ((-175.0, 275.0), (-1000.0, 1000.0))
_GROUPS = 8
_AT_ONCE = 32


class BodyPartRegressor(nn.Module):
    """Scores slices: the higher, the nearer to the feet.

    Parameters
    ----------
    widths: channels of the convolutions, each of which halves the slice.
    """

    NAME = "body_part_regressor"

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 96, 128)) -> None:
        super().__init__()
        self.architecture = {"regressor": self.NAME, "widths": list(widths)}
        layers: list[nn.Module] = []
        for before, width in pairwise((len(_WINDOWS), *widths)):
            layers += [nn.Conv2d(before, width, 3, 2, 1), nn.GroupNorm(_GROUPS, width), nn.ReLU()]
            if width >= 64:
                layers += [nn.Conv2d(width, width, 3, 1, 1), nn.GroupNorm(_GROUPS, width), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.score = nn.Sequential(nn.Linear(widths[-1], widths[-1]), nn.ReLU(), nn.Linear(widths[-1], 1))

    def forward(self, hu: Tensor) -> Tensor:
        """Scores (n,) of slices (n, SIDE, SIDE) in HU with pixels of PIXEL_MM."""
        windows = [(hu.clamp(low, high) - low) * (2 / (high - low)) - 1 for low, high in _WINDOWS]
        return self.score(self.features(torch.stack(windows, dim=1)).mean(dim=(2, 3)))[:, 0].float()

    def loss(self, scores: Tensor, targets: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """The losses "order", "distance", "length" and "level".

        Scores (n * slices,) are those of n times as many slices, head to feet. Targets: how far they lie apart (n,) in
        mm, and their levels z (n * slices,), NaN where nobody knows them.
        """
        steps_mm, z = targets
        rises = scores.unflatten(0, (len(steps_mm), -1)).diff(dim=1)
        bends = rises.diff(dim=1)
        lengths = (steps_mm / STEP_MM)[:, None].expand_as(rises)
        known = z.isfinite()
        off = scores[known] - (z[known] - LEVEL_OF_ZERO) / (PER_MM * STEP_MM)
        return {
            "level": smooth_l1_loss(off, torch.zeros_like(off), reduction="sum") / known.sum().clamp(min=1),
            "order": -logsigmoid(2 * rises).mean(),
            "distance": smooth_l1_loss(bends, torch.zeros_like(bends)),
            "length": _LENGTH_WEIGHT * smooth_l1_loss(rises, lengths, beta=0.5),
        }

    @torch.inference_mode()
    def scores(self, images: np.ndarray) -> np.ndarray:
        """Scores (n,) of `prepared` slices (n, SIDE, SIDE)."""
        parts = [
            self(torch.from_numpy(some).float()) for some in np.split(images, range(_AT_ONCE, len(images), _AT_ONCE))
        ]
        return torch.cat(parts).double().numpy()


def coarse(hu: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Slices (n, rows, columns) in HU with pixels of PIXEL_MM, each the mean of those that it covers: float32."""
    height, width = (max(round(side * mm / PIXEL_MM), 1) for side, mm in zip(hu.shape[1:], (spacing[1], spacing[0])))
    smaller = height <= hu.shape[1] and width <= hu.shape[2]
    how = {"mode": "area"} if smaller else {"mode": "bilinear", "align_corners": False}
    parts = [
        interpolate(torch.from_numpy(np.ascontiguousarray(some))[:, None].float(), (height, width), **how)
        for some in np.split(hu, range(_AT_ONCE, len(hu), _AT_ONCE))
    ]
    return torch.cat(parts)[:, 0].numpy()


def prepared(slices: np.ndarray, body: np.ndarray) -> np.ndarray:
    """`coarse` slices (n, rows, columns) as the network takes them, the `body` (n, rows, columns) in the middle and air
    round it: (n, SIDE, SIDE) float32."""
    images = np.full((len(slices), SIDE, SIDE), AIR_HU, np.float32)
    for image, hu, inside in zip(images, np.where(body, slices, AIR_HU), body):
        if inside.any():
            (row, rows), (column, columns) = (
                _shifted(np.flatnonzero(inside.any(axis)), len(inside.any(axis))) for axis in (1, 0)
            )
            image[row, column] = hu[rows, columns]
    return images


def _shifted(occupied: np.ndarray, size: int) -> tuple[slice, slice]:
    """Where on SIDE pixels those `occupied` of `size` lie if they are in the middle, and which they are."""
    shift = (SIDE - 1 - int(occupied[0] + occupied[-1])) // 2
    first, end = max(0, -shift), min(size, SIDE - shift)
    return slice(first + shift, end + shift), slice(first, end)


def save(model: BodyPartRegressor, path: Path, card: dict, half: bool = False) -> None:
    """Write the weights (.safetensors, with `half` as float16) and the card beside them (.json)."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(path, to_bytes({name: tensor.half() if half else tensor for name, tensor in tensors.items()}))
    facts = {**card, "architecture": model.architecture}
    write_text(path.with_suffix(".json"), json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def load(path: Path | str = DEFAULT_WEIGHTS) -> tuple[BodyPartRegressor, dict[str, Any]]:
    """The regressor in evaluation mode, and its card; WeightsError where the two files are none."""
    path = Path(path)
    try:
        card = json.loads(path.with_suffix(".json").read_bytes())
        model = BodyPartRegressor(tuple(card["architecture"]["widths"]))
        tensors = from_bytes(path.read_bytes())
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(
            f"{path} is no body-part regressor with its card beside it; make one with python -m train.body_part."
        ) from error
    return model.eval(), card
