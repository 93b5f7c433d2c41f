"""A new lesion drawn with real clicks in a view."""

from __future__ import annotations

import numpy as np
import pytest
from LesionDetectorLib import scene as lesion_scene

pytest.importorskip("trame_slicer.views", reason="needs trame-slicer: pip install 'lesion-detector[scene]'")
pytest.importorskip("PySide6", reason="needs PySide6-Essentials: pip install 'lesion-detector[test]'")

from LesionDetectorLib.scene import Placing, Shape, markups, mrml

from Testing.helpers.mouse import Mouse
from Testing.helpers.scenes import GEOMETRIES, volume_with
from Testing.helpers.slicer_application import Application


@pytest.mark.parametrize("geometry", ["oblique", "left-handed"])
def test_a_box_and_a_point_lie_where_they_were_clicked(geometry):
    application = Application()
    view = application.axial_view(512)
    node = lesion_scene.add_volume(application.scene, volume_with(GEOMETRIES[geometry]))
    lesion_scene.show_in_slice_views(application.scene, node)
    application.slicer.app_logic.GetSliceLogics().GetItemAsObject(0).ResizeSliceNode(512, 512)
    view.render()
    mouse, k = Mouse(view), 5.5
    for shape, clicks in ((Shape.BOX, [(20, 20), (40, 30)]), (Shape.POINT, [(60, 50)])):
        drawn, later = [], []
        Placing(application.scene, shape, drawn.append, lambda: None, later.append)
        for click in clicks:
            mouse.click(mouse.display(mrml.ras(node, (*click, k))))
            view.render()
        assert len(later) == 1 and not drawn
        later[0]()
        assert markups.ras_to_ijk(drawn[0], node) == pytest.approx(np.array([(*click, k) for click in clicks]), abs=0.6)
        assert application.scene.GetFirstNodeByName("New lesion") is None
