"""Tables of paired differences of uncertainty: of two models, of two scores, on changed images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from moeseg.evaluation.cells import NONE, mean_of, opponent_of, temperature_of
from moeseg.evaluation.contents import DOUBT, uncertainty_differences
from moeseg.evaluation.intervals import MIN_SEQUENCES
from moeseg.report.grouping import bound, bracket, by_level, place_of
from moeseg.report.parts import Table, from_text, table
from moeseg.types import Row
from moeseg.uncertainty.differences import CALIBRATION


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


def changed_difference_table(rows: Sequence[Row]) -> Table:
    """Return ``uncertainty-difference`` rows of two models on changed images, by severity."""
    named = [row | {"minus": opponent_of(row)} for row in rows]
    cells: dict[tuple[str, ...], dict[tuple[str, str | None], str]] = {}
    for level, own in by_level(named, "minus", "measure", "score"):
        line = (level, own[0]["subset"], own[0]["model"], own[0]["minus"])
        cells.setdefault(line, {})[own[0]["measure"], own[0]["score"]] = _difference_text(own)
    lines = [(*at, *(of.get(measure, NONE) for measure in DOUBT)) for at, of in cells.items()]
    return table(
        "Paired differences on changed images",
        ("condition", "subset", "model", "minus", *DOUBT.values()),
        lines,
        names=4,
        note="Without temperature, of as many members, or of one. Several corruptions of one "
        "severity: mean difference, and in how many the model is better or worse. Of ECE, Brier "
        "and NLL less is better, of AUROC more. Better, worse: the 95 % interval excludes 0, for "
        f"AUROC by more than binning may do, from {MIN_SEQUENCES} units or more. The best expert "
        "is chosen under each condition.",
        file="uncertainty-changed-differences",
    )


def _difference_text(rows: Sequence[Row]) -> str:
    """Write a difference with its interval and verdict; of several rows their mean and a count."""
    mean = mean_of(rows, "difference")
    if mean is None:
        return NONE
    said = [_verdict(row) for row in rows]
    if len(rows) == 1:
        return f"{mean:+.4f}{bracket(rows[0]['ci95'], 4)} {said[0]}".rstrip()
    better, worse = said.count("better"), said.count("worse")
    return f"{mean:+.4f} ({better} better, {worse} worse of {len(rows)})"


def _verdict(row: Row) -> str:
    """Return ``better``, its mirror image ``worse``, or nothing where that is not decided."""
    if row["better"]:
        return "better"
    if row["ci95"] is None or row["ci_units"] < MIN_SEQUENCES:
        return ""
    low, high = row["ci95"]
    beyond = low if row["measure"] in CALIBRATION else -high
    return "worse" if beyond > row["error_bound"] else ""
