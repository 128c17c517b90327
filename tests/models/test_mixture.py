from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moeseg.errors import UsageError
from moeseg.models import (
    Ensemble,
    Expert,
    Mixture,
    Model,
    Rule,
    build_ensemble,
    build_expert,
    build_gate,
    build_mixture,
    combine_max,
    combine_mean,
    combine_mean_probability,
    combine_weighted,
    new_head,
    weighted_sum,
)
from moeseg.models.build import GateKind
from moeseg.types import ExpertOutput, Features, Prediction

CLASSES = 4
SIZE = (33, 47)


class Toy(Expert):
    """A cheap expert with BatchNorm and dropout; its decoder's grid is 1/cell of the image."""

    def __init__(self, cell: int = 4, num_classes: int = CLASSES, stride: int = 8) -> None:
        super().__init__(num_classes=num_classes, gate_channels=3, stride=stride)
        self.encoder = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
        self.drop = nn.Dropout(0.5)
        self.decoder = nn.Conv2d(3, num_classes, 1)
        self.cell = cell
        self.calls = 0

    def features(self, images: Tensor) -> Features:
        self.calls += 1
        size = images.shape[-2], images.shape[-1]
        x = self.encoder(images)
        grids = [(-(-size[0] // step), -(-size[1] // step)) for step in (self.stride, self.cell)]
        gate, fine = (F.adaptive_avg_pool2d(x, grid) for grid in grids)
        return Features(gate, (fine,), size)

    def decode(self, features: Features) -> Tensor:
        logits: Tensor = self.decoder(self.drop(features.decoder[0]))
        return logits


def _toys(cells: tuple[int, ...] = (4, 4)) -> list[Toy]:
    torch.manual_seed(0)
    return [Toy(cell) for cell in cells]


@cache
def _mixed() -> tuple[Expert, ...]:
    torch.manual_seed(0)
    deeplab = {"name": "deeplabv3plus", "backbone": "mobilenet_v2", "channels": 6}
    return (
        build_expert({**deeplab, "low_level_channels": 4, "num_classes": CLASSES}),
        build_expert({"name": "frrn-b", "channels": 3, "num_classes": CLASSES}),
        build_expert({**deeplab, "output_stride": 8, "num_classes": CLASSES}),
    )


def _images(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, *SIZE, generator=torch.Generator().manual_seed(2))


def _weights(experts: int, columns: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(batch, experts, columns, generator=generator).softmax(dim=1)


def _naive(logits: list[Tensor], weights: Tensor) -> Tensor:
    """Every expert at full size first, then one pixel-wise sum: as the original does it."""
    full = torch.stack(
        [F.interpolate(one, SIZE, mode="bilinear", align_corners=False) for one in logits], dim=1
    )
    return (full * weights[..., None, None]).sum(dim=1)


# --- pure functions ------------------------------------------------------------------------------


def test_weighted_sum_by_hand() -> None:
    first, second = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[10.0], [20.0]]])
    simple = torch.tensor([[[0.25], [0.75]]])
    assert weighted_sum([first, second], simple).flatten().tolist() == [7.75, 15.5]
    classwise = torch.tensor([[[0.25, 1.0], [0.75, 0.0]]])
    assert weighted_sum([first, second], classwise).flatten().tolist() == [7.75, 2.0]


@pytest.mark.parametrize("columns", [1, CLASSES])
@pytest.mark.parametrize("grids", [((9, 12),) * 3, ((9, 12), SIZE, (9, 12)), ((9, 12), (5, 7))])
def test_combine_weighted_equals_the_sum_at_full_size(
    columns: int, grids: tuple[tuple[int, int], ...]
) -> None:
    logits = [torch.randn(2, CLASSES, *grid) for grid in grids]
    weights = _weights(len(grids), columns)
    torch.testing.assert_close(combine_weighted(logits, weights, SIZE), _naive(logits, weights))


def test_one_resize_for_each_group(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    plain = F.interpolate

    def counted(x: Tensor, **settings: Any) -> Tensor:  # noqa: ANN401
        sizes.append(tuple(x.shape[-2:]))
        return plain(x, **settings)

    monkeypatch.setattr(F, "interpolate", counted)
    logits = [torch.randn(1, 2, *grid) for grid in ((9, 12), (5, 7), (9, 12), SIZE)]
    combine_weighted(logits, _weights(4, 1, batch=1), SIZE)
    assert sizes == [(9, 12), (5, 7)]


def test_mean_max_and_mean_probability_by_hand() -> None:
    # one pixel, two classes; probabilities (0.5, 0.5) and (0.9, 0.1)
    first = torch.zeros(1, 2, 1, 1)
    second = torch.tensor([math.log(9.0), 0.0]).view(1, 2, 1, 1)
    assert combine_mean([first, second], (1, 1)).flatten().tolist() == pytest.approx(
        [math.log(9) / 2, 0]
    )
    assert combine_max([first, second], (1, 1)).flatten().tolist() == pytest.approx(
        [math.log(9), 0]
    )
    logits = combine_mean_probability([first, second], (1, 1)).flatten()
    assert logits.tolist() == pytest.approx([math.log(0.7), math.log(0.3)])


@pytest.mark.parametrize("rule", ["mean", "max", "mean-probability"])
def test_ensemble_equals_naive_computation(rule: Rule) -> None:
    experts = _mixed()
    ensemble = build_ensemble(experts, rule)
    with torch.no_grad():
        full = torch.stack([expert(_images()).logits for expert in experts], dim=1).double()
        prediction = ensemble(_images(), expert_logits=True)
    slow = {
        "mean": full.mean(dim=1),
        "max": full.max(dim=1).values,
        "mean-probability": full.softmax(dim=2).mean(dim=1).log(),
    }[rule]
    torch.testing.assert_close(prediction.logits, slow.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prediction.expert_logits, full.float())
    assert prediction.weights is None


def test_mean_probability_does_not_underflow() -> None:
    extreme = [torch.tensor([0.0, -500.0]).view(1, 2, 1, 1)] * 2
    assert combine_mean_probability(extreme, (1, 1)).flatten().tolist() == [0.0, -500.0]


# --- mixture -------------------------------------------------------------------------------------


def _gate_gives(mixture: Mixture, weights: Tensor) -> None:
    mixture.gate.forward = lambda features: weights  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", ["simple", "classwise"])
@pytest.mark.parametrize("pool", [None, (2, 3)])
@pytest.mark.parametrize("conv", [False, True])
def test_mixed_architectures_equal_naive_full_size_computation(
    kind: GateKind, pool: tuple[int, int] | None, conv: bool
) -> None:
    experts = _mixed()
    mixture = build_mixture(experts, kind, conv, pool, SIZE).eval()
    if mixture.head is not None:
        nn.init.normal_(mixture.head.weight, std=0.2)
    with torch.no_grad():
        outputs = [expert.output(_images()) for expert in experts]
        assert len({output.logits.shape for output in outputs}) == 2  # stride 4, full size
        weights = mixture.gate([output.gate for output in outputs])
        slow = _naive([output.logits for output in outputs], weights)
        if mixture.head is not None:
            slow = F.conv2d(slow, mixture.head.weight, padding=1)
        prediction: Prediction = mixture(_images(), expert_logits=True)
        single = torch.stack([expert(_images()).logits for expert in experts], dim=1)
    assert prediction.weights is not None
    assert prediction.expert_logits is not None
    assert prediction.weights.shape == (2, 3, 1 if kind == "simple" else CLASSES)
    torch.testing.assert_close(prediction.weights, weights)
    torch.testing.assert_close(prediction.logits, slow, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prediction.expert_logits, single)
    torch.testing.assert_close(mixture.combine(outputs, SIZE).logits, prediction.logits)


@pytest.mark.parametrize("cells", [(4, 4, 4), (4, 1, 8)])
def test_equal_weights_are_the_mean_ensemble(cells: tuple[int, ...]) -> None:
    experts = _toys(cells)
    mixture = build_mixture(experts, "classwise", size=SIZE).eval()
    _gate_gives(mixture, torch.full((2, 3, CLASSES), 1 / 3))
    with torch.no_grad():
        mean = Ensemble(experts, "mean")(_images()).logits
        torch.testing.assert_close(mixture(_images()).logits, mean, rtol=0, atol=1e-6)
        slow = torch.stack([expert(_images()).logits for expert in experts]).mean(dim=0)
    torch.testing.assert_close(mean, slow, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cells", [(4, 4, 4), (4, 1, 8)])
@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_one_hot_weights_are_that_expert_exactly(cells: tuple[int, ...], chosen: int) -> None:
    experts = _toys(cells)
    mixture = build_mixture(experts, "simple", size=SIZE).eval()
    weights = torch.zeros(2, 3, 1)
    weights[:, chosen] = 1
    _gate_gives(mixture, weights)
    with torch.no_grad():
        assert torch.equal(mixture(_images()).logits, experts[chosen](_images()).logits)


def test_permuting_experts_with_their_weights_changes_nothing() -> None:
    experts = _toys((4, 1, 8, 4))
    weights = _weights(4, CLASSES)
    order = [2, 0, 3, 1]
    plain = build_mixture(experts, "classwise", size=SIZE).eval()
    turned = build_mixture([experts[n] for n in order], "classwise", size=SIZE).eval()
    _gate_gives(plain, weights)
    _gate_gives(turned, weights[:, order])
    with torch.no_grad():
        torch.testing.assert_close(
            turned(_images()).logits, plain(_images()).logits, rtol=0, atol=1e-6
        )


def test_each_encoder_runs_once_an_image() -> None:
    experts = _toys((4, 1, 8))
    for model in (
        build_mixture(experts, "classwise", True, size=SIZE),
        build_ensemble(experts, "max"),
    ):
        for expert in experts:
            expert.calls = 0
        with torch.no_grad():
            model.eval()(_images(), expert_logits=True)
        assert [expert.calls for expert in experts] == [1, 1, 1]


def test_outputs_computed_once_serve_every_model() -> None:
    experts = _toys((4, 1))
    models: list[Model] = [
        build_mixture(experts, "simple", size=SIZE).eval(),
        build_mixture(experts, "classwise", True, (2, 2)).eval(),
        build_ensemble(experts, "mean-probability"),
    ]
    with torch.no_grad():
        outputs: dict[Expert, ExpertOutput] = {e: e.output(_images()) for e in experts}
        for model in models:
            shared = model.combine([outputs[expert] for expert in model.experts], SIZE)
            assert torch.equal(shared.logits, model(_images()).logits)


def test_new_head_changes_nothing() -> None:
    logits = torch.randn(1, CLASSES, 5, 6)
    assert torch.equal(new_head(CLASSES)(logits), logits)
    assert new_head(CLASSES).bias is None


# --- what is trained -----------------------------------------------------------------------------


def _buffers(experts: list[Toy]) -> list[Tensor]:
    return [buffer.clone() for expert in experts for buffer in expert.buffers()]


def _nothing(mixture: Mixture) -> None:
    mixture.train()


def _through_a_parent(mixture: Mixture) -> None:
    nn.ModuleList([mixture]).train()


def _the_experts(mixture: Mixture) -> None:
    for expert in mixture.experts:
        expert.train()


def _the_list(mixture: Mixture) -> None:
    mixture.members.train()


@pytest.mark.parametrize("call", [_nothing, _through_a_parent, _the_experts, _the_list])
def test_frozen_experts_do_not_move(call: Callable[[Mixture], None]) -> None:
    experts = _toys()
    mixture = build_mixture(experts, "classwise", True, size=SIZE)
    before = _buffers(experts)
    with torch.no_grad():
        still = [expert.eval()(_images()).logits for expert in experts]
    call(mixture)
    prediction = mixture(_images(), expert_logits=True)
    prediction.logits.square().sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(before, _buffers(experts), strict=True))
    assert not any(module.training for expert in experts for module in expert.modules())
    assert not any(p.requires_grad or p.grad is not None for e in experts for p in e.parameters())
    assert torch.equal(prediction.expert_logits, torch.stack(still, dim=1))  # dropout is off
    trained = [p for name, p in mixture.named_parameters() if not name.startswith("members.")]
    assert len(trained) == 7
    assert all(p.grad is not None for p in trained)


def test_gate_and_head_do_follow_train() -> None:
    mixture = build_mixture(_toys(), "simple", True, size=SIZE).train()
    assert mixture.training
    assert mixture.gate.training
    assert mixture.head is not None
    assert mixture.head.training
    assert not mixture.eval().gate.training


def test_unfrozen_mixture_trains_end_to_end() -> None:
    experts = _toys()
    mixture = build_mixture(experts, "simple", True, size=SIZE, freeze=False).train()
    before = _buffers(experts)
    logits = mixture(_images()).logits
    (logits * torch.randn(logits.shape)).sum().backward()
    assert [n for n, p in mixture.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert all(module.training for expert in experts for module in expert.modules())
    assert not all(torch.equal(a, b) for a, b in zip(before, _buffers(experts), strict=True))


def test_adapting_batchnorm_reproduces_the_originals_drift() -> None:
    experts = _toys()
    gate = build_gate("simple", experts, SIZE)
    mixture = Mixture(experts, gate, expert_batchnorm="adapt").train()
    before = _buffers(experts)
    mixture(_images())
    assert not all(torch.equal(a, b) for a, b in zip(before, _buffers(experts), strict=True))
    assert not any(p.requires_grad for expert in experts for p in expert.parameters())


def test_image_gradients_pass_through_a_frozen_mixture() -> None:
    mixture = build_mixture(_toys(), "simple", size=SIZE).eval()
    images = _images().requires_grad_()
    mixture(images).logits.square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_ensemble_experts_stay_in_eval_mode() -> None:
    experts = _toys()
    ensemble = Ensemble(experts, "mean").train()
    assert not any(expert.training for expert in experts)
    assert torch.equal(ensemble(_images()).logits, ensemble(_images()).logits)


def test_dropout_switched_on_by_hand_stays_on() -> None:
    """Monte-Carlo dropout turns dropout alone on in frozen experts."""
    experts = _toys()
    mixture = build_mixture(experts, "simple", size=SIZE).eval()
    for module in mixture.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    with torch.no_grad():
        samples = [mixture(_images()).logits for _ in range(3)]
    assert not any(torch.equal(a, b) for a, b in pairwise(samples))


# --- what is refused -----------------------------------------------------------------------------


def test_class_counts_that_differ_are_named() -> None:
    torch.manual_seed(0)
    experts: list[Expert] = [
        Toy(num_classes=4),
        build_expert({"name": "frrn-a", "channels": 3, "num_classes": 11}),
    ]
    for make in (
        lambda: build_mixture(experts, "simple", size=SIZE),
        lambda: build_ensemble(experts, "mean"),
    ):
        with pytest.raises(UsageError, match=r"\(Toy\) with 4 and expert 2 \(frrn-a\) with 11"):
            make()


def test_a_single_expert_is_no_mixture() -> None:
    with pytest.raises(UsageError, match="two experts or more to join, got 1"):
        Ensemble(_toys((4,)), "mean")


def test_parts_that_do_not_fit_are_refused() -> None:
    experts = _toys()
    gate = build_gate("simple", experts, SIZE)
    with pytest.raises(UsageError, match=r"feature channels \[3, 3, 3\]"):
        Mixture(_toys((4, 4, 4)), gate)
    with pytest.raises(UsageError, match="convolution 4 -> 4, got 5 -> 5"):
        Mixture(experts, gate, new_head(5))
    gate.columns = 3
    with pytest.raises(UsageError, match="each of 4 classes, got 3"):
        Mixture(experts, gate)


def test_unknown_rule_gets_the_nearest_name() -> None:
    rule: Any = "men"
    with pytest.raises(UsageError, match="Did you mean 'mean'"):
        Ensemble(_toys(), rule)


def test_outputs_of_another_number_of_experts_are_refused() -> None:
    ensemble = Ensemble(_toys(), "mean")
    output = ExpertOutput(torch.zeros(1, 3, 2, 2), torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match="outputs of 2 experts, got 1"):
        ensemble.combine([output], SIZE)


def test_image_size_that_a_fixed_gate_cannot_take() -> None:
    mixture = build_mixture(_toys(), "simple", size=(96, 160)).eval()
    with pytest.raises(UsageError, match="expected a feature map of 12x20, got 5x6"):
        mixture(_images())
    pooled = build_mixture(_toys(), "simple", pool=(3, 4)).eval()
    assert pooled(_images()).logits.shape[-2:] == SIZE
