"""The studies of a patient as a command gets them: their CTs, lesions and dates, and whether they are of one
patient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from LesionDetectorLib import ct, formats
from LesionDetectorLib.cli.report import ct_of
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.refusal import Refusal

STUDY_DATE, GIVEN = "DICOM StudyDate", "given"


@dataclass(frozen=True, eq=False, slots=True)
class Taken:
    """A study that was read: its CT, its lesions if they were given, and what its DICOM headers say of day and
    patient, "" for nothing."""

    volume: ct.Volume
    reading: Reading | None
    study_date: str = ""
    patient_id: str = ""


def take(study: str, progress: Callable[[int, int], None]) -> Taken:
    """The study that CT or CT=LESIONS names. Raises Refusal where it cannot be read, or LESIONS are of another CT."""
    path, lesions = parted(study)
    if lesions is None:
        volume, reading = ct.read(path, progress=progress), None
    else:
        reading = formats.read(lesions, lambda: path)
        volume = ct_of(reading, path, progress)
    if volume.dicom is None or not volume.dicom.series_uid:
        return Taken(volume, reading)
    from LesionDetectorLib.ct.dicom import read_patient

    said = read_patient(volume.source, volume.dicom.series_uid)
    return Taken(volume, reading, said.get("Study date", ""), said.get("Patient ID", ""))


def parted(study: str) -> tuple[Path, Path | None]:
    """CT and LESIONS of "CT=LESIONS"; a name that is there as it stands is a CT."""
    before, equals, after = study.rpartition("=")
    if not equals or Path(study).exists():
        return Path(study), None
    if not before or not after:
        raise Refusal(f"'{study}' names no study: give CT, or CT=LESIONS, for example scans/ct1=found/lesions.json.")
    return Path(before), Path(after)


def check_series(studies: Sequence[Taken]) -> None:
    """Refusal where two studies are one series."""
    counts = Counter(study.volume.series_uid for study in studies if study.volume.series_uid)
    twice = [number for number, study in enumerate(studies, start=1) if counts[study.volume.series_uid] > 1]
    if twice:
        raise Refusal(f"Study {twice[0]} and study {twice[1]} are the same series: give each study once.")


def check_patient(studies: Sequence[Taken], same_patient: bool) -> list[str]:
    """Refusal where the DICOM headers name different patients, unless that was allowed; sentences on what they leave
    open. None of them says who the patient is."""
    first = next((number for number, study in enumerate(studies, start=1) if study.patient_id), None)
    for number, study in enumerate(studies, start=1):
        if first and study.patient_id not in ("", studies[first - 1].patient_id):
            differ = f"Study {first} and study {number} have different patients by the PatientID of their DICOM files"
            if not same_patient:
                raise Refusal(f"{differ}: give studies of one patient, or --same-patient if they are.")
            return [f"{differ}; they were taken for one, as --same-patient says."]
    silent = [str(number) for number, study in enumerate(studies, start=1) if not study.patient_id]
    if not silent or same_patient:
        return []
    return [f"No PatientID tells whether all studies are of one patient (study {', '.join(silent)})."]


def dates_of(studies: Sequence[Taken], given: Sequence[str] | None) -> tuple[list[tuple[date, str]], list[str]]:
    """The date of each study and who says so; sentences where headers say otherwise. Raises Refusal for no date."""
    if given is not None and len(given) != len(studies):
        raise Refusal(f"There are {len(studies)} studies and {len(given)} --dates: give one for each, in their order.")
    found, warnings = [], []
    for number, study in enumerate(studies, start=1):
        said = _date(study.study_date)
        if given is None and said is None:
            raise Refusal(
                f"Study {number} does not say when it was made: give the dates of all studies with --dates, for "
                "example --dates 2025-03-02 2025-06-01."
            )
        if given is None:
            found.append((said, STUDY_DATE))
            continue
        day = _date(given[number - 1])
        if day is None:
            raise Refusal(f"--dates {given[number - 1]} is no date: write year, month and day as in 2025-03-02.")
        if said not in (None, day):
            warnings.append(f"Study {number} is dated {day} as given; its DICOM StudyDate is {said}.")
        found.append((day, GIVEN))
    return found, warnings


def _date(value: str) -> date | None:
    try:
        return date.fromisoformat(value)
    except ValueError:
        return None
