from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from moeseg.metrics import scores
from moeseg.robustness.worst import worst_case


def miou(confusions: Tensor, choice: tuple[int, ...]) -> float:
    total = sum(confusions[a, n].long() for n, a in enumerate(choice))
    assert isinstance(total, Tensor)
    found = scores(total).miou
    assert found is not None
    return found


def random_counts(seed: int, candidates: int = 3, frames: int = 4, classes: int = 3) -> Tensor:
    """Return (A, N, C, C) counts whose ground truth is the same for all candidates of a frame."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(5, 40, (frames, classes))
    counts = np.zeros((candidates, frames, classes, classes), np.int32)
    for a, n, c in itertools.product(range(candidates), range(frames), range(classes)):
        counts[a, n, c] = rng.multinomial(truth[n, c], rng.dirichlet(np.ones(classes)))
    return torch.from_numpy(counts)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_between_the_best_of_all_choices_and_the_per_frame_one(seed: int) -> None:
    counts = random_counts(seed)
    every = {c: miou(counts, c) for c in itertools.product(range(3), repeat=4)}
    right = counts.diagonal(dim1=2, dim2=3).sum(-1)  # (A, N)
    by_accuracy = tuple(right.argmin(0).tolist())
    found = tuple(worst_case(counts).tolist())
    alone = min(every[(one,) * 4] for one in range(3))
    assert min(every.values()) <= every[found] <= min(every[by_accuracy], alone)
    # greedy: no single frame can be changed for the worse
    for frame, other in itertools.product(range(4), range(3)):
        changed = (*found[:frame], other, *found[frame + 1 :])
        assert every[changed] >= every[found] - 1e-12


def test_by_hand_accuracy_and_miou_choose_differently() -> None:
    """Losing all 4 pixels of a rare class costs more mIoU than 10 of a class of 100."""
    many_lost = torch.tensor([[90, 10], [0, 4]])
    rare_lost = torch.tensor([[100, 0], [4, 0]])
    counts = torch.stack([many_lost, rare_lost])[:, None]  # (A, 1, C, C)
    assert worst_case(counts).tolist() == [1]
    assert int(many_lost.trace()) < int(rare_lost.trace())


def test_one_candidate_is_itself_and_empty_frames_do_no_harm() -> None:
    counts = random_counts(0, candidates=1)
    counts[:, 1] = 0
    assert worst_case(counts).tolist() == [0, 0, 0, 0]
    assert worst_case(torch.zeros(2, 3, 4, 4)).tolist() == [0, 0, 0]
