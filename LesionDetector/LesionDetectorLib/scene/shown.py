"""All lesions of a reading on their CT: the CT itself, the markups of every lesion, the table, the folder, and the
views that show them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from LesionDetectorLib.ct.geometry import Geometry
from LesionDetectorLib.lesion import Lesion
from LesionDetectorLib.looks import SOFT_TISSUE_WINDOW
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.regrid import regrid
from LesionDetectorLib.scene.markups import add_labels, add_lesion
from LesionDetectorLib.scene.mrml import (
    LPS_TO_RAS,
    VOLUME,
    SceneError,
    all_nodes,
    ijk_to_ras,
    ras,
    remove_with_display,
    slicer_module,
    view_node,
)

if TYPE_CHECKING:
    from slicer import vtkMRMLNode, vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLTableNode

    from LesionDetectorLib.ct import Volume

Numbered = Iterable[tuple[int | None, Lesion]]
FOLDER = "Lesions"
COLUMNS = ("Number", "Body part", "Confidence", "Long axis (mm)", "Short axis (mm)", "Slice", "Status", "Id")
NRRD_TYPES = {"float32": "float", "float64": "double"}
"""The types of voxels that NRRD calls by another name than numpy."""


def add_volume(scene: vtkMRMLScene, volume: Volume) -> vtkMRMLScalarVolumeNode:
    """The CT as a volume node with its true geometry, be it oblique or left-handed, in a soft-tissue window."""
    slicer = slicer_module()
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"CT {volume.study} {volume.series}")
    slicer.util.updateVolumeFromArray(node, volume.hu)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(LPS_TO_RAS @ volume.geometry.index_to_lps))
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    set_window(node, *SOFT_TISSUE_WINDOW)
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    storage = scene.AddNewNodeByClass("vtkMRMLNRRDStorageNode")
    storage.SetDefaultWriteFileExtension("nrrd")
    storage.SetCompressionParameter("gzip_fastest")
    node.SetAndObserveStorageNodeID(storage.GetID())
    return node


def set_window(volume_node: vtkMRMLScalarVolumeNode, low: float, high: float) -> None:
    """Show the CT from black at `low` to white at `high` HU."""
    display = volume_node.GetDisplayNode()
    if display is not None:
        display.AutoWindowLevelOff()
        display.SetWindowLevel(high - low, (high + low) / 2)


def range_of(volume_node: vtkMRMLScalarVolumeNode) -> tuple[float, float]:
    """The lowest and the highest value of the CT."""
    return volume_node.GetImageData().GetScalarRange()


def show_lesions(
    scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode, lesions: list[Lesion], slice_number: Callable[[int], int]
) -> None:
    """Show `lesions` on `volume_node`, in place of any that are shown there; numbered from 1 in the order given.

    `slice_number` gives the number by which a reader calls slice k.
    """
    remove_lesions(scene, volume_node)
    scene.StartState(scene.BatchProcessState)
    try:
        for number, lesion in enumerate(lesions, 1):
            add_lesion(scene, volume_node, lesion, number)
        add_labels(scene, volume_node, list(enumerate(lesions, 1)))
        add_table(scene, volume_node, list(enumerate(lesions, 1)), slice_number)
    finally:
        scene.EndState(scene.BatchProcessState)
    _put_in_folder(scene, volume_node)


def remove_lesions(scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode) -> None:
    """Take every node out of the scene that shows a lesion of `volume_node`, and their folder."""
    for node in _nodes_of(scene, volume_node):
        remove_with_display(scene, node)
    hierarchy = slicer_module().vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if folder := _folder(hierarchy, volume_node):
        hierarchy.RemoveItem(folder, False)  # the data nodes are gone


def add_table(
    scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode, entries: Numbered, slice_number: Callable[[int], int]
) -> vtkMRMLTableNode:
    """A locked table of lesions, see `fill_table`."""
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", FOLDER)
    node.SetNodeReferenceID(VOLUME, volume_node.GetID())
    fill_table(node, entries, slice_number)
    node.SetLocked(True)
    return node


def fill_table(node: vtkMRMLTableNode, entries: Numbered, slice_number: Callable[[int], int]) -> None:
    """One row a lesion with the `COLUMNS`: confidence 0..1, diameters in mm, "nan" where a lesion has none; 0 for
    one without a number."""
    from vtkmodules.vtkCommonCore import vtkDoubleArray, vtkIntArray, vtkStringArray

    kinds = (
        vtkIntArray,
        vtkStringArray,
        vtkDoubleArray,
        vtkDoubleArray,
        vtkDoubleArray,
        vtkIntArray,
        vtkStringArray,
        vtkStringArray,
    )
    rows = [_row(lesion, number or 0, slice_number(lesion.key_slice)) for number, lesion in entries]
    node.RemoveAllColumns()
    for column, (title, kind) in enumerate(zip(COLUMNS, kinds)):
        array = kind()
        array.SetName(title)
        for row in rows:
            array.InsertNextValue(row[column])
        node.AddColumn(array)


def _row(lesion: Lesion, number: int, slice_number: int) -> tuple:
    long_mm, short_mm = (lesion.recist.long_mm, lesion.recist.short_mm) if lesion.recist else (math.nan, math.nan)
    confidence = math.nan if lesion.confidence is None else lesion.confidence
    return number, lesion.body_part.title, confidence, long_mm, short_mm, slice_number, lesion.status.value, lesion.id


def geometry_of(volume_node: vtkMRMLScalarVolumeNode) -> Geometry:
    """Size and position of the voxels of the CT, before its parent transform."""
    index_to_lps = LPS_TO_RAS @ ijk_to_ras(volume_node)
    spacing = np.array(volume_node.GetSpacing())
    columns, rows, slices = map(int, volume_node.GetImageData().GetDimensions())
    return Geometry.of((columns, rows, slices), spacing, index_to_lps[:3, 3], index_to_lps[:3, :3] / spacing)


def reading_on(volume_node: vtkMRMLScalarVolumeNode, reading: Reading) -> Reading:
    """`reading` with all its lesions in the voxel indices of `volume_node`, whose axes may be in another order than
    those of `ct.read`.

    Raises SceneError where the node is not the CT of the reading.
    """
    try:
        moved = regrid(reading, geometry_of(volume_node))
    except Refusal as error:
        name = volume_node.GetName()
        raise SceneError(
            f"The lesions were found on another CT than '{name}': choose the CT {reading.source}."
        ) from error
    return replace(moved, source=volume_node.GetName())


def write_volume(volume_node: vtkMRMLScalarVolumeNode, path: Path) -> None:
    """Write the voxels of the CT, uncompressed and in its own frame, to an image file (.nrrd).

    Raises SceneError where it has none, or several a voxel, and OSError. Python opens the file: ITK on Windows cannot
    in a folder whose name has letters outside the code page.
    """
    name = volume_node.GetName()
    if volume_node.GetImageData() is None:
        raise SceneError(f"'{name}' holds no voxels; load the CT again.")
    voxels = slicer_module().util.arrayFromVolume(volume_node)
    if voxels.ndim != 3:
        raise SceneError(
            f"'{name}' holds {voxels.shape[-1]} values a voxel (a colour or vector volume); choose a CT, which has one."
        )
    index_to_lps = LPS_TO_RAS @ ijk_to_ras(volume_node)
    header = (
        "NRRD0004",
        f"type: {NRRD_TYPES.get(voxels.dtype.name, voxels.dtype.name)}",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: " + " ".join(map(str, reversed(voxels.shape))),
        "space directions: " + " ".join(map(_nrrd_vector, index_to_lps[:3, :3].T)),
        "kinds: domain domain domain",
        f"endian: {sys.byteorder}",
        "encoding: raw",
        f"space origin: {_nrrd_vector(index_to_lps[:3, 3])}",
    )
    with path.open("wb") as file:
        file.write(("\n".join(header) + "\n\n").encode())
        file.write(np.ascontiguousarray(voxels))


def _nrrd_vector(values: np.ndarray) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"


def why_not_a_ct(volume_node: vtkMRMLScalarVolumeNode) -> str:
    """A sentence on what makes `volume_node` unlike a CT of the body, empty if nothing does."""
    image = volume_node.GetImageData()
    if image is None or image.GetDimensions()[2] < 2:
        return "This volume has fewer than two slices."
    values = slicer_module().util.arrayFromVolume(volume_node)[:: max(1, image.GetDimensions()[2] // 8), ::4, ::4]
    low, high = float(values.min()), float(values.max())
    if low > -200 or high < 100:
        return (
            f"Its values run from {low:.0f} to {high:.0f}, which is unlike a CT in Hounsfield units (air -1000, bone "
            "above 300)."
        )
    return ""


def show_in_slice_views(
    scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode, lesion: Lesion | None = None
) -> None:
    """Fill the three slice views of Slicer's standard layouts with the CT, the axial one with the key slice of
    `lesion`.

    An application's own views turn to it; in a scene that is saved, they open so.
    """
    columns, rows, slices = volume_node.GetImageData().GetDimensions()
    key_slice = (slices - 1) / 2 if lesion is None else lesion.key_slice
    centre = ras(volume_node, ((columns - 1) / 2, (rows - 1) / 2, key_slice))
    spacing = volume_node.GetSpacing()
    extent = max(columns * spacing[0], rows * spacing[1])
    for name, orientation in (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal")):
        view_node(scene, "vtkMRMLSliceCompositeNode", name).SetBackgroundVolumeID(volume_node.GetID())
        view = view_node(scene, "vtkMRMLSliceNode", name)
        view.SetOrientation(orientation)
        if name == "Red":
            view.GetSliceToRAS().DeepCopy(slicer_module().util.vtkMatrixFromArray(_slice_plane(volume_node)))
            view.UpdateMatrices()
        width, height, _ = view.GetDimensions()
        view.SetFieldOfView(extent, extent * height / width, spacing[2])
        view.JumpSliceByCentering(*centre)


def _slice_plane(volume_node: vtkMRMLScalarVolumeNode) -> np.ndarray:
    """The SliceToRAS rotation (4, 4) that shows slices nearest to axial along the volume's axes, the patient's left
    on the right."""
    axes = ijk_to_ras(volume_node)[:3, :3] / volume_node.GetSpacing()
    right, up = (max((*axes.T, *-axes.T), key=wanted.dot) for wanted in (np.array((-1, 0, 0)), np.array((0, 1, 0))))
    plane = np.eye(4)
    plane[:3, :3] = np.column_stack((right, up, np.cross(up, right)))
    return plane


def _nodes_of(scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode) -> list[vtkMRMLNode]:
    """Every node that shows lesions of the volume: markups and the table."""
    nodes = all_nodes(scene, "vtkMRMLMarkupsNode") + all_nodes(scene, "vtkMRMLTableNode")
    return [node for node in nodes if node.GetNodeReferenceID(VOLUME) == volume_node.GetID()]


def _folder(hierarchy: vtkMRMLNode, volume_node: vtkMRMLScalarVolumeNode) -> int:
    """The subject hierarchy folder beside the volume, 0 if there is none yet."""
    return hierarchy.GetItemChildWithName(_study(hierarchy, volume_node), f"{FOLDER} of {volume_node.GetName()}")


def _study(hierarchy: vtkMRMLNode, volume_node: vtkMRMLScalarVolumeNode) -> int:
    """The subject hierarchy item that holds the volume: its DICOM study, or the scene."""
    item = hierarchy.GetItemByDataNode(volume_node)
    return hierarchy.GetItemParent(item) if item else hierarchy.GetSceneItemID()


def _put_in_folder(scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode) -> None:
    """Gather the nodes of all lesions in one subject hierarchy folder.

    Slicer makes the items by itself, slicer-core does not.
    """
    hierarchy = slicer_module().vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    folder = hierarchy.CreateFolderItem(_study(hierarchy, volume_node), f"{FOLDER} of {volume_node.GetName()}")
    for node in _nodes_of(scene, volume_node):
        item = hierarchy.GetItemByDataNode(node)
        if item:
            hierarchy.SetItemParent(item, folder)
        else:
            hierarchy.CreateItem(folder, node)
