"""Encoders from torchvision: ResNet-18/34/50/101 and MobileNetV2, at output stride 8 or 16.

A backbone gives the stride-4 map and the last map. The output stride really changes strides, also
for networks where torchvision offers no option. What is done with the maps stands in `deeplab`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision import models as tv

from moeseg.errors import MoesegError

OutputStride = Literal[8, 16]


class Backbone(nn.Module, ABC):
    """An encoder of images into two maps.

    Attributes:
        low_channels: channels of the map at stride 4.
        channels: channels of the last map.
        stride: of the last map; it is ceil(H / stride) x ceil(W / stride).
    """

    low_channels: int
    channels: int
    stride: int

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (B, 3, H, W) into the stride-4 map and the last map."""


class ResNet(Backbone):
    """A torchvision ResNet without its classifier, under torchvision's parameter names.

    Args:
        network: ready, at its own stride 32; its stages are taken over and changed in place.
        stride: 8 or 16.
    """

    def __init__(self, network: tv.ResNet, stride: OutputStride) -> None:
        super().__init__()
        self.conv1, self.bn1 = network.conv1, network.bn1
        self.relu, self.maxpool = network.relu, network.maxpool
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        self.stride = stride
        _to_stride(stride, stage16=self.layer3, stage32=self.layer4)
        self.low_channels = self.layer2[0].conv1.in_channels
        self.channels = network.fc.in_features

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (B, 3, H, W) into `layer1`'s and `layer4`'s maps."""
        low = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))
        return low, self.layer4(self.layer3(self.layer2(low)))


class MobileNetV2(Backbone):
    """torchvision's MobileNetV2 up to its last inverted residual (320 channels).

    Args:
        network: ready, at its own stride 32; its layers are taken over and changed in place.
        stride: 8 or 16.
    """

    def __init__(self, network: tv.MobileNetV2, stride: OutputStride) -> None:
        super().__init__()
        self.features = network.features[:18]  # 18 is the 1x1 layer before the classifier
        self.stride = stride
        _to_stride(stride, stage16=self.features[7:14], stage32=self.features[14:18])
        self.low_channels, self.channels = 24, 320

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (B, 3, H, W) into the last map at stride 4 and the last map of all."""
        low = self.features[:4](images)
        return low, self.features[4:](low)


_NETWORKS = {
    "resnet18": (ResNet, tv.resnet18, tv.ResNet18_Weights.IMAGENET1K_V1),
    "resnet34": (ResNet, tv.resnet34, tv.ResNet34_Weights.IMAGENET1K_V1),
    "resnet50": (ResNet, tv.resnet50, tv.ResNet50_Weights.IMAGENET1K_V1),
    "resnet101": (ResNet, tv.resnet101, tv.ResNet101_Weights.IMAGENET1K_V1),
    "mobilenet_v2": (MobileNetV2, tv.mobilenet_v2, tv.MobileNet_V2_Weights.IMAGENET1K_V1),
}
NAMES: tuple[str, ...] = tuple(_NETWORKS)
"""The backbones that `build_backbone` knows."""


def build_backbone(
    name: str, *, stride: OutputStride, weights: Literal["imagenet"] | None
) -> Backbone:
    """Return the named backbone.

    Args:
        name: one of `NAMES`.
        stride: output stride.
        weights: ``imagenet`` loads torchvision's IMAGENET1K_V1 weights (from its cache, else from
            the internet), None leaves a random initialisation.

    Raises:
        MoesegError: the ImageNet weights could not be had.
    """
    wrapper, builder, pretrained = _NETWORKS[name]
    network = builder(weights=None)
    if weights is not None:
        try:
            network.load_state_dict(pretrained.get_state_dict(progress=False, check_hash=True))
        except (OSError, RuntimeError) as error:  # no network, no right to write, damaged file
            raise MoesegError(
                f"ImageNet weights of {name}: expected to load {pretrained.url}, got "
                f"{type(error).__name__}: {error}. Fetch that file on a connected machine and put "
                f"it into {torch.hub.get_dir()}/checkpoints/ (TORCH_HOME moves this folder), or "
                "train from scratch with weights: null."
            ) from error
    backbone: Backbone = wrapper(network, stride)
    return backbone


def _to_stride(stride: int, *, stage16: nn.Module, stage32: nn.Module) -> None:
    """Turn a stride-32 network into one of stride 16 or 8, weights unchanged."""
    if stride == 8:
        _dilate(stage16, before=1, after=2)
        _dilate(stage32, before=2, after=4)
    elif stride == 16:
        _dilate(stage32, before=1, after=2)
    else:
        raise ValueError(f"expected output stride 8 or 16, got {stride}")


def _dilate(stage: nn.Module, *, before: int, after: int) -> None:
    """Take the stride out of a stage and spread the filters instead ("à trous").

    The map keeps its grid; on every `after / before`-th cell it holds what the strided stage gave.
    The convolution that had the stride still reads the finer grid, hence its rate `before`; all
    later ones get `after`. torchvision's `replace_stride_with_dilation` follows the same rule.
    """
    for module in stage.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        rate = after if module.stride == (1, 1) else before
        module.stride = (1, 1)
        if module.kernel_size != (1, 1):
            module.dilation = (rate, rate)
            module.padding = (rate, rate)
