"""The whole story on a CT of a patient: detect in a child process, review by button and mouse, report, save, load,
find all as it was."""

from __future__ import annotations

import tarfile
import time

import numpy as np
import pytest
from LesionDetectorLib import ct
from LesionDetectorLib import scene as lesion_scene
from LesionDetectorLib.lesion import Axis, BodyPart, Origin, ReviewStatus

slicer = pytest.importorskip("slicer", reason="needs slicer-core: pip install 'lesion-detector[scene]'")
pytest.importorskip("trame_slicer.views", reason="needs trame-slicer: pip install 'lesion-detector[scene]'")
pytest.importorskip("PySide6", reason="needs PySide6-Essentials: pip install 'lesion-detector[test]'")

from LesionDetectorLib.scene import mrml  # noqa: E402
from LesionDetectorLib.scene.files import write_picture  # noqa: E402

from Testing.helpers.mouse import Mouse  # noqa: E402
from Testing.helpers.scenes import slice_in_view  # noqa: E402
from Testing.helpers.slicer_application import MODULE, Application, load  # noqa: E402

CT = "ct/cmb_crc_chest_dicom"


def free_end(mouse: Mouse, node, lesion) -> tuple[int, int]:
    """The end of an axis that lies farthest from the handles of the box, which a mouse takes first."""
    x0, y0, x1, y1 = lesion.box
    handles = [(x, y) for x in (x0, (x0 + x1) / 2, x1) for y in (y0, (y0 + y1) / 2, y1)]
    ends = [end for axis in Axis for end in lesion.recist.ends(axis)]
    best = max(ends, key=lambda end: min(np.hypot(end[0] - x, end[1] - y) for x, y in handles))
    return mouse.display(mrml.ras(node, (*best, lesion.key_slice)))


def new_panel(application):
    widget = application.new_panel(load(MODULE / "LesionDetector.py"))
    widget.parent.resize(350, widget.parent.sizeHint.height())
    widget.parent.show()
    return widget


def test_the_whole_story(shared_data, tmp_path):
    (archive,) = (shared_data / CT).glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(tmp_path / "ct", filter="data")
    volume = ct.read(tmp_path / "ct")
    application = Application()
    view = application.axial_view()
    node = lesion_scene.add_volume(application.scene, volume)
    lesion_scene.show_in_slice_views(application.scene, node)
    application.slicer.app_logic.GetSliceLogics().GetItemAsObject(0).ResizeSliceNode(700, 700)
    panel = new_panel(application)
    panel.enter()
    ui = panel.ui

    ui.detectButton.click()
    deadline = time.monotonic() + 300
    while panel.logic.running:
        assert time.monotonic() < deadline
        panel.onPoll()
        time.sleep(0.05)
    assert not application.errors
    ui.confidenceSlider.value = 0.2
    many = len(panel.session().listed)
    ui.confidenceSlider.value = 0.3
    session = panel.session()
    assert 4 <= len(session.listed) <= many
    found = {lesion.id: lesion for lesion in session.review.found.lesions}

    ids = [lesion.id for _, lesion in session.listed]
    for row, button in ((0, ui.acceptButton), (1, ui.acceptButton), (2, ui.rejectButton)):
        ui.lesionTable.selectRow([lesion.id for _, lesion in session.listed].index(ids[row]))
        assert session.selected == ids[row]
        assert slice_in_view(session) == session.review.lesion(ids[row]).key_slice
        button.click()
    statuses = [session.review.lesion(lesion_id).status for lesion_id in ids[:3]]
    assert statuses == [ReviewStatus.ACCEPTED, ReviewStatus.ACCEPTED, ReviewStatus.REJECTED]
    session.select(ids[3])
    before = session.review.lesion(ids[3])
    other = BodyPart.BONE if before.body_part is not BodyPart.BONE else BodyPart.LUNG
    ui.bodyPartComboBox.setCurrentIndex(ui.bodyPartComboBox.findText(other.title))
    ui.bodyPartComboBox.activated.emit(ui.bodyPartComboBox.currentIndex)
    write_picture(view, tmp_path / "reviewed.png")
    panel.parent.grab().save(str(tmp_path / "panel.png"))

    ui.editButton.checked = True
    view.render()
    mouse = Mouse(view)
    lesion = session.review.lesion(ids[3])
    corner = mouse.display(mrml.ras(node, (lesion.box[0], lesion.box[1], lesion.key_slice)))
    centre = mouse.display(mrml.ras(node, (sum(lesion.box[::2]) / 2, sum(lesion.box[1::2]) / 2, lesion.key_slice)))
    outward = np.sign(np.subtract(corner, centre)).astype(int)
    mouse.drag(tuple(corner + 3 * outward), tuple(corner + 23 * outward))
    dragged = session.review.lesion(ids[3])
    assert dragged.box != lesion.box and dragged.recist != lesion.recist
    view.render()
    end = free_end(mouse, node, dragged)
    mouse.drag(end, (end[0] + 15, end[1] + 9))
    drawn = session.review.lesion(ids[3])
    assert drawn.recist.drawn and drawn.recist != dragged.recist
    write_picture(view, tmp_path / "edited.png")
    ui.editButton.checked = False

    ui.bodyPartComboBox.setCurrentIndex(ui.bodyPartComboBox.findText("Liver"))
    ui.addBoxButton.checked = True
    for corner in ((250.0, 260.0), (290.0, 300.0)):
        mouse.click(mouse.display(mrml.ras(node, (*corner, lesion.key_slice))))
    application.qt.processEvents()
    added = session.review.lesion(session.selected)
    assert (added.body_part, added.key_slice, added.origin) == (BodyPart.LIVER, lesion.key_slice, Origin.READER)
    assert added.box == pytest.approx((250, 260, 290, 300), abs=0.5) and not ui.addBoxButton.checked
    write_picture(view, tmp_path / "added.png")
    ui.undoButton.click()
    ui.undoButton.click()
    assert session.review.lesion(ids[3]) == dragged
    ui.redoButton.click()
    assert session.review.lesion(ids[3]) == drawn and added.id not in {entry.id for entry in session.review.lesions}
    assert {entry.id: entry for entry in session.review.found.lesions} == found

    session.select(ids[3])

    application.chosen_path = str(tmp_path / "report.txt")
    ui.saveButton.click()
    assert other.title in (tmp_path / "report.txt").read_text()
    listed, done, undone = session.listed, list(session.review.done), list(session.review.undone)
    lesion_scene.save_scene(application.scene, tmp_path / "review.mrb")
    application.scene.Clear(False)
    assert panel.session() is None and not rows(panel)

    lesion_scene.load_scene(tmp_path / "review.mrb", application.scene)
    again = panel.session()
    assert (again.listed, again.review.done, again.review.undone) == (listed, done, undone)
    assert again.selected == ids[3] and again.confidence == pytest.approx(0.3)
    assert len(rows(panel)) == len(listed)
    ui.undoButton.click()
    assert panel.session().review.lesion(ids[3]) == dragged
    panel.cleanup()


def rows(panel) -> list[str]:
    return [panel.ui.lesionTable.item(row, 1).text() for row in range(panel.ui.lesionTable.rowCount)]
