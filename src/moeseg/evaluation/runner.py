"""The one inference loop: any number of models over shared experts, each expert once an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from moeseg.data import SegmentationDataset
from moeseg.errors import MoesegError
from moeseg.evaluation.collectors import Collector
from moeseg.metrics import class_ids
from moeseg.models import (
    Ensemble,
    Expert,
    Mixture,
    Segmenter,
    key_seeds,
    resize,
)
from moeseg.progress import say, track
from moeseg.types import ExpertOutput, Size

Extents = tuple[Size, ...] | None
"""(H, W) of each photo within its padding, as in `Prediction.extents`."""

Change = Callable[[Tensor, Tensor, Sequence[str], Extents], Tensor]
"""Makes other images of a batch's images (B, 3, H, W), labels (B, H, W), B keys and extents."""


@torch.inference_mode()
def run_models(
    models: Mapping[str, Segmenter],
    frames: SegmentationDataset,
    collectors: Mapping[str, Sequence[Collector]],
    *,
    batch_size: int = 8,
    workers: int = 0,
    device: torch.device | str = "cpu",
    change: Change | None = None,
    title: str = "evaluating",
) -> None:
    """Predict every frame with every model and hand each prediction to the model's collectors.

    An expert that several models share runs once a batch, and its classes at full size are found
    once, whether it is scored itself or a collector of a mixture needs them. Where the device's
    memory does not hold a batch, the pass begins anew with half as many frames at once, unless a
    collector's result hangs on the batch (its attribute `needs_whole_batches` is true). Under an
    initialised process group every rank takes its share of the frames and the collectors' states
    are summed at the end.

    Args:
        models: by name, in any training mode; modes are as before afterwards.
        frames: without augmentation.
        collectors: by model name; a model without any is not combined.
        batch_size: frames of one forward pass.
        workers: loader processes.
        device: where models run; they are moved there.
        change: what the models see instead of the images: a corruption, an attack. What it
            draws must hang on the frame's key alone, so that neither batch nor rank counts.
        title: of the progress bar.

    Raises:
        MoesegError: memory does not hold a single frame, or a batch that may not be halved.
    """
    every = [collector for several in collectors.values() for collector in several]
    while True:
        try:
            _pass(models, frames, collectors, batch_size, workers, device, change, title)
            break
        except torch.OutOfMemoryError as error:
            if any(getattr(collector, "needs_whole_batches", False) for collector in every):
                raise MoesegError(
                    f"{title}: out of memory with {batch_size} images at once, and what is "
                    "measured hangs on the batch, so it is not halved on the way; set a smaller "
                    "one for all with --set eval.batch_size=N"
                ) from error
            batch_size = half_of(batch_size, title, error)
        for collector in every:
            collector.reset()
    for collector in every:
        collector.sync()


def _pass(
    models: Mapping[str, Segmenter],
    frames: SegmentationDataset,
    collectors: Mapping[str, Sequence[Collector]],
    batch_size: int,
    workers: int,
    device: torch.device | str,
    change: Change | None,
    title: str,
) -> None:
    """Hand every prediction of this rank's frames to the collectors; see `run_models`."""
    distributed = dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    places = list(range(rank, len(frames), world))
    mine = Subset(frames, places)
    extents = [frames.extent(place) for place in places]
    loader = DataLoader(mine, batch_size=batch_size, num_workers=workers)
    experts = unique_experts(models)
    sampled = [model for model in models.values() if getattr(model, "decodes_again", False)]
    again = {id(expert) for model in sampled for expert in model.experts}
    modules = [model for model in models.values() if isinstance(model, nn.Module)]
    with evaluating(modules):
        for model in models.values():
            if isinstance(model, nn.Module):
                with torch.inference_mode(False):  # else its parameters take no gradient ever after
                    model.to(device)
        done = 0
        for images, label, keys in track(loader, title, len(loader)):
            size = (int(images.shape[-2]), int(images.shape[-1]))
            of_batch = extents[done : done + len(images)]
            done += len(images)
            padded: Extents = None
            if any(extent is not None for extent in of_batch):
                padded = tuple(extent or size for extent in of_batch)
            images, label = images.to(device), label.to(device)
            if change is not None:
                images = change(images, label, keys, padded)
            seeds = key_seeds(keys)
            outputs: dict[int, ExpertOutput] = {
                id(e): replace(e.kept_output(images), seeds=seeds)
                if id(e) in again
                else e.output(images)
                for e in experts
            }
            classes: dict[int, Tensor] = {}  # of experts, (B, H, W) each
            stacks: dict[tuple[int, ...], Tensor] = {}  # of some experts, (B, E, C, H, W)
            for name, model in models.items():
                if not collectors.get(name):
                    continue
                own = [outputs[id(expert)] for expert in model.experts]
                wanted = any(_wants_logits(collector) for collector in collectors[name])
                shares = isinstance(model, Mixture | Ensemble)
                prediction = model.combine(own, size, expert_logits=wanted and not shares)
                if wanted and shares:  # models over the same experts share their full-size logits
                    members = tuple(map(id, model.experts))
                    if members not in stacks:
                        stacks[members] = torch.stack([resize(o.logits, size) for o in own], 1)
                    prediction = replace(prediction, expert_logits=stacks[members])
                ids = class_ids(prediction.logits, what=f"the logits of {name!r} on {list(keys)}")
                if isinstance(model, Expert):
                    classes[id(model)] = ids
                each = None
                if any(collector.needs_experts for collector in collectors[name]):
                    for expert, output in zip(model.experts, own, strict=True):
                        if id(expert) not in classes:
                            classes[id(expert)] = class_ids(resize(output.logits, size))
                    each = torch.stack([classes[id(e)] for e in model.experts], 1)  # (B, E, H, W)
                prediction = replace(prediction, ids=ids, expert_ids=each, extents=padded)
                for collector in collectors[name]:
                    collector.update(prediction, label, keys)


def half_of(count: int, title: str, error: torch.OutOfMemoryError) -> int:
    """Return half the number of images that memory did not hold at once, and say so.

    Args:
        count: images of the batch.
        title: what was being done.
        error: what the device said.

    Raises:
        MoesegError: it is a single image.
    """
    if count == 1:
        raise MoesegError(
            f"{title}: out of memory with a single image; take smaller ones (eval.size, in "
            "training data.size, or the command's --size), or the CPU (training.accelerator=cpu)"
        ) from error
    say(f"{title}: out of memory with {count} images at once; once more with {count // 2}")
    return count // 2


def unique_experts(models: Mapping[str, Segmenter]) -> list[Expert]:
    """Return every expert of the models once, in order of first use."""
    return list({id(e): e for model in models.values() for e in model.experts}.values())


def _wants_logits(collector: Collector) -> bool:
    """Return whether predictions must carry `expert_logits` for a collector; few say so."""
    return bool(getattr(collector, "needs_expert_logits", False))


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put modules in eval mode, and every part of them back in its own mode afterwards."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training
