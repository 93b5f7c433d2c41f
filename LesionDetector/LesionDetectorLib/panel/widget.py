"""The panel: the input, the detector, the list of lesions and the review."""

import sys
from pathlib import Path

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from LesionDetectorLib import looks, scene
from LesionDetectorLib.child import ChildError
from LesionDetectorLib.formats import FORMATS
from LesionDetectorLib.lesion import BodyPart, Mark, ReviewStatus
from LesionDetectorLib.panel.logic import LesionDetectorLogic
from LesionDetectorLib.panel.report_section import ReportSection

POLL_MS = 100
BODY_PART_COLUMN = 1
SECTIONS = ("inputsCollapsibleButton", "lesionsCollapsibleButton", "recistCollapsibleButton", "reportCollapsibleButton")
FOLDED_AT_FIRST = ("recistCollapsibleButton",)
MARK_BOXES = {
    "lymphNodeCheckBox": Mark.LYMPH_NODE,
    "targetCheckBox": Mark.TARGET,
    "softTissuePartCheckBox": Mark.SOFT_TISSUE_PART,
    "notMeasurableCheckBox": Mark.NOT_MEASURABLE,
}
STATUS_SIGNS = {ReviewStatus.PENDING: "?", ReviewStatus.ACCEPTED: "\u2713", ReviewStatus.REJECTED: "\u2717"}


class LesionDetectorWidget(ReportSection, ScriptedLoadableModuleWidget, VTKObservationMixin):
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

    # ------ life of the panel

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

    # ------ detection

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

    # ------ review

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
