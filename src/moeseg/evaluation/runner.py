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
from moeseg.progress import track
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
    once, whether it is scored itself or a collector of a mixture needs them. Under an initialised
    process group every rank takes its share of the frames and the collectors' states are summed at
    the end.

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
    """
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
    with _enough_memory(title, batch_size), evaluating(modules):
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
    for several in collectors.values():
        for collector in several:
            collector.sync()


@contextmanager
def _enough_memory(title: str, batch_size: int) -> Iterator[None]:
    """Tell what to do where the device's memory does not hold a batch."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MoesegError(
            f"{title}: out of memory with {batch_size} images at once; lower eval.batch_size, then "
            "run the same command again: it goes on from what is finished"
        ) from error


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
