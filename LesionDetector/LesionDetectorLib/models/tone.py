"""The tone curve through which a network sees CT."""

from __future__ import annotations

from torch import Tensor

from LesionDetectorLib.slices import WINDOW

_KNOTS_HU = (-200.0, 250.0)
_KNOT_VALUES = (-0.6, 0.6)


def tone(images: Tensor) -> Tensor:
    """Grey values 0..255 of the window -1024..3071 HU as -1..1, monotonic and piecewise linear.

    Soft tissue, -200..250 HU, gets 60 % of the range instead of 11 %: there a lesion differs from its organ by some
    tens of HU, a hundredth of the whole window, which a network with few training steps overlooks.
    """
    grey = 255 / (WINDOW[1] - WINDOW[0])
    low, high = ((hu - WINDOW[0]) * grey for hu in _KNOTS_HU)
    dark = images.clamp(max=low) * ((_KNOT_VALUES[0] + 1) / low)
    middle = (images.clamp(low, high) - low) * ((_KNOT_VALUES[1] - _KNOT_VALUES[0]) / (high - low))
    bright = (images.clamp(min=high) - high) * ((1 - _KNOT_VALUES[1]) / (255 - high))
    return dark + middle + bright - 1
