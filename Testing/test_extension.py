"""What Slicer's build and its extension index read."""

from __future__ import annotations

import json
import re
import struct
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
MODULE = PROJECT / "LesionDetector"


def cmake_list(name: str) -> set[str]:
    text = (MODULE / "CMakeLists.txt").read_text()
    entries = re.search(rf"set\({name}\s(.*?)\)", text, re.S).group(1).split()
    return {entry.replace("${MODULE_NAME}", "LesionDetector") for entry in entries}


def files(*patterns: str) -> set[str]:
    found = {
        path
        for pattern in patterns
        for path in MODULE.glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }
    return {path.relative_to(MODULE).as_posix() for path in found}


def test_cmake_packages_every_file():
    assert cmake_list("MODULE_PYTHON_SCRIPTS") == files("*.py", "LesionDetectorLib/**/*.py")
    resources = files("Resources/**/*", "LesionDetectorLib/**/*") - files("LesionDetectorLib/**/*.py")
    assert cmake_list("MODULE_PYTHON_RESOURCES") == resources


def test_pip_installs_every_package_and_what_lies_beside_it():
    given = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {path.parent.relative_to(MODULE) for path in MODULE.glob("LesionDetectorLib/**/__init__.py")}
    assert set(given["packages"]) == {".".join(package.parts) for package in packages}
    beside = files(*(f"LesionDetectorLib/{pattern}" for pattern in given["package-data"]["LesionDetectorLib"]))
    assert beside == files("LesionDetectorLib/**/*") - files("LesionDetectorLib/**/*.py")


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
    assert "dicom_support_rule" not in entry, "Slicer would offer a research tool to whoever imports a CT"
    assert entry["scm_url"].endswith(f"/Slicer{project}.git")
    for name in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        assert re.search(rf'set\(EXTENSION_{name} ".+"\)', top)
    assert re.search(r'EXTENSION_CONTRIBUTORS "[^"(]+ \([^")]+\)"', top), (
        "names with their organization, as the index asks"
    )
    local = re.search(r'EXTENSION_ICONURL ".*?/main/(.+?)"', top).group(1)
    assert (PROJECT / local).is_file()


def test_the_icon_is_a_png_of_128_pixels():
    header = (MODULE / "Resources/Icons/LesionDetector.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", header[16:24]) == (128, 128)


def test_the_panel_has_every_widget_that_the_module_uses():
    names = {widget.get("name") for widget in ET.parse(MODULE / "Resources/UI/LesionDetector.ui").iter("widget")}
    sources = [path.read_text() for path in (MODULE / "LesionDetectorLib/panel").glob("*.py")]
    used = set(re.findall(r"(?:self\.|\b)ui\.(\w+)", "".join(sources)))
    assert used <= names
