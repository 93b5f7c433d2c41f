"""Writing files and folders so that a reader never sees half of them."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def new_results(out: Path, results: Callable[[Path], list[Path]]) -> Iterator[Path]:
    """A folder to write results into, which move to `out` once all are written; on any failure or Ctrl-C `out` is as it
    was before.

    A new folder appears at once and whole. In one that there is, an older run's results, as `results` lists them
    relative to a folder, give way, and everything else stays. Raises OSError.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with Scratch(f".{out.name}-unfinished-", out if out.is_dir() else out.parent) as folder:
        whole = folder / "whole"
        whole.mkdir()
        yield whole
        if out.is_dir():
            replace_results(whole, out, folder / "old", results)
        else:
            whole.replace(out)


def replace_results(new: Path, out: Path, old: Path, results: Callable[[Path], list[Path]]) -> None:
    """Move the `results` in `out` to `old`, all of them, and those in `new` to `out`.

    If one cannot be moved, `out` is as before.

    The first of them goes first and comes last: `out` never holds results of two runs, and those beside it are whole.
    """
    outdated, fresh = results(out), results(new)[::-1]
    try:
        for result in outdated:
            _move(out / result, old / result)
        for result in fresh:
            _move(new / result, out / result)
    except BaseException:
        for result in fresh:
            if not (new / result).exists():
                _move(out / result, new / result)
        for result in outdated[::-1]:
            if not (out / result).exists():
                _move(old / result, out / result)
        raise
    for folder in {(out / result).parent for result in outdated} - {out}:
        with suppress(OSError):  # the user's files are in it
            folder.rmdir()


def _move(old: Path, new: Path) -> None:
    new.parent.mkdir(parents=True, exist_ok=True)
    old.replace(new)


def write_figure(path: Path, figure: Figure, **how: Any) -> None:
    """Write a matplotlib figure in the format of its ending; on any failure `path` is as before. Raises OSError."""
    with whole(path) as file:
        figure.savefig(file, format=path.suffix.removeprefix("."), **how)


def write_dicom(path: Path | str, dataset: FileDataset) -> None:
    """Write a DICOM file; on any failure or Ctrl-C `path` is as it was before. Raises OSError."""
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    write_bytes(path, file.getvalue())
