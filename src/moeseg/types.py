"""The values that pass between the parts of moeseg; no logic.

Axes: B images, E experts, C classes, K gate columns (1 or C), F feature channels, H W image
height and width, h w a smaller map. Order is always (B, E, C, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

IGNORE = 255
"""The label id that counts in no loss and no measure."""

Size = tuple[int, int]
"""Height and width, in this order, in pixels."""

Split = Literal["train", "val", "test"]

Row = dict[str, Any]
"""One result as JSON-ready values; `kind` says which keys it carries."""


@dataclass(frozen=True, slots=True)
class Features:
    """What an expert's encoder hands on.

    Attributes:
        gate: (B, F, h, w), what a gate sees.
        decoder: tensors that the same expert's `decode` needs, in its own order.
        size: (H, W) of the images.
    """

    gate: Tensor
    decoder: tuple[Tensor, ...]
    size: Size


@dataclass(frozen=True, slots=True)
class ExpertOutput:
    """One expert's whole contribution to a mixture, at its own resolutions.

    Attributes:
        gate: (B, F, h, w), what a gate sees.
        logits: (B, C, h', w') at decoder resolution, covering the whole image; full-size logits
            are its bilinear resize (`align_corners=False`).
        features: what was decoded, for models that decode it again; None unless kept.
        images: (B, 3, H, W) that were encoded; None unless kept.
        seeds: one for each of B images, by its key; None where it has none.
    """

    gate: Tensor
    logits: Tensor
    features: Features | None = None
    images: Tensor | None = None
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What every model gives: an expert, an ensemble, a mixture.

    Attributes:
        logits: (B, C, H, W) at image size; a mean of probabilities leaves as its log.
        weights: (B, E, K), >= 0, summing to 1 over E; None without a gate.
        expert_logits: (B, E, C, H, W) at image size, S stochastic samples in place of E experts
            where the model draws some; None unless asked for.
        ids: (B, H, W) int64 classes of the largest logits; the inference loop fills it in, so that
            no two collectors compute it.
        expert_ids: (B, E, H, W) int64, the same of each expert; None unless a collector asks.
        extents: (H, W) of each of the B photos within its padding, from the upper left corner; None
            where none is padded.
    """

    logits: Tensor
    weights: Tensor | None = None
    expert_logits: Tensor | None = None
    ids: Tensor | None = None
    expert_ids: Tensor | None = None
    extents: tuple[Size, ...] | None = None

    def inside(self, number: int) -> tuple[slice, slice]:
        """Return the rows and columns of image `number` that are no padding."""
        if self.extents is None:
            return slice(None), slice(None)
        height, width = self.extents[number]
        return slice(height), slice(width)


@dataclass(frozen=True, slots=True)
class Frame:
    """One labelled photo of a data set, by where its files lie.

    Attributes:
        sequence: the drive it belongs to; frames of one drive are correlated.
        frame: its name within the drive; sorting by it is sorting by time.
        image: the photo.
        label: the label picture; None for a photo without labels.
        subset: semantic subset, e.g. ``highway``.
        split: ``train``, ``val`` or ``test``.
    """

    sequence: str
    frame: str
    image: Path
    label: Path | None
    subset: str
    split: Split

    @property
    def key(self) -> str:
        """``sequence/frame``, unique in a data set."""
        return f"{self.sequence}/{self.frame}"


def single_subsets(*subsets: str) -> tuple[str, ...]:
    """Return the parts of subsets and joins, such as ``highway+urban``, each once, in order."""
    parts = (part.strip() for subset in subsets for part in subset.split("+"))
    return tuple(dict.fromkeys(parts))
