"""Temperatures: a trained model's logits divided so that its probabilities come true.

Four kinds. ``one`` number for all logits of the model (Guo et al., 2017, section 4.2); one per
``class``; one per expert before they are mixed (``experts``); one for the ``gate``, whose weights
become w^(1/T) over their sum. Only the last three can change a predicted class. Fitting is
`fitting`'s matter; here is what a temperature is, what it does to a model, and its file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from moeseg.errors import CheckpointError, UsageError, unknown_name
from moeseg.files import write_text
from moeseg.models import (
    TEMPERATURES,
    Ensemble,
    Expert,
    Gate,
    Mixture,
    Model,
    MonteCarloDropout,
    read_info,
    referenced_experts,
    weights_digest,
)
from moeseg.types import ExpertOutput, Frame, Prediction, Size

Kind = Literal["one", "class", "experts", "gate"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Temperature:
    """A fitted temperature.

    Attributes:
        kind: what it divides.
        values: > 0; 1 of them, C, E or 1, by kind.
        nll_before: mean negative log-likelihood of the fitted pixels as the model is, in nats.
        nll_after: with the temperature.
        pixels: how many were fitted.
        frames: from so many frames.
    """

    kind: Kind
    values: tuple[float, ...]
    nll_before: float
    nll_after: float
    pixels: int
    frames: int


def kinds_of(model: Model) -> tuple[Kind, ...]:
    """Return the kinds of temperature that a model can have."""
    if isinstance(model, Expert | MonteCarloDropout):
        return ("one", "class")
    if isinstance(model, Ensemble):
        return ("one", "class", "experts")
    return KINDS


class Tempered(nn.Module):
    """A model with a temperature; predicts as the model does, and shares its experts.

    Args:
        model: kept as it is, not copied.
        temperature: of a kind and a number of values that fit the model.

    Raises:
        UsageError: it does not fit.
    """

    values: Tensor

    def __init__(self, model: Model, temperature: Temperature) -> None:
        super().__init__()
        kind, values = temperature.kind, temperature.values
        if kind not in kinds_of(model):
            known = kinds_of(model)
            raise UsageError(unknown_name(f"temperature of a {type(model).__name__}", kind, known))
        wanted = {"class": model.num_classes, "experts": len(model.experts)}.get(kind, 1)
        if len(values) != wanted or min(values) <= 0:
            raise UsageError(
                f"temperature {kind}: expected {wanted} values > 0, got {list(values)}; fit it for "
                "this model."
            )
        self.kind = kind
        self.num_classes = model.num_classes
        self.model = model
        self.register_buffer("values", torch.tensor(values), persistent=False)
        if kind == "gate":
            mixture = cast("Mixture", model)
            gate = cast("Gate", _TemperedGate(mixture.gate, values[0]))
            self.model = Mixture(mixture.experts, gate, mixture.head)
        self.eval()

    @property
    def experts(self) -> tuple[Expert, ...]:
        """The model's experts."""
        return self.model.experts

    @property
    def decodes_again(self) -> bool:
        """Whether the model needs outputs that keep features."""
        return isinstance(self.model, MonteCarloDropout)

    def combine(
        self, outputs: Sequence[ExpertOutput], size: Size, *, expert_logits: bool = False
    ) -> Prediction:
        """Join the experts' outputs at `size` (H, W); see `Segmenter.combine`."""
        if self.kind == "experts":
            pairs = zip(outputs, self.values.unbind(), strict=True)
            outputs = [replace(own, logits=own.logits / t) for own, t in pairs]
        whole = self.model.combine(outputs, size, expert_logits=expert_logits)
        if self.kind in ("experts", "gate"):
            return whole
        return replace(whole, logits=whole.logits / self.values[:, None, None])

    def forward(self, images: Tensor, *, expert_logits: bool = False) -> Prediction:
        """Predict images (B, 3, H, W) in [0, 1]; see the model's own `forward`."""
        outputs = [
            e.kept_output(images) if self.decodes_again else e.output(images) for e in self.experts
        ]
        size = (int(images.shape[-2]), int(images.shape[-1]))
        return self.combine(outputs, size, expert_logits=expert_logits)


class _TemperedGate(nn.Module):
    """A gate whose logits are divided by a temperature."""

    def __init__(self, gate: nn.Module, temperature: float) -> None:
        super().__init__()
        inner: Any = gate
        self.channels, self.columns = inner.channels, inner.columns
        self.inner = gate
        self.temperature = temperature

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Weight the experts: (B, E, K)."""
        return tempered_weights(self.inner(features), self.temperature)


def tempered_weights(weights: Tensor, temperature: float) -> Tensor:
    """Return weights (B, E, K) to the power 1/T, over their sum over E."""
    return (weights.clamp(min=1e-30).log() / temperature).softmax(dim=1)


def save_temperatures(
    folder: Path, fitted: Sequence[Temperature], frames: Sequence[Frame] = ()
) -> None:
    """Write temperatures beside the weights of the model in `folder`; they go when it changes.

    Args:
        folder: of the model.
        fitted: one of each kind.
        frames: on which they were fitted.

    Raises:
        CheckpointError: no model there.
        MoesegError: the disk does not take it.
    """
    document = {
        "format": _FORMAT,
        "weights": _digests(folder),
        "temperatures": {one.kind: asdict(one) for one in fitted},
        "frames": [frame.key for frame in frames],
    }
    write_text(folder / TEMPERATURES, json.dumps(document, indent=1) + "\n")


def load_temperatures(folder: Path, measured: Iterable[Frame] = ()) -> Mapping[str, Temperature]:
    """Return what was fitted for the model in `folder`, by kind; empty if nothing was.

    Args:
        folder: of the model.
        measured: frames on which they must not have been fitted, as they are measured on.

    Raises:
        CheckpointError: no model there, a file that is no such, or one of other weights.
        UsageError: they were fitted on one of the measured frames.
    """
    path = folder / TEMPERATURES
    read_info(folder)
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = {
            kind: Temperature(**one | {"values": tuple(one["values"])})
            for kind, one in document["temperatures"].items()
        }
        whole = document["format"] == _FORMAT and found.keys() <= set(KINDS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: expected fitted temperatures, got {type(error).__name__}: {error}. Delete "
            "the file, and fit them again with `moeseg study`."
        ) from error
    if not whole or document["weights"] != _digests(folder):
        raise CheckpointError(
            f"{path}: expected temperatures of the model in {folder}, got those of other weights "
            "or of another version. Delete the file, and fit them again with `moeseg study`."
        )
    known = set(document.get("frames", ()))
    if both := [frame.key for frame in measured if frame.key in known]:
        raise UsageError(
            f"{path}: expected temperatures fitted on other frames than those that are measured "
            f"on, got {len(both)} that are both, e.g. {both[0]!r}; name another --subset or "
            "--split, or measure without temperatures"
        )
    return found


def _digests(folder: Path) -> list[str]:
    return [weights_digest(one) for one in (folder, *referenced_experts(folder))]
