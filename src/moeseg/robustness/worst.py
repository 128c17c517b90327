"""Which of several attacked images of a frame is the worst, so that a data set's mIoU is least."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeseg.metrics import marginals, miou_of_marginals

_ROUNDS = 10
"""Passes over the frames at most; two or three find nothing more."""


def worst_case(confusions: Tensor) -> NDArray[np.int64]:
    """Choose a candidate for each frame so that the mIoU over all frames is low.

    It begins with the least of: each frame's candidate of lowest pixel accuracy, or one candidate
    for all. Then, frame by frame, it takes the candidate that makes the mIoU of the whole set
    least, until nothing changes (after Croce et al., ECCV 2024). Greedy: not always the least of
    all choices, and never above one candidate alone.

    Args:
        confusions: (A, N, C, C) counts of A candidates on N frames.

    Returns:
        (N,) the candidate of each frame, 0..A-1.
    """
    sums = marginals(confusions.to(torch.int64))  # (A, N, C, C) -> (A, N, 3, C)
    by_accuracy = sums[:, :, 0].sum(-1).argmin(0)  # right pixels (A, N) -> (N,)
    starts = [by_accuracy, *(torch.full_like(by_accuracy, one) for one in range(len(sums)))]
    frames = torch.arange(len(by_accuracy))
    mious = [float(miou_of_marginals(sums[start, frames].sum(0))) for start in starts]
    chosen = starts[int(np.nanargmin([*mious, 2.0])) % len(starts)]
    total = sums[chosen, frames].sum(0)  # (N, 3, C) -> (3, C)
    for _ in range(_ROUNDS):
        before = chosen.clone()
        for frame in frames.tolist():
            rest = total - sums[chosen[frame], frame]
            tried = rest + sums[:, frame]  # (A, 3, C)
            chosen[frame] = miou_of_marginals(tried).nan_to_num(2.0).argmin()
            total = tried[chosen[frame]]
        if torch.equal(before, chosen):
            break
    choice: NDArray[np.int64] = chosen.numpy()
    return choice
