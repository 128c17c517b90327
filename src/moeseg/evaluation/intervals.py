"""Intervals that know that frames of one drive are alike: what is resampled, and how.

A bootstrap draws whole sequences; with fewer than 8 of them, blocks of consecutive frames. No
counting and no rows here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeseg.errors import DataError, UsageError, unknown_name
from moeseg.metrics import marginals, miou_of_marginals
from moeseg.types import Frame, single_subsets

CiUnit = Literal["sequence", "block"]

MIN_SEQUENCES = 8
"""With fewer sequences than this, blocks of consecutive frames are drawn instead."""

MIN_BLOCKS = 10
"""Every subset is cut into at least so many blocks, if it has as many frames."""

DRAWS = 1000
"""Resamples behind an interval."""

RESAMPLING_SEED = 0
"""One seed for every model, so that two models on one subset see the same resamples."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """The smallest units that counts are kept for: blocks of consecutive frames of one sequence.

    A unit lies in one subset and one sequence, so subsets, joins of subsets and whole sequences
    are all sums of units.

    Attributes:
        units: unit of each frame, by the frame's key.
        unit_subset: U subset names.
        unit_sequence: U sequence names.
        unit_frames: U frame counts.
    """

    units: Mapping[str, int]
    unit_subset: tuple[str, ...]
    unit_sequence: tuple[str, ...]
    unit_frames: tuple[int, ...]

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> Blocks:
        """Cut frames into blocks: at least 10 per subset, nested in sequences, in order of time.

        Args:
            frames: of any number of subsets, in any order; the order has no effect.

        Raises:
            DataError: a key stands there twice.
        """
        ordered = sorted(frames, key=lambda frame: (frame.subset, frame.sequence, frame.frame))
        units: dict[str, int] = {}
        blocks: list[list[Frame]] = []
        for _, of_subset in groupby(ordered, key=lambda frame: frame.subset):
            drives = [list(drive) for _, drive in groupby(of_subset, key=lambda f: f.sequence)]
            for drive, parts in zip(drives, _parts([len(d) for d in drives]), strict=True):
                ends = [len(drive) * part // parts for part in range(parts + 1)]
                blocks += [drive[start:end] for start, end in pairwise(ends)]
        for unit, block in enumerate(blocks):
            for frame in block:
                if frame.key in units:
                    first = blocks[units[frame.key]][0].subset
                    raise DataError(
                        f"expected each frame once, got {frame.key!r} twice (subsets {first!r} "
                        f"and {frame.subset!r}); take it out of one list."
                    )
                units[frame.key] = unit
        return cls(
            units=units,
            unit_subset=tuple(block[0].subset for block in blocks),
            unit_sequence=tuple(block[0].sequence for block in blocks),
            unit_frames=tuple(len(block) for block in blocks),
        )

    def __len__(self) -> int:
        """Return U, the number of units."""
        return len(self.unit_subset)

    @property
    def sequences(self) -> tuple[str, ...]:
        """Names of all sequences, sorted."""
        return tuple(sorted(set(self.unit_sequence)))

    def unit_of(self, key: str) -> int:
        """Return the unit (0..U-1) of the frame with this key.

        Raises:
            DataError: no such frame was given to `of`.
        """
        if key not in self.units:
            raise DataError(
                f"expected a frame of the {len(self.units)} under evaluation, got {key!r}; "
                "blocks and loader must be made from the same frames."
            )
        return self.units[key]

    def units_of(self, keys: Sequence[str]) -> Tensor:
        """Return the units (B,) int64 of the frames with these keys; see `unit_of`."""
        return torch.tensor([self.unit_of(key) for key in keys], dtype=torch.int64)

    def members(self, subset: str) -> NDArray[np.int64]:
        """Return the units of a subset, or of a join such as ``highway+urban``, ascending.

        Raises:
            UsageError: a name is not known.
        """
        parts = single_subsets(subset)
        for part in sorted(parts):
            if part not in self.unit_subset:
                raise UsageError(unknown_name("subset", part, set(self.unit_subset)))
        chosen = [unit for unit, name in enumerate(self.unit_subset) if name in parts]
        return np.array(chosen, dtype=np.int64)

    def units_for(self, subset: str) -> tuple[list[NDArray[np.int64]], CiUnit]:
        """Return what is drawn for a subset: groups of units, and what such a group is.

        Args:
            subset: a name or a join.

        Returns:
            Arrays of unit indices that partition the subset, and ``sequence`` where it has 8
            sequences or more (a sequence in both parts of a join is one), else ``block``.

        Raises:
            UsageError: a name is not known.
        """
        members = self.members(subset)
        by_sequence: dict[str, list[int]] = {}
        for unit in members.tolist():
            by_sequence.setdefault(self.unit_sequence[unit], []).append(unit)
        if len(by_sequence) >= MIN_SEQUENCES:
            groups = [by_sequence[name] for name in sorted(by_sequence)]
            return [np.array(group, dtype=np.int64) for group in groups], "sequence"
        return [members[index : index + 1] for index in range(len(members))], "block"


@functools.cache
def resample_counts(
    units: int, *, draws: int = DRAWS, seed: int = RESAMPLING_SEED
) -> NDArray[np.int64]:
    """Draw `units` units with replacement, `draws` times; the same arguments, the same resamples.

    Returns:
        (draws, units): how often each unit is in each resample; rows sum to `units`. Read only.
    """
    shares = np.full(units, 1 / units)
    drawn = np.random.default_rng(seed).multinomial(units, shares, size=draws)
    drawn.setflags(write=False)
    return drawn


def bootstrap(confusions: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the headline mIoU of every resample.

    The mean of a resample goes over the classes of the full ground truth that the resample holds
    too: a class whose few blocks were not drawn is left out, not counted as 0. Two models on the
    same units have the same ground truth, hence the same classes in every resample.

    Args:
        confusions: (G, C, C), one per unit.
        counts: (R, G) of `resample_counts`; the same for two models makes them paired.

    Returns:
        (R,) in 0..1, NaN where a resample counts no pixel.
    """
    sums = marginals(torch.from_numpy(confusions)).numpy()  # (G, C, C) -> (G, 3, C)
    # float64 for BLAS: exact, as pixel counts stay far below 2**53
    totals = counts.astype(np.float64) @ sums.reshape(len(sums), -1).astype(np.float64)
    stacked = torch.from_numpy(totals.reshape(len(counts), 3, -1))  # (R, 3 * C) -> (R, 3, C)
    values: NDArray[np.float64] = miou_of_marginals(stacked).numpy()
    return values


def interval(values: NDArray[np.float64]) -> list[float] | None:
    """Return the 2.5 and 97.5 percentiles; None if no resample counted a pixel."""
    counted = values[np.isfinite(values)]
    if counted.size == 0:
        return None
    low, high = np.percentile(counted, [2.5, 97.5])
    return [float(low), float(high)]


def miou_interval(
    confusions: NDArray[np.int64], minus: NDArray[np.int64] | None = None, *, draws: int = DRAWS
) -> list[float] | None:
    """Return the 95 % interval of a model's mIoU, or of its paired difference to another.

    Args:
        confusions: (G, C, C), one per unit of `Blocks.units_for`.
        minus: the other model on the same units; None for the mIoU itself.
        draws: resamples.

    Returns:
        [low, high], or None with fewer than two units, which say nothing about spread.
    """
    if len(confusions) < 2:
        return None
    counts = resample_counts(len(confusions), draws=draws)
    values = bootstrap(confusions, counts)
    if minus is not None:
        values = values - bootstrap(minus, counts)
    return interval(values)


def share_interval(
    hits: NDArray[np.float64], of: NDArray[np.float64], *, draws: int = DRAWS
) -> list[float] | None:
    """Return the 95 % interval of a share, sum of `hits` over sum of `of`, both (G,) per unit.

    Returns:
        [low, high], or None with fewer than two units or nothing counted.
    """
    if len(of) < 2:
        return None
    counts = resample_counts(len(of), draws=draws).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return interval((counts @ hits) / (counts @ of))


def _parts(lengths: Sequence[int]) -> list[int]:
    """Return into how many blocks to cut sequences of these lengths, longest blocks first."""
    parts = [1] * len(lengths)
    while sum(parts) < min(MIN_BLOCKS, sum(lengths)):
        parts[max(range(len(parts)), key=lambda i: (lengths[i] / parts[i], -i))] += 1
    return parts
