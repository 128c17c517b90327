"""Gaussian, shot and impulse noise; each channel of each pixel on its own."""

from __future__ import annotations

import torch
from torch import Tensor

from moeseg.robustness.corruptions.draws import Generators, normal, per_image, uniform


def gaussian_noise(images: Tensor, severity: int, generators: Generators) -> Tensor:
    """Add normal noise, as of dim light."""
    sigma = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    noise = normal(images.shape[1:], generators).to(images.device)
    return noise.mul_(sigma).add_(images)


def shot_noise(images: Tensor, severity: int, generators: Generators) -> Tensor:
    """Count photons: a channel of value x becomes Poisson(x * photons) / photons."""
    photons = (60, 25, 12, 5, 3)[severity - 1]
    counts = (images * photons).cpu()

    def count(number: int, generator: torch.Generator) -> None:
        counts[number] = torch.poisson(counts[number], generator=generator)

    per_image(generators, count)
    return counts.div_(photons).to(images.device)


def impulse_noise(images: Tensor, severity: int, generators: Generators) -> Tensor:
    """Set a share of all values to 0 or 1, half and half (salt and pepper in colour)."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    at = uniform(images.shape[1:], generators).to(images.device)
    return torch.where(at < share, (at < share / 2).to(images.dtype), images)
