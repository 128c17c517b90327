"""Which network a state dict of the original belongs to, told from its keys and shapes.

Only what they tell: output stride, input size and an ensemble's rule come from the user.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from moeseg.errors import CheckpointError, UsageError
from moeseg.interop.keys import EXPERTS, LAYOUTS, Layout
from moeseg.models import (
    Expert,
    Gate,
    Mixture,
    Model,
    Rule,
    build_ensemble,
    build_expert,
    new_head,
)
from moeseg.models.backbones import OutputStride
from moeseg.types import Size

# (has bottlenecks, blocks of layer3), as torchvision builds them
_RESNETS = {
    (False, 2): "resnet18",
    (False, 6): "resnet34",
    (True, 6): "resnet50",
    (True, 23): "resnet101",
}


def build(
    path: Path,
    state: Mapping[str, Tensor],
    *,
    input_size: Size | None,
    output_stride: OutputStride,
    rule: Rule,
) -> Model:
    """Build the model that a state dict belongs to, with new weights.

    A part is taken to be there if any of its keys is; whether all are, is not looked at.

    Args:
        path: of the file, for messages.
        state: tensors by the original's keys.
        input_size: (H, W) that a gate is fixed to; None takes any map of its number of cells.
        output_stride: of a DeepLabv3+.
        rule: of an ensemble.

    Raises:
        CheckpointError: no network of the original, or experts of different class counts.
        UsageError: an option that contradicts the file.
    """
    name = _name(path, state)
    layout = LAYOUTS[name]
    joined = any(key.startswith((*EXPERTS, layout.gate)) for key in state)
    prefixes = EXPERTS if joined else ("",)
    architecture: dict[str, Any] = {
        "name": name,
        "num_classes": _num_classes(path, state, [one + layout.classes for one in prefixes]),
        "normalisation": "none",
    }
    if name == "deeplabv3plus":
        architecture["backbone"] = _resnet(path, state)
        architecture["output_stride"] = output_stride
    elif output_stride != 16:
        raise UsageError(f"{path}: output stride: expected 16, as {name} has, got {output_stride}.")
    experts = [build_expert(architecture) for _ in prefixes]
    if not joined:
        return experts[0]
    if not any(key.startswith((layout.gate, layout.head)) for key in state):
        return build_ensemble(experts, rule)
    head = any(key.startswith(layout.head) for key in state)
    return Mixture(
        experts,
        _gate(path, state, layout, experts, input_size),
        new_head(experts[0].num_classes) if head else None,
    )


def _name(path: Path, state: Mapping[str, Tensor]) -> str:
    for name, layout in LAYOUTS.items():
        signs = tuple(prefix + sign for prefix in ("", *EXPERTS) for sign in layout.signs)
        if any(key.startswith(signs) for key in state):
            return name
    raise CheckpointError(
        f"{path}: expected keys of the original's DeepLabv3+ (backbone..., classifier...) or "
        "FRRN-A (first..., frrnlayer1...), with or without expert1. before them, got "
        f"{', '.join(list(state)[:5])}. The checkpoint is of another project."
    )


def _num_classes(path: Path, state: Mapping[str, Tensor], layers: list[str]) -> int:
    found: dict[str, tuple[str, int]] = {}
    for layer in layers:
        for key in (f"{layer}weight", f"{layer}bias"):
            if key in state and state[key].dim():
                found.setdefault(layer, (key, len(state[key])))
    if not found:
        raise CheckpointError(
            f"{path}: expected {layers[0]}weight, whose first extent is the number of classes, got "
            "no such key. The file is incomplete, or of another project."
        )
    if len({count for _, count in found.values()}) > 1:
        got = " and ".join(f"{key} with {count}" for key, count in found.values())
        raise CheckpointError(
            f"{path}: expected experts of one number of classes, got {got}. The checkpoint was put "
            "together from experts of different label sets."
        )
    return next(iter(found.values()))[1]


def _resnet(path: Path, state: Mapping[str, Tensor]) -> str:
    text = "\n".join(state)
    blocks = len(set(re.findall(r"backbone\.layer3\.(\d+)\.", text)))
    bottleneck = bool(re.search(r"backbone\.layer\d\.\d+\.conv3\.", text))
    if (bottleneck, blocks) not in _RESNETS:
        known = ", ".join(f"{name} {count}" for (_, count), name in _RESNETS.items())
        raise CheckpointError(
            f"{path}: backbone.layer3: expected the blocks of a ResNet ({known}), got {blocks} "
            f"{'with' if bottleneck else 'without'} bottlenecks. No other backbone can be imported."
        )
    return _RESNETS[bottleneck, blocks]


def _gate(
    path: Path,
    state: Mapping[str, Tensor],
    layout: Layout,
    experts: list[Expert],
    input_size: Size | None,
) -> Gate:
    classwise = any(key.startswith(f"{layout.gate}gates.") for key in state)
    layers = {
        key: value.shape[1]
        for key, value in state.items()
        if key.startswith(layout.gate) and key.endswith("fc1.weight") and value.dim() == 2
    }
    key, cells = next(iter(layers.items()), ("", 1))
    grid: Size | int = max(1, cells)
    if input_size is not None:
        stride = experts[0].stride
        grid = -(-input_size[0] // stride), -(-input_size[1] // stride)
        if key and math.prod(grid) != cells:
            raise UsageError(
                f"{path}: {key}: expected an input size of {cells} cells, got "
                f"{input_size[0]}x{input_size[1]}, which at stride {stride} has "
                f"{grid[0]}x{grid[1]} = {math.prod(grid)}. Give the height and width that the gate "
                "was trained at."
            )
    return Gate(
        [expert.gate_channels for expert in experts],
        experts[0].num_classes if classwise else 1,
        grid=grid,
    )
