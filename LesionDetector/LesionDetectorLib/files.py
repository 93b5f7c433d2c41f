"""Writing files and folders so that a reader never sees half of them."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from LesionDetectorLib.scratch import Scratch

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pydicom import FileDataset


def write_text(path: Path | str, content: str) -> None:
    """Write `content` as UTF-8 with the line ends it has; on any failure or Ctrl-C `path` is as it was before.

    Raises OSError.
    """
    write_bytes(path, content.encode())


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write `content`; on any failure or Ctrl-C `path` is as it was before. Raises OSError."""
    with whole(path) as file:
        file.write(content)


@contextmanager
def whole(path: Path | str) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` once all is written, and vanishes on any failure or
    Ctrl-C. Raises OSError.

    Nobody can foretell its name, and it is opened only where there is none: in a shared folder no link leads it astray.
    """
    path = Path(path)
    unfinished = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with unfinished.open("xb") as file:
            yield file
        unfinished.replace(path)
    except OSError as error:
        if error.filename in (None, str(unfinished)):
            error.filename = str(path)  # the name that was asked for; a full disk gives none
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def is_taken(path: Path) -> bool:
    """Whether a new folder cannot be written at `path`: it is a file, or a folder that holds something."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `path` once all is written, and vanishes on any failure or Ctrl-C.
    Raises OSError."""
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with Scratch(f".{path.name}-unfinished-", path.parent) as folder:
        unfinished = folder / "whole"
        unfinished.mkdir()
        yield unfinished
        if path.is_dir():
            path.rmdir()  # one that is not empty stays
        unfinished.replace(path)


def write_figure(path: Path, figure: Figure, **how: Any) -> None:
    """Write a matplotlib figure in the format of its ending; on any failure `path` is as before. Raises OSError."""
    with whole(path) as file:
        figure.savefig(file, format=path.suffix.removeprefix("."), **how)


def write_dicom(path: Path | str, dataset: FileDataset) -> None:
    """Write a DICOM file; on any failure or Ctrl-C `path` is as it was before. Raises OSError."""
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    write_bytes(path, file.getvalue())
