"""What an attack on a segmentation drives up: pure functions of logits and labels.

Each gives one number an image, the mean over its labelled pixels, weighted by class in
``masked-balanced``; ignored pixels give no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from moeseg.types import IGNORE

LossName = Literal[
    "cross-entropy", "jensen-shannon", "masked", "masked-balanced", "segpgd", "cospgd"
]
LOSSES: tuple[LossName, ...] = get_args(LossName)


@dataclass(frozen=True, slots=True)
class Pixels:
    """What every loss reads of a batch of logits.

    Attributes:
        logits: (B, C, H, W).
        label: (B, H, W) int64, 0 where ignored.
        valid: (B, H, W) bool, False where ignored.
        log_true: (B, H, W) log probability of the true class, <= 0.
        right: (B, H, W) bool, whether the true class has the largest logit.
    """

    logits: Tensor
    label: Tensor
    valid: Tensor
    log_true: Tensor
    right: Tensor

    @classmethod
    def of(cls, logits: Tensor, label: Tensor) -> Pixels:
        """Read logits (B, C, H, W) at labels (B, H, W) uint8, 255 ignored."""
        logits = logits.float()  # 16 bits do not tell a small loss from none
        valid = label != IGNORE
        ids = label.long().masked_fill(~valid, 0)
        log_true = -nn.functional.cross_entropy(logits, ids, reduction="none")  # (B, H, W)
        known = logits.detach()
        true = known.gather(1, ids[:, None])[:, 0]  # (B, 1, H, W) -> (B, H, W)
        return cls(logits, ids, valid, log_true, (true >= known.amax(1)) & valid)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean (B,) of (B, H, W) values over labelled pixels; 0 where there are none."""
        total = values.masked_fill(~self.valid, 0.0).sum((1, 2))  # (B, H, W) -> (B,)
        return total / self.valid.sum((1, 2)).clamp(min=1)

    def wrong(self) -> Tensor:
        """Return how many labelled pixels of each image are wrong, (B,) int64."""
        return (self.valid & ~self.right).sum((1, 2))


Loss = Callable[[Pixels, float], Tensor]
"""Takes pixels and the share of the steps that are done, 0..1; gives (B,), to be driven up."""


def cross_entropy(pixels: Pixels, progress: float) -> Tensor:
    """Return the mean of -log p of the true class."""
    return pixels.mean(-pixels.log_true)


def jensen_shannon(pixels: Pixels, progress: float) -> Tensor:
    """Return the Jensen-Shannon divergence of prediction and label (Croce et al., ECCV 2024).

    Of a one-hot label it depends on p, the probability of the true class, alone: half of
    (1 - p) ln 2 + p ln(2 p / (1 + p)) + ln(2 / (1 + p)), which is 0 at p = 1 and ln 2 at p = 0: a
    pixel that is lost already pulls no more.
    """
    p = pixels.log_true.exp()
    of_prediction = (1 - p) * math.log(2) + p * (math.log(2) + pixels.log_true - p.log1p())
    of_label = math.log(2) - p.log1p()
    return pixels.mean((of_prediction + of_label) / 2)


def masked(pixels: Pixels, progress: float) -> Tensor:
    """Return the cross-entropy of the pixels that are still right (Croce et al., ECCV 2024)."""
    return pixels.mean(-pixels.log_true * pixels.right)


def masked_balanced(pixels: Pixels, progress: float) -> Tensor:
    """Return the masked cross-entropy with every class of an image at equal weight.

    A pixel weighs 1 / (classes in the image * pixels of its class there), so that a rare class
    pulls as much as the road: mIoU counts them so (after Croce et al., ECCV 2024).
    """
    classes = pixels.logits.shape[1]
    # (B, H, W) -> (B, H * W); ignored pixels count in a class of their own
    flat = pixels.label.masked_fill(~pixels.valid, classes).flatten(1)
    counts = torch.zeros(len(flat), classes + 1, device=flat.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=counts.dtype))
    present = (counts[:, :classes] > 0).sum(1, keepdim=True).clamp(min=1)
    weights = 1 / (counts.gather(1, flat) * present)  # (B, H * W)
    values = -pixels.log_true * pixels.right * weights.view(pixels.label.shape)
    return values.masked_fill(~pixels.valid, 0.0).sum((1, 2))  # (B, H, W) -> (B,)


def segpgd(pixels: Pixels, progress: float) -> Tensor:
    """Return the cross-entropy weighted 1 - t/2 where right, t/2 where wrong (Gu et al., 2022).

    t is the share of the steps that are done: the attack first turns pixels, then holds them.
    """
    half = progress / 2
    return pixels.mean(-pixels.log_true * torch.where(pixels.right, 1 - half, half))


def cospgd(pixels: Pixels, progress: float) -> Tensor:
    """Return the cross-entropy weighted by the cosine of prediction and label (Agnihotri, 2024).

    Of a one-hot label the cosine is p of the true class over the norm of all p; it is a weight and
    carries no gradient.
    """
    with torch.no_grad():
        p = pixels.logits.softmax(1)
        cosine = pixels.log_true.exp() / p.norm(dim=1)  # (B, C, H, W) -> (B, H, W)
    return pixels.mean(-pixels.log_true * cosine)


def loss_of(name: LossName) -> Loss:
    """Return a loss by its name."""
    table: dict[LossName, Loss] = {
        "cross-entropy": cross_entropy,
        "jensen-shannon": jensen_shannon,
        "masked": masked,
        "masked-balanced": masked_balanced,
        "segpgd": segpgd,
        "cospgd": cospgd,
    }
    return table[name]
