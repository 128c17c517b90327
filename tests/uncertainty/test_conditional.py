"""Conditional correctness: cases by hand, and plain counting over pixels at every threshold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from moeseg.insight.histograms import edges
from moeseg.uncertainty.conditional import (
    Reading,
    best_threshold,
    conditional,
    patches,
    pavpu_shares,
)


def test_by_hand() -> None:
    # four bins, parted at 1/16, 4/16 and 9/16; right pixels 3 1 0 1, wrong ones 0 1 2 2
    found = conditional([3, 1, 0, 1], [0, 1, 2, 2])
    nan = math.nan
    np.testing.assert_allclose(found.accurate_certain, [nan, 1, 4 / 5, 4 / 7, 5 / 10])
    np.testing.assert_allclose(found.uncertain_inaccurate, [1, 1, 4 / 5, 2 / 5, 0])
    np.testing.assert_allclose(found.pavpu, [5 / 10, 8 / 10, 8 / 10, 6 / 10, 5 / 10])
    # n_ac + 2 n_ic + n_iu: 5, 8, 5 + 5, 7 + 5, 10 + 5
    published = conditional([3, 1, 0, 1], [0, 1, 2, 2], "published").pavpu
    np.testing.assert_allclose(published, [1, 1, 8 / 10, 6 / 12, 5 / 15])
    assert best_threshold([3, 1, 0, 1], [0, 1, 2, 2]) == 1 / 16
    assert found.at(found.pavpu, 1 / 16) == 0.8
    trapezia = 0.65 * 1 + 0.8 * 3 + 0.7 * 5 + 0.55 * 7
    assert found.area(found.pavpu) == pytest.approx(trapezia / 16)
    trapezia = 1 * 1 + 0.9 * 3 + (4 / 5 + 4 / 7) / 2 * 5 + (4 / 7 + 1 / 2) / 2 * 7
    assert found.area(found.accurate_certain) == pytest.approx(trapezia / 16)


@pytest.mark.parametrize("reading", ["correct", "published", "published-swapped"])
def test_against_plain_counting(reading: Reading) -> None:
    rng = np.random.default_rng(0)
    score = rng.beta(1, 3, 5000)
    wrong = rng.uniform(size=5000) < 0.1 + 0.6 * score
    halves = [np.histogram(score[w], bins=edges(64))[0] for w in (~wrong, wrong)]
    found = conditional(halves[0], halves[1], reading)
    for edge, threshold in enumerate(edges(64)):
        # handed in as the confidence, a score is certain where 1 - score is below the threshold
        swapped = reading == "published-swapped"
        place = 64 - edge if swapped else edge
        certain = score >= threshold if swapped else score < threshold
        assert found.thresholds[place] == pytest.approx(1 - threshold if swapped else threshold)
        ac, ic = (~wrong & certain).sum(), (wrong & certain).sum()
        iu = (wrong & ~certain).sum()
        whole = 5000 if reading == "correct" else ac + 2 * ic + iu
        assert found.pavpu[place] == pytest.approx((ac + iu) / whole)
        assert found.uncertain_inaccurate[place] == pytest.approx(iu / (ic + iu))
        if ac + ic:
            assert found.accurate_certain[place] == pytest.approx(ac / (ac + ic))
        else:
            assert math.isnan(found.accurate_certain[place])


def test_area_of_pavpu_is_a_ratio_of_sums() -> None:
    rng = np.random.default_rng(1)
    right, wrong = rng.integers(0, 50, (2, 6, 128)).astype(float)
    hits, whole = pavpu_shares(right, wrong)
    total = conditional(right.sum(0), wrong.sum(0))
    assert hits.sum() / whole.sum() == pytest.approx(total.area(total.pavpu))


def test_nothing_wrong_and_nothing_at_all() -> None:
    perfect = conditional([5, 0], [0, 0])
    assert np.isnan(perfect.uncertain_inaccurate).all()
    assert math.isnan(perfect.area(perfect.uncertain_inaccurate))
    assert perfect.area(perfect.accurate_certain) == 1.0
    assert best_threshold([5, 0], [0, 0]) == 0.25
    assert best_threshold([0, 0], [0, 0]) is None
    assert np.isnan(conditional([0, 0], [0, 0]).pavpu).all()


def test_thinned_points_are_edges_of_fewer_bins() -> None:
    found = conditional(np.ones(4096), np.ones(4096))
    assert found.thinned(found.thresholds).tolist() == edges(128).tolist()


@pytest.mark.parametrize("size", [(8, 12), (7, 9), (3, 3)])
def test_patches_against_plain_loops(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, *size, generator=generator)
    half = torch.randint(0, 3, size, generator=generator)
    half[:4, :4] = 2
    score, accurate = patches(maps, half)
    expected: list[list[float]] = []
    right: list[bool] = []
    for top in range(0, size[0], 4):
        for left in range(0, size[1], 4):
            cut = (slice(top, top + 4), slice(left, left + 4))
            valid = half[cut] < 2
            if valid.any():
                expected.append([float(one[cut][valid].mean()) for one in maps])
                right.append(float((half[cut][valid] == 0).float().mean()) >= 0.5)
    assert score.shape == (2, len(expected))
    np.testing.assert_allclose(score.T.numpy(), np.reshape(expected, (-1, 2)), atol=1e-6)
    assert accurate.tolist() == right
