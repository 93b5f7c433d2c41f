"""``lesion-detector evaluate``: how many of the known lesions of a CT the detector finds, and what it marks wrongly."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from LesionDetectorLib import ct
from LesionDetectorLib.boxes import pairwise_iou
from LesionDetectorLib.cli.options import Commands, add_command, add_ct, add_detector, share, weights_of
from LesionDetectorLib.files import is_taken, whole_folder, write_text
from LesionDetectorLib.known import Known, known_lesions, read_rows
from LesionDetectorLib.lesion import BodyPart, Lesion, Origin, ReviewStatus
from LesionDetectorLib.measure.margins import DETECTOR_MARGIN_MM, pixels
from LesionDetectorLib.printable import printable
from LesionDetectorLib.refusal import Refusal
from LesionDetectorLib.report import text
from LesionDetectorLib.words import plural, ranges

if TYPE_CHECKING:
    from LesionDetectorLib.stack import Candidate

IOU = 0.3
STEPS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Confidences at which the table has a row."""
CUT = "Only the {} surest findings are kept, so the figures from low confidences on lack some."
EXAMPLES = """
TRUTH is a csv with a box a row, such as

  slice,x1,y1,x2,y2,lesion,label
  45,210,180,262,231,L1,Liver
  46,208,179,263,233,L1,Liver
  88,120.5,301,140,322,L2,

slice   number of the slice as reports and lesions.csv have it, counted from 1: of DICOM from the feet up, of other
        files in their own order; DeepLesion's slices have their own numbers. In its place, slice_file: the name of the
        slice's DICOM file, below the folder of the CT
x1..y2  box in pixels: x along a row, y down the column, the centre of the first pixel is 0. The detector's boxes lie
        about 4 mm outside a lesion; if yours lie close round it, give --tight
lesion  optional: rows of the same name are one lesion; without a name each row is one
label   optional: body part by its name or DeepLesion's code, 1 to 8

A lesions.csv of this program is a TRUTH, too. A finding is right if it overlaps a known lesion (IoU from --iou on) on a
slice that it spans, whatever its label; so each lesion that TRUTH lacks counts as wrong when it is found.

examples:
  lesion-detector evaluate scans/ct1 --truth boxes.csv
  lesion-detector evaluate scans/ct1 --truth reviewed/lesions.csv --weights my.safetensors --confidence 0.3 --out tested
"""


def add(commands: Commands) -> None:
    """Add the command."""
    summary = "compare what the detector finds on a CT with the lesions that are known"
    parser = add_command(commands, "evaluate", summary, EXAMPLES)
    add_ct(parser)
    parser.add_argument(
        "--truth", type=Path, required=True, metavar="TRUTH", help="csv of the known lesions, see below"
    )
    add_detector(parser, needs_out=False)
    parser.add_argument("--iou", type=share, default=IOU, help="overlap from which a finding is right (%(default)s)")
    parser.add_argument("--tight", action="store_true", help="the boxes of TRUTH lie close round the lesions")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Detect, compare, print and, if asked for, write; returns the exit code.

    Refusal and OSError for what cannot be used.
    """
    if options.iou == 0:
        raise Refusal("--iou 0 would make every finding right: give a number above 0.")
    if options.out is not None and is_taken(options.out):
        raise Refusal(f"{options.out} is a file or holds files: give a new folder with --out.")
    rows = read_rows(options.truth)
    unread = sum(row.cell("origin") == Origin.DETECTOR and row.cell("status") == ReviewStatus.PENDING for row in rows)
    if unread:
        _warn(f"{options.truth} holds {plural(unread, 'finding')} of a detector that no reader accepted.")
    volume = ct.read(options.input, options.series)
    for sentence in volume.warnings:
        _warn(sentence)
    margin_px = pixels(DETECTOR_MARGIN_MM, volume.spacing) if options.tight else 0.0
    known = known_lesions(rows, volume, options.input, margin_px)
    from LesionDetectorLib.pipeline import MOST_LESIONS

    found, dropped = _find(volume, options)
    comparison = Comparison.of(known, found, options.iou)
    result = {
        "ct": printable(options.input.absolute().name),
        "weights": [path.stem for path in weights_of(options)],
        "iou": options.iou,
        "tight": options.tight,
        **statement(comparison, volume, options.confidence, MOST_LESIONS if dropped else None),
    }
    print(report(result))
    if options.out is not None:
        with whole_folder(options.out) as folder:
            write_text(folder / "evaluation.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")
            write_text(folder / "evaluation.txt", report(result) + "\n")
            _write_pictures(volume, comparison, options.confidence, folder)
        print(f"Pictures and figures: {printable(str(options.out.resolve()))}")
    return 0


def _warn(sentence: str) -> None:
    print(f"Warning: {printable(sentence)}", file=sys.stderr)


def _find(volume: ct.Volume, options: argparse.Namespace) -> tuple[list[Candidate], bool]:
    """The findings, and whether there were more, which the report says."""
    from tqdm import tqdm

    from LesionDetectorLib.detect import Detector, detect
    from LesionDetectorLib.pipeline import LOWEST_CONFIDENCE, candidates

    detectors = [Detector.load(path, options.device) for path in weights_of(options)]
    with tqdm(desc="detect", unit="slice", file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        slices = detect(volume, detectors, progress, _warn)
    dropped: list[str] = []
    found = candidates(volume, slices, min(options.confidence, LOWEST_CONFIDENCE), dropped.append)
    return found, bool(dropped)


# ------ the comparison


@dataclass(frozen=True)
class Comparison:
    """Known lesions, findings in falling order of confidence, and which of them overlap: hits (findings, lesions)."""

    known: Sequence[Known]
    found: Sequence[Candidate]
    hits: np.ndarray

    @classmethod
    def of(cls, known: Sequence[Known], found: Sequence[Candidate], iou: float) -> Comparison:
        """A finding overlaps a lesion if its box does, from `iou` on, on a slice where the lesion is marked."""
        hits = [[_overlap(finding, lesion) >= iou for lesion in known] for finding in found]
        return cls(known, found, np.array(hits, bool).reshape(len(found), len(known)))

    def shown(self, confidence: float) -> int:
        """How many findings, the first, have at least this confidence."""
        return sum(finding.confidence >= confidence for finding in self.found)

    def finder(self, lesion: int, shown: int) -> Candidate | None:
        """The surest of the first `shown` findings that overlaps a lesion."""
        return next((finding for finding, hit in zip(self.found[:shown], self.hits[:, lesion]) if hit), None)

    def missed(self, shown: int) -> list[Known]:
        """The lesions that none of the first `shown` findings overlaps."""
        return [lesion for lesion, hit in zip(self.known, self.hits[:shown].any(0)) if not hit]

    def wrong(self, shown: int) -> list[Candidate]:
        """Those of the first `shown` findings that overlap no lesion."""
        return [finding for finding, hit in zip(self.found[:shown], self.hits[:shown].any(1)) if not hit]

    def at(self, confidence: float) -> dict[str, Any]:
        """The figures at a confidence."""
        shown = self.shown(confidence)
        wrong, found = len(self.wrong(shown)), len(self.known) - len(self.missed(shown))
        finders = [(lesion.label, self.finder(place, shown)) for place, lesion in enumerate(self.known)]
        return {
            "confidence": confidence,
            "findings": shown,
            "right": shown - wrong,
            "wrong": wrong,
            "lesions_found": found,
            "found_with_the_right_label": sum(bool(finder) and finder.body_part is label for label, finder in finders),
            "sensitivity": found / len(self.known) if self.known else None,
        }


def _overlap(finding: Candidate, lesion: Known) -> float:
    """The largest IoU of a finding and a lesion on one slice."""
    pairs = [(finding.boxes[k], box) for k, box in lesion.boxes if k in finding.boxes]
    return max((float(pairwise_iou(np.array([one]), np.array([other]))[0, 0]) for one, other in pairs), default=0.0)


def statement(comparison: Comparison, volume: ct.Volume, confidence: float, most: int | None) -> dict[str, Any]:
    """All that is found out, for JSON; slices by their numbers in reports, boxes in pixels counted from 0.

    `most` findings, the surest, are compared where there were more; None where there were not.
    """
    shown = comparison.shown(confidence)
    right = comparison.hits[:shown].any(1)
    return {
        "slices": [volume.first_slice, volume.slice_number(len(volume.hu) - 1)],
        "at_the_confidence": comparison.at(confidence),
        "known_lesions": [
            _lesion(lesion, comparison.finder(place, shown), volume) for place, lesion in enumerate(comparison.known)
        ],
        "findings": [
            {
                **_finding(finding, volume),
                "right": bool(is_right),
                "lesions": [lesion.name for lesion, hit in zip(comparison.known, hits) if hit],
            }
            for finding, is_right, hits in zip(comparison.found[:shown], right, comparison.hits)
        ],
        "by_confidence": [comparison.at(step) for step in sorted({*STEPS, confidence})],
        "findings_beyond_are_dropped": most,
    }


def _finding(finding: Candidate, volume: ct.Volume) -> dict[str, Any]:
    return {
        "slice": volume.slice_number(finding.key_slice),
        "first_slice": volume.slice_number(finding.slices[0]),
        "last_slice": volume.slice_number(finding.slices[1]),
        "body_part": finding.body_part.title,
        "confidence": round(finding.confidence, 3),
        "box": [round(value, 1) for value in finding.box],
    }


def _lesion(lesion: Known, finder: Candidate | None, volume: ct.Volume) -> dict[str, Any]:
    known = lesion.label is not None
    return {
        "lesion": lesion.name,
        "slices": sorted({volume.slice_number(k) for k, _ in lesion.boxes}),
        "body_part": lesion.label.title if known else None,
        "found": finder is not None,
        "by": None if finder is None else _finding(finder, volume),
        "label_right": finder.body_part is lesion.label if known and finder is not None else None,
    }


# ------ as text and pictures


def report(result: dict[str, Any]) -> str:
    """The statement as text."""
    now, known = result["at_the_confidence"], result["known_lesions"]
    wrong = [finding for finding in result["findings"] if not finding["right"]]
    paragraphs = [
        f"{plural(now['findings'], 'finding')} with a confidence of at least {_percent(now['confidence'])}: "
        f"{now['right']} right, {now['wrong']} wrong. "
        f"{now['lesions_found']} of {plural(len(known), 'known lesion')} found.",
        _table(
            ("known lesion", "slices", "label", "found", "slice", "confidence", "label of the finding"),
            [_line(lesion) for lesion in known],
        ),
        _table(
            ("wrong finding", "slice", "label", "confidence"),
            [
                (str(number), str(each["slice"]), each["body_part"], _percent(each["confidence"]))
                for number, each in enumerate(wrong, start=1)
            ],
        ),
        _table(
            ("confidence from", "findings", "right", "wrong", "lesions found", "sensitivity", "with the right label"),
            [_step(step) for step in result["by_confidence"]],
        ),
        CUT.format(result["findings_beyond_are_dropped"]) if result["findings_beyond_are_dropped"] else "",
        f"A finding is right if it overlaps a known lesion (IoU >= {result['iou']:g}) on a slice, whatever its label.\n"
        "A lesion that is not among the known ones counts as wrong when it is found.",
        text.NOT_A_MEDICAL_DEVICE,
    ]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def _line(lesion: dict[str, Any]) -> tuple[str, ...]:
    finder, label = lesion["by"], lesion["body_part"] or "-"
    where = lesion["lesion"], ranges(lesion["slices"]), label
    if finder is None:
        return (*where, "no", "-", "-", "-")
    verdict = {True: " (right)", False: " (wrong)", None: ""}[lesion["label_right"]]
    return (*where, "yes", str(finder["slice"]), _percent(finder["confidence"]), finder["body_part"] + verdict)


def _step(step: dict[str, Any]) -> tuple[str, ...]:
    counts = [str(step[name]) for name in ("findings", "right", "wrong", "lesions_found")]
    sensitivity = "-" if step["sensitivity"] is None else _percent(step["sensitivity"])
    return (_percent(step["confidence"]), *counts, sensitivity, str(step["found_with_the_right_label"]))


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Rows below a head, columns as wide as they must be; "" for no row."""
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in (head, *rows)]
    return "\n".join(lines)


class _Missed(Lesion):
    """A known lesion that was not found, for its picture; its id is its name, and where its label is not known its
    body part only chooses the window."""

    __slots__ = ()

    def caption(self, number: int | None) -> str:
        return f"{number or '-'} missed: {self.id}"


def _write_pictures(volume: ct.Volume, comparison: Comparison, confidence: float, folder: Path) -> None:
    """Pictures of the lesions that were missed and of the findings that are wrong, each in the order of the text."""
    from LesionDetectorLib.pipeline import measured
    from LesionDetectorLib.report.figures import write_lesion_pictures

    shown = comparison.shown(confidence)
    missed: list[Lesion] = []
    for lesion in comparison.missed(shown):
        k, box = lesion.largest()
        part = lesion.label or BodyPart.SOFT_TISSUE
        missed.append(_Missed(part, None, k, (k, k), box, origin=Origin.READER, id=lesion.name))
    write_lesion_pictures(volume, missed, folder / "missed")
    write_lesion_pictures(volume, measured(volume, comparison.wrong(shown)), folder / "wrong")
