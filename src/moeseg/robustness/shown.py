"""Changed frames to look at: layers for the report's explorer, one set a condition.

Attacked frames are made for one model, the study's last mixture; every model's mask on them shows
what carries over to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from moeseg.data import SegmentationDataset
from moeseg.data.dataset import Item
from moeseg.errors import UsageError, unknown_name
from moeseg.evaluation.runner import Change, Extents
from moeseg.evaluation.stages import load_models, scored_frames
from moeseg.files import remove
from moeseg.insight.layers import choose_frames, condition_folder, write_layers
from moeseg.models import Model
from moeseg.robustness.attacks import perturb
from moeseg.robustness.ball import generators_of
from moeseg.robustness.corrupted import corruption
from moeseg.robustness.corruptions import parse_condition
from moeseg.robustness.plan import attack_named, checked_epsilon, planned_parts
from moeseg.robustness.sweep import clips
from moeseg.run import Run


class HeldFrames(SegmentationDataset):
    """Frames of a data set with other images, in memory.

    Args:
        plain: the data set.
        change: makes the images.
    """

    def __init__(self, plain: SegmentationDataset, change: Change) -> None:
        super().__init__(plain.frames, plain.read_label, plain.size, fit=plain.fit)
        self._items: list[Item] = []
        for number in range(len(plain)):
            image, label, key = plain[number]
            extent = plain.extent(number)
            extents = None if extent is None else (extent,)
            # (3, H, W) -> (1, 3, H, W) and back
            changed = change(image[None], label[None], [key], extents)[0]
            self._items.append((changed, label, key))

    def __getitem__(self, index: int | tuple[int, int]) -> Item:
        """Return changed image (3, H, W), label (H, W) and key."""
        return self._items[index[0] if isinstance(index, tuple) else index]


def layers_folder(run: Run, condition: str) -> Path:
    """Return where the layers of a condition lie."""
    return run.folder / "insight" / "layers" / condition_folder(condition)


def check_shown(run: Run) -> None:
    """Make sure that every condition that is to be shown can be made.

    Raises:
        UsageError: one cannot.
    """
    for condition in run.study.robustness.show:
        if parse_condition(condition) is None:
            name, _, radius = condition.partition("@")
            attack = attack_named(name, run.study.robustness)
            if attack.kind.startswith("universal") or not radius:
                raise UsageError(
                    f"robustness.show: expected an attack on single images with its radius such as "
                    f"pgd-10@4/255, or a corruption such as fog-3, got {condition!r}"
                )
            checked_epsilon(radius)
            parts = planned_parts(run.study)
            source = [*parts, *run.study.mixtures][-1]
            if attack.through not in parts[source]:
                raise UsageError(
                    f"robustness.show: {condition}: "
                    + unknown_name(f"part of {source}", attack.through, parts[source])
                )


def write_shown(run: Run) -> None:
    """Write the layers of every condition under `robustness.show`; those of others go."""
    wanted = [layers_folder(run, condition) for condition in run.study.robustness.show]
    for folder in (run.folder / "insight" / "layers").glob("*"):
        if folder not in wanted and folder.name != "clean":
            remove(folder)
    models = load_models(run)
    settings = run.study.robustness
    frames = choose_frames(scored_frames(run), settings.show_frames, {})
    plain = run.dataset(frames, size=run.eval_size)
    for condition in settings.show:
        change, told = _change(run, condition, models)
        write_layers(
            models,
            HeldFrames(plain, change),
            layers_folder(run, condition),
            taxonomy=run.catalogue.taxonomy,
            dataset=run.catalogue.dataset,
            condition=told,
            batch_size=run.study.eval.batch_size,
            device=run.device,
        )


def _change(run: Run, condition: str, models: dict[str, Model]) -> tuple[Change, str]:
    """Return what makes a condition's images, and what to call it."""
    seed = run.study.seed
    found = parse_condition(condition)
    if found is not None:
        return corruption(*found, seed), condition
    name, _, radius = condition.partition("@")
    source = [*models, *run.study.mixtures][-1]
    attack = attack_named(name, run.study.robustness)
    attack = replace(attack, clip=clips(models[source], attack))

    def change(images: Tensor, label: Tensor, keys: Sequence[str], extents: Extents) -> Tensor:
        generators = generators_of(seed, keys)
        where = images.to(run.device), label.to(run.device)
        found = perturb(
            models[source].to(run.device),
            *where,
            generators,
            epsilon=checked_epsilon(radius),
            attack=attack,
            extents=extents,
        )
        return found.images.cpu()

    return change, f"{condition} on {source}"
