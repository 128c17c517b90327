"""What collectors of per-pixel scores share: histograms of right and wrong pixels, and of frames.

Which scores, and what they are made of, is the subclass's matter (`insight.detectors`,
`uncertainty.collectors`); curves and areas are read from the histograms by `insight.histograms`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeseg.evaluation.collectors import BlockCollector
from moeseg.evaluation.intervals import (
    RESAMPLING_SEED,
    Blocks,
    CiUnit,
    interval,
    resample_counts,
)
from moeseg.evaluation.rows import validate_row
from moeseg.insight.histograms import (
    BINS,
    Floats,
    aupr,
    aurc,
    auroc,
    auroc_bound,
    fpr_at_tpr,
    lighter,
    resample_auroc,
    resample_curves,
    risk_at,
    roc,
)
from moeseg.metrics import check_label_ids
from moeseg.types import IGNORE, Row, single_subsets

Halves = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Histograms of positives and negatives of units, and how often each unit is in each resample."""


class ScoreCollector(BlockCollector):
    """Histograms of S scores, of right and of wrong pixels and of frames, per resampling block.

    A subclass gives each image's scores to `count_scores`. All scores are 0..1, and high is
    doubtful.

    Args:
        model: its name in the table.
        scores: S names, in the order of the state.
        classes: C class names, in id order.
        blocks: of all frames under evaluation.
        subsets: names and joins that get rows.
        base: the keys that all rows share; see `evaluation.collectors.BlockCollector`.
        known: subsets that the model was trained on; where it is empty, or none of them is under
            evaluation, nothing is said of unseen frames.
        exact: scores of so few values that no bin holds two of them.

    Raises:
        UsageError: a subset is not known.
    """

    summed: tuple[str, ...] = ("pixels", "frames")

    def __init__(
        self,
        model: str,
        scores: Sequence[str],
        classes: Sequence[str],
        blocks: Blocks,
        subsets: Sequence[str],
        base: Row,
        known: Iterable[str],
        *,
        exact: Collection[str] = (),
    ) -> None:
        super().__init__(model, classes, blocks, subsets, base)
        self.scores = tuple(scores)
        self.trained = set(known)
        self.exact = frozenset(exact)
        units = len(blocks)
        # of labelled pixels, right ones first, S scores and N bins: (U, S, 2, N)
        self.pixels = torch.zeros(units, len(self.scores), 2, BINS, dtype=torch.int64)
        # of frame means
        self.frames = torch.zeros(units, len(self.scores), BINS, dtype=torch.int64)

    def halves(self, ids: Tensor, label: Tensor) -> Tensor:
        """Return in which half of a histogram pixels count: 0 right, 1 wrong, 2 in none (ignored).

        Args:
            ids: (B, H, W) int64 predicted classes.
            label: (B, H, W) uint8, on the same device.

        Returns:
            (B, H, W) int32.

        Raises:
            DataError: a label id is no class.
        """
        check_label_ids(label, len(self.classes))
        return (ids != label).to(torch.int32).masked_fill_(label == IGNORE, 2)

    def count_scores(
        self, unit: int, half: Tensor, maps: Sequence[Tensor], inside: tuple[slice, slice]
    ) -> None:
        """Count one image: S scores (H, W) at the pixels of `half` (H, W), means over `inside`."""
        start = half * BINS
        for score, doubt in enumerate(maps):
            found = torch.bincount((start + bin_of(doubt)).flatten(), minlength=3 * BINS)
            self.pixels[unit, score] += found[: 2 * BINS].view(2, BINS).cpu()
            mean = doubt[inside].double().mean()
            self.frames[unit, score, int(bin_of(mean))] += 1

    def rows(self) -> list[Row]:
        """Return ``detector`` rows: of wrong pixels per subset and score, then of unseen frames.

        In both, `risk` is the share of positives among those of lowest score, and `risk` and `roc`
        are rounded to 6 digits, as they are drawn only.

        Unseen frames: positives are the frames of a subset, or of a join, that is not trained on;
        negatives are those of trained subsets; `images` counts both. The two are resampled each by
        itself; `ci_units` is the smaller number of units, `ci_unit` is ``block`` if either draws
        blocks.

        Raises:
            DataError: a frame was counted twice, or a base key is missing.
        """
        self.check_counted_once()
        rows = [row for subset in self.subsets for row in self._wrong_pixels(subset)]
        for subset in self.subsets:
            known = self.known_beside(subset)
            rows += self._unseen_frames(subset, known) if known else ()
        return rows

    def known_beside(self, subset: str, trained: Collection[str] | None = None) -> str:
        """Return the join of trained subsets from which a subset is told; empty if it is trained.

        Args:
            subset: a name or a join.
            trained: of these alone; None for all.
        """
        if self.trained.intersection(single_subsets(subset)):
            return ""
        chosen = self.trained if trained is None else self.trained & set(trained)
        return "+".join(sorted(chosen & set(self.blocks.unit_subset)))

    def unseen_halves(self, subset: str, known: str, score: int) -> Halves:
        """Return the frames of a subset and known ones, as `resample_auroc` takes them.

        Args:
            subset: a name or a join.
            known: of `known_beside`.
            score: its place.

        Returns:
            Histograms of frame means (G, N) and (H, N), their resamples (R, G) and (R, H): each
            half is drawn by itself.
        """
        groups, _ = self.blocks.units_for(subset)
        others, _ = self.blocks.units_for(known)
        drawn = resample_counts(len(groups))
        other_drawn = resample_counts(len(others), seed=RESAMPLING_SEED + 1)
        frames = self.frames[:, score]  # (U, N)
        return sums(frames, groups), sums(frames, others), drawn, other_drawn

    def unseen_units(self, subset: str, known: str) -> tuple[CiUnit, int]:
        """Return what is drawn in `unseen_halves`, ``block`` if in either, and the smaller G, H."""
        groups, unit = self.blocks.units_for(subset)
        others, other_unit = self.blocks.units_for(known)
        return unit if unit == other_unit else "block", min(len(groups), len(others))

    def right_and_wrong(self, subset: str, score: int) -> NDArray[np.int64]:
        """Return the histograms (2, G, N) of right and of wrong pixels of G resampling units."""
        groups, _ = self.blocks.units_for(subset)
        return sums(self.pixels[:, score], groups).swapaxes(0, 1)  # (G, 2, N) -> (2, G, N)

    def _wrong_pixels(self, subset: str) -> Iterator[Row]:
        groups, unit = self.blocks.units_for(subset)
        drawn = resample_counts(len(groups))
        head = self.task_head(subset, "wrong-pixels", unit, len(groups))
        for score, name in enumerate(self.scores):
            right, wrong = self.right_and_wrong(subset, score)  # (G, N) each
            exact, halves = name in self.exact, (wrong, right, drawn, drawn)
            yield detector_row(head | {"score": name}, *halves, exact=exact)

    def _unseen_frames(self, subset: str, known: str) -> Iterator[Row]:
        head = self.task_head(subset, "unseen-frames", *self.unseen_units(subset, known))
        for score, name in enumerate(self.scores):
            halves = self.unseen_halves(subset, known, score)
            yield detector_row(head | {"score": name, "images": counted(halves)}, *halves)

    def task_head(self, subset: str, task: str, unit: CiUnit, units: int) -> Row:
        """Return the keys of a ``detector`` row that are no reading of its histograms."""
        head = self.head("detector", subset)
        return head | {"task": task, "ci_unit": unit, "ci_units": units}


def detector_row(
    head: Row,
    positives: NDArray[np.int64],
    negatives: NDArray[np.int64],
    drawn: NDArray[np.int64],
    drawn_negatives: NDArray[np.int64],
    *,
    exact: bool = False,
) -> Row:
    """Return a row from histograms (G, N) and (H, N), resampled (R, G) and (R, H) times.

    `exact` says that no bin holds two different scores: those in one are true ties. The intervals
    of AUPR, FPR and AURC are of histograms made `lighter`, all else of the whole ones.
    """
    units = (positives, negatives, drawn, drawn_negatives)
    few = min(len(positives), len(negatives)) < 2
    total = (positives.sum(0), negatives.sum(0))  # (N,) each
    count = int(total[0].sum() + total[1].sum())
    names = ("aupr_ci95", "fpr95_ci95", "aurc_ci95")
    spans: list[list[float] | None] = [None] * 3
    if not few:
        light = lighter(positives, negatives)
        spans = [interval(values) for values in resample_curves(*light, drawn, drawn_negatives)]
    row = head | {
        "positives": int(total[0].sum()) / count if count else None,
        "auroc": number(auroc(*total)),
        "aupr": number(aupr(*total)),
        "fpr95": number(fpr_at_tpr(*total)),
        "aurc": number(aurc(*total)),
        "error_bound": number(auroc_bound(*total) * (not exact)),
        "ci95": None if few else interval(resample_auroc(*units)),
        **dict(zip(names, spans, strict=True)),
        "risk": curve(risk_at(*total, np.linspace(0.0, 1.0, 101))),
        "roc": [curve(axis) for axis in roc(*total)],
    }
    validate_row(row)
    return row


def counted(halves: Halves) -> int:
    """Return how many frames the histograms (G, N) and (H, N) of both halves hold."""
    positives, negatives, _, _ = halves
    return int(positives.sum() + negatives.sum())


def bin_of(score: Tensor) -> Tensor:
    """Return the bin 0..N-1 (int32) of scores in 0..1; the last one holds 1 itself.

    Roots are rounded otherwise from device to device; edges are exact, so they have the last word.
    """
    found = (score.sqrt() * BINS).floor_()
    found -= (score < (found / BINS) ** 2).to(found.dtype)
    found += (score >= ((found + 1) / BINS) ** 2).to(found.dtype)
    return found.to(torch.int32).clamp_(0, BINS - 1)


def sums(state: Tensor, groups: Sequence[NDArray[np.int64]]) -> NDArray[Any]:
    """Return the sums (G, ...) of a state (U, ...) over groups of units."""
    # (U, ...) -> G of (...) -> (G, ...)
    return torch.stack([state[torch.from_numpy(group)].sum(0) for group in groups]).numpy()


def number(value: Floats | float) -> float | None:
    """Return a number as JSON takes it: null for NaN."""
    return None if np.isnan(value) else float(value)


def curve(values: Floats) -> list[float | None]:
    """Return a curve to be drawn: 6 digits, null for NaN."""
    return [None if np.isnan(value) else round(float(value), 6) for value in values]
