"""What the module does, with or without a panel."""

import sys
from dataclasses import replace
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModuleLogic,
)

from LesionDetectorLib import scene
from LesionDetectorLib.child import Detection
from LesionDetectorLib.panel.parameters import LesionDetectorParameterNode
from LesionDetectorLib.report import text

TORCH = ">=2.4"


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
        """The first scalar volume of the scene that is not a label map, None where there is none."""
        nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        return next((node for node in nodes if node.GetClassName() == "vtkMRMLScalarVolumeNode"), None)

    # ------ detection

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

        requirements = slicer.packaging.load_requirements(Path(__file__).parents[2] / "Resources" / "requirements.txt")
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
        # also where that one has ended, nothing is loaded: it would end again
        if self._ready is None or self._ready[1:] != (list(weights), device):
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

    # ------ review

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

    # ------ report

    def reportText(self, session, accepted_only=False, diameters=False, baseline=False) -> str:
        """The structured report of a review; `scene.save_report` saves it, as a text or in another form."""
        return text.compose(session.report(accepted_only), diameters, baseline)
