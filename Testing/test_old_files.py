"""What an earlier version wrote is read as it was meant, and the command lines of its README are understood."""

from __future__ import annotations

import argparse
import importlib
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from LesionDetectorLib import ct
from LesionDetectorLib.cli import __main__ as cli
from LesionDetectorLib.detect import DEFAULT_WEIGHTS, Detector
from LesionDetectorLib.exchange import lesions_json
from LesionDetectorLib.lesion import BodyPart, ReviewStatus
from LesionDetectorLib.models import weights
from LesionDetectorLib.pipeline import LOWEST_CONFIDENCE, find_lesions

from train.training.detection import resumed

OLD = Path(__file__).parent / "old_files"


def test_the_detector_that_ships_finds_the_same_lesions():
    """Boxes, labels, confidences and diameters are those that these weights found first, up to what processors differ
    by."""
    detector = Detector.load(DEFAULT_WEIGHTS, "cpu")
    detector.precision = torch.float32
    found = find_lesions(ct.read(OLD / "ct.nrrd"), [detector], LOWEST_CONFIDENCE)
    old, new = (
        sorted(lesions, key=lambda lesion: (lesion.key_slice, lesion.box))
        for lesions in (lesions_json.read(OLD / "lesions_of_the_weights.json").lesions, found)
    )
    assert len(new) >= 3
    assert [(lesion.key_slice, lesion.body_part) for lesion in new] == [
        (lesion.key_slice, lesion.body_part) for lesion in old
    ]
    for numbers in ("box", "slices", "confidence"):
        np.testing.assert_allclose(
            *([getattr(lesion, numbers) for lesion in lesions] for lesions in (new, old)), atol=1e-3
        )
    np.testing.assert_allclose(*([lesion.recist.long_mm for lesion in lesions] for lesions in (new, old)), atol=0.1)


def test_an_old_reading_is_written_again_as_it_was():
    reading = lesions_json.read(OLD / "reviewed.json")
    assert lesions_json.loads(lesions_json.dumps(reading)) == reading
    assert [lesion.status for lesion in reading.reported][:1] == [ReviewStatus.ACCEPTED]
    assert sum(lesion.status == ReviewStatus.REJECTED for lesion in reading.lesions) == 1


def test_old_scenes_go_on_where_they_were():
    pytest.importorskip("slicer", reason="needs slicer-core: pip install 'lesion-detector[scene]'")
    from LesionDetectorLib import scene as lesion_scene

    found = lesion_scene.load_scene(OLD / "scene.mrb")
    assert found.GetFirstNodeByClass("vtkMRMLTableNode").GetNumberOfRows() == 6
    (session,) = lesion_scene.Session.kept(lesion_scene.load_scene(OLD / "review.mrb"))
    try:
        assert session.report() == lesions_json.read(OLD / "reviewed.json")
        assert [lesion.status for _, lesion in session.listed][:2] == [ReviewStatus.ACCEPTED, ReviewStatus.REJECTED]
        session.undo()
        session.undo()
        assert BodyPart.LIVER not in [lesion.body_part for _, lesion in session.listed]
    finally:
        session.close()


def test_old_weights_and_checkpoints_are_taken_up(tmp_path):
    model, _ = weights.load(OLD / "tiny.safetensors")
    shutil.copy(OLD / "checkpoint.pt", tmp_path / "checkpoint.pt")
    run = resumed(tmp_path, torch.device("cpu"))
    assert run.step == 2 and run.model.architecture == model.architecture
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, run.model.state_dict()[name], atol=1e-3, rtol=1e-3)


class Understood(Exception):  # noqa: N818
    """The parser took the command line."""


@pytest.mark.parametrize("line", (OLD / "commands.txt").read_text().splitlines())
def test_an_old_command_line_is_understood(line, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def only_parse(parser, arguments=None, namespace=None):
        parse(parser, arguments, namespace)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    program, *arguments = shlex.split(line)
    if program == "python":
        _, module, *arguments = arguments
        main = cli.main if module == "LesionDetectorLib.cli" else importlib.import_module(module).main
    else:
        main = cli.main
    with pytest.raises(Understood):
        main(arguments)
