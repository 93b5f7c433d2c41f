"""The formats of a reading: one table, which the command line and the panel read, and the files that are written and
read by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from LesionDetectorLib.files import write_dicom, write_text
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.refusal import Refusal


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file that a reading is written to.

    Attributes
    ----------
    name: as it is chosen on the command line.
    ending: of its files' names.
    title: as it is chosen in the panel.
    compose: "module:function" that makes the content of a reading and of what is given for `shows` and `needs`, by
        their names: a text, or a DICOM object and sentences on it. The module is imported when it is first used.
    shows: what it can show if it is asked to: "diameters", "baseline", "patient", and pictures of the "volume".
    needs: what it cannot do without: the "slices" of the CT's DICOM files, the "volume".
    packages: by their names in Python, those that it needs and 3D Slicer does not bring.
    """

    name: str
    ending: str
    title: str
    compose: str
    shows: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


# A new format is a file that composes it, and a row here.
FORMATS = (
    Format("text", ".txt", "Report (text)", "LesionDetectorLib.report.text:compose", shows=("diameters", "baseline")),
    Format(
        "html",
        ".html",
        "Page with pictures",
        "LesionDetectorLib.report.page:compose",
        shows=("diameters", "baseline", "patient", "volume", "progress"),
        packages=("jinja2", "matplotlib"),
    ),
    Format("csv", ".csv", "Table", "LesionDetectorLib.report.table:compose", shows=("baseline",)),
    Format("json", ".json", "JSON", "LesionDetectorLib.exchange.lesions_json:dumps"),
    Format(
        "sr",
        ".dcm",
        "DICOM SR",
        "LesionDetectorLib.exchange.dicom_sr:compose",
        needs=("slices",),
        packages=("pydicom", "highdicom"),
    ),
    Format(
        "seg",
        ".seg.dcm",
        "DICOM SEG",
        "LesionDetectorLib.exchange.dicom_seg:compose",
        needs=("slices", "volume"),
        packages=("pydicom", "highdicom", "skimage"),
    ),
)
BY_NAME = {each.name: each for each in FORMATS}


def compose(form: Format, reading: Reading, given: Mapping[str, Any]) -> Any:
    """The content of a file of this format, from what is `given` of all that it shows and needs.

    The rest of `given` is passed over.
    """
    wanted = {name: value for name, value in given.items() if name in form.shows + form.needs}
    return resolve_name(form.compose)(reading, **wanted)


def write(path: Path, form: Format, reading: Reading, given: Mapping[str, Any]) -> list[str]:
    """Write a reading to `path`, all of it or nothing; returns sentences on what a reader must know of the file.

    Raises Refusal where it cannot be written in this format, and OSError.
    """
    content = compose(form, reading, given)
    if isinstance(content, str):
        write_text(path, content)
        return []
    dataset, notes = content
    write_dicom(path, dataset)
    return notes


def write_reports(folder: Path, reading: Reading) -> None:
    """Write a reading as both texts, as table and for programs. Raises OSError."""
    write(folder / "report.txt", BY_NAME["text"], reading, {})
    write(folder / "report_with_diameters.txt", BY_NAME["text"], reading, {"diameters": True})
    write(folder / "lesions.json", BY_NAME["json"], reading, {})
    write(folder / "lesions.csv", BY_NAME["csv"], reading, {})


def of_ending(path: Path) -> Format:
    """The format that the name of a file asks for, by the longest ending that fits; Refusal names them all."""
    fitting = [form for form in FORMATS if path.name.lower().endswith(form.ending)]
    if not fitting:
        raise Refusal(f"{path.name}: choose a name that ends in one of {', '.join(form.ending for form in FORMATS)}.")
    return max(fitting, key=lambda form: len(form.ending))


def path_of(path: Path, form: Format) -> Path:
    """The file to write to: a name without an ending gets that of the format; Refusal where it has another."""
    if not path.suffix:
        return path.with_name(path.name + form.ending)
    if not path.name.lower().endswith("." + form.ending.rpartition(".")[2]):
        raise Refusal(f"{path.name}: choose a name that ends in {form.ending}, or another kind of file.")
    return path


def read(path: Path, ct: Callable[[], Path]) -> Reading:
    """The reading in a lesions.json, or in a DICOM SR, ours or another program's.

    `ct` gives the CT's DICOM folder, or one of its files, and is called for an SR alone.

    Raises Refusal where it cannot be read, and OSError.
    """
    if path.suffix.lower() == ".json" or not _is_dicom(path):
        return resolve_name("LesionDetectorLib.exchange.lesions_json:read")(path)
    return resolve_name("LesionDetectorLib.exchange.dicom_in:read")(path, ct())


def _is_dicom(path: Path) -> bool:
    from pydicom.misc import is_dicom

    return is_dicom(path)
