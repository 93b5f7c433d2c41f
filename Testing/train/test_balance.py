"""The training sets of the class-imbalance experiments: what each promises, on drawn tables and on DeepLesion's
official test rows."""

from __future__ import annotations

import csv
import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from LesionDetectorLib.lesion import BodyPart

from train import balance
from train.data import sets
from train.data.deeplesion import DeepLesionError, read_table
from train.data.layout import COLUMNS
from train.data.sets import draw, first_visit, limited, rarest, repeated, split_by_patient, subset, unused

LARGE = 10.0
fast = settings(max_examples=25, deadline=None)


def table_of(patients: list[list[tuple[int, float, int, float]]]) -> pd.DataFrame:
    """Lesions of patients 1, 2, ..., each lesion (label, short axis in mm, study, place along x).

    Two lesions share a slice.
    """
    rows = []
    for patient, lesions in enumerate(patients, 1):
        for place, (label, sad, study, x) in enumerate(lesions):
            rows.append(
                (f"{patient:06d}_{study:02d}_01_{place // 2 + 1:03d}.png", patient, study, label, f"{place}", sad, x)
            )
    columns = ["File_name", "Patient_index", "Study_index", "Coarse_lesion_type", "Bounding_boxes", "sad_mm", "x"]
    return pd.DataFrame(rows, columns=columns).assign(Possibly_noisy=0, Train_Val_Test=3, y=0.5, z=0.5)


lesions = st.tuples(st.sampled_from([1, 2, 2, 5, 5, 5, 8]), st.floats(2, 40), st.integers(1, 3), st.floats(0, 0.2))
tables = st.lists(st.lists(lesions, min_size=1, max_size=9), min_size=4, max_size=30).map(table_of)
seeds = st.integers(0, 2**32)


def drawn_or_none(train: pd.DataFrame, experiment: str, seed: int, **options) -> pd.DataFrame | None:
    try:
        return draw(train, experiment, seed, **options)
    except DeepLesionError:
        return None


# ------ from the csv to D_L


@fast
@given(tables, seeds)
def test_every_patient_is_in_one_split_and_the_splits_are_60_20_20(table, seed):
    split = split_by_patient(table, seed)
    per_patient = split.groupby("Patient_index")["Train_Val_Test"]
    assert (per_patient.nunique() == 1).all()
    patients = per_patient.first().value_counts().reindex([1, 2, 3], fill_value=0)
    assert (patients > 0).all()
    assert (patients - np.array([0.6, 0.2, 0.2]) * len(per_patient) <= 1).all()
    assert split.drop(columns="Train_Val_Test").equals(table.drop(columns="Train_Val_Test"))
    assert split.equals(split_by_patient(table, seed))


def test_another_split_seed_gives_another_split_and_three_patients_are_too_few():
    table = table_of([[(2, 12.0, 1, 0.1)]] * 20)
    assert not split_by_patient(table, 1).equals(split_by_patient(table, 2))
    with pytest.raises(DeepLesionError, match="3 patient"):
        split_by_patient(table[table["Patient_index"] <= 3])


@fast
@given(tables)
def test_a_lesions_first_visit_keeps_one_mark_of_each_place_and_drops_only_marks_seen_before(table):
    kept = first_visit(table, "lesion")
    assert kept.index.is_monotonic_increasing and set(first_visit(table, "study").index) <= set(kept.index)
    for _, marks in table.groupby(["Patient_index", "Coarse_lesion_type"]):
        for row, mark in marks.iterrows():
            earlier = marks[marks.index.isin(kept.index) & (marks["Study_index"] < mark["Study_index"])]
            again = (np.abs(earlier["x"] - mark["x"]) <= sets.SAME_PLACE).any()
            assert (row in kept.index) != again


def test_what_a_first_visit_is():
    table = table_of([[(2, 9.0, 1, 0.10), (2, 9.0, 1, 0.11), (2, 9.0, 2, 0.12), (5, 9.0, 2, 0.10), (2, 9.0, 3, 0.50)]])
    assert first_visit(table, "lesion").index.tolist() == [0, 1, 3, 4]
    assert first_visit(table, "study").index.tolist() == [0, 1]
    assert first_visit(table, "all").equals(table)
    assert first_visit(table.assign(x=np.nan), "lesion").index.tolist() == [0, 1, 2, 3, 4]


def test_the_steps_drop_noisy_repeated_and_unlabelled_marks():
    table = table_of([[(2, 9.0, 1, 0.1), (-1, 9.0, 1, 0.3), (5, 9.0, 1, 0.5)]])
    table.loc[2, "Possibly_noisy"] = 1
    steps = limited(pd.concat([table, table.iloc[:1]], ignore_index=True))
    assert [len(rows) for rows in steps.values()] == [4, 2, 2, 1]


# ------ drawing a set


@fast
@given(tables, seeds, st.sampled_from(list(sets.EXPERIMENTS)), st.none() | st.integers(2, 200))
def test_a_set_is_rows_of_the_train_split_each_once_and_the_same_for_the_same_seed(table, seed, experiment, wanted):
    drawn = drawn_or_none(table, experiment, seed, lesions=wanted)
    if drawn is not None:
        assert drawn.index.is_unique and drawn.index.is_monotonic_increasing
        assert drawn[table.columns].equals(table.loc[drawn.index])
        assert 0 < len(drawn) <= (rarest(table) if wanted is None else wanted)
        assert drawn.equals(draw(table, experiment, seed, lesions=wanted))


@fast
@given(tables, seeds)
def test_labels_are_equal_in_bp_and_bps_and_in_bps_the_sizes_as_equal_as_each_label_allows(table, seed):
    least = table["Coarse_lesion_type"].value_counts().min()
    assert (draw(table, "BP", seed)["Coarse_lesion_type"].value_counts() == least).all()
    both = draw(table, "BPS", seed)
    for label, rows in both.groupby("Coarse_lesion_type"):
        there = table[table["Coarse_lesion_type"] == label]
        large, all_large = (int((part["sad_mm"] >= LARGE).sum()) for part in (rows, there))
        assert len(rows) == least
        assert abs(2 * large - least) <= 1 or large == all_large or least - large == len(there) - all_large
    assert both["Coarse_lesion_type"].nunique() == table["Coarse_lesion_type"].nunique()


@fast
@given(tables, seeds, st.integers(2, 200))
def test_n_takes_whole_patients_so_that_both_groups_hold_as_many_lesions(table, seed, wanted):
    drawn = drawn_or_none(table, "N", seed, lesions=wanted)
    per_patient = table.groupby("Patient_index").size()
    few = per_patient[per_patient <= 2]
    if drawn is None:
        return
    counts = drawn.groupby("Patient_index").size()
    assert (counts == per_patient[counts.index]).all()
    assert counts[counts <= 2].sum() == counts[counts > 2].sum() <= wanted // 2
    assert counts[counts <= 2].sum() <= few.sum()


@fast
@given(tables, seeds, st.integers(2, 200))
def test_s_holds_both_sizes_equally_and_as_many_as_there_are(table, seed, wanted):
    drawn = drawn_or_none(table, "S", seed, lesions=wanted)
    sizes = [(table["sad_mm"] >= LARGE).sum(), (table["sad_mm"] < LARGE).sum()]
    each = min(wanted // 2, *sizes)
    assert (drawn is None) == (each == 0)
    if drawn is not None:
        assert (drawn["sad_mm"] >= LARGE).sum() == (drawn["sad_mm"] < LARGE).sum() == each


@fast
@given(tables, seeds, st.integers(2, 400))
def test_u_has_the_number_asked_for_and_rf_repeats_just_those_lesions(table, seed, wanted):
    plain, again = draw(table, "U", seed, lesions=wanted), draw(table, "RF", seed, lesions=wanted)
    assert len(plain) == min(wanted, len(table)) and again.index.equals(plain.index)
    assert (again["Repeat"] >= 1).all() and (again.groupby("File_name")["Repeat"].nunique() == 1).all()


@fast
@given(st.dictionaries(st.integers(1, 8), st.integers(1, 50), min_size=1), st.integers(0, 300))
def test_quotas_add_up_and_differ_only_where_a_group_has_no_more(available, total):
    quotas = sets._quotas(pd.Series(available), total)
    assert sum(quotas.values()) == min(total, sum(available.values()))
    assert all(quotas[group] <= available[group] for group in available)
    assert all(quotas[group] == available[group] or quotas[group] >= max(quotas.values()) - 1 for group in available)


def varied_table() -> pd.DataFrame:
    """80 patients with 1 to 6 lesions of four labels and both sizes."""
    return table_of(
        [
            [((1, 2, 5, 8)[(p + k) % 4], 4.0 + 3 * ((p + k) % 5), 1, 0.1 * k) for k in range(p % 6 + 1)]
            for p in range(80)
        ]
    )


@pytest.mark.parametrize("experiment", sets.EXPERIMENTS)
def test_another_seed_gives_another_set(experiment):
    table = varied_table()
    sets = [draw(table, experiment, seed, lesions=60) for seed in range(3)]
    assert not any(first.equals(second) for first, second in pairwise(sets))


def test_repeat_factors_are_those_of_lvis_on_average():
    common, rare, both = [(2, 9.0, 1, 0.1)], [(1, 9.0, 1, 0.1)], [(2, 9.0, 1, 0.1), (1, 9.0, 1, 0.1)]
    table = table_of([common] * 960 + [rare] * 20 + [both] * 20)
    rows = repeated(table, 0.125, np.random.default_rng(0))
    has_rare = rows["File_name"].isin(rows.loc[rows["Coarse_lesion_type"] == 1, "File_name"])
    assert (rows.loc[~has_rare, "Repeat"] == 1).all()
    assert set(rows.loc[has_rare, "Repeat"]) <= {1, 2}
    assert rows.loc[has_rare].groupby("File_name")["Repeat"].first().mean() == pytest.approx(
        math.sqrt(0.125 / 0.04), abs=0.15
    )


def test_a_group_without_lesions_is_named():
    table = table_of([[(2, 20.0, 1, 0.1 * k) for k in range(5)]] * 6)
    with pytest.raises(DeepLesionError, match=r"D_N would be empty.*2 lesions"):
        draw(table, "N", 0)
    with pytest.raises(DeepLesionError, match=r"D_S would be empty.*10 mm"):
        draw(table, "S", 0)


def test_other_marks_on_the_slices_can_come_along_to_be_ignored():
    table = varied_table()
    split = split_by_patient(table)
    drawn = draw(split[split["Train_Val_Test"] == 1], "RF", 0, lesions=20)
    rows = subset(split, drawn)
    others = unused(table, rows)
    assert len(others) and not set(others.index) & set(rows.index)
    with_others = subset(split, drawn, others)
    assert (with_others.loc[others.index, "Coarse_lesion_type"] == -1).all()
    assert (with_others.groupby("File_name")["Train_Val_Test"].nunique() == 1).all()
    assert with_others["Repeat"].min() == 1


# ------ the official test rows


@pytest.fixture(scope="module")
def official(shared_data):
    """D_L of the official test rows, split."""
    steps = limited(sets.read_lesions(shared_data / "deeplesion" / "DL_info_test.csv"))
    return steps, split_by_patient(steps["labelled: D_L"])


def test_the_first_visit_keeps_the_share_that_the_paper_kept(official):
    steps, _ = official
    assert len(steps["labelled: D_L"]) / len(steps["neither noisy nor repeated"]) == pytest.approx(
        8104 / 9816, abs=0.002
    )
    assert len(first_visit(steps["neither noisy nor repeated"], "study")) / 4912 < 0.4


def test_the_sets_promised_come_out_of_the_official_test_rows(official):
    _, split = official
    train = split[split["Train_Val_Test"] == 1]
    drawn = {name: draw(train, name, 0) for name in sets.EXPERIMENTS}
    bones = (train["Coarse_lesion_type"] == BodyPart.BONE).sum()
    assert {name: len(rows) for name, rows in drawn.items()} == dict.fromkeys(sets.EXPERIMENTS, 8 * bones)
    for name in ("BP", "BPS"):
        assert (drawn[name]["Coarse_lesion_type"].value_counts() == bones).all()
    assert (drawn["S"]["sad_mm"] >= LARGE).sum() == 4 * bones
    few = train.groupby("Patient_index")["Patient_index"].transform("size") <= 2
    assert few[drawn["N"].index].sum() == 4 * bones
    natural = train["Coarse_lesion_type"].value_counts(normalize=True)
    assert (drawn["U"]["Coarse_lesion_type"].value_counts(normalize=True) - natural).abs().max() < 0.08
    repeats = drawn["RF"].loc[drawn["RF"].index.repeat(drawn["RF"]["Repeat"]), "Coarse_lesion_type"].value_counts()
    assert repeats[BodyPart.BONE] > (drawn["U"]["Coarse_lesion_type"] == BodyPart.BONE).sum()


def test_the_command_writes_a_csv_of_the_same_form_and_a_picture(shared_data, tmp_path, capsys):
    source, out = shared_data / "deeplesion" / "DL_info_test.csv", tmp_path / "new" / "bp.csv"
    assert balance.main([str(source), "--experiment", "BP", "--seed", "4", "--out", str(out), "--picture"]) == 0
    said = capsys.readouterr().out
    assert all(number in said for number in ("32,735", "26,034", "25,568", "8,104", "7,953", "1,331", "1,309"))
    with source.open() as file:
        rows = {(row["File_name"], row["Bounding_boxes"]): row for row in csv.DictReader(file)}
    with out.open() as file:
        written = list(csv.DictReader(file))
    assert tuple(written[0]) == COLUMNS
    for row in written:
        original = rows[row["File_name"], row["Bounding_boxes"]]
        assert {**original, "Train_Val_Test": row["Train_Val_Test"]} == row
    table = read_table(out)
    assert table[table["Train_Val_Test"] == 1]["Coarse_lesion_type"].value_counts().nunique() == 1
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.parent.iterdir()) == ["bp.csv", "bp.png"]


# ------ bad input


@pytest.fixture
def small(tmp_path):
    """A csv of 30 lesions of 10 patients."""
    table = table_of([[(2, 9.0, 1, 0.1), (5, 14.0, 1, 0.5), (1, 14.0, 2, 0.7)]] * 10)
    texts = {
        "Measurement_coordinates": "",
        "Bounding_boxes": "10, 10, 20, 20",
        "Lesion_diameters_Pixel_": "20, 15",
        "Normalized_lesion_location": [f"{x}, 0.5, 0.5" for x in table["x"]],
        "Spacing_mm_px_": "0.8, 0.8, 5",
        "Image_size": "512, 512",
    }
    table["Bounding_boxes"] = [f"{1 + k}, 10, {20 + k}, 20" for k in range(len(table))]
    table = table.assign(**{name: text for name, text in texts.items() if name != "Bounding_boxes"})
    table.reindex(columns=COLUMNS).fillna(1).to_csv(tmp_path / "DL_info.csv", index=False)
    return tmp_path / "DL_info.csv"


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("Study_index", "first", "Study_index is 'first' instead of a whole number"),
        ("Lesion_diameters_Pixel_", "12", "Lesion_diameters_Pixel_: 2 numbers are expected"),
        ("Normalized_lesion_location", "0.5, 0.5", "Normalized_lesion_location: 3 numbers are expected"),
        ("Bounding_boxes", "", "Bounding_boxes"),
        ("Coarse_lesion_type", "liver", "Coarse_lesion_type is 'liver' instead of one of"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(small, capsys, column, value, sentence):
    table = pd.read_csv(small, dtype=str)
    table.loc[6, column] = value
    table.to_csv(small, index=False)
    out = small.parent / "bp.csv"
    assert balance.main([str(small), "--experiment", "BP", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "DL_info.csv, row 8" in said and sentence in said
    assert not out.exists()


def test_a_csv_that_lacks_a_column_or_is_its_own_subset_is_refused(small, capsys):
    assert balance.main([str(small), "--experiment", "U", "--out", str(small)]) == 2
    assert "choose another name" in capsys.readouterr().err
    pd.read_csv(small).drop(columns="Study_index").to_csv(small, index=False)
    assert balance.main([str(small), "--experiment", "U", "--out", str(small.parent / "u.csv")]) == 2
    assert "lacks the column Study_index" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--lesions", "none"], ["--seed", "-1"], ["--experiment", "X"]])
def test_a_wrong_option_ends_with_code_2(small, wrong):
    with pytest.raises(SystemExit) as stopped:
        balance.main([str(small), "--experiment", "U", "--out", "x.csv", *wrong])
    assert stopped.value.code == 2


def test_the_number_of_lesions_can_be_asked_for(small, capsys):
    for text, count in (("all", 18), ("6", 6), ("rarest", 18)):
        assert (
            balance.main([str(small), "--experiment", "U", "--out", str(small.parent / "u.csv"), "--lesions", text])
            == 0
        )
        assert (read_table(small.parent / "u.csv")["Train_Val_Test"] == 1).sum() == count
    assert "not the whole DL_info.csv" in capsys.readouterr().out
