"""Run trained detectors over the slices of a CT: slices in, labelled boxes of every slice out."""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from scipy.special import expit, logit
from torch import Tensor

from LesionDetectorLib.ct import Volume
from LesionDetectorLib.fuse import weighted_boxes_fusion
from LesionDetectorLib.models import weights
from LesionDetectorLib.models.detections import pad_to_multiple
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.slices import NetworkSlices, to_device

DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "vfnet_mobilenet_v2.safetensors"
LOWEST_SCORE = 0.05
LARGEST_BATCH = 32
_SLICES_ON_CPU = 2
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_NOTHING = (np.zeros((0, 4)), np.zeros(0, np.float32), np.zeros(0, np.int64))
Item = TypeVar("Item")
Result = TypeVar("Result")


class Found(NamedTuple):
    """What one image holds: boxes (n, 4) xyxy in its pixels, scores (n,) 0..1, labels (n,) body-part codes 1..8."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class SliceBoxes(NamedTuple):
    """What one slice holds: k, boxes (n, 4) xyxy in continuous voxel indices, scores (n,) 0..1, labels (n,)
    body-part codes 1..8."""

    k: int
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Detector:
    """A trained network on a device.

    `calibration`, which stands in the card of its weights, makes a confidence of its scores: of each label the "slope"
    and "offset" of a line through their log odds. Without one they stay as they are.
    """

    def __init__(
        self,
        model: weights.Model,
        device: torch.device,
        labels: list[str] = weights.LABELS,
        calibration: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self.model, self.recipe, self.labels, self.calibration = model, model.recipe, labels, calibration
        self._codes = np.array(weights.body_parts(labels), np.int64)
        self.to(device)

    @classmethod
    def load(cls, path: Path = DEFAULT_WEIGHTS, device: str = "auto") -> Detector:
        """The detector whose weights are at `path`, on "cpu", "cuda" or, "auto", the GPU where there is one.

        WeightsError names a file that cannot be used; Refusal says that a GPU was asked for and is absent.
        """
        model, card = weights.load(path)
        return cls(model, pick_device(device), card["labels"], card.get("calibration"))

    def to(self, device: torch.device) -> None:
        """Move the network to `device`: a GPU computes in float16, whose boxes are nearer to float32's than those of
        bfloat16, a CPU in bfloat16 where it has instructions for it, else in float32."""
        if device.type == "cpu":
            _keep_freed_memory()
        self.device = device
        on_cpu = torch.bfloat16 if fast_bfloat16(device) else torch.float32
        self.precision = torch.float16 if device.type == "cuda" else on_cpu
        self.model = self.model.to(device, memory_format=torch.channels_last).eval()

    def slices(self, hu: np.ndarray, spacing: tuple[float, float, float]) -> NetworkSlices:
        """The CT's slices as this network wants them."""
        return NetworkSlices(hu, spacing, self.recipe, self.device)

    def __call__(self, samples: np.ndarray, lowest_score: float = LOWEST_SCORE) -> list[Found]:
        """What is found on each of `samples` (n, slices, rows, columns), grey values 0..255."""
        images = to_device(samples, self.device)
        return self.boxes(self.network(images), images, lowest_score)

    def prepare(self, slices: NetworkSlices, ks: Sequence[int]) -> Tensor:
        """The images of some slices.

        On a GPU work only begins here, which is done in the order in which it was begun.
        """
        return slices.samples(ks)

    @torch.inference_mode()
    def network(self, images: Tensor) -> weights.RawOutputs:
        """One pass of the network over `images` (n, slices, rows, columns); on a GPU, as `prepare`, begun only."""
        images = pad_to_multiple(images, self.model.strides[-1])
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            return self.model(images)

    @torch.inference_mode()
    def boxes(self, raw: weights.RawOutputs, images: Tensor, lowest_score: float = LOWEST_SCORE) -> list[Found]:
        """The boxes that the raw outputs for `images` say, those that score `lowest_score` before calibration.

        From the first image on that is too much for float16, float32 is computed in.
        """
        if self.precision == torch.float16 and not _finite(raw):
            self.precision = torch.float32
            raw = self.network(images)
        height, width = images.shape[-2:]
        found = []
        for boxes, scores, labels in self.model.decode(raw, score_threshold=lowest_score):
            boxes, keep = clipped(boxes.numpy(), height, width)
            of_class = labels.numpy()[keep]
            found.append(Found(boxes[keep], self._confidence(scores.numpy()[keep], of_class), self._codes[of_class]))
        return found

    def _confidence(self, scores: np.ndarray, of_class: np.ndarray) -> np.ndarray:
        """Scores (n,) of classes (n,) as the calibration has it."""
        if self.calibration is None:
            return scores
        lines = [self.calibration[label] for label in self.labels]
        slopes, offsets = (np.array([line[name] for line in lines])[of_class] for name in ("slope", "offset"))
        return calibrated(scores, slopes, offsets)


def clipped(boxes: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) cut off at the edges of an image, and which of them (n,) are wider and higher than a pixel still."""
    boxes = boxes.clip([-0.5] * 4, [width - 0.5, height - 0.5] * 2)
    return boxes, (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) > 1


def calibrated(scores: np.ndarray, slopes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Scores (n,) in 0..1, each moved on a line through its log odds (Platt scaling): (n,) float32, in the same
    order where the line is the same."""
    return expit(slopes * logit(scores.astype(np.float64)) + offsets).astype(np.float32)


def _finite(raw: weights.RawOutputs) -> bool:
    return bool(torch.stack([level.isfinite().all() for part in raw for level in part]).all())


def _keep_freed_memory() -> None:
    """Have glibc keep up to 1 GB that is freed: else every pass of the network gets new memory, page by page, a
    sixth of its time."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            libc.mallopt(parameter, 1 << 30)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether `device` is faster in bfloat16 than in float32: a GPU, or a CPU with instructions for it; one without
    takes 4 to 7 times as long."""
    known = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return device.type == "cuda" or any(supported() for supported in known if supported)


def pick_device(name: str) -> torch.device:
    """The device called `name`: "cpu", "cuda", or "auto" for the GPU where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise Refusal(
            "No CUDA GPU is available to PyTorch here; use --device cpu, or install a GPU driver and a CUDA build of "
            "torch."
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def detect(
    volume: Volume,
    detectors: Sequence[Detector],
    progress: Callable[[int, int], None] = lambda done, total: None,
    warn: Callable[[str], None] = lambda sentence: None,
    batch: int | None = None,
) -> list[SliceBoxes]:
    """Detect on every slice of `volume` that shows more than air; several detectors are fused by weighted boxes fusion.

    `progress(done, total)` is called after each batch of slices and may raise to stop; `warn` is told when memory runs
    out and work goes on in smaller batches, or on the CPU.
    """
    passes = len(volume.hu) * len(detectors)
    per_detector = []
    for number, detector in enumerate(detectors):
        before = number * len(volume.hu)
        report = lambda done, before=before: progress(before + done, passes)  # noqa: E731
        per_detector.append(_detect_one(volume, detector, report, warn, batch))
    if len(detectors) == 1:
        return per_detector[0]
    return [_fused(entries) for entries in zip(*per_detector, strict=True)]


def _detect_one(
    volume: Volume, detector: Detector, progress: Callable[[int], None], warn: Callable[[str], None], batch: int | None
) -> list[SliceBoxes]:
    prepared = detector.slices(volume.hu, volume.spacing)
    waiting, total = prepared.with_body, len(prepared)
    slices = [SliceBoxes(k, *_NOTHING) for k in range(total)]
    while waiting:
        try:
            batch = batch or _fitting_batch(detector, prepared, waiting[0])
            for ks, found in _in_batches(detector, prepared, waiting, batch):
                for k, (boxes, scores, labels) in zip(ks, found, strict=True):
                    slices[k] = SliceBoxes(k, prepared.frame.to_index(boxes), scores, labels)
                waiting = waiting[len(ks) :]
                progress(waiting[0] if waiting else total)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            batch = _after_out_of_memory(detector, batch or 1, warn)
            prepared = detector.slices(volume.hu, volume.spacing)
    return slices


def _in_batches(
    detector: Detector, prepared: NetworkSlices, ks: Sequence[int], batch: int
) -> Iterator[tuple[Sequence[int], list[Found]]]:
    """Slices `ks`, `batch` at a time, with what is found on them.

    Each batch is prepared before the boxes of the last are waited for.
    """
    begun = None
    for some in batched(ks, batch):
        images = detector.prepare(prepared, some)
        if begun:
            yield begun[0], detector.boxes(*begun[1:])
        begun = some, detector.network(images), images
    if begun:
        yield begun[0], detector.boxes(*begun[1:])


def batched(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """`items` in their order, `size` at a time."""
    return (items[first : first + size] for first in range(0, len(items), size))


def ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Future[Result]]]:
    """Each item with the future of function(item), which a thread works out for the next item while the caller is
    busy with this one."""
    with ThreadPoolExecutor(1) as thread:
        waiting = deque()
        for item in items:
            waiting.append((item, thread.submit(function, item)))
            if len(waiting) > 1:
                yield waiting.popleft()
        yield from waiting


def _fitting_batch(detector: Detector, prepared: NetworkSlices, k: int) -> int:
    """How many slices like the k-th to look at together: two on a CPU, which is not faster with more.

    On a GPU as many as fit.
    """
    if detector.device.type != "cuda":
        return _SLICES_ON_CPU
    torch.cuda.reset_peak_memory_stats(detector.device)
    held = torch.cuda.memory_allocated(detector.device)
    images = detector.prepare(prepared, [k])
    detector.boxes(detector.network(images), images)
    needed = torch.cuda.max_memory_allocated(detector.device) - held
    return slices_that_fit(torch.cuda.mem_get_info(detector.device)[0], needed)


def slices_that_fit(free: int, needed: int) -> int:
    """How many slices that need `needed` bytes each go into half of the `free` ones: 1 to LARGEST_BATCH."""
    return min(max(free // 2 // max(needed, 1), 1), LARGEST_BATCH)


def _after_out_of_memory(detector: Detector, batch: int, warn: Callable[[str], None]) -> int:
    if batch > 1:
        warn(f"The GPU ran out of memory with {batch} slices at a time; going on with {batch // 2}.")
        return batch // 2
    warn("The GPU ran out of memory; going on with the CPU.")
    detector.to(torch.device("cpu"))
    return _SLICES_ON_CPU


def _fused(entries: tuple[SliceBoxes, ...]) -> SliceBoxes:
    boxes, scores, labels = weighted_boxes_fusion([(entry.boxes, entry.scores, entry.labels) for entry in entries])
    return SliceBoxes(entries[0].k, boxes, scores, labels.astype(int))
