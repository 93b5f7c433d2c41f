"""As much of the 3D Slicer application as the module needs, on PySide6 and slicer-core, for tests: what Slicer
refuses is refused.

It is not Slicer. The widgets of qMRML and CTK are stand-ins that have the names, properties, methods and signals of
`slicer_table` and no other, and nothing here says how the panel looks in Slicer's own Qt. It proves wiring and state.
The Python that a module imports is the stand-ins' in slicer_python, or Slicer's own where a checkout of Slicer is
given.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import types
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

import importlib.util
from types import ModuleType

import slicer
from PySide6 import QtCore, QtWidgets
from trame_slicer.core import SlicerApp
from trame_slicer.views import DirectViewFactory, NoScheduleRendering, ViewLayoutDefinition, ViewProps, ViewType

from Testing.helpers import slicer_qt, slicer_table

MODULE = Path(__file__).parents[2] / "LesionDetector"
PANEL = MODULE / "LesionDetectorLib" / "panel"
STANDINS = Path(__file__).parent / "slicer_python"
OWN_PYTHON = ("util", "packaging", "i18n", "parameterNodeWrapper", "ScriptedLoadableModule")
NAMESPACES = {"Q": "qt", "ctk": "ctk", "qMRML": "slicer", "qSlicer": "slicer"}


class ModuleParent:
    """What Slicer hands to a `ScriptedLoadableModule`; it takes no other attributes."""

    __slots__ = slicer_table.MODULE_PARENT

    def __init__(self, path: Path) -> None:
        self.path = str(path)


def qt_modules() -> dict[str, types.ModuleType]:
    """The modules `qt` and `ctk`, and, in `slicer`, the widgets that are Slicer's own."""
    modules = {"qt": types.ModuleType("qt"), "ctk": types.ModuleType("ctk"), "slicer": slicer}
    for name, kind in slicer_qt.WRAPPERS.items():
        setattr(modules[next(module for start, module in NAMESPACES.items() if name.startswith(start))], name, kind)
    modules["qt"].Qt = slicer_qt.Qt
    return {name: module for name, module in modules.items() if module is not slicer}


class Application:
    """A running application, with the stand-ins' Python or with that of a checkout of Slicer.

    `scene`; its `home`, where it is installed; the `errors` that it showed to the user; `agrees`: what the user answers
    when asked; `chosen_path` and `chosen_filter`: what he chooses in a file dialog, "" to leave it; `raised`: the
    exceptions that slots raised, which Qt prints without more ado.
    """

    def __init__(self, slicer_source: Path | None = None) -> None:
        self.qt = QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
        self.errors: list[str] = []
        self.raised = slicer_qt.raised
        self.raised.clear()
        self.agrees = True
        self.home = Path("/nowhere")
        self.chosen_path = self.chosen_filter = ""
        self.slicer = SlicerApp()
        self.scene = self.slicer.scene
        self._settings = tempfile.TemporaryDirectory()
        self._window, self._manager = slicer_qt.qSlicerMainWindow(), slicer_qt.qSlicerModuleManager()
        for kind in (self._message_box(), self._file_dialog(), self._settings_class(), self._application()):
            slicer_qt.put_in_place(kind)
        self._install(slicer_source)

    def end(self) -> None:
        """Leave the wheel's own `slicer` behind."""
        self._python(None)

    def _install(self, slicer_source: Path | None) -> None:
        sys.modules.update(qt_modules())
        self._python(slicer_source)
        slicer.mrmlScene = self.scene
        slicer.app = slicer.qSlicerApplication()
        slicer.modules = types.ModuleType("slicer.modules")
        slicer.modules.lesiondetector = types.SimpleNamespace(path=str(MODULE / "LesionDetector.py"))
        slicer.util.messageBox = self._known_keywords(slicer.util.messageBox, "ctkMessageBox")
        slicer.util.createProgressDialog = self._known_keywords(slicer.util.createProgressDialog, "QProgressDialog")

    def _python(self, slicer_source: Path | None) -> None:
        """Where `import slicer.packaging`, `import SampleData` and their like find what they import.

        Only `slicer.util` is imported yet.
        """
        ours = STANDINS, STANDINS / "modules"
        if slicer_source is not None:
            ours = slicer_source / "Base/Python/slicer", slicer_source / "Modules/Scripted/SampleData"
        for paths, path in zip((slicer.__path__, sys.path), map(str, ours)):
            paths[:] = [path, *(other for other in paths if other not in _added)]
            _added.add(path)
        for name in list(sys.modules):
            if name.startswith(tuple(f"slicer.{own}" for own in OWN_PYTHON)) or name == "SampleData":
                del sys.modules[name]
        for name in OWN_PYTHON:
            if hasattr(slicer, name):
                delattr(slicer, name)
        for name in slicer_table.SUBMODULES_THAT_SLICER_IMPORTS:
            setattr(slicer, name, importlib.import_module(f"slicer.{name}"))

    def start(self) -> None:
        """Tell all who listen that the application has started."""
        slicer.app.startupCompleted.emit()

    def new_panel(self, module: types.ModuleType):
        """The module's panel as Slicer makes it: in a parent with a layout, and then set up."""
        parent = slicer.qMRMLWidget()
        parent.setLayout(sys.modules["qt"].QVBoxLayout())
        parent.setMRMLScene(self.scene)
        panel = module.LesionDetectorWidget(parent)
        panel.setup()
        slicer.util.getModuleWidget = lambda module: panel
        return panel

    def unshown(self) -> list[BaseException]:
        """What slots raised and no message told the user."""
        return [error for error in self.raised if not any(str(error) in shown for shown in self.errors)]

    @staticmethod
    def _known_keywords(function, class_name):
        """The function; Slicer passes unknown keywords over in silence, here they are refused."""

        def strict(*args, **kwargs):
            known = slicer_qt.TABLE[class_name].properties.union(
                function.__code__.co_varnames[: function.__code__.co_argcount]
            )
            for name in kwargs:
                if name not in known:
                    raise TypeError(
                        f"{function.__name__}() got an unexpected keyword argument '{name}': {class_name} has no such "
                        "property"
                    )
            return function(*args, **kwargs)

        strict.__wrapped__ = function
        return strict

    def _message_box(self):
        application = self

        class ctkMessageBox(QtWidgets.QMessageBox):
            """A message that the user has read at once: an error, or a question that he answers."""

            for _name, _kind in (
                ("dontShowAgain", bool),
                ("dontShowAgainVisible", bool),
                ("dontShowAgainSettingsKey", str),
            ):
                locals()[_name] = QtCore.Property(_kind, lambda self, kind=_kind: kind(), lambda self, value: None)

            def exec_(self):
                if self.icon() is QtWidgets.QMessageBox.Icon.Critical:
                    application.errors.append(self.text())
                buttons = self.standardButtons()
                yes = next(button for button in (self.StandardButton.Ok, self.StandardButton.Yes) if button in buttons)
                no = self.StandardButton.Cancel if self.StandardButton.Cancel in buttons else self.StandardButton.No
                return yes if application.agrees or no not in buttons else no

        return ctkMessageBox

    def _file_dialog(self):
        application = self

        class QFileDialog(QtWidgets.QFileDialog):
            """A dialog in which the user chooses `chosen_path` at once."""

            def exec_(self):
                return int(bool(application.chosen_path))

            def selectedFiles(self):
                return [application.chosen_path]

            def selectedNameFilter(self):
                return application.chosen_filter or super().selectedNameFilter()

            getSaveFileName = getOpenFileName = getExistingDirectory = staticmethod(lambda *_: application.chosen_path)
            getOpenFileNames = staticmethod(lambda *_: [application.chosen_path] if application.chosen_path else [])

        return QFileDialog

    def _settings_class(self):
        path = str(Path(self._settings.name) / "Slicer.ini")

        class QSettings(QtCore.QSettings):
            """The settings of this application, none at first."""

            def __init__(self):
                super().__init__(path, QtCore.QSettings.Format.IniFormat)

        return QSettings

    def _application(self):
        application = self

        class qSlicerApplication(QtCore.QObject):
            startupCompleted = QtCore.Signal()
            applicationName = QtCore.Property(str, lambda self: "Slicer")
            slicerHome = QtCore.Property(str, lambda self: str(application.home))

            def testingEnabled(self):
                return False

            def processEvents(self, *arguments):
                application.qt.processEvents(*arguments)

            def clipboard(self):
                return application.qt.clipboard()

            def setOverrideCursor(self, cursor):
                application.qt.setOverrideCursor(cursor)

            def restoreOverrideCursor(self):
                application.qt.restoreOverrideCursor()

            def translate(self, context, text):
                return text

            def topLevelWidgets(self):
                return [application._window]

            def settings(self):
                return slicer_qt.raw_class("QSettings")()

            userSettings = settings

            def moduleManager(self):
                return application._manager

            def mrmlScene(self):
                return application.scene

            def focusWidget(self):
                return application.qt.focusWidget()

            def pauseRender(self):
                pass

            resumeRender = pauseRender

        return qSlicerApplication

    def axial_view(self, size: int = 700):
        """A new axial view of the scene.

        It draws on `render()` alone, where the application draws once it has nothing else to do.
        """
        self.slicer.view_manager.register_factory(DirectViewFactory(do_render_offscreen=True))
        axial = ViewLayoutDefinition(
            singleton_tag="Red", view_type=ViewType.SLICE_VIEW, properties=ViewProps(orientation="Axial")
        )
        view = self.slicer.view_manager.create_view(axial)
        view.set_scheduled_render(NoScheduleRendering())
        view.interactor().UpdateSize(size, size)
        return view


_added: set[str] = set()


def load(path: Path, panel: Path = PANEL) -> ModuleType:
    """A scripted module and the room of its panel, again: what they import is the running application's."""
    for name in [name for name in sys.modules if name.startswith("LesionDetectorLib.panel")]:
        del sys.modules[name]
    room = importlib.util.spec_from_file_location(
        "LesionDetectorLib.panel", panel / "__init__.py", submodule_search_locations=[str(panel)]
    )
    sys.modules["LesionDetectorLib.panel"] = importlib.util.module_from_spec(room)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
