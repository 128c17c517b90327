"""Full-resolution residual networks (Pohlen et al., CVPR 2017), as published and as once coded.

A residual stream z keeps the image's resolution, a pooling stream y goes down and up again; full
resolution residual units join them. Module names are those of the original system. The numbers of
`frrn-a` and `frrn-b` are set in `build`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moeseg.models.expert import Expert, Normalize, image_size
from moeseg.types import Features, Size


@dataclass(frozen=True, slots=True)
class Layer:
    """A run of full resolution residual units at one scale.

    Attributes:
        units: how many.
        channels: of the pooling stream.
        factor: stride of the pooling stream.
    """

    units: int
    channels: int
    factor: int


class FRRN(Expert):
    """A full-resolution residual network; logits leave at image size.

    A gate sees the pooling stream at its coarsest. Images whose sides are not multiples of the
    stride are padded right and bottom by replication, and the logits cropped.

    Args:
        num_classes: C.
        normalize: from pixels to what the network takes.
        stem: channels before and after the two streams (48 as published).
        residual: channels of the residual stream (32 as published).
        encoder: layers on the way down; each halves the pooling stream.
        decoder: layers on the way up; each doubles it.
        original: True follows the original code where it differs from the paper: max pooling of
            3x3 with padding, ReLU after residual sums, every upsampling bilinear with aligned
            corners.
    """

    def __init__(
        self,
        num_classes: int,
        normalize: Normalize,
        *,
        stem: int,
        residual: int,
        encoder: Sequence[Layer],
        decoder: Sequence[Layer],
        original: bool,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            gate_channels=encoder[-1].channels,
            stride=encoder[-1].factor,
        )
        self.original = original
        self.normalize = normalize
        self.first = _First(stem)
        self.reslayers_in = nn.ModuleList(_ResidualUnit(stem, original) for _ in range(3))
        self.divide = nn.Conv2d(stem, residual, 1)
        channels = stem
        self._encoder: list[str] = []
        self._decoder: list[str] = []
        for names, prefix, layers in (
            (self._encoder, "frrnlayer", encoder),
            (self._decoder, "defrrnlayer", decoder),
        ):
            for number, layer in enumerate(layers, start=1):
                names.append(f"{prefix}{number}")
                self.add_module(names[-1], _Units(channels, residual, layer, original))
                channels = layer.channels
        self.compress = nn.Conv2d(channels + residual, stem, 1)
        self.reslayers_out = nn.ModuleList(_ResidualUnit(stem, original) for _ in range(3))
        self.out_conv = nn.Conv2d(stem, num_classes, 1)

    def features(self, images: Tensor) -> Features:
        """Encode (B, 3, H, W): gate (B, F, H/stride, W/stride), decoder the streams' z."""
        height, width = size = image_size(images)
        right, bottom = -width % self.stride, -height % self.stride
        x = self.normalize(images)
        if right or bottom:
            x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        x = self.first(x)
        for unit in self.reslayers_in:
            x = unit(x)
        y, z = x, self.divide(x)
        for name in self._encoder:
            y, z = self.get_submodule(name)(_pool(y, 2, self.original), z)
        return Features(gate=y, decoder=(z,), size=size)

    def decode(self, features: Features) -> Tensor:
        """Return logits (B, C, H, W)."""
        y, (z,) = features.gate, features.decoder
        for name in self._decoder:
            y, z = self.get_submodule(name)(self._double(y), z)
        x = self.compress(torch.cat([self._double(y), z], dim=1))
        for unit in self.reslayers_out:
            x = unit(x)
        height, width = features.size
        logits: Tensor = self.out_conv(x)[..., :height, :width]
        return logits

    def _double(self, y: Tensor) -> Tensor:
        size = 2 * y.shape[-2], 2 * y.shape[-1]
        return F.interpolate(y, size=size, mode="bilinear", align_corners=self.original)


class _First(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 5, padding=2)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _ResidualUnit(nn.Module):
    """Residual unit at image resolution."""

    def __init__(self, channels: int, original: bool) -> None:
        super().__init__()
        self.original = original
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(total) if self.original else total


class _Units(nn.Module):
    """The full resolution residual units of one layer."""

    def __init__(self, inputs: int, residual: int, layer: Layer, original: bool) -> None:
        super().__init__()
        self.frr1 = _FullResolutionUnit(inputs, residual, layer, original)
        self.nexts = nn.ModuleList(
            _FullResolutionUnit(layer.channels, residual, layer, original)
            for _ in range(layer.units - 1)
        )

    def forward(self, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        y, z = self.frr1(y, z)
        for unit in self.nexts:
            y, z = unit(y, z)
        return y, z


class _FullResolutionUnit(nn.Module):
    """Full resolution residual unit (Pohlen et al. 2017, Fig. 2): y' = G(y, z), z' = z + H(y')."""

    def __init__(self, inputs: int, residual: int, layer: Layer, original: bool) -> None:
        super().__init__()
        self.factor, self.original = layer.factor, original
        self.conv1 = nn.Conv2d(inputs + residual, layer.channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(layer.channels)
        self.conv2 = nn.Conv2d(layer.channels, layer.channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(layer.channels)
        self.convz = nn.Conv2d(layer.channels, residual, 1)

    def forward(self, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat([y, _pool(z, self.factor, self.original)], dim=1)
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(joined))))))
        return y, z + self._spread(self.convz(y), image_size(z))

    def _spread(self, x: Tensor, size: Size) -> Tensor:
        if self.original:
            return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
        return F.interpolate(x, size=size, mode="nearest")


def _pool(x: Tensor, factor: int, original: bool) -> Tensor:
    """Max-pool to 1/factor; the original's window is 3x3 whatever the factor."""
    if original:
        return F.max_pool2d(x, 3, stride=factor, padding=1)
    return F.max_pool2d(x, factor, stride=factor)
