"""Snow, fog and brightness; frost has a file of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from moeseg.robustness.corruptions.draws import Generators, normal, uniform
from moeseg.robustness.corruptions.filters import correlate, enlarge, line_kernels, zoom_source


def snow(images: Tensor, severity: int, generators: Generators) -> Tensor:
    """Pale the image and lay two layers of flakes over it, the second the first turned by 180.

    The flakes are rounded to 8 bits, as published.
    """
    mean, spread, size, least, radius, sigma, kept = (
        (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity - 1]
    height, width = int(images.shape[2]), int(images.shape[3])
    degrees = uniform((), generators) * 90 - 135
    specks = normal((1, *zoom_source((height, width), size)), generators).to(images.device)
    flakes = enlarge(specks.mul_(spread).add_(mean), size)
    flakes = torch.where(flakes < least, 0.0, flakes).clamp_(0, 1)
    flakes = correlate(flakes, line_kernels(radius, sigma, degrees), "edge")
    flakes = flakes[..., :height, :width].mul(255).round_().div_(255)
    luma = torch.tensor([0.299, 0.587, 0.114], device=images.device)  # ITU-R BT.601
    grey = (images * luma[:, None, None]).sum(1, keepdim=True)  # (B, 1, H, W)
    pale = torch.maximum(images, grey * 1.5 + 0.5)
    return torch.lerp(pale, images, kept).add_(flakes + flakes.flip(-1, -2))


def fog(images: Tensor, severity: int, generators: Generators) -> Tensor:
    """Add clouds and rescale so that the brightest value stays at the image's own."""
    amount, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[severity - 1]
    height, width = int(images.shape[2]), int(images.shape[3])
    side = 1 << (max(height, width, 3) - 1).bit_length()  # the next power of two
    clouds = plasma(side, decay, generators).to(images.device)[:, None, :height, :width]
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + amount * clouds).mul_(brightest / (brightest + amount))


def brightness(images: Tensor, severity: int, generators: Generators) -> Tensor:
    """Raise the value of HSV; hue and saturation stay, so all channels scale alike."""
    more = (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]
    value = images.amax(1, keepdim=True)  # (B, 1, H, W)
    relative = torch.where(value > 0, images / value, 1.0)  # black becomes grey
    return relative.mul_((value + more).clamp_(max=1.0))


def plasma(side: int, decay: float, generators: Generators) -> Tensor:
    """Return height maps (B, side, side) in 0..1 by the diamond-square algorithm on a torus.

    Args:
        side: a power of two.
        decay: by how much the roughness shrinks with each halving of the step.
        generators: one per map.
    """
    draws = uniform((side * side - 1,), generators) * 2 - 1
    corners = torch.zeros(len(generators), 1, 1)
    wibble, used = 100.0, 0

    def mean(sum_of_four: Tensor) -> Tensor:
        nonlocal used
        count = sum_of_four[0].numel()
        offsets = draws[:, used : used + count].view_as(sum_of_four)
        used += count
        return sum_of_four / 4 + wibble**2 * offsets

    while corners.shape[1] < side:
        across = corners + corners.roll(-1, 1)
        centres = mean(across + across.roll(-1, 2))
        beside = mean(centres + centres.roll(1, 1) + corners + corners.roll(-1, 2))
        below = mean(centres + centres.roll(1, 2) + across)
        upper = torch.stack([corners, beside], -1).flatten(2)  # (B, n, 2n)
        lower = torch.stack([below, centres], -1).flatten(2)
        corners = torch.stack([upper, lower], 2).flatten(1, 2)  # (B, 2n, 2n)
        wibble /= decay
    corners -= corners.amin((1, 2), keepdim=True)
    return corners / corners.amax((1, 2), keepdim=True)
