"""Rows of detectors: every interval belongs to its number, wherever the scores lie."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from moeseg.evaluation.intervals import interval, resample_counts
from moeseg.insight.histograms import BINS, resample_curves
from moeseg.insight.scoring import detector_row
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
    return [
        np.stack([np.histogram(squeezed * s, BINS, range=(0.0, 1.0))[0] for s in half])
        for half in drawn
    ]


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
