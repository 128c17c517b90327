"""How well a score tells positives from negatives, read from two histograms of it.

Pure functions on counts: ROC, precision and recall, risk and coverage, and their resamples. Bins
ascend with the score, and a high score says "positive": a wrong pixel, an unseen frame, an attack.
All take leading axes. What is scored, and the rows, belong to those who count.

A histogram knows the order of bins, not the order within one: pixels of one bin are ties. For AUROC
half of a bin's pairs of a positive and a negative are taken to be in order, so it is off by at most
`auroc_bound`; true ties count half too, so that with a score of few values, each in a bin of its
own, it is exact and the bound merely holds. The FPR at a given TPR is never too small, and too
large by at most the share of the negatives in the bin where the threshold falls. For risk and
coverage a bin's positives are spread evenly over it: the curve is exact at the edges of bins, and
between two edges off by at most p*n / (m*k), where the bin's m = p + n pixels are p positives and
n negatives and k pixels are covered.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

BINS = 4096
"""Bins of 0..1, equal in the root of the score; the last one holds 1 itself.

Variance and mutual information of members that agree lie close to 0 for most pixels: equal bins
would take half of all pairs for ties.
"""

CELLS = 1 << 16
"""Bins of resamples that are read at once: as many as the cache of a core holds."""

LIGHT = 1 / 512
"""No bins are joined by `lighter` to more than this share of the positives or of the negatives."""


def edges(bins: int = BINS) -> Floats:
    """Return the scores (N + 1,) in 0..1 that part N bins, both ends included."""
    return (np.arange(bins + 1) / bins) ** 2


def auroc(positives: ArrayLike, negatives: ArrayLike) -> Floats:
    """Return the probability that a positive scores higher than a negative; a tie counts half.

    Args:
        positives: (..., N) counts per bin.
        negatives: (..., N) counts per bin.

    Returns:
        (...) in 0..1; NaN without a positive or without a negative.
    """
    p, n = _counts(positives, negatives)
    lower = n.cumsum(-1) - n / 2
    return _ratio((p * lower).sum(-1), p.sum(-1) * n.sum(-1))


def auroc_bound(positives: ArrayLike, negatives: ArrayLike) -> Floats:
    """Return how far, at most, `auroc` is from that of the scores before binning.

    That is half the share of all pairs of a positive and a negative that fall into one bin.

    Args:
        positives: (..., N) counts per bin.
        negatives: (..., N) counts per bin.

    Returns:
        (...) in 0..0.5; NaN without a positive or without a negative.
    """
    p, n = _counts(positives, negatives)
    return _ratio((p * n).sum(-1) / 2, p.sum(-1) * n.sum(-1))


def aupr(positives: ArrayLike, negatives: ArrayLike) -> Floats:
    """Return the area under precision and recall as a sum of steps (average precision).

    Args:
        positives: (..., N) counts per bin.
        negatives: (..., N) counts per bin.

    Returns:
        (...) in 0..1; NaN without a positive. Chance is the share of positives.
    """
    return _aupr(_swept(*_counts(positives, negatives)))


def fpr_at_tpr(positives: ArrayLike, negatives: ArrayLike, tpr: float = 0.95) -> Floats:
    """Return the share of negatives above the highest threshold that finds `tpr` of the positives.

    Args:
        positives: (..., N) counts per bin.
        negatives: (..., N) counts per bin.
        tpr: share of the positives, 0..1, which is reached or exceeded.

    Returns:
        (...) in 0..1; NaN without a positive or without a negative.
    """
    return _fpr(_swept(*_counts(positives, negatives)), tpr)


def aurc(positives: ArrayLike, negatives: ArrayLike) -> Floats:
    """Return the area under risk and coverage (El-Yaniv and Wiener, 2010), low scores first.

    Risk at coverage c is the share of positives (errors) among the c of lowest score. The area is
    the exact integral over c, with the positives of a bin spread evenly over it: after k pixels
    with e errors, a bin of m pixels with p errors adds p + (e - k p / m) ln((k + m) / k).

    Args:
        positives: (..., N) counts per bin.
        negatives: (..., N) counts per bin.

    Returns:
        (...) in 0..1; NaN where nothing was counted.
    """
    return _aurc(_swept(*_counts(positives, negatives)))


def risk_at(positives: ArrayLike, negatives: ArrayLike, coverage: ArrayLike) -> Floats:
    """Return the share of positives (errors) among the given shares of lowest score.

    Args:
        positives: (N,) counts per bin.
        negatives: (N,) counts per bin.
        coverage: (K,) shares of all that was counted, 0..1.

    Returns:
        (K,) in 0..1; NaN at coverage 0, and where nothing was counted.
    """
    p, n = _counts(positives, negatives)
    covered = np.concatenate([[0.0], (p + n).cumsum()])
    errors = np.concatenate([[0.0], p.cumsum()])
    at = np.asarray(coverage, dtype=np.float64) * covered[-1]
    return _ratio(_interpolate(at, covered, errors), at)


def roc(positives: ArrayLike, negatives: ArrayLike, points: int = 101) -> tuple[Floats, Floats]:
    """Return points of the ROC curve at equal steps of FPR + TPR, from (0, 0) to (1, 1).

    Equal steps of FPR alone would leave out the steep beginning that makes a good detector.

    Args:
        positives: (N,) counts per bin.
        negatives: (N,) counts per bin.
        points: how many.

    Returns:
        FPR and TPR, (points,) each, both ascending; NaN without a positive or without a negative.
    """
    p, n = _counts(positives, negatives)
    fpr = np.concatenate([[0.0], _ratio(_from_top(n), n.sum(-1, keepdims=True))])
    tpr = np.concatenate([[0.0], _ratio(_from_top(p), p.sum(-1, keepdims=True))])
    if np.isnan(fpr[-1] + tpr[-1]):
        return np.full(points, np.nan), np.full(points, np.nan)
    at = np.linspace(0.0, 2.0, points)
    return _interpolate(at, fpr + tpr, fpr), _interpolate(at, fpr + tpr, tpr)


def resample_auroc(
    positives: ArrayLike, negatives: ArrayLike, drawn: ArrayLike, drawn_negatives: ArrayLike
) -> Floats:
    """Return the AUROC of every resample.

    Sums of units are never made: the pairs in order are counted once between every two units.

    Args:
        positives: (G, N) counts per unit and bin.
        negatives: (H, N) counts per unit and bin, of the same units or others.
        drawn: (R, G) how often each unit of the positives is in each resample.
        drawn_negatives: (R, H) the same of the negatives.

    Returns:
        (R,) in 0..1; NaN for a resample without a positive or without a negative.
    """
    p, n = np.asarray(positives, dtype=np.float64), np.asarray(negatives, dtype=np.float64)
    of_p, of_n = np.asarray(drawn, np.float64), np.asarray(drawn_negatives, np.float64)
    pairs = p @ (n.cumsum(-1) - n / 2).T  # (G, N) @ (N, H) -> (G, H)
    ordered = ((of_p @ pairs) * of_n).sum(-1)  # (R, G) @ (G, H) -> (R, H) -> (R,)
    return _ratio(ordered, (of_p @ p.sum(-1)) * (of_n @ n.sum(-1)))


def resample_curves(
    positives: ArrayLike, negatives: ArrayLike, drawn: ArrayLike, drawn_negatives: ArrayLike
) -> tuple[Floats, Floats, Floats]:
    """Return AUPR, FPR at 95 % TPR, and AURC of every resample; arguments as `resample_auroc`.

    Returns:
        Three of (R,); NaN where a resample counts nothing, or none of what the reading needs.
    """
    p, n = np.asarray(positives, dtype=np.float64), np.asarray(negatives, dtype=np.float64)
    of_p, of_n = np.asarray(drawn, np.float64), np.asarray(drawn_negatives, np.float64)
    used = (p.sum(0) + n.sum(0)) > 0
    if not used.any():
        nothing = np.full(len(of_p), np.nan)
        return nothing, nothing, nothing
    p, n = p[:, used], n[:, used]
    read: list[list[Floats]] = [[], [], []]
    chunk = max(CELLS // p.shape[1], 1)
    for start in range(0, len(of_p), chunk):
        rows = slice(start, start + chunk)
        swept = _swept(of_p[rows] @ p, of_n[rows] @ n)  # (R, G) @ (G, N) -> (R, N), some rows
        for values, reading in zip(read, (_aupr, _fpr, _aurc), strict=True):
            values.append(reading(swept))
    pr, fpr, area = (np.concatenate(values) for values in read)
    return pr, fpr, area


def lighter(
    positives: ArrayLike, negatives: ArrayLike, share: float = LIGHT
) -> tuple[Floats, Floats]:
    """Return histograms of fewer bins, for readings that are wanted of many resamples.

    Neighbours are joined as long as together they hold at most `share` of the positives and of the
    negatives. So wherever the scores lie, AUPR, AURC and FPR change by about `share` at most.

    Args:
        positives: (G, N) counts per unit and bin.
        negatives: (H, N) counts per unit and bin.
        share: 0..1.

    Returns:
        (G, M) and (H, M), about 4 / `share` bins at most.
    """
    p, n = _counts(positives, negatives)
    of_p, of_n = (h.sum(0) / max(h.sum(), 1.0) for h in (p, n))  # (N,) each
    starts: list[int] = []
    held_p = held_n = np.inf  # so that the first bin starts a group
    for place, (mass_p, mass_n) in enumerate(zip(of_p.tolist(), of_n.tolist(), strict=True)):
        if held_p + mass_p > share or held_n + mass_n > share:
            starts.append(place)
            held_p = held_n = 0.0
        held_p, held_n = held_p + mass_p, held_n + mass_n
    return np.add.reduceat(p, starts, axis=1), np.add.reduceat(n, starts, axis=1)


def _counts(positives: ArrayLike, negatives: ArrayLike) -> tuple[Floats, Floats]:
    # float64 holds counts below 2**53 exactly, and products of two do not overflow
    return np.asarray(positives, dtype=np.float64), np.asarray(negatives, dtype=np.float64)


class _Swept(NamedTuple):
    """Counts from the highest bin down, all (..., N)."""

    positives: Floats
    all: Floats
    hits: Floats  # positives at or above
    alarms: Floats  # all at or above


def _swept(p: Floats, n: Floats) -> _Swept:
    p, m = p[..., ::-1], (p + n)[..., ::-1]
    return _Swept(p, m, p.cumsum(-1), m.cumsum(-1))


def _aupr(swept: _Swept) -> Floats:
    precision = swept.hits / np.maximum(swept.alarms, 1.0)
    return _ratio((swept.positives * precision).sum(-1), swept.hits[..., -1])


def _fpr(swept: _Swept, tpr: float = 0.95) -> Floats:
    hits, alarms = swept.hits, swept.alarms
    of_all = hits[..., -1]
    first = (_ratio(hits, of_all[..., None]) >= tpr).argmax(-1)[..., None]
    found, raised = (np.take_along_axis(c, first, -1)[..., 0] for c in (hits, alarms))
    return _ratio(np.where(of_all > 0, raised - found, np.nan), alarms[..., -1] - of_all)


def _aurc(swept: _Swept) -> Floats:
    p, m, hits, alarms = swept
    below = alarms[..., -1:] - alarms
    log = np.log(np.maximum(below + m, 1.0))
    # ln of what a bin and those below hold over the latter, where 1 stands for no pixel yet
    log[..., :-1] -= log[..., 1:].copy()
    rest = hits[..., -1:] - hits - below * (p / np.maximum(m, 1.0))  # 0 where nothing is below
    return _ratio((p + rest * log).sum(-1), alarms[..., -1])


def _from_top(counts: Floats) -> Floats:
    """Return (..., N) counts at or above each bin, from the highest bin down."""
    return counts[..., ::-1].cumsum(-1)


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Divide shares; NaN where the whole is 0. Rounding does not lead out of 0..1."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, (part / whole).clip(0.0, 1.0), np.nan)


def _interpolate(at: Floats, x: Floats, y: Floats) -> Floats:
    """Interpolate between the points of an ascending x; those that stand twice say the same."""
    x, first = np.unique(x, return_index=True)
    values: Floats = np.interp(at, x, y[first])
    return values
