"""From a CT to measured lesions, with boxes as a perfect detector would draw them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from LesionDetectorLib import pipeline
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.detect import SliceBoxes
from LesionDetectorLib.lesion import BodyPart


@pytest.mark.parametrize("pixel_mm", [0.5, 0.8, 3.0])
def test_a_lesion_is_as_long_whatever_the_pixels_of_the_ct(monkeypatch, pixel_mm):
    """A sphere of 30 mm whose boxes leave 4 mm, 5 px of a detector's input, on every side."""
    size = round(120 / pixel_mm)
    k, j, i = np.mgrid[:7, :size, :size]
    inside = np.hypot(np.hypot(i - size / 2, j - size / 2) * pixel_mm, (k - 3) * 5.0) < 15
    hu = np.random.default_rng(0).normal(np.where(inside, 60, -90), 8).astype(np.int16)
    volume = Volume(hu, (pixel_mm, pixel_mm, 5.0), (0.0, 0.0, 0.0), np.eye(3), Path("sphere"))

    def drawn(k: int) -> SliceBoxes:
        half = (np.sqrt(max(15**2 - ((k - 3) * 5.0) ** 2, 0)) + 4) / pixel_mm
        box = np.array([[size / 2 - half] * 2 + [size / 2 + half] * 2])
        return SliceBoxes(k, box, np.array([0.9]), np.array([int(BodyPart.ABDOMEN)]))

    monkeypatch.setattr(pipeline, "detect", lambda *arguments: [drawn(k) for k in range(1, 6)])
    (lesion,) = pipeline.find_lesions(volume, [])
    assert lesion.key_slice == 3 and lesion.slices == (1, 5) and lesion.body_part == BodyPart.ABDOMEN
    assert lesion.recist.long_mm == pytest.approx(30, abs=max(1.5, pixel_mm))
    assert lesion.recist.short_mm == pytest.approx(30, abs=max(1.5, pixel_mm))


def slab() -> Volume:
    """A body of 200 x 200 mm in 320 x 320 mm of air."""
    hu = np.full((4, 160, 160), -1000, np.int16)
    hu[:, 30:130, 30:130] = 40
    return Volume(hu, (2.0, 2.0, 5.0), (0.0, 0.0, 0.0), np.eye(3), Path("slab"))


def test_what_is_not_plausible_is_no_lesion(monkeypatch):
    """A cable beside the body goes; "lung" in the liver becomes what else was seen, or goes if that is too faint."""
    boxes = np.array([[5, 5, 20, 20], [40, 40, 60, 60], [40.5, 40, 60, 60], [80, 80, 99, 99], [80.5, 80, 99, 99.0]])
    scores = np.array([0.95, 0.8, 0.6, 0.6, 0.1])
    labels = np.array([BodyPart.LUNG, BodyPart.LUNG, BodyPart.LIVER, BodyPart.LUNG, BodyPart.LIVER], int)
    monkeypatch.setattr(pipeline, "detect", lambda *arguments: [SliceBoxes(1, boxes, scores, labels)])
    (lesion,) = pipeline.find_lesions(slab(), [])
    assert (lesion.body_part, lesion.box) == (BodyPart.LIVER, (40, 40, 60, 60))
    assert lesion.confidence == pytest.approx(0.6)


@pytest.mark.parametrize(("boxes", "told"), [(5, False), (6, False), (8, True)])
def test_lesions_that_are_too_many_are_left_out_aloud(monkeypatch, boxes, told):
    monkeypatch.setattr(pipeline, "MOST_LESIONS", 6)
    corners = np.array([[35 + 12 * n, 60] for n in range(boxes)], float)
    found = np.hstack([corners, corners + 10])
    scores = 0.9 - np.arange(boxes) / 10
    slices = [SliceBoxes(1, found, scores, np.full(boxes, int(BodyPart.LIVER)))]
    monkeypatch.setattr(pipeline, "detect", lambda *arguments: slices)
    sentences: list[str] = []
    lesions = pipeline.find_lesions(slab(), [], warn=sentences.append)
    assert [lesion.confidence for lesion in lesions] == pytest.approx(scores[:6].tolist())
    assert sentences == told * [
        "8 possible lesions were found, and only the surest 6 are kept: "
        "2 are left out, with a confidence of 30 % or less."
    ]
