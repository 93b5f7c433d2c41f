"""Readings for the tests of the reports: one drawn by hand, and hypothesis strategies for any."""

from __future__ import annotations

from hypothesis import strategies as st
from LesionDetectorLib.ct.geometry import DicomSeries, Geometry
from LesionDetectorLib.lesion import Axis, BodyPart, Lesion, Mark, Origin, Recist, ReviewStatus
from LesionDetectorLib.reading import Model, Reading

GEOMETRY = Geometry((512, 512, 80), (0.8, 0.8, 5.0), (-200.0, -190.5, 12.5), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
AXES = Recist(((100.0, 110.0), (122.5, 110.0)), ((110.0, 102.5), (110.0, 117.5)), 18.0, 12.0)


def lesion(body_part: BodyPart, confidence: float | None, k: int = 50, **changes) -> Lesion:
    """A lesion of 20 x 20 px on slice k; its id is made of what it is."""
    values = {
        "slices": (k, k),
        "box": (100.0, 100.0, 120.0, 120.0),
        "id": f"{body_part.name}-{confidence}-{k}",
        **changes,
    }
    return Lesion(body_part, confidence, k, **values)


def reading(*lesions: Lesion, **changes) -> Reading:
    """A reading of study 01, series 01, whose first slice is number 1."""
    values = {
        "source": "01.nrrd",
        "study": "01",
        "series": "01",
        "series_uid": "1.2.3",
        "first_slice": 1,
        "geometry": GEOMETRY,
        **changes,
    }
    return Reading(lesions=lesions, **values)


SLICES = 40
finite = st.floats(allow_nan=False, allow_infinity=False)
length = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
points = st.tuples(finite, finite)
axes = st.tuples(points, points)
vectors = st.tuples(finite, finite, finite)
names = st.text(max_size=10)


@st.composite
def boxes(draw) -> tuple[float, float, float, float]:
    x0, x1 = sorted(draw(st.lists(finite, min_size=2, max_size=2, unique=True)))
    y0, y1 = sorted(draw(st.lists(finite, min_size=2, max_size=2, unique=True)))
    return x0, y0, x1, y1


@st.composite
def lesions(draw) -> Lesion:
    first, key, last = sorted(draw(st.tuples(*[st.integers(0, SLICES - 1)] * 3)))
    return Lesion(
        body_part=draw(st.sampled_from(BodyPart)),
        confidence=draw(st.none() | st.floats(0, 1)),
        key_slice=key,
        slices=(first, last),
        box=draw(boxes()),
        recist=draw(
            st.none()
            | st.builds(Recist, axes, axes, length, length, st.lists(st.sampled_from(Axis), unique=True).map(tuple))
        ),
        status=draw(st.sampled_from(ReviewStatus)),
        origin=draw(st.sampled_from(Origin)),
        marks=draw(st.lists(st.sampled_from(Mark), unique=True).map(tuple)),
        id=draw(st.uuids().map(str)),
    )


geometries = st.builds(
    Geometry,
    size=st.tuples(st.integers(1, 2000), st.integers(1, 2000), st.just(SLICES)),
    spacing=st.tuples(*[st.floats(0.01, 30)] * 3),
    origin=vectors,
    direction=st.tuples(vectors, vectors, vectors),
)
readings = st.builds(
    Reading,
    source=names,
    study=names,
    series=names,
    series_uid=names,
    first_slice=st.integers(-1000, 1000),
    geometry=geometries,
    slice_thickness=st.none() | st.floats(0.1, 20),
    dicom=st.none() | st.builds(DicomSeries, names, names, names, st.lists(st.none() | names, max_size=2).map(tuple)),
    warnings=st.lists(names, max_size=2).map(tuple),
    models=st.lists(st.builds(Model, names, names), max_size=2).map(tuple),
    confidence=st.floats(0, 1),
    lesions=st.lists(lesions(), max_size=3, unique_by=lambda one: one.id).map(tuple),
    software_version=names,
)
