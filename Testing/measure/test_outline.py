"""Measuring a lesion: the geometry on true masks, the outline found in a picture, and readers' marks on real slices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from LesionDetectorLib.measure.axes import axes
from LesionDetectorLib.measure.margins import READER_MARGIN_MM, pixels
from LesionDetectorLib.measure.outline import box_around, measure, segment, slices_spanned

TOLERANCE_MM = 0.7
UNIT_PIXELS = (1.0, 1.0)


def ellipse(shape, centre, diameters_mm, angle, spacing, subsamples=1):
    """(rows, columns) of 0..1: the share of each pixel inside an ellipse, from `subsamples`^2 points a pixel."""
    places = (np.arange(subsamples) + 0.5) / subsamples - 0.5
    j, i = (
        axis.reshape(shape[0], subsamples, shape[1], subsamples)
        for axis in np.meshgrid(
            (np.arange(shape[0])[:, None] + places).ravel(),
            (np.arange(shape[1])[:, None] + places).ravel(),
            indexing="ij",
        )
    )
    x, y = (i - centre[0]) * spacing[0], (j - centre[1]) * spacing[1]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return ((2 * u / diameters_mm[0]) ** 2 + (2 * v / diameters_mm[1]) ** 2 <= 1).mean(axis=(1, 3))


def deeplesion_box(centre, diameters_mm, angle, spacing):
    """The extent of an ellipse's axes + 5 pixels on every side."""
    c, s = abs(np.cos(angle)), abs(np.sin(angle))
    half_i = max(diameters_mm[0] * c, diameters_mm[1] * s) / 2 / spacing[0] + 5
    half_j = max(diameters_mm[0] * s, diameters_mm[1] * c) / 2 / spacing[1] + 5
    return centre[0] - half_i, centre[1] - half_j, centre[0] + half_i, centre[1] + half_j


def lengths_mm(recist, spacing):
    return [np.hypot(*(np.subtract(*axis) * spacing)) for axis in (recist.long_axis, recist.short_axis)]


@pytest.mark.parametrize(("spacing", "subsamples"), [((0.8, 0.8), 1), ((0.8, 0.8), 5), ((0.7, 0.9), 5)])
def test_axes_of_an_ellipse(spacing, subsamples):
    random = np.random.default_rng(0)
    for _ in range(30):
        angle, centre = random.uniform(0, np.pi), 25 + random.uniform(-0.5, 0.5, 2)
        mask = ellipse((50, 50), centre, (24, 14), angle, spacing, subsamples)
        recist = axes(mask if subsamples > 1 else mask > 0.5, spacing)
        assert recist.long_mm == pytest.approx(24, abs=TOLERANCE_MM)
        assert recist.short_mm == pytest.approx(14, abs=TOLERANCE_MM)
        assert lengths_mm(recist, spacing) == pytest.approx([recist.long_mm, recist.short_mm])


def test_axes_are_perpendicular_in_mm_and_offset_moves_them():
    spacing = (0.5, 1.0)
    mask = ellipse((60, 80), (40, 30), (24, 14), 0.6, spacing)
    here, there = axes(mask, spacing), axes(mask, spacing, offset=(100, 200))
    long, short = (np.subtract(*axis) * spacing for axis in (here.long_axis, here.short_axis))
    assert long @ short == pytest.approx(0, abs=1e-6)
    assert np.subtract(there.long_axis, here.long_axis) == pytest.approx(np.array([[100, 200]] * 2))
    assert np.mean(here.long_axis, axis=0) == pytest.approx([40, 30], abs=0.6)


def test_axes_of_a_rectangle_by_hand():
    mask = np.zeros((10, 20), bool)
    mask[3:6, 4:16] = True  # the 0.5 outline is an octagon: 12 x 3 pixels with corners cut by half a pixel
    recist = axes(mask, UNIT_PIXELS)
    assert recist.long_mm == pytest.approx(np.hypot(12, 2))
    assert recist.short_mm == pytest.approx(2.5 / np.cos(np.arctan2(2, 12)) + 0.5 * np.cos(np.arctan2(2, 12)), abs=0.5)


def test_a_single_pixel_has_axes_and_an_empty_mask_has_none():
    mask = np.zeros((5, 5))
    with pytest.raises(ValueError, match="empty"):
        axes(mask, UNIT_PIXELS)
    mask[2, 2] = 1
    assert axes(mask, UNIT_PIXELS).long_mm == pytest.approx(1)


@pytest.mark.parametrize("spacing", [(0.8, 0.8), (0.7, 0.9)])
@pytest.mark.parametrize("contrast", [-60, 60, 300])
@pytest.mark.parametrize("diameters", [(24, 14), (18, 16)])
def test_measure_a_noisy_ellipse(spacing, contrast, diameters):
    random = np.random.default_rng(1)
    errors = []
    for angle in np.radians([5, 40, 75, 110, 145]):
        centre = 32 + random.uniform(-0.5, 0.5, 2)
        picture = (
            50 + contrast * ellipse((64, 64), centre, diameters, angle, spacing, 5) + random.normal(0, 12, (64, 64))
        )
        recist = measure(picture, spacing, deeplesion_box(centre, diameters, angle, spacing))
        errors.append([recist.long_mm - diameters[0], recist.short_mm - diameters[1]])
    assert np.abs(errors).max() < TOLERANCE_MM
    assert np.abs(np.mean(errors, axis=0)).max() < 0.45


def test_segment_finds_the_mask():
    truth = ellipse((80, 80), (41.3, 38.6), (26, 18), 0.5, UNIT_PIXELS, 5)
    found = segment(100 * truth, deeplesion_box((41.3, 38.6), (26, 18), 0.5, UNIT_PIXELS))
    whole = np.zeros(truth.shape)
    (i, j), (rows, columns) = found.offset, found.mask.shape
    whole[j : j + rows, i : i + columns] = found.mask
    dice = 2 * (whole * truth).sum() / (whole.sum() + truth.sum())
    assert dice > 0.95
    assert axes(found.mask, UNIT_PIXELS, found.offset).long_mm == pytest.approx(26, abs=1.0)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    x=st.tuples(st.floats(-30, 70), st.floats(0.01, 120)),
    y=st.tuples(st.floats(-30, 60), st.floats(0.01, 120)),
    margin=st.sampled_from([0, 2.5, 5]),
    content=st.sampled_from(["constant", "noise", "nan", "padding"]),
)
def test_any_box_gives_axes_inside_it(x, y, margin, content):
    spacing, rows, columns = (0.6, 0.9), 50, 60
    picture = np.zeros((rows, columns))
    if content == "noise":
        picture = np.random.default_rng(0).normal(40, 300, picture.shape)
    elif content == "nan":
        picture[::3] = np.nan
    elif content == "padding":
        picture[:, :30] = -32768
    box = (x[0], y[0], x[0] + x[1], y[0] + y[1])
    inside = max(box[0], -0.5) < min(box[2], columns - 0.5) and max(box[1], -0.5) < min(box[3], rows - 0.5)
    if not inside:
        with pytest.raises(ValueError, match="no area inside the image of 60 x 50"):
            measure(picture, spacing, box, margin)
        return
    recist = measure(picture, spacing, box, margin)
    assert recist == measure(picture, spacing, box, margin)
    points = np.array([*recist.long_axis, *recist.short_axis])
    low, high = np.maximum(box[:2], -0.5), np.minimum(box[2:], [columns - 0.5, rows - 0.5])
    assert (points >= low - 1e-6).all() and (points <= high + 1e-6).all()
    assert recist.long_mm >= recist.short_mm - 1e-9 and recist.short_mm > 0
    assert lengths_mm(recist, spacing) == pytest.approx([recist.long_mm, recist.short_mm])


def test_readers_marks_on_real_slices(shared_data):
    measure_readers = pytest.importorskip("train.measure_readers")
    marks = measure_readers.read_marks(shared_data / "deeplesion")
    assert len(marks) == 19
    tight = np.abs(measure_readers.errors_mm(measure_readers.tight_box, marks))
    ours = measure_readers.errors_mm(measure_readers.outline_in_box, marks)
    assert tight.mean(axis=0) == pytest.approx([1.27, 0.90], abs=0.01)
    assert (np.abs(ours).mean(axis=0) < [1.0, 0.75]).all()
    assert np.abs(ours.mean(axis=0)).max() < 0.6


@pytest.mark.parametrize("spacing", [(0.8, 0.8), (0.7, 0.9)])
@pytest.mark.parametrize("diameters", [(6, 6), (12, 9), (25, 18), (58, 40)])
@pytest.mark.parametrize("contrast", [80, 30, -600])
def test_a_lesion_of_any_size_is_found_round_a_point_in_it(spacing, diameters, contrast):
    random = np.random.default_rng(1)
    for _ in range(3):
        angle, centre = random.uniform(0, np.pi), 64 + random.uniform(-0.5, 0.5, 2)
        inside = ellipse((128, 128), centre, diameters, angle, spacing, 3)
        hu = np.rint(40 + contrast * inside + random.normal(0, 12, inside.shape)).astype(np.int16)
        click = centre + random.uniform(-0.12, 0.12, 2) * diameters[1] / spacing
        box = box_around(hu, spacing, click)
        recist = measure(hu, spacing, box, pixels(READER_MARGIN_MM, spacing))
        assert recist.long_mm == pytest.approx(diameters[0], rel=0.1, abs=2)
        assert recist.short_mm == pytest.approx(diameters[1], rel=0.15, abs=2)


def test_a_point_beside_the_image_is_refused():
    with pytest.raises(ValueError, match="no area inside the image"):
        box_around(np.zeros((40, 40), np.int16), (0.8, 0.8), (100.0, 20.0))


@pytest.mark.parametrize("lesion_hu, around_hu", [(120, 40), (-20, 100), (30, -850)])
def test_a_lesion_that_is_marked_on_one_slice_is_followed_into_its_neighbours(lesion_hu, around_hu):
    k, j, i = np.ogrid[:20, :60, :60]
    hu = np.full((20, 60, 60), around_hu) + np.random.default_rng(0).normal(0, 10, (20, 60, 60))
    hu[((i - 30) ** 2 + (j - 30) ** 2) * 0.8**2 + ((k - 9) * 2.0) ** 2 < 10**2] = lesion_hu
    spacing = (0.8, 0.8, 2.0)
    box = (30 - 14, 30 - 14, 30 + 14, 30 + 14)
    measured = measure(hu[9], spacing[:2], box, 1.25)
    first, last = slices_spanned(hu, spacing, 9, box, 1.25, measured.long_mm)
    assert 9 - 5 <= first <= 9 - 3 and 9 + 3 <= last <= 9 + 5  # the sphere reaches 5 slices, its last ones are small
    first, last = slices_spanned(hu[:10], spacing, 9, box, 1.25, measured.long_mm)
    assert last == 9, "no farther than the CT"
