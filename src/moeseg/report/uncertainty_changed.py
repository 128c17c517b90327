"""Tables of uncertainty on changed images: by condition, and how well scores tell them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moeseg.evaluation.cells import ordered, temperature_of
from moeseg.report.grouping import bound, bracket, number
from moeseg.report.parts import Table, table
from moeseg.types import Row


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


def _condition_table(trusted: Sequence[Row], wrong: Sequence[Row]) -> Table:
    """Return calibration and AUROC of wrong pixels by condition."""
    areas = {
        (r["condition"], r["model"], r["subset"], r["seed"], r["score"]): r["auroc"] for r in wrong
    }
    lines = []
    for row in trusted:
        at = tuple(row[key] for key in ("condition", "model", "subset", "seed"))
        scores = (areas.get((*at, name)) for name in ("entropy", "mutual-information"))
        lines.append(
            (
                row["condition"],
                row["model"],
                row["subset"],
                number(row["accuracy"]),
                number(row["ece"], 4) + bracket(row["ci95"], 4),
                number(row["brier"], 4),
                number(row["nll"], 4),
                *map(number, scores),
            )
        )
    columns = ("condition", "model", "subset", "accuracy", "ECE", "Brier", "NLL")
    return table(
        "Uncertainty on changed images",
        (*columns, "AUROC, entropy", "AUROC, mutual information"),
        lines,
        names=3,
        note="Without temperature. AUROC of wrong pixels.",
        file="uncertainty-changed",
    )


def _told_table(rows: Sequence[Row]) -> Table:
    """Return how well each score tells changed frames from the same frames clean."""
    lines = [
        (
            row["condition"],
            row["model"],
            row["subset"],
            row["score"],
            number(row["auroc"]) + bracket(row["ci95"]),
            bound(row["error_bound"]),
            number(row["aupr"]) + bracket(row["aupr_ci95"]),
            number(row["fpr95"]) + bracket(row["fpr95_ci95"]),
        )
        for row in rows
    ]
    columns = ("condition", "model", "subset", "score", "AUROC", "bound", "AUPR")
    return table(
        "Changed images among clean ones",
        (*columns, "FPR at 95 % TPR"),
        lines,
        names=4,
        note="Without temperature. Each frame counts twice, changed and clean; its score is the "
        "mean over its pixels. AUROC and AUPR 0.5 are chance. Bound: how far AUROC may lie from "
        "that of unbinned scores. Brackets: 95 % intervals.",
        file="uncertainty-changed-frames",
    )
