"""Scores of doubt: cases by hand, and every score against plain float64 formulas of its own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeseg.errors import MoesegError, UsageError
from moeseg.types import Prediction
from moeseg.uncertainty.scores import (
    PUBLISHED,
    SCORES,
    Score,
    expert_variance,
    gate_entropy,
    max_probability,
    maximum,
    mutual_information,
    predictive_entropy,
    scores_of,
    uncertainty,
)

LN2 = math.log(2)


def of_probabilities(
    members: list[list[float]], weights: Tensor | None, own: list[float] | None = None
) -> Prediction:
    """Return a prediction of one pixel from members' distributions; its own is their pool."""
    each = torch.tensor(members).log()[None, :, :, None, None]  # (E, C) -> (1, E, C, 1, 1)
    mixed = torch.tensor(own or [0.25] * len(members[0])).log()[None, :, None, None]
    return Prediction(mixed, weights, each)


def drawn(columns: int, *, experts: int = 3, gated: bool = True, batch: int = 2) -> Prediction:
    """Return a random prediction of 5 classes."""
    generator = torch.Generator().manual_seed(4)
    each = 3 * torch.randn(batch, experts, 5, 7, 9, generator=generator)
    logits = 3 * torch.randn(batch, 5, 7, 9, generator=generator)
    weights = (2 * torch.randn(batch, experts, columns, generator=generator)).softmax(dim=1)
    return Prediction(logits, weights if gated else None, each)


def slow(prediction: Prediction, score: str) -> NDArray[np.float64]:
    """Return a score, not scaled, pixel by pixel in float64."""
    assert prediction.expert_logits is not None
    own = prediction.logits.double().softmax(1).numpy()
    each = prediction.expert_logits.double().softmax(2).numpy()
    gates = None if prediction.weights is None else prediction.weights.double().numpy()
    found = np.zeros((len(own), *own.shape[2:]))
    for b, y, x in np.ndindex(found.shape):
        gate = None if gates is None else gates[b]
        found[b, y, x] = of_pixel(score, own[b, :, y, x], list(each[b, :, :, y, x]), gate)
    return found


def entropy(p: NDArray[np.float64]) -> float:
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def of_pixel(
    score: str,
    m: NDArray[np.float64],
    members: list[NDArray[np.float64]],
    gate: NDArray[np.float64] | None,
) -> float:
    """Return a score of one pixel from the distributions of model and members, straight."""
    if gate is None:
        w = [1 / len(members)] * len(members)
    else:
        w = [sum(m[c] * of_expert[c % len(of_expert)] for c in range(5)) for of_expert in gate]
    pairs = list(zip(w, members, strict=True))
    pool = np.sum([we * p for we, p in pairs], 0)
    stack = members if gate is None else [*members, m]
    values = {
        "entropy": entropy(m),
        "max-probability": 1 - m.max(),
        "mutual-information": sum(we * (p * np.log(p / pool)).sum() for we, p in pairs),
        "expert-variance": sum(we * ((p - pool) ** 2).sum() for we, p in pairs),
        "gate-entropy": entropy(np.array(w)),
        "entropy-stacked": entropy(np.mean(stack, 0)),
        "mutual-information-stacked": entropy(np.mean(stack, 0))
        - np.mean([entropy(p) for p in stack]),
        "mutual-information-weighted": max(
            0.0, entropy(pool) - float(np.mean([entropy(p) for p in members]))
        ),
        "expert-deviation-stacked": np.std([p[m.argmax()] for p in stack], ddof=1),
    }
    return float(values[score])


def test_two_sure_experts_of_different_classes_by_hand() -> None:
    tiny = 1e-12
    split = of_probabilities([[1 - tiny, tiny], [tiny, 1 - tiny]], None, own=[0.5, 0.5])
    for score in (predictive_entropy, max_probability, mutual_information, expert_variance):
        assert float(score(split)) == pytest.approx(1.0, abs=1e-6)
    assert float(mutual_information(split, scaled=False)) == pytest.approx(LN2, abs=1e-6)
    assert float(expert_variance(split, scaled=False)) == pytest.approx(0.5, abs=1e-6)
    # a quarter and three quarters: H(1/4) and 2 * 1/4 * 3/4
    gate = torch.tensor([[[0.25], [0.75]]])
    weighed = replace(split, weights=gate)
    h = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert float(mutual_information(weighed, scaled=False)) == pytest.approx(h, abs=1e-6)
    assert float(gate_entropy(weighed, scaled=False)) == pytest.approx(h, abs=1e-6)
    assert float(gate_entropy(weighed)) == pytest.approx(h / LN2, abs=1e-6)
    assert float(expert_variance(weighed, scaled=False)) == pytest.approx(0.375, abs=1e-6)


def test_class_wise_weights_by_hand() -> None:
    # the mixture says 0.8 / 0.2; expert 1 weighs 0.5 for class 0 and 1 for class 1: w_1 = 0.6
    gate = torch.tensor([[[0.5, 1.0], [0.5, 0.0]]])
    tiny = 1e-12
    split = of_probabilities([[1 - tiny, tiny], [tiny, 1 - tiny]], gate, own=[0.8, 0.2])
    h = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
    assert float(mutual_information(split, scaled=False)) == pytest.approx(h, abs=1e-6)
    assert float(gate_entropy(split, scaled=False)) == pytest.approx(h, abs=1e-6)


def test_experts_that_agree_are_certain_whatever_the_gate_says() -> None:
    gate = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    same = of_probabilities([[0.5, 0.5], [0.5, 0.5]], gate, own=[0.5, 0.5])
    assert float(mutual_information(same)) == pytest.approx(0.0, abs=1e-6)
    assert float(expert_variance(same)) == pytest.approx(0.0, abs=1e-6)
    assert float(gate_entropy(same)) == pytest.approx(1.0, abs=1e-6)


def test_weighted_as_published_would_be_negative() -> None:
    # all weight on the sure expert: the pool is sure, the unweighted mean entropy is not
    gate = torch.tensor([[[1.0], [0.0]]])
    lopsided = of_probabilities([[1 - 1e-12, 1e-12], [0.5, 0.5]], gate, own=[0.9, 0.1])
    assert float(mutual_information(lopsided, scaled=False)) == pytest.approx(0.0, abs=1e-6)
    assert float(mutual_information(lopsided, reading="weighted")) == 0.0
    stacked = float(mutual_information(lopsided, reading="stacked", scaled=False))
    mean = np.array([(1 + 0.5 + 0.9) / 3, (0 + 0.5 + 0.1) / 3])
    own = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    expected = -(mean * np.log(mean)).sum() - (0 + LN2 + own) / 3
    assert stacked == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("strip", [1, 200, 2**19])
@pytest.mark.parametrize("columns", [1, 5, 0])
@pytest.mark.parametrize("score", [*SCORES, *PUBLISHED])
def test_against_plain_formulas(
    monkeypatch: pytest.MonkeyPatch, score: Score, columns: int, strip: int
) -> None:
    monkeypatch.setattr("moeseg.insight.detectors.STRIP", strip)
    prediction = drawn(columns or 1, gated=columns > 0)
    if score not in scores_of(3, columns > 0, published=True):
        with pytest.raises(UsageError, match="expected a mixture with a gate, got no weights"):
            uncertainty(prediction, score)
        return
    expected = slow(prediction, score)
    plain = uncertainty(prediction, score, scaled=False)
    assert plain.shape == (2, 7, 9)
    np.testing.assert_allclose(plain.numpy(), expected, atol=2e-6)
    greatest = maximum(score, 3, 5) or expected.max()
    scaled = uncertainty(prediction, score).numpy()
    np.testing.assert_allclose(scaled, (expected / greatest).clip(0, 1), atol=3e-6)


@pytest.mark.parametrize(("experts", "classes"), [(2, 5), (3, 3), (4, 2), (8, 19)])
def test_maxima_are_reached_and_never_passed(experts: int, classes: int) -> None:
    sure = torch.full((experts, classes), 1e-12)
    for expert in range(experts):
        sure[expert, expert % classes] = 1.0
    best = of_probabilities(sure.tolist(), None, own=[1 / classes] * classes)
    named = ("mutual-information", "expert-variance", "entropy", "max-probability")
    for name in named:
        assert float(uncertainty(best, name)) == pytest.approx(1.0, abs=1e-5)
    generator = torch.Generator().manual_seed(1)
    logits = 8 * torch.randn(1, experts, classes, 40, 50, generator=generator)
    weights = torch.randn(1, experts, classes, generator=generator).softmax(1)
    wild = Prediction(logits.mean(1), weights, logits)
    for name in (*named, "gate-entropy"):
        plain = uncertainty(wild, name, scaled=False)
        greatest = maximum(name, experts, classes)
        assert greatest is not None
        assert float(plain.max()) <= greatest + 1e-5
        assert float(plain.min()) >= 0


def test_mutual_information_is_at_most_the_gates_entropy() -> None:
    for columns in (1, 5):
        wild = drawn(columns)
        information = mutual_information(wild, scaled=False)
        assert (information <= gate_entropy(wild, scaled=False) + 1e-5).all()


def test_published_deviation_hangs_on_the_batch_and_the_others_do_not() -> None:
    whole = drawn(1)
    assert whole.weights is not None
    assert whole.expert_logits is not None
    first = Prediction(whole.logits[:1], whole.weights[:1], whole.expert_logits[:1])
    for name in scores_of(3, True, published=True):
        together, alone = uncertainty(whole, name)[:1], uncertainty(first, name)
        assert float(uncertainty(whole, name).max()) <= 1.0
        if name == "expert-deviation-stacked":
            assert float(alone.max()) == pytest.approx(1.0)
        else:
            torch.testing.assert_close(together, alone)


def test_what_each_model_has() -> None:
    assert scores_of(1, False, published=True) == ("entropy", "max-probability")
    ensemble = ("entropy", "max-probability", "mutual-information", "expert-variance")
    assert scores_of(2, False) == ensemble
    assert scores_of(2, True) == (*ensemble, "gate-entropy")
    assert len(scores_of(2, False, published=True)) == len(ensemble) + 3
    assert len(scores_of(2, True, published=True)) == len(ensemble) + 5


def test_bad_input_is_told() -> None:
    whole = drawn(1)
    assert whole.expert_logits is not None
    single = replace(whole, weights=None, expert_logits=whole.expert_logits[:, :1])
    with pytest.raises(UsageError, match="two members or more, got 1; ask a mixture"):
        mutual_information(single)
    with pytest.raises(UsageError, match="got no expert logits"):
        expert_variance(replace(whole, expert_logits=None))
    with pytest.raises(UsageError, match="gate-entropy: expected a mixture with a gate"):
        gate_entropy(replace(whole, weights=None))
    with pytest.raises(UsageError, match=r"unknown score 'entropi'.*entropy"):
        uncertainty(whole, "entropi")
    lost = whole.expert_logits.clone()
    lost[0, 1, 2, 3, 4] = math.nan
    with pytest.raises(MoesegError, match=r"mutual-information: .* NaN at 1 of 126 pixels"):
        mutual_information(replace(whole, expert_logits=lost))
    before = whole.logits.clone()
    predictive_entropy(whole)
    assert torch.equal(before, whole.logits)


def test_impossible_classes_are_no_nan() -> None:
    logits = torch.tensor([0.0, -math.inf, 3.0])[None, :, None, None]
    each = torch.stack([logits, logits.flip(1)], 1)
    found = uncertainty(Prediction(logits, None, each), "mutual-information")
    assert found.isfinite().all()
    assert float(predictive_entropy(Prediction(logits))) > 0
