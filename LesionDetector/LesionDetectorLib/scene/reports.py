"""The report of a review as a file that leaves Slicer, and lesions from such files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from LesionDetectorLib import formats
from LesionDetectorLib.ct import CTError, Volume
from LesionDetectorLib.ct.volume import Placed, to_hu
from LesionDetectorLib.formats import Format
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.regrid import regrid
from LesionDetectorLib.scene.mrml import SceneError, slicer_module
from LesionDetectorLib.scene.shown import geometry_of

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode

    from LesionDetectorLib.scene.session import Session


def save_report(
    session: Session, path: Path, form: Format | None = None, accepted_only: bool = False, **given: Any
) -> list[str]:
    """Save the report of a review in a format, by default the one that its name asks for, all of it or nothing.

    `given` are "diameters" and "baseline", which a format shows or passes over, and "progress", which hears of the
    pictures of a page as (done, total) and may raise to stop. Returns sentences on what a reader must know of the file.

    Raises Refusal, such as SceneError, which says in one sentence why it cannot be saved, and OSError.
    """
    form = form or formats.of_ending(path)
    reading = session.report(accepted_only)
    if "slices" in form.needs:
        from LesionDetectorLib.exchange import dicom_source

        files = dicom_files(session.volume_node)
        reading = dicom_source.with_series(reading, files)
        given["slices"] = dicom_source.source_slices(files, reading)
    if "volume" in form.needs:
        given["volume"] = volume_of(session.volume_node, turned=False)
    elif "volume" in form.shows:
        given["volume"] = volume_of(session.volume_node)
        reading = regrid(reading, given["volume"].geometry)
    return formats.write(path, form, reading, given)


def read_lesions_file(volume_node: vtkMRMLScalarVolumeNode, path: Path) -> Reading:
    """The reading in a lesions.json, or in a DICOM SR on the CT's own files, ours or another program's.

    Raises Refusal, such as SceneError, which says in one sentence why it cannot be read, and OSError.
    """
    return formats.read(path, lambda: dicom_files(volume_node)[0])


def volume_of(volume_node: vtkMRMLScalarVolumeNode, turned: bool = True) -> Volume:
    """The CT in the scene as a volume; unless `turned` is False, in the view of a radiologist.

    Raises SceneError where it has no voxels.
    """
    if volume_node.GetImageData() is None:
        raise SceneError(f"'{volume_node.GetName()}' holds no voxels; load the CT again.")
    geometry = geometry_of(volume_node)
    hu = to_hu(slicer_module().util.arrayFromVolume(volume_node))
    placed = Placed(hu, np.array(geometry.origin), np.array(geometry.spacing), np.array(geometry.direction))
    if turned:
        placed, *_ = placed.in_axial_view()
    return Volume(placed.hu, tuple(placed.spacing), tuple(placed.origin), placed.direction, Path(volume_node.GetName()))


def slice_thickness(volume_node: vtkMRMLScalarVolumeNode) -> float | None:
    """The nominal thickness of the CT's thickest slice in mm, by its files in Slicer's DICOM database.

    None where they do not tell.
    """
    from LesionDetectorLib.ct.dicom import read_slices, thickest

    try:
        files = dicom_files(volume_node)
        slices, _ = read_slices(files[0].parent, files=files)
    except (SceneError, CTError):
        return None
    return thickest(slices)


def dicom_files(volume_node: vtkMRMLScalarVolumeNode) -> list[Path]:
    """The files of the CT in Slicer's DICOM database; SceneError where it was not loaded from there."""
    uids = (volume_node.GetAttribute("DICOM.instanceUIDs") or "").split()
    database = getattr(slicer_module(), "dicomDatabase", None)
    files = (
        [Path(file) for file in (database.fileForInstance(uid) for uid in uids) if file] if database is not None else []
    )
    if not files or len(files) < len(uids):
        raise SceneError(
            f"'{volume_node.GetName()}' was not loaded from Slicer's DICOM database, or is not in it any more: "
            "load it from there, or save a text, a page, a table or JSON."
        )
    return files
