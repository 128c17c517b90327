"""A label set: class names, ids and colours, and the way from colours to ids and back.

Built-in tables lie in `palettes.py`, the reading of label files in `labels.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from moeseg.data.palettes import A2D2_38_TO_11, PALETTES
from moeseg.errors import DataError, UsageError, unknown_name
from moeseg.types import IGNORE

Colour = tuple[int, int, int]

_MAPPINGS = {("a2d2-38", "a2d2-11"): A2D2_38_TO_11}

# The look-up table holds `id ^ _UNKNOWN`, so that an untouched (zero) page of it means unknown and
# the 16.7 million entries cost only the few pages that are in use.
_UNKNOWN = 254
_ROWS = 32  # a band of this many rows stays in the processor's cache (measured: 4 ms a frame)
_NAMED = 20  # colours named one by one in a message


class UnknownLabels(DataError):  # noqa: N818 - a kind of DataError, named for what was found
    """A label picture holds colours or ids that its taxonomy does not know.

    Attributes:
        counts: pixels by colour (``"#rrggbb"``) or id (``"id 17"``).
    """

    def __init__(self, where: str, taxonomy: str, counts: Mapping[str, int]) -> None:
        self.counts = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
        named = [f"{name} ({n:,} pixels)" for name, n in list(self.counts.items())[:_NAMED]]
        more = f" and {len(self.counts) - _NAMED} more" if len(self.counts) > _NAMED else ""
        super().__init__(
            f"{where}: expected the labels of taxonomy {taxonomy!r}, got unknown "
            f"{', '.join(named)}{more}. Add them to the taxonomy (as a class or under `ignore`), "
            "or choose the taxonomy that the files are drawn in."
        )
        self._arguments = (where, taxonomy, self.counts)

    def __reduce__(self) -> tuple[Any, ...]:
        # exceptions pickle by their message alone; loader workers send this one whole
        return type(self), self._arguments


@dataclass(frozen=True)
class Taxonomy:
    """The names, ids and colours of a label set; ids are places in `classes`.

    Attributes:
        name: e.g. ``a2d2-38``.
        classes: class names, in id order.
        colours: for each class its RGB colours (0..255); the first is the one it is shown in.
        ignore: colours that mean "not labelled"; they become id 255.

    Raises:
        DataError: names or colours stand twice, a class has no colour, or there are more than 254.
    """

    name: str
    classes: tuple[str, ...]
    colours: tuple[tuple[Colour, ...], ...]
    ignore: tuple[Colour, ...] = ()

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise DataError(f"taxonomy {self.name!r}: " + "; ".join(problems) + ".")

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.classes)

    @classmethod
    def load(cls, name_or_path: str | Path) -> Taxonomy:
        """Return a built-in taxonomy, or read one from a YAML or JSON file.

        A file holds ``name``, ``classes`` (a list of ``{name, colours: ["#rrggbb", ...]}`` in id
        order) and, if wanted, ``ignore`` (a list of colours).

        Raises:
            UsageError: neither a built-in name nor a path.
            DataError: the file is missing, or not as described.
        """
        name = str(name_or_path)
        if name in PALETTES:
            classes, ignored = PALETTES[name]
            return cls(
                name=name,
                classes=tuple(label for label, _ in classes),
                colours=tuple(_words(words) for _, words in classes),
                ignore=_words(ignored),
            )
        path = Path(name_or_path)
        if not path.suffix and not path.is_file():
            raise UsageError(
                unknown_name("taxonomy", name, PALETTES) + " Or give the path of a YAML file."
            )
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(
                f"{path}: no such taxonomy file. Give a YAML file or one of: "
                f"{', '.join(sorted(PALETTES))}."
            ) from error
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise DataError(f"{path}: can't read the taxonomy: {error}.") from error
        return cls.from_json(content, str(path))

    @classmethod
    def from_json(cls, content: object, where: str = "taxonomy") -> Taxonomy:
        """Build a taxonomy from what `to_json` gives (or a YAML file holds).

        Args:
            content: the parsed document.
            where: the file or model it stands in, for messages.

        Raises:
            DataError: keys are missing, unknown or of the wrong kind; all are named at once.
        """
        problems: list[str] = []
        table = _keys(content, {"name", "classes"}, {"ignore"}, "", problems)
        entries = _list(table.get("classes", []), "classes", problems)
        names, colours = [], []
        for i, entry in enumerate(entries):
            fields = _keys(entry, {"name", "colours"}, set(), f"classes[{i}]", problems)
            names.append(str(fields.get("name", i)))
            key = f"classes[{i}].colours"
            texts = _list(fields.get("colours", []), key, problems)
            colours.append(tuple(_parse(text, key, problems) for text in texts))
        ignored = _list(table.get("ignore") or [], "ignore", problems)
        ignore = tuple(_parse(text, "ignore", problems) for text in ignored)
        if problems:
            raise DataError(f"{where}: not a taxonomy: " + "; ".join(problems) + ".")
        try:
            return cls(str(table["name"]), tuple(names), tuple(colours), ignore)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Return the taxonomy as JSON-ready values; `from_json` reads it back equal."""
        return {
            "name": self.name,
            "classes": [
                {"name": name, "colours": [_hex(colour) for colour in colours]}
                for name, colours in zip(self.classes, self.colours, strict=True)
            ],
            "ignore": [_hex(colour) for colour in self.ignore],
        }

    def encode(self, rgb: NDArray[np.uint8], where: str) -> NDArray[np.uint8]:
        """Turn a label picture in colours into class ids.

        Args:
            rgb: (H, W, 3), 0..255.
            where: the file, for messages.

        Returns:
            (H, W) ids; 255 where the colour is one of `ignore`.

        Raises:
            UnknownLabels: a colour is not known; names each, its pixel count and the file.
        """
        table = _lookup(self)
        ids = np.empty(rgb.shape[:2], np.uint8)
        packed = np.zeros((_ROWS, rgb.shape[1], 4), np.uint8)
        for top in range(0, len(rgb), _ROWS):
            band = rgb[top : top + _ROWS]
            for channel in range(3):
                packed[: len(band), :, channel] = band[:, :, channel]
            codes = packed[: len(band)].view("<u4")[:, :, 0]  # (rows, W, 4) bytes -> (rows, W)
            np.take(table, codes, out=ids[top : top + _ROWS], mode="clip")  # no check: all in range
        if not ids.all():
            raise UnknownLabels(where, self.name, _count_colours(rgb[ids == 0]))
        ids ^= _UNKNOWN
        return ids

    def decode(self, ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn class ids (H, W) into colours (H, W, 3); 255 is the first ignored colour or black.

        Raises:
            DataError: an id is neither a class nor 255.
        """
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(self)] = [colours[0] for colours in self.colours]
        palette[IGNORE] = self.ignore[0] if self.ignore else (0, 0, 0)
        self.check_ids(ids, "decode")
        return palette[ids]  # (H, W) -> (H, W, 3)

    def check_ids(self, ids: NDArray[np.uint8], where: str) -> None:
        """Check that ids are classes of this taxonomy or 255.

        Raises:
            UnknownLabels: some are not; names each and its pixel count.
        """
        if not ids.size or int(ids.max()) < len(self):
            return
        counts = np.bincount(ids.ravel(), minlength=256)[len(self) : IGNORE]
        if counts.any():
            unknown = {f"id {len(self) + i}": int(n) for i, n in enumerate(counts) if n}
            raise UnknownLabels(where, self.name, unknown)

    def mapping_to(self, other: Taxonomy) -> NDArray[np.uint8]:
        """Return the ids in `other` of this taxonomy's ids.

        Returns:
            (256,) table: `table[ids]` are ids in `other`; 255 where a class has no counterpart.

        Raises:
            UsageError: no mapping between the two is known.
        """
        ids = np.arange(len(self)) if self == other else None
        if (self.name, other.name) in _MAPPINGS:
            ids = np.array(_MAPPINGS[self.name, other.name])
        if ids is None:
            known = ", ".join(f"{a} -> {b}" for a, b in _MAPPINGS)
            raise UsageError(
                f"no mapping from taxonomy {self.name!r} to {other.name!r}; known: {known}. "
                "Give the data a taxonomy file whose classes list the colours they join."
            )
        table = np.full(256, IGNORE, np.uint8)
        table[: len(self)] = np.where(ids < 0, IGNORE, ids)
        return table


@lru_cache(maxsize=8)
def _lookup(taxonomy: Taxonomy) -> NDArray[np.uint8]:
    table = np.zeros(1 << 24, np.uint8)
    for red, green, blue in taxonomy.ignore:
        table[red | green << 8 | blue << 16] = IGNORE ^ _UNKNOWN
    for class_id, colours in enumerate(taxonomy.colours):
        for red, green, blue in colours:
            table[red | green << 8 | blue << 16] = class_id ^ _UNKNOWN
    return table


def _count_colours(pixels: NDArray[np.uint8]) -> dict[str, int]:
    colours, counts = np.unique(pixels, axis=0, return_counts=True)  # (N, 3) -> (U, 3), (U,)
    return {
        _hex((int(r), int(g), int(b))): int(n) for (r, g, b), n in zip(colours, counts, strict=True)
    }


def _problems(taxonomy: Taxonomy) -> list[str]:
    found = []
    if not 1 <= len(taxonomy.classes) < _UNKNOWN:
        found.append(f"expected 1 to {_UNKNOWN - 1} classes, got {len(taxonomy.classes)}")
    if len(taxonomy.colours) != len(taxonomy.classes):
        found.append(f"{len(taxonomy.classes)} classes but {len(taxonomy.colours)} colour lists")
    found += [f"class {n!r} stands twice" for n, k in Counter(taxonomy.classes).items() if k > 1]
    used = Counter(c for colours in (*taxonomy.colours, taxonomy.ignore) for c in colours)
    found += [f"colour {_hex(colour)} stands twice" for colour, k in used.items() if k > 1]
    named = zip(taxonomy.classes, taxonomy.colours, strict=False)
    found += [f"class {name!r} has no colour" for name, colours in named if not colours]
    outside = sorted({channel for colour in used for channel in colour if not 0 <= channel <= 255})
    return found + [f"colour channel {channel} is not in 0..255" for channel in outside]


def _words(words: str) -> tuple[Colour, ...]:
    return tuple(_parse(f"#{word}", "", []) for word in words.split())


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _parse(text: object, key: str, problems: list[str]) -> Colour:
    if not isinstance(text, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        problems.append(f'{key}: expected a colour like "#ff8000" (in quotes), got {text!r}')
        return 0, 0, 0
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def _list(value: object, key: str, problems: list[str]) -> list[Any]:
    if isinstance(value, list):
        return value
    problems.append(f"{key}: expected a list, got {value!r}")
    return []


def _keys(
    value: object, needed: set[str], optional: set[str], key: str, problems: list[str]
) -> dict[str, Any]:
    prefix = f"{key}: " if key else ""
    if not isinstance(value, dict):
        problems.append(f"{prefix}expected the keys {', '.join(sorted(needed))}, got {value!r}")
        return {}
    problems += [f"{prefix}key {missing!r} is missing" for missing in sorted(needed - set(value))]
    unknown = (str(name) for name in value if name not in needed | optional)
    problems += [prefix + unknown_name("key", name, needed | optional) for name in unknown]
    return value
