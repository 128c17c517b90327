"""The rows that a finished study leaves in `uncertainty.jsonl`, made from random predictions."""

from __future__ import annotations

from pathlib import Path

from moeseg.evaluation.rows import write_rows
from moeseg.types import Row
from moeseg.uncertainty.collectors import UncertaintyCollector, changed_rows
from moeseg.uncertainty.differences import Variant, difference_rows
from predicted import collector, fill, predicted
from routed import BASE

MODELS = {
    "baseline": (1, 0),
    "expert-day": (1, 0),
    "expert-dusk": (1, 0),
    "ensemble-mean": (2, 0),
    "mc-dropout": (2, 0),
    "moe-simple": (2, 1),
    "moe-classwise": (2, 3),
}


def rows(published: bool = True) -> list[Row]:
    """Return rows of seven models, some with a temperature, clean and in fog."""
    found: list[Row] = []
    clean: dict[Variant, UncertaintyCollector] = {}
    for number, (name, (members, columns)) in enumerate(MODELS.items()):
        for kind in ("none", "one", *(["gate"] if columns else [])):
            base: Row = BASE | {"settings": {} if kind == "none" else {"temperature": kind}}
            place = (name, members, columns > 0)
            thresholds = {"entropy": 0.4}
            made = collector(*place, base=base, published=published, thresholds=thresholds)
            whole = predicted(
                members, columns=columns, sharp=3.0 if kind == "none" else 1.5, seed=number
            )
            clean[name, kind] = fill(made, whole)
            found += clean[name, kind].rows()
    found += difference_rows(clean)
    for name, (members, columns) in MODELS.items():
        base = BASE | {"condition": "fog-3"}
        foggy = collector(name, members, columns > 0, base=base, published=published)
        fill(foggy, predicted(members, columns=columns, sharp=0.5))
        found += [*foggy.rows(), *changed_rows(clean[name, "none"], foggy)]
    return found


def write_uncertainty(folder: Path) -> Path:
    """Write the rows into a run's folder; return the file."""
    write_rows(folder / "uncertainty.jsonl", rows())
    return folder / "uncertainty.jsonl"
