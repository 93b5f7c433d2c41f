"""The command line: ``lesion-detector detect``, ``batch``, ``bench``, ``measure`` and ``report``.

Exit codes: 0 done; 1 a fault of the program, stderr has its traceback; 2 the input or an option cannot be used, one sentence on stderr
says why; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from LesionDetectorLib import __version__, batch, bench, cli_report, ct
from LesionDetectorLib.exchange import lesions_json
from LesionDetectorLib.formats import BY_NAME, write_reports
from LesionDetectorLib.lesion import Lesion
from LesionDetectorLib.printable import printable
from LesionDetectorLib.reading import Model, Reading
from LesionDetectorLib.refusal import FAULT, Refusal, refusal
from LesionDetectorLib.report import text
from LesionDetectorLib.scratch import Scratch

if TYPE_CHECKING:
    from LesionDetectorLib.detect import Detector

STOPPED = 130
SPIN = "20000"
"""How often a thread of torch looks whether another is done before it gives its core away. With GNU OpenMP's 300,000 the network takes 1.3
to 4 times as long on two cores of which one is busy otherwise; with fewer it takes longer on an idle machine, with these by 3 %."""
EXAMPLES = """
examples:
  lesion-detector detect scans/ct1 --out found
  lesion-detector detect ct.nii.gz --out found --confidence 0.3 --device cpu
  lesion-detector detect study --series 1.2.840.1 --out found --progress json
  lesion-detector measure ct.nrrd --slice 51 --box 210.5 180 262 231
  lesion-detector report found/lesions.json --ct scans/ct1 --format html --out report.html
"""


class _Progress:
    """Says how far the work is: a bar on a terminal, or one JSON object a line on stdout."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._bar = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._json:
            self._line(event="progress", stage=stage, done=done, total=total)
            return
        from tqdm import tqdm

        if stage != self._stage:
            self.close()
            self._bar, self._stage = (
                tqdm(desc=stage, total=total, unit="slice" if stage in ("read", "detect") else "", file=sys.stderr),
                stage,
            )
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


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (Refusal, OSError, MemoryError, ModuleNotFoundError) as error:
        sentence = refusal(error)
        if sentence is None:
            raise
        return _refused(options, printable(sentence))
    except KeyboardInterrupt:
        print("Stopped; nothing was written.", file=sys.stderr, flush=True)
        return STOPPED


def run() -> None:
    """The program. After Ctrl-C it ends at once: torch would take itself down for another second."""
    sys.excepthook = _show_fault
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a terminal may lack a letter of a name
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    code = main()
    if code == STOPPED:
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _show_fault(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say that what went wrong is a fault of the program, after the traceback that tells where."""
    for line in "".join(traceback.format_exception(kind, error, trace)).splitlines():
        print(printable(line), file=sys.stderr)
    print(FAULT, file=sys.stderr, flush=True)


def _refused(options: argparse.Namespace, sentence: str) -> int:
    if getattr(options, "progress", None) == "json":
        print(json.dumps({"event": "error", "text": sentence}, ensure_ascii=False), flush=True)
    print(sentence, file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lesion-detector",
        description=f"Find, label and measure lesions on CT. {text.NOT_A_MEDICAL_DEVICE}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="{detect,batch,bench,measure,report}")

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("input", type=Path, help="DICOM folder, .nrrd, .nhdr, .nii, .nii.gz, .mha, or a DeepLesion sub-volume folder")
    shared.add_argument("--series", metavar="UID", help="SeriesInstanceUID, where a DICOM folder holds several; default: most axial slices")

    finding = argparse.ArgumentParser(add_help=False)
    finding.add_argument("--out", type=Path, required=True, help="folder for the results")
    finding.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto takes the GPU where there is one")
    finding.add_argument("--confidence", type=_share, default=0.5, help="report lesions from this confidence on, 0 to 1 (%(default)s)")
    finding.add_argument(
        "--weights",
        type=Path,
        action="append",
        metavar="FILE",
        help="detector to use; given several times, they are fused; default: the one that ships",
    )

    find = commands.add_parser(
        "detect", parents=[shared, finding], help="find the lesions of a CT and write report, tables, pictures and a Slicer scene"
    )
    find.add_argument("--progress", choices=("bar", "json"), default="bar", help="json: one JSON object a line on stdout")
    find.add_argument("--no-scene", action="store_true", help="leave out scene.mrb and scene.png")
    find.add_argument("--lesions-only", action="store_true", help="write lesions.json alone, for another program to read")
    find.add_argument(
        "--wait",
        action="store_true",
        help="for another program: load the detector, then wait for a line on stdin before reading the CT; end when stdin is closed",
    )
    find.add_argument("--delete-ct", action="store_true", help="for another program: delete the CT, which is one file, once it is read")
    find.set_defaults(run=_detect)

    many = commands.add_parser(
        "batch",
        parents=[finding],
        help="find the lesions of many CTs and write their reports and tables",
        epilog=batch.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    batch.add_arguments(many)

    timed = commands.add_parser(
        "bench",
        parents=[shared],
        help="time the detector on a CT, stage by stage",
        epilog=bench.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.add_arguments(timed)

    size = commands.add_parser("measure", parents=[shared], help="print long and short axis of the lesion in a box as JSON")
    size.add_argument("--slice", type=int, required=True, metavar="NUMBER", help="slice, by the number that the report shows")
    size.add_argument(
        "--box",
        type=float,
        nargs=4,
        required=True,
        metavar=("X0", "Y0", "X1", "Y1"),
        help="box in voxels, about 5 px wider than the lesion",
    )
    size.set_defaults(run=_measure)
    _add_report(commands)
    return parser


def _add_report(commands: argparse._SubParsersAction) -> None:
    again = commands.add_parser(
        "report",
        help="write a reading again: as text, table, JSON, a page with pictures, DICOM SR or SEG",
        epilog=cli_report.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    again.add_argument("input", type=Path, metavar="LESIONS", help="a lesions.json of detect or of the panel in 3D Slicer, or a DICOM SR")
    again.add_argument("--ct", type=Path, metavar="CT", help="the CT that was read, for pictures and for DICOM: whatever detect takes")
    again.add_argument("--format", choices=list(BY_NAME), default="text", help="(%(default)s)")
    again.add_argument("--out", type=Path, metavar="FILE", help="file to write; default: print it")
    again.add_argument("--accepted-only", action="store_true", help="only the lesions that a reader accepted")
    again.add_argument("--confidence", type=_share, help="pending lesions from this confidence on; default: as the reading was made")
    again.add_argument("--diameters", action="store_true", help="the two diameters in the structured text")
    again.add_argument("--baseline", action="store_true", help="the RECIST 1.1 baseline: targets, and the sum of their diameters")
    again.add_argument("--patient", action="store_true", help="who the patient is, from the DICOM headers, on the page")
    again.set_defaults(run=cli_report.report)


def _share(value: str) -> float:
    number = float(value)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{value} does not lie between 0 and 1")
    return number


def _detect(options: argparse.Namespace) -> int:
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
    from LesionDetectorLib.pipeline import LOWEST_CONFIDENCE, find_lesions

    lesions = find_lesions(volume, detectors, min(options.confidence, LOWEST_CONFIDENCE), progress, progress.warn)
    models = [Model.of(path) for path in _weights(options)]
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

    return [Detector.load(path, options.device) for path in _weights(options)]


def _weights(options: argparse.Namespace) -> list[Path]:
    from LesionDetectorLib.detect import DEFAULT_WEIGHTS

    return options.weights or [DEFAULT_WEIGHTS]


def _write(volume: ct.Volume, reading: Reading, options: argparse.Namespace, progress: _Progress) -> None:
    """Write all results into a folder of their own first, then move them to `options.out`, so that a stop on the way leaves that as it was.

    A new folder appears at once and whole. In one that there is, an older run's results give way and everything else stays.
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


PICTURES = "pictures"
RESULTS = ("lesions.json", "report.txt", "report_with_diameters.txt", "lesions.csv", "scene.mrb", "scene.png")


def _results(folder: Path) -> list[Path]:
    """The results in a folder, relative to it. What else lies there is the user's."""
    pictures = [*(folder / PICTURES).glob("lesion_[0-9]*.png"), folder / PICTURES / "overview.png"]
    return [path.relative_to(folder) for path in (*(folder / name for name in RESULTS), *pictures) if path.is_file()]


def _replace_results(new: Path, out: Path, old: Path) -> None:
    """Move the results in `out` to `old`, all of them, and those in `new` to `out`; if one cannot be moved, `out` is as before.

    lesions.json goes first and comes last: `out` never holds results of two runs, and those beside a lesions.json are whole.
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


def _measure(options: argparse.Namespace) -> int:
    from LesionDetectorLib.recist import measure

    volume = ct.read(options.input, options.series)
    k, last = options.slice - volume.first_slice, volume.slice_number(len(volume.hu) - 1)
    if not 0 <= k < len(volume.hu):
        raise Refusal(f"Slice {options.slice} is not in {options.input}, whose slices are {volume.first_slice} to {last}.")
    recist = measure(volume.hu[k], volume.spacing[:2], tuple(options.box))
    print(
        json.dumps(
            {
                "slice": options.slice,
                "key_slice": k,
                "box": options.box,
                "long_mm": round(recist.long_mm, 2),
                "short_mm": round(recist.short_mm, 2),
                "long_axis": recist.long_axis,
                "short_axis": recist.short_axis,
            },
            indent=2,
        )
    )
    return 0


if __name__ == "__main__":
    run()
