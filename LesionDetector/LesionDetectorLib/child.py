"""The detector as a child process, so that neither torch nor a crash of it ever gets into the application that asks for it.

The child is this package's command line; it says how far it is in JSON lines. Nothing here waits: the application calls `poll` now and then
from its own event loop, and every callback runs inside that call. The child may be started before its CT is there, and has then loaded
torch and the detector by the time that it is needed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic

from .report import exchange
from .report.reading import Reading

STAGES = {"load": 0.05, "read": 0.05, "detect": 0.8, "measure": 0.08, "write": 0.02}
"""The stages of a run in their order, and the share of the whole that each is taken for."""
CT = "ct.nrrd"
LAST_LINES = 30
SIGNALS = {-signal.SIGSEGV: "crashed", -signal.SIGABRT: "crashed", -9: "was ended by the system, which does that when memory runs out"}


@dataclass(frozen=True)
class Progress:
    """How far the child is: 0..1, what it is doing, done of total, and the seconds left, None while nothing can be said of them."""

    share: float
    stage: str
    done: int
    total: int
    seconds_left: float | None


class ChildError(RuntimeError):
    """The child ended without a result; the message is for the user, `output` the last lines that the child wrote."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class Detection:
    """One run of the detector on a CT: from now on the child loads what it needs, from `begin` on it works.

    Parameters
    ----------
    python: the interpreter that has torch, with its own options, for example ["PythonSlicer"].
    weights: files of detectors, fused if several; none for the one that ships.
    device: "auto", "cpu" or "cuda".
    """

    def __init__(self, python: Sequence[str], weights: Sequence[Path] = (), device: str = "auto") -> None:
        self.warnings: list[str] = []
        self._folder = tempfile.TemporaryDirectory(prefix="LesionDetector-")
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._error = ""
        self._started = monotonic()
        folder = Path(self._folder.name)
        chosen = [option for path in weights for option in ("--weights", str(path))]
        command = ["-m", "LesionDetectorLib.cli", "detect", str(folder / CT), "--out", str(folder / "found"), "--device", device]
        try:
            self._process = _start([*python, *command, "--wait", "--progress", "json", "--lesions-only", *chosen])
        except BaseException:
            self._folder.cleanup()
            raise
        Thread(target=self._read, daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._process.poll() is None

    def begin(self, write_ct: Callable[[Path], None]) -> None:
        """Have the CT looked at that `write_ct` writes to the path of an .nrrd; what it raises ends the run."""
        try:
            write_ct(Path(self._folder.name) / CT)
        except BaseException:
            self.cancel()
            raise
        try:
            self._process.stdin.write("\n")
            self._process.stdin.close()
        except OSError:  # it has ended, and `poll` says why
            pass

    def _read(self) -> None:
        with self._process.stdout as output:
            for line in output:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def poll(self, progress: Callable[[Progress], None] = lambda progress: None) -> Reading | None:
        """Tell `progress` the latest news, if there is any; the reading once the child is done, None before.

        ChildError where the child failed. After either, nothing is left of the run on disk.
        """
        latest, ended = None, False
        while not ended:
            try:
                line = self._lines.get_nowait()
            except Empty:
                break
            ended = line is None
            latest = (None if ended else self._heard(line)) or latest
        if latest is not None:
            progress(latest)
        if not ended:
            return None
        try:
            return self._result(self._process.wait())
        finally:
            self._folder.cleanup()

    def cancel(self) -> None:
        """End the child and every process that it started; nothing is left of the run on disk. May be called at any time."""
        _kill_tree(self._process)
        self._process.wait()
        self._folder.cleanup()

    def _heard(self, line: str) -> Progress | None:
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "event" not in event:
            self._last.append(line)
            return None
        if event["event"] == "warning":
            self.warnings.append(event["text"])
        elif event["event"] == "error":
            self._error = event["text"]
        elif event["event"] == "progress":
            return self._progress(event["stage"], event["done"], event["total"])
        return None

    def _progress(self, stage: str, done: int, total: int) -> Progress:
        names = list(STAGES)
        before = sum(STAGES[name] for name in names[: names.index(stage)])
        within = done / total if total else 1.0
        if stage == "detect" and done == 0:
            self._started = monotonic()
        elapsed = monotonic() - self._started
        left = elapsed * (1 / within - 1) if stage == "detect" and within > 0.02 else None
        return Progress(before + STAGES[stage] * within, stage, done, total, left)

    def _result(self, code: int) -> Reading:
        found = Path(self._folder.name) / "found" / "lesions.json"
        if code == 0 and found.exists():
            return exchange.read(found)
        output = "\n".join(self._last)
        if self._error:
            raise ChildError(self._error, output)
        how = SIGNALS.get(code, f"ended with code {code}")
        raise ChildError(f"The detector {how} before it was done. Its last lines are in the details; try again with the CPU.", output)


def _start(command: Sequence[str]) -> subprocess.Popen:
    """Start a process whose descendants can be ended with it, on POSIX as one session; it leaves a core to the application's window."""
    package = str(Path(__file__).parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) - 1, 1)), **os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**environment, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"},
        start_new_session=os.name == "posix",
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )


def _kill_tree(process: subprocess.Popen) -> None:
    """End a process and its descendants at once. PythonSlicer is a launcher: ending it alone would leave the detector running."""
    if process.poll() is not None:
        return
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)
