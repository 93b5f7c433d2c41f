"""``lesion-detector measure``: long and short axis of the lesion in a box."""

from __future__ import annotations

import argparse
import json

from LesionDetectorLib import ct
from LesionDetectorLib.cli.options import Commands, add_command, add_ct
from LesionDetectorLib.refusal import Refusal


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "measure", "print long and short axis of the lesion in a box as JSON")
    add_ct(parser)
    parser.add_argument(
        "--slice", type=int, required=True, metavar="NUMBER", help="slice, by the number that the report shows"
    )
    parser.add_argument(
        "--box",
        type=float,
        nargs=4,
        required=True,
        metavar=("X0", "Y0", "X1", "Y1"),
        help="box in voxels, about 5 px wider than the lesion",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure, print, and return the exit code. Raises Refusal."""
    from LesionDetectorLib.measure.outline import measure

    volume = ct.read(options.input, options.series)
    k, last = options.slice - volume.first_slice, volume.slice_number(len(volume.hu) - 1)
    if not 0 <= k < len(volume.hu):
        raise Refusal(
            f"Slice {options.slice} is not in {options.input}, whose slices are {volume.first_slice} to {last}."
        )
    recist = measure(volume.hu[k], volume.spacing[:2], tuple(options.box))
    print(
        json.dumps(
            {
                "slice": options.slice,
                "key_slice": k,
                "box": options.box,
                "long_mm": round(recist.long_mm, 2),
                "short_mm": round(recist.short_mm, 2),
                "long_axis": recist.long_axis,
                "short_axis": recist.short_axis,
            },
            indent=2,
        )
    )
    return 0
