"""The CT's DICOM files behind a reading: which image, frame and pixels the voxels of its slices are, and headers to
refer to."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM

from LesionDetectorLib.ct.dicom import read_slices
from LesionDetectorLib.ct.dicom_slices import Slice
from LesionDetectorLib.ct.geometry import DicomSeries, Geometry
from LesionDetectorLib.ct.grid import EVEN, ROUNDED
from LesionDetectorLib.exchange.dicom_codes import CHARACTER_SET, uid_of
from LesionDetectorLib.lesion import Lesion
from LesionDetectorLib.reading import Reading, ordered
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.report.text import CONFIDENCE

NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


class DicomReportError(Refusal):
    """A DICOM report that cannot be written or read; the message is one sentence for the user."""


def source_slices(path: Path | str | Sequence[Path], reading: Reading) -> list[Slice]:
    """The slices of the CT that `reading` was made of, with full headers and without pixels, from feet to head.

    `path` is the CT's DICOM folder (searched with its subfolders), one of its files, or a list of its files.

    Raises DicomReportError where the CT was no DICOM or its identifiers are missing, and CTError or DicomReportError
    where `path` holds another series or not all of it.
    """
    if reading.dicom is None:
        raise DicomReportError(
            f"{reading.source} was not DICOM, so no DICOM report can point to it: write JSON or text."
        )
    if not reading.dicom.study_uid or not reading.dicom.series_uid:
        raise DicomReportError(
            f"The DICOM files of {reading.source} do not name their study and series: write JSON or text."
        )
    name, files = _named(path)
    slices, _ = read_slices(name, reading.dicom.series_uid, tags=None, files=files)
    if any(not item.header.get(keyword) for item in slices for keyword in NEEDED):
        raise DicomReportError(f"The DICOM files in {name} lack one of {', '.join(NEEDED)}: write JSON or text.")
    wanted = {uid for uid in reading.dicom.sop_instance_uids if uid is not None}
    missing = wanted - {item.uid for item in slices}
    if missing:
        raise DicomReportError(
            f"{name} lacks {len(missing)} of the {len(wanted)} images that were read, such as {min(missing)}: give "
            "the whole series."
        )
    return slices


def with_series(reading: Reading, path: Path | str | Sequence[Path]) -> Reading:
    """`reading` of a CT that came without DICOM identifiers, such as one in a scene, with those of its DICOM files.

    `path` is as for `source_slices`, and holds the CT's series alone, or it is the largest. Which of its slices are in
    which file is left to their places in the patient. Raises CTError where there is no CT, and DicomReportError where
    it lies elsewhere.
    """
    name, files = _named(path)
    slices, _ = read_slices(name, files=files)
    study, series, frame = (
        str(slices[0].header.get(keyword) or "")
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    )
    dicom = DicomSeries(study, series, frame, (None,) * reading.geometry.size[2])
    if not any(Source.of(reading.geometry, dicom, slices).places):
        raise DicomReportError(
            f"{name} is another CT than {reading.source}: give the DICOM files that it was read from."
        )
    return replace(reading, dicom=dicom)


def _named(path: Path | str | Sequence[Path]) -> tuple[Path, Iterable[Path] | None]:
    """What messages call the CT, and its files where only those are to be looked at."""
    if isinstance(path, str | Path):
        return Path(path).expanduser(), None
    files = [Path(file) for file in path]
    if not files:
        raise DicomReportError("No DICOM file of the CT was given.")
    return Path(os.path.commonpath([file.parent for file in files])), files


@dataclass(frozen=True, eq=False)
class Source:
    """Which DICOM slice each slice of a reading is.

    Attributes
    ----------
    geometry: of the reading.
    places: for each k the DICOM slice, or None for a slice that was interpolated between others.
    as_stored: for each k whether voxel (i, j) is the pixel (i, j) of the file; else the slice was shifted or turned.
    """

    geometry: Geometry
    places: tuple[Slice | None, ...]
    as_stored: tuple[bool, ...]

    @classmethod
    def of(cls, geometry: Geometry, dicom: DicomSeries, slices: Sequence[Slice]) -> Source:
        """The source of a reading with `geometry` and `dicom`, made of `slices`."""
        normal = np.array(geometry.direction)[:, 2]
        heights = np.array([item.origin @ normal for item in slices])
        images = defaultdict(list)
        for number, item in enumerate(slices):
            images[item.uid].append(number)
        tolerance = max(EVEN * geometry.spacing[2], ROUNDED)

        def place(k: int, uid: str | None) -> Slice | None:
            candidates = np.array(images[uid] if uid else range(len(slices)))
            distances = abs(heights[candidates] - geometry.to_lps((0, 0, k)) @ normal)
            nearest = distances.argmin()
            return slices[candidates[nearest]] if uid or distances[nearest] <= tolerance else None

        uids = dicom.sop_instance_uids
        return cls(geometry, tuple(place(k, uid) for k, uid in enumerate(uids)), tuple(uid is not None for uid in uids))

    def pixels(self, k: int, points: np.ndarray) -> np.ndarray:
        """Pixels of the file, from continuous voxel indices (i, j) on slice k that is in one.

        Both (n, 2), whole at pixel centres.
        """
        if self.as_stored[k]:
            return np.asarray(points, dtype=float)
        place = self.places[k]
        away = self.geometry.to_lps(np.column_stack([points, np.full(len(points), k)])) - place.origin
        return np.column_stack([away @ place.row, away @ place.column]) / place.spacing

    def in_image(self, k: int, points: np.ndarray) -> np.ndarray:
        """The same as DICOM counts in an image: (0.5, 0.5) is the centre of its first pixel, and no point lies
        beyond its borders."""
        rows, columns = self.places[k].shape
        return np.clip(self.pixels(k, points) + 0.5, 0, (columns, rows))

    def voxels(self, place: Slice, points: np.ndarray) -> tuple[int, np.ndarray]:
        """The slice k nearest to a DICOM slice, and the continuous voxel indices (i, j) of pixels of that.

        Both (n, 2).
        """
        known = next((k for k, item in enumerate(self.places) if item is place), None)
        if known is not None and self.as_stored[known]:
            return known, np.asarray(points, dtype=float)
        along = np.asarray(points, dtype=float) * place.spacing
        indices = self.geometry.to_index(place.origin + along @ np.stack([place.row, place.column]))
        nearest = round(float(indices[:, 2].mean()))
        return min(max(nearest, 0), self.geometry.size[2] - 1), indices[:, :2]


@dataclass(frozen=True, slots=True)
class Numbered:
    """A lesion of a DICOM report, with its number in the report; None for one that the report does not show."""

    number: int | None
    lesion: Lesion

    def __str__(self) -> str:
        confidence = "" if self.lesion.confidence is None else CONFIDENCE.format(confidence=self.lesion.confidence)
        name = f"{self.lesion.body_part.title}{confidence}"
        return f"{name}, not reported" if self.number is None else f"Lesion {self.number}: {name}"


def numbered(reading: Reading, source: Source, everything: bool) -> tuple[list[Numbered], list[str]]:
    """The lesions that the report shows, or with `everything` all, and sentences on those that are in no image of
    the CT.

    Raises DicomReportError where no lesion is left.
    """
    numbers = {lesion.id: number for number, lesion in enumerate(reading.reported, start=1)}
    wanted = [
        Numbered(numbers.get(lesion.id), lesion)
        for lesion in ordered(reading.lesions)
        if everything or lesion.id in numbers
    ]
    faults = [_fault(reading, source, entry.lesion) for entry in wanted]
    found = [entry for entry, fault in zip(wanted, faults) if not fault]
    left_out = [f"{entry} is left out: {fault}." for entry, fault in zip(wanted, faults) if fault]
    if not found:
        reason = " ".join(left_out) or f"{reading.source} has no lesion to report, and a DICOM report cannot be empty."
        raise DicomReportError(f"{reason} Write JSON or text.")
    return found, left_out


def _fault(reading: Reading, source: Source, lesion: Lesion) -> str:
    """Why no image of the CT holds a lesion, "" if one does."""
    if source.places[lesion.key_slice] is None:
        return (
            f"slice {reading.slice_number(lesion.key_slice)}, on which it lies, was interpolated and is in no image "
            "of the CT"
        )
    corners = source.in_image(lesion.key_slice, np.reshape(lesion.box, (2, 2)))
    return "its box lies outside of the image" if np.ptp(corners, axis=0).min() <= 0 else ""


def citable(places: Iterable[Slice], reading: Reading) -> tuple[dict[str, Dataset], list[str]]:
    """Headers by SOPInstanceUID that a report can refer to and inherit from, and what had to be filled in, in
    sentences.

    They are copies; the first, from which a report takes patient and study, is in UTF-8. What anonymised files lack or
    hold in a wrong form becomes empty, but for the slice thickness, which becomes the distance of slices, and the frame
    of reference, which becomes a new one, always the same for a series.
    """
    headers, emptied, filled = {}, set(), set()
    thickness = reading.slice_thickness or reading.geometry.spacing[2]
    for place in places:
        if place.uid in headers:
            continue
        header = headers[place.uid] = _copy(place.header, deep=not headers)
        emptied |= {keyword for keyword, check in _INHERITED.items() if not _holds(header, keyword, check)}
        if not has_frames(header) and not header.get("SliceThickness"):
            header.SliceThickness = thickness
            filled.add(f"slice thickness ({thickness:g} mm)")
        if not header.get("FrameOfReferenceUID"):
            header.FrameOfReferenceUID = uid_of("frame of reference", header.SeriesInstanceUID)
            filled.add("frame of reference")
    warnings = []
    if emptied:
        warnings.append(
            f"The CT's files lack {', '.join(sorted(emptied))} or hold it in a wrong form: it is empty in the report."
        )
    if filled:
        warnings.append(
            f"The CT's files lack a value that the report needs, and one was put in: {', '.join(sorted(filled))}."
        )
    return headers, warnings


def has_frames(header: Dataset) -> bool:
    """Whether an image has frames, each with its own place, as an Enhanced CT has."""
    return "PerFrameFunctionalGroupsSequence" in header


def _copy(header: Dataset, deep: bool) -> Dataset:
    """A copy whose elements can be replaced, not changed; or a deep one, which can be written in UTF-8."""
    if not deep:
        copied = Dataset()
        copied.update(header)
        return copied
    copied = deepcopy(header)
    copied.decode()
    copied.SpecificCharacterSet = CHARACTER_SET
    return copied


def _holds(header: Dataset, keyword: str, check: Callable) -> bool:
    """Whether `header` has an element that is empty or as it should be; if not, it gets an empty one."""
    try:
        if keyword in header and (not header.get(keyword) or check(header.get(keyword))):
            return True
    except ValueError:
        pass
    setattr(header, keyword, None)
    return False


def _sex(value: str) -> bool:
    return value in ("M", "F", "O")


_INHERITED: dict[str, Callable] = {
    **dict.fromkeys(("StudyID", "AccessionNumber", "PatientName", "PatientID"), str),
    **{"StudyDate": DA, "StudyTime": TM, "PatientBirthDate": DA, "PatientSex": _sex},
}
