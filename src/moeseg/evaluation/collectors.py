"""Collectors: small objects that an inference loop hands every prediction to.

Here is what all of them share and the one behind the table, the confusion matrix per resampling
block. The loop itself is `evaluation.runner`; other measures bring collectors of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from moeseg.config import CONTROLS
from moeseg.errors import DataError, UsageError
from moeseg.evaluation.intervals import MIN_SEQUENCES, Blocks, CiUnit, miou_interval
from moeseg.evaluation.rows import BASE_KEYS, validate_row
from moeseg.metrics import class_ids, confusion_per_image, scores
from moeseg.models import Model, MonteCarloDropout
from moeseg.types import Frame, Prediction, Row

Confusions = NDArray[np.int64]


class Collector(Protocol):
    """What the inference loop knows of a measure: fixed-size state that sums over ranks.

    One whose attribute `needs_expert_logits` is true is handed predictions with `expert_logits`.
    One whose `needs_whole_batches` is true is never handed a batch that memory halved.
    """

    needs_experts: bool
    """Whether predictions must carry `expert_ids`."""

    def update(self, prediction: Prediction, label: Tensor, keys: Sequence[str]) -> None:
        """Take in a batch.

        Args:
            prediction: logits (B, C, H, W), ids (B, H, W), and what else the model gives.
            label: (B, H, W) uint8 ids, 255 ignored.
            keys: B frame keys.
        """

    def reset(self) -> None:
        """Forget all batches, before `sync`: the pass begins anew."""

    def sync(self) -> None:
        """Sum the state over ranks, once, after the last batch; alone, nothing happens."""

    def rows(self) -> list[Row]:
        """Return the results so far."""


@dataclass(frozen=True)
class Ground:
    """What all models of one evaluation share; whoever brings a measure makes collectors for it.

    Attributes:
        models: all that are scored, by name, in the table's order.
        classes: C class names, in id order.
        frames: what is predicted, each once.
        blocks: of these frames.
        subsets: names and joins that get rows.
        bases: the keys that all rows of a model share, by its name; see `rows.BASE_KEYS`.
        experts: name of each expert that is a model of its own, by `id` of the expert.
        trained: the subset that each of these was trained on, by name, as far as it is known.
        folder: where files beside the rows go; None where there are none.
    """

    models: Mapping[str, Model]
    classes: tuple[str, ...]
    frames: tuple[Frame, ...]
    blocks: Blocks
    subsets: tuple[str, ...]
    bases: Mapping[str, Row]
    experts: Mapping[int, str]
    trained: Mapping[str, str]
    folder: Path | None = None


Measure = Callable[[str, Model, Ground], Sequence[Collector]]
"""Makes the collectors of one model, by its name; none where the measure does not apply."""


class BlockCollector:
    """What collectors share that count something of one model per resampling block; no measure.

    A subclass makes its states, tensors whose first axis is the U blocks, names them in `summed`,
    and asks `units_of` where each frame of a batch counts.

    Args:
        model: its name in the table, e.g. ``moe-simple``.
        classes: C class names, in id order.
        blocks: of all frames under evaluation.
        subsets: names and joins that get rows.
        base: the keys that all rows of the model share; see `rows.BASE_KEYS`.

    Raises:
        UsageError: a subset is not known.
    """

    needs_experts = False
    summed: tuple[str, ...] = ()
    """Names of all states besides `images`: on the CPU, summed over ranks, 0 after a reset."""

    def __init__(
        self, model: str, classes: Sequence[str], blocks: Blocks, subsets: Sequence[str], base: Row
    ) -> None:
        for subset in subsets:
            blocks.members(subset)
        self.model = model
        self.classes = tuple(classes)
        self.blocks = blocks
        self.subsets = tuple(subsets)
        self.base = dict(base)
        self.images = torch.zeros(len(blocks), dtype=torch.int64)  # (U,)
        self._synced = False

    def units_of(self, keys: Sequence[str]) -> Tensor:
        """Count B frames by their keys and return the block (B,) int64 of each.

        Raises:
            DataError: a key is not under evaluation.
        """
        if self._synced:
            raise RuntimeError("update after sync: the state is already the sum over ranks")
        units = self.blocks.units_of(keys)
        self.images.index_add_(0, units, torch.ones_like(units))
        return units

    def reset(self) -> None:
        """Set every state to 0."""
        for name in ("images", *self.summed):
            getattr(self, name).zero_()

    def sync(self) -> None:
        """Sum the states over ranks if `torch.distributed` runs; a second call does nothing."""
        if self._synced or not several_ranks():
            return
        for name in ("images", *self.summed):
            setattr(self, name, sum_over_ranks(getattr(self, name)))
        self._synced = True

    def head(self, kind: str, subset: str) -> Row:
        """Return the keys that a row of this model on this subset has whatever its kind.

        Raises:
            DataError: a base key is missing.
        """
        values = {
            "condition": "clean",
            **self.base,
            "kind": kind,
            "model": self.model,
            "subset": subset,
            "images": int(self.images[torch.from_numpy(self.blocks.members(subset))].sum()),
        }
        if "size" in values:
            values["size"] = list(values["size"])
        missing = [key for key in BASE_KEYS if key not in values]
        if missing:
            raise DataError(f"expected the base keys {missing} for the rows of {self.model!r}.")
        return {**{key: values[key] for key in BASE_KEYS}, **values}

    def check_counted_once(self) -> None:
        """Check that no block counted more frames than it has.

        Raises:
            DataError: a frame was counted twice; a sampler that pads does so.
        """
        for unit, frames in enumerate(self.blocks.unit_frames):
            if int(self.images[unit]) > frames:
                raise DataError(
                    f"expected at most {frames} frames of sequence "
                    f"{self.blocks.unit_sequence[unit]!r} in a block, got "
                    f"{int(self.images[unit])} for {self.model!r}; use a sampler that does not "
                    "repeat frames."
                )


class SegmentationCollector(BlockCollector):
    """Confusion matrix of one model, per resampling block.

    Args:
        model: its name in the table, e.g. ``moe-simple``.
        classes: C class names, in id order.
        blocks: of all frames under evaluation.
        subsets: names and joins that get a row each.
        base: the keys that all rows share: split, dataset, size, architecture, seed, settings,
            fingerprint, and condition unless ``clean``.

    Raises:
        UsageError: a class name stands twice, or a subset is not known.
    """

    summed = ("confusion",)

    def __init__(
        self, model: str, classes: Sequence[str], blocks: Blocks, subsets: Sequence[str], base: Row
    ) -> None:
        double = sorted({name for name in classes if list(classes).count(name) > 1})
        if double:
            raise UsageError(f"expected class names that differ, got {double} more than once.")
        super().__init__(model, classes, blocks, subsets, base)
        count = len(self.classes)
        self.confusion = torch.zeros(len(blocks), count, count, dtype=torch.int64)  # (U, C, C)

    def update(self, prediction: Prediction, label: Tensor, keys: Sequence[str]) -> None:
        """Count a batch: logits (B, C, H, W), label (B, H, W) uint8, B keys.

        Raises:
            DataError: channels, sizes or ids do not fit, or a key is not under evaluation.
            MoesegError: the logits hold NaN.
        """
        channels = prediction.logits.shape[1]
        if channels != len(self.classes):
            raise DataError(
                f"expected {len(self.classes)} classes from {self.model!r}, got {channels}; "
                "score it with the taxonomy it was trained on."
            )
        ids = prediction.ids
        if ids is None:
            ids = class_ids(prediction.logits, what=f"the logits of {self.model!r} on {list(keys)}")
        self.count(ids, label, keys)

    def count(self, ids: Tensor, label: Tensor, keys: Sequence[str]) -> None:
        """Count a batch of classes (B, H, W), however they were chosen; else as `update`."""
        found = confusion_per_image(ids, label.to(ids.device), len(self.classes))  # (B, C, C)
        self.count_confusions(found, keys)

    def count_confusions(self, found: Tensor, keys: Sequence[str]) -> None:
        """Count B frames by their confusion matrices (B, C, C)."""
        self.confusion.index_add_(0, self.units_of(keys), found.cpu().to(torch.int64))

    def rows(self) -> list[Row]:
        """Return one ``segmentation`` row per subset.

        Raises:
            DataError: a frame was counted twice (a sampler that pads does so), or a base key is
                missing.
        """
        self.check_counted_once()
        return [self._row(subset) for subset in self.subsets]

    def groups(self, subset: str) -> tuple[Confusions, CiUnit]:
        """Return (G, C, C) counts per resampling unit of a subset, and what the unit is."""
        groups, unit = self.blocks.units_for(subset)
        parts = [self.confusion[torch.from_numpy(group)].sum(dim=0) for group in groups]
        return torch.stack(parts).numpy(), unit  # G of (C, C) -> (G, C, C)

    def miou(self, subset: str) -> float | None:
        """Return the headline mIoU on a subset, 0..1; None if nothing was counted."""
        confusions, _ = self.groups(subset)
        return scores(torch.from_numpy(confusions).sum(dim=0)).miou

    def _row(self, subset: str) -> Row:
        confusions, unit = self.groups(subset)
        result = scores(torch.from_numpy(confusions).sum(dim=0))  # (G, C, C) -> (C, C)
        row = self.head("segmentation", subset) | {
            "miou": result.miou,
            "miou_union": result.miou_union,
            "pixel_accuracy": result.pixel_accuracy,
            "class_accuracy": result.class_accuracy,
            "fw_iou": result.fw_iou,
            "per_class_iou": dict(zip(self.classes, result.per_class_iou, strict=True)),
            "per_class_pixels": dict(zip(self.classes, result.pixels, strict=True)),
            "classes_used": result.classes_used,
            "ci95": miou_interval(confusions),
            "ci_unit": unit,
            "ci_units": len(confusions),
        }
        validate_row(row)
        return row


def members_of(model: Model) -> int:
    """Return how many distributions a model joins: experts or samples; 1 for a network."""
    return model.samples if isinstance(model, MonteCarloDropout) else len(model.experts)


def difference_rows(
    collectors: Mapping[str, SegmentationCollector], members: Mapping[str, int]
) -> list[Row]:
    """Return each mixture minus best expert, baseline, mean ensemble and controls, paired.

    Models are known by name: ``moe-...``, ``expert-...``, ``baseline``, ``ensemble-mean`` (where it
    is not scored ``ensemble-mean-probability``), those of `config.CONTROLS`,
    ``deep-ensemble-...``, ``mc-dropout...`` and the mixture's own
    ``mean-gate-...``; what is not there gives no row, nor does what joins more or fewer members
    than the mixture has experts, unless it is a single network: more members cost more and would
    win by that alone. The best expert is the one with the highest mIoU on the very subset and
    frames that are scored, which favours it over the mixture.

    Args:
        collectors: by model name, all filled with the same frames at the same size.
        members: of every model, as `members_of` counts them.

    Returns:
        One ``difference`` row per mixture, subset and opponent. ``wins`` says that the interval
        of the mixture's mIoU minus the opponent's lies above 0, from `MIN_SEQUENCES` units or more.

    Raises:
        UsageError: the collectors differ in frames, size, condition, subsets or classes.
    """
    _check_comparable(collectors)
    rows = []
    for name, mixture in collectors.items():
        if not name.startswith("moe-"):
            continue
        opponents = _opponents(name, {other: members[other] for other in collectors})
        experts = {other: c for other, c in collectors.items() if other.startswith("expert-")}
        for subset in mixture.subsets:
            mious = {other: expert.miou(subset) or 0.0 for other, expert in experts.items()}
            best = [max(mious, key=mious.__getitem__)] if mious else []
            rows += [_difference(mixture, collectors[o], subset) for o in (*best, *opponents)]
    return rows


def _opponents(mixture: str, members: Mapping[str, int]) -> list[str]:
    """Return the models, besides experts, that a mixture is measured against."""
    ensembles = ("ensemble-mean", "ensemble-mean-probability")
    joined = [other for other in ensembles if other in members][:1]
    known = ["baseline", *joined, *CONTROLS, f"mean-gate-{mixture}"]
    known += [other for other in members if other.startswith(("deep-ensemble-", "mc-dropout"))]
    return [other for other in known if members.get(other) in (1, members[mixture])]


def _difference(mixture: SegmentationCollector, other: SegmentationCollector, subset: str) -> Row:
    confusions, unit = mixture.groups(subset)
    against, _ = other.groups(subset)
    ours, theirs = mixture.miou(subset), other.miou(subset)
    ci95 = miou_interval(confusions, against)
    row = mixture.head("difference", subset) | {
        "minus": other.model,
        "difference": None if ours is None or theirs is None else ours - theirs,
        "ci95": ci95,
        "ci_unit": unit,
        "ci_units": len(confusions),
        "wins": ci95 is not None and len(confusions) >= MIN_SEQUENCES and ci95[0] > 0.0,
    }
    validate_row(row)
    return row


def _check_comparable(collectors: Mapping[str, SegmentationCollector]) -> None:
    def ground(collector: SegmentationCollector) -> dict[str, object]:
        base = collector.base
        return {
            "frames": collector.blocks,
            "images": collector.images.tolist(),
            "ground truth": collector.confusion.sum(dim=2).tolist(),
            "size": list(base.get("size", [])),
            "condition": base.get("condition", "clean"),
            "subsets": collector.subsets,
            "classes": collector.classes,
        }

    names = list(collectors)
    for first, other in pairwise(names):
        one, two = ground(collectors[first]), ground(collectors[other])
        unlike = [key for key in one if one[key] != two[key]]
        if unlike:
            raise UsageError(
                f"expected {first!r} and {other!r} on the same ground, got different "
                f"{', '.join(unlike)}; evaluate them in one run."
            )


def several_ranks() -> bool:
    """Return whether this process is one of a `torch.distributed` group."""
    return dist.is_available() and dist.is_initialized()


def sum_over_ranks(state: Tensor) -> Tensor:
    """Return the sum of a CPU tensor over ranks; through the GPU where the backend wants that."""
    device = torch.device("cuda") if dist.get_backend() == "nccl" else state.device
    total = state.to(device, copy=True)
    dist.all_reduce(total)
    return total.to(state.device)
