"""A Slicer in which every package is installed."""

from __future__ import annotations

from packaging.requirements import Requirement


def load_requirements(path):
    with open(path) as file:  # noqa: PTH123
        lines = [line.strip() for line in file]
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def pip_ensure(
    requirements,
    constraints=None,
    skip_packages=None,
    prompt_install=True,
    prompt_restart=True,
    requester=None,
    skip_in_testing=True,
    show_progress=True,
):
    return []


def pip_check(req, _seen=None):
    return True
