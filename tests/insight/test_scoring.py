"""Rows of detectors: every interval belongs to its number, wherever the scores lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from moeseg.evaluation.intervals import interval, resample_counts
from moeseg.insight.histograms import BINS, edges, resample_curves
from moeseg.insight.scoring import bin_of, detector_row
from moeseg.types import Row
from routed import BASE

HEAD: Row = BASE | {
    **{"kind": "detector", "model": "m", "subset": "fog", "condition": "clean", "images": 60},
    **{"size": [6, 8], "score": "s", "task": "wrong-pixels", "ci_unit": "sequence", "ci_units": 60},
}


def halves(squeezed: float) -> list[NDArray[np.int64]]:
    """Return (60, 4096) wrong and right pixels of 60 drives, not all of them equally hard."""
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.7, 1.3, 60)
    drawn = [
        [rng.beta(4 * h, 2, 400) for h in hard],
        [rng.beta(0.6 * h, 5, 4000) for h in hard],
    ]
    return [np.stack([np.histogram(squeezed * s, edges())[0] for s in half]) for half in drawn]


@pytest.mark.parametrize("squeezed", [1.0, 0.1, 0.01])
def test_intervals_contain_their_numbers(squeezed: float) -> None:
    wrong, right = halves(squeezed)
    drawn = resample_counts(60)
    row = detector_row(HEAD, wrong, right, drawn, drawn)
    assert row["ci95"][0] < row["auroc"] < row["ci95"][1]
    of_all = resample_curves(wrong, right, drawn, drawn)
    for key, values in zip(("aupr", "fpr95", "aurc"), of_all, strict=True):
        low, high = row[f"{key}_ci95"]
        assert low <= row[key] <= high
        assert low < high < low + 0.2
        assert [low, high] == pytest.approx(interval(values), abs=1 / 512)


def test_squeezed_scores_are_told_apart_as_well() -> None:
    rng = np.random.default_rng(3)
    wrong = rng.uniform(size=20_000) < 0.2
    # as the variance of two members that nearly agree: most pixels far below 1 / 4096
    score = np.exp(rng.normal(np.where(wrong, -8.0, -10.0), 2.5)).clip(0, 1).astype(np.float32)
    found = bin_of(torch.from_numpy(score)).numpy()
    halves = [np.bincount(found[of], minlength=BINS)[None] for of in (wrong, ~wrong)]
    assert np.array_equal(halves[0][0], np.histogram(score[wrong], edges())[0])
    drawn = resample_counts(1)
    row = detector_row(HEAD, halves[0], halves[1], drawn, drawn)
    assert row["auroc"] == pytest.approx(roc_auc_score(wrong, score), abs=2e-3)
    assert row["aupr"] == pytest.approx(average_precision_score(wrong, score), abs=5e-3)
    false, true, _ = roc_curve(wrong, score)
    assert row["fpr95"] == pytest.approx(false[np.argmax(true >= 0.95)], abs=0.02)


def test_edges_belong_to_the_bin_above() -> None:
    exact = torch.from_numpy(edges()).float()
    assert bin_of(exact).tolist() == [*range(BINS), BINS - 1]
    below = torch.nextafter(exact[1:], torch.zeros(()))
    assert bin_of(below).tolist() == list(range(BINS))
