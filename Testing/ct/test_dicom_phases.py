"""Several images at each place of one series, and series that are no plain slices: one is chosen by the headers and
named, or none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from LesionDetectorLib import ct
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset

from Testing.helpers.dicom_study import SPACING, axial, body, enhanced, image, refusal, save, write

COUNT = 5
FIRST, SECOND = body(COUNT, seed=1), body(COUNT, seed=2)
SERIES = "1.2.3.4"
MIP = ("DERIVED", "SECONDARY", "AXIAL", "MIP")


def write_both(folder: Path, first: dict[str, object], second: dict[str, object]) -> None:
    """Two images at each place, those of FIRST with the elements `first` and those of SECOND with `second`, in files
    named alike."""
    for letter, hu, tags in (("a", FIRST, first), ("b", SECOND, second)):
        for k, (plane, at) in enumerate(zip(hu, axial(COUNT))):
            each = {tag: value[k] if isinstance(value, list) else value for tag, value in tags.items()}
            save(image(plane, at, SERIES, each.pop("InstanceNumber", k + 1), **each), folder / f"{k}{letter}.dcm")


def two_phases(in_turn: bool, **macros: tuple[str, Sequence[object]]) -> FileDataset:
    """An Enhanced CT whose FIRST and SECOND lie at the same places.

    `macros` are groups of frames with an element's two values.
    """
    order = (
        [(phase, k) for k in range(COUNT) for phase in (0, 1)]
        if in_turn
        else [(phase, k) for phase in (0, 1) for k in range(COUNT)]
    )
    frames = np.array([(FIRST, SECOND)[phase][k] for phase, k in order])
    dataset = enhanced(frames, [axial(COUNT)[k][2] for _, k in order])
    for frame, (phase, k) in zip(dataset.PerFrameFunctionalGroupsSequence, order):
        for macro, (keyword, values) in macros.items():
            item = Dataset()
            value = values[phase]
            setattr(
                item,
                keyword,
                [k + 1 if part == "place" else part for part in value] if isinstance(value, tuple) else value,
            )
            setattr(frame, macro, [item])
    return dataset


@pytest.mark.parametrize("in_turn", [True, False])
@pytest.mark.parametrize(
    ("macro", "keyword", "values", "named"),
    [
        (
            "FrameContentSequence",
            "TemporalPositionIndex",
            (1, 2),
            "temporal position 1 was read, temporal position 2 left out",
        ),
        (
            "TemporalPositionSequence",
            "TemporalPositionTimeOffset",
            (2.5, 30.0),
            "the phase at 2.5 s was read, the phase at 30 s left out",
        ),
        (
            "FrameContentSequence",
            "DimensionIndexValues",
            ((1, "place", 1), (1, "place", 2)),
            "dimension index 3 = 1 was read",
        ),
        ("FrameContentSequence", "StackID", ("1", "2"), "stack 1 was read, stack 2 left out"),
        ("CTXRayDetailsSequence", "KVP", (120, 80), "120 kV was read, 80 kV left out"),
        (
            "CTReconstructionSequence",
            "ConvolutionKernel",
            ("Br40", "Br64"),
            "kernel Br40 was read, kernel Br64 left out",
        ),
        (
            "CardiacSynchronizationSequence",
            "NominalPercentageOfCardiacPhase",
            (30.0, 75.0),
            "the heart phase at 30% was read",
        ),
    ],
)
def test_of_two_phases_in_an_enhanced_ct_one_is_read(
    tmp_path: Path, in_turn: bool, macro: str, keyword: str, values: tuple, named: str
):
    save(two_phases(in_turn, **{macro: (keyword, values)}), tmp_path / "enhanced.dcm")
    volume = ct.read(tmp_path / "enhanced.dcm")
    assert np.array_equal(volume.hu, FIRST)
    assert volume.spacing == pytest.approx((*SPACING, 2.0))
    assert volume.geometry.to_lps((0, 0, 0)) == pytest.approx((-10, -20, -50))
    assert len(volume.warnings) == 1 and named in volume.warnings[0]


@pytest.mark.parametrize("in_turn", [True, False])
def test_an_enhanced_ct_with_two_frames_at_each_place_that_nothing_tells_apart(tmp_path: Path, in_turn: bool):
    save(two_phases(in_turn), tmp_path / "enhanced.dcm")
    assert "5 of 10 slices of series 1.2.3.5 lie at the place of another, and no header tells" in refusal(tmp_path)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("tag", "read", "left", "named"),
    [
        ("KVP", 140, 80, "140 kV was read, 80 kV left out"),
        ("KVP", "120", "100.0", "120 kV was read, 100 kV left out"),
        ("ConvolutionKernel", "STANDARD", "LUNG", "kernel STANDARD was read, kernel LUNG left out"),
        ("ConvolutionKernel", "B30f", "B70f", "kernel B30f was read, kernel B70f left out"),
        (
            "ImageType",
            ("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"),
            ("DERIVED", "PRIMARY", "AXIAL", "VMI"),
            "VMI left out",
        ),
        ("TemporalPositionIdentifier", 1, 2, "temporal position 1 was read, temporal position 2 left out"),
        ("TriggerTime", 0, 400, "trigger time 0 ms was read, trigger time 400 ms left out"),
        ("ContrastBolusAgent", "Iomeron", None, "contrast agent Iomeron was read, contrast agent unknown left out"),
        (
            "AcquisitionTime",
            "101500.25",
            "101540.5",
            "acquisition time 101500.25 was read, acquisition time 101540.5 left out",
        ),
        (
            "ContentTime",
            ["101500", "101501", "101502", "101503", "101504"],
            "101540",
            "content time 101500 to 101504 was read",
        ),
        ("SeriesDescription", "arterial", "venous", "series description arterial was read"),
        (
            "InstanceNumber",
            [1, 2, 3, 4, 5],
            [6, 7, 8, 9, 10],
            "instance number 1 to 5 was read, instance number 6 to 10 left out",
        ),
    ],
)
def test_of_two_images_at_each_place_the_headers_choose_whatever_the_files_are_called(
    tmp_path: Path, tag: str, read: object, left: object, named: str, turned: bool
):
    write_both(tmp_path, {tag: read}, {tag: left})
    if turned:
        for file in sorted(tmp_path.iterdir()):
            file.rename(file.with_name(f"{file.stem[0]}{'z' if file.stem[1] == 'a' else 'c'}"))
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu, FIRST)
    assert len(volume.warnings) == 1 and named in volume.warnings[0]


def test_two_energies_in_two_phases(tmp_path: Path):
    for k, (kv, phase) in enumerate([(80, 1), (120, 2), (120, 1), (80, 2)]):
        hu = FIRST if (kv, phase) == (120, 1) else body(COUNT, seed=10 + k)
        for number, (plane, at) in enumerate(zip(hu, axial(COUNT))):
            save(image(plane, at, SERIES, number, KVP=kv, TemporalPositionIdentifier=phase), tmp_path / f"{number}{k}")
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu, FIRST)
    assert ["120 kV was read" in volume.warnings[0], "temporal position 1 was read" in volume.warnings[1]] == [
        True,
        True,
    ]


@pytest.mark.parametrize("offset", [0.7, 1.0])
def test_an_energy_between_the_slices_of_the_other_is_left_out(tmp_path: Path, offset: float):
    write(tmp_path, FIRST, axial(COUNT), KVP=120)
    for k, at in enumerate(axial(COUNT, start=-50 + offset)):
        save(image(SECOND[k], at, SERIES, k, KVP=80), tmp_path / f"b{k}")
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu, FIRST)
    assert volume.spacing[2] == 2


def test_an_energy_that_was_exposed_for_some_slices_only_is_left_out_there_too(tmp_path: Path):
    write(tmp_path, FIRST, axial(COUNT), KVP=100)
    for k in (1, 2):
        save(image(SECOND[k], axial(COUNT)[k], SERIES, 0, KVP=120), tmp_path / f"a{k}")
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu, FIRST)
    assert "100 kV was read, 120 kV left out" in volume.warnings[0]


@pytest.mark.parametrize("tag", ["KVP", "ConvolutionKernel", "ImageType", "AcquisitionTime", "SliceThickness"])
def test_headers_that_change_along_the_body_are_no_phases(tmp_path: Path, tag: str):
    plain = ["ORIGINAL", "PRIMARY", "AXIAL"]
    values = {
        "ImageType": (plain, [*plain, "X"]),
        "ConvolutionKernel": ("B30f", "B40f"),
        "AcquisitionTime": ("101500", "101540"),
    }
    low, high = values.get(tag, (100, 120))
    for k, at in enumerate(axial(COUNT)):
        save(image(FIRST[k], at, SERIES, k, **{tag: low if k < 3 else high}), tmp_path / f"{k}")
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu, FIRST)
    assert volume.warnings == ()


def test_two_images_at_each_place_that_no_header_tells_apart(tmp_path: Path):
    write_both(tmp_path, {}, {})
    sentence = refusal(tmp_path)
    assert (
        "5 of 10 slices of series 1.2.3.4 lie at the place of another, and no header tells which of them belong "
        "together" in sentence
    )


@pytest.mark.parametrize("numbered", [True, False])
def test_a_second_phase_of_some_slices_does_not_stand_among_those_of_the_first(tmp_path: Path, numbered: bool):
    """It is left out where its numbers come first, and refused where they are those of the others."""
    for k, at in enumerate(axial(COUNT)):
        save(image(FIRST[k], at, SERIES, k + 10), tmp_path / f"b{k}")
    for k in (1, 2):
        save(image(SECOND[k], axial(COUNT)[k], SERIES, k if numbered else k + 10), tmp_path / f"a{k}")
    if numbered:
        volume = ct.read(tmp_path)
        assert np.array_equal(volume.hu, FIRST)
        assert "instance number 10 to 14 was read, instance number 1 to 2 left out" in volume.warnings[0]
    else:
        assert "2 of 7 slices of series 1.2.3.4 lie at the place of another, and no header tells" in refusal(tmp_path)


def test_two_images_at_one_place_only(tmp_path: Path):
    write(tmp_path, FIRST, axial(COUNT))
    save(image(SECOND[2], axial(COUNT)[2], SERIES, 3), tmp_path / "again")
    assert ct.read(tmp_path).warnings == ("1 of 6 slices lie at the place of another and were left out.",)


def test_two_regions_whose_slices_overlap_at_their_ends_are_joined(tmp_path: Path):
    hu = body(9)
    for number, k in enumerate([0, 1, 2, 3, 4, 4, 5, 6, 7, 8]):
        save(image(hu[k], axial(9)[k], SERIES, number), tmp_path / f"{number}")
    assert np.array_equal(ct.read(tmp_path).hu, hu)


def test_a_header_that_only_tells_images_apart_may_be_damaged(tmp_path: Path):
    files = write(tmp_path, FIRST, axial(COUNT), KVP=120, RescaleType="HU")
    files[1].write_bytes(files[1].read_bytes().replace(b"120 ", b"12x "))
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu, FIRST)
    assert volume.warnings == ()


def test_numbers_that_go_to_and_fro_between_two_images_do_not_tell_them_apart(tmp_path: Path):
    write_both(tmp_path, {"InstanceNumber": [1, 3, 5, 7, 9]}, {"InstanceNumber": [2, 4, 6, 8, 10]})
    assert "no header tells which of them belong together" in refusal(tmp_path)


@pytest.mark.parametrize("new_uids", [True, False])
def test_copies_are_ignored(tmp_path: Path, new_uids: bool):
    files = write(tmp_path, FIRST, axial(COUNT))
    for k, file in enumerate(files):
        if new_uids:
            save(image(FIRST[k], axial(COUNT)[k], SERIES, k + 1), tmp_path / f"copy{k}")
        else:
            (tmp_path / f"copy{k}").write_bytes(file.read_bytes())
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu, FIRST)
    assert volume.warnings[0].startswith("5 of 10 slices")


def test_all_slices_at_one_place(tmp_path: Path):
    write(tmp_path, FIRST, [axial(1)[0]] * COUNT)
    assert (
        refusal(tmp_path)
        == "All 5 slices of series 1.2.3.4 lie at one place: export it again with its slice positions."
    )


@pytest.mark.parametrize(
    "image_type",
    [
        MIP,
        ("DERIVED", "SECONDARY", "MINIP"),
        ("DERIVED", "SECONDARY", "REFORMATTED", "MIN IP"),
        ("DERIVED", "SECONDARY", "REFORMATTED", "MAX IP"),
        ("DERIVED", "SECONDARY", "AXIAL", "CT_SOM7 THINMIP"),
        ("DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"),
        ("DERIVED", "SECONDARY", "PROJECTION IMAGE"),
        ("DERIVED", "SECONDARY", "MPR"),
        ("DERIVED", "SECONDARY", "SCREEN SAVE"),
    ],
)
def test_slices_as_they_were_taken_are_read_rather_than_more_that_were_derived(
    tmp_path: Path, image_type: tuple[str, ...]
):
    write(tmp_path, body(9), axial(9, step=1), series="1.2.1", ImageType=image_type)
    write(tmp_path, FIRST, axial(COUNT), series="1.2.2")
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu, FIRST)
    assert volume.warnings == (
        "Series 1.2.2 with 5 slices was read; there are other axial CT series: 1.2.1 (9 slices).",
    )


@pytest.mark.parametrize(
    ("image_type", "name"),
    [(MIP, "a maximum intensity projection"), (("DERIVED", "SECONDARY", "MNIP"), "a minimum intensity projection")],
)
@pytest.mark.parametrize("asked", [None, "1.2.1"])
def test_a_projection_alone_or_asked_for_is_read_with_a_warning(
    tmp_path: Path, image_type: tuple[str, ...], name: str, asked: str | None
):
    write(tmp_path, body(9), axial(9, step=1), series="1.2.1", ImageType=image_type)
    if asked:
        write(tmp_path, FIRST, axial(COUNT), series="1.2.2")
    volume = ct.read(tmp_path, series=asked)
    assert np.array_equal(volume.hu, body(9))
    kind = "\\".join(image_type)
    assert (
        volume.warnings[0]
        == f"The series is {name} (image type {kind}): sizes are those of a projection, not of slices."
    )


def test_a_projection_in_an_enhanced_ct(tmp_path: Path):
    dataset = enhanced(FIRST, [2 * k for k in range(COUNT)])
    dataset.VolumeBasedCalculationTechnique = "MAX_IP"
    save(dataset, tmp_path / "mip.dcm")
    assert "is a maximum intensity projection" in ct.read(tmp_path).warnings[0]


def test_projections_among_the_slices_are_left_out(tmp_path: Path):
    write(tmp_path, FIRST, axial(COUNT))
    for k, at in enumerate(axial(9, step=1)):
        save(image(body(9)[k], at, SERIES, k, ImageType=MIP), tmp_path / f"a{k}")
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu, FIRST)
    assert volume.warnings == ("Some images of the series were left out: 9 images of a maximum intensity projection.",)


def test_of_series_of_one_size_the_first_by_its_number_is_read_whatever_the_files_are_called(tmp_path: Path):
    write(tmp_path / "a", SECOND, axial(COUNT), series="1.2.1", SeriesNumber=9)
    write(tmp_path / "b", FIRST, axial(COUNT), series="1.2.2", SeriesNumber=2)
    assert np.array_equal(ct.read(tmp_path).hu, FIRST)


@pytest.mark.parametrize("rescale_type", ["HU", "", None, "US"])
def test_rescale_types_of_a_ct(tmp_path: Path, rescale_type: str | None):
    write(tmp_path, FIRST, axial(COUNT), RescaleType=rescale_type)
    assert ct.read(tmp_path).warnings == ()


@pytest.mark.parametrize("rescale_type", ["Z_EFF", "MGML", "ED", "OD"])
def test_a_spectral_map_is_refused_by_its_rescale_type(tmp_path: Path, rescale_type: str):
    write(tmp_path, FIRST, axial(COUNT), RescaleType=rescale_type)
    assert f"holds no axial CT (5 images of rescale type {rescale_type}, not HU)" in refusal(tmp_path)


def test_a_spectral_map_in_an_enhanced_ct_is_refused_by_its_rescale_type(tmp_path: Path):
    dataset = enhanced(FIRST, [2 * k for k in range(COUNT)])
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.PixelValueTransformationSequence[0].RescaleType = "EDW"
    save(dataset, tmp_path / "map.dcm")
    assert "of rescale type EDW, not HU" in refusal(tmp_path)


@pytest.mark.parametrize("word", ["EFF_ATOMIC_NUM", "ELECTRON_DENSITY", "MAT_SPECIFIC", "IODINE"])
def test_a_spectral_map_is_known_by_its_image_type(tmp_path: Path, word: str):
    """Where its unit is not told it is refused, and else read with a warning."""
    tags = {"ImageType": ("DERIVED", "PRIMARY", "AXIAL", word)}
    write(tmp_path / "map", FIRST, axial(COUNT), **tags, RescaleType="US")
    assert "of a spectral map" in refusal(tmp_path)
    write(tmp_path / "hu", FIRST, axial(COUNT), **tags, RescaleType="HU")
    assert "The series is a spectral map" in ct.read(tmp_path / "hu").warnings[0]


def test_a_series_for_every_slice_is_told(tmp_path: Path):
    for k, at in enumerate(axial(14)):
        write(tmp_path, body(14)[k : k + 1], [at], series=f"1.2.{100 + k}")
    volume = ct.read(tmp_path)
    assert volume.warnings[0] == (
        "14 series of one slice each lie beside one another, as if every slice of one series had got a series of its "
        "own: export the CT again as one series."
    )


def test_of_many_other_series_five_are_named(tmp_path: Path):
    write(tmp_path, FIRST, axial(COUNT))
    for k in range(9):
        write(tmp_path, body(1), [axial(1)[0]], series=f"1.2.5.{k}")
    assert ct.read(tmp_path).warnings[0].endswith("1.2.5.3 (1 slice), 1.2.5.4 (1 slice), and 4 more.")


@pytest.mark.parametrize(
    ("stored", "told", "tags"),
    [
        (63536, 63536, {}),
        (4095, 4095, {"BitsStored": 12, "HighBit": 11}),
        (4090, 4080, {"PixelPaddingRangeLimit": 4095, "BitsStored": 12, "HighBit": 11}),
        (-2000, 63536, {"PixelRepresentation": 1, "RescaleIntercept": 3000}),
        (2000, 2000, {"RescaleSlope": 3, "RescaleIntercept": -1024}),
    ],
)
def test_padding_round_the_field_of_view_is_air(tmp_path: Path, stored: int, told: int, tags: dict[str, int]):
    """The same value inside of the body stays: it may be metal."""
    pixels = np.full((24, 32), 1100, np.int32)
    pixels[:2], pixels[12, 12] = stored, stored
    write(tmp_path, FIRST, axial(COUNT), PixelData=pixels.astype(np.uint16).tobytes(), **tags)
    for file in tmp_path.iterdir():
        dataset = dcmread(file)
        dataset.add_new("PixelPaddingValue", "US", told)
        dataset.save_as(file)
    volume = ct.read(tmp_path)
    assert (volume.hu[:, :2] == -1024).all()
    inside = tags.get("RescaleSlope", 1) * stored + tags.get("RescaleIntercept", -1024)
    assert (volume.hu[:, 12, 12] == min(inside, 32767)).all()
    assert (volume.hu[:, 12, 14] == tags.get("RescaleSlope", 1) * 1100 + tags.get("RescaleIntercept", -1024)).all()


def test_padding_of_an_enhanced_ct_is_air(tmp_path: Path):
    hu = FIRST.copy()
    hu[:, :2] = 3071
    dataset = enhanced(hu, [2 * k for k in range(COUNT)])
    dataset.PixelPaddingValue = 4095
    save(dataset, tmp_path / "enhanced.dcm")
    hu[:, :2] = -1024
    assert np.array_equal(ct.read(tmp_path).hu, hu)


@pytest.mark.parametrize("tags", [{"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 2000}, {"PixelPaddingValue": 24}])
def test_padding_among_the_values_of_tissue_takes_none_away(tmp_path: Path, tags: dict[str, int]):
    write(tmp_path, FIRST, axial(COUNT), **tags)
    volume = ct.read(tmp_path)
    assert np.array_equal(volume.hu[:, 4:-4, 4:-4], FIRST[:, 4:-4, 4:-4])
