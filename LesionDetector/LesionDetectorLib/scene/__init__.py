"""Lesions as a 3D Slicer scene: MRML nodes from lesions, lesions back from MRML nodes, and the `.mrb` file that holds them.

It works inside 3D Slicer, and outside of it on the `slicer-core` wheel. This is the only room that speaks RAS: everything else has LPS mm
or voxel indices (i, j, k).
"""

from .files import load_scene, new_scene, render_scene, save_scene, write_scene
from .markups import STATUS_COLOURS, read_lesion, read_lesions
from .mrml import SceneError
from .session import Session
from .shown import COLUMNS, add_volume, lesions_on, remove_lesions, show_in_slice_views, show_lesions

__all__ = [
    "COLUMNS",
    "STATUS_COLOURS",
    "SceneError",
    "Session",
    "add_volume",
    "lesions_on",
    "load_scene",
    "new_scene",
    "read_lesion",
    "read_lesions",
    "remove_lesions",
    "render_scene",
    "save_scene",
    "show_in_slice_views",
    "show_lesions",
    "write_scene",
]
