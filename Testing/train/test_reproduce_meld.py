"""The experiment on partly marked patients, tiny: its data, what each arm learns from, and that it goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from LesionDetectorLib.lesion import BodyPart

from train import reproduce_meld
from train.data.deeplesion import read_info

TINY = "--patients 5 --single 1 --test 1 --lesions 6 --slice-size 64 --interval-mm 80 --steps 2 --batch 2 --size 64"
TINY += " --pixel-mm 3.2 --embedding-steps 1 --added 0.2 --replicates 20 --workers 0 --device cpu --seeds 0"


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("meld") / "out"
    command = ["--out", str(out), *TINY.split(), "--arms", "D", "G"]
    assert reproduce_meld.main(command) == 0
    return out, command


def test_arms_are_trained_mined_tested_and_compared(done) -> None:
    out, _ = done
    page = (out / "results.md").read_text()
    assert "| D | MELD: U, L, V and N, an expert each | 1 |" in page and "| G − D |" in page
    assert "- G_0: " in page and "cross-sections without a mark" in page
    assert pd.read_csv(out / "results.csv")["arm"].tolist() == ["D", "G"]
    mined = pd.read_csv(out / "data" / "U" / "mined_G_0.csv")
    assert set(mined["Origin"]) <= {"marked", "mined", "suspicious", "nothing"}
    assert not (out / "runs" / "G_0" / "half").exists(), "G goes on from the first half of D"


def test_what_is_done_is_not_done_again_and_other_settings_are_refused(done, capsys) -> None:
    out, command = done
    file = out / "runs" / "G_0" / "whole" / "last.safetensors"
    before = file.stat().st_mtime_ns
    assert reproduce_meld.main(command) == 0 and file.stat().st_mtime_ns == before
    assert reproduce_meld.main([*command, "--batch", "3"]) == 2
    assert "were made with batch = 2, not 3" in capsys.readouterr().err


def experiment(out: Path) -> reproduce_meld.Experiment:
    return reproduce_meld.Experiment(out, None, torch.device("cpu"))


def test_what_each_arm_learns_from(done) -> None:
    arms = experiment(Path("out"))
    data = "out/data"
    assert arms.sources("A", 0) == (f"{data}/U/all.csv",)
    assert arms.sources("B", 0) == (f"{data}/U/DL_info.csv",)
    others = [f"{data}/{name}/{{}}.csv" for name in "LVN"]
    assert arms.sources("C", 0) == (f"{data}/U/DL_info.csv=3", *(name.format("slices") for name in others))
    assert arms.sources("C+", 0)[1:] == tuple(name.format("positives") for name in others)
    parts = [f"{part}:{name.format('slices')}" for part, name in zip(("Lung", "Liver", "Mediastinum"), others)]
    assert arms.sources("D", 0) == (f"{data}/U/DL_info.csv=3", *parts)
    assert arms.sources("F'", 1) == (f"{data}/U/mined_F_prime_1.csv=3", *parts)


def test_the_data_are_as_the_arms_say(done) -> None:
    out, _ = done
    data = out / "data"
    every, marked, all_marked = (pd.read_csv(data / "U" / name) for name in ("lesions.csv", "DL_info.csv", "all.csv"))
    assert len(marked) < len(all_marked) <= len(every)
    assert set(all_marked["File_name"]) == set(every.loc[every["Key"] == 1, "File_name"])
    assert set(every["Study_index"]) == {1, 2}
    for name, part in reproduce_meld.ORGANS.items():
        own = pd.read_csv(data / name / "DL_info.csv")
        assert set(own["Coarse_lesion_type"]) <= {int(part)}
        slices = read_info(data / name / "slices.csv", "train")
        bare = [entry for entry in slices if not len(entry.boxes)]
        assert len(bare) == min(len(slices) - len(bare), len(bare))
        assert not {entry.name for entry in bare} & set(own["File_name"])
        for entry in read_info(data / name / "positives.csv", "train"):
            (whole,) = entry.boxes[entry.of("suspicious")]
            assert whole.tolist() == [-0.5, -0.5, 63.5, 63.5] and entry.of("marked").any()
    test = pd.read_csv(data / "T" / "DL_info.csv")
    assert set(test["Train_Val_Test"]) == {3} and len(test) == len(pd.read_csv(data / "T" / "lesions.csv"))
    patients = [set(pd.read_csv(data / name / "lesions.csv")["Patient_index"]) for name in "ULVNT"]
    assert len(set.union(*patients)) == sum(map(len, patients))


def test_few_marks_of_the_missing_types_are_written() -> None:
    assert {part.title for part, share in reproduce_meld.MARKS.items() if share == 0.1} == {
        "Lung",
        "Liver",
        "Mediastinum",
    }
    assert np.isclose(reproduce_meld.MARKS[BodyPart.BONE], 0.45)


def test_a_page_without_runs_is_refused(tmp_path, capsys) -> None:
    assert reproduce_meld.main(["--out", str(tmp_path / "none"), "--table"]) == 2
    assert "holds no run that is done" in capsys.readouterr().err
