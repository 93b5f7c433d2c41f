"""The structured report: the "Lesions" sub-section for the findings of a radiology report.

The layout is that of Erickson, Mathai, Summers, "Class Imbalance Correction for Improved Universal Lesion Detection and
Tagging in CT", 2025: the lesions with their body part and confidence, grouped by study, series and slice, numbered over
the whole list.
"""

from __future__ import annotations

from itertools import groupby

from LesionDetectorLib.followup.baseline import as_text, assess
from LesionDetectorLib.lesion import Lesion
from LesionDetectorLib.reading import Reading

# The wording: change it here. Names in braces are filled in; the names of the body parts are in lesion.py.
HEADING = "Lesions:"
SERIES = "Study: {study}, Series: {series}"
SLICE = "Slice: {slice}"
LESION = "{number}. Lesion {number}: {body_part}"
CONFIDENCE = " ({confidence:.0%})"
DIAMETERS = ", {long_mm:.0f} x {short_mm:.0f} mm"
LOCATION = "\n   Location (experimental): {location}"
NO_LESION = "No lesion was found with a confidence of at least {confidence:.0%}. This does not rule out a lesion."
WARNING = "Note: {warning}"
NOT_A_MEDICAL_DEVICE = "Not a medical device: a radiologist must check every finding."
FOOTER = "Made by LesionDetector {version}. " + NOT_A_MEDICAL_DEVICE


def compose(reading: Reading, diameters: bool = False, baseline: bool = False) -> str:
    """The report as text.

    With `diameters`, each measured lesion's long and short axis in mm after its confidence, and where in the body it
    lies, if known, on a line of its own; with `baseline`, the RECIST 1.1 baseline.
    """
    paragraphs = [HEADING, SERIES.format(study=reading.study, series=reading.series)]
    numbered = list(enumerate(reading.reported, start=1))
    for k, on_slice in groupby(numbered, key=lambda entry: entry[1].key_slice):
        slice_line = SLICE.format(slice=reading.slice_number(k))
        if k == numbered[0][1].key_slice:
            paragraphs[-1] += "\n" + slice_line
        else:
            paragraphs.append(slice_line)
        paragraphs.append("\n".join(_line(number, lesion, diameters) for number, lesion in on_slice))
    if not numbered:
        paragraphs.append(NO_LESION.format(confidence=reading.confidence))
    if baseline:
        paragraphs.append(as_text(assess(reading)))
    paragraphs += [WARNING.format(warning=warning) for warning in reading.warnings]
    paragraphs.append(FOOTER.format(version=reading.software_version))
    return "\n\n".join(paragraphs) + "\n"


def _line(number: int, lesion: Lesion, diameters: bool) -> str:
    line = LESION.format(number=number, body_part=lesion.body_part.title)
    if lesion.confidence is not None:
        line += CONFIDENCE.format(confidence=lesion.confidence)
    if diameters and lesion.recist is not None:
        line += DIAMETERS.format(long_mm=lesion.recist.long_mm, short_mm=lesion.recist.short_mm)
    if diameters and lesion.location is not None:
        line += LOCATION.format(location=lesion.location)
    return line
