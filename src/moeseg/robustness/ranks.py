"""One process group for the ranks that a launcher started, while they share the frames of a job."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from moeseg.evaluation.collectors import several_ranks
from moeseg.run import launched

T = TypeVar("T")


@contextmanager
def joined_ranks() -> Iterator[None]:
    """Open a process group over all launched ranks and close it again; alone, nothing happens."""
    if not launched():
        yield
        return
    if dist.is_initialized():  # of a training before
        dist.destroy_process_group()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def agreed(left: Sequence[T]) -> list[T]:
    """Return what rank 0 found to be left to do, on every rank."""
    held: list[list[T] | None] = [list(left)]
    if several_ranks():
        dist.broadcast_object_list(held, src=0)
    return held[0] or []
