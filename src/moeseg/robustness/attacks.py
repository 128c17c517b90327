"""Attacks on one image at a time: what they are, and the one projected ascent behind them all.

An attack is a start, a direction, a projection and a loss. The black-box attack is in `square`,
one change for all images in `universal`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast, get_args

import torch
from torch import Tensor

from moeseg.config import AttackKind, PassPrecision
from moeseg.errors import UsageError, unknown_name
from moeseg.evaluation.runner import evaluating, half_of
from moeseg.models import Model
from moeseg.robustness.ball import photo_mask, project, uniform_start
from moeseg.robustness.directions import AdamOfSigns, Apgd, Direction, Project, SignStep
from moeseg.robustness.losses import LossName, Pixels, cross_entropy, loss_of
from moeseg.robustness.paths import ALL, Forward, forward_through, in_bfloat16
from moeseg.robustness.square import square
from moeseg.types import Prediction, Size

Kind = AttackKind
KINDS: tuple[Kind, ...] = get_args(Kind)
SEA_PARTS: tuple[Kind, ...] = ("apgd-js", "apgd-masked", "apgd-balanced")
RADII = ((0.3, 2.0), (0.3, 1.5), (0.4, 1.0))
"""Shares of the steps and their radii in epsilons (Croce et al., ECCV 2024)."""

_STEPS: dict[Kind, int] = {
    "fgsm": 1,
    "fgsm-published": 1,
    **dict.fromkeys(("sea", *SEA_PARTS), 30),
    "square": 200,
    "universal": 5,
    "universal-published": 30,
}
_LOSSES: dict[Kind, LossName] = {
    "segpgd": "segpgd",
    "cospgd": "cospgd",
    "apgd-js": "jensen-shannon",
    "apgd-masked": "masked",
    "apgd-balanced": "masked-balanced",
    "square": "jensen-shannon",
}
_NAME = re.compile(r"(?P<kind>[a-z-]*[a-z])(-(?P<steps>\d+))?(x(?P<restarts>\d+))?(:(?P<part>.+))?")


def usual_steps(kind: Kind) -> int:
    """Return the steps of an attack of which none are told."""
    return _STEPS.get(kind, 10)


@dataclass(frozen=True, kw_only=True)
class Attack:
    """An attack on single images, or of one change for all of them, without the radius.

    Attributes:
        kind: ``fgsm`` (Goodfellow et al., 2015), ``pgd`` (Madry et al., 2018), ``segpgd`` (Gu et
            al., 2022), ``cospgd`` (Agnihotri et al., 2024), ``apgd`` (Croce and Hein, 2020) with
            cross-entropy or one of the three losses of ``sea`` (Croce et al., ECCV 2024), which
            runs all three and keeps the worst; ``square`` (Andriushchenko et al., 2020) asks only
            for outputs. ``universal`` (Moosavi-Dezfooli et al., 2017) is one change for all images,
            see `universal.py`. The ``-published`` ones are the original's, with what is wrong with
            them.
        steps: gradients (queries of ``square``, epochs of the universal kinds), of ``sea`` for each
            of its losses; ``pgd-published`` scores before its last step is taken.
        restarts: random starts, of which each image keeps the worst.
        step_size: length of a step of pgd, segpgd, cospgd in epsilons; None is 2.5 / steps, at
            most 1.
        momentum: of these, 0..1.
        through: the part of a mixture that the gradient passes; see `paths.forward_through`.
        clip: keep images in [0, 1]; only a published attack may not.
        precision: of the passes that it follows, as training calls it; what it made is scored in
            full precision in any case.

    Raises:
        UsageError: a number is out of its range.
    """

    kind: Kind = "pgd"
    steps: int = 10
    restarts: int = 1
    step_size: float | None = None
    momentum: float = 0.0
    through: str = ALL
    clip: bool = True
    precision: PassPrecision = "32-true"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(unknown_name("attack", self.kind, KINDS))
        if self.steps < 1 or self.restarts < 1:
            raise UsageError(
                f"attack {self.kind}: expected 1 step and 1 restart or more, got {self.steps} and "
                f"{self.restarts}; `clean` rows tell how a model fares without an attack"
            )
        stepped = self.kind in ("pgd", "segpgd", "cospgd")
        if not stepped and (self.momentum or self.step_size is not None):
            raise UsageError(
                f"attack {self.kind}: expected a momentum and a step size for pgd, segpgd or "
                "cospgd alone, whose steps have a fixed length; leave them out"
            )
        if not self.clip and not self.published:
            raise UsageError(
                f"attack {self.kind}: expected images kept in [0, 1]; only fgsm-published, "
                "pgd-published and universal-published may leave it"
            )
        single = self.kind.startswith("fgsm")
        if (single and self.steps > 1) or (self.restarts > 1 and not self._starts_at_random):
            raise UsageError(
                f"attack {self.kind}: expected {'1 step and ' if single else ''}1 restart, got "
                f"{self.steps} and {self.restarts}; it draws nothing, so take pgd for more"
            )
        if not 0 <= self.momentum <= 1 or (self.step_size is not None and self.step_size <= 0):
            raise UsageError(
                f"attack {self.kind}: expected a momentum in 0..1 and a step size above 0, got "
                f"{self.momentum} and {self.step_size}"
            )

    @classmethod
    def parse(cls, name: str) -> Attack:
        """Read a name such as ``pgd``, ``pgd-50x3`` (steps, restarts) or ``pgd-10:weights``.

        Raises:
            UsageError: the name is not of that form, or no such attack.
        """
        found = _NAME.fullmatch(name)
        kind = found["kind"] if found else name
        if found is None or kind not in KINDS:
            raise UsageError(
                unknown_name("attack", kind, KINDS)
                + " Steps, restarts and a part may follow: pgd-50x3, pgd-10:weights."
            )
        steps = int(found["steps"]) if found["steps"] else usual_steps(kind)
        restarts = int(found["restarts"] or 1)
        return cls(kind=kind, steps=steps, restarts=restarts, through=found["part"] or ALL)

    @property
    def _starts_at_random(self) -> bool:
        return not self.kind.startswith(("fgsm", "universal"))

    @property
    def published(self) -> bool:
        """Whether this is an attack as the original ran it."""
        return self.kind.endswith("-published")

    @property
    def shrinks(self) -> bool:
        """Whether it runs in a ball that shrinks, on losses of its own."""
        return self.kind == "sea" or self.kind in SEA_PARTS

    def parts(self) -> tuple[Attack, ...]:
        """Return the attacks that this one is the worst case of; itself where it is single."""
        if self.kind != "sea":
            return (self,)
        return tuple(replace(self, kind=kind) for kind in SEA_PARTS)


@dataclass(frozen=True, slots=True)
class Perturbed:
    """Images after an attack.

    Attributes:
        images: (B, 3, H, W), within epsilon of those that were given.
        wrong: (B,) int64 labelled pixels that the attack saw go wrong on them.
        losses: (T, B) cross-entropy along the steps of the run that each image keeps, the start
            first; every stage of a shrinking ball begins with its own start.
    """

    images: Tensor
    wrong: Tensor
    losses: Tensor


def perturb(
    model: Model,
    images: Tensor,
    label: Tensor,
    generators: Sequence[torch.Generator],
    *,
    epsilon: float,
    attack: Attack,
    extents: Sequence[Size] | None = None,
) -> Perturbed:
    """Attack a batch of images; the model's mode, gradients and parameters are as before after.

    Of all points on the way (in a shrinking ball of the last stage's, as earlier ones lie outside),
    each image keeps the one with most labelled pixels wrong, the latest among equals; ``fgsm`` and
    the published attacks keep their last, ``square`` that of highest Jensen-Shannon loss, the one
    it goes on from. An image without a labelled pixel is not driven anywhere.

    Args:
        model: an expert, ensemble or mixture.
        images: (B, 3, H, W) in [0, 1].
        label: (B, H, W) uint8 ids, 255 ignored.
        generators: one for each image, on the CPU, of its random starts.
        epsilon: radius of the L-infinity ball, 0..1; 0 gives the images back.
        attack: which one.
        extents: (H, W) of each photo within its padding, from the upper left corner: padding is
            no pixel of a photo and stays as it is. None where none is padded.

    Raises:
        UsageError: epsilon out of range, a part that the model has not, or a model whose output
            has no gradient.
    """
    if attack.kind.startswith("universal"):
        raise UsageError(
            f"attack {attack.kind}: expected an attack on single images; a universal change is "
            "trained with `train_universal` and added with `apply_universal`"
        )
    if not 0 <= epsilon <= 1:
        raise UsageError(
            f"epsilon: expected a radius in 0..1, of pixels in [0, 1], got {epsilon:g}; write "
            "4/255 for four grey levels"
        )
    with torch.inference_mode(False), still(model):
        # an inference tensor takes no gradient, hence the copies
        radius = epsilon * photo_mask(images, extents)
        batch = _Batch(images.clone(), label.clone(), tuple(generators), radius)
        return _in_memory(followed(model, attack), batch, attack)


def followed(model: Model, attack: Attack) -> Forward:
    """Return the forward pass whose gradient an attack follows.

    Raises:
        UsageError: a part that the model has not.
    """
    forward = forward_through(model, attack.through)
    return in_bfloat16(forward) if attack.precision == "bf16-mixed" else forward


def perturb_for_training(
    model: Callable[[Tensor], Prediction],
    images: Tensor,
    label: Tensor,
    generators: Sequence[torch.Generator],
    *,
    epsilon: float,
    steps: int,
) -> Tensor:
    """Return images attacked by PGD, for `training.adversarial.Perturb`; see there."""
    attack = Attack(kind="pgd", steps=steps)
    known = cast("Model", model)  # training hands on the module itself
    return perturb(known, images, label, generators, epsilon=epsilon, attack=attack).images


@contextmanager
def still(model: Model) -> Iterator[None]:
    """Hold a model in eval mode and its parameters free of gradients, and undo that afterwards."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with evaluating([model]):
        try:
            for parameter in wanted:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in wanted:
                parameter.requires_grad_(True)


@dataclass(frozen=True, slots=True)
class _Batch:
    """What is attacked: images, label, generators, and the radius (B, 1, H, W) at each pixel."""

    images: Tensor
    label: Tensor
    generators: tuple[torch.Generator, ...]
    radius: Tensor

    def part(self, of: slice) -> _Batch:
        return _Batch(self.images[of], self.label[of], self.generators[of], self.radius[of])


def _in_memory(forward: Forward, batch: _Batch, attack: Attack) -> Perturbed:
    """Attack in halves what the device's memory does not hold at once."""
    states = [generator.get_state() for generator in batch.generators]
    try:
        return _worst(forward, batch, attack)
    except torch.OutOfMemoryError as error:
        half = half_of(len(batch.images), "attack", error)
    for generator, state in zip(batch.generators, states, strict=True):
        generator.set_state(state)
    parts = (slice(half), slice(half, None))
    both = [_in_memory(forward, batch.part(of), attack) for of in parts]
    return Perturbed(
        torch.cat([one.images for one in both]),
        torch.cat([one.wrong for one in both]),
        torch.cat([one.losses for one in both], dim=1),
    )


def _worst(forward: Forward, batch: _Batch, attack: Attack) -> Perturbed:
    """Run every part of an attack as often as it restarts; each image keeps its worst."""
    worst: Perturbed | None = None
    for part in attack.parts():
        for _ in range(part.restarts):
            found = _run(forward, batch, part)
            if worst is not None:
                keep = worst.wrong > found.wrong
                found = Perturbed(
                    torch.where(keep[:, None, None, None], worst.images, found.images),
                    torch.maximum(worst.wrong, found.wrong),
                    torch.where(keep, worst.losses, found.losses),  # (T, B)
                )
            worst = found
    assert worst is not None
    return worst


def _run(forward: Forward, batch: _Batch, attack: Attack) -> Perturbed:
    """Run one attack once."""
    images, radius = batch.images, batch.radius
    if attack.kind == "square":
        where = (images, batch.label, batch.generators, radius)
        return Perturbed(*square(forward, *where, attack.steps))
    stages = staged(attack.steps) if attack.shrinks else [(attack.steps, 1.0)]
    point = images
    if not attack.kind.startswith("fgsm"):
        point = uniform_start(images, stages[0][1] * radius, batch.generators)
    losses = []
    for steps, factor in stages:
        stage = replace(batch, radius=factor * radius)
        found = _ascend(forward, stage, point, replace(attack, steps=steps))
        point = found.images
        losses.append(found.losses)
    return replace(found, losses=torch.cat(losses))  # stages x (T, B) -> (T, B)


def staged(steps: int) -> list[tuple[int, float]]:
    """Return steps and radius, in epsilons, of each stage of a shrinking ball.

    The last stage has a step in any case, an earlier one may fall away.
    """
    counts = [int(share * steps) for share, _ in RADII[:-1]]
    counts.append(steps - sum(counts))
    return [(n, factor) for n, (_, factor) in zip(counts, RADII, strict=True) if n]


def _ascend(forward: Forward, batch: _Batch, start: Tensor, attack: Attack) -> Perturbed:
    """Climb the loss from a start: the one loop of all white-box attacks."""

    def inside(points: Tensor) -> Tensor:
        return project(points, batch.images, batch.radius, clip=attack.clip)

    direction = _direction(attack, inside, float(batch.radius.max()))
    loss = loss_of(_LOSSES.get(attack.kind, "cross-entropy"))
    # the original scores the point before its last update
    updates = attack.steps - (attack.kind == "pgd-published")
    last_only = attack.published or attack.kind == "fgsm"
    point = kept = inside(start)
    most = torch.full((len(point),), -1, device=point.device)
    losses = []
    for number in range(updates + 1):
        final = number == updates
        with torch.set_grad_enabled(not final):
            at = point.detach().requires_grad_(not final)
            pixels = Pixels.of(forward(at).logits, batch.label)
            value = loss(pixels, number / max(updates, 1))  # (B,)
        wrong = pixels.wrong()
        better = (wrong >= most) | last_only
        most = torch.where(better, wrong, most)
        kept = torch.where(better[:, None, None, None], point, kept)
        losses.append(cross_entropy(pixels, 0.0).detach())
        if not final:
            # SEA follows its losses' gradients and watches its progress by cross-entropy
            watched = losses[-1] if attack.kind in SEA_PARTS else value.detach()
            point = direction.advance(point, gradient_of(value, at), watched)
    return Perturbed(kept, most, torch.stack(losses))  # T x (B,) -> (T, B)


def _direction(attack: Attack, inside: Project, epsilon: float) -> Direction:
    if attack.kind == "pgd-published":
        return AdamOfSigns(inside)
    if attack.kind.startswith("apgd"):
        return Apgd(inside, epsilon, attack.steps)
    # one step of FGSM goes to the edge of the ball; many steps reach it from anywhere inside
    share = 1.0 if attack.kind.startswith("fgsm") else 2.5 / attack.steps
    share = attack.step_size or min(share, 1.0)
    return SignStep(inside, share * epsilon, attack.momentum)


def gradient_of(value: Tensor, at: Tensor) -> Tensor:
    """Return the gradient of values (B,) by the points they were computed at.

    Raises:
        UsageError: the model gives none.
    """
    if not value.requires_grad:
        raise UsageError(
            "expected a model whose output has a gradient, got one without (an exported one?); "
            "attack it with `square`, which needs none, or with examples made for another model"
        )
    # of sums over pixels, not means: small numbers would vanish in 16 bits, and no direction cares
    (gradient,) = torch.autograd.grad(value.sum() * at[0, 0].numel(), at)
    return gradient
