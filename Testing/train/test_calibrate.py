"""Calibration: what counts as right, a line for each label from few marks, and a card that a detector obeys."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import SimpleITK
import torch
from LesionDetectorLib.detect import Detector, SliceBoxes
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.models import weights
from LesionDetectorLib.models.vfnet import VFNet
from LesionDetectorLib.slices import Recipe
from matplotlib.image import imread
from scipy.special import expit, logit

from train import calibrate
from train.data import data_sets, part_marked
from train.measuring import calibration
from train.measuring.calibration import Looked, Marks, Reliability

LIVER, LUNG, BONE = BodyPart.LIVER, BodyPart.LUNG, BodyPart.BONE
ALL = frozenset(BodyPart)
HERE, THERE = (10.0, 10.0, 30.0, 30.0), (60.0, 60.0, 80.0, 80.0)


def looked(found, truth=(), complete=ALL, patient="p", source="s") -> Looked:
    """A slice with found boxes (box, score, label) and marked ones (box, label)."""
    boxes, scores, labels = zip(*found)
    entry = SliceBoxes(0, np.array(boxes), np.array(scores, np.float32), np.array(labels, int))
    return Looked(
        entry,
        np.array([box for box, _ in truth]).reshape(-1, 4),
        np.array([label for _, label in truth], int),
        complete,
        patient,
        source,
    )


def test_a_mark_is_right_on_a_lesion_of_its_label_and_left_out_where_nobody_knows():
    both = [(HERE, 0.9, LIVER), (THERE, 0.4, LUNG)]
    cases = {
        "right and wrong": (looked(both, [(HERE, LIVER)]), [(0.9, True), (0.4, False)]),
        "lung is not marked": (looked(both, [(HERE, LIVER)], frozenset({LIVER})), [(0.9, True)]),
        "another label": (looked(both[:1], [(HERE, BONE)]), [(0.9, False)]),
        "unknown label": (looked(both[:1], [(HERE, -1)]), []),
        "nothing is marked": (looked(both, [(HERE, LIVER)], frozenset()), []),
    }
    for name, (entry, wanted) in cases.items():
        seen = calibration.marks([entry], {"s": 1.0})
        assert list(zip(seen.scores.round(3), seen.right)) == wanted, name


def test_boxes_of_one_slice_that_a_list_shows_as_one_are_one_mark():
    shifted = (11.0, 10.0, 31.0, 30.0)
    seen = calibration.marks([looked([(HERE, 0.6, LIVER), (shifted, 0.5, LUNG)], [(HERE, LIVER)])], {"s": 1.0})
    assert seen.right.tolist() == [True]


def test_sources_weigh_their_shares_and_no_mark_more_than_three():
    many = [looked([(HERE, 0.9, LIVER)], source="many")] * 6
    few = [looked([(HERE, 0.9, LIVER)], source="few")] * 2
    np.testing.assert_allclose(calibration.marks(many + few, {"many": 1, "few": 1}).weights, [4 / 6] * 6 + [2] * 2)
    np.testing.assert_allclose(calibration.marks(many + few, {"many": 3, "few": 1}).weights, [1] * 8)
    assert calibration.marks(many * 20 + few, {"many": 1, "few": 1}).weights.max() == calibration.HEAVIEST


def drawn(rng: np.random.Generator, label: BodyPart, count: int, slope: float, offset: float) -> Marks:
    scores = rng.uniform(0.05, 0.95, count)
    right = rng.random(count) < expit(slope * logit(scores) + offset)
    return Marks(scores, np.full(count, int(label)), right, np.ones(count))


def together(*parts: Marks) -> Marks:
    return Marks(*(np.concatenate(column) for column in zip(*(vars(part).values() for part in parts))))


def test_lines_are_found_and_what_is_little_known_leans_on_the_common_one():
    rng = np.random.default_rng(0)
    known = together(drawn(rng, LIVER, 4000, 1.6, -1.0), drawn(rng, LUNG, 4000, 0.8, -2.0))
    few = Marks(np.array([0.9]), np.array([int(BONE)]), np.array([False]), np.ones(1))
    lines = calibration.fit(together(known, few))
    np.testing.assert_allclose(lines[LIVER], (1.6, -1.0), atol=0.15)
    np.testing.assert_allclose(lines[LUNG], (0.8, -2.0), atol=0.15)
    common = lines[BodyPart.PELVIS]
    assert 0.8 < common.slope < 1.6 and -2 < common.offset < -1
    assert 0 < common.offset - lines[BONE].offset < 0.7, "one wrong mark at 90 % lowers the bones a little"


@pytest.mark.parametrize("right", [True, False])
def test_lines_rise_and_stay_finite_whatever_the_marks(right):
    scores = np.linspace(0.1, 0.9, 40)
    backwards = Marks(scores, np.full(40, int(LIVER)), (scores < 0.5) == right, np.ones(40))
    alike = Marks(scores, np.full(40, int(LUNG)), np.full(40, right), np.ones(40))
    for line in calibration.fit(together(backwards, alike)).values():
        assert line.slope >= calibration.LEAST_SLOPE and np.isfinite(line.offset)
    nothing = Marks(*(np.zeros(0) for _ in range(4)))
    assert set(calibration.fit(nothing).values()) == {(1.0, 0.0)}


def test_patients_whose_names_begin_alike_are_not_one(tmp_path):
    rows = [
        part_marked.row(f"lits_{n:03d}", f"lits_{n:03d}/020.png", 20, (0.8, 0.8, 5.0), "test", exhaustive="yes")
        for n in (1, 2)
    ]
    part_marked.write_table(tmp_path, rows)
    slices = [
        calibrate._of_key_slice(entry, looked([(HERE, 0.5, LIVER)]).found, "lits", False)
        for entry in data_sets.read(tmp_path)
    ]
    assert [entry.patient for entry in slices] == ["lits_001", "lits_002"]
    assert all(entry.complete == frozenset() for entry in slices), "the table has no lesion, so no label of its own"


def test_a_patient_is_measured_with_what_the_others_gave():
    """Nine patients are always right, one always wrong: only those measured without that one think all are right."""
    slices = [looked([(HERE, 0.5, LIVER)], [(HERE, LIVER)], patient=f"p{n}") for n in range(9) for _ in range(9)]
    slices += [looked([(THERE, 0.5, LIVER)], patient="odd")] * 9
    after = calibration.moved_by_others(slices, {"s": 1.0})
    assert [entry.patient for entry in after] == [entry.patient for entry in slices]
    sure = {entry.patient: float(entry.found.scores[0]) for entry in after}
    assert sure["odd"] > 0.99, "no mark of its own has lowered it"
    assert np.isclose(np.median(list(sure.values())), 0.88, atol=0.05)


def test_the_expected_calibration_error():
    seen = Marks(np.array([0.55, 0.55, 0.95, 0.07]), np.full(4, 4), np.array([True, False, True, False]), np.ones(4))
    table = Reliability.of(seen)
    assert table.count.tolist() == [0, 1, 0, 0, 0, 0, 2, 0, 0, 1]
    assert table.error() == pytest.approx((2 * 0.05 + 0.05 + 0.07) / 4)
    assert table.error(0.2) == pytest.approx(0.05)
    assert np.isnan(Reliability.of(Marks(*(np.zeros(0) for _ in range(4)))).error())


@pytest.fixture
def detector(tmp_path):
    """An untrained detector that sees lesions everywhere."""
    torch.manual_seed(0)
    path = tmp_path / "raw.safetensors"
    weights.save(
        VFNet(channels=8, tower_depth=1, strides=(16,), recipe=Recipe(slices=1)), path, {"training": {"steps": 7}}
    )
    return path


@pytest.fixture
def everything_is_liver(monkeypatch):
    """Every slice shows one box on the disc of `data_set` and one beside it, both 0.6."""

    def boxes(self, raw, images, lowest_score=0.05):
        found = np.array([[54, 44, 74, 64], [20, 20, 40, 40.0]]), np.full(2, 0.6, np.float32)
        labels = np.array([LIVER - 1] * 2)
        return [(found[0], self._confidence(found[1], labels), labels + 1) for _ in images]

    monkeypatch.setattr(Detector, "boxes", boxes)


def test_from_data_to_a_card_that_a_detector_obeys(data_set, detector, everything_is_liver, tmp_path, capsys):
    hu = np.full((2, 128, 128), -1000, np.int16)
    hu[:, 10:118, 10:118], hu[:, 60, 60] = 40, 400
    image = SimpleITK.GetImageFromArray(hu)
    SimpleITK.WriteImage(image, str(tmp_path / "ct.nrrd"))
    out = tmp_path / "sure.safetensors"
    arguments = ["--weights", str(detector), "--data", str(data_set), "--split", "train", "val", "--out", str(out)]
    loads, load = [], weights.load
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(weights, "load", lambda path: loads.append(path) or load(path))
        assert calibrate.main([*arguments, "--ct", str(tmp_path / "ct.nrrd"), "--share", "ct.nrrd=2"]) == 0
    assert loads == [detector], "once"
    said = capsys.readouterr().out
    assert "Expected calibration error, marks from 20 % on:" in said and f"Written to {out}." in said
    model, card = weights.load(out)
    assert card["training"] == {"steps": 7} and card["name"] == "sure"
    assert card["results"]["calibration"]["sources"] == ["ct.nrrd", data_set.name]
    assert card["results"]["calibration"]["marks"] == 8 and card["results"]["calibration"]["right"] == 2
    torch.testing.assert_close(model.state_dict(), weights.load(detector)[0].state_dict(), rtol=0, atol=0)
    assert imread(out.with_suffix(".png")).std() > 0.02
    line = card["calibration"]["Liver"]
    found = Detector.load(out, "cpu")(np.zeros((1, 1, 64, 64), np.float32))[0]
    assert found[1] == pytest.approx(expit(line["slope"] * logit(0.6) + line["offset"]), abs=1e-5)
    assert found[1][0] < 0.45, "one in four was right"
    again = tmp_path / "again.safetensors"
    arguments[1], arguments[-1] = str(out), str(again)
    assert calibrate.main([*arguments, "--ct", str(tmp_path / "ct.nrrd"), "--share", "ct.nrrd=2"]) == 0
    assert json.loads(again.with_suffix(".json").read_text())["calibration"] == card["calibration"], "of the raw scores"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--split", "test"], "holds no slice of test"),
        (["--split", "val"], "1 patient.* too few"),
        (["--split", "train", "val", "--share", "elsewhere=2"], "--share names elsewhere, which is none of: discs"),
        (["--split", "val", "--out", "raw.safetensors"], "the weights themselves"),
        (["--split", "test", "--out", "none/out.safetensors"], "There is no folder none to write out.safetensors to"),
        (["--split", "test", "--picture", "none/curve.png"], "There is no folder none to write curve.png to"),
    ],
)
def test_what_cannot_be_is_said(data_set, detector, everything_is_liver, capsys, monkeypatch, more, why):
    monkeypatch.chdir(detector.parent)
    assert calibrate.main(["--weights", detector.name, "--data", str(data_set), "--out", "out.safetensors", *more]) == 2
    assert re.search(why, capsys.readouterr().err)
    assert not (detector.parent / "out.safetensors").exists()
