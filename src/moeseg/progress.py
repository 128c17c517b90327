"""Progress for people: bars on a terminal, plain lines in a log; always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
_QUIET_SECONDS = 30.0  # between two plain lines


def say(text: str) -> None:
    """Print one line of news to standard error."""
    print(text, file=sys.stderr, flush=True)


def track(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Yield the items of a long loop while showing how far it is.

    Args:
        items: what is looped over.
        title: what is being done.
        total: how many items there are.
    """
    if sys.stderr.isatty():
        with _bar() as progress:
            yield from progress.track(items, total=total, description=title)
        return
    with counter(title) as tell:
        for done, item in enumerate(items, 1):
            yield item
            tell(done, total)


@contextmanager
def counter(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function `(done, total)` that shows how far a job is which reports by call."""
    if sys.stderr.isatty():
        with _bar() as progress:
            task = progress.add_task(title, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)
        return
    told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > _QUIET_SECONDS:
            told = time.monotonic()
            say(f"{title}: {done}/{total}")

    yield tell


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))
