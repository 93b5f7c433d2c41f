"""The command line: ``lesion-detector detect``, ``batch``, ``bench``, ``evaluate``, ``follow``, ``measure``
and ``report``.

Exit codes: 0 done; 1 a fault of the program, stderr has its traceback; 2 the input or an option cannot be used, one
sentence on stderr says why; 130 stopped by Ctrl-C; 141 whoever read the output has gone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from types import TracebackType
from typing import Any

from LesionDetectorLib import __version__
from LesionDetectorLib.cli import batch, bench, detect, evaluate, follow, measure, report
from LesionDetectorLib.printable import printable
from LesionDetectorLib.refusal import FAULT, Refusal, refusal
from LesionDetectorLib.report import text

STOPPED = 130
UNREAD = 141
SPIN = "20000"
"""How often a thread of torch looks whether another is done before it gives its core away.

With GNU OpenMP's 300,000 the network takes 1.3 to 4 times as long on two cores of which one is busy otherwise; with
fewer it takes longer on an idle machine, with these by 3 %."""
EXAMPLES = """
examples:
  lesion-detector detect scans/ct1 --out found
  lesion-detector detect ct.nii.gz --out found --confidence 0.3 --device cpu
  lesion-detector detect study --series 1.2.840.1 --out found --progress json
  lesion-detector follow scans/march scans/june --out followed
  lesion-detector evaluate scans/ct1 --truth known_lesions.csv
  lesion-detector measure ct.nrrd --slice 51 --box 210.5 180 262 231
  lesion-detector report found/lesions.json --ct scans/ct1 --format html --out report.html
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except BrokenPipeError:
        raise
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
    streams: tuple[Any, Any] = (sys.stdout, sys.stderr)
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")  # a terminal may lack a letter of a name
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # as `| head` leaves it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = UNREAD
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
    commands = parser.add_subparsers(required=True, metavar="{detect,batch,follow,evaluate,bench,measure,report}")
    for command in (detect, batch, follow, evaluate, bench, measure, report):
        command.add(commands)
    return parser


if __name__ == "__main__":
    run()
