"""Tests by inheritance: a new expert or gate gets its checks from a few lines.

A test class names what is to be tested in its fixture and inherits every check. Each contract says
in its docstring which fixture that is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from moeseg.errors import UsageError
from moeseg.models import Expert, Gate, build_expert, load, resize, save
from moeseg.types import Features, Size


class ExpertContract:
    """What every expert keeps. Override the fixture `expert`: a small one from `build_expert`."""

    sizes: Sequence[Size] = ((33, 47), (64, 96), (1, 70))

    @pytest.fixture
    def expert(self) -> Expert:
        raise NotImplementedError

    def test_logits_have_the_size_of_odd_images(self, expert: Expert) -> None:
        expert.eval()
        for height, width in self.sizes:
            with torch.no_grad():
                prediction = expert(_images(1, (height, width)), expert_logits=True)
            assert prediction.logits.shape == (1, expert.num_classes, height, width)
            assert prediction.logits.isfinite().all()
            assert prediction.weights is None
            assert torch.equal(prediction.expert_logits[:, 0], prediction.logits)

    def test_gate_map_has_declared_channels_and_stride(self, expert: Expert) -> None:
        expert.eval()
        for height, width in self.sizes:
            with torch.no_grad():
                features = expert.features(_images(1, (height, width)))
            grid = (-(-height // expert.stride), -(-width // expert.stride))
            assert features.gate.shape == (1, expert.gate_channels, *grid)
            assert features.size == (height, width)

    def test_forward_is_the_resized_output(self, expert: Expert) -> None:
        expert.eval()
        images = _images(2, (33, 47))
        with torch.no_grad():
            output, logits = expert.output(images), expert(images).logits
            decoded = expert.decode(expert.features(images))
            combined = expert.combine([output], (33, 47)).logits
        assert torch.equal(output.logits, decoded)
        assert torch.equal(logits, resize(output.logits, (33, 47)))
        assert torch.equal(logits, combined)
        assert expert.experts == (expert,)

    def test_encoder_runs_once_an_image(
        self, expert: Expert, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[int] = []
        plain = expert.features

        def counted(images: Tensor) -> Features:
            calls.append(len(images))
            return plain(images)

        monkeypatch.setattr(expert, "features", counted)
        with torch.no_grad():
            expert.eval()(_images(2, (33, 47)), expert_logits=True)
        assert calls == [2]

    def test_gradient_reaches_every_parameter(self, expert: Expert) -> None:
        expert.train()
        logits = expert(_images(3, (48, 64))).logits
        (logits * torch.randn(logits.shape)).sum().backward()
        untouched = [
            name
            for name, parameter in expert.named_parameters()
            if parameter.grad is None or not parameter.grad.any()
        ]
        assert untouched == []

    def test_trains_on_a_single_image(self, expert: Expert) -> None:
        expert.train()
        logits = expert(_images(1, (48, 64))).logits
        logits.square().mean().backward()
        assert logits.isfinite().all()

    def test_eval_is_deterministic_and_independent_of_the_batch(self, expert: Expert) -> None:
        _move_statistics(expert)
        expert.eval()
        images = _images(3, (33, 47))
        with torch.no_grad():
            together, again = expert(images).logits, expert(images).logits
            alone = torch.cat([expert(one[None]).logits for one in images])
        assert torch.equal(together, again)
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)

    def test_logits_follow_the_image(self, expert: Expert) -> None:
        """A change in one corner shows most there: the logits cover the image, unmirrored."""
        expert.eval()
        images = _images(1, (128, 128))
        for row, column in ((slice(0, 32), slice(96, 128)), (slice(96, 128), slice(0, 32))):
            changed = images.clone()
            changed[..., row, column] = 1 - changed[..., row, column]
            with torch.no_grad():
                change = (expert(changed).logits - expert(images).logits).abs().sum(dim=1)[0]
            corners = {
                (r, c): change[32 * r : 32 * r + 32, 32 * c : 32 * c + 32].mean().item()
                for r in (0, 3)
                for c in (0, 3)
            }
            assert max(corners, key=lambda at: corners[at]) == (row.start // 32, column.start // 32)

    def test_saved_and_loaded_is_equal(self, expert: Expert, tmp_path: Path) -> None:
        _move_statistics(expert)
        save(expert, tmp_path / "model")
        loaded = load(tmp_path / "model")
        assert not loaded.training
        images = _images(1, (33, 47))
        with torch.no_grad():
            assert torch.equal(loaded(images).logits, expert.eval()(images).logits)

    def test_description_rebuilds_it(self, expert: Expert) -> None:
        again = build_expert(json.loads(json.dumps(expert.description)))
        assert again.description == expert.description
        assert {k: v.shape for k, v in again.state_dict().items()} == {
            k: v.shape for k, v in expert.state_dict().items()
        }

    def test_decode_uses_what_features_gave(self, expert: Expert) -> None:
        expert.eval()
        with torch.no_grad():
            features = expert.features(_images(1, (33, 47)))
            plain = expert.decode(features)
            changed = expert.decode(replace(features, gate=features.gate + 1))
        assert not torch.equal(plain, changed)


class GateContract:
    """What every gate keeps. Override the fixture `gate` and, for other grids, `grids`."""

    grids: Sequence[Size] = ((4, 6),)

    @pytest.fixture
    def gate(self) -> Gate:
        raise NotImplementedError

    def maps(self, gate: Gate, batch: int = 3) -> list[Tensor]:
        """One random map for each expert on the first of `grids`."""
        generator = torch.Generator().manual_seed(3)
        shapes = [(batch, channels, *self.grids[0]) for channels in gate.channels]
        return [torch.randn(shape, generator=generator) for shape in shapes]

    def test_weights_are_a_distribution_over_experts(self, gate: Gate) -> None:
        for grid in self.grids:
            maps = [torch.randn(5, channels, *grid) * 10 for channels in gate.channels]
            weights = gate(maps)
            assert weights.shape == (5, len(gate.channels), gate.columns)
            assert (weights >= 0).all()
            torch.testing.assert_close(weights.sum(dim=1), torch.ones(5, gate.columns))

    def test_weights_depend_on_the_image_not_on_the_batch(self, gate: Gate) -> None:
        maps = self.maps(gate)
        weights = gate(maps)
        alone = torch.cat([gate([one[n : n + 1] for one in maps]) for n in range(3)])
        torch.testing.assert_close(weights, alone)
        assert not torch.allclose(weights[0], weights[1])

    def test_permuting_experts_permutes_weights(self, gate: Gate) -> None:
        maps = self.maps(gate)
        order = list(range(len(maps)))[::-1]
        parts = torch.split(gate.conv1.weight, list(gate.channels), dim=1)
        turned = Gate(
            [gate.channels[n] for n in order],
            gate.columns,
            shared=gate.shared,
            pool=gate.pool,
            grid=gate.grid,
            hidden=gate.hidden,
        )

        def in_order(last: Tensor) -> Tensor:  # its units go by column, then by expert
            by_expert = last.reshape(len(last), -1, len(order), *last.shape[2:])
            return by_expert[:, :, order].reshape(last.shape)

        turned.load_state_dict(
            gate.state_dict()
            | {
                "conv1.weight": torch.cat([parts[n] for n in order], dim=1),
                "fc2.weight": in_order(gate.fc2.weight),
                "fc2.bias": in_order(gate.fc2.bias),
            }
        )
        torch.testing.assert_close(
            turned([maps[n] for n in order]), gate(maps)[:, order], rtol=0, atol=1e-6
        )

    def test_gradient_reaches_every_parameter(self, gate: Gate) -> None:
        weights = gate(self.maps(gate, batch=8))
        (weights * torch.randn(weights.shape)).sum().backward()
        assert [n for n, p in gate.named_parameters() if p.grad is None or not p.grad.any()] == []

    def test_same_generator_same_weights(self, gate: Gate) -> None:
        state = torch.get_rng_state()
        drawn = []
        for _ in range(2):
            gate.reset_parameters(torch.Generator().manual_seed(5))
            drawn.append([parameter.clone() for parameter in gate.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
        assert torch.equal(torch.get_rng_state(), state)

    def test_fixed_gate_refuses_other_grids(self, gate: Gate) -> None:
        if gate.pool is not None:
            pytest.skip("this gate takes every size")
        maps = [torch.randn(1, channels, 9, 13) for channels in gate.channels]
        with pytest.raises(UsageError, match=r"got 9x13.*pool: \[h, w\]"):
            gate(maps)


def _images(batch: int, size: Size) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, 3, *size, generator=generator)


def _move_statistics(expert: Expert) -> None:
    """Give BatchNorm statistics that are not the ones it starts with."""
    for module in expert.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
