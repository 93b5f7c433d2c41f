"""Table 1, reproduced: the runs as processes, resumed and refused, and what the table says."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from LesionDetectorLib.lesion import BodyPart, Recist

from train import reproduce
from train.data.layout import row, write_csv, write_png
from train.measuring import paper_table

TRAINING = [
    "--steps",
    "2",
    "--batch",
    "2",
    "--size",
    "64",
    "--warm-up",
    "1",
    "--evaluate-every",
    "2",
    "--workers",
    "0",
    "--device",
    "cpu",
]
PLACES = {BodyPart.BONE: (40, 60), BodyPart.LUNG: (84, 64)}


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """Ten patients: a slice with a lesion of the bone and one of the lung, and every second one another slice with
    one of the lung."""
    folder = tmp_path_factory.mktemp("patients") / "discs"
    j, i = np.mgrid[:128, :128]
    rows = []
    for patient in range(1, 11):
        for number, parts in ((5, tuple(PLACES)), (9, (BodyPart.LUNG,)))[: 1 + patient % 2]:
            hu = np.where(np.hypot(i - 64, j - 64) < 60, 0, -1000)
            for part in parts:
                x, y = PLACES[part]
                hu[np.hypot(i - x, j - y) < 8] = 300 if part == BodyPart.BONE else -300
                recist = Recist(((x - 8, y), (x + 8, y)), ((x, y - 8), (x, y + 8)), 12.8, 12.8)
                places = {"slices": (number, number), "location": (x / 128, y / 128, number / 20)}
                rows.append(
                    row(patient, number, recist, part, spacing=(0.8, 0.8, 5.0), size=(128, 128), split=1, **places)
                )
            write_png(folder / "Images_png" / f"{patient:06d}_01_01" / f"{number:03d}.png", hu)
    write_csv(folder / "DL_info.csv", rows)
    return folder


@pytest.fixture(scope="module")
def results(patients, tmp_path_factory):
    out = tmp_path_factory.mktemp("table") / "out"
    command = [
        "--data",
        str(patients),
        "--out",
        str(out),
        "--detectors",
        "vfnet",
        "--experiments",
        "U",
        "BP",
        "--at-once",
        "2",
    ]
    assert reproduce.main([*command, *TRAINING]) == 0
    return out, command


def test_every_run_trains_on_its_own_set_and_all_are_tested_on_the_same_patients(results):
    out, _ = results
    sets = [pd.read_csv(out / "sets" / f"{name}_0.csv") for name in ("U", "BP")]
    drawn = [rows[(rows["Train_Val_Test"] == 1) & (rows["Coarse_lesion_type"] > 0)] for rows in sets]
    assert drawn[1]["Coarse_lesion_type"].value_counts().nunique() == 1 and len(drawn[0]) == len(drawn[1])
    tests = [set(rows.loc[rows["Train_Val_Test"] == 3, "File_name"]) for rows in sets]
    assert tests[0] == tests[1] and not tests[0] & set(drawn[0]["File_name"])
    table = pd.read_csv(out / "table1.csv")
    assert table[["experiment", "detector"]].to_numpy().tolist() == [["U", "vfnet"], ["BP", "vfnet"]]
    assert table.loc[1, "paper: Bone"] == 80.0 and np.isnan(table.loc[0, "Kidney"])
    assert {"labels.png", "gain.png", "confusion_vfnet.png", "results.csv"} <= {file.name for file in out.iterdir()}
    page = (out / "results.md").read_text()
    assert "| E_BP VFNet |" in page and "(80)" in page and "--steps 2" in page


def test_what_is_done_is_not_done_again_and_other_options_are_refused(results, capsys):
    out, command = results
    weights = out / "runs" / "vfnet_BP_0" / "last.safetensors"
    before = weights.stat().st_mtime_ns
    assert reproduce.main([*command, *TRAINING]) == 0
    assert weights.stat().st_mtime_ns == before
    assert reproduce.main([*command, *TRAINING[2:]]) == 2
    assert "were made with training" in capsys.readouterr().err


def test_a_run_that_fails_is_named_and_the_others_go_on(patients, tmp_path, capsys):
    command = [
        "--data",
        str(patients),
        "--out",
        str(tmp_path),
        "--detectors",
        "vfnet",
        "--experiments",
        "U",
        "BP",
        *TRAINING,
    ]
    (tmp_path / "runs" / "vfnet_U_0").mkdir(parents=True)
    (tmp_path / "runs" / "vfnet_U_0" / "checkpoint.pt").write_text("no checkpoint")
    assert reproduce.main(command) == 1
    assert "vfnet_U_0 failed" in capsys.readouterr().err
    assert len(pd.read_csv(tmp_path / "table1.csv")) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--data is needed"),
        (["--table"], "holds no run that is done"),
        (["--data", "nowhere"], "nowhere/DL_info.csv cannot be read"),
    ],
)
def test_bad_input_is_named(tmp_path, capsys, arguments, sentence):
    assert reproduce.main(["--out", str(tmp_path / "out"), *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_a_wrong_training_option_ends_before_any_run(patients, tmp_path, capsys):
    with pytest.raises(SystemExit):
        reproduce.main(["--data", str(patients), "--out", str(tmp_path), "--stepps", "3"])
    assert "--stepps" in capsys.readouterr().err and not list(tmp_path.iterdir())


def measured(experiment, seed, values, rng):
    values = np.tile(values, (3, 1))
    samples = values + rng.normal(0, 0.01, (200, 3, 8))
    return paper_table.Measured("vfnet", experiment, seed, None, values, samples, np.full((3, 8), 10))


def test_the_gain_is_the_difference_of_the_means_over_seeds_with_paired_intervals():
    rng = np.random.default_rng(0)
    plain, balanced = np.full(8, 0.5), np.array([0.9, 0.8, 0.7, 0.4, 0.5, 0.5, 0.5, 0.4])
    runs = [measured("U", seed, plain, rng) for seed in (0, 1)] + [
        measured("BP", seed, balanced + seed / 10, rng) for seed in (0, 1)
    ]
    values, samples = paper_table.gain(runs, "vfnet", 0)
    assert values[:8] == pytest.approx(balanced + 0.05 - 0.5)
    assert values[8:] == pytest.approx([0.25, 0.025])
    assert samples.shape == (200, 10)
    assert paper_table.gain(runs[:2], "vfnet", 0) is None
    assert "Pelvis does not follow" in paper_table._gains(runs, 0)


def test_the_mean_of_labels_passes_over_those_without_lesions():
    values = np.full(8, np.nan)
    values[[0, 4]] = 0.4, 0.8
    assert paper_table.group_mean(values, paper_table.RARE) == pytest.approx(0.4)
    assert np.isnan(paper_table.group_mean(np.full((2, 8), np.nan), paper_table.COMMON)).all()


def test_the_papers_own_table_shows_what_is_to_be_reproduced():
    for detector in paper_table.NAMES:
        rare = [np.mean(paper_table.PAPER[detector, name][:4]) for name in ("BP", "U")]
        assert rare[0] > rare[1]
    assert json.dumps(list(paper_table.TITLES[:4])) == '["Bone", "Kidney", "Soft tissue", "Pelvis"]'
