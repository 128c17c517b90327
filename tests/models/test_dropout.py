"""MC dropout: samples against masks drawn and applied by hand, and what has no effect on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moeseg.errors import UsageError
from moeseg.models import (
    Expert,
    MonteCarloDropout,
    build_expert,
    build_model,
    describe,
    key_seeds,
    load,
    resize,
    save,
)
from moeseg.models.deeplab import DeepLabV3Plus
from moeseg.models.dropout import content_seeds
from moeseg.types import Features
from tiny import tiny_expert

SIZE = (33, 47)


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def deeplab() -> DeepLabV3Plus:
    torch.manual_seed(0)
    architecture = {"name": "deeplabv3plus", "backbone": "resnet18", "channels": 16}
    expert = build_expert(architecture | {"num_classes": 5})
    assert isinstance(expert, DeepLabV3Plus)
    return expert.eval()


class Channels(Expert):
    """Channel dropout in the encoder's last layer, which the gate sees after a convolution."""

    def __init__(self) -> None:
        super().__init__(num_classes=2, gate_channels=4, stride=1)
        self.drop = nn.Dropout2d(0.5)
        self.after = nn.Conv2d(3, 4, 1, bias=False)
        self.classes = nn.Conv2d(3, 2, 1)
        self.last = nn.Dropout(0.25)

    def features(self, images: Tensor) -> Features:
        low = self.drop(images)
        return Features(self.after(low), (low,), (int(images.shape[2]), int(images.shape[3])))

    def decode(self, features: Features) -> Tensor:
        logits: Tensor = self.last(self.classes(features.decoder[0]))
        return logits


def counted(expert: Expert, monkeypatch: pytest.MonkeyPatch, name: str = "features") -> list[int]:
    """Return a list that grows by one with every call of a method of an expert."""
    calls: list[int] = []
    plain: Callable[..., object] = getattr(expert, name)

    def call(*inputs: object) -> object:
        calls.append(1)
        return plain(*inputs)

    monkeypatch.setattr(expert, name, call)
    return calls


def masks(seed: int, shape: tuple[int, ...], p: float, samples: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.rand(shape, generator=generator) >= p) / (1 - p) for _ in range(samples)]


@torch.no_grad()
def test_late_dropout_by_hand_and_the_encoder_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    expert = deeplab()
    model = MonteCarloDropout(expert, 4, rate=0.3)
    x = images(2)
    features = expert.features(x)
    (low,), pyramid = features.decoder, features.gate
    seeds = content_seeds(x)
    of_image = [masks(seed, tuple(pyramid.shape[1:]), 0.3, 4) for seed in seeds]
    expected = []
    for sample in range(4):
        dropped = pyramid * torch.stack([drawn[sample] for drawn in of_image])
        expected.append(resize(expert.classifier(low, dropped), SIZE))
    model(x)  # the first call also finds out where dropout lies
    encoder, decoder = counted(expert, monkeypatch), counted(expert, monkeypatch, "decode")
    found = model(x, expert_logits=True)
    assert (len(encoder), len(decoder)) == (1, 5)
    assert found.expert_logits is not None
    assert found.expert_logits.shape == (2, 4, 5, *SIZE)
    torch.testing.assert_close(found.expert_logits, torch.stack(expected, 1), rtol=0, atol=1e-6)
    mean = torch.stack(expected, 1).softmax(2).mean(1)
    torch.testing.assert_close(found.logits.exp(), mean, rtol=0, atol=1e-6)
    assert found.weights is None
    torch.testing.assert_close(model(x).logits, found.logits, rtol=0, atol=1e-6)


@torch.no_grad()
def test_early_dropout_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    expert = Channels().eval()
    model = MonteCarloDropout(expert, 3)
    x = images(2)
    model(x)
    encoder = counted(expert, monkeypatch)
    found = model(x, expert_logits=True).expert_logits
    assert len(encoder) == 4  # once for the deterministic output, once a sample
    assert found is not None
    for image, seed in enumerate(content_seeds(x)):
        generator = torch.Generator().manual_seed(seed)
        for sample in range(3):
            low = x[image] * (torch.rand(3, 1, 1, generator=generator) >= 0.5) / 0.5
            logits = expert.classes(low[None])[0]
            logits = logits * (torch.rand(logits.shape, generator=generator) >= 0.25) / 0.75
            torch.testing.assert_close(found[image, sample], logits)


@torch.no_grad()
@pytest.mark.parametrize("make", [deeplab, tiny_expert])
def test_neither_batch_nor_earlier_calls_matter(make: Callable[[], Expert]) -> None:
    model = MonteCarloDropout(make(), 3, rate=0.4)
    x = images(3)
    state = torch.get_rng_state()
    together = model(x, expert_logits=True).expert_logits
    assert together is not None
    alone = [model(one[None], expert_logits=True).expert_logits for one in x]
    torch.testing.assert_close(together, torch.cat([a for a in alone if a is not None]))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.allclose(together[:, 0], together[:, 1])
    other = MonteCarloDropout(model.experts[0], 3, rate=0.4, seed=1)
    assert not torch.allclose(other(x).logits, model(x).logits)


@torch.no_grad()
def test_seeds_of_keys_replace_those_of_pixels() -> None:
    expert = tiny_expert()
    model = MonteCarloDropout(expert, 2)
    x = images(1)
    output = expert.kept_output(x)
    one, two = (replace(output, seeds=key_seeds([key])) for key in ("a/1", "a/2"))
    first, again = (model.combine([one], SIZE).logits for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, model.combine([two], SIZE).logits)
    assert key_seeds(["a/1", "a/2"])[1] == key_seeds(["a/2"])[0]


@torch.no_grad()
def test_the_network_is_left_as_it_was() -> None:
    expert = tiny_expert()
    x = images()
    before, state = expert(x).logits, {k: v.clone() for k, v in expert.state_dict().items()}
    model = MonteCarloDropout(expert, 2).train()
    assert not expert.training
    model(x)
    assert torch.equal(expert(x).logits, before)
    assert all(torch.equal(state[k], v) for k, v in expert.state_dict().items())
    assert not any(module._forward_hooks for module in expert.modules())


@torch.no_grad()
def test_samples_average_to_the_network_where_the_rest_is_linear() -> None:
    expert = Channels().eval()
    model = MonteCarloDropout(expert, 4000, layers=["last"])
    x = images(1)[..., :4, :4]
    found = model(x, expert_logits=True).expert_logits
    assert found is not None
    spread = found[0].std(0)
    mean = (found[0].mean(0) - expert(x).logits[0]).abs()
    assert (mean <= 5 * spread / 4000**0.5).all()
    share = (found == 0).float().mean()
    assert float(share) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("make", [deeplab, tiny_expert])
def test_saved_and_loaded_is_equal(make: Callable[[], Expert], tmp_path: Path) -> None:
    expert = make()
    model = MonteCarloDropout(expert, 3, rate=0.2, seed=4).eval()
    save(expert, tmp_path / "expert")
    save(model, tmp_path / "refers", experts=[tmp_path / "expert"])
    save(model, tmp_path / "holds")
    x = images(1)
    with torch.no_grad():
        for name in ("refers", "holds"):
            loaded = load(tmp_path / name)
            assert isinstance(loaded, MonteCarloDropout)
            assert torch.equal(loaded(x).logits, model(x).logits)
    rebuilt = build_model(describe(model))
    assert isinstance(rebuilt, MonteCarloDropout)
    assert (rebuilt.samples, rebuilt.rate, rebuilt.seed) == (3, 0.2, 4)


def test_gradients_reach_the_image() -> None:
    x = images(1).requires_grad_()
    MonteCarloDropout(tiny_expert(), 2)(x).logits.square().sum().backward()
    assert x.grad is not None
    assert F.relu(x.grad.abs()).sum() > 0


def test_what_cannot_be_sampled_is_told() -> None:
    frrn = build_expert({"name": "frrn-a", "num_classes": 3, "channels": 3})
    with pytest.raises(UsageError, match="expected a network with dropout layers, got frrn-a"):
        MonteCarloDropout(frrn, 2)
    expert = tiny_expert()
    with pytest.raises(UsageError, match=r"unknown dropout layer 'frist.3'.*first\.3"):
        MonteCarloDropout(expert, 2, layers=["frist.3"])
    with pytest.raises(UsageError, match="2 samples or more, got 1"):
        MonteCarloDropout(expert, 1)
    with pytest.raises(UsageError, match=r"between 0 and 1, got 1\.0"):
        MonteCarloDropout(expert, 2, rate=1.0)
    with pytest.raises(ValueError, match="keeps features and images"):
        MonteCarloDropout(expert, 2).combine([expert.output(images())], SIZE)


def test_layers_that_drop_nothing_are_told() -> None:
    still = Channels().eval()
    still.drop.p = still.last.p = 0.0
    with pytest.raises(UsageError, match=r"drops something, got \['drop', 'last'\] of .*rate 0"):
        MonteCarloDropout(still, 2)
    still.drop.p = 0.5
    with pytest.raises(UsageError, match=r"drops something, got \['last'\]"):
        MonteCarloDropout(still, 2, layers=["last"])
    x = images(1)
    for model in (MonteCarloDropout(still, 2), MonteCarloDropout(still, 2, rate=0.3)):
        first, second = model(x, expert_logits=True).expert_logits[0]
        assert not torch.equal(first, second)


@pytest.mark.parametrize("called", ["drop", "last"])
def test_layers_outside_of_the_forward_pass_are_told(called: str) -> None:
    expert = Channels().eval()
    expert.spare = nn.Dropout(0.5)
    idle = MonteCarloDropout(expert, 2, layers=["spare"])
    with pytest.raises(
        UsageError, match=r"take part in prediction, got \['spare'\], none of which"
    ):
        idle(images(1))
    MonteCarloDropout(expert, 2, layers=["spare", called])(images(1))
