"""Random predictions of models with members on a few labelled frames, for tests of uncertainty."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from moeseg.evaluation.intervals import Blocks
from moeseg.types import Prediction, Row
from moeseg.uncertainty.collectors import UncertaintyCollector
from routed import BASE, CLASSES, SIZE, SUBSETS, frames, labels

KEYS = [frame.key for frame in frames()]
PARTS = {"highway": (0, 14), "urban": (14, 28), "fog": (28, 42), "highway+urban": (0, 28)}


def predicted(
    members: int = 2, *, columns: int = 0, sharp: float = 2.0, seed: int = 7
) -> Prediction:
    """Return a prediction of all frames that is right more often than not.

    Args:
        members: E; 1 for a single network.
        columns: of the gate; 0 for none.
        sharp: factor of all logits.
        seed: of all that is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (len(KEYS), members, len(CLASSES), *SIZE)
    each = torch.randn(shape, generator=generator)
    true = labels(len(KEYS)).long()
    hint = torch.zeros(len(KEYS), 1, len(CLASSES), *SIZE)
    hint.scatter_(2, true.masked_fill(true == 255, 0)[:, None, None], 1.2)
    each = sharp * (each + hint)
    weights = None
    logits = each.mean(1)
    if columns:
        weights = torch.randn(len(KEYS), members, columns, generator=generator).softmax(1)
        logits = (weights[..., None, None] * each).sum(1)
    return Prediction(logits, weights, each if members > 1 else None, ids=logits.max(1).indices)


def chosen(whole: Prediction, places: slice) -> Prediction:
    """Return some frames of a prediction."""

    def cut(one: Tensor | None) -> Tensor | None:
        return None if one is None else one[places]

    assert whole.ids is not None
    return replace(
        whole,
        logits=whole.logits[places],
        weights=cut(whole.weights),
        expert_logits=cut(whole.expert_logits),
        ids=whole.ids[places],
    )


def collector(
    model: str = "moe-x",
    members: int = 2,
    gated: bool = False,
    *,
    base: Row = BASE,
    known: tuple[str, ...] = ("highway", "urban"),
    **more: object,
) -> UncertaintyCollector:
    """Return an empty collector of the frames of `routed`."""
    blocks = Blocks.of(frames())
    place = (model, members, gated, CLASSES, blocks, SUBSETS, base, known)
    more = {"twin": "moe-simple" if model == "moe-classwise" else ""} | more
    return UncertaintyCollector(*place, **more)  # type: ignore[arg-type]


def fill(
    empty: UncertaintyCollector, whole: Prediction, label: Tensor | None = None, batch: int = 5
) -> UncertaintyCollector:
    """Let a collector see a prediction of all frames in batches; return it."""
    label = labels(len(KEYS)) if label is None else label
    for start in range(0, len(KEYS), batch):
        places = slice(start, start + batch)
        empty.update(chosen(whole, places), label[places], KEYS[places])
    return empty
