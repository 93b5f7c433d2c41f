"""The detector as a child process, so that neither torch nor a crash of it ever gets into the application that asks
for it.

The child is this package's command line; it says how far it is in JSON lines. Nothing here waits: the application calls
`poll` now and then from its own event loop, and every callback runs inside that call. The child may be started before
its CT is there, and has then loaded torch and the detector by the time that it is needed.

The child works in a temporary folder, in which the application writes the CT. It deletes the CT once it is read, and
ends when the application does; what is left of runs that were killed is deleted when the next one starts.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any

from LesionDetectorLib.exchange import lesions_json
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.scratch import Scratch

STAGES = {"load": 0.05, "read": 0.05, "detect": 0.8, "measure": 0.08, "write": 0.02}
"""The stages of a run in their order, and the share of the whole that each is taken for."""
CT, FOUND = "ct.nrrd", "found"
"""What the child reads and writes, by names relative to its folder: ITK may not open a path with the letters of a
user's name."""
PREFIX = "LesionDetector-"
LAST_LINES = 30
SIGNALS = {
    -signal.SIGSEGV: "crashed",
    -signal.SIGABRT: "crashed",
    -9: "was ended by the system, which does that when memory runs out",
}
MEMORY = ("out of memory", "not enough memory", "cannot allocate memory", "memoryerror", "bad_alloc")
LAUNCHER = "exit abnormally"
"""What Slicer's launcher of Python says when Python crashed or was ended by the system.

It then exits with code 1 itself.
"""
WINDOWS_CRASH = 0xC0000000
"""The exit codes of Windows for crashes begin here."""
NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)
BROKEN_PIPE = 109
"""ERROR_BROKEN_PIPE of Windows: the other end of a pipe is closed."""


@dataclass(frozen=True)
class Progress:
    """How far the child is: 0..1, what it is doing, done of total, and the seconds left, None while nothing can be
    said of them."""

    share: float
    stage: str
    done: int
    total: int
    seconds_left: float | None


class ChildError(Refusal):
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
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._error = ""
        self._ended = self._over = False
        self._started = monotonic()
        self._folder = Scratch(PREFIX, tempfile.gettempdir())
        chosen = [option for path in weights for option in ("--weights", str(Path(path).absolute()))]
        command = [
            "-m",
            "LesionDetectorLib.cli",
            "detect",
            CT,
            "--out",
            FOUND,
            "--device",
            device,
            "--wait",
            "--delete-ct",
        ]
        try:
            self._process = _start(
                [*python, *command, "--progress", "json", "--lesions-only", *chosen], self._folder.path
            )
        except BaseException:
            self._folder.delete()
            raise
        Thread(target=self._read, daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._process.poll() is None

    def begin(self, write_ct: Callable[[Path], None]) -> None:
        """Have the CT looked at that `write_ct` writes to the path of an .nrrd; what it raises ends the run."""
        try:
            write_ct(self._folder.path / CT)
        except BaseException:
            self.cancel()
            raise
        with suppress(OSError):  # it has ended, and `poll` says why
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        with self._process.stdout as output:
            for line in output:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def poll(self, progress: Callable[[Progress], None] = lambda progress: None) -> Reading | None:
        """Tell `progress` the latest news, if there is any; the reading once the child is done, None before.

        ChildError where the child failed, where its result cannot be read, and where the run is over. After a reading,
        or anything raised, by `progress` too, the run is over: the child has ended, and nothing is left of it on disk.
        """
        if self._over:
            raise ChildError("This run of the detector is over; start it again.")
        try:
            latest = self._news()
            if latest is not None:
                progress(latest)
            if not self._ended or self.alive:
                return None
            reading = self._result(self._process.returncode)
        except BaseException:
            self.cancel()
            raise
        self.cancel()
        return reading

    def cancel(self) -> None:
        """End the child and every process that it started; nothing is left of the run on disk.

        May be called at any time.
        """
        self._over = True
        _kill_tree(self._process)
        self._process.wait()
        with suppress(OSError):  # of a line that it did not take any more
            self._process.stdin.close()
        self._folder.delete()

    def _news(self) -> Progress | None:
        """The latest of the news that have come."""
        latest = None
        while not self._ended:
            try:
                line = self._lines.get_nowait()
            except Empty:
                break
            self._ended = line is None
            latest = (None if self._ended else self._heard(line)) or latest
        return latest

    def _heard(self, line: str) -> Progress | None:
        """Take note of a line.

        Whatever is not an event of this program was said by a library, and may be of use when the child fails.
        """
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        match event:
            case {"event": "warning", "text": str(text)}:
                self.warnings.append(text)
            case {"event": "error", "text": str(text)}:
                self._error = text
            case {"event": "progress", "stage": str(stage), "done": int(done), "total": int(total)} if (
                stage in STAGES and 0 <= done <= total
            ):
                return self._progress(stage, done, total)
            case {"event": "done"}:
                pass
            case _:
                self._last.append(line)
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
        output = "\n".join(self._last)
        found = self._folder.path / FOUND / "lesions.json"
        if code == 0 and found.exists():
            try:
                return lesions_json.read(found)
            except (lesions_json.ExchangeError, OSError) as error:
                raise ChildError(
                    f"The lesions that were found cannot be read; run the detector again. ({error})", output
                ) from error
        raise ChildError(self._error or _why(code, output), output)


def _why(code: int, output: str) -> str:
    """What became of a child that ended with `code` and said nothing of an error but perhaps in its `output`, and
    what to do."""
    words = output.lower()
    if any(word in words for word in MEMORY):
        how, lacked_memory = "ran out of memory", True
    elif LAUNCHER in words or code >= WINDOWS_CRASH:
        how, lacked_memory = "crashed, or was ended by the system, which does that when memory runs out,", True
    else:
        how, lacked_memory = SIGNALS.get(code, f"ended with code {code}"), code == 1 or code in SIGNALS
    advice = "close other programs or choose the CPU, and try again" if lacked_memory else "try again with the CPU"
    return f"The detector {how} before it was done: {advice}. Its last lines are in the details."


def _start(command: Sequence[str], folder: Path) -> subprocess.Popen:
    """Start a Python in a folder so that its descendants can be ended with it, on POSIX as one session.

    It runs nothing that lies there.

    It leaves a core to the application's window.
    """
    program = shutil.which(command[0])
    paths: list[Any] = [Path(__file__).parent.parent, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return subprocess.Popen(
        [str(Path(program).absolute()) if program else command[0], *command[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        cwd=folder,
        env={
            "OMP_NUM_THREADS": str(max((os.cpu_count() or 1) - 1, 1)),
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(Path(path).absolute()) for path in paths),
            "PYTHONSAFEPATH": "1",
            "PYTHONIOENCODING": "utf-8",
            "PYTHONUNBUFFERED": "1",
        },
        start_new_session=os.name == "posix",
        creationflags=NO_WINDOW,
    )


def _kill_tree(process: subprocess.Popen) -> None:
    """End a process and its descendants at once.

    PythonSlicer is a launcher: ending it alone would leave the detector running.
    """
    if process.poll() is not None:
        return
    if os.name == "posix":
        with suppress(ProcessLookupError, PermissionError):  # it has ended since; macOS calls that a lack of permission
            os.killpg(process.pid, signal.SIGKILL)
    else:
        command = ["taskkill", "/F", "/T", "/PID", str(process.pid)]
        subprocess.run(command, capture_output=True, check=False, creationflags=NO_WINDOW)


def end_with_stdin(clean_up: Callable[[], None]) -> None:
    """In the child: from now on, end this process, after `clean_up`, when stdin is closed, as it is when the
    application ends."""

    def watch() -> None:
        while not _stdin_is_closed():
            time.sleep(0.2)
        try:
            clean_up()
        finally:
            os._exit(1)

    Thread(target=watch, daemon=True).start()


def _stdin_is_closed() -> bool:
    """Whether nothing can come from stdin any more.

    Does not wait, as loading a library on Windows would for a thread that reads stdin.
    """
    stdin = sys.stdin.fileno()
    if os.name == "posix":
        import select

        return bool(select.select([stdin], [], [], 0)[0]) and not os.read(stdin, 1024)
    import ctypes
    import msvcrt

    windows: Any = ctypes
    runtime: Any = msvcrt
    kernel = windows.WinDLL("kernel32", use_last_error=True)
    pipe = ctypes.c_void_p(runtime.get_osfhandle(stdin))
    return not kernel.PeekNamedPipe(pipe, None, 0, None, None, None) and windows.get_last_error() == BROKEN_PIPE
