"""The RECIST 1.1 baseline: a test for every rule, and what the text and the table say of it."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from LesionDetectorLib.followup.baseline import Baseline, Category, Entry, as_text, assess
from LesionDetectorLib.lesion import BodyPart, Lesion, Mark, Recist, ReviewStatus
from LesionDetectorLib.report import table, text

from Testing.helpers.readings import GEOMETRY, lesion, reading

NODE, TARGET, SOFT_PART, NO = Mark.LYMPH_NODE, Mark.TARGET, Mark.SOFT_TISSUE_PART, Mark.NOT_MEASURABLE
LIVER = BodyPart.LIVER
LUNG = BodyPart.LUNG
BONE = BodyPart.BONE
MEDIASTINUM = BodyPart.MEDIASTINUM
ABDOMEN = BodyPart.ABDOMEN


def measured(
    body_part: BodyPart, long_mm: float, short_mm: float | None = None, *marks: Mark, k: int = 1, **changes
) -> Lesion:
    """A lesion of this size that a reader accepted."""
    recist = Recist(((0, 0), (1, 0)), ((0, 0), (0, 1)), long_mm, long_mm / 2 if short_mm is None else short_mm)
    values = {
        "recist": recist,
        "marks": marks,
        "status": ReviewStatus.ACCEPTED,
        "id": f"{body_part}-{k}-{long_mm}",
        **changes,
    }
    return lesion(body_part, 0.9, k=k, **values)


def baseline(*lesions: Lesion, slice_mm: float = 2.5, **changes) -> Baseline:
    """The baseline on slices `slice_mm` apart."""
    return assess(reading(*lesions, geometry=replace(GEOMETRY, spacing=(0.8, 0.8, slice_mm)), **changes))


def one(*arguments, slice_mm: float = 2.5, **changes) -> Entry:
    """The entry of one lesion, see `measured`."""
    (entry,) = baseline(measured(*arguments), slice_mm=slice_mm, **changes).entries
    return entry


# ------ lesions that are no nodes


@pytest.mark.parametrize(
    ("long_mm", "category"), [(9.94, Category.NON_TARGET), (9.96, Category.CANDIDATE), (10.0, Category.CANDIDATE)]
)
def test_a_lesion_is_measurable_from_10_mm_of_its_long_axis_as_printed(long_mm, category):
    entry = one(LUNG, long_mm)
    assert (entry.category, entry.diameter_mm) == (category, round(long_mm, 1))
    assert (entry.reason == "Not measurable: long axis 9.9 mm, below 10 mm.") is (long_mm < 9.95)


@pytest.mark.parametrize(
    ("slice_mm", "long_mm", "category"),
    [
        (1.0, 9.9, Category.NON_TARGET),
        (5.0, 10.0, Category.CANDIDATE),
        (7.0, 13.9, Category.NON_TARGET),
        (7.0, 14.0, Category.CANDIDATE),
        (7.0000001, 14.0, Category.CANDIDATE),
    ],
)
def test_a_lesion_is_measurable_from_twice_the_slice_thickness(slice_mm, long_mm, category):
    assert one(LIVER, long_mm, slice_mm=slice_mm).category is category


def test_the_reason_names_the_slice_thickness():
    assert (
        one(LIVER, 12.0, slice_mm=7.5).reason
        == "Not measurable: long axis 12.0 mm, below 15.0 mm, twice the slice thickness."
    )


@pytest.mark.parametrize(("thickness", "apart", "counts"), [(8.0, 4.0, 8.0), (3.0, 8.0, 8.0), (None, 8.0, 8.0)])
def test_of_thickness_and_distance_of_the_slices_the_larger_counts(thickness, apart, counts):
    found = [one(LIVER, 2 * counts + more, slice_mm=apart, slice_thickness=thickness).category for more in (-0.1, 0)]
    assert found == [Category.NON_TARGET, Category.CANDIDATE]


def test_a_bone_lesion_needs_a_soft_tissue_part():
    assert one(BONE, 30.0).category is Category.NON_TARGET
    assert "no reader marked a soft-tissue part" in one(BONE, 30.0).reason
    assert one(BONE, 30.0, 20.0, SOFT_PART).category is Category.CANDIDATE
    assert one(BONE, 9.0, 8.0, SOFT_PART).category is Category.NON_TARGET


def test_what_a_reader_marks_as_not_measurable_is_no_target():
    entry = one(LIVER, 50.0, 30.0, NO)
    assert (entry.category, entry.reason) == (Category.NON_TARGET, "Not measurable: a reader marked it so.")


def test_a_lesion_without_axes_is_no_target():
    (entry,) = baseline(measured(LIVER, 1.0, recist=None)).entries
    assert (entry.category, entry.diameter_mm, entry.reason) == (
        Category.NON_TARGET,
        None,
        "Not measurable: it has no axes.",
    )


# ------ lymph nodes


@pytest.mark.parametrize(
    ("short_mm", "category"),
    [
        (9.9, Category.NORMAL),
        (10.0, Category.NON_TARGET),
        (14.9, Category.NON_TARGET),
        (15.0, Category.CANDIDATE),
    ],
)
def test_a_lymph_node_counts_by_its_short_axis(short_mm, category):
    entry = one(MEDIASTINUM, 40.0, short_mm, NODE)
    assert (entry.category, entry.diameter_mm, entry.organ) == (category, short_mm, "Lymph nodes")


def test_a_lymph_node_needs_twice_the_slice_thickness_too():
    assert one(ABDOMEN, 30.0, 15.9, NODE, slice_mm=8.0).category is Category.NON_TARGET
    assert one(ABDOMEN, 30.0, 16.0, NODE, slice_mm=8.0).category is Category.CANDIDATE
    assert one(ABDOMEN, 30.0, 9.0, NODE, slice_mm=8.0).category is Category.NORMAL


def test_no_label_makes_a_lymph_node_and_the_reader_is_asked():
    state = baseline(
        measured(MEDIASTINUM, 20.0, 8.0, k=1), measured(ABDOMEN, 20.0, 16.0, NODE, k=2), measured(LUNG, 20.0, k=3)
    )
    assert [(entry.organ, entry.diameter_mm) for entry in state.entries] == [
        ("Mediastinum", 20.0),
        ("Lymph nodes", 16.0),
        ("Lung", 20.0),
    ]
    assert "Measured by the long axis, because no reader marked a lymph node: lesion 1." in state.notes


def test_a_lymph_node_labelled_bone_needs_no_soft_tissue_part():
    assert one(BONE, 30.0, 20.0, NODE).category is Category.CANDIDATE


# ------ which of them are targets


def categories(state: Baseline) -> list[Category]:
    return [entry.category for entry in state.entries]


def test_only_what_a_reader_accepted_is_counted():
    pending = measured(LIVER, 80.0, k=1, status=ReviewStatus.PENDING)
    rejected = measured(LIVER, 90.0, k=2, status=ReviewStatus.REJECTED)
    state = baseline(pending, rejected, measured(LIVER, 20.0, k=3))
    assert categories(state) == [Category.UNCONFIRMED, Category.CANDIDATE]
    assert (state.entries[0].reason, state.sum_mm) == ("No reader has accepted it.", 20.0)
    assert "Not counted until a reader accepts or rejects: lesion 1." in state.notes


def test_at_most_two_targets_an_organ_the_largest():
    state = baseline(measured(LIVER, 20.0, k=1), measured(LIVER, 40.0, k=2), measured(LIVER, 30.0, k=3))
    assert categories(state) == [Category.NON_TARGET, Category.CANDIDATE, Category.CANDIDATE]
    assert state.entries[0].reason == "Measurable: long axis 20.0 mm; at most 2 targets an organ, the largest."


def test_all_lymph_nodes_are_one_organ():
    nodes = [measured(part, 40.0, 20.0 + part, NODE, k=part) for part in (ABDOMEN, MEDIASTINUM, BodyPart.PELVIS)]
    state = baseline(*nodes, measured(ABDOMEN, 30.0, k=9))
    assert categories(state) == [Category.NON_TARGET, Category.CANDIDATE, Category.CANDIDATE, Category.CANDIDATE]


def test_at_most_five_targets_and_every_organ_before_a_second_of_one():
    parts = (LIVER, LUNG, BodyPart.KIDNEY, BodyPart.PELVIS)
    large = [measured(part, 50.0 + part, k=part) for part in parts]
    second = [measured(part, 40.0 + part, k=10 + part) for part in parts[:2]]
    state = baseline(*large, *second, measured(BodyPart.SOFT_TISSUE, 11.0, k=20))
    proposed = [(entry.organ, entry.diameter_mm) for entry in state.entries if entry.category is Category.CANDIDATE]
    assert sorted(proposed) == [
        ("Kidney", 56.0),
        ("Liver", 54.0),
        ("Lung", 55.0),
        ("Pelvis", 58.0),
        ("Soft tissue", 11.0),
    ]
    assert {entry.reason.partition("; ")[2] for entry in state.entries if entry.category is Category.NON_TARGET} == {
        "at most 5 targets, the largest of every organ first."
    }


def test_a_readers_choice_goes_before_size():
    state = baseline(measured(LIVER, 60.0, k=1), measured(LIVER, 20.0, 10.0, TARGET, k=2), measured(LUNG, 30.0, k=3))
    assert categories(state) == [Category.NON_TARGET, Category.TARGET, Category.NON_TARGET]
    assert [entry.reason.partition("; ")[2] for entry in state.entries] == [
        "a reader chose others as targets.",
        "chosen by a reader.",
        "a reader chose others as targets.",
    ]
    assert state.total == "Sum of diameters of the targets (lesion 2): 20.0 mm."


def test_a_reader_may_not_choose_more_than_the_rules_allow_nor_what_is_not_measurable():
    chosen = [measured(LIVER, 20.0 + k, None, TARGET, k=k) for k in (1, 2, 3)]
    state = baseline(
        *chosen,
        measured(LUNG, 8.0, None, TARGET, k=4),
        measured(LUNG, 30.0, 9.0, TARGET, k=5, status=ReviewStatus.PENDING),
    )
    assert categories(state) == [
        Category.NON_TARGET,
        Category.TARGET,
        Category.TARGET,
        Category.NON_TARGET,
        Category.UNCONFIRMED,
    ]
    assert all(
        entry.reason.endswith("A reader chose it as a target; it is not counted as one.")
        for entry in (state.entries[i] for i in (0, 3, 4))
    )
    assert not any("chose it" in state.entries[i].reason for i in (1, 2))


def test_six_chosen_targets_are_five():
    parts = (ABDOMEN, MEDIASTINUM, LIVER, LUNG, BodyPart.KIDNEY, BodyPart.PELVIS)
    state = baseline(*(measured(part, 20.0 + part, None, TARGET, k=part) for part in parts))
    assert categories(state) == [Category.NON_TARGET] + [Category.TARGET] * 5


def test_the_sum_is_that_of_the_long_axes_and_of_the_short_axes_of_nodes_as_printed():
    state = baseline(
        measured(LIVER, 20.04, 5.0, k=1), measured(LUNG, 30.04, 5.0, k=2), measured(MEDIASTINUM, 40.0, 16.04, NODE, k=3)
    )
    assert state.sum_mm == 66.0  # 66.12 of what was measured
    assert state.total == "Sum of diameters of the target candidates (lesions 1, 2, 3): 66.0 mm."


def test_a_proposal_is_called_one():
    told = "The candidates are a proposal: no reader has chosen a measurable lesion as a target."
    assert told in baseline(measured(LIVER, 20.0)).notes
    assert told in baseline(measured(LIVER, 20.0), measured(LUNG, 8.0, None, TARGET)).notes
    assert told not in baseline(measured(LIVER, 20.0), measured(LUNG, 12.0, None, TARGET)).notes


def test_without_a_target_there_is_no_sum():
    assert baseline().sum_mm is None and baseline(measured(LUNG, 5.0)).sum_mm is None
    assert baseline().total == "No target, so there is no sum of diameters."


@given(
    st.lists(
        st.builds(
            lambda part, mm, marks, status: (part, mm, marks, status),
            st.sampled_from(BodyPart),
            st.floats(1, 60),
            st.sets(st.sampled_from(Mark)),
            st.sampled_from(ReviewStatus),
        ),
        max_size=12,
    ),
    st.floats(0.5, 10),
)
@settings(max_examples=80, deadline=None)
def test_the_rules_hold_for_any_lesions(drawn, slice_mm):
    state = baseline(
        *(measured(part, mm, None, *marks, k=k, status=status) for k, (part, mm, marks, status) in enumerate(drawn)),
        slice_mm=slice_mm,
    )
    targets = [entry for entry in state.entries if entry.is_target]
    assert len(targets) <= 5
    assert all(sum(other.organ == entry.organ for other in targets) <= 2 for entry in targets)
    assert all(entry.lesion.status is ReviewStatus.ACCEPTED and entry.diameter_mm >= 10 for entry in targets)
    assert all(entry.reason.endswith(".") for entry in state.entries)
    assert len({entry.category for entry in targets}) <= 1


# ------ how it is told


def test_notes_on_slices():
    assert "The slice thickness is unknown: the distance of the slices, 2.5 mm, stands in for it." in baseline().notes
    thick = baseline(slice_mm=4.0, slice_thickness=8.0).notes
    assert "Slices are 8.0 mm thick and 4.0 mm apart; the larger counts as slice thickness." in thick
    assert "RECIST 1.1 asks for slices of at most 5 mm." in thick
    assert "RECIST 1.1 asks for slices of at most 5 mm." not in baseline(slice_mm=5.0).notes


def test_the_table_as_text():
    state = baseline(
        measured(LIVER, 34.12, k=1), measured(MEDIASTINUM, 20.0, 12.0, NODE, k=2), measured(BONE, 1.0, k=3, recist=None)
    )
    assert as_text(state).splitlines()[:8] == [
        "RECIST 1.1 baseline:",
        "",
        "Lesion  Organ        Category          Diameter       Reason",
        "1       Liver        target candidate  34.1 mm long   Measurable: long axis 34.1 mm; proposed by its size.",
        "2       Lymph nodes  non-target        12.0 mm short  Not measurable: short axis 12.0 mm, below 15 mm.",
        "3       Bone         non-target                       Not measurable: it has no axes.",
        "",
        "Sum of diameters of the target candidates (lesion 1): 34.1 mm.",
    ]


def test_the_report_has_the_baseline_where_it_is_asked_for():
    made = reading(measured(LIVER, 34.12))
    asked = text.compose(made, baseline=True)
    assert as_text(assess(made)) in asked and "RECIST" not in text.compose(made)
    assert asked.endswith("a radiologist must check every finding.\n")


def test_the_csv_has_columns_whose_sum_is_that_of_the_diameters():
    made = reading(
        measured(LIVER, 34.12, k=1), measured(LUNG, 20.06, k=2), measured(LUNG, 5.0, k=3), lesion(BodyPart.KIDNEY, 0.1)
    )
    rows = list(csv.DictReader(io.StringIO(table.compose(made, baseline=True))))
    assert [row["recist_category"] for row in rows] == ["target candidate", "target candidate", "non-target"]
    assert [row["recist_target_mm"] for row in rows] == ["34.1", "20.1", ""]
    assert rows[2]["recist_reason"].startswith("Not measurable")
    assert list(rows[0]) == [*table.COLUMNS, *table.BASELINE_COLUMNS]
