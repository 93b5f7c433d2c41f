"""The stand-in of the application refuses what Slicer refuses: the table against its sources, and the module with
old faults put back."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core: pip install 'lesion-detector[scene]'")
pytest.importorskip("trame_slicer.views", reason="needs trame-slicer: pip install 'lesion-detector[scene]'")
pytest.importorskip("PySide6", reason="needs PySide6-Essentials: pip install 'lesion-detector[test]'")

from PySide6 import QtCore  # noqa: E402

from Testing.helpers import slicer_qt, slicer_table  # noqa: E402
from Testing.helpers.slicer_application import MODULE, PANEL, STANDINS, Application, ModuleParent, load  # noqa: E402
from Testing.helpers.slicer_source import PYTHONS, ctk_source, slicer_source  # noqa: E402

MODULE_FILE = MODULE / "LesionDetector.py"


@pytest.fixture(params=PYTHONS)
def application(request):
    running = Application(PYTHONS[request.param]())
    yield running
    running.end()


@pytest.fixture
def qt(application):
    return sys.modules["qt"]


def module_with(tmp_path: Path, *changes: tuple[str, str]):
    """The module with lines replaced by what must not come back."""
    shutil.copytree(PANEL, tmp_path / "panel")
    shutil.copy(MODULE_FILE, tmp_path)
    for now, before in changes:
        sources = {path: path.read_text() for path in (tmp_path / MODULE_FILE.name, *(tmp_path / "panel").glob("*.py"))}
        changed = {path: re.sub(now, before, source) for path, source in sources.items()}
        assert changed != sources, now
        for path, source in changed.items():
            path.write_text(source)
    return load(tmp_path / MODULE_FILE.name, tmp_path / "panel")


# ------ old faults, put back one by one


def test_a_text_on_a_combo_box_needs_its_choices(application, tmp_path):
    module = module_with(tmp_path, (r"device: Annotated\[str, Choice\(.*\)\]", "device: str"))
    with pytest.raises(RuntimeError, match="ComboBoxToStringableConnector requires the Choice annotation"):
        application.new_panel(module)


def test_packaging_is_there_once_it_is_imported(application, tmp_path):
    logic = module_with(tmp_path, (r"\n *import slicer\.packaging.*", "")).LesionDetectorLogic()
    with pytest.raises(AttributeError, match="module 'slicer' has no attribute 'packaging'"):
        logic.ensurePackages()
    load(MODULE_FILE).LesionDetectorLogic().ensurePackages()


def test_sample_data_takes_no_unknown_keyword(application, tmp_path):
    module = module_with(tmp_path, (r"( *)(nodeNames=)", r'\1sampleDescription="A CT",\n\1\2'))
    module.LesionDetector(ModuleParent(MODULE_FILE))
    application.start()
    assert "unexpected keyword argument 'sampleDescription'" in str(application.raised[0])


def weights_on_their_field(tmp_path, application):
    """A panel whose parameter of a path is bound to the field of a path."""
    path = tmp_path / "Bound.py"
    path.write_text(
        "import pathlib\nfrom slicer.parameterNodeWrapper import parameterNodeWrapper\n\n\n"
        "@parameterNodeWrapper\nclass Parameters:\n    weights: pathlib.Path\n"
    )
    field = sys.modules["ctk"].ctkPathLineEdit()
    field.nameFilters = ["Weights (*.safetensors)"]
    field.setProperty("SlicerParameterName", "weights")
    parameters = load(path).Parameters(application.scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    parameters.connectGui(SimpleNamespace(field=field))
    return parameters, field


def test_a_path_that_was_chosen_stays_when_its_field_is_emptied(application, tmp_path):
    """What Slicer does: a module that wants an empty field to mean something handles the field itself."""
    parameters, field = weights_on_their_field(tmp_path, application)
    assert field.currentPath == "."
    field.currentPath = "mine.safetensors"
    assert parameters.weights == Path("mine.safetensors")
    field.currentPath = ""
    assert parameters.weights == Path("mine.safetensors")


@pytest.mark.parametrize(
    ("now", "before", "error", "sentence"),
    [
        (
            r'connect\("toggled\(bool\)", self.onEdit',
            'connect("toggled()", self.onEdit',
            AttributeError,
            r"signal 'toggled\(\)' does not exist",
        ),
        (r'connect\("activated\(int\)"', 'connect("activated(QString)"', AttributeError, "does not exist on QComboBox"),
        (r"lesionTable\.columnCount\)", "lesionTable.columnCount())", TypeError, "'int' object is not callable"),
        (r"lesionTable\.currentRow\(\)", "lesionTable.currentRow", TypeError, "QTableWidget.currentRow is a method"),
        (
            r"(button|detectButton)\.toolTip = ",
            r"\1.tooltip = ",
            AttributeError,
            "'tooltip' does not exist on QPushButton",
        ),
        (r"progressBar\.value = ", "progressBar.setValue = ", AttributeError, "Slot 'setValue' can not be overwritten"),
        (r"qt\.QHeaderView\.Stretch ", "qt.QHeaderView.Stretched ", AttributeError, "no attribute 'Stretched'"),
        (r"setSectionResizeMode\(\s*column, ", "setSectionResizeMode(0, column, ", ValueError, "takes 1 to 2"),
        (r"qt\.QTimer\(\)", "qt.QtCore.QTimer()", AttributeError, "no attribute 'QtCore'"),
    ],
)
def test_what_a_widget_has_not_is_refused(application, tmp_path, now, before, error, sentence):
    module = module_with(tmp_path, (now, before))
    with pytest.raises(error, match=sentence):
        panel = application.new_panel(module)
        panel.session = lambda: SimpleNamespace(listed=[])
        panel.onRowSelected()
        panel.onProgress(SimpleNamespace(stage="read", done=1, total=2, share=0.5, seconds_left=None))


def test_a_module_finds_slicers_own_python_where_its_source_is_given():
    source = slicer_source()
    for given, expected in ((source, source / "Base/Python/slicer"), (None, STANDINS)):
        running = Application(given)
        for name in ("packaging", "i18n", "ScriptedLoadableModule", "parameterNodeWrapper"):
            assert Path(importlib.import_module(f"slicer.{name}").__file__).is_relative_to(expected)
        assert Path(slicer.util.__file__).is_relative_to(source) is (given is source)
        running.end()


def test_the_module_as_it_is_is_refused_nothing(application):
    application.new_panel(load(MODULE_FILE)).cleanup()
    load(MODULE_FILE).LesionDetector(ModuleParent(MODULE_FILE))
    application.start()
    assert application.raised == []
    assert [source.sampleName for source in slicer.modules.sampleDataSources["LesionDetector"]] == ["CTLiver"]


# ------ PythonQt's manner


def test_nothing_can_be_added_to_a_widget_and_nothing_unknown_is_read(qt):
    label = qt.QLabel("CT")
    assert label.text == "CT" and label.className() == "QLabel"
    for name in ("texts", "setTextt", "note"):
        with pytest.raises(AttributeError, match="has no attribute named"):
            getattr(label, name)
        with pytest.raises(AttributeError, match="creating new attributes on C"):
            setattr(label, name, 1)
    with pytest.raises(AttributeError, match="does not accept an object of type NoneType"):
        label.text = None
    with pytest.raises(AttributeError, match="is not writable"):
        qt.QProgressDialog().wasCanceled = True
    with pytest.raises(AttributeError):
        qt.QLabeel  # noqa: B018


def test_a_method_is_no_value(qt):
    table = qt.QTableWidget(2, 2)
    assert table.rowCount == 2 and table.currentRow() == -1
    for use in (
        lambda: table.currentRow == 0,
        lambda: table.currentRow < 0,
        lambda: bool(table.currentItem),
        lambda: f"{table.currentRow}",
    ):
        with pytest.raises(TypeError, match="is a method, no property: call it"):
            use()
    with pytest.raises(TypeError, match="is a method: call it"):
        qt.QLabel().text = qt.QTableWidgetItem("1").text


def test_a_slot_gets_as_many_arguments_as_it_takes_and_is_disconnected(qt):
    button, got = qt.QPushButton(), []
    button.checkable = True
    one, none = (lambda on, kept=3: got.append((on, kept))), (lambda: got.append("none"))
    button.connect("toggled(bool)", none)
    button.connect("clicked()", none)
    button.connect("toggled(bool)", lambda *args: got.append(args))
    button.toggled.connect(got.append)
    button.click()
    assert got == ["none", (True,), True, "none"]
    assert button.disconnect("toggled(bool)", none) and not button.disconnect("toggled(bool)", one)
    got.clear()
    button.checked = False
    assert got == [(False,), False]


def test_what_a_slot_raises_is_noted(application, qt):
    def fails():
        raise ValueError("not this one")

    button = qt.QPushButton()
    button.connect("clicked()", fails)
    button.click()
    qt.QTimer.singleShot(0, fails)
    application.qt.processEvents()
    assert [str(error) for error in application.unshown()] == ["not this one"] * 2


def test_a_subclass_in_python_is_refused_as_nothing_would_call_it(qt):
    with pytest.raises(NotImplementedError, match="overrides of QTableWidgetItem"):
        type("Number", (qt.QTableWidgetItem,), {"__lt__": lambda self, other: True})("1")


def test_the_user_chooses_in_a_file_dialog(application, qt):
    application.chosen_path, application.chosen_filter = "/tmp/report", "DICOM SEG (*.seg.dcm)"
    dialog = qt.QFileDialog(None, "Save", "", "Text (*.txt);;DICOM SEG (*.seg.dcm)")
    dialog.acceptMode = qt.QFileDialog.AcceptSave
    assert (
        dialog.exec_()
        and dialog.selectedFiles() == ["/tmp/report"]
        and dialog.selectedNameFilter() == "DICOM SEG (*.seg.dcm)"
    )
    assert qt.QFileDialog.getSaveFileName(None, "Save", "", "") == "/tmp/report"
    application.chosen_path = ""
    assert not dialog.exec_()


def test_a_keyword_that_a_dialog_has_not_is_refused(application):
    slicer.util.errorDisplay("No CT", windowTitle="Lesion Detector", detailedText="nothing")
    assert application.errors == ["No CT"]
    for call in (
        lambda: slicer.util.errorDisplay("No CT", detail="x"),
        lambda: slicer.util.createProgressDialog(label="x"),
    ):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            call()
    application.agrees = False
    assert not slicer.util.confirmOkCancelDisplay("Replace?")


def test_the_ui_file_sets_nothing_that_its_widgets_have_not():
    for widget in ElementTree.parse(MODULE / "Resources/UI/LesionDetector.ui").iter("widget"):
        names = {found.get("name") for found in widget.findall("property") if found.get("stdset") != "0"}
        assert names - slicer_qt.TABLE[widget.get("class")].properties == set(), widget.get("name")


# ------ the table and its sources


@pytest.mark.parametrize("name", [name for name in slicer_qt.TABLE if name.startswith("Q")])
def test_qt_has_what_the_table_says(name):
    table, kind = slicer_qt.TABLE[name], slicer_qt.raw_class(name)
    methods = {**table.methods, **table.statics}.keys() - {"className", "delete"}  # PythonQt's own
    assert [method for method in methods if not hasattr(kind, method)] == []
    if issubclass(kind, QtCore.QObject):
        meta = type(name, (kind,), {}).staticMetaObject  # PySide6 forgets that of a class with its first object
        assert [signature for signature in table.signals if meta.indexOfSignal(signature) < 0] == []
        assert [found for found in table.properties if meta.indexOfProperty(found) < 0] == []


def signature(function) -> str:
    found = inspect.signature(function)
    return str(
        found.replace(
            parameters=[p.replace(annotation=p.empty) for p in found.parameters.values()], return_annotation=found.empty
        )
    )


def in_the_manner_of_the_table(arguments: ast.arguments) -> str:
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if argument is not None:
            argument.annotation = None
    return f"({ast.unparse(arguments)})"


FUNCTIONS = [(path, line) for path, lines in slicer_table.FUNCTIONS.items() for line in lines]


@pytest.mark.parametrize(("path", "line"), FUNCTIONS)
def test_slicers_source_has_the_functions_of_the_table(path, line):
    name, _, arguments = line.partition("(")
    body = ast.parse((slicer_source() / path).read_text()).body
    for part in name.split("."):
        (found,) = [node for node in body if getattr(node, "name", None) == part]
        body = found.body
    expected = ast.parse(f"def f({arguments}: pass").body[0].args
    assert in_the_manner_of_the_table(found.args) == in_the_manner_of_the_table(expected)


@pytest.mark.parametrize(("path", "line"), FUNCTIONS)
def test_the_stand_in_has_the_functions_of_the_table(path, line):
    Application()
    name, _, arguments = line.partition("(")
    module = Path(path).parts[3] if path.startswith("Base") else "SampleData"
    found = importlib.import_module("SampleData" if module == "SampleData" else f"slicer.{module.removesuffix('.py')}")
    for part in name.split("."):
        found = getattr(found, part)
    expected = {}
    exec(f"def f({arguments}: pass", expected)
    if "lambda" in line:
        assert list(inspect.signature(found).parameters) == list(inspect.signature(expected["f"]).parameters)
    else:
        assert signature(found) == signature(expected["f"])


def without_name(parameter: str) -> str:
    """The type of a parameter of a C++ function, as it stands in a signature."""
    kind = re.sub(r"const |&|=.*", "", parameter).strip()
    return re.sub(r"(?<=[\s*])\w+$", "", kind).replace(" ", "")


@pytest.mark.parametrize("name", [name for name in slicer_qt.TABLE if name.startswith(("qMRML", "ctk"))])
def test_the_headers_have_the_properties_signals_and_methods_of_the_table(name):
    folder = ctk_source() / "Libs/Widgets" if name.startswith("ctk") else slicer_source() / "Libs/MRML/Widgets"
    text, table = (folder / f"{name}.h").read_text(), slicer_qt.TABLE[name]
    above = slicer_qt.TABLE[table.base]
    assert table.properties - above.properties - set(re.findall(r"Q_PROPERTY\([\w:<>]+ +(\w+) ", text)) == set()
    for method in table.methods.keys() - above.methods.keys():
        assert re.search(rf"\b{method}\(", text), method
    declared = {
        f"{found}({','.join(map(without_name, given.split(',')))})"
        for found, given in re.findall(r"void (\w+)\(([^)]*)\)", text)
    }
    assert set(table.signals) - set(above.signals) - declared == set()
