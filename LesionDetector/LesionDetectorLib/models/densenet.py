"""DenseNet-121 on nine slices: the 2.5-D trunk of MULAN and MELD.

Yan et al., "MULAN: multitask universal lesion analysis network", MICCAI 2019. The nine slices pass as three pictures of
three; after the second transition the three maps become one, and only the middle picture's goes on.
"""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import FrozenBatchNorm2d

from LesionDetectorLib.models.backbone import see_imagenet

SLICES = 9
_WIDTHS = (256, 512, 1024)  # of the three dense blocks, at strides 4, 8 and 16
_COARSEST = 16
_FUSED = 256  # channels of the second transition


class DenseNet(nn.Module):
    """Gives one map at stride 4: the dense blocks' maps, added from coarse to fine.

    As in the other backbones, batch normalisation is frozen. Pooling by two centres a coarser cell between two finer
    ones, which nearest enlargement undoes.

    Parameters
    ----------
    channels: width of the map.
    """

    STRIDE = 4

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.slices = SLICES
        self.stages = _stages()
        self.fusion = nn.Conv2d(3 * _FUSED, _FUSED, 1)
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in _WIDTHS)

    def forward(self, images: Tensor) -> list[Tensor]:
        """One map (N, channels, H / 4, W / 4) of `images` (N, 9, H, W), whose darkest value is -1."""
        count, (height, width) = len(images), images.shape[-2:]
        images = pad(images, (0, -width % _COARSEST, 0, -height % _COARSEST), value=-1.0)
        before, middle, after = images.split(3, dim=1)
        stem, first, second, transition, third = self.stages
        fine = first(stem(torch.cat([middle, before, after])))
        medium = second(fine)
        fused = self.fusion(torch.cat(transition(medium).split(count), dim=1))
        blocks = fine[:count], medium[:count], third(fused)
        fine, medium, coarse = (lateral(block) for lateral, block in zip(self.laterals, blocks))
        medium = medium + interpolate(coarse, size=medium.shape[-2:])
        fine = fine + interpolate(medium, size=fine.shape[-2:])
        return [fine[..., : height // self.STRIDE, : width // self.STRIDE]]

    def load_backbone(self, state: dict[str, Tensor]) -> None:
        """Take the weights of torchvision's image classifier densenet121; RuntimeError names those that do not fit."""
        self.stages.load_state_dict(_stages(state).state_dict())


def _stages(state: dict[str, Tensor] | None = None) -> nn.ModuleList:
    """The stem, dense block 1, 2 (after its transition), transition 2, dense block 3."""
    net = torchvision.models.densenet121(weights=None)
    if state is not None:
        net.load_state_dict(state)
    parts = net.features.eval()
    first = fuse_conv_bn_eval(parts.conv0, parts.norm0)
    for parameter in first.parameters():
        parameter.requires_grad_(True)  # torch leaves a bias that was none before without a gradient
    if state is not None:
        see_imagenet(first)
    for part in (parts.denseblock1, parts.transition1, parts.denseblock2, parts.transition2, parts.denseblock3):
        _freeze_norms(part)
    return nn.ModuleList(
        [
            nn.Sequential(first, nn.ReLU(), parts.pool0),
            parts.denseblock1,
            nn.Sequential(parts.transition1, parts.denseblock2),
            parts.transition2,
            parts.denseblock3,
        ]
    ).train()


def _freeze_norms(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, child.eps)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen)
        else:
            _freeze_norms(child)
