"""What ITK hides about a NIfTI file: that it breaks off, that its spacing is 0, that voxels hold no number."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813

SUFFIXES = (".nii", ".nii.gz")
FLOATING_POINT = ("16", "64")  # codes of NIfTI's datatype
VERSION_1, VERSION_2 = 348, 540  # bytes of the header, with which a file begins


def is_nifti(path: Path) -> bool:
    """Whether the name of `path` is that of a NIfTI file."""
    return path.name.lower().endswith(SUFFIXES)


def is_cut_off(path: Path, reader: sitk.ImageFileReader) -> bool:
    """Whether a file has fewer bytes than its header, in `reader`, asks for."""
    wanted = _offset(reader) + math.prod(reader.GetSize()) * _width(reader)
    if path.suffix.lower() != ".gz":
        return path.stat().st_size < wanted
    with path.open("rb") as file:
        file.seek(-4, 2)
        if int.from_bytes(file.read(4), "little") == wanted % 2**32:  # gzip ends with the length of what it holds
            return False
    with gzip.open(path) as file:  # several gzip streams, or bytes after the voxels: count them
        try:
            return sum(map(len, iter(lambda: file.read(1 << 20), b""))) < wanted
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return True


def spacing(path: Path) -> np.ndarray:
    """(3,) voxel spacing as stored; ITK would put 1 in the place of 0."""
    with _open(path) as file:
        header = file.read(VERSION_2)
    order = _byte_order(header)
    is_version_2 = np.frombuffer(header, f"{order}i4", 1)[0] == VERSION_2
    return np.frombuffer(header, f"{order}f8", 3, 112) if is_version_2 else np.frombuffer(header, f"{order}f4", 3, 80)


def not_numbers(path: Path, reader: sitk.ImageFileReader) -> np.ndarray:
    """Flat indices, in the order of the file, of the voxels that are NaN or infinite; ITK would read them as 0."""
    if reader.GetMetaData("datatype") not in FLOATING_POINT:
        return np.array([], dtype=int)
    width, (columns, rows, *planes) = _width(reader), reader.GetSize()
    with _open(path) as file:
        dtype = f"{_byte_order(file.read(4))}f{width}"
        file.seek(_offset(reader))
        found = []
        for k in range(math.prod(planes)):
            plane = np.frombuffer(file.read(rows * columns * width), dtype)
            found.append(k * rows * columns + np.flatnonzero(~np.isfinite(plane)))
    return np.concatenate(found)


def _open(path: Path) -> BinaryIO:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


def _byte_order(start: bytes) -> str:
    return "<" if int.from_bytes(start[:4], "little") in (VERSION_1, VERSION_2) else ">"


def _offset(reader: sitk.ImageFileReader) -> int:
    return int(float(reader.GetMetaData("vox_offset")))


def _width(reader: sitk.ImageFileReader) -> int:
    return int(reader.GetMetaData("bitpix")) // 8
