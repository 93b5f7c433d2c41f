"""Many CTs at once, run as processes on small CTs with untrained weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from LesionDetectorLib.cli import __main__ as cli
from LesionDetectorLib.cli.batch import studies
from LesionDetectorLib.detect import ahead
from LesionDetectorLib.models import weights
from LesionDetectorLib.models.vfnet import VFNet
from LesionDetectorLib.report import text

STUDIES = 5


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with studies, one of which is damaged, and untrained weights that see lesions everywhere."""
    folder = tmp_path_factory.mktemp("batch")
    (folder / "studies").mkdir()
    k, j, i = np.mgrid[:4, :64, :64]
    for number in range(STUDIES):
        hu = np.where(np.hypot(i - 32, j - 32) < 28, 0, -1000)
        hu[np.sqrt((i - 35) ** 2 + (j - 30) ** 2 + ((k - 2) * 2.5) ** 2) < 5 + number] = 100
        image = SimpleITK.GetImageFromArray(hu.astype(np.int16))
        image.SetSpacing((0.8, 0.8, 2.0))
        SimpleITK.WriteImage(image, str(folder / "studies" / f"{number}.nrrd"))
    (folder / "studies" / "damaged.nrrd").write_bytes(b"NRRD0004\ntype: short\n")
    torch.manual_seed(0)
    model = VFNet(channels=16, tower_depth=1)
    torch.nn.init.constant_(model.head.logits.bias, 0.5)
    weights.save(model, folder / "eager.safetensors", {"name": "eager"})
    return folder


def start(made: Path, out: Path, *starter: str) -> subprocess.Popen:
    command = ["batch", made / "studies", "--out", out, "--weights", made / "eager.safetensors", "--device", "cpu"]
    command = [sys.executable, *starter, "-m", "LesionDetectorLib.cli", *map(str, command)]
    one_thread = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
    }  # as torchrun has it; with more, sums differ in their last digits
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=one_thread)


def results(out: Path) -> dict[str, list]:
    """The lesions of every study in a folder of results."""
    return {file.parent.name: json.loads(file.read_text())["lesions"] for file in out.glob("*/lesions.json")}


@pytest.fixture(scope="module")
def whole(made: Path) -> Path:
    """The results of a run that nothing disturbs."""
    process = start(made, made / "whole")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert output.splitlines()[-1] == f"5 studies done, 1 failed, see {made / 'whole' / 'failed'}."
    return made / "whole"


def test_a_damaged_study_is_named_and_the_others_are_done(whole: Path):
    assert set(results(whole)) == {f"{number}.nrrd" for number in range(STUDIES)}
    assert all(results(whole).values())
    assert [file.name for file in (whole / "failed").iterdir()] == ["damaged.nrrd.txt"]
    assert "damaged.nrrd" in (whole / "failed" / "damaged.nrrd.txt").read_text()
    assert (whole / "0.nrrd" / "report.txt").read_text().startswith(text.HEADING)
    assert not [path for path in whole.iterdir() if path.name.startswith(".")]


def test_a_fault_of_the_program_is_written_down_whole_and_the_run_goes_on(
    made: Path, tmp_path: Path, monkeypatch, capsys
):
    from LesionDetectorLib import pipeline

    found = pipeline.find_lesions

    def faulty(volume, *arguments, **options):
        if volume.source.name == "1.nrrd":
            raise KeyError("deep inside")
        if volume.source.name == "2.nrrd":
            raise ValueError("deep inside")
        return found(volume, *arguments, **options)

    monkeypatch.setattr(pipeline, "find_lesions", faulty)
    chosen = ["--weights", str(made / "eager.safetensors"), "--device", "cpu"]
    assert cli.main(["batch", str(made / "studies"), "--out", str(tmp_path), *chosen]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == f"3 studies done, 3 failed, see {tmp_path / 'failed'}."
    assert said.err.splitlines()[-1].startswith(
        "2 failed by a fault of the program: report it with its file in failed at https://"
    )
    assert set(results(tmp_path)) == {"0.nrrd", "3.nrrd", "4.nrrd"}
    for name, error in (("1.nrrd", "KeyError: 'deep inside'"), ("2.nrrd", "ValueError: deep inside")):
        fault = (tmp_path / "failed" / f"{name}.txt").read_text()
        assert fault.startswith("Traceback") and fault.rstrip().endswith(error) and "in faulty" in fault
    assert (tmp_path / "failed" / "damaged.nrrd.txt").read_text().count("\n") == 1


def test_a_killed_run_goes_on_to_the_same_results(made: Path, whole: Path, tmp_path: Path):
    killed = start(made, tmp_path)
    for _ in range(2):
        killed.stdout.readline()
    killed.kill()
    killed.communicate()
    before = results(tmp_path)
    assert 0 < len(before) < STUDIES
    written = {name: (tmp_path / name / "lesions.json").stat().st_mtime_ns for name in before}
    again = start(made, tmp_path)
    output, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert f"{STUDIES - len(before)} studies done, 1 failed" in output
    assert results(tmp_path) == results(whole)
    assert {name: (tmp_path / name / "lesions.json").stat().st_mtime_ns for name in before} == written, (
        "none is done twice"
    )


def test_processes_of_torchrun_share_the_list(made: Path, whole: Path, tmp_path: Path):
    process = start(made, tmp_path, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert output.count("[1/3]") == 2 and "[4/" not in output
    assert results(tmp_path) == results(whole)


def test_the_next_study_is_read_while_the_caller_is_busy():
    begun = []
    for number, result in ahead(begun.append, range(3)):
        result.result()
        if number == 0:
            assert len(begun) >= 1
    assert begun == [0, 1, 2]


def test_results_of_another_threshold_are_not_mixed(made: Path, whole: Path, capsys):
    chosen = ["--weights", str(made / "eager.safetensors"), "--device", "cpu", "--confidence", "0.9"]
    assert cli.main(["batch", str(made / "studies"), "--out", str(whole), *chosen]) == 2
    assert "holds results of other weights or of another confidence" in capsys.readouterr().err


def test_a_list_names_studies_by_their_paths(tmp_path: Path):
    (tmp_path / "list.txt").write_text("a/ct\n\n../b/ct.nii.gz\n/data/c\n")
    found = studies(tmp_path / "list.txt")
    assert found == {
        "a_ct": tmp_path / "a/ct",
        "b_ct.nii.gz": tmp_path / "../b/ct.nii.gz",
        "data_c": Path("/data/c"),
    }


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("", "holds no study"), ("a/b\na_b\n", "the same name"), ("failed\n", "the same name"), (None, "does not exist")]
    + [(f"a\n{line}\nb\n", f"gives '{line}', which names no study") for line in ("..", ".", "/", "../..")]
    + [("a\nb\0c\n", "which names no study")],
)
def test_a_list_that_cannot_be_used_is_refused(tmp_path: Path, content: str | None, sentence: str):
    if content is not None:
        (tmp_path / "list.txt").write_text(content)
    with pytest.raises(ValueError, match=sentence):
        studies(tmp_path / "list.txt")
