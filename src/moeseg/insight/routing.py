"""Routing: what a gate does with its experts, and what the best routing would have given.

Two collectors. `RoutingCollector` counts weights and compares them with how good each expert is on
the frame; `OracleCollector` scores routers that know the labels. Nothing is drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeseg.errors import UsageError
from moeseg.evaluation.collectors import (
    BlockCollector,
    SegmentationCollector,
    several_ranks,
    sum_over_ranks,
)
from moeseg.evaluation.intervals import Blocks, share_interval
from moeseg.evaluation.rows import validate_row
from moeseg.metrics import confusion_per_image, marginals, miou_of_marginals, scores
from moeseg.types import Prediction, Row, single_subsets

BINS = 20
"""Bins of the weights' histogram over [0, 1]; the last one is closed."""

ONE_EXPERT = 0.99
"""A gate that gives its largest weight to one expert at least this often may have collapsed."""

SHARP = 0.1
"""Below this normalised entropy a weight vector is close to one-hot."""

CONSTANT = 0.01
"""Weights whose standard deviation over frames stays below this do not follow the image."""

Collapse = Literal["one expert", "constant", False] | None


def routing_entropy(weights: Tensor) -> Tensor:
    """Return the Shannon entropy of gate weights (B, E, K) over E, divided by ln E.

    Returns:
        (B, K) in 0..1: 0 is one expert alone, 1 all experts alike.
    """
    entropy: Tensor = torch.special.entr(weights.double()).sum(dim=1)  # (B, E, K) -> (B, K)
    return (entropy / math.log(weights.shape[1])).clamp(0.0, 1.0)


def leaders(values: Tensor) -> Tensor:
    """Return who holds the greatest value along dim 1, as shares that sum to 1.

    Args:
        values: (B, E, ...); NaN never leads.

    Returns:
        (B, E, ...) float64: 1 for a sole leader, 1/n for each of n equal ones, 0 for all others and
        everywhere where all values are NaN.
    """
    known = values.double().nan_to_num(nan=-math.inf)
    leading = (known == known.amax(dim=1, keepdim=True)) & known.isfinite()
    return leading.double() / leading.sum(dim=1, keepdim=True).clamp(min=1)


def expert_confusions(expert_ids: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count every expert's pixels as `metrics.confusion_per_image` does.

    Args:
        expert_ids: (B, E, H, W) classes of the experts.
        label: (B, H, W) ids, 255 ignored.
        num_classes: C.

    Returns:
        (B, E, C, C) int64, row ground truth, column prediction.
    """
    label = label.to(expert_ids.device)
    each = [confusion_per_image(ids, label, num_classes) for ids in expert_ids.unbind(1)]
    return torch.stack(each, dim=1)  # E x (B, C, C) -> (B, E, C, C)


def frame_mious(confusions: Tensor) -> Tensor:
    """Return the headline mIoU of each frame and expert from (B, E, C, C); NaN without labels.

    A frame's mIoU is the mean over the classes in its own ground truth.
    """
    return miou_of_marginals(marginals(confusions))  # (B, E, C, C) -> (B, E)


class RoutingCollector(BlockCollector):
    """Gate weights of one mixture and how they compare with the experts' mIoU on each frame.

    Keys of its rows that need a word: `prefers_better` is the share of frames on which the expert
    with the largest weight (mean over columns) is the one with the best mIoU; frames on which
    either is shared by two experts, and frames without labels, are left out. `concentration` is the
    share of frames and columns whose largest weight falls on the expert that gets it most often;
    equal largest weights share the count. `collapsed` is ``"one expert"`` where that is at least
    `ONE_EXPERT` and the mean normalised entropy is below `SHARP`; ``"constant"`` where no weight's
    standard deviation over frames reaches `CONSTANT`; else false. It is null where the row's frames
    are of one subset, on which a good gate may well do the same every time.

    Args:
        model: its name in the table, e.g. ``moe-simple``.
        experts: E names in the mixture's order, without the prefix ``expert-``.
        classes: C class names, in id order.
        blocks: of all frames under evaluation.
        subsets: names and joins that get a row each.
        base: the keys that all rows share; see `evaluation.collectors.BlockCollector`.
        trained: the subset or join that each expert was trained on, by its name; may lack some.
    """

    needs_experts = True
    summed = ("compared", "confusion", "histogram", "entropy", "leads")

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
        self.experts = tuple(experts)
        self.trained = {
            name: set(single_subsets(trained[name])) for name in self.experts if name in trained
        }
        units, count = len(blocks), len(self.classes)
        self.compared = torch.zeros(units, 2, dtype=torch.int64)  # (U, [frames, right])
        self.confusion = torch.zeros(units, 2, count, count, dtype=torch.int64)
        """(U, [oracle-image, mixture], C, C)"""
        self.histogram = torch.zeros(units, len(experts), BINS, dtype=torch.int64)  # (U, E, 20)
        self.weights: Tensor | None = None
        """(U, E, K, 3) float64 sums of weight, its square, and its leads; K shows with a batch."""
        self.entropy = torch.zeros(units, dtype=torch.float64)  # (U,), mean over K
        self.leads = torch.zeros(units, len(experts), dtype=torch.float64)  # (U, E), of mean weight

    def update(self, prediction: Prediction, label: Tensor, keys: Sequence[str]) -> None:
        """Count a batch: weights (B, E, K), ids, expert_ids, label (B, H, W) uint8, B keys.

        Raises:
            UsageError: the model has no gate, or another number of experts.
            DataError: ids or sizes do not fit, or a key is not under evaluation.
        """
        weights, ids, expert_ids = gated(prediction, self.model, len(self.experts))
        truth = label.to(ids.device)
        of_experts = expert_confusions(expert_ids, truth, len(self.classes)).cpu()
        own = confusion_per_image(ids, truth, len(self.classes)).cpu()  # (B, C, C)
        mious = frame_mious(of_experts)  # (B, E)
        oracle = of_experts[torch.arange(len(ids)), best_expert(mious)]  # (B, C, C)
        units = self.units_of(keys)
        w = weights.detach().cpu().double()  # (B, E, K)
        mean = w.mean(dim=2)  # (B, E)
        if self.weights is None:
            self.weights = torch.zeros(len(self.blocks), *w.shape[1:], 3, dtype=torch.float64)
        self.weights.index_add_(0, units, torch.stack([w, w * w, leaders(w)], dim=-1))
        self.entropy.index_add_(0, units, routing_entropy(w).mean(dim=1))
        self.histogram.index_add_(0, units, _histograms(w))
        self.leads.index_add_(0, units, leaders(mean))
        self.compared.index_add_(0, units, _compared(mean, mious))
        self.confusion.index_add_(0, units, torch.stack([oracle, own], dim=1))

    def reset(self) -> None:
        """Forget what was counted."""
        super().reset()
        self.weights = None

    def sync(self) -> None:
        """Sum the state over ranks if `torch.distributed` runs; a second call does nothing."""
        if self._synced or not several_ranks():
            return
        columns = torch.tensor(0 if self.weights is None else self.weights.shape[2])
        columns = sum_over_ranks(columns) // sum_over_ranks((columns > 0).long()).clamp(min=1)
        if self.weights is None and int(columns):  # this rank saw no frame
            shape = (len(self.blocks), len(self.experts), int(columns), 3)
            self.weights = torch.zeros(shape, dtype=torch.float64)
        if self.weights is not None:
            self.weights = sum_over_ranks(self.weights)
        super().sync()

    def rows(self) -> list[Row]:
        """Return one ``routing`` row per subset on which a frame was counted.

        Raises:
            DataError: a frame was counted twice, or a base key is missing.
        """
        self.check_counted_once()
        rows = []
        for subset in self.subsets:
            units = torch.from_numpy(self.blocks.members(subset))
            if self.weights is not None and int(self.images[units].sum()):
                rows.append(self._row(subset, units, self.weights[units].sum(dim=0)))
        return rows

    def _row(self, subset: str, units: Tensor, weights: Tensor) -> Row:
        frames = int(self.images[units].sum())
        columns = int(weights.shape[1])
        mean, square, leads = (weights / frames).clamp(0.0, 1.0).unbind(dim=-1)  # three of (E, K)
        histogram = self.histogram[units].sum(dim=0).double() / columns  # (E, 20)
        entropy = float(self.entropy[units].sum()) / frames
        concentration = float(leads.mean(dim=1).max())
        compared, right = self.compared[units].sum(dim=0).tolist()
        groups, unit = self.blocks.units_for(subset)
        counted = [self.compared[torch.from_numpy(group)].sum(dim=0).numpy() for group in groups]
        by_group: NDArray[np.float64] = np.stack(counted).astype(np.float64)  # (G, 2)
        oracle, own = (scores(c).miou for c in self.confusion[units].sum(dim=0))
        row = self.head("routing", subset) | {
            "experts": list(self.experts),
            "columns": columns,
            "mean_weights": self._by_expert(mean.mean(dim=1)),
            "class_weights": {
                name: self._by_expert(mean[:, c]) for c, name in enumerate(self.classes)
            }
            if columns > 1
            else None,
            "histogram": self._by_expert(histogram),
            "entropy": entropy,
            "concentration": concentration,
            "collapsed": _collapse(
                concentration, entropy, float((square - mean**2).clamp(min=0).sqrt().max())
            )
            if len(single_subsets(subset)) > 1
            else None,
            "prefers_better": right / compared if compared else None,
            "frames_compared": compared,
            "ci95": share_interval(by_group[:, 1], by_group[:, 0]),
            "ci_unit": unit,
            "ci_units": len(groups),
            "oracle_lost": None if oracle is None or own is None else oracle - own,
            "subset_accuracy": self._subset_accuracy(subset),
        }
        validate_row(row)
        return row

    def _by_expert(self, values: Tensor) -> dict[str, object]:
        """Return values (E, ...) by the experts' names."""
        return dict(zip(self.experts, values.tolist(), strict=True))

    def _subset_accuracy(self, subset: str) -> float | None:
        """Return how often the largest mean weight falls on an expert of the frame's own subset."""
        parts = set(single_subsets(subset))
        known = set().union(*self.trained.values())
        if len(parts) < 2 or not parts <= known:
            return None
        right = frames = 0.0
        for unit in self.blocks.members(subset).tolist():
            own = [
                self.blocks.unit_subset[unit] in self.trained.get(name, ()) for name in self.experts
            ]
            right += float(self.leads[unit][torch.tensor(own)].sum())
            frames += int(self.images[unit])
        return min(1.0, right / frames)


class OracleCollector:
    """Scores of two routers that know the labels: what choosing among these experts could give.

    ``oracle-image`` takes for each image the expert with the better mIoU there; ``oracle-pixel`` is
    right wherever any expert is, and elsewhere takes what ``oracle-image`` takes. Both choose by
    frame, so on data-set totals they are bounds in practice and not in the letter: mIoU of a sum is
    not the mean of mIoUs.

    Args:
        classes: C class names, in id order.
        blocks: of all frames under evaluation.
        subsets: names and joins that get a row each.
        base: the keys that all rows share; see `evaluation.collectors.BlockCollector`.
    """

    def __init__(
        self, classes: Sequence[str], blocks: Blocks, subsets: Sequence[str], base: Row
    ) -> None:
        self.needs_experts = True
        self.by_image, self.by_pixel = (
            SegmentationCollector(name, classes, blocks, subsets, base)
            for name in ("oracle-image", "oracle-pixel")
        )

    def update(self, prediction: Prediction, label: Tensor, keys: Sequence[str]) -> None:
        """Count a batch: expert_ids (B, E, H, W), label (B, H, W) uint8, B keys.

        Raises:
            DataError: ids or sizes do not fit, or a key is not under evaluation.
        """
        if prediction.expert_ids is None:
            raise RuntimeError("the oracle needs expert_ids")
        image, pixel = oracle_ids(prediction.expert_ids, label, len(self.by_image.classes))
        self.by_image.count(image, label, keys)
        self.by_pixel.count(pixel, label, keys)

    def reset(self) -> None:
        """Forget what was counted."""
        self.by_image.reset()
        self.by_pixel.reset()

    def sync(self) -> None:
        """Sum counts over ranks."""
        self.by_image.sync()
        self.by_pixel.sync()

    def rows(self) -> list[Row]:
        """Return ``segmentation`` rows of the models ``oracle-image`` and ``oracle-pixel``."""
        return self.by_image.rows() + self.by_pixel.rows()


def oracle_ids(expert_ids: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the classes that the two oracles choose.

    Args:
        expert_ids: (B, E, H, W) classes of the experts.
        label: (B, H, W) ids, 255 ignored.
        num_classes: C.

    Returns:
        (B, H, W) of oracle-image and of oracle-pixel; see `OracleCollector`.
    """
    label = label.to(expert_ids.device)
    best = best_expert(frame_mious(expert_confusions(expert_ids, label, num_classes)))
    image = expert_ids[torch.arange(len(best), device=best.device), best]  # (B, H, W)
    known = (expert_ids == label[:, None]).any(dim=1)  # (B, E, H, W) -> (B, H, W)
    return image, torch.where(known, label.to(image.dtype), image)


def best_expert(mious: Tensor) -> Tensor:
    """Return (B,) the expert with the greatest of the mIoUs (B, E); the first of equal ones."""
    return leaders(mious).argmax(dim=1)


def gated(prediction: Prediction, model: str, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights (B, E, K), ids (B, H, W) and expert_ids (B, E, H, W) of a mixture.

    Raises:
        UsageError: the model has no gate, or another number of experts.
    """
    weights, ids, expert_ids = prediction.weights, prediction.ids, prediction.expert_ids
    if weights is None or weights.shape[1] != experts:
        got = "none" if weights is None else str(weights.shape[1])
        raise UsageError(
            f"{model}: expected the gate weights of {experts} experts, got {got}; routing is for "
            "mixtures."
        )
    if ids is None or expert_ids is None:
        raise RuntimeError(f"{model}: the prediction carries no classes of model and experts")
    return weights, ids, expert_ids


def _histograms(weights: Tensor) -> Tensor:
    """Return how many of the weights (B, E, K) fall into each bin: (B, E, 20) int64."""
    bins = (weights * BINS).long().clamp(0, BINS - 1)  # (B, E, K)
    counts = torch.zeros(*weights.shape[:2], BINS, dtype=torch.int64)
    return counts.scatter_add_(2, bins, torch.ones_like(bins))


def _compared(mean: Tensor, mious: Tensor) -> Tensor:
    """Return (B, 2) int64: can weights (B, E) and mIoUs (B, E) be compared, and do they agree."""
    heavy, good = leaders(mean), leaders(mious)
    sole = (heavy.amax(dim=1) == 1.0) & (good.amax(dim=1) == 1.0)  # (B,)
    same = heavy.argmax(dim=1) == good.argmax(dim=1)
    return torch.stack([sole, sole & same], dim=1).long()


def _collapse(concentration: float, entropy: float, spread: float) -> Collapse:
    if concentration >= ONE_EXPERT and entropy < SHARP:
        return "one expert"
    return "constant" if spread < CONSTANT else False
