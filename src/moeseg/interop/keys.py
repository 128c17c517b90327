"""The original's state-dict keys and ours, and tensors from the one to the other.

Experts keep their keys (`models` took over the original's module names) behind another prefix. A
class-wise gate is C small gates there and one fused module here. `docs/original.md` has the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moeseg.models import Expert, Mixture, Model


@dataclass(frozen=True, slots=True)
class Layout:
    """How the original names the parts of one architecture's mixtures.

    Attributes:
        gate: prefix of the gate.
        head: prefix of the convolution after the weighted sum.
        unused: prefix of a third network that no forward pass uses, with expert 1's keys; or None.
        classes: an expert's last layer, whose outputs are the classes.
        signs: beginnings of an expert's keys by which the architecture is known.
    """

    gate: str
    head: str
    unused: str | None
    classes: str
    signs: tuple[str, ...]


LAYOUTS = {
    "deeplabv3plus": Layout(
        "gate.", "final_conv.", None, "classifier.classifier.3.", ("backbone.", "classifier.")
    ),
    "frrn-a-original": Layout(
        "gating.", "conv3x3.", "expert.", "out_conv.", ("first.", "frrnlayer", "out_conv.")
    ),
}
"""By the architecture's name in moeseg; the only ones that the original has."""

EXPERTS = ("expert1.", "expert2.")
"""Prefixes of the experts of a mixture or ensemble."""


def to_original(model: Model) -> dict[str, Tensor]:
    """Return a model's tensors by the original's keys.

    Args:
        model: of an architecture in `LAYOUTS`, with two experts if it is no expert.

    Returns:
        Detached tensors; the experts' share memory with the model (and the unused network's with
        expert 1's), a gate's do not.
    """
    own = model.state_dict()
    state: dict[str, Tensor] = {}
    for key, theirs in _key_table(model).items():
        state.update(zip(theirs, _split(key, own[key].detach()), strict=True))
    unused = layout_of(model).unused
    if unused is not None and isinstance(model, Mixture):
        first = {key: value for key, value in state.items() if key.startswith(EXPERTS[0])}
        state |= {unused + key.removeprefix(EXPERTS[0]): value for key, value in first.items()}
    return state


def from_original(model: Model, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the original's tensors under the keys of `model.state_dict()`.

    Args:
        model: says which keys there are.
        state: holds every key of `to_original(model)`, but for the unused network's.
    """
    table = _key_table(model)
    return {key: _join(key, [state[one] for one in theirs]) for key, theirs in table.items()}


def layout_of(model: Model) -> Layout:
    """Return the layout of a model's architecture, that of its first expert."""
    return LAYOUTS[model.experts[0].description["name"]]


def _key_table(model: Model) -> dict[str, list[str]]:
    """Our key -> the original's: one, or one for each column of a gate."""
    layout = layout_of(model)
    table = {}
    for key in model.state_dict():
        part, _, rest = key.partition(".")
        if isinstance(model, Expert):
            table[key] = [key]
        elif part == "members":
            number, _, leaf = rest.partition(".")
            table[key] = [EXPERTS[int(number)] + leaf]
        elif part == "head":
            table[key] = [layout.head + rest]
        else:
            table[key] = [prefix + rest for prefix in _columns(model, layout)]
    return table


def _columns(model: Model, layout: Layout) -> list[str]:
    if not isinstance(model, Mixture) or model.gate.columns == 1:
        return [layout.gate]
    return [f"{layout.gate}gates.{column}." for column in range(model.gate.columns)]


def _split(key: str, tensor: Tensor) -> Sequence[Tensor]:
    if not key.startswith("gate."):
        return [tensor]
    # (K, F, 3, 3) -> K x (1, F, 3, 3), (K, out, in) -> K x (out, in)
    parts = torch.split(tensor, 1) if key.startswith("gate.conv1.") else torch.unbind(tensor)
    return [part.clone() for part in parts]


def _join(key: str, parts: list[Tensor]) -> Tensor:
    if not key.startswith("gate."):
        return parts[0]
    return torch.cat(parts) if key.startswith("gate.conv1.") else torch.stack(parts)
