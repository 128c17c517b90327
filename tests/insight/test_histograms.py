"""Histogram readings: by hand, against scikit-learn on the binned scores, and their bounds."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad, trapezoid
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from moeseg.evaluation.intervals import resample_counts
from moeseg.insight.histograms import (
    aupr,
    aurc,
    auroc,
    auroc_bound,
    fpr_at_tpr,
    lighter,
    resample_auroc,
    resample_curves,
    risk_at,
    roc,
)

Counts = NDArray[np.int64]


def some_scores(seed: int, count: int = 3000) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return scores in 0..1 and which of them are positives; positives tend to score higher."""
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < 0.2
    return rng.beta(np.where(positive, 3.0, 1.0), 2.0), positive


def binned(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], bins: int
) -> tuple[Counts, Counts, Counts]:
    """Return each score's bin, and the histograms of positives and negatives."""
    index = np.minimum((scores * bins).astype(np.int64), bins - 1)
    both = [np.bincount(index[kind], minlength=bins) for kind in (positive, ~positive)]
    return index, both[0], both[1]


def test_by_hand() -> None:
    # from low to high scores: 3 negatives | 1 positive and 1 negative | 2 positives
    p, n = np.array([0, 1, 2]), np.array([3, 1, 0])
    # of 3 * 4 pairs 3 * 4 - 1 are in order and one is tied
    assert auroc(p, n) == pytest.approx(11.5 / 12)
    assert auroc_bound(p, n) == pytest.approx(0.5 / 12)
    # recall 2/3 at precision 1, then 1 at 3/4
    assert aupr(p, n) == pytest.approx(2 / 3 + 1 / 3 * 3 / 4)
    assert fpr_at_tpr(p, n) == pytest.approx(1 / 4)
    assert fpr_at_tpr(p, n, tpr=0.6) == 0.0
    # three without error; then errors at half rate; then at full rate
    area = quad(lambda k: 0.5 * (k - 3) / k, 3, 5)[0] + quad(lambda k: (k - 4) / k, 5, 7)[0]
    assert aurc(p, n) == pytest.approx(area / 7)
    assert risk_at(p, n, [3 / 7, 4 / 7, 5 / 7, 6 / 7, 1.0]) == pytest.approx(
        [0.0, 0.5 / 4, 1 / 5, 2 / 6, 3 / 7]
    )
    assert np.isnan(risk_at(p, n, [0.0])[0])
    fpr, tpr = roc(p, n, points=3)  # in the middle: FPR + TPR = 1, on the way from (0, 2/3)
    assert fpr == pytest.approx([0.0, 1 / 7, 1.0])
    assert tpr == pytest.approx([0.0, 6 / 7, 1.0])


@pytest.mark.parametrize("bins", [2, 7, 64, 4096])
def test_as_scikit_learn_on_binned_scores(bins: int) -> None:
    scores, positive = some_scores(bins)
    index, p, n = binned(scores, positive, bins)
    assert auroc(p, n) == pytest.approx(roc_auc_score(positive, index), abs=1e-12)
    assert aupr(p, n) == pytest.approx(average_precision_score(positive, index), abs=1e-12)
    fpr, tpr, _ = roc_curve(positive, index, drop_intermediate=False)
    for least in (0.5, 0.95, 1.0):
        assert fpr_at_tpr(p, n, least) == pytest.approx(fpr[tpr >= least][0], abs=1e-12)
    ours = roc(p, n)
    assert len(ours[0]) == len(ours[1]) == 101
    at = np.interp(ours[0] + ours[1], fpr + tpr, tpr)
    assert ours[1] == pytest.approx(at, abs=1e-12)
    assert np.all(np.diff(ours) >= 0)


@pytest.mark.parametrize("bins", [2, 7, 64, 4096])
def test_the_scores_before_binning_are_within_the_bounds(bins: int) -> None:
    scores, positive = some_scores(bins)
    _, p, n = binned(scores, positive, bins)
    off = abs(roc_auc_score(positive, scores) - auroc(p, n))
    assert off <= auroc_bound(p, n)
    assert auroc_bound(p, n) < (1e-3 if bins == 4096 else 1.0)
    fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
    excess = fpr_at_tpr(p, n) - fpr[tpr >= 0.95][0]
    assert 0.0 <= excess <= n.max() / n.sum()
    order = np.argsort(scores, kind="stable")
    errors = np.concatenate([[0], positive[order].cumsum()])
    after = np.cumsum(p + n)
    at_edges = risk_at(p, n, after[after > 0] / len(scores))
    edges = after[after > 0]
    assert at_edges == pytest.approx(errors[edges] / edges, abs=1e-12)
    each = np.arange(1, len(scores) + 1)
    where = np.searchsorted(after, each)  # the bin of the k-th pixel
    allowed = (p * n / np.maximum(p + n, 1))[where] / each
    assert np.all(np.abs(risk_at(p, n, each / len(scores)) - errors[1:] / each) <= allowed + 1e-12)


@pytest.mark.parametrize("bins", [2, 7, 64, 4096])
def test_aurc_is_the_integral_of_the_curve(bins: int) -> None:
    scores, positive = some_scores(bins)
    _, p, n = binned(scores, positive, bins)
    fine = np.linspace(1e-6, 1.0, 400_001)
    assert aurc(p, n) == pytest.approx(trapezoid(risk_at(p, n, fine), fine), abs=1e-5)


def test_values_in_bins_of_their_own_are_exact() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 3, 500) / 2, rng.random(500) < 0.3
    _, p, n = binned(scores, positive, 4096)
    assert auroc(p, n) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert auroc_bound(p, n) > 0.05  # an upper bound: true ties count half too


def test_order_matters() -> None:
    p, n = np.array([0, 0, 5]), np.array([7, 2, 0])
    assert [float(f(p, n)) for f in (auroc, aupr, fpr_at_tpr)] == [1.0, 1.0, 0.0]
    assert [float(f(p[::-1], n[::-1])) for f in (auroc, fpr_at_tpr)] == [0.0, 1.0]
    assert aurc(p, n) < 5 / 14 < aurc(p[::-1], n[::-1])


def test_without_one_kind_there_is_no_number() -> None:
    some, none = np.array([1, 2, 3]), np.zeros(3, np.int64)
    for p, n in ((some, none), (none, some), (none, none)):
        assert np.isnan([auroc(p, n), auroc_bound(p, n), fpr_at_tpr(p, n)]).all()
        assert np.isnan(roc(p, n)).all()
    assert np.isnan([aupr(none, some), aurc(none, none)]).all()
    assert np.isnan(risk_at(none, none, [0.0, 0.5, 1.0])).all()
    assert float(aupr(some, none)) == float(aurc(some, none)) == 1.0
    assert float(aurc(none, some)) == 0.0


def test_leading_axes() -> None:
    rng = np.random.default_rng(1)
    p, n = rng.integers(0, 9, (2, 3, 16)), rng.integers(0, 9, (2, 3, 16))
    for function in (auroc, auroc_bound, aupr, fpr_at_tpr, aurc):
        values = function(p, n)
        assert values.shape == (2, 3)
        assert values[1, 2] == function(p[1, 2], n[1, 2])


def test_large_counts_do_not_overflow() -> None:
    counts = np.array([2**40, 2**41])
    # of 3 * 3 pairs 1 * 1 in order and 1 * 2 + 2 * 1 tied; and the other way round
    assert auroc(counts[::-1], counts) == pytest.approx((1 + 4 / 2) / 9)
    assert auroc(counts, counts[::-1]) == pytest.approx((4 + 4 / 2) / 9)


def test_resamples_are_readings_of_sums() -> None:
    rng = np.random.default_rng(2)
    p, n = rng.integers(0, 5, (6, 32)), rng.integers(0, 50, (6, 32))
    others = rng.integers(0, 50, (9, 32))
    p[:, 4:9] = n[:, 4:9] = others[:, 4:9] = 0  # empty bins
    drawn, other_drawn = resample_counts(6, draws=300), resample_counts(9, draws=300, seed=1)
    for negatives, of in ((n, drawn), (others, other_drawn)):
        curves = resample_auroc(p, negatives, drawn, of)
        precisions, alarms, areas = resample_curves(p, negatives, drawn, of)
        assert curves.shape == precisions.shape == alarms.shape == areas.shape == (300,)
        for row in (0, 1, 127, 128, 299):
            sums = drawn[row] @ p, of[row] @ negatives
            assert curves[row] == pytest.approx(auroc(*sums), abs=1e-12)
            assert areas[row] == pytest.approx(aurc(*sums), abs=1e-12)
            assert precisions[row] == pytest.approx(aupr(*sums), abs=1e-12)
            assert alarms[row] == pytest.approx(fpr_at_tpr(*sums), abs=1e-12)


def test_resamples_without_positives_are_nan() -> None:
    p, n = np.array([[0, 0], [0, 3]]), np.array([[4, 1], [2, 2]])
    drawn = np.array([[2, 0], [1, 1]])
    assert np.isnan(resample_auroc(p, n, drawn, drawn)).tolist() == [True, False]
    precisions, alarms, areas = resample_curves(p, n, drawn, drawn)
    assert np.isnan(precisions).tolist() == np.isnan(alarms).tolist() == [True, False]
    assert not np.isnan(areas).any()
    nothing = np.zeros((2, 2), np.int64)
    assert np.isnan(resample_curves(nothing, nothing, drawn, drawn)).all()


@pytest.mark.parametrize("squeezed", [1.0, 0.01])
def test_lighter_histograms_read_nearly_the_same(squeezed: float) -> None:
    rng = np.random.default_rng(3)
    scores = squeezed * np.concatenate([rng.beta(3, 2, 30_000), rng.beta(0.5, 6, 300_000)])
    positive = np.arange(len(scores)) < 30_000
    _, p, n = binned(scores, positive, 4096)
    light, light_negatives = lighter(p[None], n[None])
    assert (light.sum(), light_negatives.sum()) == (p.sum(), n.sum())
    joined = light.shape[1] < min((p + n > 0).sum(), 1024)
    assert joined == (squeezed == 1.0)  # 41 bins hold so much that hardly any are joined
    for function in (aupr, fpr_at_tpr, aurc):
        of_light, of_all = function(light[0], light_negatives[0]), function(p, n)
        assert of_light == pytest.approx(of_all, abs=1 / 512)


def test_lighter_joins_neighbours_up_to_a_share() -> None:
    p = np.array([[0, 1, 0, 2, 4], [0, 0, 0, 0, 3]])  # 0 1 0 2 7 of 10
    n = np.array([[1, 0, 0, 1, 1]])
    light, light_negatives = lighter(p, n, share=0.34)
    # the fourth bin would bring the first three to 2 of 3 negatives; the last one is too heavy
    assert light.tolist() == [[1, 2, 4], [0, 0, 3]]
    assert light_negatives.tolist() == [[1, 1, 1]]
    nothing, _ = lighter(np.zeros((2, 5)), np.zeros((2, 5)))
    assert nothing.tolist() == [[0], [0]]
