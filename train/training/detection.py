"""The training of a detector: its data sets, its validation, and the card of its weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from LesionDetectorLib.detect import Detector
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.models import weights
from LesionDetectorLib.models.faster_rcnn import TwoStage
from LesionDetectorLib.models.meld import UNIVERSAL, Meld
from torch import nn

from train.data import data_sets
from train.data.crops import Crops, collate
from train.data.deeplesion import MINED, DeepLesionError, KeySlice
from train.data.prepared import PreparedSlices
from train.measuring.detected import detect_key_slices, match
from train.measuring.statement import label_sensitivities
from train.training.loop import Run
from train.training.plan import Plan


class DetectorTask:
    """A detector, crops round key slices to learn from, and the sensitivity on key slices of other patients.

    Parameters
    ----------
    plan: of the training.
    folder: of the run, where prepared slices are kept unless the plan names another place.
    backbone_weights: a torchvision state_dict to start the backbone from.
    """

    figure = "sensitivity"

    def __init__(self, plan: Plan, folder: Path, backbone_weights: Path | None = None) -> None:
        torch.manual_seed(plan.seed)
        self.plan = plan
        self.model = weights.build(plan.architecture)
        if backbone_weights is not None:
            weights.load_backbone(self.model, backbone_weights)
        for stage in self.model.pyramid.stages[: plan.frozen_stages]:
            stage.requires_grad_(False)
        self.scores_lesions = isinstance(self.model, Meld)
        self.organs: list[str] = self.model.architecture.get("organs", [])
        self.cache = Path(plan.cache) if plan.cache else folder / "cache"
        self._validation: list[KeySlice] | None = None

    def data(self) -> tuple[Crops, Callable, int]:
        """Crops of the train split; DeepLesionError where there is none, or lesions on it may be unmarked."""
        plan = self.plan
        key_slices, shares = read_data(plan.data, "train", self.organs)
        if not key_slices:
            raise DeepLesionError(
                f"{' '.join(plan.data)} hold no slice of the train split; check Train_Val_Test in DL_info.csv."
            )
        incomplete = next((entry for entry in key_slices if not self._needed(entry) <= set(entry.complete)), None)
        if incomplete is not None and plan.unmarked < 1 and isinstance(self.model, TwoStage | Meld):
            raise DeepLesionError(
                f"{incomplete.path(incomplete.number)} is marked for some labels only, and the second stage of "
                f"{self.model.NAME} cannot leave the others out; train a one-stage detector, or meld with the label "
                "before the folder (lung:FOLDER), or take what is unmarked for background with --unmarked 1."
            )
        if not self.scores_lesions and any(entry.of(MINED).any() for entry in key_slices):
            raise DeepLesionError(
                f"{' '.join(plan.data)} hold mined lesions, whose boxes are not exact, and only the detector meld can "
                "leave them unlearnt; train with --detector meld."
            )
        prepared = PreparedSlices(self.cache, self.model.recipe)
        crops = Crops(
            key_slices,
            shares,
            plan.steps * plan.batch,
            prepared,
            plan.size,
            seed=plan.seed,
            unmarked=plan.unmarked,
            any_label=self.scores_lesions,
        )
        return crops, collate, math.ceil(len(key_slices) / plan.batch)

    def _needed(self, key_slice: KeySlice) -> set[int]:
        """The labels of which all lesions must be marked on a slice, so that the rest of it is background."""
        if key_slice.dataset == UNIVERSAL:
            return set(BodyPart)
        return {BodyPart.from_title(self.organs[key_slice.dataset - 1])}

    def validate(self, model: nn.Module, device: torch.device) -> float:
        """The mean over the labels of the sensitivity at 4 false positives per image."""
        if self._validation is None:
            found, _ = read_data(self.plan.validate_on or self.plan.data, "val", self.organs)
            own = [entry for entry in found if entry.dataset == UNIVERSAL]
            self._validation = _spread(own, self.plan.validation_slices)
        if not self._validation:
            return float("nan")
        found = detect_key_slices(Detector(model, device), self._validation, cache=self.cache)
        return label_sensitivities(match(self._validation, found))["mean"]

    def export(self, model: nn.Module, path: Path, step: int, figure: float) -> None:
        """Write the weights with a card."""
        weights.save(model, path, card(self.plan, step, figure))


def new_run(plan: Plan, folder: Path, device: torch.device, backbone_weights: Path | None = None) -> Run:
    """A new training of a detector."""
    return Run(DetectorTask(plan, folder, backbone_weights), plan, folder, device)


def resumed(folder: Path, device: torch.device) -> Run:
    """The training of a detector that was stopped in `folder`."""
    return Run.resumed(DetectorTask, folder, device)


def start_from(run: Run, path: Path) -> None:
    """Take over trained weights of the same architecture and input; WeightsError where they are none."""
    trained, _ = weights.load(path)
    if (trained.architecture, trained.recipe) != (run.model.architecture, run.model.recipe):
        raise weights.WeightsError(
            f"{path} has the architecture {trained.architecture} and the input {trained.recipe}, this run "
            f"{run.model.architecture} and {run.model.recipe}."
        )
    run.start_from(trained.state_dict())


def read_data(
    specification: Sequence[str], split: str, organs: Sequence[str] = ()
) -> tuple[list[KeySlice], np.ndarray]:
    """The key slices of several folders or csv files, as `data_sets.read` takes them, and how often each is drawn.

    "FOLDER=2" draws a folder's slices twice as often in all; "lung:FOLDER" is, for a detector that tells data sets
    apart by `organs`, the one of which all lesions of that organ are marked, and no others.
    """
    key_slices, shares = [], []
    for entry in specification:
        folder, share = data_sets.with_share(entry)
        dataset, folder = _dataset(folder, organs)
        found = data_sets.read(Path(folder), split)
        key_slices += [replace(entry, dataset=dataset) for entry in found] if dataset else found
        shares += [share / max(len(found), 1)] * len(found)
    return key_slices, np.array(shares)


def _dataset(folder: str, organs: Sequence[str]) -> tuple[int, str]:
    """The number of the data set that "lung:FOLDER" names, and the folder; any other is UNIVERSAL."""
    organ, _, rest = folder.partition(":")
    names = [name.casefold() for name in organs]
    return (1 + names.index(organ.casefold()), rest) if organ.casefold() in names else (UNIVERSAL, folder)


def card(plan: Plan, step: int, sensitivity: float) -> dict:
    """What the weights' card says about how they were made."""
    return {
        "training": {
            **{name: value for name, value in vars(plan).items() if name not in ("architecture", "cache")},
            "data": [Path(entry).name for entry in plan.data],
            "validate_on": [Path(entry).name for entry in plan.validate_on],
            "steps_done": step,
        },
        "results": {"validation": {"mean_sensitivity_4_fp_iou_0.3": None if math.isnan(sensitivity) else sensitivity}},
    }


def _spread(items: list, count: int) -> list:
    """At most `count` of `items`, evenly spread."""
    return (
        items if len(items) <= count else [items[place] for place in np.linspace(0, len(items) - 1, count).astype(int)]
    )
