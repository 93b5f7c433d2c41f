"""As much of the 3D Slicer application as the module's widget needs, on PySide6 and slicer-core, for tests.

It is not Slicer: the qMRML and ctk widgets are stand-ins with the same names, properties and signals, `parameterNodeWrapper` knows the few
types that the module uses, and nothing here says how the panel looks or behaves in Slicer's own Qt. It proves wiring and state.
"""

from __future__ import annotations

import os
import sys
import types
import unittest
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

import slicer
from PySide6 import QtCore, QtUiTools, QtWidgets
from trame_slicer.core import SlicerApp
from trame_slicer.views import DirectViewFactory, NoScheduleRendering, ViewLayoutDefinition, ViewProps, ViewType

PROPERTIES = (
    *("text", "enabled", "visible", "checked", "checkable", "value", "plainText", "toolTip"),
    *("currentData", "currentText", "collapsed", "columnCount", "rowCount", "wasCanceled"),
)
MODULE = Path(__file__).parents[1] / "LesionDetector"


# --------------------------------------------------------------------------------------------------------------- PythonQt's manner


def _property(name: str) -> property:
    return property(lambda self: self.property(name), lambda self, value: self.setProperty(name, value))


def _in_pythonqts_manner(base: type) -> type:
    """A Qt class whose properties are attributes, and whose signals are connected by their signatures."""
    known = {base.staticMetaObject.property(i).name() for i in range(base.staticMetaObject.propertyCount())}
    made_here = {name for name in PROPERTIES if isinstance(getattr(base, name, None), QtCore.Property)}
    members = {name: _property(name) for name in known.intersection(PROPERTIES) - made_here}
    members["connect"] = lambda self, signature, slot: getattr(self, signature.split("(")[0]).connect(slot)
    return type(base.__name__, (base,), members)


class ctkCollapsibleButton(QtWidgets.QGroupBox):
    """A titled group that does not collapse."""

    def _set_title(self, text):
        self.setTitle(text)

    text = QtCore.Property(str, QtWidgets.QGroupBox.title, _set_title)
    contentsCollapsed = QtCore.Signal(bool)

    def _set_collapsed(self, value):
        self._collapsed = value
        self.contentsCollapsed.emit(value)

    collapsed = QtCore.Property(bool, lambda self: getattr(self, "_collapsed", False), _set_collapsed)


class ctkPathLineEdit(QtWidgets.QLineEdit):
    """A line for a path."""

    currentPathChanged = QtCore.Signal(str)
    filters = QtCore.Property(str, lambda self: "", lambda self, value: None)
    nameFilters = QtCore.Property("QStringList", lambda self: [], lambda self, value: None)


def _box(name):
    return lambda self, value: getattr(self.box, name)(value)


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider with a box for its number."""

    valueChanged = QtCore.Signal(float)

    def __init__(self, parent=None):
        super().__init__(parent)
        self.slider, self.box = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal), QtWidgets.QDoubleSpinBox()
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.slider)
        layout.addWidget(self.box)
        self.slider.valueChanged.connect(lambda value: self.box.setValue(value / 100))
        self.box.valueChanged.connect(lambda value: (self.slider.setValue(round(100 * value)), self.valueChanged.emit(value)))

    value = QtCore.Property(float, lambda self: self.box.value(), _box("setValue"))
    minimum = QtCore.Property(float, lambda self: self.box.minimum(), _box("setMinimum"))
    maximum = QtCore.Property(float, lambda self: self.box.maximum(), _box("setMaximum"))
    singleStep = QtCore.Property(float, lambda self: self.box.singleStep(), _box("setSingleStep"))
    pageStep = QtCore.Property(float, lambda self: 0.1, lambda self, value: None)
    decimals = QtCore.Property(int, lambda self: self.box.decimals(), _box("setDecimals"))


class qMRMLNodeComboBox(QtWidgets.QComboBox):
    """A list of the nodes of one class in the scene."""

    currentNodeChanged = QtCore.Signal(object)
    nodeTypes = QtCore.Property("QStringList", lambda self: self._types, lambda self, value: setattr(self, "_types", value))
    for _name in ("showChildNodeTypes", "addEnabled", "removeEnabled", "noneEnabled"):
        locals()[_name] = QtCore.Property(bool, lambda self: False, lambda self, value: None)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._types = []
        self.currentIndexChanged.connect(lambda index: self.currentNodeChanged.emit(self.currentNode()))

    def setMRMLScene(self, scene):
        self.scene = scene
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndImportEvent):
            scene.AddObserver(event, lambda *_: self.fill())
        self.fill()

    def fill(self):
        chosen = self.currentNode()
        self.blockSignals(True)
        self.clear()
        self.addItem("None", "")
        for index in range(self.scene.GetNumberOfNodesByClass(self._types[0])):
            node = self.scene.GetNthNodeByClass(index, self._types[0])
            self.addItem(node.GetName(), node.GetID())
        self.blockSignals(False)
        self.setCurrentNode(chosen)

    def currentNode(self):
        return slicer.mrmlScene.GetNodeByID(QtWidgets.QComboBox.currentData(self)) if self.count() else None

    def setCurrentNode(self, node):
        self.setCurrentIndex(max(self.findData(node.GetID()) if node is not None else 0, 0))


class qMRMLWidget(QtWidgets.QWidget):
    """The panel; it hands the scene to the widgets in it."""

    def setMRMLScene(self, scene):
        for child in self.findChildren(qMRMLNodeComboBox):
            child.setMRMLScene(scene)


STANDINS = (ctkCollapsibleButton, ctkPathLineEdit, ctkSliderWidget, qMRMLNodeComboBox, qMRMLWidget)
QT_WIDGETS = (
    *("QPushButton", "QLabel", "QComboBox", "QProgressBar", "QTableWidget"),
    *("QCheckBox", "QLineEdit", "QPlainTextEdit", "QWidget", "QProgressDialog"),
)
WIDGETS = {c.__name__: _in_pythonqts_manner(c) for c in (*STANDINS, *(getattr(QtWidgets, name) for name in QT_WIDGETS))}


_Header = _in_pythonqts_manner(QtWidgets.QHeaderView)


class _Loader(QtUiTools.QUiLoader):
    def createWidget(self, class_name, parent=None, name=""):
        widget = WIDGETS[class_name](parent)
        widget.setObjectName(name)
        if class_name == "QTableWidget":
            header = _Header(QtCore.Qt.Orientation.Horizontal, widget)
            header.setSectionsClickable(True)
            widget.setHorizontalHeader(header)
            widget.horizontalHeader = lambda: header
        return widget


# ------------------------------------------------------------------------------------------------------------ Slicer's own Python


def WithinRange(low, high):
    return low, high


def Choice(choices):
    return choices


def parameterNodeWrapper(cls):
    """The class as a view on a parameter node, for CT nodes, texts, numbers and paths."""
    kinds = cls.__annotations__

    class Wrapper:
        __doc__ = cls.__doc__

        def __init__(self, node):
            object.__setattr__(self, "node", node)
            for name in kinds:
                if hasattr(cls, name) and not node.GetParameter(name):
                    setattr(self, name, getattr(cls, name))

        def __getattr__(self, name):
            if name not in kinds:
                return getattr(self.node, name)
            if name == "inputVolume":
                return self.node.GetNodeReference(name)
            text = self.node.GetParameter(name)
            kind = str(kinds[name])
            return text if "str" in kind else text == "True" if "bool" in kind else float(text)

        def __setattr__(self, name, value):
            if name == "inputVolume":
                self.node.SetNodeReferenceID(name, value.GetID() if value is not None else None)
            else:
                self.node.SetParameter(name, str(value))

        def connectGui(self, ui):
            bound = [widget for widget in vars(ui).values() if widget.property("SlicerParameterName")]
            return [link for widget in bound for link in self._link(widget, widget.property("SlicerParameterName"))]

        def _link(self, widget, name):
            signal, read, write = {
                "qMRMLNodeComboBox": ("currentNodeChanged", lambda: widget.currentNode(), lambda node: widget.setCurrentNode(node)),
                "ctkSliderWidget": ("valueChanged", lambda: widget.value, lambda value: setattr(widget, "value", value)),
                "QComboBox": ("currentTextChanged", lambda: widget.currentText, lambda text: widget.setCurrentText(text)),
                "QCheckBox": ("toggled", lambda: widget.checked, lambda on: setattr(widget, "checked", on)),
                "ctkPathLineEdit": ("textChanged", lambda: widget.text, lambda path: setattr(widget, "text", str(path) * bool(path.name))),
            }[type(widget).__name__]
            write(getattr(self, name))
            to_node = lambda *_: setattr(self, name, read()) if read() != getattr(self, name) else None  # noqa: E731
            to_widget = lambda *_: write(getattr(self, name)) if read() != getattr(self, name) else None  # noqa: E731
            getattr(widget, signal).connect(to_node)
            return [(getattr(widget, signal), to_node), (self.node, self.node.AddObserver("ModifiedEvent", to_widget))]

        def disconnectGui(self, links):
            for sender, link in links:
                sender.disconnect(link) if isinstance(sender, QtCore.SignalInstance) else sender.RemoveObserver(link)

    return Wrapper


class _Settings:
    kept: ClassVar[dict] = {}

    def value(self, key, default=None):
        return self.kept.get(key, default)

    def setValue(self, key, value):
        self.kept[key] = value


class _Module:
    def __init__(self, parent):
        self.parent = parent


class _Widget:
    def __init__(self, parent=None):
        self.parent = WIDGETS["QWidget"]()
        self.layout = QtWidgets.QVBoxLayout(self.parent)

    def setup(self):
        pass

    def resourcePath(self, name):
        return str(MODULE / "Resources" / name)


class _Logic:
    def getParameterNode(self):
        node = slicer.mrmlScene.GetSingletonNode("LesionDetector", "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            node.UnRegister(None)
            node.SetSingletonTag("LesionDetector")
            node = slicer.mrmlScene.AddNode(node)
        return node


def _child_variables(panel):
    children = panel.findChildren(QtWidgets.QWidget)
    return SimpleNamespace(**{child.objectName(): child for child in children if child.objectName().isidentifier()})


class Application:
    """A running application: its `scene`, the `errors` that it showed to the user, and whether the user `agrees` when asked."""

    def __init__(self) -> None:
        self.qt = QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
        self.errors: list[str] = []
        self.agrees = True
        self.slicer = SlicerApp()
        self.scene = self.slicer.scene
        self._install()

    def _install(self) -> None:
        qt = types.ModuleType("qt")
        qt.QTimer, qt.QTableWidgetItem = _in_pythonqts_manner(QtCore.QTimer), QtWidgets.QTableWidgetItem
        qt.QSettings = _Settings
        qt.QHeaderView, qt.Qt = QtWidgets.QHeaderView.ResizeMode, QtCore.Qt
        self.filters = []
        qt.QFileDialog = SimpleNamespace(
            getSaveFileName=lambda *given: self.filters.append(given[3]) or self.chosen_path, getOpenFileName=lambda *_: self.chosen_path
        )
        sys.modules["qt"] = qt
        for name, members in (
            ("ScriptedLoadableModule", {f"ScriptedLoadableModule{part}": kind for part, kind in _KINDS.items()}),
            ("i18n", {"tr": str, "translate": lambda context, text: text}),
            ("parameterNodeWrapper", {"parameterNodeWrapper": parameterNodeWrapper, "WithinRange": WithinRange, "Choice": Choice}),
            (
                "packaging",
                {
                    "pip_ensure": lambda *_, **__: None,
                    "pip_check": lambda *_: True,
                    "load_requirements": lambda path: path.read_text().split(),
                },
            ),
        ):
            module = types.ModuleType(f"slicer.{name}")
            vars(module).update(members)
            sys.modules[module.__name__] = module
            setattr(slicer, name, module)
        slicer.mrmlScene = self.scene
        slicer.app = self.qt
        slicer.app.testingEnabled, slicer.app.connect = lambda: False, lambda signal, slot: None
        slicer.util.getModuleWidget = lambda name: self.widget
        slicer.util.loadUI = lambda path: _Loader().load(path)
        slicer.util.childWidgetVariables = _child_variables
        slicer.util.createProgressDialog = lambda **_: WIDGETS["QProgressDialog"]()
        slicer.util.confirmOkCancelDisplay = lambda *_: self.agrees
        slicer.util.errorDisplay = lambda text, *_, **__: self.errors.append(text)

    def axial_view(self, size: int = 700):
        """A new axial view of the scene; it draws on `render()` alone, where the application draws once it has nothing else to do."""
        self.slicer.view_manager.register_factory(DirectViewFactory(do_render_offscreen=True))
        axial = ViewLayoutDefinition(singleton_tag="Red", view_type=ViewType.SLICE_VIEW, properties=ViewProps(orientation="Axial"))
        view = self.slicer.view_manager.create_view(axial)
        view.set_scheduled_render(NoScheduleRendering())
        view.interactor().UpdateSize(size, size)
        return view


_KINDS = {"": _Module, "Widget": _Widget, "Logic": _Logic, "Test": unittest.TestCase}
