"""What several corruptions are made of: borders, correlation, kernels, enlarging about the centre.

Correlation goes through the Fourier transform: its cost does not depend on the kernel, and a kernel
may differ from image to image. It is exact up to float32 rounding, about 1e-6.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from moeseg.types import Size

Border = Literal["edge", "mirror", "symmetric"]
"""How an image goes on outside: a b c | c c, a b c | b a, a b c | c b."""


def correlate(images: Tensor, kernels: Tensor, border: Border) -> Tensor:
    """Return images under kernels of odd size, at the same size.

    Args:
        images: (B, N, H, W); kernels reach over their border by `border`.
        kernels: (h, w), or (B, h, w) with one for each image.
        border: what lies outside; right for images smaller than the kernel too.
    """
    height, width = int(images.shape[-2]), int(images.shape[-1])
    wide = _bordered(images, (kernels.shape[-2] // 2, kernels.shape[-1] // 2), border)
    size = wide.shape[-2:]
    spectrum = torch.fft.rfft2(wide)
    weights = torch.fft.rfft2(kernels.to(images), s=size).conj()
    if kernels.ndim == 3:
        weights = weights[:, None]  # (B, h, w) -> (B, 1, h, w)
    # zeros at the lower right, and what wraps around, only meet places beyond H and W
    filtered: Tensor = torch.fft.irfft2(spectrum.mul_(weights), s=size)
    return filtered[..., :height, :width]


def gaussian_kernel(sigma: tuple[float, float], truncate: float) -> Tensor:
    """Return a Gaussian (h, w) that sums to 1, cut off at `truncate` sigmas, rounded to pixels."""
    sides = []
    for one in sigma:
        reach = int(truncate * one + 0.5)
        x = torch.arange(-reach, reach + 1, dtype=torch.float64)
        side = torch.exp(-0.5 * (x / one) ** 2)
        sides.append(side / side.sum())
    return torch.outer(sides[0], sides[1]).float()


def line_kernels(radius: int, sigma: float, degrees: Tensor) -> Tensor:
    """Return kernels (B, k, k) of motion along lines, k = 4 * radius + 1, each summing to 1.

    The pixel itself and 2 * radius ones in a direction weigh as one half of a Gaussian.

    Args:
        radius: half the length in pixels.
        sigma: of the Gaussian, in pixels.
        degrees: (B,) directions; 0 takes from the right, 90 from below.
    """
    steps = torch.arange(2 * radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (steps / sigma) ** 2)
    weights /= weights.sum()
    turns = torch.deg2rad(degrees.double())[:, None]  # (B,) -> (B, 1)
    down = torch.ceil(steps * torch.sin(turns) - 0.5).long()  # (B, 2 * radius + 1)
    right = torch.ceil(steps * torch.cos(turns) - 0.5).long()
    side = 4 * radius + 1
    places = (down + 2 * radius) * side + right + 2 * radius
    flat = torch.zeros(len(degrees), side * side, dtype=torch.float64)
    flat.scatter_add_(1, places, weights.expand_as(places))
    return flat.view(-1, side, side).float()  # (B, k * k) -> (B, k, k)


def zoom_source(size: Size, factor: float) -> Size:
    """Return the H, W of the centre that fills an image when enlarged by a factor."""
    return math.ceil(size[0] / factor), math.ceil(size[1] / factor)


def enlarge(images: Tensor, factor: float) -> Tensor:
    """Enlarge images (B, N, h, w) bilinearly, first and last pixels staying at the ends."""
    size = round(images.shape[-2] * factor), round(images.shape[-1] * factor)
    return F.interpolate(images, size=size, mode="bilinear", align_corners=True)


def _bordered(images: Tensor, reach: tuple[int, int], border: Border) -> Tensor:
    """Surround images (..., H, W) by their border, and by zeros up to sizes of a fast transform."""
    (height, width), (top, left) = images.shape[-2:], reach
    bottom, right = top + height, left + width
    size = _fast_length(bottom + top), _fast_length(right + left)
    wide = images.new_zeros(*images.shape[:-2], *size)
    wide[..., top:bottom, left:right] = images
    columns = _positions(width, left, border, images.device)
    wide[..., top:bottom, :left] = images[..., columns[:left]]
    wide[..., top:bottom, right : right + left] = images[..., columns[right:]]
    rows = _positions(height, top, border, images.device) + top
    wide[..., :top, :] = wide[..., rows[:top], :]
    wide[..., bottom : bottom + top, :] = wide[..., rows[bottom:], :]
    return wide


def _positions(length: int, reach: int, border: Border, device: torch.device) -> Tensor:
    """Return which pixels of a line stand at -reach .. length - 1 + reach."""
    at = torch.arange(-reach, length + reach, device=device)
    if border == "edge" or length == 1:
        return at.clamp(0, length - 1)
    twice = 0 if border == "symmetric" else 1  # whether the outermost pixel stands once or twice
    period = 2 * (length - twice)
    at = at.remainder(period)
    return torch.where(at < length, at, period - 1 + twice - at)


def _fast_length(least: int) -> int:
    """Return the next length with no prime factor above 5, which the transform likes."""
    length = least
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1
