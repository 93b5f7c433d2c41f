"""What crops show, and how prepared slices are kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.slices import Recipe
from scipy import ndimage

from train.data.crops import Augmentation, Crops, Light, _look, _target, collate, relight
from train.data.deeplesion import KeySlice, read_info
from train.data.layout import series_folder, write_png
from train.data.prepared import PreparedSlices


def crops(key_slices, tmp_path, **options) -> Crops:
    return Crops(key_slices, np.ones(len(key_slices)), 12, PreparedSlices(tmp_path / "cache"), size=64, **options)


def batch(key_slices, tmp_path, items, seed: int = 0) -> torch.Tensor:
    """Some of the crops, relit together."""
    plan = crops(key_slices, tmp_path, seed=seed)
    return collate([plan[item] for item in items]).on(torch.device("cpu"))[0]


def test_boxes_follow_the_picture_through_every_augmentation(data_set, tmp_path):
    plan = crops(read_info(data_set, "train"), tmp_path, augmentation=Augmentation(brightness=0, contrast=0, noise=0))
    whole = 0
    for item in range(len(plan)):
        image, _, target = plan[item]
        bright = (image[1] > (50 + 1024) * 255 / 4095).nonzero().float()
        if len(target.boxes) and not target.ignore[0] and (target.boxes > 0).all() and (target.boxes < 63).all():
            whole += 1
            centre = (target.boxes[0, :2] + target.boxes[0, 2:]) / 2
            assert torch.allclose(bright.mean(0).flip(0), centre, atol=0.6)
            assert target.labels.tolist() == [BodyPart.LIVER - 1]
    assert whole >= 3


def test_the_same_seed_gives_the_same_crops_and_another_seed_others(data_set, tmp_path):
    first, again, other = (batch(read_info(data_set, "train"), tmp_path, [3], seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_crop_is_relit_the_same_in_a_whole_batch_and_in_a_part_of_it(data_set, tmp_path):
    key_slices = read_info(data_set, "train")
    whole, part = batch(key_slices, tmp_path, range(4)), batch(key_slices, tmp_path, [2, 3])
    assert torch.equal(whole[2:], part) and not torch.equal(whole[0], whole[1])


def test_a_batch_keeps_the_lesions_of_its_images_apart(data_set, tmp_path):
    plan = crops(read_info(data_set, "train"), tmp_path)
    samples = [plan[item] for item in range(3)]
    image, light, lesions = samples[1]
    nothing = {name: getattr(lesions, name)[:0] for name in ("boxes", "labels", "ignore", "mined")}
    samples[1] = image, light, lesions._replace(**nothing)
    _, targets = collate(samples).on(torch.device("cpu"))
    assert [len(target.boxes) for target in targets] == [1, 0, 1]
    for target, (_, _, expected) in zip(targets, samples, strict=True):
        assert all(torch.equal(part, wanted) for part, wanted in zip(target[:3], expected[:3], strict=True))


def test_light_changes_contrast_round_water_brightness_and_noise_and_leaves_air_alone():
    grey = 255 / 4095
    images = torch.full((3, 3, 64, 64), (1024 + 100) * grey).half()  # 100 HU
    images[:, :, :8] = 0
    lights = [Light(1.0, 0.0, 0.0, 1), Light(1.08, -0.08 * 1024 * grey, 0.0, 2), Light(1.0, -15 * grey, 8 * grey, 3)]
    hu = relight(images, lights) / grey - 1024
    assert (hu[:, :, :8] == -1024).all()
    seen = hu[:, :, 8:]
    assert torch.allclose(seen[0], torch.tensor(100.0), atol=0.5)  # half precision
    assert torch.allclose(seen[1], torch.tensor(108.0), atol=0.5)
    assert abs(seen[2].mean() - 85) < 0.5 and abs(seen[2].std() - 8) < 0.3
    neighbours = torch.corrcoef(
        torch.stack([seen[2, 0, :, :-1].flatten(), seen[2, 0, :, 1:].flatten(), seen[2, 1, :, 1:].flatten()])
    )
    assert (neighbours - torch.eye(3)).abs().max() < 0.06  # white, and another in every slice


def test_light_clips_to_a_window_after_all_else():
    grey = 255 / 4095
    images = (torch.tensor([-1024.0, -500, 0, 1000]) + 1024).mul(grey).half().expand(1, 3, 2, 4)
    window = ((-175 + 1024) * grey, (275 + 1024) * grey)
    hu = relight(images, [Light(1.0, 20 * grey, 0.0, 1, window)]) / grey - 1024
    assert torch.allclose(hu, torch.tensor([-175.0, -175, 20, 275]).expand_as(hu), atol=0.5)


def test_a_share_of_crops_is_clipped_to_a_reading_window(data_set, tmp_path):
    key_slices = read_info(data_set, "train")
    always, never = (crops(key_slices, tmp_path, augmentation=Augmentation(clipped=share)) for share in (1, 0))
    ends = {tuple((np.array(always[item][1].window) * 4095 / 255 - 1024).round()) for item in range(len(always))}
    assert all(-200 <= low <= -135 or low == -1024 for low, _ in ends) and all(215 <= high <= 525 for _, high in ends)
    assert len(ends) == len(always)
    assert {never[item][1].window for item in range(len(never))} == {(0.0, 255.0)}


def test_a_share_of_crops_has_no_neighbours(tmp_path):
    entry = replace(cut_slice(tmp_path), name=f"{series_folder(1)}_002.png")
    for number, hu in ((1, 0), (2, 40), (3, 80)):
        write_png(tmp_path / "Images_png" / series_folder(1) / f"{number:03d}.png", np.full((40, 40), hu))
    for share, different in ((1, 1), (0, 3)):
        image = crops([entry], tmp_path, augmentation=Augmentation(alone=share))[0][0]
        assert len(image.unique()) == different and (image[1] == image[1, 0, 0]).all()


def test_only_what_a_crop_shows_of_a_slice_is_read_and_nothing_differs():
    sample, steps = torch.rand(3, 40, 50), np.arange(16)
    for x, y in ((0.9 * steps + 20.3, 1.1 * steps - 4.5), (30.7 - steps, steps + 31.2), (steps + 60.0, 5.0 * steps)):
        rows, columns = np.meshgrid(y, x, indexing="ij")
        expected = [
            ndimage.map_coordinates(plane, [rows, columns], order=1, mode="grid-constant") for plane in sample.numpy()
        ]
        np.testing.assert_allclose(_look(sample, x, y, "zeros"), expected, atol=1e-5)


def test_a_box_that_is_hardly_visible_or_of_unknown_label_is_ignored():
    boxes = np.array([[-20.0, 10, 10, 40], [10, 10, 30, 30], [40, 40, 50, 50], [200, 200, 220, 220]])
    _, labels, ignore, _ = _target(boxes, np.array([4, -1, 5, 5]), np.zeros(4, bool), 64, any_label=False)
    assert ignore.tolist() == [True, True, False]
    assert labels[2] == BodyPart.LUNG - 1


def test_beyond_a_missing_neighbour_the_last_slice_repeats(data_set):
    key_slice = read_info(data_set, "train")[0]
    assert key_slice.read(Recipe(slices=1))[0].shape == (1, 128, 128)
    assert key_slice.read(Recipe(slices=3))[0].shape == (3, 128, 128) and key_slice.read(Recipe(slices=3))[1] == 1
    hu, k = KeySlice(**{**vars(key_slice), "name": "000001_01_01_004.png"}).read(Recipe(slices=9))
    assert (len(hu), k) == (3, 0)


def test_a_prepared_slice_is_kept_with_its_way_back_for_every_pixel_size(data_set, tmp_path, monkeypatch):
    key_slice = read_info(data_set, "train")[0]
    fresh, frame = PreparedSlices(None)(key_slice)
    PreparedSlices(tmp_path)(key_slice)
    coarse, coarse_frame = PreparedSlices(tmp_path, Recipe(pixel_mm=1.6))(key_slice)
    assert [2 * side for side in coarse.shape[1:]] == list(fresh.shape[1:])
    monkeypatch.setattr(KeySlice, "read", None)  # what is kept needs no PNG
    kept, kept_frame = PreparedSlices(tmp_path)(key_slice)
    assert kept_frame == frame
    np.testing.assert_allclose(kept, fresh, atol=0.07)  # half precision
    box = np.array([[10.0, 20, 30, 40]])
    np.testing.assert_allclose(coarse_frame.to_index(coarse_frame.to_network(box)), box)
    assert {file.suffix for file in tmp_path.iterdir()} == {".npy", ".json"} and len(list(tmp_path.iterdir())) == 4


def with_origins(data_set, tmp_path, origins, labels=(4, 4, -1, -1)):
    """The key slice to train on, with four boxes on it of these origins and labels."""
    (key_slice,) = read_info(data_set, "train")
    boxes = np.array([[60.0 + 2 * n, 50, 78 + 2 * n, 68] for n in range(4)])
    return replace(key_slice, boxes=boxes, labels=np.array(labels), origins=np.array(origins), dataset=2)


@pytest.mark.parametrize(
    ("any_label", "ignored"), [(False, [False, True, True, True]), (True, [False, True, False, True])]
)
def test_what_the_origin_of_a_box_makes_of_it(data_set, tmp_path, any_label, ignored):
    key_slice = with_origins(data_set, tmp_path, ["mined", "suspicious", "marked", "suspicious"])
    plan = crops([key_slice], tmp_path, any_label=any_label, augmentation=Augmentation(scale=(0.5, 0.5)))
    _, (target, _) = collate([plan[0], plan[1]]).on(torch.device("cpu"))
    assert target.ignore.tolist() == ignored and target.dataset == 2
    assert target.loose.tolist() == [True, False, False, False]
    assert target.labels[~target.ignore].tolist() == ([3, -1] if any_label else [3])


def cut_slice(tmp_path, **marks) -> KeySlice:
    """A part of a body, 40 x 40 pixels of soft tissue to the very edge."""
    write_png(tmp_path / "Images_png" / series_folder(1) / "001.png", np.full((40, 40), 40))
    nothing = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int), "diameters_mm": np.zeros((0, 2))}
    place = {"images": tmp_path / "Images_png", "name": f"{series_folder(1)}_001.png", "spacing": (0.8, 0.8, 2.0)}
    return KeySlice(**(place | nothing | {"split": 1} | marks))


def test_beyond_the_edge_of_a_part_cut_out_of_a_body_nothing_is_learnt(tmp_path):
    plan = crops([cut_slice(tmp_path)], tmp_path, augmentation=Augmentation((1.0, 1.0), 0, 0, 0, 0))
    image, _, target = plan[0]
    assert image.min() == image.max(), "the edge goes on instead of a border to learn"
    inside = torch.ones(64, 64, dtype=bool)
    for left, top, right, bottom in target.boxes.round().int().clamp(0, 64).tolist():
        inside[top:bottom, left:right] = False
    assert target.ignore.all() and abs(int(inside.sum()) - 40 * 40) <= 80


def test_a_body_that_ends_in_air_goes_on_as_air(data_set, tmp_path):
    small = crops(read_info(data_set, "train"), tmp_path)
    small.size = 512
    image, _, target = small[0]
    assert image[:, :4].max() == 0 and len(target.boxes) == 1


def test_crops_look_at_look_alikes_and_do_not_learn_them(tmp_path):
    write_png(tmp_path / "Images_png" / series_folder(1) / "001.png", np.zeros((600, 600)))
    wide = cut_slice(tmp_path, look_alikes=np.array([[480.0, 480, 500, 500]]))
    write_png(tmp_path / "Images_png" / series_folder(1) / "001.png", np.pad(np.full((520, 520), 40), 40))
    plan = crops([wide], tmp_path, augmentation=Augmentation((1.0, 1.0), 0, 0, 0, 0))
    plan.size = 128
    seen = [plan._centre((3, 600, 600), wide.look_alikes, 1.0, np.random.default_rng(item)) for item in range(20)]
    near = np.abs(np.array(seen) - 490).max(1) < 64
    assert near.mean() > 0.7
    assert all(plan[item][2].ignore.all() for item in range(3))
