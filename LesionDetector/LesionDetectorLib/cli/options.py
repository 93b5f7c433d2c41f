"""The options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from LesionDetectorLib.reading import DEFAULT_CONFIDENCE

Commands = argparse._SubParsersAction


def add_command(commands: Commands, name: str, summary: str, examples: str = "") -> argparse.ArgumentParser:
    """The parser of a command, whose help ends with `examples` as they are."""
    as_it_is: dict[str, Any] = (
        {"epilog": examples, "formatter_class": argparse.RawDescriptionHelpFormatter} if examples else {}
    )
    return commands.add_parser(name, help=summary, **as_it_is)


def add_ct(parser: argparse.ArgumentParser) -> None:
    """Which CT is read."""
    parser.add_argument(
        "input", type=Path, help="DICOM folder, .nrrd, .nhdr, .nii, .nii.gz, .mha, or a DeepLesion sub-volume folder"
    )
    parser.add_argument(
        "--series",
        metavar="UID",
        help="SeriesInstanceUID, where a DICOM folder holds several; default: most axial slices",
    )


def add_detector(parser: argparse.ArgumentParser, needs_out: bool = True) -> None:
    """With what lesions are found, and where they are written."""
    parser.add_argument("--out", type=Path, required=needs_out, help="folder for the results")
    add_device(parser)
    parser.add_argument(
        "--confidence",
        type=share,
        default=DEFAULT_CONFIDENCE,
        help="report lesions from this confidence on, 0 to 1 (%(default)s)",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        action="append",
        metavar="FILE",
        help="detector to use; given several times, they are fused; default: the one that ships",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where the network runs."""
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto takes the GPU where there is one"
    )


def share(value: str) -> float:
    """A number from 0 to 1; ArgumentTypeError for any other."""
    number = float(value)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{value} does not lie between 0 and 1")
    return number


def weights_of(options: argparse.Namespace) -> list[Path]:
    """The weights that were chosen, or those that ship. It brings torch."""
    from LesionDetectorLib.detect import DEFAULT_WEIGHTS

    return options.weights or [DEFAULT_WEIGHTS]
