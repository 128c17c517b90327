"""Paired differences: is one model's uncertainty better than another's on the same frames?

And is one score of a model better than its others? Both sides are read from the same resamples. A
mixture is compared with single networks, and with ensembles and MC dropout of as many members as it
has experts: more members cost more and would win by that alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moeseg.errors import UsageError
from moeseg.evaluation.intervals import MIN_SEQUENCES, CiUnit, interval, resample_counts
from moeseg.evaluation.rows import validate_row
from moeseg.insight.histograms import Floats, auroc, auroc_bound, resample_auroc
from moeseg.insight.scoring import Halves, number
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
    that is else alike; and a model with a temperature minus itself without. Then, of each model,
    the score with the highest AUROC of wrong pixels on the very subset minus each other one.

    The measure ``auroc-unseen`` is of frames of a subset that neither model was trained on, among
    frames of those that both were trained on. `better` says that the 95 % interval lies on the
    better side of 0 by more than `error_bound`, the most that binning may have moved the
    difference, from `MIN_SEQUENCES` units or more.

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
        for collector in collectors.values():
            rows += _between_scores(collector, readings)
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
    if own.twin in alike:
        found.append(own.twin)
    return [(n, theirs) for n in found]


def _mean_nll(collector: UncertaintyCollector, subset: str) -> float:
    _, nll, pixels = collector.proper_sums(subset).sum(0)
    return float(nll / pixels) if pixels else float("inf")


def _differences(
    one: UncertaintyCollector, other: UncertaintyCollector, readings: _Readings
) -> Iterator[Row]:
    for measure in CALIBRATION:
        yield _row(_Side(one, measure), _Side(other, measure), readings)
    both = [score for score in one.scores if score in other.scores]
    for score in both:
        yield _row(_Side(one, "auroc", score), _Side(other, "auroc", score), readings)
    shared = one.trained & other.trained
    known = {c.known_beside(readings.subset, shared) for c in (one, other)}
    if len(known) == 1 and (beside := known.pop()):
        for score in both:
            sides = [_Side(c, "auroc-unseen", score, beside) for c in (one, other)]
            yield _row(sides[0], sides[1], readings)


def _between_scores(collector: UncertaintyCollector, readings: _Readings) -> Iterator[Row]:
    sides = [_Side(collector, "auroc", score) for score in collector.scores]
    defined = [side for side in sides if not np.isnan(readings.of(side).value)]
    if not defined:
        return
    best = max(defined, key=lambda side: readings.of(side).value)
    for side in defined:
        if side is not best:
            yield _row(best, side, readings)


def _row(one: _Side, other: _Side, readings: _Readings) -> Row:
    mine, theirs = readings.of(one), readings.of(other)
    collector, against = one.collector, other.collector
    unit, units = _units(one, readings.subset)
    ci95 = None if units < 2 else interval(mine.draws - theirs.draws)
    difference = mine.value - theirs.value
    decided = ci95 is not None and units >= MIN_SEQUENCES
    low, high = ci95 or (0.0, 0.0)
    bound = mine.bound + theirs.bound
    row = collector.head("uncertainty-difference", readings.subset) | {
        "measure": one.measure,
        "score": one.score,
        "minus": against.model,
        "minus_score": other.score,
        "minus_settings": against.base["settings"],
        "members": [collector.members, against.members],
        "difference": number(difference),
        "error_bound": number(bound),
        "ci95": ci95,
        "ci_unit": unit,
        "ci_units": units,
        "better": decided and (high if one.measure in CALIBRATION else -low) < -bound,
    }
    validate_row(row)
    return row


@dataclass(frozen=True, eq=False)
class _Side:
    """What is read on one side of a difference.

    Attributes:
        collector: of the model.
        measure: one of `CALIBRATION`, ``auroc`` or ``auroc-unseen``.
        score: of the latter two.
        known: subsets that unseen frames are told from.
    """

    collector: UncertaintyCollector
    measure: str
    score: str | None = None
    known: str = ""

    @property
    def place(self) -> int:
        """Where the score stands in the collector's states."""
        return 0 if self.score is None else self.collector.scores.index(self.score)


class _Reading(NamedTuple):
    value: float
    draws: Floats  # (R,)
    bound: float  # how far binning may have moved the value


class _Readings:
    """Readings of collectors on one subset with their resamples, kept for their other pairs."""

    def __init__(self, subset: str) -> None:
        self.subset = subset
        self._known: dict[tuple[int, str, str | None, str], _Reading] = {}

    def of(self, side: _Side) -> _Reading:
        """Return what is read on a side."""
        place = (id(side.collector), side.measure, side.score, side.known)
        if place not in self._known:
            self._known[place] = _read(side, self.subset)
        return self._known[place]


def _units(side: _Side, subset: str) -> tuple[CiUnit, int]:
    if side.known:
        return side.collector.unseen_units(subset, side.known)
    groups, unit = side.collector.blocks.units_for(subset)
    return unit, len(groups)


def _read(side: _Side, subset: str) -> _Reading:
    collector = side.collector
    if side.measure == "auroc":
        right, wrong = collector.right_and_wrong(subset, side.place)  # (G, N)
        drawn = resample_counts(len(right))
        return _area((wrong, right, drawn, drawn))
    if side.measure == "auroc-unseen":
        return _area(collector.unseen_halves(subset, side.known, side.place))
    if side.measure == "ece":
        moments = collector.moments(subset)
        return _Reading(float(calibration.ece(moments.sum(0))), resampled_ece(moments), 0.0)
    sums = collector.proper_sums(subset)
    drawn_sums = resample_counts(len(sums)).astype(np.float64) @ sums  # (R, G) @ (G, 3)
    column, total = {"brier": 0, "nll": 1}[side.measure], sums.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        value, draws = total[column] / total[2], drawn_sums[:, column] / drawn_sums[:, 2]
    return _Reading(float(value), draws, 0.0)


def _area(halves: Halves) -> _Reading:
    total = halves[0].sum(0), halves[1].sum(0)  # (G, N), (H, N) -> two of (N,)
    return _Reading(float(auroc(*total)), resample_auroc(*halves), float(auroc_bound(*total)))


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
