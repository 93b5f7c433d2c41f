"""Qt, CTK and Slicer's widgets in PythonQt's manner, on PySide6: exactly what `slicer_table` lists, and everything
else is refused.

As PythonQt does, a Python object wraps each object of Qt: a property is an attribute, a method is called, a signal is
connected by its signature, and nothing can be added. What PythonQt lets pass and is never meant raises here too: a
connection to a signal that there is not, and a method that is compared, printed or taken for a truth where it should
have been called.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from typing import Any

import shiboken6
import slicer
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from Testing.helpers import slicer_table

TABLE = slicer_table.classes()
TYPES_OF_PROPERTIES = {"QString": (str,), "bool": (bool, int), "int": (int, enum.Enum), "double": (int, float)}
raised: list[BaseException] = []
"""What slots raised; Qt prints it and goes on, and so does Slicer."""


# ------ the widgets' work


class ctkCollapsibleButton(QtWidgets.QGroupBox):
    """A titled group that hides what is in it."""

    contentsCollapsed = QtCore.Signal(bool)
    _collapsed = False

    def _set_title(self, text):
        self.setTitle(text)

    def setCollapsed(self, collapsed):
        if collapsed != self._collapsed:
            self._collapsed = collapsed
            for child in self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindChildOption.FindDirectChildrenOnly):
                child.setVisible(not collapsed)
            self.contentsCollapsed.emit(collapsed)

    text = QtCore.Property(str, QtWidgets.QGroupBox.title, _set_title)
    collapsed = QtCore.Property(bool, lambda self: self._collapsed, setCollapsed)


class ctkPathLineEdit(QtWidgets.QWidget):
    """A line for a path, which tells of acceptable input alone: an empty line never is (ctkUtils.cpp,
    nameFiltersToRegExpPattern)."""

    currentPathChanged = QtCore.Signal(str)
    validInputChanged = QtCore.Signal(bool)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._filters, self._valid = [], False
        self._box = QtWidgets.QComboBox()
        self._box.setEditable(True)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._set_filters([])
        self._box.lineEdit().textChanged.connect(self._changed)

    def comboBox(self):
        return self._box

    def setCurrentPath(self, path):
        self._box.lineEdit().setText(path)

    def _set_filters(self, filters):
        self._filters = filters
        endings = QtCore.QRegularExpression(r"\*\.(\w+)").globalMatch(" ".join(filters))
        patterns = []
        while endings.hasNext():
            patterns.append(rf".*\.{endings.next().captured(1)}?$")
        pattern = "|".join(patterns)
        self._box.lineEdit().setValidator(QtGui.QRegularExpressionValidator(f"({pattern})" if pattern else ".+", self))

    def _changed(self, path):
        valid = self._box.lineEdit().hasAcceptableInput()
        if valid:
            self.currentPathChanged.emit(path)
        if valid != self._valid:
            self._valid = valid
            self.validInputChanged.emit(valid)

    currentPath = QtCore.Property(str, lambda self: self._box.lineEdit().text(), setCurrentPath)
    filters = QtCore.Property(str, lambda self: "", lambda self, value: None)
    nameFilters = QtCore.Property("QStringList", lambda self: self._filters, _set_filters)


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
        self.box.valueChanged.connect(
            lambda value: (self.slider.setValue(round(100 * value)), self.valueChanged.emit(value))
        )

    def setValue(self, value):
        self.box.setValue(value)

    value = QtCore.Property(float, lambda self: self.box.value(), setValue)
    minimum = QtCore.Property(float, lambda self: self.box.minimum(), _box("setMinimum"))
    maximum = QtCore.Property(float, lambda self: self.box.maximum(), _box("setMaximum"))
    singleStep = QtCore.Property(float, lambda self: self.box.singleStep(), _box("setSingleStep"))
    pageStep = QtCore.Property(float, lambda self: 0.1, lambda self, value: None)
    decimals = QtCore.Property(int, lambda self: self.box.decimals(), _box("setDecimals"))


class qMRMLNodeComboBox(QtWidgets.QComboBox):
    """A list of the nodes of some classes in the scene."""

    currentNodeChanged = QtCore.Signal(object)
    currentNodeIDChanged = QtCore.Signal(str)
    for _name in ("showChildNodeTypes", "addEnabled", "removeEnabled", "editEnabled", "renameEnabled", "noneEnabled"):
        locals()[_name] = QtCore.Property(bool, lambda self: False, lambda self, value: None)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._types, self.scene = [], None
        self.currentIndexChanged.connect(lambda index: self.currentNodeChanged.emit(self.currentNode()))

    def setMRMLScene(self, scene):
        if self.scene is None:
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndImportEvent):
                scene.AddObserver(event, lambda *_: self.fill())
        self.scene = scene
        self.fill()

    def mrmlScene(self):
        return self.scene

    def fill(self):
        if not shiboken6.isValid(self) or self.scene is None:
            return
        chosen = self.currentNode()
        self.blockSignals(True)
        self.clear()
        self.addItem("None", "")
        for kind in self._types:
            for index in range(self.scene.GetNumberOfNodesByClass(kind)):
                node = self.scene.GetNthNodeByClass(index, kind)
                self.addItem(node.GetName(), node.GetID())
        self.blockSignals(False)
        self.setCurrentNode(chosen)

    def _set_types(self, types):
        self._types = types
        self.fill()

    nodeTypes = QtCore.Property("QStringList", lambda self: self._types, _set_types)

    def currentNode(self):
        return slicer.mrmlScene.GetNodeByID(self.currentData() or "") if self.count() else None

    def setCurrentNode(self, node):
        self.setCurrentIndex(max(self.findData(node.GetID()) if node is not None else 0, 0))


class qMRMLWidget(QtWidgets.QWidget):
    """The panel; it hands the scene to the widgets in it, as its .ui file says."""

    mrmlSceneChanged = QtCore.Signal(object)
    scene = None

    def setMRMLScene(self, scene):
        self.scene = scene
        for child in self.findChildren(qMRMLNodeComboBox):
            child.setMRMLScene(scene)
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        return self.scene


class qSlicerMainWindow(QtWidgets.QMainWindow):
    def __init__(self):
        super().__init__()
        self.setObjectName("qSlicerMainWindow")


class qSlicerModuleManager(QtCore.QObject):
    moduleAboutToBeUnloaded = QtCore.Signal(str)
    moduleLoaded = QtCore.Signal(str)


class QTimer(QtCore.QTimer):
    @staticmethod
    def singleShot(msec, callable_):
        QtCore.QTimer.singleShot(msec, lambda: deliver(callable_, []))


class QUiLoader(QtUiTools.QUiLoader):
    """It makes the stand-ins' widgets where a .ui file names them, and knows no widget that the table lacks."""

    def createWidget(self, class_name, parent=None, name=""):
        widget = raw_class(class_name)(parent)
        widget.setObjectName(name)
        return widget


MADE_HERE = (
    *(ctkCollapsibleButton, ctkPathLineEdit, ctkSliderWidget, qMRMLNodeComboBox, qMRMLWidget),
    *(qSlicerMainWindow, qSlicerModuleManager, QTimer, QUiLoader),
)
_raw: dict[str, type] = {kind.__name__: kind for kind in MADE_HERE}


def put_in_place(kind: type) -> None:
    """Let a class of the table be done by a class of the application."""
    _raw[kind.__name__] = kind


def raw_class(name: str) -> type:
    """The class that does the work of one in the table. NotImplementedError where the stand-in has none."""
    if name not in TABLE:
        raise NotImplementedError(f"{name} is not in Testing/slicer_table.py")
    found = _raw.get(name) or next((getattr(m, name) for m in (QtCore, QtGui, QtWidgets) if hasattr(m, name)), None)
    if found is None:
        raise NotImplementedError(f"nothing in Testing/helpers/slicer_qt.py does the work of {name}")
    return found


# ------ PythonQt's manner


def unwrapped(value: Any) -> Any:
    """What PySide6 understands, of what a module hands over."""
    if isinstance(value, Wrapper):
        return value._raw
    if isinstance(value, (list, tuple)):
        return type(value)(unwrapped(entry) for entry in value)
    if isinstance(value, (Method, Signal)):
        raise TypeError(f"{value.title} is a method: call it")
    return value


def wrapped(value: Any) -> Any:
    """What a module sees of what PySide6 returns."""
    if isinstance(value, (list, tuple)):
        return [wrapped(entry) for entry in value]
    if isinstance(value, enum.Enum) or not isinstance(value, shiboken6.Object):
        return value
    for kind in type(value).__mro__:
        if kind.__name__ in WRAPPERS:
            wrapper = object.__new__(WRAPPERS[kind.__name__])
            object.__setattr__(wrapper, "_raw", value)
            return wrapper
    raise NotImplementedError(f"{type(value).__name__} is not in Testing/slicer_table.py")


def checked(title: str, counts: tuple[int, int], arguments: tuple) -> list:
    """The arguments for PySide6. ValueError, as PythonQt's, where there are too many or too few."""
    if not counts[0] <= len(arguments) <= counts[1]:
        raise ValueError(
            f"Could not find matching overload for given arguments: {title} takes {counts[0]} to {counts[1]}, not "
            f"{arguments}"
        )
    return [unwrapped(argument) for argument in arguments]


class _NoValue:
    """Something that is called, and is not a value to compare, print or count with."""

    title = ""

    def _refuse(self, *_others):
        raise TypeError(f"{self.title} is a method, no property: call it")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __int__ = __float__ = __index__ = __len__ = (
        __iter__
    ) = __str__ = _refuse
    __format__ = __contains__ = __getitem__ = __add__ = __radd__ = __sub__ = __rsub__ = __and__ = __or__ = (
        __invert__
    ) = _refuse
    __hash__ = object.__hash__


class Method(_NoValue):
    """A method of a wrapped object, bound to it."""

    def __init__(self, wrapper: Wrapper, name: str, counts: tuple[int, int]) -> None:
        self.title, self._wrapper, self._name, self._counts = f"{type(wrapper).__name__}.{name}", wrapper, name, counts

    def __call__(self, *arguments):
        given = checked(self.title, self._counts, arguments)
        if self._name == "className":
            return self._wrapper._raw.metaObject().className()
        method = getattr(self._wrapper._raw, self._name, None)
        if method is None:
            raise NotImplementedError(f"nothing in Testing/helpers/slicer_qt.py does the work of {self.title}")
        return wrapped(method(*given))


def deliver(callable_: Callable, arguments: list) -> None:
    """Call a slot with as many of a signal's arguments as it has parameters (PythonQtSignalReceiver.cpp), and note
    what it raises."""
    function, bound = (callable_.__func__, 1) if inspect.ismethod(callable_) else (callable_, 0)
    if inspect.isfunction(function) and not function.__code__.co_flags & inspect.CO_VARARGS:
        arguments = arguments[: function.__code__.co_argcount - bound]
    try:
        callable_(*(wrapped(argument) for argument in arguments))
    except BaseException as error:
        raised.append(error)
        raise


class Signal(_NoValue):
    """A signal of a wrapped object: `connect`, `disconnect`, `emit`; calling it emits it."""

    def __init__(self, wrapper: Wrapper, signature: str) -> None:
        self.title = f"{type(wrapper).__name__}.{signature}"
        self._raw = wrapper._raw
        self._name = signature.split("(")[0]
        types = signature.partition("(")[2].rstrip(")")
        self._count = len(types.split(",")) if types else 0
        if not hasattr(self._raw, self._name):
            raise NotImplementedError(f"nothing in Testing/helpers/slicer_qt.py emits {self.title}")

    def connect(self, callable_: Callable) -> bool:
        if not callable(callable_):
            raise TypeError(f"{self.title} is connected to {callable_!r}, which cannot be called")
        forward = (  # PySide6 passes as many arguments as it sees parameters
            lambda: deliver(callable_, []),
            lambda a: deliver(callable_, [a]),
            lambda a, b: deliver(callable_, [a, b]),
            lambda a, b, c: deliver(callable_, [a, b, c]),
            lambda a, b, c, d: deliver(callable_, [a, b, c, d]),
        )[self._count]
        getattr(self._raw, self._name).connect(forward)
        self._raw.__dict__.setdefault("_links", []).append((self.title, callable_, forward))
        return True

    def disconnect(self, callable_: Callable | None = None) -> bool:
        links = self._raw.__dict__.get("_links", [])
        ended = [link for link in links if link[0] == self.title and (callable_ is None or link[1] == callable_)]
        for link in ended:
            getattr(self._raw, self._name).disconnect(link[2])
            links.remove(link)
        return bool(ended)

    def emit(self, *arguments) -> None:
        getattr(self._raw, self._name).emit(*checked(self.title, (self._count, self._count), arguments))

    __call__ = emit


class _Kind(type):
    """The class of wrappers: values of enums and static methods are its attributes."""

    def __getattr__(cls, name):
        if name in cls._table.statics:
            function = getattr(raw_class(cls.__name__), name)
            return lambda *arguments: wrapped(
                function(*checked(f"{cls.__name__}.{name}", cls._table.statics[name], arguments))
            )
        value = getattr(raw_class(cls._table.name), name, None)
        if isinstance(value, enum.Enum):
            return value
        raise AttributeError(f"type object '{cls.__name__}' has no attribute '{name}'")


class Wrapper(metaclass=_Kind):
    """A Python object that stands for one of Qt's."""

    __slots__ = ("_raw",)
    _table = slicer_table.Class("", "", frozenset(), (), {}, {})

    def __init__(self, *arguments):
        if type(self) is not WRAPPERS.get(self._table.name):
            raise NotImplementedError(
                f"nothing in Testing/helpers/slicer_qt.py calls what {type(self).__name__} overrides of "
                f"{self._table.name}"
            )
        object.__setattr__(self, "_raw", raw_class(self._table.name)(*(unwrapped(argument) for argument in arguments)))

    def __getattr__(self, name):
        table, raw = self._table, self._raw
        name = "objectName" if name == "name" else name
        if name in table.properties:
            return wrapped(raw.property(self._property(name).name()))
        for signature in table.signals:
            if signature.startswith(f"{name}("):
                return Signal(self, signature)
        if name in table.methods:
            return Method(self, name, table.methods[name])
        if isinstance(raw, QtCore.QObject):
            if name in ("connect", "disconnect"):
                return lambda signature, *slot: getattr(self._signal(signature), name)(*slot)
            if name.encode() in raw.dynamicPropertyNames():
                return wrapped(raw.property(name))
        raise AttributeError(f"{table.name} has no attribute named '{name}'")

    def __setattr__(self, name, value):
        table, name = self._table, "objectName" if name == "name" else name
        if name not in table.properties:
            if name in table.methods:
                raise AttributeError(f"Slot '{name}' can not be overwritten on {table.name} object")
            if any(signature.startswith(f"{name}(") for signature in table.signals):
                raise AttributeError(f"Signal '{name}' can not be overwritten on {table.name} object")
            raise AttributeError(
                f"'{name}' does not exist on {table.name} and creating new attributes on C++ objects is not allowed"
            )
        found = self._property(name)
        if not found.isWritable():
            raise AttributeError(f"Property '{name}' of {table.name} object is not writable")
        value = list(value) if found.typeName() == "QStringList" else unwrapped(value)
        if not isinstance(value, TYPES_OF_PROPERTIES.get(found.typeName(), object)) or not self._raw.setProperty(
            name, value
        ):
            kind = type(value).__name__
            raise AttributeError(
                f"Property '{name}' of type '{found.typeName()}' does not accept an object of type {kind} ({value!r})"
            )

    def _property(self, name):
        meta = self._raw.metaObject()
        if meta.indexOfProperty(name) < 0:
            raise NotImplementedError(
                f"nothing in Testing/helpers/slicer_qt.py does the work of {self._table.name}.{name}"
            )
        return meta.property(meta.indexOfProperty(name))

    def _signal(self, signature):
        normal = bytes(QtCore.QMetaObject.normalizedSignature(signature).data()).decode()
        if normal not in self._table.signals:
            raise AttributeError(
                f"PythonQt: QObject::connect() signal '{signature}' does not exist on {self._table.name}"
            )
        return Signal(self, normal)

    def __eq__(self, other):
        return isinstance(other, Wrapper) and (self._raw is other._raw or self._raw == other._raw)

    def __hash__(self):
        return hash(self._raw)

    def __repr__(self):
        return f"{self._table.name} ({self._raw!r})"


WRAPPERS: dict[str, type] = {}
for _class in TABLE.values():
    WRAPPERS[_class.name] = _Kind(
        _class.name, (WRAPPERS.get(_class.base, Wrapper),), {"__slots__": (), "_table": _class}
    )


class _Qt:
    """The namespace Qt: values of its enums."""

    def __getattr__(self, name):
        value = getattr(QtCore.Qt, name, None)
        if isinstance(value, enum.Enum):
            return value
        raise AttributeError(f"type object 'Qt' has no attribute '{name}'")


Qt = _Qt()
