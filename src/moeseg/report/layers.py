"""The frame explorer's pictures: read from a run's `insight/layers`, packed into the page.

Ids stay lossless, photos become WebP. What cannot be read is told and left out; nothing is derived
here: agreement, errors and winning experts are worked out from the ids by page.js.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from moeseg.errors import DataError, MoesegError
from moeseg.insight.agreement import category_names
from moeseg.report.colours import by_mask, of_experts

LIMIT = 11_000_000
"""Bytes of pictures a page may hold, so that with all else it stays below 15 MB."""

_KEYS = ("condition", "dataset", "size", "classes", "colours", "models", "mixtures", "frames")


@dataclass
class Explorer:
    """What the frame explorer shows.

    Attributes:
        sets: one per condition, JSON-ready: its index with every picture as a data URI.
        missing: what was not there or could not be read, in sentences.
    """

    sets: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def read_layers(
    folder: Path,
    limit: int = LIMIT,
    maps: Path | None = None,
    shown: Collection[str] | None = None,
) -> Explorer:
    """Pack the layers of all conditions.

    Args:
        folder: a run's `insight/layers`.
        maps: a run's `uncertainty/maps`, with folders of the same names; None, or a folder that is
            not there, for none.
        limit: bytes of pictures; where they are more, each subset gives up its last frames.
        shown: names of the folders that count; None for all.
    """
    found = Explorer()
    indices = sorted(folder.glob("*/index.json"))
    indices = [path for path in indices if shown is None or path.parent.name in shown]
    # clean first: it is what the explorer opens with
    for path in sorted(indices, key=lambda path: (path.parent.name != "clean", path.parent.name)):
        try:
            index = _read_index(path)
            index["maps"], drawn = _read_maps(maps, path.parent.name)
            packed = _pack(index, path.parent, drawn, limit // len(indices), found.missing)
        except MoesegError as error:
            found.missing.append(f"Frame explorer: {error}")
            continue
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            name = f"{path.parent.name}/{path.name}"
            found.missing.append(f"Frame explorer: {name} is not as expected ({error!r}).")
            continue
        if packed["frames"]:
            found.sets.append(packed)
    return found


def _read_index(path: Path) -> dict[str, Any]:
    name = f"{path.parent.name}/{path.name}"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"expected JSON in {name}, could not read it: {error}.") from error
    absent = [key for key in _KEYS if not isinstance(index, dict) or key not in index]
    if absent:
        raise DataError(f"expected {', '.join(absent)} in {name}; make the layers again.")
    return dict(index)


def _read_maps(maps: Path | None, condition: str) -> tuple[dict[str, list[str]], dict[str, Path]]:
    """Return the scores of each model that are drawn, and the folder of each frame, by its key."""
    place = None if maps is None else maps / condition
    if place is None or not (place / "index.json").is_file():
        return {}, {}
    index = json.loads((place / "index.json").read_text(encoding="utf-8"))
    return dict(index["maps"]), {key: place / str(own) for key, own in index["frames"].items()}


def _pack(
    index: dict[str, Any],
    folder: Path,
    drawn: dict[str, Path],
    limit: int,
    missing: list[str],
) -> dict[str, Any]:
    """Return an index with the pictures in it, as many frames as `limit` bytes hold."""
    kept, spent, left_out = [], 0, 0
    for number in _in_turns([frame["subset"] for frame in index["frames"]]):
        frame = index["frames"][number]
        packed = _frame(index, frame, folder / str(frame["dir"]), missing)
        if frame["key"] in drawn:
            packed["layers"] |= _maps(index, frame, drawn[frame["key"]], missing)
        size = sum(map(len, (packed["photo"] or "", *packed["layers"].values())))
        if left_out or spent + size > limit:  # a later one that fits does not jump the queue
            left_out += 1
            continue
        spent += size
        if packed["photo"] or packed["layers"]:
            kept.append((number, packed))
    if left_out:
        missing.append(
            f"Frame explorer: {left_out} of {len(index['frames'])} frames "
            f"({index['condition']}) are left out, to keep this page small."
        )
    mixtures = {
        name: mixture
        | {
            "categories": _categories(mixture["experts"]),
            "colours": of_experts(len(mixture["experts"])),
        }
        for name, mixture in index["mixtures"].items()
    }
    return index | {
        "mixtures": mixtures,
        "frames": [frame for _, frame in sorted(kept, key=_first)],
    }


def _first(pair: tuple[int, dict[str, Any]]) -> int:
    return pair[0]


def _in_turns(subsets: list[str]) -> list[int]:
    """Return frame numbers so that each subset has its turn: all firsts, all seconds ..."""
    seen: dict[str, int] = {}
    turns = []
    for number, subset in enumerate(subsets):
        seen[subset] = seen.get(subset, 0) + 1
        turns.append((seen[subset], number))
    return [number for _, number in sorted(turns)]


def _frame(
    index: dict[str, Any], frame: dict[str, Any], folder: Path, missing: list[str]
) -> dict[str, Any]:
    layers: dict[str, str] = {}
    photo = None
    for name in ("photo", "label", *index["models"]):
        path = folder / f"{name}.png"
        try:
            if name == "photo":
                photo = _photo(path)
            else:
                layers[name] = _ids(path, index["size"])
        except DataError as error:
            place = f"{index['condition']}/{folder.name}/{path.name}"
            missing.append(f"Frame explorer: {place} of {frame['key']}: {error}")
    return {key: value for key, value in frame.items() if key != "dir"} | {
        "photo": photo,
        "layers": layers,
    }


def _maps(
    index: dict[str, Any], frame: dict[str, Any], folder: Path, missing: list[str]
) -> dict[str, str]:
    """Return the maps of a frame by model and score, in ten steps 0..9."""
    found = {}
    for name in (f"{model}.{score}" for model, own in index["maps"].items() for score in own):
        try:
            found[name] = _ids(folder / f"{name}.png", index["size"], steps=10)
        except DataError as error:
            place = f"{index['condition']}/{folder.name}/{name}.png"
            missing.append(f"Frame explorer: {place} of {frame['key']}: {error}")
    return found


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except FileNotFoundError as error:
        raise DataError("the file is missing.") from error
    except (OSError, SyntaxError) as error:
        raise DataError("no picture could be read from the file.") from error


def _photo(path: Path) -> str:
    file = io.BytesIO()
    _open(path).convert("RGB").save(file, "WEBP", quality=88, method=4)
    return _uri("webp", file)


def _ids(path: Path, size: list[int], steps: int = 256) -> str:
    """Return ids as PNG of their own making, without what a colour profile might change.

    With fewer `steps`, 0..255 becomes 0..steps - 1, which takes less room.
    """
    picture = _open(path)
    if picture.mode != "L" or [picture.height, picture.width] != size:
        raise DataError(
            f"expected 8-bit ids of {size[0]} x {size[1]} pixels, got {picture.mode} of "
            f"{picture.height} x {picture.width}."
        )
    file = io.BytesIO()
    plain = Image.frombytes("L", picture.size, picture.tobytes())
    if steps < 256:
        plain = plain.point([value * steps // 256 for value in range(256)])
    plain.save(file, "PNG", optimize=True)
    return _uri("png", file)


def _uri(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _categories(experts: list[str]) -> list[dict[str, str]]:
    """Return name and colours of each category of agreement, by bitmask."""
    names, count = category_names(experts), len(experts)
    both = zip(names, by_mask(count), by_mask(count, "original"), strict=True)
    return [{"name": name, "colour": own, "original": first} for name, own, first in both]
