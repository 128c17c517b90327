"""Scores of doubt per pixel, as pure functions of a `Prediction`; each 0 (sure) to its maximum.

The *members* of a prediction are its experts or stochastic samples, p_e(c) the softmax of a
member's logits. A member weighs w_e at a pixel: 1/E in an ensemble or among samples; the gate's g_e
in a mixture; where the gate is class-wise, w_e = sum_c m(c) g_e(c) with the mixture's own
distribution m. As sum_e g_e(c) = 1 for each class, sum_e w_e = 1: the w_e are a distribution over
members, so the *pool* sum_e w_e p_e is one over classes. (Weighting p_e(c) by g_e(c) itself gives
no distribution, and normalised again it calls experts uncertain that agree.) Members are what goes
into the weighted sum: a head after it and a temperature of the whole output show in m only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from moeseg.errors import MoesegError, UsageError, unknown_name
from moeseg.types import Prediction
from moeseg.uncertainty.formulas import FORMULAS, strips_of

Score = Literal[
    "entropy", "max-probability", "mutual-information", "expert-variance", "gate-entropy"
]
Published = Literal[
    "entropy-stacked",
    "mutual-information-stacked",
    "mutual-information-weighted",
    "expert-deviation-stacked",
]
SCORES: tuple[Score, ...] = get_args(Score)
PUBLISHED: tuple[Published, ...] = get_args(Published)
"""Readings of the fourth paper, to reproduce its numbers: see `formulas` for what each computes and
`maximum` for what it is divided by."""

OF_MEMBERS = frozenset({"mutual-information", "expert-variance", *PUBLISHED})
"""Scores of a prediction with two members or more."""
OF_GATES = frozenset({"gate-entropy", "mutual-information-weighted"})
"""Scores of a prediction with a gate's weights."""


def predictive_entropy(prediction: Prediction, *, scaled: bool = True) -> Tensor:
    """Return H(m) = -sum_c m(c) ln m(c) of the predicted distribution m (Shannon, 1948).

    Args:
        prediction: logits (B, C, H, W).
        scaled: divide by ln C.

    Returns:
        (B, H, W), 0..1 or in nats.
    """
    return uncertainty(prediction, "entropy", scaled=scaled)


def max_probability(prediction: Prediction, *, scaled: bool = True) -> Tensor:
    """Return 1 - max_c m(c), what the predicted class leaves (Hendrycks and Gimpel, 2017).

    Args:
        prediction: logits (B, C, H, W).
        scaled: divide by 1 - 1/C, which the uniform distribution has.

    Returns:
        (B, H, W), 0..1 or 0..1 - 1/C.
    """
    return uncertainty(prediction, "max-probability", scaled=scaled)


def mutual_information(
    prediction: Prediction,
    *,
    reading: Literal["pool", "stacked", "weighted"] = "pool",
    scaled: bool = True,
) -> Tensor:
    """Return H(sum_e w_e p_e) - sum_e w_e H(p_e) = sum_e w_e KL(p_e || pool).

    The information that class and member have about each other (Houlsby et al., 2011; with weights,
    the Jensen-Shannon divergence of Lin, 1991, eq. 5.1). The entropy is concave, so it is never
    negative; 0 where all members that weigh anything agree; at most the entropy of the weights.

    Args:
        prediction: expert_logits (B, E, C, H, W), E 2 or more; weights where there is a gate.
        reading: ``pool`` is this. As published, ``stacked`` takes the mixture as one more member,
            all of one weight; ``weighted`` subtracts the unweighted mean entropy of the members,
            which can be more than that of the pool, and clips at 0.
        scaled: divide by ln min(E, C), which E members of disjoint classes reach; the published
            readings by ln C, which they cannot.

    Returns:
        (B, H, W), 0..1 or in nats.

    Raises:
        UsageError: fewer than two members, or no gate for ``weighted``.
    """
    name = "mutual-information" + ("" if reading == "pool" else f"-{reading}")
    return uncertainty(prediction, name, scaled=scaled)


def expert_variance(prediction: Prediction, *, scaled: bool = True) -> Tensor:
    """Return sum_e w_e sum_c (p_e(c) - pool(c))^2, the members' variance, summed over classes.

    Published is another: the standard deviation (divided by E - 1) of the members' probabilities of
    the predicted class, over the largest of the batch; `uncertainty` gives it by the name
    ``expert-deviation-stacked``.

    Args:
        prediction: expert_logits (B, E, C, H, W), E 2 or more; weights where there is a gate.
        scaled: divide by 1 - 1/min(E, C). The variance is convex in every p_e, so it is greatest
            where all are sure, and then 1 minus the sum over classes of the squared weight on each.

    Returns:
        (B, H, W), 0..1 or 0..1 - 1/min(E, C).

    Raises:
        UsageError: fewer than two members.
    """
    return uncertainty(prediction, "expert-variance", scaled=scaled)


def gate_entropy(prediction: Prediction, *, scaled: bool = True) -> Tensor:
    """Return -sum_e w_e ln w_e: how undecided the gate is, whatever the experts say.

    Of a simple gate it is one number per image.

    Args:
        prediction: weights (B, E, K), logits (B, C, H, W) where K is C.
        scaled: divide by ln E.

    Returns:
        (B, H, W), 0..1 or in nats.

    Raises:
        UsageError: no gate.
    """
    return uncertainty(prediction, "gate-entropy", scaled=scaled)


def uncertainty(prediction: Prediction, score: str, *, scaled: bool = True) -> Tensor:
    """Return one score, correct or published, of every pixel.

    Args:
        prediction: with what the score needs.
        score: of `SCORES` or `PUBLISHED`.
        scaled: divide by its `maximum`; 0..1 then.

    Returns:
        (B, H, W) float32.

    Raises:
        UsageError: an unknown score, or one that this prediction does not hold.
        MoesegError: NaN where a score is made.
    """
    check_scores(prediction, [score])
    batch, classes, *size = prediction.logits.shape
    found = prediction.logits.new_empty(batch, *size, dtype=torch.float32)
    for image in range(batch):
        for rows, strip in strips_of(prediction, image):
            found[image, rows] = strip.score(score)
    refuse_nan(found, score)
    members = 1 if prediction.expert_logits is None else prediction.expert_logits.shape[1]
    if score == "gate-entropy" and prediction.weights is not None:
        members = prediction.weights.shape[1]
    if not scaled:
        return found
    return found.div_(maximum(score, members, classes) or largest(found)).clamp_(0, 1)


def maximum(score: str, members: int, classes: int) -> float | None:
    """Return the greatest value that a score can have; None for the largest of its batch.

    Args:
        score: of `SCORES` or `PUBLISHED`.
        members: E.
        classes: C.
    """
    classes, fewer = max(classes, 2), max(min(members, classes), 2)
    maxima = {
        "max-probability": 1 - 1 / classes,
        "mutual-information": math.log(fewer),
        "expert-variance": 1 - 1 / fewer,
        "gate-entropy": math.log(max(members, 2)),
        "expert-deviation-stacked": None,
    }
    return maxima.get(score, math.log(classes))


def largest(found: Tensor) -> float:
    """Return what the published deviation is divided by: its largest value, 1 if that is 0."""
    return float(found.max()) or 1.0 if found.numel() else 1.0


def scores_of(members: int, gated: bool, *, published: bool = False) -> tuple[str, ...]:
    """Return the scores that a model with so many members has.

    Args:
        members: E; 1 for a single network.
        gated: it has a gate.
        published: also those of `PUBLISHED`.
    """
    names = (*SCORES, *(PUBLISHED if published else ()))
    return tuple(
        name
        for name in names
        if (members > 1 or name not in OF_MEMBERS) and (gated or name not in OF_GATES)
    )


def check_scores(prediction: Prediction, scores: Sequence[str]) -> None:
    """Check that a prediction holds what scores are made of.

    Raises:
        UsageError: a score is unknown, wants members or a gate, and there are none.
    """
    each, weights = prediction.expert_logits, prediction.weights
    for name in scores:
        if name not in FORMULAS:
            raise UsageError(unknown_name("score", name, FORMULAS))
        if name in OF_MEMBERS and (each is None or each.shape[1] < 2):
            got = "no expert logits" if each is None else "1"
            raise UsageError(
                f"{name}: expected a prediction of two members or more, got {got}; ask a mixture, "
                "an ensemble or MC dropout, with `expert_logits=True`."
            )
        if name in OF_GATES and weights is None:
            raise UsageError(f"{name}: expected a mixture with a gate, got no weights.")


def refuse_nan(found: Tensor, what: str) -> None:
    """Check the values of a score.

    Raises:
        MoesegError: some are NaN.
    """
    if bool((lost := found.isnan()).any()):
        raise MoesegError(
            f"{what}: expected numbers, got NaN at {int(lost.sum())} of {found.numel()} pixels; "
            "the logits of the model or of one of its members hold NaN or infinity."
        )
