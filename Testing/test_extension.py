"""What Slicer's build, its extension index and its module loader read, and the module's logic and panel on slicer-core."""

from __future__ import annotations

import importlib.util
import json
import re
import struct
import sys
import types
import unittest
import xml.etree.ElementTree as ET
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import PROJECT
from LesionDetectorLib import scene as lesion_scene

MODULE = PROJECT / "LesionDetector"


def cmake_list(name: str) -> set[str]:
    text = (MODULE / "CMakeLists.txt").read_text()
    entries = re.search(rf"set\({name}\s(.*?)\)", text, re.S).group(1).split()
    return {entry.replace("${MODULE_NAME}", "LesionDetector") for entry in entries}


def files(*patterns: str) -> set[str]:
    found = {path for pattern in patterns for path in MODULE.glob(pattern) if path.is_file() and "__pycache__" not in path.parts}
    return {path.relative_to(MODULE).as_posix() for path in found}


def test_cmake_packages_every_file():
    assert cmake_list("MODULE_PYTHON_SCRIPTS") == files("*.py", "LesionDetectorLib/**/*.py")
    resources = files("Resources/**/*", "LesionDetectorLib/**/*") - files("LesionDetectorLib/**/*.py")
    assert cmake_list("MODULE_PYTHON_RESOURCES") == resources


def test_ctest_runs_every_test():
    registered = (MODULE / "Testing/Python/CMakeLists.txt").read_text()
    for path in (MODULE / "Testing/Python").glob("*.py"):
        assert f"slicer_add_python_unittest(SCRIPT {path.name})" in registered
    assert "slicer_add_python_unittest(SCRIPT ${MODULE_NAME}.py)" in (MODULE / "CMakeLists.txt").read_text()


def test_the_index_entry_fits_the_project():
    top = (PROJECT / "CMakeLists.txt").read_text()
    project = re.search(r"project\((\w+)\)", top).group(1)
    entry = json.loads((PROJECT / f"{project}.json").read_text())
    assert not project.startswith("Slicer")
    assert {"$schema", "category", "scm_url"} <= entry.keys()
    assert entry["dicom_support_rule"] == "Modality == 'CT'"
    for name in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        assert re.search(rf'set\(EXTENSION_{name} ".+"\)', top)
    local = re.search(r'EXTENSION_ICONURL ".*?/main/(.+?)"', top).group(1)
    assert (PROJECT / local).is_file()


def test_the_icon_is_a_png_of_128_pixels():
    header = (MODULE / "Resources/Icons/LesionDetector.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", header[16:24]) == (128, 128)


def test_the_panel_has_every_widget_that_the_module_uses():
    names = {widget.get("name") for widget in ET.parse(MODULE / "Resources/UI/LesionDetector.ui").iter("widget")}
    used = set(re.findall(r"self\.ui\.(\w+)", (MODULE / "LesionDetector.py").read_text()))
    assert used <= names


class ModuleBase:
    def __init__(self, parent=None):
        self.parent = parent
        self.layout = SimpleNamespace(addWidget=lambda widget: None)

    def setup(self):
        pass

    def resourcePath(self, name):  # noqa: N802
        return str(MODULE / "Resources" / name)


class Widget(SimpleNamespace):
    """A widget that remembers its properties and forgets its connections."""

    def connect(self, signal, slot):
        pass

    def setMRMLScene(self, scene):  # noqa: N802
        pass

    def currentNode(self):  # noqa: N802
        return self.node


@pytest.fixture
def slicer(monkeypatch):
    """slicer-core with as much of the application around it as the module needs to load."""
    slicer = pytest.importorskip("slicer", reason="needs slicer-core: pip install 'lesion-detector[scene]'")
    module_classes = types.ModuleType("slicer.ScriptedLoadableModule")
    for name in ("", "Widget", "Logic"):
        setattr(module_classes, f"ScriptedLoadableModule{name}", ModuleBase)
    module_classes.ScriptedLoadableModuleTest = unittest.TestCase
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr = str
    i18n.translate = lambda context, text: text
    monkeypatch.setitem(sys.modules, "slicer.ScriptedLoadableModule", module_classes)
    monkeypatch.setitem(sys.modules, "slicer.i18n", i18n)
    monkeypatch.setattr(slicer, "mrmlScene", lesion_scene.new_scene(), raising=False)
    return slicer


def load(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(test: unittest.TestSuite) -> None:
    result = unittest.TestResult()
    test.run(result)
    assert result.wasSuccessful(), "\n".join(trace for _, trace in result.errors + result.failures)
    assert result.testsRun > 0


def test_the_modules_own_test_passes(slicer, monkeypatch, tmp_path):
    monkeypatch.setattr(slicer.util, "tempDirectory", lambda: str(tmp_path), raising=False)
    run(load(MODULE / "LesionDetector.py").LesionDetectorTest("runTest"))


def test_slicers_own_tests_pass(slicer):
    run(unittest.defaultTestLoader.loadTestsFromModule(load(MODULE / "Testing/Python/LesionDetectorSceneTest.py")))


def test_slicer_knows_the_module(slicer):
    parent = SimpleNamespace()
    load(MODULE / "LesionDetector.py").LesionDetector(parent)
    assert parent.title == "Lesion Detector"
    assert parent.categories == ["Quantification"]
    assert "Not a medical device" in parent.helpText


def test_the_panel_says_what_is_missing_and_shows_lesions(slicer, monkeypatch, tmp_path):
    ui = SimpleNamespace(
        volumeSelector=Widget(node=None), lesionsPath=Widget(currentPath=""), showButton=Widget(), statusLabel=Widget(text="")
    )
    monkeypatch.setattr(slicer.util, "loadUI", lambda path: Widget(), raising=False)
    monkeypatch.setattr(slicer.util, "childWidgetVariables", lambda panel: ui, raising=False)
    monkeypatch.setattr(slicer.util, "tryWithErrorDisplay", lambda message, **options: nullcontext())
    widget = load(MODULE / "LesionDetector.py").LesionDetectorWidget()
    widget.setup()
    assert not ui.showButton.enabled
    assert ui.showButton.toolTip == "Choose the CT first."
    ui.volumeSelector.node = object()
    widget.updateButton()
    assert ui.showButton.toolTip == "Choose the lesions.json of this CT first."
    ui.lesionsPath.currentPath = str(tmp_path / "lesions.json")
    (tmp_path / "lesions.json").write_text("{}")
    widget.updateButton()
    assert ui.showButton.enabled
    monkeypatch.setattr(widget.logic, "showLesions", lambda node, path: 3, raising=False)
    widget.onShow()
    assert ui.statusLabel.text == "3 lesions shown."
