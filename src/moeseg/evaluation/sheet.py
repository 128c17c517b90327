"""The contact sheet: photo, label and every model's mask for some frames, with a legend.

Only pixels are arranged here; which frames and which models, and decoding ids to colours, is the
caller's part.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from moeseg.errors import DataError

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_GAP = 6
_PAPER: Colour = (255, 255, 255)
_INK: Colour = (20, 20, 20)
_EDGE: Colour = (150, 150, 150)


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One frame on the sheet.

    Attributes:
        head: lines of text at its left, e.g. subset and key.
        cells: (H, W, 3) uint8 pictures, one per column.
    """

    head: tuple[str, ...]
    cells: tuple[Pixels, ...]


def photo(image: Tensor) -> Pixels:
    """Return (3, H, W) floats in 0..1 as (H, W, 3) uint8."""
    scaled = image.detach().clamp(0.0, 1.0).mul(255.0).round()
    pixels: Pixels = scaled.permute(1, 2, 0).cpu().numpy().astype(np.uint8)  # -> (H, W, 3)
    return pixels


def overlay(image: Pixels, mask: Pixels, alpha: float) -> Pixels:
    """Lay a coloured mask over a photo.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W, 3) uint8 colours.
        alpha: 0 shows the photo, 1 the mask.

    Raises:
        DataError: sizes differ, or alpha is outside 0..1.
    """
    if image.shape != mask.shape:
        raise DataError(f"expected a mask of the photo's shape {image.shape}, got {mask.shape}.")
    if not 0.0 <= alpha <= 1.0:
        raise DataError(f"expected alpha in 0..1, got {alpha}.")
    mixed = image.astype(np.float32) * (1.0 - alpha) + mask.astype(np.float32) * alpha
    pixels: Pixels = mixed.round().astype(np.uint8)
    return pixels


def contact_sheet(
    columns: Sequence[str],
    rows: Sequence[SheetRow],
    legend: Mapping[str, Colour],
    *,
    cell_width: int = 240,
    smooth: Collection[str] = ("photo",),
) -> Image.Image:
    """Arrange pictures under column heads, beside row heads, above a legend of class colours.

    Args:
        columns: heads.
        rows: one per frame, each with as many cells as there are columns.
        legend: class name -> colour, 0..255 each.
        cell_width: in pixels; heights follow each picture's shape.
        smooth: columns to resize as photos; colours of all others are never blended.

    Raises:
        DataError: there is no row, or one has another number of cells.
    """
    if not rows:
        raise DataError("expected at least one frame for a contact sheet, got none.")
    for row in rows:
        if len(row.cells) != len(columns):
            raise DataError(
                f"expected {len(columns)} pictures for {' '.join(row.head)!r}, "
                f"got {len(row.cells)}; one per column."
            )
    font: Font = ImageFont.load_default(size=13)
    line = 17
    heads = [_wrapped(font, row.head, 170) for row in rows]
    names = [_wrapped(font, (name,), cell_width) for name in columns]
    left = 2 * _GAP + max(int(font.getlength(text)) for head in heads for text in head) + 1
    top = 2 * _GAP + line * max(len(name) for name in names)
    heights = [
        max(line * len(head), *(_height(cell, cell_width) for cell in row.cells))
        for head, row in zip(heads, rows, strict=True)
    ]
    width = left + len(columns) * (cell_width + _GAP)
    body = top + sum(height + _GAP for height in heights)
    entries = _legend_places(font, legend, width)
    bottom = max((y for *_, y in entries), default=-line) + line + 2 * _GAP
    sheet = Image.new("RGB", (width, body + bottom), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, broken in enumerate(names):
        x = left + index * (cell_width + _GAP)
        for number, text in enumerate(broken):
            draw.text((x, _GAP + number * line), text, _INK, font)
    y = top
    for head, row, height in zip(heads, rows, heights, strict=True):
        for number, text in enumerate(head):
            draw.text((_GAP, y + number * line), text, _INK, font)
        for index, cell in enumerate(row.cells):
            x = left + index * (cell_width + _GAP)
            sheet.paste(_fitted(cell, cell_width, smooth=columns[index] in smooth), (x, y))
        y += height + _GAP
    for name, colour, x, below in entries:
        spot = (x, body + below + 2, x + 14, body + below + 14)
        draw.rectangle(spot, fill=tuple(colour), outline=_EDGE)
        draw.text((x + 20, body + below), name, _INK, font)
    return sheet


def _fitted(cell: Pixels, width: int, *, smooth: bool) -> Image.Image:
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return Image.fromarray(cell).resize((width, _height(cell, width)), how)


def _height(cell: Pixels, width: int) -> int:
    height, full = int(cell.shape[0]), int(cell.shape[1])
    return max(1, round(height * width / full))


def _wrapped(font: Font, texts: Sequence[str], width: int) -> list[str]:
    """Break texts into lines of at most `width` pixels, anywhere if need be."""
    lines = []
    for text in map(drawable, texts):
        current = ""
        for sign in text:
            if current and font.getlength(current + sign) > width:
                lines.append(current)
                current = ""
            current += sign
        lines.append(current)
    return lines


def drawable(text: str) -> str:
    """Reduce a text to what Pillow's own font can draw: ASCII; accents go, the rest is ``?``."""
    parts = unicodedata.normalize("NFKD", text)
    base = "".join(sign for sign in parts if not unicodedata.combining(sign))
    return base.encode("ascii", "replace").decode("ascii")


def _legend_places(
    font: Font, legend: Mapping[str, Colour], width: int
) -> list[tuple[str, Colour, int, int]]:
    """Return name, colour, x and y (below the pictures) of each entry, in columns."""
    if not legend:
        return []
    names = [drawable(name) for name in legend]
    step = 20 + 2 * _GAP + max(int(font.getlength(name)) for name in names) + 1
    across = max(1, (width - _GAP) // step)
    down = -(-len(legend) // across)
    return [
        (name, colour, _GAP + index // down * step, index % down * 18 + _GAP)
        for index, (name, colour) in enumerate(zip(names, legend.values(), strict=True))
    ]
