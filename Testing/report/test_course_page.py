"""The page and the text of a course: what they show of lesions that a study has, has not, or cannot have."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.followup.course import Decision, Visit, decided, propose
from LesionDetectorLib.followup.outcome import NOTHING_CONFIRMED, Outcome
from LesionDetectorLib.lesion import Mark, ReviewStatus
from LesionDetectorLib.report import course_page, course_text, figures
from LesionDetectorLib.report.text import NOT_A_MEDICAL_DEVICE

from Testing.helpers.followed import GEOMETRY, at, study

TARGET = {"status": ReviewStatus.ACCEPTED, "marks": (Mark.TARGET,)}


def outcome(*decisions: Decision) -> Outcome:
    """A target that is matched, one that vanishes, and a lesion whose place the first study does not show."""
    before = study(
        at("a", 50, 0, 40, 40, **TARGET), at("b", -60, 20, 80, 20, **TARGET), unread=frozenset(range(60, 100))
    )
    after = study(at("A", 52, 0, 40, 20), at("high", 0, 0, 320))
    visits = [Visit(date(2025, 3, 1), before, "given"), Visit(date(2025, 6, 1), after, "given")]
    return Outcome.of(decided(propose(visits), decisions), decisions, warnings=["Study 1: <b>tilted</b>."])


@pytest.fixture(scope="module")
def volumes() -> list[Volume]:
    columns, rows, slices = GEOMETRY.size
    hu = np.broadcast_to(np.int16(40), (slices, rows, columns))
    return [Volume(hu, GEOMETRY.spacing, GEOMETRY.origin, np.eye(3), Path("ct"))] * 2


def test_every_lesion_stands_in_all_studies_side_by_side(volumes):
    html = course_page.compose(outcome(Decision(1, 1, "A", True)), volumes)
    pictures = re.findall(r'<img src="data:image/jpeg[^"]*" width="360" height="360" alt="([^"]*)"', html)
    assert pictures == [
        "2025-03-01, slice 11, round lesion 1: 40.0 x 32.0",
        "2025-06-01, slice 11, round lesion 1: 20.0 x 16.0",
        "2025-03-01, slice 21, round lesion 2: 20.0 x 16.0",
        "2025-06-01, slice 21, round lesion 2: not found",
        "2025-06-01, slice 81, round lesion 3: 20.0 x 16.0",
    ]
    assert html.count('<div class="nothing">not covered</div>') == 1
    assert html.count("96 mm wide, -160 to 240 HU") == 1, "one scale for all studies of the large lesion"
    assert NOT_A_MEDICAL_DEVICE in html and '<html lang="en">' in html
    assert "&lt;b&gt;tilted" in html and "<b>tilted" not in html


def test_a_place_without_a_lesion_has_a_cross_that_leaves_its_middle_free(volumes):
    place = np.array([200.0, 200.0, 50.0])
    lesion = at("a", 0, 0, 200)
    for lesions in ((lesion,), ()):
        figure = figures.place_figure(volumes[0], place, 60.0, lesion.body_part, lesions)
        (axes,) = figure.axes
        assert axes.get_xlim() == (170, 230) and axes.get_ylim() == (230, 170)
        assert len(axes.patches) == len(lesions)
        if not lesions:
            ends = np.concatenate([line.get_xydata() for line in axes.lines])
            assert np.abs(ends - 200).max(axis=1).min() == pytest.approx(2)


def test_the_text_says_what_is_missing_and_what_to_do():
    text = course_text.compose(outcome())
    assert NOTHING_CONFIRMED in text and "Response by" not in text
    assert "1 Liver  -   40.0 x 32.0  20.0 x 16.0 ?  -50 %" in text
    assert "2 Liver  -   20.0 x 16.0  not found ?" in text and "3 Liver  -   not covered  20.0 x 16.0 ?" in text
    assert "3 steps of lesions wait for a reader:\n  1 Liver, 2025-06-01: matched" in text
    assert "2 Liver: Long axis" not in text, "it is gone, so nothing of it grows"
    assert "Study 1: 2025-03-01 (given), series 01, 2 lesions; laid over study 2" in text


def test_what_is_confirmed_is_in_the_response():
    text = course_text.compose(outcome(Decision(1, 1, "A", True), Decision(1, 2, "", True)))
    assert "2025-06-01: partial response (PR)" in text and "Best overall response" in text
    assert "1 Liver  target  40.0 x 32.0  20.0 x 16.0    -50 %" in text
