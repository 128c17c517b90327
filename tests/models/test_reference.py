"""Logits of the original's fourteen networks, from weights drawn by rule under its own keys."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moeseg.models import Expert, Segmenter, build_ensemble, build_expert, build_mixture
from moeseg.types import ExpertOutput

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "original_models"
NAMES = [
    f"{architecture}_{kind}"
    for architecture in ("deeplabv3plus_resnet101", "frrnA")
    for kind in (
        "expert",
        "moe_simple",
        "moe_simple_conv",
        "moe_classwise",
        "moe_classwise_conv",
        "ensemble_mean",
        "ensemble_max",
    )
]

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the original's reference outputs are not on this machine"
)


@cache
def _index() -> dict[str, Any]:
    index: dict[str, Any] = json.loads((FOLDER / "index.json").read_text())
    return index


@cache
def _draw(key: str, shape: tuple[int, ...]) -> Tensor:
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if leaf == "running_var":
        values = generator.uniform(0.5, 1.5, shape)
    elif leaf in ("running_mean", "bias"):
        values = 0.1 * generator.standard_normal(shape)
    elif len(shape) == 1:
        values = generator.uniform(0.4, 0.8, shape)
    else:
        values = generator.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def _images(name: str) -> Tensor:
    values = np.random.default_rng(7).uniform(0, 1, _index()[name]["input"])
    return torch.from_numpy(values.astype(np.float32))


@cache
def _expert(architecture: str, prefix: str) -> tuple[Expert, frozenset[str]]:
    """An expert filled under `prefix` of the original's keys, and those keys."""
    first = next(name for name in NAMES if name.startswith(architecture))
    entry = _index()[first]
    common = {"num_classes": entry["num_classes"], "normalisation": "none"}
    with torch.device("meta"):  # no weights are drawn only to be replaced
        if architecture == "frrnA":
            expert = build_expert({"name": "frrn-a-original", **common})
        else:
            settings = {key: entry[key] for key in ("backbone", "output_stride")}
            expert = build_expert({"name": "deeplabv3plus", **settings, **common})
    shapes = {key: tuple(value.shape) for key, value in expert.state_dict().items()}
    state = {key: _draw(prefix + key, shape) for key, shape in shapes.items()}
    expert.load_state_dict(state, assign=True)
    return expert.eval(), frozenset(prefix + key for key in shapes)


@cache
def _output(architecture: str, prefix: str) -> ExpertOutput:
    first = next(name for name in NAMES if name.startswith(architecture))
    with torch.no_grad():
        return _expert(architecture, prefix)[0].output(_images(first))


def _fill_gate(
    gate: nn.Module, keys: Mapping[str, tuple[int, ...]], prefixes: list[str]
) -> set[str]:
    state = {}
    for leaf in gate.state_dict():
        parts = [_draw(prefix + leaf, keys[prefix + leaf]) for prefix in prefixes]
        state[leaf] = torch.cat(parts) if leaf.startswith("conv1") else torch.stack(parts)
    gate.load_state_dict(state)
    return {prefix + leaf for prefix in prefixes for leaf in state}


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_originals(name: str) -> None:
    entry = _index()[name]
    architecture = name.split("_")[0] if name.startswith("frrnA") else "deeplabv3plus_resnet101"
    keys = {
        key: tuple(shape)
        for key, shape in json.loads((FOLDER / f"{name}.keys.json").read_text()).items()
    }
    prefixes = [""] if entry["kind"] == "expert" else ["expert1.", "expert2."]
    experts = [_expert(architecture, prefix)[0] for prefix in prefixes]
    used = set().union(*(_expert(architecture, prefix)[1] for prefix in prefixes))
    model: Segmenter
    if entry["kind"] == "expert":
        model = experts[0]
    elif entry["kind"] == "ensemble":
        model = build_ensemble(experts, entry["rule"])
    else:
        height, width = entry["input"][-2:]
        mixture = build_mixture(experts, entry["gate"], entry["conv"], size=(height, width)).eval()
        gate, head = ("gating", "conv3x3") if architecture == "frrnA" else ("gate", "final_conv")
        columns = range(entry["num_classes"])
        simple = entry["gate"] == "simple"
        places = [f"{gate}."] if simple else [f"{gate}.gates.{column}." for column in columns]
        used |= _fill_gate(mixture.gate, keys, places)
        if mixture.head is not None:
            key = f"{head}.weight"
            mixture.head.load_state_dict({"weight": _draw(key, keys[key])})
            used.add(key)
        model = mixture

    outputs = [_output(architecture, prefix) for prefix in prefixes]
    with torch.no_grad():
        logits = model.combine(outputs, tuple(entry["input"][-2:])).logits.numpy()
    with np.load(FOLDER / f"{name}.npz") as file:
        expected = file[file.files[0]]
    assert logits.shape == expected.shape
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    # no key of the original is left over but its third, unused network
    assert {key for key in keys if key not in used and not key.startswith("expert.")} == set()
