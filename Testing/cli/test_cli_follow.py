"""The command that follows lesions, from the first proposal to the response, on two small DICOM studies."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pydicom
import pytest
from LesionDetectorLib import ct
from LesionDetectorLib.cli import __main__ as cli
from LesionDetectorLib.cli import follow as command
from LesionDetectorLib.exchange import course_json, lesions_json
from LesionDetectorLib.followup import alignment
from LesionDetectorLib.lesion import ReviewStatus
from LesionDetectorLib.report import course_page
from LesionDetectorLib.report.text import NOT_A_MEDICAL_DEVICE
from referencing import Registry, Resource

from Testing.helpers import two_studies

YES = {"A": "yes", "2 in 2": "yes"}
"""Confirmed by id, or by lesion and study where nothing shows it: the small target, and the one that is gone."""


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> list[str]:
    return two_studies.make(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="module")
def proposed(studies, tmp_path_factory) -> Path:
    """What the first run writes, as a process."""
    out = tmp_path_factory.mktemp("follow") / "out"
    command = [sys.executable, "-m", "LesionDetectorLib.cli", "follow", *studies, "--out", out, "--sr"]
    command += ["--trial", "S1", "001"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Note: There is no response, so tu.csv, tr.csv and rs.csv were not written." in done.stderr
    (out.parent / "stdout").write_text(done.stdout)
    return out


COMPOSE = course_page.compose


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    """Pictures take most of the time of a run, and most tests do not look at them."""
    monkeypatch.setattr(course_page, "compose", lambda *_: "")


def follow(*arguments) -> int:
    return cli.main(["follow", *map(str, arguments)])


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "pairs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def fill_in(folder: Path, file: Path, answers: dict[str, str], **changes: str) -> Path:
    """The pairs of a run with a reader's answers, in a new file; `changes` are of the row with the first of them."""
    rows = rows_of(folder)
    for row in rows:
        answer = answers.get(row["id"] or f"{row['lesion']} in {row['study']}")
        row["confirmed"] = answer or row["confirmed"]
        if changes and row["id"] == next(iter(answers)):
            row.update(changes)
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return file


def saved(folder: Path) -> dict:
    return json.loads((folder / "follow.json").read_text(encoding="utf-8"))


def test_the_first_run_proposes_pairs_and_counts_nothing(proposed):
    rows = rows_of(proposed)
    said = [(row["lesion"], row["study"], row["number"], row["id"], row["what"], row["confirmed"]) for row in rows]
    assert said == [
        ("1", "1", "1", "a", "first seen", "yes"),
        ("1", "2", "1", "A", "matched", ""),
        ("2", "1", "2", "b", "first seen", "yes"),
        ("2", "2", "", "", "vanished", ""),
        ("3", "2", "2", "new", "new", ""),
    ]
    assert (rows[1]["long_mm"], rows[1]["short_mm"], rows[1]["date"]) == ("24.0", "19.2", "2025-06-01")
    assert float(rows[1]["apart_mm"]) < 3 and int(rows[1]["sure"]) > 80
    text = (proposed / "follow.txt").read_text()
    assert "Study 1: 2025-03-02 (DICOM StudyDate)" in text
    assert "there is no response" in text and "Response by" not in text
    assert "3 steps of lesions wait for a reader" in text and "--pairs" in text
    assert saved(proposed)["response"] is None and not (proposed / "rs.csv").exists()


def test_nothing_says_who_the_patient_is(proposed):
    written = [path for path in proposed.iterdir() if path.suffix != ".dcm"]
    for path in (*written, proposed.parent / "stdout"):
        content = path.read_text(encoding="utf-8")
        assert "Doe" not in content and two_studies.PATIENT not in content, path


def test_a_reader_confirms_and_the_response_is_there(proposed, studies, tmp_path, capsys):
    pairs = fill_in(proposed, tmp_path / "pairs.csv", YES)
    out = tmp_path / "out"
    assert follow(*studies, "--out", out, "--pairs", pairs, "--sr", "--irecist", "--trial", "S1", "001") == 0
    printed = capsys.readouterr().out
    assert "2025-06-01: partial response (PR)" in printed and "-62.5 %, partial response" in printed
    assert "Best overall response: stable disease (SD)" in printed  # one scan does not confirm it
    assert "New lesion 3 Mediastinum is pending" in printed and "iRECIST 2025-06-01: iPR" in printed
    response = saved(out)["response"]
    assert [point["sum_mm"] for point in response["time_points"]] == [64.0, 24.0]
    assert "PR" in (out / "rs.csv").read_text() and "001" in (out / "tu.csv").read_text()
    later = lesions_json.read(out / "lesions_2.json")
    assert {one.id: one.status for one in later.lesions} == {"A": ReviewStatus.ACCEPTED, "new": ReviewStatus.PENDING}
    uids = [tracking_uids(out / f"lesions_{number}.dcm") for number in (1, 2)]
    assert len(uids[0]) == len(uids[1]) == 2 and len(uids[0] & uids[1]) == 1, "the confirmed lesion is tracked by one"
    before = [tracking_uids(proposed / f"lesions_{number}.dcm") for number in (1, 2)]
    assert not before[0] & before[1], "a lesion that is only proposed is not"
    assert rows_of(out)[1]["confirmed"] == rows_of(out)[3]["confirmed"] == "yes"


def tracking_uids(path: Path) -> set[str]:
    items = pydicom.dcmread(path).iterall()
    return {
        str(item.UID)
        for item in (each for sequence in items if sequence.VR == "SQ" for each in sequence.value)
        if item.get("ValueType") == "UIDREF" and item.ConceptNameCodeSequence[0].CodeValue == "112040"
    }


def test_a_new_lesion_is_progression_once_it_is_confirmed(proposed, studies, tmp_path):
    pairs = fill_in(proposed, tmp_path / "pairs.csv", {**YES, "new": "yes"})
    assert follow(*studies, "--out", tmp_path / "out", "--pairs", pairs) == 0
    point = saved(tmp_path / "out")["response"]["time_points"][1]
    assert point["overall_response"] == "PD" and point["new_lesions"] == [{"name": "3 Mediastinum", "counts": True}]
    assert "A reader has confirmed every step." in (tmp_path / "out/follow.txt").read_text()


def test_a_refused_pair_stands_alone_and_stays_so_when_its_pairs_are_read_again(proposed, studies, tmp_path):
    pairs, out = fill_in(proposed, tmp_path / "pairs.csv", {"A": "no", "2 in 2": "yes", "new": "no"}), tmp_path / "out"
    for given in (pairs, out / "pairs.csv"):
        assert follow(*studies, "--out", out, "--pairs", given) == 0
        steps = {one["number"]: [step["what"] for step in one["steps"]] for one in saved(out)["lesions"]}
        assert steps == {
            1: ["first seen", "vanished"],
            2: ["first seen", "vanished"],
            4: ["not yet there", "new"],
        }
        refused = [row for row in rows_of(out) if row["what"] == "rejected"]
        assert [(row["id"], row["confirmed"]) for row in refused] == [("new", "no")]
        later = lesions_json.read(out / "lesions_2.json").lesions
        assert {one.id: one.status.value for one in later} == {"A": "pending", "new": "rejected"}
    reviewed = [f"{study.partition('=')[0]}={out}/lesions_{number}.json" for number, study in enumerate(studies, 1)]
    assert follow(*reviewed, "--out", out, "--pairs", out / "pairs.csv") == 0, "with the readings that it wrote, too"


def test_another_number_joins_lesions(proposed, studies, tmp_path):
    pairs = fill_in(proposed, tmp_path / "pairs.csv", {"new": "yes", "A": "yes"}, lesion="2")
    assert follow(*studies, "--out", tmp_path / "out", "--pairs", pairs) == 0
    joined = saved(tmp_path / "out")["lesions"][1]
    assert [step["lesions"] for step in joined["steps"]] == [["b"], ["new"]]


def test_a_spreadsheet_with_semicolons_is_read(proposed, studies, tmp_path):
    pairs = fill_in(proposed, tmp_path / "pairs.csv", YES)
    pairs.write_text("\ufeff" + pairs.read_text().replace(",", ";").replace(".", ",").replace("yes", "Yes"))
    assert follow(*studies, "--out", tmp_path / "out", "--pairs", pairs) == 0
    assert saved(tmp_path / "out")["response"]["time_points"][1]["overall_response"] == "PR"


def test_the_json_fits_its_schema(proposed, studies, tmp_path):
    pairs = fill_in(proposed, tmp_path / "pairs.csv", YES, state="too small to measure")
    assert follow(*studies, "--out", tmp_path / "out", "--pairs", pairs, "--irecist") == 0
    lesions = Resource.from_contents(json.loads(lesions_json.SCHEMA.read_text(encoding="utf-8")))
    registry = Registry().with_resource("lesions.schema.json", lesions)
    schema = json.loads(course_json.SCHEMA.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema, registry=registry)
    validator.check_schema(schema)
    for folder in (proposed, tmp_path / "out"):
        validator.validate(saved(folder))
    counted = saved(tmp_path / "out")["response"]["time_points"][1]["targets"]
    assert [target["counted_mm"] for target in counted] == [5.0, 0.0]
    assert not validator.is_valid({**saved(proposed), "version": 2})
    assert not validator.is_valid({**saved(proposed), "patient": "Doe"})


def test_the_page_opens_without_a_complaint_and_asks_the_network_for_nothing(proposed, studies, tmp_path, monkeypatch):
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs Chromium; on Debian and Ubuntu: apt install chromium")
    monkeypatch.setattr(course_page, "compose", COMPOSE)
    pairs = fill_in(proposed, tmp_path / "pairs.csv", YES)
    assert follow(*studies, "--out", tmp_path / "out", "--pairs", pairs) == 0
    asked, complaints = [], []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: complaints.append(message.text))
        tab.goto((tmp_path / "out/follow.html").as_uri())
        for width in (390, 1280):
            tab.set_viewport_size({"width": width, "height": 900})
            assert tab.evaluate("document.documentElement.scrollWidth") == width
        pictures = tab.evaluate("[...document.images].map(e => [e.naturalWidth > 0, e.alt != ''])")
        text = tab.inner_text("body")
        browser.close()
    assert complaints == [] and {url.split(":")[0] for url in asked} <= {"file", "data"}
    assert pictures == [[True, True]] * (3 + 3 * 2), "the curves, and three lesions in two studies"
    assert NOT_A_MEDICAL_DEVICE in text and "2025-06-01: partial response (PR)" in text


def test_pairs_that_a_reader_filled_in_are_not_written_over(proposed, studies, capsys):
    before = (proposed / "pairs.csv").read_bytes()
    assert follow(*studies, "--out", proposed) == 2
    assert "may hold what a reader decided: go on from it with --pairs" in capsys.readouterr().err
    assert (proposed / "pairs.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{0}"], "two studies or more"),
        (["{0}", "{0}"], "Study 1 and study 2 are the same series: give each study once."),
        (["{1}", "{0}"], "The study of 2025-03-02 is given after that of 2025-06-01"),
        (["{0}", "{1}", "--dates", "2025-03-02"], "There are 2 studies and 1 --dates"),
        (["{0}", "{1}", "--dates", "2025-03-02", "1.6.2025"], "--dates 1.6.2025 is no date"),
        (["{ct0}={l1}", "{1}"], "ct1 has no series 1.2.3.2.4: its axial CT series are 1.2.3.1.4"),
        (["{0}", "{ct1}="], "names no study"),
        (["{0}", "{other}"], "different patients by the PatientID of their DICOM files: give studies of one patient"),
        (["{0}", "{undated}"], "Study 2 does not say when it was made"),
        (["{0}", "{1}", "--pairs", "nowhere.csv"], "nowhere.csv does not exist"),
        (["{0}", "{1}", "--trial", "=1", "001"], "is no identifier"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_a_sentence(studies, tmp_path, capsys, monkeypatch, arguments, sentence):
    def no_alignment(*_):
        raise AssertionError("it is refused before anything slow")

    monkeypatch.setattr(alignment, "align", no_alignment)
    cts, lesions = zip(*(study.split("=") for study in studies))
    names = {"ct0": cts[0], "ct1": cts[1], "l1": lesions[1]}
    for name, day, patient in (("other", "20250601", "SOMEBODY-ELSE"), ("undated", "", two_studies.PATIENT)):
        if any(name in argument for argument in arguments):
            path = two_studies.write(tmp_path / name, day, number=3, patient=patient)
            lesions_json.write(tmp_path / "none.json", lesions_json.Reading.of(ct.read(path), []))
            names[name] = f"{path}={tmp_path / 'none.json'}"
    out = tmp_path / "out"
    assert follow(*(argument.format(*studies, **names) for argument in arguments), "--out", out) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert sentence in error and "SOMEBODY" not in error and two_studies.PATIENT not in error
    assert not out.exists()


def test_dates_that_are_given_win_and_the_patient_may_be_taken_for_one(studies, tmp_path, capsys):
    path = two_studies.write(tmp_path / "other", "20250601", two_studies.SHIFT, 3, "SOMEBODY-ELSE")
    lesions_json.write(tmp_path / "none.json", lesions_json.Reading.of(ct.read(path), []))
    dates = ("--dates", "2025-03-02", "2025-06-02")
    given = (studies[0], f"{path}={tmp_path / 'none.json'}", "--out", tmp_path / "out", *dates)
    assert follow(*given, "--same-patient", "--sr") == 0
    printed = capsys.readouterr()
    assert "Study 2 is dated 2025-06-02 as given; its DICOM StudyDate is 2025-06-01." in printed.err
    assert "Study 2: 2025-06-02 (given)" in printed.out and "they were taken for one" in printed.out
    assert "Study 2 has no lesion to report, so there is no lesions_2.dcm." in printed.err


def test_a_study_without_lesions_is_read_by_the_detector(studies, tmp_path, monkeypatch, capsys):
    path, _, given = studies[1].partition("=")
    found = []
    monkeypatch.setattr(command, "load_detectors", lambda _: ["a detector"])
    monkeypatch.setattr(
        command,
        "find",
        lambda volume, detectors, *_: found.append((volume.source, detectors)) or lesions_json.read(given),
    )
    assert follow(studies[0], path, "--out", tmp_path / "out") == 0
    assert found == [(Path(path), ["a detector"])]
    assert "1 Liver, 2025-06-01: matched" in capsys.readouterr().out


def test_ctrl_c_leaves_what_was_there(proposed, studies, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    shutil.copytree(proposed, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(course_json, "dumps", stopped)
    assert follow(*studies, "--out", out, "--pairs", out / "pairs.csv") == 130
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert "nothing was written" in capsys.readouterr().err
