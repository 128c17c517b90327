"""Defocus, frosted glass, motion and zoom."""

from __future__ import annotations

import torch
from torch import Tensor

from moeseg.robustness.corruptions.draws import Generators, integers, uniform
from moeseg.robustness.corruptions.filters import (
    correlate,
    enlarge,
    gaussian_kernel,
    line_kernels,
    zoom_source,
)


def defocus_blur(images: Tensor, severity: int, generators: Generators) -> Tensor:
    """Spread each pixel over a disk, mirrored at the border."""
    radius, sigma = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
    return correlate(images, disk_kernel(radius, sigma), "mirror")


def glass_blur(images: Tensor, severity: int, generators: Generators) -> Tensor:
    """Blur, let pixels take the place of near ones, and blur again.

    The moves have the published distribution (`moved_from`); between the blurs the published code
    also cuts off to 8 bits, which is left out here.
    """
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[
        severity - 1
    ]
    kernel = gaussian_kernel((sigma, sigma), truncate=4)
    height, width = int(images.shape[2]), int(images.shape[3])
    moves = integers(-reach, reach, (rounds, 2, height, width), generators)
    source = moved_from(moves.to(images.device), reach)[:, None].expand(
        -1, 3, -1
    )  # (B, H * W) -> (B, 3, H * W)
    soft = correlate(images, kernel, "edge").flatten(2).gather(2, source)
    return correlate(soft.view_as(images), kernel, "edge")


def motion_blur(images: Tensor, severity: int, generators: Generators) -> Tensor:
    """Blur along a line within 45 degrees of the horizontal, the border's pixels going on outside.

    Where the line is longer than the image the published code leaves out its end and darkens the
    picture; here the border goes on.
    """
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    degrees = uniform((), generators) * 90 - 45
    return correlate(images, line_kernels(radius, sigma, degrees), "edge")


def zoom_blur(images: Tensor, severity: int, generators: Generators) -> Tensor:
    """Average the image with itself enlarged about its centre by several factors."""
    # the published ranges end by floating point: that of severity 1 includes 1.11
    step, count = ((0.01, 12), (0.01, 16), (0.02, 11), (0.02, 13), (0.03, 11))[severity - 1]
    height, width = int(images.shape[2]), int(images.shape[3])
    total = images * 2  # the image itself, and enlarged by 1
    for number in range(1, count):
        factor = 1 + number * step
        h, w = zoom_source((height, width), factor)
        top, left = (height - h) // 2, (width - w) // 2
        layer = enlarge(images[..., top : top + h, left : left + w], factor)
        total += layer[..., :height, :width]
    return total.div_(count + 1)


def disk_kernel(radius: int, sigma: float) -> Tensor:
    """Return a disk (k, k), its rim softened by a small Gaussian of sigma pixels.

    It sums to 1, but to 1.013 at radius 8 and 1.011 at 10: there the disk meets the kernel's edge,
    where the published code mirrors it while softening.
    """
    half, soft = (8, 1) if radius <= 8 else (radius, 2)
    x = torch.arange(-half, half + 1)
    disk = (x[:, None] ** 2 + x**2 <= radius**2).float()
    rim = gaussian_kernel((sigma, sigma), truncate=soft / sigma)
    kernel = correlate((disk / disk.sum())[None, None], rim, "mirror")
    return kernel[0, 0]  # (1, 1, k, k) -> (k, k)


def moved_from(moves: Tensor, reach: int) -> Tensor:
    """Return from which pixel each pixel's value comes after rounds of local moves.

    In a round the published code visits the pixels (h, w) from the lower right to the upper left,
    all but a border, and means to swap each with its neighbour (h + dy, w + dx). Its swap goes
    through views of one array: the pixel takes the neighbour's present value, and the neighbour
    keeps it. That is reproduced exactly for the same moves, though not one by one: a neighbour that
    is visited later still has its old value; one that was visited before has the value of *its*
    neighbour, and so on. Such chains are followed for all pixels at once, each look-up doubling
    their length.

    Args:
        moves: (B, R, 2, H, W) int64, dy and dx of each of R rounds, from -reach to reach - 1.
        reach: greatest move in pixels.

    Returns:
        (B, H * W) int64 places in an image before all rounds.
    """
    images, rounds, _, height, width = moves.shape
    device = moves.device
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    visited = ((rows > reach) & (rows <= height - reach))[:, None]
    visited = (visited & (columns > reach) & (columns <= width - reach)).flatten()
    # places in the whole batch, so that one look-up serves all images
    here = torch.arange(images * height * width, device=device)
    visited = visited.repeat(images)
    total = here
    for number in range(rounds):
        dy, dx = moves[:, number].unbind(1)  # (B, H, W) each
        source = torch.where(visited, (dy * width).add_(dx).flatten().add_(here), here)
        # those whose neighbour was visited before them must look on from there
        on = (visited & (source > here) & visited[source.clamp(0, len(here) - 1)]).nonzero()[:, 0]
        chained = torch.zeros_like(visited)
        chained[on] = True
        while len(on):
            neighbours = source[on]
            source[on], chained[on] = source[neighbours], chained[neighbours]
            on = on[chained[on]]
        total = total[source]
    first = torch.arange(images, device=device)[:, None] * (height * width)
    return total.view(images, height * width) - first
