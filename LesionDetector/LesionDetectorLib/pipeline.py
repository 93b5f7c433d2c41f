"""A CT in, labelled and measured lesions out: the one function that every face calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from LesionDetectorLib.ct import Volume
from LesionDetectorLib.detect import Detector, SliceBoxes, batched, detect
from LesionDetectorLib.lesion import Lesion, Recist, stable_id
from LesionDetectorLib.levels import SliceOrder, locate
from LesionDetectorLib.measure.margins import DETECTOR_MARGIN_MM, pixels
from LesionDetectorLib.measure.outline import measure_each
from LesionDetectorLib.plausible import plausible
from LesionDetectorLib.stack import Candidate, stack

LOWEST_CONFIDENCE = 0.2
"""Fainter lesions are dropped at once.

Those between this and a report's threshold are kept, so that a reader can lower it.
"""
MOST_LESIONS = 300
_MEASURED_AT_ONCE = 50


def find_lesions(
    volume: Volume,
    detectors: Sequence[Detector],
    lowest_confidence: float = LOWEST_CONFIDENCE,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    warn: Callable[[str], None] = lambda sentence: None,
) -> list[Lesion]:
    """The lesions on `volume`, best first; several detectors are fused.

    `progress(stage, done, total)` hears of the stages "detect" and "measure" and may raise to stop; `warn` gets a
    sentence where the work goes on otherwise than asked (see `detect.detect` and `candidates`).
    """
    slices = detect(volume, detectors, lambda done, total: progress("detect", done, total), warn)
    found = candidates(volume, slices, lowest_confidence, warn)
    return measured(volume, found, lambda done, total: progress("measure", done, total))


def located(
    volume: Volume, lesions: Sequence[Lesion], warn: Callable[[str], None] = lambda sentence: None
) -> list[Lesion]:
    """The lesions with their places in the body, where the pictures tell; `warn` hears if they do not.

    `find_lesions` leaves this out as long as the regressor that ships mistakes shoulders of patients (its card). For
    the same reason slices that seem reversed or in no order are not said to be so: the regressor may be wrong.
    """
    if not lesions:
        return []
    levels = locate(volume)
    if levels is None or levels.order in (SliceOrder.REVERSED, SliceOrder.UNORDERED):
        warn(
            f"Where in the body the slices of {volume.source.name} lie could not be told from what they show: its "
            "lesions have no location."
        )
        return list(lesions)
    return [lesion.edited(location=levels.location(lesion.key_slice, lesion.box)) for lesion in lesions]


def candidates(
    volume: Volume,
    slices: Iterable[SliceBoxes],
    lowest_confidence: float = LOWEST_CONFIDENCE,
    warn: Callable[[str], None] = lambda sentence: None,
) -> list[Candidate]:
    """The boxes of all slices, stacked: those that are plausible and reach a confidence, best first.

    They are MOST_LESIONS at most; `warn` is told of those left out.
    """
    stacked = stack(slices, lowest_confidence=lowest_confidence, spacing=volume.spacing)
    found = [candidate for candidate in plausible(volume, stacked) if candidate.confidence >= lowest_confidence]
    left_out = found[MOST_LESIONS:]
    if left_out:
        warn(
            f"{len(found)} possible lesions were found, and only the surest {MOST_LESIONS} are kept: "
            f"{len(left_out)} are left out, with a confidence of {100 * left_out[0].confidence:.0f} % or less."
        )
    return found[:MOST_LESIONS]


def measured(
    volume: Volume, found: Sequence[Candidate], progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Lesion]:
    """Candidates as lesions with their axes; `progress(done, total)` is called now and then."""
    margin_px = pixels(DETECTOR_MARGIN_MM, volume.spacing)
    lesions = []
    for some in batched(found, _MEASURED_AT_ONCE):
        axes = measure_each(
            [(volume.hu[candidate.key_slice], candidate.box) for candidate in some], volume.spacing[:2], margin_px
        )
        lesions += [_lesion(volume, candidate, recist) for candidate, recist in zip(some, axes)]
        progress(len(lesions), len(found))
    return lesions


def _lesion(volume: Volume, candidate: Candidate, recist: Recist) -> Lesion:
    return Lesion(
        body_part=candidate.body_part,
        confidence=candidate.confidence,
        key_slice=candidate.key_slice,
        slices=candidate.slices,
        box=candidate.box,
        recist=recist,
        id=stable_id(volume.series_uid, candidate.key_slice, candidate.box, candidate.body_part),
    )
