"""How experts' logits become one prediction: weighted sum, mean, max, mean probability.

Pure functions first; `Mixture` and `Ensemble` are the shells that wire experts, gate and head to
them. Weights do not vary over pixels and bilinear resizing is linear, so sums are taken at decoder
resolution, and each group of experts with equal grid is resized once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from moeseg.errors import UsageError, unknown_name
from moeseg.models.expert import Expert, image_size, name_of, resize
from moeseg.models.gates import ConstantGate, Gate
from moeseg.types import ExpertOutput, Prediction, Size

Rule = Literal["mean", "max", "mean-probability"]
RULES: tuple[Rule, ...] = get_args(Rule)


def weighted_sum(logits: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Sum experts' logits, each weighted.

    Args:
        logits: of each expert, (B, C, ...), all of one shape: maps or sampled points.
        weights: (B, E, K), K either 1 or C.

    Returns:
        (B, C, ...).
    """
    trailing = (1,) * (logits[0].dim() - 2)
    columns = [w.reshape(*w.shape, *trailing) for w in weights.unbind(1)]  # E x (B, K, 1, ...)
    total = logits[0] * columns[0]
    for one, weight in zip(logits[1:], columns[1:], strict=True):
        total = torch.addcmul(total, one, weight)
    return total


def combine_weighted(
    logits: Sequence[Tensor],
    weights: Tensor,
    size: Size,
    *,
    memory_format: torch.memory_format = torch.preserve_format,
) -> Tensor:
    """Weighted sum of experts' maps (B, C, h, w) of any grids, at `size` (H, W).

    Args:
        logits: of each expert, at its own decoder resolution.
        weights: (B, E, K), K either 1 or C.
        size: (H, W) of the result.
        memory_format: of the result, taken on at decoder resolution where that costs least.

    Returns:
        (B, C, H, W).
    """
    groups: dict[Size, list[int]] = {}
    for number, one in enumerate(logits):
        groups.setdefault(image_size(one), []).append(number)
    sums = [weighted_sum([logits[n] for n in m], weights[:, m]) for m in groups.values()]
    parts = [resize(one.to(memory_format=memory_format), size) for one in sums]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def combine_mean(logits: Sequence[Tensor], size: Size) -> Tensor:
    """Mean of experts' maps (B, C, h, w) at `size` (H, W): the sum with equal weights."""
    shape = (len(logits[0]), len(logits), 1)  # (B, E, 1)
    return combine_weighted(logits, logits[0].new_full(shape, 1 / len(logits)), size)


def combine_max(logits: Sequence[Tensor], size: Size) -> Tensor:
    """Greatest logit of all experts for each class and pixel, taken at `size` (H, W)."""
    total = resize(logits[0], size)
    for one in logits[1:]:
        total = torch.maximum(total, resize(one, size))
    return total


def combine_mean_probability(logits: Sequence[Tensor], size: Size) -> Tensor:
    """Log of the mean of the experts' class probabilities at `size` (H, W).

    Its softmax is that mean. Sums of exponentials are never left, so no probability underflows.
    """
    total = resize(logits[0], size).log_softmax(dim=1)
    for one in logits[1:]:
        total = torch.logaddexp(total, resize(one, size).log_softmax(dim=1))
    return total - math.log(len(logits))


def new_head(num_classes: int) -> nn.Conv2d:
    """Return a 3x3 convolution C -> C without bias that begins as the identity.

    The original draws it at random. From the identity, a mixture with an untrained head gives what
    it gives without one, and training starts there.
    """
    head = nn.Conv2d(num_classes, num_classes, 3, padding=1, bias=False)
    nn.init.dirac_(head.weight)
    return head


class Ensemble(nn.Module):
    """Experts joined by a fixed rule; nothing is trained, so its experts stay in eval mode.

    Args:
        experts: two or more with one number of classes; kept as they are, not copied.
        rule: ``mean`` or ``max`` of logits as published, or ``mean-probability``.

    Raises:
        UsageError: fewer than two experts, unequal class counts, unknown rule.
    """

    def __init__(self, experts: Sequence[Expert], rule: Rule) -> None:
        super().__init__()
        if rule not in RULES:
            raise UsageError(unknown_name("ensemble rule", rule, RULES))
        self.num_classes = _common_classes(experts)
        self.rule: Rule = rule
        self.members = nn.ModuleList(experts)
        self.train(self.training)

    @property
    def experts(self) -> tuple[Expert, ...]:
        """The experts in the order that `combine` takes their outputs in."""
        return _experts(self.members)

    def train(self, mode: bool = True) -> Ensemble:
        """Set the mode of this module; its experts stay in eval mode."""
        super().train(mode)
        self.members.eval()
        return self

    def combine(
        self, outputs: Sequence[ExpertOutput], size: Size, *, expert_logits: bool = False
    ) -> Prediction:
        """Join the experts' outputs at `size` (H, W); see `Segmenter.combine`."""
        rules: dict[str, Callable[[Sequence[Tensor], Size], Tensor]] = {
            "mean": combine_mean,
            "max": combine_max,
            "mean-probability": combine_mean_probability,
        }
        logits = _logits(outputs, self.members)
        every = _full_size(logits, size) if expert_logits else None
        return Prediction(rules[self.rule](logits, size), expert_logits=every)

    def forward(self, images: Tensor, *, expert_logits: bool = False) -> Prediction:
        """Predict images (B, 3, H, W) in [0, 1]; `expert_logits` adds (B, E, C, H, W)."""
        outputs = [expert.output(images) for expert in self.experts]
        return self.combine(outputs, image_size(images), expert_logits=expert_logits)


class Mixture(nn.Module):
    """Experts weighted by a gate, with an optional convolution after the sum.

    Args:
        experts: two or more with one number of classes, of any architectures; not copied.
        gate: made for these experts' features, with 1 or C columns.
        head: a 3x3 convolution C -> C at full size (`new_head`), or None.
        freeze: True holds the experts: no gradients, eval mode and unmoved BatchNorm statistics
            whatever `train` is called. Note that this sets `requires_grad` on the experts
            themselves. False trains everything end to end.
        expert_batchnorm: ``adapt`` lets frozen experts follow `train`, so that their BatchNorm
            statistics drift and dropout is on: a defect of the original, kept to reproduce it.

    Raises:
        UsageError: fewer than two experts, unequal class counts, or a gate or head of other shape.
    """

    def __init__(
        self,
        experts: Sequence[Expert],
        gate: Gate | ConstantGate,
        head: nn.Conv2d | None = None,
        *,
        freeze: bool = True,
        expert_batchnorm: Literal["hold", "adapt"] = "hold",
    ) -> None:
        super().__init__()
        self.num_classes = _common_classes(experts)
        _check_parts(experts, gate, head, self.num_classes)
        self.members = nn.ModuleList(experts)
        self.gate = gate
        self.head = head
        self.freeze = freeze
        self.expert_batchnorm = expert_batchnorm
        if freeze:
            self.members.requires_grad_(False)
        self.train(self.training)

    @property
    def experts(self) -> tuple[Expert, ...]:
        """The experts in the order that gate and `combine` take them in."""
        return _experts(self.members)

    def train(self, mode: bool = True) -> Mixture:
        """Set the mode of gate and head, and of experts that are not frozen."""
        super().train(mode)
        if self.freeze and self.expert_batchnorm == "hold":
            self.members.eval()
        return self

    def combine(
        self, outputs: Sequence[ExpertOutput], size: Size, *, expert_logits: bool = False
    ) -> Prediction:
        """Weight and sum the experts' outputs at `size` (H, W); see `Segmenter.combine`."""
        logits = _logits(outputs, self.members)
        weights = self.gate([output.gate for output in outputs])  # (B, E, K)
        if self.head is None:
            total = combine_weighted(logits, weights, size)
        else:  # a convolution at full size is quicker over channels-last memory
            last = torch.channels_last
            total = self.head(combine_weighted(logits, weights, size, memory_format=last))
        every = _full_size(logits, size) if expert_logits else None
        return Prediction(total, weights, every)

    def forward(self, images: Tensor, *, expert_logits: bool = False) -> Prediction:
        """Predict images (B, 3, H, W) in [0, 1]; `expert_logits` adds (B, E, C, H, W)."""
        if self.freeze and self.expert_batchnorm == "hold":
            for expert in self.experts:
                if expert.training:  # someone called train on the expert itself
                    expert.eval()
        outputs = [expert.output(images) for expert in self.experts]
        return self.combine(outputs, image_size(images), expert_logits=expert_logits)


def _experts(members: nn.ModuleList) -> tuple[Expert, ...]:
    items: Any = members
    return tuple(items)


def _common_classes(experts: Sequence[Expert]) -> int:
    if len(experts) < 2:
        raise UsageError(f"expected two experts or more to join, got {len(experts)}.")
    first = experts[0]
    for number, other in enumerate(experts[1:], start=2):
        if other.num_classes != first.num_classes:
            raise UsageError(
                f"expected experts of one number of classes, got expert 1 ({name_of(first)}) with "
                f"{first.num_classes} and expert {number} ({name_of(other)}) with "
                f"{other.num_classes}. Train them on one taxonomy."
            )
    return first.num_classes


def _check_parts(
    experts: Sequence[Expert],
    gate: Gate | ConstantGate,
    head: nn.Conv2d | None,
    num_classes: int,
) -> None:
    channels = tuple(expert.gate_channels for expert in experts)
    if gate.channels != channels:
        raise UsageError(
            f"gate: expected one for feature channels {list(channels)}, as the experts give, got "
            f"one for {list(gate.channels)}. Build it for these experts (build_gate)."
        )
    if gate.columns not in (1, num_classes):
        raise UsageError(
            f"gate: expected 1 column or one for each of {num_classes} classes, got {gate.columns}."
        )
    if head is not None and (head.in_channels, head.out_channels) != (num_classes, num_classes):
        raise UsageError(
            f"head: expected a convolution {num_classes} -> {num_classes}, got "
            f"{head.in_channels} -> {head.out_channels}. Use new_head({num_classes})."
        )


def _logits(outputs: Sequence[ExpertOutput], members: nn.ModuleList) -> list[Tensor]:
    if len(outputs) != len(members):
        raise ValueError(f"expected outputs of {len(members)} experts, got {len(outputs)}")
    return [output.logits for output in outputs]


def _full_size(logits: Sequence[Tensor], size: Size) -> Tensor:
    # E x (B, C, h, w) -> (B, E, C, H, W)
    return torch.stack([resize(one, size) for one in logits], dim=1)
