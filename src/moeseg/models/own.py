"""Experts that users write themselves, named `package.module:Class`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from moeseg.errors import UsageError
from moeseg.models.expert import AdaptedExpert, Expert


def own_expert(name: str, arguments: Mapping[str, Any]) -> Expert:
    """Build a user's own expert; one that does not inherit from `Expert` is adapted.

    Args:
        name: ``package.module:Class``.
        arguments: of the class.

    Raises:
        UsageError: no such module or class, no network, or other arguments.
    """
    found = _own_class(name)
    try:
        inspect.signature(found).bind(**arguments)
    except TypeError as error:
        raise UsageError(
            f"architecture {name!r}: expected the arguments {inspect.signature(found)}, got "
            f"{', '.join(arguments) or 'none'}: {error}."
        ) from error
    made = found(**arguments)
    return made if isinstance(made, Expert) else AdaptedExpert(made)


def own_source(name: str) -> str:
    """Return the source of the module that holds a user's own expert class.

    Args:
        name: ``package.module:Class``.

    Raises:
        UsageError: no such module or class.
    """
    module = inspect.getmodule(_own_class(name))
    return inspect.getsource(module) if module else ""


def _own_class(name: str) -> type[nn.Module]:
    module_name, _, class_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError as error:
        raise UsageError(
            f"architecture {name!r}: expected an importable module, got {error}. Install it, or "
            "put its folder on PYTHONPATH."
        ) from error
    # only a network is ever called: the name may come from a model file of someone else
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise UsageError(
            f"architecture {name!r}: expected a class derived from torch.nn.Module, got "
            f"{found!r}. Name it `package.module:Class`."
        )
    return found
