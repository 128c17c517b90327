"""Changes to a photo and its label together: resizing for all, augmentation for training.

Built on torchvision's `transforms.v2` functions. Every random number is drawn here, from a
generator that the caller hands in, so an item depends on nothing else. Sizes are H x W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from moeseg.errors import UsageError
from moeseg.types import IGNORE, Size


@dataclass(frozen=True)
class Augment:
    """Random changes to training frames.

    Attributes:
        flip: mirror left and right with probability 1/2.
        scale: (low, high), resize by a factor drawn evenly from this range, then crop at random, or
            pad (photo: its edge, label: ignore), to the size before; None leaves the scale.
        jitter: 0..1; brightness, contrast and saturation are scaled by factors within 1 +- jitter,
            hue is turned by up to jitter / 10 of the colour circle (far more would turn a red light
            green); 0 leaves colours.

    Raises:
        UsageError: a value is out of range.
    """

    flip: bool = True
    scale: tuple[float, float] | None = None
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1]:
            raise UsageError(f"augment.scale: expected 0 < low <= high, got {list(self.scale)}.")
        if not 0 <= self.jitter <= 1:
            raise UsageError(f"augment.jitter: expected 0..1, got {self.jitter}.")


def resize_image(image: Tensor, size: Size) -> Tensor:
    """Squeeze a photo (..., H, W) to a size, bilinear with antialiasing; same dtype."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    resized: Tensor = F.resize_image(
        image, list(size), interpolation=InterpolationMode.BILINEAR, antialias=True
    )
    return resized


def resize_label(label: Tensor, size: Size) -> Tensor:
    """Squeeze ids (H, W) to a size, each pixel taking the id at its centre.

    torchvision's own mask resize takes the id at the pixel's upper left corner, which shifts
    labels against the photo by up to half a pixel.
    """
    if tuple(label.shape) == tuple(size):
        return label
    resized: Tensor = F.resize_image(
        label[None], list(size), interpolation=InterpolationMode.NEAREST_EXACT
    )
    return resized[0]


Fit = Literal["pad", "squeeze"]


def fitted_extent(size: Size, target: Size, fit: Fit) -> Size:
    """Return the H, W that a picture of `size` has inside `target`, at its upper left corner."""
    if fit == "squeeze":
        return target[0], target[1]
    factor = min(target[0] / size[0], target[1] / size[1])
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def fit_image(image: Tensor, target: Size, fit: Fit) -> Tensor:
    """Bring a photo (..., H, W) to `target`; padding repeats its right and lower edge."""
    extent = fitted_extent((int(image.shape[-2]), int(image.shape[-1])), target, fit)
    resized = resize_image(image, extent)
    if extent == tuple(target):
        return resized
    padded: Tensor = F.pad(resized, _border(extent, target), padding_mode="edge")
    return padded


def fit_label(label: Tensor, target: Size, fit: Fit) -> Tensor:
    """Bring ids (H, W) to `target`; padding is ignored."""
    extent = fitted_extent((int(label.shape[0]), int(label.shape[1])), target, fit)
    resized = resize_label(label, extent)
    if extent == tuple(target):
        return resized
    padded: Tensor = F.pad(resized[None], _border(extent, target), fill=IGNORE)
    return padded[0]


def augmented(
    image: Tensor, label: Tensor, augment: Augment, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Change a photo and its label at random.

    Args:
        image: (3, H, W) uint8.
        label: (H, W) uint8 ids.
        augment: what is changed and how much.
        generator: the only source of randomness.

    Returns:
        (3, H, W) float32 in [0, 1] and (H, W) uint8, of the same H and W.
    """
    photo, mask = tv_tensors.Image(image), tv_tensors.Mask(label)
    if augment.scale is not None:
        factor = _between(*augment.scale, generator)
        photo, mask = _scaled(photo, mask, factor, generator)
    if augment.flip and _between(0.0, 1.0, generator) < 0.5:
        photo, mask = F.horizontal_flip(photo), F.horizontal_flip(mask)
    pixels = unit_range(photo.as_subclass(Tensor))
    if augment.jitter:
        pixels = _jittered(pixels, augment.jitter, generator)
    return pixels, mask.as_subclass(Tensor).contiguous()


def unit_range(image: Tensor) -> Tensor:
    """Turn 0..255 uint8 into [0, 1] float32, in memory order."""
    return image.contiguous().to(torch.float32).div_(255)


def _scaled(
    photo: tv_tensors.Image, mask: tv_tensors.Mask, factor: float, generator: torch.Generator
) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    height, width = photo.shape[-2:]
    size = max(1, round(height * factor)), max(1, round(width * factor))
    photo = tv_tensors.Image(resize_image(photo.as_subclass(Tensor), size))
    mask = tv_tensors.Mask(resize_label(mask.as_subclass(Tensor), size))
    missing = max(0, height - size[0]), max(0, width - size[1])
    if any(missing):
        top, left = (_place(room, generator) for room in missing)
        border = [left, top, missing[1] - left, missing[0] - top]
        photo = F.pad(photo, border, padding_mode="edge")
        mask = F.pad(mask, border, fill=IGNORE)
    top = _place(max(0, size[0] - height), generator)
    left = _place(max(0, size[1] - width), generator)
    return F.crop(photo, top, left, height, width), F.crop(mask, top, left, height, width)


def _border(extent: Size, target: Size) -> list[int]:
    """Return left, top, right and bottom padding."""
    return [0, 0, target[1] - extent[1], target[0] - extent[0]]


def _jittered(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    for adjust in (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation):
        pixels = adjust(pixels, _between(1 - strength, 1 + strength, generator))
    turned: Tensor = F.adjust_hue(pixels, _between(-0.1, 0.1, generator) * strength)
    return turned.clamp_(0, 1)


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _place(room: int, generator: torch.Generator) -> int:
    return int(torch.randint(room + 1, (), generator=generator))
