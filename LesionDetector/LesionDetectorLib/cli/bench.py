"""How fast the detector is on a CT, stage by stage, and beside torchvision's detectors: ``lesion-detector bench``.

The stages run as in `pipeline.find_lesions`; what differs is that each takes its time. A machine that does other work
too makes all times longer, so the rounds alternate between ours and torchvision's, and ratios of their medians are what
to trust.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from LesionDetectorLib import ct
from LesionDetectorLib.cli.options import Commands, add_command, add_ct, add_device, weights_of
from LesionDetectorLib.files import write_text
from LesionDetectorLib.formats import write_reports
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.refusal import Refusal

if TYPE_CHECKING:
    import torch

    from LesionDetectorLib.detect import Detector

SIDE, COMPARED_SLICES = 512, 10
STAGES = ("read", "prepare", "network", "boxes", "fuse", "measure", "write")
TORCHVISION = ("retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn")
EXAMPLES = """
examples:
  lesion-detector bench scans/ct1
  lesion-detector bench scans/ct1 --against torchvision --rounds 5 --out bench.json
  lesion-detector bench scans/ct1 --device cuda --weights vfnet_resnet50.safetensors
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "bench", "time the detector on a CT, stage by stage", EXAMPLES)
    add_ct(parser)
    add_device(parser)
    parser.add_argument(
        "--weights", type=Path, nargs=1, metavar="FILE", help="detector to time; default: the one that ships"
    )
    parser.add_argument(
        "--against", choices=("torchvision",), help="time torchvision's detectors too, untrained, on the same slices"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often all is run; times are medians over the rounds (%(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the times as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Time the stages on `options.input`, print a table, write JSON; returns the exit code."""
    if options.rounds < 1:
        raise Refusal(f"The times are medians over rounds: at least 1, not {options.rounds}.")
    from LesionDetectorLib.detect import Detector

    (weights,) = weights_of(options)
    result = bench(
        options.input,
        options.series,
        Detector.load(weights, options.device),
        options.rounds,
        options.against is not None,
    )
    result = {"ct": options.input.name, "weights": weights.stem, **result}
    print(report(result))
    if options.out:
        write_text(options.out, json.dumps(result, indent=2) + "\n")
    return 0


def bench(path: Path, series: str | None, detector: Detector, rounds: int, against: bool = False) -> dict:
    """Times of the CT at `path` in seconds, medians over `rounds`; slices a second; peak memory in MB.

    Ratios to torchvision's.

    "seconds" are by stage and add up to the whole: on a GPU each stage is waited for here, though otherwise they
    overlap.
    """
    import torch

    times, theirs = defaultdict(list), defaultdict(list)
    volume = ct.read(path, series)
    slices, others = len(volume.hu), {}
    for number in range(rounds + 1):
        seconds = _stages(path, series, detector)
        if number == 0:  # warms up
            peak_mb = _peak_memory_mb(detector.device)
            others = {name: _torchvision(name, detector.device) for name in TORCHVISION} if against else {}
            continue
        for stage, value in seconds.items():
            times[stage].append(value)
        for name, network in others.items():
            theirs[name].append(_seconds_per_slice(network, volume.hu, detector.device))
    seconds = {stage: median(values) for stage, values in times.items()}
    whole = seconds.pop("whole")
    return {
        "device": torch.cuda.get_device_name(detector.device) if detector.device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "precision": str(detector.precision).removeprefix("torch."),
        "torch": torch.__version__,
        "slices": slices,
        "rounds": rounds,
        "seconds": seconds,
        "whole_seconds": whole,
        "slices_per_second": slices / whole,
        "share_outside_network": 1 - seconds["network"] / whole,
        "peak_memory_mb": peak_mb,
        "torchvision": {
            name: {
                "seconds_per_slice": median(values),
                "times_our_network": median(values) / (seconds["network"] / slices),
                "times_our_whole_path": median(values) / (whole / slices),
            }
            for name, values in theirs.items()
        },
    }


class _Clock:
    """Adds up how long each stage takes; on a GPU a stage ends when its work is done."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = perf_counter()
        yield
        _finish(self._device)
        self.seconds[stage] += perf_counter() - start


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def _stages(path: Path, series: str | None, detector: Detector) -> dict[str, float]:
    """Seconds of each of STAGES and of the "whole", from the file to the written reading."""
    from LesionDetectorLib.detect import detect
    from LesionDetectorLib.pipeline import candidates, measured

    clock = _Clock(detector.device)
    with clock("whole"):
        with clock("read"):
            volume = ct.read(path, series)
        found = detect(volume, [_timed(detector, clock)])
        with clock("fuse"):
            likely = candidates(volume, found)
        with clock("measure"):
            lesions = measured(volume, likely)
        with clock("write"), tempfile.TemporaryDirectory() as folder:
            write_reports(Path(folder), Reading.of(volume, lesions, []))
    return clock.seconds


def _timed(detector: Detector, clock: _Clock) -> Detector:
    """The same detector, whose stages are timed."""
    from LesionDetectorLib.detect import Detector

    class Timed(Detector):
        slices = clock("prepare")(Detector.slices)
        prepare = clock("prepare")(Detector.prepare)
        network = clock("network")(Detector.network)
        boxes = clock("boxes")(Detector.boxes)

    return Timed(detector.model, detector.device, detector.labels, detector.calibration)


def _torchvision(name: str, device: torch.device) -> Callable[[np.ndarray], float]:
    """Seconds that torchvision's untrained detector (eager, float32) takes for an image of 512 x 512: without
    resizing and thinning."""
    import torch
    from torchvision.models import detection

    model = (
        getattr(detection, name)(weights=None, weights_backbone=None, min_size=SIDE, max_size=SIDE).to(device).eval()
    )

    @torch.inference_mode()
    def network(image: np.ndarray) -> float:
        images, _ = model.transform([torch.from_numpy(image).to(device)])
        _finish(device)
        start = perf_counter()
        features = model.backbone(images.tensors)
        if name.startswith("fasterrcnn"):
            model.roi_heads(features, model.rpn(images, features)[0], images.image_sizes)
        else:
            model.head(list(features.values()))
        _finish(device)
        return perf_counter() - start

    return network


def _seconds_per_slice(network: Callable[[np.ndarray], float], hu: np.ndarray, device: torch.device) -> float:
    """The median over slices spread over the CT."""
    ks = np.linspace(0, len(hu) - 1, min(COMPARED_SLICES, len(hu))).astype(int)
    return median(network(np.repeat((hu[k : k + 1].astype(np.float32) + 1024) / 4095, 3, axis=0)) for k in ks)


def _peak_memory_mb(device: torch.device) -> float | None:
    """The most memory that was in use so far: of the GPU, or else of the process.

    None where the system does not tell.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def report(result: dict) -> str:
    """The times as a table for people."""
    slices, whole = result["slices"], result["whole_seconds"]
    lines = [
        f"{result['ct']}: {slices} slices, {result['weights']}, {result['device']}, {result['precision']}, median of "
        f"{result['rounds']}",
        "",
    ]
    lines += [f"{'':24}{'s':>8}{'ms/slice':>10}{'share':>7}"]
    for stage in (*STAGES, "whole"):
        seconds = whole if stage == "whole" else result["seconds"][stage]
        lines.append(f"{stage:24}{seconds:8.2f}{1000 * seconds / slices:10.1f}{seconds / whole:7.0%}")
    lines += [
        "",
        f"{result['slices_per_second']:.1f} slices a second; {result['share_outside_network']:.0%} of the time "
        "outside the network.",
    ]
    if result["peak_memory_mb"]:
        lines.append(f"Peak memory: {result['peak_memory_mb']:.0f} MB.")
    for name, other in result["torchvision"].items():
        lines.append(
            f"torchvision {name}, float32, network alone: {1000 * other['seconds_per_slice']:.1f} ms/slice, "
            f"{other['times_our_network']:.1f} times our network, {other['times_our_whole_path']:.1f} times our whole "
            "path."
        )
    return "\n".join(lines)
