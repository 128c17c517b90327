"""Rows of calibration and of conditional correctness, read from a filled `UncertaintyCollector`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from moeseg.evaluation.intervals import interval, resample_counts, share_interval
from moeseg.insight.histograms import Floats
from moeseg.insight.scoring import curve, number, sums
from moeseg.types import Row
from moeseg.uncertainty import calibration, conditional

if TYPE_CHECKING:
    from moeseg.uncertainty.collectors import UncertaintyCollector

PROBABILITY = "probability"
"""Where confidence is the probability of the predicted class, and no score."""


def calibration_rows(collector: UncertaintyCollector, subset: str) -> Iterator[Row]:
    """Yield the ``calibration`` rows of a subset: of probabilities, then as published."""
    fine = collector.fine_moments(subset).sum(0)  # (G, 3, N) -> (3, N)
    classes = collector.class_moments(subset)
    of_class = calibration.equal_width(classes)  # (C, 3, N) -> (C, 3, K)
    yield _calibration_row(
        collector,
        subset,
        "multi-class",
        PROBABILITY,
        collector.moments(subset),
        collector.proper_sums(subset),
        0,
        {
            "ece_equal_mass": number(calibration.ece(calibration.equal_mass(fine))),
            "equal_mass_bound": number(calibration.equal_mass_bound(fine)),
            "classwise_ece": number(calibration.classwise_ece(of_class)),
            "classwise_ece_equal_mass": number(
                calibration.classwise_ece(calibration.equal_mass(classes))
            ),
            "classwise_equal_mass_bound": number(calibration.equal_mass_bound(classes).mean()),
            "per_class_ece": dict(
                zip(collector.classes, map(number, calibration.ece(of_class)), strict=True)
            ),
            "per_class_reliability": {
                name: calibration.reliability(moments)
                for name, moments in zip(collector.classes, of_class, strict=True)
                if moments[1].sum() > 0
            },
        },
    )
    groups, _ = collector.blocks.units_for(subset)
    for place, source in enumerate(collector.readings):
        moments = calibration.joined(
            sums(collector.reading_counts[:, place], groups),
            sums(collector.reading_sums[:, place], groups),
        )
        scored = sums(collector.reading_proper[:, place], groups)
        pixels = moments[:, 0].sum(1, keepdims=True)
        proper = np.concatenate([scored, pixels], axis=1)
        yield _calibration_row(
            collector, subset, "pixel-correctness", source, moments, proper, 1 + place, {}
        )


def _calibration_row(
    collector: UncertaintyCollector,
    subset: str,
    reading: str,
    source: str,
    moments: Floats,
    proper: Floats,
    place: int,
    more: Row,
) -> Row:
    """Return a row from moments (G, 3, K), sums (G, 3) and the place of the ECE per image."""
    groups, unit = collector.blocks.units_for(subset)
    total, (brier, nll, pixels) = moments.sum(0), proper.sum(0)
    count, right, confidence = total.sum(-1)
    frames = int(sums(collector.labelled, groups).sum())
    per_image = float(sums(collector.image_ece[:, place], groups).sum())
    few = len(groups) < 2
    return collector.head("calibration", subset) | {
        "reading": reading,
        "confidence_from": source,
        "members": collector.members,
        "pixels": int(count),
        "accuracy": right / count if count else None,
        "confidence": min(confidence / count, 1.0) if count else None,
        "ece": number(calibration.ece(total)),
        "mce": number(calibration.mce(total)),
        "ece_per_image": min(per_image / frames, 1.0) if frames else None,
        "brier": brier / pixels if pixels else None,
        "nll": nll / pixels if pixels else None,
        "ece_equal_mass": None,
        "equal_mass_bound": None,
        "classwise_ece": None,
        "classwise_ece_equal_mass": None,
        "classwise_equal_mass_bound": None,
        "per_class_ece": {},
        "per_class_reliability": {},
        "ci95": None if few else interval(resampled_ece(moments)),
        "brier_ci95": share_interval(proper[:, 0], proper[:, 2]),
        "nll_ci95": share_interval(proper[:, 1], proper[:, 2]),
        "ci_unit": unit,
        "ci_units": len(groups),
        "reliability": calibration.reliability(total),
        **more,
    }


def conditional_rows(collector: UncertaintyCollector, subset: str) -> Iterator[Row]:
    """Yield the ``conditional`` rows of a subset: each score, of pixels and of patches.

    Areas and the values at the threshold are of curves at 4,097 thresholds; of these `curves` holds
    129, at (k / 128)^2 (where swapped, 1 minus these, ascending), as they are drawn only.
    """
    groups, _ = collector.blocks.units_for(subset)
    for score, name in enumerate(collector.scores):
        of_pixels = collector.right_and_wrong(subset, score).astype(np.float64)  # (2, G, N)
        of_patches = sums(collector.patches[:, score], groups).swapaxes(0, 1).astype(np.float64)
        yield _conditional_row(collector, subset, name, "pixel", "correct", of_pixels)
        yield _conditional_row(collector, subset, name, "patch", "correct", of_patches)
        if collector.readings:
            yield _conditional_row(collector, subset, name, "pixel", "published", of_pixels)
            yield _conditional_row(collector, subset, name, "pixel", "published-swapped", of_pixels)


def _conditional_row(
    collector: UncertaintyCollector,
    subset: str,
    score: str,
    unit: conditional.Unit,
    reading: conditional.Reading,
    halves: Floats,
) -> Row:
    groups, drawn = collector.blocks.units_for(subset)
    right, wrong = halves.sum(1)  # (2, G, N) -> two of (N,)
    found = conditional.conditional(right, wrong, reading)
    threshold = collector.thresholds.get((score, unit))
    curves = {
        "accurate_certain": found.accurate_certain,
        "uncertain_inaccurate": found.uncertain_inaccurate,
        "pavpu": found.pavpu,
    }

    def single(values: Floats) -> float | None:
        if threshold is None:
            return None
        swapped = reading == "published-swapped"  # there 1 - score is split
        return _finite(found.at(values, 1 - threshold if swapped else threshold))

    span = share_interval(*conditional.pavpu_shares(*halves))
    return collector.head("conditional", subset) | {
        "score": score,
        "unit": unit,
        "reading": reading,
        "members": collector.members,
        "counted": int(halves.sum()),
        **{name: _finite(found.area(values)) for name, values in curves.items()},
        "threshold": threshold,
        "at_threshold": {name: single(values) for name, values in curves.items()},
        "curves": {
            name: curve(found.thinned(values).clip(0, 1)) for name, values in curves.items()
        },
        "ci95": span if reading == "correct" else None,
        "ci_unit": drawn,
        "ci_units": len(groups),
    }


def resampled_ece(moments: Floats) -> Floats:
    """Return the ECE (R,) of every resample of G units with moments (G, 3, K)."""
    drawn = resample_counts(len(moments)).astype(np.float64)
    # (R, G) @ (G, 3 K) -> (R, 3 K) -> (R, 3, K)
    sampled = (drawn @ moments.reshape(len(moments), -1)).reshape(-1, *moments.shape[1:])
    return calibration.ece(sampled)


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else min(max(value, 0.0), 1.0)
