"""The data sets that a detector learns from and is measured on: one table, by what lies in their folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from train.data import part_marked
from train.data.deeplesion import DeepLesionError, KeySlice, read_info

Reader = Callable[[Path, str | None], Sequence[KeySlice]]

# A new data set is a file that reads its folder into key slices, and a row here. The key is the name of a file that
# only folders of that data set hold.
READERS: dict[str, Reader] = {"DL_info.csv": read_info, "boxes.csv": part_marked.read}


def read(source: Path, split: str | None = None) -> list[KeySlice]:
    """The key slices of a folder, or of a csv in the form of DeepLesion's; `split` keeps "train", "val" or "test".

    DeepLesionError, or the Refusal of the data set's reader, names a file that is missing or cannot be read.
    """
    if source.suffix.lower() == ".csv":
        return read_info(source, split)
    for marker, reader in READERS.items():
        if (source / marker).exists():
            return list(reader(source, split))
    raise DeepLesionError(
        f"{source} is not a folder of a data set, which needs {' or '.join(READERS)}; give another, or a csv beside "
        "Images_png."
    )


def with_share(entry: str) -> tuple[str, float]:
    """A data set as a command line names it, and how often it is drawn beside others: "DATA=2", or "DATA" for once.

    Raises DeepLesionError where the share is no number.
    """
    name, _, share = entry.partition("=")
    try:
        return name, float(share or 1)
    except ValueError as error:
        raise DeepLesionError(f"{entry}: {share} is no number; write how often {name} is drawn as {name}=2.") from error
