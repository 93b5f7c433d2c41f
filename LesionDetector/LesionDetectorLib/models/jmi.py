"""The detector that came with DeepLesion: Faster R-CNN on VGG-16 at stride 8.

Yan et al., "DeepLesion: automated mining of large-scale lesion annotations and universal lesion detection with deep
learning", J. Med. Imaging 2018. It differs from the paper in that it tells labels apart, samples regions by RoIAlign
instead of pooling, and sees the slices as all our detectors do (`tone`, 0.8 mm pixels). `train.fit --detector jmi` has
the paper's schedule.
"""

from __future__ import annotations

from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from LesionDetectorLib.models.architecture import remembered
from LesionDetectorLib.models.backbone import Vgg16
from LesionDetectorLib.models.detections import Detections
from LesionDetectorLib.models.faster_rcnn import RawOutputs, TwoStage
from LesionDetectorLib.slices import DEFAULT, Recipe

_SIZES = (16, 24, 32, 48, 96)
_RATIOS = (0.5, 1.0, 2.0)
_WIDTH = 512


class Jmi(TwoStage):
    """Detects lesions on stacks of grey CT slices.

    Parameters
    ----------
    backbone: "vgg16", the only one.
    recipe: how the input is made of a CT.
    num_classes: number of labels.
    regions: how many regions of an image train the second stage.
    """

    NAME = "jmi"

    @remembered
    def __init__(
        self,
        backbone: str = "vgg16",
        recipe: Recipe = DEFAULT,
        num_classes: int = 8,
        regions: int = 32,
    ) -> None:
        if backbone != "vgg16":
            raise ValueError(f"'{backbone}' is not a backbone of the JMI detector; it has vgg16 only.")
        conv6, conv7 = nn.Conv2d(_WIDTH, _WIDTH, 3), nn.Conv2d(_WIDTH, _WIDTH, 5)  # 7 x 7 cells to 5 x 5 to one
        for conv in (conv6, conv7):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
        super().__init__(
            Vgg16(recipe.slices),
            (Vgg16.STRIDE,),
            _WIDTH,
            AnchorGenerator((_SIZES,), (_RATIOS,)),
            nn.Sequential(conv6, nn.ReLU(), conv7, nn.ReLU()),
            _WIDTH,
            num_classes,
            regions,
        )

    def decode(
        self, raw: RawOutputs, score_threshold: float = 0.05, nms_iou: float = 0.3, max_detections: int = 100
    ) -> list[Detections]:
        """As `TwoStage.decode`, with the paper's overlap."""
        return super().decode(raw, score_threshold, nms_iou, max_detections)
