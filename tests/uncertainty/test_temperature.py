"""Temperatures: what they do to each kind of model by plain formulas, and fits against scipy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from moeseg.errors import CheckpointError, UsageError
from moeseg.models import (
    TEMPERATURES,
    Expert,
    Mixture,
    Model,
    MonteCarloDropout,
    build_ensemble,
    build_mixture,
    resize,
    save,
)
from moeseg.types import Prediction
from moeseg.uncertainty.fitting import PointCollector
from moeseg.uncertainty.temperature import (
    Kind,
    Temperature,
    Tempered,
    kinds_of,
    load_temperatures,
    save_temperatures,
    tempered_weights,
)
from tiny import SIZE, tiny_expert

SEED = 3


def some_models() -> dict[str, Model]:
    day, dusk = tiny_expert(1), tiny_expert(2)
    for number, expert in enumerate((day, dusk)):
        with torch.no_grad():  # logits that are worth a temperature
            expert.get_parameter("classifier.weight").mul_(6 + 4 * number)
    generator = torch.Generator().manual_seed(SEED)
    mixtures: dict[str, Mixture] = {}
    for name, kind, conv in (
        ("moe-simple", "simple", False),
        ("moe-simple-conv", "simple", True),
        ("moe-classwise", "classwise", False),
        ("moe-classwise-conv", "classwise", True),
    ):
        made = build_mixture([day, dusk], kind, conv, size=SIZE, generator=generator)  # type: ignore[arg-type]
        with torch.no_grad():
            made.gate.get_parameter("fc2.weight").mul_(30)
            if made.head is not None:
                made.head.weight.add_(
                    0.2 * torch.randn(made.head.weight.shape, generator=generator)
                )
        mixtures[name] = made.eval()
    return {
        "expert-day": day,
        "ensemble-mean": build_ensemble([day, dusk], "mean").eval(),
        "ensemble-max": build_ensemble([day, dusk], "max").eval(),
        "ensemble-mean-probability": build_ensemble([day, dusk], "mean-probability").eval(),
        "mc-dropout": MonteCarloDropout(day, 2).eval(),
        **mixtures,
    }


NAMES = tuple(some_models())
CASES = [(name, kind) for name, model in some_models().items() for kind in kinds_of(model)]


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def labels_of(model: Model, x: Tensor, sharp: float) -> Tensor:
    """Return labels drawn from the model's distribution with its logits times `sharp`."""
    p = (sharp * model(x).logits).softmax(1).permute(0, 2, 3, 1)
    generator = torch.Generator().manual_seed(7)
    drawn = torch.multinomial(p.reshape(-1, p.shape[-1]), 1, generator=generator)
    label = drawn.reshape(p.shape[:-1]).to(torch.uint8)
    label[torch.rand(label.shape, generator=generator) < 0.1] = 255
    return label


@torch.no_grad()
def loss_of(model: Model | Tempered, x: Tensor, label: Tensor) -> float:
    """Return the mean cross-entropy over all labelled pixels."""
    return float(F.cross_entropy(model(x).logits, label.long(), ignore_index=255))


def fitted(
    model: Model, x: Tensor, label: Tensor, kinds: Sequence[Kind], pixels: int = 10**6
) -> list[Temperature]:
    points = PointCollector("some", model, kinds, len(x), pixels)
    with torch.inference_mode():
        for start in range(0, len(x), 4):
            part = slice(start, start + 4)
            keys = [f"a/{n}" for n in range(len(x))][part]
            points.update(
                model(x[part], expert_logits=points.needs_expert_logits), label[part], keys
            )
    return points.fit()


def of(kind: Kind, *values: float) -> Temperature:
    return Temperature(kind, values, 0.0, 0.0, 1, 1)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_temperature_one_is_the_model(name: str) -> None:
    model, x = some_models()[name], images(2)
    for kind in kinds_of(model):
        count = {"class": 3, "experts": len(model.experts)}.get(kind, 1)
        same = Tempered(model, of(kind, *[1.0] * count))
        assert same.experts == model.experts
        whole, own = same(x, expert_logits=True), model(x, expert_logits=True)
        torch.testing.assert_close(whole.logits, own.logits, rtol=1e-4, atol=1e-4)
        assert own.expert_logits is not None
        torch.testing.assert_close(whole.expert_logits, own.expert_logits)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_one_and_class_divide_logits(name: str) -> None:
    model, x = some_models()[name], images(2)
    plain = model(x).logits
    torch.testing.assert_close(Tempered(model, of("one", 2.5))(x).logits, plain / 2.5)
    of_class = torch.tensor([0.5, 1.0, 4.0])
    found = Tempered(model, of("class", *of_class.tolist()))(x).logits
    torch.testing.assert_close(found, plain / of_class[:, None, None])


@torch.no_grad()
def test_experts_are_divided_before_they_are_mixed() -> None:
    models, x = some_models(), images(2)
    day, dusk = (e(x).logits for e in models["moe-simple"].experts)
    pair = of("experts", 2.0, 0.5)
    mean = Tempered(models["ensemble-mean"], pair)(x).logits
    torch.testing.assert_close(mean, (day / 2 + dusk / 0.5) / 2)
    most = Tempered(models["ensemble-max"], pair)(x).logits
    torch.testing.assert_close(most, torch.maximum(day / 2, dusk / 0.5))
    probability = Tempered(models["ensemble-mean-probability"], pair)(x).logits.exp()
    torch.testing.assert_close(probability, ((day / 2).softmax(1) + (dusk / 0.5).softmax(1)) / 2)
    mixture = models["moe-classwise-conv"]
    assert isinstance(mixture, Mixture)
    assert mixture.head is not None
    weights = mixture(x).weights
    assert weights is not None
    summed = weights[:, 0, :, None, None] * day / 2 + weights[:, 1, :, None, None] * dusk / 0.5
    found = Tempered(mixture, pair)(x, expert_logits=True)
    torch.testing.assert_close(found.logits, mixture.head(summed), rtol=1e-4, atol=1e-4)
    assert found.expert_logits is not None
    torch.testing.assert_close(found.expert_logits[:, 1], dusk / 0.5)


@torch.no_grad()
def test_gates_weights_are_powers() -> None:
    mixture, x = some_models()["moe-classwise"], images(2)
    weights = mixture(x).weights
    assert weights is not None
    power = weights**0.5
    expected = power / power.sum(1, keepdim=True)
    found = Tempered(mixture, of("gate", 2.0))(x)
    torch.testing.assert_close(found.weights, expected)
    day, dusk = (e(x).logits for e in mixture.experts)
    summed = expected[:, 0, :, None, None] * day + expected[:, 1, :, None, None] * dusk
    torch.testing.assert_close(found.logits, summed)
    cold = tempered_weights(torch.tensor([[[0.6], [0.4]], [[1.0], [0.0]]]), 1e-3)
    assert cold[:, :, 0].tolist() == [[1.0, 0.0], [1.0, 0.0]]
    warm = tempered_weights(torch.tensor([[[0.6], [0.4]]]), 1e6)
    assert warm.flatten().tolist() == pytest.approx([0.5, 0.5], abs=1e-5)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_what_the_fit_says_holds_for_the_model(name: str, kind: Kind) -> None:
    model, x = some_models()[name], images()
    label = labels_of(model, x, 0.4)
    (found,) = fitted_with_keys(model, x, label, kind)
    assert found.kind == kind
    assert found.pixels == int((label != 255).sum())
    assert found.frames == len(x)
    before, after = loss_of(model, x, label), loss_of(Tempered(model, found), x, label)
    assert found.nll_before == pytest.approx(before, rel=1e-4)
    assert found.nll_after == pytest.approx(after, rel=2e-3 if kind == "gate" else 1e-4)
    assert after <= before + 1e-6
    for factor in (0.9, 1.1):  # any other is worse
        for place in range(len(found.values)):
            values = list(found.values)
            values[place] *= factor
            other = replace(found, values=tuple(values))
            assert loss_of(Tempered(model, other), x, label) >= after - 1e-6


def fitted_with_keys(model: Model, x: Tensor, label: Tensor, kind: Kind) -> list[Temperature]:
    # masks of MC dropout hang on pixels here, in the fit and in the check
    return fitted(model, x, label, [kind])


def test_the_temperature_behind_the_labels_is_found() -> None:
    model, x = some_models()["moe-simple"], images(24)
    (one,) = fitted(model, x, labels_of(model, x, 0.4), ["one"])
    assert one.values[0] == pytest.approx(2.5, rel=0.05)
    assert one.nll_after < one.nll_before


def test_against_scipy() -> None:
    model, x = some_models()["ensemble-mean"], images()
    label = labels_of(model, x, 0.5)
    (one,) = fitted(model, x, label, ["one"])
    logits = model(x).logits.detach().double()

    def loss(log: float) -> float:
        scaled = logits / float(np.exp(log))
        return float(F.cross_entropy(scaled, label.long(), ignore_index=255))

    best = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-6})
    assert one.values[0] == pytest.approx(float(np.exp(best.x)), rel=1e-3)
    assert one.nll_after == pytest.approx(float(best.fun), rel=1e-6)


def test_sampling_is_unbiased_small_and_always_the_same() -> None:
    model, x = some_models()["moe-classwise-conv"], images(24)
    label = labels_of(model, x, 0.4)
    label[3, :, :20] = 255  # fewer labelled pixels must not weigh more
    label[4] = 255
    whole = fitted(model, x, label, ["one", "experts", "gate"])
    few = fitted(model, x, label, ["one", "experts", "gate"], 24 * 200)
    again = fitted(model, x, label, ["one", "experts", "gate"], 24 * 200)
    assert few == again
    assert few[0].pixels <= 24 * 200
    assert few[0].frames == 23
    for one, two in zip(whole, few, strict=True):
        if one.kind != "gate":  # whose loss is flat here
            assert two.values == pytest.approx(one.values, rel=0.25)
        assert two.nll_after == pytest.approx(one.nll_after, rel=0.05)
        assert two.nll_before == pytest.approx(one.nll_before, rel=0.05)


def test_labels_that_are_all_predicted_do_not_run_away() -> None:
    model, x = some_models()["expert-day"], images(2)
    label = model(x).logits.argmax(1).to(torch.uint8)
    (one,) = fitted(model, x, label, ["one"])
    assert 0.04 < one.values[0] < 1
    assert one.nll_after < one.nll_before


def test_a_temperature_of_one_kind_leaves_classes_alone() -> None:
    model, x = some_models()["moe-simple-conv"], images(2)
    with torch.no_grad():
        same = Tempered(model, of("one", 3.0))(x).logits.argmax(1)
        assert torch.equal(same, model(x).logits.argmax(1))


def test_no_labels_and_wrong_kinds_are_told() -> None:
    models, x = some_models(), images(1)
    nothing = torch.full((1, *SIZE), 255, dtype=torch.uint8)
    with pytest.raises(UsageError, match=r"expected labelled validation frames, got none.*fit"):
        fitted(models["moe-simple"], x, nothing, ["one"])
    assert fitted(models["expert-day"], x, nothing * 0, ["experts", "gate"]) == []
    with pytest.raises(UsageError, match="unknown temperature of a TinyExpert 'gate'"):
        Tempered(models["expert-day"], of("gate", 1.0))
    with pytest.raises(UsageError, match=r"experts: expected 2 values > 0, got \[1\.0\]"):
        Tempered(models["moe-simple"], of("experts", 1.0))
    with pytest.raises(UsageError, match="expected 1 values > 0"):
        Tempered(models["moe-simple"], of("one", -1.0))


def test_saved_beside_the_weights_and_gone_with_them(tmp_path: Path) -> None:
    day, dusk = tiny_expert(1), tiny_expert(2)
    for name, expert in (("day", day), ("dusk", dusk)):
        save(expert, tmp_path / name)
    pair = build_ensemble([day, dusk], "mean")
    folders = [tmp_path / "day", tmp_path / "dusk"]
    save(pair, tmp_path / "pair", experts=folders)
    assert load_temperatures(tmp_path / "pair") == {}
    both = [of("one", 1.5), of("experts", 2.0, 0.25)]
    save_temperatures(tmp_path / "pair", both)
    assert load_temperatures(tmp_path / "pair") == {"one": both[0], "experts": both[1]}
    # another expert behind the same reference
    save(tiny_expert(5), tmp_path / "day")
    with pytest.raises(CheckpointError, match="those of other weights"):
        load_temperatures(tmp_path / "pair")
    save(day, tmp_path / "day")
    path = tmp_path / "pair" / TEMPERATURES
    text = path.read_text()
    path.write_text("{}")
    with pytest.raises(CheckpointError, match=r"expected fitted temperatures, got KeyError"):
        load_temperatures(tmp_path / "pair")
    path.write_text(json.dumps(json.loads(text) | {"format": 9}))
    with pytest.raises(CheckpointError, match="another version"):
        load_temperatures(tmp_path / "pair")
    save(pair, tmp_path / "pair", experts=folders)
    assert not path.exists()
    with pytest.raises(CheckpointError, match="expected a moeseg model"):
        load_temperatures(tmp_path / "nothing")


def test_a_collector_of_points_takes_any_prediction_it_needs() -> None:
    points = PointCollector("x", some_models()["expert-day"], ["one", "class", "gate"], 1)
    assert points.kinds == ("one", "class")
    assert not points.needs_expert_logits
    assert points.rows() == []
    logits = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    points.update(Prediction(logits), torch.zeros(1, 4, 5, dtype=torch.uint8), ["a/1"])
    points.sync()
    assert [len(t.values) for t in points.fit()] == [1, 3]


def test_resized_maps_are_what_is_sampled() -> None:
    """The runner hands full-size logits of members; so does a model itself."""
    model = some_models()["moe-simple"]
    x = images(1)
    with torch.no_grad():
        each = model(x, expert_logits=True).expert_logits
        assert each is not None
        expert: Expert = model.experts[0]
        assert torch.equal(each[:, 0], resize(expert.output(x).logits, SIZE))
