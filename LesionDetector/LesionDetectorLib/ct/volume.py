"""A CT in memory: Hounsfield units with the geometry that says where each voxel lies in the patient."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from LesionDetectorLib.ct.geometry import DicomSeries, Geometry
from LesionDetectorLib.refusal import Refusal

AIR = -1024
HIGHEST = np.iinfo(np.int16).max


class CTError(Refusal):
    """A CT that cannot be read; the message is one sentence that names the file or value and says what to do next."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT with even, orthogonal voxels in the view of a radiologist.

    i grows towards the patient's left and j towards the back, as nearly as the voxel axes allow; k is the slice. DICOM
    slices run from feet to head, by their positions; other files keep their own order of slices, and DeepLesion's run
    from head to feet. `direction` tells all this exactly, and may be oblique or left-handed.

    Attributes
    ----------
    hu: (k, j, i) int16, Hounsfield units, clipped at -1024: what lies below is padding.
    spacing: mm along i, j, k.
    origin: LPS mm of the centre of voxel (0, 0, 0).
    direction: (3, 3), columns = LPS unit vectors of i, j, k.
    source: the file or folder that was read.
    study, series: what a report prints.
    series_uid: SeriesInstanceUID, or a stable id of the content where there is none.
    first_slice: the number by which a reader knows slice k = 0.
    slice_thickness: nominal thickness of the thickest slice in mm, None if unknown; `spacing` is what the slices are
        apart.
    dicom: identifiers of the series, None for other files; a slice that was resampled, or whose pixels were reordered,
        has none.
    warnings: what was wrong with the input and what was done about it, one sentence each.
    """

    hu: np.ndarray
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: np.ndarray
    source: Path
    study: str = "1"
    series: str = "1"
    series_uid: str = ""
    first_slice: int = 1
    slice_thickness: float | None = None
    dicom: DicomSeries | None = None
    warnings: tuple[str, ...] = ()

    @property
    def geometry(self) -> Geometry:
        """Where the voxels lie in the patient."""
        depth, height, width = self.hu.shape
        return Geometry.of((width, height, depth), self.spacing, self.origin, self.direction)

    def slice_number(self, k: int) -> int:
        """The number by which a reader knows slice k: DeepLesion's own index, else counted from 1."""
        return k + self.first_slice


def to_hu(values: np.ndarray) -> np.ndarray:
    """`values` rounded and clipped to int16 Hounsfield units of at least -1024."""
    if np.issubdtype(values.dtype, np.floating):
        values = np.rint(values)
    return np.clip(values, AIR, HIGHEST).astype(np.int16)


def check_hu(hu: np.ndarray, source: Path) -> list[str]:
    """Warnings about values that may not be Hounsfield units; CTError if they cannot be."""
    low, high = int(hu.min()), int(hu.max())
    if low >= -10 and high <= 255:
        raise CTError(
            f"{source} holds values from {low} to {high}, which are not Hounsfield units (air -1000, water 0, bone "
            "above 300): give the CT itself, not a label map or an 8-bit picture of it."
        )
    if low >= 0:
        return [
            f"No value of {source.name} lies below 0 HU ({low} to {high}): if the file adds an offset such as 1024, "
            "subtract it first."
        ]
    return []


@dataclass(frozen=True, eq=False)
class Placed:
    """Voxels (k, j, i) with origin (3,) in LPS mm, spacing (3,) in mm and direction (3, 3), columns = i, j, k."""

    hu: np.ndarray
    origin: np.ndarray
    spacing: np.ndarray
    direction: np.ndarray

    def in_axial_view(self) -> tuple[Placed, bool, bool]:
        """The same voxels with i towards the patient's left, j towards the back and k along the body, as nearly as
        their axes allow.

        k keeps its sense. Also returns whether axes were exchanged, and whether i or j was turned round.
        """
        order = list(
            max(itertools.permutations(range(3)), key=lambda order: np.abs(self.direction[range(3), order]).sum())
        )
        direction, spacing, origin = self.direction[:, order], self.spacing[order], self.origin
        hu = self.hu.transpose([2 - axis for axis in order[::-1]])
        turned = [axis for axis in (0, 1) if direction[axis, axis] < 0]
        for axis in turned:
            origin = origin + direction[:, axis] * spacing[axis] * (hu.shape[2 - axis] - 1)
            direction[:, axis] *= -1
        hu = np.ascontiguousarray(np.flip(hu, [2 - axis for axis in turned]))
        return Placed(hu, origin, spacing, direction + 0.0), order != [0, 1, 2], bool(turned)  # + 0.0 rids it of -0.0
