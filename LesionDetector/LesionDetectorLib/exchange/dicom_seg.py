"""DICOM SEG: the outlines by which the lesions are measured, each a segment on its key slice with its tracking UID
in the SR."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from highdicom import seg
from pydicom.dataset import FileDataset
from pydicom.sr.codedict import codes as standard
from skimage.draw import polygon2mask

from LesionDetectorLib import __version__
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.ct.dicom_slices import Slice
from LesionDetectorLib.exchange import dicom_codes as codes
from LesionDetectorLib.exchange.dicom_source import DicomReportError, Numbered, Source, citable, has_frames, numbered
from LesionDetectorLib.lesion import Lesion, Origin
from LesionDetectorLib.measure.margins import margin_mm, pixels
from LesionDetectorLib.measure.outline import segment
from LesionDetectorLib.reading import Reading

SERIES_NUMBER = 2000
"""Added to that of the CT."""


@codes.without_name_warnings()
def compose(
    reading: Reading, slices: Sequence[Slice], volume: Volume, everything: bool = False
) -> tuple[FileDataset, list[str]]:
    """The outlines of the lesions that the report shows, or with `everything` of all, as a segmentation, and
    sentences on it.

    `slices` come from `source_slices`, `volume` is the CT of the reading. Outlines are drawn into the pixels of the
    CT's files. Sentences and UIDs are those of `dicom_sr.compose`.

    Raises DicomReportError where `volume` is another CT or there is no lesion to write.
    """
    if not reading.geometry.matches(Reading.of(volume, []).geometry):
        raise DicomReportError(f"The lesions lie on another CT than {volume.source}: give the one that was read.")
    source = Source.of(reading.geometry, reading.dicom, slices)
    found, left_out = numbered(reading, source, everything)
    places = [source.places[entry.lesion.key_slice] for entry in found]
    headers, filled_in = citable(places, reading)
    images = list(headers.values())
    by_frame = has_frames(images[0])
    planes = [place.frame if by_frame else list(headers).index(place.uid) for place in places]
    masks = [_mask(volume, entry.lesion, source) for entry in found]
    dataset = seg.Segmentation(
        source_images=images,
        pixel_array=_stacked(masks, planes, int(images[0].NumberOfFrames) if by_frame else len(images)),
        segmentation_type=seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(number, entry, reading) for number, entry in enumerate(found, start=1)],
        **codes.new_instance("SEG", SERIES_NUMBER, "outlines", reading, images[0]),
        device_serial_number=__version__,
        content_label="LESIONS",
    )
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        # highdicom's is a new one every time
        item.DimensionOrganizationUID = codes.uid_of("SEG dimensions", reading.dicom.series_uid)
    codes.name_by_content(dataset)
    return dataset, left_out + filled_in


def _mask(volume: Volume, lesion: Lesion, source: Source) -> np.ndarray:
    """(rows, columns) of the file: the pixels whose centres lie in the outline, or else the one nearest to its
    middle."""
    margin_px = pixels(margin_mm(lesion.origin), volume.spacing)
    outline = segment(volume.hu[lesion.key_slice], lesion.box, margin_px).outline
    corners = source.pixels(lesion.key_slice, outline)[:, ::-1]
    shape = source.places[lesion.key_slice].shape
    mask = polygon2mask(shape, corners)
    if not mask.any():
        row, column = np.clip(np.rint(corners.mean(axis=0)).astype(int), 0, np.array(shape) - 1)
        mask[row, column] = True
    return mask


def _stacked(masks: list[np.ndarray], planes: list[int], count: int) -> np.ndarray:
    """(planes, rows, columns) with the numbers of the segments.

    Where they overlap, (planes, rows, columns, segments) with each of them.
    """
    numbers = np.zeros((count, *masks[0].shape), np.min_scalar_type(len(masks)))
    for number, (mask, plane) in enumerate(zip(masks, planes), start=1):
        if numbers[plane][mask].any():
            break
        numbers[plane][mask] = number
    else:
        return numbers
    each = np.zeros((*numbers.shape, len(masks)), np.uint8)
    for number, (mask, plane) in enumerate(zip(masks, planes)):
        each[plane, :, :, number] = mask
    return each


def _segment(number: int, entry: Numbered, reading: Reading) -> seg.SegmentDescription:
    by_software = entry.lesion.origin is Origin.DETECTOR
    kinds = seg.SegmentAlgorithmTypeValues
    return seg.SegmentDescription(
        segment_number=number,
        segment_label=str(entry),
        segmented_property_category=codes.ABNORMAL_STRUCTURE,
        segmented_property_type=codes.LESION,
        algorithm_type=kinds.AUTOMATIC if by_software else kinds.SEMIAUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            codes.SOFTWARE, standard.DCM.DeformableModels, reading.software_version or "unknown"
        ),
        tracking_uid=codes.tracking_uid(entry.lesion.id),
        tracking_id=str(entry),
        anatomic_regions=[codes.SITES[entry.lesion.body_part]],
    )
