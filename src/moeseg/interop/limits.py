"""What the original cannot hold of a model of moeseg."""

from __future__ import annotations

from torch import nn

from moeseg.interop.keys import LAYOUTS
from moeseg.models import Ensemble, Expert, Gate, Model, MonteCarloDropout

_GATE_HIDDEN = 128
_CHANNELS = {
    "deeplabv3plus": {"channels": 256, "low_level_channels": 48},
    "frrn-a-original": {"channels": 48},
}
_HEAD = {
    "kernel_size": (3, 3),
    "stride": (1, 1),
    "padding": (1, 1),
    "padding_mode": "zeros",
    "dilation": (1, 1),
    "groups": 1,
}


def beyond_original(model: Model) -> list[str]:
    """Name everything in a model that the original cannot hold; empty if it holds the model."""
    if isinstance(model, Expert):
        return _of_expert(model)
    if isinstance(model, MonteCarloDropout):
        return ["MC dropout (it samples in its scripts; export the network itself)"]
    reasons = [
        f"expert {number}: {reason}"
        for number, expert in enumerate(model.experts, start=1)
        for reason in _of_expert(expert)
    ]
    if len(model.experts) != 2:
        reasons.append(f"{len(model.experts)} experts (it joins two)")
    if any(one.description != model.experts[0].description for one in model.experts):
        names = ", ".join(short_name(expert) for expert in model.experts)
        reasons.append(f"mixed experts (it has one architecture for both): {names}")
    if isinstance(model, Ensemble):
        return reasons + _of_rule(model)
    return reasons + _of_gate(model.gate) + _of_head(model.head)


def short_name(expert: Expert) -> str:
    """Return an expert's architecture, with its backbone if it has one."""
    own = expert.description
    name = str(own.get("name", type(expert).__name__))
    return f"{name} on {own['backbone']}" if "backbone" in own else name


def _of_expert(expert: Expert) -> list[str]:
    own = expert.description
    name = own.get("name", type(expert).__name__)
    reasons = []
    if name not in LAYOUTS:
        reasons.append(f"architecture {name} (it has {' and '.join(LAYOUTS)})")
    if own.get("normalisation", "none") != "none":
        reasons.append(f"normalisation {own['normalisation']} (it has none)")
    if name == "deeplabv3plus" and not own["backbone"].startswith("resnet"):
        reasons.append(f"backbone {own['backbone']} (it has ResNet)")
    return reasons + [
        f"{key} {own[key]} (it has {expected})"
        for key, expected in _CHANNELS.get(name, {}).items()
        if own[key] != expected
    ]


def _of_rule(ensemble: Ensemble) -> list[str]:
    held = ensemble.rule in ("mean", "max")
    return [] if held else [f"rule {ensemble.rule} (it has mean and max)"]


def _of_gate(gate: object) -> list[str]:
    if type(gate) is not Gate:
        return [f"a gate of class {type(gate).__name__} (it has simple and class-wise ones)"]
    reasons = []
    if gate.shared:
        reasons.append("a gate with a shared trunk (it has one network for each class)")
    if gate.pool is not None:
        pool = f"{gate.pool[0]}x{gate.pool[1]}"
        reasons.append(f"a gate pooled to {pool} (its gates are fixed to one size)")
    if gate.hidden != _GATE_HIDDEN:
        reasons.append(f"a gate of {gate.hidden} hidden units (it has {_GATE_HIDDEN})")
    return reasons


def _of_head(head: nn.Conv2d | None) -> list[str]:
    if head is None:
        return []
    reasons = [
        f"a head with {key} {found} (it has {expected})"
        for key, expected in _HEAD.items()
        if (found := getattr(head, key)) != expected
    ]
    return reasons + ([] if head.bias is None else ["a head with a bias (it has none)"])
