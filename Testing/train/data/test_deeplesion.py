"""DeepLesion's known faults: what is mended, what is named, and what a check of a download finds."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from LesionDetectorLib.lesion import BodyPart, Recist
from LesionDetectorLib.slices import Recipe

from train import verify
from train.data.deeplesion import DeepLesionError, read_info, read_table
from train.data.layout import row, series_folder, write_csv, write_png
from train.training import detection
from train.verify import counts, published

SIZE = 40
RECIST = Recist(((10, 20), (30, 20)), ((20, 15), (20, 25)), 16, 8)


def lesion(patient: int, split: int = 1, label: BodyPart = BodyPart.LIVER, **changes: object) -> dict[str, object]:
    """A lesion of 16 x 8 mm on slice 2 of 1..3, some columns `changes`d."""
    series = {"slices": (1, 3), "spacing": (0.8, 0.8, 2.0), "size": (SIZE, SIZE), "location": (0.5, 0.5, 0.5)}
    return {**row(patient, 2, RECIST, label, **series, split=split), **changes}


def write(folder, rows, csv="DL_info.csv", without=()):
    write_csv(folder / csv, [{name: entry[name] for name in rows[0] if name in deeplesion_columns()} for entry in rows])
    for entry in rows:
        series, number = entry["File_name"].removesuffix(".png").rsplit("_", 1)
        if entry["File_name"] not in without:
            for k in range(int(number) - 1, int(number) + 2):
                write_png(folder / "Images_png" / series / f"{k:03d}.png", np.full((SIZE, SIZE), k))
    return folder


def deeplesion_columns():
    return lesion(1).keys()


@pytest.mark.parametrize(
    ("written", "read", "sentence"),
    [
        ("0.8, 0.8, 0", (0.8, 0.8, 5.0), "no spacing"),
        ("0.8, 0.8, nan", (0.8, 0.8, 5.0), "no spacing"),
        ("", (0.8, 0.8, 5.0), "no spacing"),
        ("0.7, 0.7, -2", (0.7, 0.7, 2.0), "below 0"),
    ],
)
def test_a_spacing_that_cannot_be_is_replaced_and_said(tmp_path, caplog, written, read, sentence):
    write(tmp_path, [lesion(1, Spacing_mm_px_=written), lesion(2)])
    assert [entry.spacing for entry in read_info(tmp_path)] == [read, (0.8, 0.8, 2.0)]
    assert len(caplog.messages) == 1
    assert sentence in caplog.text and "row 2 (000001_01_01_002.png)" in caplog.text
    assert read_info(tmp_path)[0].read(Recipe(slices=3))[0].shape[1:] == (SIZE, SIZE)


def test_noisy_rows_go_without_a_word_and_repeated_ones_with_one(tmp_path, caplog):
    write(tmp_path, [lesion(1), lesion(1), lesion(2, Possibly_noisy=1), lesion(3)])
    found = read_info(tmp_path)
    assert [(entry.patient, len(entry.boxes)) for entry in found] == [(1, 1), (3, 1)]
    assert len(caplog.messages) == 1 and "1 row(s) repeat" in caplog.text and "row 3" in caplog.text


def test_a_box_is_cut_off_at_the_edge_of_the_image_and_dropped_beyond_it(tmp_path, caplog):
    write(tmp_path, [lesion(1, Bounding_boxes="-3, 30, 12, 46"), lesion(2, Bounding_boxes="50, 3, 60, 9"), lesion(3)])
    first, second = read_info(tmp_path)
    assert first.boxes.tolist() == [[-0.5, 29, 11, SIZE - 0.5]] and second.patient == 3
    assert "leaves its image" in caplog.text and "holds no pixel" in caplog.text


def test_a_key_slice_that_is_not_there_is_left_out_and_said(tmp_path, caplog):
    rows = [lesion(1), lesion(2)]
    write(tmp_path, rows, without=["000002_01_01_002.png"])
    assert [entry.patient for entry in read_info(tmp_path)] == [1]
    assert "1 of 2 key slices" in caplog.text
    (tmp_path / "Images_png" / "000001_01_01" / "002.png").unlink()
    with pytest.raises(DeepLesionError, match="none of the 2 slices"):
        read_info(tmp_path)


def test_a_whole_folder_is_read_without_a_word(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    assert len(read_info(write(tmp_path, [lesion(1), lesion(2, split=3)]))) == 2
    assert [entry.patient for entry in read_info(tmp_path, "test")] == [2] and read_info(tmp_path, "val") == []
    assert not caplog.messages


def test_a_csv_beside_the_images_is_read_and_its_repeats_are_drawn_more_often(tmp_path):
    write(tmp_path, [lesion(1), lesion(2), lesion(3, split=2)])
    table = pd.read_csv(tmp_path / "DL_info.csv")
    table.assign(Repeat=[1, 3, 1]).to_csv(tmp_path / "subset.csv", index=False)
    assert [entry.patient for entry in read_info(tmp_path / "subset.csv", "train")] == [1, 2, 2, 2]
    elsewhere = tmp_path / "elsewhere" / "subset.csv"
    elsewhere.parent.mkdir()
    (tmp_path / "subset.csv").rename(elsewhere)
    assert len(read_info(elsewhere, images=tmp_path / "Images_png")) == 5
    with pytest.raises(DeepLesionError, match="Images_png is missing"):
        read_info(elsewhere)


def test_training_takes_a_csv_with_a_share(tmp_path):
    write(tmp_path, [lesion(1), lesion(2)], csv="subset.csv")
    key_slices, shares = detection.read_data((f"{tmp_path / 'subset.csv'}=2",), "train")
    assert len(key_slices) == 2 and shares.sum() == pytest.approx(2)


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("File_name", "slice_7.png", "a name like"),
        ("Patient_index", "9", "the patient that File_name names"),
        ("Patient_index", "two", "a whole number"),
        ("Coarse_lesion_type", "9", "one of -1, 1, 2"),
        ("Coarse_lesion_type", "", "one of -1, 1, 2"),
        ("Train_Val_Test", "0", "one of 1, 2, 3"),
        ("Possibly_noisy", "x", "one of 0, 1"),
        ("Bounding_boxes", "1, 2, 3", "4 numbers are expected"),
        ("Bounding_boxes", "1, 2, 3, nan", "not a number"),
        ("Lesion_diameters_Pixel_", "ten, 5", "could not convert"),
    ],
)
def test_a_row_that_cannot_be_right_is_named(tmp_path, column, value, sentence):
    write(tmp_path, [lesion(1), lesion(2)])
    table = pd.read_csv(tmp_path / "DL_info.csv", dtype=str, keep_default_na=False)
    table.loc[1, column] = value
    table.to_csv(tmp_path / "DL_info.csv", index=False)
    with pytest.raises(DeepLesionError, match=rf"(?s)DL_info\.csv, row 3.*{column}.*{sentence}"):
        read_info(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"File_name,Bounding_boxes\na,b,c,d\n"])
def test_a_file_that_is_no_such_table_is_named(tmp_path, content):
    (tmp_path / "Images_png").mkdir()
    (tmp_path / "DL_info.csv").write_bytes(content)
    with pytest.raises(DeepLesionError, match=r"DL_info\.csv"):
        read_info(tmp_path)


# ------ checking a download


@pytest.fixture
def download(tmp_path, monkeypatch):
    """A download of two lesions that counts what is published."""
    folder = write(tmp_path, [lesion(1), lesion(2, split=2)])
    known = counts(read_table(folder / "DL_info.csv")).astype(float)
    known.loc["slices", ["train", "val"]] = np.nan
    monkeypatch.setattr(verify, "published", lambda: known)
    return folder


def test_a_whole_download_passes(download, capsys):
    assert verify.main([str(download), "--full"]) == 0
    said = capsys.readouterr().out
    assert (
        "All counts are as published." in said and "6 slices in 2 series belong to it: 0 are missing, 0 damaged" in said
    )


def test_missing_and_damaged_slices_are_listed(download, capsys):
    series = download / "Images_png" / series_folder(2)
    (series / "001.png").unlink()
    (series / "002.png").write_bytes(b"")
    whole = (series / "003.png").read_bytes()
    (series / "003.png").write_bytes(whole[: len(whole) // 2])
    assert verify.main([str(download)]) == 1
    assert f"{series}: missing 1; damaged 2\n" in capsys.readouterr().out
    assert verify.main([str(download), "--full", "--workers", "2", "--list", str(download / "faults.txt")]) == 1
    assert "1 are missing, 2 damaged" in capsys.readouterr().out
    assert (download / "faults.txt").read_text() == f"{series}: missing 1; damaged 2-3\n"


def test_a_count_that_differs_stands_beside_the_published_one(download, capsys):
    write(download, [lesion(1), lesion(2, split=2, label=BodyPart.BONE)])
    assert verify.main([str(download)]) == 1
    said = capsys.readouterr().out
    assert [line.split() for line in said.splitlines() if line.startswith("Bone")] == [
        ["Bone", "1", "(0)", "0", "1", "(0)", "0"]
    ]
    assert "not the whole DL_info.csv" in said


def test_a_folder_that_cannot_be_used_ends_in_one_sentence(tmp_path, capsys):
    assert verify.main([str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "needs DL_info.csv" in said.err and not said.out


def test_the_published_counts_agree_with_each_other():
    known = published()
    labels = [part.title for part in BodyPart]
    assert known.loc[labels, "all"].sum() == 9816 and known.loc["lesions", "all"] == 32735
    lesions = known.loc[[*labels, "lesions", "unlabelled"]]
    assert (lesions["train"] + lesions["val"] + lesions["test"] == lesions["all"]).all()
    assert (known.loc[[*labels, "unlabelled"]].sum() == known.loc["lesions"]).all()


def test_the_official_test_split_counts_what_is_published(shared_data):
    table = read_table(shared_data / "deeplesion" / "DL_info_test.csv")
    assert (counts(table)["test"] == published()["test"]).all()


def test_real_slices_are_read_through_the_official_csv(shared_data, caplog):
    folder = shared_data / "deeplesion"
    found = read_info(folder / "DL_info_test.csv")
    there = {entry.name for entry in found}
    assert "000001_01_01_109.png" in there and "key slices are not in" in caplog.text
    first = found[0]
    np.testing.assert_allclose(first.boxes, [[225.169, 89.0204, 240.252, 110.977]])
    assert first.read(Recipe(slices=3))[0].shape[1:] == (512, 512) and first.spacing == (0.488281, 0.488281, 5)


def with_origin(folder, *origins):
    """A csv of a row for each of these origins, patient by patient; a row of nothing has a blank box."""
    blank = {"Bounding_boxes": "", "Lesion_diameters_Pixel_": "", "Coarse_lesion_type": -1}
    rows = [lesion(number, **(blank if origin == "nothing" else {})) for number, origin in enumerate(origins, 1)]
    write(folder, rows)
    pd.read_csv(folder / "DL_info.csv").assign(Origin=origins).to_csv(folder / "mined.csv", index=False)
    return folder / "mined.csv"


def test_a_column_says_who_found_a_lesion_and_on_which_slices_nothing_is(tmp_path):
    found = read_info(with_origin(tmp_path, "marked", "nothing", "mined", "suspicious"))
    assert [entry.patient for entry in found] == [1, 2, 3, 4]
    assert [entry.boxes.shape for entry in found] == [(1, 4), (0, 4), (1, 4), (1, 4)]
    assert [entry.of("mined").tolist() for entry in found] == [[False], [], [True], [False]]
    assert found[1].read(Recipe(slices=3))[0].shape[1:] == (SIZE, SIZE)


def test_an_origin_that_is_none_is_named(tmp_path):
    with pytest.raises(DeepLesionError, match="row 3: Origin is 'guessed' instead of one of marked, mined"):
        read_info(with_origin(tmp_path, "marked", "guessed"))
