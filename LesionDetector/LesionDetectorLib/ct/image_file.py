"""A CT in one image file: NRRD, NIfTI or MetaImage."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from LesionDetectorLib.ct import nifti
from LesionDetectorLib.ct.grid import shift_slices, sideways_shift, tilt
from LesionDetectorLib.ct.volume import AIR, CTError, Placed, Volume, check_hu, to_hu

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813

SUFFIXES = (*nifti.SUFFIXES, ".nrrd", ".nhdr", ".mha", ".mhd")
BROKEN = "is truncated or damaged, or its data file is missing: copy or export it again."
UNITS = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    **dict.fromkeys(
        ("um", "\u00b5m", "\u03bcm", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres"),
        0.001,
    ),
    **dict.fromkeys(("in", "inch", "inches"), 25.4),
}
"""The length in mm of the units that an NRRD or a MetaImage may have."""
PATIENT_SPACES = (
    *("right-anterior-superior", "left-anterior-superior", "left-posterior-superior", "ras", "las", "lps"),
    *(
        "right-anterior-superior-time",
        "left-anterior-superior-time",
        "left-posterior-superior-time",
        "rast",
        "last",
        "lpst",
    ),
)
"""The spaces of an NRRD that say how the patient lies."""
META_ORIENTATION = (b"transformmatrix", b"orientation", b"rotation")
NRRD_SPACING = (b"space directions:", b"spacings:")
META_SPACING = (b"elementspacing", b"elementsize")


def is_image(path: Path) -> bool:
    """Whether the name of `path` is that of an image file."""
    return path.name.lower().endswith(SUFFIXES)


def read(path: Path, progress: Callable[[int, int], None] | None = None) -> Volume:
    """The CT in an image file, turned to the nearest axial view; slices are counted from 1 in the file's order.

    Raises CTError for a truncated file, colour, a fourth dimension, a spacing that is missing or zero, and values that
    are not HU.
    """
    reader, warnings = _header(path)
    image = _read_image(path, reader)
    hu, invalid = _hounsfield(image)
    if nifti.is_nifti(path):
        indices = nifti.not_numbers(path, reader)
        hu.flat[indices] = AIR
        invalid = len(indices)
    if invalid:
        warnings.append(f"{invalid} voxels of {path.name} hold no number (NaN or infinite) and were read as air.")
    warnings += check_hu(hu, path)
    unit = _unit(path)
    origin, spacing = unit * np.array(image.GetOrigin()), unit * np.array(image.GetSpacing())
    placed = Placed(hu, origin, spacing, np.reshape(image.GetDirection(), (3, 3)))
    placed, tilted = _upright(placed, path)
    if tilted:
        warnings.append(f"{path.name} has {tilted}: its slices were shifted upright.")
    placed, exchanged, _ = placed.in_axial_view()
    if exchanged:
        warnings.append(
            f"{path.name} is not stored as axial slices: it was turned, and slice numbers count its axial slices."
        )
    if len(placed.hu) == 1:
        warnings.append(f"{path.name} has one slice only: it stands in for its neighbours.")
    if progress:
        progress(len(placed.hu), len(placed.hu))
    return Volume(
        hu=placed.hu,
        spacing=tuple(placed.spacing.tolist()),
        origin=tuple(placed.origin.tolist()),
        direction=placed.direction,
        source=path,
        series_uid=hashlib.blake2b(placed.hu, digest_size=16).hexdigest(),
        warnings=tuple(warnings),
    )


def _header(path: Path) -> tuple[sitk.ImageFileReader, list[str]]:
    """A reader that knows the header, which tells of a grey image of up to three dimensions with a spacing.

    CTError if it does not.
    """
    import SimpleITK as sitk  # noqa: N813

    with path.open("rb"):  # so that a file without permission says so
        pass
    if nifti.is_nifti(path) and nifti.is_misnamed(path):
        state, ending = ("not compressed", ".nii") if path.suffix.lower() == ".gz" else ("compressed", ".nii.gz")
        raise CTError(f"{path} is {state}, unlike its name: give it a name that ends in {ending}.")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise CTError(f"{path} {BROKEN}") from error
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if components > 1:
        raise CTError(f"{path} holds {components} values a voxel (a colour or vector image): give a CT, which has one.")
    if len(size) > 3 and max(size[3:]) > 1:
        raise CTError(
            f"{path} has {len(size)} dimensions ({' x '.join(map(str, size))}): split it and give one 3-D volume."
        )
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise CTError(f"{path} holds complex numbers: give a CT in Hounsfield units.")
    if not _has_spacing(path, reader):
        raise CTError(f"{path} gives no voxel spacing, or a spacing of 0: export it again with its spacing in mm.")
    return reader, _doubts(path, reader)


def _is_meta_image(path: Path) -> bool:
    return path.suffix.lower() in (".mha", ".mhd")


def _doubts(path: Path, reader: sitk.ImageFileReader) -> list[str]:
    """What the file leaves open of how the patient lies, as a warning."""
    if nifti.is_nifti(path):
        known = any(int(reader.GetMetaData(key)) for key in ("qform_code", "sform_code") if reader.HasMetaDataKey(key))
        apart = nifti.forms_apart(path)
        if apart > 0:
            return [
                f"{path.name} says in two ways where its voxels lie (qform and sform), which are up to {apart:.0f} mm "
                f"apart: left and right may be swapped. The {_form_taken(path, reader)} was taken."
            ]
    elif _is_meta_image(path):
        known = any(key in _start(path).lower() for key in META_ORIENTATION)
    else:
        known = _nrrd_field(path, "space").lower() in PATIENT_SPACES
    text = (
        f"{path.name} does not say how the patient lies: the default of its format was taken, and left and right may "
        "be swapped."
    )
    return [] if known else [text]


def _form_taken(path: Path, reader: sitk.ImageFileReader) -> str:
    """Which of its two forms a NIfTI file was read by."""
    directions = np.reshape(reader.GetDirection(), (len(reader.GetSize()), -1))[:3, :3]
    to_lps = np.diag((-1, -1, 1)) @ np.stack(nifti.directions(path))
    return ("qform", "sform")[int(np.abs(to_lps - directions).max(axis=(1, 2)).argmin())]


def _unit(path: Path) -> float:
    """The length in mm of the unit in which a file says where its voxels lie; CTError for one that is unknown."""
    if nifti.is_nifti(path):
        return 1.0  # ITK minds it
    if _is_meta_image(path):
        found = re.search(rb"distanceunits *= *(\S+)", _start(path).lower())
        given = [found[1].decode("utf-8", "replace")] if found else []
    else:
        given = re.findall(r'"([^"]*)"', _nrrd_field(path, "space units") or _nrrd_field(path, "units"))
    names = {name.strip().lower() for name in given} - {"", "?", "???"} or {"mm"}
    units = {UNITS.get(name) for name in names}
    if None in units or len(units) > 1:
        raise CTError(f"{path} gives its places in {', '.join(sorted(names))}: export it again with its spacing in mm.")
    return units.pop()


def _nrrd_field(path: Path, name: str) -> str:
    """The value of a field in the header of an NRRD, "" where there is none."""
    header = _start(path).partition(b"\n\n")[0].decode("utf-8", "replace").replace("\r", "")
    fields = (line.partition(":") for line in header.splitlines() if not line.startswith("#"))
    return next((value.strip() for key, _, value in fields if key.strip().lower() == name), "")


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(65536)


def _has_spacing(path: Path, reader: sitk.ImageFileReader) -> bool:
    """Whether the file itself states a spacing above 0; ITK would silently put 1 mm in its place."""
    if nifti.is_nifti(path):
        return bool((nifti.spacing(path)[: len(reader.GetSize())] > 0).all())
    header = _start(path).lower()
    keys = META_SPACING if _is_meta_image(path) else NRRD_SPACING
    return min(reader.GetSpacing()) > 0 and any(key in header for key in keys)


def _read_image(path: Path, reader: sitk.ImageFileReader) -> sitk.Image:
    """The image in three dimensions."""
    import SimpleITK as sitk  # noqa: N813

    if nifti.is_nifti(path) and nifti.is_cut_off(path, reader):
        raise CTError(f"{path} is truncated: copy it again.")
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise CTError(f"{path} {BROKEN}") from error
    if image.GetDimension() > 3:
        image = image[(slice(None),) * 3 + (0,) * (image.GetDimension() - 3)]
    return image if image.GetDimension() == 3 else sitk.JoinSeries(image)


def _hounsfield(image: sitk.Image) -> tuple[np.ndarray, int]:
    """(k, j, i) int16 HU, made slice by slice to spare memory, and the number of voxels that held no number."""
    import SimpleITK as sitk  # noqa: N813

    values = sitk.GetArrayViewFromImage(image)
    hu = np.empty(values.shape, np.int16)
    invalid = 0
    for k, plane in enumerate(values):
        finite = np.isfinite(plane)
        invalid += finite.size - np.count_nonzero(finite)
        # whole numbers are all finite, and may not hold AIR
        hu[k] = to_hu(plane if finite.all() else np.where(finite, plane, AIR))
    return hu, invalid


def _upright(placed: Placed, path: Path) -> tuple[Placed, str]:
    """`placed` with slices that are sheared against their normal shifted upright, and in words how they were tilted,
    "" if not."""
    row, column, along = placed.direction.T
    if abs(row @ column) > 1e-3:
        raise CTError(
            f"The rows and columns of {path} are not at right angles: resample it onto an orthogonal grid first."
        )
    normal = np.cross(row, column)
    rise = along @ normal
    spacing = placed.spacing * (1, 1, abs(rise))
    direction = np.column_stack([row, column, normal * np.sign(rise)])
    origins = placed.origin + np.outer(np.arange(len(placed.hu)) * placed.spacing[2], along)
    shift = sideways_shift(origins, row, column, spacing[:2])
    if not shift.any():
        return Placed(placed.hu, placed.origin, spacing, direction), ""
    origin = placed.origin - (direction[:, :2] * spacing[:2]) @ shift[0]
    return Placed(shift_slices(placed.hu, shift), origin, spacing, direction), tilt(origins, row, column)
