"""What stands in the tables: rows gathered into cells, ordered, and written in percent.

Rows that may not be compared (another data set, split, size or condition) never share a table.
Kinds of rows that are not known here are left alone. How a table looks is `table`'s matter.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, TypeVar

from moeseg.config import CONTROLS
from moeseg.errors import DataError
from moeseg.evaluation.intervals import MIN_SEQUENCES
from moeseg.types import Row

Published = Mapping[str, Mapping[str, float]]
"""Model -> subset -> mIoU in percent, as a paper prints it."""

Ground = tuple[str, str, tuple[int, int], str]
"""Data set, split, size and condition: what two rows must share to be compared."""

Verdict = Literal["wins", "loses", "undecided"]

_Name = TypeVar("_Name", bound=Hashable)
_MODELS = (
    "baseline",
    "expert-",
    "ensemble-mean",
    "ensemble-max",
    "ensemble-mean-probability",
    "moe-simple",
    "moe-simple-conv",
    "moe-classwise",
    "moe-classwise-conv",
    *CONTROLS,
)
ORACLE = "oracle-"
"""How the names of routers begin that know the labels."""
_READINGS = ("miou_union", "pixel_accuracy", "class_accuracy", "fw_iou")
_OPPONENTS = ("best expert", "baseline", "ensemble-mean", *CONTROLS)
_NONE = "-"


@dataclass(frozen=True, slots=True)
class TextTable:
    """One table as text: a heading, column heads, cells, and which of them are best.

    Attributes:
        heading: stands above.
        columns: heads.
        cells: one tuple per line, as long as `columns`.
        best: (line, column) of the cells to set in bold.
        note: stands below.
    """

    heading: str
    columns: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]]
    note: str


def tables(rows: Iterable[Row], published: Published | None = None) -> list[TextTable]:
    """Return the tables that `rows` make, by comparable group of rows.

    Rows of detectors stand in a table where they come with rows of calibration.

    Raises:
        DataError: two rows claim the same cell.
    """
    rows = list(rows)
    scored = by_ground(ordered(rows, "segmentation"))
    differences = by_ground(ordered(rows, "difference"))
    calibrated = by_ground(ordered(rows, "calibration"))
    detected = by_ground(ordered(rows, "detector"))
    result = []
    for ground in sorted({*scored, *differences, *calibrated}):
        shown = published if ground[3] == "clean" else None
        made = []
        if ground in scored:
            made += [_headline(scored[ground], shown or {}), _readings(scored[ground])]
        if ground in differences:
            made.append(_differences(differences[ground]))
        if ground in calibrated:
            made.append(_calibration(calibrated[ground]))
            made.append(_detection(detected.get(ground, [])))
        dataset, split, (height, width), condition = ground
        place = f"{dataset} {split}, {height} x {width}, {condition}"
        for table in made:
            result.append(replace(table, heading=f"{place}: {table.heading}"))
    return result


def ordered(rows: Iterable[Row], kind: str) -> list[Row]:
    """Return the rows of one kind by data set, split, size, condition, subset, model and seed."""
    return sorted(
        (row for row in rows if row["kind"] == kind),
        key=lambda row: (
            _ground(row),
            _subset_order(row["subset"]),
            _model_order(row["model"]),
            row["architecture"],
            row["seed"],
        ),
    )


def verdict(rows: Iterable[Row]) -> Verdict:
    """Return what ``difference`` rows of one pair of models say, one row a seed.

    Seeds that say different things leave it undecided; so do too few resampling units.
    """
    words: set[Verdict] = set()
    for row in rows:
        _, high = row["ci95"] or (0.0, 0.0)
        lost = high < 0.0 and row["ci_units"] >= MIN_SEQUENCES
        words.add("wins" if row["wins"] else "loses" if lost else "undecided")
    return words.pop() if len(words) == 1 else "undecided"


def by_ground(rows: Iterable[Row]) -> dict[Ground, list[Row]]:
    """Return rows grouped by what they must share to be compared, in the order they come."""
    groups: dict[Ground, list[Row]] = {}
    for row in rows:
        groups.setdefault(_ground(row), []).append(row)
    return groups


def subsets_of(rows: Iterable[Row]) -> list[str]:
    """Return the subsets that rows speak of, joins last."""
    return sorted({row["subset"] for row in rows}, key=_subset_order)


def _headline(rows: Sequence[Row], published: Published) -> TextTable:
    subsets = subsets_of(rows)
    told = [s for s in subsets if any(s in of_model for of_model in published.values())]
    cells = _cells(rows, _named(rows))
    missing = [name for name in published if any(s in published[name] for s in told)]
    models = sorted({*(model for model, _ in cells), *missing}, key=_model_order)
    columns = ["model"]
    lines: list[list[str]] = [[model] for model in models]
    best: set[tuple[int, int]] = set()
    for subset in subsets:
        mious = [_mean(cells.get((model, subset), ()), "miou") for model in models]
        known = [
            None if model.startswith(ORACLE) else value
            for model, value in zip(models, mious, strict=True)
        ]
        top = max((value for value in known if value is not None), default=None)
        for line, (model, miou) in enumerate(zip(models, known, strict=True)):
            lines[line].append(_with_spread(cells.get((model, subset), ()), "miou"))
            if miou is not None and miou == top:
                best.add((line, len(columns)))
        columns.append(subset)
        if subset in told:
            for line, model in enumerate(models):
                value = published.get(model, {}).get(subset)
                lines[line].append(_NONE if value is None else f"{value:.2f}")
            columns.append(f"{subset} (published)")
    note = (
        "Mean over the classes in the ground truth; best measured model of a column in bold; "
        f"brackets: 95 % interval by bootstrap over {_units(rows)}."
    )
    if any(model.startswith(ORACLE) for model in models):
        note += " The oracles know the labels: bounds for routing, never best."
    if told:
        note += " Published figures are a paper's, at its size and by its reading of mIoU."
    if any(len(of_cell) > 1 for of_cell in cells.values()):
        note += " Several seeds: mean, and lowest to highest seed."
    table = tuple(map(tuple, lines))
    return TextTable("mIoU in percent", tuple(columns), table, frozenset(best), note)


def _readings(rows: Sequence[Row]) -> TextTable:
    cells = _cells(rows, _named(rows))
    order = sorted(cells, key=lambda cell: (_subset_order(cell[1]), _model_order(cell[0])))
    lines = []
    for model, subset in order:
        of_cell = cells[model, subset]
        numbers = [_with_spread(of_cell, key, bracket=False) for key in _READINGS]
        used = "/".join(sorted({str(row["classes_used"]) for row in of_cell}))
        images = "/".join(sorted({str(row["images"]) for row in of_cell}))
        lines.append((subset, model, *numbers, used, images))
    columns = (
        "subset",
        "model",
        "mIoU, union",
        "pixel accuracy",
        "class accuracy",
        "fwIoU",
        "classes",
        "images",
    )
    note = "Union: mean over the classes in the ground truth or the prediction."
    return TextTable("other readings in percent", columns, tuple(lines), frozenset(), note)


def _differences(rows: Sequence[Row]) -> TextTable:
    names = _named(rows)

    def opponent(row: Row) -> str:
        return "best expert" if row["minus"].startswith("expert-") else str(row["minus"])

    subsets = subsets_of(rows)
    cells = _cells(rows, lambda row: (names(row), opponent(row)))
    lines = [
        (*pair, *(_difference_text(cells.get((pair, subset), ())) for subset in subsets))
        for pair in sorted({pair for pair, _ in cells}, key=_pair_order)
    ]
    note = (
        "Percentage points of mIoU; brackets: 95 % interval of the paired difference, from the "
        f"same resamples of both models, over {_units(rows)}. Wins or loses: the interval "
        f"excludes 0 (of every seed) and rests on {MIN_SEQUENCES} units or more; the best expert "
        "is chosen on the scored frames."
    )
    columns = ("mixture", "minus", *subsets)
    return TextTable("mixture minus another model", columns, tuple(lines), frozenset(), note)


def _calibration(rows: Sequence[Row]) -> TextTable:
    names = _named(rows)

    def text(row: Row, key: str, ci95: str = "") -> str:
        span = row.get(ci95)
        told = "" if span is None else f" [{span[0]:.4f}, {span[1]:.4f}]"
        return _NONE if row[key] is None else f"{row[key]:.4f}{told}"

    lines = [
        (
            row["subset"],
            names(row),
            temperature_of(row),
            f"{row['members']}",
            text(row, "accuracy"),
            text(row, "confidence"),
            text(row, "ece", "ci95"),
            text(row, "mce"),
            text(row, "classwise_ece"),
            text(row, "brier", "brier_ci95"),
            text(row, "nll", "nll_ci95"),
        )
        for row in rows
        if row["reading"] == "multi-class"
    ]
    columns = (
        *("subset", "model", "temperature", "members", "accuracy", "confidence", "ECE", "MCE"),
        *("class-wise ECE", "Brier", "NLL"),
    )
    note = "15 equal bins over all labelled pixels; lower is better but for accuracy. "
    note += "Brackets: 95 % interval."
    return TextTable("calibration", columns, tuple(lines), frozenset(), note)


def _detection(rows: Sequence[Row]) -> TextTable:
    names = _named(rows)
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        place = (row["task"], row["subset"], names(row), temperature_of(row))
        cells.setdefault(place, {})[row["score"]] = (
            _NONE if row["auroc"] is None else f"{row['auroc']:.4f}"
        )
    scores = tuple(dict.fromkeys(row["score"] for row in rows))
    order = sorted(cells, key=lambda at: (at[0], _subset_order(at[1]), _model_order(at[2]), at[3]))
    lines = [(*place, *(cells[place].get(score, _NONE) for score in scores)) for place in order]
    columns = ("task", "subset", "model", "temperature", *scores)
    note = "AUROC of each score: 0.5 is chance, 1 is perfect."
    return TextTable("detection", columns, tuple(lines), frozenset(), note)


def temperature_of(row: Row) -> str:
    """Return the kind of temperature that a row was made with, or ``none``."""
    return str(row["settings"].get("temperature", "none"))


def _difference_text(rows: Sequence[Row]) -> str:
    mean = _mean(rows, "difference")
    if mean is None:
        return _NONE
    word = verdict(rows)
    against = sorted({str(row["minus"]) for row in rows if row["minus"].startswith("expert-")})
    who = f" ({', '.join(against)})" if against else ""
    return f"{_with_spread(rows, 'difference', sign='+')} {word}{who}"


def _cells(
    rows: Iterable[Row], name: Callable[[Row], _Name]
) -> dict[tuple[_Name, str], tuple[Row, ...]]:
    """Gather rows into cells (name, subset), one row per seed."""
    cells: dict[tuple[_Name, str], dict[int, Row]] = {}
    for row in rows:
        seeds = cells.setdefault((name(row), row["subset"]), {})
        if row["seed"] in seeds:
            raise DataError(
                f"expected one {row['kind']} row of {row['model']!r} on {row['subset']!r} with "
                f"seed {row['seed']}, got two (fingerprints {seeds[row['seed']]['fingerprint']!r} "
                f"and {row['fingerprint']!r}); keep the newer one."
            )
        seeds[row["seed"]] = row
    return {cell: tuple(seeds[seed] for seed in sorted(seeds)) for cell, seeds in cells.items()}


def _named(rows: Iterable[Row]) -> Callable[[Row], str]:
    """Return how to call a row's model: with its architecture where a name has several."""
    built: dict[str, set[str]] = {}
    for row in rows:
        built.setdefault(row["model"], set()).add(row["architecture"])
    return lambda row: (
        f"{row['model']} ({row['architecture']})" if len(built[row["model"]]) > 1 else row["model"]
    )


def _mean(rows: Sequence[Row], key: str) -> float | None:
    values = [row[key] for row in rows]
    return None if not values or None in values else fmean(values)


def _with_spread(rows: Sequence[Row], key: str, *, sign: str = "", bracket: bool = True) -> str:
    """Write a share in percent with its interval, or the mean and range of several seeds."""
    mean = _mean(rows, key)
    if mean is None:
        return _NONE
    form = sign + ".2f"
    text = f"{100 * mean:{form}}"
    if len(rows) > 1:
        values = [100 * row[key] for row in rows]
        return f"{text} ({min(values):{form}} to {max(values):{form}}, {len(rows)} seeds)"
    if bracket and rows[0]["ci95"] is not None:
        low, high = rows[0]["ci95"]
        return f"{text} [{100 * low:{form}}, {100 * high:{form}}]"
    return text


def _units(rows: Sequence[Row]) -> str:
    """Say what was drawn, subset by subset."""
    told = {row["subset"]: f"{row['ci_units']} {row['ci_unit']}s" for row in rows}
    return ", ".join(f"{told[subset]} ({subset})" for subset in subsets_of(rows))


def _ground(row: Row) -> Ground:
    height, width = row["size"]
    return row["dataset"], row["split"], (height, width), row["condition"]


def _subset_order(subset: str) -> tuple[int, str]:
    return subset.count("+"), subset


def _model_order(model: str) -> tuple[int, str]:
    """Put the models of a study in their usual order, others behind them by name."""
    name = "expert-" if model.startswith("expert-") else model.split(" ", 1)[0]
    last = len(_MODELS) + model.startswith(ORACLE)
    return (_MODELS.index(name) if name in _MODELS else last), model


def _pair_order(pair: tuple[str, str]) -> tuple[tuple[int, str], int, str]:
    model, opponent = pair
    place = _OPPONENTS.index(opponent) if opponent in _OPPONENTS else len(_OPPONENTS)
    return _model_order(model), place, opponent
