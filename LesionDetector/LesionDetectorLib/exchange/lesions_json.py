"""lesions.json, the exchange format: a whole reading, versioned, without loss.

Its schema is lesions.schema.json beside this file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from LesionDetectorLib.ct.geometry import DicomSeries, Geometry
from LesionDetectorLib.files import write_text
from LesionDetectorLib.lesion import Axis, BodyPart, Lesion, Location, Mark, Origin, Point, Recist, ReviewStatus
from LesionDetectorLib.reading import Model, Reading
from LesionDetectorLib.refusal import Refusal

FORMAT = "lesion-detector/lesions"
VERSION = 1
LARGEST = 200 * 2**20
"""Bytes of a file, characters of a text: a reading of 10,000 lesions has a tenth of that."""
WHOLE = 2**31
SCHEMA = Path(__file__).with_name("lesions.schema.json")


TOO_LARGE = f"this has more than {LARGEST >> 20} MB, as no list of lesions does."


class ExchangeError(Refusal):
    """The file is not a lesions.json that this program can read; the message is one sentence that says why."""


def write(path: Path | str, reading: Reading) -> None:
    """Write `reading` to `path` as UTF-8 JSON, all of it or nothing. Raises OSError."""
    write_text(path, dumps(reading))


def read(path: Path | str) -> Reading:
    """The reading that `write` put into `path`. Raises ExchangeError for anything else in it, and OSError."""
    path = Path(path)
    if path.stat().st_size > LARGEST:
        raise ExchangeError(f"{path}: {TOO_LARGE}")
    content = path.read_bytes()
    try:
        return loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ExchangeError(f"{path}: this is not a text file, so no lesions.json.") from error
    except ExchangeError as error:
        raise ExchangeError(f"{path}: {error}") from error


def dumps(reading: Reading) -> str:
    """`reading` as JSON text, field by field as the schema says."""
    return json.dumps(reading_record(reading), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def loads(content: str) -> Reading:
    """The reading in JSON text that `dumps` wrote; fields it does not know are passed over. Raises ExchangeError."""
    return reading_of(parse(content))


def parse(content: str) -> Any:
    """What a JSON text from outside holds.

    ExchangeError for one that is too large or nested too deep, or is not JSON, which has no NaN.
    """
    if len(content) > LARGEST:
        raise ExchangeError(TOO_LARGE)
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ExchangeError(f"this is not valid JSON ({error}).") from error


def reading_record(reading: Reading) -> dict[str, Any]:
    """`reading` as the object that its JSON text holds."""
    geometry = reading.geometry
    return {
        "format": FORMAT,
        "version": VERSION,
        "software_version": reading.software_version,
        "models": [{"name": model.name, "sha256": model.sha256} for model in reading.models],
        "parameters": {"confidence": float(reading.confidence)},
        "ct": {
            "source": reading.source,
            "study": reading.study,
            "series": reading.series,
            "series_uid": reading.series_uid,
            "first_slice": int(reading.first_slice),
            "size": [int(voxels) for voxels in geometry.size],
            "spacing": _floats(geometry.spacing),
            "origin": _floats(geometry.origin),
            "direction": [_floats(row) for row in geometry.direction],
            **({} if reading.slice_thickness is None else {"slice_thickness": float(reading.slice_thickness)}),
            "dicom": None if reading.dicom is None else _dicom_record(reading.dicom),
            "warnings": list(reading.warnings),
        },
        "lesions": [lesion_record(lesion) for lesion in reading.lesions],
    }


def reading_of(record: Any) -> Reading:
    """The reading in the object that a JSON text holds, as `loads`."""
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ExchangeError(f"this is not a list of lesions: its 'format' should be '{FORMAT}'.")
    version = _take(record, "", "version", int)
    if version != VERSION:
        raise ExchangeError(
            f"this is version {version} of the format, and this program reads version {VERSION}; install the program "
            "that wrote it."
        )

    ct = _take(record, "", "ct", dict)
    models = _items(record, "", "models", dict)
    lesions = _items(record, "", "lesions", dict)
    parameters = _take(record, "", "parameters", dict)
    try:
        return Reading(
            source=_take(ct, "ct.", "source", str),
            study=_take(ct, "ct.", "study", str),
            series=_take(ct, "ct.", "series", str),
            series_uid=_take(ct, "ct.", "series_uid", str),
            first_slice=_take(ct, "ct.", "first_slice", int),
            geometry=_geometry(ct),
            slice_thickness=_take(ct, "ct.", "slice_thickness", float) if "slice_thickness" in ct else None,
            dicom=_dicom_series(_take(ct, "ct.", "dicom", dict, optional=True)),
            warnings=tuple(_items(ct, "ct.", "warnings", str)),
            models=tuple(_model(model, f"models[{index}].") for index, model in enumerate(models)),
            confidence=_take(parameters, "parameters.", "confidence", float),
            lesions=tuple(lesion(entry, f"lesions[{index}].") for index, entry in enumerate(lesions)),
            software_version=_take(record, "", "software_version", str),
        )
    except ExchangeError:
        raise
    except ValueError as error:
        raise ExchangeError(str(error)) from error


def lesion_record(lesion: Lesion) -> dict[str, Any]:
    """One lesion, field by field as the schema says."""
    return {
        "id": lesion.id,
        "body_part": lesion.body_part.title,
        "confidence": None if lesion.confidence is None else float(lesion.confidence),
        "key_slice": int(lesion.key_slice),
        "slices": [int(k) for k in lesion.slices],
        "box": _floats(lesion.box),
        "recist": None if lesion.recist is None else _recist_record(lesion.recist),
        "status": lesion.status.value,
        "origin": lesion.origin.value,
        **({"marks": list(lesion.marks)} if lesion.marks else {}),
        **({"location": _floats(lesion.location)} if lesion.location else {}),
    }


def _recist_record(recist: Recist) -> dict[str, Any]:
    return {
        "long_axis": [_floats(point) for point in recist.long_axis],
        "short_axis": [_floats(point) for point in recist.short_axis],
        "long_mm": float(recist.long_mm),
        "short_mm": float(recist.short_mm),
        **({"drawn": list(recist.drawn)} if recist.drawn else {}),
    }


def _dicom_record(dicom: DicomSeries) -> dict[str, Any]:
    return {
        "study_uid": dicom.study_uid,
        "series_uid": dicom.series_uid,
        "frame_of_reference_uid": dicom.frame_of_reference_uid,
        "sop_instance_uids": list(dicom.sop_instance_uids),
    }


def lesion(record: dict, where: str) -> Lesion:
    """The lesion in a record that `lesion_record` made.

    ExchangeError names the field, after the path `where`, that is wrong.
    """
    try:
        return Lesion(
            body_part=BodyPart.from_title(_take(record, where, "body_part", str)),
            confidence=_take(record, where, "confidence", float, optional=True),
            key_slice=_take(record, where, "key_slice", int),
            slices=_several(record, where, "slices", int, 2),
            box=_several(record, where, "box", float, 4),
            recist=_recist(_take(record, where, "recist", dict, optional=True), f"{where}recist."),
            status=ReviewStatus(_take(record, where, "status", str)),
            origin=Origin(_take(record, where, "origin", str)),
            marks=tuple(map(Mark, _items(record, where, "marks", str) if "marks" in record else ())),
            location=Location(*_several(record, where, "location", float, 3)) if "location" in record else None,
            id=_take(record, where, "id", str),
        )
    except ExchangeError:
        raise
    except ValueError as error:
        raise ExchangeError(f"{where.rstrip('.')}: {error}") from error


def _recist(record: dict | None, where: str) -> Recist | None:
    if record is None:
        return None
    return Recist(
        long_axis=_axis(record, where, "long_axis"),
        short_axis=_axis(record, where, "short_axis"),
        long_mm=_take(record, where, "long_mm", float),
        short_mm=_take(record, where, "short_mm", float),
        drawn=tuple(map(Axis, _items(record, where, "drawn", str) if "drawn" in record else ())),
    )


def _axis(record: dict, where: str, key: str) -> tuple[Point, Point]:
    ends = _several(record, where, key, list, 2)
    first, second = (_several({"end": end}, f"{where}{key}.", "end", float, 2) for end in ends)
    return first, second


def _geometry(ct: dict) -> Geometry:
    rows = _several(ct, "ct.", "direction", list, 3)
    return Geometry.of(
        size=_several(ct, "ct.", "size", int, 3),
        spacing=_several(ct, "ct.", "spacing", float, 3),
        origin=_several(ct, "ct.", "origin", float, 3),
        direction=[_several({"row": row}, "ct.direction.", "row", float, 3) for row in rows],
    )


def _dicom_series(record: dict | None) -> DicomSeries | None:
    if record is None:
        return None
    where = "ct.dicom."
    return DicomSeries(
        study_uid=_take(record, where, "study_uid", str),
        series_uid=_take(record, where, "series_uid", str),
        frame_of_reference_uid=_take(record, where, "frame_of_reference_uid", str),
        sop_instance_uids=tuple(_items(record, where, "sop_instance_uids", str, optional=True)),
    )


def _model(record: dict, where: str) -> Model:
    return Model(name=_take(record, where, "name", str), sha256=_take(record, where, "sha256", str))


_KINDS = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}


def _take(record: dict, where: str, key: str, kind: type, optional: bool = False) -> Any:
    """The field `key` of `record`, which must be of `kind`, or null where `optional`.

    `where` is the path to it for the message.
    """
    if key not in record:
        raise ExchangeError(f"'{where}{key}' is missing.")
    return _checked(record[key], f"{where}{key}", kind, optional)


def _items(record: dict, where: str, key: str, kind: type, optional: bool = False) -> list:
    """The list in field `key`, all of `kind`, or null where `optional`."""
    return [
        _checked(item, f"{where}{key}[{index}]", kind, optional)
        for index, item in enumerate(_take(record, where, key, list))
    ]


def _several(record: dict, where: str, key: str, kind: type, count: int) -> tuple:
    """The `count` values of `kind` in field `key`."""
    items = tuple(_items(record, where, key, kind))
    if len(items) != count:
        raise ExchangeError(f"'{where}{key}' must hold {count} values, not {len(items)}.")
    return items


def _checked(value: Any, name: str, kind: type, optional: bool = False) -> Any:
    """`value` as `kind`.

    A whole number counts as a number, true and false do not, nor does one beyond the range of a float.
    """
    if value is None and optional:
        return None
    allowed: Any = (int, float) if kind is float else kind
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise ExchangeError(f"'{name}' must be {_KINDS[kind]}.")
    if kind is float and not abs(value) <= sys.float_info.max:
        raise ExchangeError(f"'{name}' must be a finite number.")
    if kind is int and not -WHOLE <= value < WHOLE:
        raise ExchangeError(f"'{name}' must be a whole number of at most 32 bits.")
    return float(value) if kind is float else value


def _floats(values: tuple) -> list[float]:
    return [float(value) for value in values]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that JSON knows")
