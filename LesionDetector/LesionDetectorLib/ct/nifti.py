"""What ITK hides about a NIfTI file: that it breaks off, that its spacing is 0, that voxels hold no number."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813

SUFFIXES = (".nii", ".nii.gz")
FLOATING_POINT = ("16", "64")  # codes of NIfTI's datatype
TOLERANCE = 0.1  # voxels
VERSION_1, VERSION_2 = 348, 540  # bytes of the header, with which a file begins


def is_nifti(path: Path) -> bool:
    """Whether the name of `path` is that of a NIfTI file."""
    return path.name.lower().endswith(SUFFIXES)


def is_misnamed(path: Path) -> bool:
    """Whether a file is compressed though its name says that it is not, or the reverse."""
    with path.open("rb") as file:
        start = file.read(4)
    if path.suffix.lower() == ".gz":
        return any(int.from_bytes(start, order) in (VERSION_1, VERSION_2) for order in ("little", "big"))
    return start.startswith(b"\x1f\x8b")


def forms_apart(path: Path) -> float:
    """How far the corners of the image lie apart, in mm, by its qform and by its sform.

    0 where the file has one of them alone, or where both agree to a tenth of a voxel.
    """
    header = _Header.of(path)
    if not (header.qform_code > 0 and header.sform_code > 0):
        return 0.0
    corners = np.array([(0, 0, 0, 1), *(np.append(row, 1) for row in np.diag(header.size - 1))]).T
    apart = float(np.abs((header.qform - header.sform) @ corners).max())
    return apart if apart > TOLERANCE * np.abs(header.spacing).min() else 0.0


def directions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The unit vectors in RAS of the voxel axes by the qform and by the sform, as columns: (3, 3) each."""
    header = _Header.of(path)
    return tuple(form[:3, :3] / np.linalg.norm(form[:3, :3], axis=0) for form in (header.qform, header.sform))


@dataclass(frozen=True)
class _Header:
    """What a header says of where the voxels lie, as stored: the two codes, and the matrices (3, 4) from voxel
    indices to RAS."""

    size: np.ndarray
    spacing: np.ndarray
    qform_code: int
    sform_code: int
    qform: np.ndarray
    sform: np.ndarray

    @classmethod
    def of(cls, path: Path) -> _Header:
        with _open(path) as file:
            header = file.read(VERSION_2)
        order = _byte_order(header)
        if _is_version_2(header):
            real, whole, code = "f8", "i8", "i4"
            at = {"size": 24, "pixdim": 104, "codes": 344, "qform": 352, "sform": 400}
        else:
            real, whole, code = "f4", "i2", "i2"
            at = {"size": 42, "pixdim": 76, "codes": 252, "qform": 256, "sform": 280}

        def numbers(kind: str, count: int, offset: int) -> np.ndarray:
            return np.frombuffer(header, f"{order}{kind}", count, offset).astype(float)

        size = np.maximum(numbers(whole, 3, at["size"]), 1)
        pixdim = numbers(real, 4, at["pixdim"])
        qform_code, sform_code = map(int, numbers(code, 2, at["codes"]))
        quaternion, offset = np.split(numbers(real, 6, at["qform"]), 2)
        sform = numbers(real, 12, at["sform"]).reshape(3, 4)
        qform = np.column_stack([_rotation(quaternion) * (1, 1, -1 if pixdim[0] < 0 else 1) * pixdim[1:], offset])
        return cls(size, pixdim[1:], qform_code, sform_code, qform, sform)


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) of the b, c, d of a NIfTI header."""
    b, c, d = quaternion
    a = math.sqrt(max(1 - b * b - c * c - d * d, 0.0))
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )


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
    return _Header.of(path).spacing


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


def _open(path: Path) -> IO[bytes]:
    file: Any = gzip.open if path.suffix.lower() == ".gz" else open
    return file(path, "rb")


def _byte_order(start: bytes) -> str:
    return "<" if int.from_bytes(start[:4], "little") in (VERSION_1, VERSION_2) else ">"


def _is_version_2(header: bytes) -> bool:
    return VERSION_2 in (int.from_bytes(header[:4], order) for order in ("little", "big"))


def _offset(reader: sitk.ImageFileReader) -> int:
    return int(float(reader.GetMetaData("vox_offset")))


def _width(reader: sitk.ImageFileReader) -> int:
    return int(reader.GetMetaData("bitpix")) // 8
