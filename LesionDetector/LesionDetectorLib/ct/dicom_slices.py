"""What the headers of DICOM files say: which of them are slices of an axial CT, and where those lie in the patient."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage

from .volume import AIR

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
    "SeriesDescription",
    "RescaleType",
    "RescaleSlope",
    "RescaleIntercept",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "NominalPercentageOfCardiacPhase",
    "TriggerTime",
    "KVP",
    "ConvolutionKernel",
    "ContrastBolusAgent",
]
"""Headers that help to choose among images, and without which a slice can be read: a damaged one counts as missing."""
TAGS = [*NEEDED, *OPTIONAL]
MAY_BE_DAMAGED = {tag_for_keyword(keyword) for keyword in OPTIONAL}
HOUNSFIELD = ("", "HU", "HU_MOD", "US")  # RescaleType of Hounsfield units, or of units that are not specified
SCREEN = "1.2.840.10008.5.1.4.1.1.7"  # begins the SOP classes of secondary captures
TELLING = {
    "TemporalPositionIndex": "temporal position",
    "TemporalPositionIdentifier": "temporal position",
    "TemporalPositionTimeOffset": "time offset in s",
    "NominalPercentageOfCardiacPhase": "cardiac phase in %",
    "TriggerTime": "trigger time in ms",
    "KVP": "tube voltage in kV",
    "ConvolutionKernel": "kernel",
    "ImageType": "image type",
    "FrameType": "image type",
    "ContrastBolusAgent": "contrast agent",
    "StackID": "stack",
    "FrameAcquisitionNumber": "acquisition",
    "SeriesDescription": "description",
}
"""Headers that may tell images at one place from each other, the most telling first, and what they are called."""
FRAME_GROUPS = (
    *("FrameContentSequence", "TemporalPositionSequence", "CardiacSynchronizationSequence", "CTXRayDetailsSequence"),
    *("CTReconstructionSequence", "CTImageFrameTypeSequence"),
)
KINDS = {
    "a maximum intensity projection": r"\b(MIP|MAX[ _]?IP|MAXIMUM INTENSITY)\b",
    "a minimum intensity projection": r"\b(MIN[ _]?IP|MINIMUM INTENSITY)\b",
    "a projection or average of slices": r"\b(PROJECTION|AVERAGE|AVG|AVERAGED)\b",
    "a reformat of other slices": r"\b(MPR|REFORMATTED|REFORMAT|CURVED|CPR)\b",
    "a volume rendering": r"\b(VRT|VOLREND|VOLUME RENDERING|3D RENDERING)\b",
    "a spectral map": r"\b(EFF(ECTIVE)?[ _]?Z|Z[ _]?EFF(ECTIVE)?|IODINE|ELECTRON[ _]?DENSITY|URIC[ _]?ACID|VNC|MATERIAL)\b",
    "a picture of a screen": r"\b(SCREEN[ _]?SAVE|SCREENSHOT|SCREEN[ _]?CAPTURE)\b",
}
"""What is no plain axial CT, by words of ImageType and SeriesDescription: such a series gives way to any other."""
PIXEL_DATA = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")  # the tag in little and big endian
WITHOUT_PREAMBLE = (b"\x08\x00", b"\x02\x00")  # the group that a file begins with that lacks the 128 bytes before DICM
DENSEST = 3000  # HU that tissue and bone do not exceed
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
    traits: dict[str, str]  # what `TELLING` says of it
    padding: tuple[float, float] | None  # HU from and to which pixels are padding, None where there is none that could be mistaken

    @property
    def kind(self) -> str:
        """One of `KINDS`, "" for a plain axial CT."""
        image_type = self.traits.get("ImageType", "") + " " + self.traits.get("FrameType", "")
        words = f"{image_type} {self.header.get('SeriesDescription') or ''}".upper().replace("\\", " ")
        return next((kind for kind, pattern in KINDS.items() if re.search(pattern, words)), "")

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
    for tag in header.keys() - MAY_BE_DAMAGED:  # parses every value, so that a damaged one is found here
        header[tag]
    for tag in header.keys() & MAY_BE_DAMAGED:
        _drop_if_damaged(header, tag)
    series = str(header.get("SeriesInstanceUID") or "")
    try:
        return Image(path, series, _slices(path, header))
    except UnfitError as error:
        return Image(path, series, [], str(error))


def _drop_if_damaged(header: FileDataset, tag: int) -> None:
    try:
        header[tag]
    except MALFORMED:
        del header[tag]


def _slices(path: Path, header: FileDataset) -> list[Slice]:
    """The slices of a file; UnfitError says why it has none."""
    modality = header.get("Modality")
    if modality != "CT":
        raise UnfitError(f"of modality {modality}, not CT")
    if header.get("SamplesPerPixel", 1) != 1:
        raise UnfitError("in colour")
    if str(header.get("SOPClassUID")).startswith(SCREEN):
        raise UnfitError("of a screen, not of the scanner")
    if "LOCALIZER" in (header.get("ImageType") or ()):
        raise UnfitError("of the localizer")
    if header.get("BitsStored", 16) <= 8:
        raise UnfitError("of 8 bits, too few for Hounsfield units")
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise UnfitError("of many frames that have no position")
        return [_slice(path, header, 0, header, header, header, header, [header])]
    shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    if len({_rescale(_macro("PixelValueTransformationSequence", frame, shared[0])) for frame in frames}) > 1:
        raise UnfitError("of frames with unlike rescale values")  # the decoder would apply those of the first
    macros = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence")

    def of_frame(number: int, frame: Dataset) -> Slice:
        telling = [header, *(_macro(name, frame, shared[0]) for name in FRAME_GROUPS)]
        return _slice(path, header, number, *(_macro(name, frame, shared[0]) for name in macros), telling)

    return [of_frame(number, frame) for number, frame in enumerate(frames)]


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
    position: Dataset,
    orientation: Dataset,
    measures: Dataset,
    transformation: Dataset,
    telling: list[Dataset],
) -> Slice:
    units = str(transformation.get("RescaleType") or "").strip().upper()
    if units not in HOUNSFIELD:
        raise UnfitError(f"of values in {units}, which are no Hounsfield units")
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
        traits=_traits(telling),
        padding=_padding(header, *_rescale(transformation)),
    )


def _traits(datasets: list[Dataset]) -> dict[str, str]:
    """What `TELLING` says of an image, each from the first of `datasets` that says it."""
    traits = {}
    for keyword in TELLING:
        value = next((value for value in (dataset.get(keyword) for dataset in reversed(datasets)) if value not in (None, "")), None)
        if value is not None:
            traits[keyword] = str(value) if isinstance(value, str) or not isinstance(value, Iterable) else "\\".join(map(str, value))
    return traits


def _padding(header: Dataset, slope: float, intercept: float) -> tuple[float, float] | None:
    """The HU of padding round the field of view, from and to; None where there is none, or where it may be tissue as well.

    A value that tissue has too would make air of that: it is left as it is, and so is what is clipped to air anyway.
    """
    values = [header.get(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if not isinstance(values[0], int):
        return None
    stored = [_as_stored(value, header) for value in values if isinstance(value, int)]
    hu = sorted(value * slope + intercept for value in stored)
    return (hu[0], hu[-1]) if hu[0] > DENSEST or hu[-1] < AIR else None


def _as_stored(value: int, header: Dataset) -> int:
    """The value of an element as the pixels hold it: some writers give the one of signed pixels as an unsigned number, and the reverse."""
    bits = 8 * (2 if int(header.get("BitsStored") or 16) > 8 else 1)
    value %= 1 << bits
    return value - (1 << bits) if header.get("PixelRepresentation") == 1 and value >= 1 << (bits - 1) else value


def _numbers(values: Iterable | None, count: int) -> np.ndarray | None:
    """`values` as `count` finite numbers, None where they are not."""
    numbers = np.array([] if values is None else list(values), dtype=float)
    return numbers if numbers.shape == (count,) and np.isfinite(numbers).all() else None
