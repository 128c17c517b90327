"""Tables of corruptions: by severity, by corruption, and who wins; part of `conditions`."""

from __future__ import annotations

from moeseg.evaluation.cells import NONE, gather, mean_of, named, opponent_of, pair_order
from moeseg.evaluation.changes import Trial
from moeseg.evaluation.contents import TextTable, verdict
from moeseg.evaluation.corruption_means import CorruptionMeans, corruption_means
from moeseg.evaluation.intervals import MIN_SEQUENCES


def corruption_tables(trial: Trial) -> list[TextTable]:
    """Return the tables of a trial of kind corruption; one without lines has nothing to show.

    Raises:
        DataError: two rows claim the same cell.
    """
    means = corruption_means(trial)
    return [_severities(trial, means), _by_corruption(trial, means), _differences(trial)]


def _severities(trial: Trial, means: CorruptionMeans) -> TextTable:
    lines = [
        (
            model,
            _percent(means.clean.get(model)),
            *(_percent(means.at(model, severity)) for severity in means.severities),
            _percent(means.overall(model)),
            _percent(means.relative(model)),
        )
        for model in means.models
    ]
    columns = ("model", "clean", *(f"severity {s}" for s in means.severities), "all")
    note = (
        f"Mean over {len(means.names)} corruptions on {trial.images} frames: "
        f"{', '.join(means.names)}. Relative: mean over corruptions and severities of mIoU by "
        "clean mIoU."
    )
    heading = f"{trial.title}: mean mIoU in percent"
    return TextTable(heading, (*columns, "relative"), tuple(lines), frozenset(), note)


def _by_corruption(trial: Trial, means: CorruptionMeans) -> TextTable:
    lines = [
        (name, *(_percent(means.under(model, name)) for model in means.models))
        for name in means.names
    ]
    severities = ", ".join(map(str, means.severities))
    note = f"Mean over severities {severities} on {trial.images} frames."
    heading = f"{trial.title}: mIoU in percent by corruption"
    return TextTable(heading, ("corruption", *means.models), tuple(lines), frozenset(), note)


def _differences(trial: Trial) -> TextTable:
    """Return how many paired differences under corruptions are won and lost, by severity."""
    rows = trial.of("difference")
    names = named(rows)
    cells = gather(rows, lambda row: (names(row), opponent_of(row)), "condition")
    levels = sorted({one.level for one in trial.conditions})
    lines = []
    for pair in sorted({pair for pair, _ in cells}, key=pair_order):
        texts = []
        for level in levels:
            at = [cells.get((pair, one.text), ()) for one in trial.conditions if one.level == level]
            means = [mean_of(of_cell, "difference") for of_cell in at]
            known = [mean for mean in means if mean is not None]
            said = [verdict(of_cell) for of_cell in at if of_cell]
            tally = f"{said.count('wins')} won, {said.count('loses')} lost of {len(said)}"
            texts.append(f"{100 * sum(known) / len(known):+.2f} ({tally})" if known else NONE)
        lines.append((*pair, *texts))
    note = (
        "Mean difference over the corruptions in percentage points of mIoU, and how many are won "
        f"or lost: their paired interval excludes 0 and rests on {MIN_SEQUENCES} units or more."
    )
    columns = ("mixture", "minus", *(f"severity {level:.0f}" for level in levels))
    heading = f"{trial.title}: mixture minus another model"
    return TextTable(heading, columns, tuple(lines), frozenset(), note, names=2)


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.2f}"
