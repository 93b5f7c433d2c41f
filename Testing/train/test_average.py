"""The mean of two rounds of training."""

from __future__ import annotations

import pytest
import torch
from LesionDetectorLib.models import weights
from LesionDetectorLib.models.vfnet import VFNet
from LesionDetectorLib.slices import Recipe

from train import average


def trained(path, seed: int, channels: int = 8, **card):
    torch.manual_seed(seed)
    weights.save(VFNet(channels=channels, tower_depth=1, recipe=Recipe(slices=1)), path, card)
    return path


def test_every_weight_is_the_mean_and_the_card_says_of_what(tmp_path):
    one = trained(tmp_path / "one.safetensors", 1, training={"steps": 7})
    calibration = {label: {"slope": 1.5, "offset": -1.0} for label in weights.load(one)[1]["labels"]}
    two = trained(
        tmp_path / "two.safetensors", 2, training={"steps": 9}, calibration=calibration, results={"validation": 1}
    )
    out = tmp_path / "mean.safetensors"
    assert average.main([str(one), str(two), "--out", str(out)]) == 0
    model, card = weights.load(out)
    ones, twos = (weights.load(path)[0].state_dict() for path in (one, two))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, (ones[name] + twos[name]) / 2 if value.is_floating_point() else twos[name])
    assert card["mean_of"] == [{"steps": 7}, {"steps": 9}] and card["name"] == "mean"
    assert not card.keys() & {"calibration", "results"}, "what was measured holds for neither"


def test_weights_of_different_networks_are_refused(tmp_path, capsys):
    one, other = trained(tmp_path / "one.safetensors", 1), trained(tmp_path / "other.safetensors", 1, channels=16)
    assert average.main([str(one), str(other), "--out", str(tmp_path / "mean.safetensors")]) == 2
    assert f"{other} has another architecture than {one}" in capsys.readouterr().err
    assert not (tmp_path / "mean.safetensors").exists()


def test_one_weights_file_has_no_mean_and_none_is_written_over(tmp_path, capsys):
    one = trained(tmp_path / "one.safetensors", 1)
    for more in ([], [str(one)]):
        with pytest.raises(SystemExit):
            average.main([str(one), *more, "--out", str(one)])
    assert "two weights or more" in capsys.readouterr().err
