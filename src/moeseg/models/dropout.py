"""MC dropout: one network decoded several times with its dropout layers at work.

After Gal and Ghahramani (ICML 2016). The samples are members as an ensemble's experts are: the
prediction is the mean of their probabilities, and `expert_logits` has a sample where those have an
expert.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from moeseg.errors import UsageError, unknown_name
from moeseg.models.expert import Expert, image_size, name_of, resize
from moeseg.models.mixture import combine_mean_probability
from moeseg.types import ExpertOutput, Features, Prediction, Size

_PRIME = 1_000_003


class MonteCarloDropout(nn.Module):
    """An expert whose dropout layers are at work in prediction, S times an image.

    Where every sampled layer comes after the encoder (its output is handed to the decoder as it is,
    as in DeepLabv3+, or it lies in the decoder), the encoder runs once; else S times. Masks are
    drawn for each image by itself, from its seed: neither batch nor rank has an effect.

    Args:
        expert: kept as it is, not copied; in eval mode, so that BatchNorm holds still.
        samples: S, 2 or more.
        rate: probability of a zero, in place of each layer's own; None keeps that.
        layers: names of the sampled layers, or of modules that hold them, e.g. ``classifier.aspp``;
            empty for every dropout layer of the network.
        seed: another one draws other masks.

    Raises:
        UsageError: the network has no such layer, fewer than two samples, an impossible rate, or
            samples that could not differ: without a rate, layers that drop nothing. At the first
            image: no sampled layer is part of the forward pass.
    """

    decodes_again = True
    """It needs outputs that keep features, see `Expert.kept_output`."""

    def __init__(
        self,
        expert: Expert,
        samples: int,
        *,
        rate: float | None = None,
        layers: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if samples < 2:
            raise UsageError(f"MC dropout: expected 2 samples or more, got {samples}.")
        if rate is not None and not 0 < rate < 1:
            raise UsageError(f"MC dropout: expected a rate between 0 and 1, got {rate}.")
        self.num_classes = expert.num_classes
        self.samples = samples
        self.rate = rate
        self.layers = tuple(layers)
        self.seed = seed
        self.members = nn.ModuleList([expert])
        self._sampled = _dropout_layers(expert, self.layers)
        if rate is None and not any(_rate(layer) for layer in self._sampled.values()):
            raise UsageError(
                f"MC dropout: expected a layer that drops something, got {list(self._sampled)} of "
                f"{name_of(expert)}, all with rate 0. Give a `rate`."
            )
        self._late: bool | None = None
        self.train(self.training)

    @property
    def experts(self) -> tuple[Expert, ...]:
        """The one network behind all samples."""
        members: Any = self.members
        return tuple(members)

    def train(self, mode: bool = True) -> MonteCarloDropout:
        """Set the mode of this module; its network stays in eval mode."""
        super().train(mode)
        self.members.eval()
        return self

    def combine(
        self, outputs: Sequence[ExpertOutput], size: Size, *, expert_logits: bool = False
    ) -> Prediction:
        """Sample at `size` (H, W); see `Segmenter.combine`.

        Args:
            outputs: one, with features and images, as `Expert.kept_output` gives it, and perhaps
                with seeds.
            size: (H, W).
            expert_logits: also give (B, S, C, H, W).
        """
        (own,) = outputs
        samples = self.sample(own)
        full = [resize(one, size) for one in samples] if expert_logits else samples
        every = torch.stack(full, 1) if expert_logits else None  # S x (B, C, H, W)
        return Prediction(combine_mean_probability(full, size), expert_logits=every)

    def forward(self, images: Tensor, *, expert_logits: bool = False) -> Prediction:
        """Predict images (B, 3, H, W) in [0, 1]; `expert_logits` adds (B, S, C, H, W)."""
        output = self.experts[0].kept_output(images)
        return self.combine([output], image_size(images), expert_logits=expert_logits)

    def sample(self, output: ExpertOutput) -> list[Tensor]:
        """Return S samples (B, C, h, w) at decoder resolution."""
        (expert,) = self.experts
        features, images = output.features, output.images
        if features is None or images is None:
            raise ValueError("expected an output that keeps features and images, got neither")
        seeds = content_seeds(images) if output.seeds is None else output.seeds
        generators = [torch.Generator().manual_seed(_PRIME * self.seed + one) for one in seeds]
        if self._late is None:
            self._late = self._comes_late(images[:1])
        if expert.training:  # someone called train on the expert itself
            expert.eval()

        def drop(layer: nn.Module, x: Tensor) -> Tensor:
            return _dropped(x, layer, self.rate, generators)

        drawn = []
        for _ in range(self.samples):
            if self._late:
                encoded = self._changed(features, drop)
                with self._hooked(drop):
                    drawn.append(expert.decode(encoded))
            else:
                with self._hooked(drop):
                    drawn.append(expert.decode(expert.features(images)))
        return drawn

    @torch.no_grad()
    def _comes_late(self, images: Tensor) -> bool:
        """Return whether no part of the encoder sees what a sampled layer gives; keep which do.

        The layers' outputs are changed once. All that changes in the features must be such an
        output itself: then dropping it there is the same.
        """
        (expert,) = self.experts
        given: dict[int, str] = {}
        kept: list[Tensor] = []  # so that no two of them have one id
        names = {id(layer): name for name, layer in self._sampled.items()}

        def shift(layer: nn.Module, x: Tensor) -> Tensor:
            moved = x + 1
            given[id(moved)] = names[id(layer)]
            kept.append(moved)
            return moved

        plain = _tensors(expert.features(images))
        with self._hooked(shift):
            changed = expert.features(images)
            moved = _tensors(changed)
            expert.decode(changed)
        if not given:
            raise UsageError(
                f"MC dropout: expected layers that take part in prediction, got "
                f"{list(self._sampled)}, none of which {name_of(expert)} calls as a module. Name "
                "others in `layers`."
            )
        self._places: list[str | None] = [given.get(id(one)) for one in moved]
        return all(
            place is not None or torch.equal(one, other)
            for place, one, other in zip(self._places, moved, plain, strict=True)
        )

    def _changed(self, features: Features, drop: Callable[[nn.Module, Tensor], Tensor]) -> Features:
        done: dict[int, Tensor] = {}  # what stands in two places is dropped once
        found = []
        for place, one in zip(self._places, _tensors(features), strict=True):
            if place is not None and id(one) not in done:
                done[id(one)] = drop(self._sampled[place], one)
            found.append(one if place is None else done[id(one)])
        return replace(features, gate=found[0], decoder=tuple(found[1:]))

    @contextmanager
    def _hooked(self, change: Callable[[nn.Module, Tensor], Tensor]) -> Iterator[None]:
        """Let `change` replace what the sampled layers give."""

        def hook(layer: nn.Module, inputs: object, output: Tensor) -> Tensor:
            return change(layer, output)

        handles = [layer.register_forward_hook(hook) for layer in self._sampled.values()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def content_seeds(images: Tensor) -> tuple[int, ...]:
    """Return a seed for each of B images (B, 3, H, W) that hangs on its pixels alone."""
    return tuple(zlib.crc32(one.detach().cpu().contiguous().numpy().tobytes()) for one in images)


def key_seeds(keys: Sequence[str]) -> tuple[int, ...]:
    """Return a seed for each of B frames that hangs on its key alone."""
    return tuple(zlib.crc32(key.encode()) for key in keys)


def _dropout_layers(expert: Expert, wanted: Sequence[str]) -> dict[str, nn.Module]:
    every: dict[str, nn.Module] = {
        name: module
        for name, module in expert.named_modules()
        if isinstance(module, nn.Dropout | nn.Dropout2d)
    }
    if not every:
        raise UsageError(
            f"MC dropout: expected a network with dropout layers, got {name_of(expert)} without "
            "one. Take a network that was trained with dropout (DeepLabv3+ is), or an ensemble of "
            "seeds."
        )
    chosen: dict[str, nn.Module] = {}
    for name in wanted:
        found = {n: m for n, m in every.items() if n == name or n.startswith(f"{name}.")}
        if not found:
            raise UsageError(f"MC dropout: {unknown_name('dropout layer', name, every)}")
        chosen |= found
    return chosen or every


def _rate(layer: nn.Module) -> float:
    return float(layer.p)  # type: ignore[arg-type]


def _dropped(
    x: Tensor, layer: nn.Module, rate: float | None, generators: Sequence[torch.Generator]
) -> Tensor:
    """Set values of (B, F, ...) to zero, each image by its own generator; scale up the others."""
    p = _rate(layer) if rate is None else rate
    # Dropout2d drops whole channels
    shape = (
        (x.shape[1], *(1 for _ in x.shape[2:])) if isinstance(layer, nn.Dropout2d) else x.shape[1:]
    )
    drawn = torch.stack([torch.rand(shape, generator=one) for one in generators])
    kept: Tensor = (drawn >= p).to(x)
    return x * kept / (1 - p) if p < 1 else torch.zeros_like(x)


def _tensors(features: Features) -> list[Tensor]:
    return [features.gate, *features.decoder]
