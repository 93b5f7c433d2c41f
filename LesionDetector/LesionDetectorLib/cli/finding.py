"""What the commands that find lesions share: the detectors, the reading of a CT, and how far the work is."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from LesionDetectorLib import ct
from LesionDetectorLib.cli.options import weights_of
from LesionDetectorLib.printable import printable
from LesionDetectorLib.reading import Model, Reading

if TYPE_CHECKING:
    from LesionDetectorLib.detect import Detector


class Progress:
    """Says how far the work is: a bar on a terminal, or one JSON object a line on stdout."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._bar: Any = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self.as_json:
            self.line(event="progress", stage=stage, done=done, total=total)
            return
        from tqdm import tqdm

        if stage != self._stage:
            self.close()
            unit = "slice" if stage in ("read", "detect") else ""
            self._bar = tqdm(desc=stage, total=total, unit=unit, file=sys.stderr)
            self._stage = stage
        self._bar.update(done - self._bar.n)

    def warn(self, sentence: str) -> None:
        """Tell the user something that does not stop the work."""
        sentence = printable(sentence)
        if self.as_json:
            self.line(event="warning", text=sentence)
        else:
            self.close()
            print(f"Warning: {sentence}", file=sys.stderr)

    def close(self) -> None:
        """End the bar of a stage."""
        if self._bar is not None:
            self._bar.close()
            self._bar, self._stage = None, ""

    @staticmethod
    def line(**event: object) -> None:
        """One event of JSON."""
        print(json.dumps(event, ensure_ascii=False), flush=True)


def load_detectors(options: argparse.Namespace) -> list[Detector]:
    """The detectors that the options name. It brings torch."""
    from LesionDetectorLib.detect import Detector

    return [Detector.load(path, options.device) for path in weights_of(options)]


def find(volume: ct.Volume, detectors: Sequence[Detector], options: argparse.Namespace, progress: Progress) -> Reading:
    """The reading of a CT by the detectors, reported from the confidence of the options on."""
    from LesionDetectorLib.pipeline import LOWEST_CONFIDENCE, find_lesions

    lesions = find_lesions(volume, detectors, min(options.confidence, LOWEST_CONFIDENCE), progress, progress.warn)
    models = [Model.of(path) for path in weights_of(options)]
    return Reading.of(volume, lesions, models, options.confidence)
