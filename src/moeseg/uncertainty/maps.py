"""Maps of doubt: the frames that insight keeps to look at, each with scores of some models as PNG.

A folder per condition: `index.json`, and for each frame and model one 8-bit picture a score, 255
for 1. The report's explorer shows them in ten steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moeseg.data import SegmentationDataset, write_png
from moeseg.evaluation.collectors import members_of
from moeseg.evaluation.runner import run_models
from moeseg.files import remove, write_text
from moeseg.insight.layers import INDEX
from moeseg.models import Model
from moeseg.types import Prediction, Row
from moeseg.uncertainty.scores import uncertainty

_SCORES = ("entropy", "mutual-information")


def kept_frames(layers: Path) -> dict[str, str]:
    """Return the frames that insight kept, key -> folder, from its `layers/<condition>`."""
    index = json.loads((layers / INDEX).read_text(encoding="utf-8"))
    return {frame["key"]: frame["dir"] for frame in index["frames"]}


def write_maps(
    models: Mapping[str, Model],
    data: SegmentationDataset,
    folder: Path,
    dirs: Mapping[str, str],
    *,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
) -> None:
    """Write entropy and, of models with members, mutual information of every frame of `data`.

    Args:
        models: by name.
        data: the frames, at the size of scoring.
        folder: replaced as a whole once everything is written.
        dirs: folder of each frame in `folder`, by key.
        batch_size: frames of one forward pass.
        device: where models run.

    Raises:
        MoesegError: the disk does not take it.
    """
    unfinished = folder.with_name(f".{folder.name}.part")
    try:
        remove(unfinished)
        maps = {
            name: _Maps(name, _SCORES[: 1 + (members_of(model) > 1)], unfinished, dirs)
            for name, model in models.items()
        }
        run_models(
            models,
            data,
            {name: [one] for name, one in maps.items()},
            batch_size=batch_size,
            device=device,
        )
        index = {"maps": {name: list(one.scores) for name, one in maps.items()}, "frames": dirs}
        write_text(unfinished / INDEX, json.dumps(index, ensure_ascii=False, indent=1) + "\n")
        remove(folder)
        unfinished.rename(folder)
    finally:
        remove(unfinished)


class _Maps:
    """Writes the maps of one model as its predictions come."""

    needs_experts = False

    def __init__(
        self, model: str, scores: Sequence[str], folder: Path, dirs: Mapping[str, str]
    ) -> None:
        self.model = model
        self.scores = tuple(scores)
        self.folder = folder
        self.dirs = dirs
        self.needs_expert_logits = len(self.scores) > 1

    def update(self, prediction: Prediction, label: Tensor, keys: Sequence[str]) -> None:
        for score in self.scores:
            found = uncertainty(prediction, score).mul(255).round().to(torch.uint8).cpu()
            for one, key in zip(found, keys, strict=True):
                path = self.folder / self.dirs[key] / f"{self.model}.{score}.png"
                write_png(path, np.asarray(one))

    def reset(self) -> None:
        """Nothing: a frame that comes again takes its place."""

    def sync(self) -> None:
        """Nothing: one process writes."""

    def rows(self) -> list[Row]:
        return []
