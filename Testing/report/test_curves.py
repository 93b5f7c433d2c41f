"""The pictures of a course: what is drawn where."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from LesionDetectorLib.followup.response import NewLesion, NonTarget, State, Target, TimePoint, assess
from LesionDetectorLib.report.curves import (
    PARTIAL,
    PROGRESSION,
    SOFT,
    best_change,
    best_changes,
    sum_figure,
    targets_figure,
    waterfall_figure,
    write_course_pictures,
)
from matplotlib.colors import to_hex
from PIL import Image

POINTS = [
    TimePoint(date(2025, 3, 2), (Target("T1", 38), Target("T2", 20, node=True))),
    TimePoint(date(2025, 6, 1), (Target("T1", 19),), new_lesions=(NewLesion("N1"),)),
    TimePoint(date(2025, 9, 1), (Target("T1", state=State.TOO_SMALL), Target("T2", 15, node=True))),
    TimePoint(date(2025, 12, 1), (Target("T1", 20), Target("T2", 15, node=True)), new_lesions=(NewLesion("N2", True),)),
]


def lines(figure) -> dict[str, list[float]]:
    return {line.get_label(): [float(value) for value in line.get_ydata()] for line in figure.axes[0].lines}


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_sum_is_drawn_with_the_limits_that_decide():
    drawn = lines(sum_figure(assess(POINTS)))
    assert drawn["sum of diameters"] == [58, 20, 35]
    assert drawn["baseline 58.0 mm"] == [58, 58]
    assert drawn["-30 % of baseline, 40.6 mm"] == [40.6, 40.6]
    assert drawn["nadir before"] == [58, 58, 58, 20]
    assert drawn["+20 % and +5 mm of the nadir"] == [69.6, 69.6, 69.6, 25]


def test_time_points_are_named_with_response_and_new_lesions():
    assert texts(sum_figure(assess(POINTS))) == [
        "58.0",
        "NE\n19.0 ?",
        "new: (N1)",
        "PR\n20.0",
        "PD\n35.0",
        "new: N2",
    ]


def test_undated_time_points_stand_by_their_number():
    figure = sum_figure(assess([POINTS[0], TimePoint(None, POINTS[3].targets, label="week 8")]))
    assert list(figure.axes[0].get_xticks()) == [0, 1]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["2025-03-02", "week 8"]


def test_every_target_has_its_line():
    drawn = lines(targets_figure(assess(POINTS)))
    assert drawn["T1"] == [38, 19, 5, 20]
    assert [value for value in drawn["T2, short axis"] if value == value] == [20, 15, 15]
    assert drawn["node of normal size, below 10 mm"] == [10, 10]


def test_the_best_change_is_the_smallest_after_baseline():
    entries = assess(POINTS)
    assert best_changes(entries) == pytest.approx({"T1": 100 * (5 / 38 - 1), "T2": -25})
    assert best_change(entries) == pytest.approx(100 * (20 / 58 - 1))
    assert best_change(entries[:1]) is None
    grown = assess([TimePoint(None, (Target("T1", 10),)), TimePoint(None, (Target("T1", 13),))])
    assert best_changes(grown) == {"T1": 30}


def test_the_waterfall_falls_and_no_figure_reaches_a_limit_that_its_bar_does_not():
    figure = waterfall_figure({"a": -29.97, "b": 20, "c": -30, "d": 19.99})
    bars = figure.axes[0].patches
    assert [bar.get_height() for bar in bars] == [20, 19.99, -29.97, -30]
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [PROGRESSION, SOFT, SOFT, PARTIAL]
    assert texts(figure) == ["+20 %", "+19 %", "-29 %", "-30 %"]


def test_pictures_are_written(tmp_path: Path):
    files = write_course_pictures(assess(POINTS), tmp_path / "new")
    assert [file.name for file in files] == ["sum.png", "targets.png", "waterfall.png"]
    for file in files:
        with Image.open(file) as picture:
            assert picture.size > (800, 500)


def test_without_targets_there_is_nothing_to_draw(tmp_path: Path):
    entries = assess([TimePoint(non_targets=(NonTarget("N1"),))] * 2)
    assert write_course_pictures(entries, tmp_path / "new") == []
    assert not (tmp_path / "new").exists()
