"""Fitting gates over frozen experts: all mixtures of a study in one pass over the same batches.

The batches come from a cache or from live experts (`cache.py`); the loss path is the same.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from moeseg.config import GateConfig, OptimizerConfig
from moeseg.errors import MoesegError, UsageError
from moeseg.files import log_epoch, replacing
from moeseg.metrics import class_ids, confusion_matrix, miou_over
from moeseg.models import ConstantGate, Mixture
from moeseg.progress import say, track
from moeseg.training.cache import GateBatch, GateSource
from moeseg.training.loss import (
    cross_entropy,
    draw_points,
    make_optimizer,
    mix_points,
    points_loss,
    rate,
    sample_logits,
)
from moeseg.types import ExpertOutput

_FACTOR = "factor"  # on the rate of one group of an optimizer's parameters


def train_gates(
    mixtures: Mapping[str, Mixture],
    train: GateSource,
    val: GateSource | None,
    config: GateConfig,
    out: Path,
    *,
    seed: int = 0,
    class_weights: Tensor | None = None,
    miou_classes: Literal["truth", "union"] = "truth",
) -> None:
    """Fit the gates and heads of several mixtures over the same frozen experts, in place.

    A mixture with `expert_batchnorm: adapt` must be fitted alone: its experts change. So must one
    with `adversarial`: its frames are changed against it. A call in a folder where an earlier one
    was stopped goes on after its last whole epoch.

    Args:
        mixtures: by name; they share their experts.
        train: batches to learn from; with `config.adversarial`, of frames that are changed.
        val: batches for the choice of the epoch; None where there are none.
        config: see `GateConfig`.
        out: folder for the state and `metrics.csv`.
        seed: of the sampled pixels.
        class_weights: (C,) for the loss.
        miou_classes: of the mIoU that chooses the epoch.

    Raises:
        MoesegError: a loss is not finite.
        UsageError: `choose: best` has no validation frames, or frames are not changed as
            `config.adversarial` asks.
    """
    check_gate_choice(config, 0 if val is None else len(val))
    _check_changed(config, train, len(mixtures))
    out.mkdir(parents=True, exist_ok=True)
    fits = {name: _Fit(mixture, config) for name, mixture in mixtures.items()}
    state = out / "last.pt"
    first = _restore(fits, state) if state.exists() else 0
    steps = len(train) * config.epochs
    for epoch in range(first, config.epochs):
        began = time.monotonic()
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        total = dict.fromkeys(fits, 0.0)
        title = f"gates, epoch {epoch + 1}/{config.epochs}"
        for number, batch in enumerate(track(train.epoch(epoch), title, len(train))):
            factor = rate(config.optimizer, epoch * len(train) + number, steps)
            losses = batch_losses(mixtures, batch, config.pixels, generator, class_weights)
            for name, loss in losses.items():
                if not torch.isfinite(loss):
                    raise MoesegError(
                        f"the loss of {name} became {loss.item()} in epoch {epoch}, step {number}: "
                        f"lower gate.optimizer.lr (now {config.optimizer.lr:g})"
                    )
                fits[name].step(loss, config.optimizer.lr * factor)
                total[name] += loss.item()
        row: dict[str, Any] = {"epoch": epoch, "seconds": round(time.monotonic() - began, 2)}
        row |= {f"train/loss/{name}": value / len(train) for name, value in total.items()}
        if val is not None:
            for name, counts in _validate(mixtures, val).items():
                miou = miou_over(counts, miou_classes)
                row[f"val/miou/{name}"] = miou
                fits[name].remember(miou)
        log_epoch(out / "metrics.csv", row)
        say(
            "  ".join(
                f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()
            )
        )
        _save(fits, state, epoch + 1)
    if config.choose == "best":
        for fit in fits.values():
            fit.take_best()


def check_gate_choice(config: GateConfig, val: int) -> None:
    """Make sure that there are validation frames where the settings need them.

    Raises:
        UsageError: there are none.
    """
    if not val and config.choose == "best":
        raise UsageError(
            "gate.choose: best needs validation frames and there are none: set gate.choose: last"
        )


def _check_changed(config: GateConfig, train: GateSource, mixtures: int) -> None:
    if config.adversarial is not None and not (train.changed and mixtures == 1):
        raise UsageError(
            "gate.adversarial: expected one mixture and frames that are changed against it, got "
            f"{mixtures} and frames {'changed' if train.changed else 'as they are'}: give each "
            "mixture its own `LiveOutputs` with `change`, or set gate.adversarial: null"
        )


def batch_losses(
    mixtures: Mapping[str, Mixture],
    batch: GateBatch,
    pixels: int | str,
    generator: torch.Generator,
    class_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return each mixture's loss on one batch.

    With `pixels: all` it is the mean over all labelled pixels; with a number, its unbiased
    estimate from so many random labelled pixels of each image.
    """
    if pixels == "all" and batch.outputs is not None and batch.label is not None:
        logits = _full_logits(mixtures, batch)
        return {name: cross_entropy(full, batch.label, class_weights) for name, full in logits}
    points, sampled = batch.points, batch.sampled
    if points is None or sampled is None:
        assert batch.outputs is not None
        assert batch.label is not None
        points = draw_points(batch.label, int(pixels), generator)
        heads = any(mixture.head is not None for mixture in mixtures.values())
        with torch.no_grad():
            sampled = sample_logits(batch.outputs, points, heads)
    return {
        name: points_loss(
            mix_points(mixture, mixture.gate(batch.features), sampled), points, class_weights
        )
        for name, mixture in mixtures.items()
    }


def gate_optimizer(mixture: Mixture, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return the optimizer of a mixture's gate and head.

    A `ConstantGate` stores its logits divided by its scale s. A step of Adam hardly depends on the
    gradient and moves the logits s times as far as the parameter, as is meant. A step of SGD goes
    with the gradient, which has a factor s of its own, so logits would move s^2 times as far: its
    rate is divided by s^2, and its weight decay multiplied, which makes it plain SGD on the logits.
    """
    gate = list(mixture.gate.parameters())
    head = [] if mixture.head is None else list(mixture.head.parameters())
    if config.name != "sgd" or not isinstance(mixture.gate, ConstantGate):
        return make_optimizer([*gate, *head], config)
    square = ConstantGate.SCALE**2
    optimizer = make_optimizer(gate, config)
    optimizer.param_groups[0] |= {
        "lr": config.lr / square,
        "weight_decay": config.weight_decay * square,
        _FACTOR: 1 / square,
    }
    if head:
        optimizer.add_param_group({"params": head})
    return optimizer


class _Fit:
    """One mixture's trainable part, its optimizer and its best epoch so far."""

    def __init__(self, mixture: Mixture, config: GateConfig) -> None:
        self.part = torch.nn.ModuleDict({"gate": mixture.gate})
        if mixture.head is not None:
            self.part["head"] = mixture.head
        self.optimizer = gate_optimizer(mixture, config.optimizer)
        if mixture.expert_batchnorm == "adapt":  # no gradients, but their statistics move
            self.part["experts"] = mixture.members
        self.best_miou = -1.0
        self.best = {k: v.clone() for k, v in self.part.state_dict().items()}

    def step(self, loss: Tensor, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get(_FACTOR, 1.0)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def remember(self, miou: float) -> None:
        if miou > self.best_miou:
            self.best_miou = miou
            self.best = {k: v.clone() for k, v in self.part.state_dict().items()}

    def take_best(self) -> None:
        self.part.load_state_dict(self.best)


@torch.no_grad()
def _validate(mixtures: Mapping[str, Mixture], val: GateSource) -> dict[str, Tensor]:
    """Return each mixture's confusion matrix; at the kept points where only those are."""
    confusion: dict[str, Tensor] = {}
    for batch in val.epoch(0):
        if batch.label is not None:
            label = batch.label
            found = ((name, class_ids(full)) for name, full in _full_logits(mixtures, batch))
        else:
            assert batch.points is not None
            assert batch.sampled is not None
            label = batch.points.label
            sampled = batch.sampled
            found = (
                (name, mix_points(m, m.gate(batch.features), sampled).argmax(-1))
                for name, m in mixtures.items()
            )
        for name, ids in found:
            counts = confusion_matrix(ids, label, mixtures[name].num_classes)
            confusion[name] = confusion.get(name, torch.zeros_like(counts)) + counts
    return confusion


def _full_logits(mixtures: Mapping[str, Mixture], batch: GateBatch) -> Iterator[tuple[str, Tensor]]:
    """Yield name and full-size logits, one mixture at a time: they are large."""
    assert batch.outputs is not None
    assert batch.label is not None
    height, width = batch.label.shape[-2:]
    outputs = [ExpertOutput(o.gate.float(), o.logits.float()) for o in batch.outputs]
    for name, mixture in mixtures.items():
        yield name, mixture.combine(outputs, (height, width)).logits


def _save(fits: Mapping[str, _Fit], path: Path, epoch: int) -> None:
    state: dict[str, Any] = {
        name: {
            "part": fit.part.state_dict(),
            "optimizer": fit.optimizer.state_dict(),
            "best": fit.best,
            "best_miou": fit.best_miou,
        }
        for name, fit in fits.items()
    }
    content = io.BytesIO()  # torch turns a full disk into an error of its own
    torch.save({"epoch": epoch, "fits": state}, content)
    with replacing(path) as unfinished:
        unfinished.write_bytes(content.getvalue())


def _restore(fits: Mapping[str, _Fit], path: Path) -> int:
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, fit in fits.items():
        stored = state["fits"][name]
        fit.part.load_state_dict(stored["part"])
        fit.optimizer.load_state_dict(stored["optimizer"])
        fit.best = stored["best"]
        fit.best_miou = stored["best_miou"]
    return int(state["epoch"])
