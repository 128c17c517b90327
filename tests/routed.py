"""Random predictions of a gated mixture on a few labelled frames, for tests of insight."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from moeseg.types import Frame, Prediction, Row

CLASSES = ("Car", "Sky", 'a "b", <ü>|*')
EXPERTS = ("highway", "urban")
SUBSETS = ("highway", "urban", "fog", "highway+urban")
SIZE = (6, 8)
BASE: Row = {
    "split": "test",
    "dataset": "toy",
    "size": SIZE,
    "architecture": "tiny",
    "seed": 0,
    "settings": {},
    "fingerprint": "abc",
}


def frames(
    per_subset: int = 14, subsets: Sequence[str] = ("highway", "urban", "fog")
) -> list[Frame]:
    """Return frames of two drives of each subset."""
    return [
        Frame(
            f"{subset}-{index % 2}",
            f"{index:03d}",
            Path(f"photo-{subset}-{index}.png"),
            Path(f"label-{subset}-{index}.png"),
            subset,
            "test",
        )
        for subset in subsets
        for index in range(per_subset)
    ]


def labels(count: int, seed: int = 3) -> Tensor:
    """Return (N, H, W) uint8, a tenth of it ignored, the second frame wholly."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, len(CLASSES), (count, *SIZE), generator=generator).to(torch.uint8)
    drawn[torch.rand(drawn.shape, generator=generator) < 0.1] = 255
    drawn[1] = 255
    return drawn


def prediction(count: int, *, experts: int = 2, columns: int = 1, seed: int = 5) -> Prediction:
    """Return a mixture's prediction of N frames, its ids, and those of its experts."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, len(CLASSES), *SIZE, generator=generator)
    each = torch.randint(0, len(CLASSES), (count, experts, *SIZE), generator=generator)
    truth = labels(count).long()
    skill = torch.rand(count, experts, 1, 1, generator=generator)
    known = torch.rand(each.shape, generator=generator) < skill
    each = torch.where(known & (truth != 255)[:, None], truth[:, None], each)
    weights = (2 * torch.randn(count, experts, columns, generator=generator)).softmax(dim=1)
    return Prediction(logits, weights, ids=logits.argmax(dim=1), expert_ids=each)


def part(whole: Prediction, chosen: slice) -> Prediction:
    """Return some frames of a prediction."""
    assert whole.weights is not None
    assert whole.ids is not None
    assert whole.expert_ids is not None
    return Prediction(
        whole.logits[chosen],
        whole.weights[chosen],
        ids=whole.ids[chosen],
        expert_ids=whole.expert_ids[chosen],
        extents=None if whole.extents is None else whole.extents[chosen],
    )
