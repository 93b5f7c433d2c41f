"""``lesion-detector report``: a reading in a lesions.json or a DICOM SR, written again in the form that somebody
needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from LesionDetectorLib import ct, formats
from LesionDetectorLib.cli.options import Commands, add_command, share
from LesionDetectorLib.formats import BY_NAME, Format
from LesionDetectorLib.printable import printable
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.refusal import Refusal

EXAMPLES = """
examples:
  lesion-detector report found/lesions.json --diameters
  lesion-detector report found/lesions.json --accepted-only --baseline --format csv --out lesions.csv
  lesion-detector report found/lesions.json --ct scans/ct1 --baseline --format html --out report.html
  lesion-detector report found/lesions.json --ct scans/ct1 --format sr --out lesions.dcm
  lesion-detector report from_ohif.dcm --ct scans/ct1 --format json --out lesions.json

The page opens in any browser, without a network; print it from there for a PDF. sr and seg are for a PACS and need the
CT's DICOM files.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    summary = "write a reading again: as text, table, JSON, a page with pictures, DICOM SR or SEG"
    parser = add_command(commands, "report", summary, EXAMPLES)
    parser.add_argument(
        "input",
        type=Path,
        metavar="LESIONS",
        help="a lesions.json of detect or of the panel in 3D Slicer, or a DICOM SR",
    )
    parser.add_argument(
        "--ct", type=Path, metavar="CT", help="the CT that was read, for pictures and for DICOM: whatever detect takes"
    )
    parser.add_argument("--format", choices=list(BY_NAME), default="text", help="(%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write; default: print it")
    parser.add_argument("--accepted-only", action="store_true", help="only the lesions that a reader accepted")
    parser.add_argument(
        "--confidence", type=share, help="pending lesions from this confidence on; default: as the reading was made"
    )
    parser.add_argument("--diameters", action="store_true", help="the two diameters in the structured text")
    parser.add_argument(
        "--baseline", action="store_true", help="the RECIST 1.1 baseline: targets, and the sum of their diameters"
    )
    parser.add_argument(
        "--patient", action="store_true", help="who the patient is, from the DICOM headers, on the page"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; Refusal and OSError for what cannot be used, before anything is written."""
    form = BY_NAME[options.format]
    for name in ("diameters", "baseline", "patient"):
        if getattr(options, name) and name not in form.shows:
            raise Refusal(f"--format {form.name} cannot show what --{name} asks for; leave that out.")
    if form.needs and None in (options.ct, options.out):
        raise Refusal(
            f"--format {form.name} needs the CT's DICOM folder and a file to write: give both --ct and --out."
        )
    reading = formats.read(options.input, lambda: _ct_of_sr(options))
    if options.confidence is not None:
        reading = replace(reading, confidence=options.confidence)
    if options.accepted_only:
        reading = reading.accepted_only()
    given = _given(form, reading, options)
    if options.out is None:
        sys.stdout.write(formats.compose(form, reading, given))
        return 0
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for note in formats.write(options.out, form, reading, given):
        print(f"Note: {printable(note)}", file=sys.stderr)
    return 0


def _ct_of_sr(options: argparse.Namespace) -> Path:
    if options.ct is None:
        raise Refusal(
            f"{options.input} is DICOM and tells where lesions lie in the files of a CT: give the CT's folder with "
            "--ct."
        )
    return options.ct


def _given(form: Format, reading: Reading, options: argparse.Namespace) -> dict[str, Any]:
    """What the options and the CT give of all that a format shows and needs."""
    given = {"diameters": options.diameters, "baseline": options.baseline}
    if "slices" in form.needs:
        from LesionDetectorLib.exchange.dicom_source import source_slices

        given["slices"] = source_slices(options.ct, reading)
    if options.ct is not None and (not form.needs or "volume" in form.needs):
        given["volume"] = ct_of(reading, options.ct)
    if options.patient:
        given["patient"] = _patient(given.get("volume"))
    return given


def ct_of(reading: Reading, path: Path, progress: Callable[[int, int], None] | None = None) -> ct.Volume:
    """The CT at `path`, which must be the one on which the lesions of `reading` lie.

    Raises Refusal where it is another.
    """
    wanted = reading.dicom.series_uid if reading.dicom and path.is_dir() else ""
    volume = ct.read(path, wanted or None, progress)
    found = Reading.of(volume, [])
    same_kind = bool(found.dicom) == bool(reading.dicom)
    if same_kind and reading.series_uid not in ("", found.series_uid):
        raise Refusal(
            f"{path} is another CT than that of the lesions: series {found.series_uid}, not {reading.series_uid}."
        )
    if not found.geometry.matches(reading.geometry):
        raise Refusal(f"{path} is another CT than that of the lesions, {reading.source}: its voxels lie elsewhere.")
    return volume


def _patient(volume: ct.Volume | None) -> dict[str, str]:
    if volume is None:
        raise Refusal("What the page says of the patient is in the CT's DICOM headers: give the CT with --ct.")
    if not volume.dicom:
        raise Refusal(f"{volume.source} is not DICOM and does not say who the patient is: leave --patient out.")
    from LesionDetectorLib.ct.dicom import read_patient

    patient = read_patient(volume.source, volume.dicom.series_uid)
    return {name: printable(value) for name, value in patient.items()}
