"""A folder that is replaced as a whole or not at all; what it holds is not known here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from moeseg.errors import CheckpointError


@contextmanager
def replaced(path: Path, names: Collection[str], *, beside: Collection[str] = ()) -> Iterator[Path]:
    """Give an empty folder to fill; at the end it takes the place of `path`.

    If the block raises, `path` stays as it was. A process that dies between the two renames leaves
    the former folder under another name, from which `recover` brings it back.

    Args:
        path: absolute; may exist.
        names: the files that will be in it. A folder that holds others is not replaced.
        beside: files that may lie in the former folder too, and go with it.

    Yields:
        The folder to fill, beside `path`.

    Raises:
        CheckpointError: `path` is a file or holds other files.
        OSError: the disk did not take it.
    """
    recover(path)
    _check(path, (*names, *beside))
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        yield fresh
        for name in names:
            with (fresh / name).open("rb") as file:
                os.fsync(file.fileno())
        old = _backup(path)
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        try:
            fresh.rename(path)
        except OSError:
            recover(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def recover(path: Path) -> None:
    """Put the former folder back if a process died while it was being replaced."""
    if not path.exists() and _backup(path).is_dir():
        _backup(path).rename(path)


def _backup(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _check(path: Path, names: Collection[str]) -> None:
    if path.is_dir():
        foreign = sorted(one.name for one in path.iterdir() if one.name not in names)
        if foreign:
            raise CheckpointError(
                f"{path}: expected a new folder or one that holds only {', '.join(names)}, got "
                f"{', '.join(foreign[:5])} in it. Choose a folder of its own: it is replaced whole."
            )
    elif path.exists():
        raise CheckpointError(f"{path}: expected a folder, got a file. Choose another name.")
