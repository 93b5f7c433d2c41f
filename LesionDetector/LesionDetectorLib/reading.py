"""A reading: what is known about a CT and the lesions on it, without the pixels. Every report is written from one."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from LesionDetectorLib import __version__
from LesionDetectorLib.ct.geometry import DicomSeries, Geometry
from LesionDetectorLib.lesion import Lesion, ReviewStatus
from LesionDetectorLib.printable import printable
from LesionDetectorLib.refusal import Refusal

if TYPE_CHECKING:
    from LesionDetectorLib.ct import Volume

DEFAULT_CONFIDENCE = 0.5
"""From which on lesions of the detector are reported, 0..1."""
MOST_LESIONS = 10_000


def ordered(lesions: Iterable[Lesion]) -> list[Lesion]:
    """The lesions in the one order of every report: by key slice, then falling confidence, those that a reader drew
    last."""
    return sorted(
        lesions,
        key=lambda lesion: (
            lesion.key_slice,
            lesion.confidence is None,
            -(lesion.confidence or 0),
            lesion.box,
            lesion.id,
        ),
    )


def reported(lesions: Iterable[Lesion], confidence: float = DEFAULT_CONFIDENCE) -> list[Lesion]:
    """The lesions that a report shows, in its order.

    A lesion's number, in every text, table, picture and scene, is its place here.

    Left out are those that a reader rejected, and those of the detector below `confidence` (0..1) that no reader
    accepted.
    """
    return ordered(
        lesion
        for lesion in lesions
        if lesion.status is ReviewStatus.ACCEPTED
        or (lesion.status is ReviewStatus.PENDING and (lesion.confidence is None or lesion.confidence >= confidence))
    )


@dataclass(frozen=True, slots=True)
class Model:
    """The weights that found the lesions: the name on their card and the SHA-256 of the file."""

    name: str
    sha256: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))
        object.__setattr__(self, "sha256", printable(self.sha256))

    @classmethod
    def of(cls, weights: Path) -> Model:
        """The name and sum of a weights file. Raises OSError."""
        return cls(weights.stem, hashlib.sha256(weights.read_bytes()).hexdigest())


@dataclass(frozen=True, slots=True)
class Reading:
    """The lesions on one CT series and what a report must say about where they come from.

    An immutable value without pixels.

    All text in it is `printable`, wherever it comes from.

    Attributes
    ----------
    source: name of the file or folder that was read, without its path. It may be the patient's: no report shows it.
    study, series: as the report prints them.
    series_uid: identifies the series; "" if nothing does.
    first_slice: the number by which a report calls the slice k = 0.
    geometry: size and position of the voxels.
    slice_thickness: nominal thickness of the thickest slice in mm, None if unknown; slices may overlap or leave gaps.
    dicom: identifiers for a DICOM report, None for a CT that is not DICOM.
    warnings: sentences about the CT that a reader must know.
    models: the weights used; none for a reading without detector.
    confidence: 0..1, lesions of the detector below it are not reported.
    lesions: all lesions, in any order, reported or not.
    software_version: of the program that made the reading.

    Raises
    ------
    ValueError: two lesions with one id, a lesion outside the CT's slices, a confidence outside 0..1, a slice thickness
        not above 0.
    Refusal: more lesions than any CT has.
    """

    source: str
    study: str
    series: str
    series_uid: str
    first_slice: int
    geometry: Geometry
    slice_thickness: float | None = None
    dicom: DicomSeries | None = None
    warnings: tuple[str, ...] = ()
    models: tuple[Model, ...] = ()
    confidence: float = DEFAULT_CONFIDENCE
    lesions: tuple[Lesion, ...] = field(default=())
    software_version: str = __version__

    def __post_init__(self) -> None:
        for name in ("source", "study", "series", "series_uid", "software_version"):
            object.__setattr__(self, name, printable(getattr(self, name)))
        object.__setattr__(self, "warnings", tuple(map(printable, self.warnings)))
        if len(self.lesions) > MOST_LESIONS:
            raise Refusal(f"{len(self.lesions)} lesions are more than any CT has: at most {MOST_LESIONS} are read.")
        if not 0 <= self.confidence <= 1:
            raise ValueError(f"The confidence threshold must lie in 0..1, not {self.confidence}.")
        if self.slice_thickness is not None and not 0 < self.slice_thickness < math.inf:
            raise ValueError(f"The slice thickness must be above 0 mm, not {self.slice_thickness}.")
        if len({lesion.id for lesion in self.lesions}) < len(self.lesions):
            raise ValueError("Two lesions have the same id.")
        slices = self.geometry.size[2]
        for lesion in self.lesions:
            if lesion.slices[0] < 0 or lesion.slices[1] >= slices:
                raise ValueError(
                    f"Lesion {lesion.id} spans slices {lesion.slices}, but the CT has slices 0..{slices - 1}."
                )

    @classmethod
    def of(
        cls,
        volume: Volume,
        lesions: Iterable[Lesion],
        models: Iterable[Model] = (),
        confidence: float = DEFAULT_CONFIDENCE,
    ) -> Reading:
        """The reading of `lesions` on `volume`, found by `models` and reported from `confidence` on.

        Files and folders are often named after patients: of the path only the last name is kept, as the source, and in
        warnings none.
        """
        return cls(
            source=volume.source.absolute().name,
            study=volume.study,
            series=volume.series,
            series_uid=volume.series_uid,
            first_slice=int(volume.first_slice),
            geometry=volume.geometry,
            slice_thickness=volume.slice_thickness,
            dicom=volume.dicom,
            warnings=tuple(_without_names(warning, volume.source) for warning in volume.warnings),
            models=tuple(models),
            confidence=float(confidence),
            lesions=tuple(ordered(lesions)),
        )

    @property
    def reported(self) -> list[Lesion]:
        """The lesions that the report shows; their numbers count from 1 in this order."""
        return reported(self.lesions, self.confidence)

    def accepted_only(self) -> Reading:
        """The same reading with those lesions only that a reader accepted."""
        return replace(self, lesions=tuple(lesion for lesion in self.lesions if lesion.status is ReviewStatus.ACCEPTED))

    def slice_number(self, k: int) -> int:
        """The number by which the report calls slice k."""
        return k + self.first_slice


def _without_names(warning: str, source: Path) -> str:
    """`warning` with "the CT" in the place of the name or path of its file or folder, and without an example of its
    files at the end."""
    warning = _EXAMPLE.sub("", warning)
    names = {str(source), source.name, str(source.absolute()), source.absolute().name} - {"", "."}
    patterns = [_NAME.format(re.escape(name)) if _tells(name) else _SUBJECT.format(re.escape(name)) for name in names]
    warning = re.sub("|".join(sorted(patterns, key=len, reverse=True)), "the CT", warning)
    return warning[:1].upper() + warning[1:]


def _tells(name: str) -> bool:
    """Whether a name is more than a number or a short word, such as CT, that sentences have anyway."""
    return len(name) > 3 and not name.isdecimal()


_EXAMPLE = re.compile(r", such as [^;]*(?=\.$)", re.DOTALL)
_NAME = r"(?<!\w){}(?:[/\\][^\s,;:]*[^\s,;:.])?(?!\w)"
_SUBJECT = r"(?:^|(?<= of )){}(?= (?:has|have|is|are|holds?|lies?)\b)"
