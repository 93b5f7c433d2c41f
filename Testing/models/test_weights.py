"""Weights files: the way there and back, and every reason to refuse one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from LesionDetectorLib.detect import Detector
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.models.backbone import IMAGENET_DEVIATION, IMAGENET_MEAN
from LesionDetectorLib.models.tone import tone
from LesionDetectorLib.models.vfnet import VFNet
from LesionDetectorLib.models.weights import LABELS, WeightsError, copy, load, load_backbone, save
from LesionDetectorLib.slices import Recipe


@pytest.fixture(scope="module")
def model() -> VFNet:
    torch.manual_seed(0)
    return VFNet(channels=8, tower_depth=1, strides=(4, 8), recipe=Recipe(slices=1))


@pytest.fixture
def saved(model: VFNet, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save(model, path, {"training": {"steps": 1}, "results": {}})
    return path


def edit_card(path: Path, **changes) -> None:
    card = path.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | changes))


def test_round_trip(model: VFNet, saved: Path) -> None:
    loaded, card = load(saved)
    assert not loaded.training
    assert card["training"] == {"steps": 1}
    assert card["input"]["slices"] == 1
    assert card["labels"][0] == "Bone"
    images = torch.rand(1, 1, 64, 64) * 255
    assert torch.equal(loaded(images).refined[0], model.eval()(images).refined[0])
    assert sorted(file.name for file in saved.parent.iterdir()) == ["tiny.json", "tiny.safetensors"]


def test_half_precision_is_half_as_large(model: VFNet, saved: Path, tmp_path: Path) -> None:
    save(model, tmp_path / "half.safetensors", {}, half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.55 * saved.stat().st_size
    loaded, _ = load(tmp_path / "half.safetensors")
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())


def test_default_model_fits_in_20_mb() -> None:
    assert sum(tensor.numel() * 4 for tensor in VFNet().state_dict().values()) < 20e6


def swap_tensors(path: Path) -> None:
    other = path.with_name("other.safetensors")
    save(VFNet(channels=16, tower_depth=1, strides=(4, 8), recipe=Recipe(slices=1)), other, {})
    other.replace(path)


def add_tensors(path: Path) -> None:
    other = path.with_name("other.safetensors")
    save(VFNet(channels=8, tower_depth=2, strides=(4, 8), recipe=Recipe(slices=1)), other, {})
    other.replace(path)


def architecture(**changes) -> dict:
    return VFNet(channels=8, tower_depth=1, strides=(4, 8), recipe=Recipe(slices=1)).architecture | changes


LINE = {"slope": 2.0, "offset": -1.0}


def lines(**changes) -> dict:
    """A calibration with the same line for every label, some changed."""
    return dict.fromkeys(LABELS, LINE) | changes


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "no weights file"),
        (lambda path: path.with_suffix(".json").unlink(), "no card"),
        (lambda path: path.with_suffix(".json").write_text("{"), "not JSON"),
        (lambda path: path.with_suffix(".json").write_bytes(b"\xff\xfe\x00"), "not JSON"),
        (lambda path: path.with_suffix(".json").write_text("[]"), "not a JSON object"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_bytes(b"\x80\x04pickle" * 100), "damaged"),
        (swap_tensors, "does not fit"),
        (add_tensors, "does not fit"),
        (lambda path: edit_card(path, format=3), "format 3"),
        (lambda path: edit_card(path, input=[1]), "which input"),
        (lambda path: edit_card(path, input={"window": [0]}), "cannot be built"),
        (lambda path: edit_card(path, labels=None), "which labels"),
        (lambda path: edit_card(path, labels=["Brain"] * 8), "not those of body parts"),
        (lambda path: edit_card(path, labels=["Liver"]), "1 labels for 8 classes"),
        (lambda path: edit_card(path, input={"tone": "sepia"}), "'sepia' is not a tone"),
        (lambda path: edit_card(path, architecture=None), "which architecture"),
        (lambda path: edit_card(path, calibration=None), "does not name each of its labels"),
        (lambda path: edit_card(path, calibration={"Liver": LINE}), "does not name each of its labels"),
        (lambda path: edit_card(path, calibration=lines(Liver=None)), "of 'Liver' in .* a slope above 0"),
        (lambda path: edit_card(path, calibration=lines(Liver={"slope": 1})), "of 'Liver' in .* a slope above 0"),
        (lambda path: edit_card(path, calibration=lines(Lung=LINE | {"slope": -1})), "of 'Lung' in .* a slope above 0"),
        (lambda path: edit_card(path, calibration=lines(Bone=LINE | {"offset": float("nan")})), "and an offset"),
        (lambda path: edit_card(path, calibration=lines(Bone=LINE | {"offset": "0"})), "train.calibrate"),
        (lambda path: edit_card(path, architecture=architecture(detector="yolo")), "'yolo' is not a detector"),
        (lambda path: edit_card(path, architecture=architecture(backbone="vgg")), "'vgg' is not a backbone"),
        (lambda path: edit_card(path, architecture=architecture(depth=3)), "cannot be built"),
        (lambda path: edit_card(path, architecture=architecture(strides=[4, 12])), "must double"),
        (lambda path: edit_card(path, architecture=architecture(channels=12)), "multiple of 8"),
    ],
)
def test_refusals(saved: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(saved)
    with pytest.raises(WeightsError, match=message) as refusal:
        load(saved)
    assert "\n" not in str(refusal.value)


def test_imagenet_backbone(shared_data: Path) -> None:
    path = shared_data / "backbone" / "mobilenet_v2_1.0_224_quant_torchvision.pth"
    net = torchvision.models.mobilenet_v2(weights=None).eval()
    net.load_state_dict(torch.load(path, weights_only=True))
    model = VFNet(channels=8, tower_depth=1)
    load_backbone(model, path)
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        features = model.pyramid.stages[1](model.pyramid.stages[0](images))
        torch.testing.assert_close(features, net.features[:7](images), atol=1e-3, rtol=1e-3)
    with pytest.raises(WeightsError, match="resnet18"):
        load_backbone(VFNet(backbone="resnet18", channels=8, tower_depth=1), path)


def test_the_card_says_what_the_network_eats_and_what_it_says(tmp_path: Path) -> None:
    recipe = Recipe(slices=1, pixel_mm=1.0, window=(-175, 275), tone="linear")
    save(
        VFNet(channels=8, tower_depth=1, strides=(4,), recipe=recipe, num_classes=2),
        tmp_path / "a.safetensors",
        {},
        labels=["Liver", "Bone"],
    )
    model, card = load(tmp_path / "a.safetensors")
    assert model.recipe == recipe and card["labels"] == ["Liver", "Bone"]
    assert not {"slices", "pixel_mm", "window", "tone"} & card["architecture"].keys(), "each is said once"
    detector = Detector.load(tmp_path / "a.safetensors", "cpu")
    hu = np.full((3, 64, 64), 50, np.int16)
    assert detector.slices(hu, (1.0, 1.0, 2.0)).sample(1).max() == pytest.approx(127.5)
    found = detector(np.random.default_rng(0).uniform(0, 255, (1, 1, 64, 64)).astype(np.float32), 0.0)
    assert set(found[0].labels) <= {BodyPart.LIVER, BodyPart.BONE} and len(found[0].labels)


def test_a_calibration_moves_scores_label_by_label_and_nothing_else(saved: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (1, 1, 64, 64)).astype(np.float32)
    raw = Detector.load(saved, "cpu")(image, 0.0)[0]
    copy(saved, tmp_path / "sure.safetensors", {"calibration": lines(Bone={"slope": 0.5, "offset": 1.0})})
    sure = Detector.load(tmp_path / "sure.safetensors", "cpu")(image, 0.0)[0]
    np.testing.assert_array_equal(sure.boxes, raw.boxes)
    np.testing.assert_array_equal(sure.labels, raw.labels)
    bone = raw.labels == BodyPart.BONE
    assert bone.any() and not bone.all()
    odds = np.log(raw.scores) - np.log1p(-raw.scores)
    np.testing.assert_allclose(sure.scores, 1 / (1 + np.exp(-np.where(bone, 0.5 * odds + 1, 2 * odds - 1))), rtol=1e-4)


def test_a_copy_has_the_same_tensors_but_another_sha_with_another_calibration(saved: Path, tmp_path: Path) -> None:
    for name, facts in (
        ("a", {}),
        ("b", {"calibration": lines()}),
        ("c", {"calibration": lines(Bone=LINE | {"slope": 3})}),
    ):
        copy(saved, tmp_path / f"{name}.safetensors", facts)
        model, card = load(tmp_path / f"{name}.safetensors")
        torch.testing.assert_close(model.state_dict(), load(saved)[0].state_dict(), rtol=0, atol=0)
        assert card["training"] == {"steps": 1} and card.get("calibration") == facts.get("calibration")
    assert (tmp_path / "a.safetensors").read_bytes() == saved.read_bytes()
    assert len({(tmp_path / f"{name}.safetensors").read_bytes() for name in "abc"}) == 3, "a reading names its SHA-256"


def test_a_linear_tone_is_linear_and_the_curve_of_a_ct_is_not() -> None:
    grey = torch.tensor([0.0, 63.75, 127.5, 255.0])
    assert tone(grey, Recipe(tone="linear")).tolist() == [-1.0, -0.5, 0.0, 1.0]
    curved = tone(grey, Recipe())
    assert grey[-1] == 255, "the images stay as they are"
    assert curved[0] == -1 and curved[-1] == pytest.approx(1) and curved[1] > -0.5


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34"])
def test_a_backbone_sees_what_its_imagenet_weights_have_learnt(backbone: str, tmp_path: Path) -> None:
    """Three equal slices give what the classifier makes of a grey picture, normalised as torchvision does."""
    net = getattr(torchvision.models, backbone)(weights=None).eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    model = VFNet(backbone=backbone, channels=8, tower_depth=1).eval()
    load_backbone(model, tmp_path / "net.pth")
    grey = torch.rand(1, 1, 64, 64).expand(1, 3, 64, 64)
    normalised = torchvision.transforms.functional.normalize(grey, IMAGENET_MEAN, IMAGENET_DEVIATION)
    with torch.no_grad():
        ours = model.pyramid.stages[0][0][0](grey * 2 - 1)
        theirs = net.bn1(net.conv1(normalised))
    inside = (..., slice(2, -2), slice(2, -2))  # at the border zeros are padded, which mean another grey
    torch.testing.assert_close(ours[inside], theirs[inside], atol=1e-4, rtol=1e-4)
