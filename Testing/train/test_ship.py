"""Shipping halves the weights and keeps what was measured."""

from __future__ import annotations

import json

import pytest
import torch
from LesionDetectorLib.models import weights
from LesionDetectorLib.models.vfnet import VFNet
from LesionDetectorLib.slices import Recipe

from train import ship


@pytest.fixture
def trained(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "best.safetensors"
    weights.save(
        VFNet(channels=8, tower_depth=1, recipe=Recipe(slices=1)),
        path,
        {"training": {"steps": 7}, "results": {"validation": {"mean": 0.5}}},
    )
    return path


def test_half_the_size_the_same_network_and_every_result(trained, tmp_path):
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"slices": 3}))
    out = tmp_path / "shipped.safetensors"
    assert ship.main([str(trained), "--out", str(out), "--result", f"phantom test patients={report}"]) == 0
    model, card = weights.load(out)
    assert card["name"] == "shipped" and card["training"] == {"steps": 7}
    assert card["results"] == {"validation": {"mean": 0.5}, "phantom test patients": {"slices": 3}}
    assert out.stat().st_size < 0.6 * trained.stat().st_size
    images = torch.rand(1, 1, 64, 64) * 255
    with torch.no_grad():
        for shipped, before in zip(model(images).refined, weights.load(trained)[0](images).refined):
            torch.testing.assert_close(shipped, before, rtol=0.02, atol=0.05)


def test_labels_and_calibration_stay_with_the_weights(tmp_path):
    labels = ["Liver", "Bone"]
    card = {"calibration": {label: {"slope": 1.5, "offset": -1.0} for label in labels}}
    model = VFNet(channels=8, tower_depth=1, recipe=Recipe(slices=1), num_classes=2)
    weights.save(model, tmp_path / "best.safetensors", card, labels=labels)
    assert ship.main([str(tmp_path / "best.safetensors"), "--out", str(tmp_path / "out.safetensors")]) == 0
    shipped = weights.load(tmp_path / "out.safetensors")[1]
    assert (shipped["labels"], shipped["calibration"]) == (labels, card["calibration"])


@pytest.mark.parametrize("result", ["report.json", "phantoms=absent.json"])
def test_a_result_that_cannot_be_read_is_named(trained, tmp_path, capsys, result):
    with pytest.raises(SystemExit) as stopped:
        ship.main([str(trained), "--out", str(tmp_path / "out.safetensors"), "--result", result])
    assert stopped.value.code == 2
    assert result.split("=")[-1] in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_weights_that_cannot_be_used_are_named(tmp_path, capsys):
    assert ship.main([str(tmp_path / "absent.safetensors"), "--out", str(tmp_path / "out.safetensors")]) == 2
    assert "absent.safetensors" in capsys.readouterr().err
