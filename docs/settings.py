"""Writes docs/settings.md: every setting of a study file, read from `moeseg.config`.

Run it after a change there: `.venv/bin/python docs/settings.py`. A test compares the two.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from moeseg.config import Extent, Study
from moeseg.types import Split

PAGE = Path(__file__).with_name("settings.md")

_HEAD = """# Settings of a study file

Written by `docs/settings.py` from `moeseg.config`; do not edit by hand.

A study file is YAML. A key that is not listed here is an error that names the nearest one, and all
mistakes of a file are reported at once. `--set a.b=value` lays a YAML value over the file's, e.g.
`--set training.epochs=5 --set data.size=[96,160]`. Sizes are height, width. Paths are relative to
the working directory.
"""
_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}

Model = type[BaseModel]


def render() -> str:
    """Return the page: one table for each part of a study file."""
    places: dict[Model, list[str]] = {}
    _visit(Study, "", places)
    sections = [_HEAD]
    for model, paths in places.items():
        sections.append(_section(model, paths, places))
    return "\n".join(sections)


def _visit(model: Model, path: str, places: dict[Model, list[str]]) -> None:
    """Note where each part of a study file may stand, outer parts first."""
    known = places.setdefault(model, [])
    if path in known:
        return
    known.append(path)
    for name, field in model.model_fields.items():
        place = f"{path}.{name}" if path else name
        inner, keys = _inner(field.annotation)
        if inner is not None:
            _visit(inner, ".".join((place, *keys)), places)


def _inner(annotation: Any) -> tuple[Model | None, tuple[str, ...]]:  # noqa: ANN401 - any type
    """Return the part of a study file that a type holds, and placeholders for keys on the way."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ()
    arguments = get_args(annotation)
    keys: tuple[str, ...] = ()
    if get_origin(annotation) is dict:
        keys = ("<split>",) if arguments[0] == Split else ("<name>",)
    for argument in arguments:
        found, more = _inner(argument)
        if found is not None:
            return found, (*keys, *more)
    return None, ()


def _section(model: Model, paths: list[str], places: dict[Model, list[str]]) -> str:
    lines = [f"## {_title(paths[0])}", "", " ".join((model.__doc__ or "").split())]
    if len(paths) > 1:
        lines[-1] += " Also as " + ", ".join(f"`{path}`" for path in paths[1:]) + "."
    lines += ["", "| setting | value | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        inner, _ = _inner(field.annotation)
        meaning = field.description or (inner.__doc__ if inner else "") or ""
        cells = [f"`{name}`", _kind(field, places), _default(field), " ".join(meaning.split())]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _kind(field: FieldInfo, places: dict[Model, list[str]]) -> str:
    inner, keys = _inner(field.annotation)
    if inner is not None:
        title = _title(places[inner][0])
        link = f"[{title}](#{_anchor(title)})"
        return f"{'a mapping of ' if keys else ''}{link}{_or_null(field.annotation)}"
    return _type(field.annotation, field.metadata)


def _type(annotation: Any, metadata: list[Any]) -> str:  # noqa: ANN401 - any type
    """Describe a type that holds no part of a study file, with its range."""
    if annotation == Extent:
        return "[H, W]"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, *more = arguments
        found = [one for item in more for one in getattr(item, "metadata", [item])]
        return _type(inner, found)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin in (Union, UnionType):
        choices = [_type(one, metadata) for one in arguments if one is not NoneType]
        return " or ".join(choices) + _or_null(annotation)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {_type(arguments[0], [])}"
    if origin is tuple:
        return "[" + ", ".join(_type(one, []) for one in arguments) + "]"
    if origin is dict:
        return "mapping of " + " to ".join(_type(one, []) for one in arguments)
    limits = [
        f"{sign} {getattr(limit, name):g}"
        for limit in metadata
        for name, sign in _SIGNS.items()
        if hasattr(limit, name)
    ]
    return " ".join((_NAMES.get(annotation, "anything"), ", ".join(limits))).strip()


def _or_null(annotation: Any) -> str:  # noqa: ANN401 - any type
    return " or null" if NoneType in get_args(annotation) else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(needed)"
    value = field.default
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_defaults=True, mode="json")
    elif isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return f"`{text.removesuffix('...' + chr(10)).strip()}`"


def _title(path: str) -> str:
    return f"`{path}`" if path else "The file itself"


def _anchor(title: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
