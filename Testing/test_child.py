"""The detector as a child process: really run, cancelled and crashed."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import SimpleITK
from LesionDetectorLib.child import STAGES, ChildError, Detection, Progress

SLICES = 6


def write_ct(path: Path) -> None:
    """A bright ball in a body of water."""
    k, j, i = np.mgrid[:SLICES, :96, :96]
    hu = np.where(np.hypot(i - 48, j - 48) < 44, 0, -1000)
    hu[(np.hypot(i - 40, j - 40) < 8) & (k > 1) & (k < 5)] = 120
    image = SimpleITK.GetImageFromArray(hu.astype(np.int16))
    image.SetSpacing((0.8, 0.8, 3.0))
    SimpleITK.WriteImage(image, str(path))


def script(*lines: str) -> list[str]:
    """A Python that says these lines instead of running the detector."""
    return [sys.executable, "-c", "\n".join(["import sys, time, os, subprocess", *lines])]


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert not list(tmp_path.iterdir()), "something is left on disk"


def begun(python: list[str], **options: object) -> Detection:
    run = Detection(python, **options)
    run.begin(write_ct)
    return run


def finish(run: Detection, heard: list[Progress] | None = None):
    while (reading := run.poll((heard if heard is not None else []).append)) is None:
        time.sleep(0.01)
    return reading


def test_a_run_tells_its_progress_and_gives_the_reading():
    heard: list[Progress] = []
    reading = finish(begun([sys.executable], device="cpu"), heard)
    assert reading.geometry.size == (96, 96, SLICES) and reading.geometry.spacing == (0.8, 0.8, 3.0)
    shares = [progress.share for progress in heard]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1
    assert {progress.stage for progress in heard} <= set(STAGES)


def test_a_core_is_left_to_the_window(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    run = begun(script("print(os.environ['OMP_NUM_THREADS'], flush=True)", "sys.exit(3)"))
    with pytest.raises(ChildError) as error:
        finish(run)
    assert error.value.output.strip() == "7"


def test_cancel_ends_the_whole_tree_within_a_second():
    child = "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    run = begun(script(child, "print(p.pid, flush=True)", "time.sleep(60)"))
    while not run._last:
        run.poll()
        time.sleep(0.01)
    grandchild = int(run._last[0])
    started = time.monotonic()
    run.cancel()
    assert not psutil.pid_exists(run._process.pid)
    while psutil.pid_exists(grandchild) and psutil.Process(grandchild).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() - started < 1
    assert time.monotonic() - started < 1
    run.cancel()


def test_a_child_loads_the_detector_before_there_is_a_ct_and_ends_with_the_application():
    run, heard = Detection([sys.executable], device="cpu"), []
    while not heard or not heard[-1].done:
        assert run.poll(heard.append) is None
        time.sleep(0.01)
    assert {progress.stage for progress in heard} == {"load"} and run.alive
    run._process.stdin.close()  # as the system does when the application ends
    assert run._process.wait(timeout=30) == 0
    run.cancel()


def test_cancel_while_the_real_detector_works():
    run, heard = begun([sys.executable], device="cpu"), []
    while not heard or heard[-1].stage != "detect":
        assert run.poll(heard.append) is None
        time.sleep(0.01)
    run.cancel()


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["os.kill(os.getpid(), 11)"], "crashed"),
        (["os.kill(os.getpid(), 9)"], "memory runs out"),
        (["print('Traceback: no luck')", "sys.exit(3)"], "code 3"),
        (["sys.exit(0)"], "code 0 before it was done"),
        (["""print('{"event": "error", "text": "ct.nrrd is no CT."}')""", "sys.exit(2)"], "ct.nrrd is no CT."),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_child_that_fails_says_what_happened(lines, sentence):
    with pytest.raises(ChildError, match=sentence) as failed:
        finish(begun(script(*lines)))
    assert "no luck" in failed.value.output or "Traceback" not in str(lines)


def test_warnings_are_kept_and_foreign_lines_are_only_remembered():
    said = """print('{"event": "warning", "text": "ä slice is missing"}\\nnot json\\n[1]')"""
    run = begun(script(said, "sys.exit(2)"))
    with pytest.raises(ChildError):
        finish(run)
    assert run.warnings == ["ä slice is missing"] and list(run._last) == ["not json", "[1]"]


def test_a_ct_that_cannot_be_written_leaves_nothing():
    def full(path: Path) -> None:
        path.write_text("half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        Detection([sys.executable]).begin(full)


def test_missing_torch_is_said_in_one_sentence(tmp_path_factory):
    without = tmp_path_factory.mktemp("without")
    (without / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')")
    run = begun([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(without)!r}); sys.argv[0:2] = []\n{AS_MODULE}"])
    with pytest.raises(ChildError, match="Python package torch is missing; install it with: pip install torch"):
        finish(run)


AS_MODULE = "sys.argv.pop(0)\nfrom LesionDetectorLib import cli\nsys.exit(cli.main(sys.argv))"
