"""Mining: suspicious places, matches with marks, the threshold, the csv that comes out, and the embedding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from LesionDetectorLib.detect import Detector
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.models import weights
from LesionDetectorLib.slices import Recipe

from train import embed, mine, phantom
from train.data.deeplesion import KeySlice, read_info
from train.mining import embedding, matching, table
from train.mining.proposals import Proposals, other_slices, propose, read, write
from train.mining.sequences import Lesions, read_lesions, sequence
from train.mining.suspicion import suspicious
from train.mining.truth import Truth, quality

RECIPE = Recipe(pixel_mm=3.2)
MARK = [60.0, 60, 80, 80]


@pytest.fixture(scope="module")
def part_marked(tmp_path_factory) -> Path:
    """Five patients to train on with two studies each, half of whose lesions are marked."""
    out = tmp_path_factory.mktemp("part") / "U"
    options = "--patients 5 --seed 4 --size 64 --interval-mm 30 --labels balanced --slices all --studies 2"
    splits = ["--splits", "100", "0", "0", "--marks", "0.6"]
    assert phantom.main(["--out", str(out), *options.split(), *splits]) == 0
    return out


@pytest.fixture(scope="module")
def meld(tmp_path_factory) -> Path:
    """An untrained MELD whose scores are above 0.5 everywhere."""
    torch.manual_seed(0)
    model = weights.build({"detector": "meld", "channels": 8, "features": 16, "pixel_mm": 3.2})
    for layer in model.heads.logits:
        torch.nn.init.constant_(layer.bias, 1.0)
    path = tmp_path_factory.mktemp("meld") / "meld.safetensors"
    weights.save(model, path, {})
    return path


def proposals(boxes, scores, label=BodyPart.LUNG) -> Proposals:
    return Proposals(np.array(boxes, float).reshape(-1, 4), np.array(scores, float), np.full(len(scores), label))


# ------ suspicious places


def test_what_a_sure_expert_says_of_no_known_lesion_is_suspicious_once() -> None:
    known = np.array([[0.0, 0, 10, 10]])
    lung = proposals([[0, 0, 10, 9], [50, 50, 60, 60], [30, 30, 40, 40]], [0.9, 0.6, 0.4])
    liver = proposals([[50, 50, 60, 61], [80, 80, 90, 90]], [0.8, 0.51])
    boxes, expert = suspicious([lung, liver], known)
    assert boxes.tolist() == [[50, 50, 60, 61], [80, 80, 90, 90]] and expert.tolist() == [1, 1]
    boxes, _ = suspicious([proposals([], []), proposals([], [])], known)
    assert boxes.shape == (0, 4)


# ------ matches


def slice_of(patient: int, number: int = 5, boxes=()) -> KeySlice:
    boxes = np.array(boxes, float).reshape(-1, 4)
    labels = np.full(len(boxes), int(BodyPart.LIVER))
    name = f"{patient:06d}_01_01_{number:03d}.png"
    return KeySlice(Path(), name, boxes, labels, boxes[:, :2], (1.0, 1.0, 5.0), 1)


def marks(patients, labels, points) -> matching.Marks:
    count = len(patients)
    owners = [slice_of(patient) for patient in patients]
    return matching.Marks(np.array(patients), np.array(labels), np.array(points), owners, np.tile(MARK, (count, 1)))


def test_a_proposal_is_matched_with_the_nearest_mark_of_its_own_patient() -> None:
    known = marks([1, 1, 2], [4, 5, 6], [[1.0, 0], [0, 1], [0.8, 0.6]])
    boxes = np.array([[0.0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]])
    points = np.array([[0.8, 0.6], [0.98, 0.2], [0.0, 1.0]])
    found = matching._nearest(slice_of(1), boxes, points, known)
    assert found.labels.tolist() == [5, 4] and found.distances == pytest.approx([0, np.hypot(0.02, 0.2)])
    assert found.boxes[:, 0].tolist() == [40, 20], "of two that are nearest to one mark the nearer stays"
    assert found.nearer_than(0.1).labels.tolist() == [5]
    assert len(matching._nearest(slice_of(3), boxes, points, known).boxes) == 0


def test_a_proposal_on_a_mark_is_the_mark() -> None:
    found = proposals([MARK, [60, 60, 80, 70], [0, 0, 9, 9]], [0.9, 0.8, 0.7])
    assert matching._not_marked(slice_of(1, boxes=[MARK]), found).tolist() == [[60, 60, 80, 70], [0, 0, 9, 9]]


def test_the_threshold_is_the_largest_at_which_nine_of_ten_are_lesions() -> None:
    right = [True] * 9 + [False] + [True] * 10 + [False] * 30
    judgements = pd.DataFrame({"distance": np.arange(50) / 100, "lesion": right, "same": [False] * 50})
    theta = matching.calibrated(judgements)
    assert 0.20 < theta < 0.21  # 19 of 21 are 0.905, 19 of 22 are less
    assert (matching.curve(judgements)["kept"][judgements["distance"] < theta]).max() == 21
    assert matching.calibrated(judgements.assign(lesion=False)) == 0.0


def test_a_match_is_judged_by_what_is_known_of_every_lesion(part_marked: Path) -> None:
    truth = Truth(part_marked / "lesions.csv")
    key_slice = read_info(part_marked, "train")[0]
    every = pd.read_csv(part_marked / "lesions.csv")
    own = every[every["File_name"] == key_slice.name]
    boxes = np.concatenate([key_slice.boxes, [[0, 0, 3, 3]]])
    lesions = truth.lesions(key_slice.name, boxes)
    assert set(lesions[:-1]) <= set(own["Lesion"]) and lesions[-1] == 0
    known = matching.Marks(np.array([1]), np.array([4]), np.zeros((1, 2)), [key_slice], key_slice.boxes[:1])
    found = matching.Matches(boxes[[0, -1]], np.array([4, 4]), np.array([0.2, 0.1]), np.array([0, 0]))
    judged = matching.judged([key_slice], [found], known, truth)
    assert judged["distance"].tolist() == [0.1, 0.2]
    assert judged["lesion"].tolist() == judged["same"].tolist() == [False, True]


def test_what_was_mined_is_judged_by_what_is_known(part_marked: Path) -> None:
    """All lesions of a slice are mined but one, and one box beside them is."""
    every = pd.read_csv(part_marked / "lesions.csv", dtype=str)
    name = every["File_name"].value_counts().index[0]
    rows = every[every["File_name"] == name].assign(Origin="mined")
    beside = rows.iloc[[0]].assign(Bounding_boxes="1, 1, 4, 4")
    text = quality(part_marked / "lesions.csv", pd.concat([rows.iloc[1:], beside]), Truth(part_marked / "lesions.csv"))
    count = len(rows)
    assert text.startswith(f"{count} mined, {100 * (count - 1) / count:.0f} % of them on a lesion")
    assert "0 suspicious, none of them on a lesion" in text and f"the {count} cross-sections without a mark" in text


# ------ the csv


def test_slices_without_marks_lie_every_5_mm_in_the_marked_series(data_set) -> None:
    found = other_slices(read_info(data_set, "train"))
    assert [entry.name for entry in found] == ["000001_01_01_004.png", "000001_01_01_006.png"]
    assert [entry.name for entry in other_slices(read_info(data_set, "train"), every_mm=2)] == [
        "000001_01_01_004.png",
        "000001_01_01_006.png",
    ]
    assert all(len(entry.boxes) == 0 and entry.split == 1 for entry in found)


def mined_csv(data_set, tmp_path, monkeypatch, said, **options) -> list[KeySlice]:
    """The train split after mining slices of which `said` has the experts' proposals, by the number of the slice."""
    nothing = [proposals([], [])] * 4

    def proposed(detector, slices, experts, *_):
        assert {entry.split for entry in slices} == {1}, "validation and test patients are not looked at"
        return [said.get(entry.number, nothing)[: len(experts)] for entry in slices]

    monkeypatch.setattr(mine, "propose", proposed)
    organs = [BodyPart.LUNG - 1, BodyPart.LIVER - 1, BodyPart.MEDIASTINUM - 1]
    detector = type("Rigged", (), {"model": type("Model", (), {"organs": organs})})
    rows = mine.mine(detector, data_set, mine.Mining(added=2.0, **options))
    (tmp_path / "Images_png").symlink_to(data_set / "Images_png")
    rows.to_csv(tmp_path / "mined.csv", index=False)
    assert len(read_info(tmp_path / "mined.csv", "val")) == 1
    return read_info(tmp_path / "mined.csv", "train")


def test_what_is_mined_is_read_back(data_set, tmp_path, monkeypatch) -> None:
    none, far, at_mark = proposals([], []), [10.0, 20, 30, 41.5], [55.0, 45, 85, 75]
    said = {
        5: [none, proposals([far, at_mark], [0.9, 0.9]), none, none],
        6: [none, none, proposals([far], [0.7]), none],
    }
    before, marked, after = mined_csv(data_set, tmp_path, monkeypatch, said)
    assert marked.origins.tolist() == ["marked", "suspicious"] and marked.labels.tolist() == [4, -1]
    np.testing.assert_allclose(marked.boxes[1], far)
    assert (before.number, len(before.boxes)) == (4, 0)
    assert (after.number, after.origins.tolist()) == (6, ["suspicious"])
    assert after.spacing == marked.spacing


def test_suspicious_places_may_be_taken_for_lesions_of_the_experts_organ(data_set, tmp_path, monkeypatch) -> None:
    none = proposals([], [])
    said = {6: [none, none, proposals([[10.0, 20, 30, 40]], [0.7]), none]}
    *_, after = mined_csv(data_set, tmp_path, monkeypatch, said, as_lesions=True)
    assert after.origins.tolist() == ["mined"] and after.labels.tolist() == [BodyPart.LIVER]


def test_nothing_is_suspicious_without_negative_region_mining(data_set, tmp_path, monkeypatch) -> None:
    said = {6: [proposals([], []), *[proposals([[10.0, 20, 30, 40]], [0.9])] * 3]}
    *_, after = mined_csv(data_set, tmp_path, monkeypatch, said, sigma=None)
    assert len(after.boxes) == 0


def test_single_experts_may_be_asked_alone(data_set, tmp_path, monkeypatch) -> None:
    organs = [BodyPart.LUNG - 1, BodyPart.LIVER - 1, BodyPart.MEDIASTINUM - 1]
    assert mine.Mining().experts(organs) == {1: BodyPart.LUNG, 2: BodyPart.LIVER, 3: BodyPart.MEDIASTINUM}
    assert mine.Mining(organs=(BodyPart.MEDIASTINUM,)).experts(organs) == {3: BodyPart.MEDIASTINUM}
    none = proposals([], [])
    said = {6: [none, proposals([[10.0, 20, 30, 40]], [0.7])]}
    *_, after = mined_csv(data_set, tmp_path, monkeypatch, said, organs=(BodyPart.LIVER,), as_lesions=True)
    assert after.labels.tolist() == [BodyPart.LIVER]


def test_a_small_box_has_a_diameter_all_the_same(data_set) -> None:
    key_slice = read_info(data_set, "train")[0]
    series = table.series_of(mine.read_table(data_set / "DL_info.csv"))
    rows = table.rows(series, key_slice, np.array([[1.0, 1, 8, 30]]), [4], "mined")
    assert rows["Lesion_diameters_Pixel_"].tolist() == ["19, 1"]


def test_experts_propose_on_slices(part_marked: Path, meld: Path) -> None:
    slices = read_info(part_marked, "train")[:2]
    found = propose(Detector.load(meld, "cpu"), slices, [0, 2], 0.1, 7)
    assert [len(each) for each in found] == [2, 2]
    for each in found:
        for boxes, scores, labels in each:
            assert 0 < len(boxes) == len(scores) == len(labels) <= 7
            assert (boxes > -1).all() and (boxes < 64).all() and set(labels) <= set(BodyPart)


def test_minings_that_keep_proposals_ask_the_detector_once(
    part_marked: Path, meld: Path, tmp_path, monkeypatch
) -> None:
    """They mine what they would have mined alone."""
    detector, asked = Detector.load(meld, "cpu"), []
    monkeypatch.setattr(mine, "propose", lambda *arguments: asked.append(0) or propose(*arguments))
    last = BodyPart(detector.model.organs[-1] + 1)
    minings = [
        mine.Mining(sigma, added=0.2, organs=organs) for sigma, organs in ((None, None), (0.1, None), (0.1, (last,)))
    ]
    alone = [mine.mine(detector, part_marked, mining) for mining in minings]
    asked.clear()
    together = [mine.mine(detector, part_marked, mining, kept=tmp_path / "kept.csv") for mining in minings]
    assert len(asked) == 1 and [len(rows) for rows in together][1] > len(together[0])
    for rows, same in zip(together, alone):
        pd.testing.assert_frame_equal(rows, same)


def test_proposals_are_kept_to_the_last_digit(part_marked: Path, meld: Path, tmp_path: Path) -> None:
    slices = read_info(part_marked, "train")[:2]
    before = propose(Detector.load(meld, "cpu"), slices, [0, 2], 0.1, 7)
    before[1][0] = proposals([], [])
    write(tmp_path / "kept.csv", slices, [0, 2], before)
    for each, again in zip(before, read(tmp_path / "kept.csv", slices, [0, 2]), strict=True):
        for ours, theirs in zip(each, again, strict=True):
            for part, same in zip(ours, theirs):
                np.testing.assert_array_equal(part, same)
    assert [part.dtype for part in again[1]] == [np.float64, np.float32, int]


# ------ the embedding


def lesions(labels, places) -> Lesions:
    count = len(labels)
    return Lesions([slice_of(n) for n in range(count)], np.zeros((count, 4)), np.array(labels), np.array(places, float))


def test_a_sequence_goes_from_the_like_to_the_unlike() -> None:
    known = lesions([1] * 10 + [2] * 3, [[n, 0, 0, 0] for n in range(13)])
    for seed in range(40):
        first, near, far, other = sequence(known, np.random.default_rng(seed))
        assert known.labels[near] == known.labels[far] == known.labels[first] != known.labels[other]
        if first < 10:
            assert abs(near - first) <= 3 and abs(far - first) >= 3


def test_lesions_without_labels_are_told_apart_by_place_and_size() -> None:
    known = lesions([-1] * 30, [[n, 0, 0, 0] for n in range(30)])
    for seed in range(20):
        first, near, far, other = sequence(known, np.random.default_rng(seed))
        assert abs(near - first) <= abs(far - first) <= 29 and abs(other - first) >= 14


def test_points_have_length_1_and_their_loss_wants_rising_distances() -> None:
    model = embedding.Embedding(recipe=RECIPE, channels=8, features=8, size=4)
    points = torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [-1, 0, 0, 0]])
    assert model.loss(points, torch.full((4,), -1))["sequence"] == 0
    assert model.loss(points[[0, 3, 2, 1]], torch.tensor([1, 1, 1, 2]))["sequence"].item() == pytest.approx(2.1 + 2.2)
    patches = embedding.Patches(torch.rand(2, 3, 32, 32), torch.tensor([[4.0, 4, 20, 20]] * 2), torch.rand(2, 4))
    torch.testing.assert_close(model(patches).norm(dim=1), torch.ones(2))


def test_a_patch_shows_the_lesion_where_its_box_says(data_set) -> None:
    key_slice = read_info(data_set, "train")[0]
    prepared = embedding.PreparedSlices(None, Recipe(pixel_mm=1.6))
    sample, frame = prepared(key_slice)
    patch = embedding.cut(sample, frame, key_slice.boxes[0], 64, 1.6)
    bright = (patch.images[1].float() > (50 + 1024) * 255 / 4095).nonzero().float().mean(dim=0).flip(0)
    torch.testing.assert_close((patch.boxes[:2] + patch.boxes[2:]) / 2, bright, atol=0.6, rtol=0)
    assert (patch.places[:2] - 0.5).abs().max() < 0.1
    corner = embedding.cut(sample, frame, np.array([0.0, 0, 12, 12]), 64, 1.6)
    assert corner.images.shape == (3, 64, 64) and (corner.images[:, 0, 0] == 0).all()


def test_an_embedding_is_learnt_calibrated_and_mined_with(part_marked: Path, meld: Path, tmp_path, capsys) -> None:
    cache, out = str(tmp_path / "cache"), tmp_path / "embedding"
    common = ["--data", str(part_marked), "--cache", cache, "--device", "cpu"]
    learn = ["--steps", "2", "--batch", "2", "--workers", "0", "--pixel-mm", "3.2"]
    assert embed.main(["fit", "--out", str(out), *common, *learn]) == 0
    path = out / "last.safetensors"
    mining = ["--weights", str(meld), "--data", str(part_marked), "--embedding", str(path), "--device", "cpu"]
    mining += ["--out", str(part_marked / "mined.csv"), "--cache", cache, "--added", "0.2"]
    assert mine.main([*mining, "--mam"]) == 2
    assert "has no threshold" in capsys.readouterr().err
    choose = ["--embedding", str(path), "--weights", str(meld), "--lesions", str(part_marked / "lesions.csv")]
    assert embed.main(["calibrate", *choose, *common, "--most-slices", "3"]) == 0
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["theta"] >= 0 and card["theta_from"]["patients"] == 1
    assert list(pd.read_csv(out / "theta.csv")) == ["theta", "kept", "lesions", "same_lesion"]
    assert mine.main([*mining, "--mam", "2.1", "--nrm", "0.6"]) == 0
    found = read_info(part_marked / "mined.csv", "train")
    assert sum(entry.of("mined").sum() for entry in found) > 0 < sum(entry.of("suspicious").sum() for entry in found)
    for entry in found:
        mined = entry.labels[entry.of("mined")]
        of_patient = [other for other in found if other.patient == entry.patient]
        assert set(mined) <= set(np.concatenate([other.labels[other.of("marked")] for other in of_patient]))


def test_lesions_held_out_are_not_learnt_from(part_marked: Path) -> None:
    assert {entry.patient for entry in read_lesions(part_marked).slices} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "give --nrm, --mam, or both"),
        (["--mam"], "--mam needs --embedding"),
        (["--nrm", "--weights", "nowhere.safetensors"], "There is no weights file"),
        (["--mam", "--embedding", "nowhere.safetensors"], "is no embedding"),
    ],
)
def test_what_cannot_be_mined_is_named(part_marked: Path, meld: Path, tmp_path, capsys, options, sentence) -> None:
    given = ["--weights", str(meld), "--data", str(part_marked), "--out", str(tmp_path / "mined.csv"), *options]
    try:
        assert mine.main(given) == 2
    except SystemExit as ended:
        assert ended.code == 2
    assert sentence in capsys.readouterr().err


def test_another_detector_has_no_experts(tmp_path) -> None:
    weights.save(weights.build({"detector": "retinanet", "channels": 8}), tmp_path / "a.safetensors", {})
    with pytest.raises(mine.Refusal, match="is a retinanet, which has no experts"):
        mine.load_meld(tmp_path / "a.safetensors", "cpu")
