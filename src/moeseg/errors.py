"""What goes wrong by a user's hand, said in one grammar: expected, got, what to do.

`MoesegError` ends a command with exit code 1, `UsageError` with 2; neither shows a traceback.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches


class MoesegError(Exception):
    """Something in the data, a file or a run is not as it must be (exit code 1)."""

    exit_code = 1


class UsageError(MoesegError):
    """The command, the study file or an argument asks for something impossible (exit code 2)."""

    exit_code = 2


class DataError(MoesegError):
    """A data set on disk is incomplete, inconsistent or unreadable."""


class CheckpointError(MoesegError):
    """A stored model does not fit the place it is loaded into."""


def message_of(error: BaseException) -> str | None:
    """Return what to tell a user, or None for a failure that is not of moeseg's own.

    A loader worker and a spawned process send their error as text behind a traceback; the message
    is what follows the last name of one of our errors in it.
    """
    found = list(re.finditer(r"^moeseg(?:\.\w+)+: ", str(error), re.MULTILINE))
    if found:
        return str(error)[found[-1].end() :].strip()
    return str(error) if isinstance(error, MoesegError) else None


def unknown_name(what: str, got: str, choices: Iterable[str]) -> str:
    """Return a message for a name that is not known, with the nearest one and all choices.

    Args:
        what: the kind of thing, e.g. ``"subset"``.
        got: the name that was given.
        choices: every name that would have been taken.
    """
    known = sorted(choices)
    near = get_close_matches(got, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {got!r}.{hint} Choose from: {', '.join(known) or '(none)'}."
