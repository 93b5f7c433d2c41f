"""The report word for word."""

from __future__ import annotations

from LesionDetectorLib.formats import BY_NAME, write
from LesionDetectorLib.lesion import BodyPart, Location, Origin, ReviewStatus
from LesionDetectorLib.report import text

from Testing.helpers.readings import AXES, lesion, reading

MEDIASTINUM, LUNG, LIVER = BodyPart.MEDIASTINUM, BodyPart.LUNG, BodyPart.LIVER
FOOTER = "\nMade by LesionDetector 9.9. Not a medical device: a radiologist must check every finding.\n"


def composed(*lesions, diameters: bool = False, **changes) -> str:
    return text.compose(reading(*lesions, software_version="9.9", **changes), diameters)


def test_example_of_the_paper():
    assert composed(lesion(LIVER, 0.53), lesion(MEDIASTINUM, 0.78), lesion(LUNG, 0.68)) == (
        "Lesions:\n"
        "\n"
        "Study: 01, Series: 01\n"
        "Slice: 51\n"
        "\n"
        "1. Lesion 1: Mediastinum (78%)\n"
        "2. Lesion 2: Lung (68%)\n"
        "3. Lesion 3: Liver (53%)\n" + FOOTER
    )


def test_several_slices_with_diameters_and_a_lesion_of_the_reader():
    drawn = lesion(BodyPart.SOFT_TISSUE, None, k=50, recist=AXES, origin=Origin.READER)
    lesions = lesion(LUNG, 0.9, k=60), drawn, lesion(MEDIASTINUM, 0.78, k=50, recist=AXES), lesion(LIVER, 0.5, k=7)
    assert composed(*lesions, diameters=True) == (
        "Lesions:\n"
        "\n"
        "Study: 01, Series: 01\n"
        "Slice: 8\n"
        "\n"
        "1. Lesion 1: Liver (50%)\n"
        "\n"
        "Slice: 51\n"
        "\n"
        "2. Lesion 2: Mediastinum (78%), 18 x 12 mm\n"
        "3. Lesion 3: Soft tissue, 18 x 12 mm\n"
        "\n"
        "Slice: 61\n"
        "\n"
        "4. Lesion 4: Lung (90%)\n" + FOOTER
    )


def test_the_place_in_the_body_comes_with_the_diameters():
    placed = lesion(LIVER, 0.87, recist=AXES, location=Location(0.43, 0.28, 0.61))
    lines = composed(placed, lesion(LUNG, 0.6), diameters=True).splitlines()
    assert lines[5:8] == [
        "1. Lesion 1: Liver (87%), 18 x 12 mm",
        "   Location (experimental): 0.43, 0.28, 0.61 (abdomen)",
        "2. Lesion 2: Lung (60%)",
    ]
    assert "Location" not in composed(placed)


def test_only_confident_or_accepted_lesions_are_shown():
    lesions = (
        lesion(LUNG, 0.49),
        lesion(LIVER, 0.3, status=ReviewStatus.ACCEPTED),
        lesion(MEDIASTINUM, 0.99, status=ReviewStatus.REJECTED),
        lesion(BodyPart.BONE, 0.5),
    )
    lines = composed(*lesions).splitlines()
    assert lines[5:7] == ["1. Lesion 1: Bone (50%)", "2. Lesion 2: Liver (30%)"]
    assert "Lung" in composed(*lesions, confidence=0.4)


def test_no_lesion_is_said_honestly():
    assert composed(lesion(LUNG, 0.2), warnings=("Two slices are missing.",)) == (
        "Lesions:\n"
        "\n"
        "Study: 01, Series: 01\n"
        "\n"
        "No lesion was found with a confidence of at least 50%. This does not rule out a lesion.\n"
        "\n"
        "Note: Two slices are missing.\n" + FOOTER
    )


def test_file_is_utf8(tmp_path):
    path = tmp_path / "report.txt"
    write(path, BY_NAME["text"], reading(study="Größe 肝"), {})
    assert "Study: Größe 肝, Series: 01\n" in path.read_bytes().decode("utf-8")
    assert list(tmp_path.iterdir()) == [path]
