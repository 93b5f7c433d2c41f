"""The body-part regressor: what it takes, what it is taught, and its files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from LesionDetectorLib.models import body_part_regressor
from LesionDetectorLib.models.body_part_regressor import AIR_HU, PIXEL_MM, SIDE, BodyPartRegressor
from LesionDetectorLib.models.weights import WeightsError


def test_every_slice_gets_one_score() -> None:
    images = np.random.default_rng(0).normal(0, 300, (40, SIDE, SIDE)).astype(np.float32)
    model = BodyPartRegressor().eval()
    scores = model.scores(images)
    assert scores.shape == (40,)
    assert model.scores(images[33:34]) == pytest.approx(scores[33], abs=1e-5), "others in the batch change nothing"


def test_scores_shall_rise_towards_the_feet_by_as_much_as_the_slices_lie_apart() -> None:
    model, steps_mm = BodyPartRegressor(), torch.tensor([10.0, 50.0])
    places = torch.arange(8) * steps_mm[:, None] / body_part_regressor.STEP_MM
    z = torch.full((16,), torch.nan)

    def told(scores: torch.Tensor, z: torch.Tensor = z) -> dict[str, float]:
        return {name: float(value) for name, value in model.loss(scores.flatten(), (steps_mm, z)).items()}

    down, up, far = (sum(told(each).values()) for each in (places, -places, 3 * places))
    assert down < far < up
    assert told(places) == pytest.approx({**told(places), "distance": 0, "length": 0, "level": 0}, abs=1e-6)
    assert told(places**2)["distance"] > 0.01
    right = (
        body_part_regressor.LEVEL_OF_ZERO + places.flatten() * body_part_regressor.STEP_MM * body_part_regressor.PER_MM
    )
    assert told(places, right)["level"] == pytest.approx(0, abs=1e-6)
    assert told(places, right + 0.1)["level"] > 1


@pytest.mark.parametrize("pixel_mm", [0.7, 2.5, PIXEL_MM, 6.0])
def test_a_slice_looks_alike_whatever_its_pixels_and_its_field_of_view(pixel_mm: float) -> None:
    def disc(field_mm: float, x_mm: float) -> np.ndarray:
        size = round(field_mm / pixel_mm)
        j, i = (np.mgrid[:size, :size] + 0.5) * pixel_mm
        inside = np.hypot(i - x_mm, j - field_mm / 2) < 100
        slices = body_part_regressor.coarse(np.where(inside, 40, -1000).astype(np.int16)[None], (pixel_mm, pixel_mm, 5))
        return body_part_regressor.prepared(slices, slices > -400)[0]

    one, other = disc(300, 150), disc(500, 220)
    assert one.shape == (SIDE, SIDE) and one[SIDE // 2, SIDE // 2] == 40 and one[0, 0] == AIR_HU
    assert (one > -400).sum() * PIXEL_MM**2 == pytest.approx(np.pi * 100**2, rel=0.08)
    assert ((one > -400) != (other > -400)).sum() < 0.1 * (one > -400).sum()


def test_a_body_that_is_wider_than_the_network_sees_keeps_its_middle() -> None:
    wide = np.full((1, 40, 2 * SIDE), 40.0, np.float32)
    image = body_part_regressor.prepared(wide, wide > 0)[0]
    assert (image[SIDE // 2] == 40).all() and image[0, 0] == AIR_HU


def test_weights_come_back_as_they_were_also_at_half_the_size(tmp_path) -> None:
    model = BodyPartRegressor((8, 16)).eval()
    images = np.random.default_rng(0).normal(0, 300, (2, SIDE, SIDE)).astype(np.float32)
    for half, near in ((False, 0), (True, 1e-2)):
        body_part_regressor.save(model, tmp_path / "levels.safetensors", {"z": {"slope": 2.0}}, half)
        loaded, card = body_part_regressor.load(tmp_path / "levels.safetensors")
        assert card["z"] == {"slope": 2.0}
        assert loaded.scores(images) == pytest.approx(model.scores(images), abs=near)


@pytest.mark.parametrize("spoilt", ["nothing", "card", "tensors", "widths"])
def test_files_that_are_no_regressor_are_refused_by_name(tmp_path, spoilt: str) -> None:
    path = tmp_path / "levels.safetensors"
    if spoilt != "nothing":
        body_part_regressor.save(BodyPartRegressor((8, 16)), path, {})
    if spoilt == "card":
        path.with_suffix(".json").write_text("{}")
    if spoilt == "tensors":
        path.write_bytes(b"none")
    if spoilt == "widths":
        path.with_suffix(".json").write_text('{"architecture": {"widths": [8, 24]}}')
    with pytest.raises(WeightsError, match=r"levels\.safetensors is no body-part regressor with its card"):
        body_part_regressor.load(path)


def test_the_weights_that_ship_are_small() -> None:
    assert body_part_regressor.DEFAULT_WEIGHTS.stat().st_size < 2**20
    assert body_part_regressor.load()[1]["z"]["slope"] > 0
