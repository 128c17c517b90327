"""The one loss of moeseg: full-resolution cross-entropy, on all pixels or on random ones.

For a mixture the same functions take live expert outputs and cached ones. Learning-rate courses
and optimizers stand here too, since experts and gates share them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moeseg.config import OptimizerConfig
from moeseg.models.mixture import Mixture
from moeseg.types import IGNORE, ExpertOutput, Size


def cross_entropy(logits: Tensor, label: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Mean over all labelled pixels of the weighted cross-entropy.

    The mean divides by the number of labelled pixels, not by the sum of their weights, so that
    sampling pixels estimates it without bias.

    Args:
        logits: (B, C, H, W).
        label: (B, H, W) class ids, 255 = ignore.
        class_weights: (C,) or None.

    Returns:
        A scalar in nats; 0 where no pixel is labelled.
    """
    total = F.cross_entropy(
        logits.float(), label.long(), class_weights, ignore_index=IGNORE, reduction="sum"
    )
    return total / (label != IGNORE).sum().clamp(min=1)


@dataclass(frozen=True, slots=True)
class Points:
    """Random labelled pixels of a batch.

    Attributes:
        index: (B, N) position in the flattened H x W image.
        label: (B, N) class ids; 255 everywhere for an image without a labelled pixel.
        share: (B,) labelled pixels of an image over those of the batch.
        size: (H, W) of the images.
    """

    index: Tensor
    label: Tensor
    share: Tensor
    size: Size


def draw_points(label: Tensor, count: int, generator: torch.Generator) -> Points:
    """Draw `count` labelled pixels of each image, with replacement.

    Args:
        label: (B, H, W) class ids, 255 = ignore.
        count: N.
        generator: the only source of randomness.
    """
    flat = label.flatten(1)
    valid = flat != IGNORE
    number = valid.sum(1)
    draw = torch.rand(len(flat), count, generator=generator, device=generator.device)
    # the k-th labelled pixel stands where the running count of labelled pixels reaches k + 1
    rank = (draw.to(flat.device) * number[:, None]).long().clamp(max=flat.shape[1] - 1) + 1
    index = torch.searchsorted(valid.cumsum(1), rank).clamp(max=flat.shape[1] - 1)
    height, width = label.shape[-2:]
    share = number / number.sum().clamp(min=1)
    return Points(index, flat.gather(1, index), share, (height, width))


def points_loss(logits: Tensor, points: Points, class_weights: Tensor | None = None) -> Tensor:
    """Estimate `cross_entropy` from logits at random points.

    Args:
        logits: (B, N, C) at the points.
        points: where they were taken.
        class_weights: (C,) or None.
    """
    each = F.cross_entropy(
        logits.float().flatten(0, 1),
        points.label.flatten().long(),
        class_weights,
        ignore_index=IGNORE,
        reduction="none",
    )
    return (each.view_as(points.label).mean(1) * points.share).sum()


def sample_logits(outputs: Sequence[ExpertOutput], points: Points, neighbours: bool) -> Tensor:
    """Full-size expert logits at points, without ever making the full-size map.

    Args:
        outputs: of E experts; logits (B, C, h, w) each, grids may differ.
        points: N pixels of each image.
        neighbours: also the eight pixels around each, in row order; zero outside the image.

    Returns:
        (B, E, M, N, C) with M = 9 or 1, what `F.interpolate(bilinear, align_corners=False)` of
        the logits holds at those pixels.
    """
    height, width = points.size
    y, x = points.index // width, points.index % width  # (B, N)
    if neighbours:
        step = torch.tensor([-1, 0, 1], device=y.device)
        y = y[:, None] + step.repeat_interleave(3)[None, :, None]  # (B, 9, N)
        x = x[:, None] + step.repeat(3)[None, :, None]
    else:
        y, x = y[:, None], x[:, None]  # (B, 1, N)
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    sampled = torch.stack([_bilinear(o.logits, y, x, points.size) for o in outputs], 1)
    return sampled if not neighbours else sampled * inside[:, None, ..., None]


def mix_points(mixture: Mixture, weights: Tensor, sampled: Tensor) -> Tensor:
    """Mixture logits at points.

    Args:
        mixture: for its head.
        weights: (B, E, K) of its gate.
        sampled: (B, E, M, N, C) of `sample_logits`; M = 9 where the mixture has a head.

    Returns:
        (B, N, C).
    """
    if mixture.head is None:
        centre = sampled[:, :, sampled.shape[2] // 2]  # (B, E, N, C)
        return (weights[:, :, None] * centre).sum(1)
    # the head sees all classes of a 3x3 neighbourhood, so the sum over experts comes first
    mixed = (weights[:, :, None, None] * sampled).sum(1)  # (B, 9, N, C)
    kernel = mixture.head.weight.flatten(2)  # (C out, C in, 9), the neighbours in row order
    return torch.einsum("bmnc,ocm->bno", mixed, kernel)


def _bilinear(logits: Tensor, y: Tensor, x: Tensor, size: Size) -> Tensor:
    """Sample (B, C, h, w) at integer pixels (B, M, N) of an H x W image -> (B, M, N, C)."""
    batch, classes, low_height, low_width = logits.shape
    # channels last: one tap is then one contiguous row of C numbers
    rows = logits.permute(0, 2, 3, 1).reshape(batch * low_height * low_width, classes)
    y0, y1, weight_y = _taps(y, size[0], low_height)
    x0, x1, weight_x = _taps(x, size[1], low_width)
    first = torch.arange(batch, device=y.device).view(-1, 1, 1) * (low_height * low_width)

    def tap(row: Tensor, column: Tensor) -> Tensor:
        index = (first + row * low_width + column).flatten()
        return rows.index_select(0, index).float().view(*y.shape, classes)

    above = torch.lerp(tap(y0, x0), tap(y0, x1), weight_x[..., None])
    below = torch.lerp(tap(y1, x0), tap(y1, x1), weight_x[..., None])
    return torch.lerp(above, below, weight_y[..., None])


def _taps(pixel: Tensor, full: int, low: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two grid lines around a pixel's centre, and the weight of the second."""
    place = ((pixel.float() + 0.5) * (low / full) - 0.5).clamp(0, low - 1)
    lower = place.floor().long()
    return lower, (lower + 1).clamp(max=low - 1), place - lower


def make_optimizer(
    parameters: Iterable[nn.Parameter], config: OptimizerConfig
) -> torch.optim.Optimizer:
    """Return the optimizer that a study names."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if config.name == "sgd":
        return torch.optim.SGD(
            trained, config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    # one pass over memory a step; the plain loop takes a tenth of a small network's training time
    return kind(
        trained, config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )


def rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Return the factor on the learning rate at a step of a course of `steps`."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = min(step / max(steps, 1), 1.0)
    if config.schedule == "poly":
        return float((1.0 - done) ** 0.9)
    if config.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0
