"""Contrast, elastic transform, pixelation and JPEG."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from moeseg.robustness.corruptions.draws import Generators, per_image, uniform
from moeseg.robustness.corruptions.filters import correlate, gaussian_kernel


def contrast(images: Tensor, severity: int, generators: Generators) -> Tensor:
    """Draw the values of each channel towards its mean over the image."""
    kept = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    return torch.lerp(images.mean((2, 3), keepdim=True), images, kept)


def elastic_transform(images: Tensor, severity: int, generators: Generators) -> Tensor:
    """Move pixels along a smooth random field; its scale follows the image's size, as published."""
    strength = 250 * (0.05, 0.065, 0.085, 0.1, 0.12)[severity - 1]
    height, width = int(images.shape[2]), int(images.shape[3])
    most = 0.005 * height  # in both directions, as published
    moves = uniform((2, height, width), generators).to(images.device).mul_(2 * most).sub_(most)
    kernel = gaussian_kernel((0.01 * height, 0.01 * width), truncate=3)
    moves = correlate(moves, kernel, "symmetric").mul(strength)
    x = torch.arange(width, device=images.device) + moves[:, 0]  # (B, H, W)
    y = torch.arange(height, device=images.device)[:, None] + moves[:, 1]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)  # (B, H, W, 2)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def pixelate(images: Tensor, severity: int, generators: Generators) -> Tensor:
    """Shrink to the means of blocks of whole pixels and enlarge again without smoothing."""
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    for dim in (2, 3):
        images = _in_blocks(images, dim, max(1, int(images.shape[dim] * share)))
    return images


def jpeg_compression(images: Tensor, severity: int, generators: Generators) -> Tensor:
    """Store as JPEG of low quality (8 bits, chroma at half size) and read back, on the CPU."""
    quality = (25, 18, 15, 10, 7)[severity - 1]
    pixels = images.mul(255).round_().to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous()

    def store(number: int, generator: torch.Generator) -> None:
        file = BytesIO()
        Image.fromarray(pixels[number].numpy()).save(file, "JPEG", quality=quality)
        with Image.open(file) as read:
            pixels[number] = torch.from_numpy(np.array(read))

    per_image(generators, store)
    return pixels.permute(0, 3, 1, 2).to(images.device).float().div_(255).contiguous()


def _in_blocks(images: Tensor, dim: int, blocks: int) -> Tensor:
    """Replace runs of pixels along one dimension by the means of `blocks` runs.

    A pixel counts in the run that its centre falls into, and on enlarging shows it too; a centre
    that lies between two counts in the first and shows the second, as Pillow does it.
    """
    length = int(images.shape[dim])
    centres = (2 * torch.arange(length, device=images.device) + 1) * blocks  # in 1 / (2 * length)
    counts_in, shows = (centres - 1) // (2 * length), centres // (2 * length)
    shape, along = list(images.shape), [1] * images.ndim
    shape[dim] = along[dim] = blocks
    sums = images.new_zeros(shape).index_add_(dim, counts_in, images)
    means = sums.div_(torch.bincount(counts_in, minlength=blocks).view(along))
    return means.index_select(dim, shows)
