"""Reading a CT: DICOM, NRRD, NIfTI, MetaImage or the PNG slices of DeepLesion in, one `Volume` out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from LesionDetectorLib.ct import deeplesion, image_file
from LesionDetectorLib.ct.volume import CTError, Volume

__all__ = ["CTError", "Volume", "read"]


def read(path: Path | str, series: str | None = None, progress: Callable[[int, int], None] | None = None) -> Volume:
    """The CT at `path` in Hounsfield units, with its geometry in LPS mm.

    Parameters
    ----------
    path: a folder of DICOM files (searched with its subfolders), one DICOM file of a series, a .nrrd, .nhdr, .nii,
        .nii.gz, .mha or .mhd file, or a DeepLesion sub-volume folder of 16-bit PNGs with its `DL_info.csv` in the
        folder or up to three folders above.
    series: SeriesInstanceUID of the DICOM series wanted; None takes the axial CT series with most slices, and one as it
        was taken before projections and others that were derived.
    progress: called with (slices read, slices in all).

    Raises CTError, with one sentence for the user, where this is not a CT that can be measured. What is mended on the
    way (uneven slices, gantry tilt, a localizer among the slices) is told in `Volume.warnings`.
    """
    path = Path(path).expanduser()
    try:
        if not path.exists():
            raise CTError(f"{path} does not exist: check the path.")
        if path.is_dir() and deeplesion.is_subvolume(path):
            reader = deeplesion.read
        elif path.is_file() and image_file.is_image(path):
            reader = image_file.read
        else:
            from LesionDetectorLib.ct import dicom  # pydicom is slow to import, and no other kind of file needs it

            return dicom.read(path, series, progress)
        if series is not None:
            raise CTError(f"{path} is not a DICOM folder and has no series {series}: leave the series out.")
        return reader(path, progress)
    except PermissionError as error:
        raise CTError(
            f"{error.filename or path} may not be read by this user: change its permissions or copy it."
        ) from error
