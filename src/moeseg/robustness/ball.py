"""The threat model: L-infinity balls around images in [0, 1]; nothing of models or losses."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from moeseg.data.dataset import seeded
from moeseg.types import Size


def project(points: Tensor, images: Tensor, radius: Tensor | float, *, clip: bool = True) -> Tensor:
    """Bring points into the ball around images.

    Args:
        points: (B, 3, H, W).
        images: (B, 3, H, W) in [0, 1].
        radius: greatest change of a channel of a pixel, one for all or (B, 1, H, W).
        clip: keep to [0, 1] too; False only for the published attacks that left it.

    Returns:
        (B, 3, H, W).
    """
    inside = torch.minimum(torch.maximum(points, images - radius), images + radius)
    return inside.clamp(0, 1) if clip else inside


def photo_mask(images: Tensor, extents: Sequence[Size] | None) -> Tensor:
    """Return (B, 1, H, W), 1 where a photo is and 0 in its padding; see `Prediction.extents`."""
    mask = torch.ones_like(images[:, :1])
    for place, (height, width) in enumerate(extents or ()):
        mask[place, :, height:] = 0
        mask[place, :, :, width:] = 0
    return mask


def uniform_start(
    images: Tensor, radius: Tensor | float, generators: Sequence[torch.Generator]
) -> Tensor:
    """Return images (B, 3, H, W) plus noise within a radius, each from its own generator."""
    noise = [torch.rand(images.shape[1:], generator=g) * 2 - 1 for g in generators]
    return images + radius * torch.stack(noise).to(images)  # B x (3, H, W) -> (B, 3, H, W)


def generators_of(seed: int, keys: Sequence[str]) -> list[torch.Generator]:
    """Return a generator for each frame key, so that neither batch nor rank changes a draw."""
    return [seeded(seed, number_of(key)) for key in keys]


def number_of(key: str) -> int:
    """Return a number that stands for a frame's key wherever something is drawn for it."""
    return zlib.crc32(key.encode())
