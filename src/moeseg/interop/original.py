"""Checkpoints of the original system, opened as models of moeseg and written back.

`docs/original.md` says what a file holds and what the original cannot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moeseg.config import HABITS
from moeseg.data import Taxonomy
from moeseg.errors import CheckpointError, UsageError
from moeseg.files import replacing
from moeseg.interop.detect import UNKNOWN_CLASSES, build
from moeseg.interop.keys import EXPERTS, from_original, layout_of, to_original
from moeseg.interop.limits import beyond_original, short_name
from moeseg.interop.listing import listed
from moeseg.interop.reading import read_state
from moeseg.models import Ensemble, Expert, Mixture, Model, Rule, build_ensemble, save
from moeseg.models.backbones import OutputStride
from moeseg.models.checkpoint import misfits
from moeseg.types import Size

_KNOWN_HABITS = ("architecture.normalisation", "data.fit")
"""What every model of the original was made with; a file tells nothing of its training."""

_MOST_BYTES = 4 * 2**30  # of a model: eight times that of the largest published mixture


def load(
    path: Path,
    *more: Path,
    input_size: Size | None = None,
    output_stride: OutputStride = 16,
    rule: Rule = "mean",
) -> Model:
    """Open a checkpoint of the original as a model without normalisation, in eval mode on the CPU.

    Architecture, class count, gate and head are told from keys and shapes; what they do not tell
    are the options.

    Args:
        path: an expert, a mixture or an ensemble.
        more: further experts; the files together then are an ensemble.
        input_size: (H, W) of the images that a gate is fixed to. None takes any map of its number
            of cells.
        output_stride: of a DeepLabv3+, 8 or 16; FRRN has 16.
        rule: of an ensemble.

    Raises:
        CheckpointError: no checkpoint of the original, damaged (shapes, NaN), or files that do not
            go together.
        UsageError: an option that contradicts the file.
    """
    options: dict[str, Any] = {"input_size": input_size, "output_stride": output_stride}
    if input_size is not None and min(input_size) < 1:
        raise UsageError(f"input size: expected H W > 0, got {input_size[0]}x{input_size[1]}.")
    model = _load(Path(path), rule=rule, **options)
    if more:
        experts = [_expert(Path(path), model)]
        for other in more:
            experts.append(_expert(Path(other), _load(Path(other), rule=rule, **options)))
            _check_classes(Path(path), experts[0], Path(other), experts[-1])
        model = build_ensemble(experts, rule)
    if rule != "mean" and not isinstance(model, Ensemble):
        raise UsageError(
            f"{path}: rule: expected an ensemble (two experts, in one file or two), got "
            f"{_kind(model)} and rule {rule!r}. Leave the rule out."
        )
    return model.eval()


def import_files(
    files: Sequence[Path],
    out: Path,
    *,
    taxonomy: Taxonomy | None = None,
    input_size: Size | None = None,
    output_stride: OutputStride = 16,
    rule: Rule = "mean",
) -> Model:
    """Write the model of `load(*files)` to the folder `out`, for `evaluate` and `predict`.

    Its rows have no seed, and of the habits those two that all models of the original have.

    Args:
        files: one checkpoint, or an ensemble's experts.
        out: the folder.
        taxonomy: kept beside the model; it must have the model's number of classes.
        input_size: kept beside the model, too; see `load`.
        output_stride: see `load`.
        rule: see `load`.

    Raises:
        CheckpointError, UsageError: as `load`, and a taxonomy of another class count. Nothing is
            written then.
    """
    model = load(*files, input_size=input_size, output_stride=output_stride, rule=rule)
    if taxonomy is not None and len(taxonomy) != model.num_classes:
        alone = isinstance(model, Expert) or len(files) > 1
        prefix = "" if alone else EXPERTS[0]
        raise UsageError(
            f"{files[0]}: {prefix}{layout_of(model).classes}weight: expected the {len(taxonomy)} "
            f"classes of taxonomy {taxonomy.name}, got {model.num_classes}. Name the taxonomy that "
            "the model was trained on."
        )
    info: dict[str, Any] = {"name": out.name, "imported": [file.name for file in files]}
    info["fit"] = "squeeze"  # the original knows no other way
    info["settings"] = {key: HABITS[key] for key in _KNOWN_HABITS}
    if taxonomy is not None:
        info["taxonomy"] = taxonomy.to_json()
    if input_size is not None:
        info["size"] = list(input_size)
    save(model, out, info=info)
    return model


def export(model: Model) -> dict[str, Tensor]:
    """Return a model's tensors by the keys that the original loads.

    Args:
        model: an expert, an ensemble or a mixture that the original can hold.

    Returns:
        The state dict, detached and on the CPU; experts' tensors share memory with the model.

    Raises:
        UsageError: the original cannot hold the model; all reasons are named.
    """
    reasons = beyond_original(model)
    if reasons:
        raise UsageError(
            f"expected a model that the original can hold, got {'; '.join(reasons)}. "
            "docs/original.md says what it holds; train such a model to export it."
        )
    return {key: value.cpu() for key, value in to_original(model).items()}


def write(model: Model, path: Path) -> None:
    """Write a checkpoint that the original opens: `state_dict`, `epoch` 0, `best_pred` 0.

    Args:
        model: see `export`.
        path: the file; replaced whole, or left as it was if anything fails.

    Raises:
        UsageError: the original cannot hold the model.
        MoesegError: the file cannot be written.
    """
    content = {"state_dict": export(model), "epoch": 0, "best_pred": 0.0}
    with replacing(Path(path)) as unfinished, unfinished.open("wb") as file:
        torch.save(content, file)


def summary(model: Model) -> str:
    """Return one line that says what a model is."""
    known = model.num_classes != UNKNOWN_CLASSES
    if isinstance(model, Expert):
        parts = [f"expert {short_name(model)}"]
    else:
        names = " and ".join(dict.fromkeys(map(short_name, model.experts)))
        parts = [f"{_kind(model)} of {len(model.experts)} experts {names}"]
    parts.append(f"{model.num_classes} classes" if known else "number of classes unknown")
    if isinstance(model, Ensemble):
        parts.append(f"rule {model.rule}")
    elif isinstance(model, Mixture):
        grid = model.gate.grid
        cells = f"{grid[0]}x{grid[1]}" if isinstance(grid, tuple) else grid
        kind = "simple" if model.gate.columns == 1 else "class-wise"
        parts.append(f"{kind} gate of {cells} cells")
        parts.append(f"{'a' if model.head is not None else 'no'} 3x3 head")
    return ", ".join(parts)


def _load(path: Path, *, input_size: Size | None, output_stride: OutputStride, rule: Rule) -> Model:
    state = read_state(path)
    options: dict[str, Any] = {"input_size": input_size, "output_stride": output_stride}
    with torch.random.fork_rng(devices=[]):  # initial weights are overwritten: draw none away
        with torch.device("meta"):  # a few bytes of a file can claim any shape
            planned = build(path, state, rule=rule, **options)
        _check_fits(path, planned, state)
        model = build(path, state, rule=rule, **options)
    model.load_state_dict(from_original(model, state))
    return model


def _check_fits(path: Path, planned: Model, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not those of a model on the meta device."""
    expected, unused = to_original(planned), layout_of(planned).unused
    if unused is not None and isinstance(planned, Mixture):
        expected, state = (
            {key: value for key, value in one.items() if not key.startswith(unused)}
            for one in (expected, state)
        )
    complaints = misfits(expected, state, listed)
    if complaints:
        raise CheckpointError(
            f"{path}: expected the keys of the original's {summary(planned)}, got others. "
            f"{complaints}. The file is incomplete, or of changed code."
        )
    size = sum(value.nbytes for value in expected.values())
    if size > _MOST_BYTES:
        largest = max(expected, key=lambda key: expected[key].nbytes)
        raise CheckpointError(
            f"{path}: {largest}: expected a model of at most {_MOST_BYTES / 1e9:.1f} GB, got "
            f"shapes of {size / 1e9:.1f} GB, this one {list(expected[largest].shape)}. No "
            "network of the original is so large; the file is damaged."
        )
    _check_values(path, expected, state)


def _check_values(path: Path, expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    wanted = {key: state[key] for key, value in expected.items() if value.is_floating_point()}
    whole = [f"{key} ({v.dtype})" for key, v in wanted.items() if not v.is_floating_point()]
    if whole:
        raise CheckpointError(
            f"{path}: expected floating-point weights, got whole numbers in "
            f"{listed(whole, wanted)}. Save them as they were trained."
        )
    broken = [key for key, value in wanted.items() if not torch.isfinite(value.float()).all()]
    if broken:
        raise CheckpointError(
            f"{path}: expected finite weights, got NaN or infinite ones in "
            f"{listed(broken, wanted)}. That training diverged, or the file is damaged: name an "
            "earlier checkpoint."
        )


def _expert(path: Path, model: Model) -> Expert:
    if not isinstance(model, Expert):
        raise CheckpointError(
            f"{path}: expected an expert, as several files make an ensemble of experts, got "
            f"{_kind(model)}. Name this file alone."
        )
    return model


def _check_classes(path: Path, expert: Expert, other_path: Path, other: Expert) -> None:
    if expert.num_classes != other.num_classes:
        raise CheckpointError(
            f"{other_path}: {layout_of(other).classes}weight: expected {expert.num_classes} "
            f"classes, as in {path}, got {other.num_classes}. Name experts of one label set."
        )


def _kind(model: Model) -> str:
    return type(model).__name__.lower()
