"""Random numbers of a batch, each image's from a generator of its own.

A generator is serial, so the images of a batch are drawn side by side on as many threads as torch
has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

Generators = Sequence[torch.Generator]

IN_CACHE = 2**15
"""Numbers that are worked on at a time within one image: a core's cache holds several such rows."""


def generators_of(seeds: Sequence[int]) -> Generators:
    """Return a CPU generator per seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def per_image(generators: Generators, work: Callable[[int, torch.Generator], object]) -> None:
    """Call `work(number of the image, its generator)` for each image, in threads."""
    threads = min(torch.get_num_threads(), len(generators))
    if threads <= 1:
        for number, generator in enumerate(generators):
            work(number, generator)
        return
    inferring = torch.is_inference_mode_enabled()  # a thread does not take it over

    def alike(number: int, generator: torch.Generator) -> None:
        with torch.inference_mode(inferring):
            work(number, generator)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(alike, range(len(generators)), generators))  # raises what a thread raised


def normal(shape: Sequence[int], generators: Generators) -> Tensor:
    """Return standard normal numbers (B, *shape), float32 on the CPU."""
    drawn = torch.empty(len(generators), *shape)
    per_image(generators, lambda number, generator: drawn[number].normal_(generator=generator))
    return drawn


def uniform(shape: Sequence[int], generators: Generators) -> Tensor:
    """Return numbers of 0..1 (B, *shape), float32 on the CPU."""
    drawn = torch.empty(len(generators), *shape)
    per_image(generators, lambda number, generator: drawn[number].uniform_(generator=generator))
    return drawn


def integers(least: int, below: int, shape: Sequence[int], generators: Generators) -> Tensor:
    """Return whole numbers least..below - 1 (B, *shape), int64 on the CPU."""
    drawn = torch.empty(len(generators), *shape, dtype=torch.int64)
    per_image(
        generators,
        lambda number, generator: drawn[number].random_(least, below, generator=generator),
    )
    return drawn
