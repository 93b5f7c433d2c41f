"""CT slices as a network wants to see them, and the exact way back to the CT's own pixels.

The default recipe is that of the DeepLesion detectors (Yan et al., JMI 2018; Yan et al., "Learning from multiple
datasets", 2020): HU window -1024..3071 to 0..255, 0.8 mm pixels, the slice and its neighbours interpolated 2 mm apart,
black borders clipped, at most 512 px a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

BODY_HU = -768
"""Above this is body (or table), below it air: MULAN's body mask."""
_MASK_STEP = 4


TONES = ("ct", "linear")
CT_TONE_HU = (-200.0, 250.0)
"""Between these the tone "ct" gives a network most of its range."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a network eats: how slices of a CT become its input. It stands in the card of the network's weights.

    Attributes
    ----------
    slices: how many neighbouring slices are the input channels (odd); the middle one is examined.
    pixel_mm: side of a pixel.
    neighbour_mm: how far neighbours lie apart.
    max_size: longest side of a slice in pixels; a larger body is shrunk further.
    window: the HU that become grey values 0 and 255; what lies beyond is clipped.
    tone: how the network sees the grey values: "linear", or "ct", which gives soft tissue most of the range
        (`models.tone`).

    Raises
    ------
    ValueError: a value that no slice can be made with.
    """

    slices: int = 3
    pixel_mm: float = 0.8
    neighbour_mm: float = 2.0
    max_size: int = 512
    window: tuple[float, float] = (-1024.0, 3071.0)
    tone: str = "ct"

    def __post_init__(self) -> None:
        if self.slices < 1 or self.slices % 2 == 0:
            raise ValueError(
                f"A sample has the slice and as many neighbours on either side: an odd number of slices, not "
                f"{self.slices}."
            )
        low, high = self.window
        if not (self.pixel_mm > 0 and self.neighbour_mm > 0 and self.max_size > 0 and low < high):
            raise ValueError(f"Pixels, distances and sizes must be above 0, and a window must rise: not {self}.")
        if self.tone not in TONES:
            raise ValueError(f"'{self.tone}' is not a tone; use one of: {', '.join(TONES)}.")
        if self.tone == "ct" and not (low < CT_TONE_HU[0] and high > CT_TONE_HU[1]):
            raise ValueError(f"The tone 'ct' needs a window round {CT_TONE_HU} HU, not {self.window}; use 'linear'.")
        object.__setattr__(self, "window", (float(low), float(high)))

    @property
    def grey(self) -> float:
        """Grey values a HU."""
        return 255 / (self.window[1] - self.window[0])


DEFAULT = Recipe()


@dataclass(frozen=True, slots=True)
class Frame:
    """The map between network pixels and continuous voxel indices of the CT: index = origin + (pixel + 0.5) * scale.

    origin: (i, j) of the outer corner of network pixel (0, 0); scale: voxels per network pixel along i and j; shape:
    (rows, columns) of the network slice.
    """

    origin: tuple[float, float]
    scale: tuple[float, float]
    shape: tuple[int, int]

    def to_index(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) xyxy in network pixels -> continuous voxel indices."""
        return (np.array(self.origin) + (_corners(boxes) + 0.5) * self.scale).reshape(-1, 4)

    def to_network(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) xyxy in continuous voxel indices -> network pixels."""
        return ((_corners(boxes) - self.origin) / self.scale - 0.5).reshape(-1, 4)


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 2, 2)


def body_mask(hu: np.ndarray) -> np.ndarray:
    """Where in every fourth pixel of `hu` (k, j, i) the body is: (k, rows, columns) bool, thin bright lines (wires,
    cloth) opened away."""
    return ndimage.binary_opening(hu[:, ::_MASK_STEP, ::_MASK_STEP] > BODY_HU, structure=np.ones((1, 2, 2), bool))


def body_bounds(body: np.ndarray, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """The extent of a `body_mask` in slices of `shape` (rows, columns): first row, end row, first column, end column.

    Nothing but air gives the whole slice.
    """
    if not body.any():
        return 0, shape[0], 0, shape[1]
    extent = []
    for size, axes in zip(shape, ((0, 2), (0, 1))):
        seen = np.flatnonzero(body.any(axis=axes)) * _MASK_STEP
        extent += [int(max(seen[0] - _MASK_STEP, 0)), int(min(seen[-1] + 2 * _MASK_STEP, size))]
    first_row, end_row, first_column, end_column = extent
    return first_row, end_row, first_column, end_column


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """`array` on `device`; to a GPU through pinned memory, so that the caller need not wait for the copy."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class NetworkSlices:
    """The slices of one CT, ready for a network.

    Every source slice is resampled once if they are asked for in their order.

    Parameters
    ----------
    hu: (k, j, i) HU.
    spacing: (si, sj, sk) mm.
    recipe: how samples are made; beyond the ends of the CT the last slice repeats.
    device: where slices are resampled and samples lie.

    Attributes
    ----------
    frame: the map between network pixels and the CT's.
    pixel_mm: side of a pixel in truth.
    with_body: each k whose slice shows more than air.
    """

    def __init__(
        self,
        hu: np.ndarray,
        spacing: tuple[float, float, float],
        recipe: Recipe = DEFAULT,
        device: torch.device | str = "cpu",
    ) -> None:
        body = body_mask(hu)
        self.with_body = np.flatnonzero(body.any(axis=(1, 2))).tolist()
        first_row, end_row, first_column, end_column = body_bounds(body, hu.shape[1:])
        self._hu = hu[:, first_row:end_row, first_column:end_column]
        rows_mm, columns_mm = self._hu.shape[1] * spacing[1], self._hu.shape[2] * spacing[0]
        pixel_mm = max(recipe.pixel_mm, max(rows_mm, columns_mm) / recipe.max_size)
        shape = (max(round(rows_mm / pixel_mm), 1), max(round(columns_mm / pixel_mm), 1))
        scale = (self._hu.shape[2] / shape[1], self._hu.shape[1] / shape[0])
        self.frame = Frame((first_column - 0.5, first_row - 0.5), scale, shape)
        self.pixel_mm = pixel_mm
        self.device = torch.device(device)
        self._recipe = recipe
        self._steps = np.arange(-(recipe.slices // 2), recipe.slices // 2 + 1) * (recipe.neighbour_mm / spacing[2])
        self._kept = np.zeros(0, int), torch.zeros(0, *shape, device=device)

    def __len__(self) -> int:
        return self._hu.shape[0]

    def sample(self, k: int) -> np.ndarray:
        """Slice `k` with its neighbours, head to foot as the CT's k runs: (slices, rows, columns) float32, 0..255."""
        return self.samples([k])[0].cpu().numpy()

    def samples(self, ks: Sequence[int]) -> Tensor:
        """Some slices with their neighbours: (n, slices, rows, columns) float32 on the device, as of `sample`."""
        positions = np.clip(np.array(ks)[:, None] + self._steps, 0, len(self) - 1)
        below = np.floor(positions).astype(int)
        weight = (positions - below).astype(np.float32)
        between = weight > 1e-6
        planes, places = self._planes(np.unique([below, below + between]))
        samples = planes[to_device(places[below], self.device)]
        if between.any():
            samples.lerp_(
                planes[to_device(places[below + between], self.device)], to_device(weight, self.device)[..., None, None]
            )
        return samples

    def _planes(self, ks: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Resampled source slices `ks`, and by k the place of each among them.

        Those of the last call are not resampled again.
        """
        kept_ks, kept = self._kept
        still = np.flatnonzero(np.isin(kept_ks, ks))
        fresh = np.setdiff1d(ks, kept_ks)
        self._kept = (
            np.append(kept_ks[still], fresh),
            torch.cat([kept[to_device(still, self.device)], self._resample(fresh)]),
        )
        places = np.zeros(len(self), int)
        places[self._kept[0]] = np.arange(len(ks))
        return self._kept[1], places

    def _resample(self, ks: np.ndarray) -> Tensor:
        """Source slices `ks` as (n, rows, columns) grey values: linear resampling, then the window."""
        source = to_device(self._hu[ks], self.device)[:, None].float()
        planes = interpolate(source, self.frame.shape, mode="bilinear", align_corners=False)[:, 0]
        return planes.clamp_(*self._recipe.window).sub_(self._recipe.window[0]).mul_(self._recipe.grey)
