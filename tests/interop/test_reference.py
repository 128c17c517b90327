"""The original's fourteen networks, opened from a file: its logits, and back to its keys."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeseg.interop.original import export, load
from slow_original import draw, draw_images, slow_logits

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


_drawn = cache(draw)


def _state(name: str) -> dict[str, Tensor]:
    keys = json.loads((FOLDER / f"{name}.keys.json").read_text())
    return {key: _drawn(key, tuple(shape)) for key, shape in keys.items()}


def _expected(name: str) -> NDArray[np.float32]:
    with np.load(FOLDER / f"{name}.npz") as file:
        logits: NDArray[np.float32] = file[file.files[0]]
    return logits


@pytest.fixture(autouse=True)
def _no_initial_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the time of the tests would go into drawing weights that are overwritten."""
    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", lambda tensor, **_: tensor)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_gives_the_originals_logits_and_goes_back(name: str, tmp_path: Path) -> None:
    entry, state, file = _index()[name], _state(name), tmp_path / f"{name}.pth"
    torch.save({"state_dict": state, "epoch": 7, "best_pred": np.float64(0.4)}, file)
    try:
        height, width = entry["input"][-2:]
        model = load(file, input_size=(height, width), rule=entry.get("rule", "mean"))
    finally:
        file.unlink()  # hundreds of MB
    with torch.inference_mode():
        logits = model(draw_images(tuple(entry["input"]))).logits.numpy()
    expected = _expected(name)
    assert logits.shape == expected.shape
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()

    back = export(model)
    assert {key: value.shape for key, value in back.items()} == {
        key: value.shape for key, value in state.items()
    }
    held = [key for key in state if not key.startswith("expert.")]
    assert all(torch.equal(back[key], state[key]) for key in held)
    assert all(back[key].dtype == state[key].dtype for key in held)


@pytest.mark.parametrize(
    "name", ["deeplabv3plus_resnet101_moe_classwise_conv", "frrnA_moe_simple", "frrnA_ensemble_max"]
)
def test_the_oracle_of_other_sizes_gives_them_too(name: str) -> None:
    entry = _index()[name]
    images = draw_images(tuple(entry["input"]))
    logits = slow_logits(_state(name), images, entry.get("rule", "mean")).numpy()
    expected = _expected(name)
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
