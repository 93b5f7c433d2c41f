"""Volumetric FROC on cases counted by hand, on single slices, where it is `froc`, and on phantoms."""

from __future__ import annotations

import json
import logging
import time

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from LesionDetectorLib.detect import Detector, SliceBoxes
from LesionDetectorLib.lesion import BodyPart, Recist
from LesionDetectorLib.models.vfnet import VFNet

from train import evaluate
from train.data import subvolumes
from train.data.deeplesion import DeepLesionError
from train.data.layout import row, write_csv, write_png
from train.measuring.boxes import Boxes
from train.measuring.froc import froc
from train.measuring.volumes import HOW_COUNTED, PUBLISHED, RATES, volumetric_froc
from train.synthetic.study import Study, recist_box

HEADS = {"D.csv": "subvolume,slice,x1,y1,x2,y2,score", "G.csv": "subvolume,x1,y1,x2,y2,z1,z2", "S.csv": "subvolume"}
LESION = "a,10,10,30,30,3,5"


@pytest.fixture
def volumes(tmp_path, capsys):
    """Runs the command on rows of detections, lesions and, if given, sub-volumes; the JSON or the refusing sentence."""

    def run(detections, lesions, *options, subvolumes=None, heads=HEADS):
        for name, rows in ("D.csv", detections), ("G.csv", lesions), ("S.csv", subvolumes or []):
            (tmp_path / name).write_text("\n".join([heads[name], *rows]) + "\n")
        files = ["--detections", tmp_path / "D.csv", "--ground-truth", tmp_path / "G.csv"]
        files += ["--subvolumes", tmp_path / "S.csv"] if subvolumes else []
        code = evaluate.main(["volumes", *map(str, files), *options])
        out, err = capsys.readouterr()
        return json.loads(out) if code == 0 else err

    return run


def test_a_box_that_does_not_link_is_a_second_3d_box_that_counts_as_nothing(volumes):
    """Boxes on 3 and 4 have IoU .8; that on 5 has .4 with 4, and .6 with the lesion."""
    sections = ["a,3,10,10,30,30,0.6", "a,4,10,10,30,26,0.9", "a,5,10,18,30,30,0.8"]
    result = volumes(sections, [LESION])
    assert (result["3d_boxes"], result["lesions"], result["subvolumes"]) == (2, 1, 1)
    assert result["false_positives_per_subvolume_of_all_detections"] == 0
    assert result["sensitivity"] == {"0.125": 1, "0.25": 1, "0.5": 1, "1": 1, "2": 1, "4": 1, "8": 1, "mean": 1}


def test_a_box_beside_the_only_slice_of_a_lesion_is_false(volumes):
    heads = {**HEADS, "G.csv": "subvolume,slice,x1,y1,x2,y2"}
    for k, found, false in ((3, 1, 0), (4, 0, 1)):
        result = volumes([f"a,{k},10,10,30,30,0.6"], ["a,3,10,10,30,30"], heads=heads)
        assert result["sensitivity"]["8"] == found
        assert result["false_positives_per_subvolume_of_all_detections"] == false


def test_one_right_section_makes_the_whole_3d_box_right(volumes):
    """With the score of its best section, that lies beside the lesion's slices; what is false scores between."""
    sections = ["a,5,10,10,30,30,0.2", "a,6,10,10,30,30,0.9", "a,7,10,10,30,30,0.4", "a,3,80,80,90,90,0.5"]
    result = volumes(sections, [LESION])
    assert result["3d_boxes"] == 2
    assert result["sensitivity"]["0.125"] == 1 and result["score_threshold"]["0.125"] == 0.5


def test_equal_scores_are_kept_or_dropped_together(volumes):
    result = volumes(["a,3,10,10,30,30,0.5", "a,3,80,80,90,90,0.5"], [LESION])
    assert (result["sensitivity"]["0.5"], result["sensitivity"]["1"]) == (0, 1)


def test_overlap_must_be_above_the_limits(volumes):
    """Half of the lesion's box, and half of one another: IoU is exactly .5."""
    result = volumes(["a,3,10,10,30,20,0.5"], [LESION])
    assert result["sensitivity"]["8"] == 0
    assert volumes(["a,3,10,10,30,30,0.5", "a,4,10,10,30,20,0.5"], [LESION])["3d_boxes"] == 2
    assert volumes(["a,3,10,10,30,20,0.5"], [LESION], "--iou", "0.49")["sensitivity"]["8"] == 1


def test_slices_link_within_a_subvolume_and_without_a_gap(volumes):
    box = "10,10,30,30,0.5"
    assert volumes([f"a,3,{box}", f"a,5,{box}"], [LESION])["3d_boxes"] == 2
    assert volumes([f"a,3,{box}", f"a,5,{box}"], [LESION], "--every", "2")["3d_boxes"] == 1
    assert volumes([f"a,3,{box}", f"b,4,{box}"], [LESION])["3d_boxes"] == 2
    assert volumes([f"a,4,{box}", f"b,3,{box}", f"a,3,{box}"], [LESION])["3d_boxes"] == 2, "any order of the rows"


def test_subvolumes_without_lesions_count(volumes):
    """One false 3-D box in 8 sub-volumes is within 1/8; in 2 it is not."""
    boxes = ["b,3,80,80,90,90,0.9", "a,3,10,10,30,30,0.5"]
    assert volumes(boxes, [LESION])["sensitivity"]["0.125"] == 0
    listed = volumes(boxes, [LESION], subvolumes=list("abcdefgh"))
    assert (listed["subvolumes"], listed["sensitivity"]["0.125"]) == (8, 1)
    assert listed["left_out_of_other_subvolumes"] == {"detections": 0, "lesions": 0}
    only = volumes(boxes, [LESION, LESION.replace("a", "c")], subvolumes=["a"])
    assert (only["subvolumes"], only["left_out_of_other_subvolumes"]) == (1, {"detections": 1, "lesions": 1})


def test_a_ground_truth_with_splits_is_the_list_of_its_subvolumes(volumes):
    """As the fully annotated sub-volumes of DeepLesion have it."""
    heads = {**HEADS, "G.csv": "split,subvolume,x1,y1,z1,x2,y2,z2"}
    name = "000001_01_01_001-030"
    lesions = [f"test,{name},10,10,3.0,30,30,5.0", "val,000002_01_01_001-030,10,10,3.0,30,30,5.0"]
    boxes = [f"{name},4,10,10,30,30,0.5", "000003_01_01_001-030,4,10,10,30,30,0.9"]
    result = volumes(boxes, lesions, "--split", "test", "--bootstrap", "5", heads=heads)
    assert (result["subvolumes"], result["lesions"], result["sensitivity"]["mean"]) == (1, 1, 1)
    assert result["left_out_of_other_subvolumes"]["detections"] == 1
    assert "holds the splits test, val; choose one with --split" in volumes(boxes, lesions, heads=heads)
    assert "no row of the train split" in volumes(boxes, lesions, "--split", "train", heads=heads)
    assert "lacks the column split" in volumes(boxes, [LESION], "--split", "test")


def test_lesions_of_unknown_label_are_ignored(volumes):
    heads = {**HEADS, "G.csv": HEADS["G.csv"] + ",label"}
    result = volumes(["a,3,10,10,30,30,0.9"], [LESION + ",-1"], heads=heads)
    assert (result["lesions"], result["ignored_lesions"]) == (0, 1)
    assert result["false_positives_per_subvolume_of_all_detections"] == 0
    assert result["sensitivity"]["mean"] is None


def test_intervals_are_over_patients(volumes):
    """Of two patients the one is found whole, the other not: resampled, the mean is 0, a half, or 1."""
    heads = {**HEADS, "G.csv": HEADS["G.csv"] + ",patient"}
    lesions = [LESION + ",1", LESION.replace("a", "b") + ",2"]
    result = volumes(["a,3,10,10,30,30,0.9"], lesions, "--bootstrap", "200", heads=heads)
    assert (result["sensitivity"]["mean"], result["interval_95"]["mean"]) == (0.5, [0, 1])
    alone = volumes(["a,3,10,10,30,30,0.9"], [LESION + ",1"], "--bootstrap", "20", heads=heads)
    assert alone["interval_95"] is None or alone["interval_95"]["mean"] is None
    assert "lacks the column patient" in volumes(["a,3,10,10,30,30,0.9"], [LESION], "--bootstrap", "20")


def test_the_paper_stands_beside():
    """Each published row's mean is that of its seven sensitivities."""
    for published in PUBLISHED["sensitivity"].values():
        *values, mean = published.values()
        assert len(values) == len(RATES) and np.mean(values) == pytest.approx(mean, abs=0.00051)
    assert "3d_box" in HOW_COUNTED


@pytest.mark.parametrize(
    ("detections", "lesions", "options", "heads", "sentence"),
    [
        (["a,3.5,1,1,2,2,1"], [LESION], (), {}, "D.csv, row 2, column slice: a whole number is expected, not '3.5'"),
        (["a,3,1,1,2,2,"], [LESION], (), {}, "D.csv, row 2, column score: a finite number"),
        ([",3,1,1,2,2,1"], [LESION], (), {}, "D.csv, row 2, column subvolume: a sub-volume's name"),
        (
            ["a,3,1,1,2,2,1", "a,4,1,1,2,2,1"],
            [LESION],
            ("--every", "2"),
            {},
            "D.csv, row 3, column slice: a slice",
        ),
        ([], ["a,10,10,30,30,5,3"], (), {}, "G.csv, row 2, column z2: a number not below z1"),
        ([], ["a,30,10,10,30,3,5"], (), {}, "G.csv, row 2, column x2: a number not below x1"),
        ([], [LESION], (), {"G.csv": "subvolume,x1,y1,x2,y2,z1,z"}, "G.csv must say where lesions lie"),
        ([], [LESION], (), {"G.csv": "subvolume,x1,y1,x2,y2,slice,z2"}, "G.csv must say where lesions lie"),
        ([], [LESION], (), {"D.csv": "image,slice,x1,y1,x2,y2,score"}, "D.csv lacks the column subvolume"),
        ([], [], (), {}, "name no sub-volume; list them with --subvolumes"),
        ([], [LESION], ("--out", "x"), {}, "--out go with a FOLDER"),
    ],
)
def test_a_bad_csv_is_named(volumes, detections, lesions, options, heads, sentence):
    message = volumes(detections, lesions, *options, heads={**HEADS, **heads})
    assert sentence in message and message.count("\n") == 1


def test_one_form_or_the_other_is_asked_for(tmp_path, capsys):
    for options in ([], ["--detections", "D.csv"]):
        assert evaluate.main(["volumes", *options]) == 2
        assert "both --detections and --ground-truth" in capsys.readouterr().err
    assert evaluate.main(["volumes", str(tmp_path), "--every", "2"]) == 2
    assert "go without a FOLDER" in capsys.readouterr().err


# ------ properties


@st.composite
def single_slices(draw):
    """Sub-volumes of one slice each, boxes of whole numbers, so that equal scores and IoUs on the limit come up."""
    corner, side = st.integers(0, 5), st.integers(1, 5)
    box = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
    lesions = st.lists(st.tuples(box, st.sampled_from([-1, 1, 2])), max_size=3)
    detections = st.lists(st.tuples(box, st.sampled_from([1, 2]), st.sampled_from([0.1, 0.5, 0.9])), max_size=6)
    case = draw(st.lists(st.tuples(lesions, detections), min_size=1, max_size=5))
    truth = Boxes.of([tuple(map(np.array, zip(*lesions))) or (np.zeros((0, 4)), []) for lesions, _ in case])
    found = Boxes.of([tuple(map(np.array, zip(*boxes))) or (np.zeros((0, 4)), [], []) for _, boxes in case])
    return found, truth, len(case), np.array(draw(st.lists(st.integers(1, 3), min_size=len(case), max_size=len(case))))


@settings(max_examples=150, deadline=None)
@given(single_slices(), st.sampled_from([0.3, 0.5, 0.6]))
def test_on_single_slices_it_is_froc(case, iou):
    """At the same limit: IoU above it is IoU from the next number on."""
    found, truth, images, slices = case
    here = slices[truth.image]
    volumetric = volumetric_froc(found, slices[found.image], truth, np.stack([here, here], axis=1), images, iou)
    flat = froc(found, truth, images, np.nextafter(iou, 1), same_label=False)
    np.testing.assert_array_equal(volumetric.curve(), flat.curve())
    np.testing.assert_array_equal(volumetric.found, flat.found)
    np.testing.assert_array_equal(volumetric.false_positives, flat.false_positives)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_plain_loops_find_the_same(data):
    """Boxes that grow along slices, counted one 3-D box after the other."""
    corner = st.integers(0, 4)
    boxes = st.lists(st.tuples(st.integers(1, 4), corner, corner, st.sampled_from([0.2, 0.6, 0.9])), max_size=10)
    rows = sorted(set(data.draw(boxes)))
    lesion, (first, last) = (1, 1, 7, 7), sorted(data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4))))
    square = np.array([(x, y, x + 6, y + 6) for _, x, y, _ in rows], float).reshape(-1, 4)
    slices, scores = np.array([k for k, *_ in rows], int), np.array([row[3] for row in rows], float)
    found = Boxes(np.zeros(len(rows), int), square, np.ones(len(rows), int), scores)
    truth = Boxes(np.zeros(1, int), np.array([lesion], float), np.ones(1, int))
    result = volumetric_froc(found, slices, truth, np.array([[first, last]]), 1, 0.5, linking_iou=1 - 1e-9)
    # links above an IoU of nearly 1: boxes that are the same on consecutive slices, each with one partner at most
    chains: list[list[int]] = []
    for place in np.lexsort((-scores, slices)):
        for chain in chains:
            end = chain[-1]
            if slices[end] + 1 == slices[place] and (square[end] == square[place]).all():
                chain.append(place)
                break
        else:
            chains.append([place])
    right = [
        any(_iou(square[place], lesion) > 0.5 and first <= slices[place] <= last for place in chain) for chain in chains
    ]
    best = [max(scores[chain]) for chain in chains]
    assert sorted(result.false_positives) == sorted(score for score, hit in zip(best, right) if not hit)
    assert result.found[0] == max((score for score, hit in zip(best, right) if hit), default=-np.inf)


def _iou(box, other) -> float:
    width, height = (min(box[a + 2], other[a + 2]) - max(box[a], other[a]) for a in (0, 1))
    shared = max(width, 0) * max(height, 0)
    return shared / (72 - shared)


def test_lesions_of_a_phantom_given_back_are_all_found():
    """Every cross-section is lesion and detection."""
    study = Study([5], lesions=8, balanced=True, size=256, interval=5.0)
    sections = [(k, recist_box(recist)) for k in range(study.slices) for _, recist in study.measured(k)]
    k, boxes = np.array([k for k, _ in sections]), np.array([box for _, box in sections])
    here, ones = np.zeros(len(k), int), np.ones(len(k), int)
    result = volumetric_froc(Boxes(here, boxes, ones, ones / 2), k, Boxes(here, boxes, ones), np.stack([k, k], 1), 1)
    assert result.sensitivity(0) == 1 and len(result.false) == 0
    assert 1 < len(study.lesions) <= len(result.detections) < len(k), "sections of one lesion were joined"


def test_a_thousand_subvolumes_take_seconds():
    rng = np.random.default_rng(0)
    volumes, slices, boxes = 100, 60, 20
    image, k = np.divmod(np.repeat(np.arange(volumes * slices), boxes), slices)
    corner = rng.uniform(0, 450, (len(image), 2))
    found = Boxes(
        image,
        np.hstack([corner, corner + rng.uniform(10, 60, corner.shape)]),
        np.ones_like(image),
        rng.random(len(image)),
    )
    marked = rng.integers(0, len(image), 400)
    truth = Boxes(image[marked], found.boxes[marked], np.ones(400, int))
    start = time.process_time()
    result = volumetric_froc(found, k, truth, np.stack([k[marked], k[marked] + 3], axis=1), volumes)
    assert time.process_time() - start < 3, "a tenth of the full size takes half a second"
    assert (result.found > 0).all()


def test_the_fully_annotated_subvolumes_of_deeplesion_are_read(shared_data, tmp_path, capsys):
    """Each of its boxes given back as detections on its slices."""
    lesions = shared_data / "deeplesion" / "boxes3d_fully_annotated_1000_subvolumes.csv"
    table = pd.read_csv(lesions)
    table = table[table["split"] == "test"]
    repeated = table.loc[table.index.repeat((table["z2"] - table["z1"] + 1).astype(int))]
    repeated = repeated.assign(slice=repeated["z1"] + repeated.groupby(level=0).cumcount(), score=0.5)
    repeated.to_csv(tmp_path / "D.csv", index=False)
    files = ["--detections", tmp_path / "D.csv", "--ground-truth", lesions, "--split", "test", "--bootstrap", "5"]
    assert evaluate.main(["volumes", *map(str, files)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["subvolumes"], result["lesions"]) == (768, 4150)
    assert result["sensitivity"]["mean"] == 1 and result["false_positives_per_subvolume_of_all_detections"] == 0


# ------ a folder in DeepLesion's layout


def slice_of(place: int | None) -> np.ndarray:
    """Water with a bright square of 10 px at a place, or none."""
    hu = np.zeros((96, 96))
    if place is not None:
        hu[place : place + 11, place : place + 11] = 300
    return hu


def lesion_row(patient: int, number: int, slices: tuple[int, int], middle: int = 35) -> dict:
    """A mark round a square at `middle` - 5: the box has 5 px more on each side."""
    recist = Recist(((middle - 5, middle), (middle + 5, middle)), ((middle, middle - 5), (middle, middle + 5)), 8, 8)
    where = {"slices": slices, "spacing": (0.8, 0.8, 2.0), "size": (96, 96), "location": (0.5, 0.5, 0.5), "split": 3}
    return row(patient, number, recist, BodyPart.LIVER, **where)


@pytest.fixture
def folder(tmp_path):
    """Patient 1: slices 3 to 6 and 20 to 22 of one series; patient 2: slice 8 of slices 7 to 9 is missing."""
    places = {(1, 4): 30, (1, 5): 30, (1, 21): 60, (2, 7): 30, (2, 9): 30}
    for patient, numbers in ((1, [3, 4, 5, 6, 20, 21, 22]), (2, [7, 9])):
        for number in numbers:
            path = tmp_path / "Images_png" / f"{patient:06d}_01_01" / f"{number:03d}.png"
            write_png(path, slice_of(places.get((patient, number))))
    rows = [lesion_row(1, 5, (3, 6)), lesion_row(1, 21, (20, 22)), lesion_row(2, 7, (7, 9))]
    write_csv(tmp_path / "DL_info.csv", rows)
    return tmp_path


def bright_squares(volume, detectors):
    """A detector that boxes what is bright, with 5 px more on each side."""
    found = []
    for k, hu in enumerate(volume.hu):
        j, i = np.nonzero(hu > 100)
        boxes = np.array([[i.min() - 5, j.min() - 5, i.max() + 5, j.max() + 5]], float) if len(i) else np.zeros((0, 4))
        found.append(SliceBoxes(k, boxes, np.full(len(boxes), 0.9), np.ones(len(boxes), int)))
    return found


def test_a_folder_is_looked_at_slice_by_slice(folder, monkeypatch, capsys, caplog):
    """The square of the second sub-volume is not where its mark is; the two of the third are not neighbours."""
    monkeypatch.setattr(evaluate, "_detector", lambda options: None)
    monkeypatch.setattr("LesionDetectorLib.detect.detect", bright_squares)
    truth = folder / "boxes3d.csv"
    truth.write_text("split,subvolume,x1,y1,z1,x2,y2,z2\ntest,000001_01_01_020-022,55,55,21,75,75,22\n")
    out = folder / "out"
    command = ["volumes", str(folder), "--ground-truth", str(truth), "--out", str(out), "--bootstrap", "20"]
    assert evaluate.main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((out / "report.json").read_text())
    marks, others = result["marks_on_the_key_slices"], result["boxes3d.csv"]
    assert (marks["subvolumes"], marks["lesions"], marks["3d_boxes"]) == (3, 3, 4)
    assert marks["sensitivity"]["8"] == pytest.approx(2 / 3, abs=1e-4)
    assert marks["false_positives_per_subvolume_of_all_detections"] == pytest.approx(2 / 3, abs=1e-4)
    assert (others["subvolumes"], others["lesions"], others["sensitivity"]["8"]) == (1, 1, 1)
    assert result["missing_slices"] == 1
    assert "lacks 1 slice of the sub-volumes" in caplog.text and "000002_01_01/008.png" in caplog.text

    names = {"--detections": "detections.csv", "--ground-truth": "ground_truth.csv", "--subvolumes": "subvolumes.csv"}
    files = [part for option, name in names.items() for part in (option, str(out / name))]
    assert evaluate.main(["volumes", *files, "--bootstrap", "20"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {name: again[name] for name in marks} == marks
    assert pd.read_csv(out / "detections.csv")["slice"].tolist() == [4, 5, 21, 7, 9]


def test_a_trained_detector_runs_on_the_listed_subvolumes(folder, monkeypatch, capsys):
    torch.manual_seed(0)
    model = VFNet(channels=16, tower_depth=1)
    torch.nn.init.constant_(model.head.logits.bias, 0.5)
    monkeypatch.setattr(evaluate, "_detector", lambda options: Detector(model, torch.device("cpu")))
    (folder / "S.csv").write_text("subvolume\n000001_01_01_003-006\n")
    assert evaluate.main(["volumes", str(folder), "--subvolumes", str(folder / "S.csv")]) == 0
    marks = json.loads(capsys.readouterr().out)["marks_on_the_key_slices"]
    assert (marks["subvolumes"], marks["lesions"]) == (1, 1) and marks["detections"] > 0


def test_overlapping_ranges_of_a_series_are_one_subvolume(folder, caplog):
    rows = [lesion_row(1, 4, (3, 5)), lesion_row(1, 5, (4, 6), middle=60), lesion_row(1, 21, (20, 22))]
    write_csv(folder / "DL_info.csv", rows)
    with caplog.at_level(logging.WARNING):
        together, other = subvolumes.read(folder, "test")
    assert (together.name, other.name) == ("000001_01_01_003-006", "000001_01_01_020-022")
    assert [key_slice.number for key_slice in together.key_slices] == [4, 5] and not caplog.text


def test_a_folder_that_cannot_be_used_is_named(folder, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "_detector", lambda options: None)
    assert evaluate.main(["volumes", str(folder), "--split", "train"]) == 2
    assert "holds no sub-volume of the train split; choose another with --split" in capsys.readouterr().err
    (folder / "S.csv").write_text("subvolume\nnone\n")
    assert evaluate.main(["volumes", str(folder), "--subvolumes", str(folder / "S.csv")]) == 2
    assert "S.csv names; choose another" in capsys.readouterr().err
    write_png(folder / "Images_png" / "000001_01_01" / "004.png", np.zeros((64, 96)))
    with pytest.raises(DeepLesionError, match=r"004\.png has another size than .*003\.png"):
        subvolumes.read(folder, "test")[0].read([3, 4])
    write_csv(folder / "DL_info.csv", [lesion_row(1, 5, (6, 9))])
    assert evaluate.main(["volumes", str(folder)]) == 2
    assert "row 2: Slice_range is '6, 9' instead of the first and last slice round" in capsys.readouterr().err


def test_a_lesion_whose_cross_sections_differ_is_found_on_any_of_them_and_once():
    """Two sub-volumes: one lesion on slices 3 and 4 with two boxes, and one on slice 7."""
    truth = Boxes(
        np.array([0, 0, 1]), np.array([[0, 0, 9, 9], [0, 0, 19, 19], [5, 5, 9, 9]], float), np.array([4, 4, 5])
    )
    found = Boxes(np.array([0, 0]), np.array([[0, 0, 19, 19], [40, 40, 50, 50]], float), np.zeros(2, int), np.ones(2))
    spans = np.array([[3, 3], [4, 4], [7, 7]])
    result = volumetric_froc(found, np.array([4, 4]), truth, spans, 2, lesions=np.array([1, 1, 0]))
    assert result.labels.tolist() == [5, 4] and result.found.tolist() == [-np.inf, 1.0]
    assert len(result.false) == 1
