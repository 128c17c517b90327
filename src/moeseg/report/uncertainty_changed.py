"""Tables of uncertainty on changed images: what is left of it, whose is better, what tells them.

The corruptions of one severity are one line, their mean: a page of each is too long to read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moeseg.evaluation.cells import mean_of, ordered, temperature_of
from moeseg.report.grouping import bound, bracket, by_level, model_at, number
from moeseg.report.parts import Table, table
from moeseg.report.uncertainty_differences import changed_difference_table
from moeseg.types import Row

_MEANS = "Without temperature. Several corruptions of one severity: their mean, without interval. "


def changed_tables(rows: Sequence[Row]) -> Iterator[Table]:
    """Yield the tables of rows of changed images, without temperature, those with a line."""
    plain = [row for row in rows if temperature_of(row) == "none"]
    trusted = [r for r in ordered(plain, "calibration") if r["reading"] == "multi-class"]
    found = ordered(plain, "detector")
    wrong = [row for row in found if row["task"] == "wrong-pixels"]
    if trusted:
        yield _condition_table(trusted, wrong)
    if told := [row for row in found if row["task"] == "changed-frames"]:
        yield _told_table(told)
    pairs = [r for r in ordered(plain, "uncertainty-difference") if r["score"] == r["minus_score"]]
    if pairs:
        yield changed_difference_table(pairs)


def _condition_table(trusted: Sequence[Row], wrong: Sequence[Row]) -> Table:
    """Return calibration and AUROC of wrong pixels; its file has a line of every condition."""
    names = ("entropy", "mutual-information")
    areas: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in wrong:
        areas.setdefault(_at(row), {})[row["score"]] = row

    def line(name: str, rows: Sequence[Row]) -> tuple[str, ...]:
        scored = [areas.get(_at(row), {}) for row in rows]
        found = ([own[name] for own in scored if name in own] for name in names)
        return (
            *(name, rows[0]["model"], rows[0]["subset"]),
            *(_told(rows, "accuracy"), _told(rows, "ece", 4, "ci95")),
            *(_told(rows, "brier", 4), _told(rows, "nll", 4)),
            *(_told(own, "auroc") if len(own) == len(rows) else number(None) for own in found),
        )

    columns = ("condition", "model", "subset", "accuracy", "ECE", "Brier", "NLL")
    return table(
        "Uncertainty on changed images",
        (*columns, "AUROC, entropy", "AUROC, mutual information"),
        [line(name, rows) for name, rows in by_level(trusted)],
        names=3,
        note=f"{_MEANS}AUROC of wrong pixels. Each condition by itself is in",
        file="uncertainty-changed",
        filed=[line(row["condition"], [row]) for row in trusted],
    )


def _told_table(rows: Sequence[Row]) -> Table:
    """Return how well each score tells changed frames from the same frames clean."""
    lines = [
        (
            *(name, own[0]["model"], own[0]["subset"], own[0]["score"]),
            _told(own, "auroc", span="ci95"),
            bound(_largest([row["error_bound"] for row in own])),
            _told(own, "aupr", span="aupr_ci95"),
            _told(own, "fpr95", span="fpr95_ci95"),
        )
        for name, own in by_level(rows, "score")
    ]
    columns = ("condition", "model", "subset", "score", "AUROC", "bound", "AUPR")
    return table(
        "Changed images among clean ones",
        (*columns, "FPR at 95 % TPR"),
        lines,
        names=4,
        note=f"{_MEANS}Each frame counts twice, changed and clean; its score is the "
        "mean over its pixels. AUROC and AUPR 0.5 are chance. Bound: how far AUROC may lie from "
        "that of unbinned scores. Brackets: 95 % intervals.",
        file="uncertainty-changed-frames",
    )


def _largest(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def _at(row: Row) -> tuple[object, ...]:
    return row["condition"], *model_at(row)


def _told(rows: Sequence[Row], key: str, digits: int = 3, span: str = "") -> str:
    """Write the mean of a reading; that of a single row with its interval."""
    interval = bracket(rows[0][span], digits) if span and len(rows) == 1 else ""
    return number(mean_of(rows, key), digits) + interval
