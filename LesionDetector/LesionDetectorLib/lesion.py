"""The words that every other room speaks: a lesion, its body part, its two axes and its review status.

Coordinates are *continuous voxel indices* (i, j, k) of the CT that was read: the centre of a pixel has whole numbers, i
grows along a row, j along a column, k over slices. A box is (x0, y0, x1, y1) = (i0, j0, i1, j1) with width x1 - x0.
"""

from __future__ import annotations

import math
import uuid
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

from LesionDetectorLib.printable import printable

Point = tuple[float, float]
Box = tuple[float, float, float, float]

_NAMESPACE = uuid.UUID("6b1d4c0e-8f3f-4c39-9d3c-1d7a4a5b0c11")


class BodyPart(IntEnum):
    """The eight labels of DeepLesion, with its codes (`Coarse_lesion_type`)."""

    BONE = 1
    ABDOMEN = 2
    MEDIASTINUM = 3
    LIVER = 4
    LUNG = 5
    KIDNEY = 6
    SOFT_TISSUE = 7
    PELVIS = 8

    @property
    def title(self) -> str:
        """The label as a report writes it, for example "Soft tissue"."""
        return self.name.replace("_", " ").capitalize()

    @classmethod
    def from_title(cls, title: str) -> BodyPart:
        """The body part written as `title` ("Soft tissue" or "soft_tissue"); ValueError names the eight that exist."""
        for part in cls:
            if part.title.casefold() == title.replace("_", " ").strip().casefold():
                return part
        raise ValueError(f"'{title}' is not a body part; use one of: {', '.join(part.title for part in cls)}.")


class ReviewStatus(StrEnum):
    """What the reader decided about a lesion."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class Origin(StrEnum):
    """Who marked the lesion."""

    DETECTOR = "detector"
    READER = "reader"


class Mark(StrEnum):
    """What a reader can tick on a lesion: what RECIST asks and neither a box nor a label tells."""

    LYMPH_NODE = "lymph node"
    SOFT_TISSUE_PART = "soft-tissue part"
    NOT_MEASURABLE = "not measurable"
    TARGET = "target"


class Axis(StrEnum):
    """The two axes of a lesion."""

    LONG = "long"
    SHORT = "short"


class Region(StrEnum):
    """The regions of the body, from head to feet."""

    HEAD_AND_NECK = "head and neck"
    CHEST = "chest"
    ABDOMEN = "abdomen"
    PELVIS = "pelvis"
    LEGS = "legs"

    @classmethod
    def at(cls, z: float) -> Region:
        """The region at a height of the body, 0..1 as in `Location`."""
        return list(cls)[bisect_right(_REGION_STARTS, z)]


_REGION_STARTS = (0.35, 0.53, 0.71, 0.89)
"""z of the lungs' apices, the dome of the liver, the iliac crests and the lower end of the ischia."""


class Location(NamedTuple):
    """Where in the body something lies, as DeepLesion has it (`Normalized_lesion_location`).

    x, y: 0..1 over what the body covers of the slice, towards the patient's left and back. z: 0..1 from head to feet;
    the lungs' apices lie at 0.35, the iliac crests at 0.71, and 0.1 are about 12 cm.
    """

    x: float
    y: float
    z: float

    @property
    def region(self) -> Region:
        """The region of the body."""
        return Region.at(self.z)

    def __str__(self) -> str:
        return f"{self.x:.2f}, {self.y:.2f}, {self.z:.2f} ({self.region})"


@dataclass(frozen=True, slots=True)
class Recist:
    """The long axis and the longest perpendicular short axis of a lesion on its key slice.

    End points are (i, j) in continuous voxel indices of the key slice; diameters are in mm. `drawn` are the axes that a
    reader drew: they stay as they are when the rest is measured again.
    """

    long_axis: tuple[Point, Point]
    short_axis: tuple[Point, Point]
    long_mm: float
    short_mm: float
    drawn: tuple[Axis, ...] = ()

    def __post_init__(self) -> None:
        values = (
            *self.long_axis[0],
            *self.long_axis[1],
            *self.short_axis[0],
            *self.short_axis[1],
            self.long_mm,
            self.short_mm,
        )
        if not all(math.isfinite(value) for value in values) or min(self.long_mm, self.short_mm) < 0:
            raise ValueError(
                f"A RECIST measurement needs finite end points and diameters of at least 0 mm, not {self}."
            )

    def ends(self, axis: Axis) -> tuple[Point, Point]:
        """The end points of one axis."""
        return self.long_axis if axis is Axis.LONG else self.short_axis

    def with_axis(self, axis: Axis, ends: tuple[Point, Point], mm: float) -> Recist:
        """These axes with one that a reader drew; the longer of the two is then the long axis."""
        measured: dict[str, Any] = {f"{axis}_axis": ends, f"{axis}_mm": mm}
        drawn = replace(self, **measured, drawn=tuple(sorted({*self.drawn, axis})))
        if drawn.long_mm >= drawn.short_mm:
            return drawn
        other = {Axis.LONG: Axis.SHORT, Axis.SHORT: Axis.LONG}
        return Recist(
            drawn.short_axis,
            drawn.long_axis,
            drawn.short_mm,
            drawn.long_mm,
            tuple(sorted(other[name] for name in drawn.drawn)),
        )

    def measured_anew(self, measured: Recist) -> Recist:
        """`measured`, but with the axes of these that a reader drew."""
        for axis in self.drawn:
            measured = measured.with_axis(axis, self.ends(axis), getattr(self, f"{axis}_mm"))
        return measured

    def __str__(self) -> str:
        return f"{self.long_mm:.0f} x {self.short_mm:.0f} mm"


@dataclass(frozen=True, slots=True)
class Lesion:
    """One lesion: an immutable value; an edit makes a new one with the same `id`.

    Attributes
    ----------
    body_part: the label.
    confidence: 0..1, the detector's round the key slice; None for a lesion that a reader drew.
    key_slice: k of the slice on which it is measured and reported, counted from 0.
    slices: first and last k that it spans, both included.
    box: (x0, y0, x1, y1) on the key slice, continuous voxel indices.
    recist: its axes, or None while unmeasured.
    status, origin: what the reader decided, and who marked it.
    marks: what the reader ticked.
    location: where in the body the middle of its box lies, None where nobody has told.
    id: stable over edits, files and programs.
    """

    body_part: BodyPart
    confidence: float | None
    key_slice: int
    slices: tuple[int, int]
    box: Box
    recist: Recist | None = None
    status: ReviewStatus = ReviewStatus.PENDING
    origin: Origin = Origin.DETECTOR
    marks: tuple[Mark, ...] = ()
    location: Location | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", printable(self.id))
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise ValueError(f"Confidence must lie in 0..1, not {self.confidence}.")
        if not self.slices[0] <= self.key_slice <= self.slices[1]:
            raise ValueError(f"Key slice {self.key_slice} lies outside the lesion's slices {self.slices}.")
        x0, y0, x1, y1 = self.box
        if not (x0 < x1 and y0 < y1 and all(map(math.isfinite, self.box))):
            raise ValueError(f"A box needs x0 < x1 and y0 < y1, not {self.box}.")
        if self.location is not None and not all(0 <= value <= 1 for value in self.location):
            raise ValueError(f"A location needs x, y and z in 0..1, not {tuple(self.location)}.")

    def edited(self, **changes) -> Lesion:
        """A copy with `changes`, for example ``lesion.edited(status=ReviewStatus.ACCEPTED)``.

        One on another slice or with another box has no location unless that is given too.
        """
        moved = {"location": None} if {"key_slice", "box"} & changes.keys() else {}
        return replace(self, **moved | changes)

    def caption(self, number: int | None) -> str:
        """One line for a picture or a view: "1 Liver 87 % 18 x 12 mm"; a lesion without a number gets a dash."""
        confidence = "" if self.confidence is None else f" {self.confidence:.0%}".replace("%", " %")
        size = "" if self.recist is None else f" {self.recist}"
        return f"{number or '-'} {self.body_part.title}{confidence}{size}"


def stable_id(series: str, key_slice: int, box: Box, body_part: BodyPart) -> str:
    """An id that the same detection on the same series always gets, so that a report written twice is the same
    report."""
    return str(
        uuid.uuid5(_NAMESPACE, f"{series}/{key_slice}/{body_part.value}/" + "/".join(f"{value:.2f}" for value in box))
    )
