"""What scores of doubt are made of: the softmaxes of a strip of an image, and each score's formula.

What the scores mean, and what they are divided by, stands in `scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from moeseg.insight.detectors import softmax_parts, strips
from moeseg.types import Prediction


def strips_of(prediction: Prediction, image: int) -> Iterator[tuple[slice, Strip]]:
    """Yield the rows of one image of a prediction strip by strip, each small enough for a cache."""
    logits = prediction.logits[image]
    each = None if prediction.expert_logits is None else prediction.expert_logits[image]
    weights = None if prediction.weights is None else prediction.weights[image].float()
    for rows in strips(*logits.shape):
        members = None if each is None else each[:, :, rows]
        yield rows, Strip(logits[:, rows], members, weights)


class Strip:
    """Some rows of one image, and all that scores are made of, each computed when first needed.

    Args:
        logits: (C, h, W) of the model.
        members: (E, C, h, W) of its members; None where there are none.
        weights: (E, K) of its gate; None without one.
    """

    def __init__(self, logits: Tensor, members: Tensor | None, weights: Tensor | None) -> None:
        self.exponentials, self.total, self.entropy = softmax_parts(logits)
        self._logits = members
        self._gate = weights

    def score(self, name: str) -> Tensor:
        """Return one score (h, W), not scaled."""
        return FORMULAS[name](self)

    @cached_property
    def probabilities(self) -> Tensor:
        """(C, h, W) of the model itself, m."""
        return self.exponentials / self.total

    @cached_property
    def weights(self) -> Tensor:
        """(E, 1, 1) or (E, h, W): w_e."""
        if self._gate is None:
            return self.total.new_full((len(self.members), 1, 1), 1 / len(self.members))
        if self._gate.shape[1] == 1:
            return self._gate[:, :, None]  # (E, 1) -> (E, 1, 1)
        m = self.probabilities
        return (self._gate @ m.flatten(1)).view(-1, *m.shape[1:])  # (E, C) @ (C, h W) -> (E, h, W)

    @cached_property
    def members(self) -> list[Tensor]:
        """E of (C, h, W): p_e. The entropies fall off with them."""
        return [p for p, _ in self._members]

    @cached_property
    def mean_member_entropy(self) -> Tensor:
        """(h, W): sum_e w_e H(p_e)."""
        return _weighted([h for _, h in self._members], self.weights)

    @cached_property
    def pool(self) -> Tensor:
        """(C, h, W): sum_e w_e p_e."""
        return _weighted(self.members, self.weights)

    @cached_property
    def pool_entropy(self) -> Tensor:
        """(h, W): H(sum_e w_e p_e)."""
        return _entropy(self.pool)

    @cached_property
    def stacked(self) -> list[Tensor]:
        """The members and, where there is a gate, the mixture as one more: (C, h, W) each."""
        return [*self.members, *([] if self._gate is None else [self.probabilities])]

    @cached_property
    def stacked_entropies(self) -> list[Tensor]:
        """Of each of `stacked`, (h, W)."""
        own = [] if self._gate is None else [self.entropy]
        return [*(h for _, h in self._members), *own]

    @cached_property
    def stacked_entropy(self) -> Tensor:
        """(h, W): the entropy of their mean."""
        return _entropy(_mean(self.stacked))

    @cached_property
    def _members(self) -> list[tuple[Tensor, Tensor]]:
        assert self._logits is not None  # check_scores comes first
        found = []
        for logits in self._logits:
            e, total, entropy = softmax_parts(logits)
            found.append((e.div_(total), entropy))
        return found


def _max_probability(strip: Strip) -> Tensor:
    left: Tensor = 1 - 1 / strip.total
    return left


def _mutual_information(strip: Strip) -> Tensor:
    return (strip.pool_entropy - strip.mean_member_entropy).clamp_(min=0)  # < 0 by rounding only


def _expert_variance(strip: Strip) -> Tensor:
    # sum_e w_e |p_e|^2 - |pool|^2
    squares = [p.square().sum(0) for p in strip.members]
    return (_weighted(squares, strip.weights) - strip.pool.square().sum(0)).clamp_(min=0)


def _gate_entropy(strip: Strip) -> Tensor:
    return _entropy(strip.weights).expand_as(strip.total)


def _stacked_information(strip: Strip) -> Tensor:
    return (strip.stacked_entropy - _mean(strip.stacked_entropies)).clamp_(min=0)


def _weighted_information(strip: Strip) -> Tensor:
    unweighted = _mean([h for _, h in strip._members])
    return (strip.pool_entropy - unweighted).clamp_(min=0)


def _stacked_deviation(strip: Strip) -> Tensor:
    chosen = strip.exponentials.max(dim=0).indices[None]  # (1, h, W)
    of_class = [p.gather(0, chosen)[0] for p in strip.stacked]
    return torch.stack(of_class).std(dim=0)  # (E, h, W) -> (h, W), divided by E - 1


FORMULAS: Mapping[str, Callable[[Strip], Tensor]] = {
    "entropy": lambda strip: strip.entropy,
    "max-probability": _max_probability,
    "mutual-information": _mutual_information,
    "expert-variance": _expert_variance,
    "gate-entropy": _gate_entropy,
    "entropy-stacked": lambda strip: strip.stacked_entropy,
    "mutual-information-stacked": _stacked_information,
    "mutual-information-weighted": _weighted_information,
    "expert-deviation-stacked": _stacked_deviation,
}
"""Each score by name, not scaled: in nats, or as it comes."""


def _entropy(p: Tensor) -> Tensor:
    """Return the entropy (...) in nats of distributions (N, ...)."""
    # several times as fast as torch.special.entr; the least normal number keeps 0 ln 0 at 0
    return -p.clamp(min=1.2e-38).log().mul_(p).sum(0)


def _weighted(values: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Sum values of E members, (..., h, W) each, by weights (E, h, W) or (E, 1, 1)."""
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total.addcmul_(value, weight.expand_as(value))
    return total


def _mean(values: Sequence[Tensor]) -> Tensor:
    total = values[0].clone()
    for value in values[1:]:
        total += value
    return total / len(values)
