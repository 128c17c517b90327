"""Fitting temperatures on random labelled pixels of validation frames.

The loss is the mean cross-entropy over all labelled pixels, estimated from a fixed number of them:
each frame gives as many, weighted by how many labelled ones it has. A head is a 3x3 convolution, so
9 values around a pixel are all that its logits hang on, whatever the weights. Memory hangs on the
number of sampled pixels alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from moeseg.errors import UsageError
from moeseg.models import Ensemble, Mixture, Model, combine_max, combine_mean, key_seeds
from moeseg.models.mixture import combine_mean_probability
from moeseg.types import IGNORE, Prediction, Row
from moeseg.uncertainty.temperature import Kind, Temperature, kinds_of, tempered_weights

PIXELS = 2**16
"""Sampled over all frames; the error of a temperature of this many is far below one percent."""

_RANGE = math.log(20.0)  # of ln T, beyond which nothing is searched
_GRID = tuple(math.exp(math.log(2) * step / 4) for step in range(-16, 17))  # 1/16 .. 16


class PointCollector:
    """Sampled pixels of one model's predictions, from which its temperatures are fitted.

    It takes part in the inference loop as a collector, and gives no rows.

    Args:
        name: of the model, for errors.
        model: whose predictions will come.
        kinds: to be fitted; those that the model cannot have are left out.
        frames: number of frames that will come.
        pixels: to sample over all frames.
    """

    needs_experts = False

    def __init__(
        self, name: str, model: Model, kinds: Sequence[Kind], frames: int, pixels: int = PIXELS
    ) -> None:
        self.name = name
        self.model = model
        self.kinds = tuple(kind for kind in kinds if kind in kinds_of(model))
        self.each = max(1, pixels // max(frames, 1))
        self.needs_expert_logits = bool({"experts", "gate"} & set(self.kinds))
        self.reset()

    def update(self, prediction: Prediction, label: Tensor, keys: Sequence[str]) -> None:
        """Sample a batch: logits, and of mixtures weights and expert_logits; label, B keys."""
        for image, seed in enumerate(key_seeds(keys)):
            valid = (label[image] != IGNORE).flatten().nonzero()[:, 0].cpu()
            if not len(valid):
                continue
            order = torch.randperm(len(valid), generator=torch.Generator().manual_seed(seed))
            places = valid[order[: self.each]].to(prediction.logits.device)
            self.frames += 1
            true = label[image].flatten().to(places.device)[places].long()
            self._labels.append(true.cpu())
            self._weights.append(torch.full((len(places),), len(valid) / len(places)))
            logits = prediction.logits[image].flatten(1)[:, places].T  # (C, H W) -> (n, C)
            self._logits.append(logits.float().cpu())
            if self.needs_expert_logits:
                self._sample_members(prediction, image, places, true)

    def reset(self) -> None:
        """Forget all samples."""
        self.frames = 0
        self._logits: list[Tensor] = []  # (n, C)
        self._parts: list[Tensor] = []  # (n, E, C)
        self._labels: list[Tensor] = []  # (n)
        self._weights: list[Tensor] = []  # (n)
        self._of_gate = torch.zeros(len(_GRID), dtype=torch.float64)  # sums of loss

    def sync(self) -> None:
        """Do nothing: temperatures are fitted by one process."""

    def rows(self) -> list[Row]:
        """Return no rows."""
        return []

    def fit(self) -> list[Temperature]:
        """Return the fitted temperatures, in the order of the kinds.

        Raises:
            UsageError: no labelled pixel came.
        """
        if not self._labels:
            raise UsageError(
                f"temperature of {self.name}: expected labelled validation frames, got none. Name "
                "frames under `uncertainty.fit`, or set `uncertainty.temperatures: []`."
            )
        label, weight = torch.cat(self._labels), torch.cat(self._weights).double()
        before = _loss(torch.cat(self._logits), label, weight)
        found = []
        for kind in self.kinds:
            if kind == "gate":
                values, after = self._best_of_grid(float(weight.sum()))
            else:
                values, after = self._descend(kind, label, weight)
            pixels = len(label)
            found.append(Temperature(kind, values, float(before), after, pixels, self.frames))
        return found

    def _descend(
        self, kind: Kind, label: Tensor, weight: Tensor
    ) -> tuple[tuple[float, ...], float]:
        """Minimise the loss over ln T by L-BFGS."""
        whole = torch.cat(self._parts if kind == "experts" else self._logits)
        count = {"class": whole.shape[-1], "experts": whole.shape[1]}.get(kind, 1)

        def mixed(temperatures: Tensor) -> Tensor:
            if kind != "experts":
                return whole / temperatures
            return _join(self.model, whole / temperatures[:, None])  # (n, E, C) -> (n, C)

        with torch.inference_mode(False), torch.enable_grad():
            whole, label, weight = whole.clone(), label.clone(), weight.clone()
            return _minimise(lambda t: _loss(mixed(t), label, weight), count)

    def _best_of_grid(self, weight: float) -> tuple[tuple[float, ...], float]:
        """Return the gate's best temperature, by a parabola through the best of the grid."""
        losses = (self._of_gate / weight).tolist()
        best = min(range(len(_GRID)), key=losses.__getitem__)
        if best in (0, len(_GRID) - 1):
            return (_GRID[best],), losses[best]
        low, middle, high = losses[best - 1 : best + 2]
        bend = low - 2 * middle + high
        shift = 0.0 if bend <= 0 else (low - high) / (2 * bend)
        after = middle - (low - high) * shift / 4
        return (_GRID[best] * math.exp(shift * math.log(2) / 4),), after

    def _sample_members(
        self, prediction: Prediction, image: int, places: Tensor, true: Tensor
    ) -> None:
        each = prediction.expert_logits
        assert each is not None  # needs_expert_logits is set
        if not isinstance(self.model, Mixture):
            own = each[image].flatten(2)[:, :, places]  # (E, C, H W) -> (E, C, n)
            self._parts.append(own.permute(2, 0, 1).float().cpu())
            return
        weights = prediction.weights
        assert weights is not None  # a mixture's prediction has them
        head = None if self.model.head is None else self.model.head.weight.detach()
        around = _around(each[image].float(), places, head is not None)  # (n, E, C, 9 or 1)
        own = weights[image][None, :, :, None].float()  # (1, E, K, 1)
        self._parts.append(_through(around * own, head).cpu())
        if "gate" not in self.kinds:
            return
        scale = self._weights[-1].double()
        for step, temperature in enumerate(_GRID):
            warm = tempered_weights(weights[image : image + 1].float(), temperature)
            mixed = _through((around * warm[..., None]).sum(1, keepdim=True), head)[:, 0]
            losses = F.cross_entropy(mixed, true, reduction="none").double().cpu()
            self._of_gate[step] += (losses * scale).sum()


def _around(each: Tensor, places: Tensor, neighbours: bool) -> Tensor:
    """Return the logits (n, E, C, 9) at pixels and around them, zero outside; or (n, E, C, 1).

    Args:
        each: (E, C, H, W).
        places: (n) indices into H * W.
        neighbours: give the 3x3 values around.
    """
    if not neighbours:
        return each.flatten(2)[:, :, places].permute(2, 0, 1).unsqueeze(3)
    width = each.shape[3]
    padded = F.pad(each, (1, 1, 1, 1)).flatten(2)
    corner = places // width * (width + 2) + places % width
    steps = [row * (width + 2) + column for row in range(3) for column in range(3)]
    return torch.stack([padded[:, :, corner + s] for s in steps], 3).permute(2, 0, 1, 3)


def _through(around: Tensor, head: Tensor | None) -> Tensor:
    """Return (n, E, C) at the pixels, through the head (C, C, 3, 3) where there is one."""
    if head is None:
        return around[..., 0]
    return torch.einsum("necp,kcp->nek", around, head.flatten(2))


def _join(model: Model, parts: Tensor) -> Tensor:
    """Return (n, C) from the experts' parts (n, E, C): weighted already, or raw in an ensemble."""
    if not isinstance(model, Ensemble):
        return parts.sum(1)
    rules = {
        "mean": combine_mean,
        "max": combine_max,
        "mean-probability": combine_mean_probability,
    }
    maps = [one[:, :, None, None] for one in parts.unbind(1)]  # (n, C) -> (n, C, 1, 1)
    return rules[model.rule](maps, (1, 1))[:, :, 0, 0]


def _loss(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean cross-entropy of (n, C) logits."""
    losses = F.cross_entropy(logits, label, reduction="none")
    return (losses.double() * weight).sum() / weight.sum()


def _minimise(loss: Callable[[Tensor], Tensor], count: int) -> tuple[tuple[float, ...], float]:
    """Return the temperatures of the least loss, and that loss; 1 where none is better."""
    theta = torch.zeros(count, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=60, line_search_fn="strong_wolfe")

    def value() -> Tensor:
        # a steep wall keeps the search in range where the data wants T of 0 or infinity
        wall = F.relu(theta.abs() - _RANGE).square().sum()
        return loss(theta.clamp(-_RANGE, _RANGE).exp()) + wall

    def step() -> Tensor:
        optimizer.zero_grad()
        total = value()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    start = float(value().detach())
    optimizer.step(step)  # type: ignore[no-untyped-call]
    temperatures = theta.detach().clamp(-_RANGE, _RANGE).exp()
    after = float(loss(temperatures))
    if not math.isfinite(after) or after > start:
        return (1.0,) * count, start
    return tuple(float(t) for t in temperatures), after
