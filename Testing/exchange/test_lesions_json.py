"""lesions.json: nothing is lost, the schema holds, and every fault gets its sentence."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from LesionDetectorLib import files
from LesionDetectorLib.exchange import lesions_json
from LesionDetectorLib.exchange.lesions_json import ExchangeError
from LesionDetectorLib.lesion import BodyPart, Location, Mark
from LesionDetectorLib.reading import Model

from Testing.helpers.readings import AXES, GEOMETRY, lesion, reading, readings

VALIDATOR = jsonschema.Draft202012Validator(json.loads(lesions_json.SCHEMA.read_text(encoding="utf-8")))


def record(**changes) -> dict:
    """The JSON of a small reading with some of its fields changed."""
    return json.loads(lesions_json.dumps(reading(lesion(BodyPart.LIVER, 0.9, recist=AXES)))) | changes


LONG_NUMBER = (
    json.dumps(record()).replace("{", "{{").replace("}", "}}").replace('"first_slice": 1', '"first_slice": 1{}')
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(readings)
def test_round_trip_loses_nothing_and_fits_the_schema(made):
    content = lesions_json.dumps(made)
    assert lesions_json.loads(content) == made
    VALIDATOR.validate(json.loads(content))


def test_round_trip_of_forty_lesions_through_a_file(tmp_path):
    lesions = [
        lesion(BodyPart(1 + k % 8), 0.1 + k / 50, k=k, box=(k / 3, 0.1, k + 7.7, 1e-3 + k), recist=AXES)
        for k in range(1, 41)
    ]
    made = reading(*lesions, source="肝 Größe.nrrd", models=(Model("VFNet", "ab" * 32),))
    path = tmp_path / "lesions.json"
    lesions_json.write(path, made)
    assert lesions_json.read(path) == made
    assert "肝 Größe.nrrd" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_numpy_numbers_are_written():
    box = tuple(np.array([1, 2, 3, 4], np.float32))
    made = reading(lesion(BodyPart.LUNG, np.float32(0.5), k=np.int64(3), box=box))
    assert lesions_json.loads(lesions_json.dumps(made)).lesions[0].box == (1, 2, 3, 4)


def test_schema_is_valid_and_refuses_what_is_not_in_it():
    VALIDATOR.check_schema(VALIDATOR.schema)
    VALIDATOR.validate(record())
    assert not VALIDATOR.is_valid(record(patient_name="Doe"))
    assert not VALIDATOR.is_valid(record(version=2))
    assert VALIDATOR.schema["properties"]["version"]["const"] == lesions_json.VERSION
    body_parts = VALIDATOR.schema["properties"]["lesions"]["items"]["properties"]["body_part"]["enum"]
    assert body_parts == [part.title for part in BodyPart]
    marks = VALIDATOR.schema["properties"]["lesions"]["items"]["properties"]["marks"]["items"]["enum"]
    assert marks == list(Mark)


def test_unknown_fields_are_passed_over():
    assert lesions_json.loads(json.dumps(record(comment="of a later release"))) == lesions_json.loads(
        json.dumps(record())
    )


def test_a_file_of_before_marks_and_slice_thickness_is_read_and_what_is_unknown_is_left_out():
    plain = record()
    assert "marks" not in plain["lesions"][0] and "slice_thickness" not in plain["ct"]
    made = lesions_json.loads(json.dumps(plain))
    assert (made.lesions[0].marks, made.slice_thickness) == ((), None)


def test_a_location_comes_back_and_a_file_of_before_has_none():
    made = reading(lesion(BodyPart.LIVER, 0.9, location=Location(0.43, 0.28, 0.61)))
    written = json.loads(lesions_json.dumps(made))
    VALIDATOR.validate(written)
    assert written["lesions"][0]["location"] == [0.43, 0.28, 0.61]
    assert lesions_json.loads(json.dumps(written)) == made
    assert "location" not in record()["lesions"][0]
    assert lesions_json.loads(json.dumps(record())).lesions[0].location is None


def test_unfinished_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "lesions.json"
    lesions_json.write(path, reading())
    before = path.read_bytes()

    def interrupted(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lesions_json.write(path, reading(lesion(BodyPart.LUNG, 0.9)))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_unfinished_file_has_a_name_that_nobody_foresees_and_follows_no_link(tmp_path, monkeypatch):
    names, secret, victim = [], tmp_path / "secret", tmp_path / "victim"
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: (names.append(path), replace(path, target))[1])
    old = os.umask(0o027)
    try:
        for _ in range(2):
            lesions_json.write(tmp_path / "lesions.json", reading())
    finally:
        os.umask(old)
    assert len(set(names)) == 2 and {path.parent for path in names} == {tmp_path}
    assert (tmp_path / "lesions.json").stat().st_mode & 0o777 == 0o640, "as the umask gives it"
    victim.write_text("kept")
    monkeypatch.setattr("secrets.token_hex", lambda size: "foreseen")
    (tmp_path / ".foreseen.part").symlink_to(victim)
    with pytest.raises(FileExistsError):
        lesions_json.write(secret, reading())
    assert victim.read_text() == "kept" and not secret.exists()


def test_a_full_disk_names_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, files.whole(tmp_path / "new.json"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "new.json") and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "not valid JSON"),
        ("Lesions:\n\nStudy: 01", "not valid JSON"),
        pytest.param("[" * 100_000, "not valid JSON", id="deep"),
        pytest.param(LONG_NUMBER.format("0" * 400), "of at most 32 bits", id="huge number"),
        pytest.param(LONG_NUMBER.format("0" * 5000), "not valid JSON", id="6000 digits"),
        ('{"format": NaN}', "NaN is not a number"),
        ("[]", "not a list of lesions: its 'format' should be 'lesion-detector/lesions'"),
        (json.dumps({"type": "FeatureCollection"}), "not a list of lesions"),
        (json.dumps(record(version=2)), "version 2 of the format, and this program reads version 1"),
        (json.dumps(record(version="1")), "'version' must be a whole number"),
        (json.dumps(record(lesions={})), "'lesions' must be a list"),
        (json.dumps(record(lesions=[7])), r"'lesions\[0\]' must be an object"),
        (json.dumps(record(parameters={"confidence": 50})), "threshold must lie in 0..1, not 50"),
        (json.dumps(record()).replace("0.9", "1e999"), "'lesions.0..confidence' must be a finite number"),
        pytest.param(
            json.dumps(record()).replace("0.9", "1" + "0" * 400),
            "'lesions.0..confidence' must be a finite number",
            id="huge",
        ),
    ],
)
def test_wrong_file_gets_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "lesions.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ExchangeError, match=sentence) as caught:
        lesions_json.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"box": [1, 2, 3]}, r"'lesions\[0\].box' must hold 4 values, not 3"),
        ({"box": [1, 2, 3, "4"]}, r"'lesions\[0\].box\[3\]' must be a number"),
        ({"box": [3, 2, 1, 4]}, r"lesions\[0\]: A box needs x0 < x1"),
        ({"key_slice": 50.5}, r"'lesions\[0\].key_slice' must be a whole number"),
        ({"key_slice": True}, r"'lesions\[0\].key_slice' must be a whole number"),
        ({"key_slice": 90, "slices": [90, 90]}, "spans slices"),
        ({"body_part": "Toe"}, r"lesions\[0\]: 'Toe' is not a body part"),
        ({"status": "maybe"}, r"lesions\[0\]: 'maybe' is not a valid ReviewStatus"),
        ({"marks": ["cyst"]}, r"lesions\[0\]: 'cyst' is not a valid Mark"),
        ({"location": [0.5, 2.0, 0.5]}, r"lesions\[0\]: A location needs x, y and z in 0..1"),
        ({"location": [0.5]}, r"'lesions\[0\].location' must hold 3 values, not 1"),
        ({"marks": "target"}, r"'lesions\[0\].marks' must be a list"),
        ({"recist": {}}, r"'lesions\[0\].recist.long_axis' is missing"),
        ({"id": None}, r"'lesions\[0\].id' must be a text"),
    ],
)
def test_wrong_lesion_gets_one_sentence(change, sentence):
    faulty = record()
    faulty["lesions"][0] |= change
    with pytest.raises(ExchangeError, match=sentence):
        lesions_json.loads(json.dumps(faulty))


def paths_to_fields(value, path=()):
    """Every field of the record, as the keys that lead to it."""
    for key, inner in value.items():
        yield (*path, key)
        if isinstance(inner, dict):
            yield from paths_to_fields(inner, (*path, key))


@pytest.mark.parametrize("path", list(paths_to_fields(record() | {"lesions": []})), ids=".".join)
def test_missing_field_is_named(path):
    faulty = record()
    holder = faulty
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    with pytest.raises(
        ExchangeError, match=r"'format' should be" if path == ("format",) else f"'{'.'.join(path)}' is missing"
    ):
        lesions_json.loads(json.dumps(faulty))


@pytest.mark.parametrize("field", sorted(record()["lesions"][0]))
def test_missing_field_of_a_lesion_is_named(field):
    faulty = record()
    del faulty["lesions"][0][field]
    with pytest.raises(ExchangeError, match=rf"'lesions\[0\].{field}' is missing"):
        lesions_json.loads(json.dumps(faulty))


def test_binary_file_and_missing_file(tmp_path):
    path = tmp_path / "ct.nrrd"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExchangeError, match=r"ct.nrrd: this is not a text file"):
        lesions_json.read(path)
    with pytest.raises(FileNotFoundError):
        lesions_json.read(tmp_path / "absent.json")


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    with (tmp_path / "lesions.json").open("wb") as file:
        file.truncate(10 * 2**30)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("it is read"))
    with pytest.raises(ExchangeError, match=r"lesions.json: this has more than 200 MB, as no list of lesions does\."):
        lesions_json.read(tmp_path / "lesions.json")


def test_flat_geometry_in_a_file_is_refused():
    made = reading()
    content = lesions_json.dumps(made).replace(json.dumps(GEOMETRY.spacing[2]), "0.0")
    with pytest.raises(ExchangeError, match="spacing above 0"):
        lesions_json.loads(content)
