"""Writing a file so that a reader never sees half of it."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import FileDataset


def write_text(path: Path | str, content: str) -> None:
    """Write `content` as UTF-8 with the line ends it has; on any failure or Ctrl-C `path` is as it was before. Raises OSError."""
    write_bytes(path, content.encode())


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write `content`; on any failure or Ctrl-C `path` is as it was before. Raises OSError."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_dicom(path: Path | str, dataset: FileDataset) -> None:
    """Write a DICOM file; on any failure or Ctrl-C `path` is as it was before. Raises OSError."""
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    write_bytes(path, file.getvalue())
