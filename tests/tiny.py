"""A network and a data set small enough to train in a test; real files, real gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from moeseg.models import Expert, build_expert, resize
from moeseg.types import Features

CLASSES = {"road": "#804080", "sky": "#87ceff", "car": "#ff0000"}
SIZE = (24, 32)


class TinyExpert(Expert):
    """Two convolutions: gate features at stride 8, logits at stride 2, BatchNorm and dropout."""

    def __init__(self, num_classes: int = 3, width: int = 6) -> None:
        super().__init__(num_classes=num_classes, gate_channels=width, stride=8)
        self.first = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.1)
        )
        self.deep = nn.Sequential(nn.Conv2d(width, width, 3, 4, 1), nn.BatchNorm2d(width))
        self.classifier = nn.Conv2d(2 * width, num_classes, 1)

    def features(self, images: Tensor) -> Features:
        low = self.first(images)
        deep = self.deep(low)
        return Features(deep, (low, deep), (int(images.shape[2]), int(images.shape[3])))

    def decode(self, features: Features) -> Tensor:
        low, deep = features.decoder
        wide = resize(deep, (int(low.shape[2]), int(low.shape[3])))
        logits: Tensor = self.classifier(torch.cat([low, wide], 1))
        return logits


def tiny_expert(seed: int = 0, **arguments: object) -> Expert:
    """Return a tiny expert in eval mode with BatchNorm statistics that are not the initial ones."""
    torch.manual_seed(seed)
    expert = build_expert({"name": "tiny:TinyExpert", **arguments})
    expert.train()
    expert(torch.rand(4, 3, *SIZE))
    return expert.eval()


def draw_scene(rng: np.random.Generator, dusk: bool) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return photo and label colours (H, W, 3) of sky over road with a car on it."""
    height, width = SIZE
    ids = np.zeros((height, width), np.uint8)
    ids[: rng.integers(8, 14)] = 1
    x, y = int(rng.integers(0, width - 8)), int(rng.integers(12, height - 6))
    ids[y : y + 5, x : x + 8] = 2
    look = np.array([[90, 90, 90], [150, 190, 240], [200, 40, 40]]) * (0.5 if dusk else 1.0)
    photo = look[ids] + rng.normal(0, 12, (height, width, 3))
    colours = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in CLASSES.values()])
    return photo.clip(0, 255).astype(np.uint8), colours[ids].astype(np.uint8)


def write_data(folder: Path, frames: int = 4, sequences: int = 2) -> Path:
    """Write photos, labels, taxonomy and manifest of subsets `day` and `dusk`; return the CSV."""
    rng = np.random.default_rng(0)
    lines = ["image,label,subset,split,sequence"]
    for subset in ("day", "dusk"):
        for split in ("train", "val", "test"):
            for s in range(sequences):
                for i in range(frames if split == "train" else 2):
                    name = f"{subset}-{split}-{s}-{i:02d}"
                    photo, label = draw_scene(rng, dusk=subset == "dusk")
                    for kind, pixels in (("images", photo), ("labels", label)):
                        (folder / kind).mkdir(parents=True, exist_ok=True)
                        Image.fromarray(pixels).save(folder / kind / f"{name}.png")
                    lines.append(
                        f"images/{name}.png,labels/{name}.png,{subset},{split},{subset}-{split}-{s}"
                    )
    taxonomy = {
        "name": "tiny-3",
        "classes": [{"name": name, "colours": [colour]} for name, colour in CLASSES.items()],
    }
    (folder / "taxonomy.yaml").write_text(yaml.safe_dump(taxonomy))
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder / "manifest.csv"


def study_settings(folder: Path, out: Path) -> dict[str, Any]:
    """Return the settings of a study over `write_data`'s files that trains in seconds."""
    return {
        "name": "tiny",
        "out": str(out),
        "data": {
            "reader": "manifest",
            "root": str(folder / "manifest.csv"),
            "taxonomy": str(folder / "taxonomy.yaml"),
            "size": list(SIZE),
            "workers": 0,
        },
        "architecture": {"name": "tiny:TinyExpert"},
        "training": {
            "epochs": 2,
            "batch_size": 4,
            "optimizer": {"name": "adam", "lr": 0.01},
            "accelerator": "cpu",
        },
        "experts": {"day": {}, "dusk": {}},
        "mixtures": {
            "moe-simple": {"gate": "simple"},
            "moe-classwise-conv": {"gate": "classwise", "conv": True},
        },
        "gate": {"epochs": 2, "batch_size": 4, "pixels": 64},
        "eval": {"batch_size": 4, "sheet": 1},
    }


def write_study(folder: Path, out: Path, **changes: object) -> Path:
    """Write data and a study file; return the file."""
    write_data(folder)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study_settings(folder, out) | changes, sort_keys=False))
    return path
