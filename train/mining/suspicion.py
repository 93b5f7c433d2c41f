"""Negative region mining: where a single-organ expert is sure of a lesion that nobody marked, nothing is to be learnt.

Yan et al. (MELD), 2020, section 3.3. The rest of the slice is then reliably background. Left open there, and chosen
here: a proposal is of a lesion that is known where their IoU is above 0.3; experts that propose the same place, IoU
above 0.5, name it once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from LesionDetectorLib.boxes import pairwise_iou

from train.mining.proposals import Proposals

SIGMA = 0.5
KNOWN_IOU = 0.3
SAME_IOU = 0.5


def suspicious(experts: Sequence[Proposals], known: np.ndarray, sigma: float = SIGMA) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) of suspicious places on a slice, and which of the `experts` (n,) is the surest of each.

    `known` (m, 4) are the boxes of lesions that are marked or mined there.
    """
    boxes, scores = (np.concatenate([getattr(each, name) for each in experts]) for name in ("boxes", "scores"))
    expert = np.repeat(np.arange(len(experts)), [len(each.scores) for each in experts])
    chosen: list[int] = []
    for place in np.argsort(-scores, kind="stable"):
        if scores[place] <= sigma or (pairwise_iou(boxes[[place]], known) > KNOWN_IOU).any():
            continue
        if not (pairwise_iou(boxes[[place]], boxes[chosen]) > SAME_IOU).any():
            chosen.append(int(place))
    return boxes[chosen], expert[chosen]
