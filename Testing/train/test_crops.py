"""What crops show, and how prepared slices are kept."""

from __future__ import annotations

import numpy as np
import torch
from LesionDetectorLib.lesion import BodyPart

from train.crops import Augmentation, Crops, _target
from train.deeplesion import KeySlice, read_info
from train.prepared import PreparedSlices


def crops(key_slices, tmp_path, **options) -> Crops:
    return Crops(key_slices, np.ones(len(key_slices)), 12, PreparedSlices(tmp_path / "cache"), size=64, **options)


def test_boxes_follow_the_picture_through_every_augmentation(data_set, tmp_path):
    plan = crops(read_info(data_set, "train"), tmp_path, augmentation=Augmentation(brightness=0, contrast=0, noise=0))
    whole = 0
    for item in range(len(plan)):
        image, target = plan[item]
        bright = (image[1] > (50 + 1024) * 255 / 4095).nonzero().float()
        if len(target.boxes) and not target.ignore[0] and (target.boxes > 0).all() and (target.boxes < 63).all():
            whole += 1
            centre = (target.boxes[0, :2] + target.boxes[0, 2:]) / 2
            assert torch.allclose(bright.mean(0).flip(0), centre, atol=0.6)
            assert target.labels.tolist() == [BodyPart.LIVER - 1]
    assert whole >= 3


def test_the_same_seed_gives_the_same_crops_and_another_seed_others(data_set, tmp_path):
    first, again, other = (crops(read_info(data_set, "train"), tmp_path, seed=seed)[3][0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_box_that_is_hardly_visible_or_of_unknown_label_is_ignored():
    boxes = np.array([[-20.0, 10, 10, 40], [10, 10, 30, 30], [40, 40, 50, 50], [200, 200, 220, 220]])
    target = _target(boxes, np.array([4, -1, 5, 5]), 64)
    assert target.ignore.tolist() == [True, True, False]
    assert target.labels[2] == BodyPart.LUNG - 1


def test_beyond_a_missing_neighbour_the_last_slice_repeats(data_set):
    key_slice = read_info(data_set, "train")[0]
    assert key_slice.read(1)[0].shape == (1, 128, 128)
    assert key_slice.read(3)[0].shape == (3, 128, 128) and key_slice.read(3)[1] == 1
    hu, k = KeySlice(**{**vars(key_slice), "name": "000001_01_01_004.png"}).read(9)
    assert (len(hu), k) == (3, 0)


def test_a_prepared_slice_is_kept_with_its_way_back_for_every_pixel_size(data_set, tmp_path, monkeypatch):
    key_slice = read_info(data_set, "train")[0]
    fresh, frame = PreparedSlices(None)(key_slice)
    PreparedSlices(tmp_path)(key_slice)
    coarse, coarse_frame = PreparedSlices(tmp_path, pixel_mm=1.6)(key_slice)
    assert [2 * side for side in coarse.shape[1:]] == list(fresh.shape[1:])
    monkeypatch.setattr(KeySlice, "read", None)  # what is kept needs no PNG
    kept, kept_frame = PreparedSlices(tmp_path)(key_slice)
    assert kept_frame == frame
    np.testing.assert_allclose(kept, fresh, atol=0.07)  # half precision
    box = np.array([[10.0, 20, 30, 40]])
    np.testing.assert_allclose(coarse_frame.to_index(coarse_frame.to_network(box)), box)
    assert {file.suffix for file in tmp_path.iterdir()} == {".npy", ".json"} and len(list(tmp_path.iterdir())) == 4
