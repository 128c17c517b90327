"""What the experts know, as pictures: agreement, errors, winning expert, gate weights, and a sheet.

Pure functions on arrays of one frame; nothing is read or predicted here. Colours of categories and
experts are those of Okabe and Ito (2008), which colour-blind people tell apart, or the original's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from moeseg.errors import DataError, UsageError, unknown_name
from moeseg.evaluation.sheet import Colour, Pixels, SheetRow, contact_sheet, drawable
from moeseg.insight.agreement import agreement_mask, category_names, short
from moeseg.types import IGNORE

Scheme = Literal["safe", "original"]
"""``safe`` for colour-blind people, ``original`` as published: red, green, blue."""
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

Ids = NDArray[np.uint8]

ALPHA = 100 / 255
"""Opacity over the photo, as published."""

OVERRULES: dict[Scheme, Colour] = {"safe": (213, 94, 0), "original": (255, 0, 0)}
"""Of pixels on which the mixture agrees with no expert (vermillion, red); also of wrong pixels."""

_OKABE_ITO: tuple[Colour, ...] = (
    (0, 114, 178),  # blue
    (240, 228, 66),  # yellow
    (0, 158, 115),  # bluish green
    (204, 121, 167),  # reddish purple
    (86, 180, 233),  # sky blue
    (230, 159, 0),  # orange
    (0, 0, 0),
    (153, 153, 153),
)
EXPERTS: dict[Scheme, tuple[Colour, ...]] = {
    "safe": _OKABE_ITO,
    "original": ((0, 255, 0), (0, 0, 255), *_OKABE_ITO[1:2], *_OKABE_ITO[3:]),
}
"""Of the experts, in a mixture's order; up to 7 of the original's scheme, 8 of the safe one."""

_PAPER: Colour = (255, 255, 255)
_INK: Colour = (20, 20, 20)
_UNKNOWN: Colour = (60, 60, 60)
_CELL = (320, 640)  # least and greatest width of a picture on a sheet


def scheme_of(name: str) -> Scheme:
    """Return a colour scheme by its name, or raise UsageError."""
    for known in SCHEMES:
        if name == known:
            return known
    raise UsageError(unknown_name("colours", name, SCHEMES))


def expert_colours(experts: int, scheme: Scheme = "safe") -> tuple[Colour, ...]:
    """Return a colour for each of E experts.

    Raises:
        DataError: there are more experts than colours.
    """
    known = EXPERTS[scheme]
    if experts > len(known):
        raise DataError(f"expected at most {len(known)} experts to colour, got {experts}.")
    return known[:experts]


def category_colours(experts: int, scheme: Scheme = "safe") -> tuple[Colour | None, ...]:
    """Return the colour of each agreement category, by bitmask; None is transparent (unanimous).

    A category that follows one expert has that expert's colour; one that follows several has a
    colour of its own as long as there are some, then the mean of theirs.
    """
    singles = expert_colours(experts, scheme)
    spare = list(EXPERTS[scheme][experts:])
    found: list[Colour | None] = [OVERRULES[scheme]]
    for mask in range(1, 2**experts - 1):
        own = [singles[e] for e in range(experts) if mask >> e & 1]
        if len(own) == 1:
            found.append(own[0])
        elif spare:
            found.append(spare.pop(0))
        else:
            red, green, blue = np.mean(own, axis=0).round().astype(int).tolist()
            found.append((red, green, blue))
    return (*found, None)


def tinted(photo: Pixels, colours: Pixels, where: NDArray[np.bool_], alpha: float) -> Pixels:
    """Lay colours over some pixels of a photo, leaving the others untouched.

    Args:
        photo: (H, W, 3) uint8.
        colours: (H, W, 3) uint8, or (3,) for one colour.
        where: (H, W).
        alpha: 0..1, opacity of the colours.
    """
    mixed = photo.astype(np.float32) * (1 - alpha) + colours.astype(np.float32) * alpha
    pixels: Pixels = np.where(where[..., None], mixed.round(), photo).astype(np.uint8)
    return pixels


def agreement_overlay(
    photo: Pixels, ids: Ids, expert_ids: Ids, *, scheme: Scheme = "safe", alpha: float = ALPHA
) -> Pixels:
    """Colour a photo by agreement category; pixels on which all agree show the photo.

    Args:
        photo: (H, W, 3) uint8.
        ids: (H, W) classes of the mixture.
        expert_ids: (E, H, W) classes of its experts.
        scheme: of the colours.
        alpha: their opacity, 0..1.
    """
    own, each = (torch.from_numpy(one[None].astype(np.int64)) for one in (ids, expert_ids))
    mask = agreement_mask(own, each)[0].numpy()  # (H, W)
    colours = category_colours(len(expert_ids), scheme)
    palette = np.array([colour or _PAPER for colour in colours], np.uint8)
    return tinted(photo, palette[mask], mask != len(colours) - 1, alpha)


def error_overlay(
    photo: Pixels, ids: Ids, label: Ids, *, scheme: Scheme = "safe", alpha: float = 0.75
) -> Pixels:
    """Mark what is wrong on a pale grey photo; what has no label is dark.

    Args:
        photo: (H, W, 3) uint8.
        ids: (H, W) predicted classes.
        label: (H, W) ids, 255 ignored.
        scheme: gives the colour of wrong pixels.
        alpha: opacity of the marks, 0..1.
    """
    grey = photo.mean(axis=2, keepdims=True).repeat(3, axis=2)  # (H, W, 3) -> grey (H, W, 3)
    pale: Pixels = (127.5 + grey / 2).astype(np.uint8)
    ignored = label == IGNORE
    wrong = (ids != label) & ~ignored
    marked = tinted(pale, np.array(OVERRULES[scheme], np.uint8), wrong, alpha)
    return tinted(marked, np.array(_UNKNOWN, np.uint8), ignored, alpha)


def winning_expert(ids: Ids, weights: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return for each pixel the expert with the largest weight for the class predicted there.

    Args:
        ids: (H, W) classes of the mixture.
        weights: (E, K), K either 1 or C.

    Returns:
        (H, W) in 0..E-1; the first of equal ones.
    """
    by_class = weights.argmax(axis=0)  # (E, K) -> (K,)
    winners: NDArray[np.int64] = by_class[ids if len(by_class) > 1 else np.zeros_like(ids)]
    return winners


def winner_overlay(
    photo: Pixels,
    ids: Ids,
    weights: NDArray[np.floating],
    *,
    scheme: Scheme = "safe",
    alpha: float = ALPHA,
) -> Pixels:
    """Colour a photo by `winning_expert`."""
    palette = np.array(expert_colours(len(weights), scheme), np.uint8)
    colours: Pixels = palette[winning_expert(ids, weights)]
    return tinted(photo, colours, np.ones(ids.shape, bool), alpha)


def weight_bars(
    weights: NDArray[np.floating],
    ids: Ids,
    classes: Sequence[str],
    size: tuple[int, int],
    *,
    scheme: Scheme = "safe",
) -> Pixels:
    """Draw gate weights as stacked bars in the experts' colours.

    Args:
        weights: (E, K); K = 1 gives one bar, K = C one for each class that is predicted, those with
            most pixels first, as many as there is room for.
        ids: (H, W) classes of the mixture.
        classes: C names.
        size: (H, W) of the picture.
        scheme: of the colours.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = size
    picture = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=11)
    line = 15
    counts = np.bincount(ids.ravel(), minlength=len(classes))
    bars = [("all classes", weights[:, 0])]
    if weights.shape[1] > 1:
        order = np.argsort(-counts, kind="stable")[: max(1, height // line)]
        bars = [(classes[c], weights[:, c]) for c in order.tolist() if counts[c]]
    left = width * 2 // 5
    for place, (name, shares) in enumerate(bars):
        top = place * line
        edges = left + np.concatenate([[0.0], shares.cumsum()]) * (width - left - 36)
        for colour, start, end in zip(
            expert_colours(len(shares), scheme), edges[:-1], edges[1:], strict=True
        ):
            if round(end) > round(start):
                draw.rectangle((round(start), top + 2, round(end) - 1, top + 12), fill=colour)
        text = drawable(name)
        while font.getlength(text) > left - 8:
            text = text[:-1]
        draw.text((2, top), text, _INK, font)
        draw.text((width - 32, top), f"{float(shares[0]):.2f}", _INK, font)
    return np.asarray(picture)


@dataclass(frozen=True, slots=True)
class FrameView:
    """All there is to show of one frame.

    Attributes:
        head: lines of text: subset, key, scores.
        photo: (H, W, 3) uint8.
        label: (H, W) ids, 255 ignored; None for a photo without label.
        model: name of the mixture.
        ids: (H, W) classes of the mixture.
        experts: E names.
        expert_ids: (E, H, W) their classes.
        weights: (E, K) of the gate, K either 1 or C; None without a gate.
    """

    head: tuple[str, ...]
    photo: Pixels
    label: Ids | None
    model: str
    ids: Ids
    experts: tuple[str, ...]
    expert_ids: Ids
    weights: NDArray[np.floating] | None


def frame_sheet(
    view: FrameView,
    classes: Sequence[str],
    colours: Sequence[Colour],
    *,
    scheme: Scheme = "safe",
) -> Image.Image:
    """Put everything about a frame on one sheet: photo, masks, agreement, errors, weights, legend.

    Args:
        view: the frame.
        classes: C names.
        colours: of the classes.
        scheme: of agreement categories and experts.
    """
    view = _enlarged(view)
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colours)] = colours
    panels: list[tuple[str, Pixels]] = [("photo", view.photo)]
    if view.label is not None:
        panels.append(("label", palette[view.label]))
    panels += [(n, palette[i]) for n, i in zip(view.experts, view.expert_ids, strict=True)]
    panels.append((view.model, palette[view.ids]))
    agreement = agreement_overlay(view.photo, view.ids, view.expert_ids, scheme=scheme)
    panels.append(("agreement", agreement))
    shown = [view.ids, view.expert_ids] if view.label is None else [view.ids, view.label]
    present = {int(i) for ids in (*shown, view.expert_ids) for i in np.unique(ids)}
    legend = {classes[i]: colours[i] for i in range(len(classes)) if i in present}
    names = category_names(view.experts)
    for name, colour in zip(names, category_colours(len(view.experts), scheme), strict=True):
        if colour is not None:
            legend[f"agreement: {name}"] = colour
    if view.label is not None:
        panels.append(("error", error_overlay(view.photo, view.ids, view.label, scheme=scheme)))
        legend |= {"error: wrong": OVERRULES[scheme], "error: no label": _UNKNOWN}
    if view.weights is not None:
        winners = winner_overlay(view.photo, view.ids, view.weights, scheme=scheme)
        panels.append(("expert with the largest weight", winners))
        size = view.ids.shape[0], view.ids.shape[1]
        bars = weight_bars(view.weights, view.ids, classes, size, scheme=scheme)
        panels.append((f"gate weights (figure: {short(view.experts[0])})", bars))
        for name, colour in zip(
            view.experts, expert_colours(len(view.experts), scheme), strict=True
        ):
            legend[f"weight: {short(name)}"] = colour
    return _grid(view.head, panels, legend)


def _enlarged(view: FrameView) -> FrameView:
    """Bring a frame to a width at which it can be looked at; ids are never blended."""
    height, width = view.ids.shape
    wide = min(width * -(-_CELL[0] // width), _CELL[1])
    tall = max(1, round(height * wide / width))

    def ids_at(ids: Ids) -> Ids:
        return np.asarray(Image.fromarray(ids).resize((wide, tall), Image.Resampling.NEAREST))

    picture = Image.fromarray(view.photo).resize((wide, tall), Image.Resampling.BILINEAR)
    return replace(
        view,
        photo=np.asarray(picture),
        label=None if view.label is None else ids_at(view.label),
        ids=ids_at(view.ids),
        expert_ids=np.stack([ids_at(ids) for ids in view.expert_ids]),
    )


def _grid(
    head: tuple[str, ...], panels: Sequence[tuple[str, Pixels]], legend: dict[str, Colour]
) -> Image.Image:
    """Arrange captioned panels in rows of three, or of four where that leaves fewer gaps."""
    across = min(3, 4, key=lambda n: (-len(panels) % n, n))
    cells = [_captioned(name, picture) for name, picture in panels]
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % across)
    rows = [
        SheetRow(head if start == 0 else (), tuple(cells[start : start + across]))
        for start in range(0, len(cells), across)
    ]
    return contact_sheet([""] * across, rows, legend, cell_width=cells[0].shape[1])


def _captioned(name: str, picture: Pixels) -> Pixels:
    """Return a picture (H, W, 3) with a line of text above it."""
    strip = Image.new("RGB", (picture.shape[1], 18), _PAPER)
    text = drawable(name)
    ImageDraw.Draw(strip).text((0, 1), text, _INK, ImageFont.load_default(size=13))
    return np.concatenate([np.asarray(strip), picture])
