"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real CT data, which is not part of the project."""
    folder = Path(os.environ.get("LESION_DATA") or PROJECT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"needs real CT data, and {folder} is absent; set LESION_DATA to the folder that holds it")
    return folder
