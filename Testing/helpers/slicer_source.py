"""Where the sources are that the stand-in is held against."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def checkout(variable: str, address: str) -> Path:
    """The checkout that an environment variable names; the test is skipped where it names none."""
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"needs a checkout of {address}: set {variable} to it")
    return Path(folder)


def slicer_source() -> Path:
    return checkout("SLICER_SOURCE", "github.com/Slicer/Slicer")


def ctk_source() -> Path:
    return checkout("CTK_SOURCE", "github.com/commontk/CTK")


PYTHONS = {"the stand-in's Python": lambda: None, "Slicer's own Python": slicer_source}
"""The Python on which a module is tested, and where its source is, None for the stand-in's."""
