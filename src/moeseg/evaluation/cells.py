"""Rows gathered into the cells of a table, the order of lines and columns, numbers as text.

Which tables there are is the matter of `contents` and `conditions`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from statistics import fmean
from typing import TypeVar

from moeseg.config import CONTROLS
from moeseg.errors import DataError
from moeseg.types import Row

Ground = tuple[str, str, tuple[int, int], str]
"""Data set, split, size and condition: what two rows must share to be compared."""

ORACLE = "oracle-"
"""How the names of routers begin that know the labels."""

NONE = "-"
"""Stands in a cell without a value."""

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
_OPPONENTS = ("best expert", "baseline", "ensemble-mean", *CONTROLS)


def ordered(rows: Iterable[Row], kind: str) -> list[Row]:
    """Return the rows of one kind by data set, split, size, condition, subset, model and seed."""
    return sorted(
        (row for row in rows if row["kind"] == kind),
        key=lambda row: (
            ground_of(row),
            subset_order(row["subset"]),
            model_order(row["model"]),
            row["architecture"],
            _seed_order(row["seed"]),
        ),
    )


def by_ground(rows: Iterable[Row]) -> dict[Ground, list[Row]]:
    """Return rows grouped by what they must share to be compared, in the order they come."""
    groups: dict[Ground, list[Row]] = {}
    for row in rows:
        groups.setdefault(ground_of(row), []).append(row)
    return groups


def ground_of(row: Row) -> Ground:
    """Return what a row must share with others to be compared."""
    height, width = row["size"]
    return row["dataset"], row["split"], (height, width), row["condition"]


def subsets_of(rows: Iterable[Row]) -> list[str]:
    """Return the subsets that rows speak of, joins last."""
    return sorted({row["subset"] for row in rows}, key=subset_order)


def gather(
    rows: Iterable[Row], name: Callable[[Row], _Name], column: str = "subset"
) -> dict[tuple[_Name, str], tuple[Row, ...]]:
    """Gather rows into cells (name, subset), one row per seed.

    Args:
        rows: of one kind.
        name: what the line of a row is called.
        column: the key of a row by which the columns are told.

    Raises:
        DataError: two rows claim the same cell.
    """
    cells: dict[tuple[_Name, str], dict[int | None, Row]] = {}
    for row in rows:
        seeds = cells.setdefault((name(row), row[column]), {})
        if row["seed"] in seeds:
            raise DataError(
                f"expected one {row['kind']} row of {row['model']!r} on {row['subset']!r} with "
                f"seed {row['seed']}, got two (fingerprints {seeds[row['seed']]['fingerprint']!r} "
                f"and {row['fingerprint']!r}); keep the newer one."
            )
        seeds[row["seed"]] = row
    return {
        cell: tuple(seeds[seed] for seed in sorted(seeds, key=_seed_order))
        for cell, seeds in cells.items()
    }


def named(rows: Iterable[Row]) -> Callable[[Row], str]:
    """Return how to call a row's model: with its architecture where a name has several."""
    built: dict[str, set[str]] = {}
    for row in rows:
        built.setdefault(row["model"], set()).add(row["architecture"])
    return lambda row: (
        f"{row['model']} ({row['architecture']})" if len(built[row["model"]]) > 1 else row["model"]
    )


def with_seeds(rows: Iterable[Row], call: Callable[[Row], str]) -> Callable[[Row], str]:
    """Return how to call a row: with its seed, if known, where what it is called has several."""
    seeds: dict[str, set[int | None]] = {}
    for row in rows:
        seeds.setdefault(call(row), set()).add(row["seed"])

    def calls(row: Row) -> str:
        name = call(row)
        several = len(seeds[name]) > 1 and row["seed"] is not None
        return f"{name}, seed {row['seed']}" if several else name

    return calls


def opponent_of(row: Row) -> str:
    """Return what a ``difference`` row is measured against; experts are one opponent, the best."""
    return "best expert" if row["minus"].startswith("expert-") else str(row["minus"])


def mean_of(rows: Sequence[Row], key: str) -> float | None:
    """Return the mean of a reading over the seeds of a cell; None where one has none."""
    values = [row[key] for row in rows]
    return None if not values or None in values else fmean(values)


def with_spread(
    rows: Sequence[Row],
    key: str,
    *,
    sign: str = "",
    bracket: bool = True,
    ci95: str = "ci95",
    scale: float = 100,
    digits: int = 2,
) -> str:
    """Write a reading with its interval, or the mean and range of several seeds.

    Args:
        rows: of a cell, one a seed.
        key: of the reading.
        sign: ``+`` writes it of positive numbers, too.
        bracket: whether the interval stands behind it.
        ci95: key of the interval.
        scale: 100 writes percent, 1 the value.
        digits: behind the point.
    """
    mean = mean_of(rows, key)
    if mean is None:
        return NONE

    def text(value: float) -> str:
        return f"{scale * value:{sign}.{digits}f}"

    if len(rows) > 1:
        values = [row[key] for row in rows]
        return f"{text(mean)} ({text(min(values))} to {text(max(values))}, {len(rows)} seeds)"
    span = rows[0][ci95] if bracket else None
    return text(mean) if span is None else f"{text(mean)} [{text(span[0])}, {text(span[1])}]"


def units_of(rows: Sequence[Row]) -> str:
    """Say what was drawn, subset by subset."""
    told = {row["subset"]: f"{row['ci_units']} {row['ci_unit']}s" for row in rows}
    return ", ".join(f"{told[subset]} ({subset})" for subset in subsets_of(rows))


def subset_order(subset: str) -> tuple[int, str]:
    """Sort by: joins last."""
    return subset.count("+"), subset


def model_order(model: str) -> tuple[int, str]:
    """Put the models of a study in their usual order, others behind them by name."""
    name = "expert-" if model.startswith("expert-") else model.split(" ", 1)[0]
    last = len(_MODELS) + model.startswith(ORACLE)
    return (_MODELS.index(name) if name in _MODELS else last), model


def pair_order(pair: tuple[str, str]) -> tuple[tuple[int, str], int, str]:
    """Sort mixtures as models, and their opponents in their usual order."""
    model, opponent = pair
    place = _OPPONENTS.index(opponent) if opponent in _OPPONENTS else len(_OPPONENTS)
    return model_order(model), place, opponent


def temperature_of(row: Row) -> str:
    """Return the kind of temperature that a row was made with, or ``none``."""
    return str(row["settings"].get("temperature", "none"))


def _seed_order(seed: int | None) -> int:
    return -1 if seed is None else seed
