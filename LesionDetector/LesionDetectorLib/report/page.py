"""The page: a whole reading with its pictures in one HTML file that needs nothing else, for a screen, a phone or paper.

Its layout and wording are in page.html and style.css beside this file.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from LesionDetectorLib.followup.baseline import HEADING, assess
from LesionDetectorLib.lesion import Lesion
from LesionDetectorLib.looks import window
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.report import text
from LesionDetectorLib.words import plural

if TYPE_CHECKING:
    from jinja2 import Template

    from LesionDetectorLib.ct import Volume


def compose(
    reading: Reading,
    volume: Volume | None = None,
    diameters: bool = False,
    baseline: bool = False,
    patient: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """The page as HTML.

    Parameters
    ----------
    reading: what is reported; its reported lesions are shown, by their numbers.
    volume: the CT of the reading, for the pictures; without it the page has none and says so.
    diameters: whether the structured text has them too; the table always has.
    baseline: whether the page has the RECIST 1.1 baseline.
    patient: what to say of the patient, by its name ("Patient", "Birth date"), for example from
        `ct.dicom.read_patient`; None says nothing.
    progress: is told how many lesions have their pictures, of how many; it may raise to stop.
    """
    lesions = reading.reported
    return template("page.html").render(
        reading=reading,
        patient=patient or {},
        facts=_facts(reading),
        lesions=[_lesion(reading, lesion, number) for number, lesion in enumerate(lesions, start=1)],
        pictures=_pictures(volume, lesions, progress) if volume is not None else [],
        counts=_counts(lesions),
        nothing_found=text.NO_LESION.format(confidence=reading.confidence),
        baseline=assess(reading) if baseline else None,
        baseline_heading=HEADING,
        structured=text.compose(reading, diameters),
        disclaimer=text.NOT_A_MEDICAL_DEVICE,
        footer=text.FOOTER.format(version=reading.software_version),
    )


def template(name: str) -> Template:
    """The template beside this file; it escapes whatever is put in there."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)


def data_uri(picture: bytes, kind: str = "jpeg") -> str:
    """A picture as it stands in a page that needs no other file."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _facts(reading: Reading) -> dict[str, str]:
    """What the page says of the CT and of how it was read.

    Not the name of its file or folder, which may be the patient's.
    """
    dicom, geometry = reading.dicom, reading.geometry
    if dicom is None:
        source = {"Identifier": reading.series_uid}
    else:
        source = {"Study Instance UID": dicom.study_uid, "Series Instance UID": dicom.series_uid}
        source["Frame of Reference UID"] = dicom.frame_of_reference_uid
    columns, rows, slices = geometry.size
    thickness = "" if reading.slice_thickness is None else f", {reading.slice_thickness:.2f} mm thick"
    return {
        **{name: value or "not known" for name, value in source.items()},
        "Slices": f"{slices}, {geometry.spacing[2]:.2f} mm apart{thickness}",
        "Pixels": f"{columns} x {rows} of {geometry.spacing[0]:.3f} x {geometry.spacing[1]:.3f} mm",
        "Software": f"LesionDetector {reading.software_version}",
        "Model": "; ".join(f"{model.name}, SHA-256 {model.sha256}" for model in reading.models)
        or "none: read without a detector",
        "Threshold": f"{reading.confidence:.0%} confidence, for lesions that no reader has accepted",
    }


def _lesion(reading: Reading, lesion: Lesion, number: int) -> dict[str, str | int]:
    """What the page says of one lesion, all of it as text but its number."""
    recist, first, last = lesion.recist, *(reading.slice_number(k) for k in lesion.slices)
    instances = reading.dicom.sop_instance_uids if reading.dicom else ()
    return {
        "number": number,
        "body_part": lesion.body_part.title,
        "marks": ", ".join(lesion.marks),
        "confidence": "" if lesion.confidence is None else f"{lesion.confidence:.0%}",
        "location": "" if lesion.location is None else str(lesion.location),
        "axes": "" if recist is None else f"{recist.long_mm:.1f} x {recist.short_mm:.1f}",
        "slice": str(reading.slice_number(lesion.key_slice)),
        "slices": "" if first == last else f"{first} to {last}",
        "status": lesion.status.value,
        "origin": lesion.origin.value,
        "instance": (instances[lesion.key_slice] or "none, for its voxels are not the pixels of a file")
        if lesion.key_slice < len(instances)
        else "",
    }


def _counts(lesions: list[Lesion]) -> str:
    """How many lesions there are of which status: "5 lesions: 2 accepted, 3 pending"."""
    statuses = [lesion.status for lesion in lesions]
    parts = ", ".join(f"{statuses.count(status)} {status}" for status in sorted(set(statuses)))
    return plural(len(lesions), "lesion") + (f": {parts}" if parts else "")


def _pictures(
    volume: Volume, lesions: list[Lesion], progress: Callable[[int, int], None]
) -> list[dict[str, str | float]]:
    """The two pictures of every lesion, `whole` and `enlarged`, as data URIs, and what must be known to look at
    them."""
    from LesionDetectorLib.report import figures

    def picture(number: int, enlarged: bool) -> str:
        return data_uri(figures.jpeg(figures.panel_figure(volume, lesions, number, enlarged)))

    pictures: list[dict[str, str | float]] = []
    for number, lesion in enumerate(lesions, start=1):
        progress(number - 1, len(lesions))
        pictures.append(
            {
                "whole": picture(number, enlarged=False),
                "enlarged": picture(number, enlarged=True),
                "window": "{} to {} HU".format(*window(lesion.body_part)),
                "width_mm": figures.enlarged_mm(volume, lesion),
            }
        )
    return pictures
