"""Lesions over studies: which is which, and what is new, gone, split, merged, too small or simply not shown."""

from __future__ import annotations

import numpy as np
import pytest
from LesionDetectorLib.ct.geometry import Geometry
from LesionDetectorLib.followup.alignment import Alignment
from LesionDetectorLib.followup.matching import Fate, Study, Track, match
from LesionDetectorLib.lesion import BodyPart, Lesion, Origin, Recist, ReviewStatus
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.refusal import Refusal

from Testing.helpers.readings import reading

GEOMETRY = Geometry((400, 400, 100), (1.0, 1.0, 4.0), (-200.0, -200.0, 0.0), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
LIVER, LUNG = BodyPart.LIVER, BodyPart.LUNG


def at(name: str, x: float, y: float, z: float, mm: float = 20.0, part: BodyPart = LIVER, **changes) -> Lesion:
    """A lesion with its middle at LPS mm of `GEOMETRY`, `mm` long and 0.8 times as wide."""
    i, j, k = x + 200, y + 200, round(z / 4)
    half, short = mm / 2, 0.4 * mm
    axes = Recist(((i - half, j), (i + half, j)), ((i, j - short), (i, j + short)), mm, 0.8 * mm)
    box = (i - half - 4, j - short - 4, i + half + 4, j + short + 4)
    values = {"confidence": None, "id": name, "origin": Origin.READER, **changes}
    return Lesion(part, key_slice=k, slices=(k, k), box=box, recist=axes, **values)


def study(*lesions: Lesion, geometry: Geometry = GEOMETRY, **more) -> Study:
    return Study(reading(*lesions, geometry=geometry), **more)


def names(track: Track) -> list[str]:
    return ["+".join(lesion.id for lesion in here) for here in track.lesions]


def told(*studies: Study) -> dict[str, tuple[Fate, ...]]:
    """The fates of each track, by the ids of its lesions."""
    return {" ".join(names(track)).strip(): track.fates for track in match(studies)}


def test_lesions_are_matched_by_place_and_what_is_left_is_new_or_gone():
    before = study(at("a", 50, 0, 100), at("b", -60, 20, 200), at("gone", 0, 80, 300))
    now = study(at("A", 53, -2, 108, 15), at("B", -60, 20, 196, 26), at("more", 0, -80, 40))
    assert told(before, now) == {
        "a A": (Fate.FIRST, Fate.MATCHED),
        "b B": (Fate.FIRST, Fate.MATCHED),
        "gone": (Fate.FIRST, Fate.VANISHED),
        "more": (Fate.NOT_YET, Fate.NEW),
    }


def test_a_match_says_how_far_and_how_sure():
    before = study(at("a", 0, 0, 100), at("b", 100, 0, 100), at("c", 100, 22, 100))
    now = study(at("A", 3, 4, 100), at("B", 100, 9, 100))
    matches = {track.lesions[0][0].id: track.matches[0] for track in match([before, now]) if track.matches}
    assert matches["a"].apart_mm == pytest.approx(5)
    assert matches["a"].sureness > 0.85 and matches["a"].distance < 1
    assert matches["b"].sureness < 0.75


def test_the_nearer_of_two_keeps_a_lesion():
    before = study(at("near", 0, 0, 100), at("far", 0, 18, 100))
    assert told(before, study(at("it", 0, 4, 100)))["near it"] == (Fate.FIRST, Fate.MATCHED)


def test_another_label_counts_against_a_match_and_does_not_forbid_it():
    before = study(at("a", 0, 0, 100, part=LUNG))
    assert "a A" in told(before, study(at("A", 2, 0, 100, part=LIVER)))
    now = study(at("A", 6, 0, 100, part=LIVER), at("B", -7, 0, 100, part=LUNG))
    assert "a B" in told(before, now)


def test_a_lesion_of_another_size_is_another():
    before, now = study(at("a", 0, 0, 100, 60)), study(at("A", 0, 0, 100, 8))
    assert set(told(before, now)) == {"a", "A"}


def test_embeddings_tell_neighbours_apart():
    before = study(at("a", 0, 0, 100), embeddings={"a": np.array([1.0, 0.0])})
    alike = {"B": np.array([1.0, 0.0]), "C": np.array([0.0, 1.0])}
    now = study(at("B", 9, 0, 100), at("C", 2, 0, 100), embeddings=alike)
    assert "a B" in told(before, now)


def test_places_are_compared_in_the_current_ct():
    shifted = np.eye(4)
    shifted[:3, 3] = (30, -20, -500)  # current to prior
    origin = tuple(np.add(GEOMETRY.origin, (30, -20, -500)).tolist())
    moved = Geometry(GEOMETRY.size, GEOMETRY.spacing, origin, GEOMETRY.direction)
    before = study(at("a", 50, 0, 100), at("b", -50, 0, 100), geometry=moved, alignment=Alignment(shifted))
    assert set(told(before, study(at("A", 50, 0, 100), at("B", -50, 0, 100)))) == {"a A", "b B"}


def test_a_bad_alignment_widens_the_search():
    before, now = [at("a", 0, 0, 100, 10)], study(at("A", 34, 0, 100, 10))
    assert set(told(study(*before), now)) == {"a", "A"}
    assert set(told(study(*before, alignment=Alignment(residual_mm=25.0)), now)) == {"a A"}


def half(top: bool) -> Geometry:
    """The upper or the lower half of `GEOMETRY`."""
    return Geometry((400, 400, 50), GEOMETRY.spacing, (-200.0, -200.0, 200.0 if top else 0.0), GEOMETRY.direction)


def test_what_a_study_does_not_show_is_neither_new_nor_gone():
    low, high = at("low", 0, 0, 100), at("high", 0, 0, 300)
    whole = study(low, high)
    assert told(whole, study(geometry=half(False)))["high"] == (Fate.FIRST, Fate.NOT_COVERED)
    assert told(whole, study(geometry=half(False)))["low"] == (Fate.FIRST, Fate.VANISHED)
    assert told(study(geometry=half(False)), whole)["high"] == (Fate.NOT_COVERED, Fate.FIRST)
    assert told(study(geometry=half(False)), whole)["low"] == (Fate.NOT_YET, Fate.NEW)


def test_a_lesion_at_the_very_end_of_a_ct_may_have_been_missed_for_that():
    edge = study(at("edge", 0, 0, 196))
    assert told(edge, study(geometry=half(False)))["edge"] == (Fate.FIRST, Fate.NOT_COVERED)


def test_slices_that_were_not_read_show_nothing():
    before = study(at("a", 0, 0, 100))
    assert told(before, study(unread=frozenset(range(20, 30))))["a"] == (Fate.FIRST, Fate.NOT_COVERED)
    assert told(study(unread=frozenset({25})), before)["a"] == (Fate.NOT_COVERED, Fate.FIRST)
    assert told(before, study(unread=frozenset({40})))["a"] == (Fate.FIRST, Fate.VANISHED)


def test_a_lesion_splits_and_its_parts_merge_again():
    one, two = study(at("a", 0, 0, 100, 40)), study(at("b", -11, 0, 100, 22), at("c", 11, 0, 100, 18))
    (split,) = match([one, two])
    assert {lesion.id for lesion in split.lesions[1]} == {"b", "c"} and split.fates == (Fate.FIRST, Fate.SPLIT)
    (merged,) = match([two, one])
    assert merged.fates == (Fate.FIRST, Fate.MERGED)


def test_a_neighbour_outside_of_the_outline_is_no_part():
    found = told(study(at("a", 0, 0, 100, 40)), study(at("b", 0, 0, 100, 36), at("c", 40, 0, 100, 12)))
    assert found == {"a b": (Fate.FIRST, Fate.MATCHED), "c": (Fate.NOT_YET, Fate.NEW)}


def test_a_lesion_below_5_mm_is_too_small_to_measure():
    assert told(study(at("a", 0, 0, 100, 7)), study(at("A", 0, 0, 100, 4.5)))["a A"] == (Fate.FIRST, Fate.TOO_SMALL)


def test_a_lesion_that_one_study_misses_is_followed_over_it():
    first, second, third = study(at("a", 0, 0, 100)), study(), study(at("c", 2, 0, 104))
    assert told(first, second, third) == {"a  c": (Fate.FIRST, Fate.VANISHED, Fate.MATCHED)}


def test_no_track_has_two_lesions_of_a_study_by_way_of_a_third():
    first = study(at("a", 0, 0, 100), at("b", 0, 24, 100))
    third = study(at("A", 0, 1, 100), at("B", 0, 23, 100))
    for track in match([first, study(at("middle", 0, 11, 100)), third]):
        assert max(map(len, track.lesions)) == 1


def test_a_lesion_marked_twice_in_a_study_counts_once_and_the_accepted_mark_stands():
    twice = [at("surer", 0, 0, 100, confidence=0.9), at("taken", 1, 0, 100, status=ReviewStatus.ACCEPTED)]
    assert told(study(*twice), study(at("A", 0, 0, 100)))["taken A"] == (Fate.FIRST, Fate.MATCHED)


def test_lesions_without_axes_and_rejected_ones():
    unmeasured = Lesion(LIVER, 0.9, 25, (24, 26), (186, 188, 214, 212), id="A")
    now = study(unmeasured, at("no", 0, 60, 100, status=ReviewStatus.REJECTED))
    assert told(study(at("a", 0, 0, 100)), now) == {"a A": (Fate.FIRST, Fate.MATCHED)}


def test_one_study_is_not_followed():
    with pytest.raises(Refusal, match="two studies or more"):
        match([study()])


def test_the_order_of_lesions_changes_nothing():
    rng = np.random.default_rng(0)
    places = rng.uniform((-150, -150, 40), (150, 150, 360), (12, 3))
    sets = [[at(f"{name}{n}", *(p + rng.normal(0, 4, 3)), 12) for n, p in enumerate(places)] for name in "ab"]
    first = told(*(study(*lesions) for lesions in sets))
    assert first == told(*(study(*lesions[::-1]) for lesions in sets))
    assert sum(" " in name for name in first) == 12


def test_a_reading_of_the_detector_is_matched_as_it_is_reported():
    unsure = Lesion(LIVER, 0.1, 25, (24, 26), (186, 188, 214, 212), id="unsure")
    assert isinstance(study(unsure).reading, Reading)
    assert told(study(at("a", 0, 0, 100)), study(unsure)) == {"a": (Fate.FIRST, Fate.VANISHED)}
