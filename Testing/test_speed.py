"""What the time of a run depends on, counted instead of timed: it must not grow unnoticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from LesionDetectorLib import detect, plausible, slices
from LesionDetectorLib.cli import __main__ as cli
from LesionDetectorLib.cli import bench
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.detect import Detector, fast_bfloat16, slices_that_fit
from LesionDetectorLib.measure import outline
from LesionDetectorLib.models.vfnet import VFNet
from LesionDetectorLib.models.weights import LABELS
from LesionDetectorLib.pipeline import find_lesions


@pytest.fixture(scope="module", autouse=True)
def in_float32():
    """Whatever the processor is fast in, so that boxes can be compared."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(detect, "fast_bfloat16", lambda device: False)
        yield


@pytest.fixture(scope="module")
def eager(in_float32) -> Detector:
    """An untrained detector that sees lesions everywhere."""
    torch.manual_seed(0)
    model = VFNet(channels=16, tower_depth=1)
    torch.nn.init.constant_(model.head.logits.bias, 0.5)
    return Detector(model, torch.device("cpu"))


@pytest.fixture(scope="module")
def volume() -> Volume:
    """A body of 176 x 112 px in slices of 256 x 256, with two slices of air at each end."""
    hu = np.full((16, 256, 256), -1000, np.int16)
    hu[2:14, 64:176, 40:216] = np.random.default_rng(0).normal(40, 30, (12, 112, 176))
    return Volume(hu, (0.8, 0.8, 2.0), (0.0, 0.0, 0.0), np.eye(3), Path("body"))


def counted(monkeypatch: pytest.MonkeyPatch, *places: tuple[object, str]) -> Counter[str]:
    """How often functions are called from now on."""
    calls = Counter()

    def counting(name: str, function: Callable) -> Callable:
        def count(*arguments):
            calls[name] += 1
            return function(*arguments)

        return count

    for owner, name in places:
        monkeypatch.setattr(owner, name, counting(name, getattr(owner, name)))
    return calls


def test_every_slice_with_a_body_passes_the_network_once_without_the_air_around_it(eager, volume):
    passed = []
    hook = eager.model.register_forward_pre_hook(lambda model, inputs: passed.append(tuple(inputs[0].shape)))
    found = detect.detect(volume, [eager])
    hook.remove()
    assert [len(entry.boxes) for entry in found] == [0] * 2 + [100] * 12 + [0] * 2
    assert sum(shape[0] for shape in passed) == 12
    assert sum(count * rows * columns for count, _, rows, columns in passed) <= 12 * 128 * 192


def test_every_slice_is_resampled_once_and_outlines_are_sought_together(eager, volume, monkeypatch):
    resampled, resample = [], slices.interpolate
    monkeypatch.setattr(
        slices,
        "interpolate",
        lambda planes, *size, **how: resampled.append(len(planes)) or resample(planes, *size, **how),
    )
    masked, mask = [], plausible.patient_mask
    monkeypatch.setattr(plausible, "patient_mask", lambda hu, pixel_mm: masked.append(hu.size) or mask(hu, pixel_mm))
    calls = counted(monkeypatch, (slices, "body_mask"), (outline, "_best_closed_paths"))
    lesions = find_lesions(volume, [eager])
    assert len(masked) == 1 and masked[0] <= volume.hu.size / 17, "the body is sought once, on a grid of some 3 mm"
    assert sum(resampled) == 14, "those with a body and their neighbours 2 mm away"
    assert calls["body_mask"] == 1
    assert calls["_best_closed_paths"] == 3 * -(-len(lesions) // 50), "three rounds for fifty lesions"


def test_a_batch_is_prepared_before_the_boxes_of_the_last_are_waited_for(eager, volume):
    """A GPU is busy with the one while the other is prepared."""
    steps = []

    class Noting(Detector):
        def prepare(self, prepared, ks):
            steps.append(f"prepare {ks[0]}")
            return super().prepare(prepared, ks)

        def network(self, images):
            steps.append("network")
            return super().network(images)

        def boxes(self, *arguments):
            steps.append("boxes")
            return super().boxes(*arguments)

    detect.detect(volume, [Noting(eager.model, torch.device("cpu"))], batch=5)
    assert steps == ["prepare 2", "network", "prepare 7", "boxes", "network", "prepare 12", "boxes", "network", "boxes"]


@pytest.mark.parametrize(
    ("free", "needed", "fitting"), [(1 << 34, 1 << 28, 32), (1 << 32, 1 << 28, 8), (1 << 28, 1 << 30, 1), (0, 0, 1)]
)
def test_slices_that_fit_into_the_memory_of_a_gpu(free, needed, fitting):
    assert slices_that_fit(free, needed) == fitting


def test_a_timed_detector_finds_the_same(eager):
    calibration = {label: {"slope": 2.0, "offset": -1.0} for label in LABELS}
    detector = Detector(eager.model, torch.device("cpu"), LABELS[::-1], calibration)
    timed = bench._timed(detector, bench._Clock(torch.device("cpu")))
    sample = np.random.default_rng(0).uniform(0, 255, (1, 3, 64, 64)).astype(np.float32)
    for ours, theirs in zip(detector(sample)[0], timed(sample)[0]):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(timed(sample)[0].labels, eager(sample)[0].labels)


def test_work_goes_on_in_smaller_batches_and_then_on_the_cpu_when_memory_runs_out(eager, volume):
    class Small(Detector):
        """Has memory for so many slices."""

        room = 1

        def network(self, images):
            if len(images) > self.room:
                raise torch.cuda.OutOfMemoryError
            return super().network(images)

        def to(self, device):
            super().to(device)
            self.room += 1

    expected, warnings = detect.detect(volume, [eager]), []
    detector = Small(eager.model, torch.device("cpu"))
    detector.room = 0
    found = detect.detect(volume, [detector], warn=warnings.append, batch=4)
    turns = [sentence.rpartition("going on with ")[2] for sentence in warnings]
    assert turns == ["2.", "1.", "the CPU.", "1."]
    assert [len(entry.boxes) for entry in found] == [len(entry.boxes) for entry in expected]
    for ours, theirs in zip(found[2:14], expected[2:14], strict=True):
        assert (np.abs(ours.boxes[:, None] - theirs.boxes).max(axis=2).min(axis=1) < 0.05).all(), (
            "in any order: some scores are equal"
        )


def test_float16_as_on_a_gpu_finds_the_same(volume):
    """The CPU computes in float16 here as a GPU does; what overflows is computed once more in float32."""
    torch.manual_seed(0)
    detector = Detector(VFNet(channels=16, tower_depth=1), torch.device("cpu"))
    image = torch.from_numpy(detector.slices(volume.hu, volume.spacing).sample(5)[None])
    exact = detector.network(image)
    detector.precision = torch.float16
    half = detector.network(image)
    detector.boxes(half, image)
    assert detector.precision == torch.float16
    assert any((ours != theirs).any() for ours, theirs in zip(half.refined, exact.refined)), (
        "it was computed in float16"
    )
    for ours, theirs in zip((*half.logits, *half.refined), (*exact.logits, *exact.refined)):
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)
    with torch.no_grad():
        detector.model.pyramid.stages[0][0][0].weight *= 1e6
        detector.model.pyramid.fpn.inner_blocks[0][0].weight *= 1e6
    raw = detector.network(image)
    assert not all(level.isfinite().all() for part in raw for level in part)
    found = detector.boxes(raw, image)
    assert detector.precision == torch.float32
    np.testing.assert_array_equal(found[0].boxes, detector(image.numpy())[0].boxes)


@pytest.mark.parametrize("has_instructions", [True, False])
def test_a_cpu_computes_in_bfloat16_where_it_has_instructions_for_it(has_instructions, volume, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_instructions, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert fast_bfloat16(torch.device("cpu")) == has_instructions and fast_bfloat16(torch.device("cuda"))
    monkeypatch.setattr(detect, "fast_bfloat16", fast_bfloat16)
    torch.manual_seed(0)
    detector = Detector(VFNet(channels=16, tower_depth=1), torch.device("cpu"))
    assert detector.precision == (torch.bfloat16 if has_instructions else torch.float32)
    image = torch.from_numpy(detector.slices(volume.hu, volume.spacing).sample(5)[None])
    found = detector.network(image)
    detector.precision = torch.float32
    exact = detector.network(image)
    assert any((ours != theirs).any() for ours, theirs in zip(found.refined, exact.refined)) == has_instructions
    for ours, theirs in zip((*found.logits, *found.refined), (*exact.logits, *exact.refined)):
        torch.testing.assert_close(ours.float(), theirs, rtol=0.1, atol=0.1)


def test_threads_that_wait_leave_their_core_to_others():
    """On a machine that does other work too, the network is faster so; OpenMP looks when torch is imported."""
    program = "import os, sys\nfrom LesionDetectorLib.cli import __main__ as cli\n"
    program += "cli.main = lambda: print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)\ncli.run()"
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert said.stdout.split() == [cli.SPIN, "False"], said.stderr


def test_bench_times_every_stage(volume, tmp_path, capsys):
    import SimpleITK

    image = SimpleITK.GetImageFromArray(volume.hu[:6])
    image.SetSpacing(volume.spacing)
    SimpleITK.WriteImage(image, str(tmp_path / "ct.nrrd"))
    out = tmp_path / "bench.json"
    assert cli.main(["bench", str(tmp_path / "ct.nrrd"), "--device", "cpu", "--rounds", "1", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["slices"] == 6 and set(result["seconds"]) == set(bench.STAGES) and min(result["seconds"].values()) > 0
    assert sum(result["seconds"].values()) <= result["whole_seconds"] + 1e-6
    assert 0 < result["share_outside_network"] < 1
    table = capsys.readouterr().out
    assert all(stage in table for stage in bench.STAGES) and "slices a second" in table


def test_bench_needs_a_round(tmp_path, capsys):
    assert cli.main(["bench", str(tmp_path), "--rounds", "0"]) == 2
    assert "at least 1, not 0" in capsys.readouterr().err
