"""Rows on changed images: what a condition's name says, and which rows may share a table.

A condition is ``clean``, an attack with its radius (``pgd-10@4/255``), a corruption with its
severity (``fog-3``), or another. Tables are made in `conditions`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from moeseg.evaluation.cells import ground_of, ordered, subset_order
from moeseg.evaluation.contents import CLEAN
from moeseg.evaluation.rows import FRAMES
from moeseg.types import Row

CORRUPTIONS: tuple[str, ...] = (
    "gaussian-noise",
    "shot-noise",
    "impulse-noise",
    "defocus-blur",
    "glass-blur",
    "motion-blur",
    "zoom-blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic-transform",
    "pixelate",
    "jpeg-compression",
)
"""Names of the common corruptions, in the order of Hendrycks and Dietterich (2019)."""

Kind = Literal["clean", "attack", "corruption", "other"]
_KINDS: tuple[Kind, ...] = ("clean", "attack", "corruption", "other")
FAILED = "\N{DAGGER}"
"""Marks a value whose attack failed a trust check."""
TRIED = ("segmentation", "difference", "attack")
"""Kinds of rows that tell of changed images."""

Place = tuple[str, str, tuple[int, int]]
"""Data set, split and size."""

_SEVERITY = re.compile(r"(.+)-([1-5])")


@dataclass(frozen=True, slots=True)
class Condition:
    """What was done to the images.

    Attributes:
        text: as it stands in rows.
        kind: of change.
        name: of the attack or corruption.
        told: radius or severity as it was written; empty where there is none.
        level: its value; 0 where there is none.
    """

    text: str
    kind: Kind
    name: str
    told: str = ""
    level: float = 0.0


@dataclass(frozen=True, slots=True)
class Trial:
    """Rows of one attack at all radii, or of all corruptions, on the same frames.

    Attributes:
        kind: of change.
        name: of the attack; the kind where it is none.
        place: where it was scored.
        subset: of the frames.
        images: their number.
        mark: of the frames, where another trial has as many others; else empty.
        rows: of the kinds ``segmentation``, ``difference`` and ``attack``.
        clean: ``segmentation`` rows of clean images, as many of them.
        part: whether another trial of its name and subset has more frames.
    """

    kind: Kind
    name: str
    place: Place
    subset: str
    images: int
    mark: str
    rows: tuple[Row, ...]
    clean: tuple[Row, ...]
    part: bool

    def of(self, kind: str) -> list[Row]:
        """Return the rows of one kind."""
        return [row for row in self.rows if row["kind"] == kind]

    @property
    def title(self) -> str:
        """What was done to which frames, in words."""
        name = {"corruption": "corruptions", "other": "other conditions"}.get(self.kind, self.name)
        return f"{self.scored_on}, {self.subset}: {name} on {frames_told(self.images, self.mark)}"

    @property
    def scored_on(self) -> str:
        """Data set, split and size, in words."""
        dataset, split, (height, width) = self.place
        return f"{dataset} {split}, {height} x {width}"

    @property
    def own(self) -> list[Row]:
        """The ``attack`` rows of models that are scored on images made for themselves."""
        return [row for row in self.of("attack") if row["source"] == row["model"]]

    @property
    def conditions(self) -> list[Condition]:
        """Every condition of the rows, by name and level."""
        found = {read_condition(row["condition"]) for row in self.rows}
        return sorted(found, key=_condition_order)


def read_condition(text: str) -> Condition:
    """Return what the name of a condition says; one that is not understood is of kind other."""
    if text == CLEAN:
        return Condition(text, "clean", text)
    name, at, radius = text.rpartition("@")
    if at and (level := _radius(radius)) is not None:
        return Condition(text, "attack", name, radius, level)
    severe = _SEVERITY.fullmatch(text)
    if severe and not at:
        return Condition(text, "corruption", severe[1], severe[2], float(severe[2]))
    return Condition(text, "other", text)


def is_changed(row: Row) -> bool:
    """Return whether a row is one that trials are made of."""
    return row["kind"] in TRIED and row["condition"] != CLEAN


def trials(rows: Iterable[Row]) -> list[Trial]:
    """Return the rows on changed images, gathered; the order of the rows has no effect."""
    rows = list(rows)
    found: dict[tuple[Kind, str, Place, str, int, str], list[Row]] = {}
    clean: dict[tuple[Place, str, int], list[Row]] = {}
    for row in (
        r for kind in ("segmentation", "difference", "attack") for r in ordered(rows, kind)
    ):
        condition = read_condition(row["condition"])
        where = (ground_of(row)[:3], row["subset"], row["images"])
        if condition.kind != "clean":
            name = condition.name if condition.kind == "attack" else condition.kind
            found.setdefault((condition.kind, name, *where, mark_of(row)), []).append(row)
        elif row["kind"] == "segmentation":
            clean.setdefault(where, []).append(row)
    most: dict[tuple[Kind, str, Place, str], int] = {}
    for key in found:
        most[key[:4]] = max(key[4], most.get(key[:4], 0))
    alike = Counter(key[:5] for key in found)
    made = [
        Trial(
            *key[:5],
            mark=key[5] if alike[key[:5]] > 1 else "",
            rows=tuple(of_trial),
            clean=tuple(clean.get(key[2:5], ())),
            part=key[4] < most[key[:4]],
        )
        for key, of_trial in found.items()
    ]
    return sorted(made, key=_trial_order)


def mark_of(row: Row) -> str:
    """Return the mark of the frames that a row is of; empty where it has none."""
    return str(row.get(FRAMES, ""))


def frames_told(images: int, mark: str = "") -> str:
    """Write a number of frames, with their mark where it takes one to tell them."""
    return f"{images} frame{'' if images == 1 else 's'}" + (f" ({mark})" if mark else "")


def on_whole(row: Row) -> bool:
    """Return whether the attack of an ``attack`` row goes through all parts of its model."""
    return ":" not in row["attack"] and row["attack_settings"].get("through", "all") == "all"


def is_published(row: Row) -> bool:
    """Return whether the attack of an ``attack`` row is as the original ran it."""
    return "published" in f"{row['attack']} {row['attack_settings'].get('kind', '')}"


def failed_checks(rows: Iterable[Row]) -> list[str]:
    """Return the names of the trust checks that failed in any of some ``attack`` rows."""
    names = {
        name for row in rows for name, holds in (row["checks"] or {}).items() if holds is False
    }
    return sorted(names)


def rests_on_failed(rows: Iterable[Row], attacks: Iterable[Row]) -> bool:
    """Return whether a trust check failed of an attack behind any of some ``difference`` rows.

    Args:
        rows: the differences.
        attacks: ``attack`` rows on the same frames, each model attacked by itself.
    """
    failed: dict[tuple[str, str], dict[int | None, bool]] = {}  # by seed
    for row in attacks:
        of_model = failed.setdefault((row["model"], row["condition"]), {})
        of_model[row["seed"]] = of_model.get(row["seed"], False) or bool(failed_checks([row]))

    def rests(row: Row, who: str) -> bool:
        of_model = failed.get((row[who], row["condition"]), {})
        # the seed is the mixture's; what it is compared with may have another
        return of_model.get(row["seed"], any(of_model.values()))

    return any(rests(row, who) for row in rows for who in ("model", "minus"))


def by_level(conditions: Iterable[Condition]) -> list[Condition]:
    """Return conditions by radius or severity, lowest first."""
    return sorted(conditions, key=lambda one: (one.level, one.text))


def corruption_order(name: str) -> tuple[int, str]:
    """Sort the common corruptions as published, others behind them by name."""
    return (CORRUPTIONS.index(name) if name in CORRUPTIONS else len(CORRUPTIONS)), name


def _radius(text: str) -> float | None:
    number, slash, below = text.partition("/")
    try:
        return float(number) / (float(below) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        return None


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort by: numbers within a name by their value."""
    pieces = re.findall(r"\d+|\D+", name)
    return tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in pieces)


def _condition_order(one: Condition) -> tuple[object, ...]:
    name = corruption_order(one.name) if one.kind == "corruption" else (0, "")
    return _KINDS.index(one.kind), name, _natural(one.name), one.level, one.text


def _trial_order(one: Trial) -> tuple[object, ...]:
    kind = _KINDS.index(one.kind)
    return one.place, subset_order(one.subset), kind, _natural(one.name), -one.images, one.mark
