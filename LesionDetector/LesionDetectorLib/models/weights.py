"""Weights files: the tensors as safetensors, and beside them a JSON card with the same stem that says what they are."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from LesionDetectorLib.files import write_bytes
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.models.faster_rcnn import FasterRCNN
from LesionDetectorLib.models.foveabox import FoveaBox
from LesionDetectorLib.models.jmi import Jmi
from LesionDetectorLib.models.meld import Meld
from LesionDetectorLib.models.retinanet import RetinaNet
from LesionDetectorLib.models.vfnet import VFNet
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.slices import Recipe

FORMAT = 2
OLDEST_FORMAT = 1
LABELS = [part.title for part in BodyPart]
# A new detector is a file with its class, and a row here.
DETECTORS = {each.NAME: each for each in (VFNet, FasterRCNN, RetinaNet, FoveaBox, Jmi, Meld)}
Model = VFNet | FasterRCNN | RetinaNet | FoveaBox | Jmi | Meld
RawOutputs: TypeAlias = Any
"""What a model gives: each detector has a NamedTuple of its own, whose parts hold a map per level of the pyramid."""
RECIPE = {field.name for field in fields(Recipe)}


class WeightsError(Refusal):
    """A weights file that cannot be used; the message is one sentence for the user."""


def build(architecture: dict, recipe: dict | None = None) -> Model:
    """A new model from a card's "architecture", "detector" and the arguments of its class, and its "input".

    What of a `Recipe` stands in the architecture, as it does in old cards and in the plan of a training, is taken from
    there.
    """
    arguments = {name: value for name, value in architecture.items() if name not in RECIPE}
    eaten = {name: value for name, value in {**(recipe or {}), **architecture}.items() if name in RECIPE}
    detector = arguments.pop("detector", None)
    if detector not in DETECTORS:
        raise WeightsError(f"'{detector}' is not a detector that this version knows; it knows: {', '.join(DETECTORS)}.")
    try:
        return DETECTORS[detector](recipe=Recipe(**eaten), **arguments)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"The architecture {architecture} cannot be built: {error}") from error


def body_parts(labels: list[str]) -> list[BodyPart]:
    """The body part of each label that a network says, in their order; WeightsError for one that is none."""
    try:
        return [BodyPart.from_title(label) for label in labels]
    except (ValueError, AttributeError, TypeError) as error:
        known = ", ".join(LABELS)
        raise WeightsError(f"The labels {labels} are not those of body parts, which are: {known}.") from error


def save(model: Model, path: Path | str, card: dict, half: bool = False, labels: list[str] = LABELS) -> None:
    """Write the weights to `path` (.safetensors) and the card beside it (.json), each at once or not at all.

    The card gets "format", "architecture", "input" (the `Recipe`) and "labels" from the program; `card` adds the rest
    ("training", "results", "calibration", ...). With `half` the tensors are stored as float16.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    facts = {
        "format": FORMAT,
        "architecture": model.architecture,
        "input": asdict(model.recipe),
        "labels": labels,
    }
    _write(path, tensors, {**card, **facts})


def copy(path: Path | str, out: Path | str, facts: dict) -> None:
    """Write the weights at `path`, which `load` takes, to `out` as they are, with `facts` in their card."""
    _write(Path(out), _read_tensors(Path(path)), {**_read_card(Path(path)), **facts})


def _write(path: Path, tensors: dict[str, Tensor], card: dict) -> None:
    """The two files; the calibration stands in the first too, so that its SHA-256 tells what a reading is made with."""
    told = {"calibration": json.dumps(card["calibration"])} if "calibration" in card else None
    write_bytes(path, to_bytes(tensors, told))
    write_bytes(path.with_suffix(".json"), (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode())


def load(path: Path | str) -> tuple[Model, dict]:
    """The model in evaluation mode, in float32 on the CPU, and its card.

    WeightsError if the two files are not usable together.
    """
    path = Path(path)
    card = _read_card(path)
    file = path.with_suffix(".json")
    if card.get("format") not in range(OLDEST_FORMAT, FORMAT + 1):
        raise WeightsError(
            f"{file} has format {card.get('format')}, and this version reads formats {OLDEST_FORMAT} to {FORMAT}."
        )
    if not isinstance(card.get("labels"), list):
        raise WeightsError(f"{file} does not say which labels its network has.")
    body_parts(card["labels"])
    _check_calibration(file, card)
    if not isinstance(card.get("architecture"), dict):
        raise WeightsError(f"{file} does not say which architecture its weights have.")
    recipe = card.get("input", card.get("preprocessing", {}))
    if not isinstance(recipe, dict):
        raise WeightsError(f"{file} does not say which input its network takes.")
    with torch.device("meta"):  # no time spent on weights that are replaced at once
        model = build(card["architecture"], recipe).eval()
    if model.architecture["num_classes"] != len(card["labels"]):
        raise WeightsError(
            f"{file} names {len(card['labels'])} labels for {model.architecture['num_classes']} classes."
        )
    tensors = _read_tensors(path)
    _check_fit(path, model, tensors)
    model.load_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()},
        assign=True,
    )
    return model, card


def load_backbone(model: Model, path: Path | str) -> None:
    """Start the backbone from a state_dict of the torchvision classifier of the same name (a .pth file)."""
    try:
        model.pyramid.load_backbone(torch.load(path, map_location="cpu", weights_only=True))
    except RuntimeError as error:
        raise WeightsError(
            f"{path} does not hold the weights of torchvision's {model.architecture['backbone']}."
        ) from error


def _read_card(path: Path) -> dict:
    file = path.with_suffix(".json")
    if not path.is_file():
        raise WeightsError(f"There is no weights file {path}: check the path.")
    if not file.is_file():
        raise WeightsError(f"The weights {path} have no card; put {file.name} beside them.")
    try:
        card = json.loads(file.read_bytes())
    except ValueError as error:
        raise WeightsError(f"The card {file} is not JSON: {error}.") from error
    if not isinstance(card, dict):
        raise WeightsError(f"The card {file} is not a JSON object.")
    return card


def _check_calibration(file: Path, card: dict) -> None:
    """WeightsError for a calibration that is not a rising line for every label; a card may have none."""
    if "calibration" not in card:
        return
    lines, again = card["calibration"], "fetch the card again, or make it anew with python -m train.calibrate"
    if not isinstance(lines, dict) or lines.keys() != set(card["labels"]):
        raise WeightsError(f"The calibration in {file} does not name each of its labels once; {again}.")
    for label, line in lines.items():
        numbers = [line.get(name) for name in ("slope", "offset")] if isinstance(line, dict) else [None]
        finite = all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers)
        if not finite or numbers[0] <= 0:
            raise WeightsError(
                f"The calibration of '{label}' in {file} needs a slope above 0 and an offset, not {line}; {again}."
            )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a safetensors file is not a mapping)
    except SafetensorError as error:
        raise WeightsError(
            f"The weights {path} are damaged or not safetensors ({error}); fetch the file again."
        ) from error


def _check_fit(path: Path, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    wanted = model.state_dict()
    unlike = sorted(wanted.keys() ^ tensors.keys()) or [
        name for name in wanted if wanted[name].shape != tensors[name].shape
    ]
    if unlike:
        raise WeightsError(
            f"The card {path.with_suffix('.json')} does not fit its weights: {len(unlike)} tensors differ, first "
            f"{unlike[0]}."
        )
