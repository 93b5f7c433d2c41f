"""A view on a parameter node for nodes, texts, numbers, truths and paths, bound to widgets by the rules of Slicer's
guiConnectors.py.

Whatever those rules refuse is refused here with the same error, and what they do by half is done by half: a path is
taken from its widget when that tells of acceptable input alone, and an empty path is shown as ".".
"""

from __future__ import annotations

import pathlib
import typing

import ctk
import qt
import slicer


class WithinRange:
    def __init__(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value):
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


class Choice:
    def __init__(self, choices):
        self.choices = choices

    def validate(self, value):
        if value not in self.choices:
            raise ValueError(f"Value must be one of {self.choices}, is {value}")


READ = {str: str, int: int, float: float, bool: "True".__eq__, pathlib.Path: pathlib.Path}


class _Parameter:
    """A parameter of the class `kind`, kept in a node, with the annotations of its declaration."""

    def __init__(self, name, declared):
        self.name, self.declared = name, declared
        self.kind, *self.annotations = (
            typing.get_args(declared) if typing.get_origin(declared) is typing.Annotated else (declared,)
        )
        self.is_node = isinstance(self.kind, type) and issubclass(self.kind, slicer.vtkMRMLNode)
        if not self.is_node and self.kind not in READ:
            raise Exception(f"Unable to create serializer for member {name}")

    def annotation(self, kind):
        return next((found for found in self.annotations if isinstance(found, kind)), None)

    def read(self, node):
        return node.GetNodeReference(self.name) if self.is_node else READ[self.kind](node.GetParameter(self.name))

    def write(self, node, value):
        if value is not None or not self.is_node:
            if not isinstance(value, (int, float) if self.kind is float else self.kind):
                raise TypeError(f"Value must be of type '{self.kind}', is type '{type(value)}' value '{value}'")
            for annotation in self.annotations:
                annotation.validate(value)
        if self.is_node:
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        else:
            node.SetParameter(self.name, str(value))

    def connector(self, widget):
        """The signal of the widget that tells of a change, and how to read and write its value."""
        kind = type(widget)
        if kind is qt.QComboBox and self.kind in (int, float, str, bool):
            choice = self.annotation(Choice)
            if choice is None:
                raise RuntimeError("ComboBoxToStringableConnector requires the Choice annotation to be used.")
            widget.clear()
            for value in choice.choices:
                widget.addItem(str(value))
            return (
                widget.currentIndexChanged,
                lambda: choice.choices[widget.currentIndex],
                lambda value: setattr(widget, "currentIndex", choice.choices.index(value)),
            )
        if kind is ctk.ctkSliderWidget and self.kind in (int, float):
            limits = self.annotation(WithinRange)
            if limits is None:
                raise RuntimeError("Cannot have a connection to ctkSliderWidget where the float types is unbounded.")
            widget.minimum, widget.maximum = limits.minimum, limits.maximum
            return widget.valueChanged, lambda: widget.value, lambda value: setattr(widget, "value", value)
        if kind is ctk.ctkPathLineEdit and self.kind is pathlib.Path:
            show = lambda path: setattr(widget, "currentPath", str(path))  # noqa: E731
            return widget.currentPathChanged, lambda: pathlib.Path(widget.currentPath), show
        if kind is qt.QCheckBox and self.kind is bool:
            return widget.stateChanged, lambda: widget.checked, lambda value: setattr(widget, "checked", value)
        if kind is qt.QLineEdit and self.kind is str:
            return widget.textChanged, lambda: widget.text, lambda value: setattr(widget, "text", value)
        if kind is slicer.qMRMLNodeComboBox and self.is_node:
            widget.nodeTypes = [self.kind.__name__]
            return widget.currentNodeChanged, lambda: widget.currentNode(), lambda node: widget.setCurrentNode(node)
        raise RuntimeError(f"Unable to create GUI connector from datatype '{self.declared}' to widget type '{kind}'.")


def _property(parameter):
    return property(
        lambda self: parameter.read(self.parameterNode), lambda self, value: parameter.write(self.parameterNode, value)
    )


class _Methods:
    """What every wrapper has."""

    def __init__(self, parameterNode, prefix=None):
        self.parameterNode = parameterNode
        self._links = {}
        for parameter, default in self._declared:
            if not parameter.is_node and not parameterNode.HasParameter(parameter.name):
                parameter.write(parameterNode, default)

    def connectGui(self, gui):
        widgets = [widget for widget in vars(gui).values() if widget.property("SlicerParameterName")]
        parameters = {parameter.name: parameter for parameter, _ in self._declared}
        links, showing = [], []
        for widget in widgets:
            name = widget.property("SlicerParameterName")
            if name not in parameters:
                raise ValueError(f"Cannot find a param with the given name: {name}")
            signal, read, write = parameters[name].connector(widget)
            write(getattr(self, name))
            changed = lambda *_, name=name, read=read: None if showing else setattr(self, name, read())  # noqa: E731
            signal.connect(changed)
            links.append((signal, changed, name, write))

        def show(*_):
            if not showing:
                showing.append(True)
                for _signal, _changed, name, write in links:
                    write(getattr(self, name))
                showing.clear()

        tag = max(self._links, default=-1) + 1
        self._links[tag] = links, self.parameterNode.AddObserver("ModifiedEvent", show)
        return tag

    def disconnectGui(self, guiTag):
        links, observer = self._links.pop(guiTag)
        for signal, changed, *_ in links:
            signal.disconnect(changed)
        self.parameterNode.RemoveObserver(observer)

    def AddObserver(self, event, callback, priority=0.0):
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag):
        self.parameterNode.RemoveObserver(tag)

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified):
        return self.parameterNode.EndModify(wasModified)

    def Modified(self):
        self.parameterNode.Modified()


def parameterNodeWrapper(classtype=None):
    """The class as a view on a parameter node."""
    if classtype is None:
        return parameterNodeWrapper
    declared = [_Parameter(name, kind) for name, kind in classtype.__annotations__.items()]
    defaults = [
        getattr(classtype, parameter.name, None if parameter.is_node else parameter.kind()) for parameter in declared
    ]
    properties = {parameter.name: _property(parameter) for parameter in declared}
    members = {"__doc__": classtype.__doc__, "_declared": list(zip(declared, defaults)), **properties}
    return type(classtype.__name__, (_Methods,), members)
