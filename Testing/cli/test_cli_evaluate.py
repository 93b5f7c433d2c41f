"""`lesion-detector evaluate`: findings against known lesions, counted by hand, and every form and fault of the csv."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import SimpleITK
import torch
from LesionDetectorLib import pipeline
from LesionDetectorLib.cli import __main__ as cli
from LesionDetectorLib.detect import Detector, SliceBoxes
from LesionDetectorLib.lesion import BodyPart, Recist
from LesionDetectorLib.models import weights
from LesionDetectorLib.models.vfnet import VFNet
from matplotlib.image import imread

from Testing.helpers.dicom_study import axial, body, write
from train.data import layout

LIVER, KIDNEY, BONE = BodyPart.LIVER, BodyPart.KIDNEY, BodyPart.BONE
HEAD = "slice,x1,y1,x2,y2,lesion,label\n"
ONE, TWO = (40.0, 40.0, 60.0, 60.0), (80.0, 40.0, 96.0, 60.0)


@pytest.fixture(scope="module")
def ct_file(tmp_path_factory):
    """Six slices of water in air with a bright square at `ONE` on slices 2 to 4, as a report counts."""
    hu = np.full((6, 128, 128), -1000, np.int16)
    hu[:, 20:110, 20:110] = 0
    hu[1:4, 44:57, 44:57] = 100
    image = SimpleITK.GetImageFromArray(hu)
    image.SetSpacing((0.8, 0.8, 5.0))  # so far apart that a finding is as sure as on its slice
    path = tmp_path_factory.mktemp("ct") / "ct.nrrd"
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.fixture
def finds(monkeypatch):
    """Has a detector find these: (k, box, score, label)."""

    def make(*found):
        def detect(volume, detectors, progress, warn):
            progress(len(volume.hu), len(volume.hu))
            return [
                SliceBoxes(
                    k,
                    np.array([box for on, box, _, _ in found if on == k], float).reshape(-1, 4),
                    np.array([score for on, _, score, _ in found if on == k]),
                    np.array([label for on, _, _, label in found if on == k], int),
                )
                for k in range(len(volume.hu))
            ]

        monkeypatch.setattr(Detector, "load", lambda path, device: None)
        monkeypatch.setattr("LesionDetectorLib.detect.detect", detect)
        monkeypatch.setattr(pipeline, "detect", detect)

    return make


@pytest.fixture
def evaluate(tmp_path, capsys):
    """Runs the command with a TRUTH of this content; the JSON that it writes, or the refusing sentence."""

    def run(ct, truth, *options):
        (tmp_path / "truth.csv").write_text(truth, encoding="utf-8")
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        command = ["evaluate", ct, "--truth", tmp_path / "truth.csv", "--out", out, *options]
        if cli.main([*map(str, command)]):
            return capsys.readouterr().err
        return json.loads((out / "evaluation.json").read_text(encoding="utf-8"))

    return run


def test_findings_are_right_or_wrong_and_lesions_found_or_missed(ct_file, finds, evaluate, capsys, tmp_path):
    """One lesion is found on two slices with its label, one with another label, one not; a finding is wrong."""
    finds(
        *[(k, ONE, score, LIVER) for k, score in ((1, 0.8), (2, 0.9))],
        (3, TWO, 0.6, BONE),
        (4, (22, 80, 40, 98), 0.7, KIDNEY),
        (5, ONE, 0.3, KIDNEY),
    )
    truth = HEAD + "2,40,40,60,60,A,Liver\n3,41,40,61,60,A,Liver\n4,80,40,96,60,B,kidney\n1,100,100,110,110,,\n"
    result = evaluate(ct_file, truth)
    now = {"confidence": 0.5, "findings": 3, "right": 2, "wrong": 1, "lesions_found": 2}
    assert result["at_the_confidence"] == now | {"found_with_the_right_label": 1, "sensitivity": 2 / 3}
    a, b, c = result["known_lesions"]
    assert (a["lesion"], a["slices"], a["by"]["confidence"], a["label_right"]) == ("A", [2, 3], 0.8, True)
    assert (b["found"], b["body_part"], b["by"]["body_part"], b["label_right"]) == (True, "Kidney", "Bone", False)
    assert (c["lesion"], c["body_part"], c["found"], c["label_right"]) == ("4", None, False, None)
    assert [(each["slice"], each["right"], each["lesions"]) for each in result["findings"]] == [
        (2, True, ["A"]),
        (5, False, []),
        (4, True, ["B"]),
    ]
    steps = {step["confidence"]: step for step in result["by_confidence"]}
    assert (steps[0.2]["findings"], steps[0.2]["wrong"], steps[0.2]["lesions_found"]) == (4, 2, 2)
    assert (steps[0.7]["findings"], steps[0.7]["lesions_found"], steps[0.9]["findings"]) == (2, 1, 0)

    out = capsys.readouterr().out
    assert "3 findings with a confidence of at least 50 %: 2 right, 1 wrong. 2 of 3 known lesions found." in out
    assert "A             2-3     Liver   yes    2      80 %        Liver (right)" in out
    assert "Bone (wrong)" in out and "4             1       -       no" in out
    assert (tmp_path / "out" / "evaluation.txt").read_text() in out + "\n"
    pictures = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert pictures == ["missed/lesion_01.png", "missed/overview.png", "wrong/lesion_01.png", "wrong/overview.png"]
    assert all(imread(tmp_path / "out" / picture).std() > 0.01 for picture in pictures)


def test_a_finding_must_overlap_on_a_slice_that_it_spans(ct_file, finds, evaluate):
    finds((2, ONE, 0.9, LIVER))
    for line, found in (("3,40,40,60,60", 1), ("2,40,40,60,60", 0), ("3,50,40,70,60", 1), ("3,51,40,71,60", 0)):
        result = evaluate(ct_file, f"slice,x1,y1,x2,y2\n{line}\n", "--iou", "0.33")
        assert result["at_the_confidence"]["lesions_found"] == found, line


def test_two_findings_of_one_lesion_are_both_right(ct_file, finds, evaluate):
    finds((1, ONE, 0.9, LIVER), (3, ONE, 0.8, KIDNEY))
    result = evaluate(ct_file, HEAD + "2,40,40,60,60,A,Lung\n4,40,40,60,60,A,Lung\n")["at_the_confidence"]
    assert (result["right"], result["wrong"], result["lesions_found"]) == (2, 0, 1)
    assert result["found_with_the_right_label"] == 0, "that of the surest finding counts"


def test_findings_that_are_dropped_are_told_of_once(ct_file, finds, evaluate, capsys, monkeypatch):
    finds((1, ONE, 0.9, LIVER), (1, TWO, 0.8, KIDNEY), (4, ONE, 0.7, KIDNEY))
    for most, told in ((2, 2), (3, None), (4, None)):
        monkeypatch.setattr(pipeline, "MOST_LESIONS", most)
        result = evaluate(ct_file, HEAD)
        assert (len(result["findings"]), result["findings_beyond_are_dropped"]) == (min(most, 3), told)
        said = capsys.readouterr()
        assert ("Only the 2 surest findings are kept" in said.out) == bool(told)
        assert "left out" not in said.err, "it is said once"


def test_a_ct_without_lesions_has_wrong_findings_only(ct_file, finds, evaluate, capsys):
    finds((1, ONE, 0.9, LIVER))
    result = evaluate(ct_file, HEAD)["at_the_confidence"]
    assert (result["wrong"], result["sensitivity"]) == (1, None)
    assert "0 of 0 known lesions found" in capsys.readouterr().out


def test_tight_boxes_get_the_detectors_margin(ct_file, finds, evaluate):
    """4 mm are 5 px here."""
    finds((2, ONE, 0.9, LIVER))
    tight = HEAD + "3,45,45,55,55,,\n"
    assert evaluate(ct_file, tight, "--tight", "--iou", "0.99")["at_the_confidence"]["lesions_found"] == 1
    assert evaluate(ct_file, tight)["at_the_confidence"]["lesions_found"] == 0


def test_the_table_of_detect_is_a_truth(ct_file, finds, evaluate, tmp_path, capsys):
    finds((1, ONE, 0.9, LIVER), (4, TWO, 0.8, KIDNEY))
    found = tmp_path / "found"
    assert cli.main(["detect", str(ct_file), "--out", str(found), "--no-scene"]) == 0
    result = evaluate(ct_file, (found / "lesions.csv").read_text())
    assert result["at_the_confidence"]["found_with_the_right_label"] == result["at_the_confidence"]["findings"] == 2
    assert [lesion["slices"] for lesion in result["known_lesions"]] == [[2], [5]]
    assert "holds 2 findings of a detector that no reader accepted" in capsys.readouterr().err


def test_a_spreadsheet_with_semicolons_is_read(ct_file, finds, evaluate):
    finds((2, ONE, 0.9, LIVER))
    result = evaluate(ct_file, "\ufeff" + "slice;x1;y1;x2;y2;label\r\n3;40,5;40;60,5;60;4\r\n;;;;;\r\n")
    assert result["at_the_confidence"]["found_with_the_right_label"] == 1


def test_slices_are_named_by_their_dicom_files(finds, evaluate, tmp_path):
    """The files lie from head to feet, a report counts from the feet."""
    folder = tmp_path / "study"
    files = write(folder, body(5), axial(5)[::-1])
    box = (6.0, 4.0, 26.0, 18.0)
    finds((4, box, 0.9, LIVER))
    result = evaluate(folder, f"slice_file,x1,y1,x2,y2\n{files[0].name},6,4,26,18\n", "--confidence", "0.1")
    assert [lesion["slices"] for lesion in result["known_lesions"]] == [[5]]
    assert result["at_the_confidence"]["lesions_found"] == 1
    (folder / "notes.txt").write_text("none")
    for name in ("absent.dcm", "notes.txt"):
        assert f"line 2: {name} is no file of a slice" in evaluate(
            folder, f"slice_file,x1,y1,x2,y2\n{name},6,4,26,18\n"
        )


def test_slices_of_deeplesion_have_their_own_numbers(finds, evaluate, tmp_path):
    for number in range(7, 12):
        hu = np.zeros((64, 64))
        hu[:8] = -1000
        layout.write_png(tmp_path / "Images_png" / "000001_01_01" / f"{number:03d}.png", hu)
    recist = Recist(((20, 32), (44, 32)), ((32, 20), (32, 44)), 24.0, 24.0)
    where = {"slices": (7, 11), "spacing": (1, 1, 2), "size": (64, 64), "location": (0.5, 0.5, 0.5)}
    layout.write_csv(tmp_path / "DL_info.csv", [layout.row(1, 9, recist, LIVER, **where)])
    finds((2, (15, 15, 49, 49), 0.9, LIVER))
    result = evaluate(tmp_path / "Images_png" / "000001_01_01", HEAD + "9,15,15,49,49,,Liver\n", "--confidence", "0.1")
    assert (result["slices"], result["at_the_confidence"]["lesions_found"]) == ([7, 11], 1)
    sentence = evaluate(tmp_path / "Images_png" / "000001_01_01", HEAD + "3,15,15,49,49,,\n")
    assert "slice 3 is not in the CT, whose slices are 7 to 11" in sentence


def test_a_trained_detector_runs(ct_file, tmp_path, capsys):
    torch.manual_seed(0)
    model = VFNet(channels=16, tower_depth=1)
    torch.nn.init.constant_(model.head.logits.bias, 0.5)
    weights.save(model, tmp_path / "eager.safetensors", {"name": "eager"})
    (tmp_path / "truth.csv").write_text(HEAD + "3,40,40,60,60,,\n")
    options = ["--truth", tmp_path / "truth.csv", "--weights", tmp_path / "eager.safetensors", "--device", "cpu"]
    assert cli.main(["evaluate", str(ct_file), *map(str, options)]) == 0
    out = capsys.readouterr().out
    assert "known lesion found." in out or "known lesions found." in out
    assert "Not a medical device" in out and sorted(path.name for path in tmp_path.iterdir()) == [
        "eager.json",
        "eager.safetensors",
        "truth.csv",
    ]


@pytest.mark.parametrize(
    ("truth", "sentence"),
    [
        ("slice,x1,y1,x2\n", "truth.csv lacks the column y2: it needs slice (or slice_file), x1, y1, x2 and y2."),
        ("", "truth.csv lacks the column slice"),
        ("x1,y1,x2,y2\n", "truth.csv lacks the column slice"),
        ("slice,slice_file,x1,y1,x2,y2\n", "has the columns slice and slice_file: keep the one that is right"),
        ("slice,x1,y1,x2,y2,x1\n", "has two columns x1"),
        (HEAD + "7,1,1,9,9,,\n", "truth.csv, line 2: slice 7 is not in the CT, whose slices are 1 to 6"),
        (HEAD + "0,1,1,9,9,,\n", "slice 0 is not in the CT"),
        (HEAD + "1.5,1,1,9,9,,\n", "slice 1.5 is not in the CT"),
        (HEAD + "\n3,one,1,9,9,,\n", "truth.csv, line 3, column x1: a number is expected, not 'one'"),
        (HEAD + "3,nan,1,9,9,,\n", "column x1: a number is expected, not 'nan'"),
        (HEAD + "3,1,1\n", "column x2: a number is expected, not ''"),
        (HEAD + "3,9,1,1,9,,\n", "line 2: a box needs x1 < x2 and y1 < y2, not 9, 1, 1, 9"),
        (HEAD + "3,200,1,209,9,,\n", "lies outside the slice of 128 x 128 pixels; give pixels, not mm"),
        (HEAD + "3,-20,1,-9,9,,\n", "lies outside the slice"),
        (HEAD + "3,1,1,9,9,,Heart\n", "column label: 'Heart' is no body part; use one of: Bone, Abdomen"),
        (HEAD + "3,1,1,9,9,,9\n", "column label: '9' is no body part"),
        (HEAD + "3,1,1,9,9,A,Lung\n4,1,1,9,9,A,Liver\n", "line 3: lesion A has another label"),
        (HEAD + "3,1,1,9,9,,,5\n", "line 2: it has more cells than the header"),
        ("slice_file,x1,y1,x2,y2\n3,1,1,9,9\n", "line 2: slice_file is for DICOM; give the number in a column slice"),
        ('slice,x1,y1,x2,y2\n"' + "9" * 200_000, "truth.csv cannot be read as a csv"),
    ],
)
def test_a_bad_truth_is_named(ct_file, evaluate, tmp_path, truth, sentence):
    message = evaluate(ct_file, truth)
    assert sentence in message and message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_no_text_or_not_there_is_named(ct_file, tmp_path, capsys):
    picture = tmp_path / "picture.csv"
    picture.write_bytes(b"\x89PNG\xff\xfe")
    for file, sentence in ((picture, "is not a text in UTF-8"), (tmp_path / "none.csv", "does not exist")):
        assert cli.main(["evaluate", str(ct_file), "--truth", str(file)]) == 2
        assert sentence in capsys.readouterr().err


def test_results_are_not_mixed_with_older_ones(ct_file, tmp_path, capsys):
    (tmp_path / "truth.csv").write_text(HEAD)
    command = ["evaluate", str(ct_file), "--truth", str(tmp_path / "truth.csv"), "--out", str(tmp_path)]
    assert cli.main(command) == 2
    assert "holds files: give a new folder with --out" in capsys.readouterr().err
