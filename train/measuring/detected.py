"""What a detector finds on the key slices of a data set, or on a CT, matched with what is marked there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pydicom
from LesionDetectorLib import ct
from LesionDetectorLib.lesion import BodyPart
from tqdm import tqdm

from train.data.deeplesion import UNKNOWN, DeepLesionError, KeySlice
from train.data.prepared import PreparedSlices
from train.data.subvolumes import SubVolume
from train.measuring import boxes_csv
from train.measuring.boxes import Boxes
from train.measuring.froc import SECOND_HIT, Froc, froc
from train.measuring.statement import label_sensitivities

if TYPE_CHECKING:
    from LesionDetectorLib.detect import Detector, SliceBoxes


def detect_key_slices(
    detector: Detector, key_slices: Sequence[KeySlice], quiet: bool = False, cache: Path | None = None
) -> list[SliceBoxes]:
    """What the detector finds on each key slice, boxes in its 0-based pixels; `cache` keeps prepared slices."""
    from LesionDetectorLib.detect import SliceBoxes, ahead

    prepared = ahead(PreparedSlices(cache, detector.recipe), key_slices)
    found = []
    for key_slice, slice_and_frame in tqdm(
        prepared, desc="detecting", total=len(key_slices), unit="slice", disable=quiet, leave=False
    ):
        sample, frame = slice_and_frame.result()
        boxes, scores, labels = detector(sample[None].astype(np.float32))[0]
        found.append(SliceBoxes(key_slice.number - 1, frame.to_index(boxes), scores, labels))
    return found


def detect_subvolumes(detector: Detector, subvolumes: Sequence[SubVolume]) -> pd.DataFrame:
    """What the detector finds on every slice that is there: image (the sub-volume's name), slice, x1, y1, x2, y2 in
    0-based pixels, score, label."""
    from LesionDetectorLib.detect import ahead, detect

    runs = [(subvolume, run) for subvolume in subvolumes for run in subvolume.runs()]
    names, numbers, found = [], [], []
    with tqdm(desc="detecting", total=sum(len(run) for _, run in runs), unit="slice", leave=False) as bar:
        for (subvolume, run), volume in ahead(lambda entry: entry[0].read(entry[1]), runs):
            found += detect(volume.result(), [detector])
            names += [subvolume.name] * len(run)
            numbers += run
            bar.update(len(run))
    counts = [len(entry.scores) for entry in found]
    columns = {"image": np.repeat(np.array(names, object), counts), "slice": np.repeat(numbers, counts)}
    boxes = np.concatenate([entry.boxes for entry in found])
    scores, labels = (np.concatenate([getattr(entry, name) for entry in found]) for name in ("scores", "labels"))
    return pd.DataFrame({**columns, **dict(zip(boxes_csv.SIDES, boxes.T)), "score": scores, "label": labels})


def match(
    key_slices: Sequence[KeySlice], found: Sequence[SliceBoxes], iou: float = 0.3, same_label: bool = True
) -> Froc:
    """FROC of what was `found` on the key slices."""
    truth = Boxes.of([(key_slice.boxes, key_slice.labels) for key_slice in key_slices])
    detections = Boxes.of([(entry.boxes, entry.labels, entry.scores) for entry in found])
    return froc(detections, truth, len(key_slices), iou, same_label)


def summary(key_slices: Sequence[KeySlice], found: Sequence[SliceBoxes], rate: float, iou: float) -> dict:
    """All that a model card states about one set of slices."""
    labelled, anywhere = match(key_slices, found, iou), match(key_slices, found, iou, same_label=False)
    return {
        "slices": len(key_slices),
        "patients": len({key_slice.patient for key_slice in key_slices}),
        "lesions": {
            part.title: int((labelled.labels == part).sum()) for part in BodyPart if (labelled.labels == part).any()
        },
        "iou": iou,
        "false_positives_per_image": rate,
        "false_positives_counted": "of all labels together, at one score threshold",
        "second_hit_on_a_found_lesion": SECOND_HIT,
        "sensitivity_with_the_right_label": label_sensitivities(labelled, rate),
        "sensitivity_whatever_the_label": label_sensitivities(anywhere, rate),
        "sensitivity_at_rates_whatever_the_label": {f"{fps:g}": anywhere.sensitivity(fps) for fps in (0.5, 1, 2, 4, 8)},
        "score_threshold": labelled.threshold(rate),
    }


def each_lesion(key_slices: Sequence[KeySlice], found: Sequence[SliceBoxes], rate: float, iou: float) -> list[dict]:
    """For every labelled lesion: its slice, label and box, and whether it is found at `rate` false positives an
    image."""
    result = match(key_slices, found, iou)
    threshold = result.threshold(rate)
    lesions = [
        (entry.name, label, box)
        for entry in key_slices
        for label, box in zip(entry.labels, entry.boxes)
        if label != UNKNOWN
    ]
    return [
        {"slice": name, "label": BodyPart(label).title, "box": box.round(1).tolist(), "found": bool(score > threshold)}
        for (name, label, box), score in zip(lesions, result.found, strict=True)
    ]


def report_on_ct(path: Path, csv: Path, detector: Detector, rate: float, iou: float) -> dict:
    """Which of the lesions drawn on the slices of one CT are found.

    `csv` has the columns slice_file, tumor, class, x1, y1, x2, y2 (0-based pixels). Every slice of the CT counts as an
    image.
    """
    volume = ct.read(path)
    truth, tumours = lesions_of_ct(volume, path, csv)
    found = detect_ct(detector, volume)
    result = froc(Boxes.of([(entry.boxes, entry.labels, entry.scores) for entry in found]), truth, len(found), iou)
    hit = result.found > result.threshold(rate)
    return {
        "slices": len(found),
        "false_positives_per_image": rate,
        "iou": iou,
        "boxes_found": {
            name: f"{hit[rows].sum()} of {len(rows)}" for name, rows in tumours.groupby(tumours).indices.items()
        },
        "score_threshold": result.threshold(rate),
    }


def lesions_of_ct(volume: ct.Volume, path: Path, csv: Path) -> tuple[Boxes, pd.Series]:
    """The lesions drawn on slices of a CT, whose images are its k, and which tumour each belongs to; `csv` as in
    `report_on_ct`."""
    table = boxes_csv.read_table(csv, ["slice_file", "tumor", "class", *boxes_csv.SIDES])
    boxes_csv.check_sides(csv, table)
    labels = np.array([_label(csv, row, name) for row, name in enumerate(table["class"], 2)], int)
    ks = table["slice_file"].map({name: _k_of(volume, path / name) for name in table["slice_file"].unique()})
    return Boxes(ks.to_numpy(int), table[boxes_csv.SIDES].to_numpy(float), labels), table["tumor"]


def detect_ct(detector: Detector, volume: ct.Volume) -> list[SliceBoxes]:
    """What the detector finds on every slice of a CT, with a bar."""
    from LesionDetectorLib.detect import detect

    with tqdm(desc="detecting", unit="slice", leave=False) as bar:
        return detect(volume, [detector], progress=lambda done, total: bar.update(done - bar.n))


def _label(csv: Path, row: int, name: str) -> BodyPart:
    try:
        return BodyPart.from_title(str(name))
    except ValueError as error:
        raise DeepLesionError(f"{csv}, row {row}, column class: {error}") from error


def _k_of(volume: ct.Volume, file: Path) -> int:
    try:
        uid = pydicom.dcmread(file, force=True, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID")
        return (volume.dicom.sop_instance_uids if volume.dicom else ()).index(uid)
    except (OSError, ValueError) as error:
        raise DeepLesionError(f"{file}, which the boxes name, is not a slice of the CT.") from error
