"""A study as DICOM files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from train.synthetic.shapes import Array
from train.synthetic.visits import Visit


def write_dicom(visit: Visit, hu: Array, number: int, seed: int, folder: Path, index: int = 1) -> None:
    """Write CT Image Storage into a new folder, one file a slice, `hu` ordered from feet to head.

    The UIDs are those of the `index`-th study of patient `number` of the data set `seed`.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    def uid(*what: object) -> str:
        later = [f"study {index}"] if index > 1 else []
        return generate_uid(entropy_srcs=["phantom", str(seed), str(number), *map(str, what), *later])

    study, day = visit.study, visit.day.strftime("%Y%m%d")
    folder.mkdir(parents=True)
    for k, pixels in enumerate(hu):
        place = visit.corner_mm(study.slices - 1 - k)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = uid("image", k)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID = uid("study")
        image.SeriesInstanceUID = uid("series")
        image.FrameOfReferenceUID = uid("frame")
        image.StudyID, image.SeriesNumber, image.AcquisitionNumber = f"{index:02d}", 1, 1
        image.InstanceNumber = len(hu) - k
        image.PatientName, image.PatientID, image.PatientBirthDate = f"Phantom^{number:06d}", f"PHANTOM{number:06d}", ""
        image.PatientSex, image.PatientAge = "F" if study.patient.female else "M", f"{study.patient.age:03d}Y"
        image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = day
        image.StudyTime = image.ContentTime = "120000"
        image.AccessionNumber, image.ReferringPhysicianName, image.PositionReferenceIndicator = "", "", ""
        image.Modality, image.Manufacturer, image.SeriesDescription = "CT", "Phantom", "Synthetic torso"
        image.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        image.KVP, image.PatientPosition = "120", "HFS"
        image.ImagePositionPatient = [f"{value:.4f}" for value in place]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.PixelSpacing = [f"{study.frame.pixel:.6f}"] * 2
        image.SliceThickness = f"{study.scanner.thickness:.3f}"
        image.SpacingBetweenSlices = f"{study.scanner.interval:.3f}"
        image.Rows, image.Columns = pixels.shape
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.RescaleIntercept, image.RescaleSlope, image.RescaleType = "0", "1", "HU"
        image.WindowCenter, image.WindowWidth = "50", "450"
        image.PixelData = np.ascontiguousarray(pixels, "<i2").tobytes()
        image.save_as(folder / f"{len(hu) - k:04d}.dcm", enforce_file_format=True)
