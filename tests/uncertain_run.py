"""The rows that a finished study leaves in `uncertainty.jsonl`, made from random predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moeseg.evaluation.rows import write_rows
from moeseg.types import Row
from moeseg.uncertainty.collectors import UncertaintyCollector, changed_rows
from moeseg.uncertainty.differences import Variant, difference_rows
from predicted import collector, fill, predicted
from report_run import SIZE
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
TEMPERATURES = {
    "baseline": ("one",),
    **dict.fromkeys(("moe-simple", "moe-classwise"), ("one", "gate")),
}


def rows(published: bool = True, models: Sequence[str] = tuple(MODELS)) -> list[Row]:
    """Return rows of models, some with a temperature, clean and in fog."""
    found: list[Row] = []
    clean: dict[Variant, UncertaintyCollector] = {}
    wanted = {name: MODELS[name] for name in models}
    for number, (name, (members, columns)) in enumerate(wanted.items()):
        for kind in ("none", *TEMPERATURES.get(name, ())):
            base: Row = BASE | {"settings": {} if kind == "none" else {"temperature": kind}}
            place = (name, members, columns > 0)
            thresholds = {("entropy", "pixel"): 0.4, ("entropy", "patch"): 0.3}
            made = collector(*place, base=base, published=published, thresholds=thresholds)
            whole = predicted(
                members, columns=columns, sharp=3.0 if kind == "none" else 1.5, seed=number
            )
            clean[name, kind] = fill(made, whole)
            found += clean[name, kind].rows()
    found += difference_rows(clean)
    for name, (members, columns) in wanted.items():
        base = BASE | {"condition": "fog-3"}
        foggy = collector(name, members, columns > 0, base=base, published=published)
        fill(foggy, predicted(members, columns=columns, sharp=0.5))
        found += [*foggy.rows(), *changed_rows(clean[name, "none"], foggy)]
    return found


def write_uncertainty(folder: Path, models: Sequence[str] = tuple(MODELS)) -> Path:
    """Write the rows, and maps of `report_run`'s frames, into a run's folder; return the file."""
    write_rows(folder / "uncertainty.jsonl", rows(models=models))
    write_maps(folder / "uncertainty" / "maps" / "clean")
    return folder / "uncertainty.jsonl"


def map_of(frame: int) -> NDArray[np.uint8]:
    """Return the (H, W) entropy of `moe-simple` on a frame, 255 for 1; it grows to the right."""
    columns, _ = np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]))
    return ((16 * columns + frame) % 256).astype(np.uint8)


def write_maps(place: Path, frames: int = 4) -> None:
    """Write the maps of some frames, and their index."""
    keys = [f"drive <{number % 2}>/{number:03d}" for number in range(frames)]
    for number in range(frames):
        (place / f"{number:04d}").mkdir(parents=True)
        picture = Image.fromarray(map_of(number))
        picture.save(place / f"{number:04d}" / "moe-simple.entropy.png")
    dirs = {key: f"{number:04d}" for number, key in enumerate(keys)}
    index = {"maps": {"moe-simple": ["entropy"]}, "frames": dirs}
    (place / "index.json").write_text(json.dumps(index), encoding="utf-8")
