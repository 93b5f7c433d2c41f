"""Pictures of an evaluation: FROC curves, the confusion matrix of labels, and key slices with their boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from LesionDetectorLib.files import write_figure
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.looks import SOFT_TISSUE_WINDOW, window
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from train.data.deeplesion import UNKNOWN
from train.measuring.calibration import SHOWN, Reliability
from train.measuring.froc import Froc

GROUND_TRUTH, TRUE_POSITIVE, FALSE_POSITIVE, IGNORED = "lime", "yellow", "red", "0.6"
RATES_SHOWN = (0.125, 0.25, 0.5, 1, 2, 4, 8, 16)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@dataclass(frozen=True)
class SliceExample:
    """A key slice to show.

    hu: (rows, columns); truth, boxes: (n, 4) xyxy in its 0-based pixels; truth_labels, labels: body-part codes (-1
        unknown); scores: (n,);
    hit, false: masks over the boxes; those that are neither lie on an ignored lesion.
    """

    title: str
    hu: np.ndarray
    truth: np.ndarray
    truth_labels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    hit: np.ndarray
    false: np.ndarray


def froc_curves(results: dict[str, Froc], path: Path) -> None:
    """Draw the FROC curves of all lesions together, by name, and write them as a picture."""
    figure = _figure(6.4, 4.6)
    axes = figure.add_subplot()
    for colour, (name, result) in zip(COLOURS, results.items()):
        _draw_curve(axes, *result.curve(), color=colour, label=f"{name}, {len(result.found)} lesions")
    _froc_axes(axes)
    axes.set_xlabel("false positives per image")
    axes.set_ylabel("sensitivity")
    axes.legend(loc="lower right", frameon=False)
    write_figure(path, figure)


def label_froc_curves(result: Froc, path: Path) -> None:
    """Draw the FROC curve of each label in a panel of its own, with both readings of the rate, and write them as a
    picture."""
    figure = _figure(11, 5.6)
    panels = figure.subplots(2, 4, sharex=True, sharey=True)
    for axes, part in zip(panels.flat, BodyPart):
        own = result.of_label(part)
        for other in BodyPart:
            _draw_curve(axes, *result.curve(result.labels == other), color="0.88", linewidth=0.8)
        _draw_curve(axes, *own.curve(), color=COLOURS[1], linestyle="--")
        _draw_curve(axes, *result.curve(result.labels == part), color=COLOURS[0])
        _froc_axes(axes)
        axes.set_title(f"{part.title} ({len(own.found)})", fontsize=10)
        axes.tick_params(labelsize=8)
    styles = [
        (COLOURS[0], "-", "false positives of all labels"),
        (COLOURS[1], "--", "false positives of that label only"),
    ]
    lines = [Line2D([], [], color=colour, linestyle=style, label=label) for colour, style, label in styles]
    figure.legend(
        handles=[*lines, Line2D([], [], color="0.8", label="the other labels")],
        loc="outside upper center",
        ncols=3,
        frameon=False,
    )
    figure.supxlabel("false positives per image", fontsize=10)
    figure.supylabel("sensitivity", fontsize=10)
    write_figure(path, figure)


def confusion_matrix(matrix: np.ndarray, path: Path) -> None:
    """Draw a confusion matrix (8, 9) of `froc.confusion`, coloured by the share of each row, and write it as a
    picture."""
    confusion_matrices({"": matrix}, path)


def confusion_matrices(matrices: dict[str, np.ndarray], path: Path) -> None:
    """Draw confusion matrices, two beside one another, with their names, and write them as one picture."""
    columns = min(2, len(matrices))
    rows = -(-len(matrices) // columns)
    figure = _figure(7.6 * columns, 5.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(matrices) :]:
        axes.remove()
    for axes, (name, matrix) in zip(panels.flat, matrices.items()):
        picture = _draw_confusion(axes, matrix)
        axes.set_title(name)
    figure.colorbar(picture, ax=panels, label="% of the lesions of a label", shrink=0.85 / rows)
    write_figure(path, figure)


def _draw_confusion(axes: Axes, matrix: np.ndarray) -> AxesImage:
    lesions = matrix.sum(1)
    shares = matrix / np.maximum(lesions, 1)[:, None]
    picture = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for row, column in np.ndindex(matrix.shape):
        if matrix[row, column]:
            colour = "white" if shares[row, column] > 0.55 else "black"
            text = f"{100 * shares[row, column]:.0f} %\n{matrix[row, column]}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    titles = [part.title for part in BodyPart]
    axes.set_xticks(range(len(titles) + 1), [*titles, "missed"], rotation=35, ha="right")
    axes.set_yticks(range(len(titles)), [f"{title} ({count})" for title, count in zip(titles, lesions)])
    axes.axvline(len(titles) - 0.5, color="black", linewidth=1)
    axes.set_xlabel("label of the detection that overlaps best")
    axes.set_ylabel("label of the lesion (lesions)")
    return picture


def grouped_bars(
    panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], titles: Sequence[str], line_after: int, path: Path
) -> None:
    """Draw a panel for each entry, with bars of every set at each of `titles`, and write them as one picture.

    A set is its sensitivities (titles,) and their intervals (2, titles); a line parts the first `line_after` titles
    from the others.
    """
    figure = _figure(11, 2.4 * len(panels) + 0.6)
    for axes, (name, sets) in zip(figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0], panels.items()):
        width = 0.8 / len(sets)
        for place, (label, (values, bounds)) in enumerate(sets.items()):
            x = np.arange(len(titles)) + (place - (len(sets) - 1) / 2) * width
            errors = np.abs(100 * (bounds - values))
            axes.bar(
                x,
                100 * values,
                width,
                yerr=errors,
                label=label,
                color=COLOURS[place],
                error_kw={"elinewidth": 0.7, "ecolor": "0.3"},
            )
        axes.axvline(line_after - 0.5, color="black", linewidth=1)
        axes.set_xticks(range(len(titles)), titles)
        axes.set(title=name, ylabel="sensitivity, %", ylim=(0, 100))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(COLOURS), frameon=False)
    write_figure(path, figure)


def gains(entries: dict[str, tuple[np.ndarray, np.ndarray]], titles: Sequence[str], path: Path) -> None:
    """Draw differences in sensitivity, a row for each of `titles` and a colour for each entry, and write them as a
    picture.

    An entry is its differences (titles,) and their intervals (2, titles).
    """
    figure = _figure(8, 0.55 * len(titles) + 1.2)
    axes = figure.add_subplot()
    for place, (name, (values, bounds)) in enumerate(entries.items()):
        y = np.arange(len(titles)) + (place - (len(entries) - 1) / 2) * 0.8 / len(entries)
        style = {"fmt": "o", "markersize": 4, "color": COLOURS[place], "elinewidth": 1}
        axes.errorbar(100 * values, y, xerr=np.abs(100 * (bounds - values)), label=name, **style)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(titles)), titles)
    axes.invert_yaxis()
    axes.set_xlabel("difference in sensitivity, percentage points")
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(entries), frameon=False)
    write_figure(path, figure)


def reliability(before: Reliability, after: Reliability, path: Path) -> None:
    """Draw how often marks are right against how sure the detector says it is, before and after calibration, and how
    many marks there are, and write it as a picture."""
    figure = _figure(6.2, 6.4)
    axes, bars = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, label="right as often as said")
    for colour, name, curve, shift in ((COLOURS[1], "before", before, -0.006), (COLOURS[0], "after", after, 0.006)):
        there = curve.count > 0
        label = f"{name}, ECE {100 * curve.error(SHOWN):.1f} % of marks from {100 * SHOWN:.0f} % on"
        axes.plot(curve.confidence[there], curve.right[there], "o-", color=colour, label=label, markersize=5)
        bars.vlines(curve.confidence[there] + shift, 0.8, curve.count[there], color=colour, linewidth=3)
    axes.set_ylabel("share of marks that are right")
    figure.legend(loc="outside upper left", frameon=False)
    bars.set_yscale("log")
    bars.set_ylabel("marks")
    bars.set_xlabel("confidence")
    for panel in (axes, bars):
        panel.grid(color="0.9", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    write_figure(path, figure)


def key_slices(examples: Sequence[SliceExample], path: Path, columns: int = 4) -> None:
    """Draw slices with the ground truth green, true positives yellow, false positives red, and write them as one
    picture.

    The colours of the class-imbalance paper's Figure 2. Detections on ignored lesions are grey, ignored lesions dashed.
    """
    columns = max(1, min(columns, len(examples)))
    rows = max(1, -(-len(examples) // columns))
    figure = _figure(3.6 * columns, 3.75 * rows + 0.4, facecolor="black")
    figure.get_layout_engine().set(h_pad=0.08)
    for place, example in enumerate(examples):
        _draw_slice(figure.add_subplot(rows, columns, place + 1), example)
    meanings = {
        "ground truth": GROUND_TRUTH,
        "true positive": TRUE_POSITIVE,
        "false positive": FALSE_POSITIVE,
        "on an ignored lesion": IGNORED,
    }
    lines = [Line2D([], [], color=colour, label=name) for name, colour in meanings.items()]
    figure.legend(
        handles=lines, loc="outside lower center", ncols=min(4, 2 * columns), frameon=False, labelcolor="white"
    )
    write_figure(path, figure, facecolor="black")


def _figure(width: float, height: float, facecolor: str = "white") -> Figure:
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor=facecolor)
    FigureCanvasAgg(figure)
    return figure


def _draw_curve(axes: Axes, rates: np.ndarray, sensitivity: np.ndarray, **style) -> None:
    """As steps, since only whole false positives exist; the last value holds on where no more detections are left."""
    rates, sensitivity = np.append(rates, max(rates[-1], RATES_SHOWN[-1])), np.append(sensitivity, sensitivity[-1])
    axes.step(np.maximum(rates, RATES_SHOWN[0] / 2), sensitivity, where="post", **style)


def _froc_axes(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xlim(RATES_SHOWN[0], RATES_SHOWN[-1])
    axes.set_ylim(-0.02, 1.02)
    axes.set_xticks(RATES_SHOWN, ["1/8", "1/4", "1/2", *(f"{rate:g}" for rate in RATES_SHOWN[3:])])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_slice(axes: Axes, example: SliceExample) -> None:
    known = [BodyPart(label) for label in example.truth_labels if label != UNKNOWN]
    low, high = window(known[0]) if known else SOFT_TISSUE_WINDOW
    axes.imshow(example.hu, cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
    axes.set_axis_off()
    axes.set_title(example.title, color="white", fontsize=9)
    for box, label in zip(example.truth, example.truth_labels):
        _draw_box(axes, box, GROUND_TRUTH, 2.2, "--" if label == UNKNOWN else "-")
    for place in np.argsort(example.scores):
        colour = TRUE_POSITIVE if example.hit[place] else FALSE_POSITIVE if example.false[place] else IGNORED
        box = example.boxes[place]
        _draw_box(axes, box, colour, 1.1)
        caption = f"{BodyPart(example.labels[place]).title} {100 * example.scores[place]:.0f} %"
        right = box[0] > 0.7 * example.hu.shape[1]
        style = {"ha": "right" if right else "left", "va": "bottom", "fontsize": 6.5, "clip_on": True}
        text = "white" if colour == FALSE_POSITIVE else "black"
        ground = {"facecolor": colour, "edgecolor": "none", "pad": 0.6}
        axes.text(box[2] if right else box[0], box[1] - 3, caption, color=text, bbox=ground, **style)


def _draw_box(axes: Axes, box: np.ndarray, colour: str, width: float, style: str = "-") -> None:
    sides = box[2:] - box[:2]
    axes.add_patch(Rectangle(box[:2], *sides, fill=False, edgecolor=colour, linewidth=width, linestyle=style))
