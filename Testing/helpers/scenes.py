"""CTs and lesions for tests of scenes, and what their views show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from LesionDetectorLib.ct import Volume
from LesionDetectorLib.lesion import BodyPart, Lesion, Mark, Origin, Recist, ReviewStatus
from LesionDetectorLib.scene import markups as markup_nodes
from LesionDetectorLib.scene import mrml
from LesionDetectorLib.scene.session import Session

OBLIQUE = np.array([[0.98, -0.17, 0.1], [0.199, 0.837, -0.509], [0.003, 0.519, 0.855]])
GEOMETRIES = {"axial": np.eye(3), "oblique": np.linalg.qr(OBLIQUE)[0] * -1, "left-handed": np.diag((1.0, 1.0, -1.0))}
SHAPE = (12, 90, 100)
SPACING = (1.5, 1.2, 3.0)


def volume_with(direction: np.ndarray) -> Volume:
    """A body with a lung on the patient's right, a spine at the back and a bright lesion on the left."""
    k, j, i = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    hu = np.full(SHAPE, -1000)
    hu[((i - 50) / 45) ** 2 + ((j - 45) / 40) ** 2 < 1] = 40
    hu[((i - 25) / 10) ** 2 + ((j - 40) / 18) ** 2 < 1] = -850
    hu[((i - 50) / 6) ** 2 + ((j - 75) / 6) ** 2 < 1] = 700
    hu[((i - 70) / 6) ** 2 + ((j - 40) / 8) ** 2 + ((k - 6) / 3) ** 2 < 1] = 120
    return Volume(
        hu.astype(np.int16),
        SPACING,
        (-90.0, -80.0, 40.0),
        direction,
        Path("ct.nrrd"),
        study="1",
        series="2",
        first_slice=1,
    )


def some_lesions() -> list[Lesion]:
    recist = Recist(((70.0, 32.5), (70.0, 47.5)), ((64.0, 40.0), (76.0, 40.0)), 18.0, 18.0)
    marks = (Mark.SOFT_TISSUE_PART, Mark.TARGET)
    return [
        Lesion(BodyPart.SOFT_TISSUE, 0.8712345, 6, (4, 8), (59.0, 27.5, 81.0, 52.5), recist),
        Lesion(BodyPart.LUNG, None, 6, (6, 6), (20.3, 30.2, 30.0, 41.7), None, ReviewStatus.REJECTED, Origin.READER),
        Lesion(BodyPart.BONE, 0.5, 2, (2, 3), (43.0, 68.0, 57.0, 82.0), None, ReviewStatus.ACCEPTED, marks=marks),
    ]


def markups(session: Session) -> list:
    return mrml.all_nodes(session.scene, "vtkMRMLMarkupsNode")


def slice_in_view(session: Session) -> int:
    """The slice k that the axial view shows."""
    red = session.scene.GetSingletonNode("Red", "vtkMRMLSliceNode")
    (ijk,) = markup_nodes.ras_to_ijk(mrml.matrix_of(red.GetSliceToRAS())[None, :3, 3], session.volume_node)
    return round(float(ijk[2]))


def handles(session: Session) -> list:
    """The markups that can be dragged: the box, the long and the short axis."""
    return mrml.all_nodes(session.scene, "vtkMRMLMarkupsROINode") + mrml.all_nodes(
        session.scene, "vtkMRMLMarkupsLineNode"
    )
