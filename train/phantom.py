"""Synthetic CT studies of a torso with lesions of the eight labels, in DeepLesion's layout, as NRRD or as DICOM.

A study is a random `Patient` seen by a random scanner (pixel size, slice interval and thickness, point spread,
correlated noise, couch) with random lesions in it. Every slice is rendered by itself, so a training set holds only the
slices round its key slices. The same seed gives the same bytes, whatever the number of workers.

Like the marks of readers, those of a set may be some of its lesions only (`--marks`), on key slices or on all
(`--annotate`). Where whole series are written (`--slices all`), `lesions.csv` has every lesion on every slice, marked
or not: a row as of `DL_info.csv`, the number of the lesion in its patient, whether it is its key slice, and
whether `DL_info.csv` has it.

With `--studies`, DeepLesion's layout follows the same lesions up, for training. NRRD and DICOM follow a patient up as
in life: lesions grow and shrink, from study to study a fifth vanishes and a fifth as many come new, some split, and
table, scanner and day differ. `follow_up.csv` has a row for each lesion of every study: which of the patient's it is,
where its middle lies in LPS mm of the file, its label, and its slice number and axes where it can be measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import SimpleITK
from LesionDetectorLib.files import is_taken, whole_folder
from LesionDetectorLib.lesion import BodyPart, Recist
from tqdm import tqdm

from train.data import layout
from train.synthetic.dicom import write_dicom
from train.synthetic.lesions import SyntheticLesion
from train.synthetic.shapes import Array
from train.synthetic.sites import LOG_LESIONS, LOG_LESIONS_SPREAD, MOST_LESIONS, REGIONS
from train.synthetic.study import Study
from train.synthetic.visits import Visit, course

FOLLOWED = ("Patient", "Study", "Series", "Date", "Lesion", "Label", "X", "Y", "Z", "Slice", "Long_mm", "Short_mm")
"""The columns of `follow_up.csv`."""


@dataclass(frozen=True)
class Plan:
    """What a data set holds; one for all patients.

    lesions: of a patient; None for as many as in DeepLesion. marks: of each label the share of lesions that is marked,
    None for all. whole: every slice is written. annotate_all: marks are on every slice, not on key slices alone.
    studies: of a patient, with the same lesions, or, but in DeepLesion's layout, as `visits.course` changes them.
    """

    out: Path
    seed: int
    layout: str
    lesions: int | None
    context_mm: float
    balanced: bool
    region: str
    size: int
    interval: float | None = None
    marks: Mapping[BodyPart, float] | None = None
    whole: bool = False
    annotate_all: bool = False
    studies: int = 1


def write_patient(plan: Plan, number: int, split: int) -> tuple[list[dict], list[dict]]:
    """Render and write patient `number`; the rows of its `DL_info.csv` and of its `follow_up.csv`."""
    lesions = natural_lesions(plan.seed, number) if plan.lesions is None else plan.lesions
    study = Study((plan.seed, number), lesions, plan.balanced, plan.size, plan.region, plan.interval)
    if plan.layout == "deeplesion":
        rows = _write_study(plan, study, number, split)
        for again in range(2, plan.studies + 1):
            later = study.follow_up((plan.seed, number, again), plan.region, plan.interval)
            rows += _write_study(plan, later, number, split, again)
        return rows, []
    visits = course(study, (plan.seed, number), plan.studies, [plan.region], plan.interval)
    rows, truth = [], []
    for index, visit in enumerate(visits, start=1):
        rows += _write_visit(plan, visit, number, split, index)
        truth += _truth(visit, number, index)
    return rows, truth


def _write_visit(plan: Plan, visit: Visit, number: int, split: int, index: int) -> list[dict]:
    """Write a study as one volume; its rows."""
    study, series = visit.study, layout.series_folder(number, index)
    shown = range(study.slices - 1, -1, -1)
    hu = np.stack([study.render(k) for k in shown])
    if plan.layout == "nrrd":
        image = SimpleITK.GetImageFromArray(hu)
        image.SetSpacing((study.frame.pixel, study.frame.pixel, study.scanner.interval))
        image.SetOrigin(visit.corner_mm(shown[0]).tolist())
        SimpleITK.WriteImage(image, str(plan.out / f"{series}.nrrd"), True)
    else:
        write_dicom(visit, hu, number, plan.seed, plan.out / series, index)
    return _rows(study, number, split, None, from_feet=True, index=index)[0]


def _truth(visit: Visit, number: int, index: int) -> list[dict]:
    """A row of `follow_up.csv` for each lesion of a study that its slices reach."""
    study, rows = visit.study, []
    for lesion, which in zip(visit.study.lesions, visit.numbers):
        key = study.key_slice(lesion)
        if abs(study.z(key) - lesion.centre_mm[2]) > lesion.extent_mm[2]:
            continue
        recist = next((axes for other, axes in study.measured(key) if other is lesion), None)
        place = np.add(lesion.centre_mm, visit.shift_mm)
        size = (
            ("", "", "") if recist is None else (study.slices - key, f"{recist.long_mm:.2f}", f"{recist.short_mm:.2f}")
        )
        series = layout.series_folder(number, index)
        values = (
            number,
            index,
            series,
            visit.day,
            which,
            lesion.body_part.title,
            *(f"{mm:.2f}" for mm in place),
            *size,
        )
        rows.append(dict(zip(FOLLOWED, values, strict=True)))
    return rows


def _write_study(plan: Plan, study: Study, number: int, split: int, index: int = 1) -> list[dict]:
    """Write the slices of a study, the `index`-th of its patient; its rows."""
    marked = _marked(plan, study, number, index)
    folder = plan.out / "Images_png" / layout.series_folder(number, index)
    if plan.whole:
        return _write_whole(plan, study, number, split, index, marked)
    rows, shown = _rows(study, number, split, plan.context_mm, index=index, marked=marked)
    for k in shown:
        layout.write_png(folder / f"{k + 1:03d}.png", study.render(k))
    return rows


def _write_whole(
    plan: Plan, study: Study, number: int, split: int, index: int, marked: Sequence[SyntheticLesion]
) -> list[dict]:
    """Write every slice of a study; a row for every lesion on every slice, which says whether it is "Marked"."""
    folder = plan.out / "Images_png" / layout.series_folder(number, index)
    rows = []
    keys = {study.key_slice(lesion) for lesion in marked}
    for k in range(study.slices):
        for lesion, recist in study.measured(k):
            told = lesion in marked and (plan.annotate_all or k in keys)
            row = _row(study, number, split, k, lesion, recist, (k + 1, 1, study.slices), index)
            key = int(k == study.key_slice(lesion))
            rows.append({**row, "Lesion": study.lesions.index(lesion) + 1, "Key": key, "Marked": int(told)})
        layout.write_png(folder / f"{k + 1:03d}.png", study.render(k))
    return rows


def _marked(plan: Plan, study: Study, number: int, index: int) -> list[SyntheticLesion]:
    """The lesions of a study that are marked, by chance, each label by its share."""
    if plan.marks is None:
        return study.lesions
    chance = np.random.default_rng(np.random.SeedSequence((plan.seed, number, index), spawn_key=(10,)))
    drawn = chance.random(len(study.lesions))
    return [lesion for lesion, draw in zip(study.lesions, drawn) if draw < plan.marks[lesion.body_part]]


def natural_lesions(seed: int, number: int) -> int:
    """How many lesions patient `number` has if patients are to differ as in DeepLesion: at least 1, most have few."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, number), spawn_key=(8,)))
    return int(np.clip(np.rint(rng.lognormal(LOG_LESIONS, LOG_LESIONS_SPREAD)), 1, MOST_LESIONS))


def _rows(
    study: Study,
    number: int,
    split: int,
    context_mm: float | None,
    from_feet: bool = False,
    index: int = 1,
    marked: Sequence[SyntheticLesion] | None = None,
) -> tuple[list[dict], list[int]]:
    """One row per `marked` lesion (None: all) and key slice on which it is worth annotating, and the slices to render:
    `context_mm` either side (None: all).

    Rows number slices from 1 at the head, as DeepLesion does, or `from_feet`, as a report on a CT from another file
    does.
    """
    rows: list[dict] = []
    shown: set[int] = set()
    marked = study.lesions if marked is None else marked
    reach = study.slices if context_mm is None else int(np.ceil(context_mm / study.scanner.interval))
    for key in sorted({study.key_slice(lesion) for lesion in marked}):
        measured = [(lesion, recist) for lesion, recist in study.measured(key) if lesion in marked]
        first, last = max(0, key - reach), min(study.slices - 1, key + reach)
        if measured:
            shown.update(range(first, last + 1))
        numbers = [study.slices - k if from_feet else k + 1 for k in (key, first, last)]
        rows += [_row(study, number, split, key, lesion, recist, numbers, index) for lesion, recist in measured]
    return rows, sorted(shown)


def _row(
    study: Study,
    number: int,
    split: int,
    key: int,
    lesion: SyntheticLesion,
    recist: Recist,
    numbers: Sequence[int],
    index: int = 1,
) -> dict:
    """A row; `numbers` are those of its key slice, and of the first and the last slice that is written."""
    key_number, one_end, other_end = numbers
    return layout.row(
        number,
        key_number,
        recist,
        lesion.body_part,
        slices=(min(one_end, other_end), max(one_end, other_end)),
        spacing=(study.frame.pixel, study.frame.pixel, study.scanner.interval),
        size=(study.frame.size, study.frame.size),
        location=study.location(recist, key),
        window=(-1500, 500) if lesion.body_part == BodyPart.LUNG else (-175, 275),
        gender="F" if study.patient.female else "M",
        age=study.patient.age,
        split=split,
        study=index,
    )


def split_of(patients: int, percent: Sequence[float], seed: int) -> Array:
    """1, 2 or 3 (train, validation, test) for each of `patients`, in the given shares, in random order."""
    edges = np.cumsum(np.asarray(percent, float) / np.sum(percent))[:2]
    ranks = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(9,))).permutation(patients)
    return 1 + np.searchsorted(edges, (ranks + 0.5) / patients, side="right")


def generate(plan: Plan, first: int, patients: int, percent: Sequence[float], workers: int) -> int:
    """Write a whole data set to `plan.out`; returns the number of rows.

    FileExistsError where the folder holds files already.
    """
    if is_taken(plan.out):
        raise FileExistsError(f"{plan.out} exists and is not empty; choose another --out or remove it.")
    numbers, splits = range(first, first + patients), split_of(patients, percent, plan.seed).tolist()
    with whole_folder(plan.out) as folder:
        work = partial(write_patient, Plan(**{**vars(plan), "out": folder}))
        written: list[tuple[list[dict], list[dict]]] = []
        progress = partial(tqdm, total=patients, unit="patient", disable=not sys.stderr.isatty())
        if workers == 1:
            written += progress(map(work, numbers, splits))
        else:
            with ProcessPoolExecutor(workers) as pool:
                written += progress(pool.map(work, numbers, splits))
        rows, truth = (list(chain.from_iterable(part)) for part in zip(*written))
        marks = [row for row in rows if row.get("Marked", 1)]
        layout.write_csv(folder / "DL_info.csv", marks)
        if plan.whole:
            layout.write_csv(folder / "lesions.csv", rows, ("Lesion", "Key", "Marked"))
        if plan.studies > 1 and plan.layout != "deeplesion":
            layout.write_table(folder / "follow_up.csv", truth, FOLLOWED)
    return len(marks)


def _lesions(text: str) -> int | None:
    if text != "natural" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number of lesions nor natural")
    return None if text == "natural" else int(text)


def _shares(words: Sequence[str], parser: argparse.ArgumentParser) -> dict[BodyPart, float]:
    """The shares that "0.45 lung=0.1" means, the first of all labels; the parser ends the program at any other word."""
    shares: dict[BodyPart, float] = {}
    for word in words:
        label, equals, share = word.rpartition("=")
        try:
            parts = [BodyPart.from_title(label)] if equals else list(BodyPart)
            if not 0 <= float(share) <= 1 or bool(equals) != bool(shares):
                raise ValueError(word)
        except ValueError:
            parser.error(f"--marks: '{word}' is not a share of 0 to 1, or after the first LABEL=SHARE such as lung=0.1")
        shares.update(dict.fromkeys(parts, float(share)))
    return shares


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 when the data set stands, 2 with one sentence on stderr when it cannot."""
    parser = _parser()
    given = parser.parse_args(arguments)
    _check(given, parser)
    plan = Plan(
        given.out,
        given.seed,
        given.format,
        given.lesions_per_patient,
        given.context_mm,
        given.labels == "balanced",
        given.region,
        given.size,
        given.interval_mm,
        _shares(given.marks, parser) if given.marks else None,
        given.slices == "all",
        given.annotate == "all",
        given.studies,
    )
    try:
        rows = generate(plan, given.first_patient, given.patients, given.splits, given.workers)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    print(f"{given.out}: {given.patients} patients, {rows} annotated lesions")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.phantom",
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python -m train.phantom --out data/phantom --patients 40 --seed 0 --labels balanced\n"
        "  python -m train.phantom --out data/deeplesion-like --patients 900 --lesions-per-patient natural --labels "
        "natural\n"
        "  python -m train.phantom --out data/part-marked --marks 0.45 lung=0.1 --slices all --studies 2\n"
        "  python -m train.phantom --out data/ct --patients 1 --format dicom --region chest\n"
        "  python -m train.phantom --out data/followed --patients 10 --format dicom --studies 3\n",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--first-patient", type=int, default=1, help="number of the first patient (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=("deeplesion", "nrrd", "dicom"), default="deeplesion")
    parser.add_argument("--region", choices=tuple(REGIONS), default="torso")
    parser.add_argument(
        "--lesions-per-patient",
        type=_lesions,
        default=6,
        metavar="N",
        help="or natural: 1 to 30, as in DeepLesion (default 6)",
    )
    parser.add_argument(
        "--labels",
        choices=("natural", "balanced"),
        default="natural",
        help="as common as in DeepLesion, or equally common",
    )
    parser.add_argument(
        "--context-mm", type=float, default=5.0, help="slices rendered either side of a key slice (deeplesion only)"
    )
    parser.add_argument(
        "--interval-mm",
        type=float,
        help="distance between slices (default: 1, 2, 2.5 or 5, as common as in DeepLesion)",
    )
    parser.add_argument("--size", type=int, default=512, help="rows and columns of a slice")
    parser.add_argument(
        "--splits",
        type=float,
        nargs=3,
        default=(70, 15, 15),
        metavar=("TRAIN", "VAL", "TEST"),
        help="per cent of patients",
    )
    parser.add_argument("--workers", type=int, default=1)
    _add_marks(parser)
    return parser


def _add_marks(parser: argparse.ArgumentParser) -> None:
    """Which lesions are marked, on which slices, of how many studies."""
    parser.add_argument(
        "--marks",
        nargs="+",
        metavar=("SHARE", "LABEL=SHARE"),
        help="share of the lesions that is marked, all labels first, then single ones: 0.45 lung=0.1 (all are)",
    )
    parser.add_argument(
        "--slices",
        choices=("key", "all"),
        default="key",
        help="write those round key slices, or all, and lesions.csv with every lesion (%(default)s)",
    )
    parser.add_argument(
        "--annotate",
        choices=("key", "all"),
        default="key",
        help="mark lesions on key slices, or on all that show them, with --slices all (%(default)s)",
    )
    parser.add_argument(
        "--studies",
        type=int,
        default=1,
        help="of a patient: the same lesions, or, as nrrd or dicom, as they change, and follow_up.csv (%(default)s)",
    )


def _check(given: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """End the program where an option cannot be."""
    if (
        min(given.patients, given.workers, given.first_patient) < 1
        or (given.lesions_per_patient or 0) < 0
        or given.seed < 0
        or given.size < 64
    ):
        parser.error(
            "--patients, --workers and --first-patient must be at least 1, --size at least 64, --seed and "
            "--lesions-per-patient at least 0"
        )
    if given.studies < 1 or (given.annotate == "all" and given.slices != "all"):
        parser.error("--studies must be at least 1, and --annotate all needs --slices all")
    if given.format != "deeplesion" and (given.marks or given.slices == "all"):
        parser.error("--marks and --slices are for --format deeplesion")
    if min(given.splits) < 0 or sum(given.splits) <= 0 or given.context_mm < 0:
        parser.error("--splits and --context-mm must not be negative, and one split must be more than 0")
    if given.interval_mm is not None and not 0.25 <= given.interval_mm <= 50:
        parser.error("--interval-mm must lie in 0.25..50")


if __name__ == "__main__":
    sys.exit(main())
