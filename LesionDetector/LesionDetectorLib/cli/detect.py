"""``lesion-detector detect``: find the lesions of a CT and write report, tables, pictures and a Slicer scene."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from LesionDetectorLib import ct
from LesionDetectorLib.cli.finding import Progress, find, load_detectors
from LesionDetectorLib.cli.options import Commands, add_command, add_ct, add_detector
from LesionDetectorLib.exchange import lesions_json
from LesionDetectorLib.files import new_results
from LesionDetectorLib.formats import write_reports
from LesionDetectorLib.lesion import Lesion
from LesionDetectorLib.printable import printable
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.report import text

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


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code.

    Refusal and OSError for what cannot be used, before anything is written.
    """
    progress = Progress(options.progress == "json")
    if options.out.exists() and not options.out.is_dir():
        raise Refusal(f"{options.out} is a file; give a folder for the results.")
    if options.delete_ct and options.input.is_dir():
        raise Refusal(f"{options.input} is a folder, and --delete-ct deletes one file; leave it out.")
    detectors = []
    try:
        if options.wait:
            from LesionDetectorLib.child import end_with_stdin

            progress("load", 0, 1)
            detectors = load_detectors(options)
            progress("load", 1, 1)
            if not sys.stdin.readline():
                return 0
            end_with_stdin(lambda: _delete_ct(options))
        volume = ct.read(options.input, options.series, lambda done, total: progress("read", done, total))
    finally:
        _delete_ct(options)
    for sentence in volume.warnings:
        progress.warn(sentence)

    reading = find(volume, detectors or load_detectors(options), options, progress)
    if options.location:
        from LesionDetectorLib.pipeline import located

        reading = replace(reading, lesions=tuple(located(volume, reading.lesions, progress.warn)))
    _write(volume, reading, options, progress)
    _finish(options.out, reading, progress)
    return 0


def _delete_ct(options: argparse.Namespace) -> None:
    """Delete the CT if that is asked for; on Windows that may have to be left to the program that wrote it."""
    if options.delete_ct:
        with suppress(PermissionError):
            options.input.unlink(missing_ok=True)


def _finish(out: Path, reading: Reading, progress: Progress) -> None:
    """Tell that all is written."""
    if progress.as_json:
        progress.line(event="done", out=printable(str(out)), lesions=len(reading.reported))
    else:
        progress.close()
        print(text.compose(reading, diameters=True))
        print(f"Pictures, scene and tables: {printable(str(out.resolve()))}")


def _write(volume: ct.Volume, reading: Reading, options: argparse.Namespace, progress: Progress) -> None:
    """Write all results; a stop on the way leaves `options.out` as it was. lesions.json goes first and comes last."""
    with new_results(options.out, _results) as whole:
        if options.lesions_only:
            lesions_json.write(whole / "lesions.json", reading)
            return
        write_reports(whole, reading)
        progress("write", 1, 3)
        _write_pictures(volume, reading.reported, whole / PICTURES)
        progress("write", 2, 3)
        if not options.no_scene:
            _write_scene(volume, reading, whole, progress)
        progress("write", 3, 3)


def _results(folder: Path) -> list[Path]:
    """The results in a folder, relative to it. What else lies there is the user's."""
    pictures = [*(folder / PICTURES).glob("lesion_[0-9]*.png"), folder / PICTURES / "overview.png"]
    return [path.relative_to(folder) for path in (*(folder / name for name in RESULTS), *pictures) if path.is_file()]


def _write_pictures(volume: ct.Volume, lesions: list[Lesion], folder: Path) -> None:
    from LesionDetectorLib.report.figures import write_lesion_pictures

    folder.mkdir()
    write_lesion_pictures(volume, lesions, folder)


def _write_scene(volume: ct.Volume, reading: Reading, folder: Path, progress: Progress) -> None:
    from LesionDetectorLib.scene import SceneError, render_scene, write_scene

    try:
        write_scene(volume, reading, folder / "scene.mrb")
        render_scene(folder / "scene.mrb", folder / "scene.png")
    except SceneError as error:
        progress.warn(str(error))
