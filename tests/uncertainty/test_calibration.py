"""Calibration: cases by hand, and plain numpy over all pixels without any histogram."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, log_loss
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from moeseg.insight.detectors import softmax_parts
from moeseg.uncertainty.calibration import (
    BINS,
    CLASS_FINE,
    FINE,
    brier,
    classwise_ece,
    correctness_scores,
    count_classes,
    count_confidences,
    ece,
    equal_mass,
    equal_mass_bound,
    equal_width,
    joined,
    mce,
    reliability,
)

Floats = NDArray[np.float64]


def moments(confidence: Tensor, right: Tensor, bins: int = FINE) -> Floats:
    return joined(*count_confidences(confidence, right, bins))


def drawn(count: int = 20_000, classes: int = 6) -> tuple[Tensor, Tensor]:
    """Return logits (C, 1, N) and labels (1, N) that they hit more often than not."""
    generator = torch.Generator().manual_seed(2)
    label = torch.randint(0, classes, (1, count), generator=generator)
    logits = 2 * torch.randn(classes, 1, count, generator=generator)
    logits.scatter_add_(0, label[None], 2 * torch.rand(1, 1, count, generator=generator))
    return logits, label


def slow_ece(confidence: Floats, right: Floats, edges: Floats) -> tuple[float, float]:
    """Return ECE and MCE of pixels in bins [low, high), the last one closed."""
    total, largest = 0.0, 0.0
    for low, high in pairwise(edges.tolist()):
        last = high == edges[-1]
        inside = (confidence >= low) & ((confidence <= high) if last else (confidence < high))
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            total += inside.mean() * gap
            largest = max(largest, gap)
    return total, largest


def test_by_hand() -> None:
    # 0.5 twice, one right: no gap; 0.9 four times, all right: 0.1; 1.0 twice, one right: 0.5
    confidence = torch.tensor([0.5, 0.5, 0.9, 0.9, 0.9, 0.9, 1.0, 1.0])
    right = torch.tensor([1, 0, 1, 1, 1, 1, 1, 0]).bool()
    coarse = equal_width(moments(confidence, right))
    assert coarse.shape == (3, 15)
    assert coarse[0].tolist() == [0] * 7 + [2] + [0] * 5 + [4, 2]
    assert float(ece(coarse)) == pytest.approx((4 * 0.1 + 2 * 0.5) / 8, abs=1e-7)
    assert float(mce(coarse)) == pytest.approx(0.5)
    shares, mean, accuracy = reliability(coarse)
    assert shares[13] == 0.5
    assert (mean[13], accuracy[13]) == (0.9, 1.0)
    assert (mean[0], accuracy[0]) == (None, None)
    # two bins of equal mass: the 0.5s with two of the 0.9s, and the other 0.9s with the 1.0s
    halves = equal_mass(moments(confidence, right), 2)
    assert halves[0].tolist() == [4, 4]
    assert float(ece(halves)) == pytest.approx((abs(3 - 2.8) + abs(3 - 3.8)) / 8, abs=1e-6)


def test_nothing_counted() -> None:
    nothing = np.zeros((3, FINE))
    for reading in (ece, mce, equal_mass_bound):
        assert np.isnan(reading(nothing))
    assert np.isnan(ece(equal_mass(nothing)))
    assert reliability(equal_width(nothing)) == [[0.0] * 15, [None] * 15, [None] * 15]


def test_against_plain_numpy_and_torchmetrics() -> None:
    logits, label = drawn()
    p = logits.softmax(0)[:, 0]  # (C, N)
    confidence, ids = p.max(0)
    right = ids == label[0]
    coarse = equal_width(moments(confidence, right))
    plain = slow_ece(confidence.double().numpy(), right.double().numpy(), np.linspace(0, 1, 16))
    assert float(ece(coarse)) == pytest.approx(plain[0], abs=1e-7)
    assert float(mce(coarse)) == pytest.approx(plain[1], abs=1e-7)
    theirs = multiclass_calibration_error(p.T, label[0], 6, n_bins=15)
    assert float(ece(coarse)) == pytest.approx(float(theirs), abs=1e-5)


@pytest.mark.parametrize("ties", [False, True])
def test_equal_mass_is_within_its_bound_of_the_sorted_pixels(ties: bool) -> None:
    logits, label = drawn()
    confidence, ids = logits.softmax(0)[:, 0].max(0)
    if ties:
        confidence = (confidence * 40).round() / 40
    right = (ids == label[0]).double()
    fine = moments(confidence, right.bool())
    order = confidence.argsort()
    values, hits = confidence.double()[order].numpy(), right[order].numpy()
    exact = 0.0
    for part in np.array_split(np.arange(len(values)), BINS):
        exact += abs(values[part].sum() - hits[part].sum()) / len(values)
    bound = float(equal_mass_bound(fine))
    rounding = 2 * BINS / len(values)  # bounds of whole pixels
    assert abs(float(ece(equal_mass(fine))) - exact) <= bound + rounding
    assert 0 < bound < (0.3 if ties else 1e-2)
    assert equal_mass(fine)[0] == pytest.approx([len(values) / BINS] * BINS)
    np.testing.assert_allclose(equal_mass(fine).sum(-1), fine.sum(-1))


def test_class_wise_counts_against_plain_numpy() -> None:
    logits, label = drawn(3000)
    logits[5] = -40.0  # a class that is never near
    valid = torch.rand(1, 3000, generator=torch.Generator().manual_seed(0)) > 0.2
    e, total, _ = softmax_parts(logits)
    found = joined(*count_classes(e, total, label, valid, CLASS_FINE))  # (C, 3, N)
    p = logits.double().softmax(0)[:, valid].numpy()  # (C, n)
    true = label[valid].numpy()
    errors = []
    for c in range(6):
        cell = np.minimum((p[c] * CLASS_FINE).astype(int), CLASS_FINE - 1)
        counts = np.bincount(cell, minlength=CLASS_FINE)
        assert np.abs(found[c, 0] - counts).sum() <= 4  # float32 at the edge of a bin
        assert found[c, 1].sum() == (true == c).sum()
        np.testing.assert_allclose(found[c, 2].sum(), p[c].sum(), rtol=1e-5, atol=1e-5)
        plain = slow_ece(p[c], (true == c).astype(float), np.linspace(0, 1, 16))[0]
        errors.append(plain)
        assert float(ece(equal_width(found[c]))) == pytest.approx(plain, abs=1e-3)
    last = e.permute(1, 2, 0).contiguous().permute(2, 0, 1)  # channels last in memory
    again = joined(*count_classes(last, total, label, valid, CLASS_FINE))
    np.testing.assert_allclose(again, found)
    assert float(classwise_ece(equal_width(found))) == pytest.approx(np.mean(errors), abs=5e-4)


def test_brier_against_scikit_learn_and_by_hand() -> None:
    e, total, _ = softmax_parts(torch.tensor([0.7, 0.2, 0.1]).log())
    for true, expected in enumerate((0.09 + 0.04 + 0.01, 0.49 + 0.64 + 0.01)):
        assert float(brier(e, total, e[true] / total)) == pytest.approx(expected, abs=1e-6)
    logits, label = drawn(500)
    e, total, _ = softmax_parts(logits)
    own = e.gather(0, label[None])[0] / total
    p = logits.double().softmax(0)[:, 0].T.numpy()
    one_hot = np.eye(6)[label[0].numpy()]
    expected = sum(brier_score_loss(one_hot[:, c], p[:, c]) for c in range(6))
    assert float(brier(e, total, own).mean()) == pytest.approx(expected, abs=1e-6)
    nll = log_loss(label[0].numpy(), p / p.sum(1, keepdims=True), labels=list(range(6)))
    assert float(-own.log().mean()) == pytest.approx(nll, abs=1e-5)


def test_correctness_scores_against_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(2000, generator=generator)
    confidence[:3] = torch.tensor([0.0, 1.0, 1.0])
    right = torch.rand(2000, generator=generator) < confidence
    right[:3] = torch.tensor([True, False, True])
    off, nll = correctness_scores(confidence, right)
    assert float(off.mean()) == pytest.approx(brier_score_loss(right.numpy(), confidence.numpy()))
    assert float(nll.mean()) == pytest.approx(log_loss(right.numpy(), confidence.numpy()), rel=1e-4)


def test_moments_of_parts_add_up() -> None:
    logits, label = drawn()
    confidence, ids = logits.softmax(0)[:, 0].max(0)
    right = ids == label[0]
    whole = moments(confidence, right)
    parts = sum(moments(confidence[n::7], right[n::7]) for n in range(7))
    np.testing.assert_array_equal(whole[:2], np.asarray(parts)[:2])
    np.testing.assert_allclose(whole[2], np.asarray(parts)[2])


def test_a_calibrated_model_is_told_from_one_that_boasts() -> None:
    generator = torch.Generator().manual_seed(0)
    confidence = 0.2 + 0.8 * torch.rand(200_000, generator=generator)
    honest = torch.rand(200_000, generator=generator) < confidence
    boasting = torch.rand(200_000, generator=generator) < confidence - 0.15
    assert float(ece(equal_width(moments(confidence, honest)))) < 0.01
    assert float(ece(equal_width(moments(confidence, boasting)))) == pytest.approx(0.15, abs=0.01)
