"""Conditional correctness: are the certain pixels right, and the wrong ones uncertain?

After Mukhoti and Gal (2018, section 3.3). Pure functions on two histograms of a score, of right
and of wrong pixels or patches, in the bins of `insight.histograms`: at each edge t of a bin, what
scores below t is certain. One histogram gives the curves over the whole range of t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from moeseg.insight.histograms import Floats, edges

Reading = Literal["correct", "published", "published-swapped"]
Unit = Literal["pixel", "patch"]

POINTS = 128
"""Steps of the curves that are kept to be drawn; areas and single values are of the whole ones."""
PATCH = 4
"""Side of a patch in pixels, as in the paper."""


@dataclass(frozen=True, slots=True)
class Conditional:
    """The curves over the N + 1 edges of N bins, all (N + 1,) in 0..1; NaN where undefined.

    Attributes:
        thresholds: t, ascending.
        accurate_certain: p(accurate | certain).
        uncertain_inaccurate: p(uncertain | inaccurate).
        pavpu: accurate and certain, or inaccurate and uncertain, as a share of all.
    """

    thresholds: Floats
    accurate_certain: Floats
    uncertain_inaccurate: Floats
    pavpu: Floats

    def area(self, curve: Floats) -> float:
        """Return the area under a curve over t in 0..1 by trapezia; NaN if nothing is defined.

        Before its first defined point a curve is taken to have that point's value.
        """
        defined = np.flatnonzero(~np.isnan(curve))
        if not len(defined):
            return float("nan")
        whole = np.where(np.isnan(curve), curve[defined[0]], curve)
        return float(np.diff(self.thresholds) @ (whole[1:] + whole[:-1]) / 2)

    def at(self, curve: Floats, threshold: float) -> float:
        """Return a curve's value at a threshold, an edge of a bin."""
        return float(curve[np.abs(self.thresholds - threshold).argmin()])

    def thinned(self, curve: Floats) -> Floats:
        """Return the curve at `POINTS` + 1 of its thresholds, evenly among the edges."""
        return curve[:: (len(curve) - 1) // POINTS]


def conditional(right: ArrayLike, wrong: ArrayLike, reading: Reading = "correct") -> Conditional:
    """Return the three curves.

    With a = accurate, i = inaccurate, c = certain, u = uncertain and counts n:
    p(a|c) = n_ac / (n_ac + n_ic), p(u|i) = n_iu / (n_ic + n_iu),
    PAvPU = (n_ac + n_iu) / (n_ac + n_au + n_ic + n_iu).

    Args:
        right: (N,) counts per bin of the score, 0..1.
        wrong: the same.
        reading: ``published`` divides PAvPU by n_c + n_i = n_ac + 2 n_ic + n_iu: accurate but
            uncertain pixels cost nothing. ``published-swapped`` also hands in the uncertainty as
            the confidence, so that the most uncertain pixels are called certain.
    """
    r, w = np.asarray(right, np.float64), np.asarray(wrong, np.float64)
    thresholds = edges(len(r))
    if reading == "published-swapped":
        r, w, thresholds = r[::-1], w[::-1], 1 - thresholds[::-1]
    ac, ic = _below(r), _below(w)
    inaccurate = w.sum()
    iu = inaccurate - ic
    whole = r.sum() + inaccurate if reading == "correct" else ac + ic + inaccurate
    return Conditional(
        thresholds,
        _ratio(ac, ac + ic),
        _ratio(iu, np.full_like(iu, inaccurate)),
        _ratio(ac + iu, whole + np.zeros_like(ac)),
    )


def pavpu_shares(right: Floats, wrong: Floats) -> tuple[Floats, Floats]:
    """Return sums (G,) of which the area under PAvPU is the ratio, of G units by themselves.

    A right pixel adds the range of thresholds above its bin's middle, a wrong one that below it.

    Args:
        right: (G, N) counts.
        wrong: (G, N) counts.

    Returns:
        What PAvPU counts, and all that is counted.
    """
    parted = edges(right.shape[-1])
    below = (parted[1:] + parted[:-1]) / 2
    return right @ (1 - below) + wrong @ below, right.sum(-1) + wrong.sum(-1)


def best_threshold(right: ArrayLike, wrong: ArrayLike) -> float | None:
    """Return the threshold of the greatest PAvPU, the lowest of several; None without a pixel."""
    found = conditional(right, wrong)
    if np.isnan(found.pavpu).all():
        return None
    return float(found.thresholds[np.nanargmax(found.pavpu)])


def patches(maps: Tensor, half: Tensor, side: int = PATCH) -> tuple[Tensor, Tensor]:
    """Return score and correctness of the patches of an image.

    A patch's score is the mean over its labelled pixels; it is accurate if at least half of them
    are right. A patch without a labelled pixel is none.

    Args:
        maps: (S, H, W) scores.
        half: (H, W) int, 0 right, 1 wrong, 2 not labelled.
        side: of a patch, which at the right and lower edge may be cut.

    Returns:
        (S, P) scores, and (P) bool, accurate.
    """
    valid = (half < 2).to(maps.dtype)
    right = (half == 0).to(maps.dtype)
    stacked = torch.cat([maps * valid, valid[None], right[None]])  # (S + 2, H, W)
    height, width = half.shape
    padded = F.pad(stacked, (0, -width % side, 0, -height % side))
    sums = F.avg_pool2d(padded, side).flatten(1) * side**2  # (S + 2, P)
    sums = sums[:, sums[-2] > 0.5]
    score = (sums[:-2] / sums[-2]).clamp_(0, 1)
    return score, 2 * sums[-1] > sums[-2] - 0.5


def _below(counts: Floats) -> Floats:
    """Return (N + 1,) counts below each edge."""
    return np.concatenate([[0.0], counts.cumsum()])


def _ratio(part: Floats, whole: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)
