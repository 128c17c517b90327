"""The 15 common corruptions in five severities (Hendrycks and Dietterich, 2019), batched.

Here stand their table, `corrupt`, and how a condition such as ``fog-3`` is written; each family has
a file of its own. The numbers per severity are those of the benchmark's public code. That code is
made for photos of 224 px; lengths are kept in pixels as published and never scaled to the image, so
that a blur of 6 px is one of 6 px at any size (`elastic_transform` alone is published relative to
the image). Images stay float: nothing is rounded to 8 bits but where a docstring says so. By the
published numbers glass blur, fog and frost change an image no more at severity 4 than at 3, and
snow no more at 3 than at 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from moeseg.errors import UsageError, unknown_name
from moeseg.evaluation.changes import CORRUPTIONS
from moeseg.robustness.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from moeseg.robustness.corruptions.digital import (
    contrast,
    elastic_transform,
    jpeg_compression,
    pixelate,
)
from moeseg.robustness.corruptions.draws import Generators, generators_of
from moeseg.robustness.corruptions.ice import frost
from moeseg.robustness.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from moeseg.robustness.corruptions.weather import brightness, fog, snow

__all__ = ["CORRUPTIONS", "SEVERITIES", "condition_of", "corrupt", "parse_condition"]

SEVERITIES = (1, 2, 3, 4, 5)
"""From the mildest to the strongest."""

_TABLE: dict[str, Callable[[Tensor, int, Generators], Tensor]] = {
    "gaussian-noise": gaussian_noise,
    "shot-noise": shot_noise,
    "impulse-noise": impulse_noise,
    "defocus-blur": defocus_blur,
    "glass-blur": glass_blur,
    "motion-blur": motion_blur,
    "zoom-blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic-transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg-compression": jpeg_compression,
}


def corrupt(images: Tensor, name: str, severity: int, seeds: Sequence[int]) -> Tensor:
    """Return corrupted images; the same seed gives an image the same corruption in any batch.

    Args:
        images: (B, 3, H, W) float32 RGB in 0..1, on any device; they are left as they are.
        name: one of `CORRUPTIONS`.
        severity: 1 (mild) to 5 (strong).
        seeds: one per image, of which the low 32 bits count. Random numbers are drawn on the CPU,
            so that a seed means the same on every device.

    Returns:
        (B, 3, H, W) float32 in 0..1, without gradients.

    Raises:
        UsageError: no such corruption or severity.
        ValueError: other images, or not one seed for each.
    """
    if name not in _TABLE:
        raise UsageError(unknown_name("corruption", name, CORRUPTIONS))
    if severity not in SEVERITIES:
        raise UsageError(
            f"severity of {name}: expected 1 (mild) to 5 (strong), got {severity!r}; choose one of "
            f"{', '.join(map(str, SEVERITIES))}."
        )
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.float32:
        raise ValueError(
            f"expected images (B, 3, H, W) of float32, got {tuple(images.shape)} of {images.dtype}"
        )
    if len(seeds) != len(images):
        raise ValueError(f"expected one seed per image, got {len(seeds)} for {len(images)} images")
    if images.numel() == 0:
        return images.clone()
    with torch.no_grad():
        changed = _TABLE[name](images.contiguous(), severity, generators_of(seeds))
        return changed.clamp_(0.0, 1.0)


def condition_of(name: str, severity: int) -> str:
    """Return how a row names a corruption, e.g. ``fog-3``."""
    return f"{name}-{severity}"


def parse_condition(condition: str) -> tuple[str, int] | None:
    """Return name and severity of a condition such as ``fog-3``; None if it is no corruption."""
    name, _, severity = condition.rpartition("-")
    if name not in _TABLE or severity not in map(str, SEVERITIES):
        return None
    return name, int(severity)
