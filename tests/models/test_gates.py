from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contracts import GateContract
from moeseg.errors import UsageError
from moeseg.models import ConstantGate, Gate


class TestSimpleGate(GateContract):
    @pytest.fixture
    def gate(self) -> Gate:
        torch.manual_seed(0)
        return Gate([4, 4], 1, grid=(4, 6), hidden=16)


class TestClasswiseGate(GateContract):
    @pytest.fixture
    def gate(self) -> Gate:
        torch.manual_seed(0)
        return Gate([4, 3, 2], 5, grid=(4, 6), hidden=16)


class TestPooledGate(GateContract):
    grids = ((4, 6), (9, 13), (2, 3), (1, 1))

    @pytest.fixture
    def gate(self) -> Gate:
        torch.manual_seed(0)
        return Gate([4, 3], 5, pool=(3, 4), hidden=16)


class TestGateOfCells(GateContract):
    """A gate that knows only h * w, as in a foreign checkpoint."""

    grids = ((4, 6), (6, 4))

    @pytest.fixture
    def gate(self) -> Gate:
        torch.manual_seed(0)
        return Gate([4, 4], 1, grid=24, hidden=16)


class Separate(nn.Module):
    """One gate of the papers in plain modules: the slow oracle."""

    def __init__(self, channels: int, cells: int, hidden: int, experts: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 1, 3, padding=1)
        self.fc1 = nn.Linear(cells, hidden)
        self.fc2 = nn.Linear(hidden, experts)

    def forward(self, maps: list[Tensor], pool: tuple[int, int] | None) -> Tensor:
        x = F.relu(self.conv1(torch.cat(maps, dim=1)))
        if pool is not None:
            x = F.adaptive_avg_pool2d(x, pool)
        return F.softmax(self.fc2(F.relu(self.fc1(x.flatten(1)))), dim=1)


@pytest.mark.parametrize("pool", [None, (2, 3)])
@pytest.mark.parametrize("columns", [1, 7])
def test_fused_gate_equals_a_loop_of_independent_gates(
    columns: int, pool: tuple[int, int] | None
) -> None:
    torch.manual_seed(0)
    cells = 24 if pool is None else 6
    loop = [Separate(9, cells, 16, 3) for _ in range(columns)]
    fused = Gate([4, 3, 2], columns, pool=pool, grid=(4, 6), hidden=16)
    states = [one.state_dict() for one in loop]
    fused.load_state_dict(
        {
            key: (torch.cat if key.startswith("conv1") else torch.stack)([s[key] for s in states])
            for key in states[0]
        }
    )
    maps = [torch.randn(5, channels, 4, 6) for channels in (4, 3, 2)]
    slow = torch.stack([one(maps, pool) for one in loop], dim=2)  # K x (B, E) -> (B, E, K)
    fast = fused(maps)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)

    target = torch.randn(fast.shape)
    torch.autograd.backward([(fast * target).sum(), (slow * target).sum()])
    for number, one in enumerate(loop):
        assert fused.fc1.weight.grad is not None
        torch.testing.assert_close(
            fused.fc1.weight.grad[number], one.fc1.weight.grad, rtol=1e-4, atol=1e-6
        )
        assert one.conv1.weight.grad is not None
        assert fused.conv1.weight.grad is not None
        torch.testing.assert_close(
            fused.conv1.weight.grad[number], one.conv1.weight.grad[0], rtol=1e-4, atol=1e-6
        )


def test_gate_by_hand() -> None:
    gate = Gate([1, 1], 1, grid=(1, 2), hidden=1)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.zero_()
        gate.conv1.weight[0, :, 1, 1] = torch.tensor([1.0, -2.0])  # the maps' own cell
        gate.fc1.weight[0, 0] = torch.tensor([1.0, 10.0])
        gate.fc2.weight[0, :, 0] = torch.tensor([0.1, 0.0])
    first, second = torch.tensor([[[[3.0, 5.0]]]]), torch.tensor([[[[1.0, 4.0]]]])
    # cells: relu(3 - 2) = 1, relu(5 - 8) = 0; fc1: 1; fc2: (0.1, 0)
    expected = math.exp(0.1) / (math.exp(0.1) + 1)
    assert gate([first, second]).flatten().tolist() == pytest.approx([expected, 1 - expected])


def test_other_strides_are_resized_to_the_coarsest() -> None:
    torch.manual_seed(0)
    gate = Gate([2, 3], 4, grid=(2, 3), hidden=8)
    coarse, fine = torch.randn(1, 2, 2, 3), torch.randn(1, 3, 4, 6)
    # bilinear at exactly half the size is the mean of 2x2 cells
    halved = fine.reshape(1, 3, 2, 2, 3, 2).mean(dim=(3, 5))
    torch.testing.assert_close(gate([coarse, fine]), gate([coarse, halved]))


def test_first_weights_are_distributed_as_torchs_own() -> None:
    gate = Gate([64, 64], 38, grid=(8, 8), generator=torch.Generator().manual_seed(0))
    for layer, like in (
        (gate.conv1, nn.Conv2d(128, 38, 3, padding=1)),
        (gate.fc1, nn.Linear(64, 128 * 38)),
        (gate.fc2, nn.Linear(128, 2 * 38)),
    ):
        for own, other in zip(layer.parameters(), like.parameters(), strict=True):
            assert own.numel() == other.numel()
            bound = other.abs().max().item()
            assert own.abs().max().item() == pytest.approx(bound, rel=0.1)
            assert own.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)


def test_gate_without_size_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"pool: \[h, w\]"):
        Gate([4, 4], 1)


def test_error_of_a_fixed_gate_names_both_grids() -> None:
    gate = Gate([1, 1], 1, grid=(6, 10))
    with pytest.raises(UsageError, match="expected a feature map of 6x10, got 8x12"):
        gate([torch.zeros(1, 1, 8, 12)] * 2)
    cells = Gate([1, 1], 1, grid=60)
    with pytest.raises(UsageError, match="expected a feature map of 60 cells, got 8x12"):
        cells([torch.zeros(1, 1, 8, 12)] * 2)
    # the same number of cells in another shape is another grid
    with pytest.raises(UsageError, match="expected a feature map of 6x10, got 10x6"):
        gate([torch.zeros(1, 1, 10, 6)] * 2)


class TestSharedTrunkGate(GateContract):
    @pytest.fixture
    def gate(self) -> Gate:
        torch.manual_seed(0)
        return Gate([4, 3], 5, shared=True, grid=(4, 6), hidden=16)


def test_a_shared_trunk_is_one_convolution_and_one_hidden_layer_for_all_columns() -> None:
    torch.manual_seed(0)
    gate = Gate([4, 3], 5, shared=True, grid=(4, 6), hidden=16)
    assert gate.conv1.weight.shape == (1, 7, 3, 3)
    assert gate.fc1.weight.shape == (1, 16, 24)
    maps = [torch.rand(2, 4, 4, 6), torch.rand(2, 3, 4, 6)]
    hidden = F.relu(gate.conv1(torch.cat(maps, 1))).flatten(1)
    hidden = F.relu(F.linear(hidden, gate.fc1.weight[0], gate.fc1.bias[0]))
    last = F.linear(hidden, gate.fc2.weight[0], gate.fc2.bias[0])  # (B, K * E), column by column
    for column in range(5):
        expected = last[:, 2 * column : 2 * column + 2].softmax(1)
        assert torch.allclose(gate(maps)[:, :, column], expected, atol=1e-6)


def test_a_constant_gate_gives_the_same_weights_for_every_image_and_learns() -> None:
    wanted = torch.tensor([[0.2, 1.0], [0.8, 0.0]])
    gate = ConstantGate([4, 3], 2, weights=wanted)
    maps = [torch.rand(3, 4, 4, 6), torch.rand(3, 3, 9, 2)]
    weights = gate(maps)
    assert weights.shape == (3, 2, 2)
    assert torch.allclose(weights, wanted.expand(3, 2, 2), atol=1e-6)
    equal = ConstantGate([4, 3], 5)
    assert torch.allclose(equal(maps), torch.full((3, 2, 5), 0.5))
    equal(maps)[:, 0].sum().backward()
    assert equal.logits.grad is not None
    assert (equal.logits.grad[0] > 0).all()


WANTED = torch.tensor([0.85, 0.15])


def test_a_constant_gate_reaches_its_optimum_in_the_steps_of_a_short_training() -> None:
    gate = ConstantGate([4, 3], 1)
    optimizer = torch.optim.Adam(gate.parameters(), lr=1e-3)
    maps = [torch.rand(1, 4, 2, 2), torch.rand(1, 3, 2, 2)]
    for _ in range(240):  # the demo's
        optimizer.zero_grad()
        (-(WANTED * gate(maps)[0, :, 0].log()).sum()).backward()
        optimizer.step()
    assert torch.allclose(gate(maps)[0, :, 0], WANTED, atol=0.02)
