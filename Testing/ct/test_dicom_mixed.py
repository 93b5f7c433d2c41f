"""Series that hold more than one image of a place, or other than a plain CT: one is chosen by its headers and named, or all refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_study import axial, body, enhanced, image, save, write
from LesionDetectorLib import ct
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

FIRST, SECOND = body(6, seed=1), body(6, seed=2)


def refusal(path: Path) -> str:
    with pytest.raises(ct.CTError) as caught:
        ct.read(path)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    return sentence


def mixed(folder: Path, one: dict, other: dict, names: tuple[str, str] = ("a", "b"), same_number: bool = True) -> None:
    """Two images at each of six places, with unlike headers, in files whose names sort the first before the second or the reverse."""
    for k, position in enumerate(axial(6)):
        for hu, tags, name, add in ((FIRST, one, names[0], 0), (SECOND, other, names[1], 6 * (not same_number))):
            save(image(hu[k], position, "1.2.3.4", k + 1 + add, **tags), folder / f"{k}{name if k % 2 else names[0] + name}.dcm")


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize(
    "keyword, one, other, said",
    [
        ("KVP", 80, 140, "tube voltage in kV: 80.0 was read, 140.0 left out"),
        ("ConvolutionKernel", "B30f", "B70f", "kernel: B30f was read, B70f left out"),
        ("TemporalPositionIdentifier", 1, 2, "temporal position: 1 was read, 2 left out"),
        ("NominalPercentageOfCardiacPhase", 40, 75, "cardiac phase in %: 40.0 was read, 75.0 left out"),
        ("SeriesDescription", "arterial", "venous", "description: arterial was read, venous left out"),
    ],
)
def test_of_two_images_at_each_place_one_kind_is_read_and_named(tmp_path: Path, keyword, one, other, said, names):
    mixed(tmp_path, {keyword: one}, {keyword: other}, names)
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu, FIRST)
    assert [warning for warning in volume.warnings if said in warning], volume.warnings


def test_images_that_only_their_numbers_tell_apart_are_those_that_came_first(tmp_path: Path):
    mixed(tmp_path, {}, {}, ("b", "a"), same_number=False)
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu, FIRST) and "6 of 12 slices lie at the place of another" in volume.warnings[0]


def test_images_that_nothing_tells_apart_are_refused(tmp_path: Path):
    mixed(tmp_path, {}, {})
    assert "several images at one place that nothing in their headers tells apart" in refusal(tmp_path)


def test_copies_of_the_same_images_are_passed_over(tmp_path: Path):
    for file in write(tmp_path, FIRST, axial(6)):
        (tmp_path / f"copy of {file.name}").write_bytes(file.read_bytes())
    assert np.array_equal(ct.read(tmp_path).hu, FIRST)


def test_one_image_under_two_identifiers_is_read_once(tmp_path: Path):
    for name in "ab":
        for k, position in enumerate(axial(6)):
            save(image(FIRST[k], position, "1.2.3.4", k + 1), tmp_path / f"{name}{k}.dcm")
    assert np.array_equal(ct.read(tmp_path).hu, FIRST)


def test_a_damaged_header_that_is_not_needed_counts_as_missing(tmp_path: Path):
    for file in write(tmp_path, FIRST, axial(6), KVP="120.0000"):
        file.write_bytes(file.read_bytes().replace(b"120.0000", b"high kVp"))
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu, FIRST) and volume.warnings == ()


def test_slices_that_all_lie_at_one_place_are_refused(tmp_path: Path):
    write(tmp_path, FIRST, [(-10.0, -20.0, 5.0)] * 6)
    assert "has 6 images at one place" in refusal(tmp_path)


def frames_of_two_phases(path: Path, **content: tuple) -> None:
    """An Enhanced CT with two frames at each place, in turn, of which `content` names what is unlike."""
    both = np.stack([FIRST, SECOND], axis=1).reshape(12, *FIRST.shape[1:])
    dataset = enhanced(both, np.repeat([2.0 * k for k in range(6)], 2))
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        frame.FrameContentSequence = [Dataset()]
        for keyword, values in content.items():
            setattr(frame.FrameContentSequence[0], keyword, values[(number + number // 2) % 2])
    if content:  # the phases change their order from place to place
        frames = both.reshape(6, 2, *FIRST.shape[1:]).copy()
        frames[1::2] = frames[1::2, ::-1]
        dataset.PixelData = (frames.astype(np.int32) + 1024).astype(np.uint16).tobytes()
    save(dataset, path)


@pytest.mark.parametrize(
    "keyword, values", [("TemporalPositionIndex", (1, 2)), ("StackID", ("1", "2")), ("FrameAcquisitionNumber", (3, 4))]
)
def test_one_phase_of_an_enhanced_ct_is_read_and_named(tmp_path: Path, keyword, values):
    frames_of_two_phases(tmp_path / "phases.dcm", **{keyword: values})
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu, FIRST)
    assert f"{values[0]} was read, {values[1]} left out" in " ".join(volume.warnings)


def test_phases_of_an_enhanced_ct_that_nothing_tells_apart_are_refused(tmp_path: Path):
    frames_of_two_phases(tmp_path / "phases.dcm")
    assert "that nothing in their headers tells apart" in refusal(tmp_path)


@pytest.mark.parametrize(
    "tags, said",
    [
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "MIP"]}, "a maximum intensity projection"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL"], "SeriesDescription": "Thorax MIP 8mm"}, "a maximum intensity projection"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MINIP"]}, "a minimum intensity projection"),
        ({"ImageType": ["DERIVED", "SECONDARY", "PROJECTION IMAGE"]}, "a projection or average of slices"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, "a reformat of other slices"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL"], "SeriesDescription": "Iodine map"}, "a spectral map"),
    ],
)
def test_a_plain_axial_series_is_preferred_to_a_longer_one_of_another_kind(tmp_path: Path, tags, said):
    write(tmp_path, FIRST, axial(6), series="1.2.3.4")
    write(tmp_path, body(9, seed=3), axial(9), series="1.2.3.5", **tags)
    assert np.array_equal(ct.read(tmp_path).hu, FIRST)
    asked_for = ct.read(tmp_path, series="1.2.3.5")
    assert len(asked_for.hu) == 9 and f"This series is {said}" in " ".join(asked_for.warnings)


def test_a_projection_alone_is_read_with_a_warning(tmp_path: Path):
    write(tmp_path, FIRST, axial(6), ImageType=["DERIVED", "SECONDARY", "MIP"])
    assert "This series is a maximum intensity projection" in " ".join(ct.read(tmp_path).warnings)


def test_projections_among_the_slices_of_a_series_are_left_out(tmp_path: Path):
    write(tmp_path, FIRST, axial(6))
    save(image(SECOND[0], (-10, -20, -49), "1.2.3.4", 90, ImageType=["DERIVED", "SECONDARY", "MIP"]), tmp_path / "mip.dcm")
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu, FIRST) and "1 of a maximum intensity projection" in " ".join(volume.warnings)


@pytest.mark.parametrize("units", ["EFF_ATOMIC_NUM", "ED", "MGML", "Z_EFF"])
def test_values_that_say_that_they_are_no_hounsfield_units_are_refused(tmp_path: Path, units):
    write(tmp_path, FIRST, axial(6), RescaleType=units)
    assert f"of values in {units}, which are no Hounsfield units" in refusal(tmp_path)


@pytest.mark.parametrize("units", ["HU", "US", "", None])
def test_hounsfield_units_and_units_that_are_not_said_are_read(tmp_path: Path, units):
    write(tmp_path, FIRST, axial(6), RescaleType=units)
    assert np.array_equal(ct.read(tmp_path).hu, FIRST)


def test_a_picture_of_a_screen_is_no_slice(tmp_path: Path):
    write(tmp_path, FIRST, axial(6), SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    assert "of a screen" in refusal(tmp_path)


@pytest.mark.parametrize(
    "stored, tags",
    [
        (63536, {"PixelPaddingValue": 63536}),
        (4095, {"PixelPaddingValue": 4095}),
        (60010, {"PixelPaddingValue": 60000, "PixelPaddingRangeLimit": 60020}),
    ],
)
def test_padding_round_the_field_of_view_is_air(tmp_path: Path, stored, tags):
    for k, position in enumerate(axial(6)):
        dataset = image(FIRST[k], position, "1.2.3.4", k + 1, **tags)
        pixels = np.frombuffer(dataset.PixelData, np.uint16).reshape(FIRST[k].shape).copy()
        pixels[:3] = stored
        pixels[12, 15] = stored  # metal
        dataset.PixelData = pixels.tobytes()
        save(dataset, tmp_path / f"{k}.dcm")
    hu = ct.read(tmp_path).hu
    assert (hu[:, :3] == -1024).all() and (hu[:, 12, 15] > 3000).all()
    hu[:, 12, 15] = FIRST[:, 12, 15]
    assert np.array_equal(hu[:, 3:], FIRST[:, 3:])


def test_padding_that_may_be_tissue_is_left_as_it_is(tmp_path: Path):
    write(tmp_path, FIRST, axial(6), PixelPaddingValue=int(FIRST[0, 10, 10]) + 1024)
    assert np.array_equal(ct.read(tmp_path).hu, FIRST)


def test_a_series_for_each_slice_is_refused_with_what_it_may_be(tmp_path: Path):
    for k, position in enumerate(axial(6)):
        save(image(FIRST[k], position, f"1.2.3.4.{k}", k + 1), tmp_path / f"{k}.dcm")
    sentence = refusal(tmp_path)
    assert "holds 6 axial CT series of one slice each, side by side" in sentence and "1.2.3.4." not in sentence
    assert len(ct.read(tmp_path, series="1.2.3.4.2").hu) == 1


def test_only_a_few_of_many_series_are_named(tmp_path: Path):
    for number in range(8):
        write(tmp_path / str(number), FIRST[: 2 + number % 2], axial(2 + number % 2), series=generate_uid())
    (warning,) = [warning for warning in ct.read(tmp_path).warnings if "other axial CT series" in warning]
    assert "and 3 more" in warning
