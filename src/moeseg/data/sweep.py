"""Going once over many frames, with threads and a progress display.

Threads and not processes: decoding and encoding of pictures and resizing release the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from moeseg.types import Frame

T = TypeVar("T")


class Track(Protocol):
    """What shows the progress of a loop; `moeseg.progress.track` is one."""

    def __call__(self, items: Iterable[T], title: str, total: int) -> Iterator[T]:
        """Yield the items while showing how far it is."""
        ...


def untracked(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Yield the items and show nothing."""
    yield from items


def sweep(
    frames: Sequence[Frame],
    work: Callable[[Frame], T],
    title: str,
    workers: int = 0,
    track: Track = untracked,
) -> Iterator[T]:
    """Yield `work(frame)` for each frame, in order.

    Args:
        frames: what is gone over.
        work: called once a frame; the first error it raises ends the sweep.
        title: what is being done, for the progress display.
        workers: threads; 0 works in the calling one.
        track: shows progress.
    """
    if not workers:
        yield from track(map(work, frames), title, len(frames))
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from track(pool.map(work, frames), title, len(frames))
