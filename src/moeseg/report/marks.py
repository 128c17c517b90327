"""What figures are made of: texts, lines, paths, colours and ticks, as pieces of SVG text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH = 400.0
"""Of every figure, in its own units."""

Box = tuple[float, float, float, float]
"""Left, right, upper and lower edge of a plot."""

PLOT: Box = (52.0, WIDTH - 12, 10.0, 250.0)
"""Where curves are drawn."""

_CHARACTER = 6.9  # width of a letter at the size that page.css sets
_LONGEST_NAME = 32


def drawing(height: float, parts: Sequence[str], label: str) -> str:
    """Return an SVG of the common width from its parts; `label` says what it shows."""
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def text(x: float, y: float, text: str, anchor: str) -> str:
    """Return a text; `anchor` is start, middle or end."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def name_at(
    x: float,
    y: float,
    name: str,
    anchor: str = "end",
    longest: int = _LONGEST_NAME,
    kind: str = "name",
) -> str:
    """Write a name, cut where it is too long, with the whole of it as its title."""
    cut = name if len(name) <= longest else name[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"<title>{escape(name)}</title>{escape(cut)}</text>"
    )


def head_at(x: float, name: str, longest: int) -> str:
    """Write a column's head, on two lines where it is too long for one and has a space."""
    first, space, second = name.partition(" ")
    if len(name) <= longest or not space:
        return name_at(x, 26, name, "middle", longest)
    return name_at(x, 12, first, "middle", longest) + name_at(x, 26, second, "middle", longest)


def name_width(names: Sequence[str]) -> float:
    """Return how much room names at the left of a figure take."""
    longest = max((min(len(name), _LONGEST_NAME) for name in names), default=0)
    return 16 + _CHARACTER * longest


def text_on(colour: str, x: float, y: float, text: str) -> str:
    """Write on a coloured ground, dark or light by the ground's luminance."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    dark = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.18
    ink = "#ffffff" if dark else "#111111"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" style="fill:{ink}">{text}</text>'


def rule(x1: float, y1: float, x2: float, y2: float, kind: str = "rule") -> str:
    """Return a straight line; `kind` is its class in figures.css."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def path(points: Sequence[tuple[float, float]], colour: str, dash: str, name: str = "") -> str:
    """Return a curve through points."""
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    title = f"<title>{escape(name)}</title>" if name else ""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path class="curve" d="M{steps}" stroke="{colour}"{dashed}>{title}</path>'


def shade(value: float) -> str:
    """Return the colour of a share: white at 0, dark at 1."""
    share = min(max(value, 0.0), 1.0)
    ends = zip((255, 255, 255), (0, 72, 130), strict=True)
    return "#" + "".join(f"{round(light + share * (dark - light)):02x}" for light, dark in ends)


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers in low..high, at most seven."""
    span = high - low
    step = 10.0 ** math.floor(math.log10(span))
    step = next(step * f for f in (0.1, 0.2, 0.5, 1.0, 2.0) if span / (step * f) <= 6.0)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def short(number: float) -> str:
    """Write a number at an axis."""
    return f"{number:.6g}" if abs(number) < 1 or number == round(number) else f"{number:.1f}"


def y_axis(box: Box, top: float, y_name: str) -> list[str]:
    """Return rules and numbers of an axis over 0..`top`, and its name beside it."""
    left, right, high, low = box
    parts = []
    for tick in ticks(0.0, top):
        level = low - tick / top * (low - high)
        parts.append(
            rule(left, level, right, level) + text(left - 6, level + 4, short(tick), "end")
        )
    parts.append(
        f'<text transform="translate(13 {(low + high) / 2:.1f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_name)}</text>'
    )
    return parts
