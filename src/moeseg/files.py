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


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def append_csv(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row to a CSV, with a header line where the file is new."""
    new = not path.exists()
    try:
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
    except OSError as error:
        raise _unwritable(path, error) from error


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(value: Any) -> str:  # noqa: ANN401 - anything that JSON can hold
    """Return the hex SHA-256 of a JSON-ready value."""
    text = json.dumps(value, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _unwritable(path: Path, error: OSError) -> MoesegError:
    return MoesegError(
        f"cannot write {path}: {error.strerror or error}; free space or choose another folder, "
        "then run the same command again: it goes on from what is finished"
    )
