"""Pictures of a course: the sum of diameters with the limits that decide, every target by itself, and the waterfall of
best changes.

They are drawn on white, for pages and slides; an undated time point stands by its number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from LesionDetectorLib.files import write_figure
from LesionDetectorLib.followup.response import Assessment, Response, State, least_progression, most_partial
from LesionDetectorLib.report.figures import NOTE

if TYPE_CHECKING:
    from datetime import date

    from matplotlib.axes import Axes

DPI = 130
INK, SOFT, PARTIAL, PROGRESSION = "#1b2430", "#7a8794", "#009e73", "#d55e00"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9")
"""Of the targets: told apart by colour-blind readers too."""


def write_course_pictures(assessments: Sequence[Assessment], folder: Path) -> list[Path]:
    """Write `sum.png`, `targets.png` and `waterfall.png`; returns the files, none where there is no target.

    Raises OSError where `folder` cannot be written.
    """
    if not assessments[0].point.targets:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "sum.png": sum_figure(assessments),
        "targets.png": targets_figure(assessments),
        "waterfall.png": waterfall_figure(best_changes(assessments), "target"),
    }
    for name, figure in figures.items():
        write_figure(folder / name, figure)
    return [folder / name for name in figures]


def sum_figure(assessments: Sequence[Assessment]) -> Figure:
    """The sum of diameters over time, the baseline, the limit of partial response, and at every time point the nadir
    and the limit of progression that it was held against.

    A sum in which a target is missing is hollow. New lesions stand at the top, pending ones in brackets. There must be
    targets.
    """
    figure, axes = _figure("Sum of diameters (mm)")
    places = _places(assessments)
    baseline = assessments[0].total / 10
    axes.axhline(baseline, color=SOFT, linewidth=1, label=f"baseline {baseline:.1f} mm")
    down = most_partial(assessments[0].total) / 10
    axes.axhline(down, color=PARTIAL, linewidth=1, linestyle="--", label=f"-30 % of baseline, {down:.1f} mm")
    if len(assessments) > 1:
        nadirs = [entry.nadir / 10 for entry in assessments[1:]]
        limits = [least_progression(entry.nadir) / 10 for entry in assessments[1:]]
        steps = {"linewidth": 1, "drawstyle": "steps-pre"}
        axes.plot(places, [nadirs[0], *nadirs], color=SOFT, linestyle=":", label="nadir before", **steps)
        label = "+20 % and +5 mm of the nadir"
        axes.plot(places, [limits[0], *limits], color=PROGRESSION, linestyle="--", label=label, **steps)
    whole = [(place, entry.total / 10) for place, entry in zip(places, assessments) if entry.total is not None]
    axes.plot(*zip(*whole), color=INK, marker="o", label="sum of diameters")
    for place, entry in zip(places, assessments):
        _mark(axes, place, entry)
    axes.set_ylim(0, 1.25 * max(axes.get_ylim()[1], 1))
    _finish(axes, assessments)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def targets_figure(assessments: Sequence[Assessment]) -> Figure:
    """The diameter of every target over time, of nodes dashed with their limit of 10 mm; a gap where one was not
    evaluated, hollow where one was too small to measure."""
    figure, axes = _figure("Diameter (mm)")
    places = _places(assessments)
    for number, target in enumerate(assessments[0].point.targets):
        seen = [entry.point.targets[number] for entry in assessments]
        colour = COLOURS[number % len(COLOURS)]
        values = [float("nan") if one.tenths is None else one.tenths / 10 for one in seen]
        style = "--" if target.node else "-"
        label = f"{target.name}, short axis" if target.node else target.name
        axes.plot(places, values, color=colour, linestyle=style, marker="o", label=label)
        hollow = [(place, value) for place, value, one in zip(places, values, seen) if one.state is State.TOO_SMALL]
        if hollow:
            axes.plot(*zip(*hollow), color=colour, linestyle="", marker="o", markerfacecolor="white")
    if any(target.node for target in assessments[0].point.targets):
        axes.axhline(10, color=SOFT, linewidth=1, linestyle=":", label="node of normal size, below 10 mm")
    axes.set_ylim(bottom=0)
    _finish(axes, assessments)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def best_changes(assessments: Sequence[Assessment]) -> dict[str, float]:
    """For every target its best change from baseline, the smallest, in per cent; without those never seen again."""
    changes = {}
    for number, target in enumerate(assessments[0].point.targets):
        values = [entry.point.targets[number].tenths for entry in assessments[1:]]
        known = [value for value in values if value is not None]
        if known:
            changes[target.name] = 100 * (min(known) - target.tenths) / target.tenths
    return changes


def best_change(assessments: Sequence[Assessment]) -> float | None:
    """The best change of the sum of diameters from baseline in per cent; None without a whole sum after it."""
    sums = [entry.total for entry in assessments[1:] if entry.total is not None]
    return 100 * (min(sums) - assessments[0].total) / assessments[0].total if sums else None


def waterfall_figure(changes: Mapping[str, float], of: str = "patient") -> Figure:
    """The best changes from baseline in per cent as falling bars, for lesions or patients.

    The figures are cut, not rounded, so that none reaches a limit that its bar does not.
    """
    figure, axes = _figure(f"Best change from baseline (%), each {of}")
    ordered = sorted(changes.items(), key=lambda item: -item[1])
    values = [value for _, value in ordered]
    colours = [PROGRESSION if value >= 20 else PARTIAL if value <= -30 else SOFT for value in values]
    bars = axes.bar(range(len(values)), values, color=colours, width=0.7)
    axes.bar_label(bars, [f"{math.trunc(value):+d} %" for value in values], fontsize=8, padding=2)
    axes.set_xticks(range(len(values)), [name for name, _ in ordered], rotation=90 if len(values) > 8 else 0)
    axes.axhline(0, color=INK, linewidth=1)
    axes.axhline(20, color=PROGRESSION, linewidth=1, linestyle="--")
    axes.axhline(-30, color=PARTIAL, linewidth=1, linestyle="--")
    axes.set_ylim(min(-110, *values, 0), max(40, *values, 0) * 1.15)
    return figure


def _figure(ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, 4.6), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_ylabel(ylabel, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(NOTE, loc="right", fontsize=7, color=SOFT)
    return figure, axes


def _places(assessments: Sequence[Assessment]) -> Sequence[date | int]:
    """Where the time points stand on the axis: at their dates, or, if one has none, all at their numbers."""
    dates = [entry.point.date for entry in assessments]
    return [entry.number for entry in assessments] if None in dates else [day for day in dates if day is not None]


def _mark(axes: Axes, place: date | int, entry: Assessment) -> None:
    """The sum and the response at one time point, and its new lesions."""
    known = entry.total is not None
    size = (entry.total if known else entry.measured) / 10
    if not known:
        axes.plot([place], [size], color=INK, marker="o", markerfacecolor="white", linestyle="")
    response = "" if entry.overall is None else f"{entry.overall}\n"
    colour = {Response.PD: PROGRESSION, Response.PR: PARTIAL, Response.CR: PARTIAL}.get(entry.overall, INK)
    text = f"{response}{size:.1f}{'' if known else ' ?'}"
    style = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center", "fontsize": 8, "color": colour}
    axes.annotate(text, (place, size), bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8}, **style)
    new = [lesion.name for lesion in entry.new_lesions] + [f"({lesion.name})" for lesion in entry.pending]
    if new:
        text = "new: " + ", ".join(new)
        axes.text(place, 0.99, text, transform=axes.get_xaxis_transform(), fontsize=8, ha="center", va="top")


def _finish(axes: Axes, assessments: Sequence[Assessment]) -> None:
    """The time axis, with a tick at every time point."""
    names = [entry.when for entry in assessments]
    axes.set_xticks(_places(assessments), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axes.margins(x=0.08)
