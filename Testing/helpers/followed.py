"""Lesions at known places, and studies with them, to be followed."""

from __future__ import annotations

from LesionDetectorLib.ct.geometry import Geometry
from LesionDetectorLib.followup.matching import Study
from LesionDetectorLib.lesion import BodyPart, Lesion, Origin, Recist

from Testing.helpers.readings import reading

GEOMETRY = Geometry((400, 400, 100), (1.0, 1.0, 4.0), (-200.0, -200.0, 0.0), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
LIVER, LUNG = BodyPart.LIVER, BodyPart.LUNG


def at(name: str, x: float, y: float, z: float, mm: float = 20.0, part: BodyPart = LIVER, **changes) -> Lesion:
    """A lesion with its middle at LPS mm of `GEOMETRY`, `mm` long and 0.8 times as wide."""
    i, j, k = x + 200, y + 200, round(z / 4)
    half, short = mm / 2, 0.4 * mm
    axes = Recist(((i - half, j), (i + half, j)), ((i, j - short), (i, j + short)), mm, 0.8 * mm)
    box = (i - half - 4, j - short - 4, i + half + 4, j + short + 4)
    values = {"confidence": None, "id": name, "origin": Origin.READER, **changes}
    return Lesion(part, key_slice=k, slices=(k, k), box=box, recist=axes, **values)


def study(*lesions: Lesion, geometry: Geometry = GEOMETRY, **more) -> Study:
    return Study(reading(*lesions, geometry=geometry), **more)
