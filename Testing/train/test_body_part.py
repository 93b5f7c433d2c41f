"""The training of the body-part regressor: its series, its command, and what it measures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from LesionDetectorLib.models import body_part_regressor
from LesionDetectorLib.models.body_part_regressor import AIR_HU, SIDE
from LesionDetectorLib.refusal import Refusal

from train import body_part, phantom
from train.data.series import Series, read
from train.training.ordering import SLICES, EquidistantSlices, changed

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def torsos(tmp_path_factory) -> Path:
    """Three phantoms, one of them for tests."""
    out = tmp_path_factory.mktemp("torsos") / "nrrd"
    options = "--format nrrd --patients 3 --seed 2 --size 64 --interval-mm 20 --splits 67 0 33"
    assert phantom.main(["--out", str(out), *options.split()]) == 0
    return out


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """A folder with volumes.csv: two series of a body that grows towards the feet."""
    out = tmp_path_factory.mktemp("table")
    (out / "volumes").mkdir()
    (out / "volumes.csv").write_text("volume,patient\nthin,1\nthick,2\n")
    j, i = np.mgrid[:64, :64]
    for name, count in (("thin", 40), ("thick", 20)):
        radius = np.linspace(10, 28, count)[:, None, None]
        slices = np.where(np.hypot(i - 32, j - 32) < radius, 130, 0).astype(np.uint8)
        step = 160 / count
        np.savez(out / "volumes" / f"{name}.npz", slices=slices, z_mm=-step * np.arange(count), pixel_mm=5.0)
    return out


def test_series_run_from_head_to_feet_and_phantoms_know_their_levels(torsos: Path, table: Path) -> None:
    learnt, tested = (read([str(torsos), f"{table}=2"], ["thick"], test) for test in (False, True))
    assert len(learnt) == 3 and len(tested) == 2 and tested[1].name == "thick"
    for each in learnt[:2]:
        assert (np.diff(each.places) > 0).all()
        assert each.z[0] == pytest.approx(0.36, abs=0.02) and each.z[-1] == pytest.approx(0.89, abs=0.02)
    assert [each.share for each in learnt] == [0.5, 0.5, 2]
    thin = learnt[2]
    assert thin.z is None and thin.step_mm == pytest.approx(4.0) and thin.images.shape == (40, SIDE, SIDE)
    assert ((thin.images[-1] > -400).sum() > 2 * (thin.images[0] > -400).sum()).all()


def test_a_level_that_is_read_off_counts_from_the_first_slice(table: Path, tmp_path: Path) -> None:
    shutil.copytree(table, tmp_path / "read")
    (tmp_path / "read" / "volumes.csv").write_text("volume,top_z\nthin,0.3\nthick,\n")
    thin, thick = read([str(tmp_path / "read")], [], test=False)
    assert thin.z == pytest.approx(0.3 + 0.00083 * 4.0 * np.arange(40)) and thick.z is None


def test_a_series_that_is_not_there_cannot_be_held_out(table: Path) -> None:
    with pytest.raises(Refusal, match=r"No series is called thicc, which is to be held out; there are thick, thin\."):
        read([str(table)], ["thicc"], test=True)


def test_what_is_learnt_are_equidistant_slices_in_their_order() -> None:
    images = np.broadcast_to(np.arange(60, dtype=np.float16)[:, None, None], (60, SIDE, SIDE))
    items = EquidistantSlices([Series("one", 1.0, images, 5.0 * np.arange(60))], 50, 0)
    for item in (0, 1, 2):
        found, step_mm, z = items[item]
        assert found.shape == (SLICES, SIDE, SIDE) and 5 <= step_mm <= 40 and step_mm % 5 == 0
        assert torch.equal(items[item][0], found) and z.isnan().all()
    assert len({items[item][1] for item in range(30)}) > 4


def test_changed_slices_stay_slices() -> None:
    hu = torch.full((3, SIDE, SIDE), AIR_HU)
    hu[:, 20:70, 20:70] = 40.0
    for seed in range(30):
        found = changed(hu, np.random.default_rng(seed))
        assert found.shape == hu.shape and found.isfinite().all() and found.min() >= AIR_HU
        assert found[0, 40:50, 40:50].mean() > found[0, :8].mean() - 150


def test_the_command_learns_resumes_measures_and_ships(torsos: Path, table: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    data = ["--data", str(torsos), str(table), "--hold-out", "thick"]

    def command(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "train.body_part", *words], cwd=PROJECT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    fit = ["fit", *data, "--out", str(run), "--batch", "2", "--evaluate-every", "2", "--workers", "0"]
    command(*fit, "--steps", "2", "--device", "cpu")
    card = json.loads((run / "last.json").read_text())
    assert card["training"]["held_out"] == ["thick"] and card["training"]["series"][2:] == ["thin"]
    (tmp_path / "levels.json").write_text(command("evaluate", *data, "--weights", str(run / "last.safetensors")))
    measured = json.loads((tmp_path / "levels.json").read_text())
    assert measured["series"] == 2 and measured["levels_known"]["series"] == 1
    assert measured["of_series"]["thick"]["slices"] == 20
    shipped = tmp_path / "small.safetensors"
    command("ship", str(run / "last.safetensors"), "--out", str(shipped), "--result", str(tmp_path / "levels.json"))
    _, card = body_part_regressor.load(shipped)
    assert card["z"]["volume_error_mm"] == measured["errors"]["volume_error_mm"]
    assert shipped.stat().st_size < 0.6 * (run / "last.safetensors").stat().st_size


def test_a_run_goes_on_as_if_it_had_never_stopped(torsos: Path, table: Path, tmp_path: Path) -> None:
    def fit(out: Path, *more: str) -> int:
        options = ["--batch", "2", "--steps", "4", "--evaluate-every", "2", "--workers", "0", "--device", "cpu"]
        return body_part.main(["fit", "--data", str(torsos), str(table), "--out", str(out), *options, *more])

    assert fit(tmp_path / "whole") == 0
    assert fit(tmp_path / "whole") == 2, "it already holds a run"
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    state = torch.load(tmp_path / "again" / "checkpoint.pt", weights_only=True)
    assert state["progress"]["step"] == 4
    assert body_part.main(["fit", "--resume", "--out", str(tmp_path / "again")]) == 0
    assert body_part.main(["fit", "--resume", "--out", str(tmp_path / "none")]) == 2


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([], "--data is needed"),
        (["TABLE"], "No series to train on knows its levels"),
        (["nothing.nii"], "does not exist"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_in_a_sentence(
    table: Path, tmp_path: Path, capsys, data, sentence
) -> None:
    named = [str(table) if name == "TABLE" else name for name in data]
    given = ["--data", *named] if named else []
    assert body_part.main(["fit", *given, "--out", str(tmp_path / "run")]) == 2
    assert sentence in capsys.readouterr().err
