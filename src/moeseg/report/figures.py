"""Numbers in, SVG text out: lines, dots with intervals, stacked bars, histograms, heat maps.

What the numbers mean, captions and legends are the caller's part. A figure holds no size of its
own beyond its viewBox, takes its font and line colours from the page's CSS and names every value
in a `<title>`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from moeseg.report import marks


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
    lines: Sequence[Line],
    x_name: str,
    y_name: str,
    *,
    top: float = 1.0,
    last: float = 1.0,
    diagonal: bool = False,
) -> str:
    """Return lines over x in 0..`last` and y in 0..`top`; `diagonal` adds that of chance."""
    left, right, high, low = marks.PLOT

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x / last * (right - left), low - min(y / top, 1.0) * (low - high)

    parts = marks.y_axis(marks.PLOT, top, y_name)
    for tick in marks.ticks(0.0, last):
        x, _ = place(tick, 0.0)
        number = marks.text(x, low + 18, marks.short(tick), "middle")
        parts.append(marks.rule(x, low, x, low + 4) + number)
    parts.append(marks.text((left + right) / 2, low + 36, x_name, "middle"))
    if diagonal:
        parts.append(marks.path([place(0.0, 0.0), place(last, top)], "var(--faint)", "2 4"))
    for line in lines:
        run: list[tuple[float, float]] = []
        for x, y in [*zip(line.xs, line.ys, strict=True), (0.0, None)]:
            if y is not None:
                run.append(place(x, y))
            elif run:
                parts.append(marks.path(run, line.colour, line.dash, line.name))
                run = []
    return marks.drawing(low + 42, parts, f"{y_name} over {x_name}")


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
    left = marks.name_width([dot.name for dot in drawn])
    found = [v * unit for d in drawn for v in (d.value, *(d.interval or ())) if v is not None]
    low, high = min(found, default=0.0), max(found, default=1.0)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = 0.06 * (high - low) or 1.0
    low, high = (low - room if zero else max(0.0, low - room)), high + room
    right, bottom = marks.WIDTH - 12, 8 + 22.0 * len(values)

    def at(value: float) -> float:
        return left + (value * unit - low) / (high - low) * (right - left)

    parts = []
    for tick in marks.ticks(low, high):
        x = at(tick / unit)
        strong = zero and tick == 0.0
        parts.append(marks.rule(x, 4, x, bottom + 4, "zero" if strong else "rule"))
        parts.append(marks.text(x, bottom + 18, marks.short(tick), "middle"))
    for number, dot in enumerate(values):
        y = 8 + 22.0 * number + 11
        if isinstance(dot, str):
            parts.append(marks.name_at(2, y + 4, dot, "start", longest=60, kind="head"))
            continue
        parts.append(marks.name_at(left - 8, y + 4, dot.name))
        if dot.value is None:
            parts.append(marks.text(left + 4, y + 4, "no value", "start"))
            continue
        told = f"{dot.name}: {dot.value * unit:.2f}"
        dot_marks = ""
        if dot.interval is not None:
            told += f" [{dot.interval[0] * unit:.2f}, {dot.interval[1] * unit:.2f}]"
            dot_marks += marks.rule(at(dot.interval[0]), y, at(dot.interval[1]), y, "whisker")
        mark = "dot" if dot.filled else "dot hollow"
        dot_marks += f'<circle class="{mark}" cx="{at(dot.value):.1f}" cy="{y:.1f}" r="4.5"/>'
        parts.append(f"<g><title>{escape(told)}</title>{dot_marks}</g>")
    parts.append(marks.text(right, bottom + 36, x_name, "end"))
    return marks.drawing(bottom + 44, parts, x_name)


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
    left, right = marks.name_width(names), marks.WIDTH - 8
    drawn = []
    for number, (name, bar) in enumerate(zip(names, shares, strict=True)):
        y, x = 6 + 26.0 * number, left
        drawn.append(marks.name_at(left - 8, y + 15, name))
        if all(share is None for share in bar):
            drawn.append(marks.text(left + 4, y + 15, "no pixels", "start"))
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
                drawn.append(marks.text_on(colour, x + width / 2, y + 14, f"{100 * share:.0f} %"))
            x += width
    return marks.drawing(6 + 26.0 * len(names) + 4, drawn, "shares in percent")


def histograms(
    names: Sequence[str], counts: Sequence[Sequence[int]], colours: Sequence[str], x_name: str
) -> str:
    """Return one histogram per name over equal bins of 0..1, on one scale of shares."""
    left, right, each = 52.0, marks.WIDTH - 12, 92.0
    shares = [[n / (sum(row) or 1) for n in row] for row in counts]
    top = max((share for row in shares for share in row), default=0.0) or 1.0
    parts = []
    for number, (name, row, colour) in enumerate(zip(names, shares, colours, strict=True)):
        base = 24 + each * number + 60
        parts.append(marks.text(left, base - 66, name, "start"))
        parts.append(marks.text(left - 6, base - 52, marks.short(100 * top) + " %", "end"))
        parts.append(
            marks.rule(left, base, right, base) + marks.text(left - 6, base + 4, "0", "end")
        )
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
    for tick in marks.ticks(0.0, 1.0):
        x = left + tick * (right - left)
        parts.append(marks.text(x, bottom + 10, marks.short(tick), "middle"))
    parts.append(marks.text((left + right) / 2, bottom + 28, x_name, "middle"))
    return marks.drawing(bottom + 36, parts, x_name)


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    heads: Sequence[str] | None = None,
    top: float = 1.0,
    percent: bool = False,
    marked: Collection[tuple[int, int]] = (),
    label: str = "weights",
) -> str:
    """Return a grid of values, white at 0 and dark at `top`, each with its number.

    Args:
        rows: names of the lines.
        columns: names of the columns.
        values: of each line and column, 0..1.
        heads: what stands above the columns where their names are too long.
        top: the value of the darkest.
        percent: numbers are printed in percent.
        marked: (line, column) of the cells to frame.
        label: what the values are.
    """
    left = marks.name_width(rows)
    wide, tall = (marks.WIDTH - 8 - left) / max(len(columns), 1), 20.0
    parts: list[str] = []
    framed: list[str] = []
    for number, head in enumerate(heads or columns):
        x = left + (number + 0.5) * wide
        parts.append(marks.head_at(x, head, max(4, int(wide / 6.2))))
    for line, (name, cells) in enumerate(zip(rows, values, strict=True)):
        y = 32 + tall * line
        parts.append(marks.name_at(left - 8, y + 14, name))
        for number, (column, value) in enumerate(zip(columns, cells, strict=True)):
            x = left + number * wide
            if value is None:
                parts.append(marks.text(x + wide / 2, y + 14, "-", "middle"))
                continue
            colour = marks.shade(value / top)
            told = f"{100 * value:.2f}" if percent else f"{value:.3f}"
            short = f"{value:.2f}" if not percent else f"{100 * value:.{0 if wide < 34 else 1}f}"
            frame = " framed" if (line, number) in marked else ""
            (framed if frame else parts).append(
                f'<rect class="cell{frame}" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" '
                f'height="{tall}" fill="{colour}"><title>{escape(f"{name}, {column}: {told}")}'
                "</title></rect>" + marks.text_on(colour, x + wide / 2, y + 14, short)
            )
    # frames last, so that no neighbour covers them
    return marks.drawing(32 + tall * len(rows) + 4, [*parts, *framed], label)
