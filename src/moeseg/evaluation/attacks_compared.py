"""Attacks side by side: what each leaves of each model at one radius; part of `conditions`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from moeseg.evaluation.cells import NONE, gather, model_order, named, with_spread
from moeseg.evaluation.changes import (
    FAILED,
    Place,
    Trial,
    failed_checks,
    frames_told,
    is_published,
    mark_of,
    on_whole,
    read_condition,
)
from moeseg.evaluation.contents import TextTable
from moeseg.types import Row


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several attacks on whole models at one radius, on the same frames.

    Attributes:
        scored_on: data set, split and size, in words.
        subset: of the frames.
        table: models down, attacks across.
    """

    scored_on: str
    subset: str
    table: TextTable


def comparisons(made: Iterable[Trial]) -> list[Comparison]:
    """Return a comparison for each radius at which models were attacked in more than one way.

    Raises:
        DataError: two rows claim the same cell.
    """
    groups: dict[tuple[Place, str, int, str], list[Trial]] = {}
    for trial in made:
        if trial.kind == "attack":
            key = (trial.place, trial.subset, trial.images, mark_of(trial.rows[0]))
            groups.setdefault(key, []).append(trial)
    alike = Counter(key[:3] for key in groups)
    found = []
    for key, group in groups.items():
        frames = frames_told(key[2], key[3] if alike[key[:3]] > 1 else "")
        rows = [row for trial in group for row in trial.own if on_whole(row)]
        scored_on, subset = group[0].scored_on, group[0].subset
        for told, columns, lines in _tables(rows):
            heading = f"{scored_on}, {subset}: attacks at {told} on {frames}: mIoU in percent"
            table = TextTable(heading, columns, lines, frozenset(), _NOTE)
            found.append(Comparison(scored_on, subset, table))
    return found


_NOTE = (
    "Each model attacked by itself; less is the stronger attack. Published attacks first, the "
    f"correct one next to each. {FAILED} failed a trust check, which the attack's own table names."
)

_Texts = tuple[str, ...]


def _tables(rows: Sequence[Row]) -> Iterator[tuple[str, _Texts, tuple[_Texts, ...]]]:
    """Yield radius, columns and lines for each radius of more than one attack."""
    call = named(rows)
    cells = gather(rows, call, "condition")
    models = sorted({model for model, _ in cells}, key=model_order)
    radii = {read_condition(row["condition"]).level for row in rows}
    for level in sorted(radii):
        of_level = [row for row in rows if read_condition(row["condition"]).level == level]
        shown = _published_first(of_level)
        if len(shown) < 2:
            continue
        lines = []
        for model in models:
            own = [cells.get((model, condition), ()) for condition in shown.values()]
            if known := next((of_cell for of_cell in own if of_cell), None):
                clean = with_spread(known, "clean_miou", bracket=False)
                lines.append((model, clean, *map(_text, own)))
        told = read_condition(of_level[0]["condition"]).told
        yield told, ("model", "clean", *shown), tuple(lines)


def _text(rows: Sequence[Row]) -> str:
    text = with_spread(rows, "miou", bracket=False) if rows else NONE
    return f"{text} {FAILED}" if failed_checks(rows) else text


def _published_first(rows: Sequence[Row]) -> dict[str, str]:
    """Return attacks with their conditions: each published one, its correct twin, then others."""
    known = {str(row["attack"]): str(row["condition"]) for row in rows}
    published = dict.fromkeys(str(row["attack"]) for row in rows if is_published(row))
    pairs = [name for one in published for name in (one, one.replace("-published", ""))]
    return {name: known[name] for name in dict.fromkeys([*pairs, *known]) if name in known}
