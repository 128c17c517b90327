"""The type of the fixture `moeseg`, which runs the command line."""

from __future__ import annotations

from collections.abc import Callable

Command = Callable[..., tuple[int, str, str]]
"""Takes words of a command line; returns exit code, standard output and error."""
