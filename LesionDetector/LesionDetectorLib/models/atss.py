"""Which points of a feature pyramid learn which lesion: adaptive training sample selection.

Zhang et al., "Bridging the gap between anchor-based and anchor-free detection via adaptive training sample selection",
CVPR 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from LesionDetectorLib.models.boxes import xyxy_to_ltrb
from LesionDetectorLib.models.detections import BACKGROUND, Target, leave_out_ignored

_INSIDE_PX = 0.01


@torch.no_grad()
def assign(points: Sequence[Tensor], sides: Sequence[float], targets: Sequence[Target], candidates: int = 9) -> Tensor:
    """The index of the box that each point learns, or BACKGROUND (-1), or IGNORE (-2), for every image.

    1. Every point carries one square anchor.
    2. A box's candidates are, on every level, the `candidates` points nearest to its centre.
    3. Its threshold is the mean plus the standard deviation of all its candidates' IoU with it.
    4. Candidates that reach it and lie inside the box learn the box.
    5. A point that two boxes claim learns the one with the greater IoU.
    6. Points that learn an ignored box, and background points inside one, become IGNORE.

    Parameters
    ----------
    points: per level (P_l, 2), x and y in px.
    sides: per level the side of the anchor in px.
    targets: the boxes of each of N images.

    Returns
    -------
    (N, sum of P_l) int64, points in the order of the levels.
    """
    all_points = torch.cat(list(points))  # (P, 2)
    counts = [len(target.boxes) for target in targets]
    assigned = torch.full((len(targets), len(all_points)), BACKGROUND, device=all_points.device)
    if sum(counts):
        claimed = _claimed(points, sides, torch.cat([target.boxes for target in targets]), candidates).split(
            counts, dim=1
        )
        for image, target in enumerate(targets):
            if counts[image]:
                best_iou, best_box = claimed[image].max(dim=1)  # (P,)
                learnt = torch.where(best_iou >= 0, best_box, BACKGROUND)
                assigned[image] = leave_out_ignored(learnt, all_points, target.boxes, target.ignore)
    return assigned


def _claimed(points: Sequence[Tensor], sides: Sequence[float], boxes: Tensor, candidates: int) -> Tensor:
    """The IoU (P, M) of each point's anchor with the boxes (M, 4), of all images at once, that claim it, and -1 with
    the others."""
    all_points = torch.cat(list(points))
    anchors = torch.cat([torch.cat([level - side / 2, level + side / 2], dim=1) for level, side in zip(points, sides)])
    iou = box_iou(anchors, boxes)  # (P, M)

    # (P, M)
    distance = torch.cdist(all_points, (boxes[:, :2] + boxes[:, 2:]) / 2, compute_mode="donot_use_mm_for_euclid_dist")
    nearest, start = [], 0
    for level in distance.split([len(level) for level in points]):
        nearest.append(level.topk(min(candidates, len(level)), dim=0, largest=False).indices + start)
        start += len(level)
    candidate = torch.cat(nearest)  # (K, M)
    candidate_iou = iou.gather(0, candidate)
    threshold = candidate_iou.mean(dim=0) + candidate_iou.std(dim=0)  # (M,)

    inside = xyxy_to_ltrb(all_points[:, None], boxes).amin(dim=-1) > _INSIDE_PX  # (P, M)
    claims = torch.zeros_like(inside).scatter_(0, candidate, candidate_iou >= threshold) & inside
    return torch.where(claims, iou, -1.0)
