"""MELD, the multi-expert lesion detector: one two-stage detector that learns from several data sets at once.

Yan et al., "Learning from multiple datasets with heterogeneous and partial labels for universal lesion detection in
CT", IEEE Trans. Med. Imaging 2020. Data set 0 has lesions of all kinds, of which some are marked; in each of the others
one organ's are, all of them. What is a lesion so differs between them: every data set has its own region proposals,
score and boxes (an *expert*), on features that all share. Several heads score a region, one for the whole body and one
an organ, and a gate says how much the region is of each organ.

What the paper leaves open, and what is done here: the gate's weights are constants to the classification loss, which
else it could lower by closing the gate; scores are learnt by binary cross-entropy; the gate learns from the labels of
marks, 0.95 and 0.05, for the paper's network that tells organs is not to be had. Anchors and regions are chosen as in
`faster_rcnn`, whose group normalisation the regions' features get too: without it the heads' layers, which have none,
learn nothing on a backbone that is not pretrained. The box loss is torchvision's and not ten times as heavy, as in the
authors' code: where training is short, that drowns the scores. There is no mask head, for there are no masks.

The paper's detector has one score and no labels. Here one more layer, on the features of the whole-body head, tells
the body part; it learns from the positive regions whose label is known. A detection has the lesion's score and the
likeliest part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead, concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign, batched_nms

from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.models.anchors import lay_anchors, pyramid_anchors
from LesionDetectorLib.models.architecture import remembered
from LesionDetectorLib.models.backbone import Pyramid
from LesionDetectorLib.models.dense import check_channels, group_norm
from LesionDetectorLib.models.densenet import SLICES, DenseNet
from LesionDetectorLib.models.detections import Detections, Target, network_input, thin
from LesionDetectorLib.models.faster_rcnn import BoxHeads, ImageSampler, ProposalNetwork
from LesionDetectorLib.models.losses import divisor
from LesionDetectorLib.slices import DEFAULT, Recipe

UNIVERSAL = 0
"""The data set of all kinds of lesions."""
_ROI_CELLS = 7
_ROI_LEVELS = 4
_LESION, _LEFT_OUT = 1, -1  # to torchvision's samplers
_SIZES, _RATIOS = (16, 24, 32, 48, 96), (0.5, 1.0, 2.0)  # of the paper's anchors, px at 0.8 mm
_SMOOTHING = 0.05
_BETA = 1 / 9  # up to which smooth L1 is quadratic, as torchvision has it


class RawOutputs(NamedTuple):
    """What all experts share: `maps` (N, channels, h, w), float32, per level of the pyramid."""

    maps: tuple[Tensor, ...]


class Scores(NamedTuple):
    """What the heads say of R regions, in float32.

    logits: (R, heads, sets), of a lesion; gate: (R, heads - 1), logits of the organs; deltas: (R, sets, 4); parts: (R,
    C), logits of the labels.
    """

    logits: Tensor
    gate: Tensor
    deltas: Tensor
    parts: Tensor


class Meld(nn.Module):
    """Detects lesions on stacks of grey CT slices.

    Parameters
    ----------
    backbone: "mobilenet_v2", "resnet18", "resnet34" or "resnet50", or the paper's "densenet121", which takes 9 slices
        and gives one map, so `strides` must be (4,); with `channels` 512 and `features` 1024 it is the paper's network.
    recipe: how the input is made of a CT.
    num_classes: number of labels.
    strides: px per cell of each level, doubling.
    channels: width of the maps, a multiple of 8.
    features: width of the heads' layers; the gate has half of it.
    organs: the labels that have a head and a data set of their own: set n marks organ n - 1.
    anchor_scale: size of the smaller of the two anchors of a level, in strides at 0.8 mm a pixel; a single level has
        the paper's fifteen.
    regions: how many regions of an image train the second stage.
    """

    NAME = "meld"

    @remembered
    def __init__(
        self,
        backbone: str = "mobilenet_v2",
        recipe: Recipe = DEFAULT,
        num_classes: int = 8,
        strides: Sequence[int] = (4, 8, 16, 32, 64),
        channels: int = 64,
        features: int = 256,
        organs: Sequence[str] = ("Lung", "Liver", "Mediastinum"),
        anchor_scale: float = 3.5,
        regions: int = 64,
    ) -> None:
        super().__init__()
        check_channels(channels)
        self.strides = tuple(strides)
        self.pyramid = _trunk(backbone, recipe, channels, self.strides)
        self.organs = [BodyPart.from_title(organ) - 1 for organ in organs]
        enlarged = DEFAULT.pixel_mm / recipe.pixel_mm
        self.rpns = nn.ModuleList(
            _proposals(_anchors(self.strides, anchor_scale, enlarged), channels) for _ in range(1 + len(organs))
        )
        self.regions = _regions(len(self.strides), regions)
        self.norm = group_norm(channels)
        self.heads = Heads(channels * _ROI_CELLS**2, features, 1 + len(organs), num_classes)

    def forward(self, images: Tensor) -> RawOutputs:
        """The maps of `images` (N, slices, H, W), grey values 0..255, H and W multiples of the coarsest stride.

        Whose proposals are wanted is known only to `loss`, by the data set of each image, and to `decode`.
        """
        maps = self.pyramid(network_input(images, self.strides[-1], self.recipe))
        return RawOutputs(tuple(level.float() for level in maps))

    def loss(self, raw: RawOutputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses "objectness" and "proposal" of the first, "class", "box", "gate" and "part" of the second stage.

        Their sum is to be minimised. An image teaches the expert of its `targets`' data set. A lesion whose label is -1
        is one of unknown label; the sides of a mined one are not learnt. Anchors and regions are sampled by torch's
        random generator.
        """
        objectness, proposal, regions = self._first_losses(raw, targets)
        regions, learnt, labels, wanted = self.regions.select_training_samples(regions, _lesions(targets))
        scores = self._second_stage(raw, regions)
        own = _of_images(torch.tensor([target.dataset for target in targets]), regions)
        lesion, wanted = torch.cat(labels) == _LESION, torch.cat(wanted)
        parts, loose = (
            torch.cat([_take(values, places) for values, places in zip(each, learnt)])
            for each in zip(*[(target.labels, target.loose) for target in targets])
        )
        parts = parts.where(lesion, -1)
        return {
            "objectness": objectness,
            "proposal": proposal,
            "class": _class_loss(scores, own, lesion),
            "box": _box_loss(scores, own, lesion & ~loose, wanted),
            "gate": self._gate_loss(scores.gate, own, lesion, parts),
            "part": _mean(cross_entropy(scores.parts, parts, ignore_index=-1, reduction="sum"), (parts >= 0).sum()),
        }

    @torch.no_grad()
    def decode(
        self,
        raw: RawOutputs,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 100,
        expert: int = UNIVERSAL,
    ) -> list[Detections]:
        """The detections of each image by one expert: the regions above the threshold, thinned whatever their label."""
        every = list(range(len(raw.maps[0])))
        objectness, deltas, cells = self._ask(raw, expert, every)
        regions = self._propose(raw, expert, every, objectness, deltas, cells)
        scores = self._second_stage(raw, regions)
        score = fused(scores.logits[..., expert].sigmoid(), scores.gate.sigmoid())
        boxes = self.regions.box_coder.decode(scores.deltas[:, expert], regions).reshape(-1, 4)
        image = _of_images(torch.tensor(every), regions)
        likely = score > score_threshold
        boxes, score, parts, image = boxes[likely], score[likely], scores.parts[likely].argmax(dim=1), image[likely]
        kept = batched_nms(boxes.double(), score.double(), image, nms_iou)
        found = boxes[kept], score[kept], parts[kept], image[kept]
        return thin(*found, len(every), self._size(raw), nms_iou, max_detections)

    # ------ the first stage

    def _first_losses(self, raw: RawOutputs, targets: Sequence[Target]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Losses of the proposals, and the regions (P, 4) that each image's expert proposes.

        An expert without an image in the batch gets a gradient of 0, since processes that train together must agree on
        which parameters have one.
        """
        absent = [rpn for number, rpn in enumerate(self.rpns) if number not in {target.dataset for target in targets}]
        objectness = 0.0 * sum((weight.sum() for rpn in absent for weight in rpn.parameters()), raw.maps[0].sum())
        proposal = objectness
        regions = [raw.maps[0].new_zeros(0, 4)] * len(targets)
        for dataset in sorted({target.dataset for target in targets}):
            images = [number for number, target in enumerate(targets) if target.dataset == dataset]
            said, deltas, cells = self._ask(raw, dataset, images)
            own = [targets[number] for number in images]
            losses = self._proposal_losses(self.rpns[dataset], self._anchors(raw), own, said, deltas)
            objectness, proposal = (
                total + loss * (len(images) / len(targets)) for total, loss in zip((objectness, proposal), losses)
            )
            for number, proposed in zip(images, self._propose(raw, dataset, images, said, deltas, cells)):
                regions[number] = proposed
        return objectness, proposal, regions

    def _proposal_losses(
        self, rpn: nn.Module, anchors: Tensor, targets: Sequence[Target], objectness: Tensor, deltas: Tensor
    ) -> tuple[Tensor, Tensor]:
        every = [anchors] * len(targets)
        learnt, boxes = rpn.assign_targets_to_anchors(every, _lesions(targets))
        wanted = list(rpn.box_coder.encode(boxes, every))
        said = deltas.detach().split(len(anchors))
        for number, target in enumerate(targets):
            mined = (boxes[number][:, None] == target.boxes[target.loose]).all(dim=2).any(dim=1)
            wanted[number] = torch.where(
                mined[:, None], said[number], wanted[number]
            )  # so that nothing is to be learnt
        return rpn.compute_loss(objectness, deltas, learnt, wanted)

    def _ask(self, raw: RawOutputs, dataset: int, images: Sequence[int]) -> tuple[Tensor, Tensor, list[int]]:
        """An expert's objectness (n A, 1) and deltas (n A, 4) for n `images`, and how many anchors each level has."""
        objectness, deltas = self.rpns[dataset].head([level[images] for level in raw.maps])
        cells = [level[0].numel() for level in objectness]
        said = concat_box_prediction_layers(
            [level.float() for level in objectness], [level.float() for level in deltas]
        )
        return *said, cells

    @torch.no_grad()
    def _propose(
        self,
        raw: RawOutputs,
        dataset: int,
        images: Sequence[int],
        objectness: Tensor,
        deltas: Tensor,
        cells: list[int],
    ) -> list[Tensor]:
        """The regions (P, 4) of each of the `images` that are worth a look, of what `_ask` gave."""
        rpn = self.rpns[dataset]
        boxes = rpn.box_coder.decode(deltas, [self._anchors(raw)] * len(images)).view(len(images), -1, 4)
        return rpn.filter_proposals(boxes, objectness, [self._size(raw)] * len(images), cells)[0]

    def _anchors(self, raw: RawOutputs) -> Tensor:
        shapes = [level.shape[-2:] for level in raw.maps]
        return torch.cat(lay_anchors(self.rpns[0].anchor_generator, shapes, self.strides, raw.maps[0].device))

    def _size(self, raw: RawOutputs) -> tuple[int, int]:
        height, width = raw.maps[0].shape[-2:]
        return height * self.strides[0], width * self.strides[0]

    # ------ the second stage

    def _second_stage(self, raw: RawOutputs, regions: list[Tensor]) -> Scores:
        maps = {str(level): features for level, features in enumerate(raw.maps)}
        with torch.autocast(raw.maps[0].device.type, enabled=False):
            cut = self.norm(self.regions.box_roi_pool(maps, regions, [self._size(raw)] * len(regions)))
        return self.heads(cut.flatten(1))

    def _gate_loss(self, gate: Tensor, own: Tensor, lesion: Tensor, parts: Tensor) -> Tensor:
        """Binary cross-entropy of the organs of the lesions (R,) whose organ is known: by the data set or the label."""
        organs = torch.tensor(self.organs, dtype=torch.long, device=gate.device)
        organ = torch.where(own == UNIVERSAL, parts, torch.cat([organs.new_tensor([-1]), organs])[own])
        known = lesion & (organ >= 0)
        wanted = (organ[:, None] == organs).float().clamp(_SMOOTHING, 1 - _SMOOTHING)
        losses = binary_cross_entropy_with_logits(gate, wanted, reduction="none").sum(dim=1)
        return _mean((losses * known).sum(), known.sum())


class Heads(nn.Module):
    """The second stage: `heads` scores, one a data set each, the gate between them, boxes and body parts.

    Hidden layers are shared by the data sets, the last ones are not. There are as many data sets as heads.
    """

    def __init__(self, inputs: int, features: int, heads: int, num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(_two_layers(inputs, features) for _ in range(heads))
        self.logits = nn.ModuleList(nn.Linear(features, heads) for _ in range(heads))
        self.gate = nn.Sequential(*_two_layers(inputs, features // 2), nn.Linear(features // 2, heads - 1))
        self.deltas = nn.Linear(features, 4 * heads)
        self.parts = nn.Linear(features, num_classes)

    def forward(self, cut: Tensor) -> Scores:
        """What is said of regions whose features are `cut` (R, inputs)."""
        hidden = [layers(cut) for layers in self.hidden]
        logits = torch.stack([layer(features) for layer, features in zip(self.logits, hidden)], dim=1)
        deltas = self.deltas(hidden[0]).unflatten(1, (len(self.hidden), 4))
        return Scores(logits.float(), self.gate(cut).float(), deltas.float(), self.parts(hidden[0]).float())


def _lesions(targets: Sequence[Target]) -> list[dict[str, Tensor]]:
    """The boxes of every image as torchvision's stages take them, with labels _LESION and _LEFT_OUT."""
    return [{"boxes": each.boxes, "labels": torch.where(each.ignore, _LEFT_OUT, _LESION)} for each in targets]


def fused(scores: Tensor, gate: Tensor) -> Tensor:
    """The score (R,) of regions: the mean of the heads' `scores` (R, heads), weighted with 1 for the whole body and
    with the `gate` (R, heads - 1) for the organs."""
    weights = torch.cat([torch.ones_like(scores[:, :1]), gate], dim=1)
    return (weights * scores).sum(dim=1) / weights.sum(dim=1)


def _class_loss(scores: Scores, own: Tensor, lesion: Tensor) -> Tensor:
    """Mean over the regions of the heads' losses, weighted with the gate, at the output of the own data set (R,)."""
    logits = _own(scores.logits, own)  # (R, heads)
    wanted = lesion.float()[:, None].expand_as(logits)
    losses = binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    weights = torch.cat([torch.ones_like(losses[:, :1]), scores.gate.detach().sigmoid()], dim=1)
    return _mean((weights * losses).sum(), lesion.new_tensor(len(lesion), dtype=torch.float))


def _box_loss(scores: Scores, own: Tensor, learnt: Tensor, wanted: Tensor) -> Tensor:
    """Smooth L1 of the deltas (R, 4) `wanted` of the regions that are `learnt` (R,), by the own data set's layer."""
    deltas = _own(scores.deltas.transpose(1, 2), own)
    loss = smooth_l1_loss(
        deltas[learnt], wanted[learnt], beta=_BETA, reduction="sum"
    )  # background wants what is no box
    return _mean(loss, learnt.new_tensor(len(learnt), dtype=torch.float))


def _own(outputs: Tensor, own: Tensor) -> Tensor:
    """Of `outputs` (R, K, sets) those of each region's `own` data set (R,): (R, K)."""
    return outputs.gather(2, own[:, None, None].expand(-1, outputs.shape[1], 1))[..., 0]


def _of_images(values: Tensor, regions: Sequence[Tensor]) -> Tensor:
    """The value (N,) of its image for each of the regions of N images: (R,)."""
    counts = torch.tensor([len(each) for each in regions])
    return values.repeat_interleave(counts).to(regions[0].device)


def _take(values: Tensor, places: Tensor) -> Tensor:
    """`values` (M,) at `places` (P,); without values, which only background can be, zeros."""
    return values[places] if len(values) else values.new_zeros(len(places))


def _mean(total: Tensor, count: Tensor) -> Tensor:
    """`total` by `count`, at least 1, of the whole batch."""
    return total / divisor(count)


def _two_layers(inputs: int, features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, features), nn.ReLU(), nn.Linear(features, features), nn.ReLU())


def _trunk(backbone: str, recipe: Recipe, channels: int, strides: tuple[int, ...]) -> Pyramid | DenseNet:
    if backbone != "densenet121":
        return Pyramid(backbone, recipe.slices, channels, strides)
    if strides != (DenseNet.STRIDE,) or recipe.slices != SLICES:
        raise ValueError(
            f"densenet121 takes {SLICES} slices and gives one map at stride {DenseNet.STRIDE}, not {recipe.slices} "
            f"slices and strides {strides}."
        )
    return DenseNet(channels)


def _anchors(strides: Sequence[int], scale: float, enlarged: float) -> AnchorGenerator:
    """The anchors of every level, for pixels that are `enlarged` times as many as at 0.8 mm."""
    if len(strides) == 1:
        return AnchorGenerator((tuple(size * enlarged for size in _SIZES),), (_RATIOS,))
    return pyramid_anchors(strides, scale * enlarged, per_octave=2)


def _proposals(anchors: AnchorGenerator, channels: int) -> ProposalNetwork:
    rpn = ProposalNetwork(
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
    rpn.fg_bg_sampler = ImageSampler(256, 0.5)
    return rpn


def _regions(levels: int, regions: int) -> BoxHeads:
    """Which regions teach the second stage what, and how they are cut out; `Heads` are what looks at them."""
    heads = BoxHeads(
        MultiScaleRoIAlign([str(level) for level in range(levels)][:_ROI_LEVELS], _ROI_CELLS, sampling_ratio=2),
        nn.Identity(),
        nn.Identity(),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=regions,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=100,
    )
    heads.fg_bg_sampler = ImageSampler(regions, 0.25)
    return heads
