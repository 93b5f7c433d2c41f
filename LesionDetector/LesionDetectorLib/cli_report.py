"""``lesion-detector report``: a reading in a lesions.json or a DICOM SR, written again in the form that somebody needs."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from LesionDetectorLib import ct
from LesionDetectorLib.exchange import lesions_json
from LesionDetectorLib.files import write_text
from LesionDetectorLib.printable import printable
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.report import page, table, text

FORMATS = {
    "text": {"diameters", "baseline"},
    "csv": {"baseline"},
    "json": set(),
    "html": {"diameters", "baseline", "patient"},
    "sr": set(),
    "seg": set(),
}
"""The formats, and which of the options that not all of them can show they do."""
EXAMPLES = """
examples:
  lesion-detector report found/lesions.json --diameters
  lesion-detector report found/lesions.json --accepted-only --baseline --format csv --out lesions.csv
  lesion-detector report found/lesions.json --ct scans/ct1 --baseline --format html --out report.html
  lesion-detector report found/lesions.json --ct scans/ct1 --format sr --out lesions.dcm
  lesion-detector report from_ohif.dcm --ct scans/ct1 --format json --out lesions.json

The page opens in any browser, without a network; print it from there for a PDF. sr and seg are for a PACS and need the CT's DICOM files.
"""


def report(options: argparse.Namespace) -> int:
    """Run the command; Refusal and OSError for what cannot be used, before anything is written."""
    for name in ("diameters", "baseline", "patient"):
        if getattr(options, name) and name not in FORMATS[options.format]:
            raise Refusal(f"--format {options.format} cannot show what --{name} asks for; leave that out.")
    if options.format in ("sr", "seg") and None in (options.ct, options.out):
        raise Refusal(f"--format {options.format} needs the CT's DICOM folder and a file to write: give both --ct and --out.")
    reading = _read(options.input, options.ct)
    if options.confidence is not None:
        reading = replace(reading, confidence=options.confidence)
    if options.accepted_only:
        reading = reading.accepted_only()
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.format in ("sr", "seg"):
        _write_dicom(reading, options)
        return 0
    content = _compose(reading, options)
    if options.out is None:
        sys.stdout.write(content)
    else:
        write_text(options.out, content)
    return 0


def _read(path: Path, ct_path: Path | None) -> Reading:
    """The reading in a lesions.json, or in a DICOM SR of the CT at `ct_path`."""
    from pydicom.misc import is_dicom

    if not is_dicom(path):
        return lesions_json.read(path)
    if ct_path is None:
        raise Refusal(f"{path} is DICOM and tells where lesions lie in the files of a CT: give the CT's folder with --ct.")
    from LesionDetectorLib.exchange import dicom_in

    return dicom_in.read(path, ct_path)


def _compose(reading: Reading, options: argparse.Namespace) -> str:
    volume = None if options.ct is None else ct_of(reading, options.ct)
    match options.format:
        case "text":
            return text.compose(reading, options.diameters, options.baseline)
        case "csv":
            return table.compose(reading, options.baseline)
        case "html":
            patient = _patient(volume) if options.patient else None
            return page.compose(reading, volume, options.diameters, options.baseline, patient)
    return lesions_json.dumps(reading)


def _write_dicom(reading: Reading, options: argparse.Namespace) -> None:
    from LesionDetectorLib.exchange import dicom_seg, dicom_source, dicom_sr

    slices = dicom_source.source_slices(options.ct, reading)
    if options.format == "sr":
        notes = dicom_sr.write(options.out, reading, slices)
    else:
        notes = dicom_seg.write(options.out, reading, slices, ct_of(reading, options.ct))
    for note in notes:
        print(f"Note: {printable(note)}", file=sys.stderr)


def ct_of(reading: Reading, path: Path) -> ct.Volume:
    """The CT at `path`, which must be the one on which the lesions of `reading` lie. Raises Refusal where it is another."""
    wanted = reading.dicom.series_uid if reading.dicom and path.is_dir() else ""
    volume = ct.read(path, wanted or None)
    found = Reading.of(volume, [])
    same_kind = bool(found.dicom) == bool(reading.dicom)
    if same_kind and reading.series_uid not in ("", found.series_uid):
        raise Refusal(f"{path} is another CT than that of the lesions: series {found.series_uid}, not {reading.series_uid}.")
    if not found.geometry.matches(reading.geometry):
        raise Refusal(f"{path} is another CT than that of the lesions, {reading.source}: its voxels lie elsewhere.")
    return volume


def _patient(volume: ct.Volume | None) -> dict[str, str]:
    if volume is None:
        raise Refusal("What the page says of the patient is in the CT's DICOM headers: give the CT with --ct.")
    if not volume.dicom:
        raise Refusal(f"{volume.source} is no DICOM and does not say who the patient is: leave --patient out.")
    from LesionDetectorLib.ct.dicom import read_patient

    patient = read_patient(volume.source, volume.dicom.series_uid)
    return {name: printable(value) for name, value in patient.items()}
