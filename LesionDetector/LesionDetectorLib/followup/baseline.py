"""RECIST 1.1 at baseline: which lesions are measurable, which of them are targets or may be, and the sum of their
diameters.

The rules are those of Eisenhauer et al., Eur. J. Cancer 45 (2009) 228-247, for CT; that all lymph nodes are one organ
is EORTC's answer to a question about them. Nothing is decided silently: every lesion gets a category and the reason for
it, and what neither a box nor a label tells (a lymph node, the soft-tissue part of a bone lesion, ascites, earlier
radiation, the choice of targets) is the reader's to mark.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum

from LesionDetectorLib.lesion import Axis, BodyPart, Lesion, Mark, ReviewStatus
from LesionDetectorLib.reading import Reading

MEASURABLE_MM = 10.0
MEASURABLE_NODE_MM = 15.0
ENLARGED_NODE_MM = 10.0
THICKEST_SLICE_MM = 5.0
TARGETS = 5
TARGETS_PER_ORGAN = 2

LYMPH_NODES = "Lymph nodes"
WITHOUT_NODES = {BodyPart.BONE, BodyPart.LIVER, BodyPart.LUNG, BodyPart.KIDNEY}
HEADING = "RECIST 1.1 baseline"
COLUMNS = ("Lesion", "Organ", "Category", "Diameter", "Reason")


class Category(StrEnum):
    """What a lesion is at baseline. A candidate is a target that the program proposes and no reader has chosen."""

    TARGET = "target"
    CANDIDATE = "target candidate"
    NON_TARGET = "non-target"
    NORMAL = "normal node"
    UNCONFIRMED = "not confirmed"


def counted_axis(lesion: Lesion) -> Axis:
    """The axis that RECIST counts: the short one where a reader marked a lymph node, else the long one."""
    return Axis.SHORT if Mark.LYMPH_NODE in lesion.marks else Axis.LONG


def counted_mm(lesion: Lesion, axis: Axis) -> float | None:
    """The length of an axis in mm, rounded as it is printed; None if unknown."""
    recist = lesion.recist
    return None if recist is None else round(recist.short_mm if axis is Axis.SHORT else recist.long_mm, 1)


@dataclass(frozen=True, slots=True)
class Entry:
    """One lesion at baseline: its number in the report, its category, and the sentence that says why."""

    number: int
    lesion: Lesion
    category: Category = Category.CANDIDATE
    reason: str = ""

    @property
    def organ(self) -> str:
        """Its body part; all lymph nodes are one organ."""
        return LYMPH_NODES if self.axis is Axis.SHORT else self.lesion.body_part.title

    @property
    def axis(self) -> Axis:
        """The axis that RECIST counts: the short one of a lymph node, else the long one."""
        return counted_axis(self.lesion)

    @property
    def diameter_mm(self) -> float | None:
        """The diameter that RECIST counts, None if unknown.

        Rounded as it is printed, so that what is read is compared and added.
        """
        return counted_mm(self.lesion, self.axis)

    @property
    def is_target(self) -> bool:
        """Whether the sum of diameters has it."""
        return self.category in (Category.TARGET, Category.CANDIDATE)

    @property
    def cells(self) -> tuple[str, ...]:
        """What a table says under `COLUMNS`."""
        diameter = "" if self.diameter_mm is None else f"{self.diameter_mm:.1f} mm {self.axis}"
        return str(self.number), self.organ, self.category.value, diameter, self.reason


@dataclass(frozen=True, slots=True)
class Baseline:
    """The lesions of a report at baseline, and sentences on what a reader must know or check."""

    entries: tuple[Entry, ...]
    notes: tuple[str, ...]

    @property
    def sum_mm(self) -> float | None:
        """The sum of the diameters of all targets, or of the candidates while no reader has chosen.

        None without any.
        """
        diameters = [entry.diameter_mm for entry in self.entries if entry.is_target]
        return round(sum(diameters), 1) if diameters else None

    @property
    def total(self) -> str:
        """One sentence with the sum of diameters."""
        targets = [entry for entry in self.entries if entry.is_target]
        if not targets:
            return "No target, so there is no sum of diameters."
        return f"Sum of diameters of the {targets[0].category}s ({_listed(targets)}): {self.sum_mm:.1f} mm."


def assess(reading: Reading) -> Baseline:
    """The baseline of the lesions that the report of `reading` shows, in its order.

    Only those that a reader accepted are counted.
    """
    slice_mm = max(reading.geometry.spacing[2], reading.slice_thickness or 0)
    judged = [_judged(Entry(number, lesion), slice_mm) for number, lesion in enumerate(reading.reported, start=1)]
    others = [entry for entry in judged if entry.category is not Category.CANDIDATE]
    picked = _picked([entry for entry in judged if entry.category is Category.CANDIDATE])
    entries = sorted(map(_with_refused_choice, others + picked), key=lambda entry: entry.number)
    return Baseline(tuple(entries), tuple(_notes(reading, entries)))


def as_text(baseline: Baseline) -> str:
    """The table in aligned columns, the sum of diameters and the notes; without a line's end at the end."""
    rows = [COLUMNS, *(entry.cells for entry in baseline.entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS) - 1)]
    table = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[-1]]) for row in rows]
    return "\n\n".join([f"{HEADING}:", "\n".join(table), baseline.total, "\n".join(baseline.notes)])


def _judged(entry: Entry, slice_mm: float) -> Entry:
    """The entry with what its lesion is by itself, a candidate if it is measurable, and why."""
    category, reason = _rule(entry, slice_mm)
    return replace(entry, category=category, reason=reason)


def _rule(entry: Entry, slice_mm: float) -> tuple[Category, str]:
    node, marks, diameter = entry.axis is Axis.SHORT, entry.lesion.marks, entry.diameter_mm
    size = f"{entry.axis} axis {diameter} mm"
    least = MEASURABLE_NODE_MM if node else MEASURABLE_MM
    twice = round(2 * slice_mm, 1)
    if entry.lesion.status is not ReviewStatus.ACCEPTED:
        return Category.UNCONFIRMED, "No reader has accepted it."
    if diameter is None:
        return Category.NON_TARGET, "Not measurable: it has no axes."
    if node and diameter < ENLARGED_NODE_MM:
        return Category.NORMAL, f"Normal, not recorded: {size}, below {ENLARGED_NODE_MM:.0f} mm."
    if Mark.NOT_MEASURABLE in marks:
        return Category.NON_TARGET, "Not measurable: a reader marked it so."
    if entry.lesion.body_part is BodyPart.BONE and not node and Mark.SOFT_TISSUE_PART not in marks:
        return Category.NON_TARGET, "Not measurable: a bone lesion, and no reader marked a soft-tissue part."
    if diameter < least:
        return Category.NON_TARGET, f"Not measurable: {size}, below {least:.0f} mm."
    if diameter < twice:
        return Category.NON_TARGET, f"Not measurable: {size}, below {twice} mm, twice the slice thickness."
    return Category.CANDIDATE, f"Measurable: {size}"


def _picked(measurable: list[Entry]) -> list[Entry]:
    """The measurable lesions as targets, candidates or non-targets.

    Targets are those that a reader chose, or, where none was chosen, the candidates: the largest lesion of every organ
    before a second of any, for targets should be large and stand for all organs involved.
    """
    chosen = [entry for entry in measurable if Mark.TARGET in entry.lesion.marks]
    category = Category.TARGET if chosen else Category.CANDIDATE
    by = "chosen by a reader" if chosen else "proposed by its size"
    places, ranked = Counter(), []
    for entry in sorted(chosen or measurable, key=lambda entry: -entry.diameter_mm):
        ranked.append((places[entry.organ], entry))
        places[entry.organ] += 1
    done = []
    for taken, (place, entry) in enumerate(sorted(ranked, key=lambda item: item[0])):
        if place >= TARGETS_PER_ORGAN:
            done.append(_passed_over(entry, f"at most {TARGETS_PER_ORGAN} targets an organ, the largest"))
        elif taken >= TARGETS:
            done.append(_passed_over(entry, f"at most {TARGETS} targets, the largest of every organ first"))
        else:
            done.append(replace(entry, category=category, reason=f"{entry.reason}; {by}."))
    left = [entry for entry in measurable if chosen and entry not in chosen]
    return done + [_passed_over(entry, "a reader chose others as targets") for entry in left]


def _passed_over(entry: Entry, why: str) -> Entry:
    return replace(entry, category=Category.NON_TARGET, reason=f"{entry.reason}; {why}.")


def _with_refused_choice(entry: Entry) -> Entry:
    """The entry, with a word to the reader who chose it as a target in vain."""
    if Mark.TARGET not in entry.lesion.marks or entry.category is Category.TARGET:
        return entry
    return replace(entry, reason=f"{entry.reason} A reader chose it as a target; it is not counted as one.")


def _notes(reading: Reading, entries: list[Entry]) -> list[str]:
    notes = []
    if any(entry.category is Category.CANDIDATE for entry in entries):
        notes.append("The candidates are a proposal: no reader has chosen a measurable lesion as a target.")
    unconfirmed = [entry for entry in entries if entry.category is Category.UNCONFIRMED]
    if unconfirmed:
        notes.append(f"Not counted until a reader accepts or rejects: {_listed(unconfirmed)}.")
    unmarked = [entry for entry in entries if entry.axis is Axis.LONG and entry.lesion.body_part not in WITHOUT_NODES]
    unmarked = [entry for entry in unmarked if entry.category is not Category.UNCONFIRMED]
    if unmarked:
        notes.append(f"Measured by the long axis, because no reader marked a lymph node: {_listed(unmarked)}.")
    notes.append("Body parts stand for organs; all lymph nodes are one organ.")
    apart = reading.geometry.spacing[2]
    if reading.slice_thickness is None:
        notes.append(f"The slice thickness is unknown: the distance of the slices, {apart:.1f} mm, stands in for it.")
    else:
        notes.append(
            f"Slices are {reading.slice_thickness:.1f} mm thick and {apart:.1f} mm apart; the larger counts as slice "
            "thickness."
        )
    if round(max(apart, reading.slice_thickness or 0), 1) > THICKEST_SLICE_MM:
        notes.append(f"RECIST 1.1 asks for slices of at most {THICKEST_SLICE_MM:.0f} mm.")
    notes.append("Check that the CT was made at most 4 weeks before the treatment began.")
    return notes


def _listed(entries: list[Entry]) -> str:
    return ("lesion " if len(entries) == 1 else "lesions ") + ", ".join(str(entry.number) for entry in entries)
