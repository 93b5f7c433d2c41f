"""The self-test of the module, which Slicer offers as Reload and Test."""

from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModuleTest,
)

from LesionDetectorLib import scene
from LesionDetectorLib.formats import FORMATS, path_of
from LesionDetectorLib.lesion import BodyPart, ReviewStatus
from LesionDetectorLib.panel.widget import STATUS_SIGNS


class LesionDetectorTest(ScriptedLoadableModuleTest):
    """The whole way of a reader through the panel, inside Slicer and, on slicer-core, in the project's own tests.

    It needs nothing but Slicer: no network and no PyTorch, for a recorded reading stands in for the detector. It prints
    what it does:

        Slicer --testing --no-splash --additional-module-paths LesionDetector --python-code
            "import slicer.testing; slicer.testing.runUnitTest([], 'LesionDetector.LesionDetectorTest')"
    """

    def setUp(self):
        slicer.mrmlScene.Clear(False)
        self.panel = slicer.util.getModuleWidget("LesionDetector")
        self.logic = self.panel.logic
        self.logic.release()
        self.logic.ensureDependencies = lambda: True
        self.logic._detection = lambda weights, device: _Recorded(self.reading)
        self.panel.enter()

    def tearDown(self):
        self.panel.exit()
        for replaced in ("ensureDependencies", "_detection"):
            vars(self.logic).pop(replaced, None)
        slicer.mrmlScene.Clear(False)

    def runTest(self):
        for name in [name for name in dir(self) if name.startswith("test_")]:
            self.setUp()
            try:
                getattr(self, name)()
            finally:
                self.tearDown()

    def say(self, step):
        """Tell whoever watches what was done, and let the application draw it."""
        print(f"Lesion Detector: {step}")
        slicer.app.processEvents()

    def chooseCT(self, name="CT"):
        """A small CT with a bright ball and a dark one, oblique and from head to feet, and the reading of a detector
        that finds both."""
        import numpy as np

        from LesionDetectorLib.ct import Volume
        from LesionDetectorLib.lesion import Lesion, Recist
        from LesionDetectorLib.reading import Reading

        k, j, i = np.ogrid[:9, :60, :80]
        hu = np.full((9, 60, 80), 40, np.int16)
        hu[:, :, :8] = -1000
        hu[((i - 30) / 6) ** 2 + ((j - 30) / 6) ** 2 + ((k - 4) / 3) ** 2 < 1] = 140
        hu[((i - 60) / 5) ** 2 + ((j - 30) / 5) ** 2 + ((k - 6) / 2) ** 2 < 1] = -60
        hu[:, 55:, 70:] = 900
        direction = np.array([[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.0, -1.0]])
        self.volume = Volume(hu, (0.8, 0.9, 3.0), (10.0, -20.0, 30.0), direction, Path("ct.nrrd"))
        recist = Recist(((24.0, 30.0), (36.0, 30.0)), ((30.0, 24.0), (30.0, 36.0)), 10.8, 9.6)
        lesions = [
            Lesion(BodyPart.LIVER, 0.87, 4, (2, 6), (19.0, 19.0, 41.0, 41.0), recist),
            Lesion(BodyPart.KIDNEY, 0.61, 6, (5, 7), (50.0, 20.0, 70.0, 40.0)),
        ]
        self.reading = Reading.of(self.volume, lesions)
        self.volumeNode = scene.add_volume(slicer.mrmlScene, self.volume)
        self.volumeNode.SetName(name)
        self.panel.ui.volumeSelector.setCurrentNode(self.volumeNode)
        self.assertIs(self.logic.getParameterNode().inputVolume, self.volumeNode)
        self.assertTrue(self.panel.ui.detectButton.enabled)

    def detect(self):
        """Click Detect lesions, and let the panel hear of the result."""
        self.panel.ui.detectButton.click()
        self.assertEqual(self.panel.ui.detectButton.text, _("Cancel"))
        self.panel.onPoll()
        self.assertFalse(self.logic.running)
        self.assertEqual(self.panel.ui.progressLabel.text, "2 lesions found.")
        return self.panel.session()

    def rows(self):
        """The texts of the list, a row a lesion."""
        table = self.panel.ui.lesionTable
        return [
            [table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)
        ]

    def rasAt(self, ijk):
        """RAS mm of voxel indices of the CT."""
        import numpy as np

        return np.array(self.volume.geometry.to_lps(ijk)) * (-1, -1, 1)

    def test_detecting_filtering_and_reviewing(self):
        """A run, the confidence, steps, accept, reject and another body part, and all of it undone."""
        ui = self.panel.ui
        self.chooseCT()
        self.say("a CT was chosen")
        session = self.detect()
        self.say("the detector has found two lesions")
        ui.confidenceSlider.value = 0.8
        self.assertEqual([row[1] for row in self.rows()], ["Liver"])
        ui.confidenceSlider.value = 0.5
        self.say("the confidence hid one of them, and showed it again")

        ui.nextButton.click()
        self.assertEqual(ui.lesionTable.currentRow(), 1)
        ui.previousButton.click()
        self.assertEqual(ui.lesionTable.currentRow(), 0)
        self.say("the views went from lesion to lesion")
        before = self.rows()
        ui.acceptButton.click()
        ui.nextButton.click()
        ui.rejectButton.click()
        self.assertEqual(
            [row[5] for row in self.rows()], [STATUS_SIGNS[ReviewStatus.ACCEPTED], STATUS_SIGNS[ReviewStatus.REJECTED]]
        )
        ui.bodyPartComboBox.setCurrentIndex(ui.bodyPartComboBox.findText("Lung"))
        self.panel.onRelabel(ui.bodyPartComboBox.findText("Lung"))
        self.assertEqual(self.rows()[1][1], "Lung")
        self.say("one was accepted, one rejected and given another body part")
        for _step in range(3):
            ui.undoButton.click()
        self.assertEqual(self.rows(), before)
        ui.acceptAllButton.click()
        self.assertEqual([lesion.status for _number, lesion in session.listed], [ReviewStatus.ACCEPTED] * 2)
        ui.undoButton.click()
        self.assertEqual(self.rows(), before)
        self.say("all of it was undone; both were accepted in one step, and that undone")

    def test_adding_and_dragging(self):
        """A lesion added by a click, its box dragged, and both undone."""
        ui = self.panel.ui
        self.chooseCT()
        session = self.detect()
        before = self.rows()
        ui.deleteButton.click()
        ui.addPointButton.checked = True
        slicer.mrmlScene.GetFirstNodeByName("New lesion").AddControlPoint(*self.rasAt((30.0, 30.0, 4.0)))
        self.say("a click was made on a lesion that was deleted before")
        added = session.review.lesion(session.selected)
        self.assertEqual((added.key_slice, added.slices), (4, (3, 5)))
        self.assertAlmostEqual(added.recist.long_mm, 10.8, delta=1.5)

        ui.editButton.checked = True
        box = slicer.mrmlScene.GetFirstNodeByName("Box of the lesion")
        box.SetCenter(
            *(
                box.GetCenter()[axis] + shift
                for axis, shift in enumerate(self.rasAt((3.0, 0.0, 0.0)) - self.rasAt((0.0, 0.0, 0.0)))
            )
        )
        box.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)
        moved = session.review.lesion(added.id)
        self.assertAlmostEqual(moved.box[0], added.box[0] + 3, delta=0.01)
        ui.editButton.checked = False
        self.say("its box was dragged, and it was measured again")
        for _step in range(3):
            ui.undoButton.click()
        self.assertEqual(self.rows(), before)
        self.say("all of it was undone")

    def test_reporting(self):
        """The report follows the review, and every kind of file is saved for which this Slicer has the packages."""
        import importlib.util
        import tempfile

        self.chooseCT()
        session = self.detect()
        self.assertIn("1. Lesion 1: Liver (87%)", self.panel.ui.reportText.plainText)
        self.assertEqual(self.panel.ui.reportText.plainText, self.logic.reportText(session))
        self.say("the report shows the lesions of the list")
        with tempfile.TemporaryDirectory() as folder:
            for form in FORMATS:
                path = path_of(Path(folder) / "report", form)
                missing = [name for name in form.packages if importlib.util.find_spec(name) is None]
                if missing:
                    self.say(f"{form.title} was left out, for it needs {', '.join(missing)}")
                elif "slices" in form.needs:
                    with self.assertRaises(scene.SceneError):
                        scene.save_report(session, path, form)
                    self.assertFalse(path.exists())
                    self.say(f"{form.title} was refused, for this CT is not from the DICOM database")
                else:
                    scene.save_report(session, path, form)
                    self.assertIn("Liver", path.read_text(encoding="utf-8"))
                    self.say(f"{form.title} was saved")

    def test_saving_loading_and_closing_the_scene(self):
        """A review is as it was once its scene was saved and loaded.

        After a scene was closed, the open panel takes up the next CT.
        """
        import tempfile

        ui = self.panel.ui
        self.chooseCT()
        self.detect()
        ui.acceptButton.click()
        before = self.rows()
        with tempfile.TemporaryDirectory() as folder:
            scene.save_scene(slicer.mrmlScene, Path(folder) / "review.mrb")
            slicer.mrmlScene.Clear(False)
            self.assertEqual(self.rows(), [])
            self.assertFalse(ui.detectButton.enabled)
            scene.load_scene(Path(folder) / "review.mrb", slicer.mrmlScene)
        self.assertEqual(self.rows(), before)
        self.assertTrue(ui.undoButton.enabled)
        ui.undoButton.click()
        self.say("the scene was saved and loaded, and the last edit undone")
        slicer.mrmlScene.Clear(False)
        self.assertEqual(ui.hintLabel.text, _("Choose a CT, or load one."))
        self.chooseCT("second patient")
        self.detect()
        self.say("the scene was closed with the panel open, and a second CT was worked on")

    def test_cancelling(self):
        """A run that is cancelled leaves the scene as it was."""
        self.chooseCT()
        nodes = slicer.mrmlScene.GetNumberOfNodes()
        self.panel.ui.detectButton.click()
        self.panel.ui.detectButton.click()
        self.assertFalse(self.logic.running)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), nodes)
        self.say("a run was cancelled, and nothing was changed")


class _Recorded:
    """A reading in the place of the detector that finds it."""

    alive = True

    def __init__(self, reading):
        self.reading = reading

    def begin(self, write_ct):
        pass

    def poll(self, progress):
        return self.reading

    def cancel(self):
        pass
