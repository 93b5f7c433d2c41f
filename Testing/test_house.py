"""The rules of the house: who may import whom, how long a file and a function may be, and that its picture is true."""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
LIB = "LesionDetectorLib"
GROUND_FLOOR = {
    f"{LIB}{name}"
    for name in (
        *("", ".lesion", ".reading", ".ct.geometry", ".boxes", ".files", ".looks", ".regrid", ".captions"),
        *(".printable", ".refusal", ".scratch", ".spreadsheet", ".words"),
    )
}
ALLOWED = {
    "torch": (f"{LIB}.models", f"{LIB}.slices", f"{LIB}.detect", f"{LIB}.pipeline", f"{LIB}.cli", "train"),
    "torchvision": (f"{LIB}.models", f"{LIB}.cli", "train"),
    "slicer": (f"{LIB}.scene", f"{LIB}.panel", "LesionDetector"),
    "vtk": (f"{LIB}.panel", "LesionDetector"),
    "qt": (f"{LIB}.panel", "LesionDetector"),
    "train": ("train",),
    f"{LIB}.panel": (f"{LIB}.panel", "LesionDetector"),
}
"""What only some rooms may import."""
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 500, 60
MAIN_ROAD = {"detect", "fuse", "stack", "plausible", "levels", "pipeline"}


@cache
def sources() -> dict[str, str]:
    """The source of every module of the library, the Slicer module and `train`, by its name."""
    found = {}
    for base, folder in ((PROJECT / "LesionDetector", LIB), (PROJECT, "train")):
        for path in (base / folder).rglob("*.py"):
            found[".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")] = path.read_text()
    return {**found, "LesionDetector": (PROJECT / "LesionDetector/LesionDetector.py").read_text()}


def imports(code: str, modules: dict[str, str]) -> set[str]:
    """What a module imports when it runs, at its top or in a function, those of the house by their modules."""
    tree = ast.parse(code)
    for_types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    left_out = {id(inner) for node in for_types for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else node.module for name in names}
        elif isinstance(node, ast.Constant) and re.fullmatch(rf"{LIB}[\w.]+:\w+", str(node.value)):
            found.add(node.value.partition(":")[0])  # what formats.py imports when it is asked for
    return found


def offences(modules: dict[str, str]) -> list[str]:
    """What in these modules is against the rules, a sentence each."""
    graph = {name: imports(code, modules) for name, code in modules.items()}
    found = []
    try:
        list(TopologicalSorter({name: used & graph.keys() for name, used in graph.items()}).static_order())
    except CycleError as error:
        found.append(f"a circle of imports: {' -> '.join(error.args[1])}")
    for name, used in graph.items():
        if name in GROUND_FLOOR:
            found += [f"{name} imports {other} above it" for other in (used & graph.keys()) - GROUND_FLOOR]
        for wanted, rooms in ALLOWED.items():
            if any(_is_in(other, wanted) for other in used) and not any(_is_in(name, room) for room in rooms):
                found.append(f"{name} imports {wanted}")
    return found


def _is_in(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


def test_the_rules_of_importing_hold():
    assert offences(sources()) == []


@pytest.mark.parametrize(
    ("name", "line", "against"),
    [
        ("looks", "from LesionDetectorLib.scene import markups", "circle"),
        ("boxes", "from LesionDetectorLib.slices import Recipe", "above it"),
        ("report.text", "import torch", "imports torch"),
        ("child", "def start():\n    from torch import nn", "imports torch"),
        ("report.page", "import slicer", "imports slicer"),
        ("scene.overlay", "import qt", "imports qt"),
        ("detect", "from train.data import crops", "imports train"),
    ],
)
def test_an_offence_against_them_is_seen(name, line, against):
    changed = {**sources(), f"{LIB}.{name}": f"{sources()[f'{LIB}.{name}']}\n{line}\n"}
    assert any(against in sentence for sentence in offences(changed))


def test_no_file_and_no_function_is_too_long():
    for name, code in sources().items():
        assert code.count("\n") <= LINES_OF_A_FILE, name
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < LINES_OF_A_FUNCTION, f"{name}.{node.name}"


def test_no_test_imports_a_test():
    for path in (PROJECT / "Testing").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) (Testing\.)?([\w.]+\.)?test_\w+", path.read_text(), re.MULTILINE), path


def room_of(module: str) -> str:
    """The room of a module in the picture; "" for the ground floor, which all rooms stand on."""
    parts = module.split(".")
    if module in GROUND_FLOOR:
        return ""
    if parts[0] == "train":
        return f"train/{parts[1]}" if len(parts) > 2 or "train/" + parts[-1] in _rooms_of_train() else "train"
    if len(parts) == 1:
        return "LesionDetector"
    return "detect" if parts[1] in MAIN_ROAD else parts[1]


@cache
def _rooms_of_train() -> set[str]:
    return {f"train/{path.name}" for path in (PROJECT / "train").iterdir() if path.is_dir()}


def test_the_picture_of_the_architecture_is_true():
    """Its arrows are the imports between rooms, all of them and no others."""
    modules = sources()
    arrows = set()
    for name, code in modules.items():
        for other in imports(code, modules) & modules.keys():
            arrows.add((room_of(name), room_of(other)))
    arrows = {(one, other) for one, other in arrows if one and other and one != other}
    page = (PROJECT / "docs/architecture.md").read_text()
    drawn = set(re.findall(r"^ +([\w/]+) --> ([\w/]+)$", page, re.MULTILINE))
    assert drawn == arrows, f"draw {sorted(arrows - drawn)}, rub out {sorted(drawn - arrows)}"
