"""``lesion-detector follow``: the lesions of a patient over two or more CTs, and the response by RECIST 1.1."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from LesionDetectorLib.cli.finding import Progress, find, load_detectors
from LesionDetectorLib.cli.options import Commands, add_command, add_detector
from LesionDetectorLib.cli.studies import Taken, check_patient, check_series, dates_of, take
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.files import new_results, write_text
from LesionDetectorLib.followup.best import CONFIRM_DAYS, MIN_SD_DAYS
from LesionDetectorLib.followup.course import Course, Visit, check_dates, decided, propose, tracked
from LesionDetectorLib.followup.outcome import Outcome
from LesionDetectorLib.formats import BY_NAME, write
from LesionDetectorLib.printable import printable
from LesionDetectorLib.reading import Reading
from LesionDetectorLib.refusal import Refusal

if TYPE_CHECKING:
    from LesionDetectorLib.followup.cdisc import Trial

PAIRS = "pairs.csv"
RESULTS = ("follow.json", PAIRS, "follow.txt", "follow.html", "tu.csv", "tr.csv", "rs.csv")
EXAMPLES = """
STUDY is a CT, whatever detect takes, or CT=LESIONS with its lesions.json (or DICOM SR), in which the lesions may have
been reviewed; without, the detector runs. The studies stand in order of time, and the first is the baseline.

examples:
  lesion-detector follow scans/march scans/june --out followed
  lesion-detector follow scans/march=march/lesions.json scans/june=june/lesions.json --out followed
  lesion-detector follow a.nrrd=a.json b.nrrd=b.json --dates 2025-03-02 2025-06-01 --out followed

Then fill in the column "confirmed" of followed/pairs.csv (yes or no) beside followed/follow.html, and run the same
command again with --pairs followed/pairs.csv: only what a reader confirmed is in the response.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    summary = "follow the lesions of a patient over two or more CTs, and tell the response by RECIST 1.1"
    parser = add_command(commands, "follow", summary, EXAMPLES)
    parser.add_argument("studies", nargs="+", metavar="STUDY", help="CT or CT=LESIONS, the earliest first")
    add_detector(parser)
    parser.add_argument(
        "--dates", nargs="+", metavar="DATE", help="date of each study, as 2025-03-02; default: the DICOM StudyDate"
    )
    parser.add_argument(
        "--pairs", type=Path, metavar="FILE", help="pairs.csv of an earlier run that a reader filled in"
    )
    parser.add_argument(
        "--same-patient", action="store_true", help="go on though the DICOM files name different patients"
    )
    parser.add_argument("--irecist", action="store_true", help="the response by iRECIST too")
    parser.add_argument(
        "--confirm-days",
        type=_days,
        default=CONFIRM_DAYS,
        metavar="DAYS",
        help="for the best overall response: it is confirmed so much later, 0 for no confirmation (%(default)s)",
    )
    parser.add_argument(
        "--min-sd-days",
        type=_days,
        default=MIN_SD_DAYS,
        metavar="DAYS",
        help="for the best overall response: stable disease lasts so long at least (%(default)s)",
    )
    parser.add_argument(
        "--trial", nargs=2, metavar=("STUDYID", "SUBJECT"), help="CDISC's tables tu.csv, tr.csv and rs.csv too"
    )
    parser.add_argument("--sr", action="store_true", help="a DICOM SR for each study that is DICOM, too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code.

    Refusal and OSError for what cannot be used, before anything is written.
    """
    _check(options)
    progress = Progress(as_json=False)
    studies = []
    for study in options.studies:
        studies.append(take(study, lambda done, total: progress("read", done, total)))
        progress.close()
    check_series(studies)
    dates, warnings = dates_of(studies, options.dates)
    check_dates([day for day, _ in dates])
    warnings += check_patient(studies, options.same_patient)
    readings = _readings(studies, options, progress)
    volumes = [study.volume for study in studies]
    visits, more = _visits(volumes, readings, dates, progress)
    warnings += more
    for sentence in warnings:
        progress.warn(sentence)

    from LesionDetectorLib.exchange import pairs_csv

    course = propose(visits)
    decisions = pairs_csv.read(options.pairs, course) if options.pairs else []
    outcome = Outcome.of(
        decided(course, decisions), decisions, warnings, options.min_sd_days, options.confirm_days, options.irecist
    )
    _write(outcome, volumes, options, progress)
    progress.close()

    from LesionDetectorLib.report import course_text

    print(course_text.compose(outcome))
    print(f"Page, pairs and tables: {printable(str(options.out.resolve()))}")
    return 0


def _days(value: str) -> int:
    days = int(value)
    if days < 0:
        raise argparse.ArgumentTypeError(f"{value} is less than 0 days")
    return days


def _check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is read."""
    if len(options.studies) < 2:
        raise Refusal("Lesions are followed over two studies or more: give another study of the patient.")
    if options.out.exists() and not options.out.is_dir():
        raise Refusal(f"{options.out} is a file; give a folder for the results.")
    if options.pairs is None and (options.out / PAIRS).exists():
        raise Refusal(
            f"{options.out / PAIRS} is there and may hold what a reader decided: go on from it with --pairs "
            f"{options.out / PAIRS}, or give another folder."
        )
    if options.pairs is not None and not options.pairs.is_file():
        raise Refusal(f"{options.pairs} does not exist: give the pairs.csv that was filled in.")
    if options.trial:
        _trial(options)


def _trial(options: argparse.Namespace) -> Trial:
    from LesionDetectorLib.followup.cdisc import Trial

    return Trial(*options.trial)


def _readings(studies: Sequence[Taken], options: argparse.Namespace, progress: Progress) -> list[Reading]:
    """The readings that were given, and those of the detector where none was."""
    detectors = load_detectors(options) if any(study.reading is None for study in studies) else []
    readings = []
    for study in studies:
        readings.append(study.reading or find(study.volume, detectors, options, progress))
        progress.close()
    return readings


def _visits(
    volumes: Sequence[Volume], readings: Sequence[Reading], dates: Sequence[tuple], progress: Progress
) -> tuple[list[Visit], list[str]]:
    """The studies, each laid over the last one, and what a reader must know of that and of the CTs."""
    from LesionDetectorLib.followup.alignment import Alignment, align
    from LesionDetectorLib.followup.matching import Study

    visits, warnings = [], []
    for number, (volume, reading, (day, said_by)) in enumerate(zip(volumes, readings, dates), start=1):
        progress("align", number - 1, len(volumes))
        is_last = number == len(volumes)
        alignment = Alignment() if is_last else align(volume, volumes[-1])
        warnings += [f"Study {number}: {sentence}" for sentence in (*reading.warnings, *alignment.warnings)]
        visits.append(Visit(day, Study(reading, alignment), said_by))
    progress("align", len(volumes), len(volumes))
    progress.close()
    return visits, warnings


def _results(folder: Path) -> list[Path]:
    """The results in a folder, relative to it. What else lies there is the user's."""
    numbered = [*folder.glob("lesions_[0-9]*.json"), *folder.glob("lesions_[0-9]*.dcm")]
    return [path.relative_to(folder) for path in (*(folder / name for name in RESULTS), *numbered) if path.is_file()]


def _write(outcome: Outcome, volumes: Sequence[Volume], options: argparse.Namespace, progress: Progress) -> None:
    """Write all results; a stop on the way leaves `options.out` as it was."""
    from LesionDetectorLib.exchange import course_json, pairs_csv
    from LesionDetectorLib.report import course_page, course_text

    with new_results(options.out, _results) as folder:
        write_text(folder / PAIRS, pairs_csv.compose(outcome.course, outcome.decisions))
        write_text(folder / "follow.txt", course_text.compose(outcome))
        write_text(folder / "follow.json", course_json.dumps(outcome))
        page = course_page.compose(outcome, volumes, lambda done, total: progress("pictures", done, total))
        write_text(folder / "follow.html", page)
        progress.close()
        for number, visit in enumerate(outcome.course.visits, start=1):
            write(folder / f"lesions_{number}.json", BY_NAME["json"], visit.study.reading, {})
        notes = [
            *(_write_trial(outcome, folder, options) if options.trial else ()),
            *(_write_sr(outcome.course, volumes, folder) if options.sr else ()),
        ]
    progress.close()
    for note in notes:
        print(f"Note: {printable(note)}", file=sys.stderr)


def _write_trial(outcome: Outcome, folder: Path, options: argparse.Namespace) -> Iterator[str]:
    """Write the tables of a trial; a sentence if there is no response to put in."""
    if not outcome.assessments:
        yield "There is no response, so tu.csv, tr.csv and rs.csv were not written."
        return
    from LesionDetectorLib.followup import cdisc

    entries, trial = outcome.assessments, _trial(options)
    write_text(folder / "tu.csv", cdisc.tu(entries, trial))
    write_text(folder / "tr.csv", cdisc.tr(entries, trial))
    write_text(folder / "rs.csv", cdisc.rs(entries, trial, outcome.immune or None))


def _write_sr(course: Course, volumes: Sequence[Volume], folder: Path) -> Iterator[str]:
    """Write a DICOM SR of each study, in which a confirmed lesion has one tracking UID over all of them; sentences on
    what was left out."""
    from LesionDetectorLib.exchange.dicom_source import source_slices

    for number, volume in enumerate(volumes, start=1):
        reading = tracked(course, number - 1)
        if reading.dicom is None or not reading.reported:
            why = "is not DICOM" if reading.dicom is None else "has no lesion to report"
            yield f"Study {number} {why}, so there is no lesions_{number}.dcm."
            continue
        slices = source_slices(volume.source, reading)
        for note in write(folder / f"lesions_{number}.dcm", BY_NAME["sr"], reading, {"slices": slices}):
            yield f"Study {number}: {note}"
