"""A reading in other voxel indices of the same CT: programs hold the axes of one CT in different orders and
directions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from LesionDetectorLib.boxes import hull
from LesionDetectorLib.ct.geometry import DicomSeries, Geometry
from LesionDetectorLib.lesion import Lesion, Point
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.refusal import Refusal

APART = 0.1
"""Largest distance, in voxels, between the places of voxels that still count as the same."""


def regrid(reading: Reading, geometry: Geometry) -> Reading:
    """`reading` with all its lesions in the voxel indices of `geometry`, whose slices are those of the reading, in
    any order.

    The numbers by which a report calls slices stay, unless they would count down: then they count from 1. Raises
    Refusal where `geometry` is that of another CT.
    """
    order = _order(reading.geometry, geometry)
    turned = order[2, 2] < 0
    return replace(
        reading,
        geometry=geometry,
        lesions=tuple(_moved(lesion, order) for lesion in reading.lesions),
        first_slice=1 if turned else reading.first_slice,
        dicom=reading.dicom and _dicom(reading.dicom, order),
    )


def _order(old: Geometry, new: Geometry) -> np.ndarray:
    """The whole-numbered matrix (4, 4) from voxel indices of one geometry to those of another.

    Refusal where there is none.
    """
    to_new = np.linalg.inv(new.index_to_lps) @ old.index_to_lps
    order = np.rint(to_new)
    last = np.array(old.size) - 1
    ends = order @ np.array([(0, 0, 0, 1), (*last, 1)]).T
    same = (
        np.abs((to_new - order) @ (*last, 1)).max() < APART
        and np.array_equal(ends[:3].min(axis=1), (0, 0, 0))
        and np.array_equal(ends[:3].max(axis=1) + 1, new.size)
        and abs(order[2, 2]) == 1
    )
    if not same:
        raise Refusal("The voxels of this CT are not those on which the lesions lie.")
    return order


def _moved(lesion: Lesion, order: np.ndarray) -> Lesion:
    """The lesion in other voxel indices: `order` (4, 4) turns and shifts (i, j, k, 1), k into k."""

    def point(i: float, j: float) -> Point:
        x, y = order[:2] @ (i, j, lesion.key_slice, 1)
        return float(x), float(y)

    def slice_index(k: int) -> int:
        return round(order[2, 2] * k + order[2, 3])

    corners = np.array([point(*lesion.box[:2]), point(*lesion.box[2:])])
    recist = lesion.recist
    if recist is not None:
        (a, b), (c, d) = recist.long_axis, recist.short_axis
        recist = replace(recist, long_axis=(point(*a), point(*b)), short_axis=(point(*c), point(*d)))
    return lesion.edited(
        key_slice=slice_index(lesion.key_slice),
        slices=tuple(sorted(map(slice_index, lesion.slices))),
        box=hull(corners),
        recist=recist,
        location=lesion.location,
    )


def _dicom(dicom: DicomSeries, order: np.ndarray) -> DicomSeries:
    """The identifiers in the new order of slices; of slices whose pixels lie in another order, none."""
    uids = (
        dicom.sop_instance_uids if np.array_equal(order[:2, :2], np.eye(2)) else (None,) * len(dicom.sop_instance_uids)
    )
    return replace(dicom, sop_instance_uids=uids[::-1] if order[2, 2] < 0 else uids)
