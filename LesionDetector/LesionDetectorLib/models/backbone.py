"""Backbones of torchvision that give maps of features: a pyramid of several strides, or VGG-16 at one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import pad, relu, relu6
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import FeaturePyramidNetwork

BACKBONES = ("mobilenet_v2", "resnet18", "resnet34", "resnet50")
_STAGE_STRIDES = (4, 8, 16, 32)
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue in 0..1, with which torchvision's classifiers were trained."""


class Pyramid(nn.Module):
    """Backbone and feature pyramid network (Lin et al., CVPR 2017): images in, one map of `channels` per stride out.

    The backbone's batch normalisation is frozen, as detectors with few images per step do, and therefore folded into
    its
    convolutions: the same function and half the memory traffic. Strides beyond 32 are further convolutions of stride 2.

    Parameters
    ----------
    backbone: one of BACKBONES.
    slices: input channels.
    channels: width of every map of the pyramid.
    strides: consecutive powers of two that begin with 4, 8, 16 or 32.
    """

    def __init__(self, backbone: str, slices: int, channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"'{backbone}' is not a backbone; use one of: {', '.join(BACKBONES)}.")
        if not strides or strides[0] not in _STAGE_STRIDES or any(b != 2 * a for a, b in pairwise(strides)):
            raise ValueError(f"Strides must double from one of {_STAGE_STRIDES} on, not {tuple(strides)}.")
        self.backbone, self.slices = backbone, slices
        self.stages = _stages(backbone, slices)
        self.first = _STAGE_STRIDES.index(strides[0])
        used = _STAGE_STRIDES[self.first : self.first + len(strides)]
        self.stages = self.stages[: self.first + len(used)]
        self.fpn = FeaturePyramidNetwork([_width(stage) for stage in self.stages[self.first :]], channels)
        self.coarser = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in strides[len(used) :]
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps (N, channels, H / stride, W / stride) of `images` (N, slices, H, W), finest first."""
        features = OrderedDict()
        for number, stage in enumerate(self.stages):
            images = stage(images)
            if number >= self.first:
                features[str(number)] = images
        maps = list(self.fpn(features).values())
        for conv in self.coarser:
            maps.append(conv(relu(maps[-1])))
        return maps

    def load_backbone(self, state: dict[str, Tensor]) -> None:
        """Take the weights of torchvision's image classifier of the same name.

        RuntimeError names those that do not fit.
        """
        self.stages.load_state_dict(_stages(self.backbone, self.slices, state)[: len(self.stages)].state_dict())


def _stages(backbone: str, slices: int, state: dict[str, Tensor] | None = None) -> nn.ModuleList:
    """The four stages of the torchvision classifier, which end at strides 4, 8, 16 and 32."""
    net = getattr(torchvision.models, backbone)(weights=None)
    if state is not None:
        net.load_state_dict(state)
    _fold_batch_norm(net.eval())
    if backbone == "mobilenet_v2":
        _replace_relu6(net)
        parts = [net.features[:4], net.features[4:7], net.features[7:14], net.features[14:18]]
        parts[0][0][0] = _adapt_stem(parts[0][0][0], slices)
    else:
        if state is not None:
            see_imagenet(net.conv1)
        stem = nn.Sequential(_adapt_stem(net.conv1, slices), net.relu, net.maxpool)
        parts = [nn.Sequential(stem, net.layer1), net.layer2, net.layer3, net.layer4]
    return nn.ModuleList(parts).train()


def _fold_batch_norm(module: nn.Module) -> None:
    """Fold every batch normalisation into the convolution registered before it."""
    previous = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, previous, fuse_conv_bn_eval(getattr(module, previous), child))
            # torch leaves a bias that was none before without a gradient
            getattr(module, previous).requires_grad_(True)
            setattr(module, name, nn.Identity())
        else:
            _fold_batch_norm(child)
        previous = name


class _Relu6(nn.Module):
    """min(max(x, 0), 6), in place while it trains, which saves memory, and in float32.

    A trained network is a tenth faster in bfloat16 where it is not in place.
    """

    def forward(self, x: Tensor) -> Tensor:
        return relu6(x, inplace=self.training or x.dtype == torch.float32)


def _replace_relu6(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU6):
            setattr(module, name, _Relu6())
        else:
            _replace_relu6(child)


def see_imagenet(conv: nn.Conv2d) -> None:
    """Let a first convolution with ImageNet's weights take values of -1..1 for the normalised colours it has learnt.

    The normalisation, (x - mean) / deviation of x in 0..1, goes into its weights and bias. MobileNetV2 is left as the
    weights that ship were trained: it takes -1..1 as it is.
    """
    mean, deviation = (torch.tensor(values) for values in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    with torch.no_grad():
        conv.bias += (conv.weight * ((0.5 - mean) / deviation).view(1, 3, 1, 1)).sum(dim=(1, 2, 3))
        conv.weight *= (0.5 / deviation).view(1, 3, 1, 1)


def _adapt_stem(conv: nn.Conv2d, slices: int) -> nn.Conv2d:
    """The RGB convolution for `slices` grey slices; slices that are all alike give what a grey picture gave."""
    adapted = nn.Conv2d(slices, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    with torch.no_grad():
        if slices % 3 == 0:
            adapted.weight.copy_(conv.weight.repeat(1, slices // 3, 1, 1) * (3 / slices))
        else:
            adapted.weight.copy_(conv.weight.sum(dim=1, keepdim=True) / slices)
        adapted.bias.copy_(conv.bias)
    return adapted


def _width(stage: nn.Module) -> int:
    """The number of channels that leave a stage, which is that of its last convolution."""
    return [module for module in stage.modules() if isinstance(module, nn.Conv2d)][-1].out_channels


class Vgg16(nn.Module):
    """VGG-16 (Simonyan and Zisserman, ICLR 2015) without its last two poolings: one map of 512 channels at stride 8.

    Parameters
    ----------
    slices: input channels.
    """

    STRIDE = 8

    def __init__(self, slices: int) -> None:
        super().__init__()
        self.slices = slices
        self.stages = _vgg_stages(_vgg_features(), slices)

    def forward(self, images: Tensor) -> list[Tensor]:
        """One map (N, 512, H / 8, W / 8) of `images` (N, slices, H, W), whose darkest value is -1.

        Three poolings of 2 x 2 centre cell x on pixel 8 x + 3.5; a margin of air brings it to 8 x, to half a pixel.
        """
        images = pad(images, (self.STRIDE // 2, 0, self.STRIDE // 2, 0), value=-1.0)
        for stage in self.stages:
            images = stage(images)
        return [images]

    def load_backbone(self, state: dict[str, Tensor]) -> None:
        """Take the weights of torchvision's image classifier vgg16; RuntimeError names those that do not fit."""
        features = _vgg_features()
        features.load_state_dict(
            {name.removeprefix("features."): value for name, value in state.items() if name.startswith("features.")}
        )
        see_imagenet(features[0])
        self.stages.load_state_dict(_vgg_stages(features, self.slices).state_dict())


def _vgg_features() -> nn.Sequential:
    features = make_layers(cfgs["D"])
    for module in features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return features


def _vgg_stages(features: nn.Sequential, slices: int) -> nn.ModuleList:
    """Conv1 to Conv5 of the paper, of which the first three end with a pooling."""
    features[0] = _adapt_stem(features[0], slices)
    return nn.ModuleList([features[:5], features[5:10], features[10:17], features[17:23], features[24:30]])
