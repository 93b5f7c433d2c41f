"""Weighted boxes fusion: what several detectors found on one slice, as one set of boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from LesionDetectorLib.boxes import Detections, by_falling_score, kept, pairwise_iou


def weighted_boxes_fusion(
    predictions: Sequence[Detections],
    weights: Sequence[float] | None = None,
    iou_threshold: float = 0.55,
    skip_below: float = 0.0,
) -> Detections:
    """Fuse what several models, epochs or flips found on one slice into one set of boxes.

    Weighted boxes fusion as R. Solovyev et al., Image and Vision Computing 107 (2021) 104117, with `conf_type="avg"` of
    their `ensemble_boxes` package; but boxes are in pixels of any frame and are not clipped, scores stay within 1, and
    the prediction of a single model comes back as it is, because its own non-maximum suppression has already been done.

    Parameters
    ----------
    predictions: for each model the boxes (n, 4), scores (n,) in 0..1 and labels (n,); boxes without an area are left
        out.
    weights: one for each model; all 1 by default. A box that one of two equal models saw keeps half of its score.
    iou_threshold: a box joins the fused box of its label that it overlaps most, if by more than this.
    skip_below: boxes with a lower score are left out.

    Returns
    -------
    boxes (n, 4) float64, scores (n,) float64, labels (n,) int64, in falling order of score.

    Raises
    ------
    ValueError: not one positive weight for each model.
    """
    weights = np.ones(len(predictions)) if weights is None else np.asarray(weights, dtype=float)
    if len(weights) != len(predictions) or not (weights > 0).all():
        raise ValueError(
            f"Weighted boxes fusion needs one positive weight for each of {len(predictions)} models, not "
            f"{weights.tolist()}."
        )
    likely = [kept(prediction, skip_below) for prediction in predictions]
    if len(likely) == 1:
        return by_falling_score(*likely[0])

    boxes = np.concatenate([boxes for boxes, _, _ in likely] or [np.zeros((0, 4))])
    scores = np.concatenate([weight * scores for weight, (_, scores, _) in zip(weights, likely)] or [np.zeros(0)])
    labels = np.concatenate([labels for _, _, labels in likely] or [np.zeros(0, dtype=np.int64)])
    boxes, scores, labels = by_falling_score(boxes, scores, labels)

    fused = [
        (*_fuse_one_label(boxes[labels == label], scores[labels == label], iou_threshold), label)
        for label in np.unique(labels)
    ]
    if not fused:
        return boxes, scores, labels
    fused_boxes, means, counts, fused_labels = zip(*fused)
    counts = np.concatenate(counts)
    boxes, scores, labels = by_falling_score(
        np.concatenate(fused_boxes),
        np.concatenate(means) * np.minimum(len(weights), counts) / weights.sum(),
        np.repeat(np.array(fused_labels), [len(each) for each in means]),
    )
    return boxes, np.minimum(scores, 1), labels  # several boxes of a model with much weight can add up to more than 1


def _fuse_one_label(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float) -> Detections:
    """Clusters of boxes of one label, in falling order of score: fused boxes (m, 4), mean scores (m,), numbers of
    boxes (m,)."""
    fused = np.empty_like(boxes)
    sums = np.zeros_like(boxes)
    score_sums = np.zeros(len(boxes))
    counts = np.zeros(len(boxes), dtype=int)
    clusters = 0
    for box, score in zip(boxes, scores):
        overlaps = pairwise_iou(fused[:clusters], box[None])[:, 0]
        best = int(overlaps.argmax()) if clusters else 0
        if not clusters or overlaps[best] <= iou_threshold:
            best = clusters
            clusters += 1
        sums[best] += score * box
        score_sums[best] += score
        counts[best] += 1
        fused[best] = sums[best] / score_sums[best] if score_sums[best] > 0 else box
    return fused[:clusters], score_sums[:clusters] / counts[:clusters], counts[:clusters]
