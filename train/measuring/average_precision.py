"""Average precision of each label, counted by torchmetrics as COCO does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from LesionDetectorLib.lesion import BodyPart

from train.data.deeplesion import UNKNOWN
from train.measuring.boxes import Boxes
from train.measuring.froc import froc

if TYPE_CHECKING:
    import torch

MOST_PER_IMAGE = 100
HOW = (
    f"COCO's 101 points, at most {MOST_PER_IMAGE} detections an image; a second hit on a found lesion is a false "
    "positive"
)


def average_precision(detections: Boxes, truth: Boxes, images: int, iou: float) -> dict[str, float]:
    """Average precision (0..1) of each label that has lesions, by title, and their "mean", at one IoU limit.

    Detections on ignored lesions are left out. NaN where there is no lesion. Source: Lin et al., Microsoft COCO, ECCV
    2014.
    """
    from torchmetrics.detection import MeanAveragePrecision  # takes seconds to import and is needed only here

    result = froc(detections, truth, images, iou)
    counted = np.union1d(result.hits, result.false)
    metric = MeanAveragePrecision(
        iou_thresholds=[iou],
        class_metrics=True,
        max_detection_thresholds=[1, 10, MOST_PER_IMAGE],
        backend="faster_coco_eval",
    )
    metric.update(
        _per_image(detections, counted, images), _per_image(truth, np.flatnonzero(truth.labels != UNKNOWN), images)
    )
    values = metric.compute()
    per_class = zip(np.atleast_1d(values["classes"].numpy()), np.atleast_1d(values["map_per_class"].numpy()))
    per_label = {BodyPart(label).title: float(value) for label, value in per_class if value >= 0}
    return {**per_label, "mean": float(np.mean(list(per_label.values()))) if per_label else float("nan")}


def _per_image(boxes: Boxes, kept: np.ndarray, images: int) -> list[dict[str, torch.Tensor]]:
    order = kept[np.argsort(boxes.image[kept], kind="stable")]
    ends = np.searchsorted(boxes.image[order], np.arange(images), side="right")
    return [_tensors(boxes, rows) for rows in np.split(order, ends)[:images]]


def _tensors(boxes: Boxes, rows: np.ndarray) -> dict[str, torch.Tensor]:
    import torch

    tensors = {
        "boxes": torch.tensor(boxes.boxes[rows], dtype=torch.float32),
        "labels": torch.tensor(boxes.labels[rows]),
    }
    if boxes.scores is not None:
        tensors["scores"] = torch.tensor(boxes.scores[rows], dtype=torch.float32)
    return tensors
