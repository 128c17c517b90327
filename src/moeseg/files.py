"""Writing files so that a reader never sees half of one, and hashing them."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moeseg.errors import MoesegError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file to; it takes `path`'s place if all went well.

    What stood at `path` is left alone on any failure.

    Raises:
        MoesegError: the disk is full or the place cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(unfinished)
        try:
            yield unfinished
            unfinished.replace(path)
        finally:
            remove(unfinished)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> MoesegError:
    return MoesegError(
        f"cannot write {path}: {error.strerror or error}; free space or choose another folder, "
        "then run the same command again: it goes on from what is finished"
    )


def make_folder(path: Path) -> None:
    """Make a folder and those above it.

    Raises:
        MoesegError: the place cannot be written, or holds a file.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def log_epoch(path: Path, row: Mapping[str, Any]) -> None:
    """Put an epoch's row at the end of a CSV.

    Rows of this epoch and later ones go: a run that was killed before its checkpoint makes them
    again.

    Args:
        path: made if missing.
        row: has `epoch`, counted from 0, and the same keys each time.

    Raises:
        MoesegError: the disk is full or the place cannot be written.
    """
    earlier: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            earlier = [old for old in csv.DictReader(file) if int(old["epoch"]) < row["epoch"]]
    with (
        replacing(path) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, fieldnames=list(row))
        writer.writeheader()
        writer.writerows([*earlier, row])


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fingerprint(value: Any) -> str:  # noqa: ANN401 - anything that JSON can hold
    """Return the hex SHA-256 of a JSON-ready value."""
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
