"""A small data set in DeepLesion's layout for the tests of training."""

from __future__ import annotations

import numpy as np
import pytest
from LesionDetectorLib.lesion import BodyPart, Recist

from train.data.layout import row, write_csv, write_png

SPACING = (0.8, 0.8, 2.0)
DISC = (70, 60)


@pytest.fixture(scope="session")
def data_set(tmp_path_factory):
    """Two patients, each with a bright disc in a body of water: one to train on, one to validate."""
    folder = tmp_path_factory.mktemp("discs")
    j, i = np.mgrid[:128, :128]
    rows = []
    for patient, split in ((1, 1), (2, 2)):
        hu = np.where(np.hypot(i - 64, j - 64) < 55, 0, -1000)
        hu[np.hypot(i - DISC[0], j - DISC[1]) < 10] = 100
        for number in (4, 5, 6):
            write_png(folder / "Images_png" / f"{patient:06d}_01_01" / f"{number:03d}.png", hu)
        recist = Recist(((60, 60), (80, 60)), ((70, 50), (70, 70)), 16, 16)
        rows.append(
            row(
                patient,
                5,
                recist,
                BodyPart.LIVER,
                slices=(4, 6),
                spacing=SPACING,
                size=(128, 128),
                location=(0.5, 0.5, 0.5),
                split=split,
            )
        )
    write_csv(folder / "DL_info.csv", rows)
    return folder
