"""The one table of formats: every row works, a new row reaches every face, and a name asks for the format of its
ending."""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name

import pytest
from LesionDetectorLib import formats
from LesionDetectorLib.cli.__main__ import main
from LesionDetectorLib.exchange import lesions_json
from LesionDetectorLib.formats import BY_NAME, FORMATS, Format
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.refusal import Refusal

from Testing.helpers.readings import lesion, reading


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_every_row_names_a_function_that_takes_what_the_row_says(form):
    arguments = (
        resolve_name(form.compose).__wrapped__
        if hasattr(resolve_name(form.compose), "__wrapped__")
        else resolve_name(form.compose)
    )
    assert set(form.shows + form.needs) <= set(arguments.__code__.co_varnames[: arguments.__code__.co_argcount])


def test_a_row_is_all_that_the_command_line_needs_of_a_new_format(tmp_path, monkeypatch):
    counted = Format("count", ".count", "Number of lesions", f"{__name__}:count", shows=("baseline",))
    monkeypatch.setitem(BY_NAME, "count", counted)
    lesions_json.write(tmp_path / "lesions.json", reading(lesion(BodyPart.LUNG, 0.9), lesion(BodyPart.LIVER, 0.8, k=2)))
    command = [
        "report",
        str(tmp_path / "lesions.json"),
        "--format",
        "count",
        "--out",
        str(tmp_path / "out" / "a.count"),
    ]
    assert main([*command, "--baseline"]) == 0
    assert (tmp_path / "out" / "a.count").read_text() == "2 lesions at baseline"
    assert main([*command, "--diameters"]) == 2


def count(made, baseline=False) -> str:
    """A format of this test's own."""
    return f"{len(made.reported)} lesions" + " at baseline" * baseline


def test_a_name_asks_for_the_format_of_its_longest_ending():
    assert formats.of_ending(Path("a.seg.dcm")).name == "seg" and formats.of_ending(Path("A.DCM")).name == "sr"
    with pytest.raises(Refusal, match=r"report.doc: choose a name that ends in one of .txt, .html"):
        formats.of_ending(Path("report.doc"))
    assert formats.path_of(Path("report"), BY_NAME["csv"]) == Path("report.csv")
