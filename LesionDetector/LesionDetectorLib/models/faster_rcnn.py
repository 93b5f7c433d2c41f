"""Faster R-CNN: a two-stage detector, on torchvision's region proposal network and box heads.

Ren et al., "Faster R-CNN: towards real-time object detection with region proposal networks", NIPS 2015, on a feature
pyramid (Lin et al., CVPR 2017). `forward` ends where the numbers of boxes begin to vary; losses and detections run the
second stage on what it gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign

from LesionDetectorLib.models.anchors import lay_anchors, match_anchors, pyramid_anchors
from LesionDetectorLib.models.architecture import remembered
from LesionDetectorLib.models.backbone import Pyramid, Vgg16
from LesionDetectorLib.models.dense import check_channels, group_norm
from LesionDetectorLib.models.detections import IGNORE, Detections, Target, network_input, thin
from LesionDetectorLib.models.losses import process_number
from LesionDetectorLib.slices import DEFAULT, Recipe

_ROI_CELLS = 7
_ROI_LEVELS = 4
_LEFT_OUT = -1  # the label that torchvision's samplers pass over


class RawOutputs(NamedTuple):
    """What the first stage says, per level of the pyramid: raw tensors in float32.

    maps: (N, channels, h, w), from which the second stage cuts its regions.
    objectness: (N, A, h, w), logits of every anchor.
    deltas: (N, 4 A, h, w), shift and log scale of every anchor in its own width and height.
    """

    maps: tuple[Tensor, ...]
    objectness: tuple[Tensor, ...]
    deltas: tuple[Tensor, ...]


class TwoStage(nn.Module):
    """What Faster R-CNN on a pyramid and the detector of 2018 (`jmi`) have in common.

    Parameters
    ----------
    pyramid: gives the maps.
    strides: px per cell of each map.
    channels: width of every map.
    anchors: for every level.
    box_head: (R, channels, 7, 7) to (R, features).
    features: what leaves the box head.
    num_classes: number of labels, without the background.
    regions: how many regions of an image train the second stage.
    """

    def __init__(
        self,
        pyramid: Pyramid | Vgg16,
        strides: Sequence[int],
        channels: int,
        anchors: AnchorGenerator,
        box_head: nn.Module,
        features: int,
        num_classes: int,
        regions: int,
    ) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.strides = tuple(strides)
        self.rpn = ProposalNetwork(
            anchors,
            RPNHead(channels, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 1000, "testing": 1000},
            post_nms_top_n={"training": 500, "testing": 300},
            nms_thresh=0.7,
        )
        self.roi_heads = BoxHeads(
            MultiScaleRoIAlign(
                [str(level) for level in range(len(self.strides))][:_ROI_LEVELS], _ROI_CELLS, sampling_ratio=2
            ),
            box_head,
            FastRCNNPredictor(features, num_classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=regions,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=100,
        )
        for stage in (self.rpn, self.roi_heads):
            stage.fg_bg_sampler = ImageSampler(
                stage.fg_bg_sampler.batch_size_per_image, stage.fg_bg_sampler.positive_fraction
            )

    def forward(self, images: Tensor) -> RawOutputs:
        """Raw outputs for `images` (N, slices, H, W), grey values 0..255, H and W multiples of the coarsest stride."""
        maps = self.pyramid(network_input(images, self.strides[-1], self.recipe))
        return RawOutputs(*(tuple(level.float() for level in part) for part in (maps, *self.rpn.head(maps))))

    def loss(self, raw: RawOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses "objectness" and "proposal" of the first and "class" and "box" of the second stage.

        Their sum is to be minimised.

        `targets` are one per image. Anchors and regions are sampled by torch's random generator.
        """
        lesions = [
            {"boxes": target.boxes, "labels": (target.labels + 1).masked_fill(target.ignore, _LEFT_OUT)}
            for target in targets
        ]
        anchors = [self._anchors(raw)] * len(targets)
        objectness, deltas = concat_box_prediction_layers(list(raw.objectness), list(raw.deltas))
        learnt, boxes = self.rpn.assign_targets_to_anchors(anchors, lesions)
        first = self.rpn.compute_loss(objectness, deltas, learnt, self.rpn.box_coder.encode(boxes, anchors))

        proposals = self._proposals(raw)
        proposals, _, labels, wanted = self.roi_heads.select_training_samples(proposals, lesions)
        logits, deltas = self._second_stage(raw, proposals)
        second = fastrcnn_loss(logits, deltas, labels, wanted) if len(logits) else (0 * logits.sum(), 0 * deltas.sum())
        return dict(zip(("objectness", "proposal", "class", "box"), (*first, *second)))

    @torch.no_grad()
    def decode(
        self, raw: RawOutputs, score_threshold: float = 0.05, nms_iou: float = 0.5, max_detections: int = 100
    ) -> list[Detections]:
        """The detections of each image: every region's boxes above the threshold, thinned label by label."""
        proposals = self._proposals(raw)
        logits, deltas = self._second_stage(raw, proposals)
        scores = logits.softmax(dim=-1)[:, 1:]
        boxes = self.roi_heads.box_coder.decode(deltas, proposals)[:, 1:]
        image = torch.cat(
            [torch.full((len(regions),), number, device=scores.device) for number, regions in enumerate(proposals)]
        )
        region, label = (scores > score_threshold).nonzero(as_tuple=True)
        found = boxes[region, label], scores[region, label], label, image[region]
        return thin(*found, len(proposals), self._size(raw), nms_iou, max_detections)

    def _size(self, raw: RawOutputs) -> tuple[int, int]:
        height, width = raw.objectness[0].shape[-2:]
        return height * self.strides[0], width * self.strides[0]

    def _anchors(self, raw: RawOutputs) -> Tensor:
        shapes = [level.shape[-2:] for level in raw.objectness]
        return torch.cat(lay_anchors(self.rpn.anchor_generator, shapes, self.strides, raw.objectness[0].device))

    @torch.no_grad()
    def _proposals(self, raw: RawOutputs) -> list[Tensor]:
        """The regions (R, 4) of each image that are worth a look."""
        count = len(raw.objectness[0])
        objectness, deltas = concat_box_prediction_layers(list(raw.objectness), list(raw.deltas))
        boxes = self.rpn.box_coder.decode(deltas, [self._anchors(raw)] * count).view(count, -1, 4)
        per_level = [level[0].numel() for level in raw.objectness]
        return self.rpn.filter_proposals(boxes, objectness, [self._size(raw)] * count, per_level)[0]

    def _second_stage(self, raw: RawOutputs, regions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (R, 1 + C) of background and labels, and deltas (R, 4 (1 + C)), of the regions of all images, in
        float32.

        RoIAlign samples a map at px / stride, which is where the pixel lies when cell 0 is centred on pixel 0.
        """
        maps = {str(level): features for level, features in enumerate(raw.maps)}
        with torch.autocast(raw.maps[0].device.type, enabled=False):
            cut = self.roi_heads.box_roi_pool(maps, regions, [self._size(raw)] * len(regions))
        logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(cut))
        return logits.float(), deltas.float()


class FasterRCNN(TwoStage):
    """Detects lesions on stacks of grey CT slices.

    Parameters
    ----------
    backbone: "mobilenet_v2", "resnet18", "resnet34" or "resnet50".
    recipe: how the input is made of a CT.
    num_classes: number of labels.
    strides: px per cell of each level, doubling.
    channels: width of the pyramid, a multiple of 8.
    head_depth: convolutions of the second stage.
    features: width of the layer that follows them.
    anchor_scale: size of the smaller of the two anchors of a level, in strides at 0.8 mm a pixel.
    regions: how many regions of an image train the second stage.
    """

    NAME = "faster_rcnn"

    @remembered
    def __init__(
        self,
        backbone: str = "mobilenet_v2",
        recipe: Recipe = DEFAULT,
        num_classes: int = 8,
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        channels: int = 64,
        head_depth: int = 4,
        features: int = 512,
        anchor_scale: float = 3.5,
        regions: int = 64,
    ) -> None:
        check_channels(channels)
        super().__init__(
            Pyramid(backbone, recipe.slices, channels, strides),
            strides,
            channels,
            pyramid_anchors(strides, anchor_scale * DEFAULT.pixel_mm / recipe.pixel_mm, per_octave=2),
            FastRCNNConvFCHead((channels, _ROI_CELLS, _ROI_CELLS), [channels] * head_depth, [features], group_norm),
            features,
            num_classes,
            regions,
        )


class ImageSampler(BalancedPositiveNegativeSampler):
    """torchvision's choice of the anchors or regions that learn, drawn for every image of a batch by itself.

    So an image has the same ones whether one process trains on the whole batch or several on parts of it.
    """

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks of the chosen positives and of the chosen negatives, one of each an image."""
        batch, first = int(torch.randint(2**31, ())), process_number() * len(matched_idxs)
        devices = [matched_idxs[0].device] if matched_idxs[0].is_cuda else []
        chosen = []
        with torch.random.fork_rng(devices):
            for number, matched in enumerate(matched_idxs, first):
                torch.manual_seed(batch + number)
                chosen.append([masks[0] for masks in super().__call__([matched])])
        positives, negatives = zip(*chosen)
        return list(positives), list(negatives)


class ProposalNetwork(RegionProposalNetwork):
    """torchvision's first stage, for images with boxes to ignore."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per image and anchor 1 for a lesion, 0 for background, -1 to leave it out, (A,), and the box it learns,
        (A, 4)."""
        labels, boxes = [], []
        for image_anchors, target in zip(anchors, targets):
            matched = match_anchors(
                self.proposal_matcher, image_anchors, target["boxes"], target["labels"] == _LEFT_OUT
            )
            labels.append(torch.where(matched == IGNORE, -1.0, (matched >= 0).float()))
            boxes.append(_learnt(target["boxes"], matched, image_anchors))
        return labels, boxes

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """As torchvision's, and 0 instead of not-a-number where there is nothing but boxes to ignore."""
        if not any((image_labels >= 0).any() for image_labels in labels):
            return 0 * objectness.sum(), 0 * pred_bbox_deltas.sum()
        return super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)


class BoxHeads(RoIHeads):
    """torchvision's second stage, for images with boxes to ignore, whose label is -1."""

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per image and proposal the index of the box that it learns, and its label, 0 for background or -1 to leave
        it out, (P,)."""
        indices, labels = [], []
        for regions, boxes, box_labels in zip(proposals, gt_boxes, gt_labels):
            matched = match_anchors(self.proposal_matcher, regions, boxes, box_labels == _LEFT_OUT)
            indices.append(matched.clamp(min=0))
            labels.append(_learnt(box_labels, matched, torch.where(matched == IGNORE, -1, 0)))
        return indices, labels


def _learnt(values: Tensor, matched: Tensor, otherwise: Tensor) -> Tensor:
    """Row `matched` of `values` where that is a box, `otherwise` elsewhere."""
    chosen, positive = otherwise.clone(), matched >= 0
    chosen[positive] = values[matched[positive]]
    return chosen
