"""Small synthetic CT studies in DICOM, for the tests of reading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from LesionDetectorLib import ct
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ROWS, COLUMNS = 24, 32
SPACING = (0.7, 0.8)  # mm along i, j
INTERCEPT = -1024
AXIAL = (1, 0, 0, 0, 1, 0)


def refusal(path: Path, **options: str) -> str:
    """The one sentence with which reading the CT at `path` is refused."""
    with pytest.raises(ct.CTError) as caught:
        ct.read(path, **options)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    return sentence


def body(count: int, seed: int = 0, shape: tuple[int, int] = (ROWS, COLUMNS)) -> np.ndarray:
    """(count, rows, columns) int16 HU: air with noise in a body, different in every slice."""
    hu = np.full((count, *shape), -1000, np.int16)
    inside = np.random.default_rng(seed).integers(-100, 400, (count, shape[0] - 8, shape[1] - 8))
    hu[:, 4:-4, 4:-4] = inside
    return hu


def image(hu: np.ndarray, position: Sequence[float], series: str, number: int, **tags: object) -> FileDataset:
    """One CT slice; `tags` replace or, where None, remove elements."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    elements = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": series,
        "FrameOfReferenceUID": "1.2.3.9",
        "StudyID": "7",
        "SeriesNumber": 4,
        "AcquisitionNumber": 1,
        "InstanceNumber": number,
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ImagePositionPatient": [f"{value:.6f}" for value in position],
        "ImageOrientationPatient": AXIAL,
        "PixelSpacing": SPACING[::-1],
        "SliceThickness": 2,
        "Rows": hu.shape[0],
        "Columns": hu.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "RescaleIntercept": INTERCEPT,
        "RescaleSlope": 1,
        "PixelData": (hu.astype(np.int32) - INTERCEPT).clip(0).astype(np.uint16).tobytes(),
    }
    for name, value in (elements | tags).items():
        if value is not None:
            setattr(dataset, name, list(value) if isinstance(value, tuple) else value)
    return dataset


def save(dataset: FileDataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write(
    folder: Path, hu: np.ndarray, positions: Sequence[Sequence[float]], series: str = "1.2.3.4", **tags: object
) -> list[Path]:
    """A series in `folder`, one file a slice in the order given, named 000.dcm and so on after the series."""
    slices = enumerate(zip(hu, positions, strict=True))
    return [
        save(image(plane, at, series, k + 1, **tags), folder / f"{series}-{k:03d}.dcm") for k, (plane, at) in slices
    ]


def axial(count: int, step: float = 2.0, start: float = -50.0) -> list[tuple[float, float, float]]:
    """Positions of `count` upright slices from feet to head."""
    return [(-10.0, -20.0, start + step * k) for k in range(count)]


def compressed(dataset: FileDataset, compressor: str, scratch: Path) -> FileDataset:
    """`dataset` with its pixels encoded by ITK: "JPEG2000" (lossless) or "JPEG" (lossless)."""
    pixels = np.frombuffer(dataset.PixelData, np.uint16).reshape(dataset.Rows, dataset.Columns)
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(scratch))
    writer.SetImageIO("GDCMImageIO")
    writer.SetUseCompression(True)
    writer.SetCompressor(compressor)
    writer.Execute(sitk.GetImageFromArray(pixels))
    encoded = dcmread(scratch)
    dataset.file_meta.TransferSyntaxUID = encoded.file_meta.TransferSyntaxUID
    dataset.PixelData = encoded.PixelData
    dataset["PixelData"].is_undefined_length = True
    return dataset


def enhanced(hu: np.ndarray, heights: Sequence[float], rescale: Sequence[float] | None = None) -> FileDataset:
    """An Enhanced CT: one file whose frames are `hu` (frames, rows, columns) at `heights` mm.

    `rescale` are intercepts for each frame.
    """

    def group(**elements: object) -> list[Dataset]:
        dataset = Dataset()
        for name, value in elements.items():
            setattr(dataset, name, list(value) if isinstance(value, tuple) else value)
        return [dataset]

    shared, frames = Dataset(), []
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=AXIAL)
    shared.PixelMeasuresSequence = group(PixelSpacing=SPACING[::-1], SliceThickness=2)
    for height, intercept in zip(heights, rescale or [INTERCEPT] * len(hu), strict=True):
        frame = Dataset()
        frame.PlanePositionSequence = group(ImagePositionPatient=[-10, -20, height])
        frame.PixelValueTransformationSequence = group(RescaleIntercept=intercept, RescaleSlope=1, RescaleType="HU")
        frames.append(frame)
    top_level = (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceThickness",
        "RescaleIntercept",
        "RescaleSlope",
    )
    dataset = image(
        hu[0], (0, 0, 0), "1.2.3.5", 1, SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", **dict.fromkeys(top_level)
    )
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.NumberOfFrames = len(hu)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], frames
    dataset.PixelData = (hu.astype(np.int32) - INTERCEPT).astype(np.uint16).tobytes()
    return dataset
