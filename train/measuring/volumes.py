"""Volumetric FROC: sensitivity against false 3-D boxes per sub-volume.

Yan et al., "Learning from multiple datasets with heterogeneous and partial labels for universal lesion detection in
CT" (MELD), 2020, section 4.3: boxes of consecutive slices with IoU > 0.5 are one 3-D box, and a 3-D box is right if any
of its cross-sections has IoU > 0.5 with a lesion's box on that slice. Its score, which the paper leaves open, is here
that of its best cross-section; all else is counted as in `froc`.
"""

from __future__ import annotations

import numpy as np
from LesionDetectorLib.stack import STACKING_IOU, stack_all

from train.measuring.bootstrap import Bootstrap, interval
from train.measuring.boxes import Boxes
from train.measuring.froc import SECOND_HIT, Froc, of_pairs, overlapping
from train.measuring.statement import plain

RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
NAMES = (*(f"{rate:g}" for rate in RATES), "mean")
IOU = 0.5
HOW_COUNTED = {
    "3d_box": "boxes of consecutive slices whose IoU is above linking_iou, each box in one 3-D box; no gap is bridged",
    "score_of_a_3d_box": "that of its best cross-section",
    "a_hit": "any cross-section has IoU above iou with the lesion's box on that slice, whatever the label",
    "a_lesion_on_several_slices": "has the same box on each of them",
    "second_hit_on_a_found_lesion": SECOND_HIT,
    "false_positives": "3-D boxes per sub-volume, which is no rate per image: sub-volumes differ in their slices",
    "mean": "of the sensitivities at the seven rates",
    "ignored_lesions": "of unknown label (-1): neither found nor missed, and a 3-D box on one counts as nothing",
}
PUBLISHED = {
    "source": "Yan et al., MELD, table 1; other sub-volumes and other marks than these, so a rough comparison only",
    "subvolumes": 1071,
    "lesions": 3665,
    "sensitivity": {
        name: dict(zip(NAMES, row, strict=True))
        for name, row in {
            "MULAN": (0.076, 0.126, 0.207, 0.306, 0.421, 0.518, 0.612, 0.324),
            "MELD": (0.077, 0.135, 0.213, 0.323, 0.437, 0.548, 0.652, 0.341),
            "MELD + MAM": (0.129, 0.208, 0.292, 0.390, 0.496, 0.587, 0.670, 0.396),
            "MELD + NRM": (0.135, 0.202, 0.295, 0.388, 0.494, 0.585, 0.673, 0.396),
            "MELD + MAM + NRM": (0.160, 0.228, 0.320, 0.417, 0.513, 0.603, 0.683, 0.418),
        }.items()
    },
}


def volumetric_froc(
    detections: Boxes,
    slices: np.ndarray,
    truth: Boxes,
    spans: np.ndarray,
    volumes: int,
    iou: float = IOU,
    linking_iou: float = STACKING_IOU,
    every: int = 1,
    lesions: np.ndarray | None = None,
) -> Froc:
    """Match the 3-D boxes that detections make with the truth; `image` of both is the sub-volume.

    Parameters
    ----------
    detections, slices: boxes on slices, and the slice (n,) of each.
    truth, spans: boxes of lesions, and the first and last slice (lesions, 2) of each, both included.
    volumes: how many sub-volumes there are.
    iou, linking_iou: a cross-section is right, and boxes of consecutive slices link, *above* these.
    every: how far the slices that were looked at lie apart.
    lesions: where the truth has cross-sections that differ from slice to slice, the number (n,) of the lesion that each
        is of, 0 to the number of lesions less 1; None where each box of the truth is a lesion.

    Returns
    -------
    The FROC whose detections are the 3-D boxes, each with its best cross-section, and whose images the sub-volumes.
    """
    numbers = _numbered(detections, slices, linking_iou, every)
    best_first = np.lexsort((-detections.scores, numbers))
    _, start = np.unique(numbers[best_first], return_index=True)
    best = best_first[start]
    boxes_3d = Boxes(detections.image[best], detections.boxes[best], detections.labels[best], detections.scores[best])
    section, lesion, _ = overlapping(detections, truth, np.nextafter(iou, np.inf))
    on_slice = (spans[lesion, 0] <= slices[section]) & (slices[section] <= spans[lesion, 1])
    section, lesion = section[on_slice], lesion[on_slice]
    if lesions is not None:
        lesion, first = lesions[lesion], np.unique(lesions, return_index=True)[1]
        truth = Boxes(truth.image[first], truth.boxes[first], truth.labels[first], truth.scores)
    return of_pairs(boxes_3d, truth, volumes, numbers[section], lesion, same_label=False)


def _numbered(detections: Boxes, slices: np.ndarray, linking_iou: float, every: int) -> np.ndarray:
    """The number (n,) of the 3-D box that each detection belongs to, from 0 on without a gap."""
    order = np.lexsort((-detections.scores, slices, detections.image))
    image, k = detections.image[order], slices[order]
    new_slice = np.flatnonzero((np.diff(image) != 0) | (np.diff(k) != 0)) + 1
    numbers, count = np.zeros(len(order), int), 0
    run: list[tuple[int, np.ndarray]] = []  # consecutive slices: their k and the places of their boxes
    for places in np.split(order, new_slice) if len(order) else []:
        here = detections.image[places[0]], int(slices[places[0]])
        if run and here != (detections.image[run[-1][1][0]], run[-1][0] + every):
            count += _number_run(run, detections.boxes, numbers, count, linking_iou)
            run = []
        run.append((here[1], places))
    _number_run(run, detections.boxes, numbers, count, linking_iou)
    return numbers


def _number_run(
    run: list[tuple[int, np.ndarray]], boxes: np.ndarray, numbers: np.ndarray, first: int, linking_iou: float
) -> int:
    """Write the numbers, from `first` on, of the 3-D boxes of consecutive slices; returns how many there are."""
    found = stack_all([(k, boxes[places]) for k, places in run], linking_iou)
    for k, places in run:
        numbers[places] = first + found[k]
    return 1 + max((int(own.max()) for own in found.values()), default=-1)


def statement(result: Froc, bootstrap: Bootstrap) -> dict:
    """Sensitivity at the seven rates and their mean, with intervals where patients are drawn; the published table."""
    answer = {
        "subvolumes": result.images,
        "lesions": len(result.lesion),
        "ignored_lesions": len(result.truth) - len(result.lesion),
        "3d_boxes": len(result.detections),
        "false_positives_per_subvolume_of_all_detections": len(result.false) / max(result.images, 1),
        "sensitivity": dict(zip(NAMES, _with_mean(np.array([result.sensitivity(rate) for rate in RATES])))),
    }
    if bootstrap.replicates:
        answer["interval_95"] = dict(zip(NAMES, _intervals(result, bootstrap)))
    thresholds = [result.threshold(rate) for rate in RATES]
    return plain({**answer, "score_threshold": dict(zip(NAMES, thresholds)), "how_counted": HOW_COUNTED})


def _intervals(result: Froc, bootstrap: Bootstrap) -> list[list[float] | None]:
    """The 95 % interval of each of the `NAMES`; None where the lesions are of one patient or all replicates agree."""
    owners = np.unique(bootstrap.patients[result.truth.image[result.lesion]])
    if len(owners) < 2:
        return [None] * len(NAMES)
    everything = np.ones((1, len(result.found)), bool)
    samples = bootstrap.sensitivities(result, list(RATES), everything)[..., 0]
    bounds = np.transpose(interval(_with_mean(samples))).tolist()
    return [[low, high] if low < high else None for low, high in bounds]


def _with_mean(values: np.ndarray) -> np.ndarray:
    """Values (..., rates) and, last, their mean."""
    return np.concatenate([values, values.mean(axis=-1, keepdims=True)], axis=-1)
