"""Saved models, or all models of a run, loaded to be scored on a study's data.

What is measured of them is the matter of `evaluation.stages` and of the parts above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moeseg.errors import CheckpointError, UsageError
from moeseg.evaluation.collectors import Measure
from moeseg.evaluation.predict import model_taxonomy
from moeseg.evaluation.stages import evaluate, row_base, scored_frames
from moeseg.files import fingerprint
from moeseg.models import Expert, Model, load, read_info, referenced_experts, weights_digest
from moeseg.run import Run
from moeseg.training.network_stages import check_fit
from moeseg.types import Frame, Row, Size, single_subsets


def models_in(folders: Sequence[Path]) -> list[Path]:
    """Return the folders of models, with all models of a run in place of the run's folder.

    Raises:
        UsageError: a run without a model.
    """
    found: list[Path] = []
    for folder in folders:
        if not (folder / "study.yaml").is_file():
            found.append(folder)
            continue
        models = sorted(path.parent for path in (folder / "models").glob("*/model.json"))
        if not models:
            raise UsageError(
                f"{folder}: expected a run with models, found none yet; run `moeseg study` on "
                f"{folder / 'study.yaml'} until they are trained"
            )
        found += models
    return found


@dataclass(frozen=True)
class Saved:
    """Saved models beside the data that they are to be scored on.

    Attributes:
        models: by the names of their folders.
        infos: what each was saved with.
        frames: what is predicted, each once.
        subsets: subsets and joins of these.
        base: keys of every row.
    """

    models: Mapping[str, Model]
    infos: Mapping[str, Mapping[str, Any]]
    frames: tuple[Frame, ...]
    subsets: tuple[str, ...]
    base: Row


def open_saved(run: Run, folders: Sequence[Path], subsets: Sequence[str]) -> Saved:
    """Load saved models to be scored on a study's data.

    Args:
        run: whose data, size and evaluation settings hold.
        folders: of the models; each is called by its folder's name.
        subsets: subsets and joins that get a row.

    Raises:
        CheckpointError: a folder holds no model, or one of another taxonomy than the data.
        UsageError: two folders of one name, or an unknown subset.
    """
    models, infos = load_saved(run, folders)
    frames = scored_frames(run, subsets)
    size = run.study.eval.size or common_size(folders)
    base = row_base(run, size, saved_print(run, folders, frames, size))
    return Saved(models, infos, frames, tuple(subsets), base)


def evaluate_saved(
    run: Run,
    folders: Sequence[Path],
    subsets: Sequence[str],
    measures: Sequence[Measure] = (),
    out: Path | None = None,
) -> list[Row]:
    """Score saved models on a study's data; arguments and errors as `open_saved`.

    Args:
        run: whose data, size and evaluation settings hold.
        folders: of the models.
        subsets: subsets and joins that get a row.
        measures: what is measured beside mIoU.
        out: where measures put files beside their rows; None for none.
    """
    saved = open_saved(run, folders, subsets)
    return evaluate(
        saved.models, run, saved.frames, subsets, saved.base, saved.infos, measures, out
    )


def load_saved(
    run: Run, folders: Sequence[Path]
) -> tuple[dict[str, Model], dict[str, dict[str, Any]]]:
    """Load saved models, each called by its folder's name, and what they were saved with.

    Raises:
        CheckpointError: a folder holds no model, or one of another taxonomy than the run's data.
        UsageError: two folders of one name, or frames that came to their size in another way.
    """
    names = [folder.resolve().name for folder in folders]
    infos = {name: read_info(folder) for name, folder in zip(names, folders, strict=True)}
    if len(set(names)) < len(names):
        raise UsageError(f"expected model folders of different names, got {', '.join(names)}")
    wanted = run.catalogue.taxonomy
    shared: dict[Path, Expert] = {}
    models: dict[str, Model] = {}
    for name, folder in zip(names, folders, strict=True):
        own = model_taxonomy(folder)
        if own.classes != wanted.classes:
            raise CheckpointError(
                f"{folder}: expected a model of the data's taxonomy {wanted.name} ({len(wanted)} "
                f"classes), got {own.name} ({len(own)} classes); set data.taxonomy to the model's"
            )
        check_fit(run, folder, infos[name])
        models[name] = load(folder, shared=shared)
        parts = [read_info(one).get("subset") for one in referenced_experts(folder)]
        if parts and all(parts):
            infos[name]["subset"] = "+".join(single_subsets(*map(str, parts)))
    return models, infos


def saved_print(run: Run, folders: Sequence[Path], frames: Sequence[Frame], size: Size) -> str:
    """Return the fingerprint of rows of saved models: their weights, the frames and the size."""
    digests = [
        weights_digest(one) for folder in folders for one in (folder, *referenced_experts(folder))
    ]
    return fingerprint([digests, run.frames_print(frames), size])


def common_size(folders: Sequence[Path]) -> Size:
    """Return the size that saved models were trained at.

    Raises:
        UsageError: they differ.
    """
    sizes = {tuple(read_info(folder)["size"]) for folder in folders}
    if len(sizes) > 1:
        raise UsageError(
            f"expected models of one training size, got {', '.join(map(str, sorted(sizes)))}: "
            "say at which size to score them all with --set eval.size=[H,W]"
        )
    height, width = sizes.pop()
    return int(height), int(width)
