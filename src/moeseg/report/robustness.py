"""The section on robustness: mIoU by radius, loss along the steps, transfer, corruptions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from moeseg.errors import DataError
from moeseg.evaluation.attacks_compared import comparisons
from moeseg.evaluation.cells import gather, ground_of, mean_of, model_order, named, with_seeds
from moeseg.evaluation.changes import (
    Condition,
    Trial,
    by_level,
    failed_checks,
    is_changed,
    mark_of,
    trials,
)
from moeseg.evaluation.conditions import tables_of, transfer_cells
from moeseg.evaluation.corruption_means import CorruptionMeans, corruption_means
from moeseg.report import figures
from moeseg.report.colours import DASHES, LINES
from moeseg.report.grouping import ends
from moeseg.report.parts import Download, Figure, Group, Key, Section, Table, csv_file, from_text
from moeseg.report.robustness_told import checks_told, strongest
from moeseg.report.series import Series, series
from moeseg.types import Row

CHANGE = "attack or corruptions"
"""The choice by which figures and tables are found."""

SIDE_BY_SIDE = "attacks side by side"
"""The value of that choice which shows tables of several attacks at one radius."""

Style = tuple[str, str]
"""Colour and dash of a line."""

_INTRO = (
    "Each model on images that were changed: by attacks, which seek its errors and move no value "
    "of a pixel by more than their radius, and by corruptions such as fog, which seek nothing. "
    "What an attack leaves is an upper bound, since a better one may leave less; trust checks say "
    "which attacks are known to be too weak."
)


def robustness(rows: Sequence[Row]) -> Section | None:
    """Return what is left of each model on changed images; None where no row tells of any.

    It opens at the attack that the summary tells of.
    """
    if not any(map(is_changed, rows)):
        return None
    drawn: list[Figure] = []
    made: list[Table] = []
    lacking: list[str] = []
    styles = _styles(rows)
    found = trials(rows)
    for trial in found:
        choice = _choice(trial)
        try:
            texts = tables_of(trial)
            drawn += _figures(trial, choice, styles)
        except DataError as error:
            lacking.append(f"{trial.title} is left out: {error}")
            continue
        for text in texts:
            title = text.heading.removeprefix(f"{choice['scored on']}, ")
            made.append(replace(from_text(text, choice, open=text is texts[0]), title=title))
    made += _side_by_side(found)
    told = tuple(checks_told([row for row in rows if row["kind"] == "attack"]))
    group = Group(tuple(drawn), tuple(made), _opening(found, rows))
    return Section("robustness", "Robustness", _INTRO, (), group, "\n".join(lacking), told)


def _opening(found: Sequence[Trial], rows: Sequence[Row]) -> dict[str, str]:
    """Return the choice of the attack that the summary of the first attacked place tells of."""
    for place in dict.fromkeys(trial.place for trial in found):
        one = strongest([row for row in rows if ground_of(row)[:3] == place])
        if one is None:
            continue
        wanted = (place, one.condition.name, one.subset, one.images, one.mark)
        for trial in found:
            of = (trial.place, trial.name, trial.subset, trial.images, mark_of(trial.rows[0]))
            if of == wanted:
                return _choice(trial)
    return {}


def _side_by_side(found: Sequence[Trial]) -> Iterator[Table]:
    """Yield the tables of several attacks at one radius."""
    try:
        compared = comparisons(found)
    except DataError:  # told where the attack's own tables are left out
        return
    for one in compared:
        title = one.table.heading.removeprefix(f"{one.scored_on}, ")
        choice = {"scored on": one.scored_on, "subset": one.subset, CHANGE: SIDE_BY_SIDE}
        yield replace(from_text(one.table, choice, open=True), title=title)


def _styles(rows: Sequence[Row]) -> dict[str, Style]:
    """Return how each model is drawn, the same in all figures."""
    models = sorted({str(row["model"]) for row in rows if is_changed(row)}, key=model_order)
    return {model: _style(number) for number, model in enumerate(models)}


def _style(number: int) -> Style:
    return LINES[number % len(LINES)], DASHES[number % len(DASHES)]


def _choice(trial: Trial) -> dict[str, str]:
    names = {"corruption": "corruptions", "other": "other conditions"}
    name = names.get(trial.kind, trial.name) + (", fewer frames" if trial.part else "")
    name += f" ({trial.mark})" if trial.mark else ""
    return {"scored on": trial.scored_on, "subset": trial.subset, CHANGE: name}


def _figures(
    trial: Trial, choice: Mapping[str, str], styles: Mapping[str, Style]
) -> Iterator[Figure]:
    if trial.kind == "attack":
        yield from _by_radius(trial, choice, styles)
        yield from _losses(trial, choice)
        yield from _transfers(trial, choice)
    elif trial.kind == "corruption" and trial.of("segmentation"):
        means = corruption_means(trial)
        yield _by_severity(trial, means, choice, styles)
        yield _by_corruption(trial, means, choice)


def _by_radius(
    trial: Trial, choice: Mapping[str, str], styles: Mapping[str, Style]
) -> Iterator[Figure]:
    scored = trial.of("segmentation") or trial.own
    if not scored:
        return
    call = named([*scored, *trial.own, *trial.clean])
    attacked, done = gather(scored, call, "condition"), gather(trial.own, call, "condition")
    clean = {model: rows for (model, _), rows in gather(trial.clean, call).items()}
    radii = by_level({one for one in trial.conditions if any(one.text == c for _, c in attacked)})
    lines, data = [], []
    for model in sorted({model for model, _ in attacked}, key=model_order):
        own = [rows for (name, _), rows in done.items() if name == model]
        before = mean_of(own[0], "clean_miou") if own else None
        points = [_point(clean[model])] if model in clean else [(before, None)]
        points += [_point(attacked.get((model, one.text), ())) for one in radii]
        failed = [failed_checks(done.get((model, one.text), ())) for one in radii]
        hollow = [number for number, names in enumerate(failed, 1) if names]
        values, intervals = zip(*points, strict=True)
        lines.append(Series(model, values, intervals, *_of(styles, model), hollow))
        told = zip((0.0, *(one.level for one in radii)), points, ([], *failed), strict=True)
        data += [
            (model, level, v, *ends(pair), " ".join(names)) for level, (v, pair), names in told
        ]
    names, axis = _radius_names(radii)
    yield Figure(
        title=f"mIoU under {choice[CHANGE]} on {trial.subset}",
        svg=series(lines, ["clean", *names], axis, "mIoU in percent"),
        caption=f"What the attack leaves of each model on {trial.images} frames; higher is better. "
        "Radii stand evenly, not to scale; models stand side by side. Whiskers: 95 % interval by "
        "bootstrap. Hollow: the attack failed a trust check.",
        data=_data(trial, "curves", ("model", "epsilon", "miou", "low", "high", "failed"), data),
        choice=choice,
        legend=tuple(Key(line.name, line.colour, line.dash) for line in lines),
    )


def _point(rows: Sequence[Row]) -> tuple[float | None, tuple[float, float] | None]:
    """Return the mean over seeds, with the interval where there is one seed and it is of mIoU."""
    alone = len(rows) == 1 and rows[0]["kind"] == "segmentation"
    return mean_of(rows, "miou"), figures.pair(rows[0]["ci95"]) if alone else None


def _of(styles: Mapping[str, Style], called: str) -> Style:
    """Return the style of a model that may be called with its architecture."""
    return styles[called] if called in styles else styles[called.split(" (", 1)[0]]


def _radius_names(radii: Sequence[Condition]) -> tuple[list[str], str]:
    """Return short names of radii and what they are."""
    if all(one.told.endswith("/255") for one in radii):
        return [one.told.removesuffix("/255") for one in radii], "radius in 255ths"
    return [one.told for one in radii], "radius"


def _losses(trial: Trial, choice: Mapping[str, str]) -> Iterator[Figure]:
    """Yield the loss along the steps of each model, a line a radius."""
    rows = [row for row in trial.own if row["losses"]]
    call = with_seeds(rows, named(rows))
    for model in sorted({call(row) for row in rows}, key=model_order):
        lines = []
        of_model = [row for row in rows if call(row) == model]
        for number, one in enumerate(by_level(trial.conditions)):
            lines += [
                figures.Line(
                    one.told, list(range(len(row["losses"]))), row["losses"], *_style(number)
                )
                for row in of_model
                if row["condition"] == one.text
            ]
        top = max(value for line in lines for value in line.ys if value is not None) or 1.0
        last = max(len(line.ys) for line in lines) - 1
        if last < 1:
            continue
        yield Figure(
            title=f"Loss along the steps of {trial.name}: {model} on {trial.subset}",
            svg=figures.curves(lines, "step", "mean cross-entropy", top=1.04 * top, last=last),
            caption="Mean over pixels and frames, a line a radius. Still rising at the end: more "
            "steps would do more. Flat from the start: the attack finds no way, which is no proof "
            "that there is none.",
            data=_data(
                trial,
                f"losses-{model}",
                ("radius", "step", "loss"),
                (
                    (line.name, x, y)
                    for line in lines
                    for x, y in zip(line.xs, line.ys, strict=True)
                ),
            ),
            choice={**choice, "model": model},
            legend=tuple(Key(line.name, line.colour, line.dash) for line in lines),
        )


def _transfers(trial: Trial, choice: Mapping[str, str]) -> Iterator[Figure]:
    """Yield source by scored model for each radius that was tried on other models too."""
    for one in by_level(trial.conditions):
        rows = [row for row in trial.of("attack") if row["condition"] == one.text]
        if all(row["source"] == row["model"] for row in rows):
            continue
        cells = transfer_cells(rows)
        sources = sorted({source for source, _ in cells}, key=model_order)
        models = sorted({model for _, model in cells}, key=model_order)
        values = [[mean_of(cells.get((s, m), ()), "miou") for m in models] for s in sources]
        clean = [row["clean_miou"] for row in rows if row["clean_miou"] is not None]
        known = [value for line in values for value in line if value is not None]
        numbers = {name: f"{number}" for number, name in enumerate(models, 1)}
        told = "numbered as the lines"
        if sources != models:
            told = "by number: " + ", ".join(f"{n} {name}" for name, n in numbers.items())
        yield Figure(
            title=f"Transfer of {trial.name} at {one.told} on {trial.subset}",
            svg=figures.heat_map(
                [f"{numbers[s]} {s}" if s in numbers else s for s in sources],
                models,
                values,
                heads=list(numbers.values()),
                top=max([*known, *clean], default=0.0) or 1.0,
                percent=True,
                marked={(sources.index(n), models.index(n)) for n in sources if n in numbers},
                label="mIoU in percent by attacked and scored model",
            ),
            caption="mIoU in percent; darker is more. Lines: the model that the images were made "
            f"for; columns: the model that is scored on them, {told}. Framed: a model attacked by "
            "itself, which should be the palest of its column.",
            data=_data(
                trial,
                f"transfer-{one.told}",
                ("made_for", "scored", "miou"),
                (
                    (source, model, value)
                    for source, line in zip(sources, values, strict=True)
                    for model, value in zip(models, line, strict=True)
                ),
            ),
            choice=choice,
        )


def _by_severity(
    trial: Trial, means: CorruptionMeans, choice: Mapping[str, str], styles: Mapping[str, Style]
) -> Figure:
    lines, data = [], []
    for model in means.models:
        values = [means.clean.get(model), *(means.at(model, s) for s in means.severities)]
        lines.append(Series(model, values, [None] * len(values), *_of(styles, model)))
        data += [(model, s, v) for s, v in zip((0, *means.severities), values, strict=True)]
    return Figure(
        title=f"mIoU by severity on {trial.subset}",
        svg=series(
            lines, ["clean", *map(str, means.severities)], "severity", "mean mIoU in percent"
        ),
        caption=f"Mean over {len(means.names)} corruptions on {trial.images} frames; higher and "
        "flatter is better. Models stand side by side.",
        data=_data(trial, "severity", ("model", "severity", "miou"), data),
        choice=choice,
        legend=tuple(Key(line.name, line.colour, line.dash) for line in lines),
    )


def _by_corruption(trial: Trial, means: CorruptionMeans, choice: Mapping[str, str]) -> Figure:
    values = [[means.under(model, name) for model in means.models] for name in means.names]
    known = [value for line in values for value in line if value is not None]
    numbers = [str(number) for number in range(1, len(means.models) + 1)]
    told = ", ".join(f"{n} {model}" for n, model in zip(numbers, means.models, strict=True))
    return Figure(
        title=f"mIoU by corruption on {trial.subset}",
        svg=figures.heat_map(
            means.names,
            means.models,
            values,
            heads=numbers,
            top=max(known, default=0.0) or 1.0,
            percent=True,
            label="mIoU in percent by corruption and model",
        ),
        caption=f"mIoU in percent, mean over severities {', '.join(map(str, means.severities))}; "
        f"darker is more. Columns: {told}.",
        data=_data(
            trial,
            "corruptions",
            ("corruption", *means.models),
            ((name, *line) for name, line in zip(means.names, values, strict=True)),
        ),
        choice=choice,
    )


def _data(
    trial: Trial, what: str, columns: Sequence[str], lines: Iterable[Sequence[object]]
) -> Download:
    return csv_file("-".join([what, trial.place[0], trial.name, trial.subset]), columns, lines)
