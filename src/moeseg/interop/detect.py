"""Which network a state dict of the original belongs to, told from its keys and shapes.

Only what they tell: output stride, input size and an ensemble's rule come from the user.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
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
from moeseg.types import IGNORE, Size

# (has bottlenecks, blocks of layer1 to layer4), as torchvision builds them; shallower ones first
_RESNETS = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
}

UNKNOWN_CLASSES = 1
"""Stands for a number of classes that nothing in a file tells; no network has but one."""


def build(
    path: Path,
    state: Mapping[str, Tensor],
    *,
    input_size: Size | None,
    output_stride: OutputStride,
    rule: Rule,
) -> Model:
    """Build the model that a state dict belongs to, with new weights.

    A part is taken to be there if any of its keys is; whether all are, is not looked at. What an
    absent key would tell is taken from others, or is the least that fits: the caller compares the
    model's keys with the file's and can name all that are missing.

    Args:
        path: of the file, for messages.
        state: tensors by the original's keys.
        input_size: (H, W) that a gate is fixed to; None takes any map of its number of cells.
        output_stride: of a DeepLabv3+.
        rule: of an ensemble.

    Raises:
        CheckpointError: no network of the original, experts of different class counts, or more
            classes than labels can have.
        UsageError: an option that contradicts the file.
    """
    name = _name(path, state)
    layout = LAYOUTS[name]
    joined = any(key.startswith((*EXPERTS, layout.gate)) for key in state)
    prefixes = EXPERTS if joined else ("",)
    architecture: dict[str, Any] = {
        "name": name,
        "num_classes": _num_classes(path, state, layout, prefixes),
        "normalisation": "none",
    }
    if name == "deeplabv3plus":
        architecture["backbone"] = _resnet(path, state)
        architecture["output_stride"] = output_stride
    elif output_stride != 16:
        raise UsageError(f"{path}: output stride: expected 16, as {name} has, got {output_stride}.")
    elif input_size is not None and any(side % 16 for side in input_size):
        raise UsageError(
            f"{path}: input size: expected multiples of 16, as the original's {name} "
            f"needs, got {input_size[0]}x{input_size[1]}. Give the height and width of its "
            "training."
        )
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


def _num_classes(
    path: Path, state: Mapping[str, Tensor], layout: Layout, prefixes: Sequence[str]
) -> int:
    found: dict[str, tuple[str, int]] = {}
    for layer in (prefix + layout.classes for prefix in prefixes):
        for key in (f"{layer}weight", f"{layer}bias"):
            if key in state and state[key].dim() and len(state[key]):
                found.setdefault(layer, (key, len(state[key])))
    if len({count for _, count in found.values()}) > 1:
        got = " and ".join(f"{key} with {count}" for key, count in found.values())
        raise CheckpointError(
            f"{path}: expected experts of one number of classes, got {got}. The checkpoint was put "
            "together from experts of different label sets."
        )
    key, count = next(iter(found.values()), _classes_of_gate(state, layout))
    if count > IGNORE:
        raise CheckpointError(
            f"{path}: {key}: expected at most {IGNORE} classes, as labels hold, got {count}. The "
            "file is damaged, or of another project."
        )
    return count


def _classes_of_gate(state: Mapping[str, Tensor], layout: Layout) -> tuple[str, int]:
    """Return a key that tells the number of classes where the experts' last layers are absent."""
    for key, value in state.items():
        if key.startswith(layout.head) and value.dim() and len(value):
            return key, len(value)
    gates = _highest(state, re.escape(layout.gate) + r"gates\.(\d+)\.")
    return (f"{layout.gate}gates", gates) if gates else ("", UNKNOWN_CLASSES)


def _resnet(path: Path, state: Mapping[str, Tensor]) -> str:
    """Return the shallowest ResNet that has all blocks of a file."""
    blocks = tuple(_highest(state, rf"backbone\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    bottleneck = any(re.search(r"backbone\.layer\d\.\d+\.conv3\.", key) for key in state) or any(
        key.endswith("classifier.project.0.weight") and value.dim() > 1 and value.shape[1] > 64
        for key, value in state.items()
    )
    for name, (has_bottlenecks, most) in _RESNETS.items():
        if bottleneck == has_bottlenecks and all(map(operator.le, blocks, most)):
            return name
    known = ", ".join(f"{name} {_dashed(most)}" for name, (_, most) in _RESNETS.items())
    raise CheckpointError(
        f"{path}: backbone: expected the blocks of a ResNet ({known}), got {_dashed(blocks)} "
        f"{'with' if bottleneck else 'without'} bottlenecks. No other backbone can be imported."
    )


def _dashed(numbers: Sequence[int]) -> str:
    return "-".join(map(str, numbers))


def _highest(state: Mapping[str, Tensor], pattern: str) -> int:
    """Return how many parts there are, numbered from 0, by the highest number in a key."""
    found = (re.search(pattern, key) for key in state)
    return max((int(match[1]) + 1 for match in found if match), default=0)


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
