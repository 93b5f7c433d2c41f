"""Part-marked slices: boxes with a detector's margin, slices without a lesion, what is marked completely."""

from __future__ import annotations

import numpy as np
import pytest
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.slices import Recipe

from train.data import data_sets, part_marked
from train.data.deeplesion import UNKNOWN, DeepLesionError
from train.data.layout import write_png
from train.training.detection import DetectorTask
from train.training.plan import Plan

HEADER = ",".join(("source", *part_marked.NEEDED, "note"))
TIGHT = "s,P{0},P{0}/n1_005.png,5,10,20,30,40,kidney,0.8,0.8,{1},16.0,KiTS mask,{2},1,"
NONE = "s,P{0},P{0}/n1_006.png,6,,,,,,0.8,0.8,,,KiTS mask,kidney tumours only,1,"


@pytest.fixture
def folder(tmp_path):
    rows = [TIGHT.format(1, 2.0, "kidney tumours only"), NONE.format(1), TIGHT.format(2, "", "no")]
    rows.append("s,P2,P2/007.png,7,11,21,31,41,soft tissue,0.8,0.8,,,DeepLesion RECIST box,no,1,")
    rows.append("s,P2,P2/008.png,8,,,,,,0.8,0.8,,,x,no,0,")
    (tmp_path / "boxes.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    for number in (4, 5, 6):
        write_png(tmp_path / "P1" / f"n1_{number:03d}.png", np.full((64, 64), 10 * number))
    return tmp_path


def test_boxes_labels_and_what_is_complete(folder):
    one, empty, published, other = data_sets.read(folder)
    np.testing.assert_allclose(one.boxes, [[10 - 0.5 - 5, 20 - 0.5 - 5, 30 - 0.5 + 5, 40 - 0.5 + 5]])
    np.testing.assert_allclose(published.boxes, [[10, 20, 30, 40]])  # DeepLesion counts from 1 and has its margin
    assert (one.labels.tolist(), published.labels.tolist()) == ([BodyPart.KIDNEY], [BodyPart.SOFT_TISSUE])
    assert empty.boxes.shape == (0, 4) and empty.labels.shape == (0,)
    assert (one.complete, other.complete) == ((BodyPart.KIDNEY, BodyPart.SOFT_TISSUE), ())
    assert (one.spacing, other.spacing) == ((0.8, 0.8, 2.0), (0.8, 0.8, 5.0)), "DeepLesion's usual where none is known"


def test_a_slice_is_read_with_its_neighbours(folder):
    hu, k = data_sets.read(folder)[0].read(Recipe(slices=3))
    assert (hu[:, 0, 0].tolist(), k) == ([40, 50, 60], 1)


def test_patients_are_split_and_slices_of_one_stay_together(folder):
    whole = data_sets.read(folder)
    parts = {split: data_sets.read(folder, split) for split in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == len(whole)
    assert len({entry.split for entry in whole if entry.file.startswith("P1")}) == 1
    assert len({entry.name for entry in whole}) == len(whole), "names tell slices of patients apart"


def test_what_is_unmarked_is_left_out_of_the_loss_or_weighs_less(folder, tmp_path):
    architecture = {"detector": "vfnet", "channels": 8, "strides": [4]}
    for unmarked in (0.0, 0.5):
        crops, _, _ = DetectorTask(Plan((str(folder),), architecture, unmarked=unmarked), tmp_path).data()
        item = next(item for item, place in enumerate(crops.plan) if crops.key_slices[place].complete)
        marked = (BodyPart.KIDNEY, BodyPart.SOFT_TISSUE)
        assert crops[item][2].background.tolist() == [1.0 if part in marked else unmarked for part in BodyPart]


def test_a_detector_of_two_stages_refuses_what_it_cannot_leave_out(folder, tmp_path):
    task = DetectorTask(Plan((str(folder),), {"detector": "faster_rcnn", "channels": 8}), tmp_path)
    with pytest.raises(DeepLesionError, match=r"P1.n1_00\d.png is marked for some labels only.*--unmarked 1"):
        task.data()
    DetectorTask(Plan((str(folder),), {"detector": "faster_rcnn", "channels": 8}, unmarked=1.0), tmp_path).data()


def test_meld_learns_one_kind_of_lesion_with_the_expert_of_its_organ(folder, tmp_path):
    csv = folder / "boxes.csv"
    csv.write_text("\n".join(row for row in csv.read_text().splitlines() if "P2" not in row) + "\n")
    architecture = {"detector": "meld", "channels": 8, "features": 8, "organs": ["Lung", "Kidney"]}
    crops, _, _ = DetectorTask(Plan((f"kidney:{folder}",), architecture, size=64), tmp_path).data()
    assert {crops[item][2].dataset for item in range(4)} == {2}
    for source in (str(folder), f"lung:{folder}"):
        with pytest.raises(DeepLesionError, match="is marked for some labels only"):
            DetectorTask(Plan((source,), architecture), tmp_path).data()


def test_a_mark_that_may_be_a_lesion_is_none_to_meld(tmp_path):
    sides = {"sides": (10, 20, 30, 40), "label": part_marked.UNSURE}
    part_marked.write_table(tmp_path, [part_marked.row("P", "P/1.png", 1, (0.8, 0.8, 2.0), "train", **sides)])
    assert data_sets.read(tmp_path, "train")[0].origins.tolist() == ["suspicious"]


def test_tables_are_written_as_they_are_read(tmp_path):
    rows = [
        part_marked.row("P", "P/1.png", 1, (0.8, 0.5, 2.0), "val", sides=(10, 20, 30, 40), label="soft tissue"),
        part_marked.row("P", "P/1.png", 1, (0.8, 0.5, 2.0), "val", sides=(1, 2, 3, 4), label=part_marked.UNSURE),
        part_marked.row("P", "P/1.png", 1, (0.8, 0.5, 2.0), "val", sides=(50, 60, 70, 80)),
        part_marked.row("P", "P/2.png", 2, (0.8, 0.5, 2.0), "val"),
    ]
    part_marked.write_table(tmp_path, rows)
    full, empty = data_sets.read(tmp_path, "val")
    assert full.labels.tolist() == [BodyPart.SOFT_TISSUE, UNKNOWN]
    np.testing.assert_allclose(part_marked.tight(full), [[10, 20, 30, 40], [1, 2, 3, 4]])
    np.testing.assert_allclose(full.look_alikes, [[50 - 0.5 - 5, 60 - 0.5 - 8, 70 - 0.5 + 5, 80 - 0.5 + 8]])
    assert full.complete == empty.complete == tuple(BodyPart) and not len(empty.boxes)
    assert (full.spacing, full.patient) == ((0.8, 0.5, 2.0), empty.patient)
    assert not data_sets.read(tmp_path, "train")


def test_another_table_is_named(tmp_path):
    (tmp_path / "boxes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DeepLesionError, match=r"lacks the column patient, so it is not a table of part-"):
        data_sets.read(tmp_path)


@pytest.mark.parametrize(
    ("now", "then", "why"), [("kidney,0", "toe,0", "'toe' is not a body part"), (",10,", ",x,", "x")]
)
def test_a_row_that_cannot_be_is_named(folder, now, then, why):
    csv = folder / "boxes.csv"
    csv.write_text(csv.read_text().replace(now, then))
    with pytest.raises(DeepLesionError, match=f"boxes.csv cannot be read: .*{why}.*; correct the row"):
        data_sets.read(folder)


def test_all_sources_at_hand_are_read(shared_data):
    for folder in (shared_data / "real_lesions").iterdir():
        if folder.is_dir():
            found = data_sets.read(folder)
            assert found and all(entry.path(entry.number).exists() for entry in found), folder
