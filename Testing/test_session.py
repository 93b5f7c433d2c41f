"""The review of one CT in a scene, on the real MRML nodes: followed through edits, undo, saving, loading and closing."""

from __future__ import annotations

import numpy as np
import pytest
from LesionDetectorLib import scene as lesion_scene
from LesionDetectorLib.lesion import Axis, BodyPart, Mark, Origin, ReviewStatus
from LesionDetectorLib.report.reading import Reading

slicer = pytest.importorskip("slicer", reason="needs slicer-core: pip install 'lesion-detector[scene]'")

from LesionDetectorLib.scene import Session, mrml  # noqa: E402

from Testing.test_scene import GEOMETRIES, some_lesions, volume_with  # noqa: E402

VOLUME = volume_with(GEOMETRIES["oblique"])


@pytest.fixture(params=list(GEOMETRIES))
def session(request):
    volume = volume_with(GEOMETRIES[request.param])
    scene = lesion_scene.new_scene()
    node = lesion_scene.add_volume(scene, volume)
    lesion_scene.show_in_slice_views(scene, node)
    heard = []
    session = Session.start(node, Reading.of(volume, some_lesions(), confidence=0.6), heard.append)
    session.heard, session.scene = heard, scene
    yield session
    session.close()


def markups(session: Session) -> list:
    return mrml.all_nodes(session.scene, "vtkMRMLMarkupsNode")


def visible_boxes(session: Session) -> list[str]:
    return [box.GetName() for box in mrml.all_nodes(session.scene, "vtkMRMLMarkupsROINode") if box.GetDisplayNode().GetVisibility()]


def test_the_list_has_reported_and_rejected_lesions_and_the_table_shows_it(session):
    assert [(number, lesion.body_part) for number, lesion in session.listed] == [
        (1, BodyPart.BONE),
        (2, BodyPart.SOFT_TISSUE),
        (None, BodyPart.LUNG),
    ]
    table = session.scene.GetFirstNodeByClass("vtkMRMLTableNode")
    assert [table.GetCellText(row, 1) for row in range(table.GetNumberOfRows())] == ["Bone", "Soft tissue", "Lung"]
    session.confidence = 0.9
    assert [lesion.body_part for _, lesion in session.listed] == [BodyPart.BONE, BodyPart.LUNG]


def test_selecting_jumps_and_only_lesions_on_the_slice_are_drawn(session):
    bone, soft = session.listed[0][1], session.listed[1][1]
    session.select(soft.id)
    assert visible_boxes(session) == ["2 Soft tissue 87 % 18 x 18 mm", "- Lung"]
    session.select(bone.id)
    assert visible_boxes(session) == ["1 Bone 50 %"]
    session.step(1)
    assert session.selected == soft.id
    session.step(1)
    session.step(1)
    assert session.selected == bone.id
    assert len(markups(session)) <= 3 * 2 + 1


def test_every_change_can_be_undone_and_is_kept_in_the_scene(session):
    soft = session.listed[1][1]
    session.set_status(soft.id, ReviewStatus.ACCEPTED)
    session.relabel(soft.id, BodyPart.LIVER)
    session.mark(soft.id, Mark.LYMPH_NODE, True)
    session.delete(soft.id)
    session.undo()
    kept = Session.kept(session.scene)
    (again,) = (again.review.lesion(soft.id) for again in kept)
    assert (again.body_part, again.marks) == (BodyPart.LIVER, (Mark.LYMPH_NODE,))
    kept[0].redo()
    assert soft.id not in {lesion.id for lesion in kept[0].review.lesions}
    kept[0].close()


def drag(session: Session, lesion_id: str, axis: Axis | None, move) -> None:
    """What a mouse does to a node: the positions change, then the interaction ends."""
    nodes = session._overlay._nodes[lesion_id]
    node = nodes.box if axis is None else nodes.axes[axis]
    move(node)
    node.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)


def test_a_dragged_axis_is_the_readers_and_stays_when_the_box_is_dragged(session):
    soft = session.listed[1][1]
    session.select(soft.id)
    session.editing = True
    end = mrml.ras(session.volume_node, (70.0, 52.0, 6))
    drag(session, soft.id, Axis.LONG, lambda line: line.SetNthControlPointPosition(1, end))
    drawn = session.review.lesion(soft.id).recist
    assert drawn.long_mm == pytest.approx((52.0 - 32.5) * 1.2) and drawn.drawn == (Axis.LONG,)

    def grow(box):
        box.SetSize(*(np.array(box.GetSize()) * (1.2, 1.2, 1)))

    drag(session, soft.id, None, grow)
    moved = session.review.lesion(soft.id)
    assert moved.box == pytest.approx((56.8, 25.0, 83.2, 55.0), abs=1e-3)
    assert moved.recist.long_mm == drawn.long_mm and moved.recist.short_mm != soft.recist.short_mm
    session.undo()
    session.undo()
    assert session.review.lesion(soft.id) == soft


def test_the_label_follows_an_axis_while_it_is_dragged(session):
    soft = session.listed[1][1]
    session.select(soft.id)
    session.editing = True
    line = session._overlay._nodes[soft.id].axes[Axis.LONG]
    line.SetNthControlPointPosition(1, mrml.ras(session.volume_node, (70.0, 57.5, 6)))
    labels = session.scene.GetFirstNodeByClass("vtkMRMLMarkupsFiducialNode")
    texts = [labels.GetNthControlPointLabel(index) for index in range(labels.GetNumberOfControlPoints())]
    assert "2 Soft tissue 87 % 30 x 18 mm" in texts
    assert session.review.lesion(soft.id) == soft


def test_nodes_are_locked_but_those_of_the_lesion_that_is_edited(session):
    soft = session.listed[1][1]
    session.select(soft.id)
    assert all(node.GetLocked() for node in markups(session))
    session.editing = True
    free = [node.GetName() for node in markups(session) if not node.GetLocked()]
    assert free == ["2 Soft tissue 87 % 18 x 18 mm", "2 axis", "2 axis"]


def test_lesions_are_added_by_a_box_and_by_a_click(session):
    corners = np.array([mrml.ras(session.volume_node, (62.0, 30.0, 6)), mrml.ras(session.volume_node, (78.0, 50.0, 6))])
    drawn = session.add_box(BodyPart.SOFT_TISSUE, corners)
    assert drawn.origin is Origin.READER and drawn.box == pytest.approx((62, 30, 78, 50), abs=1e-6)
    assert session.selected == drawn.id and drawn.recist.long_mm > 10
    clicked = session.add_at(BodyPart.SOFT_TISSUE, mrml.ras(session.volume_node, (70.0, 40.0, 6)))
    x0, y0, x1, y1 = clicked.box
    assert (x0, x1) == pytest.approx((63.5, 76.5), abs=3) and (y0, y1) == pytest.approx((31, 49), abs=3)
    with pytest.raises(lesion_scene.SceneError, match="smaller than a voxel"):
        session.add_box(BodyPart.BONE, corners[[0, 0]])
    with pytest.raises(lesion_scene.SceneError, match="outside"):
        session.add_at(BodyPart.BONE, mrml.ras(session.volume_node, (70.0, 40.0, 99)))


def test_the_largest_slice_becomes_the_key_slice(session):
    soft = session.listed[1][1]
    session.review.move_box(soft.id, 4, soft.box, soft.recist)
    session.to_largest_slice(soft.id)
    assert session.review.lesion(soft.id).key_slice in (5, 6, 7)


def test_a_scene_that_is_saved_and_loaded_goes_on_where_it_was(session, tmp_path):
    soft = session.listed[1][1]
    session.select(soft.id)
    session.set_status(soft.id, ReviewStatus.REJECTED)
    session.confidence = 0.25
    lesion_scene.save_scene(session.scene, tmp_path / "review.mrb")
    scene = lesion_scene.load_scene(tmp_path / "review.mrb")
    (again,) = Session.kept(scene)
    assert (again.confidence, again.selected, again.listed) == (0.25, soft.id, session.listed)
    assert len(mrml.all_nodes(scene, "vtkMRMLMarkupsROINode")) == len(visible_boxes(session))
    again.undo()
    assert again.review.lesion(soft.id) == soft
    again.close()


def test_closing_leaves_no_observer_and_no_markup(session):
    session.select(session.listed[1][1].id)
    assert markups(session) and session.observers
    session.close()
    assert not markups(session) and session.observers == 0
    assert session.scene.GetFirstNodeByClass("vtkMRMLTextNode") is not None
