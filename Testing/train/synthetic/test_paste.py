"""The command that pastes real lesions, and normal slices with what a detector takes for lesions."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import SimpleITK
from LesionDetectorLib.detect import SliceBoxes
from LesionDetectorLib.lesion import BodyPart

from train import normal_slices, paste
from train.data import data_sets, part_marked
from train.data.layout import write_png
from train.mining import marks
from train.synthetic.cutting import lesions_of
from train.synthetic.pasting import room_in_lungs
from train.synthetic.places import Body, Place

SPACING = (1.5, 1.5, 3.0)


def chest() -> np.ndarray:
    """A body with two lungs on a table: HU (k, j, i)."""
    y, x = np.mgrid[:160, :200]
    hu = np.full((6, 160, 200), -1000, np.int16)
    hu[:, np.hypot((x - 100) / 80, (y - 70) / 55) < 1] = 40
    for middle in (65, 135):
        hu[:, np.hypot((x - middle) / 24, (y - 70) / 36) < 1] = -850
    hu[:, 140:144] = 100  # the table, and a hollow below it
    hu[:, 156:158] = 100
    return hu


@pytest.fixture
def ct(tmp_path):
    image = SimpleITK.GetImageFromArray(chest())
    image.SetSpacing(SPACING)
    SimpleITK.WriteImage(image, str(tmp_path / "chest.nrrd"))
    return tmp_path / "chest.nrrd"


@pytest.fixture
def nodules(tmp_path):
    """A patch with a nodule of 100 HU amid lung, and one at a wall that fills most of its surroundings."""
    folder = tmp_path / "nodules"
    y, x = np.mgrid[:64, :64]
    amid = np.where(np.hypot(x - 32, y - 32) < 6, 100, -870)
    wall = np.where(x > 30, 50, amid)
    rows = []
    for name, hu in (("amid", amid), ("wall", wall)):
        write_png(folder / name / "001.png", hu)
        rows.append(part_marked.row(name, f"{name}/001.png", 1, (0.75, 0.75, 2.5), "train", sides=(26, 26, 39, 39)))
        rows[-1]["label"] = "lung"
    part_marked.write_table(folder, rows)
    return folder


def test_lungs_are_found_inside_the_body_alone():
    room = room_in_lungs(chest()[0], SPACING)
    assert room[70, 65] > 20 and room[70, 135] > 20
    assert room[70, 100] == 0 and not room[140:].any() and not room[:10].any()


def test_a_nodule_that_lung_does_not_surround_is_left_out(nodules):
    amid, wall = data_sets.read(nodules)
    assert len(lesions_of(amid, [BodyPart.LUNG])) == 1 and not lesions_of(wall, [BodyPart.LUNG])


def test_pasted_nodules_lie_in_lungs_and_their_boxes_fit(nodules, ct, tmp_path, capsys):
    arguments = ["--lesions", str(nodules), "--ct", str(ct), "--out", str(tmp_path / "out"), "--count", "6"]
    assert paste.main(arguments) == 0
    found = data_sets.read(tmp_path / "out", "train")
    assert len(found) == 6 and not data_sets.read(tmp_path / "out", "test")
    clean = chest()[0]
    for entry in found:
        hu, k = entry.read()
        assert hu.shape[0] == 3 or k == 0 or k == hu.shape[0] - 1
        assert set(entry.labels) == {BodyPart.LUNG} and entry.complete == tuple(BodyPart)
        for box in part_marked.tight(entry):
            x0, y0, x1, y1 = box.round().astype(int)
            middle = hu[k][(y0 + y1) // 2, (x0 + x1) // 2]
            assert middle > 50 and clean[(y0 + y1) // 2, (x0 + x1) // 2] == -850
            bright = np.argwhere((hu[k] > -300) & (clean == -850))
            inside = bright[(np.abs(bright - [(y0 + y1) / 2, (x0 + x1) / 2]) < (x1 - x0)).all(1)]
            assert np.abs(inside.min(0) - [y0, x0]).max() <= 2 and np.abs(inside.max(0) + 1 - [y1, x1]).max() <= 2
        assert (hu[k][clean == 40] >= 35).all(), "no wall is rubbed out"
    assert "on 6 slices" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        paste.main(arguments)
    assert "holds something already: give another folder" in capsys.readouterr().err


@pytest.fixture
def liver(tmp_path, monkeypatch):
    """A data set with a lesion of 100 HU in a liver of 40; the CT has its liver between the lungs."""
    y, x = np.mgrid[:64, :64]
    write_png(tmp_path / "livers" / "a" / "001.png", np.where(np.hypot(x - 32, y - 32) < 6, 95, 40))
    common = "a", "a/001.png", 1, (0.75, 0.75, 2.5), "train"
    part_marked.write_table(tmp_path / "livers", [part_marked.row(*common, sides=(26, 26, 39, 39), label="liver")])
    room = np.zeros((6, 160, 200), np.float32)
    room[:, 30:110, 91:110] = 12
    places = Place(BodyPart.LIVER, "liver", room, 0.8, room > 0), Place(BodyPart.LUNG, "lung", room, 0.5, room > 0)
    body = Body(places, room > 0, (1, 1, 1))
    monkeypatch.setattr(paste, "find_places", lambda volume: body)
    return tmp_path / "livers"


def test_lesions_of_every_label_go_to_their_organ_and_labels_choose(nodules, liver, ct, tmp_path, capsys):
    common = ["--lesions", str(nodules), str(liver), "--ct", str(ct), "--count", "5"]
    assert paste.main([*common, "--out", str(tmp_path / "both")]) == 0
    found = data_sets.read(tmp_path / "both")
    labels = np.concatenate([entry.labels for entry in found])
    assert set(labels) == {BodyPart.LUNG, BodyPart.LIVER}
    said = capsys.readouterr().out
    assert f"{(labels == BodyPart.LIVER).sum()} liver, {(labels == BodyPart.LUNG).sum()} lung) on 5 slices" in said
    for entry in found:
        for x0, y0, x1, y1 in part_marked.tight(entry)[entry.labels == BodyPart.LIVER]:
            assert x0 > 88 and x1 < 113 and y0 > 27 and y1 < 113
    assert paste.main([*common, "--labels", "liver", "--out", str(tmp_path / "liver")]) == 0
    assert {label for entry in data_sets.read(tmp_path / "liver") for label in entry.labels} == {BodyPart.LIVER}


def test_labels_that_are_asked_for_need_lesions_and_places(nodules, liver, ct, tmp_path, capsys, monkeypatch):
    out = ["--out", str(tmp_path / "out"), "--ct"]
    assert paste.main(["--lesions", str(nodules), "--labels", "lung", "soft_tissue", *out, str(ct)]) == 2
    assert "hold no lesion of soft tissue in the train split" in capsys.readouterr().err
    assert paste.main(["--lesions", str(liver), "--labels", "liver", *out, str(_slices(tmp_path, "b"))]) == 2
    assert "show no place for lesions of liver; give CTs that do, or other --labels" in capsys.readouterr().err
    no_lung = Body(paste.find_places(None).places[:1], np.ones((6, 160, 200), bool), (1, 1, 1))
    monkeypatch.setattr(paste, "find_places", lambda volume: no_lung)
    both = ["--lesions", str(nodules), str(liver), "--labels", "lung", "liver"]
    assert paste.main([*both, *out, str(ct)]) == 2
    assert "show no lungs" in capsys.readouterr().err, "what looks like lung on a slice alone may be bowel"
    with pytest.raises(SystemExit):
        paste.main(["--lesions", str(nodules), "--labels", "toe", *out, str(ct)])
    assert "'toe' is not a body part" in capsys.readouterr().err


def _slices(folder, patient):
    """Part-marked slices of a chest, on which all lung lesions are marked, one."""
    for k, section in enumerate(chest()[:3]):
        write_png(folder / "chest" / patient / f"{k + 1:03d}.png", section)
    marked = part_marked.row(
        patient, f"{patient}/002.png", 2, SPACING, "train", sides=(90, 60, 99, 69), label="lung", exhaustive="yes"
    )
    part_marked.write_table(folder / "chest", [marked])
    return folder / "chest"


def test_a_patient_does_not_get_lesions_of_the_own_and_marks_stay(nodules, tmp_path, capsys):
    common = ["--lesions", str(nodules), "--count", "3", "--ct"]
    assert paste.main([*common, str(_slices(tmp_path, "amid")), "--out", str(tmp_path / "own")]) == 2
    assert "No lesion fits into these CTs" in capsys.readouterr().err
    assert paste.main([*common, str(_slices(tmp_path, "another")), "--out", str(tmp_path / "out")]) == 0
    for entry in data_sets.read(tmp_path / "out"):
        assert entry.complete == (BodyPart.LUNG,)
        assert [90, 60, 99, 69] in part_marked.tight(entry).round(3).tolist() and len(entry.boxes) >= 2


def test_the_same_seed_pastes_the_same(nodules, ct, tmp_path):
    for out in ("one", "two"):
        paste.main(["--lesions", str(nodules), "--ct", str(ct), "--out", str(tmp_path / out), "--count", "2"])
    files = [path.relative_to(tmp_path / "one") for path in sorted((tmp_path / "one").rglob("*.*"))]
    assert len(files) >= 5
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


def test_a_ct_without_lungs_and_nodules_that_are_none_are_named(nodules, ct, tmp_path, capsys):
    body = SimpleITK.GetImageFromArray(np.pad(np.full((4, 60, 60), 40, np.int16), 9, constant_values=-1000))
    SimpleITK.WriteImage(body, str(tmp_path / "body.nrrd"))
    common = ["--lesions", str(nodules), "--out", str(tmp_path / "a"), "--ct"]
    assert paste.main([*common, str(tmp_path / "body.nrrd")]) == 2
    assert "show no lungs; give CTs that do" in capsys.readouterr().err
    assert paste.main([*common, str(ct), "--split", "test"]) == 2
    assert "in the test split that can be cut out; give another data set" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_normal_slices_hold_no_lesion_and_look_alikes_where_a_detector_marks_them(ct, tmp_path, monkeypatch):
    assert normal_slices.main(["--ct", str(ct), "--out", str(tmp_path / "plain"), "--every-mm", "6"]) == 0
    plain = data_sets.read(tmp_path / "plain", "train")
    assert [entry.number for entry in plain] == [1, 3, 5]
    assert all(not len(entry.boxes) and entry.complete == tuple(BodyPart) for entry in plain)
    np.testing.assert_array_equal(plain[1].read()[0], chest()[1:4])

    def found(volume, weights, experts, score):
        marks = [[] for _ in volume.hu]
        marks[1] = [{"sides": (10, 10, 20, 20)}, {"sides": (30, 30, 50, 50), "label": part_marked.UNSURE}]
        return marks

    monkeypatch.setattr(normal_slices, "marks_on", found)
    normal_slices.main(["--ct", str(ct), "--out", str(tmp_path / "hard"), "--every-mm", "6"])
    hard = data_sets.read(tmp_path / "hard", "train")
    assert [entry.number for entry in hard] == [1, 2, 3, 5]
    assert (len(hard[1].look_alikes), hard[1].labels.tolist()) == (1, [-1])


def test_what_an_expert_marks_is_suspicious_and_what_others_mark_a_look_alike(monkeypatch):
    boxes = np.array([[0.0, 0, 9, 9], [20, 20, 30, 30], [40, 40, 50, 50], [60, 60, 70, 70]])
    labels = np.array([BodyPart.LUNG, BodyPart.LUNG, BodyPart.BONE, BodyPart.BONE])
    found = SliceBoxes(0, boxes, np.array([0.9, 0.4, 0.9, 0.1]), labels)
    monkeypatch.setattr(marks, "detect_ct", lambda detector, volume: [found])
    monkeypatch.setattr(marks.Detector, "load", lambda path: None)
    (seen,) = marks.marks_on(None, "weights", [BodyPart.LUNG], 0.2)
    assert [mark.get("label") for mark in seen] == [part_marked.UNSURE, None, None]
    np.testing.assert_allclose(seen[0]["sides"], [0.5, 0.5, 9.5, 9.5])


def test_cts_of_one_name_stay_apart_and_what_cannot_be_is_refused(ct, tmp_path, capsys):
    (tmp_path / "b").mkdir()
    shutil.copy(ct, tmp_path / "b")
    both = ["--ct", str(ct), str(tmp_path / "b" / ct.name), "--out", str(tmp_path / "out")]
    normal_slices.main([*both, "--every-mm", "6"])
    found = data_sets.read(tmp_path / "out", "train")
    assert (len(found), len({entry.patient for entry in found})) == (6, 2)
    for options, sentence in (
        (["--experts", "toe"], "'toe' is not a body part"),
        (["--every-mm", "0"], "--every-mm must be above 0"),
        ([], "holds something already: give another folder"),
    ):
        with pytest.raises(SystemExit):
            normal_slices.main([*both, *options])
        assert sentence in capsys.readouterr().err
    assert normal_slices.main(["--ct", str(ct), str(tmp_path / "absent"), "--out", str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists(), "nothing half-written"
