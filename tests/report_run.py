"""A run's folder as a finished study leaves it, made by hand in milliseconds.

Names hold what a page must escape. Ids of each pixel are known, so that the page's readout can be
compared with them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from moeseg.evaluation.rows import write_rows
from moeseg.types import Row
from tiny import study_settings

CLASSES = ("Straße", "<b>Himmel</b>", 'Auto "alt" & neu', "</script><script>alert(1)</script>")
COLOURS = ("#804080", "#87ceff", "#ff0000", "#00aa00")
EXPERTS = ("expert-day", "expert-dusk")
MIXTURES = {"moe-simple": 1, "moe-classwise": len(CLASSES)}
MODELS = ("baseline", *EXPERTS, "ensemble-mean", *MIXTURES)
SUBSETS = ("day", "Küste & <Meer>", "day+Küste & <Meer>")
SIZE = (12, 16)
MIOU = {"baseline": 0.5, "expert-day": 0.4, "expert-dusk": 0.1, "ensemble-mean": 0.3,
        "moe-simple": 0.45, "moe-classwise": 0.6}  # fmt: skip
WINS = {"moe-simple": "loses", "moe-classwise": "wins"}
SCORES = ("disagreement", "max-probability", "entropy", "gate-margin")


def base(kind: str, model: str, subset: str, condition: str = "clean") -> Row:
    """Return the keys that every row has."""
    return {
        "kind": kind, "model": model, "subset": subset, "condition": condition, "split": "test",
        "dataset": "tiny", "size": list(SIZE), "architecture": "tiny", "images": 3, "seed": 0,
        "settings": {}, "fingerprint": "0" * 16,
    }  # fmt: skip


def around(value: float, width: float = 0.02) -> dict[str, Any]:
    """Return the interval keys of a row."""
    return {"ci95": [value - width, value + width], "ci_unit": "sequence", "ci_units": 8}


def segmentation(model: str, subset: str, condition: str = "clean") -> Row:
    miou = MIOU[model] * (0.5 if condition != "clean" else 1.0)
    ious = [min(1.0, miou + 0.1 * number) for number in range(len(CLASSES) - 1)]
    return base("segmentation", model, subset, condition) | {
        "miou": miou, "miou_union": miou, "pixel_accuracy": 0.8, "class_accuracy": 0.7,
        "fw_iou": 0.6, "per_class_iou": dict(zip(CLASSES, [*ious, None], strict=True)),
        "per_class_pixels": dict(zip(CLASSES, (500, 900, 70, 0), strict=True)),
        "classes_used": 3, **around(miou),
    }  # fmt: skip


def difference(model: str, minus: str, subset: str) -> Row:
    gap = MIOU[model] - MIOU[minus]
    told = around(gap) | {"wins": gap > 0.02}
    return base("difference", model, subset) | {"minus": minus, "difference": gap} | told


def agreement(model: str, subset: str) -> list[Row]:
    """Return four rows: of 1000 pixels, 700 unanimous, 150 and 100 follow one, 50 overrule."""
    rows = []
    parts = {"unanimous": (700, 0.9), "follows day": (150, 0.6), "follows dusk": (100, 0.5),
             "overrules": (50, 0.2)}  # fmt: skip
    for category, (pixels, right) in parts.items():
        share = pixels / 1000
        of_class = dict(zip(CLASSES, (share, share, 0.25, None), strict=True))
        interval = around(share)
        rows.append(
            base("agreement", model, subset)
            | {
                "category": category,
                "pixels": pixels,
                "share": share,
                "labelled": pixels,
                "right": right,
                "per_class_share": of_class,
                "per_class_right": dict.fromkeys(CLASSES, right) | {CLASSES[3]: None},
                "right_ci95": [right - 0.1, right + 0.1],
                **interval,
            }
        )
    return rows


def detector(model: str, subset: str, score: str, task: str) -> Row:
    strength = 1 + SCORES.index(score)
    xs = np.linspace(0, 1, 101)
    roc = [[round(float(x), 4) for x in xs], [round(float(x ** (1 / strength)), 4) for x in xs]]
    auroc = strength / (strength + 1)
    risk = [None, *(round(0.3 * float(x) ** strength, 4) for x in xs[1:])]
    return base("detector", model, subset) | {
        "score": score, "task": task, "positives": 0.2, "auroc": auroc, "aupr": 0.4, "fpr95": 0.5,
        "aurc": 0.1, "error_bound": 1e-5, "aurc_ci95": [0.08, 0.12],
        "aupr_ci95": [0.3, 0.5], "fpr95_ci95": [0.1, 0.4], "risk": risk, "roc": roc,
        **around(auroc),
    }  # fmt: skip


def routing(model: str, subset: str) -> Row:
    classwise = MIXTURES[model] > 1
    weights = {"day": 0.75, "dusk": 0.25}
    collapsed: str | bool | None = "one expert" if model == "moe-simple" else False
    if "+" not in subset:
        collapsed = None  # one subset alone does not judge a gate
    counts = [0] * 20
    counts[14] = 3
    return base("routing", model, subset) | {
        "experts": list(weights), "columns": MIXTURES[model], "mean_weights": weights,
        "class_weights": dict.fromkeys(CLASSES, weights) if classwise else None,
        "histogram": {"day": counts, "dusk": counts[::-1]}, "entropy": 0.8,
        "concentration": 1.0 if model == "moe-simple" else 0.7, "collapsed": collapsed,
        "prefers_better": 0.75, "frames_compared": 3, "oracle_lost": 0.05,
        "subset_accuracy": 0.6 if "+" in subset else None, **around(0.75),
    }  # fmt: skip


def rows() -> list[Row]:
    """Return rows of every kind, one condition more than clean, and a kind of the future."""
    made = [segmentation(model, subset) for model in MODELS for subset in SUBSETS]
    made += [segmentation(model, SUBSETS[0], "pgd@4/255") for model in MODELS]
    for mixture in MIXTURES:
        for subset in SUBSETS:
            for minus in ("expert-day", "baseline", "ensemble-mean"):
                made.append(difference(mixture, minus, subset))
            made += agreement(mixture, subset)
            made += [detector(mixture, subset, score, "wrong-pixels") for score in SCORES]
            made.append(routing(mixture, subset))
        made += [detector(mixture, SUBSETS[1], score, "unseen-frames") for score in SCORES]
    return [*made, base("calibration <x>", "moe-simple", SUBSETS[0]) | {"ece": 0.1}]


def ids_of(frame: int, layer: str) -> NDArray[np.uint8]:
    """Return the (H, W) ids that a layer of a frame holds."""
    columns, lines = np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]))
    label = ((columns // 4 + frame) % len(CLASSES)).astype(np.uint8)
    if layer == "label":
        return np.where(lines == 0, np.uint8(255), label)
    shift = {"expert-day": lines < 3, "expert-dusk": lines < 6}.get(layer, lines < 2)
    return np.where(shift, (label + 1) % len(CLASSES), label).astype(np.uint8)


def write_layers(folder: Path, condition: str = "clean", frames: int = 4) -> Path:
    """Write index and pictures of one condition; frames take turns between two subsets."""
    place = folder / "insight" / "layers" / condition
    listed = []
    for number in range(frames):
        here = place / f"{number:04d}"
        here.mkdir(parents=True)
        photo = np.full((*SIZE, 3), 40 * number + 30, np.uint8)
        photo[:, :8] = 200
        Image.fromarray(photo).save(here / "photo.png")
        for layer in ("label", *MODELS):
            Image.fromarray(ids_of(number, layer)).save(here / f"{layer}.png")
        score = (number + 1) / 10
        of_frame = {"disagreement": score, "entropy": 1 - score, "gate_uncertainty": 0.5}
        weights = {m: [[0.7 - score] * k, [0.3 + score] * k] for m, k in MIXTURES.items()}
        listed.append(
            {
                "key": f"drive <{number % 2}>/{number:03d}",
                "subset": SUBSETS[number % 2],
                "dir": here.name,
                "scores": dict.fromkeys(MIXTURES, of_frame),
                "weights": weights,
                "miou": MIOU,
            }
        )
    mixtures = {name: {"experts": EXPERTS, "columns": k} for name, k in MIXTURES.items()}
    index = {
        "condition": condition, "dataset": "tiny", "size": SIZE, "classes": CLASSES,
        "colours": COLOURS, "models": MODELS, "mixtures": mixtures, "frames": listed,
    }  # fmt: skip
    (place / "index.json").write_text(json.dumps(index), encoding="utf-8")
    return place


def write_run(folder: Path) -> Path:
    """Write a complete run and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "results.jsonl", rows())
    settings = study_settings(folder, folder)
    settings["mixtures"] = {
        "moe-simple": {"gate": "simple"},
        "moe-classwise": {"gate": "classwise"},
    }
    settings["ensembles"] = ["mean"]
    (folder / "study.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    write_layers(folder)
    return folder
