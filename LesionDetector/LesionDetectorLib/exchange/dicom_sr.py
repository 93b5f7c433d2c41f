"""DICOM SR: the lesions as a TID 1500 Measurement Report, which PACS keep, OHIF takes over and 3D Slicer shows.

One document in one series serves all of them. A lesion is two measurement groups with one tracking UID: first its two
axes, each a measurement with its line (TID 1501), which OHIF hydrates as a bidirectional measurement; then its box (TID
1410) with certainty, algorithm, review status and marks, which 3D Slicer's own loader draws. The order matters: OHIF
takes the first tracking identifier of a lesion for its kind. Slicer passes over the axes; OHIF hydrates a box too, as a
rectangle, where the lesion has no certainty.

An algorithm at the box means that the detector found the lesion, none that a reader drew it; an algorithm at an axis
means that it was measured, none that a reader drew it. Models and threshold are parameters of the algorithm at the box.
The planes through the inferior and superior extent are the first and last slice that the lesion spans.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes as standard
from pydicom.sr.coding import Code

from LesionDetectorLib.ct.dicom_slices import Slice
from LesionDetectorLib.exchange import dicom_codes as codes
from LesionDetectorLib.exchange.dicom_source import Numbered, Source, citable, has_frames, numbered
from LesionDetectorLib.lesion import Axis, Origin, Recist
from LesionDetectorLib.reading import Reading

SERIES_NUMBER = 1000
"""Added to that of the CT."""


@codes.without_name_warnings()
def compose(reading: Reading, slices: Sequence[Slice], everything: bool = False) -> tuple[FileDataset, list[str]]:
    """The lesions that the report shows, or with `everything` all of them, as an SR document, and sentences on it.

    `slices` come from `source_slices`. The sentences tell what was filled in for the CT's files, and which lesions were
    left out since no image of the CT holds the slice that they lie on. Points beyond the border of the image are moved
    onto it, as DICOM asks.

    The same reading always gets the same UIDs: of the series, of the instance, whenever it is made, and of each lesion
    for tracking.

    Raises DicomReportError where there is no lesion to write.
    """
    source = Source.of(reading.geometry, reading.dicom, slices)
    found, left_out = numbered(reading, source, everything)
    key_places = [source.places[entry.lesion.key_slice] for entry in found]
    end_places = [source.places[k] for entry in found for k in entry.lesion.slices if source.places[k] is not None]
    headers, filled_in = citable([*key_places, *end_places], reading)
    evidence = list(headers.values())
    key_images = dict.fromkeys(place.uid for place in key_places)
    dataset = sr.ComprehensiveSR(
        evidence=evidence,
        content=sr.MeasurementReport(
            observation_context=sr.ObservationContext(_software()),
            procedure_reported=codes.CT_PROCEDURE,
            imaging_measurements=[group for entry in found for group in _groups(reading, entry, source)],
            referenced_images=[_for_library(headers[uid]) for uid in key_images],
        ),
        **codes.new_instance("SR", SERIES_NUMBER, "lesions", reading, evidence[0]),
        coding_schemes=[CodingSchemeIdentificationItem(codes.OWN_SCHEME, name=codes.SOFTWARE)],
        is_complete=True,
    )
    codes.name_by_content(dataset)
    return dataset, left_out + filled_in


def _software() -> sr.ObserverContext:
    uid = codes.uid_of("device", codes.SOFTWARE)
    device = sr.DeviceObserverIdentifyingAttributes(uid, codes.SOFTWARE, codes.SOFTWARE, codes.SOFTWARE)
    return sr.ObserverContext(standard.DCM.Device, device)


def _for_library(header: Dataset) -> Dataset:
    """`header` for the image library; without the position of one slice where it has many frames."""
    if not has_frames(header):
        return header
    library = Dataset()
    library.update(header)
    library.Modality = ""  # highdicom would look for a position
    return library


def _groups(reading: Reading, entry: Numbered, source: Source) -> list[sr.MeasurementsAndQualitativeEvaluations]:
    """The measurement groups of a lesion: its axes, where it is measured, and its box."""
    box = _box(reading, entry, source)
    return [box] if entry.lesion.recist is None else [_axes(reading, entry, entry.lesion.recist, source), box]


def _axes(
    reading: Reading, entry: Numbered, recist: Recist, source: Source
) -> sr.MeasurementsAndQualitativeEvaluations:
    k, image = entry.lesion.key_slice, _image(source, entry.lesion.key_slice)

    def measurement(axis: Axis, concept: Code, mm: float) -> sr.Measurement:
        points = source.in_image(k, np.array(recist.ends(axis)))
        line = sr.CoordinatesForMeasurement(sr.GraphicTypeValues.POLYLINE, points, sr.SourceImageForRegion(*image))
        measured_by = None if axis in recist.drawn else _algorithm(reading)
        return sr.Measurement(
            concept, float(mm), codes.MILLIMETRE, referenced_coordinates=[line], algorithm_id=measured_by
        )

    identifier = str(entry) if entry.number is None else codes.BIDIRECTIONAL
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(codes.tracking_uid(entry.lesion.id), identifier),
        finding_type=codes.LESION,
        finding_sites=[sr.FindingSite(codes.SITES[entry.lesion.body_part])],
        measurements=[
            measurement(Axis.LONG, codes.LONG_AXIS, recist.long_mm),
            measurement(Axis.SHORT, codes.SHORT_AXIS, recist.short_mm),
        ],
        source_images=[sr.SourceImageForMeasurementGroup(*image)],
    )
    group[0].ContentSequence.append(sr.TextContentItem(codes.COMMENT, str(entry), sr.RelationshipTypeValues.CONTAINS))
    return group


def _box(reading: Reading, entry: Numbered, source: Source) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    lesion = entry.lesion
    (x0, y0), (x1, y1) = np.sort(source.in_image(lesion.key_slice, np.reshape(lesion.box, (2, 2))), axis=0)
    outline = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])
    certainty = (
        []
        if lesion.confidence is None
        else [sr.Measurement(codes.CERTAINTY, 100.0 * float(lesion.confidence), codes.PERCENT)]
    )
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(codes.tracking_uid(lesion.id), str(entry)),
        referenced_region=sr.ImageRegion(
            sr.GraphicTypeValues.POLYLINE, outline, sr.SourceImageForRegion(*_image(source, lesion.key_slice))
        ),
        finding_type=codes.LESION,
        finding_sites=[sr.FindingSite(codes.SITES[lesion.body_part])],
        algorithm_id=_algorithm(reading, _parameters(reading)) if lesion.origin is Origin.DETECTOR else None,
        measurements=certainty or None,
        qualitative_evaluations=[
            sr.QualitativeEvaluation(codes.STATUS, codes.STATUSES[lesion.status]),
            *(sr.QualitativeEvaluation(codes.MARK, codes.MARKS[mark]) for mark in lesion.marks),
        ],
        geometric_purpose=codes.BOUNDED_BY,
    )
    upwards = sorted(lesion.slices, key=lambda k: reading.geometry.to_lps((0, 0, k))[2])
    planes = zip((codes.LOWEST_PLANE, codes.HIGHEST_PLANE), upwards)
    group[0].ContentSequence.extend(
        sr.ImageContentItem(name, *_image(source, k), relationship_type=sr.RelationshipTypeValues.CONTAINS)
        for name, k in planes
        if source.places[k] is not None
    )
    return group


def _image(source: Source, k: int) -> tuple[str, str, list[int] | None]:
    """SOPClassUID and SOPInstanceUID of the image that holds slice k, and its frame where it has many."""
    place = source.places[k]
    return place.header.SOPClassUID, place.uid, [place.frame + 1] if has_frames(place.header) else None


def _algorithm(reading: Reading, parameters: list[str] | None = None) -> sr.AlgorithmIdentification:
    return sr.AlgorithmIdentification(codes.SOFTWARE, reading.software_version or "unknown", parameters)


def _parameters(reading: Reading) -> list[str]:
    models = [codes.MODEL.format(name=model.name, sha256=model.sha256) for model in reading.models]
    return [*models, codes.THRESHOLD.format(confidence=repr(float(reading.confidence)))]
