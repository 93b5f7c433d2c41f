"""What the panel is set to."""

from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper

from LesionDetectorLib.reading import DEFAULT_CONFIDENCE


@parameterNodeWrapper
class LesionDetectorParameterNode:
    """What the panel is set to, kept in the scene.

    inputVolume: the CT. weights: a file of trained weights, "" for the detector that ships. device: where the detector
        runs.
    confidence: pending lesions below it are hidden. zoom, bodyPartWindow: whether a step to a lesion shows a small
    field round it, and in the window of its body part.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    weights: str = ""
    device: Annotated[str, Choice(["auto", "cuda", "cpu"])] = "auto"
    confidence: Annotated[float, WithinRange(0, 1)] = DEFAULT_CONFIDENCE
    zoom: bool = True
    bodyPartWindow: bool = True
