"""`lesion-detector report`: the formats, the CT that must be that of the reading, and every refusal."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from LesionDetectorLib import ct
from LesionDetectorLib.cli import __main__ as cli
from LesionDetectorLib.cli import report
from LesionDetectorLib.ct.dicom import read_patient
from LesionDetectorLib.exchange import lesions_json
from LesionDetectorLib.formats import BY_NAME
from LesionDetectorLib.lesion import BodyPart, Lesion, Recist, ReviewStatus
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.report import table, text
from pydicom import dcmread

from Testing.helpers.dicom_study import axial, body, write

PATIENT = {
    "PatientName": "Doe^Jane",
    "PatientID": "MRN-4711",
    "PatientBirthDate": "19700102",
    "PatientSex": None,
    "StudyDate": "20240203",
}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A DICOM CT of five slices."""
    folder = tmp_path_factory.mktemp("study") / "DOE_JANE"
    write(folder, body(5), axial(5), SpecificCharacterSet="ISO_IR 192", **PATIENT)
    return folder


@pytest.fixture(scope="module")
def reading(study) -> Reading:
    recist = Recist(((8.0, 10.0), (24.0, 10.0)), ((16.0, 6.0), (16.0, 16.0)), 11.2, 8.0)
    accepted = Lesion(BodyPart.LIVER, 0.4, 2, (1, 3), (6.0, 4.0, 26.0, 18.0), recist, ReviewStatus.ACCEPTED, id="a")
    pending = Lesion(BodyPart.LUNG, 0.6, 3, (3, 3), (6.0, 4.0, 26.0, 18.0), recist, id="b")
    return Reading.of(ct.read(study), [accepted, pending])


@pytest.fixture
def lesions_file(tmp_path, reading) -> Path:
    lesions_json.write(tmp_path / "lesions.json", reading)
    return tmp_path / "lesions.json"


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "LesionDetectorLib.cli", "report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def printed(capsys, *arguments: object) -> str:
    """What the command prints, run in this process; it must succeed."""
    assert cli.main(["report", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_the_command_prints_the_report(lesions_file, reading):
    done = run(lesions_file)
    assert (done.returncode, done.stdout, done.stderr) == (0, text.compose(reading), "")


def test_a_terminal_without_a_letter_of_a_name_gets_its_number(lesions_file, reading):
    lesions_json.write(lesions_file, replace(reading, study="Größe"))
    command = [sys.executable, "-m", "LesionDetectorLib.cli", "report", str(lesions_file)]
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"") and b"Study: Gr\\xf6\\xdfe" in done.stdout


def test_the_command_writes_a_page_with_the_pictures_of_a_dicom_ct(lesions_file, study, tmp_path):
    out = tmp_path / "new" / "report.html"
    done = run(lesions_file, "--ct", study, "--format", "html", "--baseline", "--out", out)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    page = out.read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 4 and "RECIST 1.1 baseline" in page
    assert "Jane" not in page and "DOE_JANE" not in page and "MRN-4711" not in page
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_an_sr_is_written_and_read_again(lesions_file, study, reading, tmp_path):
    done = run(lesions_file, "--ct", study, "--format", "sr", "--out", tmp_path / "lesions.dcm")
    assert (done.returncode, done.stdout) == (0, "") and all(
        line.startswith("Note: ") for line in done.stderr.splitlines()
    )
    again = run(tmp_path / "lesions.dcm", "--ct", study, "--diameters")
    assert again.returncode == 0 and "1. Lesion 1: Liver (40%), 11 x 8 mm" in again.stdout
    assert (
        run(tmp_path / "lesions.dcm", "--ct", study, "--format", "json", "--out", tmp_path / "again.json").returncode
        == 0
    )
    back = lesions_json.read(tmp_path / "again.json")
    assert [(one.body_part, one.key_slice, one.status) for one in back.lesions] == [
        (one.body_part, one.key_slice, one.status) for one in reading.lesions
    ]


def test_a_seg_is_written(lesions_file, study, tmp_path):
    assert run(lesions_file, "--ct", study, "--format", "seg", "--out", tmp_path / "outlines.dcm").returncode == 0
    written = dcmread(tmp_path / "outlines.dcm")
    assert written.Modality == "SEG" and len(written.SegmentSequence) == 2


def test_dicom_needs_the_dicom_files_of_the_ct(lesions_file, reading, study, tmp_path, capsys):
    def refusal(*arguments: object) -> str:
        assert cli.main(["report", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    assert "give both --ct and --out" in refusal(lesions_file, "--format", "sr", "--out", tmp_path / "new.dcm")
    assert "give both --ct and --out" in refusal(lesions_file, "--format", "seg", "--ct", study)
    lesions_json.write(tmp_path / "nifti.json", replace(reading, dicom=None))
    options = ("--format", "sr", "--ct", study, "--out", tmp_path / "new.dcm")
    assert "was not DICOM, so no DICOM report can point to it: write JSON or text." in refusal(
        tmp_path / "nifti.json", *options
    )
    assert run(lesions_file, "--ct", study, "--format", "sr", "--out", tmp_path / "sr.dcm").returncode == 0
    assert "give the CT's folder with --ct" in refusal(tmp_path / "sr.dcm")
    assert not (tmp_path / "new.dcm").exists()


def test_the_patient_is_on_the_page_where_that_is_asked_for(lesions_file, study, capsys):
    page = printed(capsys, lesions_file, "--ct", study, "--format", "html", "--patient")
    shown = {"Patient": "Doe Jane", "Patient ID": "MRN-4711", "Birth date": "1970-01-02", "Study date": "2024-02-03"}
    assert all(f"<dt>{name}</dt><dd>{value}</dd>" in page for name, value in shown.items()) and "<dt>Sex" not in page


@pytest.mark.parametrize("name", ["DOE_JANE_1950", "DOE_JANE_1950.nrrd"])
def test_no_report_holds_the_name_of_the_file_or_folder(tmp_path, capsys, name):
    source, dicom = tmp_path / "DOE_JANE_1950 studies" / name, not name.endswith("nrrd")
    if dicom:
        write(source, body(1), axial(1), PatientName="Roe^John")
        (source / "DOE_JANE_1950.dcm").write_bytes((source / "1.2.3.4-000.dcm").read_bytes()[:700])
    else:
        source.parent.mkdir()
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(body(1) + np.int16(1010)), str(source))
    recist = Recist(((8.0, 10.0), (24.0, 10.0)), ((16.0, 6.0), (16.0, 16.0)), 11.2, 8.0)
    reading = Reading.of(ct.read(source), [Lesion(BodyPart.LIVER, 0.8, 0, (0, 0), (6.0, 4.0, 26.0, 18.0), recist)])
    assert any("The CT has one slice only" in warning for warning in reading.warnings) and len(reading.warnings) == 2
    lesions_json.write(tmp_path / "lesions.json", reading)
    for kind in BY_NAME if dicom else ("text", "csv", "html", "json"):
        assert (
            cli.main(
                [
                    "report",
                    str(tmp_path / "lesions.json"),
                    "--ct",
                    str(source),
                    "--format",
                    kind,
                    "--out",
                    str(tmp_path / kind),
                ]
            )
            == 0
        )
        content = (tmp_path / kind).read_bytes()
        assert content.upper().count(b"DOE_JANE") == (1 if kind == "json" else 0), kind
    assert lesions_json.read(tmp_path / "json").source == name, "which programs need"
    if dicom:
        assert "DOE_JANE" not in printed(capsys, tmp_path / "sr", "--ct", source).upper()


def test_a_patients_name_comes_in_any_alphabet(tmp_path):
    write(tmp_path, body(2), axial(2), SpecificCharacterSet="ISO_IR 192", PatientName="Yamada^Tarou=山田^太郎")
    assert read_patient(tmp_path, "1.2.3.4") == {"Patient": "Yamada Tarou=山田 太郎"}
    with pytest.raises(ct.CTError, match="has no series 9"):
        read_patient(tmp_path, "9")


def test_csv_and_json_and_what_they_leave_out(lesions_file, reading, capsys):
    assert printed(capsys, lesions_file, "--format", "csv") == table.compose(reading)
    rows = list(
        csv.DictReader(io.StringIO(printed(capsys, lesions_file, "--format", "csv", "--baseline", "--accepted-only")))
    )
    assert [(row["body_part"], row["recist_category"]) for row in rows] == [("Liver", "target candidate")]
    assert lesions_json.loads(printed(capsys, lesions_file, "--format", "json")) == reading
    kept = lesions_json.loads(
        printed(capsys, lesions_file, "--format", "json", "--accepted-only", "--confidence", "0.7")
    )
    assert kept == replace(reading.accepted_only(), confidence=0.7)


def test_confidence_and_diameters_are_those_asked_for(lesions_file, capsys):
    report = printed(capsys, lesions_file, "--confidence", "0.7", "--diameters")
    assert "Lesion 1: Liver (40%), 11 x 8 mm" in report and "Lung" not in report
    assert "Lung (60%)" in printed(capsys, lesions_file, "--confidence", "0.6")


# ------ the CT of the reading


def test_a_copy_of_the_ct_in_another_format_is_the_same_ct(reading, study, tmp_path):
    volume = ct.read(study)
    image = SimpleITK.GetImageFromArray(volume.hu)
    image.SetSpacing(volume.spacing)
    image.SetOrigin(volume.origin)
    SimpleITK.WriteImage(image, str(tmp_path / "copy.nrrd"))
    assert np.array_equal(report.ct_of(reading, tmp_path / "copy.nrrd").hu, volume.hu)
    copied = Reading.of(ct.read(tmp_path / "copy.nrrd"), [])
    assert report.ct_of(copied, study).dicom and report.ct_of(copied, tmp_path / "copy.nrrd")
    image.SetOrigin((-10.0, -20.0, 50.0))
    SimpleITK.WriteImage(image, str(tmp_path / "elsewhere.nrrd"))
    with pytest.raises(
        ValueError, match=r"elsewhere.nrrd is another CT than that of the lesions, DOE_JANE: its voxels lie elsewhere"
    ):
        report.ct_of(reading, tmp_path / "elsewhere.nrrd")


def test_of_several_series_that_of_the_reading_is_taken(reading, study, tmp_path):
    write(tmp_path / "more", body(9, seed=1), axial(9), SeriesInstanceUID="1.2.3.99")
    for file in study.iterdir():
        (tmp_path / f"old_{file.name}").write_bytes(file.read_bytes())
    assert report.ct_of(reading, tmp_path).series_uid == "1.2.3.4"


def test_another_ct_of_the_same_kind_is_refused(reading, tmp_path):
    files = write(tmp_path / "dicom", body(5), axial(5), SeriesInstanceUID="1.2.3.99")
    with pytest.raises(ValueError, match=r"dicom has no series 1.2.3.4: its axial CT series are 1.2.3.99"):
        report.ct_of(reading, tmp_path / "dicom")
    with pytest.raises(ValueError, match=r"is another CT than that of the lesions: series 1.2.3.99, not 1.2.3.4\."):
        report.ct_of(reading, files[0])
    paths = [tmp_path / "one.nrrd", tmp_path / "other.nrrd"]
    for seed, path in enumerate(paths):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(body(5, seed)), str(path))
    one = Reading.of(ct.read(paths[0]), [])
    assert report.ct_of(one, paths[0])
    with pytest.raises(ValueError, match=r"other.nrrd is another CT than that of the lesions: series"):
        report.ct_of(one, paths[1])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("absent.json",), "absent.json cannot be used: No such file"),
        (("{ct}/notes.json",), "not valid JSON"),
        (("{json}", "--ct", "absent"), "absent does not exist"),
        (("{json}", "--ct", "absent", "--format", "json"), "absent does not exist"),
        (
            ("{json}", "--format", "json", "--baseline"),
            "--format json cannot show what --baseline asks for; leave that out.",
        ),
        (
            ("{json}", "--format", "csv", "--diameters"),
            "--format csv cannot show what --diameters asks for; leave that out.",
        ),
        (("{json}", "--patient"), "--format text cannot show what --patient asks for; leave that out."),
        (("{json}", "--format", "html", "--patient"), "give the CT with --ct"),
        (("{json}", "--out", "{ct}"), "cannot be used: Is a directory"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(lesions_file, tmp_path, capsys, arguments, sentence):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "notes.json").write_text("Lesions:")
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["report", *(argument.format(json=lesions_file, ct=folder) for argument in arguments)]) == 2
    out, error = capsys.readouterr()
    assert out == "" and sentence in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_ct_that_is_no_dicom_says_nothing_of_the_patient(reading, tmp_path, capsys):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(body(5)), str(tmp_path / "ct.nrrd"))
    lesions_json.write(tmp_path / "lesions.json", Reading.of(ct.read(tmp_path / "ct.nrrd"), []))
    arguments = ("report", tmp_path / "lesions.json", "--ct", tmp_path / "ct.nrrd", "--format", "html", "--patient")
    assert cli.main([*map(str, arguments)]) == 2
    assert "ct.nrrd is not DICOM and does not say who the patient is: leave --patient out." in capsys.readouterr().err
