"""The codes, identifiers and names that the DICOM reports have in common.

Codes: DICOM PS3.16; body parts as far as it has them.
"""

from __future__ import annotations

import json
import re
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.coding import Code

from LesionDetectorLib import __version__
from LesionDetectorLib.lesion import BodyPart, Mark, ReviewStatus

if TYPE_CHECKING:
    from LesionDetectorLib.reading import Reading

SOFTWARE = "LesionDetector"
CHARACTER_SET = "ISO_IR 192"  # UTF-8

LESION = Code("52988006", "SCT", "Lesion")
ABNORMAL_STRUCTURE = Code("49755003", "SCT", "Morphologically Abnormal Structure")
SITES = {
    BodyPart.BONE: Code("272673000", "SCT", "Bone"),
    BodyPart.ABDOMEN: Code("818981001", "SCT", "Abdomen"),
    BodyPart.MEDIASTINUM: Code("72410000", "SCT", "Mediastinum"),
    BodyPart.LIVER: Code("10200004", "SCT", "Liver"),
    BodyPart.LUNG: Code("39607008", "SCT", "Lung"),
    BodyPart.KIDNEY: Code("64033007", "SCT", "Kidney"),
    BodyPart.SOFT_TISSUE: Code("87784001", "SCT", "Soft tissue"),
    BodyPart.PELVIS: Code("816092008", "SCT", "Pelvis"),
}
CT_PROCEDURE = Code("25045-6", "LN", "CT unspecified body region")
FINDING_SITE = Code("363698007", "SCT", "Finding Site")
LONG_AXIS = Code("103339001", "SCT", "Long Axis")  # OHIF looks for just these words, which are not pydicom's
SHORT_AXIS = Code("103340004", "SCT", "Short Axis")
MILLIMETRE = Code("mm", "UCUM", "millimeter")
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
PERCENT = Code("%", "UCUM", "Percent")
PURPOSE = Code("130400", "DCM", "Geometric purpose of region")
BOUNDED_BY = Code("75958009", "SCT", "Bounded by")
REGION = Code("111030", "DCM", "Image Region")
LOWEST_PLANE = Code("128121", "DCM", "Plane through Inferior Extent")
HIGHEST_PLANE = Code("128120", "DCM", "Plane through Superior Extent")
COMMENT = Code("121106", "DCM", "Comment")

OWN_SCHEME = "99LESIONDETECTOR"
STATUS = Code("review-status", OWN_SCHEME, "Review status")
STATUSES = {status: Code(status.value, OWN_SCHEME, status.value.capitalize()) for status in ReviewStatus}
MARK = Code("mark", OWN_SCHEME, "Mark of a reader")
MARKS = {
    Mark.LYMPH_NODE: Code("59441001", "SCT", "Lymph Node"),
    Mark.SOFT_TISSUE_PART: Code("soft-tissue-part", OWN_SCHEME, "With a measurable soft-tissue part"),
    Mark.NOT_MEASURABLE: Code("not-measurable", OWN_SCHEME, "Not measurable"),
    Mark.TARGET: Code("112074", "DCM", "Target Lesion at Baseline"),
}

MODEL = "model {name}, SHA-256 {sha256}"
THRESHOLD = "reported from confidence {confidence}"
BIDIRECTIONAL = "Cornerstone3DTools@^0.1.0:Bidirectional"
"""The tracking identifier by which OHIF knows two axes that it can take over as its own measurement."""

_WHEN = ("InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime", "ContributingEquipmentSequence")
_NAMESPACE = uuid.UUID("0b0d7f62-4f0e-4a55-9a53-7c1c0e3b7c6e")
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")


def uid_of(*parts: str) -> str:
    """A UID that the same parts always get (PS3.5 B.2: made of a UUID)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(0).join(parts)).int}"


def new_instance(kind: str, series_number: int, description: str, reading: Reading, header: Dataset) -> dict[str, Any]:
    """What highdicom asks of every new object about its series, itself and its maker.

    `header` is that of an image of the CT.

    `series_number` is added to that of the CT. The SOPInstanceUID stands in until `name_by_content`.
    """
    return {
        "series_instance_uid": uid_of(f"{kind} series", reading.dicom.series_uid, __version__),
        "series_number": series_number + int(header.get("SeriesNumber") or 0),
        "series_description": f"{SOFTWARE}: {description}",
        "sop_instance_uid": uid_of("to be named"),
        "instance_number": 1,
        "manufacturer": SOFTWARE,
        "manufacturer_model_name": SOFTWARE,
        "software_versions": __version__,
    }


def name_by_content(dataset: FileDataset) -> None:
    """Give a new DICOM object in UTF-8 the SOPInstanceUID that the same content always gets, whenever it is written."""
    dataset.SpecificCharacterSet = CHARACTER_SET
    dataset.SOPInstanceUID = ""
    content = {tag: value for tag, value in dataset.to_json_dict().items() if keyword_for_tag(tag) not in _WHEN}
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid_of("content", json.dumps(content))


@contextmanager
def without_name_warnings() -> Iterator[None]:
    """For what calls highdicom: it prints the name of a patient that has no given name, as those of anonymised CT."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*person name")
        yield


def tracking_uid(lesion_id: str) -> str:
    """The Tracking UID of a lesion: made of its id where that is a UUID, the id itself where that is a UID, else
    derived from it."""
    try:
        identifier = uuid.UUID(lesion_id)
    except ValueError:
        identifier = None
    if identifier is not None and str(identifier) == lesion_id:
        return f"2.25.{identifier.int}"
    return lesion_id if _UID.fullmatch(lesion_id) and len(lesion_id) <= 64 else uid_of("lesion", lesion_id)


def lesion_id(tracking_uid: str) -> str:
    """The id of the lesion with a Tracking UID: the UUID that it is made of, else the UID itself."""
    root, _, number = tracking_uid.rpartition(".")
    is_uuid = root == "2.25" and number.isdecimal() and int(number) < 2**128
    return str(uuid.UUID(int=int(number))) if is_uuid else tracking_uid
