"""Rows that belong in one figure, and what such a group is called; nothing is drawn here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from moeseg.evaluation.cells import Ground, by_ground
from moeseg.evaluation.changes import read_condition
from moeseg.types import Row

_Point = TypeVar("_Point")

ONE_MODEL = ("model", "architecture", "seed")
"""What tells a model of a run, also where rows of several runs stand together."""

WHISKERS = "Whiskers: 95 % interval by bootstrap over drives or blocks of frames."


def place(ground: Ground) -> str:
    """Write what rows must share to be compared."""
    dataset, split, (height, width), condition = ground
    return f"{dataset} {split}, {height} x {width}, {condition}"


def place_of(rows: Sequence[Row]) -> str:
    """Write what rows of one ground share."""
    (ground,) = by_ground(rows[:1])
    return place(ground)


def alike(rows: Sequence[Row], *keys: str) -> Iterator[list[Row]]:
    """Yield rows that share ground and `keys`, in the order they come."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for ground, of_ground in by_ground(rows).items():
        for row in of_ground:
            groups.setdefault((ground, *(row[key] for key in keys)), []).append(row)
    yield from groups.values()


def level_of(condition: str) -> str:
    """Write what rows of several changes share: the severity of corruptions; others stand alone."""
    one = read_condition(condition)
    return f"severity {one.told}" if one.kind == "corruption" else one.text


def model_at(row: Row) -> tuple[object, ...]:
    """Return what tells a row's model, subset and ground, but for the condition."""
    keys = ("dataset", "split", "subset", *ONE_MODEL)
    return *(row[key] for key in keys), *row["size"]


def by_level(rows: Sequence[Row], *keys: str) -> list[tuple[str, list[Row]]]:
    """Gather rows of a model on changed images that share `keys`, corruptions by severity.

    Returns:
        What each group is called, and its rows.
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        at = (level_of(row["condition"]), *model_at(row), *(row[key] for key in keys))
        groups.setdefault(at, []).append(row)
    return [
        (own[0]["condition"] if len(own) == 1 else f"{at[0]}, {len(own)} corruptions", own)
        for at, own in groups.items()
    ]


def choice_of(row: Row, *keys: str) -> dict[str, str]:
    """Return by which choices a figure of a row is found."""
    return {"scored on": place_of([row])} | {key: str(row[key]) for key in keys}


def file_of(row: Row, what: str, *keys: str) -> str:
    """Return a file name for the data of a figure."""
    return "-".join([what, *(str(row[key]) for key in ("dataset", "condition", *keys))])


def lacking(what: str, rows: Sequence[Row], mixtures: bool) -> str:
    """Say why rows are not there, and what makes them; nothing where they are."""
    if rows:
        return ""
    if not mixtures:
        return (
            f"No {what}: the study has no mixture. Name one under `mixtures` in the study file, "
            "with two experts or more, and run `moeseg study` again."
        )
    return f"No {what} in this run: `moeseg study` makes it when the models are scored."


def thinned(points: list[_Point]) -> list[_Point]:
    """Return every fourth point of a smooth curve, of 101 or 129 points the last one too."""
    return points[::4]


def risk_curve(row: Row) -> tuple[list[float], list[float | None]]:
    """Return coverage and risk of a ``detector`` row, thinned; empty where it keeps no curve."""
    risks = thinned(row["risk"])
    return [i / max(len(risks) - 1, 1) for i in range(len(risks))], risks


def ends(interval: Sequence[float] | None) -> tuple[float | None, float | None]:
    """Return an interval's ends, for a CSV."""
    return (None, None) if interval is None else (interval[0], interval[1])


def number(value: float | None, digits: int = 3) -> str:
    """Write a number, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def bound(value: float | None) -> str:
    """Write how far a number may be off, or a dash where that is not known."""
    return "-" if value is None else f"{value:.0e}"


def bracket(interval: Sequence[float] | None, digits: int = 3) -> str:
    """Write an interval behind a number; nothing where there is none."""
    return "" if interval is None else f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"
