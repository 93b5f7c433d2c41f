"""How fast a training goes."""

from __future__ import annotations

import time


class Pace:
    """How fast a training goes, counted from the end of its first step on, which waits for much that happens once.

    A GPU is still at work on a step while this process waits for the crops of the next, so it was idle for want of
    crops for that long at most.
    """

    def __init__(self, batch: int) -> None:
        self.batch, self.steps, self.started, self.waiting, self.training = batch, -1, 0.0, 0.0, 0.0

    def add(self, waiting: float, training: float) -> None:
        """Count one step: the seconds that its crops were waited for, and those that it took."""
        self.steps += 1
        if self.steps == 0:
            self.started = time.monotonic()
        else:
            self.waiting, self.training = self.waiting + waiting, self.training + training

    def figures(self) -> dict[str, str]:
        """What the bar shows."""
        if self.steps < 1:
            return {}
        seconds = self.waiting + self.training
        return {
            "images per second": f"{self.steps * self.batch / seconds:.1f}",
            "waiting for crops": f"{100 * self.waiting / seconds:.0f} %",
        }

    def summary(self) -> str:
        """The same for the end, with what validating and saving took of all the time."""
        if self.steps < 1:
            return "one step is too few to time"
        elsewhere = 1 - (self.waiting + self.training) / (time.monotonic() - self.started)
        images, waiting = self.figures().values()
        ended = f"validating and saving took {100 * elsewhere:.0f} % of all time"
        return f"{images} images per second, {waiting} of the time waiting for crops; {ended}"
