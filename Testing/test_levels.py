"""Where in the body slices lie: which way round, in which region, and where on them a lesion is."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from LesionDetectorLib import ct
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.lesion import BodyPart, Location, Region
from LesionDetectorLib.levels import Levels, SliceOrder, fitted, locate
from LesionDetectorLib.pipeline import located

from Testing.helpers.dicom_study import write
from Testing.helpers.readings import lesion
from train.synthetic.study import Study

PER_MM = 0.00083
INTERVAL = 10.0


@cache
def torso() -> tuple[Volume, np.ndarray]:
    """A phantom from neck to thighs, k towards the head, and the true z of its slices."""
    study = Study((5, 0), 0, size=128, interval=INTERVAL)
    ks = range(study.slices - 1, -1, -1)
    hu = np.stack([study.render(k) for k in ks])
    pixel = study.frame.pixel
    origin = (study.frame.x, study.frame.y, study.z(ks[0]))
    z = np.array([0.45 + (360 - study.patient.template_z(study.z(k))) * PER_MM for k in ks])
    return Volume(hu, (pixel, pixel, INTERVAL), origin, np.eye(3), Path("torso")), z


def turned(volume: Volume) -> Volume:
    """The same CT with its slices stored the other way round, told rightly."""
    last = volume.geometry.to_lps((0, 0, len(volume.hu) - 1))
    return replace(volume, hu=volume.hu[::-1], origin=tuple(last), direction=np.diag([1.0, 1.0, -1.0]))


def off_mm(levels: Levels, z: np.ndarray) -> float:
    return float(np.median(np.abs(levels.z - z)) / PER_MM)


# ------ the line through the scores


def places(count: int, step: float = 5.0) -> np.ndarray:
    return np.arange(count) * step


def test_single_slices_that_err_do_not_move_the_line() -> None:
    at = places(60)
    raw = 0.4 + PER_MM * at
    raw[5::20] += 0.3
    z, order = fitted(raw, at, at, PER_MM)
    assert order is SliceOrder.AS_TOLD
    assert z == pytest.approx(0.4 + PER_MM * at, abs=0.005)
    assert (np.diff(z) > 0).all()


def test_a_long_patient_is_long_and_none_is_longer_than_patients_are() -> None:
    at = places(80)
    for share, taken in ((0.9, 0.9), (1.15, 1.15), (0.3, 0.8), (2.0, 1.25)):
        z, _ = fitted(share * PER_MM * at, at, at, PER_MM)
        assert np.ptp(z) == pytest.approx(taken * PER_MM * np.ptp(at))


@pytest.mark.parametrize("count", [1, 2, 13])
def test_few_slices_lie_as_far_apart_as_in_the_usual_patient(count: int) -> None:
    at = places(count)
    raw = 0.6 + np.random.default_rng(0).normal(0, 0.02, count)
    z, order = fitted(raw, at, at, PER_MM)
    assert order is SliceOrder.UNTOLD
    assert np.ptp(z) == pytest.approx(PER_MM * np.ptp(at))
    assert np.median(z) == pytest.approx(0.6, abs=0.02)


def test_what_runs_the_other_way_is_reversed_and_what_runs_no_way_unordered() -> None:
    at = places(60)
    z, order = fitted(0.7 - PER_MM * at, at, at, PER_MM)
    assert order is SliceOrder.REVERSED and z == pytest.approx(0.7 - PER_MM * at)
    shuffled = np.random.default_rng(0).permutation(0.4 + PER_MM * at)
    assert fitted(shuffled, at, at, PER_MM)[1] is SliceOrder.UNORDERED


# ------ a phantom, by the weights that ship


def test_a_torso_lies_where_it_is() -> None:
    volume, z = torso()
    levels = locate(volume)
    assert levels.order is SliceOrder.AS_TOLD and levels.z.shape == z.shape
    assert levels.z[0] > levels.z[-1], "the feet are at 1, and k runs to the head"
    assert off_mm(levels, z) < 30
    right = [levels.region(k) is Region.at(z[k]) for k in range(len(z))]
    assert np.mean(right) > 0.9


def test_slices_that_are_stored_from_head_to_feet_lie_where_they_did() -> None:
    volume, _ = torso()
    one, other = locate(volume), locate(turned(volume))
    assert other.order is SliceOrder.AS_TOLD
    assert other.z[::-1] == pytest.approx(one.z, abs=0.005)


def test_a_file_that_tells_the_wrong_end_is_seen_through() -> None:
    volume, z = torso()
    wrong = replace(volume, hu=volume.hu[::-1])
    levels = locate(wrong)
    assert levels.order is SliceOrder.REVERSED
    assert off_mm(levels, z[::-1]) < 30


def test_slices_in_no_order_are_seen_and_each_stands_for_itself() -> None:
    volume, z = torso()
    shuffled = np.random.default_rng(1).permutation(len(z))
    levels = locate(replace(volume, hu=volume.hu[shuffled]))
    assert levels.order is SliceOrder.UNORDERED
    assert off_mm(levels, z[shuffled]) < 60


@pytest.mark.parametrize("first", [10, 25, 45])
def test_a_short_series_of_thick_slices_is_placed_and_says_how_surely(first: int) -> None:
    volume, z = torso()
    part = slice(first, first + 6)
    levels = locate(replace(volume, hu=volume.hu[part]))
    assert levels.order is SliceOrder.UNTOLD
    assert off_mm(levels, z[part]) < 80
    assert levels.error_mm > locate(volume).error_mm > 0


@pytest.mark.parametrize(
    ("position", "orientation"),
    [("HFP", (-1, 0, 0, 0, -1, 0)), ("FFS", (-1, 0, 0, 0, 1, 0)), ("HFS", (1, 0, 0, 0, 1, 0))],
)
def test_prone_and_feet_first_series_come_out_alike(tmp_path: Path, position: str, orientation: tuple) -> None:
    """Stored as a scanner does: rows and columns turned with the patient, slices in the order of the table."""
    volume, z = torso()
    hu = volume.hu[::3, :: orientation[4], :: orientation[0]]
    x, y, bottom = volume.origin
    last = (128 - 1) * volume.spacing[0]
    corner = (x + last * (orientation[0] < 0), y + last * (orientation[4] < 0))
    at = [(*corner, bottom + 3 * INTERVAL * n) for n in range(len(hu))]
    tags = {"PatientPosition": position, "ImageOrientationPatient": orientation, "PixelSpacing": volume.spacing[:2]}
    write(tmp_path, hu, at, **tags)
    levels = locate(ct.read(tmp_path))
    assert levels.order is SliceOrder.AS_TOLD
    assert off_mm(levels, z[::3]) < 30


def test_air_has_no_levels() -> None:
    assert (
        locate(Volume(np.full((5, 64, 64), -1000, np.int16), (4.0, 4.0, 5.0), (0, 0, 0), np.eye(3), Path("air")))
        is None
    )


# ------ a lesion


class Even:
    """Takes every slice for the same."""

    def scores(self, images: np.ndarray) -> np.ndarray:
        return np.zeros(len(images))


CARD = {"z": {"slope": 1.0, "offset": 0.6, "per_mm": PER_MM, "volume_error_mm": 10.0, "slice_error_mm": 30.0}}


def test_a_lesion_lies_between_the_edges_of_the_body_of_its_slice() -> None:
    hu = np.full((3, 100, 100), -1000, np.int16)
    hu[:, 20:80, 10:60] = 40
    levels = locate(Volume(hu, (4.0, 4.0, 5.0), (0, 0, 0), np.eye(3), Path("slab")), (Even(), CARD))
    assert levels.location(1, (18, 40, 22, 54)) == pytest.approx((0.21, 0.458, 0.6), abs=0.03)
    assert levels.location(1, (90, 40, 95, 54))[0] == 1, "what lies beside the body is at its edge"


def test_a_lesion_on_a_slice_without_a_body_has_no_location() -> None:
    hu = np.full((3, 64, 64), -1000, np.int16)
    hu[0, 20:50, 10:50] = 40
    levels = locate(Volume(hu, (4.0, 4.0, 20.0), (0, 0, 0), np.eye(3), Path("slab")), (Even(), CARD))
    assert levels.location(0, (18, 30, 22, 34)) is not None
    assert levels.location(2, (18, 30, 22, 34)) is None


def test_regions_follow_each_other_from_head_to_feet() -> None:
    named = [Region.at(z) for z in (0, 0.2, 0.35, 0.5, 0.6, 0.8, 0.95, 1)]
    head, chest, legs = Region.HEAD_AND_NECK, Region.CHEST, Region.LEGS
    assert named == [head, head, chest, chest, Region.ABDOMEN, Region.PELVIS, legs, legs]
    assert str(Location(0.43, 0.28, 0.61)) == "0.43, 0.28, 0.61 (abdomen)"


NOT_TOLD = (
    "Where in the body the slices of torso lie could not be told from what they show: its lesions have no location."
)


def test_a_lesion_of_a_torso_gets_its_place() -> None:
    volume, z = torso()
    told = []
    (found,) = located(volume, [lesion(BodyPart.BONE, 0.9, k=5, box=(50, 50, 60, 60))], told.append)
    assert found.location.z == pytest.approx(z[5], abs=0.05)
    assert told == []


@pytest.mark.parametrize("what", ["reversed", "unordered", "air"])
def test_lesions_whose_place_the_slices_do_not_tell_have_none_and_it_is_said(what: str) -> None:
    volume, _ = torso()
    hu = {
        "reversed": volume.hu[::-1],
        "unordered": volume.hu[np.random.default_rng(1).permutation(len(volume.hu))],
        "air": np.full_like(volume.hu, -1000),
    }[what]
    told = []
    (found,) = located(replace(volume, hu=hu), [lesion(BodyPart.BONE, 0.9, k=5, box=(50, 50, 60, 60))], told.append)
    assert found.location is None
    assert told == [NOT_TOLD]


def test_without_lesions_nothing_is_looked_at_or_said() -> None:
    told = []
    assert located(replace(torso()[0], hu=np.full((3, 64, 64), -1000, np.int16)), [], told.append) == []
    assert told == []


def test_a_lesion_that_is_moved_has_no_location_any_more() -> None:
    placed = lesion(BodyPart.BONE, 0.9, location=Location(0.5, 0.5, 0.6))
    assert placed.edited(status="accepted").location == placed.location
    assert placed.edited(box=(1, 1, 5, 5)).location is None
    assert placed.edited(key_slice=50, slices=(50, 50)).location is None


def test_a_location_outside_of_the_body_is_none() -> None:
    with pytest.raises(ValueError, match=r"0\.\.1, not \(0\.5, 1\.5, 0\.6\)"):
        lesion(BodyPart.BONE, 0.9, location=Location(0.5, 1.5, 0.6))


# ------ real CT


SHOULDERS = pytest.mark.xfail(reason="the regressor mistakes shoulders of patients that it has not seen", strict=False)


@pytest.mark.parametrize(
    "name", [pytest.param("4dlung_113", marks=SHOULDERS), pytest.param("rider_0109", marks=SHOULDERS), "cmb_crc_chest"]
)
def test_real_series_that_were_not_learnt_from_are_in_order(shared_data: Path, name: str) -> None:
    path = shared_data / "body_part" / "volumes" / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    with np.load(path) as stored:
        hu, z_mm = stored["slices"].astype(np.int16) * 8 - 1000, stored["z_mm"]
        spacing = (float(stored["pixel_mm"]),) * 2 + (float(z_mm[0] - z_mm[1]),)
    levels = locate(Volume(hu, spacing, (0.0, 0.0, float(z_mm[0])), np.diag([1.0, 1.0, -1.0]), path))
    assert levels.order is SliceOrder.AS_TOLD
    assert levels.region(len(hu) // 2) is Region.CHEST
