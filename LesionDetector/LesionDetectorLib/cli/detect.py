"""``lesion-detector detect``: find the lesions of a CT and write report, tables, pictures and a Slicer scene."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from LesionDetectorLib import ct
from LesionDetectorLib.cli.options import Commands, add_command, add_ct, add_detector, weights_of
from LesionDetectorLib.exchange import lesions_json
from LesionDetectorLib.formats import write_reports
from LesionDetectorLib.lesion import Lesion
from LesionDetectorLib.printable import printable
from LesionDetectorLib.reading import Model, Reading
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.report import text
from LesionDetectorLib.scratch import Scratch

if TYPE_CHECKING:
    from LesionDetectorLib.detect import Detector


PICTURES = "pictures"
RESULTS = ("lesions.json", "report.txt", "report_with_diameters.txt", "lesions.csv", "scene.mrb", "scene.png")


def add(commands: Commands) -> None:
    """Add the command."""
    summary = "find the lesions of a CT and write report, tables, pictures and a Slicer scene"
    parser = add_command(commands, "detect", summary)
    add_ct(parser)
    add_detector(parser)
    parser.add_argument(
        "--progress", choices=("bar", "json"), default="bar", help="json: one JSON object a line on stdout"
    )
    parser.add_argument(
        "--location",
        action="store_true",
        help=(
            "experimental: also tell where in the body each lesion lies, from head to feet; checked on few CTs, and "
            "wrong at the shoulders"
        ),
    )
    parser.add_argument("--no-scene", action="store_true", help="leave out scene.mrb and scene.png")
    parser.add_argument(
        "--lesions-only", action="store_true", help="write lesions.json alone, for another program to read"
    )
    parser.add_argument(
        "--wait",
        action="store_true",
        help=(
            "for another program: load the detector, then wait for a line on stdin before reading the CT; end when "
            "stdin is closed"
        ),
    )
    parser.add_argument(
        "--delete-ct",
        action="store_true",
        help="for another program: delete the CT, which is one file, once it is read",
    )
    parser.set_defaults(run=run)


class _Progress:
    """Says how far the work is: a bar on a terminal, or one JSON object a line on stdout."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._bar: Any = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._json:
            self._line(event="progress", stage=stage, done=done, total=total)
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
        if self._json:
            self._line(event="warning", text=sentence)
        else:
            self.close()
            print(f"Warning: {sentence}", file=sys.stderr)

    def finish(self, out: Path, reading: Reading) -> None:
        """Tell that all is written."""
        if self._json:
            self._line(event="done", out=printable(str(out)), lesions=len(reading.reported))
        else:
            self.close()
            print(text.compose(reading, diameters=True))
            print(f"Pictures, scene and tables: {printable(str(out.resolve()))}")

    def close(self) -> None:
        """End the bar of a stage."""
        if self._bar is not None:
            self._bar.close()
            self._bar, self._stage = None, ""

    @staticmethod
    def _line(**event: object) -> None:
        print(json.dumps(event, ensure_ascii=False), flush=True)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code.

    Refusal and OSError for what cannot be used, before anything is written.
    """
    progress = _Progress(options.progress == "json")
    if options.out.exists() and not options.out.is_dir():
        raise Refusal(f"{options.out} is a file; give a folder for the results.")
    if options.delete_ct and options.input.is_dir():
        raise Refusal(f"{options.input} is a folder, and --delete-ct deletes one file; leave it out.")
    detectors = []
    try:
        if options.wait:
            from LesionDetectorLib.child import end_with_stdin

            progress("load", 0, 1)
            detectors = _detectors(options)
            progress("load", 1, 1)
            if not sys.stdin.readline():
                return 0
            end_with_stdin(lambda: _delete_ct(options))
        volume = ct.read(options.input, options.series, lambda done, total: progress("read", done, total))
    finally:
        _delete_ct(options)
    for sentence in volume.warnings:
        progress.warn(sentence)

    detectors = detectors or _detectors(options)
    from LesionDetectorLib.pipeline import LOWEST_CONFIDENCE, find_lesions, located

    lesions = find_lesions(volume, detectors, min(options.confidence, LOWEST_CONFIDENCE), progress, progress.warn)
    if options.location:
        lesions = located(volume, lesions, progress.warn)
    models = [Model.of(path) for path in weights_of(options)]
    reading = Reading.of(volume, lesions, models, options.confidence)
    _write(volume, reading, options, progress)
    progress.finish(options.out, reading)
    return 0


def _delete_ct(options: argparse.Namespace) -> None:
    """Delete the CT if that is asked for; on Windows that may have to be left to the program that wrote it."""
    if options.delete_ct:
        with suppress(PermissionError):
            options.input.unlink(missing_ok=True)


def _detectors(options: argparse.Namespace) -> list[Detector]:
    from LesionDetectorLib.detect import Detector

    return [Detector.load(path, options.device) for path in weights_of(options)]


def _write(volume: ct.Volume, reading: Reading, options: argparse.Namespace, progress: _Progress) -> None:
    """Write all results into a folder of their own first, then move them to `options.out`, so that a stop on the way
    leaves that as it was.

    A new folder appears at once and whole. In one that there is, an older run's results give way and everything else
    stays.
    """
    out = options.out
    out.parent.mkdir(parents=True, exist_ok=True)
    with Scratch(f".{out.name}-unfinished-", out if out.is_dir() else out.parent) as folder:
        whole = folder / "whole"
        whole.mkdir()
        if options.lesions_only:
            lesions_json.write(whole / "lesions.json", reading)
        else:
            write_reports(whole, reading)
            progress("write", 1, 3)
            _write_pictures(volume, reading.reported, whole / PICTURES)
            progress("write", 2, 3)
            if not options.no_scene:
                _write_scene(volume, reading, whole, progress)
            progress("write", 3, 3)
        if out.is_dir():
            _replace_results(whole, out, folder / "old")
        else:
            whole.replace(out)


def _results(folder: Path) -> list[Path]:
    """The results in a folder, relative to it. What else lies there is the user's."""
    pictures = [*(folder / PICTURES).glob("lesion_[0-9]*.png"), folder / PICTURES / "overview.png"]
    return [path.relative_to(folder) for path in (*(folder / name for name in RESULTS), *pictures) if path.is_file()]


def _replace_results(new: Path, out: Path, old: Path) -> None:
    """Move the results in `out` to `old`, all of them, and those in `new` to `out`.

    If one cannot be moved, `out` is as before.

    lesions.json goes first and comes last: `out` never holds results of two runs, and those beside a lesions.json are
    whole.
    """
    outdated, fresh = _results(out), _results(new)[::-1]
    try:
        for result in outdated:
            _move(out / result, old / result)
        for result in fresh:
            _move(new / result, out / result)
    except BaseException:
        for result in fresh:
            if not (new / result).exists():
                _move(out / result, new / result)
        for result in outdated[::-1]:
            if not (out / result).exists():
                _move(old / result, out / result)
        raise
    with suppress(OSError):  # the user's pictures are in it
        (out / PICTURES).rmdir()


def _move(old: Path, new: Path) -> None:
    new.parent.mkdir(parents=True, exist_ok=True)
    old.replace(new)


def _write_pictures(volume: ct.Volume, lesions: list[Lesion], folder: Path) -> None:
    from LesionDetectorLib.report.figures import write_lesion_pictures

    folder.mkdir()
    write_lesion_pictures(volume, lesions, folder)


def _write_scene(volume: ct.Volume, reading: Reading, folder: Path, progress: _Progress) -> None:
    from LesionDetectorLib.scene import SceneError, render_scene, write_scene

    try:
        write_scene(volume, reading, folder / "scene.mrb")
        render_scene(folder / "scene.mrb", folder / "scene.png")
    except SceneError as error:
        progress.warn(str(error))
