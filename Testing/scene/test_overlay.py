"""Scrolling through a CT with two hundred lesions costs at most twice what it costs without any: side by side, on
the real nodes."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from LesionDetectorLib import scene as lesion_scene
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.lesion import BodyPart, Lesion, Recist
from LesionDetectorLib.reading import Reading

pytest.importorskip("trame_slicer.views", reason="needs trame-slicer: pip install 'lesion-detector[scene]'")
pytest.importorskip("PySide6", reason="needs PySide6-Essentials: pip install 'lesion-detector[test]'")

from LesionDetectorLib.scene import Session

from Testing.helpers.slicer_application import Application

SLICES, LESIONS = 60, 200


def lesions() -> list[Lesion]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(LESIONS):
        k, (x, y), side = int(rng.integers(2, SLICES - 2)), rng.uniform(20, 220, 2), rng.uniform(8, 20)
        middle, ends = (x + side / 2, y + side / 2), (x + 3, x + side - 3)
        axes = ((ends[0], middle[1]), (ends[1], middle[1])), ((middle[0], y + 3), (middle[0], y + side - 3))
        found.append(
            Lesion(BodyPart.LIVER, 0.7, k, (k - 2, k + 2), (x, y, x + side, y + side), Recist(*axes, side, side))
        )
    return found


def scroll(view, k: int) -> float:
    started = time.perf_counter()
    view.set_slice_value(k * 2.5)
    view.render()
    return time.perf_counter() - started


def test_scrolling_with_two_hundred_lesions_costs_at_most_twice_an_empty_scenes():
    hu = np.random.default_rng(0).normal(0, 50, (SLICES, 256, 256)).astype(np.int16)
    volume = Volume(hu, (1.5, 1.5, 2.5), (0.0, 0.0, 0.0), np.eye(3), Path("ct.nrrd"))
    views = {}
    for name in ("empty", "lesions"):
        application = Application()
        view = application.axial_view(512)
        node = lesion_scene.add_volume(application.scene, volume)
        lesion_scene.show_in_slice_views(application.scene, node)
        application.slicer.app_logic.GetSliceLogics().GetItemAsObject(0).ResizeSliceNode(512, 512)
        views[name] = view
    session = Session.start(node, Reading.of(volume, lesions()))
    scroll(views["lesions"], 4)
    seconds = {name: [] for name in views}
    for k in range(5, SLICES - 5):
        for name, view in views.items():
            seconds[name].append(scroll(view, k))
    assert len({lesion.id for _, lesion in session.listed}) == LESIONS
    medians = {name: np.median(values) for name, values in seconds.items()}
    session.close()
    assert medians["lesions"] <= 2 * medians["empty"], medians
