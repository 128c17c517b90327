"""Gaussian, shot and impulse noise; each channel of each pixel on its own."""

from __future__ import annotations

import torch
from torch import Tensor

from moeseg.robustness.corruptions.draws import (
    IN_CACHE,
    Generators,
    normal,
    per_image,
    uniform,
)


def gaussian_noise(images: Tensor, severity: int, generators: Generators) -> Tensor:
    """Add normal noise, as of dim light."""
    sigma = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    noise = normal(images.shape[1:], generators).to(images.device)
    return noise.mul_(sigma).add_(images)


def shot_noise(images: Tensor, severity: int, generators: Generators) -> Tensor:
    """Count photons: a channel of value x becomes Poisson(x * photons) / photons."""
    photons = (60, 25, 12, 5, 3)[severity - 1]
    counts = (images * photons).cpu()
    per_image(generators, lambda number, generator: _count(counts[number], photons, generator))
    return counts.div_(photons).to(images.device)


def impulse_noise(images: Tensor, severity: int, generators: Generators) -> Tensor:
    """Set a share of all values to 0 or 1, half and half (salt and pepper in colour)."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    at = uniform(images.shape[1:], generators).to(images.device)
    return torch.where(at < share, (at < share / 2).to(images.dtype), images)


def _count(rates: Tensor, most: int, generator: torch.Generator) -> None:
    """Replace rates by Poisson counts, in place; counts above `most` become `most`.

    A count is the number of k for which a uniform number exceeds P(count <= k), which holds up to
    float32 rounding. As counts above `most` are of no use that takes `most` steps for all values at
    once, faster than drawing one by one.
    """
    for part in torch.split(rates.view(-1), IN_CACHE):
        drawn = torch.rand(part.shape, generator=generator)
        chance = torch.exp(-part)  # of k = 0
        below, above, zero = chance.clone(), torch.empty_like(part), torch.zeros_like(part)
        count = torch.zeros_like(part)
        for k in range(1, most + 1):
            count.add_(torch.gt(drawn, below, out=above))
            torch.addcmul(zero, chance, part, value=1 / k, out=chance)
            below.add_(chance)
        part.copy_(count)
