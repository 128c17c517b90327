"""Lines over named levels that stand evenly, such as radii or severities, with whiskers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from html import escape

from moeseg.report import marks

Height = Callable[[float], float]
"""From a value to its place in a drawing."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line, with a point at each level.

    Attributes:
        name: stands in the legend.
        values: one a level, 0 or more; None leaves a gap.
        intervals: of the values, None where there is none.
        colour: as CSS writes it.
        dash: `stroke-dasharray`; empty for a solid line.
        hollow: numbers of the points that are drawn hollow.
    """

    name: str
    values: Sequence[float | None]
    intervals: Sequence[tuple[float, float] | None]
    colour: str
    dash: str = ""
    hollow: Collection[int] = ()


def series(lines: Sequence[Series], levels: Sequence[str], x_name: str, y_name: str) -> str:
    """Return lines over levels, y from 0 in percent of the values.

    Args:
        lines: each with as many values as there are levels; drawn side by side, so that their
            whiskers do not cover each other.
        levels: names, from left to right.
        x_name: what the levels are.
        y_name: what the values are.
    """
    left, right, high, low = marks.PLOT
    ends = [end for line in lines for pair in line.intervals if pair for end in pair]
    found = [value for line in lines for value in line.values if value is not None]
    top = 100 * max([*found, *ends], default=0.0) * 1.04 or 1.0
    each = (right - left) / max(len(levels), 1)

    def height(value: float) -> float:
        return low - min(max(100 * value / top, 0.0), 1.0) * (low - high)

    parts = marks.y_axis(marks.PLOT, top, y_name)
    for number, name in enumerate(levels):
        x = left + (number + 0.5) * each
        parts.append(marks.rule(x, low, x, low + 4) + marks.text(x, low + 18, name, "middle"))
    parts.append(marks.text((left + right) / 2, low + 36, x_name, "middle"))
    step = min(5.0, 0.6 * each / max(len(lines), 1))
    for number, line in enumerate(lines):
        shift = left + 0.5 * each + (number - (len(lines) - 1) / 2) * step
        xs = [shift + place * each for place in range(len(levels))]
        parts += _line(line, levels, xs, height)
    return marks.drawing(low + 42, parts, f"{y_name} over {x_name}")


def _line(line: Series, levels: Sequence[str], xs: Sequence[float], height: Height) -> list[str]:
    parts, points = [], []
    run: list[tuple[float, float]] = []
    for x, value in [*zip(xs, line.values, strict=True), (0.0, None)]:
        if value is not None:
            run.append((x, height(value)))
        elif run:
            parts.append(marks.path(run, line.colour, line.dash, line.name))
            run = []
    for number, (x, value, pair) in enumerate(zip(xs, line.values, line.intervals, strict=True)):
        if value is None:
            continue
        told, whisker = f"{line.name}, {levels[number]}: {100 * value:.2f}", ""
        if pair is not None:
            told += f" [{100 * pair[0]:.2f}, {100 * pair[1]:.2f}]"
            whisker = (
                f'<line class="bar" x1="{x:.1f}" y1="{height(pair[0]):.1f}" x2="{x:.1f}" '
                f'y2="{height(pair[1]):.1f}" stroke="{line.colour}"/>'
            )
        hollow = number in line.hollow
        fill = "" if hollow else f' fill="{line.colour}"'
        points.append(
            f"<g><title>{escape(told)}</title>{whisker}"
            f'<circle class="point{" hollow" if hollow else ""}" cx="{x:.1f}" '
            f'cy="{height(value):.1f}" r="3.2" stroke="{line.colour}"{fill}/></g>'
        )
    return [*parts, *points]
