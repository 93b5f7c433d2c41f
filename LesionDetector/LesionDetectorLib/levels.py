"""Where in the body the slices of a CT lie, from head to feet, and where on them a lesion does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import numpy as np
from scipy import ndimage
from scipy.stats import spearmanr, theilslopes

from LesionDetectorLib.ct import Volume
from LesionDetectorLib.lesion import Box, Location, Region
from LesionDetectorLib.models import body_part_regressor
from LesionDetectorLib.models.body_part_regressor import PIXEL_MM, BodyPartRegressor
from LesionDetectorLib.plausible import TISSUE_HU, patient_mask

SLICES_MM = 4.0
"""Slices are looked at so far apart; those between lie between."""
LEAST_MM = 80.0
"""A shorter stretch of the body does not tell in which order its slices are."""
STRETCH_MM = 200.0
"""A shorter one does not tell how long its patient is."""
LENGTHS = (0.8, 1.25)
"""How long patients are, as shares of the usual."""
AGREEMENT = 0.8
"""Rank correlation of scores and slices from which on they run alike."""
SMALL = 0.4
"""Share of the largest piece of a slice below which another is an arm."""
_INDEPENDENT_MM = 40.0
"""Slices that lie so far apart err independently of each other."""


class SliceOrder(StrEnum):
    """What the pictures say of the order of the slices."""

    AS_TOLD = "head and feet lie where the file says"
    REVERSED = "head and feet are exchanged"
    UNORDERED = "the slices are in no order"
    UNTOLD = "the stretch of the body is too short to tell"


@dataclass(frozen=True, eq=False)
class Levels:
    """Where the slices of a CT lie.

    Attributes
    ----------
    z: (slices,) 0..1 from head to feet, on DeepLesion's scale: see `Location`.
    order: of the slices. Where it is REVERSED, `z` follows the pictures; where UNORDERED, each slice stands for itself.
    error_mm: how far off `z` is, one standard deviation in mm of the body, as measured on synthetic torsos; on patients
        it is more.
    body: (slices, 4) what the body covers on each slice, (x0, y0, x1, y1) in voxel indices; NaN where there is none.
    """

    z: np.ndarray
    order: SliceOrder
    error_mm: float
    body: np.ndarray

    def region(self, k: int) -> Region:
        """The region of the body that slice k shows."""
        return Region.at(float(self.z[k]))

    def location(self, key_slice: int, box: Box) -> Location | None:
        """Where the middle of a box lies; None where the slice shows no body."""
        low, high = self.body[key_slice].reshape(2, 2)
        if not np.isfinite(low).all():
            return None
        middle = np.array(box).reshape(2, 2).mean(axis=0)
        x, y = np.clip((middle - low) / np.maximum(high - low, 1), 0, 1)
        return Location(round(float(x), 3), round(float(y), 3), round(float(self.z[key_slice]), 3))


@cache
def _shipped() -> tuple[BodyPartRegressor, dict]:
    return body_part_regressor.load()


def locate(volume: Volume, regressor: tuple[BodyPartRegressor, Mapping] | None = None) -> Levels | None:
    """Where the slices of a CT lie; None where it shows no body.

    `regressor` is one with its card, as `body_part_regressor.load` gives it; that which ships unless given. Raises
    WeightsError where its files are not there.
    """
    model, card = regressor or _shipped()
    ks, images, body = seen(volume)
    shown = body.any(axis=(1, 2))
    if not shown.any():
        return None
    line = card["z"]
    raw = line["offset"] + line["slope"] * model.scores(images[shown])
    down = -1.0 if volume.direction[2, 2] > 0 else 1.0
    places = down * volume.spacing[2] * np.arange(len(volume.hu))
    z, order = fitted(raw, places[ks[shown]], places, line["per_mm"])
    if order is SliceOrder.UNORDERED:
        z = raw[np.abs(ks[shown] - np.arange(len(volume.hu))[:, None]).argmin(axis=1)]
    independent = 1 if order is SliceOrder.UNORDERED else 1 + np.ptp(places[ks[shown]]) / _INDEPENDENT_MM
    error = np.hypot(line["volume_error_mm"], line["slice_error_mm"] / np.sqrt(independent))
    return Levels(np.clip(z, 0, 1), order, float(error), _extents(body, ks, volume))


def seen(volume: Volume) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The slices that are looked at: their k (n,), as the network takes them (n, side, side), and where the body is on
    the coarse grid (n, rows, columns)."""
    step = max(int(SLICES_MM // volume.spacing[2]), 1)
    ks = np.arange((len(volume.hu) - 1) % step // 2, len(volume.hu), step)
    slices = body_part_regressor.coarse(volume.hu[ks], volume.spacing)
    tissue = (slices > TISSUE_HU).any(axis=(1, 2), keepdims=True)  # a CT without any is all body to patient_mask
    body = _without_arms(patient_mask(slices, PIXEL_MM) & tissue)
    return ks, body_part_regressor.prepared(slices, body), body


def _without_arms(body: np.ndarray) -> np.ndarray:
    """The body without the pieces that are small beside the largest of their slice; of two legs both stay."""
    kept = np.zeros_like(body)
    for trunk, inside in zip(kept, body):
        pieces, count = ndimage.label(inside)
        if count:
            sizes = np.bincount(pieces.ravel())[1:]
            trunk[:] = np.isin(pieces, 1 + np.flatnonzero(sizes >= SMALL * sizes.max()))
    return kept


def fitted(raw: np.ndarray, at: np.ndarray, places: np.ndarray, per_mm: float) -> tuple[np.ndarray, SliceOrder]:
    """z of slices at `places` in mm towards the feet, on the line through the scores `raw` (n,) of those `at` (n,), and
    what these say of their order.

    Single slices that err do not move the line. It rises as steeply as it does in patients, `per_mm` where the stretch
    is too short to tell.
    """
    order = _order(raw, at)
    toward = -1.0 if order is SliceOrder.REVERSED else 1.0
    slope = per_mm
    if np.ptp(at) >= STRETCH_MM:
        slope = float(np.clip(theilslopes(raw, toward * at).slope, *(per_mm * np.array(LENGTHS))))
    offset = np.median(raw - slope * toward * at)
    return offset + slope * toward * places, order


def _order(raw: np.ndarray, at: np.ndarray) -> SliceOrder:
    if len(at) < 4 or np.ptp(at) < LEAST_MM:
        return SliceOrder.UNTOLD
    agreement = spearmanr(raw, at).statistic
    if agreement >= AGREEMENT:
        return SliceOrder.AS_TOLD
    return SliceOrder.REVERSED if agreement <= -AGREEMENT else SliceOrder.UNORDERED


def _extents(body: np.ndarray, ks: np.ndarray, volume: Volume) -> np.ndarray:
    """The box of the body on every slice of the CT, that of the nearest slice that was looked at: (slices, 4)."""
    boxes = np.full((len(ks), 4), np.nan)
    scale = np.array(volume.hu.shape[:0:-1]) / body.shape[:0:-1]
    for box, inside in zip(boxes, body):
        if inside.any():
            spans = [np.flatnonzero(inside.any(axis=axis)) for axis in (0, 1)]
            corners = np.array([[span[0] for span in spans], [span[-1] + 1 for span in spans]])
            box[:] = (corners * scale - 0.5).ravel()
    return boxes[np.abs(ks - np.arange(len(volume.hu))[:, None]).argmin(axis=1)]
