"""Folders for what a run needs or has not finished: the next run knows those of a run that was killed, and deletes
them.

A run holds a lock on a file in its folder, and the system lets go of it when the process ends, however it ends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from time import time
from typing import IO, Any

OWNER = ".owner"
"""The locked file. It holds something once it is locked: a folder whose file is still empty is being made."""
DAY = 24 * 60 * 60


class Scratch:
    """A new folder in `parent`, at `path`; those of earlier runs with this prefix that were killed are deleted before.

    Raises OSError.
    """

    def __init__(self, prefix: str, parent: Path | str) -> None:
        for folder in Path(parent).iterdir():
            if folder.name.startswith(prefix) and _is_abandoned(folder):
                _delete(folder)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._owner = (self.path / OWNER).open("wb", buffering=0)
        if _lock(self._owner, wait=True):
            self._owner.write(b"1")

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error: object) -> None:
        self.delete()

    def delete(self) -> None:
        """Delete the folder.

        If a file is still open, as on Windows in a process that is being ended, the next run does it.
        """
        self._owner.close()
        _delete(self.path)


def _delete(folder: Path) -> None:
    """Delete a folder, its owner last: what is left on a failure is found again."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != OWNER:
                path.unlink()
        shutil.rmtree(folder)


def _is_abandoned(folder: Path) -> bool:
    """Whether the process that made the folder has ended; False for one of another user, or that no `Scratch` made."""
    try:
        if folder.is_symlink() or not folder.is_dir() or (os.name == "posix" and folder.stat().st_uid != os.getuid()):
            return False
        if not (folder / OWNER).exists():
            return not any(folder.iterdir()) and folder.stat().st_mtime < time() - DAY
        with (folder / OWNER).open("r+b") as owner:
            return _lock(owner, wait=False) and os.fstat(owner.fileno()).st_size > 0
    except OSError:
        return False


def _lock(file: IO[bytes], wait: bool) -> bool:
    """Lock a file for as long as it is open; False where another has it locked, or the file system knows no locks."""
    try:
        if os.name == "posix":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        else:
            import msvcrt

            windows: Any = msvcrt
            windows.locking(file.fileno(), windows.LK_LOCK if wait else windows.LK_NBLCK, 1)
    except OSError:
        return False
    return True
