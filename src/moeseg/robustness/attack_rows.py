"""Rows of a sweep, made from the counts that it left: scores, differences, what attacks did.

A model attacked by itself gets rows of kind ``segmentation`` and ``difference``, like clean ones
under another condition, and one of kind ``attack``; scored on images made for another model, only
the latter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeseg.evaluation.collectors import SegmentationCollector, difference_rows
from moeseg.evaluation.intervals import Blocks, miou_interval
from moeseg.evaluation.rows import FRAMES, validate_row
from moeseg.files import fingerprint
from moeseg.metrics import scores
from moeseg.models import Model, referenced_experts
from moeseg.robustness.checks import Checked, Climb, check_all
from moeseg.robustness.counts import read_counts
from moeseg.robustness.sweep import Unit, parts_of, path_of, read_clean
from moeseg.robustness.worst import worst_case
from moeseg.types import Frame, Row, single_subsets

Names = tuple[str, ...]


@dataclass(frozen=True)
class Stand:
    """What the rows of a sweep share.

    Attributes:
        frames: the N attacked frames, in the order of the counts.
        classes: C class names, in id order.
        subsets: subsets and joins that get rows.
        bases: the keys that all rows of a model share, by its name; see `rows.BASE_KEYS`.
        experts: names of each model's experts, by the model's name.
        members: how many each model joins, by its name; see `collectors.members_of`.
    """

    frames: tuple[Frame, ...]
    classes: tuple[str, ...]
    subsets: tuple[str, ...]
    bases: Mapping[str, Row]
    experts: Mapping[str, Names]
    members: Mapping[str, int]


@dataclass(frozen=True)
class Outcome:
    """One attack on one source, its worst case chosen frame by frame.

    Attributes:
        unit: the attack.
        targets: (N, C, C) counts by model name.
        notes: what `craft.Crafter` noted, (N, ...) each.
        settings: of the attack as it was run.
    """

    unit: Unit
    targets: Mapping[str, Tensor]
    notes: Mapping[str, Tensor]
    settings: Mapping[str, Any]


def read_outcome(folder: Path, unit: Unit, inside: NDArray[np.bool_]) -> Outcome:
    """Read all parts of a unit and choose the worst for its source, frame by frame.

    Args:
        folder: of the counts.
        unit: the attack.
        inside: (N,) the frames whose mIoU is to be least; what is chosen for others says nothing.
    """
    parts = [read_counts(path_of(folder, part)) for part in parts_of(unit)]
    if len(parts) == 1:
        return Outcome(unit, parts[0].targets, parts[0].notes, parts[0].settings)
    counts = torch.stack([part.targets[unit.source] for part in parts])  # (A, N, C, C)
    choice = np.zeros(len(inside), np.int64)
    choice[inside] = worst_case(counts[:, torch.from_numpy(inside)])

    def chosen(values: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(values))[choice, np.arange(len(choice))]  # (A, N, ...) -> (N, ...)

    return Outcome(
        unit,
        {name: chosen([part.targets[name] for part in parts]) for name in parts[0].targets},
        {name: chosen([part.notes[name] for part in parts]) for name in parts[0].notes},
        {**parts[0].settings, "kind": unit.attack.kind},
    )


def sweep_rows(units: Sequence[Unit], folder: Path, stand: Stand) -> list[Row]:
    """Return all rows of a finished sweep.

    Args:
        units: of the sweep.
        folder: where `sweep.run_sweep` left their counts, and those of clean frames.
        stand: what the rows share.
    """
    every = [_alone(stand, subset) for subset in stand.subsets]
    return [row for alone in every for row in _subset_rows(units, folder, alone)]


def _alone(stand: Stand, subset: str) -> Stand:
    """Return what the rows of one subset share, the mark of its frames among it."""
    inside = _frames_of(subset, stand)
    keys = sorted(f.key for f, held in zip(stand.frames, inside, strict=True) if held)
    mark = {FRAMES: fingerprint(keys)[:8]}
    bases = {name: base | mark for name, base in stand.bases.items()}
    return replace(stand, subsets=(subset,), bases=bases)


def _subset_rows(units: Sequence[Unit], folder: Path, stand: Stand) -> list[Row]:
    """Return the rows of a sweep on one subset, its worst cases chosen there."""
    (subset,) = stand.subsets
    inside = _frames_of(subset, stand)
    outcomes = [read_outcome(folder, unit, inside) for unit in units]
    checked = [one for outcome in outcomes for one in _checked(outcome, stand)]
    plain = {**read_clean(folder), **{o.unit.source: o.notes["clean"] for o in outcomes}}
    clean = {name: _scored(name, counts, "clean", stand) for name, counts in plain.items()}
    rows: list[Row] = []
    for condition in dict.fromkeys(unit.condition for unit in units):
        own = {
            one.target: one.scored
            for one in checked
            if one.source == one.target and one.scored.base["condition"] == condition
        }
        rows += [row for scored in own.values() for row in scored.rows()]
        rows += difference_rows(own, stand.members)
    by_unit = {(o.unit.source, o.unit.condition): o for o in outcomes}
    for one in checked:
        outcome = by_unit[one.source, str(one.scored.base["condition"])]
        rows.append(_attack_row(one, outcome, checked, clean[one.target], subset, stand))
    return rows


def _checked(outcome: Outcome, stand: Stand) -> list[Checked]:
    unit = outcome.unit
    found = []
    for target, counts in outcome.targets.items():
        scored = _scored(target, counts, unit.condition, stand)
        climb = _climb(outcome.notes) if target == unit.source else None
        found.append(Checked(unit.source, target, unit.attack, unit.epsilon, scored, climb))
    return found


def _climb(notes: Mapping[str, Tensor]) -> Climb:
    labelled = notes["clean"].sum((1, 2)) > 0  # (N, C, C) -> (N,)
    return Climb(notes["losses"], notes["clean_loss"], labelled.numpy())


def _scored(model: str, counts: Tensor, condition: str, stand: Stand) -> SegmentationCollector:
    base = {**stand.bases[model], "condition": condition}
    place = (stand.classes, Blocks.of(stand.frames), stand.subsets, base)
    collector = SegmentationCollector(model, *place)
    collector.count_confusions(counts, [frame.key for frame in stand.frames])
    return collector


def _attack_row(
    one: Checked,
    outcome: Outcome,
    checked: Sequence[Checked],
    clean: SegmentationCollector,
    subset: str,
    stand: Stand,
) -> Row:
    unit, notes = outcome.unit, outcome.notes
    inside = _frames_of(subset, stand)
    attacked, ci_unit = one.scored.groups(subset)
    miou = one.scored.miou(subset)
    own = one.source == one.target
    clean_miou = clean.miou(subset)
    row = one.scored.head("attack", subset) | {
        "attack": unit.name,
        "epsilon": unit.epsilon,
        "source": one.source,
        "miou": miou,
        "clean_miou": clean_miou,
        "lost": None if miou is None or clean_miou is None else clean_miou - miou,
        "ci95": miou_interval(clean.groups(subset)[0], attacked),
        "ci_unit": ci_unit,
        "ci_units": len(attacked),
        "losses": _means(one.climb, inside) if one.climb else None,
        **(_part_values(notes, inside, stand.experts[one.target], stand) if own else _NO_PARTS),
        "checks": check_all(one, checked, subset, inside),
        "attack_settings": dict(outcome.settings),
    }
    validate_row(row)
    return row


_NO_PARTS: dict[str, None] = dict.fromkeys(
    (
        *("route_moved", "route_flipped", "changed", "expert_changed", "expert_miou"),
        *("gate_held_miou", "logits_held_miou"),
    )
)


def _frames_of(subset: str, stand: Stand) -> NDArray[np.bool_]:
    parts = single_subsets(subset)
    return np.array([frame.subset in parts for frame in stand.frames])


def _means(climb: Climb, inside: NDArray[np.bool_]) -> list[float] | None:
    """Return the mean loss along the steps; None without a frame that has a labelled pixel."""
    losses = climb.losses[inside & climb.labelled]  # (N, T)
    if not len(losses):
        return None
    return [round(float(value), 5) for value in losses.double().mean(0)]  # (N, T) -> T


def _part_values(
    notes: Mapping[str, Tensor], inside: NDArray[np.bool_], experts: Sequence[str], stand: Stand
) -> dict[str, object]:
    """Return how far the route moved, which masks changed, and what each part alone would do."""
    if "moved" not in notes:
        return dict(_NO_PARTS)
    held = {name: values[inside] for name, values in notes.items()}
    pixels = int(held["clean"].sum())
    shares = held["expert_changed"].double().sum(0) / max(pixels, 1)  # (N, E) -> (E,)
    by_expert = held["expert"].long().sum(0)  # (N, E, C, C) -> (E, C, C)
    return {
        "route_moved": float(held["moved"].double().mean()),
        "route_flipped": float(held["flipped"].double().mean()),
        "changed": int(held["changed"].sum()) / max(pixels, 1),
        "expert_changed": dict(zip(experts, shares.tolist(), strict=True)),
        "expert_miou": {
            name: scores(counts).miou for name, counts in zip(experts, by_expert, strict=True)
        },
        "gate_held_miou": scores(held["gate_held"].long().sum(0)).miou,
        "logits_held_miou": scores(held["logits_held"].long().sum(0)).miou,
    }


def expert_names_of(models: Mapping[str, Model], folders: Mapping[str, Path]) -> dict[str, Names]:
    """Return what each model's experts are called: by their folders, else by their place."""
    names = {}
    for name, model in models.items():
        known = [path.name for path in referenced_experts(folders[name])]
        places = [str(place) for place in range(1, len(model.experts) + 1)]
        own = known if len(known) == len(places) else places
        names[name] = tuple(one.removeprefix("expert-") for one in own)
    return names
