"""The Slicer module: choose a CT and the lesions.json that `lesion-detector detect` wrote for it, and see the lesions on the CT."""

from pathlib import Path

import slicer
from LesionDetectorLib import scene
from LesionDetectorLib.report import exchange
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)


class LesionDetector(ScriptedLoadableModule):
    """What Slicer shows about the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Lesion Detector")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Quantification")]
        parent.dependencies = []
        parent.contributors = ["LesionDetectorExtension contributors"]
        parent.helpText = _(
            "Shows the lesions that were found on a CT: a box, the long and the short axis of each, and a table of all. "
            "Research use only. Not a medical device."
        )
        parent.acknowledgementText = _("Labels and the layout of training data follow DeepLesion (Yan et al., 2018).")


class LesionDetectorWidget(ScriptedLoadableModuleWidget):
    """The panel."""

    def setup(self):
        """Called when the user opens the module for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/LesionDetector.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = LesionDetectorLogic()
        self.ui.volumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.updateButton)
        self.ui.lesionsPath.connect("currentPathChanged(QString)", self.updateButton)
        self.ui.showButton.connect("clicked(bool)", self.onShow)
        self.updateButton()

    def updateButton(self, *_args):
        """Lesions can be shown once a CT and an existing file are chosen; the tooltip says what is missing."""
        if self.ui.volumeSelector.currentNode() is None:
            missing = _("Choose the CT first.")
        elif not Path(self.ui.lesionsPath.currentPath).is_file():
            missing = _("Choose the lesions.json of this CT first.")
        else:
            missing = ""
        self.ui.showButton.enabled = not missing
        self.ui.showButton.toolTip = missing or _("Show the lesions of this file on the CT")

    def onShow(self, *_args):
        """Called when the user asks for the lesions."""
        with slicer.util.tryWithErrorDisplay(_("The lesions cannot be shown."), waitCursor=True):
            count = self.logic.showLesions(self.ui.volumeSelector.currentNode(), self.ui.lesionsPath.currentPath)
            self.ui.statusLabel.text = _("{count} lesions shown.").format(count=count)


class LesionDetectorLogic(ScriptedLoadableModuleLogic):
    """What the module does, with or without a panel."""

    def showLesions(self, volumeNode, path) -> int:
        """Show the reported lesions of the lesions.json at `path` on the CT `volumeNode`, and jump to the first; returns their number.

        Raises SceneError where they were found on another CT, ExchangeError for a file that is no lesions.json, OSError.
        """
        lesions, sliceNumber = scene.lesions_on(volumeNode, exchange.read(path))
        scene.show_lesions(volumeNode.GetScene(), volumeNode, lesions, sliceNumber)
        scene.show_in_slice_views(volumeNode.GetScene(), volumeNode, lesions[0] if lesions else None)
        return len(lesions)


class LesionDetectorTest(ScriptedLoadableModuleTest):
    """Runs inside Slicer: the tests in Testing/Python, on a small synthetic CT."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_lesions_are_shown_on_their_ct()

    def test_lesions_are_shown_on_their_ct(self):
        """A CT and its lesions.json give a box, two lines and a table row for the lesion, which reads back as it was."""
        import numpy as np
        from LesionDetectorLib.ct import Volume
        from LesionDetectorLib.lesion import BodyPart, Lesion, Recist
        from LesionDetectorLib.report.reading import Reading

        direction = np.array([[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.0, -1.0]])
        volume = Volume(np.zeros((5, 40, 50), np.int16), (0.8, 0.9, 3.0), (10.0, -20.0, 30.0), direction, Path("ct.nrrd"))
        recist = Recist(((12.0, 15.0), (22.0, 15.0)), ((17.0, 12.0), (17.0, 18.0)), 8.0, 5.4)
        lesion = Lesion(BodyPart.LIVER, 0.87, 2, (1, 3), (7.0, 7.0, 27.0, 23.0), recist)
        path = Path(slicer.util.tempDirectory()) / "lesions.json"
        exchange.write(path, Reading.of(volume, [lesion]))
        volumeNode = scene.add_volume(slicer.mrmlScene, volume)

        shown = LesionDetectorLogic().showLesions(volumeNode, path)

        self.assertEqual(shown, 1)
        (found,) = scene.read_lesions(slicer.mrmlScene, volumeNode)
        self.assertEqual((found.id, found.key_slice, found.confidence), (lesion.id, 2, 0.87))
        np.testing.assert_allclose(found.box, lesion.box, atol=1e-3)
        np.testing.assert_allclose(found.recist.long_axis, recist.long_axis, atol=1e-3)
