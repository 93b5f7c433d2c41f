"""The evaluator's command line: reports of a data set, and csv files good and bad."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from LesionDetectorLib.detect import SliceBoxes
from LesionDetectorLib.lesion import BodyPart, Recist
from matplotlib.image import imread

from train import evaluate
from train.data.deeplesion import UNKNOWN, read_info
from train.data.layout import row, write_csv, write_png
from train.measuring import plots
from train.measuring.statement import Evaluation, plain, report, size_groups
from train.measuring.tables import markdown

LIVER, LUNG, BONE = BodyPart.LIVER, BodyPart.LUNG, BodyPart.BONE
SAD_MM = {1: 16.0, 2: 8.0, 3: 16.0}


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """Three test patients with one lesion each: liver, liver under 1 cm, lung."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for patient, label in ((1, LIVER), (2, LIVER), (3, LUNG)):
        write_png(folder / "Images_png" / f"{patient:06d}_01_01" / "005.png", np.full((96, 96), 40))
        recist = Recist(((30, 40), (50, 40)), ((40, 30), (40, 50)), 20, SAD_MM[patient])
        rows.append(
            row(
                patient,
                5,
                recist,
                label,
                slices=(5, 5),
                spacing=(0.8, 0.8, 2),
                size=(96, 96),
                location=(0.5, 0.5, 0.5),
                split=3,
            )
        )
    write_csv(folder / "DL_info.csv", rows)
    return folder


FOUND = [
    SliceBoxes(0, np.array([[25.0, 25, 55, 55], [26.0, 26, 55, 55]]), np.array([0.9, 0.8]), np.array([LIVER, LIVER])),
    SliceBoxes(0, np.array([[70.0, 70, 90, 90]]), np.array([0.6]), np.array([BONE])),
    SliceBoxes(0, np.array([[25.0, 25, 55, 55]]), np.array([0.3]), np.array([LIVER])),
]
"""Patient 1: found, twice. 2: missed, and a false positive. 3: found with the wrong label."""


@pytest.fixture
def detector(monkeypatch):
    monkeypatch.setattr(evaluate, "_detector", lambda options: None)
    monkeypatch.setattr(evaluate, "detect_key_slices", lambda detector, key_slices, cache=None: FOUND)


def test_the_report_of_a_data_set_and_its_boxes_read_back(data_set, detector, tmp_path, capsys):
    out = tmp_path / "report"
    assert evaluate.main(["slices", str(data_set), "--out", str(out), "--replicates", "40", "--each"]) == 0
    result = json.loads((out / "report.json").read_text())
    assert (result["images"], result["patients"], result["lesions"], result["detections"]) == (3, 3, 3, 4)
    liver = result["by_label"]["Liver"]
    assert liver["false_positives_of_all_labels"]["sensitivity"] == 0.5 and liver["false_positives_of_all_labels"][
        "interval_95"
    ] == [0, 1]
    assert (liver["sad_at_least_1_cm"]["sensitivity"], liver["sad_below_1_cm"]["sensitivity"]) == (1, 0)
    lung = result["by_label"]["Lung"]
    assert lung["whatever_the_label"]["sensitivity"] == 1 and lung["false_positives_of_all_labels"]["sensitivity"] == 0
    assert lung["false_positives_of_all_labels"]["interval_95"] is None, "one patient gives no interval"
    assert (
        result["confusion"]["rows"]["Liver"] == [0, 0, 0, 1, 0, 0, 0, 0, 1]
        and result["confusion"]["rows"]["Lung"][3] == 1
    )
    assert result["average_precision"]["0.5"]["Lung"] == 0
    assert (
        result["by_size_mm"]["< 10"] == {} and result["by_size_mm"]["15 to 20"]["with_the_right_label"]["lesions"] == 2
    )
    assert [entry["found"] for entry in result["each_lesion"]] == [True, False, False]
    assert result["how_counted"]["second_hit_on_a_found_lesion"] == "neither a true nor a false positive"

    tables = (out / "report.md").read_text()
    assert (
        "| Liver | 2 | 50.0 (0.0 to 100.0) | 50.0 (0.0 to 100.0) | 100.0, n = 1 | 0.0, n = 1 | 50.0 (0.0 to 100.0) |"
        in tables
    )
    assert "only 0.67 false positives per image" in tables
    for name in ("froc.png", "froc_by_label.png", "confusion.png", "key_slices.png"):
        assert name in tables and imread(out / name).std() > 0.01

    capsys.readouterr()
    files = ["--detections", str(out / "detections.csv"), "--ground-truth", str(out / "ground_truth.csv")]
    assert evaluate.main(["froc", *files, "--iou", "0.3", "--fps", "0.5", "4", "--bootstrap", "40"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["sensitivity"] == {
        rate: result["by_rate"][rate]["whatever_the_label"]["sensitivity"] for rate in ("0.5", "4")
    }
    right = again["with_the_right_label"]
    assert right["sensitivity"]["4"] == result["by_rate"]["4"]["with_the_right_label"]["sensitivity"]
    assert right["by_label"]["Liver"]["false_positives_of_all_labels"]["interval_95"]["4"] == [0, 1]


def test_without_a_folder_it_prints_json(data_set, detector, capsys):
    assert evaluate.main(["slices", str(data_set)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["sensitivity_with_the_right_label"] == {"Liver": 0.5, "Lung": 0, "mean": 0.25}
    assert result["score_threshold"] is None, "all detections are within the rate"


def test_a_data_set_of_ignored_lesions_only_makes_a_report(data_set, tmp_path):
    key_slices = [replace(key_slice, labels=np.array([UNKNOWN])) for key_slice in read_info(data_set, "test")]
    result = report(Evaluation.of(key_slices, FOUND), replicates=5)
    assert "0 lesions (and 3 of unknown label, ignored)" in markdown(result, "title")
    assert (result["lesions"], result["ignored_lesions"], result["by_label"]) == (0, 3, {})
    json.dumps(result, allow_nan=False)


def test_size_bins_are_those_of_the_mean_diameter():
    groups = size_groups(np.array([[10.0, 9.9], [10, 10], [20, 10], [60, 40], [60, 39]]))
    assert {name: np.flatnonzero(group).tolist() for name, group in groups.items()} == {
        "< 10": [0],
        "10 to 15": [1],
        "15 to 20": [2],
        "20 to 30": [],
        "30 to 50": [4],
        ">= 50": [3],
    }


def test_plain_leaves_nothing_that_json_lacks():
    assert plain({"a": [np.float64("nan"), 1.23456], "b": (float("nan"), -np.inf), "c": 3}) == {
        "a": [None, 1.2346],
        "b": None,
        "c": 3,
    }


DETECTIONS = "image,x1,y1,x2,y2,score\n1,0,0,9,9,0.5\n2,0,0,9,9,0.4\n"
TRUTH = "image,x1,y1,x2,y2\n1,0,0,9,9\n"


def run_froc(tmp_path, detections, truth, *options) -> int:
    files = tmp_path / "D.csv", tmp_path / "G.csv"
    for file, text in zip(files, (detections, truth)):
        file.write_text(text)
    return evaluate.main(["froc", "--detections", str(files[0]), "--ground-truth", str(files[1]), *options])


def test_images_with_nothing_on_them_are_counted_when_told(tmp_path, capsys):
    """One false positive in 2 images is within 0.4 an image only when there are 3."""
    truth = TRUTH + "2,50,50,60,60\n"
    late_hit = DETECTIONS + "2,50,50,60,60,0.3\n"
    for options, expected in ((), 0.5), (("--images", "3"), 1.0):
        assert run_froc(tmp_path, late_hit, truth, "--fps", "0.4", *options) == 0
        assert json.loads(capsys.readouterr().out)["sensitivity"] == {"0.4": expected}


@pytest.mark.parametrize(
    ("detections", "truth", "options", "sentence"),
    [
        (DETECTIONS.replace("score", "confidence"), TRUTH, (), "D.csv lacks the column score"),
        (
            DETECTIONS.replace("0.4", "high"),
            TRUTH,
            (),
            "D.csv, row 3, column score: a finite number is expected, not 'high'",
        ),
        (DETECTIONS, TRUTH.replace("1,0,0,9,9", "1,0,,9,9"), (), "G.csv, row 2, column y1: a finite number"),
        (DETECTIONS, TRUTH.replace("1,0,0,9,9", "1,10,0,9,9"), (), "G.csv, row 2, column x2: a number not below x1"),
        (
            DETECTIONS,
            TRUTH.replace("y2\n1,0,0,9,9", "y2,label\n1,0,0,9,9,9"),
            (),
            "G.csv, row 2, column label: a body-part code",
        ),
        (DETECTIONS.replace("2,0,0,9", ",0,0,9"), TRUTH, (), "D.csv, row 3, column image"),
        (DETECTIONS, TRUTH.replace("1,0,0,9,9", "1,0,0,9,9,7,7"), (), "G.csv cannot be read as a csv"),
        ("", TRUTH, (), "D.csv cannot be read as a csv"),
        (DETECTIONS.split("1,0")[0], TRUTH.split("1,0")[0], (), "name no image; say with --images"),
        (DETECTIONS, TRUTH, ("--images", "1"), "--images 1 is too few"),
        (DETECTIONS, TRUTH, ("--bootstrap", "10"), "G.csv lacks the column patient"),
    ],
)
def test_a_bad_csv_is_named(tmp_path, capsys, detections, truth, options, sentence):
    assert run_froc(tmp_path, detections, truth, *options) == 2
    message = capsys.readouterr().err
    assert sentence in message and message.count("\n") == 1


def test_a_missing_or_damaged_file_is_named(tmp_path, capsys):
    damaged = tmp_path / "damaged.csv.gz"
    damaged.write_bytes(b"no gzip")
    for file in (tmp_path / "absent.csv", damaged):
        assert evaluate.main(["froc", "--detections", str(file), "--ground-truth", str(file)]) == 2
        assert str(file) in capsys.readouterr().err


def test_no_lesions_give_no_number(tmp_path, capsys):
    assert run_froc(tmp_path, DETECTIONS, TRUTH.split("1,0")[0], "--fps", "1") == 0
    assert json.loads(capsys.readouterr().out)["sensitivity"] == {"1": None}


def test_the_colours_of_the_boxes_on_a_key_slice(tmp_path):
    """Ground truth green, true positive yellow, false positive red, and none of them where there is none."""
    boxes = np.array([[20.0, 20, 40, 40], [60, 60, 80, 80]])
    empty = np.zeros((96, 96)) - 500
    example = plots.SliceExample(
        "slice",
        empty,
        boxes[:1] - 8,
        np.array([4]),
        boxes,
        np.array([4, 5]),
        np.array([0.9, 0.4]),
        *np.eye(2, dtype=bool),
    )
    nothing = plots.SliceExample("slice", empty, *[np.zeros((0, 4)), np.zeros(0, int)] * 2, *np.zeros((3, 0)))
    colours = {"lime": (0, 1, 0), "yellow": (1, 1, 0), "red": (1, 0, 0)}
    counts = []
    for name, shown in ("boxes.png", example), ("nothing.png", nothing):
        plots.key_slices([shown], tmp_path / name)
        picture = imread(tmp_path / name)[..., :3]
        inside = picture[: int(0.9 * len(picture))]  # above the legend
        counts.append([int((np.abs(inside - colour).max(-1) < 0.2).sum()) for colour in colours.values()])
    assert min(counts[0]) > 50 and max(counts[1]) == 0
