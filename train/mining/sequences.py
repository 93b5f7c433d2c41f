"""What an embedding learns from: sequences of four lesions, in patches that are relit at random."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from LesionDetectorLib.models import weights
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.slices import Recipe
from torch import Tensor, nn
from torch.utils.data import Dataset

from train.data.crops import Augmentation, Light, random_light, relight
from train.data.deeplesion import (
    NOTHING,
    ORIGIN,
    SPLITS,
    KeySlice,
    located,
    read_boxes,
    read_info,
    read_numbers,
    read_table,
)
from train.data.prepared import PreparedSlices
from train.mining.embedding import Embedding, Patches, cut, save
from train.training.plan import Plan

HELD_OUT = 5
"""Every so-manieth patient of the train split is left to calibrate on."""
_NEAR_PLACE, _NEAR_SIZE = 0.03, 0.4
_NEAREST = 3
_ITSELF = 0.3  # how often B is A with another box and light
_JITTER = 0.1  # of a box's sides: proposals are not exact


class Batch(NamedTuple):
    """Sequences on their way to the training: patches (4 n, ...), their lights and labels (4 n,)."""

    patches: Patches
    lights: list[Light]
    labels: Tensor

    def on(self, device: torch.device) -> tuple[Patches, Tensor]:
        """Relit patches and labels on `device`."""
        images, boxes, places = (part.to(device, non_blocking=True) for part in self.patches)
        return Patches(relight(images, self.lights), boxes, places), self.labels.to(device)


class Lesions(NamedTuple):
    """The marked lesions of the train split: slices (n,), boxes (n, 4) in 0-based pixels, labels (n,) codes or -1,
    places (n, 4): relative location in the body and the logarithm of the diameter in mm, each by how near is near."""

    slices: list[KeySlice]
    boxes: np.ndarray
    labels: np.ndarray
    places: np.ndarray


def held_out(patient: int) -> bool:
    """Whether a patient of the train split is left to calibrate on."""
    return patient % HELD_OUT == 0


def read_lesions(source: Path) -> Lesions:
    """The marked lesions of the train split of a data set as `read_info` takes it, without the patients held out."""
    csv, images = located(source)
    slices = {entry.name: entry for entry in read_info(csv, "train", images)}
    table = read_table(csv)
    table = table[table["File_name"].isin(slices) & (table["Train_Val_Test"] == SPLITS["train"])]
    table = table[[not held_out(slices[name].patient) for name in table["File_name"]]]
    if ORIGIN in table.columns:
        table = table[table[ORIGIN] != NOTHING]
    if len(table) < 2:
        raise Refusal(f"{csv} has too few lesions in its train split to learn an embedding from.")
    spacing = np.array([slices[name].spacing[0] for name in table["File_name"]])
    long_mm = read_numbers(csv, table, "Lesion_diameters_Pixel_", 2)[:, 0] * spacing
    where = np.nan_to_num(read_numbers(csv, table, "Normalized_lesion_location", 3, blank=True), nan=0.5)
    places = np.column_stack([where / _NEAR_PLACE, np.log(np.maximum(long_mm, 1)) / _NEAR_SIZE])
    labels = table["Coarse_lesion_type"].to_numpy(int)
    return Lesions([slices[name] for name in table["File_name"]], read_boxes(csv, table), labels, places)


class Sequences(Dataset):
    """A fixed plan of random sequences; item n depends on `seed` and n alone."""

    def __init__(self, lesions: Lesions, count: int, prepared: PreparedSlices, side: int, seed: int) -> None:
        self.lesions, self.count, self.prepared, self.side, self.seed = lesions, count, prepared, side, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: int) -> tuple[Patches, list[Light], list[int]]:
        rng = np.random.default_rng((self.seed, item))
        chosen = sequence(self.lesions, rng)
        patches = [self._patch(place, rng) for place in chosen]
        lights = [random_light(Augmentation(), self.prepared.recipe, rng) for _ in chosen]
        labels = [max(int(self.lesions.labels[place]) - 1, -1) for place in chosen]
        return Patches(*(torch.stack(part) for part in zip(*patches))), lights, labels

    def _patch(self, place: int, rng: np.random.Generator) -> Patches:
        sample, frame = self.prepared(self.lesions.slices[place])
        box = self.lesions.boxes[place]
        shifted = box + np.tile(box[2:] - box[:2], 2) * rng.uniform(-_JITTER, _JITTER, 4)
        return cut(sample, frame, shifted, self.side, self.prepared.recipe.pixel_mm)


def sequence(lesions: Lesions, rng: np.random.Generator) -> list[int]:
    """The places of A, B, C and D among the lesions. Where no other label is known, D is what is farthest."""
    first = int(rng.integers(len(lesions.labels)))
    distance = np.linalg.norm(lesions.places - lesions.places[first], axis=1)
    own = np.flatnonzero(lesions.labels == lesions.labels[first])
    own = own[np.argsort(distance[own], kind="stable")]
    own = own[own != first]
    others = np.flatnonzero(lesions.labels != lesions.labels[first])
    if not len(others):
        others = own[-max(len(own) // 10, 1) :]
    near = first if rng.random() < _ITSELF or not len(own) else int(rng.choice(own[:_NEAREST]))
    far = int(rng.choice(own[len(own) // 2 :])) if len(own) else first
    return [first, near, far, int(rng.choice(others))]


def collate(samples: list[tuple[Patches, list[Light], list[int]]]) -> Batch:
    """A batch of sequences."""
    patches, lights, labels = zip(*samples)
    return Batch(
        Patches(*(torch.cat(part) for part in zip(*patches))), list(chain(*lights)), torch.tensor(list(chain(*labels)))
    )


class EmbeddingTask:
    """An embedding, and sequences of the lesions of a data set to learn it from; `calibrate` judges it."""

    figure = "none"

    def __init__(self, plan: Plan, folder: Path, backbone_weights: Path | None = None) -> None:
        torch.manual_seed(plan.seed)
        self.plan = plan
        eaten = {name: value for name, value in plan.architecture.items() if name in weights.RECIPE}
        self.model = Embedding(recipe=Recipe(**eaten), backbone=plan.architecture["backbone"])
        if backbone_weights is not None:
            self.model.pyramid.load_backbone(torch.load(backbone_weights, map_location="cpu", weights_only=True))
        self.cache = Path(plan.cache) if plan.cache else folder / "cache"

    def data(self) -> tuple[Sequences, Callable, int]:
        lesions = read_lesions(Path(self.plan.data[0]))
        prepared = PreparedSlices(self.cache, self.model.recipe)
        plan = self.plan
        items = Sequences(lesions, plan.steps * plan.batch, prepared, self.model.side, plan.seed)
        return items, collate, max(len(lesions.slices) // plan.batch, 1)

    def validate(self, model: nn.Module, device: torch.device) -> float:
        return float("nan")

    def export(self, model: nn.Module, path: Path, step: int, figure: float) -> None:
        save(model, path, {"training": {"steps_done": step, "seed": self.plan.seed}})
