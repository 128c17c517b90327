"""What makes attacked images for the inference loop, and what it notes of each on the way.

`Crafter` is a `Change` of `evaluation.runner`: it attacks one model, the source; any models may be
scored on what it gives. State is kept per frame, in the order of the data set, so that rows can be
made of any part of the frames later and a worst case can be chosen frame by frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from moeseg.evaluation.collectors import several_ranks, sum_over_ranks
from moeseg.evaluation.runner import Extents
from moeseg.metrics import class_ids, confusion_per_image
from moeseg.models import Mixture, Model, image_size, key_seeds, resize
from moeseg.robustness.attacks import Perturbed
from moeseg.robustness.losses import Pixels, cross_entropy
from moeseg.robustness.paths import ALL, EXPERT
from moeseg.types import IGNORE, ExpertOutput, Prediction, Row

Craft = Callable[[Tensor, Tensor, Sequence[str], Extents], Perturbed]
"""Attacks images (B, 3, H, W) with labels (B, H, W), B keys, and extents of photos in padding."""


class FrameCounts:
    """A collector: the confusion matrix of one model on every single frame.

    Args:
        keys: of all N frames under evaluation.
        classes: C, their number.
    """

    needs_experts = False

    def __init__(self, keys: Sequence[str], classes: int) -> None:
        self.places = {key: place for place, key in enumerate(keys)}
        self.confusion = torch.zeros(len(keys), classes, classes, dtype=torch.int32)  # (N, C, C)

    def update(self, prediction: Prediction, label: Tensor, keys: Sequence[str]) -> None:
        """Count a batch of ids (B, H, W) against labels (B, H, W) uint8."""
        assert prediction.ids is not None
        found = confusion_per_image(prediction.ids, label, self.confusion.shape[1])
        self.confusion[[self.places[key] for key in keys]] = found.to("cpu", torch.int32)

    def reset(self) -> None:
        """Do nothing: a frame that comes again takes its place."""

    def sync(self) -> None:
        """Sum over ranks, of which each has frames of its own; alone, nothing happens."""
        if several_ranks():
            self.confusion = sum_over_ranks(self.confusion)

    def rows(self) -> list[Row]:
        """Return none: rows are made of the counts later."""
        return []


class Crafter:
    """Attacks the batches of the inference loop and notes what each attack did to its source.

    Args:
        source: the model that is attacked.
        craft: the attack.
        keys: of all N frames under evaluation.
        through: the part of the source whose logits the attack reads; see
            `paths.forward_through`.

    Attributes:
        notes: by name, tensors whose first axis is the N frames: `losses` (N, T), the
            cross-entropy along the steps; and what `reaction` tells.
    """

    def __init__(
        self, source: Model, craft: Craft, keys: Sequence[str], through: str = ALL
    ) -> None:
        self.source = source
        self.craft = craft
        self.through = through
        self.places = {key: place for place, key in enumerate(keys)}
        self.notes: dict[str, Tensor] = {}

    def __call__(
        self, images: Tensor, label: Tensor, keys: Sequence[str], extents: Extents
    ) -> Tensor:
        """Return attacked images (B, 3, H, W)."""
        found = self.craft(images, label, keys, extents)
        changed = found.images.detach()
        places = [self.places[key] for key in keys]
        self._note("losses", found.losses.T, places)  # (T, B) -> (B, T)
        seeds = key_seeds(keys)
        told = reaction(self.source, images, changed, label, seeds, self.through)
        for name, values in told.items():
            self._note(name, values, places)
        return changed

    def sync(self) -> None:
        """Sum over ranks, of which each has frames of its own; alone, nothing happens."""
        if not several_ranks():
            return
        mine = {name: (tuple(v.shape), v.dtype) for name, v in self.notes.items()}
        every: list[dict[str, tuple[tuple[int, ...], torch.dtype]]] = [{}] * dist.get_world_size()
        dist.all_gather_object(every, mine)
        for name, (shape, dtype) in sorted(next((one for one in every if one), {}).items()):
            own = self.notes.get(name, torch.zeros(shape, dtype=dtype))  # a rank without frames
            self.notes[name] = sum_over_ranks(own)

    def _note(self, name: str, values: Tensor, places: Sequence[int]) -> None:
        values = values.cpu()
        if name not in self.notes:
            shape = (len(self.places), *values.shape[1:])
            self.notes[name] = torch.zeros(shape, dtype=values.dtype)
        self.notes[name][list(places)] = values


@torch.inference_mode()
def reaction(
    model: Model,
    clean: Tensor,
    attacked: Tensor,
    label: Tensor,
    seeds: Sequence[int] | None = None,
    through: str = ALL,
) -> dict[str, Tensor]:
    """Compare a model on clean and on attacked images, and a mixture part by part.

    Of a mixture, the weights of one image are also put to the logits of the other: what it would
    do if the attack reached its gate alone, or its experts alone.

    Args:
        model: any.
        clean: (B, 3, H, W).
        attacked: (B, 3, H, W).
        label: (B, H, W) uint8 ids, 255 ignored.
        seeds: B, of a model that samples; None takes the images' own.
        through: the part of the model whose logits the attack read.

    Returns:
        `clean` (B, C, C) int32 confusion matrices on clean images and `clean_loss` (B,), the
        cross-entropy there of the logits that the attack read. Of a mixture also: `moved`
        (B, K), half the L1 distance of the weights, 0..1; `flipped` (B, K) 1 where another expert
        has the greatest weight; `changed` (B,) and `expert_changed` (B, E), labelled pixels whose
        class is another; `expert` (B, E, C, C), each expert attacked; `gate_held` and
        `logits_held` (B, C, C), the mixture attacked with its clean weights, or its clean logits.
    """
    size = image_size(clean)
    before = _outputs(model, clean, seeds)
    first = model.combine(before, size)
    ids = class_ids(first.logits)
    classes = first.logits.shape[1]

    def counts(found: Tensor) -> Tensor:
        return confusion_per_image(found, label, classes).to(torch.int32)  # (B, C, C)

    read = first.logits
    if through.startswith(EXPERT):
        read = resize(before[int(through.removeprefix(EXPERT)) - 1].logits, size)
    notes = {"clean": counts(ids), "clean_loss": cross_entropy(Pixels.of(read, label), 0.0)}
    if not isinstance(model, Mixture):
        return notes
    after = _outputs(model, attacked, seeds)
    then = model.combine(after, size)
    assert first.weights is not None
    assert then.weights is not None
    valid = label != IGNORE
    experts = [_ids(one, size) for one in after]
    differ = [(_ids(b, size) != a) & valid for b, a in zip(before, experts, strict=True)]
    tops = first.weights.argmax(1), then.weights.argmax(1)  # (B, E, K) -> (B, K)
    crossed = {
        "gate_held": _crossed(gate=before, logits=after),
        "logits_held": _crossed(gate=after, logits=before),
    }
    return notes | {
        "moved": (first.weights - then.weights).abs().sum(1) / 2,  # (B, E, K) -> (B, K)
        "flipped": (tops[0] != tops[1]).float(),
        "changed": ((class_ids(then.logits) != ids) & valid).sum((1, 2)),
        "expert_changed": torch.stack([one.sum((1, 2)) for one in differ], 1),  # (B, E)
        "expert": torch.stack([counts(one) for one in experts], 1),  # (B, E, C, C)
        **{
            name: counts(class_ids(model.combine(outputs, size).logits))
            for name, outputs in crossed.items()
        },
    }


def _outputs(model: Model, images: Tensor, seeds: Sequence[int] | None) -> list[ExpertOutput]:
    if not getattr(model, "decodes_again", False):
        return [expert.output(images) for expert in model.experts]
    own = None if seeds is None else tuple(seeds)
    return [replace(expert.kept_output(images), seeds=own) for expert in model.experts]


def _ids(output: ExpertOutput, size: tuple[int, int]) -> Tensor:
    return class_ids(resize(output.logits, size))


def _crossed(*, gate: Sequence[ExpertOutput], logits: Sequence[ExpertOutput]) -> list[ExpertOutput]:
    """Return outputs with the gate's features of one image and the logits of another."""
    return [ExpertOutput(a.gate, b.logits) for a, b in zip(gate, logits, strict=True)]
