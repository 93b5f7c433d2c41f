"""Writing a text file so that a reader never sees half of it."""

from __future__ import annotations

import os
from pathlib import Path


def write_text(path: Path | str, content: str) -> None:
    """Write `content` as UTF-8 with the line ends it has; on any failure or Ctrl-C `path` is as it was before. Raises OSError."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_text(content, encoding="utf-8", newline="")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
