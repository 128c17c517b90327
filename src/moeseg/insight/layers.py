"""Pictures of a few chosen frames on disk: what the report's explorer and the sheets are made of.

A folder per condition: `index.json`, and for each frame photo, label and every model's class ids as
PNG. Agreement, errors and winners are derived from these by who shows them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moeseg.data import SegmentationDataset, Taxonomy, read_rgb, read_single, write_png
from moeseg.errors import DataError, MoesegError, UsageError
from moeseg.evaluation.runner import run_models
from moeseg.evaluation.sheet import Colour, photo
from moeseg.files import remove, replacing, write_text
from moeseg.insight.agreement import agreement_mask, disagreement
from moeseg.insight.detectors import softmax_scores
from moeseg.insight.overlay import FrameView, Scheme, frame_sheet
from moeseg.insight.routing import frame_mious, routing_entropy
from moeseg.metrics import confusion_per_image
from moeseg.models import Expert, Mixture, Model
from moeseg.types import Frame, Prediction, Row

INDEX = "index.json"


def choose_frames(
    frames: Sequence[Frame], count: int, disagreement: Mapping[str, float]
) -> tuple[Frame, ...]:
    """Choose frames of each subset to look at: half where experts disagree most, half at random.

    "At random" is evenly spaced over those that are left, which shows what is usual; the same
    arguments give the same frames.

    Args:
        frames: of any number of subsets.
        count: frames of each subset, fewer where it has not as many; of an odd number the larger
            half is chosen by disagreement.
        disagreement: of frames, by key (`frames.csv` of a mixture has it); a frame that is not
            there, or any if it is empty, is only taken by place.

    Returns:
        The chosen frames in the order given.
    """
    chosen: set[str] = set()
    for subset in dict.fromkeys(frame.subset for frame in frames):
        own = [frame for frame in frames if frame.subset == subset]
        scored = [frame for frame in own if frame.key in disagreement]
        scored.sort(key=lambda frame: -disagreement[frame.key])  # stable: by place where equal
        chosen |= {frame.key for frame in scored[: -(-count // 2)]}
        left = [frame for frame in own if frame.key not in chosen]
        more = min(len(left), count - (len(own) - len(left)))
        chosen |= {left[(2 * i + 1) * len(left) // (2 * more)].key for i in range(more)}
    return tuple(frame for frame in frames if frame.key in chosen)


def write_layers(
    models: Mapping[str, Model],
    data: SegmentationDataset,
    folder: Path,
    *,
    taxonomy: Taxonomy,
    dataset: str,
    condition: str = "clean",
    labelled: bool = True,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
) -> None:
    """Predict chosen frames with all models and write what there is to look at.

    Args:
        models: by name, in the table's order, the experts of mixtures and ensembles among them:
            without all of its experts a model has its mask shown, but no agreement.
        data: the chosen frames, at the size of scoring.
        folder: replaced as a whole once everything is written; e.g. ``layers/clean``.
        taxonomy: of the ids.
        dataset: its name.
        condition: of the images.
        labelled: False writes no label and no mIoU.
        batch_size: frames of one forward pass.
        device: where models run.

    Raises:
        UsageError: no frames, or a model's name is taken by the photo or the label.
        MoesegError: a frame can't be read, or the disk does not take it; nothing is replaced.
    """
    if not data.frames:
        raise UsageError("layers: expected at least one frame to show, got none.")
    if taken := {"photo", "label"} & models.keys():
        raise UsageError(f"expected models not called {' or '.join(taken)}; rename the folder.")
    unfinished = folder.with_name(f".{folder.name}.part")
    dirs = {frame.key: f"{place:04d}" for place, frame in enumerate(data.frames, start=1)}
    experts = {id(m): name for name, m in models.items() if isinstance(m, Expert)}
    shown = {
        name: tuple(experts[id(e)] for e in model.experts)
        for name, model in models.items()
        if len(model.experts) > 1 and all(id(e) in experts for e in model.experts)
    }
    gated = [name for name in shown if isinstance(models[name], Mixture)]
    try:
        remove(unfinished)
        height = width = 0
        for number in range(len(data)):
            image, label, key = data[number]
            height, width = int(image.shape[1]), int(image.shape[2])
            write_png(unfinished / dirs[key] / "photo.png", photo(image))
            if labelled:
                write_png(unfinished / dirs[key] / "label.png", label.numpy())
        layers = {
            name: _Layer(name, unfinished, dirs, needs_experts=name in shown, labelled=labelled)
            for name in models
        }
        run_models(
            models,
            data,
            {name: [layer] for name, layer in layers.items()},
            batch_size=batch_size,
            device=device,
        )
        colours = [entry["colours"][0] for entry in taxonomy.to_json()["classes"]]
        index = {
            "condition": condition,
            "dataset": dataset,
            "size": [height, width],
            "classes": list(taxonomy.classes),
            "colours": colours,
            "models": list(models),
            "mixtures": {
                name: {"experts": list(shown[name]), "columns": layers[name].columns}
                for name in gated
            },
            "ensembles": {
                name: {"experts": list(own)} for name, own in shown.items() if name not in gated
            },
            "frames": [
                {
                    "key": frame.key,
                    "subset": frame.subset,
                    "dir": dirs[frame.key],
                    "scores": {name: layers[name].scores[frame.key] for name in shown},
                    "weights": {name: layers[name].weights[frame.key] for name in gated},
                    "miou": {name: layer.miou.get(frame.key) for name, layer in layers.items()},
                }
                for frame in data.frames
            ],
        }
        write_text(unfinished / INDEX, json.dumps(index, ensure_ascii=False, indent=1) + "\n")
        _put(unfinished, folder)
    finally:
        remove(unfinished)


def write_sheets(
    layers: Path, mixture: str, out: Path, *, scheme: Scheme = "safe"
) -> list[tuple[str, Path]]:
    """Draw a sheet of each frame: photo, label, masks, agreement, errors, winners, gate weights.

    Args:
        layers: what `write_layers` wrote.
        mixture: name of the mixture or ensemble whose view is drawn.
        out: folder for `<dir>_<key>.png`; other files there are left alone.
        scheme: of the colours of agreement and experts.

    Returns:
        Key and file of each frame.

    Raises:
        DataError: layers are missing or not as written.
    """
    try:
        index = json.loads((layers / INDEX).read_text(encoding="utf-8"))
        experts = tuple((index["mixtures"] | index["ensembles"])[mixture]["experts"])
        classes, colours = index["classes"], [_rgb(colour) for colour in index["colours"]]
        sheets = []
        for frame in index["frames"]:
            view = _view(layers / frame["dir"], frame, mixture, experts)
            sheet = frame_sheet(view, classes, colours, scheme=scheme)
            path = out / f"{frame['dir']}_{_file_name(frame['key'])}.png"
            with replacing(path) as unfinished:
                sheet.save(unfinished, format="PNG")
            sheets.append((frame["key"], path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{layers}: expected layers of {mixture!r} as moeseg writes them, got "
            f"{type(error).__name__}: {error}. Write them again."
        ) from error
    return sheets


@dataclass
class _Layer:
    """Collects what is shown of one model: masks on disk, a few numbers of each frame in memory."""

    model: str
    folder: Path
    dirs: Mapping[str, str]
    needs_experts: bool
    labelled: bool
    columns: int = 1
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    weights: dict[str, list[list[float]]] = field(default_factory=dict)
    miou: dict[str, float | None] = field(default_factory=dict)

    def update(self, prediction: Prediction, label: Tensor, keys: Sequence[str]) -> None:
        assert prediction.ids is not None
        ids, weights = prediction.ids, prediction.weights
        classes = int(prediction.logits.shape[1])
        mious = [float("nan")] * len(keys)
        if self.labelled:
            confusions = confusion_per_image(ids, label, classes)  # (B, C, C)
            mious = frame_mious(confusions[:, None])[:, 0].tolist()
        for number, key in enumerate(keys):
            mask = ids[number].to(torch.uint8).cpu().numpy()
            write_png(self.folder / self.dirs[key] / f"{self.model}.png", mask)
            self.miou[key] = None if np.isnan(mious[number]) else round(mious[number], 6)
        if self.needs_experts:
            assert prediction.expert_ids is not None
            agree = agreement_mask(ids, prediction.expert_ids)
            unlike = disagreement(agree, int(prediction.expert_ids.shape[1]))
            for number, key in enumerate(keys):
                rows, columns = prediction.inside(number)
                logits = prediction.logits[number][:, rows, columns]
                values = {
                    "disagreement": unlike[number][rows, columns].double().mean(),
                    "entropy": softmax_scores(logits)[1].double().mean(),
                }
                if weights is not None:
                    self.columns = int(weights.shape[2])
                    own = weights[number].tolist()
                    self.weights[key] = [[round(w, 6) for w in row] for row in own]
                    values["gate_uncertainty"] = routing_entropy(weights)[number].mean()
                self.scores[key] = {name: round(float(v), 6) for name, v in values.items()}

    def reset(self) -> None:
        """Nothing: a frame that comes again takes its place."""

    def sync(self) -> None:
        """Nothing: one process writes."""

    def rows(self) -> list[Row]:
        return []


def condition_folder(condition: str) -> str:
    """Return the name of the folder in which the layers of a condition lie."""
    return re.sub(r"[^\w.@-]", "_", condition.replace("/", "-"))


def _put(unfinished: Path, folder: Path) -> None:
    try:
        remove(folder)
        unfinished.rename(folder)
    except OSError as error:
        raise MoesegError(
            f"cannot write {folder}: {error.strerror or error}; choose another folder"
        ) from error


def _view(
    folder: Path, frame: Mapping[str, Any], mixture: str, experts: tuple[str, ...]
) -> FrameView:
    label = folder / "label.png"
    scores = frame["scores"][mixture]
    return FrameView(
        head=(
            *((frame["subset"],) if frame["subset"] else ()),
            frame["key"],
            *(f"{name.replace('_', ' ')} {value:.3f}" for name, value in scores.items()),
            *(
                f"mIoU {100 * value:.1f} % {name}"
                for name, value in frame["miou"].items()
                if value is not None and name in (mixture, *experts)
            ),
        ),
        photo=read_rgb(folder / "photo.png"),
        label=read_single(label) if label.exists() else None,
        model=mixture,
        ids=read_single(folder / f"{mixture}.png"),
        experts=experts,
        expert_ids=np.stack([read_single(folder / f"{name}.png") for name in experts]),
        weights=np.array(frame["weights"][mixture]) if mixture in frame["weights"] else None,
    )


def _file_name(key: str) -> str:
    """Return a key as part of a file's name, on any system."""
    key = re.sub(r"\.(png|jpe?g)$", "", key, flags=re.IGNORECASE)
    return "".join(sign if sign.isalnum() or sign in "-." else "_" for sign in key)[-80:]


def _rgb(colour: str) -> Colour:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
