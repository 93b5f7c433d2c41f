"""The panel, driven through stand-ins for Slicer's widgets on the real scene: from the click on Detect lesions to
the saved report."""

from __future__ import annotations

import subprocess
import sys
import time
import unittest
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from LesionDetectorLib import scene as lesion_scene
from LesionDetectorLib.exchange import lesions_json
from LesionDetectorLib.lesion import BodyPart, Origin, ReviewStatus
from LesionDetectorLib.reading import Reading

pytest.importorskip("slicer", reason="needs slicer-core: pip install 'lesion-detector[scene]'")
pytest.importorskip("trame_slicer.views", reason="needs trame-slicer: pip install 'lesion-detector[scene]'")
pytest.importorskip("PySide6", reason="needs PySide6-Essentials: pip install 'lesion-detector[test]'")

from LesionDetectorLib.scene import mrml

from Testing.helpers.scenes import GEOMETRIES, handles, markups, slice_in_view, some_lesions, volume_with
from Testing.helpers.slicer_application import MODULE, Application, ModuleParent, load
from Testing.helpers.slicer_source import PYTHONS


@pytest.fixture(scope="module", params=PYTHONS)
def application(request):
    running = Application(PYTHONS[request.param]())
    yield running
    running.end()


@pytest.fixture
def panel(application):
    application.scene.Clear(False)
    application.errors.clear()
    application.raised.clear()
    module = load(MODULE / "LesionDetector.py")
    widget = application.new_panel(module)
    widget.application, widget.module = application, module
    yield widget
    widget.cleanup()
    assert not application.unshown()


@pytest.fixture
def reviewing(panel):
    """The panel with three lesions under review on an oblique CT."""
    volume = volume_with(GEOMETRIES["oblique"])
    node = lesion_scene.add_volume(panel.application.scene, volume)
    lesion_scene.show_in_slice_views(panel.application.scene, node)
    panel._parameterNode.inputVolume = node
    panel._parameterNode.confidence = 0.4
    panel.logic.review(node, Reading.of(volume, some_lesions()))
    return panel


def rows(panel) -> list[list[str]]:
    table = panel.ui.lesionTable
    return [[table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)]


def test_without_a_ct_the_panel_says_what_is_missing(panel):
    assert not panel.ui.detectButton.enabled and panel.ui.detectButton.toolTip == "Choose a CT, or load one."
    assert panel.ui.hintLabel.text == "Choose a CT, or load one."


def test_a_volume_that_is_no_ct_gets_a_hint_and_may_be_used(panel):
    volume = volume_with(np.eye(3))
    volume.hu[:] = np.clip(volume.hu, 0, 80)
    panel._parameterNode.inputVolume = lesion_scene.add_volume(panel.application.scene, volume)
    assert "from 0 to 80" in panel.ui.hintLabel.text and panel.ui.detectButton.enabled


def test_the_list_shows_every_lesion_and_a_click_on_a_row_jumps_to_it(reviewing):
    assert rows(reviewing) == [
        ["1", "Bone", "50%", "", "3", "\u2713"],
        ["2", "Soft tissue", "87%", "18 x 18", "7", "?"],
        ["-", "Lung", "", "", "7", "\u2717"],
    ]
    reviewing.ui.lesionTable.selectRow(1)
    assert reviewing.session().review.lesion(reviewing.session().selected).body_part is BodyPart.SOFT_TISSUE
    assert slice_in_view(reviewing.session()) == 6


def test_the_confidence_filters_at_once_and_the_report_follows(reviewing):
    assert "Soft tissue (87%)" in reviewing.ui.reportText.plainText
    reviewing.ui.confidenceSlider.value = 0.9
    assert [row[1] for row in rows(reviewing)] == ["Bone", "Lung"]
    assert "Soft tissue" not in reviewing.ui.reportText.plainText
    reviewing.ui.acceptedOnlyCheckBox.checked = True
    reviewing.ui.confidenceSlider.value = 0.4
    assert "Bone" in reviewing.ui.reportText.plainText and "Soft tissue" not in reviewing.ui.reportText.plainText


def test_accept_reject_relabel_delete_undo_and_redo_by_the_buttons(reviewing):
    ui = reviewing.ui
    ui.lesionTable.selectRow(1)
    ui.acceptButton.click()
    assert rows(reviewing)[1][5] == "\u2713"
    ui.acceptButton.click()
    assert rows(reviewing)[1][5] == "?"
    ui.rejectButton.click()
    assert rows(reviewing)[1][0] == "-"
    ui.bodyPartComboBox.setCurrentIndex(ui.bodyPartComboBox.findText("Liver"))
    ui.bodyPartComboBox.activated.emit(ui.bodyPartComboBox.currentIndex)
    assert rows(reviewing)[1][1] == "Liver"
    assert ui.undoButton.toolTip == "Undo: relabel Soft tissue"
    ui.deleteButton.click()
    assert len(rows(reviewing)) == 2 and not ui.acceptButton.enabled
    ui.undoButton.click()
    ui.undoButton.click()
    assert rows(reviewing)[1][1] == "Soft tissue"
    ui.redoButton.click()
    assert rows(reviewing)[1][1] == "Liver"


def save(panel, name: str, path: Path) -> None:
    """Save the report in the format of this name, as the file that the file dialog gives back."""
    panel.ui.formatComboBox.setCurrentIndex(panel.ui.formatComboBox.findData(name))
    panel.application.chosen_path = str(path)
    panel.ui.saveButton.click()


def test_a_report_is_saved_as_the_kind_that_was_chosen(reviewing, tmp_path):
    reviewing.ui.baselineCheckBox.checked = True
    for form, name in (("text", "report.txt"), ("csv", "table"), ("json", "lesions.json"), ("html", "page.html")):
        save(reviewing, form, tmp_path / name)
    assert (tmp_path / "report.txt").read_text() == reviewing.ui.reportText.plainText
    assert (tmp_path / "table.csv").read_text().count("\n") == 3, "the lesions of the report and their titles"
    assert (tmp_path / "table.csv").read_text().startswith("number,body_part"), (
        "a name without an ending gets that of its kind"
    )
    assert len(lesions_json.read(tmp_path / "lesions.json").lesions) == 3
    assert (tmp_path / "page.html").read_text().count("data:image/jpeg") == 4
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["lesions.json", "page.html", "report.txt", "table.csv"] and not reviewing.application.errors
    save(reviewing, "text", tmp_path / "report.doc")
    save(reviewing, "sr", tmp_path / "report.dcm")
    refused, not_dicom = reviewing.application.errors
    assert (
        "report.doc: choose a name that ends in .txt" in refused
        and "was not loaded from Slicer's DICOM database" in not_dicom
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == written


def test_a_dicom_seg_is_written_whatever_ending_the_dialog_gives_its_name(reviewing, tmp_path, monkeypatch):
    kinds = []
    monkeypatch.setattr(
        lesion_scene,
        "save_report",
        lambda session, path, form, **asked: kinds.append((path.name, form.name)) or [],
    )
    save(reviewing, "seg", tmp_path / "report.dcm")
    save(reviewing, "sr", tmp_path / "report.dcm")
    assert kinds == [("report.dcm", "seg"), ("report.dcm", "sr")]


def test_a_file_that_the_dialog_did_not_ask_about_is_not_replaced_unasked(reviewing, tmp_path):
    (tmp_path / "report.txt").write_text("mine")
    reviewing.application.agrees = False
    save(reviewing, "text", tmp_path / "report")
    reviewing.application.agrees = True
    assert (tmp_path / "report.txt").read_text() == "mine"


def test_saving_a_page_can_be_cancelled_and_leaves_nothing(reviewing, tmp_path, monkeypatch):
    class Impatient(SimpleNamespace):
        wasCanceled = True  # noqa: N815

    monkeypatch.setattr(reviewing.module.slicer.util, "createProgressDialog", lambda **_: Impatient(close=lambda: None))
    save(reviewing, "html", tmp_path / "page.html")
    assert reviewing.ui.progressLabel.text == "Cancelled; nothing was saved." and not list(tmp_path.iterdir())


def test_saved_lesions_are_opened_and_a_review_is_not_lost_unasked(reviewing, tmp_path):
    application, ui = reviewing.application, reviewing.ui
    save(reviewing, "json", tmp_path / "lesions.json")
    before = rows(reviewing)
    ui.lesionTable.selectRow(1)
    ui.rejectButton.click()
    changed, application.agrees = rows(reviewing), False
    ui.openButton.click()
    ui.detectButton.click()
    assert rows(reviewing) == changed and not reviewing.logic.running
    application.agrees = True
    ui.openButton.click()
    assert rows(reviewing) == before and not ui.undoButton.enabled
    (tmp_path / "lesions.json").write_text("{}")
    ui.openButton.click()
    assert "lesions.json: this is not a list of lesions" in application.errors[0] and rows(reviewing) == before


def test_marks_change_the_baseline_and_can_be_undone(reviewing):
    ui = reviewing.ui
    assert not ui.lymphNodeCheckBox.enabled
    ui.lesionTable.selectRow(1)
    ui.acceptButton.click()
    ui.baselineCheckBox.checked = True
    assert "Soft tissue" in baseline_row(reviewing, 2) and "18.0 mm long" in baseline_row(reviewing, 2)
    ui.lymphNodeCheckBox.click()
    ui.targetCheckBox.click()
    assert "Lymph nodes" in baseline_row(reviewing, 2) and "18.0 mm short" in baseline_row(reviewing, 2)
    assert "Sum of diameters of the targets (lesion 2): 18.0 mm." in ui.reportText.plainText
    assert ui.undoButton.toolTip == "Undo: mark Soft tissue"
    ui.undoButton.click()
    ui.undoButton.click()
    assert not ui.targetCheckBox.checked and not ui.lymphNodeCheckBox.checked
    ui.lesionTable.selectRow(0)
    assert "no reader marked a soft-tissue part" in baseline_row(reviewing, 1) or "it has no axes" in baseline_row(
        reviewing, 1
    )


def baseline_row(panel, number: int) -> str:
    lines = panel.ui.reportText.plainText.partition("RECIST 1.1 baseline:")[2].splitlines()
    return next(line for line in lines if line.startswith(f"{number} "))


def wait(panel) -> None:
    while panel.logic.running:
        panel.onPoll()
        time.sleep(0.02)


def test_a_detector_that_fails_is_reported_and_leaves_the_scene_as_it_was(reviewing, monkeypatch, tmp_path):
    weights = tmp_path / "broken.safetensors"
    weights.write_text("x")
    reviewing._parameterNode.weights = str(weights)
    before = rows(reviewing)
    reviewing.ui.detectButton.click()
    assert reviewing.ui.detectButton.text == "Cancel"
    wait(reviewing)
    assert "broken.json" in reviewing.application.errors[0] and rows(reviewing) == before
    assert reviewing.ui.detectButton.text == "Detect lesions"


def test_cancel_leaves_the_scene_as_it_was(reviewing):
    nodes = reviewing.application.scene.GetNumberOfNodes()
    reviewing.ui.detectButton.click()
    reviewing.ui.detectButton.click()
    assert not reviewing.logic.running and reviewing.ui.progressLabel.text == "Cancelled; nothing was changed."
    assert reviewing.application.scene.GetNumberOfNodes() == nodes


def test_closing_the_scene_and_deleting_the_ct_end_the_review(reviewing):
    reviewing.application.scene.RemoveNode(reviewing.volumeNode())
    assert rows(reviewing) == [] and not reviewing.logic._sessions
    reviewing.application.scene.Clear(False)
    assert reviewing.session() is None


def test_a_click_adds_a_lesion_of_the_chosen_body_part(reviewing):
    ui, node = reviewing.ui, reviewing.volumeNode()
    ui.bodyPartComboBox.setCurrentIndex(ui.bodyPartComboBox.findText("Kidney"))
    ui.addPointButton.checked = True
    marker = reviewing.application.scene.GetFirstNodeByName("New lesion")
    marker.AddControlPoint(mrml.ras(node, (70.0, 40.0, 6)))
    reviewing.application.qt.processEvents()
    added = reviewing.session().review.lesion(reviewing.session().selected)
    assert (added.body_part, added.origin, added.key_slice) == (BodyPart.KIDNEY, Origin.READER, 6)
    assert not ui.addPointButton.checked and not reviewing.application.scene.IsNodePresent(marker)


def test_leaving_the_drawing_or_drawing_beside_the_ct_adds_nothing(reviewing):
    ui, scene = reviewing.ui, reviewing.application.scene
    before = rows(reviewing)
    interaction = scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    ui.addBoxButton.checked = True
    ui.addPointButton.checked = True
    assert not ui.addBoxButton.checked
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)
    reviewing.application.qt.processEvents()
    assert not ui.addPointButton.checked and scene.GetFirstNodeByName("New lesion") is None
    ui.addPointButton.checked = True
    scene.GetFirstNodeByName("New lesion").AddControlPoint(0, 0, 5000)
    reviewing.application.qt.processEvents()
    assert "outside of the CT" in ui.progressLabel.text and not ui.addPointButton.checked
    assert rows(reviewing) == before and interaction.GetCurrentInteractionMode() == interaction.ViewTransform


def test_two_cts_are_reviewed_in_one_scene(reviewing):
    volume = volume_with(GEOMETRIES["axial"])
    first, second = reviewing.volumeNode(), lesion_scene.add_volume(reviewing.application.scene, volume)
    reviewing.logic.review(second, Reading.of(volume, some_lesions()[:1]))
    assert len(rows(reviewing)) == 3
    reviewing._parameterNode.inputVolume = second
    assert [row[1] for row in rows(reviewing)] == ["Soft tissue"]
    reviewing.ui.lesionTable.selectRow(0)
    reviewing.ui.rejectButton.click()
    reviewing._parameterNode.inputVolume = first
    assert rows(reviewing)[1][5] == "?"
    reviewing.logic.close()
    reviewing.logic.restore()
    assert [row[5] for row in rows(reviewing)] == ["\u2713", "?", "\u2717"]
    reviewing._parameterNode.inputVolume = second
    assert [row[5] for row in rows(reviewing)] == ["\u2717"]


def test_reloading_the_module_goes_on_with_the_review_and_leaks_nothing(reviewing):
    reviewing.ui.lesionTable.selectRow(1)
    reviewing.ui.editButton.checked = True
    reviewing.ui.rejectButton.click()
    scene, session, before = reviewing.application.scene, reviewing.session(), rows(reviewing)
    assert len(handles(session)) == 3
    reviewing.cleanup()
    assert session.observers == 0 and not markups(session)
    nodes = scene.GetNumberOfNodes()
    for _ in range(2):
        again = reviewing.application.new_panel(reviewing.module)
        assert rows(again) == before and again.ui.undoButton.toolTip == "Undo: reject Soft tissue"
        again.cleanup()
        assert scene.GetNumberOfNodes() == nodes


def test_switching_modules_keeps_the_review(reviewing):
    before = rows(reviewing)
    reviewing.ui.addPointButton.checked = True
    reviewing.exit()
    assert reviewing.application.scene.GetFirstNodeByName("New lesion") is None
    reviewing.enter()
    assert rows(reviewing) == before and not reviewing.ui.addPointButton.checked


def test_a_damaged_review_is_named_and_the_others_go_on(reviewing):
    scene, before = reviewing.application.scene, rows(reviewing)
    volume = volume_with(GEOMETRIES["oblique"])
    other = lesion_scene.add_volume(scene, volume)
    reviewing.logic.review(other, Reading.of(volume, some_lesions()))
    other.SetName("Other CT")
    reviewing.logic.close()
    texts = [
        node
        for node in mrml.all_nodes(scene, "vtkMRMLTextNode")
        if node.GetNodeReferenceID(mrml.VOLUME) == other.GetID()
    ]
    texts[0].SetText(texts[0].GetText()[:-9])
    reviewing.onSceneEndImport()
    assert [
        error.startswith("The review of Other CT cannot be continued: this is not valid JSON")
        for error in reviewing.application.errors
    ] == [True]
    assert rows(reviewing) == before and reviewing.logic.session(other) is None


def test_the_detector_is_loaded_while_the_panel_is_open_on_a_ct_that_has_no_review(reviewing, monkeypatch, tmp_path):
    children = []

    class Child:
        alive = True

        def __init__(self, python, weights, device):
            self.settings = weights, device
            children.append(self)

        def cancel(self):
            self.alive = False

        def begin(self, write_ct):
            write_ct(tmp_path / "ct.nrrd")

    monkeypatch.setattr(sys.modules["LesionDetectorLib.panel.logic"], "Detection", Child)
    reviewing.enter()
    assert not children, "this CT is reviewed already"
    reviewing._parameterNode.inputVolume = lesion_scene.add_volume(reviewing.application.scene, volume_with(np.eye(3)))
    assert [child.settings for child in children] == [([], "auto")]
    reviewing.ui.confidenceSlider.value = 0.8
    reviewing._parameterNode.weights = str(tmp_path / "absent.safetensors")
    assert len(children) == 1 and "absent.safetensors is not there" in reviewing.ui.hintLabel.text
    reviewing._parameterNode.weights = ""
    reviewing._parameterNode.device = "cpu"
    assert [child.alive for child in children] == [False, True] and children[1].settings == ([], "cpu")

    reviewing.exit()
    assert not children[1].alive
    reviewing.enter()
    monkeypatch.setattr(reviewing.logic, "ensureDependencies", lambda: True)
    reviewing.ui.detectButton.click()
    assert reviewing.logic.running and len(children) == 3 and (tmp_path / "ct.nrrd").is_file()
    reviewing.exit()
    assert children[2].alive, "a detector that runs goes on"
    reviewing.logic.cancel()

    reviewing.enter()
    assert len(children) == 4
    children[3].alive = False
    reviewing.ui.detectButton.click()
    assert len(children) == 5 and children[4].alive, "a child that has ended is replaced"
    reviewing.logic.cancel()


def test_a_scene_of_the_command_line_is_taken_over_into_a_review(panel, tmp_path):
    volume = volume_with(GEOMETRIES["left-handed"])
    lesion_scene.write_scene(volume, Reading.of(volume, some_lesions(), confidence=0.4), tmp_path / "scene.mrb")
    scene = panel.application.scene
    lesion_scene.load_scene(tmp_path / "scene.mrb", scene)
    assert [row[1] for row in rows(panel)] == ["Bone", "Soft tissue", "Lung"]
    panel.ui.lesionTable.selectRow(1)
    panel.ui.rejectButton.click()
    assert rows(panel)[1][5] == "\u2717"
    assert (
        scene.GetNumberOfNodesByClass("vtkMRMLMarkupsROINode") == 0
        and scene.GetNumberOfNodesByClass("vtkMRMLTableNode") == 1
    )


def finding(monkeypatch, panel, reading, fault=None):
    """A recorded detector in the place of the child: it finds `reading`, or raises `fault`."""

    class Recorded:
        alive, cancelled = True, False

        def begin(self, write_ct):
            pass

        def poll(self, progress):
            if fault is not None:
                raise fault
            return reading

        def cancel(self):
            self.cancelled = True

    recorded = Recorded()
    panel.logic.release()
    monkeypatch.setattr(panel.logic, "_detection", lambda weights, device: recorded)
    monkeypatch.setattr(panel.logic, "ensureDependencies", lambda: True)
    return recorded


def with_ct(panel, name: str = "axial"):
    volume = volume_with(GEOMETRIES[name])
    node = lesion_scene.add_volume(panel.application.scene, volume)
    return volume, node


def test_the_panel_goes_on_after_the_scene_was_closed(panel, monkeypatch):
    panel.enter()
    volume, node = with_ct(panel)
    panel._parameterNode.inputVolume = node
    panel.application.scene.Clear(False)
    assert not panel.ui.detectButton.enabled and panel.ui.hintLabel.text == "Choose a CT, or load one."
    volume, node = with_ct(panel)
    panel.ui.volumeSelector.setCurrentNode(node)
    assert panel.logic.getParameterNode().inputVolume is node and panel.ui.detectButton.enabled
    finding(monkeypatch, panel, Reading.of(volume, some_lesions()))
    panel.ui.detectButton.click()
    panel.onPoll()
    assert len(rows(panel)) == 3 and not panel.application.errors


def test_a_run_that_ends_while_another_module_is_shown_tells_what_it_found(panel, monkeypatch):
    panel.enter()
    volume, node = with_ct(panel)
    panel._parameterNode.inputVolume = node
    panel._parameterNode.confidence = 0.8
    found = [lesion.edited(status=ReviewStatus.PENDING) for lesion in some_lesions() if lesion.confidence is not None]
    finding(monkeypatch, panel, Reading.of(volume, found))
    panel.ui.detectButton.click()
    panel.exit()
    panel.onPoll()
    assert panel.ui.progressLabel.text == "1 lesion found."
    panel.enter()
    assert panel.ui.progressLabel.text == "1 lesion found." and [row[1] for row in rows(panel)] == ["Soft tissue"]
    assert panel.ui.countLabel.text == "1 lesion: 0 accepted, 1 pending, 0 rejected."


def test_a_run_tells_of_the_ct_that_was_run_and_of_one_that_is_gone(panel, monkeypatch):
    volume, node = with_ct(panel)
    _, other = with_ct(panel, "oblique")
    panel._parameterNode.inputVolume = node
    finding(monkeypatch, panel, Reading.of(volume, some_lesions()))
    panel.ui.detectButton.click()
    panel._parameterNode.inputVolume = other
    panel.onPoll()
    assert panel.ui.progressLabel.text == f"On {node.GetName()}: 3 lesions found." and rows(panel) == []
    panel._parameterNode.inputVolume = node
    panel.ui.detectButton.click()
    panel.application.scene.RemoveNode(node)
    panel.onPoll()
    assert panel.ui.progressLabel.text == "The CT was taken out of the scene before the detector was done."
    assert not panel.logic.running and not panel.timer.isActive()


def test_whatever_goes_wrong_in_a_run_ends_it(panel, monkeypatch):
    _, node = with_ct(panel)
    panel._parameterNode.inputVolume = node
    for fault in (PermissionError("in use"), KeyError("stage"), RecursionError()):
        recorded = finding(monkeypatch, panel, None, fault)
        panel.ui.detectButton.click()
        with pytest.raises(type(fault)):
            panel.onPoll()
        assert recorded.cancelled and not panel.logic.running and not panel.timer.isActive()
        assert panel.ui.detectButton.text == "Detect lesions" and not panel.ui.progressBar.visible
        panel.onPoll()  # a tick that was under way already
    assert len(panel.application.errors) == 3


def test_chosen_weights_can_be_given_up(panel, tmp_path):
    with_ct(panel)
    panel.enter()
    assert panel.ui.weightsLineEdit.text == "the detector that ships" and not panel.ui.shippedWeightsButton.enabled
    weights = tmp_path / "mine.safetensors"
    weights.touch()
    panel.application.chosen_path = str(weights)
    panel.ui.weightsButton.click()
    assert panel.weights() == [weights] and panel.ui.weightsLineEdit.text == str(weights)
    panel.application.chosen_path = ""
    panel.ui.weightsButton.click()
    assert panel.weights() == [weights]
    panel.ui.shippedWeightsButton.click()
    panel._parameterNode.confidence = 0.7
    assert panel.weights() == [] and panel.ui.weightsLineEdit.text == "the detector that ships"
    panel._parameterNode.weights = "."
    assert panel.weights() == [], "as scenes of an older version have it"


def test_after_delete_no_row_is_highlighted_and_every_lesion_can_be_clicked(reviewing):
    ui = reviewing.ui
    ui.lesionTable.selectRow(0)
    ui.deleteButton.click()
    assert not ui.lesionTable.selectedItems() and ui.lesionTable.currentRow() == -1
    ui.lesionTable.selectRow(0)
    assert reviewing.session().review.lesion(reviewing.session().selected).body_part is BodyPart.SOFT_TISSUE


def test_a_ct_that_becomes_another_image_ends_its_review_with_a_sentence(reviewing):
    session, node = reviewing.session(), reviewing.volumeNode()
    session.step(1)
    reviewing.ui.acceptButton.click()
    reviewing.module.slicer.util.updateVolumeFromArray(node, np.zeros((5, 40, 50), np.int16))
    assert session.closed and rows(reviewing) == [] and not markups(session)
    assert "is not the image any more on which the lesions were found" in reviewing.ui.progressLabel.text
    reviewing.application.agrees = False
    reviewing.ui.detectButton.click()
    assert not reviewing.logic.running, "the review is still in the scene, and is not lost unasked"
    reviewing.application.agrees = True
    reviewing.onSceneEndImport()
    assert "not the image any more" in reviewing.application.errors[0] and reviewing.session() is None


def test_columns_sort_by_a_click_and_next_follows_the_list_as_it_is_shown(reviewing):
    header = reviewing.ui.lesionTable.horizontalHeader()
    header.sectionClicked.emit(2)
    assert [row[2] for row in rows(reviewing)] == ["", "50%", "87%"]
    header.sectionClicked.emit(2)
    assert [row[2] for row in rows(reviewing)] == ["87%", "50%", ""]
    reviewing.onStep(1)
    assert reviewing.ui.lesionTable.currentRow() == 0
    reviewing.ui.nextButton.click()
    assert reviewing.ui.lesionTable.currentRow() == 1
    assert reviewing.session().review.lesion(reviewing.session().selected).body_part is BodyPart.BONE
    header.sectionClicked.emit(2)
    assert [row[1] for row in rows(reviewing)] == ["Bone", "Soft tissue", "Lung"]


def test_all_that_is_shown_is_accepted_or_rejected_in_one_step(reviewing):
    ui = reviewing.ui
    before = rows(reviewing)
    ui.lesionTable.selectRow(0)
    ui.acceptButton.click()  # pending again
    assert ui.countLabel.text == "3 lesions: 0 accepted, 2 pending, 1 rejected."
    ui.acceptAllButton.click()
    assert [row[5] for row in rows(reviewing)] == ["\u2713", "\u2713", "\u2717"] and not ui.acceptAllButton.enabled
    assert ui.undoButton.toolTip == "Undo: accept 2 lesions"
    ui.undoButton.click()
    assert [row[5] for row in rows(reviewing)] == ["?", "?", "\u2717"]
    ui.redoButton.click()
    ui.undoButton.click()
    ui.rejectAllButton.click()
    assert [row[5] for row in rows(reviewing)] == ["\u2717"] * 3
    ui.undoButton.click()
    ui.undoButton.click()
    assert rows(reviewing) == before


def window_of(node) -> tuple[float, float]:
    display = node.GetDisplayNode()
    return display.GetWindowLevelMin(), display.GetWindowLevelMax()


def test_a_step_shows_a_small_field_in_the_window_of_the_body_part_unless_switched_off(reviewing):
    ui, node = reviewing.ui, reviewing.volumeNode()
    red = reviewing.application.scene.GetSingletonNode("Red", "vtkMRMLSliceNode")
    whole = red.GetFieldOfView()
    ui.lesionTable.selectRow(0)
    assert red.GetFieldOfView()[0] == 120 and window_of(node) == (-500, 1300)
    ui.lesionTable.selectRow(2)
    assert red.GetFieldOfView()[0] == 120 and window_of(node) == (-1350, 150)
    ui.lesionTable.selectRow(1)
    assert window_of(node) == (-160, 240)
    ui.zoomCheckBox.click()
    ui.bodyPartWindowCheckBox.click()
    assert red.GetFieldOfView() == whole
    ui.lesionTable.selectRow(0)
    assert red.GetFieldOfView() == whole and window_of(node) == (-160, 240)
    ui.windowComboBox.activated.emit(1)
    assert window_of(node) == (-1350, 150)
    ui.windowComboBox.activated.emit(3)
    assert window_of(node) == lesion_scene.range_of(node)


def test_a_lesion_that_is_marked_twice_is_said_and_the_second_can_be_taken_back(reviewing):
    node, before = reviewing.volumeNode(), rows(reviewing)
    corners = [mrml.ras(node, (59.0, 27.5, 6)), mrml.ras(node, (81.0, 52.5, 6))]
    reviewing.application.agrees = False
    reviewing.session().add(BodyPart.LIVER, np.array(corners))
    reviewing.onPlaced("")
    assert rows(reviewing) == before
    reviewing.application.agrees = True
    reviewing.session().add(BodyPart.LIVER, np.array(corners))
    reviewing.onPlaced("")
    assert len(rows(reviewing)) == len(before) + 1


def test_news_go_once_the_reader_changes_something(reviewing):
    reviewing.ui.progressLabel.text = "3 lesions found."
    reviewing.ui.lesionTable.selectRow(1)
    assert reviewing.ui.progressLabel.text == "3 lesions found."
    reviewing.ui.acceptButton.click()
    assert reviewing.ui.progressLabel.text == ""
    assert reviewing.ui.countLabel.text == "3 lesions: 2 accepted, 0 pending, 1 rejected."


def test_sections_stay_folded_as_the_user_left_them(panel):
    assert panel.ui.recistCollapsibleButton.collapsed and not panel.ui.reportCollapsibleButton.collapsed
    panel.ui.reportCollapsibleButton.collapsed = True
    panel.ui.recistCollapsibleButton.collapsed = False
    again = panel.application.new_panel(panel.module)
    assert again.ui.reportCollapsibleButton.collapsed and not again.ui.recistCollapsibleButton.collapsed
    again.ui.reportCollapsibleButton.collapsed, again.ui.recistCollapsibleButton.collapsed = False, True
    again.cleanup()


def test_a_label_map_is_not_taken_for_the_first_ct(panel):
    scene = panel.application.scene
    scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode")
    panel.enter()
    assert panel.volumeNode() is None
    _, node = with_ct(panel)
    panel.enter()
    assert panel.volumeNode() is node


def test_a_user_who_declines_to_install_is_told_and_gets_no_error(reviewing, monkeypatch, tmp_path):
    def decline(*_args, **_options):
        raise RuntimeError("User declined package installation")

    monkeypatch.setattr(reviewing.module.slicer.packaging, "pip_ensure", decline)
    reviewing.ui.detectButton.click()
    assert (
        reviewing.ui.progressLabel.text == "Nothing was installed, so the detector cannot run."
        and not reviewing.logic.running
    )
    save(reviewing, "html", tmp_path / "page.html")
    assert "Nothing was installed" in reviewing.ui.progressLabel.text and not list(tmp_path.iterdir())
    assert not reviewing.application.errors


def test_an_older_pytorch_and_a_missing_extension_are_told_apart(panel, monkeypatch):
    _, node = with_ct(panel)
    panel._parameterNode.inputVolume = node
    import slicer.packaging

    monkeypatch.setattr(slicer.packaging, "pip_check", lambda requirement: False)
    panel.ui.detectButton.click()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    panel.ui.detectButton.click()
    older, missing = panel.application.errors
    assert "The detector needs PyTorch >=2.4: uninstall it in the module PyTorch Utils" in older
    assert "The detector needs PyTorch: install the extension PyTorch" in missing and not panel.logic.running


def test_nothing_else_can_be_clicked_while_a_report_is_saved(reviewing, monkeypatch, tmp_path):
    dialogs, create = [], reviewing.module.slicer.util.createProgressDialog
    monkeypatch.setattr(
        reviewing.module.slicer.util,
        "createProgressDialog",
        lambda **options: dialogs.append(options) or create(**options),
    )
    save(reviewing, "html", tmp_path / "page.html")
    assert dialogs[0]["windowModality"] == sys.modules["qt"].Qt.WindowModal


def test_the_panel_fits_a_screen_of_900_pixels_with_every_section_open(panel):
    hint = panel.parent.minimumSizeHint
    assert hint.height() <= 900


def test_the_child_runs_slicers_own_python_by_its_full_path(panel, monkeypatch, tmp_path):
    """A name alone would be looked for in the working folder first on Windows."""
    (tmp_path / "PythonSlicer").touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ".")
    assert panel.logic.python() == sys.executable
    monkeypatch.setattr(panel.application, "home", tmp_path / "Slicer")
    (tmp_path / "Slicer/bin").mkdir(parents=True)
    (tmp_path / "Slicer/bin/PythonSlicer").touch()
    assert panel.logic.python() == str(tmp_path / "Slicer/bin/PythonSlicer")


def test_reload_takes_the_library_anew(panel, monkeypatch):
    reloaded = []
    monkeypatch.setattr(
        sys.modules["slicer.ScriptedLoadableModule"].ScriptedLoadableModuleWidget,
        "onReload",
        lambda self: reloaded.append(True),
        raising=False,
    )
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "LesionDetectorLib"}
    try:
        panel.onReload()
        assert reloaded and not [name for name in sys.modules if name.partition(".")[0] == "LesionDetectorLib"]
    finally:
        sys.modules.update(kept)


def test_starting_slicer_imports_nothing_slow():
    names = "scipy.ndimage scipy.spatial torch pydicom SimpleITK skimage matplotlib jinja2 highdicom"
    code = (
        "import sys; from LesionDetectorLib import looks, scene; from LesionDetectorLib.child import Detection; "
        f"from LesionDetectorLib.report import text; print([name for name in '{names}'.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=MODULE)
    assert done.stdout.strip() == "[]"


def test_the_sample_ct_is_offered_with_its_checksum_once_slicer_has_started(panel):
    panel.module.LesionDetector(ModuleParent(MODULE / "LesionDetector.py"))
    assert not hasattr(panel.module.slicer.modules, "sampleDataSources")
    panel.application.start()
    (offered,) = panel.module.slicer.modules.sampleDataSources["LesionDetector"]
    (uri,), (checksum,) = ([entry] if isinstance(entry, str) else entry for entry in (offered.uris, offered.checksums))
    assert uri.startswith("https://") and uri.endswith(checksum.replace(":", "/"))
    assert offered.thumbnailFileName is None and "CTLiver" in offered.nodeNames, "Slicer has a thumbnail of this name"


def run(test) -> None:
    result = unittest.TestResult()
    test.run(result)
    assert result.wasSuccessful() and result.testsRun, "\n".join(trace for _, trace in result.errors + result.failures)


def test_the_modules_own_test_passes(panel):
    run(panel.module.LesionDetectorTest("runTest"))


def test_slicers_own_tests_pass(panel):
    run(unittest.defaultTestLoader.loadTestsFromModule(load(MODULE / "Testing/Python/LesionDetectorSceneTest.py")))


def test_slicer_knows_the_module(panel):
    parent = ModuleParent(MODULE / "LesionDetector.py")
    panel.module.LesionDetector(parent)
    assert parent.title == "Lesion Detector" and parent.categories == ["Quantification"]
    assert "Not a medical device" in parent.helpText
