"""The review of one CT in a scene, on the real MRML nodes: followed through edits, undo, saving, loading and
closing."""

from __future__ import annotations

import numpy as np
import pytest
from LesionDetectorLib import scene as lesion_scene
from LesionDetectorLib.lesion import Axis, BodyPart, Mark, Origin, ReviewStatus
from LesionDetectorLib.reading import Reading

slicer = pytest.importorskip("slicer", reason="needs slicer-core: pip install 'lesion-detector[scene]'")

from LesionDetectorLib.scene import Session, mrml  # noqa: E402
from LesionDetectorLib.scene import markups as markup_nodes  # noqa: E402

from Testing.helpers.scenes import GEOMETRIES, handles, markups, slice_in_view, some_lesions, volume_with  # noqa: E402

VOLUME = volume_with(GEOMETRIES["oblique"])


@pytest.fixture(params=list(GEOMETRIES))
def session(request):
    volume = volume_with(GEOMETRIES[request.param])
    scene = lesion_scene.new_scene()
    node = lesion_scene.add_volume(scene, volume)
    lesion_scene.show_in_slice_views(scene, node)
    heard = []
    session = Session.start(node, Reading.of(volume, some_lesions(), confidence=0.6), heard.append)
    session.heard = heard
    yield session
    session.close()


def cut_by_slice(session: Session, name: str, k: int) -> list[tuple]:
    """The boxes (x0, y0, x1, y1) whose frames the slice k cuts, of the layer with this name."""
    from vtkmodules.util.numpy_support import vtk_to_numpy

    model = session.scene.GetFirstNodeByName(name)
    points = (
        vtk_to_numpy(model.GetPolyData().GetPoints().GetData())
        if model.GetPolyData().GetNumberOfPoints()
        else np.zeros((0, 3))
    )
    corners = (np.c_[points, np.ones(len(points))] @ np.linalg.inv(mrml.ijk_to_ras(session.volume_node)).T)[
        :, :3
    ].reshape(-1, 4, 3)
    cut = [wall[:2, :2] for wall in corners if wall[:, 2].min() < k < wall[:, 2].max()]
    return [tuple(np.round(line.ravel(), 3)) for line in cut]


def captions(session: Session, k: int) -> list[str]:
    """The captions on slice k."""
    texts = []
    for labels in mrml.all_nodes(session.scene, "vtkMRMLMarkupsFiducialNode"):
        for index in range(labels.GetNumberOfControlPoints()):
            (ijk,) = markup_nodes.ras_to_ijk(
                np.array([labels.GetNthControlPointPositionWorld(index)]), session.volume_node
            )
            texts += [labels.GetNthControlPointLabel(index)] * (round(float(ijk[2])) == k)
    return texts


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


def test_selecting_jumps_to_the_key_slice(session):
    bone, soft, lung = [lesion for _, lesion in session.listed]
    session.select(soft.id)
    assert slice_in_view(session) == 6
    session.select(bone.id)
    assert slice_in_view(session) == 2
    session.step(1)
    assert session.selected == soft.id
    session.step(1)
    assert session.selected == lung.id
    session.step(1)
    assert session.selected == bone.id


def test_a_view_moves_sideways_only_for_a_lesion_that_it_would_not_show(session):
    soft = session.listed[1][1]
    red = session.scene.GetSingletonNode("Red", "vtkMRMLSliceNode")
    across = mrml.matrix_of(red.GetSliceToRAS())[:3, :2]
    middle = mrml.matrix_of(red.GetSliceToRAS())[:3, 3].copy()
    session.select(soft.id)
    np.testing.assert_allclose((mrml.matrix_of(red.GetSliceToRAS())[:3, 3] - middle) @ across, 0, atol=1e-6)
    red.JumpSliceByCentering(*(middle + 500 * across[:, 0]))
    session.select(soft.id)
    x0, y0, x1, y1 = soft.box
    centre = mrml.ras(session.volume_node, ((x0 + x1) / 2, (y0 + y1) / 2, soft.key_slice))
    np.testing.assert_allclose(mrml.matrix_of(red.GetSliceToRAS())[:3, 3], centre, atol=1e-6)


def test_a_lesion_is_drawn_on_the_slices_that_it_spans_and_its_axes_on_the_key_slice(session):
    soft = session.listed[1][1]
    first, last = soft.slices
    for k in range(first, last + 1):
        lines = cut_by_slice(session, "Lesions pending", k)
        assert len(lines) == (6 if k == soft.key_slice else 4)
        assert np.allclose(np.array(lines[:4]).reshape(-1, 2).min(axis=0), soft.box[:2], atol=1e-3)
        assert np.allclose(np.array(lines[:4]).reshape(-1, 2).max(axis=0), soft.box[2:], atol=1e-3)
        assert "2 Soft tissue 87 % 18 x 18 mm" in captions(session, k)
    assert not cut_by_slice(session, "Lesions pending", first - 1) and not cut_by_slice(
        session, "Lesions pending", last + 1
    )
    assert len(cut_by_slice(session, "Lesions rejected", 6)) == 4 and "- Lung" in captions(session, 6)
    session.set_status(soft.id, ReviewStatus.ACCEPTED)
    assert not cut_by_slice(session, "Lesions pending", 6) and len(cut_by_slice(session, "Lesions accepted", 6)) == 6


def test_the_selected_lesion_is_bold_and_one_that_is_edited_has_markups_instead(session):
    soft = session.listed[1][1]
    session.select(soft.id)
    assert len(cut_by_slice(session, "Selected lesion", 6)) == 6
    session.editing = True
    assert not cut_by_slice(session, "Selected lesion", 6) and not cut_by_slice(session, "Lesions pending", 6)
    assert [node.GetDisplayNode().GetVisibility() for node in handles(session)] == [1, 1, 1]
    assert "2 Soft tissue 87 % 18 x 18 mm" in captions(session, 6)
    session.editing = False
    assert [node.GetDisplayNode().GetVisibility() for node in handles(session)] == [0, 0, 0]


def test_the_overlay_follows_the_ct_under_a_transform(session):
    transform = session.scene.AddNewNodeByClass("vtkMRMLTransformNode", "Turned")
    matrix = np.array([[0.8, -0.6, 0, 10], [0.6, 0.8, 0, -20], [0, 0, 1, 30], [0, 0, 0, 1]])
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    session.select(session.listed[1][1].id)
    session.editing = True
    before = captions(session, 6)
    session.volume_node.SetAndObserveTransformNodeID(transform.GetID())
    overlay = [*mrml.all_nodes(session.scene, "vtkMRMLModelNode"), *markups(session)]
    assert {node.GetTransformNodeID() for node in overlay} == {transform.GetID()}
    assert captions(session, 6) == before
    corner = np.array(handles(session)[1].GetNthControlPointPositionWorld(0))
    (ijk,) = markup_nodes.ras_to_ijk(corner[None], session.volume_node)
    assert ijk == pytest.approx((*session.listed[1][1].recist.long_axis[0], 6), abs=1e-3)


def test_a_ct_that_no_view_shows_has_no_overlay(session):
    volume = volume_with(GEOMETRIES["oblique"])
    other = lesion_scene.add_volume(session.scene, volume)
    models = mrml.all_nodes(session.scene, "vtkMRMLModelNode")
    lesion_scene.show_in_slice_views(session.scene, other)
    assert not any(model.GetDisplayNode().GetVisibility() for model in models)
    session.scene.GetSingletonNode("Green", "vtkMRMLSliceCompositeNode").SetBackgroundVolumeID(
        session.volume_node.GetID()
    )
    assert all(model.GetDisplayNode().GetVisibility() for model in models)
    assert {model.GetDisplayNode().GetNthViewNodeID(0) for model in models} == {"vtkMRMLSliceNodeGreen"}
    assert {model.GetDisplayNode().GetNumberOfViewNodeIDs() for model in models} == {1}


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


def drag(session: Session, axis: Axis | None, move) -> None:
    """What a mouse does to a node: the positions change, then the interaction ends."""
    node = handles(session)[[None, Axis.LONG, Axis.SHORT].index(axis)]
    move(node)
    node.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)


def test_a_dragged_axis_is_the_readers_and_stays_when_the_box_is_dragged(session):
    soft = session.listed[1][1]
    session.select(soft.id)
    session.editing = True
    end = mrml.ras(session.volume_node, (70.0, 52.0, 6))
    drag(session, Axis.LONG, lambda line: line.SetNthControlPointPosition(1, end))
    drawn = session.review.lesion(soft.id).recist
    assert drawn.long_mm == pytest.approx((52.0 - 32.5) * 1.2) and drawn.drawn == (Axis.LONG,)

    def grow(box):
        box.SetSize(*(np.array(box.GetSize()) * (1.2, 1.2, 1)))

    drag(session, None, grow)
    moved = session.review.lesion(soft.id)
    assert moved.box == pytest.approx((56.8, 25.0, 83.2, 55.0), abs=1e-3)
    assert moved.recist.long_mm == drawn.long_mm and moved.recist.short_mm != soft.recist.short_mm
    session.undo()
    session.undo()
    assert session.review.lesion(soft.id) == soft


def test_a_box_dragged_out_of_the_ct_goes_back(session):
    soft = session.listed[1][1]
    session.select(soft.id)
    session.editing = True
    box, *_ = handles(session)
    before = mrml.matrix_of(box.GetObjectToNodeMatrix()).copy()
    far = mrml.ras(session.volume_node, (5000.0, 40.0, 6))
    drag(session, None, lambda node: node.SetCenter(far))
    assert session.review.lesion(soft.id) == soft and not session.review.done
    np.testing.assert_allclose(mrml.matrix_of(box.GetObjectToNodeMatrix()), before, atol=1e-6)


def test_the_label_follows_an_axis_while_it_is_dragged(session):
    soft = session.listed[1][1]
    session.select(soft.id)
    session.editing = True
    end = mrml.ras(session.volume_node, (70.0, 57.5, 6))
    handles(session)[1].SetNthControlPointPosition(1, end)
    assert "2 Soft tissue 87 % 30 x 18 mm" in captions(session, 6)
    assert session.review.lesion(soft.id) == soft


def test_nodes_are_locked_but_those_of_the_lesion_that_is_edited(session):
    session.select(session.listed[1][1].id)
    assert all(node.GetLocked() for node in markups(session))
    session.editing = True
    assert [node for node in markups(session) if not node.GetLocked()] == handles(session)


def test_lesions_are_added_by_a_box_and_by_a_click(session):
    corners = np.array([mrml.ras(session.volume_node, (62.0, 30.0, 6)), mrml.ras(session.volume_node, (78.0, 50.0, 6))])
    drawn = session.add(BodyPart.SOFT_TISSUE, corners)
    assert drawn.origin is Origin.READER and drawn.box == pytest.approx((62, 30, 78, 50), abs=1e-6)
    assert session.selected == drawn.id and drawn.recist.long_mm > 10
    assert len(cut_by_slice(session, "Lesions added by hand", 6)) == 6
    clicked = session.add(BodyPart.SOFT_TISSUE, mrml.ras(session.volume_node, (70.0, 40.0, 6))[None])
    x0, y0, x1, y1 = clicked.box
    assert (x0, x1) == pytest.approx((63.3, 76.7), abs=1) and (y0, y1) == pytest.approx((31.2, 48.8), abs=1)
    assert clicked.recist.long_mm == pytest.approx(19.2, abs=1.5) and clicked.recist.short_mm == pytest.approx(
        18, abs=1.5
    )
    with pytest.raises(lesion_scene.SceneError, match="smaller than a voxel"):
        session.add(BodyPart.BONE, corners[[0, 0]])
    with pytest.raises(lesion_scene.SceneError, match="outside"):
        session.add(BodyPart.BONE, mrml.ras(session.volume_node, (70.0, 40.0, 99))[None])


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
    drawn = ("vtkMRMLMarkupsNode", "vtkMRMLModelNode", "vtkMRMLMarkupsDisplayNode", "vtkMRMLModelDisplayNode")
    assert [len(mrml.all_nodes(scene, name)) for name in drawn] == [
        len(mrml.all_nodes(session.scene, name)) for name in drawn
    ]
    again.undo()
    assert again.review.lesion(soft.id) == soft
    again.close()


def test_what_is_taken_out_of_the_scene_is_drawn_anew_or_ends_the_review(session):
    session.select(session.listed[1][1].id)
    session.editing = True
    observers = session.observers
    for node in [
        *mrml.all_nodes(session.scene, "vtkMRMLModelNode"),
        *markups(session),
        *mrml.all_nodes(session.scene, "vtkMRMLTableNode"),
    ]:
        session.scene.RemoveNode(node)
        assert not session.closed and session.observers == observers
        assert len(cut_by_slice(session, "Lesions rejected", 6)) == 4 and "2 Soft tissue 87 % 18 x 18 mm" in captions(
            session, 6
        )
        assert len(handles(session)) == 3 and session.scene.GetFirstNodeByClass("vtkMRMLTableNode") is not None
    session.scene.RemoveNode(session.volume_node)
    assert session.closed and session.observers == 0


def test_closing_leaves_no_observer_and_no_node_of_the_overlay(session):
    session.select(session.listed[1][1].id)
    session.editing = True
    names = ("vtkMRMLMarkupsNode", "vtkMRMLModelNode", "vtkMRMLMarkupsDisplayNode", "vtkMRMLModelDisplayNode")
    assert markups(session) and session.observers
    session.close()
    assert not any(session.scene.GetNumberOfNodesByClass(name) for name in names) and session.observers == 0
    assert session.scene.GetFirstNodeByClass("vtkMRMLTextNode") is not None


def test_a_drawn_lesion_spans_the_slices_on_which_it_is_seen(session):
    corners = np.array([mrml.ras(session.volume_node, corner) for corner in ((62.0, 30.0, 6), (78.0, 50.0, 6))])
    drawn = session.add(BodyPart.SOFT_TISSUE, corners)
    assert drawn.key_slice == 6 and drawn.slices == (4, 8)


def test_a_lesion_on_the_place_of_another_is_known(session):
    bone, soft, _ = [lesion for _, lesion in session.listed]
    x0, y0, x1, y1 = soft.box
    corners = np.array([mrml.ras(session.volume_node, corner) for corner in ((x0 + 1, y0, 6), (x1, y1 - 1, 6))])
    drawn = session.add(BodyPart.LUNG, corners)
    number, twin = session.twin(drawn.id)
    assert (number, twin.id) == (2, soft.id) and session.twin(bone.id) is None
    session.set_status(soft.id, ReviewStatus.REJECTED)
    assert session.twin(drawn.id) is None


def other_images(node) -> dict:
    """Ways in which a CT in a scene becomes another image."""

    def cropped():
        slicer.util.updateVolumeFromArray(node, slicer.util.arrayFromVolume(node)[:, 5:].copy())

    return {
        "cropped": cropped,
        "resampled": lambda: node.SetSpacing(*(2 * value for value in node.GetSpacing())),
        "moved": lambda: node.SetOrigin(0, 0, 5000),
    }


@pytest.mark.parametrize("way", ["cropped", "resampled", "moved"])
def test_a_review_ends_when_its_ct_becomes_another_image_and_is_not_taken_up_on_that(session, way):
    session.step(1)
    other_images(session.volume_node)[way]()
    assert session.closed and session.heard[-1] is session and not session.observers and not markups(session)
    assert "is not the image any more on which the lesions were found" in session.why_closed
    said = []
    assert Session.kept(session.scene, warn=said.append) == [] and "Undo that, or detect lesions again" in said[0]


def test_other_grey_values_and_a_transform_leave_a_review_open(session):
    slicer.util.arrayFromVolume(session.volume_node)[:] += 1
    slicer.util.arrayFromVolumeModified(session.volume_node)
    transform = session.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    session.volume_node.SetAndObserveTransformNodeID(transform.GetID())
    assert not session.closed and len(session.listed) == 3


def test_a_review_that_speaks_of_more_slices_than_its_ct_has_is_not_drawn(session):
    (text,) = mrml.all_nodes(session.scene, "vtkMRMLTextNode")
    node, said = session.volume_node, []
    session.close()
    slices = node.GetImageData().GetDimensions()[2]
    huge = text.GetText().replace(f", {slices}]", ", 99999]").replace('"slices": [4, 8]', '"slices": [0, 99998]')
    assert huge != text.GetText()
    text.SetText(huge)
    assert Session.kept(session.scene, warn=said.append) == [] and len(said) == 1


def test_the_caption_of_the_selected_lesion_stays_inside_a_small_view(session):
    from LesionDetectorLib.scene.captions import _bounds, _index_to_screen

    session.zooms = True
    red = session.scene.GetSingletonNode("Red", "vtkMRMLSliceNode")
    red.SetDimensions(300, 300, 1)
    soft = session.listed[1][1]
    session.select(soft.id)
    scale, _ = _index_to_screen(session.volume_node)
    left, bottom, right, top = _bounds(red, session.volume_node, scale)
    labels = session.scene.GetFirstNodeByName("Captions pending")
    (index,) = [
        i for i in range(labels.GetNumberOfControlPoints()) if labels.GetNthControlPointDescription(i) == soft.id
    ][:1]
    (ijk,) = markup_nodes.ras_to_ijk(np.array([labels.GetNthControlPointPositionWorld(index)]), session.volume_node)
    x, y = scale @ ijk[:2]
    mm_per_px = red.GetFieldOfView()[0] / 300
    width = 7.1 * mm_per_px * len(labels.GetNthControlPointLabel(index))
    assert left <= x and x + width <= right and bottom <= y and y + 17 * mm_per_px <= top


def test_no_handle_lies_on_a_small_lesion_that_is_edited(session):
    bone, soft, _ = [lesion for _, lesion in session.listed]
    shown = []
    for lesion in (soft, bone):
        session.select(lesion.id)
        session.editing = True
        (box,) = mrml.all_nodes(session.scene, "vtkMRMLMarkupsROINode")
        shown.append((min(box.GetSize()[:2]) >= 20, bool(box.GetDisplayNode().GetTranslationHandleVisibility())))
        assert box.GetDisplayNode().GetInteractionHandleScale() < 2
    assert shown == [(True, True), (False, False)]
