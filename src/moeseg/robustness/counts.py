"""Counts of one attack in a file: confusion matrices of every frame, and what was noted of it."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from moeseg.errors import DataError
from moeseg.files import replacing

_SETTINGS = "settings"
_DAMAGED = (OSError, ValueError, EOFError, KeyError, BadZipFile, zlib.error)
"""What numpy raises at a file of counts that is not whole."""


@dataclass(frozen=True)
class Counts:
    """What is kept of one attack on one source.

    Attributes:
        targets: (N, C, C) confusion matrices on the attacked images, by model name.
        notes: what `Crafter` noted, each with N first.
        settings: of the attack as it was run.
    """

    targets: Mapping[str, Tensor]
    notes: Mapping[str, Tensor]
    settings: Mapping[str, Any]


def read_counts(path: Path) -> Counts:
    """Read what an attack left.

    Raises:
        DataError: the file is missing or not as written.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            settings = dict(json.loads(str(file[_SETTINGS])))
            held = {n: torch.from_numpy(file[n]) for n in file.files if n != _SETTINGS}
    except _DAMAGED as error:
        raise DataError(
            f"{path}: expected counts of an attack, got {type(error).__name__}: {error}; remove "
            "the file and run the same command again"
        ) from error
    targets: dict[str, Tensor] = {}
    notes: dict[str, Tensor] = {}
    for name, values in held.items():
        kind, _, own = name.partition(":")
        (targets if kind == "target" else notes)[own] = values
    return Counts(targets, notes, settings)


def contents_of(path: Path) -> tuple[str, set[str]]:
    """Return the settings in a file of counts as text, and the names of all that it holds.

    Both are empty where it is missing or damaged.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return str(file[_SETTINGS]), set(file.files)
    except _DAMAGED:
        return "", set()


def write_counts(path: Path, counts: Counts) -> None:
    """Write counts into a file, all or nothing."""
    content = io.BytesIO()
    held = {f"target:{name}": values.numpy() for name, values in counts.targets.items()}
    held |= {f"note:{name}": values.numpy() for name, values in counts.notes.items()}
    held[_SETTINGS] = np.array(json.dumps(counts.settings, sort_keys=True))
    np.savez_compressed(content, **held)  # type: ignore[arg-type]  # names are not keywords
    with replacing(path) as unfinished:
        unfinished.write_bytes(content.getvalue())
