"""Reviews as they are kept in a scene: in a text node beside the CT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from LesionDetectorLib import review
from LesionDetectorLib.scene.mrml import ATTRIBUTE, VOLUME, all_nodes

if TYPE_CHECKING:
    from slicer import vtkMRMLNode, vtkMRMLScalarVolumeNode, vtkMRMLScene


REVIEW = ATTRIBUTE + "review"


def keep_review(
    volume_node: vtkMRMLScalarVolumeNode, state: review.Review, node: vtkMRMLNode | None = None
) -> vtkMRMLNode:
    """Write a review of the CT into its text node, or into a new one; `Session.kept` goes on with it."""
    if node is None:
        node = volume_node.GetScene().AddNewNodeByClass("vtkMRMLTextNode", f"Lesion review of {volume_node.GetName()}")
        node.SetNodeReferenceID(VOLUME, volume_node.GetID())
        node.SetAttribute(REVIEW, "1")
        node.SetForceCreateStorageNode(True)
    node.SetText(review.dumps(state))
    return node


def is_reviewed(volume_node: vtkMRMLScalarVolumeNode) -> bool:
    """Whether the scene keeps a review of the CT that a reader has begun, open or not."""
    return any('"done": []' not in node.GetText() for node in kept_reviews(volume_node.GetScene(), volume_node))


def kept_reviews(scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode | None = None) -> list[vtkMRMLNode]:
    """The text nodes of the reviews in a scene, of all CTs or of one."""
    nodes = [node for node in all_nodes(scene, "vtkMRMLTextNode") if node.GetAttribute(REVIEW)]
    return [node for node in nodes if volume_node is None or node.GetNodeReferenceID(VOLUME) == volume_node.GetID()]
