"""The frames and axes of many lesions in one node, so that hundreds of them cost a slice view no more than one.

They are walls that stand upright on the slices: a slice view cuts them, and draws the cut. So a lesion shows on the
slices that it spans and on no other, true in oblique views and under every transform, and nothing has to be done when a
view moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from LesionDetectorLib.lesion import Axis, Lesion
from LesionDetectorLib.scene.mrml import VOLUME, ijk_to_ras

if TYPE_CHECKING:
    from slicer import vtkMRMLModelNode, vtkMRMLScalarVolumeNode
    from vtkmodules.vtkCommonDataModel import vtkPolyData


def add_frames(
    volume_node: vtkMRMLScalarVolumeNode, name: str, colour: tuple[float, float, float], width_px: int
) -> vtkMRMLModelNode:
    """An empty node for frames, shown in slice views alone, in one colour."""
    node = volume_node.GetScene().AddNewNodeByClass("vtkMRMLModelNode", name)
    node.SetNodeReferenceID(VOLUME, volume_node.GetID())
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.SetSelectable(False)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetColor(colour)
    display.SetVisibility3D(False)
    display.SetVisibility2D(True)
    display.SetSliceIntersectionThickness(width_px)
    return node


def set_frames(node: vtkMRMLModelNode, volume_node: vtkMRMLScalarVolumeNode, lesions: Sequence[Lesion]) -> None:
    """Draw the boxes of these lesions on every slice that they span, and their axes on their key slices."""
    node.SetAndObservePolyData(_poly_data(walls(lesions) @ ijk_to_ras(volume_node)[:3].T))


def walls(lesions: Sequence[Lesion]) -> np.ndarray:
    """The four corners of every wall as homogeneous voxel indices (i, j, k, 1): (walls, 4, 4)."""
    lines = [line for lesion in lesions for line in _lines(lesion)]
    ends = np.array([ends for ends, _ in lines], float).reshape(-1, 2, 2)
    slices = np.array([slices for _, slices in lines], float).reshape(-1, 2) + np.array((-0.5, 0.5))
    corners = np.ones((len(lines), 4, 4))
    corners[:, :2, :2], corners[:, 2:, :2] = ends, ends[:, ::-1]
    corners[:, :2, 2], corners[:, 2:, 2] = slices[:, :1], slices[:, 1:]
    return corners


def _lines(lesion: Lesion) -> list[tuple[tuple, tuple[int, int]]]:
    """The sides of the box and the axes, each with the first and the last slice that it is drawn on."""
    x0, y0, x1, y1 = lesion.box
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    sides = [((corner, corners[number - 1]), lesion.slices) for number, corner in enumerate(corners)]
    if lesion.recist is None:
        return sides
    return sides + [(lesion.recist.ends(axis), (lesion.key_slice, lesion.key_slice)) for axis in Axis]


def _poly_data(corners: np.ndarray) -> vtkPolyData:
    from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData

    points, cells, poly_data = vtkPoints(), vtkCellArray(), vtkPolyData()
    points.SetData(numpy_to_vtk(corners.reshape(-1, 3), deep=True))
    cells.SetData(4, numpy_to_vtkIdTypeArray(np.arange(4 * len(corners)), deep=True))
    poly_data.SetPoints(points)
    poly_data.SetPolys(cells)
    return poly_data
