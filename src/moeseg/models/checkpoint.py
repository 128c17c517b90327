"""Models on disk: a folder with `model.json` (what it is) and `model.safetensors` (its weights).

A folder is written whole or not at all. A mixture or ensemble either holds its experts' weights or
refers to their folders, by relative path and SHA-256 of their weights. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from moeseg.errors import CheckpointError, MoesegError
from moeseg.models.build import Model, build_model, describe
from moeseg.models.expert import Expert, name_of
from moeseg.models.folder import recover, replaced

FORMAT = 1
"""Version of the folder's layout; a greater one in a file is refused."""

TEMPERATURES = "temperature.json"
"""What may lie beside: temperatures fitted for these weights. It goes when they are replaced."""

_JSON = "model.json"
_WEIGHTS = "model.safetensors"


def save(
    model: Model,
    path: Path,
    *,
    info: Mapping[str, Any] | None = None,
    experts: Sequence[Path] | None = None,
) -> None:
    """Write a model to the folder `path`, replacing a model that was there.

    Args:
        model: an expert, ensemble or mixture.
        path: the folder. It holds nothing else; what was in it stays untouched if writing fails.
        info: JSON-ready values to keep beside it (taxonomy, size, name ...), for `read_info`.
        experts: folders of the model's experts, in its order, to refer to instead of holding their
            weights. They must hold what the model holds.

    Raises:
        CheckpointError: no description, foreign files in `path`, experts that differ from those on
            disk, or the disk did not take it.
    """
    path = Path(path).absolute()
    document: dict[str, Any] = {
        "format": FORMAT,
        "description": describe(model),
        "info": dict(info or {}),
    }
    tensors: Mapping[str, Tensor] = model.state_dict()
    if experts is not None:
        document["references"] = _references(model, path, experts)
        tensors = {k: v for k, v in tensors.items() if not k.startswith("members.")}
    try:
        with replaced(path, (_WEIGHTS, _JSON), beside=(TEMPERATURES,)) as folder:
            save_file(_storable(tensors), folder / _WEIGHTS)
            document["sha256"] = weights_digest(folder)
            text = json.dumps(document, indent=1) + "\n"
            (folder / _JSON).write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: expected to write a model, got {type(error).__name__}: {error}. What was "
            "there before is unchanged; free some space (or choose another folder) and run again."
        ) from error


def load(path: Path, *, shared: dict[Path, Expert] | None = None) -> Model:
    """Rebuild the model in the folder `path`, in eval mode, on the CPU.

    Args:
        path: the folder.
        shared: experts by their folders, taken where a model refers to one and filled with those
            that were not there; models loaded with one mapping then share their experts.

    Raises:
        CheckpointError: not a model, damaged, or a referenced expert absent or changed.
    """
    path = Path(path).absolute()
    document = _document(path)
    references = document.get("references")
    experts = None
    if references is not None:
        experts = [_referenced(path, one, {} if shared is None else shared) for one in references]
    model = _rebuild(path, document, experts)
    state = _weights(path, document)
    if experts is not None:
        held = model.state_dict()
        state |= {key: held[key] for key in held if key.startswith("members.")}
    _fill(model, state, path)
    if shared is not None and isinstance(model, Expert):
        model = shared.setdefault(path.resolve(), model)
    return model.eval()


def load_weights(expert: Expert, path: Path) -> None:
    """Fill an expert with the weights of an expert of the same architecture in the folder `path`.

    Raises:
        CheckpointError: not an expert, another architecture or class count, or damaged.
    """
    path = Path(path).absolute()
    document = _document(path)
    description = document["description"]
    if description["kind"] != "expert":
        raise CheckpointError(
            f"{path}: expected an expert, got a model of kind {description['kind']!r}. Name the "
            "folder of one expert."
        )
    own, other = describe(expert)["architecture"], description["architecture"]
    differing = [
        f"{key}: expected {own.get(key)!r}, got {other.get(key)!r}"
        for key in own | other
        if key != "weights" and own.get(key) != other.get(key)
    ]
    if differing:
        raise CheckpointError(
            f"{path}: the stored expert is of another architecture than {name_of(expert)}. "
            f"{'; '.join(differing)}. Change the study's architecture, or name other weights."
        )
    _fill(expert, _weights(path, document), path)


def read_info(path: Path) -> dict[str, Any]:
    """Return the `info` that the model in the folder `path` was saved with.

    Raises:
        CheckpointError: not a model.
    """
    info: dict[str, Any] = _document(Path(path).absolute())["info"]
    return info


def referenced_experts(path: Path) -> list[Path]:
    """Return the folders of the experts that the model in the folder `path` refers to.

    Raises:
        CheckpointError: not a model.
    """
    path = Path(path).absolute()
    references = _document(path).get("references") or []
    return [Path(os.path.normpath(path.resolve() / one["path"])) for one in references]


def weights_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of the weights file in the folder `path`."""
    try:
        with (path / _WEIGHTS).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"{path / _WEIGHTS}: expected the weights of a moeseg model, got {error.strerror}. "
            "Name a folder that `moeseg.save` or a study wrote."
        ) from error


def first_five(names: Sequence[str], every: Iterable[str]) -> str:
    """Name five and count the others."""
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + rest


def misfits(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    listed: Callable[[Sequence[str], Iterable[str]], str] = first_five,
) -> str:
    """Say which tensors of a file do not fit a model, all at once; empty if all do.

    Args:
        own: the model's, by key.
        state: the file's, by key.
        listed: makes text of those of one sort, given all keys that could be among them.
    """
    shapes = [
        f"{key} {list(own[key].shape)} but file {list(state[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    return ". ".join(
        f"{what}: {listed(names, every)}"
        for what, names, every in (
            ("absent from the file", [key for key in own if key not in state], own),
            ("unknown to the model", [key for key in state if key not in own], state),
            ("of another shape", shapes, own),
        )
        if names
    )


def _document(path: Path) -> dict[str, Any]:
    recover(path)
    hint = "Name a folder that `moeseg.save` or a study wrote."
    if not (path / _JSON).is_file():
        got = f"a folder without {_JSON}" if path.is_dir() else "no such folder"
        raise CheckpointError(f"{path}: expected a moeseg model, got {got}. {hint}")
    try:
        document = json.loads((path / _JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / _JSON}: expected JSON, got {error}. {hint}") from error
    needed = ("format", "description", "info", "sha256")
    if not isinstance(document, dict) or any(key not in document for key in needed):
        raise CheckpointError(
            f"{path / _JSON}: expected the keys {', '.join(needed)} of a moeseg model, got "
            f"{', '.join(document) if isinstance(document, dict) else document!r}. {hint}"
        )
    if document["format"] != FORMAT:
        raise CheckpointError(
            f"{path / _JSON}: expected format {FORMAT}, got {document['format']}. The model was "
            "written by another version of moeseg; use that version."
        )
    return document


def _rebuild(path: Path, document: Mapping[str, Any], experts: Sequence[Expert] | None) -> Model:
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are overwritten: draw none away
            return build_model(document["description"], experts)
    except MoesegError as error:
        raise CheckpointError(f"{path / _JSON}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path / _JSON}: expected a model's description, got one that does not build "
            f"({type(error).__name__}: {error}). Restore the file from a copy."
        ) from error


def _weights(path: Path, document: Mapping[str, Any]) -> dict[str, Tensor]:
    file = path / _WEIGHTS
    try:
        if weights_digest(path) != document["sha256"]:
            raise CheckpointError(
                f"{file}: expected the weights that {_JSON} names, got other bytes. The file is "
                "damaged or from another model; restore it from a copy, or train again."
            )
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file}: expected the model's weights, got {type(error).__name__}: {error}. Restore "
            "the file from a copy, or train again."
        ) from error


def _fill(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    complaints = misfits(model.state_dict(), state)
    if complaints:
        raise CheckpointError(
            f"{path / _WEIGHTS}: expected the tensors of the model, got others. {complaints}. The "
            "weights are of another architecture or class count."
        )
    model.load_state_dict(state)


def _references(model: Model, path: Path, folders: Sequence[Path]) -> list[dict[str, str]]:
    if isinstance(model, Expert) or len(folders) != len(model.experts):
        raise CheckpointError(
            f"{path}: expected a folder for each expert of the model, got {len(folders)} for "
            f"{0 if isinstance(model, Expert) else len(model.experts)}."
        )
    references = []
    for number, (expert, folder) in enumerate(zip(model.experts, folders, strict=True), start=1):
        folder = Path(folder).absolute()
        document = _document(folder)
        stored, held = _weights(folder, document), expert.state_dict()
        same = stored.keys() == held.keys() and all(
            torch.equal(stored[key], held[key].cpu()) for key in held
        )
        if not same:
            raise CheckpointError(
                f"{folder}: expected expert {number} of the model, got other weights. Save the "
                "expert first, or the model without `experts`, which then holds its own copy."
            )
        relative = os.path.relpath(folder.resolve(), path.resolve())
        references.append({"path": Path(relative).as_posix(), "sha256": document["sha256"]})
    return references


def _referenced(path: Path, reference: Mapping[str, str], shared: dict[Path, Expert]) -> Expert:
    folder = Path(os.path.normpath(path.resolve() / reference["path"]))
    if not folder.is_dir():
        raise CheckpointError(
            f"{path}: expected its expert in {folder}, got no such folder. Move the model together "
            "with its experts, or save it again without `experts`."
        )
    if _document(folder)["sha256"] != reference["sha256"]:
        raise CheckpointError(
            f"{path}: expected its expert in {folder} as it was, got other weights. The expert was "
            "trained again since; fit the gate again, or restore the expert."
        )
    expert = shared.get(folder.resolve()) or load(folder, shared=shared)
    if not isinstance(expert, Expert):
        raise CheckpointError(f"{path}: expected an expert in {folder}, got another kind of model.")
    return expert


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached CPU tensors of which no two share memory, as safetensors wants them."""
    seen: set[int] = set()
    stored = {}
    for key, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        stored[key] = plain.clone() if plain.data_ptr() in seen else plain
        seen.add(plain.data_ptr())
    return stored
