"""Every number of the architectures, and the functions that put models together from them.

An architecture is a mapping such as ``{"name": "deeplabv3plus", "backbone": "resnet18",
"num_classes": 38}``; what it leaves out stands in the tables here. `describe` turns a model into
JSON-ready values, `build_model` makes the same model from them, without its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch

from moeseg.errors import CheckpointError, UsageError, unknown_name
from moeseg.models.backbones import NAMES as BACKBONES
from moeseg.models.backbones import build_backbone
from moeseg.models.deeplab import DeepLabHead, DeepLabV3Plus
from moeseg.models.dropout import MonteCarloDropout
from moeseg.models.expert import Expert, Normalize
from moeseg.models.frrn import FRRN, Layer
from moeseg.models.gates import ConstantGate, Gate
from moeseg.models.mixture import Ensemble, Mixture, Rule, new_head
from moeseg.models.own import own_expert
from moeseg.types import Size

Model = Expert | Ensemble | Mixture | MonteCarloDropout

GateKind = Literal["simple", "classwise", "constant", "constant-classwise", "shared-trunk"]
GATE_KINDS: tuple[GateKind, ...] = get_args(GateKind)

_NORMALISATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
_ASPP_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}  # Chen et al. 2018, by output stride
_ASPP_DROPOUT = 0.1
_GATE_HIDDEN = 128

# (units, multiple of the stem's channels, stride); Pohlen et al. 2017, table 1
_FRRN_A = (
    ((3, 2, 2), (4, 4, 4), (2, 8, 8), (2, 8, 16)),
    ((2, 4, 8), (2, 4, 4), (2, 2, 2)),
)
_FRRN_B = (
    ((3, 2, 2), (4, 4, 4), (2, 8, 8), (2, 8, 16), (2, 8, 32)),
    ((2, 4, 16), (2, 4, 8), (2, 4, 4), (2, 2, 2)),
)
_FRRN = {"frrn-a": (_FRRN_A, False), "frrn-b": (_FRRN_B, False), "frrn-a-original": (_FRRN_A, True)}

# what an architecture may say, with what holds if it does not; num_classes has no default
_DEEPLAB_DEFAULTS: dict[str, Any] = {
    "backbone": "resnet101",
    "output_stride": 16,
    "channels": 256,
    "low_level_channels": 48,
    "normalisation": "imagenet",
    "weights": None,
}
_FRRN_DEFAULTS: dict[str, Any] = {"channels": 48, "normalisation": "imagenet"}


def build_expert(architecture: Mapping[str, Any]) -> Expert:
    """Build an expert with new weights.

    Args:
        architecture: `name` and settings. ``deeplabv3plus`` takes `num_classes`, `backbone`,
            `output_stride` (8, 16), `channels`, `low_level_channels`, `normalisation` (imagenet,
            none) and `weights` (imagenet or None: the backbone's start). ``frrn-a``, ``frrn-b`` and
            ``frrn-a-original`` take `num_classes`, `channels` (48, a multiple of 3) and
            `normalisation`. ``package.module:Class`` is a user's own expert; all other keys are
            arguments of that class.

    Returns:
        The expert, its `description` being the architecture with every default filled in and
        `weights` None, so that building it again downloads nothing.

    Raises:
        UsageError: unknown name, key or value.
        MoesegError: ImageNet weights asked for and not to be had.
    """
    settings = dict(architecture)
    name = str(settings.pop("name", "(none)"))
    if ":" in name:
        expert = own_expert(name, settings)
        expert.description = {"name": name, **settings}
        return expert
    builders: dict[str, tuple[Callable[[str, dict[str, Any]], Expert], dict[str, Any]]] = {
        "deeplabv3plus": (_deeplab, _DEEPLAB_DEFAULTS),
        **dict.fromkeys(_FRRN, (_frrn, _FRRN_DEFAULTS)),
    }
    if name not in builders:
        raise UsageError(
            unknown_name("architecture", name, builders)
            + " A class of your own is named `package.module:Class`."
        )
    builder, defaults = builders[name]
    settings = _complete(name, settings, defaults)
    expert = builder(name, settings)
    start = {"weights": None} if "weights" in settings else {}
    expert.description = {"name": name, **settings, **start}
    return expert


def build_gate(
    kind: GateKind,
    experts: Sequence[Expert],
    size: Size | None = None,
    pool: Size | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Gate | ConstantGate:
    """Build a gate for these experts.

    Args:
        kind: ``simple`` (one weight per expert), ``classwise`` (one per expert and class), or one
            of the controls ``constant``, ``constant-classwise`` and ``shared-trunk``.
        experts: whose features it will see, in this order.
        size: (H, W) of the images; needed without `pool`, the gate is then fixed to it.
        pool: (h, w) to which its map is averaged; the gate then takes every image size.
        generator: source of the initial weights; None is torch's global one.

    Raises:
        UsageError: unknown kind, or neither `size` nor `pool`.
    """
    if kind not in GATE_KINDS:
        raise UsageError(unknown_name("gate", kind, GATE_KINDS))
    channels = [expert.gate_channels for expert in experts]
    columns = 1 if kind in ("simple", "constant") else experts[0].num_classes
    if kind.startswith("constant"):
        return ConstantGate(channels, columns)
    stride = max(expert.stride for expert in experts)
    return Gate(
        channels,
        columns,
        shared=kind == "shared-trunk",
        pool=pool,
        grid=None if size is None else (-(-size[0] // stride), -(-size[1] // stride)),
        hidden=_GATE_HIDDEN,
        generator=generator,
    )


def build_mixture(
    experts: Sequence[Expert],
    kind: GateKind,
    conv: bool = False,
    pool: Size | None = None,
    size: Size | None = None,
    *,
    freeze: bool = True,
    expert_batchnorm: Literal["hold", "adapt"] = "hold",
    generator: torch.Generator | None = None,
) -> Mixture:
    """Build a mixture with a new gate and, if `conv`, a new head; see `build_gate`, `Mixture`."""
    gate = build_gate(kind, experts, size, pool, generator=generator)
    head = new_head(experts[0].num_classes) if conv else None
    return Mixture(experts, gate, head, freeze=freeze, expert_batchnorm=expert_batchnorm)


def build_ensemble(experts: Sequence[Expert], rule: Rule) -> Ensemble:
    """Build an ensemble; see `Ensemble`."""
    return Ensemble(experts, rule)


def describe(model: Model) -> dict[str, Any]:
    """Return JSON-ready values from which `build_model` makes the same model.

    Raises:
        CheckpointError: an expert that was not made by `build_expert`.
    """
    if isinstance(model, Expert):
        if not model.description:
            raise CheckpointError(
                f"expected an expert made by build_expert, got a {type(model).__name__} without "
                "description. Build it by name, your own as `package.module:Class`."
            )
        return {"kind": "expert", "architecture": model.description}
    experts = [describe(expert) for expert in model.experts]
    if isinstance(model, Ensemble):
        return {"kind": "ensemble", "rule": model.rule, "experts": experts}
    if isinstance(model, MonteCarloDropout):
        settings = {"samples": model.samples, "rate": model.rate, "layers": list(model.layers)}
        return {"kind": "mc-dropout", **settings, "seed": model.seed, "experts": experts}
    return {
        "kind": "mixture",
        "gate": _describe_gate(model.gate),
        "head": model.head is not None,
        "experts": experts,
    }


def build_model(description: Mapping[str, Any], experts: Sequence[Expert] | None = None) -> Model:
    """Build what `describe` described, with new weights.

    Args:
        description: from `describe`.
        experts: ready experts of an ensemble or mixture; None builds them from the description.
    """
    kind = description["kind"]
    if kind == "expert":
        return build_expert(description["architecture"])
    if experts is None:
        experts = [build_expert(one["architecture"]) for one in description["experts"]]
    if kind == "ensemble":
        return Ensemble(experts, description["rule"])
    if kind == "mc-dropout":
        settings = {key: description[key] for key in ("samples", "rate", "layers", "seed")}
        return MonteCarloDropout(experts[0], **settings)
    head = new_head(experts[0].num_classes) if description["head"] else None
    return Mixture(experts, _described_gate(description["gate"]), head)


def _describe_gate(gate: Gate | ConstantGate) -> dict[str, Any]:
    inputs = {"channels": list(gate.channels), "columns": gate.columns}
    if isinstance(gate, ConstantGate):
        return inputs | {"constant": True}
    return inputs | {
        "shared": gate.shared,
        "pool": gate.pool and list(gate.pool),
        "grid": list(gate.grid) if isinstance(gate.grid, tuple) else gate.grid,
        "hidden": gate.hidden,
    }


def _described_gate(description: Mapping[str, Any]) -> Gate | ConstantGate:
    settings: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in description.items()
    }
    return ConstantGate(**settings) if settings.pop("constant", False) else Gate(**settings)


def _deeplab(name: str, settings: Mapping[str, Any]) -> Expert:
    _choose(name, settings, "backbone", BACKBONES)
    _choose(name, settings, "output_stride", tuple(_ASPP_RATES))
    _choose(name, settings, "weights", ("imagenet", None))
    _positive(name, settings, "channels", "low_level_channels")
    stride = settings["output_stride"]
    backbone = build_backbone(settings["backbone"], stride=stride, weights=settings["weights"])
    head = DeepLabHead(
        backbone.channels,
        backbone.low_channels,
        settings["num_classes"],
        channels=settings["channels"],
        low_level_channels=settings["low_level_channels"],
        rates=_ASPP_RATES[stride],
        dropout=_ASPP_DROPOUT,
    )
    return DeepLabV3Plus(backbone, _normalize(settings), head)


def _frrn(name: str, settings: Mapping[str, Any]) -> Expert:
    _positive(name, settings, "channels")
    stem: int = settings["channels"]
    if stem % 3:
        raise UsageError(
            f"{name}: expected `channels` a multiple of 3 (the residual stream has two thirds of "
            f"them), got {stem}. 48 is the published number."
        )
    (encoder, decoder), original = _FRRN[name]
    return FRRN(
        settings["num_classes"],
        _normalize(settings),
        stem=stem,
        residual=stem * 2 // 3,
        encoder=[Layer(units, stem * times, factor) for units, times, factor in encoder],
        decoder=[Layer(units, stem * times, factor) for units, times, factor in decoder],
        original=original,
    )


def _complete(
    name: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    known = ("num_classes", *defaults)
    unknown = [unknown_name(f"key of {name}", key, known) for key in settings if key not in known]
    if unknown:
        raise UsageError("\n".join(unknown))
    if "num_classes" not in settings:
        raise UsageError(f"{name}: expected `num_classes`, got none. It is the taxonomy's count.")
    complete = {"num_classes": settings["num_classes"], **defaults, **settings}
    _positive(name, complete, "num_classes")
    _choose(name, complete, "normalisation", tuple(_NORMALISATIONS))
    return complete


def _choose(name: str, settings: Mapping[str, Any], key: str, choices: Sequence[Any]) -> None:
    got = settings[key]
    if not any(got == choice and type(got) is type(choice) for choice in choices):
        raise UsageError(f"{name}: {unknown_name(key, str(got), map(str, choices))}")


def _positive(name: str, settings: Mapping[str, Any], *keys: str) -> None:
    for key in keys:
        got = settings[key]
        if not isinstance(got, int) or isinstance(got, bool) or got < 1:
            raise UsageError(f"{name}: expected `{key}` a whole number > 0, got {got!r}.")


def _normalize(settings: Mapping[str, Any]) -> Normalize:
    return Normalize(*_NORMALISATIONS[settings["normalisation"]])
