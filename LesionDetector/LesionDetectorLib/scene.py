"""Lesions as a 3D Slicer scene: MRML nodes from lesions, lesions back from MRML nodes, and the `.mrb` file that holds them.

The functions run inside 3D Slicer, and outside of it on the `slicer-core` wheel, which writes scenes without a display or OpenGL.
This is the only room that speaks RAS: everything else has LPS mm or voxel indices (i, j, k). Nodes of a lesion lie in the frame of
their volume node, under the same parent transform, so boxes and axes are exact in oblique and in left-handed volumes.
"""

from __future__ import annotations

import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from LesionDetectorLib.lesion import BodyPart, Lesion, Origin, Point, Recist, ReviewStatus

if TYPE_CHECKING:
    from slicer import vtkMRMLMarkupsNode, vtkMRMLMarkupsROINode, vtkMRMLNode, vtkMRMLScalarVolumeNode, vtkMRMLScene, vtkMRMLTableNode

    from LesionDetectorLib.ct import Volume
    from LesionDetectorLib.report.reading import Reading

STATUS_COLOURS = {
    ReviewStatus.PENDING: (1.0, 0.78, 0.16),
    ReviewStatus.ACCEPTED: (0.35, 0.9, 0.4),
    ReviewStatus.REJECTED: (0.62, 0.62, 0.62),
}
FOLDER = "Lesions"
COLUMNS = ("Number", "Body part", "Confidence", "Long axis (mm)", "Short axis (mm)", "Slice", "Status", "Id")
SOFT_TISSUE = {"window": 400, "level": 40}
INVISIBLE = 0.01
INSTALL = "pip install 'lesion-detector[scene]'"
OPENGL_PACKAGES = "libegl1 libgl1-mesa-dri"

# Names of node attributes and node references, which an .mrb keeps.
ATTRIBUTE = "LesionDetector."
VOLUME, LONG_AXIS, SHORT_AXIS = "LesionDetector.volume", "LesionDetector.longAxis", "LesionDetector.shortAxis"

LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))


class SceneError(RuntimeError):
    """A scene cannot be made, read or rendered here; the message says why and what to install or do."""


def write_scene(volume: Volume, lesions: list[Lesion], path: Path) -> None:
    """Write the CT and its lesions, numbered from 1 in the order given, to the Slicer scene `path` (.mrb), all of it or nothing.

    The scene opens on the lesion of the highest confidence.
    Raises SceneError where slicer-core is missing or cannot write, OSError where `path` cannot be written.
    """
    scene = new_scene()
    volume_node = add_volume(scene, volume)
    show_lesions(scene, volume_node, lesions, volume.slice_number)
    show_in_slice_views(scene, volume_node, max(lesions, key=lambda lesion: lesion.confidence or 0, default=None))
    save_scene(scene, path)


def new_scene() -> vtkMRMLScene:
    """An empty scene outside 3D Slicer that knows markups, tables and volumes. Raises SceneError where slicer-core is missing."""
    slicer = _slicer()
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    markups = slicer.vtkSlicerMarkupsLogic()
    markups.SetMRMLApplicationLogic(application)
    markups.SetMRMLScene(scene)
    return scene


def save_scene(scene: vtkMRMLScene, path: Path) -> None:
    """Write `scene` to `path` (.mrb). Its volumes are compressed fast rather than small. Raises SceneError and OSError."""
    path = path.resolve()  # slicer refuses a relative one
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".scene-") as temporary:
        bundle = Path(temporary) / "scene"
        bundle.mkdir()
        if not scene.SaveSceneToSlicerDataBundleDirectory(str(bundle)):
            raise SceneError(f"{path}: the scene could not be written; is the disk full?")
        archive = Path(temporary) / path.name
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
            for part in sorted(bundle.rglob("*")):
                file.write(part, part.relative_to(temporary))
        archive.replace(path)


def load_scene(path: Path, scene: vtkMRMLScene | None = None) -> vtkMRMLScene:
    """The scene in the .mrb file `path`, read into `scene` or a new one. Raises SceneError for a file that is no scene."""
    scene = scene or new_scene()
    try:
        with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(path) as file:
            file.extractall(temporary)
            description = next(Path(temporary).rglob("*.mrml"), None)
            if description is None:
                raise SceneError(f"{path}: this archive holds no scene; open a .mrb file.")
            scene.SetURL(str(description))
            if not scene.Import(None):
                raise SceneError(f"{path}: this scene cannot be read.")
    except zipfile.BadZipFile as error:
        raise SceneError(f"{path}: this is no scene file; open a .mrb file.") from error
    return scene


def add_volume(scene: vtkMRMLScene, volume: Volume) -> vtkMRMLScalarVolumeNode:
    """The CT as a volume node with its true geometry, be it oblique or left-handed, in a soft-tissue window."""
    slicer = _slicer()
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"CT {volume.study} {volume.series}")
    slicer.util.updateVolumeFromArray(node, volume.hu)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(LPS_TO_RAS @ volume.index_to_lps))
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevel(SOFT_TISSUE["window"], SOFT_TISSUE["level"])
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    storage = scene.AddNewNodeByClass("vtkMRMLNRRDStorageNode")
    storage.SetDefaultWriteFileExtension("nrrd")
    storage.SetCompressionParameter("gzip_fastest")
    node.SetAndObserveStorageNodeID(storage.GetID())
    return node


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
        add_labels(scene, volume_node, lesions)
        add_table(scene, volume_node, lesions, slice_number)
    finally:
        scene.EndState(scene.BatchProcessState)
    _put_in_folder(scene, volume_node)


def remove_lesions(scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode) -> None:
    """Take every node out of the scene that shows a lesion of `volume_node`, and their folder."""
    for node in _nodes_of(scene, volume_node):
        if node.IsA("vtkMRMLDisplayableNode"):
            scene.RemoveNode(node.GetDisplayNode())
        scene.RemoveNode(node)
    hierarchy = _slicer().vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if folder := _folder(hierarchy, volume_node):
        hierarchy.RemoveItem(folder)


def add_lesion(scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode, lesion: Lesion, number: int) -> vtkMRMLMarkupsROINode:
    """A locked box one slice thick on the key slice, named as the lesion's caption, and a line for each measured axis."""
    box = _add_markup(scene, "vtkMRMLMarkupsROINode", lesion.caption(number), volume_node, lesion)
    set_box(box, volume_node, lesion)
    for name, value in _attributes(lesion).items():
        box.SetAttribute(ATTRIBUTE + name, value)
    box.GetDisplayNode().SetFillVisibility(False)
    box.GetDisplayNode().SetHandlesInteractive(False)
    box.GetDisplayNode().SetGlyphScale(INVISIBLE)
    if lesion.recist is not None:
        for role, title, ends in (
            (LONG_AXIS, "long axis", lesion.recist.long_axis),
            (SHORT_AXIS, "short axis", lesion.recist.short_axis),
        ):
            line = _add_markup(scene, "vtkMRMLMarkupsLineNode", f"{number} {title}", volume_node, lesion)
            for end in ends:
                line.AddControlPoint(_ras(volume_node, (*end, lesion.key_slice)))
            line.GetDisplayNode().SetGlyphScale(0.8)
            line.GetDisplayNode().SetPointLabelsVisibility(False)
            box.SetNodeReferenceID(role, line.GetID())
    return box


def set_box(box: vtkMRMLMarkupsROINode, volume_node: vtkMRMLScalarVolumeNode, lesion: Lesion) -> None:
    """Size and place the box node: the lesion's box on its key slice, as thick as the slices lie apart, along the volume's axes."""
    x0, y0, x1, y1 = lesion.box
    spacing = np.array(volume_node.GetSpacing())
    object_to_ras = np.eye(4)
    object_to_ras[:3, :3] = _ijk_to_ras(volume_node)[:3, :3] / spacing
    object_to_ras[:3, 3] = _ras(volume_node, ((x0 + x1) / 2, (y0 + y1) / 2, lesion.key_slice))
    box.SetSize(*(spacing * (x1 - x0, y1 - y0, 1)))
    box.SetAndObserveObjectToNodeMatrix(_slicer().util.vtkMatrixFromArray(object_to_ras))


def add_labels(scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode, lesions: list[Lesion]) -> vtkMRMLMarkupsNode:
    """One locked point list that captions every lesion from the left anterior corner of its box, where the text covers nothing of it.

    The label of a box node itself would lie on the centre of the lesion. Rejected lesions are captioned in grey.
    """
    labels = _add_markup(scene, "vtkMRMLMarkupsFiducialNode", "Lesion labels", volume_node)
    for number, lesion in enumerate(lesions, 1):
        x0, y0, x1, y1 = lesion.box
        corners = [_ras(volume_node, (x, y, lesion.key_slice)) for x in (x0, x1) for y in (y0, y1)]
        index = labels.AddControlPoint(max(corners, key=lambda ras: -ras[0] + ras[1] + ras[2]), lesion.caption(number))
        labels.SetNthControlPointDescription(index, lesion.id)
        labels.SetNthControlPointSelected(index, lesion.status is not ReviewStatus.REJECTED)
    display = labels.GetDisplayNode()
    display.SetPointLabelsVisibility(True)
    display.SetColor(STATUS_COLOURS[ReviewStatus.REJECTED])
    display.SetSelectedColor(STATUS_COLOURS[ReviewStatus.PENDING])
    display.SetGlyphScale(INVISIBLE)
    display.SetTextScale(3)
    display.SetVisibility3D(False)
    return labels


def add_table(
    scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode, lesions: list[Lesion], slice_number: Callable[[int], int]
) -> vtkMRMLTableNode:
    """One row a lesion with the `COLUMNS`: confidence 0..1, diameters in mm; "nan" where a lesion has none."""
    from vtkmodules.vtkCommonCore import vtkDoubleArray, vtkIntArray, vtkStringArray

    node = scene.AddNewNodeByClass("vtkMRMLTableNode", FOLDER)
    node.SetNodeReferenceID(VOLUME, volume_node.GetID())
    kinds = (vtkIntArray, vtkStringArray, vtkDoubleArray, vtkDoubleArray, vtkDoubleArray, vtkIntArray, vtkStringArray, vtkStringArray)
    rows = [_row(lesion, number, slice_number(lesion.key_slice)) for number, lesion in enumerate(lesions, 1)]
    for column, (title, kind) in enumerate(zip(COLUMNS, kinds)):
        array = kind()
        array.SetName(title)
        for row in rows:
            array.InsertNextValue(row[column])
        node.AddColumn(array)
    node.SetLocked(True)
    return node


def read_lesions(scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode | None = None) -> list[Lesion]:
    """The lesions that `scene` shows on `volume_node` (or on any volume), boxes and axes where they are now, in order of their numbers.

    The inverse of `show_lesions`; diameters are measured anew from the ends of the lines. Raises SceneError for a lesion whose CT
    was taken out of the scene.
    """
    boxes = [node for node in _all_nodes(scene, "vtkMRMLMarkupsROINode") if node.GetAttribute(ATTRIBUTE + "id")]
    if volume_node is not None:
        boxes = [box for box in boxes if box.GetNodeReferenceID(VOLUME) == volume_node.GetID()]
    return [read_lesion(box) for box in boxes]


def read_lesion(box: vtkMRMLMarkupsROINode) -> Lesion:
    """The lesion that the box node and its lines show."""
    volume_node = box.GetNodeReference(VOLUME)
    if volume_node is None:
        raise SceneError(f"The CT of lesion '{box.GetName()}' is not in the scene any more; load it again.")
    attributes = {name: box.GetAttribute(ATTRIBUTE + name) for name in ("id", "bodyPart", "confidence", "slices", "status", "origin")}
    slicer = _slicer()
    object_to_ras = slicer.util.arrayFromVTKMatrix(box.GetObjectToNodeMatrix())
    half = np.array(box.GetSize()) / 2
    corners = np.array([object_to_ras @ (*(half * sign), 1) for sign in ((-1, -1, 0), (1, 1, 0))])
    ijk = corners @ np.linalg.inv(_ijk_to_ras(volume_node)).T
    key_slice = round(float(ijk[:, 2].mean()))
    first, last = map(int, attributes["slices"].split())
    return Lesion(
        body_part=BodyPart.from_title(attributes["bodyPart"]),
        confidence=float(attributes["confidence"]) if attributes["confidence"] else None,
        key_slice=key_slice,
        slices=(min(first, key_slice), max(last, key_slice)),
        box=(*map(float, ijk[:, :2].min(axis=0)), *map(float, ijk[:, :2].max(axis=0))),
        recist=_read_recist(box, volume_node),
        status=ReviewStatus(attributes["status"]),
        origin=Origin(attributes["origin"]),
        id=attributes["id"],
    )


def lesions_on(volume_node: vtkMRMLScalarVolumeNode, reading: Reading) -> tuple[list[Lesion], Callable[[int], int]]:
    """The reported lesions of `reading` in the voxel indices of `volume_node`, and the numbers of its slices as the reading counts them.

    Slicer may hold the voxels of a CT in another order than `ct.read`. Raises SceneError where the node is not the CT of the reading.
    """
    geometry = reading.geometry
    index_to_ras = np.eye(4)
    index_to_ras[:3, :3] = np.array(geometry.direction) * geometry.spacing
    index_to_ras[:3, 3] = geometry.origin
    to_node = np.linalg.inv(_ijk_to_ras(volume_node)) @ LPS_TO_RAS @ index_to_ras
    order = np.rint(to_node)
    last = np.array(geometry.size) - 1
    ends = order @ np.array([(0, 0, 0, 1), (*last, 1)]).T
    same_grid = (
        np.abs((to_node - order) @ (*last, 1)).max() < 0.1
        and np.array_equal(ends[:3].min(axis=1), (0, 0, 0))
        and np.array_equal(ends[:3].max(axis=1) + 1, volume_node.GetImageData().GetDimensions())
    )
    if not same_grid or abs(order[2, 2]) != 1:
        raise SceneError(f"The lesions were found on another CT than '{volume_node.GetName()}': choose the CT {reading.source}.")
    turn, start = int(order[2, 2]), int(order[2, 3])

    def slice_number(k: int) -> int:
        return reading.slice_number(turn * (k - start))

    return [_moved(lesion, order) for lesion in reading.reported], slice_number


def show_in_slice_views(scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode, lesion: Lesion | None = None) -> None:
    """Fill the three slice views of Slicer's standard layouts with the CT, the axial one with the key slice of `lesion`.

    An application's own views turn to it; in a scene that is saved, they open so.
    """
    columns, rows, slices = volume_node.GetImageData().GetDimensions()
    key_slice = (slices - 1) / 2 if lesion is None else lesion.key_slice
    centre = _ras(volume_node, ((columns - 1) / 2, (rows - 1) / 2, key_slice))
    spacing = volume_node.GetSpacing()
    extent = max(columns * spacing[0], rows * spacing[1])
    for name, orientation in (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal")):
        _view_node(scene, "vtkMRMLSliceCompositeNode", name).SetBackgroundVolumeID(volume_node.GetID())
        view = _view_node(scene, "vtkMRMLSliceNode", name)
        view.SetOrientation(orientation)
        if name == "Red":
            view.GetSliceToRAS().DeepCopy(_slicer().util.vtkMatrixFromArray(_slice_plane(volume_node)))
            view.UpdateMatrices()
        width, height, _ = view.GetDimensions()
        view.SetFieldOfView(extent, extent * height / width, spacing[2])
        view.JumpSliceByCentering(*centre)


def render_scene(path: Path, picture: Path, size: int = 900) -> None:
    """Draw the axial view with which the scene `path` opens into the PNG `picture`, `size` pixels wide and high, without a display.

    Needs the trame-slicer wheel and OpenGL (on Linux: EGL). Raises SceneError with the package to install where one is missing.
    """
    try:
        import trame_slicer.views  # noqa: F401
    except ImportError as error:
        raise SceneError(f"Drawing a scene needs the package trame-slicer ({error}): {INSTALL}") from error
    _require_opengl()
    with _silent_vtk():
        _draw_axial_view(path, picture, size)


def _draw_axial_view(path: Path, picture: Path, size: int) -> None:
    from trame_slicer.core import SlicerApp
    from trame_slicer.views import DirectViewFactory, ViewLayoutDefinition, ViewProps, ViewType
    from vtkmodules.vtkIOImage import vtkPNGWriter
    from vtkmodules.vtkRenderingCore import vtkWindowToImageFilter

    app = SlicerApp()
    app.view_manager.register_factory(DirectViewFactory(do_render_offscreen=True))
    axial = ViewLayoutDefinition(singleton_tag="Red", view_type=ViewType.SLICE_VIEW, properties=ViewProps(orientation="Axial"))
    view = app.view_manager.create_view(axial)
    load_scene(path, app.scene)
    view.interactor().UpdateSize(size, size)
    app.app_logic.GetSliceLogics().GetItemAsObject(0).ResizeSliceNode(size, size)
    view.render()
    grab = vtkWindowToImageFilter()
    grab.SetInput(view.render_window())
    grab.ReadFrontBufferOff()
    grab.ShouldRerenderOff()
    writer = vtkPNGWriter()
    writer.SetInputConnection(grab.GetOutputPort())
    writer.SetFileName(str(picture))
    writer.Write()


@contextmanager
def _silent_vtk() -> Iterator[None]:
    """Keep VTK from printing: it complains of each thing that a view lacks without its application, and when it is taken down."""
    from vtkmodules.vtkCommonCore import vtkLogger, vtkObject

    shown, verbosity = vtkObject.GetGlobalWarningDisplay(), vtkLogger.GetCurrentVerbosityCutoff()
    vtkObject.GlobalWarningDisplayOff()
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
    try:
        yield
    finally:
        vtkObject.SetGlobalWarningDisplay(shown)
        vtkLogger.SetStderrVerbosity(verbosity)


def _require_opengl() -> None:
    """Raise SceneError where VTK cannot open a window in memory."""
    # Without this VTK looks for an X server first.
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
    import vtkmodules.vtkRenderingOpenGL2  # noqa: F401  (brings the windows that vtkRenderWindow stands for)
    from vtkmodules.vtkRenderingCore import vtkRenderWindow

    with _silent_vtk():
        window = vtkRenderWindow()
        window.SetOffScreenRendering(True)
        drawable = window.SupportsOpenGL()
    if not drawable:
        raise SceneError(f"Drawing a scene needs OpenGL, which this machine lacks; on Debian and Ubuntu: apt-get install {OPENGL_PACKAGES}")


def _slicer():
    try:
        import slicer
    except ImportError as error:
        raise SceneError(f"A Slicer scene needs the package slicer-core ({error}): {INSTALL}") from error
    return slicer


def _view_node(scene: vtkMRMLScene, class_name: str, name: str) -> vtkMRMLNode:
    """The node of the view `name`, made where there is none; Slicer takes it for that of its own view when it loads the scene."""
    node = scene.GetSingletonNode(name, class_name)
    if node is None:
        node = scene.CreateNodeByClass(class_name)
        node.UnRegister(None)
        node.SetSingletonTag(name)
        node.SetLayoutName(name)
        node.SetName(name)
        scene.AddNode(node)
    return node


def _slice_plane(volume_node: vtkMRMLScalarVolumeNode) -> np.ndarray:
    """The SliceToRAS rotation (4, 4) that shows slices nearest to axial along the volume's axes, the patient's left on the right."""
    axes = _ijk_to_ras(volume_node)[:3, :3] / volume_node.GetSpacing()
    right, up = (max((*axes.T, *-axes.T), key=wanted.dot) for wanted in (np.array((-1, 0, 0)), np.array((0, 1, 0))))
    plane = np.eye(4)
    plane[:3, :3] = np.column_stack((right, up, np.cross(up, right)))
    return plane


def _add_markup(
    scene: vtkMRMLScene, class_name: str, name: str, volume_node: vtkMRMLScalarVolumeNode, lesion: Lesion | None = None
) -> vtkMRMLMarkupsNode:
    """A locked markup in the frame of the volume in the colour of the status, without the native label, which would cover the lesion."""
    node = scene.AddNewNodeByClass(class_name, name)
    node.SetNodeReferenceID(VOLUME, volume_node.GetID())
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.SetLocked(True)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetPropertiesLabelVisibility(False)
    if lesion is not None:
        node.SetAttribute(ATTRIBUTE + "id", lesion.id)
        display.SetColor(STATUS_COLOURS[lesion.status])
        display.SetSelectedColor(STATUS_COLOURS[lesion.status])
    return node


def _attributes(lesion: Lesion) -> dict[str, str]:
    return {
        "id": lesion.id,
        "bodyPart": lesion.body_part.title,
        "confidence": "" if lesion.confidence is None else repr(float(lesion.confidence)),
        "slices": f"{lesion.slices[0]} {lesion.slices[1]}",
        "status": lesion.status.value,
        "origin": lesion.origin.value,
    }


def _moved(lesion: Lesion, matrix: np.ndarray) -> Lesion:
    """The lesion in other voxel indices: `matrix` (4, 4) turns and shifts (i, j, k, 1), k into k."""

    def point(i: float, j: float) -> Point:
        x, y = matrix[:2] @ (i, j, lesion.key_slice, 1)
        return float(x), float(y)

    def slice_index(k: int) -> int:
        return round(matrix[2, 2] * k + matrix[2, 3])

    corners = np.array([point(*lesion.box[:2]), point(*lesion.box[2:])])
    recist = lesion.recist
    if recist is not None:
        long_axis, short_axis = (tuple(point(*end) for end in axis) for axis in (recist.long_axis, recist.short_axis))
        recist = Recist(long_axis, short_axis, recist.long_mm, recist.short_mm)
    return lesion.edited(
        key_slice=slice_index(lesion.key_slice),
        slices=tuple(sorted(map(slice_index, lesion.slices))),
        box=(*map(float, corners.min(axis=0)), *map(float, corners.max(axis=0))),
        recist=recist,
    )


def _row(lesion: Lesion, number: int, slice_number: int) -> tuple:
    long_mm, short_mm = (lesion.recist.long_mm, lesion.recist.short_mm) if lesion.recist else (math.nan, math.nan)
    confidence = math.nan if lesion.confidence is None else lesion.confidence
    return number, lesion.body_part.title, confidence, long_mm, short_mm, slice_number, lesion.status.value, lesion.id


def _read_recist(box: vtkMRMLMarkupsROINode, volume_node: vtkMRMLScalarVolumeNode) -> Recist | None:
    lines = [box.GetNodeReference(role) for role in (LONG_AXIS, SHORT_AXIS)]
    if None in lines or any(line.GetNumberOfControlPoints() != 2 for line in lines):
        return None
    (long_axis, long_mm), (short_axis, short_mm) = (_read_axis(line, volume_node) for line in lines)
    return Recist(long_axis, short_axis, long_mm, short_mm)


def _read_axis(line: vtkMRMLMarkupsNode, volume_node: vtkMRMLScalarVolumeNode) -> tuple[tuple[Point, Point], float]:
    """The ends (i, j) of a line, and its length in mm."""
    ras = np.array([line.GetNthControlPointPosition(index) for index in (0, 1)])
    ijk = np.c_[ras, [1, 1]] @ np.linalg.inv(_ijk_to_ras(volume_node)).T
    start, end = ((float(i), float(j)) for i, j in ijk[:, :2])
    return (start, end), float(np.linalg.norm(ras[1] - ras[0]))


def _ijk_to_ras(volume_node: vtkMRMLScalarVolumeNode) -> np.ndarray:
    slicer = _slicer()
    matrix = slicer.util.vtkMatrixFromArray(np.eye(4))
    volume_node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _ras(volume_node: vtkMRMLScalarVolumeNode, ijk: tuple[float, float, float]) -> np.ndarray:
    return (_ijk_to_ras(volume_node) @ (*ijk, 1))[:3]


def _all_nodes(scene: vtkMRMLScene, class_name: str) -> list[vtkMRMLNode]:
    return [scene.GetNthNodeByClass(index, class_name) for index in range(scene.GetNumberOfNodesByClass(class_name))]


def _nodes_of(scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode) -> list[vtkMRMLNode]:
    """Every node that shows lesions of the volume: markups and the table."""
    nodes = _all_nodes(scene, "vtkMRMLMarkupsNode") + _all_nodes(scene, "vtkMRMLTableNode")
    return [node for node in nodes if node.GetNodeReferenceID(VOLUME) == volume_node.GetID()]


def _folder(hierarchy: vtkMRMLNode, volume_node: vtkMRMLScalarVolumeNode) -> int:
    """The subject hierarchy folder beside the volume, 0 if there is none yet."""
    return hierarchy.GetItemChildWithName(_study(hierarchy, volume_node), f"{FOLDER} of {volume_node.GetName()}")


def _study(hierarchy: vtkMRMLNode, volume_node: vtkMRMLScalarVolumeNode) -> int:
    """The subject hierarchy item that holds the volume: its DICOM study, or the scene."""
    item = hierarchy.GetItemByDataNode(volume_node)
    return hierarchy.GetItemParent(item) if item else hierarchy.GetSceneItemID()


def _put_in_folder(scene: vtkMRMLScene, volume_node: vtkMRMLScalarVolumeNode) -> None:
    """Gather the nodes of all lesions in one subject hierarchy folder. Slicer makes the items by itself, slicer-core does not."""
    hierarchy = _slicer().vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    folder = hierarchy.CreateFolderItem(_study(hierarchy, volume_node), f"{FOLDER} of {volume_node.GetName()}")
    for node in _nodes_of(scene, volume_node):
        item = hierarchy.GetItemByDataNode(node)
        if item:
            hierarchy.SetItemParent(item, folder)
        else:
            hierarchy.CreateItem(folder, node)
