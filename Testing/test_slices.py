"""The way from voxels to network pixels and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from LesionDetectorLib.slices import NetworkSlices, Recipe, body_bounds, body_mask


def phantom(rows: int = 120, columns: int = 150, slices: int = 4, border: int = 20) -> np.ndarray:
    hu = np.full((slices, rows, columns), -1000, np.int16)
    hu[:, border : rows - border, border : columns - border] = 40
    return hu


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(60, 200),
    columns=st.integers(60, 200),
    spacing=st.tuples(st.floats(0.3, 2.0), st.floats(0.3, 2.0), st.floats(0.5, 10.0)),
    border=st.integers(0, 20),
    max_size=st.sampled_from([64, 128, 512]),
    seed=st.integers(0, 999),
)
def test_a_box_comes_back_where_it_was(rows, columns, spacing, border, max_size, seed):
    prepared = NetworkSlices(phantom(rows, columns, 2, border), spacing, Recipe(max_size=max_size))
    corners = np.random.default_rng(seed).uniform(0, [columns, rows], (5, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    back = prepared.frame.to_index(prepared.frame.to_network(boxes))
    np.testing.assert_allclose(back, boxes, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    spacing=st.tuples(st.floats(0.4, 1.2), st.floats(0.4, 1.2), st.just(2.0)),
    x=st.floats(45, 95),
    y=st.floats(45, 75),
    border=st.integers(4, 20),
)
def test_a_painted_blob_lands_on_the_pixels_that_the_map_names(spacing, x, y, border):
    """The map is checked against the pixels themselves: a smooth blob's centre of mass, over any spacing and clip."""
    hu = phantom(border=border)
    j, i = np.mgrid[: hu.shape[1], : hu.shape[2]]
    hu[1] += np.round(2000 * np.exp(-((i - x) ** 2 + (j - y) ** 2) / (2 * 4.0**2))).astype(np.int16)
    prepared = NetworkSlices(hu, spacing)
    sample, background = prepared.sample(1)[1], prepared.sample(0)[1]
    weight = np.clip(sample - background, 1, None) - 1
    rows, columns = np.mgrid[: sample.shape[0], : sample.shape[1]]
    u, v = (weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()
    found = prepared.frame.to_index(np.array([[u, v, u, v]]))[0, :2]
    np.testing.assert_allclose(found, (x, y), atol=0.05)


def test_window_maps_hu_to_0_255_exactly():
    hu = np.full((1, 64, 64), -1024, np.int16)
    hu[0, 16:48, 16:48] = 3071
    sample = NetworkSlices(hu, (0.8, 0.8, 1.0), Recipe(slices=1)).sample(0)
    assert sample.dtype == np.float32
    assert sample.min() == 0 and sample.max() == pytest.approx(255)


@pytest.mark.parametrize(("interval", "count"), [(1.0, 3), (2.0, 3), (5.0, 9), (0.7, 9)])
def test_neighbours_lie_2_mm_apart(interval, count):
    """On a ramp over z every neighbour has its own position's value: none is mis-weighted, also with nine slices of
    a thick CT."""
    slices = 60
    ramp = np.arange(slices) * interval
    hu = np.broadcast_to(np.round(ramp * 10)[:, None, None], (slices, 40, 40)).astype(np.int16)
    middle = slices // 2
    sample = NetworkSlices(hu, (0.8, 0.8, interval), Recipe(slices=count)).sample(middle)
    z = (sample[:, 20, 20] * 4095 / 255 - 1024) / 10
    np.testing.assert_allclose(z - ramp[middle], 2.0 * np.arange(-(count // 2), count // 2 + 1), atol=0.11)


def test_beyond_the_ends_the_last_slice_repeats():
    hu = phantom(slices=1)
    sample = NetworkSlices(hu, (0.8, 0.8, 5.0), Recipe(slices=3)).sample(0)
    assert np.array_equal(sample[0], sample[1]) and np.array_equal(sample[1], sample[2])


def test_black_borders_are_clipped_and_thin_lines_do_not_count():
    hu = phantom(rows=200, columns=200, border=60)
    hu[:, 10, :] = 500
    first_row, end_row, first_column, end_column = body_bounds(body_mask(hu), hu.shape[1:])
    assert 52 <= first_row <= 60 and 140 <= end_row <= 148
    assert 52 <= first_column <= 60 and 140 <= end_column <= 148


def test_slices_of_air_are_told_from_those_with_a_body():
    hu = phantom(slices=5)
    hu[[0, 4]] = -1000
    hu[4, 10, :] = 500
    assert NetworkSlices(hu, (1, 1, 1)).with_body == [1, 2, 3]


def test_a_large_body_is_shrunk_to_the_largest_size():
    prepared = NetworkSlices(np.zeros((1, 768, 768), np.int16), (0.9, 0.9, 1.0))
    assert prepared.frame.shape == (512, 512)
    assert prepared.pixel_mm == pytest.approx(768 * 0.9 / 512)


def test_an_even_number_of_slices_is_refused():
    with pytest.raises(ValueError, match="odd number of slices, not 2"):
        NetworkSlices(phantom(), (1, 1, 1), Recipe(slices=2))
