"""The Slicer module: click Detect lesions, review what is found, report it. The only file that knows Qt."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import qt
import slicer
import vtk
from LesionDetectorLib import looks, scene
from LesionDetectorLib.child import ChildError, Detection
from LesionDetectorLib.formats import BY_NAME, FORMATS, path_of
from LesionDetectorLib.lesion import BodyPart, Mark, ReviewStatus
from LesionDetectorLib.report import text
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

POLL_MS = 100
BODY_PART_COLUMN = 1
SECTIONS = ("inputsCollapsibleButton", "lesionsCollapsibleButton", "recistCollapsibleButton", "reportCollapsibleButton")
FOLDED_AT_FIRST = ("recistCollapsibleButton",)
TORCH = ">=2.4"
MARK_BOXES = {
    "lymphNodeCheckBox": Mark.LYMPH_NODE,
    "targetCheckBox": Mark.TARGET,
    "softTissuePartCheckBox": Mark.SOFT_TISSUE_PART,
    "notMeasurableCheckBox": Mark.NOT_MEASURABLE,
}
STATUS_SIGNS = {ReviewStatus.PENDING: "?", ReviewStatus.ACCEPTED: "\u2713", ReviewStatus.REJECTED: "\u2717"}


class LesionDetector(ScriptedLoadableModule):
    """What Slicer shows about the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Lesion Detector")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Quantification")]
        parent.dependencies = []
        parent.contributors = ["LesionDetectorExtension developers (SlicerLesionDetector)"]
        parent.helpText = _(
            "Finds lesions on a CT, labels them with one of eight body parts, measures their RECIST axes, and lets "
            "you review and report "
            'them. Research use only. Not a medical device. <a href="{url}">Documentation</a>'
        ).format(url="https://github.com/SlicerLesionDetector/SlicerLesionDetectorExtension#readme")
        parent.acknowledgementText = _(
            "Labels and the layout of training data follow DeepLesion (Yan et al., J. Med. Imaging 2018). VFNet: "
            "Zhang et al., CVPR 2021. "
            "Response criteria: RECIST 1.1, Eisenhauer et al., 2009."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer a CT with liver tumours in Slicer's Sample Data module; it is downloaded when the user asks for it.

    Slicer has a thumbnail of it, which it finds by the name of the node.
    """
    import SampleData

    digest = "e16eae0ae6fefa858c5c11e58f0f1bb81834d81b7102e021571056324ef6f37e"
    SampleData.SampleDataLogic.registerCustomSampleDataCategory("LesionDetector", title=_("Lesion Detector"))
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="LesionDetector",
        sampleName="CTLiver",
        uris=slicer.util.TESTING_DATA_URL + "SHA256/" + digest,
        fileNames="CTLiver.nrrd",
        nodeNames="CTLiver",
        checksums="SHA256:" + digest,
    )


@parameterNodeWrapper
class LesionDetectorParameterNode:
    """What the panel is set to, kept in the scene.

    inputVolume: the CT. weights: a file of trained weights, "" for the detector that ships. device: where the detector
        runs.
    confidence: pending lesions below it are hidden. zoom, bodyPartWindow: whether a step to a lesion shows a small
    field round it, and in the window of its body part.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    weights: str = ""
    device: Annotated[str, Choice(["auto", "cuda", "cpu"])] = "auto"
    confidence: Annotated[float, WithinRange(0, 1)] = 0.5
    zoom: bool = True
    bodyPartWindow: bool = True


class LesionDetectorWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: it shows what the logic knows, and passes on what the user does."""

    def __init__(self, parent=None):
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._entered = False
        self._sorted = None
        self._steps = None
        VTKObservationMixin.__init__(self)
        ScriptedLoadableModuleWidget.__init__(self, parent)  # last, for without a parent it calls setup

    def setup(self):
        """Called when the user opens the module for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/LesionDetector.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = LesionDetectorLogic()
        self.logic.onChanged = self.updateLesions
        self.timer = qt.QTimer()
        self.timer.setInterval(POLL_MS)
        self.timer.connect("timeout()", self.onPoll)
        header = self.ui.lesionTable.horizontalHeader()
        header.connect("sectionClicked(int)", self.onHeaderClicked)
        for column in range(self.ui.lesionTable.columnCount):
            header.setSectionResizeMode(
                column, qt.QHeaderView.Stretch if column == BODY_PART_COLUMN else qt.QHeaderView.ResizeToContents
            )
        for part in BodyPart:
            self.ui.bodyPartComboBox.addItem(part.title, int(part))
        for title in (_("Soft tissue"), _("Lung"), _("Bone"), _("All values")):
            self.ui.windowComboBox.addItem(title)
        for form in FORMATS:
            self.ui.formatComboBox.addItem(_(form.title), form.name)
        self._restoreFolding()
        self._connect()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.onSceneEndImport()

    def _restoreFolding(self):
        """Fold the sections as the user left them the last time."""
        settings = qt.QSettings()
        for name in SECTIONS:
            section, key = getattr(self.ui, name), f"LesionDetector/{name}Collapsed"
            section.collapsed = slicer.util.toBool(settings.value(key, name in FOLDED_AT_FIRST))
            section.connect("contentsCollapsed(bool)", lambda folded, key=key: qt.QSettings().setValue(key, folded))

    def _connect(self):
        for button, action in (
            (self.ui.detectButton, self.onDetect),
            (self.ui.previousButton, lambda *_args: self.onStep(-1)),
            (self.ui.nextButton, lambda *_args: self.onStep(1)),
            (self.ui.acceptButton, lambda *_args: self.onStatus(ReviewStatus.ACCEPTED)),
            (self.ui.rejectButton, lambda *_args: self.onStatus(ReviewStatus.REJECTED)),
            (self.ui.acceptAllButton, lambda *_args: self.session().set_statuses(ReviewStatus.ACCEPTED)),
            (self.ui.rejectAllButton, lambda *_args: self.session().set_statuses(ReviewStatus.REJECTED)),
            (self.ui.deleteButton, lambda *_args: self.onSelected("delete")),
            (self.ui.largestSliceButton, lambda *_args: self.onSelected("to_largest_slice")),
            (self.ui.undoButton, lambda *_args: self.session().undo()),
            (self.ui.redoButton, lambda *_args: self.session().redo()),
            (self.ui.weightsButton, self.onChooseWeights),
            (self.ui.shippedWeightsButton, lambda *_args: self.setWeights("")),
            (self.ui.openButton, self.onOpen),
            (self.ui.copyButton, self.onCopy),
            (self.ui.saveButton, self.onSave),
        ):
            button.connect("clicked(bool)", action)
        self.ui.editButton.connect("toggled(bool)", self.onEdit)
        self.ui.addBoxButton.connect("toggled(bool)", lambda on: self.onAdd(on, scene.Shape.BOX))
        self.ui.addPointButton.connect("toggled(bool)", lambda on: self.onAdd(on, scene.Shape.POINT))
        self.ui.bodyPartComboBox.connect("activated(int)", self.onRelabel)
        self.ui.windowComboBox.connect("activated(int)", self.onWindow)
        self.ui.lesionTable.connect("itemSelectionChanged()", self.onRowSelected)
        for name, mark in MARK_BOXES.items():
            getattr(self.ui, name).connect(
                "clicked(bool)", lambda on, mark=mark: self.session().mark(self.session().selected, mark, on)
            )
        for box in (self.ui.diametersCheckBox, self.ui.acceptedOnlyCheckBox, self.ui.baselineCheckBox):
            box.connect("toggled(bool)", self.updateReport)

    # -- life of the panel
    # ---------------------------------------------------------------------------------------------------------------

    def cleanup(self):
        """Called when the application closes or the module is reloaded."""
        self.timer.stop()
        self.setParameterNode(None)
        self.removeObservers()
        self.logic.close()

    def onReload(self):
        """Reload the module with its library, for developers; Slicer by itself reloads this file alone."""
        for name in [name for name in sys.modules if name.partition(".")[0] == "LesionDetectorLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def enter(self):
        """Called each time the user opens this module."""
        self._entered = True
        self.initializeParameterNode()

    def exit(self):
        """Called each time the user opens another module; a detector that runs goes on."""
        self._entered = False
        self.ui.addBoxButton.checked = self.ui.addPointButton.checked = False
        self.setParameterNode(None)
        self.logic.release()

    def onSceneStartClose(self, *_args):
        """Called just before the scene is closed."""
        self.setParameterNode(None)
        self.timer.stop()
        self.logic.close()
        self.ui.progressLabel.text = ""
        self.updateInput()

    def onSceneEndClose(self, *_args):
        """Called once the scene is closed: the panel goes on with the new one."""
        if self._entered:
            self.initializeParameterNode()

    def onSceneEndImport(self, *_args):
        """Called after a scene was loaded, and at first: go on with the reviews that it holds."""
        self.logic.restore(slicer.util.errorDisplay)
        self.initializeParameterNode()

    def initializeParameterNode(self):
        """Show the settings that the scene keeps; take the first CT where none is chosen."""
        self.setParameterNode(self.logic.getParameterNode())
        if self._parameterNode.inputVolume is None:
            first = self.logic.firstCT()
            if first is not None:
                self._parameterNode.inputVolume = first

    def setParameterNode(self, parameterNode):
        """Bind the widgets to the settings, or, with None, to nothing."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self._parameterNode = parameterNode
        if parameterNode is not None:
            self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
            self.onParametersChanged()

    def onParametersChanged(self, *_args):
        """Called when a setting changed, in the panel or elsewhere."""
        self.updateInput()
        if not self.logic.setConfidence(self.volumeNode(), self._parameterNode.confidence):
            self.updateLesions()
        if self._entered and self.volumeNode() is not None and self.session() is None:
            self.logic.prepare(self.weights(), self._parameterNode.device)

    def updateViewing(self):
        """Let steps to a lesion look at it as the user wants."""
        session, parameterNode = self.session(), self._parameterNode
        if session is None or parameterNode is None:
            return
        if session.zooms and not parameterNode.zoom:
            session.show_whole()
        session.zooms, session.windows = parameterNode.zoom, parameterNode.bodyPartWindow

    def weights(self):
        """The files of the detector that the user chose, none for the one that ships."""
        name = self._parameterNode.weights if self._parameterNode is not None else ""
        return [Path(name)] if name not in ("", ".") else []

    def setWeights(self, name):
        """Take the detector in this file, or, with "", the one that ships."""
        if self._parameterNode is not None:
            self._parameterNode.weights = name

    def onChooseWeights(self, *_args):
        """Choose the detector's weights."""
        kinds = _("Weights (*.safetensors)")
        chosen = qt.QFileDialog.getOpenFileName(self.parent, _("Weights of a detector"), "", kinds)
        if chosen:
            self.setWeights(chosen)

    def volumeNode(self):
        """The CT that the panel shows, None if none is chosen."""
        return self._parameterNode.inputVolume if self._parameterNode is not None else None

    def session(self):
        """The review of that CT, None where there is none."""
        return self.logic.session(self.volumeNode())

    # -- detection -----------------------------------------------------------------------------------------------------
    # ------------------

    def onDetect(self, *_args):
        """Detect lesions, or cancel while that is done."""
        if self.logic.running:
            self.timer.stop()
            self.logic.cancel()
            self.ui.progressLabel.text = _("Cancelled; nothing was changed.")
        elif self.mayReplaceReview():
            with slicer.util.tryWithErrorDisplay(_("The detector cannot be started.")):
                if self.logic.ensureDependencies():
                    self.logic.start(self.volumeNode(), self.weights(), self._parameterNode.device)
                    self.ui.progressLabel.text = _("Starting ...")
                    self.timer.start()
                else:
                    self.ui.progressLabel.text = _("Nothing was installed, so the detector cannot run.")
        self.updateInput()

    def mayReplaceReview(self):
        """Whether the review of this CT may give way to another: it is not begun, or the user agrees to lose it."""
        session = self.session()
        begun = bool(session.review.done) if session is not None else scene.is_reviewed(self.volumeNode())
        question = _("The lesions of this CT that you have reviewed will be replaced, and your changes lost.")
        return not begun or slicer.util.confirmOkCancelDisplay(question)

    def onPoll(self):
        """Called now and then while a detector runs."""
        session = failure = None
        with slicer.util.tryWithErrorDisplay(_("The detector has ended by a fault of this program.")):
            try:
                session = self.logic.poll(self.onProgress)
            except (ChildError, scene.SceneError) as error:
                failure = error
            finally:
                if not self.logic.running:
                    self.timer.stop()
                    self.updateInput()
        if failure is not None:
            self.ui.progressLabel.text = str(failure)
            slicer.util.errorDisplay(
                str(failure), windowTitle=_("Lesion Detector"), detailedText=getattr(failure, "output", "")
            )
        elif session is not None:
            self.onDetected(session)
        elif not self.logic.running:
            self.ui.progressLabel.text = _("The CT was taken out of the scene before the detector was done.")

    def onDetected(self, session):
        """Called when a detector is done, with the review of what it found.

        Another CT, or another module, may be shown by now.
        """
        parameterNode = self.logic.getParameterNode()
        self.logic.setConfidence(session.volume_node, parameterNode.confidence)
        count = len(session.listed)
        found = _("1 lesion found.") if count == 1 else _("{count} lesions found.").format(count=count)
        if parameterNode.inputVolume is not session.volume_node:
            found = _("On {name}: {found}").format(name=session.volume_node.GetName(), found=found)
        self.ui.progressLabel.text = found
        if self.session() is session:
            self.onStep(1)

    def onProgress(self, progress):
        """Called with the news of the detector."""
        stages = {
            "load": _("Loading the detector"),
            "read": _("Reading the CT"),
            "detect": _("Looking at slice {done} of {total}"),
            "measure": _("Measuring lesion {done} of {total}"),
            "write": _("Writing"),
        }
        message = stages[progress.stage].format(done=progress.done, total=progress.total)
        if progress.seconds_left is not None:
            message += _(", about {seconds} s left").format(seconds=round(progress.seconds_left))
        self.ui.progressLabel.text = message
        self.ui.progressBar.value = round(100 * progress.share)

    def updateInput(self):
        """Enable what can be done with the input, and say what is missing."""
        volumeNode, running = self.volumeNode(), self.logic.running
        hint = self.hint()
        self.ui.hintLabel.text = hint
        self.ui.hintLabel.visible = bool(hint)
        self.ui.detectButton.text = _("Cancel") if running else _("Detect lesions")
        self.ui.detectButton.enabled = running or volumeNode is not None
        self.ui.openButton.enabled = not running and volumeNode is not None
        tip = (
            _("Stop the detector at once; nothing is changed") if running else hint or _("Find the lesions on this CT")
        )
        self.ui.detectButton.toolTip = tip
        self.ui.progressBar.visible = running
        weights = self.weights()
        self.ui.weightsLineEdit.text = str(weights[0]) if weights else _("the detector that ships")
        for widget in (self.ui.volumeSelector, self.ui.weightsButton, self.ui.deviceComboBox):
            widget.enabled = not running
        self.ui.shippedWeightsButton.enabled = bool(weights) and not running

    def hint(self):
        """What the user should know about the input before the detector runs, "" for nothing."""
        if self.volumeNode() is None:
            return _("Choose a CT, or load one.")
        missing = [path for path in self.weights() if not path.is_file()]
        if missing:
            return _("{path} is not there: choose other weights, or Default.").format(path=missing[0])
        return scene.why_not_a_ct(self.volumeNode())

    # -- review --------------------------------------------------------------------------------------------------------
    # ------------------

    def onStep(self, by):
        """Look at the next or the previous lesion of the list as it is sorted."""
        if self.session() is not None:
            self.session().step(by, [lesion.id for _number, lesion in self.displayed()])

    def displayed(self):
        """The lesions of the list with their numbers, in the order in which the table shows them."""
        session = self.session()
        listed = session.listed if session is not None else []
        if self._sorted is None:
            return listed
        column, descending = self._sorted
        return sorted(listed, key=lambda entry: self.sortKey(column, *entry), reverse=descending)

    @staticmethod
    def sortKey(column, number, lesion):
        """What a column is sorted by; what a lesion lacks comes first."""
        return (
            -1 if number is None else number,
            lesion.body_part.title,
            -1 if lesion.confidence is None else lesion.confidence,
            -1 if lesion.recist is None else lesion.recist.long_mm,
            lesion.key_slice,
            lesion.status.value,
        )[column]

    def onHeaderClicked(self, column):
        """Sort by a column; clicked again, the other way round; a third time, as in the report."""
        if self._sorted is None or self._sorted[0] != column:
            self._sorted = (column, False)
        else:
            self._sorted = None if self._sorted[1] else (column, True)
        shown, descending = self._sorted or (-1, False)
        order = qt.Qt.DescendingOrder if descending else qt.Qt.AscendingOrder
        self.ui.lesionTable.horizontalHeader().setSortIndicator(shown, order)
        self.updateLesions()

    def onWindow(self, index):
        """Show the CT in the chosen window."""
        if self.volumeNode() is not None:
            presets = [looks.window(part) for part in (BodyPart.SOFT_TISSUE, BodyPart.LUNG, BodyPart.BONE)]
            scene.set_window(self.volumeNode(), *[*presets, scene.range_of(self.volumeNode())][index])

    def onStatus(self, status):
        """Give the selected lesion a status; given again, it is pending again."""
        self.session().toggle_status(self.session().selected, status)

    def onSelected(self, action):
        """Do something to the selected lesion."""
        getattr(self.session(), action)(self.session().selected)

    def onRelabel(self, index):
        """Give the selected lesion the chosen body part."""
        if self.session() is not None and self.session().selected:
            self.session().relabel(self.session().selected, BodyPart(self.ui.bodyPartComboBox.itemData(index)))

    def onEdit(self, on):
        """Make the box and the axes of the selected lesion draggable, or lock them."""
        if self.session() is not None:
            self.session().editing = on

    def onAdd(self, on, shape):
        """Draw a new lesion: a box round it, or a click on it."""
        if on:
            other = self.ui.addPointButton if shape is scene.Shape.BOX else self.ui.addBoxButton
            other.checked = False
            self.logic.place(self.volumeNode(), shape, BodyPart(self.ui.bodyPartComboBox.currentData), self.onPlaced)
        else:
            self.logic.stopPlacing()

    def onPlaced(self, error):
        """Called when a new lesion was drawn, with the sentence that says why it was not taken, if so."""
        self.ui.addBoxButton.checked = self.ui.addPointButton.checked = False
        if error:
            self.ui.progressLabel.text = error
            return
        session = self.session()
        twin = session.twin(session.selected) if session is not None and session.selected else None
        if twin is not None:
            question = _("This lesion is in the list already: {caption}. OK keeps both, Cancel takes the new one back.")
            if not slicer.util.confirmOkCancelDisplay(question.format(caption=twin[1].caption(twin[0]))):
                session.undo()
                session.select(twin[1].id)

    def onRowSelected(self):
        """Look at the lesion of the row that the user clicked."""
        session, displayed, row = self.session(), self.displayed(), self.ui.lesionTable.currentRow()
        if session is not None and 0 <= row < len(displayed):
            lesion = displayed[row][1]
            if lesion.id != session.selected:
                session.select(lesion.id)

    def updateLesions(self, changed=None):
        """Show the list, what can be done with it, and the report; `changed` is the review that has changed."""
        self.updateViewing()
        session, displayed = self.session(), self.displayed()
        selected = session.selected if session is not None else None
        tableWidget = self.ui.lesionTable
        wasBlocked = tableWidget.blockSignals(True)
        tableWidget.setRowCount(len(displayed))
        tableWidget.clearSelection()
        tableWidget.setCurrentCell(-1, -1)
        for row, (number, lesion) in enumerate(displayed):
            for column, cell in enumerate(self.cells(session, number, lesion)):
                tableWidget.setItem(row, column, qt.QTableWidgetItem(cell))
            if lesion.id == selected:
                tableWidget.selectRow(row)
        tableWidget.blockSignals(wasBlocked)
        self.updateNews(session, changed)
        self.updateButtons(session, selected)
        self.updateReport()

    def updateNews(self, session, changed):
        """Say how the list stands, and why a review has ended; older news go once the reader has changed something."""
        self.ui.countLabel.text = self.counts(session) if session is not None else ""
        if changed is not None and changed.why_closed:
            self.ui.progressLabel.text = changed.why_closed
        steps = (session, len(session.review.done)) if session is not None else None
        if self._steps is not None and steps is not None and steps[0] is self._steps[0] and steps != self._steps:
            self.ui.progressLabel.text = ""
        self._steps = steps

    @staticmethod
    def counts(session):
        """How many lesions of which status the list holds."""
        statuses = [lesion.status for _number, lesion in session.listed]
        count = _("1 lesion") if len(statuses) == 1 else _("{count} lesions").format(count=len(statuses))
        return _("{lesions}: {accepted} accepted, {pending} pending, {rejected} rejected.").format(
            lesions=count,
            accepted=statuses.count(ReviewStatus.ACCEPTED),
            pending=statuses.count(ReviewStatus.PENDING),
            rejected=statuses.count(ReviewStatus.REJECTED),
        )

    def updateButtons(self, session, selected):
        """Enable what can be done with the list and with the selected lesion."""
        one = selected is not None
        pending = session is not None and any(
            lesion.status is ReviewStatus.PENDING for _number, lesion in session.listed
        )
        for name in ("acceptButton", "rejectButton", "deleteButton", "editButton", "largestSliceButton", *MARK_BOXES):
            getattr(self.ui, name).enabled = one
        for name in ("acceptAllButton", "rejectAllButton"):
            getattr(self.ui, name).enabled = pending
        for name in ("previousButton", "nextButton", "copyButton", "saveButton", "addBoxButton", "addPointButton"):
            getattr(self.ui, name).enabled = session is not None
        undo, redo = (session.review.undoable, session.review.redoable) if session is not None else ("", "")
        for button, step, word in ((self.ui.undoButton, undo, _("Undo")), (self.ui.redoButton, redo, _("Redo"))):
            button.enabled = bool(step)
            button.toolTip = f"{word}: {step}" if step else word
        for name, mark in MARK_BOXES.items():
            getattr(self.ui, name).checked = one and mark in session.review.lesion(selected).marks
        if one:
            part = session.review.lesion(selected).body_part
            self.ui.bodyPartComboBox.setCurrentIndex(self.ui.bodyPartComboBox.findText(part.title))

    @staticmethod
    def cells(session, number, lesion):
        """The texts of a lesion's row."""
        return (
            "-" if number is None else str(number),
            lesion.body_part.title,
            "" if lesion.confidence is None else f"{lesion.confidence:.0%}",
            "" if lesion.recist is None else f"{lesion.recist.long_mm:.0f} x {lesion.recist.short_mm:.0f}",
            str(session.review.found.slice_number(lesion.key_slice)),
            STATUS_SIGNS[lesion.status],
        )

    # -- report --------------------------------------------------------------------------------------------------------
    # ------------------

    def asked(self):
        """What the report is to hold, as the user chose."""
        ui = self.ui
        return {
            "accepted_only": ui.acceptedOnlyCheckBox.checked,
            "diameters": ui.diametersCheckBox.checked,
            "baseline": ui.baselineCheckBox.checked,
        }

    def updateReport(self, *_args):
        """Show the report as it would be saved."""
        session = self.session()
        self.ui.reportText.plainText = "" if session is None else self.logic.reportText(session, **self.asked())

    def onOpen(self, *_args):
        """Review the lesions that were saved before, or by another program."""
        path = qt.QFileDialog.getOpenFileName(
            self.parent, _("Open lesions on this CT"), "", _("Lesions (*.json *.dcm);;All files (*)")
        )
        if path and self.mayReplaceReview():
            with slicer.util.tryWithErrorDisplay(_("The lesions cannot be opened."), waitCursor=True):
                if self.havePackagesFor(Path(path)):
                    session = self.logic.open(self.volumeNode(), Path(path))
                    self.logic.setConfidence(self.volumeNode(), self._parameterNode.confidence)
                    self.ui.progressLabel.text = " ".join(session.review.found.warnings)

    def havePackagesFor(self, path):
        """Whether the packages are there, or installed now, that a file of this kind needs."""
        needing = tuple(form.ending for form in FORMATS if form.packages)
        if not path.name.lower().endswith(needing) or self.logic.ensurePackages():
            return True
        self.ui.progressLabel.text = _("Nothing was installed, so this kind of file cannot be used.")
        return False

    def onCopy(self, *_args):
        """Copy the report to the clipboard."""
        slicer.app.clipboard().setText(self.ui.reportText.plainText)

    def onSave(self, *_args):
        """Save the report in the form that the user chose."""
        form = BY_NAME[self.ui.formatComboBox.currentData]
        kind = f"{self.ui.formatComboBox.currentText} (*{form.ending})"
        chosen = qt.QFileDialog.getSaveFileName(self.parent, _("Save the report"), f"report{form.ending}", kind)
        if not chosen:
            return
        with slicer.util.tryWithErrorDisplay(_("The report cannot be saved.")):
            path = path_of(Path(chosen), form)
            if (
                path != Path(chosen)
                and path.exists()
                and not slicer.util.confirmOkCancelDisplay(
                    _("{name} is there already and will be replaced.").format(name=path.name)
                )
            ):
                return
            if self.havePackagesFor(path):
                self.save(path, form)

    def save(self, path, form):
        """Save the report with its progress shown; the user may cancel."""
        dialog = slicer.util.createProgressDialog(
            parent=self.parent, labelText=_("Saving the report"), windowModality=qt.Qt.WindowModal
        )
        try:
            notes = scene.save_report(
                self.session(), path, form, **self.asked(), progress=lambda *news: self.onSaving(dialog, *news)
            )
            self.ui.progressLabel.text = " ".join(notes) or _("Saved as {name}.").format(name=path.name)
        except InterruptedError:
            self.ui.progressLabel.text = _("Cancelled; nothing was saved.")
        finally:
            dialog.close()

    def onSaving(self, dialog, done, total):
        """Called with the news of a report that is being saved; the user may cancel."""
        dialog.value = round(100 * done / total)
        slicer.app.processEvents()
        if dialog.wasCanceled:
            raise InterruptedError


class LesionDetectorLogic(ScriptedLoadableModuleLogic):
    """What the module does, with or without a panel.

    In Slicer's Python console:

        logic = slicer.util.getModuleLogic("LesionDetector")
        session = logic.detect(slicer.util.getNode("CT"))
        print(logic.reportText(session))
    """

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self.onChanged = lambda session: None
        self._sessions = {}
        self._run = None
        self._ready = None
        self._placing = None

    def getParameterNode(self):
        return LesionDetectorParameterNode(super().getParameterNode())

    def firstCT(self):
        """The first scalar volume of the scene that is no label map, None where there is none."""
        nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        return next((node for node in nodes if node.GetClassName() == "vtkMRMLScalarVolumeNode"), None)

    # -- detection -----------------------------------------------------------------------------------------------------
    # ------------------

    @property
    def running(self) -> bool:
        """Whether a detector is at work."""
        return self._run is not None

    def ensureDependencies(self) -> bool:
        """Ask for what the detector needs and Slicer lacks, and install it; False where the user declines.

        Raises RuntimeError.
        """
        import importlib.util

        import slicer.packaging  # Slicer does not import it by itself

        if not importlib.util.find_spec("torch") or not importlib.util.find_spec("torchvision"):
            try:
                import PyTorchUtils
            except ImportError as error:
                advice = _("install the extension PyTorch with the Extensions Manager, restart Slicer, and try again")
                raise RuntimeError(_("The detector needs PyTorch: {advice}.").format(advice=advice)) from error
            if (
                PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True, torchVersionRequirement=TORCH)
                is None
            ):
                return False
        elif not slicer.packaging.pip_check(f"torch{TORCH}"):
            advice = _("uninstall it in the module PyTorch Utils, restart Slicer, and try again")
            raise RuntimeError(
                _("The detector needs PyTorch {version}: {advice}.").format(version=TORCH, advice=advice)
            )
        return self.ensurePackages()

    def ensurePackages(self) -> bool:
        """Ask for the small packages that Slicer lacks for detecting, pages and DICOM reports.

        False where the user declines.
        """
        import slicer.packaging  # Slicer does not import it by itself

        requirements = slicer.packaging.load_requirements(Path(__file__).parent / "Resources" / "requirements.txt")
        try:
            slicer.packaging.pip_ensure(requirements, requester="Lesion Detector")
        except RuntimeError:  # Slicer's word for a user who declines
            return False
        return True

    def prepare(self, weights=(), device="auto") -> None:
        """Load a detector in a child process that waits for `start`, where PyTorch is there.

        It takes some memory until `release`.
        """
        import importlib.util

        if self.running or not importlib.util.find_spec("torch") or not all(path.is_file() for path in weights):
            return
        if self._ready is None or self._ready[1:] != (
            list(weights),
            device,
        ):  # also where that one has ended: it would end again
            self._load(weights, device)

    def _load(self, weights, device) -> None:
        self.release()
        self._ready = (self._detection(weights, device), list(weights), device)

    def _detection(self, weights, device):
        """A detector in a child process; the self-test puts a recorded one in its place."""
        return Detection([self.python()], weights, device)

    @staticmethod
    def python() -> str:
        """The interpreter that has PyTorch: Slicer's own, by its full path, lest one of that name in the working
        folder is run."""
        places = [Path(slicer.app.slicerHome) / "bin" / name for name in ("PythonSlicer", "PythonSlicer.exe")]
        return next((str(place) for place in places if place.is_absolute() and place.is_file()), sys.executable)

    def release(self) -> None:
        """End the child that waits, if there is one."""
        if self._ready is not None:
            self._ready[0].cancel()
            self._ready = None

    def start(self, volumeNode, weights=(), device="auto") -> None:
        """Start the detector on a CT, as a child process; `poll` tells of it.

        Raises SceneError, OSError; RuntimeError if one runs.
        """
        if self.running:
            raise RuntimeError(_("A detector is running already; cancel it first."))
        if self._ready is None or not self._ready[0].alive or self._ready[1:] != (list(weights), device):
            self._load(weights, device)
        detection, self._ready = self._ready[0], None
        detection.begin(lambda path: scene.write_volume(volumeNode, path))
        self._run = (detection, volumeNode)

    def poll(self, progress=lambda progress: None):
        """Hear from the detector.

        Returns the review of what it found once it is done, and None before, or where its CT is gone.

        `running` tells whether it is at work still. After an error it is not. Raises ChildError where the detector
        failed, and SceneError where the CT has become another image meanwhile.
        """
        if not self.running:
            return None
        detection, volumeNode = self._run
        try:
            found = detection.poll(progress)
        except BaseException:
            self.cancel()
            raise
        if found is None:
            return None
        self._run = None
        return self.review(volumeNode, found) if volumeNode.GetScene() is not None else None

    def cancel(self) -> None:
        """End the detector at once; the scene is as before."""
        if self.running:
            detection, self._run = self._run[0], None
            detection.cancel()

    def detect(self, volumeNode, weights=(), device="auto"):
        """Detect lesions and wait for them; returns the review (`scene.Session`)."""
        import time

        self.start(volumeNode, weights, device)
        session = self.poll()
        while self.running:
            slicer.app.processEvents()
            time.sleep(0.05)
            session = self.poll()
        return session

    # -- review --------------------------------------------------------------------------------------------------------
    # ------------------

    def review(self, volumeNode, reading):
        """Begin the review of a reading of this CT, in place of one that there is.

        Raises SceneError where it is of another CT.
        """
        moved = scene.reading_on(volumeNode, reading)
        if moved.slice_thickness is None:
            moved = replace(moved, slice_thickness=scene.slice_thickness(volumeNode))
        self._forget(volumeNode.GetID())
        session = scene.Session.start(volumeNode, moved, self._changed)
        self._sessions[volumeNode.GetID()] = session
        self._changed(session)
        return session

    def open(self, volumeNode, path):
        """Begin the review of the lesions in a lesions.json or a DICOM SR. Raises ValueError, SceneError and
        OSError."""
        return self.review(volumeNode, scene.read_lesions_file(volumeNode, path))

    def restore(self, warn=lambda sentence: None) -> None:
        """Go on with the reviews in the scene that are not open yet; `warn` is told of those that are damaged."""
        for session in scene.Session.kept(slicer.mrmlScene, self._changed, besides=self._sessions.keys(), warn=warn):
            self._sessions[session.volume_node.GetID()] = session
        self._changed(None)

    def session(self, volumeNode):
        """The review of a CT, None where there is none."""
        return self._sessions.get(volumeNode.GetID()) if volumeNode is not None else None

    def setConfidence(self, volumeNode, confidence) -> bool:
        """Hide pending lesions of a CT below a confidence; whether that is a change, of which `onChanged` tells."""
        session = self.session(volumeNode)
        if session is None or session.confidence == confidence:
            return False
        session.confidence = confidence
        return True

    def close(self) -> None:
        """End what runs and every review; the scene keeps them."""
        self.cancel()
        self.release()
        self.stopPlacing()
        for volumeID in list(self._sessions):
            self._forget(volumeID)
        self.onChanged(None)

    def _forget(self, volumeID) -> None:
        session = self._sessions.pop(volumeID, None)
        if session is not None:
            session.close()

    def _changed(self, session) -> None:
        if session is not None and session.closed:
            self._sessions = {key: other for key, other in self._sessions.items() if other is not session}
        self.onChanged(session)

    def place(self, volumeNode, shape, bodyPart, done) -> None:
        """Let the user draw a lesion (`scene.Shape`); `done` is called with "", or with what is wrong with it."""
        self.stopPlacing()
        self._placing = scene.Placing(
            slicer.mrmlScene,
            shape,
            placed=lambda points: done(self._placed(volumeNode, bodyPart, points)),
            given_up=lambda: done(""),
            later=lambda action: qt.QTimer.singleShot(0, action),
        )

    def _placed(self, volumeNode, bodyPart, points) -> str:
        session = self.session(volumeNode)
        if session is None:
            return _("The review of this CT has ended.")
        try:
            session.add(bodyPart, points)
        except (scene.SceneError, ValueError) as refusal:
            return str(refusal)
        return ""

    def stopPlacing(self) -> None:
        """Take the markup away with which a lesion was being drawn."""
        if self._placing is not None:
            self._placing.stop()
            self._placing = None

    # -- report --------------------------------------------------------------------------------------------------------
    # ------------------

    def reportText(self, session, accepted_only=False, diameters=False, baseline=False) -> str:
        """The structured report of a review; `scene.save_report` saves it, as a text or in another form."""
        return text.compose(session.report(accepted_only), diameters, baseline)


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
