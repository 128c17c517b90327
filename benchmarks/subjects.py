"""The networks, mixtures and frames that several benchmarks measure; nothing is timed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moeseg.data import SegmentationDataset
from moeseg.data.dataset import Item
from moeseg.models import Expert, GateKind, Mixture, build_expert, build_mixture
from moeseg.types import IGNORE, Frame, Size


@dataclass(frozen=True)
class Scoring:
    """Networks and frames of the benchmarks that score models."""

    backbone: Literal["mobilenet_v2", "resnet101"] = "resnet101"
    channels: int = 256
    classes: int = 38
    size: Size = (456, 456)
    frames: int = 4
    batch: int = 2
    repeats: int = 3


SMOKE_SCORING = Scoring("mobilenet_v2", 16, 5, (32, 32), 2, 2, 2)

SPREAD = 3.0
"""Standard deviation of logits; those of networks trained on CamVid and the demo have 2 to 3."""

VARIANTS: dict[str, tuple[GateKind, bool]] = {
    "moe-simple": ("simple", False),
    "moe-simple-conv": ("simple", True),
    "moe-classwise": ("classwise", False),
    "moe-classwise-conv": ("classwise", True),
}
"""Model name -> gate and whether a head follows: the four mixtures of a study."""


def random_experts(count: int, backbone: str, channels: int, classes: int) -> list[Expert]:
    """Return DeepLabv3+ networks with random weights, frozen and in eval mode.

    Their BatchNorm statistics are those of noise: with the initial ones, values would grow from
    block to block and leave the range of float16. Their logits spread as those of trained networks
    do: by tens, and most probabilities would be subnormal numbers, which some processors are slow
    with.
    """
    torch.manual_seed(0)
    experts = []
    for _ in range(count):
        expert = build_expert(
            {
                "name": "deeplabv3plus",
                "backbone": backbone,
                "channels": channels,
                "num_classes": classes,
            }
        )
        norms = [part for part in expert.modules() if isinstance(part, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            expert.train()(torch.rand(4, 3, 64, 64))
            spread = expert.eval()(torch.rand(1, 3, 256, 256)).logits.std()
            for parameter in expert.get_submodule("classifier.classifier.3").parameters():
                parameter.mul_(SPREAD / spread)
        experts.append(expert.requires_grad_(False))
    return experts


def four_mixtures(experts: Sequence[Expert], size: Size) -> dict[str, Mixture]:
    """Return the four mixtures of a study over the same experts, gates and heads new."""
    return {
        name: build_mixture(
            experts, kind, conv, size=size, generator=torch.Generator().manual_seed(0)
        )
        for name, (kind, conv) in VARIANTS.items()
    }


class RandomFrames(SegmentationDataset):
    """Noise with labels in blocks of 16 pixels, in memory: no file is read or decoded.

    Args:
        count: frames, of two drives.
        size: (H, W).
        classes: C; about one block of C + 1 is ignored.
    """

    def __init__(self, count: int, size: Size, classes: int) -> None:
        frames = [
            Frame(f"drive{i % 2}", f"{i:04d}", Path("none"), None, "noise", "test")
            for i in range(count)
        ]
        super().__init__(frames, _no_file, size, fit="squeeze")
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(count, 3, *size, generator=generator)
        blocks = -(-size[0] // 16), -(-size[1] // 16)
        ids = torch.randint(classes + 1, (count, *blocks), generator=generator)
        ids[ids == classes] = IGNORE
        # (count, blocks) -> (count, H, W)
        full = ids.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, : size[0], : size[1]]
        self.labels = full.to(torch.uint8).contiguous()

    def __getitem__(self, index: int | tuple[int, int]) -> Item:
        """Return image, label and key; a draw is ignored, nothing is augmented."""
        place = index[0] if isinstance(index, tuple) else index
        return self.images[place], self.labels[place], self.frames[place].key


def _no_file(frame: Frame) -> NDArray[np.uint8]:
    raise RuntimeError(f"{frame.key} has no file")
