"""A small attack to train against in tests; those of the package are tested with their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from moeseg.types import IGNORE, Prediction


def pgd(
    model: Callable[[Tensor], Prediction],
    images: Tensor,
    label: Tensor,
    generators: Sequence[torch.Generator],
    *,
    epsilon: float,
    steps: int,
) -> Tensor:
    """Ascend the cross-entropy by signed steps of 2.5 epsilon / steps from a random start."""
    draws = torch.stack([torch.rand(images.shape[1:], generator=one) for one in generators])
    changed = (images + (2 * draws - 1) * epsilon).clamp(0, 1)
    for _ in range(steps):
        changed.requires_grad_()
        logits = model(changed).logits.float()
        loss = F.cross_entropy(logits, label.long(), ignore_index=IGNORE, reduction="sum")
        (slope,) = torch.autograd.grad(loss, changed)
        changed = changed.detach() + 2.5 * epsilon / steps * slope.sign()
        changed = changed.clamp(images - epsilon, images + epsilon).clamp(0, 1)
    return changed


def noting_pgd(
    model: Callable[[Tensor], Prediction],
    images: Tensor,
    label: Tensor,
    generators: Sequence[torch.Generator],
    *,
    epsilon: float,
    steps: int,
) -> Tensor:
    """`pgd` that leaves what it drew for each image in a file of its process."""
    drawn = [torch.rand((), generator=one.clone_state()).item() for one in generators]
    with (Path(os.environ["NOTES"]) / f"{os.getpid()}.txt").open("a") as file:
        file.write("".join(f"{draw!r}\n" for draw in drawn))
    return pgd(model, images, label, generators, epsilon=epsilon, steps=steps)
