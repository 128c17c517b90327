"""Paired differences: is one model's uncertainty better than another's on the same frames?

Both are read from the same resamples. A mixture is compared with single networks, and with
ensembles and MC dropout of as many members as it has experts: more members cost more and would win
by that alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from moeseg.errors import UsageError
from moeseg.evaluation.intervals import MIN_SEQUENCES, interval, resample_counts
from moeseg.evaluation.rows import validate_row
from moeseg.insight.histograms import Floats, auroc, resample_auroc
from moeseg.types import Row
from moeseg.uncertainty import calibration
from moeseg.uncertainty.collectors import UncertaintyCollector
from moeseg.uncertainty.readings import resampled_ece
from moeseg.uncertainty.temperature import KINDS

Variant = tuple[str, str]
"""A model's name and its kind of temperature, ``none`` without one."""

CALIBRATION = ("ece", "brier", "nll")
"""Lower is better; of AUROC, higher is."""


def difference_rows(collectors: Mapping[Variant, UncertaintyCollector]) -> list[Row]:
    """Return ``uncertainty-difference`` rows of all pairs worth comparing.

    These are, without temperature and with each kind that both have: a mixture minus the best
    expert (least NLL on the very subset, which favours it), minus the baseline, and minus every
    ensemble, MC dropout and control of as many members; a class-wise mixture minus the simple one
    that is else alike; and a model with a temperature minus itself without.

    Args:
        collectors: by variant, all filled with the same frames.

    Raises:
        UsageError: the collectors differ in frames, subsets or condition.
    """
    collectors = dict(collectors)
    _check_comparable(collectors)
    rows: list[Row] = []
    subsets = next(iter(collectors.values())).subsets if collectors else ()
    for subset in subsets:
        readings = _Readings(subset)
        for one, other in _pairs(collectors, subset):
            rows += _differences(collectors[one], collectors[other], readings)
    return rows


def _pairs(
    collectors: Mapping[Variant, UncertaintyCollector], subset: str
) -> Iterator[tuple[Variant, Variant]]:
    for name, kind in collectors:
        if name.startswith("moe-"):
            for other in _opponents(name, kind, collectors, subset):
                yield (name, kind), other
        if kind != "none" and (name, "none") in collectors:
            yield (name, kind), (name, "none")


def _opponents(
    name: str, kind: str, collectors: Mapping[Variant, UncertaintyCollector], subset: str
) -> list[Variant]:
    own = collectors[name, kind]
    # a temperature per expert or of a gate is the mixture's own: others have their single one
    theirs = kind if kind in ("none", "class") else "one"
    alike = {n: c for (n, k), c in collectors.items() if k == theirs and n != name}
    experts = {n: c for n, c in alike.items() if n.startswith("expert-")}
    found = []
    if experts:
        found.append(min(experts, key=lambda n: _mean_nll(experts[n], subset)))
    if "baseline" in alike:
        found.append("baseline")
    found += [
        n
        for n, c in alike.items()
        if c.members == own.members > 1 and not n.startswith(("moe-", "mean-gate-"))
    ]
    simple = name.replace("classwise", "simple")
    if simple != name and simple in alike:
        found.append(simple)
    return [(n, theirs) for n in found]


def _mean_nll(collector: UncertaintyCollector, subset: str) -> float:
    _, nll, pixels = collector.proper_sums(subset).sum(0)
    return float(nll / pixels) if pixels else float("inf")


def _differences(
    one: UncertaintyCollector, other: UncertaintyCollector, readings: _Readings
) -> Iterator[Row]:
    for measure in CALIBRATION:
        yield _row(one, other, readings, measure, None)
    for score in one.scores:
        if score in other.scores:
            yield _row(one, other, readings, "auroc", score)


def _row(
    one: UncertaintyCollector,
    other: UncertaintyCollector,
    readings: _Readings,
    measure: str,
    score: str | None,
) -> Row:
    mine, my_draws = readings.of(one, measure, score)
    theirs, their_draws = readings.of(other, measure, score)
    groups, unit = one.blocks.units_for(readings.subset)
    ci95 = None if len(groups) < 2 else interval(my_draws - their_draws)
    difference = mine - theirs
    decided = ci95 is not None and len(groups) >= MIN_SEQUENCES
    low, high = ci95 or (0.0, 0.0)
    row = one.head("uncertainty-difference", readings.subset) | {
        "measure": measure,
        "score": score,
        "minus": other.model,
        "minus_settings": other.base["settings"],
        "members": [one.members, other.members],
        "difference": None if np.isnan(difference) else float(difference),
        "ci95": ci95,
        "ci_unit": unit,
        "ci_units": len(groups),
        "better": decided and (low > 0 if measure == "auroc" else high < 0),
    }
    validate_row(row)
    return row


class _Readings:
    """Readings of collectors on one subset with their resamples, kept for their other pairs."""

    def __init__(self, subset: str) -> None:
        self.subset = subset
        self._known: dict[tuple[int, str, str | None], tuple[float, Floats]] = {}

    def of(
        self, collector: UncertaintyCollector, measure: str, score: str | None
    ) -> tuple[float, Floats]:
        """Return a reading and its resamples (R,)."""
        place = (id(collector), measure, score)
        if place not in self._known:
            self._known[place] = _value(collector, self.subset, measure, score)
        return self._known[place]


def _value(
    collector: UncertaintyCollector, subset: str, measure: str, score: str | None
) -> tuple[float, Floats]:
    if measure == "auroc":
        assert score is not None
        right, wrong = collector.right_and_wrong(subset, collector.scores.index(score))  # (G, N)
        drawn = resample_counts(len(right))
        return float(auroc(wrong.sum(0), right.sum(0))), resample_auroc(wrong, right, drawn, drawn)
    if measure == "ece":
        moments = collector.moments(subset)
        return float(calibration.ece(moments.sum(0))), resampled_ece(moments)
    sums = collector.proper_sums(subset)
    drawn = resample_counts(len(sums)).astype(np.float64)
    column = {"brier": 0, "nll": 1}[measure]
    total = sums.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(total[column] / total[2]), drawn @ sums[:, column] / (drawn @ sums[:, 2])


def _check_comparable(collectors: Mapping[Variant, UncertaintyCollector]) -> None:
    seen: Sequence[tuple[Variant, UncertaintyCollector]] = list(collectors.items())
    for variant, collector in seen[1:]:
        first = seen[0][1]
        same = (
            collector.blocks == first.blocks
            and collector.images.tolist() == first.images.tolist()
            and collector.subsets == first.subsets
            and collector.base.get("condition") == first.base.get("condition")
        )
        if not same or variant[1] not in ("none", *KINDS):
            raise UsageError(
                f"expected {seen[0][0][0]!r} and {variant[0]!r} on the same frames, got others; "
                "evaluate them in one run."
            )
