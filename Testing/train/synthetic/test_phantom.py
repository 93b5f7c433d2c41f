"""The phantom: the same bytes for a seed, annotations that lie on the lesions, files that other programs read."""

from __future__ import annotations

import csv
import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from LesionDetectorLib import ct
from LesionDetectorLib.lesion import BodyPart

from train import phantom
from train.synthetic.canvas import Frame
from train.synthetic.patient import Patient
from train.synthetic.study import Study, recist_box, volume
from train.synthetic.tissues import Tissue
from train.synthetic.visits import course

SMALL = ["--patients", "1", "--size", "128", "--lesions-per-patient", "2", "--context-mm", "2", "--labels", "balanced"]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "set"
    assert phantom.main(["--out", str(out), "--seed", "3", *SMALL]) == 0
    return out


@pytest.fixture(scope="module")
def patient() -> Patient:
    return Patient(np.random.default_rng(2))


def seen(patient: Patient, z: float) -> set[Tissue]:
    frame = Frame(-250, -250, 2.0, 250)
    return {Tissue(code) for code in np.unique(patient.paint(z * patient.scale[2], frame))}


def test_same_seed_gives_the_same_bytes_whatever_the_workers(data_set: Path, tmp_path: Path) -> None:
    assert phantom.main(["--out", str(tmp_path / "again"), "--seed", "3", "--workers", "2", *SMALL]) == 0
    assert digests(tmp_path / "again") == digests(data_set)


GOLDEN = {
    2: "5372a0108756ae7f285e5f0ef6b730e526a1e0d9910a08954e26c41d0393ef3a",
    5: "8d07e9f88fae609b978ebdd7273d38b6d28c47f07e8ea4baa9c84848823642a4",
}


@pytest.mark.parametrize("seed", GOLDEN)
def test_a_patient_is_painted_as_it_always_was(seed: int) -> None:
    patient, digest = Patient(np.random.default_rng(seed)), hashlib.sha256()
    for z in range(-180, 471, 26):
        digest.update(patient.paint(z * patient.scale[2], Frame(-250, -250, 4.0, 125)).tobytes())
    assert digest.hexdigest() == GOLDEN[seed]


def test_a_slice_is_rendered_as_it_always_was() -> None:
    slice_54 = Study((3, 1), 6, True, size=128, interval=5.0).render(54)
    assert (
        hashlib.sha256(slice_54.tobytes()).hexdigest()
        == "8a5133bb86e4eb191c5c78f9ff36237854a4d84e52ef13b0a0ed6b5f9cff62a1"
    )


def test_another_seed_gives_another_patient() -> None:
    one, other = (Study((seed, 1), 0, size=64, interval=5.0).render(40) for seed in (1, 2))
    assert not np.array_equal(one, other)


def test_rows_point_at_files_and_boxes_are_the_hull_with_5_pixels(data_set: Path) -> None:
    with (data_set / "DL_info.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        series, _, number = row["File_name"].removesuffix(".png").rpartition("_")
        png = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(data_set / "Images_png" / series / f"{number}.png")))
        assert png.dtype == np.uint16
        assert 32768 - 1024 <= png.min() < 32768 - 800
        ends = np.array([float(v) for v in row["Measurement_coordinates"].split(",")]).reshape(4, 2)
        box = np.array([float(v) for v in row["Bounding_boxes"].split(",")])
        np.testing.assert_allclose(box, [*(ends.min(0) - 5), *(ends.max(0) + 5)], atol=0.01)
        long_px, short_px = (float(v) for v in row["Lesion_diameters_Pixel_"].split(","))
        assert long_px == pytest.approx(np.hypot(*(ends[1] - ends[0])), abs=0.01)
        assert short_px <= long_px + 0.01
        first, last = (int(v) for v in row["Slice_range"].split(","))
        assert first <= int(number) <= last
        assert all((data_set / "Images_png" / series / f"{k:03d}.png").is_file() for k in range(first, last + 1))


@pytest.mark.parametrize("part", list(BodyPart))
def test_every_label_finds_a_place_and_is_measured_where_it_lies(part: BodyPart, patient: Patient) -> None:
    study = Study((0, 1), 1, size=256, interval=2.0, labels=[part], patient=patient)
    (lesion,) = study.lesions
    key = study.key_slice(lesion)
    recist = next(r for found, r in study.measured(key) if found is lesion)
    x0, y0, x1, y1 = recist_box(recist, margin=1 + 0.15 * lesion.axes_mm[0] / study.frame.pixel)
    i, j = (
        (lesion.centre_mm[a] - corner) / study.frame.pixel for a, corner in enumerate((study.frame.x, study.frame.y))
    )
    assert lesion.body_part == part
    assert x0 < i < x1
    assert y0 < j < y1


def test_lesion_changes_the_picture_only_where_it_is(patient: Patient) -> None:
    study = Study((0, 1), 1, size=256, interval=2.0, labels=[BodyPart.LUNG], patient=patient)
    (lesion,) = study.lesions
    key = study.key_slice(lesion)
    with_it = study.render(key).astype(int)
    study.lesions.clear()
    changed = np.abs(with_it - study.render(key)) > 30
    j, i = np.nonzero(changed)
    distance = np.hypot(
        study.frame.x + i * study.frame.pixel - lesion.centre_mm[0],
        study.frame.y + j * study.frame.pixel - lesion.centre_mm[1],
    )
    assert changed.any()
    assert distance.max() < max(lesion.extent_mm) + 4 * study.scanner.blur


def test_organs_lie_at_their_levels(patient: Patient) -> None:
    assert {Tissue.LUNG, Tissue.ARTERY, Tissue.AIRWAY, Tissue.CORTEX} <= seen(patient, 400)
    assert {Tissue.LUNG, Tissue.MYOCARDIUM, Tissue.LEFT_HEART} <= seen(patient, 300)
    assert {Tissue.LIVER, Tissue.SPLEEN, Tissue.ARTERY} <= seen(patient, 215)
    assert {Tissue.RENAL_CORTEX, Tissue.BOWEL_WALL, Tissue.VEIN} <= seen(patient, 150)
    assert {Tissue.BLADDER_URINE, Tissue.MARROW, Tissue.PELVIC_ORGAN} <= seen(patient, -105)
    assert not {Tissue.LUNG, Tissue.LIVER} & seen(patient, -105)


def test_liver_is_on_the_right_and_the_spine_behind(patient: Patient) -> None:
    frame = Frame(-250, -250, 2.0, 250)
    tissue = patient.paint(200 * patient.scale[2], frame, 1)
    assert np.nonzero(tissue == Tissue.LIVER)[1].mean() < 115
    assert np.nonzero(tissue == Tissue.CANAL)[0].mean() > np.nonzero(tissue == Tissue.LIVER)[0].mean()


def test_sizes_follow_the_label(patient: Patient) -> None:
    def median(part: BodyPart) -> float:
        studies = [Study((seed, 1), 3, size=64, interval=5.0, labels=[part], patient=patient) for seed in range(5)]
        return float(np.median([2 * max(lesion.axes_mm[:2]) for study in studies for lesion in study.lesions]))

    assert 5 < median(BodyPart.LUNG) < 26  # 13.1 mm in DeepLesion
    assert 12 < median(BodyPart.LIVER) < 50  # 23.8 mm


def test_volume_has_annotated_lesions_inside() -> None:
    hu, spacing, origin, lesions = volume(1, slices=8, size=128, lesions=2)
    again, *_ = volume(1, slices=8, size=128, lesions=2)
    assert hu.shape == (8, 128, 128)
    assert hu.dtype == np.int16
    assert np.array_equal(hu, again)
    assert spacing[2] == 5.0
    assert len(origin) == 3
    assert lesions
    for lesion in lesions:
        assert 0 <= lesion.key_slice < 8
        assert min(lesion.box) > -6 and max(lesion.box) < 134


@pytest.mark.parametrize("layout", ["nrrd", "dicom"])
def test_volumes_are_read_back_the_right_way_up(layout: str, tmp_path: Path) -> None:
    out = tmp_path / "ct"
    assert (
        phantom.main(
            [
                "--out",
                str(out),
                "--seed",
                "5",
                "--format",
                layout,
                "--region",
                "pelvis",
                "--size",
                "64",
                "--patients",
                "1",
                "--interval-mm",
                "20",
            ]
        )
        == 0
    )
    path = out / ("000001_01_01.nrrd" if layout == "nrrd" else "000001_01_01")
    study = Study((5, 1), 6, size=64, region="pelvis", interval=20.0)
    read = ct.read(path)
    np.testing.assert_array_equal(read.hu[-1], study.render(0))
    np.testing.assert_allclose(read.origin, (study.frame.x, study.frame.y, study.z(study.slices - 1)), atol=1e-3)
    np.testing.assert_allclose(read.spacing, (study.frame.pixel, study.frame.pixel, study.scanner.interval), atol=1e-3)
    keys = {study.key_slice(lesion) for lesion in study.lesions}
    with (out / "DL_info.csv").open() as file:
        rows = list(csv.DictReader(file))
    numbers = {int(row["Key_slice_index"]) for row in rows}
    assert numbers and numbers <= {study.slices - key for key in keys}, "as the report on this CT numbers slices"
    for number in numbers:
        np.testing.assert_array_equal(read.hu[number - read.first_slice], study.render(study.slices - number))
    assert {row["Slice_range"] for row in rows} == {f"1, {study.slices}"}
    assert all(row["File_name"].endswith(f"_{int(row['Key_slice_index']):03d}.png") for row in rows)
    if layout == "dicom":
        first = pydicom.dcmread(path / "0001.dcm")
        assert first.SOPClassUID.name == "CT Image Storage"
        assert float(first.ImagePositionPatient[2]) == pytest.approx(study.top)


def test_a_full_folder_is_not_overwritten(data_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(data_set)
    assert phantom.main(["--out", str(data_set), *SMALL]) == 2
    assert "not empty" in capsys.readouterr().err
    assert digests(data_set) == before


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(phantom, "write_patient", interrupted)
    assert phantom.main(["--out", str(tmp_path / "set"), *SMALL]) == 130
    assert list(tmp_path.iterdir()) == []


def test_splits_have_their_shares() -> None:
    splits = phantom.split_of(40, (70, 15, 15), seed=0)
    assert [int((splits == s).sum()) for s in (1, 2, 3)] == [28, 6, 6]


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open() as opened:
        return list(csv.DictReader(opened))


WHOLE = ["--patients", "2", "--seed", "4", "--size", "64", "--interval-mm", "20", "--labels", "balanced"]
WHOLE += ["--lesions-per-patient", "8", "--slices", "all"]


@pytest.fixture(scope="module")
def part_marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("part") / "set"
    assert phantom.main(["--out", str(out), *WHOLE, "--marks", "1", "lung=0", "soft_tissue=0", "--studies", "2"]) == 0
    return out


def test_marks_are_some_of_the_lesions_and_all_lesions_are_told_beside(part_marked: Path) -> None:
    marked, every = rows_of(part_marked / "DL_info.csv"), rows_of(part_marked / "lesions.csv")
    hidden = {str(int(part)) for part in (BodyPart.LUNG, BodyPart.SOFT_TISSUE)}
    assert {row["Coarse_lesion_type"] for row in every} & hidden
    assert marked and not {row["Coarse_lesion_type"] for row in marked} & hidden
    told = [{name: row[name] for name in marked[0]} for row in every if row["Marked"] == "1"]
    assert told == marked
    for row in every:
        study = Study((4, int(row["Patient_index"])), 8, True, 64, interval=20.0)
        lesion = study.lesions[int(row["Lesion"]) - 1]
        assert int(row["Coarse_lesion_type"]) == lesion.body_part
        if row["Study_index"] == "1":
            assert (row["Key"] == "1") == (study.key_slice(lesion) == int(row["Key_slice_index"]) - 1)
            assert lesion in [found for found, _ in study.measured(int(row["Key_slice_index"]) - 1)]
    assert len(list((part_marked / "Images_png").rglob("*.png"))) == sum(
        study.slices
        for number in (1, 2)
        for first in [Study((4, number), 8, True, 64, interval=20.0)]
        for study in (first, first.follow_up((4, number, 2), interval=20.0))
    )


def test_all_slices_are_annotated_where_that_is_asked_for(tmp_path: Path) -> None:
    assert phantom.main(["--out", str(tmp_path / "set"), *WHOLE, "--annotate", "all"]) == 0
    marked, every = (rows_of(tmp_path / "set" / name) for name in ("DL_info.csv", "lesions.csv"))
    assert [row["File_name"] for row in marked] == [row["File_name"] for row in every]
    study = Study((4, 1), 8, True, 64, interval=20.0)
    shown = sum(len(study.measured(k)) for k in range(study.slices))
    assert sum(row["Patient_index"] == "1" for row in marked) == shown


def test_a_share_of_the_lesions_is_marked_whatever_the_slices_written(tmp_path: Path) -> None:
    options = ["--patients", "3", "--seed", "4", "--size", "64", "--interval-mm", "50", "--context-mm", "0"]
    for slices in ("key", "all"):
        out = ["--out", str(tmp_path / slices), "--slices", slices, "--marks", "0.5"]
        assert phantom.main([*options, *out]) == 0
    key, whole = (rows_of(tmp_path / name / "DL_info.csv") for name in ("key", "all"))
    names = ("File_name", "Bounding_boxes", "Coarse_lesion_type")
    assert [[row[name] for name in names] for row in key] == [[row[name] for name in names] for row in whole]
    every = rows_of(tmp_path / "all" / "lesions.csv")
    lesions, marked = (
        {(row["Patient_index"], row["Lesion"]) for row in every if row["Marked"] >= least} for least in "01"
    )
    assert 0.2 * len(lesions) < len(marked) < 0.8 * len(lesions)


def test_a_follow_up_has_the_lesions_grown_and_moved_along_the_body() -> None:
    first = Study((2, 1), 6, True, 64, interval=5.0)
    later = first.follow_up((2, 1, 2))
    assert later.patient is first.patient and later.scanner != first.scanner
    growths = []
    for lesion, again in zip(first.lesions, later.lesions, strict=True):
        moved = np.subtract(again.centre_mm, lesion.centre_mm)
        assert np.abs(moved[:2]).max() == 0 and abs(moved[2]) <= 8
        growths.append(again.axes_mm[0] / lesion.axes_mm[0])
        np.testing.assert_allclose(again.axes_mm, np.array(lesion.axes_mm) * growths[-1])
    assert 0.7 <= min(growths) < max(growths) <= 1.4


@pytest.mark.parametrize(
    "wrong", [["--marks", "2"], ["--marks", "lung=0.1"], ["--marks", "0.5", "0.1"], ["--marks", "1", "toe=0.5"]]
)
def test_marks_that_are_no_shares_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong) -> None:
    with pytest.raises(SystemExit):
        phantom.main(["--out", str(tmp_path / "set"), *wrong])
    assert "is not a share of 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--annotate", "all"], ["--format", "nrrd", "--slices", "all"], ["--studies", "0"]])
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, wrong) -> None:
    with pytest.raises(SystemExit):
        phantom.main(["--out", str(tmp_path / "set"), *wrong])


FOLLOWED = ["--patients", "2", "--seed", "6", "--size", "64", "--interval-mm", "16", "--studies", "3"]


@pytest.fixture(scope="module")
def followed_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("followed") / "set"
    assert phantom.main(["--out", str(out), "--format", "dicom", *FOLLOWED]) == 0
    return out


def test_a_patient_is_followed_up_on_other_days_and_tables(followed_up: Path) -> None:
    for patient in ("000001", "000002"):
        volumes = [ct.read(followed_up / f"{patient}_{study:02d}_01") for study in (1, 2, 3)]
        headers = [pydicom.dcmread(next((followed_up / f"{patient}_{study:02d}_01").iterdir())) for study in (1, 2, 3)]
        assert len({header.PatientID for header in headers}) == 1
        assert len({header.StudyInstanceUID for header in headers}) == 3
        days = [header.StudyDate for header in headers]
        assert days == sorted(set(days))
        assert len({volume.origin[2] for volume in volumes}) == 3


def test_the_truth_says_which_lesion_is_which_and_where(followed_up: Path) -> None:
    rows = rows_of(followed_up / "follow_up.csv")
    kept = {(row["Patient"], row["Lesion"]) for row in rows if row["Study"] == "1"}
    again = {(row["Patient"], row["Lesion"]) for row in rows if row["Study"] == "2"}
    assert kept & again and kept - again and again - kept
    for number in ("1", "2"):
        dates = {row["Study"]: row["Date"] for row in rows if row["Patient"] == number}
        header = pydicom.dcmread(next((followed_up / f"00000{number}_02_01").iterdir()))
        assert dates["2"].replace("-", "") == header.StudyDate
    measured = [row for row in rows if row["Slice"]]
    assert measured
    for row in measured:
        volume = ct.read(followed_up / row["Series"])
        middle = [float(row[axis]) for axis in "XYZ"]
        (index,) = volume.geometry.to_index([middle])
        assert round(index[2]) == int(row["Slice"]) - 1
        assert np.all(index >= 0) and np.all(index[:2] <= 63)


def test_one_study_as_a_volume_needs_no_truth(tmp_path: Path) -> None:
    options = ["--format", "nrrd", "--patients", "1", "--size", "64", "--interval-mm", "40"]
    assert phantom.main(["--out", str(tmp_path / "set"), *options]) == 0
    assert not (tmp_path / "set" / "follow_up.csv").exists()


def test_over_the_studies_lesions_go_come_and_split() -> None:
    first = Study((8, 1), 30, True, 64, interval=5.0)
    visits = course(first, (8, 1), 4, ["torso"])
    assert visits[0].study is first and len({visit.day for visit in visits}) == 4
    for before, after in pairwise(visits):
        kept, gone = (set(before.numbers) & set(after.numbers), set(before.numbers) - set(after.numbers))
        assert gone and set(after.numbers) - set(before.numbers)
        for number in kept:
            old = before.study.lesions[before.numbers.index(number)]
            parts = [one for one, which in zip(after.study.lesions, after.numbers) if which == number]
            if before.numbers.count(number) == len(parts) == 1:
                assert 0.7 <= parts[0].axes_mm[0] / old.axes_mm[0] <= 1.4
                assert abs(parts[0].centre_mm[2] - old.centre_mm[2]) <= 8
    parts = [max(visit.numbers.count(number) for number in visit.numbers) for visit in visits[1:]]
    assert max(parts) == 2
    assert [visit.numbers for visit in course(first, (8, 1), 4, ["torso"])] == [visit.numbers for visit in visits]
