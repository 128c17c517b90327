"""Which part of a mixture an attack sees: one image for all parts, the gradient through some.

A path is a forward pass like the model's own, with the same image for every expert and the gate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from moeseg.errors import UsageError, unknown_name
from moeseg.models import ConstantGate, Mixture, Model, image_size
from moeseg.types import ExpertOutput, Prediction

Forward = Callable[[Tensor], Prediction]
"""Images (B, 3, H, W) in [0, 1] to a prediction."""

ALL, WEIGHTS, LOGITS, EXPERT = "all", "weights", "logits", "expert-"


def forward_through(model: Model, part: str) -> Forward:
    """Return a forward pass whose gradient reaches the image through one part alone.

    Args:
        model: an expert, ensemble or mixture.
        part: ``all``; ``expert-1`` ... ``expert-E``, that expert's own logits, in the model's
            order; ``weights``, the gate's weights, the experts' logits held: it drives the route
            to the wrong expert; ``logits``, the experts' logits, the weights held.

    Raises:
        UsageError: an unknown part, or the model has no such part.
    """
    parts = parts_of(model)
    if part not in parts:
        kind = type(model).__name__.lower()
        raise UsageError("attack through " + unknown_name(f"part of this {kind}", part, parts))
    if part == ALL:
        return model
    if part.startswith(EXPERT):
        return model.experts[int(part.removeprefix(EXPERT)) - 1]
    held = _hold_logits if part == WEIGHTS else _hold_gate

    def forward(images: Tensor) -> Prediction:
        outputs = [held(expert.output(images)) for expert in model.experts]
        return model.combine(outputs, image_size(images))

    return forward


def in_bfloat16(forward: Forward) -> Forward:
    """Return the same pass with its layers in bfloat16, in the memory order they are fastest in."""

    def cast(images: Tensor) -> Prediction:
        with torch.autocast(images.device.type, torch.bfloat16):
            return forward(images.contiguous(memory_format=torch.channels_last))

    return cast


def parts_of(model: Model) -> Sequence[str]:
    """Return every part of a model that an attack may go through."""
    count = len(model.experts)
    single = [f"{EXPERT}{number}" for number in range(1, count + 1)] if count > 1 else []
    return [ALL, *single, *([WEIGHTS, LOGITS] if _looks(model) else [])]


def _looks(model: Model) -> bool:
    """Return whether a model has a gate whose weights hang on the image."""
    return isinstance(model, Mixture) and not isinstance(model.gate, ConstantGate)


def _hold_logits(output: ExpertOutput) -> ExpertOutput:
    return replace(output, logits=output.logits.detach())


def _hold_gate(output: ExpertOutput) -> ExpertOutput:
    return replace(output, gate=output.gate.detach())
