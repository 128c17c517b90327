"""The contract that every expert keeps, and what all models share.

An expert is a whole segmentation network. `Segmenter` is what the rest of moeseg sees of any model:
its experts, whose outputs are computed once a batch, and a `combine` that turns them into a
`Prediction`. The networks themselves are in `deeplab` and `frrn`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moeseg.errors import UsageError
from moeseg.types import ExpertOutput, Features, Prediction, Size


class Segmenter(Protocol):
    """Any model: a single expert, an ensemble, a mixture.

    ``model(images) == model.combine([e.output(images) for e in model.experts], size)``, so who
    runs many models over the same experts computes each expert's output once and hands it on.
    """

    @property
    def experts(self) -> tuple[Expert, ...]:
        """The experts whose outputs `combine` takes, in its order."""

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""

    def combine(
        self, outputs: Sequence[ExpertOutput], size: Size, *, expert_logits: bool = False
    ) -> Prediction:
        """Make the prediction at `size` (H, W) from one output for each of `experts`."""

    def __call__(self, images: Tensor, *, expert_logits: bool = False) -> Prediction:
        """Predict images (B, 3, H, W) in [0, 1]."""


class Expert(nn.Module, ABC):
    """A segmentation network that shows a gate its features; base of all experts.

    A subclass gives `features` and `decode`; everything else follows from them.

    Attributes:
        num_classes: C.
        gate_channels: F, channels of the map that a gate sees.
        stride: that map is ceil(H / stride) x ceil(W / stride) for H x W images.
        description: JSON-ready values from which `build.build_expert` makes the same network;
            empty for a network built by hand, which then cannot be saved.
    """

    num_classes: int
    gate_channels: int
    stride: int
    description: dict[str, Any]

    def __init__(self, *, num_classes: int, gate_channels: int, stride: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.gate_channels = gate_channels
        self.stride = stride
        self.description = {}

    @abstractmethod
    def features(self, images: Tensor) -> Features:
        """Encode images (B, 3, H, W) in [0, 1]: what a gate sees and what `decode` needs."""

    @abstractmethod
    def decode(self, features: Features) -> Tensor:
        """Return logits (B, C, h, w) at decoder resolution that cover the whole image."""

    def output(self, images: Tensor) -> ExpertOutput:
        """Run encoder and decoder once on images (B, 3, H, W) in [0, 1]."""
        features = self.features(images)
        return ExpertOutput(gate=features.gate, logits=self.decode(features))

    def kept_output(self, images: Tensor) -> ExpertOutput:
        """Do as `output` and keep images and features, for a model that decodes them again."""
        features = self.features(images)
        return ExpertOutput(features.gate, self.decode(features), features, images)

    @property
    def experts(self) -> tuple[Expert, ...]:
        """This expert alone: a model of one."""
        return (self,)

    def combine(
        self, outputs: Sequence[ExpertOutput], size: Size, *, expert_logits: bool = False
    ) -> Prediction:
        """Resize this expert's logits to `size` (H, W); see `Segmenter.combine`."""
        (own,) = outputs
        logits = resize(own.logits, size)
        # (B, C, H, W) -> (B, 1, C, H, W)
        return Prediction(logits, expert_logits=logits.unsqueeze(1) if expert_logits else None)

    def forward(self, images: Tensor, *, expert_logits: bool = False) -> Prediction:
        """Predict images (B, 3, H, W) in [0, 1]; `expert_logits` adds (B, 1, C, H, W)."""
        return self.combine([self.output(images)], image_size(images), expert_logits=expert_logits)


class AdaptedExpert(Expert):
    """Any module that has the members of an expert, made one without inheriting from it.

    Args:
        module: has `features(images) -> Features`, `decode(features) -> (B, C, h, w)` and the
            integers `num_classes`, `gate_channels`, `stride`.

    Raises:
        UsageError: one of these is absent.
    """

    def __init__(self, module: nn.Module) -> None:
        needed = ("features", "decode", "num_classes", "gate_channels", "stride")
        absent = [name for name in needed if not hasattr(module, name)]
        if absent:
            raise UsageError(
                f"{type(module).__name__} cannot be an expert: expected {', '.join(needed)}, "
                f"got no {', '.join(absent)}. Add them, or inherit from moeseg's Expert."
            )
        numbers: Any = module
        super().__init__(
            num_classes=numbers.num_classes,
            gate_channels=numbers.gate_channels,
            stride=numbers.stride,
        )
        self.module: Any = module

    def features(self, images: Tensor) -> Features:
        """Return what the module's own `features` gives."""
        features: Features = self.module.features(images)
        return features

    def decode(self, features: Features) -> Tensor:
        """Return what the module's own `decode` gives."""
        logits: Tensor = self.module.decode(features)
        return logits


class Normalize(nn.Module):
    """Shift and scale of images in [0, 1], inside the network so that callers stay in pixels.

    The numbers are buffers (they follow the network's device) but not in its state: they belong to
    its description.

    Args:
        mean: of each RGB channel, in [0, 1].
        std: of each RGB channel, > 0. Mean 0 and std 1 hand the images through untouched.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self._identity = all(m == 0 for m in mean) and all(s == 1 for s in std)
        shape = (1, 3, 1, 1)  # (3) -> (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(mean).reshape(shape), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(shape), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images (B, 3, H, W); raise ValueError for anything but float RGB batches."""
        if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                "expected float images (B, 3, H, W) in [0, 1], got "
                f"{images.dtype} of shape {tuple(images.shape)}"
            )
        return images if self._identity else (images - self.mean) / self.std


def resize(logits: Tensor, size: Size) -> Tensor:
    """Resize maps (B, C, h, w) to `size` (H, W), bilinear; the input itself if it has that size."""
    if image_size(logits) == size:
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def image_size(images: Tensor) -> Size:
    """Return (H, W) of a (B, C, H, W) tensor."""
    return images.shape[-2], images.shape[-1]


def name_of(expert: Expert) -> str:
    """Return what to call an expert in a message: its architecture, else its class."""
    description: Mapping[str, Any] = expert.description
    return str(description.get("name", type(expert).__name__))
