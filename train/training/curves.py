"""The curves of a training as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from LesionDetectorLib.files import write_figure


def picture(log: list[dict[str, float]], figure_name: str, path: Path) -> None:
    """Draw the losses (mean over 25 steps) and the validation figure over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    losses, validation = figure.subplots(1, 2)
    for name in (name for name in log[0] if name not in ("step", figure_name)):
        values = np.array([entry[name] for entry in log])
        window = min(25, len(values))
        losses.plot(
            np.arange(window, len(values) + 1), np.convolve(values, np.ones(window) / window, "valid"), label=name
        )
    losses.set(xlabel="step", ylabel="loss (mean over 25 steps)", yscale="log")
    losses.legend()
    points = [(entry["step"], entry[figure_name]) for entry in log if figure_name in entry]
    validation.plot(*zip(*points) if points else ([], []), marker="o")
    validation.set(xlabel="step", ylabel=f"validation {figure_name}")
    if figure_name == "sensitivity":
        validation.set(ylabel="validation sensitivity at 4 false positives per image", ylim=(0, 1))
    write_figure(path, figure, dpi=110)
