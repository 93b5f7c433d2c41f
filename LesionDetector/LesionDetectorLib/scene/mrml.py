"""What every part of the scene needs of MRML: its nodes, its matrices, and the names by which lesions are kept in
it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from LesionDetectorLib.refusal import Refusal

if TYPE_CHECKING:
    from slicer import vtkMRMLNode, vtkMRMLScalarVolumeNode, vtkMRMLScene
    from vtkmodules.vtkCommonMath import vtkMatrix4x4

INSTALL = "pip install 'lesion-detector[scene]'"

# Names of node attributes and node references, which an .mrb keeps.
ATTRIBUTE = "LesionDetector."
VOLUME, LONG_AXIS, SHORT_AXIS = "LesionDetector.volume", "LesionDetector.longAxis", "LesionDetector.shortAxis"

LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))


class SceneError(Refusal, RuntimeError):
    """A scene cannot be made, read or rendered here; the message says why and what to install or do."""


def slicer_module():
    """The package slicer: the application's own, or the slicer-core wheel.

    SceneError says what to install where there is none.
    """
    try:
        import slicer
    except ImportError as error:
        raise SceneError(f"A Slicer scene needs the package slicer-core ({error}): {INSTALL}") from error
    return slicer


def all_nodes(scene: vtkMRMLScene, class_name: str) -> list[vtkMRMLNode]:
    """Every node of a class in the scene, in its order."""
    return [scene.GetNthNodeByClass(index, class_name) for index in range(scene.GetNumberOfNodesByClass(class_name))]


def view_node(scene: vtkMRMLScene, class_name: str, name: str) -> vtkMRMLNode:
    """The node of the view `name`, made where there is none.

    Slicer takes it for that of its own view when it loads the scene.
    """
    node = scene.GetSingletonNode(name, class_name)
    if node is None:
        node = scene.CreateNodeByClass(class_name)
        node.UnRegister(None)
        node.SetSingletonTag(name)
        node.SetLayoutName(name)
        node.SetName(name)
        scene.AddNode(node)
    return node


def slice_views(scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode) -> list[vtkMRMLNode]:
    """The slice nodes of the views that show the CT."""
    composites = [
        node
        for node in all_nodes(scene, "vtkMRMLSliceCompositeNode")
        if node.GetBackgroundVolumeID() == volume_node.GetID()
    ]
    views = [scene.GetSingletonNode(composite.GetLayoutName(), "vtkMRMLSliceNode") for composite in composites]
    return [view for view in views if view is not None]


def is_in_view(view: vtkMRMLNode, point: np.ndarray) -> bool:
    """Whether a slice view that goes to the slice of a point, RAS mm in the world, shows it, and not at its very
    border."""
    position = np.linalg.inv(matrix_of(view.GetXYToRAS())) @ (*point, 1)
    size = np.array(view.GetDimensions()[:2])
    return bool(np.all((position[:2] > 0.05 * size) & (position[:2] < 0.95 * size)))


def matrix_of(vtk_matrix: vtkMatrix4x4) -> np.ndarray:
    """A VTK matrix as (4, 4)."""
    return slicer_module().util.arrayFromVTKMatrix(vtk_matrix)


def ijk_to_ras(volume_node: vtkMRMLScalarVolumeNode) -> np.ndarray:
    """Voxel indices of the CT to RAS mm of its own frame, that is before its parent transform: (4, 4)."""
    matrix = slicer_module().util.vtkMatrixFromArray(np.eye(4))
    volume_node.GetIJKToRASMatrix(matrix)
    return matrix_of(matrix)


def ijk_to_world(volume_node: vtkMRMLScalarVolumeNode) -> np.ndarray:
    """Voxel indices of the CT to RAS mm of the world, as the views show it.

    Of a transform that is not linear, none: (4, 4).
    """
    to_world = slicer_module().util.vtkMatrixFromArray(np.eye(4))
    transform = volume_node.GetParentTransformNode()
    if transform is not None and transform.IsTransformToWorldLinear():
        transform.GetMatrixTransformToWorld(to_world)
    return matrix_of(to_world) @ ijk_to_ras(volume_node)


def ras(volume_node: vtkMRMLScalarVolumeNode, ijk: tuple[float, float, float]) -> np.ndarray:
    """A point (i, j, k) in RAS mm of the CT's own frame."""
    return (ijk_to_ras(volume_node) @ (*ijk, 1))[:3]


def remove_with_display(scene: vtkMRMLScene, node: vtkMRMLNode) -> None:
    """Take a node and its display node out of the scene."""
    if node.IsA("vtkMRMLDisplayableNode"):
        scene.RemoveNode(node.GetDisplayNode())
    scene.RemoveNode(node)
