"""Run trained detectors over the slices of a CT: slices in, labelled boxes of every slice out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from .ct import Volume
from .fuse import weighted_boxes_fusion
from .models import weights
from .models.detections import pad_to_multiple
from .slices import NetworkSlices

DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "vfnet_mobilenet_v2.safetensors"
LOWEST_SCORE = 0.05


class SliceBoxes(NamedTuple):
    """What one slice holds: k, boxes (n, 4) xyxy in continuous voxel indices, scores (n,) 0..1, labels (n,) body-part codes 1..8."""

    k: int
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Detector:
    """A trained network on a device."""

    def __init__(self, model: weights.Model, device: torch.device) -> None:
        self.model = model
        self.wanted_slices, self.pixel_mm = model.architecture["slices"], model.architecture["pixel_mm"]
        self.to(device)

    @classmethod
    def load(cls, path: Path = DEFAULT_WEIGHTS, device: str = "auto") -> Detector:
        """The detector whose weights are at `path`, on "cpu", "cuda" or, "auto", the GPU where there is one.

        WeightsError names a file that cannot be used; ValueError says that a GPU was asked for and is absent.
        """
        return cls(weights.load(path)[0], pick_device(device))

    def to(self, device: torch.device) -> None:
        """Move the network to `device`."""
        self.device = device
        self.model = self.model.to(device, memory_format=torch.channels_last).eval()

    def slices(self, hu: np.ndarray, spacing: tuple[float, float, float]) -> NetworkSlices:
        """The CT's slices as this network wants them."""
        return NetworkSlices(hu, spacing, self.wanted_slices, pixel_mm=self.pixel_mm)

    @torch.inference_mode()
    def __call__(self, samples: np.ndarray, lowest_score: float = LOWEST_SCORE) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each of `samples` (n, slices, rows, columns), 0..255: boxes (m, 4) xyxy in its pixels, scores (m,), body-part codes (m,)."""
        images = torch.from_numpy(samples).to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            raw = self.model(pad_to_multiple(images, self.model.strides[-1]))
        height, width = samples.shape[-2:]
        found = []
        for boxes, scores, labels in self.model.decode(raw, score_threshold=lowest_score):
            boxes = boxes.cpu().numpy().clip([-0.5] * 4, [width - 0.5, height - 0.5] * 2)
            keep = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf) > 1
            found.append((boxes[keep], scores.float().cpu().numpy()[keep], labels.cpu().numpy()[keep] + 1))
        return found


def pick_device(name: str) -> torch.device:
    """The device called `name`: "cpu", "cuda", or "auto" for the GPU where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("No CUDA GPU is available to PyTorch here; use --device cpu, or install a GPU driver and a CUDA build of torch.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def detect(
    volume: Volume,
    detectors: Sequence[Detector],
    progress: Callable[[int, int], None] = lambda done, total: None,
    warn: Callable[[str], None] = lambda sentence: None,
    batch: int | None = None,
) -> list[SliceBoxes]:
    """Detect on every slice of `volume`; several detectors are fused by weighted boxes fusion.

    `progress(done, total)` is called after each batch of slices and may raise to stop; `warn` is told when memory runs out and work goes
    on in smaller batches, or on the CPU.
    """
    passes = len(volume.hu) * len(detectors)
    per_detector = []
    for number, detector in enumerate(detectors):
        before = number * len(volume.hu)
        report = lambda done, before=before: progress(before + done, passes)  # noqa: E731
        per_detector.append(list(_detect_one(volume, detector, report, warn, batch)))
    if len(detectors) == 1:
        return per_detector[0]
    return [_fused(entries) for entries in zip(*per_detector, strict=True)]


def _detect_one(
    volume: Volume, detector: Detector, progress: Callable[[int], None], warn: Callable[[str], None], batch: int | None
) -> Iterator[SliceBoxes]:
    prepared = detector.slices(volume.hu, volume.spacing)
    batch = batch or (8 if detector.device.type == "cuda" else 2)
    first = 0
    while first < len(prepared):
        ks = range(first, min(first + batch, len(prepared)))
        try:
            found = detector(np.stack([prepared.sample(k) for k in ks]))
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            batch = _after_out_of_memory(detector, batch, warn)
            continue
        for k, (boxes, scores, labels) in zip(ks, found, strict=True):
            yield SliceBoxes(k, prepared.frame.to_index(boxes), scores, labels)
        first += batch
        progress(min(first, len(prepared)))


def _after_out_of_memory(detector: Detector, batch: int, warn: Callable[[str], None]) -> int:
    if batch > 1:
        warn(f"The GPU ran out of memory with {batch} slices at a time; going on with {batch // 2}.")
        return batch // 2
    warn("The GPU ran out of memory; going on with the CPU.")
    detector.to(torch.device("cpu"))
    return 2


def _fused(entries: tuple[SliceBoxes, ...]) -> SliceBoxes:
    boxes, scores, labels = weighted_boxes_fusion([(entry.boxes, entry.scores, entry.labels) for entry in entries])
    return SliceBoxes(entries[0].k, boxes, scores, labels.astype(int))
