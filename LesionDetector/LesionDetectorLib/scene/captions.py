"""Where the captions of lesions go on the slices of a CT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from LesionDetectorLib.captions import place_caption
from LesionDetectorLib.lesion import Box, Lesion, Point
from LesionDetectorLib.scene.mrml import ijk_to_ras, ijk_to_world, matrix_of, slice_views

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSliceNode

TEXT_SCALE = 3.0
"""Size of the captions as a markup has it: a font of 15 px, in a view of any size."""
_LETTER_PX = 7.1
_LINE_PX = 17.0
"""Of such a font as drawn."""
_VIEW_PX = 600
"""A usual side of a view that just holds the CT."""
_GAP = 0.25
"""Between a box and its caption, in heights of the text."""
_REACH = 2.5
"""Farther away, in heights of the text, a caption would seem another box's."""


def anchors(volume_node: vtkMRMLScalarVolumeNode, entries: Sequence[tuple[str, Lesion]]) -> list[Point]:
    """Where the text of each lesion begins, its lower left corner on the screen: (i, j) in voxel indices, one for
    all its slices.

    The sizes of the texts are those in a view that just holds the CT, nearest to axial, the patient's left on the
    right; closer up, texts are smaller beside the lesions. Lesions are served in the order given; in each other's way
    are those that share a slice.
    """
    if not entries:
        return []
    scale, extent = _index_to_screen(volume_node)
    view = np.sort([np.zeros(2), extent * np.sign(scale).sum(axis=1)], axis=0).ravel()
    letter, line = np.array((_LETTER_PX, _LINE_PX)) / _VIEW_PX * extent.max()
    boxes = np.array([_on_screen(lesion.box, scale) for _, lesion in entries])
    first, last = np.array([lesion.slices for _, lesion in entries]).T
    texts = np.empty_like(boxes)
    for number, (text, lesion) in enumerate(entries):
        rivals = (first <= lesion.slices[1]) & (last >= lesion.slices[0])
        taken = np.concatenate([boxes[rivals], texts[:number][rivals[:number]]])
        texts[number] = place_caption((letter * len(text), line), boxes[number], taken, view, _GAP * line, _REACH)
    return [(float(i), float(j)) for i, j in texts[:, :2] @ np.linalg.inv(scale).T]


def anchor_in_view(
    volume_node: vtkMRMLScalarVolumeNode, entries: Sequence[tuple[str, Lesion]], lesion: Lesion
) -> Point | None:
    """Where the text of one of the lesions begins so that it stays inside the axial view that shows the CT now, as
    `anchors`.

    None where no such view shows the lesion.
    """
    view = next(
        (view for view in slice_views(volume_node.GetScene(), volume_node) if _is_axial(view, volume_node)), None
    )
    if view is None:
        return None
    scale, _ = _index_to_screen(volume_node)
    own, bounds = _on_screen(lesion.box, scale), _bounds(view, volume_node, scale)
    if not (np.all(own[:2] < bounds[2:]) and np.all(own[2:] > bounds[:2])):
        return None
    letter, line = np.array((_LETTER_PX, _LINE_PX)) * view.GetFieldOfView()[0] / view.GetDimensions()[0]
    rivals = [
        other for _, other in entries if other.slices[0] <= lesion.slices[1] and lesion.slices[0] <= other.slices[1]
    ]
    text = next(text for text, other in entries if other is lesion)
    taken = np.array([_on_screen(other.box, scale) for other in rivals])
    place = place_caption((letter * len(text), line), own, taken, bounds, _GAP * line, _REACH)
    i, j = place[:2] @ np.linalg.inv(scale).T
    return float(i), float(j)


def _is_axial(view: vtkMRMLSliceNode, volume_node: vtkMRMLScalarVolumeNode) -> bool:
    """Whether a slice view shows the slices of the CT, and not cuts across them."""
    across = ijk_to_world(volume_node)[:3, 2] / volume_node.GetSpacing()[2]
    return abs(across @ matrix_of(view.GetSliceToRAS())[:3, 2]) > 0.9


def _bounds(view: vtkMRMLSliceNode, volume_node: vtkMRMLScalarVolumeNode, scale: np.ndarray) -> np.ndarray:
    """What an axial view shows as left, bottom, right, top in mm on the screen: (4,)."""
    centre = np.linalg.inv(ijk_to_world(volume_node)) @ matrix_of(view.GetSliceToRAS())[:, 3]
    half = np.array(view.GetFieldOfView()[:2]) / 2
    return np.concatenate([scale @ centre[:2] - half, scale @ centre[:2] + half])


def _index_to_screen(volume_node: vtkMRMLScalarVolumeNode) -> tuple[np.ndarray, np.ndarray]:
    """The matrix (2, 2) from voxel indices (i, j) to mm to the right and up on the screen, and the CT's extent in mm
    in both."""
    left_anterior = ijk_to_ras(volume_node)[:2, :2] * [[-1], [1]]
    across, upright = (0, 1) if abs(left_anterior[0, 0]) >= abs(left_anterior[0, 1]) else (1, 0)
    spacing, size = np.array(volume_node.GetSpacing()[:2]), np.array(volume_node.GetImageData().GetDimensions()[:2])
    scale = np.zeros((2, 2))
    scale[0, across] = np.copysign(spacing[across], left_anterior[0, across])
    scale[1, upright] = np.copysign(spacing[upright], left_anterior[1, upright])
    return scale, np.abs(scale) @ size


def _on_screen(box: Box, scale: np.ndarray) -> np.ndarray:
    """A box as left, bottom, right, top in mm on the screen: (4,)."""
    return np.sort(np.reshape(box, (2, 2)) @ scale.T, axis=0).ravel()
