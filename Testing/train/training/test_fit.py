"""The trainer: a run that is killed and resumed, and one that several processes share."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from LesionDetectorLib.models import weights
from LesionDetectorLib.slices import Recipe

from train import fit
from train.data.deeplesion import DeepLesionError, read_info
from train.training import detection, loop
from train.training.plan import DEFAULTS, Plan

SMALL = {"detector": "vfnet", "backbone": "mobilenet_v2", "slices": 3, "channels": 16, "tower_depth": 1}
TWO_STAGE = {
    "detector": "faster_rcnn",
    "backbone": "mobilenet_v2",
    "slices": 3,
    "channels": 16,
    "head_depth": 1,
    "features": 32,
}

EXPERTS = {"detector": "meld", "backbone": "mobilenet_v2", "slices": 3, "channels": 16, "features": 32}


def plan(data_set, steps, architecture=SMALL):
    return Plan((str(data_set),), architecture, steps=steps, batch=2, size=64, warm_up=1, evaluate_every=2, workers=0)


@pytest.mark.parametrize("architecture", [SMALL, TWO_STAGE], ids=lambda architecture: architecture["detector"])
def test_a_killed_run_resumes_with_the_same_curve(data_set, tmp_path, architecture):
    torch.manual_seed(0)
    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        folder.mkdir()
    cpu = torch.device("cpu")
    whole = detection.new_run(plan(data_set, 4, architecture), folders[0], cpu)
    whole.train()

    killed = detection.new_run(plan(data_set, 4, architecture), folders[1], cpu)
    step = killed._step

    def dies_after_two(batch):
        if killed.step == 2:
            raise KeyboardInterrupt
        return step(batch)

    killed._step = dies_after_two
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = detection.resumed(folders[1], cpu)
    assert resumed.step == 2
    resumed.train()

    losses = [[entry["class"] for entry in run.log] for run in (whole, resumed)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    _, card = weights.load(folders[1] / "last.safetensors")
    assert card["training"]["steps_done"] == 4 and json.dumps(card)
    assert (folders[1] / "curves.png").stat().st_size > 1000
    assert (folders[1] / "log.csv").read_text().count("\n") == 5


def test_a_process_that_is_killed_loses_at_most_an_epoch(data_set, tmp_path):
    out = tmp_path / "run"
    options = "--steps 12 --batch 2 --size 64 --warm-up 1 --evaluate-every 12 --workers 0 --device cpu".split()  # noqa: SIM905
    command = [sys.executable, "-m", "train.fit", "--out", str(out)]
    process = subprocess.Popen([*command, "--data", str(data_set), *options], stderr=subprocess.PIPE)
    shown = b""
    while not re.search(rb"[4-9]/12 ", shown):
        assert process.poll() is None, shown
        shown += process.stderr.read1(256)
    process.kill()
    done = int(re.findall(rb"(\d+)/12 ", shown + process.stderr.read())[-1])
    process.wait()
    kept = torch.load(out / "checkpoint.pt", weights_only=True)["progress"]["step"]
    assert kept >= done - 1 >= 3  # there is one key slice, so an epoch is a step
    resumed = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert [line["step"] for line in csv.DictReader((out / "log.csv").open())] == [str(step) for step in range(1, 13)]


@pytest.mark.parametrize("detector", ["vfnet", "faster_rcnn", "retinanet", "foveabox"])
def test_two_processes_train_to_the_same_losses_as_one(data_set, tmp_path, detector):
    options = "--steps 3 --batch 4 --size 128 --warm-up 1 --evaluate-every 3 --device cpu --precision float32"
    options = ["--detector", detector, "--data", str(data_set), *options.split()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    logs = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        workers = ["--workers", str(processes - 1)]  # one makes its crops itself, of the two each has a worker
        command = [*torchrun, str(processes), "-m", "train.fit", "--out", str(out), *options, *workers]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        logs.append(
            [[float(value or 0) for value in line.values()] for line in csv.DictReader((out / "log.csv").open())]
        )
    np.testing.assert_allclose(logs[0][0], logs[1][0], rtol=1e-4, atol=1e-5)
    # where a second stage learns regions that nearly equal scores rank, float noise chooses others from the second step
    # on
    np.testing.assert_allclose(logs[0], logs[1], rtol=0.2 if detector == "faster_rcnn" else 2e-3, atol=1e-4)


def test_a_batch_that_cannot_be_shared_is_refused(data_set, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fit, "processes", lambda: 3)
    with pytest.raises(SystemExit) as ended:
        fit.main(["--data", str(data_set), "--out", str(tmp_path / "run"), "--batch", "8"])
    assert ended.value.code == 2 and "batch of 8 cannot be shared by 3 processes" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_ends_in_one_sentence(data_set, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        loop.Losses, "forward", lambda self, images, targets: {"class": _sum_of_parameters(self) * torch.nan}
    )
    options = [
        "--data",
        str(data_set),
        "--out",
        str(tmp_path / "run"),
        "--batch",
        "2",
        "--size",
        "64",
        "--workers",
        "0",
        "--device",
        "cpu",
    ]
    with pytest.raises(SystemExit) as ended:
        fit.main(options)
    assert ended.value.code == 2
    assert "The loss is not finite at step 0 (class nan); train again with a lower --rate." in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("*.*"))


def test_weights_that_are_not_finite_are_never_kept(data_set, tmp_path, monkeypatch):
    """A finite loss can have a gradient that is not: here that of the second step, whose weights would be validated
    and saved."""
    run = detection.new_run(plan(data_set, 4), tmp_path, torch.device("cpu"))
    forward = loop.Losses.forward

    def steep(self, images, targets):
        steepness = (
            _sum_of_parameters(self).abs().sqrt() * 0 if run.step == 0 else (_sum_of_parameters(self) * 0).sqrt()
        )
        return {**forward(self, images, targets), "steep": steepness}

    monkeypatch.setattr(loop.Losses, "forward", steep)
    with pytest.raises(
        loop.TrainingError, match="The weights are not finite after step 1; train again with a lower --rate"
    ):
        run.train()
    assert not list(tmp_path.glob("*.safetensors"))
    kept = torch.load(run.checkpoint, weights_only=True)
    assert kept["progress"]["step"] == 1 and all(tensor.isfinite().all() for tensor in kept["model"].values())


def test_a_run_says_how_many_images_a_second_and_how_long_it_waited_for_crops(data_set, tmp_path, monkeypatch, capsys):
    class SlowCrops(detection.Crops):
        def __getitem__(self, item):
            time.sleep(0.2)
            return super().__getitem__(item)

    def step_of_a_tenth_of_a_second(batch):
        time.sleep(0.1)
        run.step += 1
        run.log.append({"step": run.step, "class": 1.0})
        return {}

    monkeypatch.setattr(detection, "Crops", SlowCrops)
    run = detection.new_run(replace(plan(data_set, 6), evaluate_every=6), tmp_path, torch.device("cpu"))
    monkeypatch.setattr(run, "_step", step_of_a_tenth_of_a_second)
    run.train()
    pattern = (
        r"6 steps done: ([\d.]+) images per second, (\d+) % of the time waiting for crops; "
        r"validating and saving took (\d+) % of all time\."
    )
    images, waiting, elsewhere = map(float, re.search(pattern, capsys.readouterr().out).groups())
    # two crops of 0.2 s each and a step of 0.1 s
    assert 1 < images <= 2 / 0.5 and 60 < waiting <= 95 and 0 < elsewhere < 90


@pytest.mark.parametrize(("cores", "processes", "workers"), [(1, 1, 1), (2, 1, 1), (16, 1, 4), (16, 4, 3)])
def test_crops_are_prepared_by_the_cores_that_training_leaves(monkeypatch, cores, processes, workers):
    monkeypatch.setattr(loop.os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert loop.spare_cores() == workers


def test_a_run_starts_from_trained_weights_of_its_architecture(data_set, tmp_path):
    cpu = torch.device("cpu")
    first = detection.new_run(plan(data_set, 4), tmp_path, cpu)
    torch.nn.init.constant_(first.average.module.head.initial.bias, 0.25)
    first.task.export(first.average.module, tmp_path / "trained.safetensors", 0, 0.5)
    second = detection.new_run(plan(data_set, 4), tmp_path, cpu)
    detection.start_from(second, tmp_path / "trained.safetensors")
    assert (second.model.head.initial.bias == 0.25).all() and (second.average.module.head.initial.bias == 0.25).all()
    other = detection.new_run(replace(plan(data_set, 4), architecture={**SMALL, "channels": 8}), tmp_path, cpu)
    with pytest.raises(weights.WeightsError, match="architecture"):
        detection.start_from(other, tmp_path / "trained.safetensors")


def test_a_detector_brings_its_defaults_and_options_overrule_them(monkeypatch, tmp_path):
    plans = []
    monkeypatch.setattr(
        detection, "new_run", lambda plan, *rest: plans.append(plan) or SimpleNamespace(train=lambda: None)
    )
    for number, options in enumerate(
        ([], ["--detector", "jmi"], ["--detector", "jmi", "--rate", "0.01", "--optimiser", "adamw"])
    ):
        fit.main(["--data", "x", "--out", str(tmp_path / str(number)), *options])
    plain, jmi, changed = plans
    eaten = {"slices": 3, "pixel_mm": 0.8, "window": (-1024.0, 3071.0), "tone": "ct"}
    assert plain == Plan(("x",), {"detector": "vfnet", "backbone": "mobilenet_v2", **eaten})
    assert jmi.architecture == {"detector": "jmi", "backbone": "vgg16", **eaten}
    assert (jmi.optimiser, jmi.rate, jmi.frozen_stages) == ("sgd", 0.002, 2)
    assert (changed.optimiser, changed.rate, changed.schedule) == ("adamw", 0.01, "step")


def mined(data_set, folder):
    """The data set with its lesion to train on said to be a mined one."""
    copied = shutil.copytree(data_set, folder)
    pd.read_csv(copied / "DL_info.csv").assign(Origin="mined").to_csv(copied / "DL_info.csv", index=False)
    return copied


def test_meld_learns_from_several_data_sets_and_validates_on_the_universal_one(data_set, tmp_path):
    found = mined(data_set, tmp_path / "mined")
    several = replace(plan(data_set, 2, EXPERTS), data=(f"{data_set}=2", f"Liver:{data_set}", f"lung:{found}"))
    task = detection.DetectorTask(several, tmp_path)
    crops, collate, _ = task.data()
    assert [entry.dataset for entry in crops.key_slices] == [0, 2, 1]
    assert [entry.of("mined").any() for entry in crops.key_slices] == [False, False, True]
    _, targets = collate([crops[item] for item in range(2)]).on(torch.device("cpu"))
    assert {target.dataset for target in targets} <= {0, 1, 2}
    run = loop.Run(task, several, tmp_path, torch.device("cpu"))
    run.train()
    assert set(run.log[0]) - {"step"} == {"objectness", "proposal", "class", "box", "gate", "part"}
    assert [entry.dataset for entry in task._validation] == [0]


def test_a_detector_that_would_learn_the_boxes_of_mined_lesions_refuses_them(data_set, tmp_path):
    folder = mined(data_set, tmp_path / "mined")
    with pytest.raises(DeepLesionError, match="train with --detector meld"):
        detection.DetectorTask(plan(folder, 2), tmp_path).data()


def test_the_published_trunk_brings_its_widths(tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(
        detection, "new_run", lambda plan, *_: built.append(plan) or SimpleNamespace(train=lambda: None)
    )
    fit.main(
        ["--detector", "meld", "--backbone", "densenet121", "--slices", "9", "--data", "x", "--out", str(tmp_path)]
    )
    assert built[0].architecture["channels"] == 512 and built[0].architecture["strides"] == (4,)


def test_a_constant_rate_stays_what_it_is_after_warming_up():
    constant = Plan((), {}, steps=100, warm_up=10, schedule="constant", rate=2e-3)
    assert [loop.learning_rate(step, constant) for step in (4, 10, 99)] == pytest.approx([1e-3, 2e-3, 2e-3])


def test_the_jmi_detectors_learning_rate_falls_to_a_tenth_after_six_of_eight_epochs():
    plan = Plan((), {}, steps=800, **{name: value for name, value in DEFAULTS["jmi"].items() if name != "backbone"})
    assert [loop.learning_rate(step, plan) for step in (0, 599, 600, 799)] == pytest.approx([2e-3, 2e-3, 2e-4, 2e-4])


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
        key_slice.read(Recipe(slices=1))


def _sum_of_parameters(module):
    return sum(parameter.sum() for parameter in module.parameters() if parameter.requires_grad)


def _replace_in_csv(folder, old, new):
    csv = folder / "DL_info.csv"
    csv.write_text(csv.read_text().replace(old, new))


class Line(torch.nn.Module):
    """y = a x + b: a module with a loss, and nothing of a detector."""

    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def forward(self, x):
        return self.line(x)

    def loss(self, outputs, targets):
        return {"square": (outputs - targets).square().mean()}


class Points(torch.utils.data.Dataset):
    def __len__(self):
        return 400 * 4

    def __getitem__(self, item):
        return torch.tensor([np.random.default_rng(item).uniform(-1, 1)], dtype=torch.float32)


class LineTask:
    """A line to fit, and how near it comes."""

    figure = "nearness"

    def __init__(self, plan, folder):
        torch.manual_seed(plan.seed)
        self.model = Line()

    def data(self):
        return Points(), lambda xs: SimpleNamespace(on=lambda device: (torch.stack(xs), 3 * torch.stack(xs) - 1)), 100

    def validate(self, model, device):
        return -abs(model.line.weight.item() - 3) - abs(model.line.bias.item() + 1)

    def export(self, model, path, step, figure):
        path.write_text(f"{figure:.3f}")


def test_the_loop_trains_any_module_that_has_a_loss_a_data_set_and_a_validation_figure(tmp_path):
    options = {
        "steps": 400,
        "batch": 4,
        "rate": 0.05,
        "evaluate_every": 200,
        "workers": 0,
        "precision": "float32",
        "ema": 0.9,
    }
    line = Plan((), {}, **options)
    run = loop.Run(LineTask(line, tmp_path), line, tmp_path, torch.device("cpu"))
    run.train()
    assert run.best > -0.1 and float((tmp_path / "best.safetensors").read_text()) == pytest.approx(run.best, abs=1e-3)
    assert "nearness" in (tmp_path / "log.csv").read_text().splitlines()[0]
    assert loop.Run.resumed(LineTask, tmp_path, torch.device("cpu")).step == 400
