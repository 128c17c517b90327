"""One change for all images: trained on a training subset, saved with where it comes from.

After Moosavi-Dezfooli et al. (CVPR 2017), by projected gradient steps on batches as the original
does it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader

from moeseg.data import EpochBatches, SegmentationDataset
from moeseg.errors import DataError, UsageError
from moeseg.evaluation.runner import half_of
from moeseg.files import replacing
from moeseg.models import Model
from moeseg.progress import track
from moeseg.robustness.attacks import Attack, Perturbed, followed, gradient_of, still
from moeseg.robustness.ball import project
from moeseg.robustness.directions import AdamOfSigns, Direction, SignStep
from moeseg.robustness.losses import Pixels, cross_entropy
from moeseg.robustness.paths import Forward
from moeseg.types import IGNORE

_FORMAT = 1
_INNER = 10
"""Steps on every batch, as published."""


def train_universal(
    model: Model,
    frames: SegmentationDataset,
    *,
    epsilon: float,
    attack: Attack,
    out: Path,
    provenance: Mapping[str, Any],
    batch_size: int = 8,
    seed: int = 0,
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Train one change for all images against a model, or go on where a like call was stopped.

    The change starts at zero and takes one sign step a batch along the gradient of the batch's
    cross-entropy, of a length that falls linearly from epsilon / 4 to 0. ``universal-published``
    takes ten steps of the published rule on every batch instead.

    Args:
        model: the one that is attacked.
        frames: of a training subset, at the size of scoring, never of the frames scored.
        epsilon: radius, 0..1.
        attack: of kind ``universal`` or ``universal-published``; `steps` is the number of epochs.
        out: file of the change; it is whole after every epoch.
        provenance: JSON-ready values that are kept in it.
        batch_size: frames of one step.
        seed: of the order of the frames.
        workers: loader processes.
        device: where the model runs.

    Returns:
        (3, H, W) on the CPU, within epsilon of 0.

    Raises:
        DataError: the labels of all frames are ignored.
        UsageError: there are no frames, or the model's output has no gradient.
    """
    if not len(frames):
        raise UsageError("universal: expected frames to train on, got none; name another subset")
    done, change = 0, torch.zeros(3, *(frames.size or (1, 1)))
    settings = {k: v for k, v in asdict(attack).items() if v is not None}
    about = json.loads(json.dumps({**provenance, "attack": settings, "epsilon": epsilon}))
    if out.exists():
        found, noted = load_universal(out)
        if all(noted.get(key) == value for key, value in about.items()):
            change, done = found, int(noted["epochs_done"])
    batches = EpochBatches(len(frames), batch_size, seed)
    total = len(batches) * attack.steps
    loader = DataLoader(frames, batch_sampler=batches, num_workers=workers)
    model.to(device)
    forward = followed(model, attack)
    for epoch in range(done, attack.steps):
        batches.set_epoch(epoch)
        labelled = 0
        title = f"universal change, epoch {epoch + 1}/{attack.steps}"
        for number, (images, label, _) in enumerate(track(loader, title, len(loader))):
            labelled += int((label != IGNORE).sum())
            left = 1 - (epoch * len(batches) + number) / total
            with torch.inference_mode(False), still(model):
                change = _fit(forward, images, label, change, epsilon, attack, left, device)
        if not labelled:
            raise DataError(
                f"universal: expected labelled pixels to train on, got {len(frames)} frames whose "
                "labels are all ignored; name another subset with robustness.universal_subset"
            )
        save_universal(out, change, {**about, "epochs_done": epoch + 1})
    return change


def _fit(
    forward: Forward,
    images: Tensor,
    label: Tensor,
    change: Tensor,
    epsilon: float,
    attack: Attack,
    left: float,
    device: torch.device | str,
) -> Tensor:
    images, label = images.to(device), label.to(device)
    point = change[None].to(device)  # (3, H, W) -> (1, 3, H, W)

    def inside(points: Tensor) -> Tensor:
        return points.clamp(-epsilon, epsilon)

    direction: Direction = SignStep(inside, left * epsilon / 4)
    if attack.published:
        direction = AdamOfSigns(inside)
    for _ in range(_INNER if attack.published else 1):
        loss, gradient = _climb(forward, images, label, point, epsilon, attack.clip)
        point = direction.advance(point, gradient, loss)
    return point[0].cpu()  # (1, 3, H, W) -> (3, H, W)


def _climb(
    forward: Forward, images: Tensor, label: Tensor, point: Tensor, epsilon: float, clip: bool
) -> tuple[Tensor, Tensor]:
    """Return each image's loss (B,) under a change, and the gradient (1, 3, H, W) of their sum.

    What memory does not hold at once is added up in halves.
    """
    try:
        at = point.detach().requires_grad_()
        with torch.enable_grad():
            shown = project(images + at, images, epsilon, clip=clip)
            loss = cross_entropy(Pixels.of(forward(shown).logits, label), 0.0)
        return loss.detach(), gradient_of(loss, at)
    except torch.OutOfMemoryError as error:
        half = half_of(len(images), "attack", error)
    halves = (slice(half), slice(half, None))
    parts = [_climb(forward, images[of], label[of], point, epsilon, clip) for of in halves]
    return torch.cat([loss for loss, _ in parts]), parts[0][1] + parts[1][1]


def apply_universal(
    images: Tensor, change: Tensor, radius: Tensor | float, *, clip: bool = True
) -> Tensor:
    """Return images (B, 3, H, W) plus one change (3, H, W), in [0, 1] unless `clip` is False.

    Args:
        images: (B, 3, H, W) in [0, 1].
        change: (3, H, W).
        radius: of the ball, one for all or (B, 1, H, W).
        clip: keep to [0, 1].

    Raises:
        UsageError: the change is of another size.
    """
    if images.shape[-2:] != change.shape[-2:]:
        raise UsageError(
            f"universal: expected images of {change.shape[-2]}x{change.shape[-1]}, the size that "
            f"the change was trained at, got {images.shape[-2]}x{images.shape[-1]}; set eval.size"
        )
    return project(images + change.to(images), images, radius, clip=clip)


def apply_as_attack(
    model: Model,
    images: Tensor,
    label: Tensor,
    change: Tensor,
    radius: Tensor | float,
    *,
    clip: bool,
) -> Perturbed:
    """Apply a change and note what it did to a model, as an attack without steps does."""
    changed = apply_universal(images, change, radius, clip=clip)
    both = [Pixels.of(model(shown).logits, label) for shown in (images, changed)]
    losses = torch.stack([cross_entropy(pixels, 0.0) for pixels in both])  # 2 x (B,) -> (2, B)
    return Perturbed(changed, both[-1].wrong(), losses)


def save_universal(path: Path, change: Tensor, provenance: Mapping[str, Any]) -> None:
    """Write a change (3, H, W) and where it comes from into one safetensors file."""
    about = {"moeseg": json.dumps({"format": _FORMAT, **provenance}, sort_keys=True)}
    content = save({"change": change.contiguous()}, metadata=about)
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)


def load_universal(path: Path) -> tuple[Tensor, dict[str, Any]]:
    """Return a saved change (3, H, W) and its provenance.

    Raises:
        DataError: no such file, or none that `save_universal` wrote.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            about = dict(json.loads((file.metadata() or {})["moeseg"]))
            if missing := {"attack", "epsilon"} - set(about):
                raise KeyError(f"no {' and '.join(sorted(missing))}")
            return file.get_tensor("change"), about
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: expected a universal change as moeseg writes it, got {type(error).__name__}: "
            f"{error}; train it again with `moeseg attack --attack universal --epsilon EPSILON`"
        ) from error
