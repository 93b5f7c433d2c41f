"""The trainer: what crops show, and a run that is killed and resumed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from LesionDetectorLib.lesion import BodyPart, Recist
from LesionDetectorLib.models import weights

from train import fit
from train.deeplesion import DeepLesionError, KeySlice, read_info
from train.deeplesion_layout import row, write_csv, write_png

SPACING = (0.8, 0.8, 2.0)
DISC = (70, 60)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """Two patients, each with a bright disc in a body of water: one to train on, one to validate."""
    folder = tmp_path_factory.mktemp("discs")
    j, i = np.mgrid[:128, :128]
    rows = []
    for patient, split in ((1, 1), (2, 2)):
        hu = np.where(np.hypot(i - 64, j - 64) < 55, 0, -1000)
        hu[np.hypot(i - DISC[0], j - DISC[1]) < 10] = 100
        for number in (4, 5, 6):
            write_png(folder / "Images_png" / f"{patient:06d}_01_01" / f"{number:03d}.png", hu)
        recist = Recist(((60, 60), (80, 60)), ((70, 50), (70, 70)), 16, 16)
        rows.append(
            row(patient, 5, recist, BodyPart.LIVER, slices=(4, 6), spacing=SPACING, size=(128, 128), location=(0.5, 0.5, 0.5), split=split)
        )
    write_csv(folder / "DL_info.csv", rows)
    return folder


def crops(key_slices, tmp_path, **options) -> fit.Crops:
    return fit.Crops(key_slices, np.ones(len(key_slices)), 12, tmp_path / "cache", size=64, **options)


def test_boxes_follow_the_picture_through_every_augmentation(data_set, tmp_path):
    plan = crops(read_info(data_set, "train"), tmp_path, augmentation=fit.Augmentation(brightness=0, contrast=0, noise=0))
    whole = 0
    for item in range(len(plan)):
        image, target = plan[item]
        bright = (image[1] > (50 + 1024) * 255 / 4095).nonzero().float()
        if len(target.boxes) and not target.ignore[0] and (target.boxes > 0).all() and (target.boxes < 63).all():
            whole += 1
            centre = (target.boxes[0, :2] + target.boxes[0, 2:]) / 2
            assert torch.allclose(bright.mean(0).flip(0), centre, atol=0.6)
            assert target.labels.tolist() == [BodyPart.LIVER - 1]
    assert whole >= 3


def test_the_same_seed_gives_the_same_crops_and_another_seed_others(data_set, tmp_path):
    first, again, other = (crops(read_info(data_set, "train"), tmp_path, seed=seed)[3][0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_box_that_is_hardly_visible_or_of_unknown_label_is_ignored():
    boxes = np.array([[-20.0, 10, 10, 40], [10, 10, 30, 30], [40, 40, 50, 50], [200, 200, 220, 220]])
    target = fit._target(boxes, np.array([4, -1, 5, 5]), 64)
    assert target.ignore.tolist() == [True, True, False]
    assert target.labels[2] == BodyPart.LUNG - 1


def test_beyond_a_missing_neighbour_the_last_slice_repeats(data_set):
    key_slice = read_info(data_set, "train")[0]
    assert key_slice.read(1)[0].shape == (1, 128, 128)
    assert key_slice.read(3)[0].shape == (3, 128, 128) and key_slice.read(3)[1] == 1
    hu, k = KeySlice(**{**vars(key_slice), "name": "000001_01_01_004.png"}).read(9)
    assert (len(hu), k) == (3, 0)


SMALL = {"detector": "vfnet", "backbone": "mobilenet_v2", "slices": 3, "channels": 16, "tower_depth": 1}
TWO_STAGE = {"detector": "faster_rcnn", "backbone": "mobilenet_v2", "slices": 3, "channels": 16, "head_depth": 1, "features": 32}


def plan(data_set, steps, architecture=SMALL):
    return fit.Plan((str(data_set),), architecture, steps=steps, batch=2, size=64, warm_up=1, evaluate_every=2, workers=0)


@pytest.mark.parametrize("architecture", [SMALL, TWO_STAGE], ids=lambda architecture: architecture["detector"])
def test_a_killed_run_resumes_with_the_same_curve(data_set, tmp_path, architecture):
    torch.manual_seed(0)
    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        folder.mkdir()
    cpu = torch.device("cpu")
    whole = fit.Run(plan(data_set, 4, architecture), folders[0], cpu)
    whole.train()

    killed = fit.Run(plan(data_set, 4, architecture), folders[1], cpu)
    step = killed._step

    def dies_after_two(*batch):
        if killed.step == 2:
            raise KeyboardInterrupt
        return step(*batch)

    killed._step = dies_after_two
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = fit.Run.resumed(folders[1], cpu)
    assert resumed.step == 2
    resumed.train()

    losses = [[entry["class"] for entry in run.log] for run in (whole, resumed)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    _, card = weights.load(folders[1] / "last.safetensors")
    assert card["training"]["steps_done"] == 4 and json.dumps(card)
    assert (folders[1] / "curves.png").stat().st_size > 1000
    assert (folders[1] / "log.csv").read_text().count("\n") == 5


def test_a_run_starts_from_trained_weights_of_its_architecture(data_set, tmp_path):
    cpu = torch.device("cpu")
    first = fit.Run(plan(data_set, 4), tmp_path, cpu)
    torch.nn.init.constant_(first.average.module.head.initial.bias, 0.25)
    first.export(tmp_path / "trained.safetensors", 0.5)
    second = fit.Run(plan(data_set, 4), tmp_path, cpu)
    second.start_from(tmp_path / "trained.safetensors")
    assert (second.model.head.initial.bias == 0.25).all() and (second.average.module.head.initial.bias == 0.25).all()
    other = fit.Run(replace(plan(data_set, 4), architecture={**SMALL, "channels": 8}), tmp_path, cpu)
    with pytest.raises(weights.WeightsError, match="architecture"):
        other.start_from(tmp_path / "trained.safetensors")


def test_a_detector_brings_its_defaults_and_options_overrule_them(monkeypatch, tmp_path):
    plans = []
    monkeypatch.setattr(fit, "Run", lambda plan, *rest: plans.append(plan) or SimpleNamespace(train=lambda: None))
    for number, options in enumerate(([], ["--detector", "jmi"], ["--detector", "jmi", "--rate", "0.01", "--optimiser", "adamw"])):
        fit.main(["--data", "x", "--out", str(tmp_path / str(number)), *options])
    plain, jmi, changed = plans
    assert plain == fit.Plan(("x",), {"detector": "vfnet", "backbone": "mobilenet_v2", "slices": 3})
    assert jmi.architecture == {"detector": "jmi", "backbone": "vgg16", "slices": 3}
    assert (jmi.optimiser, jmi.rate, jmi.frozen_stages) == ("sgd", 0.002, 2)
    assert (changed.optimiser, changed.rate, changed.schedule) == ("adamw", 0.01, "step")


def test_the_jmi_detectors_learning_rate_falls_to_a_tenth_after_six_of_eight_epochs():
    plan = fit.Plan((), {}, steps=800, **{name: value for name, value in fit.DEFAULTS["jmi"].items() if name != "backbone"})
    assert [fit.learning_rate(step, plan) for step in (0, 599, 600, 799)] == pytest.approx([2e-3, 2e-3, 2e-4, 2e-4])


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "DL_info.csv").unlink(), "needs DL_info.csv"),
        (lambda folder: (folder / "DL_info.csv").write_text("File_name\nx.png\n"), "lacks the column"),
        (lambda folder: _replace_in_csv(folder, "0.8, 0.8, 2", "0.8"), "row 2 .*3 numbers are expected"),
    ],
)
def test_a_bad_data_set_is_named(data_set, tmp_path, spoil, sentence):
    folder = shutil.copytree(data_set, tmp_path / "spoilt")
    spoil(folder)
    with pytest.raises(DeepLesionError, match=sentence):
        read_info(folder)


def test_a_damaged_png_is_named(data_set, tmp_path):
    folder = shutil.copytree(data_set, tmp_path / "spoilt")
    key_slice = read_info(folder, "train")[0]
    key_slice.path(5).write_bytes(b"no picture")
    with pytest.raises(DeepLesionError, match=r"005\.png cannot be read as a PNG"):
        key_slice.read(1)


def _replace_in_csv(folder, old, new):
    csv = folder / "DL_info.csv"
    csv.write_text(csv.read_text().replace(old, new))
