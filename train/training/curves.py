"""The curves of a training as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def picture(log: list[dict[str, float]], path: Path) -> None:
    """Draw the losses (mean over 25 steps) and the validation sensitivity over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    losses, sensitivity = figure.subplots(1, 2)
    for name in (name for name in log[0] if name not in ("step", "sensitivity")):
        values = np.array([entry[name] for entry in log])
        window = min(25, len(values))
        losses.plot(
            np.arange(window, len(values) + 1), np.convolve(values, np.ones(window) / window, "valid"), label=name
        )
    losses.set(xlabel="step", ylabel="loss (mean over 25 steps)", yscale="log")
    losses.legend()
    points = [(entry["step"], entry["sensitivity"]) for entry in log if "sensitivity" in entry]
    sensitivity.plot(*zip(*points) if points else ([], []), marker="o")
    sensitivity.set(xlabel="step", ylabel="validation sensitivity at 4 FP an image", ylim=(0, 1))
    figure.savefig(path, dpi=110)
