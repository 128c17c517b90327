"""Square attack: a black-box random search, to tell a robust model from one that hides gradients.

After Andriushchenko et al. (ECCV 2020), for the L-infinity ball, on the loss of dense prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from moeseg.robustness.ball import project
from moeseg.robustness.losses import Pixels, cross_entropy, jensen_shannon
from moeseg.robustness.paths import Forward

FIRST_SHARE = 0.8
"""Of the image, that the first squares cover."""

HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the queries after which the squares' area halves."""


@torch.no_grad()
def square(
    forward: Forward,
    images: Tensor,
    label: Tensor,
    generators: Sequence[torch.Generator],
    radius: Tensor,
    queries: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Change squares of random place and colour, and keep what raises the loss.

    Args:
        forward: the model, of which only outputs are asked.
        images: (B, 3, H, W) in [0, 1].
        label: (B, H, W) uint8 ids, 255 ignored.
        generators: one for each image.
        radius: (B, 1, H, W) of the ball at each pixel.
        queries: forward passes after the first.

    Returns:
        Images (B, 3, H, W), wrong pixels (B,) and cross-entropy (queries + 1, B) along the way.
    """
    height, width = images.shape[-2:]
    # vertical stripes, one colour each: (B, 3, 1, W)
    stripes = torch.stack([_signs((3, 1, width), g) for g in generators]).to(images)
    point = project(images + radius * stripes, images, radius)
    pixels = Pixels.of(forward(point).logits, label)
    best, wrong = jensen_shannon(pixels, 0.0), pixels.wrong()
    losses = [cross_entropy(pixels, 0.0)]
    for query in range(queries):
        side = _side(query / queries, height, width)
        tried = point.clone()
        for number, generator in enumerate(generators):
            top = int(torch.randint(height - side[0] + 1, (), generator=generator))
            left = int(torch.randint(width - side[1] + 1, (), generator=generator))
            rows, columns = slice(top, top + side[0]), slice(left, left + side[1])
            colour = radius[number, :, rows, columns] * _signs((3, 1, 1), generator).to(images)
            tried[number, :, rows, columns] = images[number, :, rows, columns] + colour
        tried = project(tried, images, radius)
        pixels = Pixels.of(forward(tried).logits, label)
        value = jensen_shannon(pixels, 0.0)
        better = value > best
        best = torch.where(better, value, best)
        wrong = torch.where(better, pixels.wrong(), wrong)
        point = torch.where(better[:, None, None, None], tried, point)
        losses.append(torch.where(better, cross_entropy(pixels, 0.0), losses[-1]))
    return point, wrong, torch.stack(losses)


def _side(progress: float, height: int, width: int) -> tuple[int, int]:
    """Return height and width of the squares after a share of the queries."""
    share = FIRST_SHARE / 2 ** sum(progress >= at for at in HALVINGS)
    side = max(1, round(math.sqrt(share * height * width)))
    return min(side, height), min(side, width)


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(2, shape, generator=generator) * 2.0 - 1.0
