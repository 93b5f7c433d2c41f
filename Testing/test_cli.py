"""The command line, run as a process on a small CT with untrained weights."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import SimpleITK
import torch
from LesionDetectorLib.models import weights
from LesionDetectorLib.models.vfnet import VFNet
from LesionDetectorLib.report import exchange


@pytest.fixture(scope="module")
def ct_file(tmp_path_factory):
    """A body of water with a bright ball in it."""
    k, j, i = np.mgrid[:6, :128, :128]
    hu = np.where(np.hypot(i - 64, j - 64) < 55, 0, -1000)
    hu[np.sqrt((i - 70) ** 2 + (j - 60) ** 2 + ((k - 3) * 2.5) ** 2) < 10] = 100
    image = SimpleITK.GetImageFromArray(hu.astype(np.int16))
    image.SetSpacing((0.8, 0.8, 2.0))
    path = tmp_path_factory.mktemp("ct") / "ct.nrrd"
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.fixture(scope="module")
def eager_weights(tmp_path_factory):
    """Untrained weights that see lesions everywhere."""
    torch.manual_seed(0)
    model = VFNet(channels=16, tower_depth=1)
    torch.nn.init.constant_(model.head.logits.bias, 0.5)
    path = tmp_path_factory.mktemp("weights") / "eager.safetensors"
    weights.save(model, path, {"name": "eager"})
    return path


def run(*arguments, **options):
    command = [sys.executable, "-m", "LesionDetectorLib.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_detect_writes_everything_and_the_results_agree(ct_file, eager_weights, tmp_path):
    out = tmp_path / "found"
    options = ("--weights", eager_weights, "--progress", "json", "--device", "cpu")
    done = run("detect", ct_file, "--out", "found", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    stages = [event["stage"] for event in events if event["event"] == "progress"]
    assert list(dict.fromkeys(stages)) == ["read", "detect", "measure", "write"]
    assert events[-1]["event"] == "done"
    reading = exchange.read(out / "lesions.json")
    assert events[-1]["lesions"] == len(reading.reported) > 0
    assert all(lesion.recist is not None for lesion in reading.lesions)
    report = (out / "report.txt").read_text()
    assert report.startswith("Lesions:") and report.count("Lesion ") == len(reading.reported)
    assert len(list((out / "pictures").glob("*.png"))) >= len(reading.reported)
    assert zipfile.is_zipfile(out / "scene.mrb")
    assert not [path for path in tmp_path.iterdir() if path != out]


def test_measure_prints_the_axes_of_the_ball(ct_file):
    done = run("measure", ct_file, "--slice", 3, "--box", 55, 45, 85, 75)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["long_mm"] == pytest.approx(16, abs=2)
    assert result["short_mm"] == pytest.approx(16, abs=2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("detect", "absent.nrrd", "--out", "{out}"), "absent.nrrd does not exist"),
        (("detect", "{ct}", "--out", "{ct}"), "is a file; give a folder"),
        (("detect", "{ct}", "--out", "{out}", "--weights", "absent.safetensors"), "no weights file absent.safetensors"),
        (("detect", "{ct}", "--out", "{out}", "--confidence", "1.5"), "does not lie between 0 and 1"),
        (("measure", "{ct}", "--slice", "99", "--box", "1", "1", "9", "9"), "slices are 0 to 5"),
        (("measure", "{ct}", "--slice", "3", "--box", "900", "900", "950", "950"), "box"),
    ],
)
def test_a_bad_input_ends_in_one_sentence_and_code_2(ct_file, tmp_path, arguments, sentence):
    places = {"ct": ct_file, "out": tmp_path / "out"}
    done = run(*(argument.format(**places) for argument in arguments), cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_ctrl_c_stops_and_leaves_nothing(ct_file, eager_weights, tmp_path):
    long_ct = tmp_path / "long.nrrd"
    image = SimpleITK.ReadImage(str(ct_file))
    SimpleITK.WriteImage(SimpleITK.Expand(image, [1, 1, 20]), str(long_ct))
    command = [sys.executable, "-m", "LesionDetectorLib.cli", "detect", long_ct, "--out", tmp_path / "out", "--weights", eager_weights]
    process = subprocess.Popen(
        [*map(str, command), "--progress", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a test run in the background ignores it
    )
    for line in process.stdout:
        if json.loads(line).get("stage") == "detect":
            break
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert time.monotonic() - sent < 5, "a tenth of a second, but on a busy machine"
    assert process.returncode == 130 and "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["long.nrrd"]
