"""Two small DICOM studies of one patient with their lesions.json, made by hand: what a test of following needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from LesionDetectorLib import ct
from LesionDetectorLib.exchange import lesions_json
from LesionDetectorLib.lesion import BodyPart, Lesion, Mark, Recist, ReviewStatus
from LesionDetectorLib.reading import Reading

from Testing.helpers import dicom_study
from Testing.helpers.torso import scan

NAME, PATIENT = "Doe^Jane", "HOSPITAL-4711"
SHIFT = (30.0, -60.0, 700.0)
TARGET = {"status": ReviewStatus.ACCEPTED, "marks": (Mark.TARGET,)}
LIVER, LUNG, HEART = (-60.0, -10.0, 230.0), (65.0, 15.0, 370.0), (10.0, -35.0, 360.0)
"""Places in the torso, mm."""


def write(folder: Path, day: str, shift=(0.0, 0.0, 0.0), number: int = 1, patient: str = PATIENT) -> Path:
    """The torso as DICOM, moved by mm; its folder."""
    volume, _ = scan(shift=shift, seed=number)
    positions = [np.add(volume.origin, (0, 0, volume.spacing[2] * k)) for k in range(len(volume.hu))]
    tags = {
        "StudyInstanceUID": f"1.2.3.{number}",
        "FrameOfReferenceUID": f"1.2.3.{number}.9",
        "PixelSpacing": volume.spacing[1::-1],
        "SliceThickness": volume.spacing[2],
        "StudyDate": day,
        "PatientName": NAME,
        "PatientID": patient,
    }
    dicom_study.write(folder, volume.hu, positions, series=f"1.2.3.{number}.4", **tags)
    return folder


def lesion(volume: ct.Volume, name: str, at, mm: float, part: BodyPart, shift=(0, 0, 0), **changes) -> Lesion:
    """A lesion `mm` long and 0.8 times as wide at a place of the torso."""
    i, j, k = volume.geometry.to_index([np.add(at, shift)])[0]
    half, short = np.array((mm, 0.8 * mm)) / 2 / volume.spacing[:2]
    axes = Recist(((i - half, j), (i + half, j)), ((i, j - short), (i, j + short)), mm, 0.8 * mm)
    box = (i - half - 1, j - short - 1, i + half + 1, j + short + 1)
    return Lesion(part, 0.9, round(k), (round(k), round(k)), box, recist=axes, id=name, **changes)


def make(folder: Path) -> list[str]:
    """Two studies, as the command line takes them: a target of 40 mm that has 24 mm later, one of 24 mm that is gone
    then, and a new lesion of 20 mm; `a`, `b` and `A`, `new` are their ids."""
    studies = []
    for number, (day, shift) in enumerate((("20250302", (0, 0, 0)), ("20250601", SHIFT)), start=1):
        path = write(folder / f"ct{number}", day, shift, number)
        volume = ct.read(path)
        lesions = (
            [
                lesion(volume, "a", LIVER, 40.0, BodyPart.LIVER, **TARGET),
                lesion(volume, "b", LUNG, 24.0, BodyPart.LUNG, **TARGET),
            ]
            if number == 1
            else [
                lesion(volume, "A", LIVER, 24.0, BodyPart.LIVER, SHIFT),
                lesion(volume, "new", HEART, 20.0, BodyPart.MEDIASTINUM, SHIFT),
            ]
        )
        file = folder / f"lesions{number}.json"
        lesions_json.write(file, Reading.of(volume, lesions))
        studies.append(f"{path}={file}")
    return studies
