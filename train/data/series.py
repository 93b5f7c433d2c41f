"""Whole series of CT slices for the body-part regressor: as it takes them, how far down the body each lies, and, of
phantoms, its true level."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from LesionDetectorLib import ct
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.ct.deeplesion import HEAD_TO_FEET
from LesionDetectorLib.levels import seen
from LesionDetectorLib.models.body_part_regressor import PER_MM
from LesionDetectorLib.refusal import Refusal

from train.data.data_sets import with_share
from train.data.deeplesion import SPLITS

TABLE, SERIES_OF_TABLE = "volumes.csv", "volumes"
_HU_STEP, _HU_OF_0 = 8, -1000


@dataclass(frozen=True, eq=False)
class Series:
    """A series, from head to feet.

    Attributes
    ----------
    name: of its file or folder. share: how often it is drawn in a training, against others.
    images: (n, side, side) float16, as `body_part_regressor.prepared`. places: (n,) mm towards the feet.
    z: (n,) levels on DeepLesion's scale, of phantoms the true ones; or None.
    """

    name: str
    share: float
    images: np.ndarray
    places: np.ndarray
    z: np.ndarray | None = None

    @property
    def step_mm(self) -> float:
        """How far slices lie apart."""
        return float(self.places[-1] - self.places[0]) / max(len(self.places) - 1, 1)


def read(specification: Sequence[str], held_out: Sequence[str], test: bool) -> list[Series]:
    """The series of several data sets, those to train on, or to `test` on.

    A data set is a folder of `train.phantom --format nrrd`, of which the test split is for tests; one with
    `volumes.csv` (volume, the name; top_z, the level of its first slice if somebody has read that off landmarks) and
    `volumes/*.npz` (slices (n, rows, columns) uint8, HU = 8 v - 1000, head first; z_mm, pixel_mm); or any CT that
    `ct.read` reads. "DATA=2" is drawn twice as often in all. Of all of them the series of the names `held_out` are for
    tests. Raises Refusal for what is none of these.
    """
    found, names = [], set()
    for entry in specification:
        path, share = with_share(entry)
        stored = list(_stored(Path(path)))
        names |= {each.name for each in stored}
        wanted = [each for each in stored if test == (each.for_tests or each.name in held_out)]
        found += [_series(each, share / len(wanted)) for each in wanted]
    if missing := sorted(set(held_out) - names):
        raise Refusal(
            f"No series is called {missing[0]}, which is to be held out; there are {', '.join(sorted(names))}."
        )
    return found


class _Stored(NamedTuple):
    """A series on disk: how it is read, and the line of z over k or the z of the first slice where that is known."""

    name: str
    read: Callable[[Path], Volume]
    path: Path
    for_tests: bool = False
    line: np.ndarray | None = None
    top_z: float = math.nan


def _stored(path: Path) -> Iterator[_Stored]:
    """The series of a data set."""
    if (path / "DL_info.csv").is_file() and not (path / "Images_png").exists():
        for name, rows in _by_series(path / "DL_info.csv").items():
            for_tests = int(rows[0]["Train_Val_Test"]) == SPLITS["test"]
            yield _Stored(name, ct.read, path / f"{name}.nrrd", for_tests, _line(rows))
    elif (path / TABLE).is_file():
        with (path / TABLE).open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                top = float(row.get("top_z") or "nan")
                yield _Stored(row["volume"], _of_npz, path / SERIES_OF_TABLE / f"{row['volume']}.npz", top_z=top)
    else:
        yield _Stored(path.name, ct.read, path)


def _by_series(table: Path) -> dict[str, list[dict[str, str]]]:
    series: dict[str, list[dict[str, str]]] = {}
    with table.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            series.setdefault(row["File_name"].rpartition("_")[0], []).append(row)
    return series


def _line(rows: Sequence[dict[str, str]]) -> np.ndarray | None:
    """Slope and offset of a phantom's z over k, on which its lesions lie; None where they all lie on one slice."""
    k = np.array([int(row["Key_slice_index"]) - 1 for row in rows])
    z = np.array([float(row["Normalized_lesion_location"].split(",")[2]) for row in rows])
    return np.polyfit(k, z, 1) if np.ptp(k) else None


def _of_npz(path: Path) -> Volume:
    with np.load(path) as stored:
        hu = stored["slices"].astype(np.int16) * _HU_STEP + _HU_OF_0
        pixel, z = float(stored["pixel_mm"]), stored["z_mm"].astype(float)
    spacing = (pixel, pixel, abs(float(z[-1] - z[0])) / max(len(z) - 1, 1))
    return Volume(hu, spacing, (0.0, 0.0, float(z[0])), HEAD_TO_FEET.copy(), path)


def _series(stored: _Stored, share: float) -> Series:
    volume = stored.read(stored.path)
    ks, images, body = seen(volume)
    ks, images = (part[body.any(axis=(1, 2))] for part in (ks, images))
    down = 1 if volume.direction[2, 2] < 0 else -1
    z = None if stored.line is None else np.polyval(stored.line, ks)[::down]
    places = (down * volume.spacing[2] * ks)[::down]
    if not math.isnan(stored.top_z):
        z = stored.top_z + PER_MM * places
    return Series(stored.name, share, images[::down].astype(np.float16), places, z)
