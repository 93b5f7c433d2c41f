"""Overlay pictures: which way round, true to scale, and with captions that cover no lesion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.lesion import BodyPart, Lesion, Recist, ReviewStatus
from LesionDetectorLib.looks import colour
from LesionDetectorLib.report import figures
from matplotlib.image import imread

SPACING = (1.0, 0.5, 3.0)


@pytest.fixture
def volume() -> Volume:
    """A bright disc of 30 mm radius on the patient's right, in pixels twice as wide as high."""
    j, i = np.mgrid[:200, :100]
    hu = np.full((4, 200, 100), -100, np.int16)
    hu[:, np.hypot((i - 33) * SPACING[0], (j - 80) * SPACING[1]) < 30] = 2000
    return Volume(hu, SPACING, (0.0, 0.0, 0.0), np.eye(3), Path("ct.nrrd"))


@pytest.fixture
def lesions() -> list[Lesion]:
    recist = Recist(((60.0, 100.0), (80.0, 100.0)), ((70.0, 90.0), (70.0, 110.0)), 20.0, 10.0)
    return [
        Lesion(BodyPart.LIVER, 0.87, 2, (1, 3), (55.0, 85.0, 85.0, 115.0), recist),
        Lesion(BodyPart.LUNG, 0.6, 2, (2, 2), (55.0, 50.0, 85.0, 80.0), recist, ReviewStatus.ACCEPTED),
        Lesion(BodyPart.BONE, 0.5, 1, (1, 1), (5.0, 5.0, 15.0, 15.0)),
    ]


def test_one_picture_a_lesion_and_an_overview(volume, lesions, tmp_path):
    files = figures.write_lesion_pictures(volume, lesions, tmp_path / "pictures")
    assert [file.name for file in files] == ["lesion_01.png", "lesion_02.png", "lesion_03.png", "overview.png"]
    for file, lesion in zip(files, lesions):
        pixels = imread(file)[..., :3]
        coloured = np.abs(pixels - colour(lesion)).max(axis=-1) < 0.02
        assert coloured.sum() > 300


def test_no_lesion_no_picture(volume, tmp_path):
    assert figures.write_lesion_pictures(volume, [], tmp_path / "pictures") == []
    assert not (tmp_path / "pictures").exists()


def test_patients_right_is_on_the_left_and_circles_are_round(volume, lesions):
    figure = figures.lesion_figure(volume, lesions, 3)
    whole = figure.axes[0]
    for drawn in (*whole.texts, *whole.patches):
        drawn.remove()
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., 0]
    x0, y0, x1, y1 = whole.bbox.extents.astype(int)
    panel = pixels[pixels.shape[0] - y1 : pixels.shape[0] - y0, x0:x1]
    disc = np.argwhere(panel > 250)
    height, width = np.ptp(disc, axis=0)
    assert disc[:, 1].mean() < 0.45 * panel.shape[1]
    assert width == pytest.approx(height, rel=0.05)


def test_the_enlargement_holds_the_whole_box(volume, lesions):
    big = lesions[0].edited(box=(2.0, 3.0, 97.0, 190.0))
    for lesion in (*lesions, big):
        zoom = figures.lesion_figure(volume, [lesion], 1).axes[1]
        x0, y0, x1, y1 = np.array(lesion.box) * (*SPACING[:2], *SPACING[:2])
        assert zoom.get_xlim()[0] < x0 < x1 < zoom.get_xlim()[1]
        assert zoom.get_ylim()[1] < y0 < y1 < zoom.get_ylim()[0]


@pytest.mark.parametrize("enlarged", [False, True])
def test_a_panel_by_itself_is_that_of_the_picture(volume, lesions, enlarged):
    half = figures.lesion_figure(volume, lesions, 1).axes[enlarged]
    (panel,) = figures.panel_figure(volume, lesions, 1, enlarged).axes
    assert (panel.get_xlim(), panel.get_ylim()) == (half.get_xlim(), half.get_ylim())
    assert [text.get_text() for text in panel.texts] == [text.get_text() for text in half.texts]
    if enlarged:
        assert abs(np.diff(panel.get_xlim())[0]) == figures.enlarged_mm(volume, lesions[0]) == 60


@pytest.mark.parametrize(("number", "window"), [(1, (-160, 240)), (2, (-1350, 150)), (3, (-500, 1300))])
def test_the_window_suits_the_body_part(volume, lesions, number, window):
    for axes in figures.lesion_figure(volume, lesions, number).axes:
        assert axes.images[0].get_clim() == window


def test_what_a_picture_says(volume, lesions):
    figure = figures.lesion_figure(volume, lesions, 1)
    texts = [text.get_text() for text in figure.texts]
    assert texts == ["Slice 3", "1 Liver 87 % 20 x 10 mm", figures.NOTE]
    assert [text.get_text() for text in figure.axes[0].texts] == ["R", "L", "A", "P", "1 Liver 87 % 20 x 10 mm", "2"]


def test_captions_cover_no_lesion_of_the_slice(volume, lesions):
    figure = figures.lesion_figure(volume, lesions, 1)
    whole = figure.axes[0]
    figure.canvas.draw()
    captions = [text.get_window_extent() for text in whole.texts[4:]]
    boxes = [patch.get_window_extent() for patch in whole.patches]
    assert len(captions) == len(boxes) == 2
    assert not any(caption.overlaps(box) for caption in captions for box in boxes)
    assert not captions[0].overlaps(captions[1])


@pytest.mark.parametrize(
    ("direction", "letters"),
    [((1, 0, 0), "L"), ((-1, 0, 0), "R"), ((0, 1, 0), "P"), ((0, 0, -1), "I"), ((0.1, -0.9, 0.42), "AS")],
)
def test_orientation_letters(direction, letters):
    assert figures.orientation_letters(np.array(direction)) == letters
