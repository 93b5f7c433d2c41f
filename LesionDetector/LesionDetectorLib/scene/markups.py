"""One lesion as markups, a box, two lines and a label, and back from where they are now.

Nodes of a lesion lie in the frame of their volume node, under the same parent transform, so boxes and axes are exact in
oblique and in left-handed volumes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from LesionDetectorLib.boxes import hull
from LesionDetectorLib.lesion import Axis, BodyPart, Lesion, Mark, Origin, Point, Recist, ReviewStatus
from LesionDetectorLib.looks import COLOURS, colour
from LesionDetectorLib.scene.captions import TEXT_SCALE, anchors
from LesionDetectorLib.scene.mrml import (
    ATTRIBUTE,
    LONG_AXIS,
    SHORT_AXIS,
    VOLUME,
    SceneError,
    all_nodes,
    ijk_to_ras,
    ijk_to_world,
    matrix_of,
    ras,
    slicer_module,
)

if TYPE_CHECKING:
    from slicer import (
        vtkMRMLMarkupsFiducialNode,
        vtkMRMLMarkupsLineNode,
        vtkMRMLMarkupsNode,
        vtkMRMLMarkupsROINode,
        vtkMRMLScalarVolumeNode,
        vtkMRMLScene,
    )

INVISIBLE = 0.01

Caption = tuple[str, Lesion, Point]
"""A text, the lesion that it belongs to, and where it begins: (i, j) in voxel indices, on all slices of the lesion."""


def add_lesion(
    scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode, lesion: Lesion, number: int
) -> vtkMRMLMarkupsROINode:
    """A locked box one slice thick on the key slice, named as the lesion's caption, and a line for each measured
    axis."""
    box = add_markup(scene, "vtkMRMLMarkupsROINode", lesion.caption(number), volume_node)
    style_box(box)
    set_box(box, volume_node, lesion, (lesion.key_slice, lesion.key_slice))
    for name, value in _attributes(lesion).items():
        box.SetAttribute(ATTRIBUTE + name, value)
    nodes = [box]
    if lesion.recist is not None:
        for role, axis in ((LONG_AXIS, Axis.LONG), (SHORT_AXIS, Axis.SHORT)):
            line = add_markup(scene, "vtkMRMLMarkupsLineNode", f"{number} {axis} axis", volume_node)
            style_line(line)
            set_line(line, volume_node, lesion.recist.ends(axis), lesion.key_slice)
            line.SetAttribute(ATTRIBUTE + "id", lesion.id)
            box.SetNodeReferenceID(role, line.GetID())
            nodes.append(line)
    for node in nodes:
        set_colour(node, colour(lesion))
    return box


def add_labels(
    scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode, entries: Iterable[tuple[int, Lesion]]
) -> vtkMRMLMarkupsFiducialNode:
    """One locked point list that captions every lesion, given with its number, on its key slice."""
    labels = add_markup(scene, "vtkMRMLMarkupsFiducialNode", "Lesion labels", volume_node)
    style_labels(labels, COLOURS["pending"])
    on_key_slices = [
        (lesion.caption(number), lesion.edited(slices=(lesion.key_slice, lesion.key_slice)))
        for number, lesion in entries
    ]
    set_labels(
        labels,
        volume_node,
        [(*entry, place) for entry, place in zip(on_key_slices, anchors(volume_node, on_key_slices))],
    )
    return labels


def add_markup(
    scene: vtkMRMLScene, class_name: str, name: str, volume_node: vtkMRMLScalarVolumeNode
) -> vtkMRMLMarkupsNode:
    """A locked markup in the frame of the volume, without the native label, which would cover the lesion."""
    node = scene.AddNewNodeByClass(class_name, name)
    node.SetNodeReferenceID(VOLUME, volume_node.GetID())
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.SetLocked(True)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetPropertiesLabelVisibility(False)
    return node


def set_colour(node: vtkMRMLMarkupsNode, colour: tuple[float, float, float]) -> None:
    """Draw a box or a line in one colour."""
    node.GetDisplayNode().SetColor(colour)
    node.GetDisplayNode().SetSelectedColor(colour)


def style_box(box: vtkMRMLMarkupsROINode) -> None:
    """A bare frame, without handles."""
    display = box.GetDisplayNode()
    display.SetFillVisibility(False)
    display.SetHandlesInteractive(False)
    display.SetGlyphScale(INVISIBLE)


def style_line(line: vtkMRMLMarkupsLineNode) -> None:
    """A line with small ends."""
    line.GetDisplayNode().SetGlyphScale(0.8)
    line.GetDisplayNode().SetPointLabelsVisibility(False)


def style_labels(labels: vtkMRMLMarkupsFiducialNode, text_colour: tuple[float, float, float]) -> None:
    """Text without a point, in slice views alone."""
    display = labels.GetDisplayNode()
    display.SetPointLabelsVisibility(True)
    display.SetGlyphScale(INVISIBLE)
    display.SetTextScale(TEXT_SCALE)
    display.SetVisibility3D(False)
    set_colour(labels, text_colour)


def set_box(
    box: vtkMRMLMarkupsROINode, volume_node: vtkMRMLScalarVolumeNode, lesion: Lesion, slices: tuple[int, int]
) -> None:
    """Size and place the box node: the lesion's box, from the first to the last of `slices`, along the volume's
    axes."""
    x0, y0, x1, y1 = lesion.box
    first, last = slices
    spacing = np.array(volume_node.GetSpacing())
    object_to_ras = np.eye(4)
    object_to_ras[:3, :3] = ijk_to_ras(volume_node)[:3, :3] / spacing
    object_to_ras[:3, 3] = ras(volume_node, ((x0 + x1) / 2, (y0 + y1) / 2, (first + last) / 2))
    box.SetSize(*(spacing * (x1 - x0, y1 - y0, last - first + 1)))
    box.SetAndObserveObjectToNodeMatrix(slicer_module().util.vtkMatrixFromArray(object_to_ras))


def set_line(
    line: vtkMRMLMarkupsLineNode, volume_node: vtkMRMLScalarVolumeNode, ends: tuple[Point, Point], k: int
) -> None:
    """Put the two ends of a line, (i, j) in voxel indices, on slice k."""
    for index, end in enumerate(ends):
        position = ras(volume_node, (*end, k))
        if line.GetNumberOfControlPoints() <= index:
            line.AddControlPoint(position)
        else:
            line.SetNthControlPointPosition(index, position)


def set_labels(
    labels: vtkMRMLMarkupsFiducialNode, volume_node: vtkMRMLScalarVolumeNode, captions: Iterable[Caption]
) -> None:
    """Write texts beside lesions, on every slice that these span, in place of those there are.

    The label of a box node itself would lie on its centre. The id of a lesion is the description of its points.
    """
    points = [(text, lesion, (*place, k, 1)) for text, lesion, place in captions for k in lesion_slices(lesion)]
    positions = np.array([ijk for *_, ijk in points]).reshape(-1, 4) @ ijk_to_ras(volume_node)[:3].T
    with slicer_module().util.NodeModify(labels):
        labels.RemoveAllControlPoints()
        for (text, lesion, _), position in zip(points, positions):
            index = labels.AddControlPoint(position, text)
            labels.SetNthControlPointDescription(index, lesion.id)


def lesion_slices(lesion: Lesion) -> range:
    """Every slice k that the lesion spans."""
    return range(lesion.slices[0], lesion.slices[1] + 1)


def _attributes(lesion: Lesion) -> dict[str, str]:
    return {
        "id": lesion.id,
        "bodyPart": lesion.body_part.title,
        "confidence": "" if lesion.confidence is None else repr(float(lesion.confidence)),
        "slices": f"{lesion.slices[0]} {lesion.slices[1]}",
        "status": lesion.status.value,
        "origin": lesion.origin.value,
        "marks": ", ".join(lesion.marks),
    }


def read_lesions(scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode | None = None) -> list[Lesion]:
    """The lesions that `scene` shows on `volume_node` (or on any volume), boxes and axes where they are now, in
    order of their numbers.

    The inverse of `show_lesions`; diameters are measured again from the ends of the lines. Raises SceneError for a
    lesion whose CT was taken out of the scene.
    """
    boxes = [node for node in all_nodes(scene, "vtkMRMLMarkupsROINode") if node.GetAttribute(ATTRIBUTE + "id")]
    if volume_node is not None:
        boxes = [box for box in boxes if box.GetNodeReferenceID(VOLUME) == volume_node.GetID()]
    return [read_lesion(box) for box in boxes]


def read_lesion(box: vtkMRMLMarkupsROINode) -> Lesion:
    """The lesion that the box node and its lines show."""
    volume_node = box.GetNodeReference(VOLUME)
    if volume_node is None:
        raise SceneError(f"The CT of lesion '{box.GetName()}' is not in the scene any more; load it again.")
    names = ("id", "bodyPart", "confidence", "slices", "status", "origin", "marks")
    attributes = {name: box.GetAttribute(ATTRIBUTE + name) for name in names}
    ijk = box_corners(box, volume_node)
    key_slice = round(float(ijk[:, 2].mean()))
    first, last = map(int, attributes["slices"].split())
    return Lesion(
        body_part=BodyPart.from_title(attributes["bodyPart"]),
        confidence=float(attributes["confidence"]) if attributes["confidence"] else None,
        key_slice=key_slice,
        slices=(min(first, key_slice), max(last, key_slice)),
        box=hull(ijk[:, :2]),
        recist=_read_recist(box, volume_node),
        status=ReviewStatus(attributes["status"]),
        origin=Origin(attributes["origin"]),
        marks=tuple(map(Mark, attributes["marks"].split(", "))) if attributes["marks"] else (),
        id=attributes["id"],
    )


def box_corners(box: vtkMRMLMarkupsROINode, volume_node: vtkMRMLScalarVolumeNode) -> np.ndarray:
    """Two opposite corners of a box half way through it, as voxel indices: (2, 3)."""
    object_to_ras = matrix_of(box.GetObjectToNodeMatrix())
    half = np.array(box.GetSize()) / 2
    corners = np.array([object_to_ras @ (*(half * sign), 1) for sign in ((-1, -1, 0), (1, 1, 0))])
    return (corners @ np.linalg.inv(ijk_to_ras(volume_node)).T)[:, :3]


def ras_to_ijk(points: np.ndarray, volume_node: vtkMRMLScalarVolumeNode) -> np.ndarray:
    """World RAS mm (n, 3) as voxel indices (n, 3)."""
    return (np.c_[points, np.ones(len(points))] @ np.linalg.inv(ijk_to_world(volume_node)).T)[:, :3]


def _read_recist(box: vtkMRMLMarkupsROINode, volume_node: vtkMRMLScalarVolumeNode) -> Recist | None:
    lines = [box.GetNodeReference(role) for role in (LONG_AXIS, SHORT_AXIS)]
    if None in lines or any(line.GetNumberOfControlPoints() != 2 for line in lines):
        return None
    (long_axis, long_mm), (short_axis, short_mm) = (read_axis(line, volume_node) for line in lines)
    return Recist(long_axis, short_axis, long_mm, short_mm)


def read_axis(line: vtkMRMLMarkupsNode, volume_node: vtkMRMLScalarVolumeNode) -> tuple[tuple[Point, Point], float]:
    """The ends (i, j) of a line, and its length in mm."""
    ras = np.array([line.GetNthControlPointPosition(index) for index in (0, 1)])
    ijk = np.c_[ras, [1, 1]] @ np.linalg.inv(ijk_to_ras(volume_node)).T
    start, end = ((float(i), float(j)) for i, j in ijk[:, :2])
    return (start, end), float(np.linalg.norm(ras[1] - ras[0]))
