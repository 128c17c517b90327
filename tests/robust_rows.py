"""Rows of attacks and corruptions as the stages write them, with numbers that could be real.

Each number is a plain formula of its model, attack, radius and subset, so that a test can work it
out again.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from moeseg.evaluation.changes import CORRUPTIONS
from moeseg.evaluation.rows import validate_row, write_rows
from moeseg.types import Row

CLEAN = {
    "baseline": 0.42,
    "expert-urban": 0.38,
    "ensemble-mean-probability": 0.41,
    "moe-simple-conv": 0.44,
    "moe-classwise-conv": 0.46,
}
WEAKNESS = dict(zip(CLEAN, (0.9, 1.0, 0.7, 0.6, 0.8), strict=True))
EXPERTS = ("highway", "urban")
SUBSETS = {"highway": 0.9, "urban": 1.1, "highway+urban": 1.0}
FRAMES = {"highway": 12, "urban": 12, "highway+urban": 24}
ALL_FRAMES = {subset: 10 * number for subset, number in FRAMES.items()}
ATTACKS = {"pgd-10": 1.0, "sea-20": 1.6, "pgd-10:weights": 0.2}
RADII = {"1/255": 1 / 255, "2/255": 2 / 255, "4/255": 4 / 255, "8/255": 8 / 255}
SEVERITIES = (1, 3, 5)


def base(kind: str, model: str, subset: str, condition: str, images: int) -> Row:
    """Return the keys that every row has."""
    return {
        "kind": kind, "model": model, "subset": subset, "condition": condition, "split": "test",
        "dataset": "synthetic", "size": [96, 160], "architecture": "deeplabv3plus", "seed": 0,
        "images": images, "settings": {}, "fingerprint": "0" * 16,
    }  # fmt: skip


def around(value: float, width: float = 0.02) -> dict[str, Any]:
    """Return the interval keys of a row."""
    ends = [max(value - width, -1.0), value + width]
    return {"ci95": ends, "ci_unit": "block", "ci_units": 12}


def segmentation(model: str, subset: str, condition: str, images: int, miou: float) -> Row:
    """Return the score of a model under any condition."""
    return base("segmentation", model, subset, condition, images) | {
        "miou": miou, "miou_union": miou, "pixel_accuracy": 0.8, "class_accuracy": 0.7,
        "fw_iou": 0.6, "per_class_iou": {"Road": min(1.0, 2 * miou), "Sky": miou},
        "per_class_pixels": {"Road": 900, "Sky": 500}, "classes_used": 2,
        **around(miou, min(0.02, 0.3 * miou)),
    }  # fmt: skip


def difference(model: str, minus: str, subset: str, condition: str, images: int, gap: float) -> Row:
    """Return a paired difference that is decided beyond two points."""
    return base("difference", model, subset, condition, images) | {
        "minus": minus, "difference": gap, "wins": gap > 0.02, **around(gap),
    }  # fmt: skip


def clean_miou(model: str, subset: str) -> float:
    """Return what a model has on clean frames of a subset."""
    return CLEAN[model] * SUBSETS[subset]


def attacked_miou(model: str, source: str, attack: str, radius: str, subset: str) -> float:
    """Return what an attack leaves; on another model than its own it does a quarter."""
    force = ATTACKS[attack] * WEAKNESS[model] * RADII[radius] * 255
    return clean_miou(model, subset) * math.exp(-force if source == model else -force / 4)


def checks_of(model: str, attack: str, radius: str) -> dict[str, bool | None]:
    """Return trust checks, of which two fail at one model each."""
    return {
        "budget": None,
        "radius": (model, attack, radius) != ("baseline", "pgd-10", "8/255"),
        "collapse": None,
        "white-box": True,
        "progress": (model, attack) != ("moe-simple-conv", "pgd-10:weights"),
    }


def attack_row(model: str, source: str, attack: str, radius: str, subset: str) -> Row:
    """Return what an attack did."""
    own, mixture = source == model, model.startswith("moe-")
    miou = attacked_miou(model, source, attack, radius, subset)
    clean = clean_miou(model, subset)
    level = RADII[radius] * 255
    parts = own and mixture
    shares = {"highway": min(1.0, 0.08 * level), "urban": min(1.0, 0.05 * level)}
    epsilon = RADII[radius]
    losses = [0.6 + ATTACKS[attack] * level * (1 - 0.8**step) for step in range(11)]
    return base("attack", model, subset, f"{attack}@{radius}", FRAMES[subset]) | {
        "attack": attack, "epsilon": epsilon, "source": source, "miou": miou, "clean_miou": clean,
        "lost": clean - miou, **around(clean - miou),
        "losses": losses if own else None,
        "route_moved": min(1.0, 0.06 * level) if parts else None,
        "route_flipped": min(1.0, 0.04 * level) if parts else None,
        "changed": min(1.0, 0.1 * level) if parts else None,
        "expert_changed": shares if parts else None,
        "expert_miou": dict.fromkeys(EXPERTS, 0.8 * miou) if parts else None,
        "gate_held_miou": min(1.0, 1.05 * miou) if parts else None,
        "logits_held_miou": 0.97 * clean if parts else None,
        "checks": checks_of(model, attack, radius) if own else dict.fromkeys(
            checks_of(model, attack, radius)),
        "attack_settings": {"kind": attack.split("-")[0]},
    }  # fmt: skip


def clean_rows() -> list[Row]:
    """Return scores and differences on all frames, clean."""
    made = []
    for subset, images in ALL_FRAMES.items():
        for model in CLEAN:
            made.append(segmentation(model, subset, "clean", images, clean_miou(model, subset)))
        made += _differences(
            subset, "clean", images, {model: clean_miou(model, subset) for model in CLEAN}
        )
    return made


def attack_rows() -> list[Row]:
    """Return every row of three attacks at four radii; the first attack with transfer."""
    made = []
    for attack in ATTACKS:
        models = [m for m in CLEAN if ":" not in attack or m.startswith("moe-")]
        for radius in RADII:
            for subset, images in FRAMES.items():
                told = f"{attack}@{radius}"
                left = {m: attacked_miou(m, m, attack, radius, subset) for m in models}
                made += [segmentation(m, subset, told, images, left[m]) for m in models]
                made += _differences(subset, told, images, left)
                pairs = [(m, s) for m in models for s in models if m == s or attack == "pgd-10"]
                made += [attack_row(m, s, attack, radius, subset) for m, s in pairs]
    return made


def corrupted_miou(model: str, name: str, severity: int, subset: str) -> float:
    """Return what a corruption leaves."""
    force = 0.05 + 0.02 * CORRUPTIONS.index(name)
    return clean_miou(model, subset) * math.exp(-force * WEAKNESS[model] * severity)


def corruption_rows() -> list[Row]:
    """Return every row of all corruptions at three severities."""
    made = []
    for name in CORRUPTIONS:
        for severity in SEVERITIES:
            for subset, images in ALL_FRAMES.items():
                told = f"{name}-{severity}"
                left = {m: corrupted_miou(m, name, severity, subset) for m in CLEAN}
                made += [segmentation(m, subset, told, images, left[m]) for m in CLEAN]
                made += _differences(subset, told, images, left)
    return made


def write_robust_run(folder: Path) -> Path:
    """Write the rows of a run that was attacked, and return its folder."""
    (folder / "robustness").mkdir(parents=True, exist_ok=True)
    for path, made in {
        "results.jsonl": clean_rows(),
        "robustness/attack-main.jsonl": attack_rows(),
        "robustness/corruptions.jsonl": corruption_rows(),
    }.items():
        for row in made:
            validate_row(row)
        write_rows(folder / path, made)
    return folder


def _differences(subset: str, condition: str, images: int, mious: dict[str, float]) -> list[Row]:
    return [
        difference(m, other, subset, condition, images, mious[m] - mious[other])
        for m in mious
        if m.startswith("moe-")
        for other in ("expert-urban", "baseline", "ensemble-mean-probability")
        if other in mious
    ]
