"""DeepLabv3+ (Chen et al., ECCV 2018) on any backbone of `backbones`.

Module names are those of the original system, so that its state dicts map one to one. The numbers
(channels, rates, dropout) are set in `build`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moeseg.models.backbones import Backbone
from moeseg.models.expert import Expert, Normalize, image_size, resize
from moeseg.types import Features


class DeepLabV3Plus(Expert):
    """Backbone, atrous spatial pyramid pooling, decoder; logits leave at stride 4.

    A gate sees the pyramid's output.

    Args:
        backbone: gives the stride-4 map and the last map.
        normalize: from pixels to what the backbone takes.
        head: pyramid and decoder.
    """

    def __init__(self, backbone: Backbone, normalize: Normalize, head: DeepLabHead) -> None:
        super().__init__(
            num_classes=head.num_classes, gate_channels=head.channels, stride=backbone.stride
        )
        self.normalize = normalize
        self.backbone = backbone
        self.classifier = head

    def features(self, images: Tensor) -> Features:
        """Encode (B, 3, H, W): gate (B, F, H/stride, W/stride), decoder the stride-4 map."""
        low, high = self.backbone(self.normalize(images))
        return Features(self.classifier.aspp(high), (low,), image_size(images))

    def decode(self, features: Features) -> Tensor:
        """Return logits (B, C, ceil(H/4), ceil(W/4))."""
        logits: Tensor = self.classifier(features.decoder[0], features.gate)
        return logits


class DeepLabHead(nn.Module):
    """The pyramid (`aspp`) and the decoder that joins its map with the low-level one.

    Args:
        in_channels: of the backbone's last map.
        low_channels: of its stride-4 map.
        num_classes: C.
        channels: F, of the pyramid and the decoder.
        low_level_channels: to which the stride-4 map is projected.
        rates: dilations of the pyramid's 3x3 branches.
        dropout: share of the pyramid's output that is dropped in training.
    """

    def __init__(
        self,
        in_channels: int,
        low_channels: int,
        num_classes: int,
        *,
        channels: int,
        low_level_channels: int,
        rates: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_classes, self.channels = num_classes, channels
        self.project = _conv(low_channels, low_level_channels)
        self.aspp = ASPP(in_channels, channels, rates, dropout)
        self.classifier = nn.Sequential(
            *_conv(low_level_channels + channels, channels, kernel=3),
            nn.Conv2d(channels, num_classes, 1),
        )

    def forward(self, low: Tensor, pyramid: Tensor) -> Tensor:
        """Return logits (B, C, h, w) on the grid of `low` (B, F_low, h, w)."""
        low = self.project(low)
        joined = torch.cat([low, resize(pyramid, image_size(low))], dim=1)
        logits: Tensor = self.classifier(joined)
        return logits


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three dilated 3x3, image mean; joined by a 1x1."""

    def __init__(
        self, in_channels: int, channels: int, rates: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                _conv(in_channels, channels),
                *(_conv(in_channels, channels, kernel=3, dilation=rate) for rate in rates),
                _ImageMean(in_channels, channels),
            ]
        )
        self.project = nn.Sequential(
            *_conv(len(self.convs) * channels, channels), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F_in, h, w) to (B, F, h, w)."""
        joined: Tensor = self.project(torch.cat([conv(x) for conv in self.convs], dim=1))
        return joined


class _ImageMean(nn.Sequential):
    """The image pooling branch.

    In training a batch of one image gives its BatchNorm a single value per channel, which has no
    variance; such a batch is normalised by the running statistics and does not move them.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *_conv(in_channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        layers: Any = self
        pool, conv, norm, relu = layers
        mean = conv(pool(x))  # (B, F_in, h, w) -> (B, F, 1, 1)
        if norm.training and len(x) == 1:
            statistics = norm.running_mean, norm.running_var
            mean = F.batch_norm(mean, *statistics, norm.weight, norm.bias, eps=norm.eps)
        else:
            mean = norm(mean)
        # resizing a single cell copies it
        spread: Tensor = relu(mean).expand(-1, -1, *image_size(x))
        return spread


def _conv(inputs: int, outputs: int, *, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the grid, BatchNorm, ReLU."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
