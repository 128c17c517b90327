"""Numbers in, SVG text out: lines, dots with intervals, stacked bars, histograms, heat maps.

What the numbers mean, captions and legends are the caller's part. A figure holds no size of its
own beyond its viewBox, takes its font and line colours from the page's CSS and names every value
in a `<title>`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

_WIDTH = 400.0
_CHARACTER = 6.9  # width of a letter at the size that page.css sets
_LONGEST_NAME = 32


@dataclass(frozen=True, slots=True)
class Line:
    """One curve.

    Attributes:
        name: stands in the legend.
        xs: positions, as many as `ys`.
        ys: values; None leaves a gap.
        colour: as CSS writes it.
        dash: `stroke-dasharray`, so that lines differ without colour; empty for a solid one.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    colour: str
    dash: str = ""


@dataclass(frozen=True, slots=True)
class Dot:
    """One value with its interval, `None` where there is none; `filled` marks a decided one."""

    name: str
    value: float | None
    interval: tuple[float, float] | None
    filled: bool = True


def standalone(svg: str) -> str:
    """Return a figure as the text of an SVG file, which needs no page to be drawn."""
    style = Path(__file__).with_name("figures.css").read_text(encoding="utf-8")
    head, rest = svg.split(">", 1)
    name_space = 'xmlns="http://www.w3.org/2000/svg" font-family="sans-serif"'
    return f"{head} {name_space}><style>{style}</style>{rest}\n"


def pair(ci95: Sequence[float] | None) -> tuple[float, float] | None:
    """Return a row's interval as a `Dot` takes it."""
    return None if ci95 is None else (ci95[0], ci95[1])


def curves(
    lines: Sequence[Line], x_name: str, y_name: str, *, top: float = 1.0, diagonal: bool = False
) -> str:
    """Return lines over x in 0..1 and y in 0..`top`; `diagonal` adds that of chance."""
    left, right, high, low = 52.0, _WIDTH - 12, 10.0, 250.0

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x * (right - left), low - min(y / top, 1.0) * (low - high)

    parts = []
    for tick in _ticks(0.0, top):
        _, level = place(0.0, tick)
        name = _text(left - 6, level + 4, _short(tick), "end")
        parts.append(_rule(left, level, right, level) + name)
    for tick in _ticks(0.0, 1.0):
        x, _ = place(tick, 0.0)
        parts.append(_rule(x, low, x, low + 4) + _text(x, low + 18, _short(tick), "middle"))
    parts.append(_text((left + right) / 2, low + 36, x_name, "middle"))
    parts.append(
        f'<text transform="translate(13 {(low + high) / 2:.1f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_name)}</text>'
    )
    if diagonal:
        parts.append(_path([place(0.0, 0.0), place(1.0, 1.0)], "var(--faint)", "2 4"))
    for line in lines:
        run: list[tuple[float, float]] = []
        for x, y in [*zip(line.xs, line.ys, strict=True), (0.0, None)]:
            if y is not None:
                run.append(place(x, y))
            elif run:
                parts.append(_path(run, line.colour, line.dash, line.name))
                run = []
    return _svg(low + 42, parts, f"{y_name} over {x_name}")


def dots(
    values: Sequence[Dot | str], x_name: str, *, zero: bool = False, unit: float = 100.0
) -> str:
    """Return one line per value: a dot with its interval.

    Args:
        values: from top to bottom; a text is a heading of those that follow.
        x_name: what the axis shows.
        zero: the axis holds 0 and marks it.
        unit: printed numbers are values times this.
    """
    drawn = [dot for dot in values if isinstance(dot, Dot)]
    left = _name_width([dot.name for dot in drawn])
    found = [v * unit for d in drawn for v in (d.value, *(d.interval or ())) if v is not None]
    low, high = min(found, default=0.0), max(found, default=1.0)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = 0.06 * (high - low) or 1.0
    low, high = (low - room if zero else max(0.0, low - room)), high + room
    right, bottom = _WIDTH - 12, 8 + 22.0 * len(values)

    def at(value: float) -> float:
        return left + (value * unit - low) / (high - low) * (right - left)

    parts = []
    for tick in _ticks(low, high):
        x = at(tick / unit)
        strong = zero and tick == 0.0
        parts.append(_rule(x, 4, x, bottom + 4, "zero" if strong else "rule"))
        parts.append(_text(x, bottom + 18, _short(tick), "middle"))
    for number, dot in enumerate(values):
        y = 8 + 22.0 * number + 11
        if isinstance(dot, str):
            parts.append(_name(2, y + 4, dot, "start", longest=60, kind="head"))
            continue
        parts.append(_name(left - 8, y + 4, dot.name))
        if dot.value is None:
            parts.append(_text(left + 4, y + 4, "no value", "start"))
            continue
        told = f"{dot.name}: {dot.value * unit:.2f}"
        marks = ""
        if dot.interval is not None:
            told += f" [{dot.interval[0] * unit:.2f}, {dot.interval[1] * unit:.2f}]"
            marks += _rule(at(dot.interval[0]), y, at(dot.interval[1]), y, "whisker")
        mark = "dot" if dot.filled else "dot hollow"
        marks += f'<circle class="{mark}" cx="{at(dot.value):.1f}" cy="{y:.1f}" r="4.5"/>'
        parts.append(f"<g><title>{escape(told)}</title>{marks}</g>")
    parts.append(_text(right, bottom + 36, x_name, "end"))
    return _svg(bottom + 44, parts, x_name)


def stacked_bars(
    names: Sequence[str],
    parts_of: Sequence[str],
    shares: Sequence[Sequence[float | None]],
    colours: Sequence[str],
) -> str:
    """Return one horizontal bar per name, cut into parts.

    Args:
        names: of the bars, from top to bottom.
        parts_of: names of the parts.
        shares: 0..1 for each bar and part; a bar of None alone says that it has no value.
        colours: of the parts.
    """
    left, right = _name_width(names), _WIDTH - 8
    drawn = []
    for number, (name, bar) in enumerate(zip(names, shares, strict=True)):
        y, x = 6 + 26.0 * number, left
        drawn.append(_name(left - 8, y + 15, name))
        if all(share is None for share in bar):
            drawn.append(_text(left + 4, y + 15, "no pixels", "start"))
        for part, share, colour in zip(parts_of, bar, colours, strict=True):
            if not share:
                continue
            width = share * (right - left)
            told = f"{name}, {part}: {100 * share:.1f} %"
            drawn.append(
                f'<rect class="part" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="20" '
                f'fill="{colour}"><title>{escape(told)}</title></rect>'
            )
            if width > 34:
                drawn.append(_on(colour, x + width / 2, y + 14, f"{100 * share:.0f} %"))
            x += width
    return _svg(6 + 26.0 * len(names) + 4, drawn, "shares in percent")


def histograms(
    names: Sequence[str], counts: Sequence[Sequence[int]], colours: Sequence[str], x_name: str
) -> str:
    """Return one histogram per name over equal bins of 0..1, on one scale of shares."""
    left, right, each = 52.0, _WIDTH - 12, 92.0
    shares = [[n / (sum(row) or 1) for n in row] for row in counts]
    top = max((share for row in shares for share in row), default=0.0) or 1.0
    parts = []
    for number, (name, row, colour) in enumerate(zip(names, shares, colours, strict=True)):
        base = 24 + each * number + 60
        parts.append(_text(left, base - 66, name, "start"))
        parts.append(_text(left - 6, base - 52, _short(100 * top) + " %", "end"))
        parts.append(_rule(left, base, right, base) + _text(left - 6, base + 4, "0", "end"))
        wide = (right - left) / len(row)
        for bin_, share in enumerate(row):
            if share == 0:
                continue
            tall = share / top * 58
            told = f"{name}: weight {bin_ / len(row):.2f} to {(bin_ + 1) / len(row):.2f}"
            parts.append(
                f'<rect class="part" x="{left + bin_ * wide:.1f}" y="{base - tall:.1f}" '
                f'width="{wide:.1f}" height="{tall:.1f}" fill="{colour}">'
                f"<title>{escape(told)}: {100 * share:.1f} % of frames</title></rect>"
            )
    bottom = 24 + each * len(names) - 24
    for tick in _ticks(0.0, 1.0):
        x = left + tick * (right - left)
        parts.append(_text(x, bottom + 10, _short(tick), "middle"))
    parts.append(_text((left + right) / 2, bottom + 28, x_name, "middle"))
    return _svg(bottom + 36, parts, x_name)


def heat_map(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]]
) -> str:
    """Return a grid of values 0..1, white at 0 and dark at 1, each with its number."""
    left = _name_width(rows)
    wide, tall = (_WIDTH - 8 - left) / max(len(columns), 1), 20.0
    parts = []
    for number, column in enumerate(columns):
        x = left + (number + 0.5) * wide
        parts.append(_head(x, column, max(4, int(wide / 6.2))))
    for line, (name, cells) in enumerate(zip(rows, values, strict=True)):
        y = 32 + tall * line
        parts.append(_name(left - 8, y + 14, name))
        for number, (column, value) in enumerate(zip(columns, cells, strict=True)):
            x = left + number * wide
            if value is None:
                parts.append(_text(x + wide / 2, y + 14, "-", "middle"))
                continue
            colour = _shade(value)
            parts.append(
                f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{tall}" '
                f'fill="{colour}"><title>{escape(f"{name}, {column}: {value:.3f}")}</title></rect>'
            )
            parts.append(_on(colour, x + wide / 2, y + 14, f"{value:.2f}"))
    return _svg(32 + tall * len(rows) + 4, parts, "weights")


def _svg(height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _name(
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


def _head(x: float, name: str, longest: int) -> str:
    """Write a column's head, on two lines where it is too long for one and has a space."""
    first, space, second = name.partition(" ")
    if len(name) <= longest or not space:
        return _name(x, 26, name, "middle", longest)
    return _name(x, 12, first, "middle", longest) + _name(x, 26, second, "middle", longest)


def _name_width(names: Sequence[str]) -> float:
    longest = max((min(len(name), _LONGEST_NAME) for name in names), default=0)
    return 16 + _CHARACTER * longest


def _on(colour: str, x: float, y: float, text: str) -> str:
    """Write on a coloured ground, dark or light by the ground's luminance."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    dark = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.18
    ink = "#ffffff" if dark else "#111111"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" style="fill:{ink}">{text}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str = "rule") -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _path(points: Sequence[tuple[float, float]], colour: str, dash: str, name: str = "") -> str:
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    title = f"<title>{escape(name)}</title>" if name else ""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path class="curve" d="M{steps}" stroke="{colour}"{dashed}>{title}</path>'


def _shade(value: float) -> str:
    share = min(max(value, 0.0), 1.0)
    ends = zip((255, 255, 255), (0, 72, 130), strict=True)
    return "#" + "".join(f"{round(light + share * (dark - light)):02x}" for light, dark in ends)


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers in low..high, at most seven."""
    span = high - low
    step = 10.0 ** math.floor(math.log10(span))
    step = next(step * f for f in (0.1, 0.2, 0.5, 1.0, 2.0) if span / (step * f) <= 6.0)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _short(number: float) -> str:
    return f"{number:.6g}" if abs(number) < 1 or number == round(number) else f"{number:.1f}"
