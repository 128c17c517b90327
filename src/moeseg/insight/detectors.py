"""Detectors: is a mixture's doubt worth anything?

Four scores of each pixel, and a collector that asks how well they tell wrong pixels from right
ones, and frames of a subset that no expert was trained on from frames of those that they know.
Curves and areas are read from histograms by `insight.histograms`; nothing is drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeseg.errors import DataError
from moeseg.evaluation.collectors import BlockCollector
from moeseg.evaluation.intervals import (
    RESAMPLING_SEED,
    Blocks,
    CiUnit,
    interval,
    resample_counts,
)
from moeseg.evaluation.rows import validate_row
from moeseg.insight.agreement import agreement_mask, disagreement
from moeseg.insight.histograms import (
    BINS,
    Floats,
    aupr,
    aurc,
    auroc,
    auroc_bound,
    fpr_at_tpr,
    resample_auroc,
    resample_curves,
    risk_at,
    roc,
)
from moeseg.metrics import check_label_ids
from moeseg.types import IGNORE, Prediction, Row

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
    rows = max(1, STRIP // (channels * width))
    doubt = torch.empty(2, height, width, device=logits.device)
    for start in range(0, height, rows):
        strip = logits[:, start : start + rows].float()
        d = (strip - strip.amax(0)).clamp_(min=-80.0)  # exp(-80) is nothing, but times -80 a number
        e = d.exp()
        total = e.sum(0)  # (C, h, W) -> (h, W), 1 or more
        doubt[0, start : start + rows] = 1 - 1 / total
        doubt[1, start : start + rows] = total.log() - d.mul_(e).sum(0) / total
    doubt[1] /= math.log(max(channels, 2))
    return doubt[0].clamp_(0, 1), doubt[1].clamp_(0, 1)


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


class DetectorCollector(BlockCollector):
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
    summed = ("pixels", "frames")

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
        super().__init__(model, classes, blocks, subsets, base)
        known = all(name in trained for name in experts)
        self.trained = _parts(trained[name] for name in experts) if known else set[str]()
        units, scores = len(blocks), len(SCORES)
        # of labelled pixels, right ones first, S scores and N bins: (U, S, 2, N)
        self.pixels = torch.zeros(units, scores, 2, BINS, dtype=torch.int64)
        self.frames = torch.zeros(units, scores, BINS, dtype=torch.int64)  # of frame means

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
        check_label_ids(label, len(self.classes))
        label = label.to(ids.device)
        experts = expert_ids.shape[1]
        differ = disagreement(agreement_mask(ids, expert_ids), experts)
        margin = gate_margin(weights, ids)
        # the half of a histogram that a pixel counts in: right, wrong, ignored
        half = (ids != label).to(torch.int32).masked_fill_(label == IGNORE, 2)
        for image, unit in enumerate(self.units_of(keys).tolist()):
            maps = (differ[image], *softmax_scores(prediction.logits[image]), margin[image])
            for score, doubt in enumerate(maps):
                found = torch.bincount(
                    (half[image] * BINS + _bin(doubt)).flatten(), minlength=3 * BINS
                )
                self.pixels[unit, score] += found[: 2 * BINS].view(2, BINS).cpu()
                mean = doubt[prediction.inside(image)].double().mean()
                self.frames[unit, score, int(_bin(mean))] += 1

    def rows(self) -> list[Row]:
        """Return ``detector`` rows: of wrong pixels per subset and score, then of unseen frames.

        In both, `risk` is the share of positives among those of lowest score, and `risk` and `roc`
        are rounded to 6 digits, as they are drawn only.

        Unseen frames: positives are the frames of a subset, or of a join, that is not trained on;
        negatives are all frames of trained subsets, and `images` counts both. The two are resampled
        each by itself; `ci_units` is the smaller number of units, `ci_unit` is ``block`` if either
        draws blocks.

        Raises:
            DataError: a frame was counted twice, or a base key is missing.
        """
        self.check_counted_once()
        rows = [row for subset in self.subsets for row in self._wrong_pixels(subset)]
        known = sorted(self.trained & set(self.blocks.unit_subset))
        unseen = [subset for subset in self.subsets if not _parts([subset]) & self.trained]
        return rows + [
            row for subset in unseen if known for row in self._unseen_frames(subset, known)
        ]

    def _wrong_pixels(self, subset: str) -> Iterator[Row]:
        groups, unit = self.blocks.units_for(subset)
        drawn = resample_counts(len(groups))
        head = self._head(subset, "wrong-pixels", unit, len(groups))
        for score, name in enumerate(SCORES):
            right, wrong = _sums(self.pixels[:, score], groups).swapaxes(0, 1)  # (G, N) each
            exact = name == "disagreement"  # one of the values 0, 1/E, ... 1
            yield _row(head | {"score": name}, wrong, right, drawn, drawn, exact=exact)

    def _unseen_frames(self, subset: str, known: Iterable[str]) -> Iterator[Row]:
        groups, unit = self.blocks.units_for(subset)
        others, other_unit = self.blocks.units_for("+".join(known))
        drawn = resample_counts(len(groups))
        other_drawn = resample_counts(len(others), seed=RESAMPLING_SEED + 1)
        either: CiUnit = unit if unit == other_unit else "block"
        head = self._head(subset, "unseen-frames", either, min(len(groups), len(others)))
        head["images"] += int(sum(int(self.images[torch.from_numpy(g)].sum()) for g in others))
        for score, name in enumerate(SCORES):
            positives = _sums(self.frames[:, score], groups)  # (G, N)
            negatives = _sums(self.frames[:, score], others)  # (H, N)
            yield _row(head | {"score": name}, positives, negatives, drawn, other_drawn)

    def _head(self, subset: str, task: str, unit: CiUnit, units: int) -> Row:
        head = self.head("detector", subset)
        return head | {"task": task, "ci_unit": unit, "ci_units": units}


def _row(
    head: Row,
    positives: NDArray[np.int64],
    negatives: NDArray[np.int64],
    drawn: NDArray[np.int64],
    drawn_negatives: NDArray[np.int64],
    *,
    exact: bool = False,
) -> Row:
    """Return a row from histograms (G, N) and (H, N), resampled (R, G) and (R, H) times.

    `exact` says that no bin holds two different scores: those in one are true ties.
    """
    units = (positives, negatives, drawn, drawn_negatives)
    few = min(len(positives), len(negatives)) < 2
    total = (positives.sum(0), negatives.sum(0))  # (N,) each
    count = int(total[0].sum() + total[1].sum())
    names = ("aupr_ci95", "fpr95_ci95", "aurc_ci95")
    spans = [None] * 3 if few else [interval(values) for values in resample_curves(*units)]
    row = head | {
        "positives": int(total[0].sum()) / count if count else None,
        "auroc": _number(auroc(*total)),
        "aupr": _number(aupr(*total)),
        "fpr95": _number(fpr_at_tpr(*total)),
        "aurc": _number(aurc(*total)),
        "error_bound": _number(auroc_bound(*total) * (not exact)),
        "ci95": None if few else interval(resample_auroc(*units)),
        **dict(zip(names, spans, strict=True)),
        "risk": _curve(risk_at(*total, np.linspace(0.0, 1.0, 101))),
        "roc": [_curve(axis) for axis in roc(*total)],
    }
    validate_row(row)
    return row


def _parts(subsets: Iterable[str]) -> set[str]:
    return {part.strip() for subset in subsets for part in subset.split("+")}


def _bin(score: Tensor) -> Tensor:
    return (score * BINS).to(torch.int32).clamp_(0, BINS - 1)


def _sums(state: Tensor, groups: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    # (U, ...) -> G of (...) -> (G, ...)
    return torch.stack([state[torch.from_numpy(group)].sum(0) for group in groups]).numpy()


def _number(value: Floats) -> float | None:
    return None if np.isnan(value) else float(value)


def _curve(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 6) for value in values]
