"""ATSS against a hand-made case, a slow and literal reference, and the mean numbers of positives that mmdet 3.3.0
gives."""

from __future__ import annotations

import statistics

import pytest
import torch
from LesionDetectorLib.models.atss import assign
from LesionDetectorLib.models.boxes import grid_points
from LesionDetectorLib.models.detections import BACKGROUND, IGNORE

from Testing.helpers.targets import target

FINE, STOCK = (4, 8, 16, 32, 64), (8, 16, 32, 64, 128)


def pyramid(size: int, strides: tuple[int, ...]) -> list[torch.Tensor]:
    return [grid_points(-(-size // stride), -(-size // stride), stride) for stride in strides]


def assign_one_scale(boxes: list[list[float]], ignore: list[bool] | None = None) -> torch.Tensor:
    """5 x 5 points, 8 px apart, with anchors of 16 px."""
    return assign([grid_points(5, 5, 8)], [16], [target(boxes, ignore=ignore)]).view(5, 5)


def literal_assignment(
    points: list[torch.Tensor], sides: list[float], boxes: list[list[float]], k: int = 9
) -> list[int]:
    """The paper's algorithm 1 in plain Python."""
    anchors = [(x, y, side) for level, side in zip(points, sides) for x, y in level.tolist()]

    def iou(anchor: tuple, box: list[float]) -> float:
        x, y, side = anchor
        width = max(0, min(x + side / 2, box[2]) - max(x - side / 2, box[0]))
        height = max(0, min(y + side / 2, box[3]) - max(y - side / 2, box[1]))
        return width * height / (side**2 + (box[2] - box[0]) * (box[3] - box[1]) - width * height)

    owner, owned = [BACKGROUND] * len(anchors), [-1.0] * len(anchors)
    for number, box in enumerate(boxes):
        centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        candidates, start = [], 0
        for level in points:
            level_numbers = range(start, start + len(level))
            candidates += sorted(
                level_numbers, key=lambda i: (anchors[i][0] - centre[0]) ** 2 + (anchors[i][1] - centre[1]) ** 2
            )[:k]
            start += len(level)
        overlaps = [iou(anchors[i], box) for i in candidates]
        threshold = statistics.mean(overlaps) + statistics.stdev(overlaps)
        for i, overlap in zip(candidates, overlaps):
            x, y, _ = anchors[i]
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if overlap >= threshold and inside and overlap > owned[i]:
                owner[i], owned[i] = number, overlap
    return owner


def test_by_hand() -> None:
    # The nine candidates lie around (16, 16), the box is 24 px wide and the anchors 16 px, all of which lie in it but
    # for 4 px of
    # each moved side: IoU 256 / 576 at the centre, 192 / 640 at four, 144 / 688 at four. Mean 0.2757, deviation 0.0778,
    # threshold 0.3536: the centre alone.
    assigned = assign_one_scale([[4.0, 4, 28, 28]])
    assert assigned[2, 2] == 0
    assert (assigned >= 0).sum() == 1


def test_a_point_claimed_twice_learns_the_better_overlap() -> None:
    assigned = assign_one_scale([[6.0, 6, 28, 28], [8.0, 8, 24, 24]])
    assert assigned[2, 2] == 1


@pytest.mark.parametrize("seed", range(3))
def test_like_the_literal_algorithm_for_every_image_of_a_batch(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points, sides = pyramid(128, FINE), [8 * stride for stride in FINE]
    images = []
    for count in (4, 0, 1):
        corner = torch.rand(count, 2, generator=generator) * 90
        images.append(torch.cat([corner, corner + 6 + torch.rand(count, 2, generator=generator) * 40], dim=1).tolist())
    assigned = assign(points, sides, [target(boxes) for boxes in images])
    assert assigned.tolist() == [literal_assignment(points, sides, boxes) for boxes in images]


@pytest.mark.parametrize(
    ("strides", "side", "expected"),
    [
        (FINE, 8, 4.0),
        (FINE, 12, 8.2),
        (FINE, 16, 9.0),
        (FINE, 32, 9.0),
        (STOCK, 8, 1.0),
        (STOCK, 12, 2.2),
        (STOCK, 16, 4.0),
    ],
)
def test_as_many_positives_as_mmdet(strides: tuple[int, ...], side: int, expected: float) -> None:
    generator = torch.Generator().manual_seed(7)
    points, sides = pyramid(256, strides), [8 * stride for stride in strides]
    counts = []
    for x, y in 100 + 50 * torch.rand(100, 2, generator=generator):
        counts.append((assign(points, sides, [target([[x, y, x + side, y + side]])]) >= 0).sum().item())
    assert statistics.mean(counts) == pytest.approx(expected, rel=0.1)
    if strides == FINE:
        assert statistics.mean(count >= 4 for count in counts) > 0.95


def test_no_box_is_all_background() -> None:
    assert (assign_one_scale([]) == BACKGROUND).all()


def test_points_inside_an_ignored_box_are_ignored() -> None:
    assigned = assign_one_scale([[4.0, 4, 28, 28]], [True])
    assert (assigned[1:4, 1:4] == IGNORE).all()
    assert (assigned == IGNORE).sum() == 9
    assert (assigned[0] == BACKGROUND).all()


def test_a_lesion_inside_an_ignored_region_is_still_learnt() -> None:
    assigned = assign_one_scale([[-50.0, -50, 90, 90], [10.0, 10, 22, 22]], [True, False])
    assert assigned[2, 2] == 1
    assert (assigned == IGNORE).sum() == 24
