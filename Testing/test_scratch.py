"""Folders of runs: kept while the run lives, deleted by the next run once it was killed, and never anyone else's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from LesionDetectorLib import scratch
from LesionDetectorLib.scratch import OWNER, Scratch

PREFIX = "Run-"
OTHER_PROCESS = """
import sys
from LesionDetectorLib.scratch import Scratch
run = Scratch("Run-", sys.argv[1])
folder = run.path
(folder / "ct.nrrd").write_text("a patient")
(folder / "found").mkdir()
print(folder.name, flush=True)
sys.stdin.read()
"""


def other_process(parent) -> tuple[subprocess.Popen, str]:
    """A process that holds a folder until its stdin is closed or it is killed, and the name of the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().strip()


def test_the_folder_of_a_run_that_was_killed_is_deleted_by_the_next_and_that_of_one_that_lives_is_not(tmp_path):
    process, name = other_process(tmp_path)
    with process:
        with Scratch(PREFIX, tmp_path) as folder:
            assert (tmp_path / name / "ct.nrrd").exists()
        process.kill()
        process.wait()
        assert (tmp_path / name / "ct.nrrd").exists()
        with Scratch(PREFIX, tmp_path) as folder:
            assert list(tmp_path.iterdir()) == [folder]
    assert not list(tmp_path.iterdir())


def test_a_run_in_the_same_process_is_not_touched(tmp_path):
    with Scratch(PREFIX, tmp_path) as first, Scratch(PREFIX, tmp_path) as second:
        assert first != second and first.is_dir()


def test_what_no_run_made_stays(tmp_path):
    (tmp_path / "Run-notes").mkdir()
    (tmp_path / "Run-notes" / "notes.txt").write_text("mine")
    (tmp_path / "Run-file").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / OWNER).write_text("1")
    (tmp_path / "Run-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "Run-new").mkdir()
    (tmp_path / "Run-made").mkdir()
    (tmp_path / "Run-made" / OWNER).touch()  # its maker is about to lock it
    before = set(tmp_path.iterdir())
    with Scratch(PREFIX, tmp_path):
        pass
    assert set(tmp_path.iterdir()) == before and (tmp_path / "elsewhere" / OWNER).exists()


def test_an_empty_folder_of_yesterday_goes(tmp_path):
    (tmp_path / "Run-old").mkdir()
    os.utime(tmp_path / "Run-old", (0, 0))
    with Scratch(PREFIX, tmp_path):
        assert not (tmp_path / "Run-old").exists()


@pytest.mark.skipif(os.name != "posix", reason="Windows has a temporary folder for each user")
def test_the_folder_of_another_user_stays(tmp_path, monkeypatch):
    (tmp_path / "Run-theirs").mkdir()
    (tmp_path / "Run-theirs" / OWNER).write_text("1")
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    with Scratch(PREFIX, tmp_path):
        assert (tmp_path / "Run-theirs").exists()


def test_what_cannot_be_deleted_now_is_deleted_by_the_next_run(tmp_path, monkeypatch):
    def held(path):
        raise PermissionError(
            13, "The process cannot access the file because it is being used by another process", str(path)
        )

    run = Scratch(PREFIX, tmp_path)
    (run.path / "ct.nrrd").write_text("a patient")
    with monkeypatch.context() as windows:
        windows.setattr(scratch.Path, "unlink", held)
        run.delete()
    assert (run.path / "ct.nrrd").exists()
    with Scratch(PREFIX, tmp_path):
        assert not run.path.exists()
