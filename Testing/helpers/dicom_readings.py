"""Small DICOM CTs of every kind, and readings with lesions on them, for the tests of the DICOM reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from LesionDetectorLib import ct
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.ct.dicom_slices import Slice
from LesionDetectorLib.exchange import dicom_seg, dicom_sr
from LesionDetectorLib.files import write_dicom
from LesionDetectorLib.lesion import Axis, BodyPart, Lesion, Mark, Origin, Recist, ReviewStatus, stable_id
from LesionDetectorLib.reading import Model, Reading, ordered

from Testing.helpers.dicom_study import axial, body, enhanced, save, write

SLICES = 8
ROWS, COLUMNS = 48, 64
MODELS = (Model("VFNet für Größe 肝臓", "ab" * 32), Model("Faster R-CNN, zweites", "cd" * 32))
OBLIQUE = (0.98, 0.17320508075688773, 0.09797958971132706, -0.18, 0.9797958971132712, 0.08660254037844384)


def _stack(count: int, orientation: tuple[float, ...], step: float = 2.5) -> list[np.ndarray]:
    """Positions of `count` slices along the normal of an orientation."""
    normal = np.cross(orientation[:3], orientation[3:])
    return [np.array([-30.0, -25.0, -50.0]) + step * k * normal for k in range(count)]


def _orthonormal(orientation: tuple[float, ...]) -> tuple[float, ...]:
    row = np.array(orientation[:3]) / np.linalg.norm(orientation[:3])
    column = np.array(orientation[3:]) - row * (row @ orientation[3:])
    return (*np.round(row, 9), *np.round(column / np.linalg.norm(column), 9))


def upright(folder: Path, **tags: object) -> None:
    write(folder, body(SLICES, shape=(ROWS, COLUMNS)), axial(SLICES, 2.5), **tags)


def oblique(folder: Path) -> None:
    """Slices off the patient's axes, with pixels twice as high as wide."""
    orientation = _orthonormal(OBLIQUE)
    tags = {"ImageOrientationPatient": orientation, "PixelSpacing": (1.4, 0.7)}
    write(folder, body(SLICES, shape=(ROWS, COLUMNS)), _stack(SLICES, orientation), **tags)


def turned(folder: Path) -> None:
    """A patient on the belly, scanned with rows that run from back to front: i and j of the volume are not those of
    the files."""
    write(
        folder,
        body(SLICES, shape=(ROWS, COLUMNS)),
        _stack(SLICES, (0, -1, 0, 1, 0, 0)),
        ImageOrientationPatient=(0, -1, 0, 1, 0, 0),
    )


def tilted(folder: Path) -> None:
    """A gantry tilt: each slice lies 1.3 mm behind the one below it."""
    positions = [(-10.0, -20.0 + 1.3 * k, -50.0 + 2.5 * k) for k in range(SLICES)]
    write(folder, body(SLICES, shape=(ROWS, COLUMNS)), positions)


def multi_frame(folder: Path) -> None:
    hu = body(SLICES, shape=(ROWS, COLUMNS))
    save(enhanced(hu[::-1], [-50 + 2.5 * k for k in range(SLICES)][::-1]), folder / "enhanced.dcm")


def one_frame(folder: Path) -> None:
    """Slices that count their one frame."""
    upright(folder, NumberOfFrames=1)


KINDS: dict[str, Callable[[Path], None]] = {
    "upright": upright,
    "oblique": oblique,
    "turned": turned,
    "tilted": tilted,
    "multi-frame": multi_frame,
    "one frame": one_frame,
}


def axes_in(
    box: tuple[float, float, float, float], spacing: tuple[float, float, float], drawn: tuple[Axis, ...] = ()
) -> Recist:
    """Two slanted axes that cross in the middle of a box, well inside it."""
    x0, y0, x1, y1 = box
    i, j, w, h = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 3, (y1 - y0) / 3
    lines = [((i - w, j - h / 5), (i + w, j + h / 5)), ((i + w / 7, j - h), (i - w / 7, j + h))]
    lengths = [float(np.hypot(*((np.array(end) - start) * spacing[:2]))) for start, end in lines]
    (long, long_mm), (short, short_mm) = sorted(zip(lines, lengths), key=lambda line: -line[1])
    return Recist(long, short, long_mm, short_mm, drawn)


def several(reading: Reading) -> Reading:
    """`reading` with a lesion of each kind: found and drawn, pending, accepted and rejected, measured and not,
    faint."""
    spacing, last = reading.geometry.spacing, reading.geometry.size[2] - 1
    boxes = [(8.25 + 3 * n, 6.5 + 2 * n, 20.75 + 4 * n, 16.125 + 3 * n) for n in range(5)]

    def lesion(part: BodyPart, confidence: float | None, k: int, n: int, **changes: object) -> Lesion:
        values = {
            "recist": axes_in(boxes[n], spacing),
            "id": stable_id(reading.series_uid, k, boxes[n], part),
            **changes,
        }
        return Lesion(part, confidence, k, (max(k - n, 0), min(k + 1, last)), boxes[n], **values)

    lesions = (
        lesion(BodyPart.LIVER, 0.87, 2, 0, marks=(Mark.TARGET, Mark.LYMPH_NODE)),
        lesion(
            BodyPart.SOFT_TISSUE,
            0.71,
            3,
            1,
            status=ReviewStatus.ACCEPTED,
            recist=axes_in(boxes[1], spacing, (Axis.SHORT,)),
        ),
        lesion(
            BodyPart.LUNG,
            None,
            5,
            2,
            status=ReviewStatus.ACCEPTED,
            origin=Origin.READER,
            recist=axes_in(boxes[2], spacing, tuple(Axis)),
        ),
        lesion(
            BodyPart.BONE, 0.93, 4, 3, status=ReviewStatus.REJECTED, marks=(Mark.SOFT_TISSUE_PART, Mark.NOT_MEASURABLE)
        ),
        lesion(BodyPart.KIDNEY, 0.31, 1, 4, recist=None),
    )
    return replace(reading, lesions=tuple(ordered(lesions)))


def read_ct(folder: Path) -> tuple[ct.Volume, Reading]:
    """The CT in a folder, and its reading with `several` lesions, made by two models of this and of that name."""
    volume = ct.read(folder)
    return volume, several(Reading.of(volume, [], MODELS, 0.5))


@st.composite
def lesions(draw: st.DrawFn) -> Lesion:
    """Any lesion on the CT `upright`, at least a pixel wide."""
    first, key, last = sorted(draw(st.tuples(*[st.integers(0, SLICES - 1)] * 3)))
    x0, y0 = draw(st.tuples(st.floats(-0.5, COLUMNS - 3), st.floats(-0.5, ROWS - 3)))
    box = x0, y0, draw(st.floats(x0 + 1, COLUMNS - 0.5)), draw(st.floats(y0 + 1, ROWS - 0.5))
    drawn = draw(st.sampled_from([(), (Axis.LONG,), (Axis.SHORT,), (Axis.LONG, Axis.SHORT)]))
    return Lesion(
        body_part=draw(st.sampled_from(BodyPart)),
        confidence=draw(st.none() | st.floats(0, 1)),
        key_slice=key,
        slices=(first, last),
        box=box,
        recist=draw(st.none() | st.just(axes_in(box, (0.7, 0.8, 2.5), drawn))),
        status=draw(st.sampled_from(ReviewStatus)),
        origin=draw(st.sampled_from(Origin)),
        marks=draw(st.lists(st.sampled_from(Mark), unique=True).map(tuple)),
        id=draw(st.uuids().map(str)),
    )


def write_sr(path: Path, reading: Reading, slices: Sequence[Slice], everything: bool = False) -> list[str]:
    """Write an SR; its sentences."""
    dataset, notes = dicom_sr.compose(reading, slices, everything)
    write_dicom(path, dataset)
    return notes


def write_seg(
    path: Path, reading: Reading, slices: Sequence[Slice], volume: Volume, everything: bool = False
) -> list[str]:
    """Write a SEG; its sentences."""
    dataset, notes = dicom_seg.compose(reading, slices, volume, everything)
    write_dicom(path, dataset)
    return notes
