from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contracts import ExpertContract
from moeseg.models import Expert, build_expert


def _small(name: str, **more: object) -> Expert:
    torch.manual_seed(0)
    return build_expert({"name": name, "channels": 6, "num_classes": 4, **more})


class TestFrrnA(ExpertContract):
    @pytest.fixture
    def expert(self) -> Expert:
        return _small("frrn-a")


class TestFrrnB(ExpertContract):
    @pytest.fixture
    def expert(self) -> Expert:
        return _small("frrn-b")


class TestFrrnAOriginal(ExpertContract):
    @pytest.fixture
    def expert(self) -> Expert:
        return _small("frrn-a-original")


A = (
    [(3, 2), (4, 4), (2, 8), (2, 16)],
    [(2, 8), (2, 4), (2, 2)],
)
B = (
    [(3, 2), (4, 4), (2, 8), (2, 16), (2, 32)],
    [(2, 16), (2, 8), (2, 4), (2, 2)],
)


@pytest.mark.parametrize(("name", "layers"), [("frrn-a", A), ("frrn-b", B)])
def test_published_networks_against_plain_functions(
    name: str, layers: tuple[list[tuple[int, int]], list[tuple[int, int]]]
) -> None:
    """The paper's network written once more, from the state dict, by reshaping and repeating."""
    expert = _small(name, normalisation="none")
    for module in expert.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    expert.eval()
    state = expert.state_dict()

    def conv(x: Tensor, key: str) -> Tensor:
        weight = state[f"{key}.weight"]
        return F.conv2d(x, weight, state.get(f"{key}.bias"), padding=weight.shape[-1] // 2)

    def norm(x: Tensor, key: str) -> Tensor:
        mean, var, scale, shift = (
            state[f"{key}.{leaf}"].view(1, -1, 1, 1)
            for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        normal: Tensor = (x - mean) / (var + 1e-5).sqrt() * scale + shift
        return normal

    def pool(x: Tensor, factor: int) -> Tensor:
        b, c, h, w = x.shape
        return x.reshape(b, c, h // factor, factor, w // factor, factor).amax(dim=(3, 5))

    def residual(x: Tensor, key: str) -> Tensor:
        inner = F.relu(norm(conv(x, f"{key}.conv1"), f"{key}.bn1"))
        return x + norm(conv(inner, f"{key}.conv2"), f"{key}.bn2")

    def unit(y: Tensor, z: Tensor, key: str, factor: int) -> tuple[Tensor, Tensor]:
        y = torch.cat([y, pool(z, factor)], dim=1)
        for number in (1, 2):
            y = norm(conv(y, f"{key}.conv{number}"), f"{key}.bn{number}").clamp(min=0)
        spread = conv(y, f"{key}.convz")
        for dim in (2, 3):
            spread = spread.repeat_interleave(factor, dim=dim)
        return y, z + spread

    def run(y: Tensor, z: Tensor, key: str, units: int, factor: int) -> tuple[Tensor, Tensor]:
        for number in range(units):
            inner = "frr1" if number == 0 else f"nexts.{number - 1}"
            y, z = unit(y, z, f"{key}.{inner}", factor)
        return y, z

    def double(y: Tensor) -> Tensor:
        return F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)

    images = torch.rand(1, 3, 64, 96)
    encoder, decoder = layers
    with torch.no_grad():
        x = norm(conv(images, "first.conv"), "first.bn").clamp(min=0)
        for n in range(3):
            x = residual(x, f"reslayers_in.{n}")
        y, z = x, conv(x, "divide")
        for n, (units, factor) in enumerate(encoder, start=1):
            y, z = run(pool(y, 2), z, f"frrnlayer{n}", units, factor)
        gate = y
        for n, (units, factor) in enumerate(decoder, start=1):
            y, z = run(double(y), z, f"defrrnlayer{n}", units, factor)
        x = conv(torch.cat([double(y), z], dim=1), "compress")
        for n in range(3):
            x = residual(x, f"reslayers_out.{n}")
        logits = conv(x, "out_conv")
        output = expert.output(images)
    torch.testing.assert_close(output.gate, gate, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.logits, logits, rtol=1e-4, atol=1e-5)


def test_size_as_published() -> None:
    """Pohlen et al. 2017, table 1: FRRN A has 17.7e6 parameters at 19 classes."""
    expert = build_expert({"name": "frrn-a", "num_classes": 19})
    assert round(sum(p.numel() for p in expert.parameters()) / 1e5) == 177
    assert (expert.gate_channels, expert.stride) == (384, 16)
    assert build_expert({"name": "frrn-b", "num_classes": 19}).stride == 32


@pytest.mark.parametrize("name", ["frrn-a", "frrn-b", "frrn-a-original"])
def test_odd_sizes_are_padded_right_and_bottom_by_replication(name: str) -> None:
    expert = _small(name).eval()
    images = torch.rand(1, 3, 50, 61)
    rows = torch.arange(64).clamp(max=49)
    columns = torch.arange(64).clamp(max=60)
    padded = images[:, :, rows][..., columns]
    with torch.no_grad():
        whole = expert(padded).logits
        assert torch.equal(expert(images).logits, whole[..., :50, :61])
