"""Where the voxels of a CT lie in the patient, and the identifiers of its DICOM series."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from LesionDetectorLib.printable import printable
from LesionDetectorLib.refusal import Refusal

Vector = tuple[float, float, float]
MOST_VOXELS_A_SIDE = 100_000


def vector(values: Iterable[float]) -> Vector:
    """Three values as a `Vector` of Python's numbers."""
    x, y, z = map(float, values)
    return x, y, z


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the voxels of a CT lie in the patient.

    Attributes
    ----------
    size: number of voxels along (i, j, k).
    spacing: mm along (i, j, k).
    origin: LPS mm of the centre of voxel (0, 0, 0).
    direction: three rows of a matrix whose columns are the LPS unit vectors of i, j and k.
    """

    size: tuple[int, int, int]
    spacing: Vector
    origin: Vector
    direction: tuple[Vector, Vector, Vector]

    def __post_init__(self) -> None:
        numbers = [*self.spacing, *self.origin, *(value for row in self.direction for value in row)]
        if not all(map(math.isfinite, numbers)) or min(self.spacing) <= 0 or min(self.size) < 1:
            raise ValueError(f"A CT needs a size of at least 1, a spacing above 0 mm and finite positions, not {self}.")
        if max(self.size) > MOST_VOXELS_A_SIDE:
            raise Refusal(
                f"A CT of {' x '.join(map(str, self.size))} voxels is none: at most {MOST_VOXELS_A_SIDE} a side are "
                "read."
            )

    @classmethod
    def of(
        cls, size: tuple[int, int, int], spacing: Iterable[float], origin: Iterable[float], direction: Iterable
    ) -> Geometry:
        """From arrays: `direction` has the rows of the matrix."""
        rows = [vector(row) for row in direction]
        return cls(size, vector(spacing), vector(origin), (rows[0], rows[1], rows[2]))

    @property
    def index_to_lps(self) -> np.ndarray:
        """(4, 4) matrix from homogeneous voxel indices (i, j, k, 1) to LPS mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.array(self.direction) * self.spacing
        matrix[:3, 3] = self.origin
        return matrix

    def to_lps(self, points: np.ndarray | Vector) -> np.ndarray:
        """LPS mm of continuous voxel indices (i, j, k); both (..., 3)."""
        matrix = self.index_to_lps
        return np.asarray(points, dtype=float) @ matrix[:3, :3].T + matrix[:3, 3]

    def to_index(self, points: np.ndarray | Vector) -> np.ndarray:
        """Continuous voxel indices (i, j, k) of points in LPS mm; both (..., 3)."""
        matrix = np.linalg.inv(self.index_to_lps)
        return np.asarray(points, dtype=float) @ matrix[:3, :3].T + matrix[:3, 3]

    def matches(self, other: Geometry) -> bool:
        """Whether `other` has as many voxels in the same places, to a tenth of a voxel."""
        corners = [(0, 0, 0), *np.diag(self.size)]
        apart = np.abs(self.to_lps(corners) - other.to_lps(corners)).max()
        return self.size == other.size and bool(apart < 0.1 * min(self.spacing))


@dataclass(frozen=True, slots=True)
class DicomSeries:
    """The identifiers by which a DICOM report refers to its CT.

    `sop_instance_uids` are in order of k; None for a slice whose voxels are not the pixels of any file, so that nothing
    may point there.
    """

    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    sop_instance_uids: tuple[str | None, ...]

    def __post_init__(self) -> None:
        for name in ("study_uid", "series_uid", "frame_of_reference_uid"):
            object.__setattr__(self, name, printable(getattr(self, name)))
        uids = (uid if uid is None or uid == printable(uid) else None for uid in self.sop_instance_uids)
        object.__setattr__(self, "sop_instance_uids", tuple(uids))
