"""Detectors: is a mixture's doubt worth anything?

Four scores of each pixel, and a collector that asks how well they tell wrong pixels from right
ones, and frames of a subset that no expert was trained on from frames of those that they know.
Curves and areas are read from histograms by `insight.histograms`; nothing is drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from moeseg.errors import DataError
from moeseg.evaluation.intervals import Blocks
from moeseg.insight.agreement import agreement_mask, disagreement
from moeseg.insight.scoring import ScoreCollector
from moeseg.types import Prediction, Row, single_subsets

SCORES = ("disagreement", "max-probability", "entropy", "gate-margin")
"""In the order of the collector's state; all are 0..1, and high is doubtful."""

STRIP = 2**19
"""Logits that are worked on at once: some megabytes, which stay in the cache of a CPU."""


def softmax_scores(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the largest probability leaves, and the entropy, of one image.

    With d = z - max z: 1 - max p = 1 - 1 / sum exp d, and the entropy is
    log sum exp d - sum p d, over ln C.

    Args:
        logits: (C, H, W); -inf stands for a probability of 0.

    Returns:
        Two maps (H, W) float32 in 0..1.
    """
    channels, height, width = logits.shape
    doubt = torch.empty(2, height, width, device=logits.device)
    for rows in strips(channels, height, width):
        _, total, doubt[1, rows] = softmax_parts(logits[:, rows])
        doubt[0, rows] = 1 - 1 / total
    doubt[1] /= math.log(max(channels, 2))
    return doubt[0].clamp_(0, 1), doubt[1].clamp_(0, 1)


def strips(channels: int, height: int, width: int) -> Iterator[slice]:
    """Yield the rows of an image of logits in strips of about `STRIP` values."""
    rows = max(1, STRIP // (channels * width))
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def softmax_parts(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return all that is read from a softmax, with one exponential of each logit.

    Args:
        logits: (C, ...); -inf stands for a probability of 0, and so does what lies 80 below the
            largest.

    Returns:
        exp d (C, ...) with d = z - max z; its sum (...) over C, 1 or more, by which it is divided
        to give probabilities; the entropy (...) in nats, not above ln C but for rounding.
    """
    strip = logits.float()
    d = (strip - strip.amax(0)).clamp_(min=-80.0)  # exp(-80) is nothing, but times -80 a number
    e = d.exp()
    total = e.sum(0)  # (C, ...) -> (...)
    return e, total, total.log() - d.mul_(e).sum(0) / total


def gate_margin(weights: Tensor, ids: Tensor) -> Tensor:
    """Return 1 - (largest - second largest weight), of the predicted class if the gate has columns.

    Args:
        weights: (B, E, K), K 1 or C, E 2 or more.
        ids: (B, H, W) int64 classes of the mixture.

    Returns:
        (B, H, W) float32 in 0..1; 1 where no expert is preferred.
    """
    largest, second = weights.float().topk(2, dim=1).values.unbind(1)  # (B, 2, K) -> two of (B, K)
    doubt = (1 - (largest - second)).clamp_(0, 1)
    if doubt.shape[1] == 1:
        return doubt[:, :, None].expand(ids.shape)  # (B, 1) -> (B, H, W)
    return doubt.gather(1, ids.flatten(1)).view(ids.shape)  # (B, H * W) -> (B, H, W)


class DetectorCollector(ScoreCollector):
    """Histograms of four scores, of right and of wrong pixels and of frames, per resampling block.

    Args:
        model: name of the mixture in the table.
        experts: names of its E experts.
        classes: C class names, in id order.
        blocks: of all frames under evaluation.
        subsets: names and joins that get rows.
        base: the keys that all rows share; see `evaluation.collectors.BlockCollector`.
        trained: the subset or join that each expert was trained on, by its name; others are left
            out. A subset that is in none of them is unseen. Where an expert is missing, or no
            subset under evaluation was trained on, nothing is said of unseen frames.

    Raises:
        UsageError: a subset is not known.
    """

    needs_experts = True

    def __init__(
        self,
        model: str,
        experts: Sequence[str],
        classes: Sequence[str],
        blocks: Blocks,
        subsets: Sequence[str],
        base: Row,
        trained: Mapping[str, str],
    ) -> None:
        whole = all(name in trained for name in experts)
        known = single_subsets(*(trained[name] for name in experts)) if whole else ()
        place = (SCORES, classes, blocks, subsets, base, known)
        # disagreement is one of the values 0, 1/E, ... 1
        super().__init__(model, *place, exact=("disagreement",))

    def update(self, prediction: Prediction, label: Tensor, keys: Sequence[str]) -> None:
        """Count a batch: logits, weights, ids, expert_ids, label (B, H, W) uint8, B keys.

        Raises:
            DataError: there is no gate, label ids do not fit, or a key is not under evaluation.
        """
        ids, expert_ids, weights = prediction.ids, prediction.expert_ids, prediction.weights
        if ids is None or expert_ids is None:
            raise RuntimeError("expected the classes of mixture and experts with the prediction")
        if weights is None:
            raise DataError(f"expected a mixture with a gate, got no weights from {self.model!r}.")
        half = self.halves(ids, label.to(ids.device))
        differ = disagreement(agreement_mask(ids, expert_ids), expert_ids.shape[1])
        margin = gate_margin(weights, ids)
        for image, unit in enumerate(self.units_of(keys).tolist()):
            maps = (differ[image], *softmax_scores(prediction.logits[image]), margin[image])
            self.count_scores(unit, half[image], maps, prediction.inside(image))
