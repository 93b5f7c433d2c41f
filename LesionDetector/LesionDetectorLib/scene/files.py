"""Scenes outside of 3D Slicer, on the `slicer-core` wheel: made, written to and read from `.mrb` files, and drawn
without a display."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from LesionDetectorLib.review import Review
from LesionDetectorLib.scene.kept import keep_review
from LesionDetectorLib.scene.mrml import INSTALL, SceneError, slicer_module
from LesionDetectorLib.scene.shown import add_volume, show_in_slice_views, show_lesions

if TYPE_CHECKING:
    from slicer import vtkMRMLScene
    from trame_slicer.views import AbstractView

    from LesionDetectorLib.ct import Volume
    from LesionDetectorLib.reading import Reading

LARGEST = 8 * 2**30
"""Bytes that a scene may unpack to."""
MOST_FILES = 10_000
ENCRYPTED = 1
OPENGL_PACKAGES = "libegl1 libgl1-mesa-dri"


def write_scene(volume: Volume, reading: Reading, path: Path) -> None:
    """Write the CT and the reported lesions of its reading to the Slicer scene `path` (.mrb), all of it or nothing.

    The scene opens on the lesion of the highest confidence. It holds a review of the reading, which a Slicer with this
    module goes on with. Raises SceneError where slicer-core is missing or cannot write, OSError where `path` cannot be
    written.
    """
    scene = new_scene()
    volume_node = add_volume(scene, volume)
    show_lesions(scene, volume_node, reading.reported, reading.slice_number)
    show_in_slice_views(
        scene, volume_node, max(reading.reported, key=lambda lesion: lesion.confidence or 0, default=None)
    )
    keep_review(volume_node, Review(reading))
    save_scene(scene, path)


def new_scene() -> vtkMRMLScene:
    """An empty scene outside 3D Slicer that knows markups, tables and volumes.

    Raises SceneError where slicer-core is missing.
    """
    slicer = slicer_module()
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    markups = slicer.vtkSlicerMarkupsLogic()
    markups.SetMRMLApplicationLogic(application)
    markups.SetMRMLScene(scene)
    return scene


def save_scene(scene: vtkMRMLScene, path: Path) -> None:
    """Write `scene` to `path` (.mrb). Its volumes are compressed fast rather than small.

    Raises SceneError and OSError.
    """
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
    """The scene in the .mrb file `path`, read into `scene` or a new one.

    Raises SceneError for a file that is not a scene.
    """
    scene = scene or new_scene()
    try:
        with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(path) as file:
            _unpack(file, path, Path(temporary))
            description = next(Path(temporary).rglob("*.mrml"), None)
            if description is None:
                raise SceneError(f"{path}: this archive holds no scene; open a .mrb file.")
            scene.SetURL(str(description))
            if not scene.Import(None):
                raise SceneError(f"{path}: this scene cannot be read.")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise SceneError(f"{path}: this is not a scene file; open a .mrb file.") from error
    return scene


def _unpack(file: zipfile.ZipFile, path: Path, folder: Path) -> None:
    """Unpack a scene; SceneError where that would fill the disk, before anything is written.

    No entry yields more than it says.
    """
    entries = file.infolist()
    size = sum(entry.file_size for entry in entries)
    if size > LARGEST or len(entries) > MOST_FILES:
        raise SceneError(
            f"{path} unpacks to {len(entries)} files of {size >> 20} MB, and at most {MOST_FILES} of {LARGEST >> 20} "
            "MB are read: open it in 3D Slicer and save it without what is not needed."
        )
    if any(entry.flag_bits & ENCRYPTED for entry in entries):
        raise SceneError(f"{path} is encrypted: unpack it with its password first.")
    file.extractall(folder)


def render_scene(path: Path, picture: Path, size: int = 900) -> None:
    """Draw the axial view with which the scene `path` opens into the PNG `picture`, `size` pixels wide and high,
    without a display.

    Needs the trame-slicer wheel and OpenGL (on Linux: EGL). Raises SceneError with the package to install where one is
    missing.
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

    app = SlicerApp()
    app.view_manager.register_factory(DirectViewFactory(do_render_offscreen=True))
    axial = ViewLayoutDefinition(
        singleton_tag="Red", view_type=ViewType.SLICE_VIEW, properties=ViewProps(orientation="Axial")
    )
    view = app.view_manager.create_view(axial)
    load_scene(path, app.scene)
    view.interactor().UpdateSize(size, size)
    app.app_logic.GetSliceLogics().GetItemAsObject(0).ResizeSliceNode(size, size)
    write_picture(view, picture)


def write_picture(view: AbstractView, picture: Path) -> None:
    """Write what a view of trame-slicer shows now into the PNG `picture`."""
    from vtkmodules.vtkIOImage import vtkPNGWriter
    from vtkmodules.vtkRenderingCore import vtkWindowToImageFilter

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
    """Keep VTK from printing: it complains of each thing that a view lacks without its application, and when it is
    taken down."""
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
        raise SceneError(
            "Drawing a scene needs OpenGL, which this machine lacks; on Debian and Ubuntu: apt-get install "
            f"{OPENGL_PACKAGES}"
        )
