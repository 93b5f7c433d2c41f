"""What the headers of DICOM files say: which of them are slices of an axial CT, and where those lie in the patient."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage, SecondaryCaptureImageStorage

from LesionDetectorLib.ct.dicom_marks import COUNTS, HU_TYPES, MARKS, Mark, is_spectral_map, kind, number

NEEDED = [
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
OPTIONAL = [
    *dict.fromkeys(mark.keyword for mark in (*MARKS, *COUNTS) if not mark.macro and mark.keyword not in NEEDED),
    "VolumeBasedCalculationTechnique",
    "RescaleSlope",
    "RescaleIntercept",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
]
TAGS = [*NEEDED, *OPTIONAL]
MAY_BE_DAMAGED = {Tag(keyword) for keyword in OPTIONAL}
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
    """An image that is not a slice of an axial CT; the message goes with "an image ..."."""


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice of a CT: a file, or a frame of a multi-frame file."""

    path: Path
    header: FileDataset
    frame: int
    groups: tuple[Dataset, ...]  # functional groups of a frame, its own before those that all frames share
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
    def series(self) -> str:
        """SeriesInstanceUID, "" where there is none."""
        return str(self.header.get("SeriesInstanceUID") or "")

    @property
    def order(self) -> tuple[int, int, str, int]:
        """Sorts slices of one place by which came first; the file's name has no say."""
        return self.acquisition, self.instance, self.uid or "", self.frame

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """The value of each of MARKS, "" where there is none."""
        return tuple(map(self.says, MARKS))

    def says(self, mark: Mark) -> str:
        """The value of `mark`, "" where there is none."""
        if not mark.macro:
            return said(self.header, mark.keyword)
        keyword, _, axis = mark.keyword.partition(".")
        macro = _macro(mark.macro, *self.groups) if self.groups else Dataset()
        values = said(macro, keyword).split("\\") if axis else [said(macro, keyword)]
        return values[int(axis or 0)] if int(axis or 0) < len(values) else ""

    @cached_property
    def image_type(self) -> str:
        """What the file and the frame say of how the image came about, as in the file: "ORIGINAL\\PRIMARY\\AXIAL"."""
        return _image_type(self.header, self.groups)

    @cached_property
    def kind(self) -> tuple[str, str]:
        """What the image is other than a plain slice, and what follows from that, as `dicom_marks.kind` says it."""
        if str(self.header.get("SOPClassUID") or "").startswith(SecondaryCaptureImageStorage):
            return kind("SCREEN SAVE")
        if is_spectral_map(self.image_type):
            return "a spectral map", "its values may be no Hounsfield units of a CT"
        return kind(self.image_type)

    @property
    def rank(self) -> int:
        """0 for a slice as it was taken, 1 for one that was derived from others, 2 for what is not a slice."""
        return 2 if self.kind[0] else int(any(word in self.image_type.split("\\") for word in ("DERIVED", "SECONDARY")))

    @property
    def padding(self) -> tuple[float, float] | None:
        """The lowest and the highest HU of pixels outside the field of view; None where the header names none."""
        value, limit = (_stored(self.header, keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
        if value is None:
            return None
        transformation = _macro("PixelValueTransformationSequence", *self.groups) if self.groups else self.header
        slope, intercept = (number(said(transformation, name)) for name in ("RescaleSlope", "RescaleIntercept"))
        ends = sorted((slope or 1) * end + (intercept or 0) for end in (value, value if limit is None else limit))
        return ends[0], ends[1]

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
    """The slices of a DICOM file without their pixels, with `tags` or, for None, all of its header.

    None for a file of another kind.

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
    has_pixels = (
        file.read(4) in PIXEL_DATA or header.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    )
    if header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return None
    if "SOPClassUID" not in header or (not has_pixels and header.get("Modality", "CT") == "CT"):
        raise InvalidDicomError(f"{path} has no pixel data")
    for tag in header.keys() - MAY_BE_DAMAGED:  # parses every value, so that a damaged one is found here
        header[tag]
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
        _check_units(said(header, "RescaleType"), _image_type(header, ()))
        return [_slice(path, header, 0, (), header, header, header)]
    shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    if len({_rescale(_macro("PixelValueTransformationSequence", frame, shared[0])) for frame in frames}) > 1:
        raise UnfitError("of frames with unlike rescale values")  # the decoder would apply those of the first
    for frame in frames:
        transformation = _macro("PixelValueTransformationSequence", frame, shared[0])
        _check_units(said(transformation, "RescaleType"), _image_type(header, (frame, shared[0])))
    macros = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    return [
        _slice(path, header, index, (frame, shared[0]), *(_macro(name, frame, shared[0]) for name in macros))
        for index, frame in enumerate(frames)
    ]


def said(dataset: Dataset, keyword: str) -> str:
    """The value of an element as text, its parts joined by "\\" as in the file.

    "" where it is missing, empty or damaged.
    """
    try:
        value = dataset.get(keyword)
    except MALFORMED:
        return ""
    text = "\\".join(map(str, value)) if isinstance(value, (MultiValue, list)) else str("" if value is None else value)
    text = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    # 120 and 120.0 are one value
    return text if number(text) is None else np.format_float_positional(float(text), trim="-")


def _image_type(header: Dataset, groups: tuple[Dataset, ...]) -> str:
    frame = said(_macro("CTImageFrameTypeSequence", *groups), "FrameType") if groups else ""
    texts = (said(header, "ImageType"), frame, said(header, "VolumeBasedCalculationTechnique"))
    return "\\".join(text for text in texts if text)


def _check_units(rescale_type: str, image_type: str) -> None:
    """UnfitError for an image whose values are not Hounsfield units by what its header says."""
    if rescale_type.upper() not in HU_TYPES:
        raise UnfitError(f"of rescale type {rescale_type}, not HU")
    if rescale_type.upper() in ("", "US", "UNSPECIFIED") and is_spectral_map(image_type):
        raise UnfitError(f"of a spectral map ({image_type}), not HU")


def _stored(header: Dataset, keyword: str) -> int | None:
    """A stored pixel value from the header, whose sign the header may tell otherwise than the pixels."""
    value, bits = number(said(header, keyword)), int(header.get("BitsStored") or 16)
    if value is None or not -(2**31) <= value < 2**32:
        return None
    signed = number(said(header, "PixelRepresentation")) == 1
    value = int(value) % 2**bits
    return value - 2**bits if signed and value >= 2 ** (bits - 1) else value


def _macro(name: str, frame: Dataset, shared: Dataset) -> Dataset:
    """The functional group `name` of a frame, its own or the one that all frames share."""
    sequence = frame.get(name) or shared.get(name)
    return sequence[0] if sequence else Dataset()


def _rescale(transformation: Dataset) -> tuple[float, float]:
    return float(transformation.get("RescaleSlope", 1)), float(transformation.get("RescaleIntercept", 0))


def _slice(
    path: Path,
    header: FileDataset,
    frame: int,
    groups: tuple[Dataset, ...],
    position: Dataset,
    orientation: Dataset,
    measures: Dataset,
) -> Slice:
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
        groups,
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
