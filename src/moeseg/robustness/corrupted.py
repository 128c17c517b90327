"""Models on corrupted frames: rows of every corruption and severity, one pass each, resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from moeseg.config import CorruptionsConfig
from moeseg.errors import UsageError, unknown_name
from moeseg.evaluation.rows import read_rows, write_rows
from moeseg.evaluation.runner import Change, Extents
from moeseg.progress import say
from moeseg.robustness.ball import number_of
from moeseg.robustness.corruptions import CORRUPTIONS, condition_of, corrupt
from moeseg.robustness.ranks import agreed
from moeseg.run import rank
from moeseg.types import Row

Score = Callable[[Change, str], list[Row]]
"""Scores the models on changed images, under the name of a condition."""


def conditions_of(wanted: CorruptionsConfig) -> list[tuple[str, int]]:
    """Return every corruption and severity that the settings ask for.

    Raises:
        UsageError: an unknown corruption.
    """
    names = CORRUPTIONS if wanted.names is None else wanted.names
    if unknown := [name for name in names if name not in CORRUPTIONS]:
        raise UsageError("\n".join(unknown_name("corruption", n, CORRUPTIONS) for n in unknown))
    return [(name, severity) for name in names for severity in wanted.severities]


def corruption(name: str, severity: int, seed: int) -> Change:
    """Return a change of images that hangs on each frame's key and nothing else."""

    def change(images: Tensor, label: Tensor, keys: Sequence[str], extents: Extents) -> Tensor:
        seeds = [number_of(f"{seed}/{key}") for key in keys]
        if extents is None:
            return corrupt(images, name, severity, seeds)
        changed = images.clone()
        for place, (height, width) in enumerate(extents):  # padding is no part of the photo
            photo = images[place : place + 1, :, :height, :width]
            changed[place, :, :height, :width] = corrupt(photo, name, severity, seeds[place:][:1])[
                0
            ]
        return changed

    return change


def changes_of(wanted: CorruptionsConfig, seed: int) -> dict[str, Change]:
    """Return the change behind every condition that the settings ask for, by its name.

    Raises:
        UsageError: an unknown corruption.
    """
    return {condition_of(*named): corruption(*named, seed) for named in conditions_of(wanted)}


def corrupted_rows(
    conditions: Sequence[tuple[str, int]], score: Score, folder: Path, seed: int
) -> list[Row]:
    """Return the rows of every condition; one whose file is in `folder` is not scored again."""
    paths = {named: folder / f"{condition_of(*named)}.jsonl" for named in conditions}
    left = agreed([named for named, path in paths.items() if not path.exists()])
    for number, (name, severity) in enumerate(left, 1):
        condition = condition_of(name, severity)
        say(f"corruption {number}/{len(left)}: {condition}")
        found = score(corruption(name, severity, seed), condition)
        if rank() == 0:
            write_rows(paths[name, severity], found)
    return [row for path in paths.values() for row in read_rows(path)] if rank() == 0 else []
