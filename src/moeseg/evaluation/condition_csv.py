"""All scores on changed images in long form, one line a row, for people's own plots."""

from __future__ import annotations

from collections.abc import Iterable

from moeseg.evaluation.cells import ground_of, ordered
from moeseg.evaluation.changes import failed_checks, mark_of, read_condition
from moeseg.evaluation.table import csv_text, in_percent
from moeseg.types import Row

_COLUMNS = (
    *("dataset", "split", "height", "width", "subset", "images", "condition"),
    *("attack", "epsilon", "corruption", "severity"),
    *("model", "architecture", "seed", "source"),
    *("miou_percent", "miou_low_percent", "miou_high_percent"),
    *("clean_percent", "lost_percent", "lost_low_percent", "lost_high_percent"),
    *("checks_failed", "fingerprint"),
)
_Key = tuple[object, ...]


def render_condition_csv(rows: Iterable[Row]) -> str:
    """Return the ``segmentation`` and ``attack`` rows as CSV; the order of the rows has no effect.

    A model that is attacked by itself has a row of each kind, and one line.
    """
    rows = list(rows)
    attacks = sorted(ordered(rows, "attack"), key=lambda row: (*_key(row), row["source"]))
    done = {(_key(row), row["source"]) for row in attacks}
    scored = {_key(row): row for row in ordered(rows, "segmentation")}
    lines = [
        (row, scored.get(_key(row)) if row["source"] == row["model"] else None) for row in attacks
    ]
    alone = [(row, row) for key, row in scored.items() if (key, row["model"]) not in done]
    both = sorted([*alone, *lines], key=lambda pair: (*_key(pair[0]), pair[0].get("source", "")))
    return csv_text([[*_COLUMNS], *(_line(row, of_score) for row, of_score in both)])


def _key(row: Row) -> tuple[object, ...]:
    condition = read_condition(row["condition"])
    return (
        *(*ground_of(row)[:3], row["subset"], row["images"], mark_of(row)),
        *(condition.kind, condition.name),
        *(condition.level, condition.text, row["model"], row["architecture"], row["seed"]),
    )


def _line(row: Row, scored: Row | None) -> list[object]:
    one = read_condition(row["condition"])
    attacked = row["kind"] == "attack"
    interval = (scored and scored["ci95"]) or (None, None)
    lost = (attacked and row["ci95"]) or (None, None)
    numbers = [
        *(row["miou"], *interval),
        *(row["clean_miou"] if attacked else None, row["lost"] if attacked else None, *lost),
    ]
    return [
        *(row["dataset"], row["split"], *row["size"], row["subset"], row["images"]),
        row["condition"],
        one.name if one.kind == "attack" else None,
        row["epsilon"] if attacked else one.level if one.kind == "attack" else None,
        *((one.name, int(one.level)) if one.kind == "corruption" else (None, None)),
        *(row["model"], row["architecture"], row["seed"]),
        row["source"] if attacked else None,
        *(in_percent(number) for number in numbers),
        " ".join(failed_checks([row])) if attacked else None,
        row["fingerprint"],
    ]
