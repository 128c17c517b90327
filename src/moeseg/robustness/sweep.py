"""A sweep: attacks times radii times models, each a file of counts; what is there is not redone.

Under an initialised process group every rank attacks its share of the frames. Rows are made of the
files by `attack_rows`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moeseg import __version__
from moeseg.data import SegmentationDataset
from moeseg.errors import DataError, UsageError
from moeseg.evaluation.runner import Change, Extents, run_models
from moeseg.files import make_folder
from moeseg.models import Model, referenced_experts, weights_digest
from moeseg.progress import say
from moeseg.robustness.attacks import Attack, Perturbed, perturb
from moeseg.robustness.ball import generators_of, photo_mask
from moeseg.robustness.counts import Counts, contents_of, read_counts, write_counts
from moeseg.robustness.craft import Craft, Crafter, FrameCounts
from moeseg.robustness.ranks import agreed, wait
from moeseg.robustness.universal import apply_as_attack, load_universal, train_universal
from moeseg.run import Run, rank

UNIVERSAL_BATCH = 8
"""Frames of one step of a universal change, of which it takes one a batch: never another number."""


@dataclass(frozen=True)
class Unit:
    """One attack at one radius on one model.

    Attributes:
        source: name of the model that is attacked.
        name: of the attack, e.g. ``pgd-10``.
        attack: its settings.
        radius: epsilon as it was written, e.g. ``4/255``.
        epsilon: its value.
    """

    source: str
    name: str
    attack: Attack
    radius: str
    epsilon: float

    @property
    def condition(self) -> str:
        """Name of the condition in rows, e.g. ``pgd-10@4/255``."""
        return f"{self.name}@{self.radius}"


@dataclass(frozen=True)
class Arena:
    """What all attacks of a sweep share.

    Attributes:
        models: by name; all that may be attacked or scored.
        frames: that are attacked, at the size of scoring.
        training: frames of a training subset, for universal changes; None where there are none.
        folder: of the files.
        classes: C, their number.
        transfer: score every model on the images made for each; else only the source.
        origin: JSON-ready values that universal changes keep: data set, weights.
        seed: of random starts.
        batch_size: frames of one step of an attack on single images.
        workers: loader processes.
        device: where models run.
    """

    models: Mapping[str, Model]
    frames: SegmentationDataset
    training: SegmentationDataset | None
    folder: Path
    classes: int
    transfer: bool = False
    origin: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    batch_size: int = 8
    workers: int = 0
    device: torch.device | str = "cpu"

    @property
    def keys(self) -> tuple[str, ...]:
        """The N frames' keys."""
        return tuple(frame.key for frame in self.frames.frames)


def run_sweep(units: Sequence[Unit], arena: Arena) -> None:
    """Carry out what is not there yet; what is finished stays if a later attack fails.

    Raises:
        UsageError: two attacks of other settings have one name.
    """
    parts = list(dict.fromkeys(part for unit in units for part in parts_of(unit)))
    named: dict[Path, Attack] = {}
    for part in parts:
        if named.setdefault(path_of(arena.folder, part), part.attack) != part.attack:
            raise UsageError(
                f"{part.condition}: expected attacks of one name to have the same settings, got "
                "two; call one of them otherwise under robustness.attacks"
            )
    if rank() == 0:
        make_folder(arena.folder)  # what cannot be written must not be attacked first
    left = agreed([part for part in parts if not _is_there(part, arena)])
    for number, unit in enumerate(left, 1):
        say(f"attack {number}/{len(left)}: {unit.condition} on {unit.source}")
        counts = _carry_out(unit, arena)
        if rank() == 0:
            write_counts(path_of(arena.folder, unit), counts)
    count_clean(units, arena)


def count_clean(units: Sequence[Unit], arena: Arena) -> None:
    """Count, once for a sweep, the clean frames of models that are scored and never attacked.

    Those that are attacked have theirs among the notes of each attack.
    """
    sources = {unit.source for unit in units}
    others = [name for name in arena.models if arena.transfer and name not in sources]
    path = clean_path(arena.folder)
    if not agreed([name for name in others if name not in read_clean(arena.folder)]):
        return
    counted = _counted({name: arena.models[name] for name in others}, arena, "clean frames")
    if rank() == 0:
        write_counts(path, Counts(counted, {}, {}))


def read_clean(folder: Path) -> Mapping[str, Tensor]:
    """Return what `count_clean` left, (N, C, C) by model; empty where there is nothing."""
    path = clean_path(folder)
    try:
        return read_counts(path).targets if path.exists() else {}
    except DataError:
        return {}


def clean_path(folder: Path) -> Path:
    """Return the file of the counts on clean frames."""
    return folder / "clean.npz"


def parts_of(unit: Unit) -> Iterator[Unit]:
    """Yield the attacks that a unit is the worst case of; itself where it is single."""
    if unit.attack.kind != "sea":
        yield unit
        return
    for part in unit.attack.parts():
        short = re.match(r"sea(?![a-z])", unit.name)
        name = unit.name.replace("sea", part.kind, 1) if short else f"{unit.name}-{part.kind}"
        yield replace(unit, name=name, attack=part)


def path_of(folder: Path, unit: Unit) -> Path:
    """Return the file of a single attack."""
    safe = re.sub(r"[^\w.@-]", "_", unit.condition.replace("/", "-"))
    return folder / unit.source / f"{safe}.npz"


def _is_there(unit: Unit, arena: Arena) -> bool:
    """Return whether an attack was carried out before, with these settings and targets."""
    settings, held = contents_of(path_of(arena.folder, unit))
    wanted = {"note:clean_loss", *(f"target:{name}" for name in _scored(unit, arena))}
    return settings == _told(_resolved(unit, arena)) and wanted <= held


def _scored(unit: Unit, arena: Arena) -> Mapping[str, Model]:
    return arena.models if arena.transfer else {unit.source: arena.models[unit.source]}


def _resolved(unit: Unit, arena: Arena) -> Attack:
    """Return the attack as it is run on its source."""
    return replace(unit.attack, clip=clips(arena.models[unit.source], unit.attack))


def _told(attack: Attack) -> str:
    return json.dumps({k: v for k, v in asdict(attack).items() if v is not None}, sort_keys=True)


def _carry_out(unit: Unit, arena: Arena) -> Counts:
    source = arena.models[unit.source]
    source.to(arena.device)
    crafter = Crafter(source, _craft(unit, arena), arena.keys, unit.attack.through)
    title = f"{unit.condition} on {unit.source}"
    counted = _counted(_scored(unit, arena), arena, title, crafter)
    crafter.sync()
    if not int(crafter.notes["clean"].sum()):
        raise DataError(
            f"{unit.condition}: expected labelled pixels to attack, got {len(arena.keys)} frames "
            "whose labels are all ignored; choose other frames, or look at them with "
            "`moeseg data check`"
        )
    return Counts(counted, crafter.notes, json.loads(_told(_resolved(unit, arena))))


def _counted(
    models: Mapping[str, Model], arena: Arena, title: str, change: Change | None = None
) -> dict[str, Tensor]:
    """Return the confusion matrices (N, C, C) of models on what the arena's frames become."""
    counted = {name: FrameCounts(arena.keys, arena.classes) for name in models}
    run_models(
        models,
        arena.frames,
        {name: [one] for name, one in counted.items()},
        batch_size=arena.batch_size,
        workers=arena.workers,
        device=arena.device,
        change=change,
        title=title,
    )
    return {name: one.confusion for name, one in counted.items()}


def _craft(unit: Unit, arena: Arena) -> Craft:
    source = arena.models[unit.source]
    attack = _resolved(unit, arena)
    if attack.kind.startswith("universal"):
        return _craft_universal(unit, arena, attack)

    def craft(images: Tensor, label: Tensor, keys: Sequence[str], extents: Extents) -> Perturbed:
        where = (source, images, label, generators_of(arena.seed, keys))
        return perturb(*where, epsilon=unit.epsilon, attack=attack, extents=extents)

    return craft


def _craft_universal(unit: Unit, arena: Arena, attack: Attack) -> Craft:
    source = arena.models[unit.source]
    if arena.training is None:
        raise DataError(
            f"{unit.condition}: expected training frames to fit a universal change on, got none; "
            "name a subset that has some with robustness.universal_subset"
        )
    out = path_of(arena.folder, unit).with_suffix(".safetensors")
    if rank() == 0:
        _train(unit, arena, attack, out)
    wait()
    change, _ = load_universal(out)

    def craft(images: Tensor, label: Tensor, keys: Sequence[str], extents: Extents) -> Perturbed:
        radius = unit.epsilon * photo_mask(images, extents)
        return apply_as_attack(source, images, label, change, radius, clip=attack.clip)

    return craft


def _train(unit: Unit, arena: Arena, attack: Attack, out: Path) -> None:
    """Train a universal change; every other rank waits for it."""
    assert arena.training is not None
    train_universal(
        arena.models[unit.source],
        arena.training,
        epsilon=unit.epsilon,
        attack=attack,
        out=out,
        provenance={
            **arena.origin,
            "model": unit.source,
            "frames": len(arena.training),
            "subsets": sorted({frame.subset for frame in arena.training.frames}),
            "size": list(arena.training.size or ()),
            "seed": arena.seed,
        },
        batch_size=UNIVERSAL_BATCH,
        seed=arena.seed,
        workers=arena.workers,
        device=arena.device,
    )


def origin(run: Run, folders: Mapping[str, Path]) -> dict[str, Any]:
    """Return where universal changes come from: code, data set, and the weights of each model."""
    weights = {
        name: [weights_digest(one)[:16] for one in (folder, *referenced_experts(folder))]
        for name, folder in folders.items()
    }
    return {"version": __version__, "dataset": run.catalogue.dataset, "weights": weights}


def clips(source: Model, attack: Attack) -> bool:
    """Return whether an attack keeps images in [0, 1]: all do but some of the published ones.

    The original clips PGD and universal changes of an FRRN, and nothing of a DeepLab.
    """
    if not attack.published:
        return True
    names = [str(expert.description.get("name", "")) for expert in source.experts]
    return attack.kind != "fgsm-published" and all(name.startswith("frrn") for name in names)
