"""Find the lesions of many CTs: ``lesion-detector batch``, in one process or, by torchrun, on many GPUs and machines.

Each process takes every WORLD_SIZE-th study of the list. The folder of a study appears at once and whole, so a run that
was stopped goes on where it was when it is started again, whatever the number of processes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from LesionDetectorLib import ct
from LesionDetectorLib.cli.options import Commands, add_command, add_detector, weights_of
from LesionDetectorLib.files import whole_folder, write_text
from LesionDetectorLib.formats import write_reports
from LesionDetectorLib.printable import printable
from LesionDetectorLib.reading import Model, Reading
from LesionDetectorLib.refusal import ISSUES, Refusal, refusal
from LesionDetectorLib.words import plural

if TYPE_CHECKING:
    from LesionDetectorLib.detect import Detector

FAILED = "failed"
"""The folder with a sentence for each study that could not be worked off; "failed" is therefore no name for a study."""
SETTINGS = "batch.json"
EXAMPLES = """
LIST is a folder, of which each folder and each image file is a study, or a text file with the path of a study on each
line.

examples:
  lesion-detector batch studies --out found
  lesion-detector batch list.txt --out found --weights my.safetensors --confidence 0.3
  torchrun --nproc-per-node 8 -m LesionDetectorLib.cli batch list.txt --out found
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "batch", "find the lesions of many CTs and write their reports and tables", EXAMPLES)
    add_detector(parser)
    parser.add_argument("list", type=Path, metavar="LIST", help="folder of studies, or text file with a path a line")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Work off the studies of `options.list` that this process has to do and that are not done yet.

    Returns the exit code.
    """
    waiting = {name: path for name, path in _share(studies(options.list)).items() if not (options.out / name).exists()}
    import torch

    from LesionDetectorLib.detect import Detector, pick_device

    weights = weights_of(options)
    models = [Model.of(path) for path in weights]
    if pick_device(options.device).type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    detectors = [Detector.load(path, options.device) for path in weights]
    _keep_settings(options.out, models, options.confidence)
    try:
        failed, faults = _work_off(waiting, options.out, detectors, models, options.confidence)
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from here.", file=sys.stderr, flush=True)
        return 130
    print(
        f"{plural(len(waiting) - failed, 'study', 'studies')} done, {failed} failed"
        + (f", see {printable(str(options.out / FAILED))}." if failed else ".")
    )
    if faults:
        print(
            f"{faults} failed by a fault of the program: report it with its file in {FAILED} at {ISSUES}",
            file=sys.stderr,
        )
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    return int(faults > 0 and alone)  # torchrun ends all processes as soon as one of them ends with an error


def studies(source: Path) -> dict[str, Path]:
    """The studies of a folder or of a list, by the names of their results: the path as it is given, with _ in the
    place of separators."""
    if source.is_dir():
        paths = [path.relative_to(source) for path in sorted(source.iterdir()) if _is_study(path)]
        folder = source
    elif source.is_file():
        try:
            lines = source.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise Refusal(
                f"{source} is not a text file: give a folder of studies, or a list with a path a line."
            ) from error
        paths, folder = [Path(line.strip()) for line in lines if line.strip()], source.parent
    else:
        raise Refusal(f"{source} does not exist: give a folder of studies, or a list with a path a line.")
    nameless = [str(path) for path in paths if not set(path.parts) - {path.anchor, ".."} or "\0" in str(path)]
    if nameless:
        raise Refusal(
            f"{source} gives '{nameless[0]}', which names no study: give each by the name of its folder or file."
        )
    found = {"_".join(part for part in path.parts if part not in (path.anchor, "..")): folder / path for path in paths}
    if not found:
        raise Refusal(f"{source} holds no study: give a folder of studies, or a list with a path a line.")
    if len(found) < len(paths) or FAILED in found or SETTINGS in found:
        raise Refusal(
            f"{source} gives two studies the same name, or one the name {FAILED} or {SETTINGS}: rename or move it."
        )
    return found


def _is_study(path: Path) -> bool:
    return not path.name.startswith(".") and (path.is_dir() or ct.image_file.is_image(path))


def _share(found: dict[str, Path]) -> dict[str, Path]:
    """Those studies that this process has to do."""
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return dict(list(found.items())[rank::processes])


def _keep_settings(out: Path, models: Sequence[Model], confidence: float) -> None:
    """Write down what the results of a folder are made with; Refusal if those that it has are made otherwise."""
    settings = (
        json.dumps({"weights": {model.name: model.sha256 for model in models}, "confidence": confidence}, indent=2)
        + "\n"
    )
    file = out / SETTINGS
    if file.exists() and file.read_text(encoding="utf-8") != settings:
        raise Refusal(f"{out} holds results of other weights or of another confidence: give a new folder.")
    out.mkdir(parents=True, exist_ok=True)
    write_text(file, settings)


def _work_off(
    waiting: dict[str, Path], out: Path, detectors: Sequence[Detector], models: Sequence[Model], confidence: float
) -> tuple[int, int]:
    """Write the results of each study, or why there are none.

    Returns how many failed, and how many of them by a fault of ours.
    """
    from LesionDetectorLib.detect import ahead
    from LesionDetectorLib.pipeline import LOWEST_CONFIDENCE, find_lesions

    failed, faults, devices = 0, 0, [detector.device for detector in detectors]
    for number, (name, volume) in enumerate(ahead(lambda name: ct.read(waiting[name]), waiting), start=1):
        failure = out / FAILED / f"{name}.txt"
        try:
            for detector, device in zip(detectors, devices):
                detector.to(device)  # the last study may have been too large for the GPU
            lesions = find_lesions(volume.result(), detectors, min(confidence, LOWEST_CONFIDENCE), warn=_warn)
            with whole_folder(out / name) as folder:
                write_reports(folder, Reading.of(volume.result(), lesions, models, confidence))
        except Exception as error:  # noqa: BLE001 (whatever is wrong with one study, it is written down, and the others are done)
            sentence = refusal(error)
            failed += 1
            faults += sentence is None
            failure.parent.mkdir(exist_ok=True)
            write_text(failure, f"{printable(sentence)}\n" if sentence else traceback.format_exc())
            news = "failed" if sentence else "failed, by a fault of the program"
        else:
            failure.unlink(missing_ok=True)
            news = plural(len(lesions), "lesion")
        print(f"[{number}/{len(waiting)}] {printable(name)}: {news}", flush=True)
    return failed, faults


def _warn(sentence: str) -> None:
    print(f"Warning: {printable(sentence)}", file=sys.stderr, flush=True)
