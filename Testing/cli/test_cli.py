"""The command line, run as a process on a small CT with untrained weights."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK
import torch
from LesionDetectorLib.cli import __main__ as cli
from LesionDetectorLib.cli import detect
from LesionDetectorLib.cli.finding import Progress
from LesionDetectorLib.ct import CTError
from LesionDetectorLib.ct.geometry import Geometry
from LesionDetectorLib.exchange import lesions_json
from LesionDetectorLib.files import replace_results
from LesionDetectorLib.lesion import BodyPart, Recist
from LesionDetectorLib.models import weights
from LesionDetectorLib.models.vfnet import VFNet
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.refusal import PACKAGES
from LesionDetectorLib.report import text
from LesionDetectorLib.scene import SceneError
from LesionDetectorLib.scratch import Scratch

from train.data import layout


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
    reading = lesions_json.read(out / "lesions.json")
    assert events[-1]["lesions"] == len(reading.reported) > 0
    assert all(lesion.recist is not None for lesion in reading.lesions)
    report = (out / "report.txt").read_text()
    assert report.startswith(text.HEADING) and report.count("Lesion ") == len(reading.reported)
    assert len(list((out / "pictures").glob("*.png"))) >= len(reading.reported)
    assert zipfile.is_zipfile(out / "scene.mrb")
    assert not [path for path in tmp_path.iterdir() if path != out]


def test_detect_says_where_in_the_body_only_if_asked(ct_file, eager_weights, tmp_path, monkeypatch):
    monkeypatch.setattr("LesionDetectorLib.pipeline.locate", None)  # without the option it is not even called
    command = ["detect", str(ct_file), "--weights", str(eager_weights), "--device", "cpu", "--no-scene", "--out"]
    assert cli.main([*command, str(tmp_path / "plain")]) == 0
    monkeypatch.undo()
    assert cli.main([*command, str(tmp_path / "placed"), "--location"]) == 0
    plain, placed = (
        {name: (tmp_path / run / name).read_text(encoding="utf-8") for name in detect.RESULTS[:4]}
        for run in ("plain", "placed")
    )
    assert not [name for name, said in plain.items() if "location" in said.lower()]
    assert plain["report.txt"] == placed["report.txt"]
    assert "Location (experimental): " in placed["report_with_diameters.txt"]
    assert placed["lesions.csv"].splitlines()[0] == (
        plain["lesions.csv"].splitlines()[0] + ",location_x,location_y,location_z,region"
    )
    assert all(lesion.location for lesion in lesions_json.loads(placed["lesions.json"]).lesions)


def test_measure_prints_the_axes_of_the_ball(ct_file):
    done = run("measure", ct_file, "--slice", 4, "--box", 55, 45, 85, 75)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["long_mm"] == pytest.approx(16, abs=2)
    assert result["short_mm"] == pytest.approx(16, abs=2)
    assert (result["slice"], result["key_slice"]) == (4, 3), "the number of the report, and that of lesions.json"


def test_output_that_nobody_reads_to_its_end_is_no_fault():
    lesions = Path(__file__).parents[1] / "old_files" / "lesions.json"
    command = [sys.executable, "-m", "LesionDetectorLib.cli", "report", lesions]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert (said, process.returncode) == (b"", 141)


def test_measure_takes_the_number_of_the_report(tmp_path, capsys, monkeypatch):
    """Slices of a DeepLesion folder that begins with 7: each has its number as HU."""
    folder = tmp_path / "Images_png" / "000001_01_01"
    folder.mkdir(parents=True)
    for number in range(7, 12):
        SimpleITK.WriteImage(
            SimpleITK.GetImageFromArray(np.full((64, 64), 32768 + 300 + number, np.uint16)),
            str(folder / f"{number:03d}.png"),
        )
    recist = Recist(((20, 32), (44, 32)), ((32, 20), (32, 44)), 24.0, 24.0)
    row = layout.row(
        1, 9, recist, BodyPart.LIVER, slices=(7, 11), spacing=(1, 1, 2), size=(64, 64), location=(0.5, 0.5, 0.5)
    )
    layout.write_csv(tmp_path / "DL_info.csv", [row])
    measured = []
    monkeypatch.setattr(
        "LesionDetectorLib.measure.outline.measure", lambda hu, *_: (measured.append(int(hu.max())), recist)[1]
    )
    for number in (7, 9, 11):
        assert cli.main(["measure", str(folder), "--slice", str(number), "--box", "15", "15", "49", "49"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert (measured.pop(), result["slice"], result["key_slice"]) == (300 + number, number, number - 7)
    for number in (6, 12, 0, -1):
        assert cli.main(["measure", str(folder), "--slice", str(number), "--box", "15", "15", "49", "49"]) == 2
        assert f"Slice {number} is not in {folder}, whose slices are 7 to 11." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("detect", "absent.nrrd", "--out", "{out}"), "absent.nrrd does not exist"),
        (("detect", "{ct}", "--out", "{ct}"), "is a file; give a folder"),
        (("detect", "{ct}", "--out", "{out}", "--weights", "absent.safetensors"), "no weights file absent.safetensors"),
        (("detect", "{ct}", "--out", "{out}", "--confidence", "1.5"), "does not lie between 0 and 1"),
        (("measure", "{ct}", "--slice", "99", "--box", "1", "1", "9", "9"), "slices are 1 to 6"),
        (("measure", "{ct}", "--slice", "3", "--box", "900", "900", "950", "950"), "box"),
    ],
)
def test_a_bad_input_ends_in_one_sentence_and_code_2(ct_file, tmp_path, arguments, sentence):
    places = {"ct": ct_file, "out": tmp_path / "out"}
    done = run(*(argument.format(**places) for argument in arguments), cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


FAULTS = (
    "KeyError('x\\x1b[31m')",
    "ValueError('deep')",
    "OSError('a library')",
    "ModuleNotFoundError(name='LesionDetectorLib.x')",
)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "place", ["LesionDetectorLib.ct.image_file._hounsfield", "LesionDetectorLib.measure.outline.measure"]
)
def test_a_fault_of_the_program_shows_its_traceback(ct_file, place, fault):
    program = f"""
import sys
from unittest.mock import patch
from LesionDetectorLib.cli import __main__ as cli
sys.argv[1:] = ["measure", {str(ct_file)!r}, "--slice", "4", "--box", "55", "45", "85", "75"]
with patch("{place}", side_effect={fault}):
    cli.run()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "Traceback" in done.stderr and fault.partition("(")[0] in done.stderr and "\x1b" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "This is a fault of the program: report it with the lines above at https://"
    )


MISSING = "The Python package {} is missing; install it with: pip install {}"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ModuleNotFoundError(name="skimage.measure"), MISSING.format("scikit-image", "scikit-image")),
        (ModuleNotFoundError(name="PIL"), MISSING.format("pillow", "pillow")),
        (ModuleNotFoundError(name="SimpleITK"), MISSING.format("SimpleITK", "SimpleITK")),
        (
            OSError(28, "No space left"),
            "A file cannot be used: No space left; check the path, its permissions and free space.",
        ),
        (FileNotFoundError(2, "No", "x"), "x cannot be used: No; check the path, its permissions and free space."),
        (MemoryError(), "It is too large for the memory: end other programs, or take a machine with more."),
        (CTError("a\x1b[2Jb\nc has no slices."), "a?[2Jb c has no slices."),
        (SceneError("no scene"), "no scene"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(monkeypatch, capsys, error, sentence):
    def refused(*arguments):
        raise error

    monkeypatch.setattr("LesionDetectorLib.ct.read", refused)
    assert cli.main(["measure", "ct.nrrd", "--slice", "4", "--box", "1", "1", "9", "9"]) == 2
    assert capsys.readouterr().err == sentence + "\n"


def test_pip_knows_every_package_that_the_program_needs():
    needed = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    names = [
        *needed["dependencies"],
        *needed["optional-dependencies"]["scene"],
        *needed["optional-dependencies"]["train"],
    ]
    assert {re.match(r"[\w-]+", name)[0] for name in names} <= {
        name.partition("[")[0].strip("'") for name in PACKAGES.values()
    }


def test_a_file_name_commands_no_terminal(tmp_path):
    done = run("measure", tmp_path / "a\x1b[31m\u202eb.nrrd", "--slice", 1, "--box", 1, 1, 9, 9)
    assert done.returncode == 2 and "a?[31m?b.nrrd does not exist" in done.stderr and "\x1b" not in done.stderr


def test_a_ct_is_deleted_if_that_is_asked_for_even_one_that_cannot_be_read(tmp_path):
    (tmp_path / "ct.nrrd").write_text("no CT")
    done = run("detect", "ct.nrrd", "--out", "out", "--delete-ct", cwd=tmp_path)
    assert done.returncode == 2 and "ct.nrrd is truncated" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_is_never_deleted(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "1.dcm").write_text("a slice")
    done = run("detect", "study", "--out", "out", "--delete-ct", cwd=tmp_path)
    assert done.returncode == 2 and "study is a folder, and --delete-ct deletes one file" in done.stderr
    assert (tmp_path / "study" / "1.dcm").exists()


READING = Reading(
    "ct.nrrd", "1", "2", "3", 1, Geometry((4, 4, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), ((1.0, 0.0, 0.0),) * 3)
)
OLD = (
    "lesions.json",
    "report.txt",
    "lesions.csv",
    "scene.mrb",
    "scene.png",
    "pictures/lesion_01.png",
    "pictures/lesion_02.png",
)
NEW = ("lesions.json", "report.txt", "lesions.csv", "pictures/lesion_01.png", "pictures/overview.png")
USERS = dict.fromkeys(("notes.txt", "lesions.xlsx", "pictures/holiday.png", "scene/slice.png"), "the user's")


def fill(folder: Path, names, content: str) -> dict[str, str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return dict.fromkeys(names, content)


def files(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def two_runs(tmp_path):
    """A folder with an older run's results and the user's files, the new results, and the place for the older."""
    out, new = tmp_path / "out", tmp_path / "new"
    fill(out, OLD, "old")
    fill(out, USERS, "the user's")
    fill(new, NEW, "new")
    return new, out, tmp_path / "old"


def test_new_results_take_the_place_of_all_old_ones_and_the_users_files_stay(two_runs):
    replace_results(*two_runs, detect._results)
    assert files(two_runs[1]) == dict.fromkeys(NEW, "new") | USERS


@pytest.mark.parametrize("moves", range(len(OLD) + len(NEW)))
def test_results_that_cannot_be_replaced_stay_as_they_were(two_runs, monkeypatch, moves):
    monkeypatch.setattr(
        Path, "replace", stops_once(moves, Path.replace, lambda: PermissionError(13, "It is open in another program"))
    )
    before = files(two_runs[1])
    with pytest.raises(PermissionError):
        replace_results(*two_runs, detect._results)
    assert files(two_runs[1]) == before and files(two_runs[0]) == dict.fromkeys(NEW, "new")


def stops_once(moves: int, move, error):
    """`move`, which after so many calls raises what `error` gives, once."""
    count = iter(range(-moves, 1000))

    def moved(self, target):
        if next(count) == 0:
            raise error()
        return move(self, target)

    return moved


@pytest.mark.skipif(os.name != "posix", reason="needs fork")
@pytest.mark.parametrize("moves", range(len(OLD) + len(NEW) + 1))
def test_a_kill_while_results_are_replaced_leaves_no_mixture(two_runs, monkeypatch, moves):
    killed = os.fork()
    if not killed:
        try:
            monkeypatch.setattr(
                Path, "replace", stops_once(moves, Path.replace, lambda: os.kill(os.getpid(), signal.SIGKILL))
            )
            replace_results(*two_runs, detect._results)
        finally:
            os._exit(0)
    os.waitpid(killed, 0)
    left = files(two_runs[1])
    assert {name: left.pop(name) for name in USERS} == USERS
    assert len(set(left.values())) <= 1, "results of one run only"
    if "lesions.json" in left:
        assert left in (dict.fromkeys(OLD, "old"), dict.fromkeys(NEW, "new"))


def write(out: Path) -> None:
    detect._write(None, READING, SimpleNamespace(out=out, lesions_only=True, no_scene=True), Progress(as_json=True))


@pytest.mark.parametrize("there_is_one", [False, True])
def test_what_a_killed_run_left_goes_with_the_next_one_into_the_same_folder(tmp_path, there_is_one):
    out = tmp_path / "found"
    if there_is_one:
        fill(out, USERS, "the user's")
    fill(tmp_path, (".found-mine/notes.txt", "other/report.txt"), "the user's")
    before = files(tmp_path)
    dead = Scratch(".found-unfinished-", out if there_is_one else tmp_path)
    fill(dead.path, ("whole/report.txt", "whole/lesions.json"), "half")
    dead._owner.close()  # as the system does
    write(out)
    assert lesions_json.read(out / "lesions.json") == READING
    assert files(tmp_path).keys() == before.keys() | {"found/lesions.json"}


def test_results_of_older_lesions_do_not_stay_beside_lesions_alone(tmp_path):
    fill(tmp_path / "found", (*OLD, *USERS), "old")
    write(tmp_path / "found")
    assert files(tmp_path / "found").keys() == {"lesions.json", *USERS}


def test_the_working_folder_can_take_the_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path())
    assert lesions_json.read("lesions.json") == READING and len(list(tmp_path.iterdir())) == 1


def test_ctrl_c_stops_and_leaves_nothing(ct_file, eager_weights, tmp_path):
    long_ct = tmp_path / "long.nrrd"
    image = SimpleITK.ReadImage(str(ct_file))
    SimpleITK.WriteImage(SimpleITK.Expand(image, [1, 1, 20]), str(long_ct))
    command = [
        sys.executable,
        "-m",
        "LesionDetectorLib.cli",
        "detect",
        long_ct,
        "--out",
        tmp_path / "out",
        "--weights",
        eager_weights,
    ]
    process = subprocess.Popen(
        [*map(str, command), "--progress", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # a test run in the background ignores it
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
