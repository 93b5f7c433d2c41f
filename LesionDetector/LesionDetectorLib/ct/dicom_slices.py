"""What the headers of DICOM files say: which of them are slices of an axial CT, and where those lie in the patient."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage

TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "StudyID",
    "SeriesNumber",
    "AcquisitionNumber",
    "InstanceNumber",
    "Modality",
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsStored",
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
PIXEL_DATA = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")  # the tag in little and big endian
WITHOUT_PREAMBLE = (b"\x08\x00", b"\x02\x00")  # the group that a file begins with that lacks the 128 bytes before DICM
AXIAL = np.cos(np.radians(45))  # of the largest angle between an axial slice's normal and the body's axis
# What pydicom raises on a file that breaks off or is filled in wrongly.
MALFORMED = (
    InvalidDicomError,
    BytesLengthException,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    NotImplementedError,
    struct.error,
)


class UnfitError(ValueError):
    """An image that is no slice of an axial CT; the message goes with "an image ..."."""


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice of a CT: a file, or a frame of a multi-frame file."""

    path: Path
    header: FileDataset
    frame: int
    shape: tuple[int, int]  # rows, columns
    origin: np.ndarray  # LPS mm of pixel (0, 0)
    row: np.ndarray  # LPS unit vector along a row, i
    column: np.ndarray  # LPS unit vector along a column, j
    spacing: tuple[float, float]  # mm along i, j
    thickness: float  # mm, 0 where unknown
    acquisition: int
    instance: int

    @property
    def normal(self) -> np.ndarray:
        """LPS unit vector across the slice, towards the head."""
        normal = np.cross(self.row, self.column)
        return normal if normal[2] > 0 else -normal

    @property
    def uid(self) -> str | None:
        """SOPInstanceUID."""
        return str(self.header.get("SOPInstanceUID") or "") or None

    @property
    def order(self) -> tuple[int, str, int]:
        """Sorts slices of one place by which came first."""
        return self.instance, self.path.name, self.frame

    @property
    def plane(self) -> tuple[float, ...]:
        """What slices of one stack share: directions, matrix and pixel spacing."""
        return (*np.round([*self.row, *self.column], 2), *self.shape, *np.round(self.spacing, 4))


@dataclass(frozen=True, eq=False)
class Image:
    """What one DICOM file holds: slices of an axial CT, or else why it holds none."""

    path: Path
    series: str  # SeriesInstanceUID, "" where there is none
    slices: list[Slice]
    unfit: str = ""  # goes with "an image ..."


def read_image(path: Path, tags: list[str] | None = TAGS) -> Image | None:
    """The slices of a DICOM file without their pixels, with `tags` or, for None, all of its header; None for a file of another kind.

    Raises one of MALFORMED where the file is damaged or breaks off before its pixels.
    """
    with path.open("rb") as file:
        try:
            return _parse(path, file, tags)
        except OSError as error:  # pydicom's word for a sequence that breaks off
            raise InvalidDicomError(str(error)) from error


def _parse(path: Path, file: BinaryIO, tags: list[str] | None) -> Image | None:
    start = file.read(132)
    if start[128:] != b"DICM" and not start.startswith(WITHOUT_PREAMBLE):
        return None
    file.seek(0)
    header = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=tags)
    has_pixels = file.read(4) in PIXEL_DATA or header.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    if header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return None
    if "SOPClassUID" not in header or (not has_pixels and header.get("Modality", "CT") == "CT"):
        raise InvalidDicomError(f"{path} has no pixel data")
    list(header)  # parses every value, so that a damaged one is found here
    series = str(header.get("SeriesInstanceUID") or "")
    try:
        return Image(path, series, _slices(path, header))
    except UnfitError as error:
        return Image(path, series, [], str(error))


def _slices(path: Path, header: FileDataset) -> list[Slice]:
    """The slices of a file; UnfitError says why it has none."""
    modality = header.get("Modality")
    if modality != "CT":
        raise UnfitError(f"of modality {modality}, not CT")
    if header.get("SamplesPerPixel", 1) != 1:
        raise UnfitError("in colour")
    if "LOCALIZER" in (header.get("ImageType") or ()):
        raise UnfitError("of the localizer")
    if header.get("BitsStored", 16) <= 8:
        raise UnfitError("of 8 bits, too few for Hounsfield units")
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise UnfitError("of many frames that have no position")
        return [_slice(path, header, 0, header, header, header)]
    shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    if len({_rescale(_macro("PixelValueTransformationSequence", frame, shared[0])) for frame in frames}) > 1:
        raise UnfitError("of frames with unlike rescale values")  # the decoder would apply those of the first
    macros = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    return [_slice(path, header, number, *(_macro(name, frame, shared[0]) for name in macros)) for number, frame in enumerate(frames)]


def _macro(name: str, frame: Dataset, shared: Dataset) -> Dataset:
    """The functional group `name` of a frame, its own or the one that all frames share."""
    sequence = frame.get(name) or shared.get(name)
    return sequence[0] if sequence else Dataset()


def _rescale(transformation: Dataset) -> tuple[float, float]:
    return float(transformation.get("RescaleSlope", 1)), float(transformation.get("RescaleIntercept", 0))


def _slice(path: Path, header: FileDataset, frame: int, position: Dataset, orientation: Dataset, measures: Dataset) -> Slice:
    origin = _numbers(position.get("ImagePositionPatient"), 3)
    axes = _numbers(orientation.get("ImageOrientationPatient"), 6)
    spacing = _numbers(measures.get("PixelSpacing"), 2)
    if origin is None or axes is None:
        raise UnfitError("without a position or orientation in the patient")
    if spacing is None or spacing.min() <= 0:
        raise UnfitError("with a pixel spacing that is missing or zero")
    row, column = axes[:3], axes[3:]
    if abs(np.linalg.norm(row) - 1) > 0.01 or abs(np.linalg.norm(column) - 1) > 0.01 or abs(row @ column) > 0.01:
        raise UnfitError("with an orientation that is not two unit vectors at right angles")
    row = row / np.linalg.norm(row)
    column = column - row * (row @ column)
    column /= np.linalg.norm(column)
    if abs(np.cross(row, column)[2]) < AXIAL:
        raise UnfitError("off the axial plane")
    return Slice(
        path,
        header,
        frame,
        shape=(int(header.Rows), int(header.Columns)),
        origin=origin,
        row=row,
        column=column,
        spacing=(float(spacing[1]), float(spacing[0])),
        thickness=float(measures.get("SliceThickness") or 0),
        acquisition=int(header.get("AcquisitionNumber") or 0),
        instance=int(header.get("InstanceNumber") or 0),
    )


def _numbers(values: Iterable | None, count: int) -> np.ndarray | None:
    """`values` as `count` finite numbers, None where they are not."""
    numbers = np.array([] if values is None else list(values), dtype=float)
    return numbers if numbers.shape == (count,) and np.isfinite(numbers).all() else None
