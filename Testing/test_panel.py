"""The panel, driven through stand-ins for Slicer's widgets on the real scene: from the click on Detect lesions to the saved report."""

from __future__ import annotations

import importlib.util
import sys
import time
import unittest
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from LesionDetectorLib import scene as lesion_scene
from LesionDetectorLib.lesion import BodyPart, Origin
from LesionDetectorLib.report import exchange
from LesionDetectorLib.report.reading import Reading

pytest.importorskip("slicer", reason="needs slicer-core: pip install 'lesion-detector[scene]'")
pytest.importorskip("trame_slicer.views", reason="needs trame-slicer: pip install 'lesion-detector[scene]'")
pytest.importorskip("PySide6", reason="needs PySide6-Essentials: pip install 'lesion-detector[test]'")

from LesionDetectorLib.scene import mrml

from Testing.slicer_application import MODULE, Application
from Testing.test_scene import GEOMETRIES, some_lesions, volume_with
from Testing.test_session import handles, markups, slice_in_view


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def application():
    return Application()


@pytest.fixture
def panel(application):
    application.scene.Clear(False)
    application.errors.clear()
    module = load(MODULE / "LesionDetector.py")
    widget = module.LesionDetectorWidget()
    widget.setup()
    widget.application, widget.module = application, module
    yield widget
    widget.cleanup()


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
    ui.bodyPartComboBox.activated.emit(ui.bodyPartComboBox.currentIndex())
    assert rows(reviewing)[1][1] == "Liver"
    assert ui.undoButton.toolTip == "Undo: relabel Soft tissue"
    ui.deleteButton.click()
    assert len(rows(reviewing)) == 2 and not ui.acceptButton.enabled
    ui.undoButton.click()
    ui.undoButton.click()
    assert rows(reviewing)[1][1] == "Soft tissue"
    ui.redoButton.click()
    assert rows(reviewing)[1][1] == "Liver"


def test_a_report_is_saved_as_its_name_says(reviewing, tmp_path):
    reviewing.ui.baselineCheckBox.checked = True
    for name in ("report.txt", "table.csv", "lesions.json", "page.html", "report.doc", "report.dcm"):
        reviewing.application.chosen_path = str(tmp_path / name)
        reviewing.ui.saveButton.click()
    assert (tmp_path / "report.txt").read_text() == reviewing.ui.reportText.plainText
    assert (tmp_path / "table.csv").read_text().count("\n") == 3, "the lesions of the report and their titles"
    assert len(exchange.read(tmp_path / "lesions.json").lesions) == 3
    assert (tmp_path / "page.html").read_text().count("data:image/jpeg") == 4
    refused, not_dicom = reviewing.application.errors
    assert "report.doc" in refused and "was not loaded from Slicer's DICOM database" in not_dicom
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lesions.json", "page.html", "report.txt", "table.csv"]


def test_saving_a_page_can_be_cancelled_and_leaves_nothing(reviewing, tmp_path, monkeypatch):
    class Impatient(SimpleNamespace):
        wasCanceled = True  # noqa: N815

    monkeypatch.setattr(reviewing.module.slicer.util, "createProgressDialog", lambda **_: Impatient(close=lambda: None))
    reviewing.application.chosen_path = str(tmp_path / "page.html")
    reviewing.ui.saveButton.click()
    assert reviewing.ui.progressLabel.text == "Cancelled; nothing was saved." and not list(tmp_path.iterdir())


def test_saved_lesions_are_opened_and_a_review_is_not_lost_unasked(reviewing, tmp_path):
    application, ui = reviewing.application, reviewing.ui
    application.chosen_path = str(tmp_path / "lesions.json")
    ui.saveButton.click()
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
    assert "lesions.json: this is no list of lesions" in application.errors[0] and rows(reviewing) == before


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
    assert "no reader marked a soft-tissue part" in baseline_row(reviewing, 1) or "it has no axes" in baseline_row(reviewing, 1)


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
    reviewing._parameterNode.weights = weights
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
        again = reviewing.module.LesionDetectorWidget()
        again.setup()
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
    texts = [node for node in mrml.all_nodes(scene, "vtkMRMLTextNode") if node.GetNodeReferenceID(mrml.VOLUME) == other.GetID()]
    texts[0].SetText(texts[0].GetText()[:-9])
    reviewing.onSceneEndImport()
    assert [
        error.startswith("The review of Other CT cannot be continued: this is not valid JSON") for error in reviewing.application.errors
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

    monkeypatch.setattr(reviewing.module, "Detection", Child)
    reviewing.enter()
    assert not children, "this CT is reviewed already"
    reviewing._parameterNode.inputVolume = lesion_scene.add_volume(reviewing.application.scene, volume_with(np.eye(3)))
    assert [child.settings for child in children] == [([], "auto")]
    reviewing.ui.confidenceSlider.value = 0.8
    reviewing._parameterNode.weights = tmp_path / "absent.safetensors"
    assert len(children) == 1
    reviewing._parameterNode.weights = Path()
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
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsROINode") == 0 and scene.GetNumberOfNodesByClass("vtkMRMLTableNode") == 1


def test_the_sample_ct_is_offered_with_its_checksum(panel, monkeypatch):
    offered = {}
    logic = SimpleNamespace(registerCustomSampleDataSource=lambda **source: offered.update(source))
    monkeypatch.setitem(sys.modules, "SampleData", SimpleNamespace(SampleDataLogic=logic))
    panel.module.registerSampleData()
    assert offered["uris"].startswith("https://") and offered["uris"].endswith(offered["checksums"].replace(":", "/"))
    assert Path(offered["thumbnailFileName"]).is_file()


def run(test) -> None:
    result = unittest.TestResult()
    test.run(result)
    assert result.wasSuccessful() and result.testsRun, "\n".join(trace for _, trace in result.errors + result.failures)


def test_the_modules_own_test_passes(panel):
    run(panel.module.LesionDetectorTest("runTest"))


def test_slicers_own_tests_pass(panel):
    run(unittest.defaultTestLoader.loadTestsFromModule(load(MODULE / "Testing/Python/LesionDetectorSceneTest.py")))


def test_slicer_knows_the_module(panel):
    parent = SimpleNamespace()
    panel.module.LesionDetector(parent)
    assert parent.title == "Lesion Detector" and parent.categories == ["Quantification"]
    assert "Not a medical device" in parent.helpText
