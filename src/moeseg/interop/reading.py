"""Reading a checkpoint of the original without running anything that it holds.

A `.pth` file is a pickle, which could call any function. Only tensors, plain values and numpy's
float64 scalar (`best_pred`) are let through. What the tensors mean is not known here.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moeseg.errors import CheckpointError
from moeseg.interop.listing import listed

_HINT = "Name a file that the original's training wrote."
_NUMBERS = (  # neither complex nor quantised
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by the original's keys, on the CPU.

    A `module.` before every key (from `DataParallel`) is dropped; optimizer, epoch and score are
    left out.

    Args:
        path: written by `torch.save`: a dict that holds `state_dict`.

    Raises:
        CheckpointError: absent, no checkpoint, damaged, holds code, has no state dict, or one with
            entries that no weights can be: sparse, quantised, complex, without values (meta).
    """
    content = _load(path)
    if not isinstance(content, Mapping) or "state_dict" not in content:
        held = map(str, content) if isinstance(content, Mapping) else [type(content).__name__]
        raise CheckpointError(
            f"{path}: expected a checkpoint with the key 'state_dict', got "
            f"{', '.join(sorted(held)[:10]) or 'nothing'}. {_HINT}"
        )
    state = content["state_dict"]
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(
            f"{path}: state_dict: expected tensors by key, got "
            f"{'none' if isinstance(state, Mapping) else type(state).__name__}. {_HINT}"
        )
    flaws = {str(key): flaw for key, value in state.items() if (flaw := _flaw(key, value))}
    if flaws:
        foreign = [f"{key} ({flaw})" for key, flaw in flaws.items()]
        raise CheckpointError(
            f"{path}: state_dict: expected a dense tensor of plain numbers for every key, got "
            f"something else for {listed(foreign, map(str, state))}. {_HINT}"
        )
    if all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return dict(state)


def _load(path: Path) -> Any:  # noqa: ANN401 - a pickle may hold anything
    try:
        # its warnings are for who wrote the file
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_scalar()):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(
            f"{path}: expected a checkpoint, got {error.strerror or error}. {_HINT}"
        ) from error
    except Exception as error:  # foreign bytes fail in every way there is
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise CheckpointError(
                f"{path}: expected tensors and numbers only, got {refused.group(1)}, which could "
                "run code; nothing of the file was run. Have it from a source you trust, and save "
                "only its state_dict, epoch and best_pred again."
            ) from error
        other = re.search(r"but got <class '([\w.]+)'>", str(error))
        if other:  # harmless, such as a score of numpy's float32, but not let through
            raise CheckpointError(
                f"{path}: expected tensors, plain values and a float64 score, got something else "
                f"({other.group(1)}). The file is whole: save only its state_dict, epoch and "
                "best_pred again, the last two as plain numbers."
            ) from error
        raise CheckpointError(
            f"{path}: expected a checkpoint that torch.save wrote, got a file that torch cannot "
            f"read ({type(error).__name__}): another kind of file, or half a download. Compare its "
            f"size with the source's and fetch it again. {_HINT}"
        ) from error


def _numpy_scalar() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What a pickled numpy float64 needs, under the names of numpy 1 and of numpy 2."""
    core = "numpy._core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core"
    scalar = importlib.import_module(f"{core}.multiarray").scalar
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        (np.dtype, "numpy.dtype"),
        (np.dtypes.Float64DType, "numpy.dtypes.Float64DType"),
    ]


def _flaw(key: object, value: object) -> str | None:
    """Say in a word why an entry cannot be a network's weights; None if it can."""
    if not isinstance(key, str):
        return f"a key of type {type(key).__name__}"
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.is_nested:
        return "nested"
    if value.layout is not torch.strided:
        return _word(value.layout)
    if value.device.type != "cpu":
        return f"on {value.device.type}"
    return None if value.dtype in _NUMBERS else _word(value.dtype)


def _word(kind: object) -> str:
    return str(kind).removeprefix("torch.")
