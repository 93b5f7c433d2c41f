"""The detector as a child process: really run, cancelled and crashed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import SimpleITK
from LesionDetectorLib import child, scratch
from LesionDetectorLib.child import STAGES, ChildError, Detection, Progress
from LesionDetectorLib.ct.geometry import Geometry
from LesionDetectorLib.exchange import lesions_json
from LesionDetectorLib.reading import Reading

SLICES = 6
READING = Reading(
    "ct.nrrd", "1", "2", "3", 1, Geometry((4, 4, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), ((1.0, 0.0, 0.0),) * 3)
)
DONE = ["os.mkdir('found')", f"open('found/lesions.json', 'w').write({lesions_json.dumps(READING)!r})"]


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
    folder = tmp_path / "Jürgen Müller 日本"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir()), "something is left on disk"


def begun(python: list[str], **options: object) -> Detection:
    run = Detection(python, **options)
    run.begin(write_ct)
    return run


def finish(run: Detection, heard: list[Progress] | None = None):
    while (reading := run.poll((heard if heard is not None else []).append)) is None:
        time.sleep(0.01)
    return reading


def has_ended(process: psutil.Process) -> bool:
    """Whether a process, which need not be a child of this one, has ended."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_run_tells_its_progress_and_gives_the_reading(tmp_path, monkeypatch):
    for name in ("json", "torch", "safetensors", "LesionDetectorLib"):
        (tmp_path / f"{name}.py").write_text("open('it was run', 'w')")
    monkeypatch.chdir(tmp_path)
    heard: list[Progress] = []
    reading = finish(begun([sys.executable], device="cpu"), heard)
    assert reading.geometry.size == (96, 96, SLICES) and reading.geometry.spacing == (0.8, 0.8, 3.0)
    shares = [progress.share for progress in heard]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1
    assert {progress.stage for progress in heard} <= set(STAGES)
    assert not (tmp_path / "it was run").exists()


def test_the_child_looks_for_modules_neither_in_the_working_folder_nor_in_its_own(tmp_path, temporary, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "mine", str(tmp_path / "yours")]))
    run = begun(script("import json", "print(json.dumps(sys.path))"))
    with pytest.raises(ChildError) as failed:
        finish(run)
    paths = json.loads(failed.value.output)
    assert {str(tmp_path / "mine"), str(tmp_path / "yours"), str(Path(child.__file__).parents[1])} <= set(paths)
    assert not {"", ".", str(tmp_path)} & set(paths) and not [path for path in paths if path.startswith(str(temporary))]


def test_only_names_that_itk_can_open_are_given_to_the_child(tmp_path, temporary, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = begun(script("print(os.getcwd())", "print(sys.argv[1:])"), weights=[Path("mine.safetensors")])
    folder = run._folder.path
    with pytest.raises(ChildError) as failed:
        finish(run)
    cwd, arguments = failed.value.output.splitlines()
    assert Path(cwd) == folder and folder.parent == temporary
    assert temporary.name not in arguments and repr(str(tmp_path / "mine.safetensors")) in arguments


@pytest.mark.skipif(os.name != "posix", reason="needs a link")
def test_an_interpreter_is_found_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("python").symlink_to(sys.executable)
    with pytest.raises(ChildError, match="code 3"):
        finish(begun(["./python", "-c", "import sys; sys.exit(3)"]))


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
    while psutil.pid_exists(grandchild) and not has_ended(psutil.Process(grandchild)):
        assert time.monotonic() - started < 1
    assert time.monotonic() - started < 1
    run.cancel()


def test_a_child_loads_the_detector_before_there_is_a_ct_and_ends_with_the_application():
    run, heard = Detection([sys.executable], device="cpu"), []
    while not heard or not heard[-1].done:
        assert run.poll(heard.append) is None
        time.sleep(0.01)
    assert {progress.stage for progress in heard} == {"load"} and run.alive
    ct = run._folder.path / "ct.nrrd"
    ct.write_text("half of it")
    run._process.stdin.close()  # as the system does when the application ends
    assert run._process.wait(timeout=30) == 0 and not ct.exists()
    run.cancel()


def test_cancel_while_the_real_detector_works():
    run, heard = begun([sys.executable], device="cpu"), []
    while not heard or heard[-1].stage != "detect":
        assert run.poll(heard.append) is None
        time.sleep(0.01)
    assert not (run._folder.path / "ct.nrrd").exists(), "it is deleted once it is read"
    run.cancel()
    with pytest.raises(ChildError, match="is over; start it again"):
        run.poll()


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["os.kill(os.getpid(), 11)"], "crashed .*: close other programs or choose the CPU"),
        (["os.kill(os.getpid(), 9)"], "memory runs out.*: close other programs or choose the CPU"),
        (["print('Traceback: no luck')", "sys.exit(3)"], "code 3 .*: try again with the CPU"),
        (["sys.exit(1)"], "code 1 .*: close other programs or choose the CPU"),
        (
            ["print('error: [/opt/Slicer/bin/./python-real] exit abnormally - Report the problem.')", "sys.exit(1)"],
            "crashed, or .* memory",
        ),
        (["raise MemoryError"], "ran out of memory .*: close other programs"),
        (
            ["print('DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.')", "sys.exit(1)"],
            "ran out of memory",
        ),
        (["os.makedirs('found/lesions.json')"], r"cannot be read; run the detector again.*lesions\.json"),
        (
            ["os.mkdir('found')", "open('found/lesions.json', 'w').write('{')"],
            "cannot be read; run the detector again.*not valid JSON",
        ),
        (["sys.exit(0)"], "code 0 before it was done"),
        (["""print('{"event": "error", "text": "ct.nrrd is not a CT."}')""", "sys.exit(2)"], "ct.nrrd is not a CT."),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_child_that_fails_says_what_happened(lines, sentence):
    with pytest.raises(ChildError, match=sentence) as failed:
        finish(begun(script(*lines)))
    assert "no luck" in failed.value.output or "Traceback" not in str(lines)


FOREIGN = [
    "not json",
    "[1]",
    "[" * 100_000,
    '{"event": "progress", "stage": "compile", "done": 1, "total": 2}',
    '{"event": "progress", "stage": ["load"], "done": 1, "total": 2}',
    '{"event": "progress", "stage": "load", "done": "1", "total": 2}',
    '{"event": "progress", "stage": "load", "done": 3, "total": 2}',
    '{"event": "progress", "stage": "load", "done": NaN, "total": 2}',
    '{"event": "progress"}',
    '{"event": "warning", "text": null}',
    '{"event": {"text": "error"}}',
]


def test_warnings_are_kept_and_foreign_lines_are_only_remembered():
    said = ["sys.stdout.reconfigure(encoding='utf-8')", *(f"print({line!r})" for line in FOREIGN)]
    run = begun(script("""print('{"event": "warning", "text": "ä slice is missing"}')""", *said, *DONE))
    assert finish(run) == READING
    assert run.warnings == ["ä slice is missing"] and list(run._last) == FOREIGN


def test_a_reading_is_given_where_the_folder_cannot_be_deleted_yet_and_the_next_start_deletes_it(
    temporary, monkeypatch
):
    def held(path, *_):
        raise PermissionError(
            13, "The process cannot access the file because it is being used by another process", str(path)
        )

    with monkeypatch.context() as windows:
        windows.setattr(scratch.shutil, "rmtree", held)
        assert finish(begun(script(*DONE))) == READING
        begun(script("time.sleep(60)")).cancel()
    assert len(list(temporary.iterdir())) == 2
    Detection(script("time.sleep(60)")).cancel()
    assert not list(temporary.iterdir())


def test_a_fault_of_the_listener_ends_the_run():
    run = begun(
        script(
            """print('{"event": "progress", "stage": "read", "done": 0, "total": 1}', flush=True)""", "time.sleep(60)"
        )
    )
    with pytest.raises(ZeroDivisionError):
        while run.poll(lambda progress: 1 / progress.done) is None:
            time.sleep(0.01)
    assert not run.alive
    with pytest.raises(ChildError, match="is over; start it again"):
        run.poll()


def test_no_window_flashes_when_a_child_is_ended_on_windows(monkeypatch):
    calls = []
    monkeypatch.setattr(child, "os", SimpleNamespace(name="nt"))
    monkeypatch.setattr(child, "NO_WINDOW", 0x08000000)
    monkeypatch.setattr(subprocess, "run", lambda command, **options: calls.append((command, options["creationflags"])))
    child._kill_tree(SimpleNamespace(poll=lambda: None, pid=7))
    assert calls == [(["taskkill", "/F", "/T", "/PID", "7"], 0x08000000)]


def test_a_ct_that_cannot_be_written_leaves_nothing():
    def full(path: Path) -> None:
        path.write_text("half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        Detection([sys.executable]).begin(full)


def test_missing_torch_is_said_in_one_sentence(tmp_path_factory):
    without = tmp_path_factory.mktemp("without")
    (without / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')")
    run = begun(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(without)!r}); sys.argv[0:2] = []\n{AS_MODULE}"]
    )
    with pytest.raises(ChildError, match="Python package torch is missing; install it with: pip install torch"):
        finish(run)


AS_MODULE = "sys.argv.pop(0)\nfrom LesionDetectorLib.cli import __main__ as cli\nsys.exit(cli.main(sys.argv))"


@pytest.mark.parametrize(("there_is_a_pipe", "error", "closed"), [(1, 0, False), (0, 109, True), (0, 6, False)])
def test_on_windows_a_broken_pipe_alone_means_that_the_application_has_ended(
    monkeypatch, there_is_a_pipe, error, closed
):
    kernel = SimpleNamespace(PeekNamedPipe=lambda *_: there_is_a_pipe)
    windows = SimpleNamespace(WinDLL=lambda *_, **__: kernel, c_void_p=int, get_last_error=lambda: error)
    monkeypatch.setitem(sys.modules, "ctypes", windows)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(get_osfhandle=lambda file: file))
    monkeypatch.setattr(child, "os", SimpleNamespace(name="nt"))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(fileno=lambda: 0))
    assert child._stdin_is_closed() is closed


APPLICATION = """
import sys, tempfile, time
from pathlib import Path
from LesionDetectorLib.child import Detection

def write_ct(path):
    content = Path(sys.argv[2]).read_bytes()
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(content), len(content) // 10):
            file.write(content[start : start + len(content) // 10])
            time.sleep(0.01)

tempfile.tempdir = sys.argv[1]
run = Detection(sys.argv[3:], device="cpu")
print(run._process.pid, flush=True)
run.begin(write_ct)
while run.poll(lambda progress: print(progress.stage, flush=True)) is None:
    time.sleep(0.01)
"""
SLOW = script(
    "sys.stdin.readline()",
    "for stage in ('read', 'detect', 'write'):",
    """    print('{"event": "progress", "stage": "%s", "done": 0, "total": 1}' % stage, flush=True)""",
    "    time.sleep(0.1)",
    *DONE,
)
"""A detector that is quick, deletes nothing, and does not notice that the application has ended."""


def killed(temporary: Path, ct: Path, python: list[str], stage: str, seconds: float, both: bool) -> list[str]:
    """The names of the files that are left of a run of which the application was killed `seconds` after `stage` had
    begun, or both were."""
    with subprocess.Popen(
        [sys.executable, "-c", APPLICATION, temporary, ct, *python], stdout=subprocess.PIPE, text=True
    ) as application:
        detector = psutil.Process(int(application.stdout.readline()))
        while stage and application.stdout.readline().strip() not in (stage, ""):
            pass
        time.sleep(seconds)
        application.kill()
        if both:
            with suppress(ProcessLookupError):  # it was done
                os.killpg(detector.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while not has_ended(detector):
        assert time.monotonic() < deadline, "the detector ends with the application"
        time.sleep(0.01)
    for result in temporary.rglob("lesions.json"):
        lesions_json.read(result)
    return [path.name for path in temporary.rglob("*") if path.is_file()]


@pytest.mark.skipif(os.name != "posix", reason="kills a session")
def test_a_run_that_is_killed_at_any_moment_leaves_no_ct_after_the_next_start_and_no_half_result(tmp_path, temporary):
    ct = tmp_path / "ct.nrrd"
    write_ct(ct)
    moment = random.Random(7)
    for stage in ("load", "read", "detect"):
        left = killed(temporary, ct, [sys.executable], stage, moment.uniform(0, 0.3), both=False)
        assert "ct.nrrd" not in left, "the detector itself deletes it when the application is gone"
    killed(temporary, ct, [sys.executable], "detect", moment.uniform(0, 0.3), both=True)
    left = [killed(temporary, ct, SLOW, "", moment.uniform(0, 0.5), both) for both in (True, False) * 3]
    assert any("ct.nrrd" in names for names in left)
    Detection(script("time.sleep(60)")).cancel()
    assert not list(temporary.iterdir())
