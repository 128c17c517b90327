"""Frost on a window: ice crystals drawn from the seed.

The published code blends in photos of frost under unclear licences. Here the ice is synthesised, so
that this corruption alone compares with published numbers in kind, not in value. Six-armed feathers
grow from scattered germs, large ones over small ones, on ice of uneven thickness; mean, spread,
colour and the fall of the power spectrum are near those of the photos.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from moeseg.robustness.corruptions.draws import (
    IN_CACHE,
    Generators,
    normal,
    per_image,
    uniform,
)

THIN, THICK = (0.13, 0.25, 0.33), (0.92, 0.95, 0.99)
"""RGB of the thinnest and the thickest ice."""

FEATHERS = (150.0, 56.0)
"""Pixels between the germs of each layer."""

COARSE = 4
"""Side in pixels of the squares in which a germ's territory is told."""

TEXTURE = (192, 24)
"""Barbs along an arm and steps along a barb, after which they repeat mirrored."""


def frost(images: Tensor, severity: int, generators: Generators) -> Tensor:
    """Dim the image and add ice."""
    kept, added = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity - 1]
    height, width = int(images.shape[2]), int(images.shape[3])
    return (images * kept).add_(ice(height, width, generators).to(images.device), alpha=added)


def ice(height: int, width: int, generators: Generators) -> Tensor:
    """Return pictures of ice (B, 3, H, W) in 0..1 on the CPU."""
    thickness = _clouds(height, width, generators)
    depth = thickness.mul(0.16).add_(0.25)  # (B, H, W)
    for spacing, strength in zip(FEATHERS, (0.52, 0.38), strict=True):
        crystals = _feathers(height, width, spacing, generators)
        depth += crystals.mul_((thickness * 0.5 + 0.75).clamp_(0.25, 1.4)).mul_(strength)
    depth = depth.clamp_(0, 1)[:, None]  # (B, H, W) -> (B, 1, H, W)
    thin, thick = torch.tensor(THIN)[:, None, None], torch.tensor(THICK)[:, None, None]
    return torch.lerp(thin, thick, depth)


def _clouds(height: int, width: int, generators: Generators) -> Tensor:
    """Return smooth noise (B, H, W) of about unit spread, finer octaves weaker."""
    # all but the finest are summed at an eighth of the size and enlarged together
    coarse = torch.zeros(len(generators), 1, height // 8 + 2, width // 8 + 2)
    for step, weight in ((16, 0.8), (8, 0.5), (4, 0.25), (1, 0.15)):
        coarse += _smooth(int(coarse.shape[2]), int(coarse.shape[3]), step, generators) * weight
    fine = _smooth(height, width, 2, generators)
    return fine.mul_(0.12).add_(_enlarged(coarse, 8, height, width))[:, 0]


def _smooth(height: int, width: int, step: int, generators: Generators) -> Tensor:
    """Return normal numbers every `step` pixels, and what lies between them, (B, 1, H, W)."""
    noise = normal((1, height // step + 2, width // step + 2), generators)
    return _enlarged(noise, step, height, width)


def _enlarged(noise: Tensor, step: int, height: int, width: int) -> Tensor:
    wide = F.interpolate(noise, scale_factor=step, mode="bilinear", align_corners=False)
    return wide[..., step // 2 :, step // 2 :][..., :height, :width]


def _feathers(height: int, width: int, spacing: float, generators: Generators) -> Tensor:
    """Return six-armed feathers (B, H, W) in 0..1, one around each germ."""
    germs, nearest = _germs(height, width, spacing, generators)
    textures = normal((1, *TEXTURE), generators)
    drawn = torch.empty(len(generators), height, width)
    rows = max(1, IN_CACHE // width)

    def draw(number: int, generator: torch.Generator) -> None:
        for top in range(0, height, rows):
            strip = slice(top, top + rows)
            mine = nearest[number, strip]
            own = germs[number].index_select(1, mine.flatten()).view(4, *mine.shape)
            drawn[number, strip] = _feather(own, top, textures[number])

    per_image(generators, draw)
    return drawn


def _feather(germs: Tensor, top: int, texture: Tensor) -> Tensor:
    """Return the feathers (H, W) of a strip of an image that begins at row `top`.

    Args:
        germs: (4, H, W), y, x, turn and size of the germ that each pixel belongs to.
        top: first row of the strip.
        texture: (1, *TEXTURE) noise, bright lines of which become barbs where it is near 0.
    """
    at_y, at_x, turn, size = germs  # (H, W) each
    y = torch.arange(top, top + germs.shape[1])[:, None] - at_y
    x = torch.arange(germs.shape[2]) - at_x
    turned = torch.atan2(y, x).mul_(3 / math.pi).add_(turn, alpha=6)  # in sixths of a turn
    arm = turned.round()
    angle = turned.sub_(arm).mul_(math.pi / 3)
    radius = torch.hypot(y, x)
    along, beside = angle.cos().mul_(radius), angle.sin().mul_(radius).abs_()
    # barbs leave the arm at 60 degrees: where this one does, in barbs from the germ, and how far
    # along it the pixel is; turn, arm and size lead to a part of the texture of its own
    thin = 1 / (2.0 + 1.5 * size)  # barbs per pixel
    root = along.sub_(beside, alpha=1 / math.tan(math.pi / 3)).mul_(thin)
    root.add_(turn, alpha=4000).add_(arm, alpha=37)
    tip = (beside * thin).mul_(0.2 / math.sin(math.pi / 3)).add_(size, alpha=500)
    grid = torch.stack([tip.mul_(2 / TEXTURE[1]), root.mul_(2 / TEXTURE[0])], -1)  # (H, W, 2)
    lines = F.grid_sample(
        texture[None], grid[None], padding_mode="reflection", align_corners=False
    )[0, 0]
    ridges = lines.abs_().mul_(-1.1).add_(1).clamp_(min=0)
    ribs = beside.div_(-2.0).exp_().mul_(0.9)
    return torch.maximum(ridges, ribs)


def _germs(
    height: int, width: int, spacing: float, generators: Generators
) -> tuple[Tensor, Tensor]:
    """Return germs (B, 4, G) as y, x, turn, size, and the number of each pixel's nearest one.

    One germ lies somewhere in each square of `spacing`, also in a ring of squares around the image,
    so that the nearest is nearly always in one of the nine squares about a pixel.
    """
    rows, columns = math.ceil(height / spacing) + 2, math.ceil(width / spacing) + 2
    germs = uniform((4, rows, columns), generators)
    germs[:, 0] = (germs[:, 0] + torch.arange(rows)[:, None] - 1) * spacing
    germs[:, 1] = (germs[:, 1] + torch.arange(columns) - 1) * spacing
    germs = germs.flatten(2)  # (B, 4, rows * columns)
    y = torch.arange(0, height, COARSE)[:, None].float()
    x = torch.arange(0, width, COARSE).float()
    square = ((y / spacing).long() + 1) * columns + (x / spacing).long() + 1
    closest = torch.full((len(generators), *square.shape), math.inf)
    nearest = torch.zeros(closest.shape, dtype=torch.int64)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            number = square + down * columns + right
            at_y, at_x = germs[:, :2, number].unbind(1)  # (B, h, w) each
            distance = (at_y - y) ** 2 + (at_x - x) ** 2
            nearest = torch.where(distance < closest, number, nearest)
            closest = torch.minimum(distance, closest)
    fine = nearest.repeat_interleave(COARSE, 1).repeat_interleave(COARSE, 2)
    return germs, fine[:, :height, :width]
