"""The threat model: L-infinity balls around images in [0, 1]; nothing of models or losses."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from moeseg.data.dataset import seeded


def project(points: Tensor, images: Tensor, epsilon: float, *, clip: bool = True) -> Tensor:
    """Bring points into the ball of radius epsilon around images.

    Args:
        points: (B, 3, H, W).
        images: (B, 3, H, W) in [0, 1].
        epsilon: greatest change of a channel of a pixel.
        clip: keep to [0, 1] too; False only for the published attacks that left it.

    Returns:
        (B, 3, H, W).
    """
    inside = torch.minimum(torch.maximum(points, images - epsilon), images + epsilon)
    return inside.clamp(0, 1) if clip else inside


def uniform_start(images: Tensor, epsilon: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Return images (B, 3, H, W) plus noise in [-epsilon, epsilon], each from its own generator."""
    noise = [torch.rand(images.shape[1:], generator=g) * 2 - 1 for g in generators]
    return images + epsilon * torch.stack(noise).to(images)  # B x (3, H, W) -> (B, 3, H, W)


def generators_of(seed: int, keys: Sequence[str]) -> list[torch.Generator]:
    """Return a generator for each frame key, so that neither batch nor rank changes a draw."""
    return [seeded(seed, number_of(key)) for key in keys]


def number_of(key: str) -> int:
    """Return a number that stands for a frame's key wherever something is drawn for it."""
    return zlib.crc32(key.encode())
