"""Confidence intervals by bootstrap over patients: whole patients are drawn with replacement, since slices of one
patient are alike.

Percentile intervals (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). In every replicate the
score threshold is found again, for the false positives vary with the patients as well. The same seed draws the same
patients for every detector that is measured on the same images, so the replicates of two detectors may be subtracted
from one another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from train.measuring.froc import Froc, allowed_false_positives


@dataclass(frozen=True)
class Bootstrap:
    """How to resample: patients (images,) says whose each image is; 0 replicates give no intervals."""

    patients: np.ndarray
    replicates: int = 1000
    seed: int = 0

    def sensitivities(self, result: Froc, rates: list[float], groups: np.ndarray) -> np.ndarray:
        """Sensitivity in every replicate: (replicates, rates, groups), NaN where a replicate holds no lesion of the
        group.

        `rates` are false positives per image; `groups` (groups, lesions) masks the lesions of each group.
        """
        if not self.replicates:
            return np.zeros((0, len(rates), len(groups)))
        names, patient = np.unique(self.patients, return_inverse=True)
        drawn = np.random.default_rng(self.seed).multinomial(
            len(names), np.full(len(names), 1 / len(names)), size=self.replicates
        )
        thresholds = _thresholds(result, rates, drawn, patient)
        times = drawn[:, patient[result.truth.image[result.lesion]]].astype(np.float32)
        members = groups.T.astype(np.float32)
        with np.errstate(invalid="ignore"):
            shares = [
                (times * (result.found > column[:, None])) @ members / (times @ members) for column in thresholds.T
            ]
        return np.stack(shares, axis=1)


def _thresholds(result: Froc, rates: list[float], drawn: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """The score threshold of every replicate at every rate: (replicates, rates)."""
    images = drawn @ np.bincount(patient)
    allowed = np.stack([allowed_false_positives(rate, images) for rate in rates], axis=1)
    scores = np.append(result.false_positives, -np.inf)
    whose = patient[result.detections.image[result.false]]
    head = whose[: 2 * allowed.max() + 1000]  # with rare exceptions, a replicate reaches every rate among these
    places = _places(drawn, head, allowed)
    return scores[places if places.max() < len(head) else _places(drawn, whose, allowed)]


def _places(drawn: np.ndarray, whose: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Place of the false positive that goes beyond the allowed number: (replicates, rates).

    The number of them where none does.
    """
    return np.array(
        [np.searchsorted(np.cumsum(times[whose]), limit, side="right") for times, limit in zip(drawn, allowed)]
    )


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval over the replicates, the first axis; NaN where no replicate has a value."""
    empty = np.isnan(samples).all(0)
    if not len(samples):
        return np.full(empty.shape, np.nan), np.full(empty.shape, np.nan)
    tails = np.nanpercentile(np.where(empty, 0, samples), [50 * (1 - level), 50 * (1 + level)], axis=0)
    low, high = np.where(empty, np.nan, tails)
    return low, high
