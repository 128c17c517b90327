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

_HINT = "Name a file that the original's training wrote."


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by the original's keys, on the CPU.

    A `module.` before every key (from `DataParallel`) is dropped; optimizer, epoch and score are
    left out.

    Args:
        path: written by `torch.save`: a dict that holds `state_dict`.

    Raises:
        CheckpointError: absent, no checkpoint, damaged, holds code, or has no state dict.
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
    foreign = [str(key) for key, value in state.items() if not _is_entry(key, value)]
    if foreign:
        raise CheckpointError(
            f"{path}: state_dict: expected a tensor for every key, got something else for "
            f"{', '.join(foreign)}. {_HINT}"
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


def _is_entry(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)
