"""The report of a review as a file that leaves Slicer, and lesions from such files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from LesionDetectorLib.ct import CTError, Volume
from LesionDetectorLib.ct.volume import Placed, to_hu
from LesionDetectorLib.exchange import lesions_json
from LesionDetectorLib.files import write_text
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.regrid import regrid
from LesionDetectorLib.report import table, text
from LesionDetectorLib.scene.mrml import SceneError, slicer_module
from LesionDetectorLib.scene.shown import geometry_of

if TYPE_CHECKING:
    from slicer import vtkMRMLScalarVolumeNode

    from LesionDetectorLib.scene.session import Session

ENDINGS = (".txt", ".html", ".csv", ".json", ".dcm", ".seg.dcm")
"""The kinds of files, by the ends of their names."""


def save_report(
    session: Session,
    path: Path,
    kind: str = "",
    accepted_only: bool = False,
    diameters: bool = False,
    baseline: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Save the report of a review as one of the kinds in `ENDINGS`, by default the one that its name asks for, all of it or nothing.

    With `diameters`, those are in the text; with `baseline`, the RECIST 1.1 baseline is in text, page and table. `progress(done, total)`
    hears of the pictures of a page, and may raise to stop. Returns sentences on what a reader must know of a DICOM file.

    Raises Refusal, such as SceneError, which says in one sentence why it cannot be saved, and OSError.
    """
    reading, volume_node = session.report(accepted_only), session.volume_node
    match kind or ending(path):
        case ".txt":
            write_text(path, text.compose(reading, diameters, baseline))
        case ".csv":
            write_text(path, table.compose(reading, baseline))
        case ".json":
            lesions_json.write(path, reading)
        case ".html":
            from LesionDetectorLib.report import page

            volume = volume_of(volume_node)
            moved = regrid(reading, Reading.of(volume, []).geometry)
            write_text(path, page.compose(moved, volume, diameters, baseline, progress=progress))
        case ".dcm" | ".seg.dcm" as kind:
            from LesionDetectorLib.exchange import dicom_seg, dicom_source, dicom_sr

            files = dicom_files(volume_node)
            reading = dicom_source.with_series(reading, files)
            slices = dicom_source.source_slices(files, reading)
            if kind == ".dcm":
                return dicom_sr.write(path, reading, slices)
            return dicom_seg.write(path, reading, slices, volume_of(volume_node, turned=False))
    return []


def read_lesions_file(volume_node: vtkMRMLScalarVolumeNode, path: Path) -> Reading:
    """The reading in a lesions.json, or in a DICOM SR on the CT's own files, ours or another program's.

    Raises Refusal, such as SceneError, which says in one sentence why it cannot be read, and OSError.
    """
    if path.suffix.lower() == ".json":
        return lesions_json.read(path)
    from LesionDetectorLib.exchange import dicom_in

    return dicom_in.read(path, dicom_files(volume_node)[0])


def report_path(path: Path, kind: str) -> Path:
    """The file to save a report of one of the `ENDINGS` to: a name without an ending gets that; Refusal where it has another."""
    if not path.suffix:
        return path.with_name(path.name + kind)
    if not path.name.lower().endswith("." + kind.rpartition(".")[2]):
        raise Refusal(f"{path.name}: choose a name that ends in {kind}, or another kind of file.")
    return path


def ending(path: Path) -> str:
    """Which of the `ENDINGS` a name has, the longest that fits; Refusal names them all."""
    fitting = [known for known in ENDINGS if path.name.lower().endswith(known)]
    if not fitting:
        raise Refusal(f"{path.name}: choose a name that ends in one of {', '.join(ENDINGS)}.")
    return max(fitting, key=len)


def volume_of(volume_node: vtkMRMLScalarVolumeNode, turned: bool = True) -> Volume:
    """The CT in the scene as a volume; unless `turned` is False, in the view of a radiologist. Raises SceneError where it has no voxels."""
    if volume_node.GetImageData() is None:
        raise SceneError(f"'{volume_node.GetName()}' holds no voxels; load the CT again.")
    geometry = geometry_of(volume_node)
    hu = to_hu(slicer_module().util.arrayFromVolume(volume_node))
    placed = Placed(hu, np.array(geometry.origin), np.array(geometry.spacing), np.array(geometry.direction))
    if turned:
        placed, *_ = placed.in_axial_view()
    return Volume(placed.hu, tuple(placed.spacing), tuple(placed.origin), placed.direction, Path(volume_node.GetName()))


def slice_thickness(volume_node: vtkMRMLScalarVolumeNode) -> float | None:
    """The nominal thickness of the CT's thickest slice in mm, by its files in Slicer's DICOM database; None where they do not tell."""
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
    files = [Path(file) for file in (database.fileForInstance(uid) for uid in uids) if file] if database is not None else []
    if not files or len(files) < len(uids):
        raise SceneError(
            f"'{volume_node.GetName()}' was not loaded from Slicer's DICOM database, or is not in it any more: "
            "load it from there, or save a text, a page, a table or JSON."
        )
    return files
