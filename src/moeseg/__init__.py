"""Model-level mixtures of experts for semantic segmentation of traffic scenes."""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__", "load", "save"]


def __getattr__(name: str) -> object:
    """Import `load` and `save` when they are asked for, so that `moeseg --help` is quick."""
    if name in ("load", "save"):
        from moeseg import models

        return getattr(models, name)
    raise AttributeError(f"module 'moeseg' has no attribute {name!r}")
