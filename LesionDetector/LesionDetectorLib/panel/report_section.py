"""The panel's section of the report: shown, saved, and opened again."""

from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from LesionDetectorLib import scene
from LesionDetectorLib.formats import BY_NAME, FORMATS, path_of


class ReportSection:
    """The part of the panel that shows the report, saves it, and opens lesions that were saved."""

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
