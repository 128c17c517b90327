"""Colours of the report; those of experts and of agreement are `moeseg.insight.overlay`'s."""

from __future__ import annotations

from collections.abc import Sequence

from moeseg.insight.agreement import category_names
from moeseg.insight.overlay import Scheme, category_colours, expert_colours

LINES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
"""Of lines; colour-blind people tell them apart (Okabe and Ito, 2008, without the yellow, which is
too faint for a line on white)."""

DASHES = ("", "7 3", "2 3", "9 3 2 3")
"""`stroke-dasharray` of lines, so that they differ without colour too."""

UNANIMOUS = "#d9d9d9"
"""Of pixels on which all agree, in plots; over a photo they stay unpainted."""


def of_experts(count: int) -> list[str]:
    """Return a colour for each expert of a mixture."""
    return [_css(colour) for colour in expert_colours(count)]


def of_models(experts: int) -> list[str]:
    """Return colours for areas of any models, experts first, who have their own everywhere."""
    return [*of_experts(experts), *(c for c in of_experts(7) if c not in of_experts(experts))]


def by_mask(experts: int, scheme: Scheme = "safe") -> list[str]:
    """Return the colour of each agreement category, by bitmask; empty where nothing is painted."""
    return ["" if c is None else _css(c) for c in category_colours(experts, scheme)]


def of_categories(names: Sequence[str], experts: Sequence[str]) -> list[str]:
    """Return the colours of categories by name, for plots.

    Args:
        names: of categories, in any order.
        experts: all names, in the mixture's order.
    """
    known = dict(zip(category_names(experts), by_mask(len(experts)), strict=True))
    return [known.get(name) or UNANIMOUS for name in names]


def _css(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
