"""Tables of paired differences of uncertainty: between models, and between scores of one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from moeseg.evaluation.cells import temperature_of
from moeseg.evaluation.contents import uncertainty_differences
from moeseg.evaluation.intervals import MIN_SEQUENCES
from moeseg.report.grouping import bound, bracket, place_of
from moeseg.report.parts import Table, from_text, table
from moeseg.types import Row


def difference_tables(rows: Sequence[Row]) -> Iterator[Table]:
    """Yield the tables of ``uncertainty-difference`` rows of one ground, those with a line."""
    models = uncertainty_differences(rows)
    if models.cells:
        yield from_text(replace(models, heading=f"{place_of(rows)}: {models.heading}"))
    if scores := [row for row in rows if row["score"] != row["minus_score"]]:
        yield _score_table(scores)


def _score_table(rows: Sequence[Row]) -> Table:
    lines = [
        (
            row["model"],
            row["subset"],
            row["score"],
            row["minus_score"],
            f"{row['difference']:+.4f}" + bracket(row["ci95"], 4) + " better" * row["better"],
            bound(row["error_bound"]),
        )
        for row in rows
        if temperature_of(row) == "none"
    ]
    return table(
        f"{place_of(rows)}: the best score minus the others",
        ("model", "subset", "score", "minus", "AUROC", "bound"),
        lines,
        names=4,
        note="Without temperature. AUROC of wrong pixels, from the same resamples of both scores. "
        "Which score is best is told by these very pixels, which favours it. Better: the 95 % "
        "interval lies above 0 by more than the bound of what binning may do, from "
        f"{MIN_SEQUENCES} units or more.",
        file=f"{place_of(rows)}-score-differences",
    )
