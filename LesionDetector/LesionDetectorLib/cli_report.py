"""``lesion-detector report``: a reading that was saved as lesions.json, written again in the form that somebody needs."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from . import ct
from .report import Reading, exchange, page, table, text
from .report.files import write_text

FORMATS = {"text": {"diameters", "baseline"}, "csv": {"baseline"}, "json": set(), "html": {"diameters", "baseline", "patient"}}
"""The formats, and which of the options that not all of them can show they do."""
EXAMPLES = """
examples:
  lesion-detector report found/lesions.json --diameters
  lesion-detector report found/lesions.json --accepted-only --baseline --format csv --out lesions.csv
  lesion-detector report found/lesions.json --ct scans/ct1 --baseline --format html --out report.html

The page opens in any browser, without a network; print it from there for a PDF.
"""


def report(options: argparse.Namespace) -> int:
    """Run the command; ValueError and OSError for what cannot be used, before anything is written."""
    for name in ("diameters", "baseline", "patient"):
        if getattr(options, name) and name not in FORMATS[options.format]:
            raise ValueError(f"--format {options.format} cannot show what --{name} asks for; leave that out.")
    reading = exchange.read(options.input)
    if options.confidence is not None:
        reading = replace(reading, confidence=options.confidence)
    if options.accepted_only:
        reading = reading.accepted_only()
    volume = None if options.ct is None else ct_of(reading, options.ct)
    match options.format:
        case "text":
            content = text.compose(reading, options.diameters, options.baseline)
        case "csv":
            content = table.compose(reading, options.baseline)
        case "json":
            content = exchange.dumps(reading)
        case "html":
            patient = _patient(volume) if options.patient else None
            content = page.compose(reading, volume, options.diameters, options.baseline, patient)
    if options.out is None:
        sys.stdout.write(content)
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.out, content)
    return 0


def ct_of(reading: Reading, path: Path) -> ct.Volume:
    """The CT at `path`, which must be the one on which the lesions of `reading` lie. Raises ValueError where it is another."""
    wanted = reading.dicom.series_uid if reading.dicom and path.is_dir() else ""
    volume = ct.read(path, wanted or None)
    found = Reading.of(volume, [])
    same_kind = bool(found.dicom) == bool(reading.dicom)
    if same_kind and reading.series_uid not in ("", found.series_uid):
        raise ValueError(f"{path} is another CT than that of the lesions: series {found.series_uid}, not {reading.series_uid}.")
    if not found.geometry.matches(reading.geometry):
        raise ValueError(f"{path} is another CT than that of the lesions, {reading.source}: its voxels lie elsewhere.")
    return volume


def _patient(volume: ct.Volume | None) -> dict[str, str]:
    if volume is None:
        raise ValueError("What the page says of the patient is in the CT's DICOM headers: give the CT with --ct.")
    if not volume.dicom:
        raise ValueError(f"{volume.source} is no DICOM and does not say who the patient is: leave --patient out.")
    return ct.read_patient(volume.source, volume.dicom["series_uid"])
