"""Long lists of state-dict keys, told short enough to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_MOST = 50  # entries of one list


def listed(names: Sequence[str], every: Iterable[str]) -> str:
    """List keys; where they are many, by their common beginnings with counts.

    `expert2.* (323 keys)` stands for all keys with that beginning, `expert2.* (100 of 323 keys)`
    for some of them.

    Args:
        names: keys, which may each be followed by a space and more text.
        every: all keys that could be among them.
    """
    if len(names) <= _MOST:
        return ", ".join(names)
    named = {name.partition(" ")[0]: name for name in names}
    keys = list(every)
    entries = _whole_groups(named, keys, 1)
    return ", ".join(entries if len(entries) <= _MOST else _groups(named, keys))


def _whole_groups(named: dict[str, str], keys: Sequence[str], depth: int) -> list[str]:
    """Name the longest groups that are named whole, and keys outside of them one by one."""
    entries = []
    for prefix, group in _by_prefix(keys, depth).items():
        found = [named[key] for key in group if key in named]
        if len(found) == len(group) > 1:
            entries.append(_told(prefix, found, str(len(found))))
        elif found == [named.get(prefix)]:
            entries += found
        elif found:
            entries += _whole_groups(named, group, depth + 1)
    return entries


def _groups(named: dict[str, str], keys: Sequence[str]) -> list[str]:
    """Name the first part of keys alone, with how many of its keys are named."""
    entries = []
    for prefix, group in _by_prefix(keys, 1).items():
        found = [named[key] for key in group if key in named]
        if found:
            entries.append(_told(prefix, found, f"{len(found)} of {len(group)}"))
    return entries


def _told(prefix: str, found: Sequence[str], count: str) -> str:
    example = f", such as {found[0]}" if " " in found[0] else ""
    return f"{prefix}.* ({count} keys{example})"


def _by_prefix(keys: Sequence[str], depth: int) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(".".join(key.split(".")[:depth]), []).append(key)
    return groups
