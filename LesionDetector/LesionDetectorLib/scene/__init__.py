"""Lesions as a 3D Slicer scene: MRML nodes from lesions, lesions back from MRML nodes, and the `.mrb` file that
holds them.

It works inside 3D Slicer, and outside of it on the `slicer-core` wheel. This is the only room that speaks RAS:
everything else has LPS mm or voxel indices (i, j, k).
"""

from LesionDetectorLib.scene.files import load_scene, new_scene, render_scene, save_scene, write_scene
from LesionDetectorLib.scene.kept import is_reviewed
from LesionDetectorLib.scene.markups import read_lesion, read_lesions
from LesionDetectorLib.scene.mrml import SceneError
from LesionDetectorLib.scene.placing import Placing, Shape
from LesionDetectorLib.scene.reports import read_lesions_file, save_report, slice_thickness
from LesionDetectorLib.scene.session import Session
from LesionDetectorLib.scene.shown import (
    COLUMNS,
    add_volume,
    range_of,
    reading_on,
    remove_lesions,
    set_window,
    show_in_slice_views,
    show_lesions,
    why_not_a_ct,
    write_volume,
)

__all__ = [
    "COLUMNS",
    "Placing",
    "SceneError",
    "Session",
    "Shape",
    "add_volume",
    "is_reviewed",
    "load_scene",
    "new_scene",
    "range_of",
    "read_lesion",
    "read_lesions",
    "read_lesions_file",
    "reading_on",
    "remove_lesions",
    "render_scene",
    "save_report",
    "save_scene",
    "set_window",
    "show_in_slice_views",
    "show_lesions",
    "slice_thickness",
    "why_not_a_ct",
    "write_scene",
    "write_volume",
]
