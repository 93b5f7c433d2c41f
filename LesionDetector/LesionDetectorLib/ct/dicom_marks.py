"""Headers that tell apart the images of one place (energies, phases, reconstructions), and what an image type says
of an image."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

SHARP = re.compile("LUNG|BONE|EDGE|DETAIL|SHARP", re.IGNORECASE)  # in the names of convolution kernels
USUAL_KV = 120


@dataclass(frozen=True)
class Mark:
    """A header that tells apart images of one place."""

    keyword: str
    text: str  # how a value is named: "{} kV"
    plural: str
    macro: str = ""  # the functional group of a frame that holds it; "" for a header of the whole file


MARKS = (
    Mark("KVP", "{} kV", "energies"),
    Mark("KVP", "{} kV", "energies", "CTXRayDetailsSequence"),
    Mark("TemporalPositionIdentifier", "temporal position {}", "phases"),
    Mark("TemporalPositionIndex", "temporal position {}", "phases"),
    Mark("TemporalPositionIndex", "temporal position {}", "phases", "FrameContentSequence"),
    Mark("TemporalPositionTimeOffset", "the phase at {} s", "phases", "TemporalPositionSequence"),
    Mark("NominalPercentageOfCardiacPhase", "the heart phase at {}%", "phases"),
    Mark("NominalPercentageOfCardiacPhase", "the heart phase at {}%", "phases", "CardiacSynchronizationSequence"),
    Mark("NominalCardiacTriggerDelayTime", "the heart phase at {} ms", "phases", "CardiacSynchronizationSequence"),
    Mark("TriggerTime", "trigger time {} ms", "phases"),
    Mark("ContrastBolusAgent", "contrast agent {}", "phases"),
    Mark("ContrastBolusAgentNumber", "contrast agent {}", "phases", "ContrastBolusUsageSequence"),
    Mark("ConvolutionKernel", "kernel {}", "reconstructions"),
    Mark("ConvolutionKernel", "kernel {}", "reconstructions", "CTReconstructionSequence"),
    Mark("SliceThickness", "thickness {} mm", "reconstructions"),
    Mark("ImageType", "image type {}", "image types"),
    Mark("FrameType", "frame type {}", "image types", "CTImageFrameTypeSequence"),
    Mark("RescaleType", "rescale type {}", "rescale types"),
    Mark("StudyInstanceUID", "study {}", "studies"),
    Mark("FrameOfReferenceUID", "frame of reference {}", "frames of reference"),
    Mark("SeriesNumber", "series number {}", "series"),
    Mark("SeriesDescription", "series description {}", "series"),
    Mark("AcquisitionNumber", "acquisition {}", "acquisitions"),
    Mark("FrameAcquisitionNumber", "acquisition {}", "acquisitions", "FrameContentSequence"),
    Mark("StackID", "stack {}", "stacks", "FrameContentSequence"),
    *(
        Mark(f"DimensionIndexValues.{axis}", f"dimension index {axis + 1} = {{}}", "images", "FrameContentSequence")
        for axis in range(5)
    ),
)
COUNTS = (
    Mark("AcquisitionNumber", "acquisition {}", "acquisitions"),
    Mark("AcquisitionDateTime", "acquisition time {}", "acquisitions"),
    Mark("FrameAcquisitionDateTime", "acquisition time {}", "acquisitions", "FrameContentSequence"),
    Mark("FrameReferenceDateTime", "acquisition time {}", "acquisitions", "FrameContentSequence"),
    Mark("AcquisitionTime", "acquisition time {}", "acquisitions"),
    Mark("ContentTime", "content time {}", "acquisitions"),
    Mark("InstanceNumber", "instance number {}", "acquisitions"),
)
"""Numbers and times that may differ in every image, and grow from one run over the body to the next."""

PROJECTED = "sizes are those of a projection, not of slices"
NO_HU = "its values may be no Hounsfield units"
KINDS = (
    ("MIN(IMUM)?[ _]?IP|MNIP|MINIMUM", "a minimum intensity projection", PROJECTED),
    ("[A-Z]*MIP|MAX(IMUM)?[ _]?IP|MAXIMUM", "a maximum intensity projection", PROJECTED),
    ("AVERAGE|AVG|AVE[ _]?IP|AIP|MEAN|RAY[ _]?SUM|ADDITION", "an average of several images", PROJECTED),
    ("PROJECTION", "a projection", PROJECTED),
    ("VOLUME_RENDER|SURFACE_RENDER|VRT|SSD", "a rendering", NO_HU),
    ("SUBTRACT(ION|ED)", "a difference of images", NO_HU),
    ("SCREEN[ _]?(SAVE|SHOT)|SECONDARY[ _]CAPTURE", "a picture of a screen", NO_HU),
)
SPECTRAL = (
    "EFF_?ATOMIC|EFFECTIVE[ _]Z|Z[ _]?EFF|EFF_Z|ELECTRON[ _]?DENSITY|MAT_(SPECIFIC|FRACTIONAL|VALUE)|IODINE|RHO[ _/]?Z"
)
HU_TYPES = ("", "HU", "US", "UNSPECIFIED", "HOUNSFIELD", "HOUNSFIELD UNIT", "HOUNSFIELD UNITS")  # US: not specified


def kind(image_type: str) -> tuple[str, str]:
    """What an image is that is not a plain slice ("a maximum intensity projection"), and what follows for a reader.

    "" both for a slice.
    """
    return next(((name, caution) for words, name, caution in KINDS if _says(words, image_type)), ("", ""))


def is_spectral_map(image_type: str) -> bool:
    """Whether an image shows a material, a density or an effective atomic number."""
    return _says(SPECTRAL, image_type) and not _says("NON|REMOVED|MINUS|FREE", image_type)


def _says(words: str, image_type: str) -> bool:
    return re.search(f"(?<![A-Z])({words})(?![A-Z])", image_type.upper()) is not None


def preference(mark: Mark, value: str) -> tuple[float, float, str]:
    """Sorts values of `mark` so that the one comes first that is read: the energy next to 120 kV, the smoothest
    kernel, the first phase."""
    if not value:
        return np.inf, 0.0, value
    if mark.keyword == "KVP" and number(value) is not None:
        return abs(number(value) - USUAL_KV), number(value), value
    if mark.keyword == "ConvolutionKernel":
        strength = re.search(r"\d+", value)
        return float(SHARP.search(value) is not None), float(strength[0]) if strength else 0.0, value
    return float(number(value) is None), number(value) or 0.0, value


def number(text: str) -> float | None:
    """`text` as a number, None where it is none."""
    try:
        return float(text)
    except ValueError:
        return None
