"""Where captions go."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from LesionDetectorLib.captions import place_caption, shared_areas

BOX = st.tuples(*[st.floats(0, 400)] * 2, *[st.floats(5, 90)] * 2).map(
    lambda box: (*box[:2], box[0] + box[2], box[1] + box[3])
)


@settings(max_examples=200, deadline=None)
@given(st.lists(BOX, min_size=1, max_size=4))
def test_a_free_place_is_found_beside_any_few_boxes(boxes):
    place = place_caption((120, 12), boxes[0], np.array(boxes), (0, 0, 500, 500), gap=4)
    assert place[2:] - place[:2] == pytest.approx((120, 12))
    assert (place >= 0).all() and (place <= 500 + 1e-9).all()
    assert shared_areas(place[None], np.array(boxes)).sum() == 0


def test_the_nearest_free_place_is_taken_and_the_least_covered_where_none_is_free():
    own = (100, 100, 140, 140)
    above = place_caption((80, 10), own, np.array([own]), (0, 0, 500, 500), gap=4)
    assert above == pytest.approx((100, 144, 180, 154))
    below = place_caption((80, 10), own, np.array([own, above]), (0, 0, 500, 500), gap=4)
    assert shared_areas(below[None], np.array([own, above])).sum() == 0
    full = place_caption((80, 10), own, np.array([(0, 0, 500, 500), own, above]), (0, 0, 500, 500), gap=4)
    assert shared_areas(full[None], np.array([own, above])).sum() == 0
