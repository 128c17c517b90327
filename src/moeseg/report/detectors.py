"""The section on detectors: how well each score finds wrong pixels and unseen frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moeseg.evaluation.cells import ordered
from moeseg.report import figures
from moeseg.report.colours import DASHES, LINES
from moeseg.report.grouping import (
    ONE_MODEL,
    alike,
    bound,
    bracket,
    choice_of,
    file_of,
    lacking,
    number,
    place_of,
    risk_curve,
)
from moeseg.report.parts import Figure, Group, Key, Section, Table, csv_file, table
from moeseg.types import Row


def detectors(rows: Sequence[Row], mixtures: bool) -> Section:
    """Return how well each score finds wrong pixels and unseen frames."""
    found = ordered(rows, "detector")
    curves = [
        figure
        for part in alike(found, *ONE_MODEL, "subset", "task")
        for figure in _detector_curves(part)
    ]
    intro = (
        "A score is worth something if it is high where the mixture is wrong, or on frames of a "
        "subset that no expert was trained on. AUROC 0.5 is chance, 1 is perfect."
    )
    title, absent = "Is disagreement worth anything?", lacking("detectors", found, mixtures)
    made = tuple(detector_table(part, "detectors", "mixture") for part in alike(found))
    return Section("detectors", title, intro, made, Group(tuple(curves)), absent)


def _detector_curves(rows: Sequence[Row]) -> Iterator[Figure]:
    """Yield the two plots of one mixture, subset and task, as far as their numbers are there."""
    first = rows[0]
    keys = ("model", "subset", "task")
    styles = [(LINES[i % len(LINES)], DASHES[i % len(DASHES)]) for i in range(len(rows))]
    keyed = tuple(Key(r["score"], *style) for r, style in zip(rows, styles, strict=True))
    choice = choice_of(first, *ONE_MODEL, "subset", "task")
    where = f"{first['model']} on {first['subset']}"
    risks = [
        figures.Line(row["score"], *risk_curve(row), *style)
        for row, style in zip(rows, styles, strict=True)
        if row["risk"]
    ]
    if risks:
        top = max((y for line in risks for y in line.ys if y is not None), default=0.0) or 1.0
        what, bad = ("frames", "unseen frames")
        if first["task"] == "wrong-pixels":
            what, bad = ("pixels", "errors")
        yield Figure(
            title=f"Risk and coverage: {where}",
            svg=figures.curves(risks, f"coverage: share of {what} kept", "risk", top=top),
            caption=f"Keep only the most certain {what} (left), or all (right): the risk is the "
            f"share of {bad} among those kept. The lower and the longer flat, the better.",
            data=csv_file(file_of(first, "risk", *keys), ("score", "coverage", "risk"), _xy(risks)),
            choice=choice,
            legend=keyed,
        )
    rocs = [
        figures.Line(row["score"], *_defined(*row["roc"]), *style)
        for row, style in zip(rows, styles, strict=True)
        if row["roc"]
    ]
    if rocs:
        yield Figure(
            title=f"ROC: {where}",
            svg=figures.curves(rocs, "false alarms", "found", diagonal=True),
            caption="Each point is a threshold: the share of right pixels (or known frames) that "
            "raise a false alarm, and the share of wrong pixels (or unseen frames) found. "
            "Nearer to the upper left corner is better; the dotted diagonal is chance.",
            data=csv_file(
                file_of(first, "roc", *keys), ("score", "false_alarms", "found"), _xy(rocs)
            ),
            choice=choice,
            legend=keyed,
        )


def _defined(
    xs: Sequence[float | None], ys: Sequence[float | None]
) -> tuple[list[float], list[float | None]]:
    """Return a curve with a gap wherever one of its two values is not there."""
    gaps = [None if x is None else y for x, y in zip(xs, ys, strict=True)]
    return [x or 0.0 for x in xs], gaps


def _xy(lines: Sequence[figures.Line]) -> Iterator[tuple[str, float, float | None]]:
    for line in lines:
        for x, y in zip(line.xs, line.ys, strict=True):
            yield line.name, x, y


def detector_table(rows: Sequence[Row], title: str, who: str, note: str = "") -> Table:
    """Return ``detector`` rows of one ground as a table.

    Args:
        rows: of one ground.
        title: what it is a table of.
        who: head of the column of models.
        note: stands before the reading of the columns.
    """
    lines = [
        (
            row["model"],
            row["subset"],
            row["task"],
            row["score"],
            number(row["auroc"]) + bracket(row["ci95"]),
            bound(row["error_bound"]),
            number(row["aupr"]) + bracket(row["aupr_ci95"]),
            number(row["positives"]),
            number(row["fpr95"]) + bracket(row["fpr95_ci95"]),
            number(row["aurc"]) + bracket(row["aurc_ci95"]),
        )
        for row in rows
    ]
    columns = (who, "subset", "task", "score", "AUROC", "bound", "AUPR", "positives")
    return table(
        f"{place_of(rows)}: {title}",
        (*columns, "FPR at 95 % TPR", "AURC"),
        lines,
        names=4,
        note=f"{note}Bound: how far AUROC may lie from that of unbinned scores. Positives: share "
        "of wrong pixels or unseen frames, which is what AUPR is by chance. AURC: area under risk "
        "over coverage, lower is better. Brackets: 95 % intervals.",
        file=f"{place_of(rows)}-{title}",
    )
