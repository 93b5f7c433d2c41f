"""DICOM SR back in: our own reports with all that they hold, and the measurements of OHIF and others as lesions of a
reader.

Read are the measurement groups of TID 1500 that have a long and a short axis, each with its line, or a box; groups with
one tracking UID are one lesion. A reader drew and accepted it unless the groups say otherwise (see `dicom_sr`).
"""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.sr.coding import Code
from pydicom.uid import DeflatedExplicitVRLittleEndian

from LesionDetectorLib.ct.dicom import read_slices, without_pixels
from LesionDetectorLib.ct.dicom_slices import MALFORMED, Slice
from LesionDetectorLib.exchange import dicom_codes as codes
from LesionDetectorLib.exchange.dicom_source import DicomReportError, Source
from LesionDetectorLib.lesion import Axis, BodyPart, Lesion, Origin, Point, Recist, ReviewStatus
from LesionDetectorLib.measure.margins import reader_box
from LesionDetectorLib.reading import Model, Reading, ordered

MEASUREMENTS = Code("126010", "DCM", "Imaging Measurements")
GROUP = Code("125007", "DCM", "Measurement Group")
TRACKING_UID = Code("112040", "DCM", "Tracking Unique Identifier")
FINDING = Code("121071", "DCM", "Finding")
ALGORITHM = Code("111001", "DCM", "Algorithm Name")
VERSION = Code("111003", "DCM", "Algorithm Version")
PARAMETER = Code("111002", "DCM", "Algorithm Parameters")
OLDER = {codes.LONG_AXIS: ("SRT", "G-A185"), codes.SHORT_AXIS: ("SRT", "G-A186"), codes.FINDING_SITE: ("SRT", "G-C0E3")}
STAND_IN = BodyPart.SOFT_TISSUE
UNDEFINED_LENGTH = 0xFFFFFFFF
META_START = 144
"""Where the file meta information begins that its group length counts: after preamble, DICM and that length."""
OF_ONE_KIND = {
    *(
        "ContentSequence",
        "ConceptNameCodeSequence",
        "ConceptCodeSequence",
        "ReferencedSOPSequence",
        "ReferencedFrameNumber",
        "GraphicData",
    ),
    *(
        "MeasuredValueSequence",
        "MeasurementUnitsCodeSequence",
        "FloatingPointValue",
        "NumericValue",
        "ReferencedSeriesSequence",
    ),
    *("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"),
}
"""Elements that are read here and must be what DICOM says: sequences, or numbers."""
LARGEST = 50 * 2**20
DEEPEST = 50
NO_VALUES = "with values that no lesion has"
FLAT = 0.6  # largest distance from its slice, in slices, of a point in space

Items = list[Dataset]  # content items


class _PassedOverError(ValueError):
    """Why a measurement is not read, in words that follow "measurements"."""


def read(path: Path | str, ct_path: Path | str) -> Reading:
    """The reading in the DICOM SR at `path`.

    `ct_path` is the DICOM folder of the CT that was measured, or one of its files.

    All that `dicom_sr` writes comes back: label, confidence, key slice, slices, box and axes (within 0.001 pixels), who
    drew what, status, marks, id, models, threshold and software version. The reading's warnings say what was passed
    over or assumed.

    Raises DicomReportError where `path` is not a measurement report or holds no lesion of that CT, CTError where
    `ct_path` lacks the series that was measured, and OSError.
    """
    path, ct_path = Path(path), Path(ct_path).expanduser()
    document = _document(path)
    groups = _groups(document, path)
    ct = _Ct.at(ct_path, _series(document, groups))
    lesions, unnamed, passed_over = [], [], Counter()
    for uid, items in _by_tracking_uid(document, groups).items():
        try:
            body_part = _body_part(items)
            lesion = _lesion(uid, items, body_part or STAND_IN, ct)
        except _PassedOverError as reason:
            passed_over[str(reason)] += 1
            continue
        lesions.append(lesion)
        unnamed += [] if body_part else [str(ct.reading.slice_number(lesion.key_slice))]
    reasons = [f"{count} measurements {reason}" for reason, count in passed_over.items()]
    if not lesions:
        raise DicomReportError(f"{path} holds no lesion on {ct_path}, but {', '.join(reasons)}.")
    warnings = [f"The SR: {reason} were passed over." for reason in reasons]
    if unnamed:
        warnings.append(
            f"The SR names no body part of ours for lesions on slice {', '.join(unnamed)}: {STAND_IN.title} was put in."
        )
    try:
        return replace(
            ct.reading, lesions=tuple(ordered(lesions)), warnings=(*ct.reading.warnings, *warnings), **_made_by(groups)
        )
    except ValueError as error:  # a threshold that is none, too many lesions
        raise DicomReportError(f"{path} holds what no reading has: {error}") from error


def _document(path: Path) -> Dataset:
    with path.open("rb") as file:
        try:
            if _size(path, file) > LARGEST:
                raise DicomReportError(
                    f"{path} holds more than {LARGEST >> 20} MB, as no report does: give a DICOM SR."
                )
            document = pydicom.dcmread(file)
            if not all(_is_whole(document.get_item(tag)) for tag in list(document.keys())):
                raise EOFError("the file breaks off")
            depth = _parsed(document)
        except DicomReportError:
            raise
        except RecursionError:
            depth = DEEPEST + 1
        except (OSError, zlib.error, *MALFORMED) as error:  # OSError is pydicom's word for a sequence that breaks off
            raise DicomReportError(f"{path} is not a DICOM file, or a damaged one: give a DICOM SR.") from error
    if depth > DEEPEST:
        raise DicomReportError(
            f"{path} nests its content more than {DEEPEST} deep, which no report does: give a DICOM SR."
        )
    if "ContentSequence" not in document:
        raise DicomReportError(f"{path} is DICOM, but no structured report: give a measurement report (TID 1500).")
    return document


def _size(path: Path, file: BinaryIO) -> int:
    """How many bytes a DICOM file has, unpacked where it is deflated, or just more than LARGEST.

    Leaves `file` at its start.
    """
    size = os.fstat(file.fileno()).st_size
    if size <= LARGEST:
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            file.seek(META_START + meta.FileMetaInformationGroupLength)
            size = len(zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), LARGEST + 1))
            file.seek(0)
    return size


def _parsed(document: Dataset) -> int:
    """Parses every value, so that a damaged one is found here.

    Returns how deep the sequences are nested, up to one more than DEEPEST.

    Dataset.decode would go down by recursion, and pydicom's way to tell of an error takes twice as long at each level.
    """
    level, depth = [document], -1
    while level and depth <= DEEPEST:
        elements = [element for dataset in level for element in dataset]
        if any(dictionary_VR(element.tag) != element.VR for element in elements if element.keyword in OF_ONE_KIND):
            raise ValueError("an element of another kind than its name says")
        level = [item for element in elements if element.VR == "SQ" for item in element.value]
        depth += 1
    return depth


def _is_whole(element: RawDataElement | DataElement) -> bool:
    """Whether an element has as many bytes as it says.

    Pydicom passes over a last one that lacks some, and with it over lesions.
    """
    return not isinstance(element, RawDataElement) or element.length in (len(element.value or b""), UNDEFINED_LENGTH)


def _groups(document: Dataset, path: Path) -> list[Items]:
    """The content items of each measurement group."""
    groups = [
        _children(group)
        for report in _find(_children(document), MEASUREMENTS)
        for group in _find(_children(report), GROUP)
    ]
    if not groups:
        raise DicomReportError(
            f"{path} is a structured report without measurement groups: give a measurement report (TID 1500)."
        )
    return groups


def _series(document: Dataset, groups: list[Items]) -> str | None:
    """SeriesInstanceUID of the CT on which most was measured, by the evidence; None where that does not say."""
    series_of = {
        image.get("ReferencedSOPInstanceUID"): series.get("SeriesInstanceUID")
        for name in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in document.get(name) or []
        for series in study.get("ReferencedSeriesSequence") or []
        for image in series.get("ReferencedSOPSequence") or []
    }
    images = [
        _image(child) for items in groups for child in _below(items) if child.get("RelationshipType") == "SELECTED FROM"
    ]
    counts = Counter(series_of[uid] for uid, _ in images if series_of.get(uid))
    return counts.most_common(1)[0][0] if counts else None


def _by_tracking_uid(document: Dataset, groups: list[Items]) -> dict[str, Items]:
    """The items of groups with one tracking UID together; a group without one is given one."""
    merged: dict[str, Items] = defaultdict(list)
    for number, items in enumerate(groups):
        named = [str(item.get("UID")) for item in _find(items, TRACKING_UID)]
        merged[named[0] if named else codes.uid_of("group", str(document.get("SOPInstanceUID")), str(number))] += items
    return merged


@dataclass(frozen=True, eq=False)
class _Ct:
    """The CT that was measured: its reading without lesions, and its DICOM slices, also by SOPInstanceUID."""

    reading: Reading
    source: Source
    images: dict[str | None, list[Slice]]

    @classmethod
    def at(cls, path: Path, series: str | None) -> _Ct:
        slices, warnings = read_slices(path, series)
        reading = Reading.of(without_pixels(path, slices, warnings), [])
        source = Source.of(reading.geometry, reading.dicom, slices)
        images = defaultdict(list)
        for item in slices:
            images[item.uid].append(item)
        return cls(reading, source, images)

    def place(self, region: Dataset) -> tuple[int, np.ndarray]:
        """Slice k, and the points (n, 2) of a region in continuous voxel indices on it."""
        in_space = region.get("ValueType") == "SCOORD3D"
        data = np.array(region.get("GraphicData") or [], dtype=float).ravel()
        if not len(data) or len(data) % (3 if in_space else 2) or not np.isfinite(data).all():
            raise _PassedOverError(NO_VALUES)
        if in_space:
            return self._place_in_space(region, data.reshape(-1, 3))
        images = [image for image in map(self._image, _children(region)) if image is not None]
        if not images:
            raise _PassedOverError("on images that are not among the CT's slices")
        if any(image is not images[0] for image in images):
            raise _PassedOverError("with lines on several slices")
        return self.source.voxels(images[0], data.reshape(-1, 2) - 0.5)

    def _image(self, item: Dataset) -> Slice | None:
        """The slice that an item refers to, None for another CT's; of many frames it must name one."""
        uid, frames = _image(item)
        slices = self.images.get(uid, [])
        if not slices or (not frames and int(slices[0].header.get("NumberOfFrames") or 1) == 1):
            return next(iter(slices), None)
        if len(frames) != 1:
            raise _PassedOverError("that do not say on which one frame of a file with many they lie")
        return next((image for image in slices if image.frame in frames), None)

    def _place_in_space(self, region: Dataset, points: np.ndarray) -> tuple[int, np.ndarray]:
        if region.get("ReferencedFrameOfReferenceUID") != self.reading.dicom.frame_of_reference_uid:
            raise _PassedOverError("in another frame of reference than the CT's")
        indices = self.reading.geometry.to_index(points)
        k = round(float(indices[:, 2].mean()))
        if abs(indices[:, 2] - k).max() > FLAT or not 0 <= k < self.reading.geometry.size[2]:
            raise _PassedOverError("that lie across the CT's slices")
        return k, indices[:, :2]

    def slice_of(self, item: Dataset) -> int | None:
        """Slice k of the image that an item refers to, None for another CT's."""
        image = self._image(item)
        return None if image is None else self.source.voxels(image, np.zeros((1, 2)))[0]


def _lesion(uid: str, items: Items, body_part: BodyPart, ct: _Ct) -> Lesion:
    """The lesion in the groups of one tracking UID."""
    axes = [_axis(item, ct) for concept in (codes.LONG_AXIS, codes.SHORT_AXIS) for item in _find(items, concept)]
    bounded = any(_is(purpose, codes.BOUNDED_BY) for purpose in _values(items, codes.PURPOSE))
    boxes = [ct.place(region) for region in _find(items, codes.REGION)] if bounded else []
    if len(axes) not in (0, 2) or len(boxes) > 1:
        raise _PassedOverError("with one axis alone, or with several places for one tracking UID")
    if not axes and not boxes:
        raise _PassedOverError("without two axes or a box")
    key_slice, *others = {*(axis.k for axis in axes), *(k for k, _ in boxes)}
    if others:
        raise _PassedOverError("with lines on several slices")
    planes = [
        ct.slice_of(item) for concept in (codes.LOWEST_PLANE, codes.HIGHEST_PLANE) for item in _find(items, concept)
    ]
    slices = [key_slice, *(k for k in planes if k is not None)]
    certainty = [_number(item, codes.PERCENT) for item in _find(items, codes.CERTAINTY)]
    origin = Origin.DETECTOR if _find(items, ALGORITHM) else Origin.READER
    try:
        recist = _recist(axes) if axes else None
        return Lesion(
            body_part=body_part,
            confidence=None if not certainty or certainty[0] is None else certainty[0] / 100,
            key_slice=key_slice,
            slices=(min(slices), max(slices)),
            box=_corners(boxes[0][1]) if boxes else reader_box(recist, ct.reading.geometry.spacing),
            recist=recist,
            status=_status(items, origin),
            origin=origin,
            marks=tuple(
                mark for value in _values(items, codes.MARK) for mark, code in codes.MARKS.items() if _is(value, code)
            ),
            id=codes.lesion_id(uid),
        )
    except ValueError as error:
        raise _PassedOverError(NO_VALUES) from error


class _Line(NamedTuple):
    """An axis: its slice, its ends on that, its length in mm, and whether a reader drew it."""

    k: int
    ends: tuple[Point, Point]
    mm: float
    drawn: bool


def _axis(item: Dataset, ct: _Ct) -> _Line:
    """The axis in a measurement; its length is that of its line where the measurement is not in mm."""
    lines = [child for child in _children(item) if child.get("ValueType") in ("SCOORD", "SCOORD3D")]
    k, points = ct.place(lines[0]) if lines else (0, np.empty((0, 2)))
    if len(points) != 2:
        raise _PassedOverError("with axes that are not straight lines")
    mm = _number(item, codes.MILLIMETRE)
    if mm is None:
        mm = float(np.hypot(*((points[1] - points[0]) * ct.reading.geometry.spacing[:2])))
    start, end = map(tuple, points.tolist())
    return _Line(k, (start, end), mm, drawn=not _find(_children(item), ALGORITHM))


def _recist(axes: list[_Line]) -> Recist:
    """The axes, the longer first."""
    long, short = sorted(axes, key=lambda axis: axis.mm, reverse=True)
    return Recist(
        long.ends, short.ends, long.mm, short.mm, tuple(name for name, axis in zip(Axis, (long, short)) if axis.drawn)
    )


def _corners(outline: np.ndarray) -> tuple[float, float, float, float]:
    return (*outline.min(axis=0).tolist(), *outline.max(axis=0).tolist())


def _status(items: Items, origin: Origin) -> ReviewStatus:
    """The review status; where the report has none, what a reader drew is accepted."""
    for value in _values(items, codes.STATUS):
        for status, code in codes.STATUSES.items():
            if _is(value, code):
                return status
    return ReviewStatus.PENDING if origin is Origin.DETECTOR else ReviewStatus.ACCEPTED


def _body_part(items: Items) -> BodyPart | None:
    """The body part that the code of the finding site stands for, else the one that site, finding or comment name in
    words."""
    sites = _values(items, codes.FINDING_SITE)
    for part, code in codes.SITES.items():
        if any(_is(site, code) for site in sites):
            return part
    words = [site.get("CodeMeaning") for site in (*sites, *_values(items, FINDING))]
    words = " / ".join(map(str, [*words, *_texts(items, codes.COMMENT)])).casefold()
    return next((part for part in BodyPart if part.title.casefold() in words), None)


def _made_by(groups: list[Items]) -> dict[str, Any]:
    """Software version, models and confidence threshold of a report of ours; nothing for another program's."""
    holders = [*groups, *(_children(item) for items in groups for item in items)]
    ours = [items for items in holders if codes.SOFTWARE in _texts(items, ALGORITHM)]
    if not ours:
        return {}
    parameters = _texts(ours[0], PARAMETER)
    models = [Model(**found.groupdict()) for found in map(_MODEL.fullmatch, parameters) if found]
    thresholds = [float(found["confidence"]) for found in map(_THRESHOLD.fullmatch, parameters) if found]
    threshold = {"confidence": thresholds[0]} if thresholds else {}
    return {"software_version": "".join(_texts(ours[0], VERSION)[:1]), "models": tuple(models), **threshold}


_MODEL = re.compile(codes.MODEL.format(name="(?P<name>.*)", sha256="(?P<sha256>.*)"), re.DOTALL)
_THRESHOLD = re.compile(codes.THRESHOLD.format(confidence=r"(?P<confidence>\d\S*)"))


def _children(item: Dataset) -> Items:
    return list(item.get("ContentSequence") or [])


def _below(items: Iterable[Dataset]) -> Iterator[Dataset]:
    """All content items under `items`, and they themselves."""
    for item in items:
        yield item
        yield from _below(_children(item))


def _find(items: Items, concept: Code) -> Items:
    """The items whose name is `concept`, or what that was called before."""
    return [item for item in items for name in item.get("ConceptNameCodeSequence") or [] if _is(name, concept)]


def _values(items: Items, concept: Code) -> Items:
    """The codes that are the values of the items with the name `concept`."""
    return [value for item in _find(items, concept) for value in item.get("ConceptCodeSequence") or []]


def _texts(items: Items, concept: Code) -> list[str]:
    return [str(item.get("TextValue") or "") for item in _find(items, concept)]


def _is(code: Dataset, concept: Code) -> bool:
    return (code.get("CodingSchemeDesignator"), code.get("CodeValue")) in (
        (concept.scheme_designator, concept.value),
        OLDER.get(concept),
    )


def _image(item: Dataset) -> tuple[str, set[int]]:
    """SOPInstanceUID, "" for none, and frames, from 0, of the image that an item refers to.

    Without frames it refers to all of them.
    """
    for image in item.get("ReferencedSOPSequence") or []:
        frames = image.get("ReferencedFrameNumber")
        frames = [frames] if isinstance(frames, int) else frames or []
        return str(image.get("ReferencedSOPInstanceUID") or ""), {int(frame) - 1 for frame in frames}
    return "", set()


def _number(item: Dataset, unit: Code) -> float | None:
    """The value of a measurement in `unit`; None where it has none or is in another."""
    for measured in item.get("MeasuredValueSequence") or []:
        value = measured.get("FloatingPointValue", measured.get("NumericValue"))
        if value is not None and any(_is(code, unit) for code in measured.get("MeasurementUnitsCodeSequence") or []):
            return float(value)
    return None
