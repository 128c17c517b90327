"""One process group for the ranks that a launcher started, while they share the frames of a job."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from moeseg.errors import UsageError
from moeseg.evaluation.collectors import several_ranks
from moeseg.run import launched

T = TypeVar("T")


_PATIENCE = timedelta(days=2)
"""How long ranks wait for each other: one may train a universal change meanwhile."""


@contextmanager
def joined_ranks(name: str) -> Iterator[None]:
    """Open a process group over all launched ranks and close it again; alone, nothing happens.

    Args:
        name: of the job, the same on every rank and another for each job of a run: ranks meet
            under it, and never under what an earlier job left.

    Raises:
        UsageError: the launcher did not say where ranks meet.
    """
    if not launched():
        yield
        return
    if dist.is_initialized():  # of a training before
        dist.destroy_process_group()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        store, own, world = next(rendezvous("env://"))
    except ValueError as error:
        raise UsageError(
            f"several processes were started, but not where they meet ({error}): start attacks and "
            "corruptions on several processes with torchrun"
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=PrefixStore(f"moeseg/{name}/{attempt}", store),
        rank=own,
        world_size=world,
        timeout=_PATIENCE,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def wait() -> None:
    """Wait until every rank is here; alone, nothing happens."""
    if several_ranks():
        dist.barrier()


def agreed(left: Sequence[T]) -> list[T]:
    """Return what rank 0 found to be left to do, on every rank."""
    held: list[list[T] | None] = [list(left)]
    if several_ranks():
        dist.broadcast_object_list(held, src=0)
    return held[0] or []
