"""Models on frames that are changed whatever the model: a pass for each condition, resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from moeseg.config import CorruptionsConfig
from moeseg.errors import DataError, UsageError, unknown_name
from moeseg.evaluation.rows import read_rows, write_rows
from moeseg.evaluation.runner import Change, Extents
from moeseg.progress import say
from moeseg.robustness.ball import number_of, photo_mask
from moeseg.robustness.corruptions import CORRUPTIONS, condition_of, corrupt
from moeseg.robustness.ranks import agreed
from moeseg.robustness.universal import apply_universal, load_universal
from moeseg.run import rank
from moeseg.types import Row

Score = Callable[[Change, str], list[Row]]
"""Scores the models on changed images, under the name of a condition."""


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
    names = CORRUPTIONS if wanted.names is None else wanted.names
    if unknown := [name for name in names if name not in CORRUPTIONS]:
        raise UsageError("\n".join(unknown_name("corruption", n, CORRUPTIONS) for n in unknown))
    asked = [(name, severity) for name in names for severity in wanted.severities]
    return {condition_of(*named): corruption(*named, seed) for named in asked}


def universal(path: Path) -> tuple[str, Change]:
    """Return the condition and the change of a saved universal change, for models of any kind.

    Raises:
        DataError: no such file, or none that `save_universal` wrote.
    """
    saved, about = load_universal(path)
    epsilon, attack = float(about["epsilon"]), about["attack"]
    name = f"{attack['kind']}-{attack['steps']} of {about.get('model', path.stem)}"

    def change(images: Tensor, label: Tensor, keys: Sequence[str], extents: Extents) -> Tensor:
        radius = epsilon * photo_mask(images, extents)
        return apply_universal(images, saved, radius, clip=attack["clip"])

    return f"{name}@{255 * epsilon:g}/255", change


def universals(paths: Sequence[Path]) -> dict[str, Change]:
    """Return the changes of several files, as `universal` does.

    Raises:
        DataError: a file holds no universal change.
        UsageError: two of them have one name.
    """
    found: dict[str, Change] = {}
    for path in paths:
        condition, change = universal(path)
        if condition in found:
            raise UsageError(
                f"--universal {path}: expected one change of a kind, model and radius, got "
                f"{condition!r} twice; score it by a command of its own, with another --out"
            )
        found[condition] = change
    return found


def corrupted_rows(changes: Mapping[str, Change], score: Score, folder: Path) -> list[Row]:
    """Return the rows of every condition; one whose file is in `folder` is not scored again."""
    paths = {name: folder / f"{name.replace('/', '-')}.jsonl" for name in changes}
    left = agreed([name for name, path in paths.items() if not path.exists()])
    for number, condition in enumerate(left, 1):
        say(f"condition {number}/{len(left)}: {condition}")
        found = score(changes[condition], condition)
        if rank() == 0 and not any(row.get("miou") is not None for row in found):
            raise DataError(
                f"{condition}: expected labelled pixels to score, got frames whose labels are all "
                "ignored; choose other frames, or look at them with `moeseg data check`"
            )
        if rank() == 0:
            write_rows(paths[condition], found)
    return [row for path in paths.values() for row in read_rows(path)] if rank() == 0 else []
