"""Whether a finding can be what the detector calls it, by where it lies: in the body, and "lung" in the lungs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from LesionDetectorLib.ct import Volume
from LesionDetectorLib.lesion import BodyPart, Box
from LesionDetectorLib.measure.margins import DETECTOR_MARGIN_MM
from LesionDetectorLib.stack import Candidate

TISSUE_HU = -400
PADDING_HU = -1500
"""Below this nothing was measured: scanners write -2000, -2048 or -3024 outside of their circle."""
CLEAR_AIR_HU = -960
"""Air that reaches the edge of the image lies outside of the body if half of it there is darker, else it is a lung that
the edge cuts."""
AERATED_HU = (-990, -500)
"""Lung, also with emphysema, and not the gas in bowel."""
RING_MM = 8.0
LEAST_LUNG = 0.15
"""Share of aerated lung in the ring round a lesion called "lung". At the pleura it is half, where a lesion meets
the mediastinum or collapsed lung a fifth; of 682 readers' marks 6 have less, of false findings elsewhere nearly all."""
LEAST_IN_BODY = 0.1
_GRID_MM = np.array([3.0, 3.0, 5.0])
_THICK_MM = 12.0
"""A piece of tissue that lies apart is an arm if it has a core under so much of it all round; a table has none."""
_IN_PLANE = np.array([[[0, 0, 0]] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0, 0, 0]] * 3], bool)


def plausible(volume: Volume, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that can be what they are called, the surest first.

    One outside of the body goes. One that is called "lung" and has no lung round it takes its next best label with as
    much less confidence as that had fewer votes, or goes where all votes were for the lung.
    """
    places = Places(volume)
    inside = [candidate for candidate in candidates if places.in_body(candidate.key_slice, candidate.box)]
    likely = [candidate for each in inside if (candidate := _relabelled(each, places)) is not None]
    return sorted(likely, key=lambda candidate: -candidate.confidence)


def _relabelled(candidate: Candidate, places: Places) -> Candidate | None:
    if candidate.body_part != BodyPart.LUNG or places.amid_lung(candidate.key_slice, candidate.box):
        return candidate
    others: dict[BodyPart, float] = {part: vote for part, vote in candidate.votes.items() if part != BodyPart.LUNG}
    if not others:
        return None
    best = max(others, key=others.__getitem__)
    confidence = candidate.confidence * others[best] / candidate.votes[BodyPart.LUNG]
    return replace(candidate, body_part=best, confidence=confidence, votes=others)


class Places:
    """Where the body and the lungs of one CT are, the body on a grid of about 3 mm."""

    def __init__(self, volume: Volume) -> None:
        self._hu, self._spacing = volume.hu, np.array(volume.spacing)
        self._step = np.maximum(_GRID_MM // self._spacing, 1).astype(int)
        i, j, k = self._step
        self.body = patient_mask(volume.hu[::k, ::j, ::i], float((self._spacing * self._step)[:2].mean()))
        self._shows_air = bool(volume.hu[::k, ::j, ::i].min() < AERATED_HU[1])

    def in_body(self, key_slice: int, box: Box) -> bool:
        """Whether the middle of a box lies in the body, or more than a little of it."""
        rows, columns = self._pixels(box)
        i, j, k = self._step
        body = self.body[key_slice // k]
        seen = body[np.ix_(np.unique(rows // j), np.unique(columns // i))]
        middle = body[_middle(rows) // j, _middle(columns) // i]
        return bool(middle) or seen.mean() > LEAST_IN_BODY

    def amid_lung(self, key_slice: int, box: Box) -> bool:
        """Whether there is lung round a lesion, whose box leaves a margin round it.

        A CT that shows no air at all, its values clipped, cannot tell: True.
        """
        if not self._shows_air:
            return True
        margin = RING_MM - DETECTOR_MARGIN_MM
        outer = self._pixels(box, margin)
        rows, columns = np.ix_(*outer)
        x0, y0, x1, y1 = np.array(box) + DETECTOR_MARGIN_MM * np.array([1, 1, -1, -1]) / np.tile(self._spacing[:2], 2)
        ring = ~((rows >= y0) & (rows <= y1) & (columns >= x0) & (columns <= x1))
        i, j, k = self._step
        body = self.body[key_slice // k]
        hu = self._hu[key_slice][rows, columns]
        lung = (hu > AERATED_HU[0]) & (hu < AERATED_HU[1]) & body[rows // j, columns // i]
        return not ring.any() or bool(lung[ring].mean() >= LEAST_LUNG)

    def _pixels(self, box: Box, margin_mm: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """The rows and the columns of the image that a box covers with a margin, at least one of each."""
        x0, y0, x1, y1 = box
        di, dj = margin_mm / self._spacing[:2]
        return _range(y0 - dj, y1 + dj, self._hu.shape[1]), _range(x0 - di, x1 + di, self._hu.shape[2])


def _range(low: float, high: float, size: int) -> np.ndarray:
    first = int(np.clip(np.ceil(low), 0, size - 1))
    return np.arange(first, int(np.clip(np.floor(high), first, size - 1)) + 1)


def _middle(places: np.ndarray) -> int:
    return int(places[len(places) // 2])


def patient_mask(hu: np.ndarray, pixel_mm: float) -> np.ndarray:
    """Where the body is, with its lungs and bowel: (k, j, i) bool, as `hu`, which is best coarse.

    The body is the largest piece of tissue and every other that is thick, such as an arm or the second leg; table,
    cables and tubes are neither. What it encloses on a slice belongs to it. So does a lung that the edge of the image
    cuts, which is told from the air outside by its HU. Without any tissue all may be body.
    """
    tissue = ndimage.binary_opening(hu > TISSUE_HU, structure=_IN_PLANE)
    pieces, count = ndimage.label(tissue)
    if not count:
        return hu >= PADDING_HU
    thick = ndimage.binary_erosion(tissue, structure=_IN_PLANE, iterations=max(round(_THICK_MM / pixel_mm), 1))
    kept = np.zeros(count + 1, bool)
    kept[pieces[thick]] = True
    kept[1 + np.argmax(np.bincount(pieces.ravel())[1:])] = True
    kept[0] = False
    body = kept[pieces]
    return ~_outside(hu, body)


def _outside(hu: np.ndarray, body: np.ndarray) -> np.ndarray:
    """What lies outside of the pieces of tissue of a `body`: padding, and the air of each slice that reaches it or
    the edge of the image."""
    padding = hu < PADDING_HU
    regions, count = ndimage.label(~body & ~padding, structure=_IN_PLANE)
    edge = ndimage.binary_dilation(padding, structure=_IN_PLANE)
    edge[:, [0, -1]] = edge[:, :, [0, -1]] = True
    touching = np.bincount(regions[edge], minlength=count + 1)
    clear = np.bincount(regions[edge & (hu < CLEAR_AIR_HU)], minlength=count + 1)
    outside = (touching > 0) & (2 * clear >= touching)
    outside[0] = False
    return outside[regions] | padding
