"""Can an attack be believed? Checks that a weak or broken attack fails, shown with its rows.

After the advice of Athalye et al. (2018) and Carlini et al. (2019).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moeseg.evaluation.collectors import SegmentationCollector
from moeseg.evaluation.intervals import miou_interval
from moeseg.robustness.attacks import Attack, staged
from moeseg.robustness.paths import LOGITS, WEIGHTS

BROKEN = 0.01
"""A network without defence has an mIoU below this at `LARGE`; else it is the attack that fails."""
LARGE = 32 / 255

CHECKS: dict[str, str] = {
    "budget": "more steps or restarts are never weaker",
    "radius": "a larger radius is never weaker",
    "collapse": "at 32/255 or more, the same attack leaves an mIoU below 0.01",
    "white-box": "at least as strong as transfer and black-box",
    "progress": "the best loss so far rises along the steps, for sea above the clean image's",
}
"""Names of the checks, and what each asks; never and at least: beyond the paired interval."""

Checks = dict[str, bool | None]
"""By name, whether a check holds; None where nothing was there to compare with."""


@dataclass(frozen=True)
class Climb:
    """The loss on the way of an attack.

    Attributes:
        losses: (N, T) cross-entropy along the steps.
        clean: (N,) on the clean images.
        labelled: (N,) bool, frames with a labelled pixel; others have no loss.
    """

    losses: Tensor
    clean: Tensor
    labelled: NDArray[np.bool_]


@dataclass(frozen=True)
class Checked:
    """One attack as the checks see it.

    Attributes:
        source: name of the attacked model.
        target: of the scored one.
        attack: what was done.
        epsilon: radius.
        scored: its counts on all frames.
        climb: the loss on the way; None where the target is not the source.
    """

    source: str
    target: str
    attack: Attack
    epsilon: float
    scored: SegmentationCollector
    climb: Climb | None

    @property
    def white_box(self) -> bool:
        """Whether the gradient of the scored model itself was used, of all its parts."""
        return self.whole and self.attack.kind != "square" and not self.universal

    @property
    def whole(self) -> bool:
        """Whether the scored model itself was attacked, all its parts."""
        return self.source == self.target and self.attack.through == "all"

    @property
    def universal(self) -> bool:
        """Whether it is one change for all images."""
        return self.attack.kind.startswith("universal")


def check_all(
    one: Checked, others: Sequence[Checked], subset: str, inside: NDArray[np.bool_]
) -> Checks:
    """Return every check of one attack among all others of its sweep.

    Args:
        one: the attack.
        others: of the sweep; it may be among them.
        subset: name or join.
        inside: (N,) which frames belong to it.
    """
    same = [o for o in others if o.target == one.target and o is not one]
    # what was made for another model, or for a part of this one, need not harm it more
    alike = [o for o in same if one.whole and o.source == one.source]
    own = [o for o in alike if _alike(o.attack, one.attack)]
    weaker_budget = [
        o
        for o in own
        if o.epsilon == one.epsilon
        and o.attack.steps <= one.attack.steps
        and o.attack.restarts <= one.attack.restarts
    ]
    smaller = [o for o in own if _budget(o) == _budget(one) and o.epsilon < one.epsilon]
    blind = [o for o in same if o.epsilon == one.epsilon and _blind(o)]
    return {
        "budget": _at_least_as_strong(one, weaker_budget, subset),
        "radius": _at_least_as_strong(one, smaller, subset),
        "collapse": _collapsed([one, *(o for o in own if _budget(o) == _budget(one))], subset),
        "white-box": _at_least_as_strong(one, blind, subset) if one.white_box else None,
        "progress": _rises(one, inside),
    }


def _alike(a: Attack, b: Attack) -> bool:
    """Return whether two attacks differ in steps and restarts alone."""
    same = ("kind", "through", "momentum", "step_size")
    return all(getattr(a, name) == getattr(b, name) for name in same)


def _budget(one: Checked) -> tuple[int, int]:
    return one.attack.steps, one.attack.restarts


def _blind(other: Checked) -> bool:
    """Return whether an attack did without the scored model's gradients."""
    return other.attack.kind == "square" or other.source != other.target


def _at_least_as_strong(one: Checked, others: Iterable[Checked], subset: str) -> bool | None:
    """Return whether no other attack leaves a lower mIoU beyond the paired interval."""
    verdicts = []
    for other in others:
        mine, _ = one.scored.groups(subset)
        theirs, _ = other.scored.groups(subset)
        interval = miou_interval(mine, theirs)  # of this attack minus the other
        if interval is not None:
            verdicts.append(interval[0] <= 0.0)
    return all(verdicts) if verdicts else None


def _collapsed(same: Sequence[Checked], subset: str) -> bool | None:
    """Return whether an attack breaks the model where the radius lets any attack do so."""
    large = [one for one in same if one.white_box and one.epsilon >= LARGE]
    mious = [miou for one in large if (miou := one.scored.miou(subset)) is not None]
    return all(miou < BROKEN for miou in mious) if mious else None


def _rises(one: Checked, inside: NDArray[np.bool_]) -> bool | None:
    """Return whether the best loss so far rises: of the mean, and of most frames.

    The loss on the way is that of the whole mixture: an attack on its weights or logits alone may
    do all it can and lower it. In a shrinking ball a run comes to the last stage from its best
    point, and what it climbs is not this loss: the best of that stage must beat the clean image.
    """
    climb, attack = one.climb, one.attack
    if climb is None or attack.through in (WEIGHTS, LOGITS):
        return None
    held = climb.labelled & inside
    losses = climb.losses[held].double()  # (N, T)
    if attack.shrinks:
        losses = losses[:, -staged(attack.steps)[-1][0] - 1 :]
    if losses.shape[1] < 2 or not len(losses):
        return None
    first = climb.clean[held].double() if attack.shrinks else losses[:, 0]  # (N,)
    frames = losses.amax(1) > first  # (N,)
    return bool(losses.mean(0).max() > first.mean()) and bool(frames.float().mean() > 0.5)
