"""Weights files: the tensors as safetensors, and beside them a JSON card with the same stem that says what they are."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from LesionDetectorLib.files import write_bytes
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.models.faster_rcnn import FasterRCNN
from LesionDetectorLib.models.foveabox import FoveaBox
from LesionDetectorLib.models.jmi import Jmi
from LesionDetectorLib.models.retinanet import RetinaNet
from LesionDetectorLib.models.vfnet import VFNet
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.slices import MAX_SIZE, NEIGHBOUR_MM, WINDOW

FORMAT = 1
LABELS = [part.title for part in BodyPart]
DETECTORS = {"vfnet": VFNet, "faster_rcnn": FasterRCNN, "retinanet": RetinaNet, "foveabox": FoveaBox, "jmi": Jmi}
Model = VFNet | FasterRCNN | RetinaNet | FoveaBox | Jmi
RawOutputs = tuple[tuple[Tensor, ...], ...]
"""What a model gives: each detector has a NamedTuple of its own, whose parts hold a map per level of the pyramid."""
PREPROCESSING = {"window": list(WINDOW), "neighbour_mm": NEIGHBOUR_MM, "max_size": MAX_SIZE}


class WeightsError(Refusal):
    """A weights file that cannot be used; the message is one sentence for the user."""


def build(architecture: dict) -> Model:
    """A new model from a card's "architecture": "detector" and the keyword arguments of its class."""
    arguments = dict(architecture)
    detector = arguments.pop("detector", None)
    if detector not in DETECTORS:
        raise WeightsError(f"'{detector}' is no detector that this version knows; it knows: {', '.join(DETECTORS)}.")
    try:
        return DETECTORS[detector](**arguments)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"The architecture {architecture} cannot be built: {error}") from error


def save(model: Model, path: Path | str, card: dict, half: bool = False) -> None:
    """Write the weights to `path` (.safetensors) and the card beside it (.json), each at once or not at all.

    The card gets "format", "architecture", "labels" and "preprocessing" from the program; `card` adds the rest
    ("training", "results", ...). With `half` the tensors are stored as float16.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    facts = {
        "format": FORMAT,
        "architecture": model.architecture,
        "labels": LABELS,
        "preprocessing": {**PREPROCESSING, **{name: model.architecture[name] for name in ("slices", "pixel_mm")}},
    }
    write_bytes(path, to_bytes(tensors))
    write_bytes(
        path.with_suffix(".json"), (json.dumps({**card, **facts}, indent=2, ensure_ascii=False) + "\n").encode()
    )


def load(path: Path | str) -> tuple[Model, dict]:
    """The model in evaluation mode, in float32 on the CPU, and its card.

    WeightsError if the two files are not usable together.
    """
    path = Path(path)
    card = _read_card(path)
    if card.get("format") != FORMAT:
        raise WeightsError(
            f"{path.with_suffix('.json')} has format {card.get('format')}, and this version reads format {FORMAT} only."
        )
    if card.get("labels") != LABELS:
        raise WeightsError(
            f"{path.with_suffix('.json')} names the labels {card.get('labels')}, and this version needs {LABELS}."
        )
    if not isinstance(card.get("architecture"), dict):
        raise WeightsError(f"{path.with_suffix('.json')} does not say which architecture its weights have.")
    with torch.device("meta"):  # no time spent on weights that are replaced at once
        model = build(card["architecture"]).eval()
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


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a safetensors file is no mapping)
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
