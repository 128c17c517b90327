"""Where the next point of a projected ascent lies, given the gradient at this one.

One object serves one run; each image of a batch moves by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Project = Callable[[Tensor], Tensor]
"""Brings points (B, 3, H, W) into the ball."""


class Direction(Protocol):
    """A rule for the next point."""

    def advance(self, point: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
        """Return the next point (B, 3, H, W), in the ball.

        Args:
            point: (B, 3, H, W), this one.
            gradient: (B, 3, H, W), of the loss there.
            value: (B,), the loss there.
        """


class SignStep:
    """A step of fixed length along the gradient's sign (Madry et al., 2018), with momentum.

    Momentum sums gradients of L1 norm 1 (Dong et al., 2018).

    Args:
        project: into the ball.
        length: of a step.
        momentum: share of the sum that is kept, 0..1.
    """

    def __init__(self, project: Project, length: float, momentum: float = 0.0) -> None:
        self.project = project
        self.length = length
        self.momentum = momentum
        self._sum: Tensor | None = None

    def advance(self, point: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
        """See `Direction.advance`."""
        if self.momentum:
            scale = gradient.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-30)
            earlier = 0.0 if self._sum is None else self.momentum * self._sum
            gradient = self._sum = earlier + gradient / scale
        return self.project(point + self.length * gradient.sign())


class AdamOfSigns:
    """The published rule: Adam fed with the gradient's sign.

    Kept to reproduce the original; the sign is as good as gone in Adam's own scaling.

    Args:
        project: into the ball.
        lr: learning rate.
    """

    def __init__(self, project: Project, lr: float = 0.01) -> None:
        self.project = project
        self.lr = lr
        self._means: tuple[Tensor, Tensor] | None = None
        self._step = 0

    def advance(self, point: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
        """See `Direction.advance`."""
        sign = gradient.sign()
        first, second = self._means or (torch.zeros_like(sign), torch.zeros_like(sign))
        first, second = 0.9 * first + 0.1 * sign, 0.999 * second + 0.001 * sign.square()
        self._means, self._step = (first, second), self._step + 1
        mean = first / (1 - 0.9**self._step)
        size = (second / (1 - 0.999**self._step)).sqrt() + 1e-8
        return self.project(point + self.lr * mean / size)


class Apgd:
    """Auto-PGD: step sizes that halve, image by image, where progress stalls (Croce, Hein, 2020).

    Args:
        project: into the ball.
        epsilon: radius of the ball; the first steps are twice as long.
        steps: of the run, in a shrinking ball of one stage, from which its checkpoints follow.
    """

    MOMENTUM = 0.75
    RISES = 0.75
    """A step size stays if this share of the steps since the last checkpoint raised the loss."""

    _length: Tensor  # all (B,): of the next step, the last loss, the best, the best at the check
    _last: Tensor
    _best: Tensor
    _best_then: Tensor
    _rises: Tensor
    _halved: Tensor
    _best_point: Tensor  # all (B, 3, H, W)
    _best_gradient: Tensor
    _before: Tensor

    def __init__(self, project: Project, epsilon: float, steps: int) -> None:
        self.project = project
        self.epsilon = epsilon
        self.checkpoints = checkpoints(steps)
        self._number = self._checked = 0

    def advance(self, point: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
        """See `Direction.advance`."""
        value = value.detach()
        if self._number == 0:
            self._begin(point, gradient, value)
        else:
            self._rises += value > self._last
            better = value > self._best
            self._best = torch.where(better, value, self._best)
            self._best_point = torch.where(_wide(better), point, self._best_point)
            self._best_gradient = torch.where(_wide(better), gradient, self._best_gradient)
        self._last = value
        if self._number in self.checkpoints:
            point, gradient = self._check(point, gradient)
        wanted = self.project(point + _wide(self._length) * gradient.sign())
        if self._number > 0:
            drift = (1 - self.MOMENTUM) * (point - self._before)
            wanted = self.project(point + self.MOMENTUM * (wanted - point) + drift)
        self._before = point
        self._number += 1
        return wanted

    def _begin(self, point: Tensor, gradient: Tensor, value: Tensor) -> None:
        self._length = torch.full_like(value, 2 * self.epsilon)
        self._best = self._best_then = value
        self._best_point, self._best_gradient = point, gradient
        self._rises = torch.zeros_like(value, dtype=torch.int64)
        self._halved = torch.ones_like(value, dtype=torch.bool)

    def _check(self, point: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Halve step sizes that no longer help, and go on from the best point there."""
        few = self._rises < self.RISES * (self._number - self._checked)
        stuck = ~self._halved & (self._best <= self._best_then)
        halve = few | stuck
        self._length = torch.where(halve, self._length / 2, self._length)
        self._halved, self._best_then = halve, self._best
        self._rises = torch.zeros_like(self._rises)
        self._checked = self._number
        wide = _wide(halve)
        self._before = torch.where(wide, self._best_point, self._before)
        return (
            torch.where(wide, self._best_point, point),
            torch.where(wide, self._best_gradient, gradient),
        )


def checkpoints(steps: int) -> tuple[int, ...]:
    """Return after which steps Auto-PGD looks at its progress (Croce and Hein, 2020, section 3.2).

    Shares of the steps: 0.22, then gaps that shrink by 0.03 down to 0.06.
    """
    found, share, gap = [], 0.22, 0.22
    while share < 1:
        found.append(math.ceil(round(share * steps, 6)))
        gap = max(gap - 0.03, 0.06)
        share += gap
    return tuple(dict.fromkeys(found))


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]  # (B,) -> (B, 1, 1, 1)
