"""What a body-part regressor learns from: equidistant slices of whole series, changed at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from LesionDetectorLib.models.body_part_regressor import AIR_HU, PIXEL_MM, SIDE, BodyPartRegressor, save
from LesionDetectorLib.refusal import Refusal
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate
from torch.utils.data import Dataset

from train.data.series import Series, read
from train.training.plan import Plan

SLICES = 8
LONGEST_STEP_MM = 60.0


class Batch(NamedTuple):
    """Slices (n * SLICES, side, side) in HU on their way to the training, how far they lie apart (n,) in mm, and their
    levels (n * SLICES,), NaN where unknown."""

    images: Tensor
    steps_mm: Tensor
    z: Tensor

    def on(self, device: torch.device) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The slices, and what is known of them, on `device`."""
        return self.images.to(device).float(), (self.steps_mm.to(device), self.z.to(device))


class EquidistantSlices(Dataset):
    """A fixed plan of random runs of SLICES slices, head to feet; item n depends on `seed` and n alone."""

    def __init__(self, series: Sequence[Series], count: int, seed: int) -> None:
        self.series, self.count, self.seed = series, count, seed
        shares = np.array([each.share for each in series])
        self._shares = shares / shares.sum()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: int) -> tuple[Tensor, float, Tensor]:
        rng = np.random.default_rng((self.seed, item))
        series = self.series[rng.choice(len(self.series), p=self._shares)]
        count = len(series.images)
        longest = min((count - 1) // (SLICES - 1), max(int(LONGEST_STEP_MM / series.step_mm), 1))
        step = int(rng.integers(1, longest + 1))
        first = int(rng.integers(0, count - (SLICES - 1) * step))
        taken = slice(first, first + SLICES * step, step)
        images = torch.from_numpy(series.images[taken].astype(np.float32))
        z = np.full(SLICES, np.nan) if series.z is None else series.z[taken]
        return changed(images, rng).half(), step * series.step_mm, torch.from_numpy(np.array(z, np.float32, order="C"))


def changed(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Slices (n, side, side) in HU of one patient as if he were larger or smaller, lay otherwise and were scanned
    elsewhere."""
    images = _moved(images, rng)
    if rng.random() < 0.3:
        images = _cut(images, rng)
    if rng.random() < 0.15:
        images = _on_table(images, rng)
    if rng.random() < 0.5:
        images = _hidden(images, rng)
    if rng.random() < 0.3:
        images = avg_pool2d(images[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
    noise = torch.from_numpy(rng.standard_normal(images.shape, np.float32))
    images = images * rng.uniform(0.9, 1.1) + rng.uniform(-25, 25) + noise * rng.uniform(0, 35)
    if rng.random() < 0.15:
        images = images.clamp(rng.uniform(-200, -150), rng.uniform(230, 300))
    return images.clamp(AIR_HU, 3071)


def _moved(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Scaled, turned, shifted, bent, and in half of the cases with left and right exchanged."""
    scale, turn = 1 / rng.uniform(0.83, 1.2), rng.uniform(-0.14, 0.14)
    across, along = scale * rng.uniform(0.95, 1.05, 2)
    mirror = rng.choice([-1, 1])
    rows = [
        [mirror * across * np.cos(turn), -across * np.sin(turn)],
        [mirror * along * np.sin(turn), along * np.cos(turn)],
    ]
    matrix = np.column_stack([rows, rng.uniform(-0.08, 0.08, 2)])
    grid = affine_grid(torch.tensor(matrix[None], dtype=torch.float32), [1, 1, *images.shape[1:]], align_corners=False)
    knots = torch.from_numpy(rng.normal(0, 0.025, (1, 2, 6, 6)).astype(np.float32))
    bend = interpolate(knots, tuple(images.shape[1:]), mode="bicubic", align_corners=False)
    grid = (grid + bend.permute(0, 2, 3, 1)).expand(len(images), -1, -1, -1)
    return grid_sample((images - AIR_HU)[:, None], grid, align_corners=False)[:, 0] + AIR_HU


def _cut(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Seen through a smaller field of view, round or without the arms."""
    at = (torch.arange(SIDE) - SIDE / 2 + 0.5) * PIXEL_MM
    across, along = at[None] - rng.uniform(-20, 20), at[:, None] - rng.uniform(-20, 20)
    radius = rng.uniform(120, 210)
    inside = across.hypot(along) < radius if rng.random() < 0.5 else (across.abs() < radius).expand(SIDE, SIDE)
    return torch.where(inside, images, torch.tensor(AIR_HU))


def _hidden(images: Tensor, rng: np.random.Generator) -> Tensor:
    """With a part of the picture hidden, so that no single organ tells the level."""
    height, width = rng.integers(8, 32, 2)
    row, column = rng.integers(16, SIDE - 16 - height), rng.integers(8, SIDE - 8 - width)
    images = images.clone()
    images[:, row : row + height, column : column + width] = float(rng.choice([AIR_HU, -100.0, 40.0]))
    return images


def _on_table(images: Tensor, rng: np.random.Generator) -> Tensor:
    """With a table behind, or in front of a patient who lies prone."""
    row, thick = int(rng.integers(SIDE * 3 // 5, SIDE - 8)), int(rng.integers(1, 5))
    row = row if rng.random() < 0.8 else SIDE - row
    half = int(rng.integers(20, 60))
    images = images.clone()
    table = images[:, row : row + thick, SIDE // 2 - half : SIDE // 2 + half]
    table.clamp_(min=float(rng.uniform(-500, 100)))
    return images


def collate(samples: Sequence[tuple[Tensor, float, Tensor]]) -> Batch:
    """A batch of runs."""
    images, steps, z = zip(*samples)
    return Batch(torch.cat(images), torch.tensor(steps), torch.cat(z))


class OrderingTask:
    """A body-part regressor and the series that it learns from.

    `plan.data` are the data sets, `plan.validate_on` the names of the series that are held out, as `series.read` has
    them; on those and the phantoms' test split it is watched.
    """

    figure = "rank correlation"

    def __init__(self, plan: Plan, folder: Path) -> None:
        torch.manual_seed(plan.seed)
        self.plan, self.model = plan, BodyPartRegressor()
        self._tests: list[Series] | None = None
        self.series = read(plan.data, plan.validate_on, test=False)
        short = next((each.name for each in self.series if len(each.images) < SLICES), None)
        if short is not None:
            raise Refusal(f"{short} has fewer than {SLICES} slices that show a body; leave it out.")
        if all(each.z is None for each in self.series):
            raise Refusal(
                "No series to train on knows its levels; add phantoms, made by python -m train.phantom --format nrrd."
            )

    def data(self) -> tuple[EquidistantSlices, Callable, int]:
        items = EquidistantSlices(self.series, self.plan.steps * self.plan.batch, self.plan.seed)
        return items, collate, max(len(self.series) // self.plan.batch, 100)

    def validate(self, model: nn.Module, device: torch.device) -> float:
        """The median rank correlation of scores and order in series that are not learnt from."""
        if self._tests is None:
            self._tests = read(self.plan.data, self.plan.validate_on, test=True)
        model.eval()
        found = [spearmanr(model.scores(each.images), each.places).statistic for each in self._tests]
        return float(np.median(found)) if found else float("nan")

    def export(self, model: nn.Module, path: Path, step: int, figure: float) -> None:
        """Write the weights, with the line from scores to levels that the training's phantoms say."""
        training = {"steps_done": step, "batch": self.plan.batch, "slices": SLICES, "rate": self.plan.rate}
        names = {"series": [each.name for each in self.series], "held_out": list(self.plan.validate_on)}
        save(model, path, {"name": path.stem, "z": calibrated(model, self.series), "training": {**training, **names}})


def calibrated(model: BodyPartRegressor, series: Sequence[Series]) -> dict[str, float]:
    """The line from scores to z, how steeply z rises in patients, and how far off a slice and a whole series are in mm,
    one standard deviation: of the series whose levels are known."""
    model.eval()
    known = [each for each in series if each.z is not None]
    scores = [model.scores(each.images[::4]) for each in known]
    truth = [each.z[::4] for each in known]
    slope, offset = np.polyfit(np.concatenate(scores), np.concatenate(truth), 1)
    per_mm = float(np.median([np.polyfit(each.places, each.z, 1)[0] for each in known]))
    errors = [(slope * score + offset - z) / per_mm for score, z in zip(scores, truth)]
    whole = [float(np.median(error)) for error in errors]
    return {
        "slope": float(slope),
        "offset": float(offset),
        "per_mm": per_mm,
        "volume_error_mm": float(np.std(whole)),
        "slice_error_mm": float(np.std(np.concatenate([error - middle for error, middle in zip(errors, whole)]))),
    }
