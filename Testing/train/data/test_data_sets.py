"""Data sets as a command line names them."""

from __future__ import annotations

import pytest

from train.data.data_sets import with_share
from train.data.deeplesion import DeepLesionError


def test_a_data_set_is_drawn_once_or_as_often_as_it_says():
    assert [with_share(entry) for entry in ("a/b", "a/b=0.5", "lung:a=2")] == [("a/b", 1), ("a/b", 0.5), ("lung:a", 2)]


def test_a_share_that_is_no_number_is_named():
    with pytest.raises(DeepLesionError, match="a/b=often: often is no number; write how often a/b is drawn as a/b=2"):
        with_share("a/b=often")
