"""Tables of paired differences of uncertainty: between models, and between scores of one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moeseg.evaluation.cells import by_ground, temperature_of
from moeseg.report.grouping import bracket, place
from moeseg.report.parts import Table, table
from moeseg.types import Row

_MEASURES: tuple[tuple[str, str | None, str], ...] = (
    ("ece", None, "ECE"),
    ("brier", None, "Brier"),
    ("nll", None, "NLL"),
    ("auroc", "entropy", "AUROC, entropy"),
    ("auroc", "mutual-information", "AUROC, mutual information"),
    ("auroc-unseen", "entropy", "AUROC of unseen frames, entropy"),
    ("auroc-unseen", "mutual-information", "AUROC of unseen frames, mutual information"),
)


def difference_tables(rows: Sequence[Row]) -> Iterator[Table]:
    """Yield the tables of ``uncertainty-difference`` rows of one ground, those with a line."""
    models = [row for row in rows if row["score"] == row["minus_score"]]
    scores = [row for row in rows if row["score"] != row["minus_score"]]
    if models:
        yield _model_table(models)
    if scores:
        yield _score_table(scores)


def _model_table(rows: Sequence[Row]) -> Table:
    cells: dict[tuple[str, ...], dict[tuple[str, str | None], str]] = {}
    for row in rows:
        kinds = (temperature_of(row), str(row["minus_settings"].get("temperature", "none")))
        if not set(kinds) <= {"none", "one"}:
            continue
        at = (row["model"], kinds[0], row["minus"], kinds[1], row["subset"])
        cells.setdefault(at, {})[row["measure"], row["score"]] = _difference(row)
    lines = [
        (*at, *(of.get((measure, score), "-") for measure, score, _ in _MEASURES))
        for at, of in cells.items()
    ]
    return table(
        f"{_place(rows)}: paired differences",
        (
            *("model", "temperature", "minus", "its temperature", "subset"),
            *(name for _, _, name in _MEASURES),
        ),
        lines,
        names=5,
        note="From the same resamples of both models, which have as many members, or the other "
        "one. Of ECE, Brier and NLL less is better, of AUROC more. Better: the 95 % interval "
        "excludes 0, for AUROC by more than binning may do, from 8 units or more. Unseen frames "
        "are told from those that both models were trained on.",
        file=f"{_place(rows)}-uncertainty-differences",
    )


def _score_table(rows: Sequence[Row]) -> Table:
    lines = [
        (
            row["model"],
            row["subset"],
            row["score"],
            row["minus_score"],
            _difference(row),
            "-" if row["error_bound"] is None else f"{row['error_bound']:.0e}",
        )
        for row in rows
        if temperature_of(row) == "none"
    ]
    return table(
        f"{_place(rows)}: the best score minus the others",
        ("model", "subset", "score", "minus", "AUROC", "bound"),
        lines,
        names=4,
        note="Without temperature. AUROC of wrong pixels, from the same resamples of both scores. "
        "Which score is best is told by these very pixels, which favours it. Better: the 95 % "
        "interval lies above 0 by more than the bound of what binning may do, from 8 units or "
        "more.",
        file=f"{_place(rows)}-score-differences",
    )


def _difference(row: Row) -> str:
    told = "-" if row["difference"] is None else f"{row['difference']:+.4f}"
    return told + bracket(row["ci95"], 4) + (" better" if row["better"] else "")


def _place(rows: Sequence[Row]) -> str:
    (ground,) = by_ground(rows[:1])
    return place(ground)
