"""Calibration: does a probability of 0.8 mean right in 8 of 10 pixels? Pure functions on sums.

Everything is read from *moments*: of each of N equal bins of confidence, how many pixels fell into
it, how many of them were right, and the sum of their confidences. Moments of parts of the data add
up, so a state of fixed size is exact over all pixels. N is a multiple of 15: the 15 bins in common
use are sums of fine ones. The last bin holds 1 itself. How pixels get here is `collectors`' matter.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Floats = NDArray[np.float64]

BINS = 15
"""Bins of every reading (Guo et al., 2017)."""
FINE = BINS * 273
"""4,095 bins of the confidence in the predicted class, from which bins of equal mass are made."""
CLASS_FINE = BINS * 34
"""510 bins of the probability of each class."""
CLIP = 2.0**-23
"""Confidences of the pixel-correctness NLL are kept so far from 0 and 1, as scikit-learn does with
float32."""


def count_confidences(confidence: Tensor, right: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Return the moments of some pixels.

    Args:
        confidence: (n) in 0..1.
        right: (n) bool.
        bins: N.

    Returns:
        (2, N) int64, pixels and right pixels; (N) float64, sums of confidence; both on the CPU.
    """
    cell = _cell(confidence, bins)
    found = torch.bincount(cell + bins * right, minlength=2 * bins).view(2, bins)
    sums = torch.bincount(cell, weights=confidence.double(), minlength=bins)
    return torch.stack([found.sum(0), found[1]]).cpu(), sums.cpu()


def count_classes(
    exponentials: Tensor, total: Tensor, label: Tensor, valid: Tensor, bins: int
) -> tuple[Tensor, Tensor]:
    """Return the moments of the probabilities of all classes, not only of the predicted one.

    Most of them lie in the lowest bin, which is what the others leave of the whole; so only
    probabilities of 1/N or more are looked at one by one.

    Args:
        exponentials: (C, h, W); divided by `total` they are probabilities.
        total: (h, W).
        label: (h, W) int64 ids.
        valid: (h, W) bool; only these pixels count.
        bins: N.

    Returns:
        (C, 2, N) int64, pixels and pixels of that class; (C, N) float64, sums of probability; both
        on the CPU.
    """
    classes, cells = len(exponentials), len(exponentials) * bins
    kept = valid.flatten()
    inverse = (kept / total.flatten()).float()  # (h W), 0 at pixels that do not count
    # (C, h, W) -> (C, h W); a head's logits come with the channels last
    p = (exponentials.flatten(1) * inverse).contiguous()
    chosen = p >= 1 / bins
    owner = torch.arange(classes, device=p.device).repeat_interleave(chosen.sum(1))
    high = p.view(-1).index_select(0, _places(chosen.view(-1)))
    cell = _cell(high, bins).add_(owner, alpha=bins)
    found = torch.bincount(cell, minlength=cells).view(classes, bins)
    sums = torch.bincount(cell, weights=high.double(), minlength=cells).view(classes, bins)
    true = label.flatten()
    own = _cell(p.gather(0, true[None])[0], bins).add_(true, alpha=bins)[kept]
    hits = torch.bincount(own, minlength=cells).view(classes, bins)
    found[:, 0] = kept.sum() - found[:, 1:].sum(1)
    sums[:, 0] = (p.sum(1, dtype=torch.float64) - sums[:, 1:].sum(1)).clamp_(min=0)
    return torch.stack([found, hits], 1).cpu(), sums.cpu()  # two of (C, N) -> (C, 2, N)


def joined(counts: ArrayLike, sums: ArrayLike) -> Floats:
    """Return moments (..., 3, N) from counts (..., 2, N) and sums of confidence (..., N)."""
    whole, of_confidence = np.asarray(counts, np.float64), np.asarray(sums, np.float64)
    return np.concatenate([whole, of_confidence[..., None, :]], axis=-2)


def equal_width(moments: Floats, bins: int = BINS) -> Floats:
    """Return (..., 3, bins) moments of fewer bins of equal width, from (..., 3, N)."""
    sums: Floats = moments.reshape(*moments.shape[:-1], bins, -1).sum(-1)
    return sums


def equal_mass(moments: Floats, bins: int = BINS) -> Floats:
    """Return moments of bins that hold equally many pixels (adaptive; Nixon et al., 2019, eq. 4).

    Where a bound falls within a fine bin, that bin's pixels are split in proportion.

    Args:
        moments: (..., 3, N) of fine bins.
        bins: K.

    Returns:
        (..., 3, K), counts not whole numbers.
    """
    leading = moments.shape[:-2]
    found = np.zeros((*leading, 3, bins))
    for place in np.ndindex(leading):
        covered = np.concatenate([[0.0], moments[place][0].cumsum()])
        at = np.linspace(0.0, covered[-1], bins + 1)
        used, first = np.unique(covered, return_index=True)
        for row in range(3):
            below = np.concatenate([[0.0], moments[place][row].cumsum()])[first]
            found[place][row] = np.diff(np.interp(at, used, below))
    return found


def equal_mass_bound(moments: Floats, bins: int = BINS) -> Floats:
    """Return how far, at most, the ECE of `equal_mass` is from that of the sorted pixels.

    A bound that falls within a fine bin of m pixels, p right and n wrong, puts at most p n / m too
    many right ones and m / 4 widths of a bin too much confidence on one side, and on the other side
    misses them.

    Args:
        moments: (..., 3, N) of fine bins.
        bins: K.

    Returns:
        (...); NaN where nothing was counted.
    """
    count, right = moments[..., 0, :], moments[..., 1, :]
    off = right * (count - right) / np.maximum(count, 1.0) + count / (4 * count.shape[-1])
    whole = count.sum(-1, keepdims=True)
    covered = count.cumsum(-1)
    moved = np.zeros(count.shape[:-1])
    for cut in range(1, bins):
        at = whole * cut / bins
        within = (covered > at) & (covered - count < at)
        moved += (off * within).sum(-1)
    return _ratio(2 * moved, whole[..., 0])


def ece(moments: Floats) -> Floats:
    """Return the expected calibration error, the mean distance of confidence and accuracy.

    sum_b n_b / n |acc_b - conf_b| (Naeini et al., 2015; Guo et al., 2017, eq. 3).

    Args:
        moments: (..., 3, K).

    Returns:
        (...) in 0..1; NaN where nothing was counted.
    """
    count, right, confidence = np.moveaxis(moments, -2, 0)  # (..., 3, K) -> three of (..., K)
    return _ratio(np.abs(right - confidence).sum(-1), count.sum(-1))


def mce(moments: Floats) -> Floats:
    """Return the largest distance of confidence and accuracy in any bin (Guo et al., 2017, eq. 5).

    Args:
        moments: (..., 3, K).

    Returns:
        (...) in 0..1; NaN where nothing was counted.
    """
    count, right, confidence = np.moveaxis(moments, -2, 0)
    gaps = np.abs(right - confidence) / np.maximum(count, 1e-300) * (count > 0)
    largest = gaps.max(-1).clip(0, 1)
    return np.where(count.sum(-1) > 0, largest, np.nan)


def classwise_ece(moments: Floats) -> Floats:
    """Return the mean over all C classes of the ECE of that class's probability.

    Kull et al., 2019, eq. 3: where p(c) is 0.8, 8 of 10 pixels must be of class c.

    Args:
        moments: (C, 3, K).

    Returns:
        () in 0..1; NaN where nothing was counted.
    """
    mean: Floats = ece(moments).mean(-1)
    return mean


def reliability(moments: Floats) -> list[list[float | None]]:
    """Return what a reliability diagram is drawn from.

    Args:
        moments: (3, K).

    Returns:
        K shares of the pixels, K mean confidences, K accuracies; null where a bin is empty. Rounded
        to 6 digits.
    """
    count, right, confidence = moments
    whole = max(float(count.sum()), 1.0)
    shares: list[float | None] = [round(float(n) / whole, 6) for n in count]
    return [
        shares,
        *(
            [round(min(max(float(v / n), 0.0), 1.0), 6) if n > 0 else None for v, n in pairs]
            for pairs in (zip(confidence, count, strict=True), zip(right, count, strict=True))
        ),
    ]


def brier(exponentials: Tensor, total: Tensor, own: Tensor) -> Tensor:
    """Return sum_c (p(c) - y(c))^2 = sum_c p(c)^2 - 2 p(y) + 1 of each pixel (Brier, 1950).

    Args:
        exponentials: (C, ...); divided by `total` they are probabilities.
        total: (...).
        own: (...) probability of the true class.

    Returns:
        (...) in 0..2.
    """
    squares = exponentials.square().sum(0) / total.square()  # (C, ...) -> (...)
    score: Tensor = squares - 2 * own + 1
    return score


def correctness_scores(confidence: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return Brier score and NLL of "the pixel is right", as the fourth paper reads them.

    They ask how sure the model is of being right, not what it says of the classes: a model that is
    always wrong and says so scores best.

    Args:
        confidence: (n) in 0..1.
        right: (n) bool.

    Returns:
        Two of (n) float64.
    """
    p, y = confidence.double(), right.double()
    of_outcome = torch.where(right, p, 1 - p).clamp(min=CLIP, max=1 - CLIP)
    return (p - y).square(), -of_outcome.log()


def _places(chosen: Tensor) -> Tensor:
    """Return where a flat bool tensor is true; on a CPU, numpy is ten times as fast."""
    if chosen.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(chosen.numpy()))
    return chosen.nonzero()[:, 0]


def _cell(confidence: Tensor, bins: int) -> Tensor:
    """Return the bin (int64) of each confidence; the last one holds 1 itself."""
    return (confidence * bins).to(torch.int64).clamp_(0, bins - 1)


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Divide; NaN where the whole is 0. Rounding does not lead out of 0..1."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, (part / whole).clip(0.0, 1.0), np.nan)
