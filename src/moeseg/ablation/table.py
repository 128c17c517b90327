"""The table and the plot of an ablation, rendered from its rows and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean

from moeseg.evaluation.contents import verdict
from moeseg.files import write_text
from moeseg.types import Row

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito, 2008
_LINE, _LEFT, _WIDTH = 44, 190, 560  # pixels of the plot


@dataclass(frozen=True, slots=True)
class Gain:
    """A mixture minus its best expert, over the seeds of one variant.

    Attributes:
        variant: its name.
        mixture: its name.
        mious: of the mixture, one a seed, 0..1.
        unions: the same in the published reading.
        best: mIoU of the best expert, one a seed.
        best_unions: the same in the published reading.
        differences: one a seed.
        intervals: 95 % interval of each difference.
        wins: seeds in which the interval lies above 0, and rests on enough units.
        losses: seeds in which it lies below 0, likewise.
        collapsed: what the routing rows say of seeds whose gate is dead: "one expert", "constant".
    """

    variant: str
    mixture: str
    mious: tuple[float, ...]
    unions: tuple[float, ...]
    best: tuple[float, ...]
    best_unions: tuple[float, ...]
    differences: tuple[float, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    wins: int
    losses: int
    collapsed: tuple[str, ...]


def write_ablation(folder: Path, rows: Sequence[Row], variants: Sequence[str]) -> None:
    """Write `table.md` and, for each subset, `gain_<subset>.svg` into a folder."""
    write_text(folder / "table.md", render_table(rows, variants))
    for subset in _subsets(rows):
        name = "gain_" + subset.replace("+", "_") + ".svg"
        write_text(folder / name, render_plot(rows, variants, subset))


def gains(rows: Sequence[Row], variants: Sequence[str], subset: str) -> list[Gain]:
    """Return every mixture's gain over its best expert, variant by variant."""
    found = []
    scored = {
        (_variant(row), row["model"], row["seed"]): row
        for row in rows
        if row["kind"] == "segmentation" and row["subset"] == subset
    }
    differences = [
        row
        for row in rows
        if row["kind"] == "difference"
        and row["subset"] == subset
        and row["minus"].startswith("expert-")
    ]
    mixtures = list(dict.fromkeys(row["model"] for row in differences))
    for variant in variants:
        for mixture in mixtures:
            own = [r for r in differences if (_variant(r), r["model"]) == (variant, mixture)]
            if not own:
                continue
            own.sort(key=lambda row: int(row["seed"]))
            mine = [scored[variant, mixture, row["seed"]] for row in own]
            best = [scored[variant, row["minus"], row["seed"]] for row in own]
            spans = tuple(None if r["ci95"] is None else tuple(r["ci95"]) for r in own)
            verdicts = [verdict([row]) for row in own]
            dead = [
                str(row["collapsed"])
                for row in rows
                if row["kind"] == "routing"
                and (_variant(row), row["model"], row["subset"]) == (variant, mixture, subset)
                and row["collapsed"]
            ]
            found.append(
                Gain(
                    variant=variant,
                    mixture=mixture,
                    mious=tuple(row["miou"] for row in mine),
                    unions=tuple(row["miou_union"] for row in mine),
                    best=tuple(row["miou"] for row in best),
                    best_unions=tuple(row["miou_union"] for row in best),
                    differences=tuple(row["difference"] for row in own),
                    intervals=spans,
                    wins=verdicts.count("wins"),
                    losses=verdicts.count("loses"),
                    collapsed=tuple(dead),
                )
            )
    return found


def render_table(rows: Sequence[Row], variants: Sequence[str]) -> str:
    """Return the table of every subset as markdown, in percent and percentage points."""
    parts = []
    for subset in _subsets(rows):
        lines = [
            f"## {subset}",
            "",
            "| variant | mixture | best expert | mixture | minus best expert | published reading |",
            "|---|---|--:|--:|--:|--:|",
        ]
        for gain in gains(rows, variants, subset):
            seeds = len(gain.differences)
            told = f"wins {gain.wins}, loses {gain.losses} of {seeds}"
            if gain.collapsed:
                told += f"; gate collapsed in {len(gain.collapsed)}: {', '.join(gain.collapsed)}"
            cells = [
                gain.variant,
                gain.mixture,
                _mean(gain.best),
                _mean(gain.mious),
                f"{_mean(gain.differences, '+')}{_spread(gain)}, {told}",
                f"{_mean(gain.best_unions)}, {_mean(gain.unions)}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines) + "\n")
    parts.append(
        "mIoU in percent, means over the seeds; minus best expert: percentage points, of several "
        "seeds the least and the greatest, of one its 95 % interval; a seed wins or loses where "
        "the paired interval of the difference excludes 0 and rests on 8 units or more. The best "
        "expert is chosen on the scored frames. Published reading: best expert and mixture, mean "
        "over the classes in the ground truth or the prediction.\n"
    )
    return "\n".join(parts)


def render_plot(rows: Sequence[Row], variants: Sequence[str], subset: str) -> str:
    """Return an SVG: for each variant the gain of every mixture and seed, with its interval."""
    found = gains(rows, variants, subset)
    mixtures = list(dict.fromkeys(gain.mixture for gain in found))
    shown = [variant for variant in variants if any(g.variant == variant for g in found)]
    ends = [100 * end for gain in found for span in gain.intervals for end in span or ()]
    ends += [100 * value for gain in found for value in gain.differences]
    low, high = min([0.0, *ends]) - 0.5, max([0.0, *ends]) + 0.5
    scale = _WIDTH / (high - low)
    height = 70 + _LINE * len(shown)

    def x(points: float) -> float:
        return round(_LEFT + (points - low) * scale, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 20}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{_LEFT + _WIDTH + 20}" height="{height}" fill="white"/>',
        f'<text x="10" y="18">{escape(subset)}: mixture minus best expert, points of mIoU; each '
        "dot a seed, bars 95 % intervals</text>",
        f'<line x1="{x(0)}" y1="44" x2="{x(0)}" y2="{height - 22}" stroke="#555"/>',
    ]
    for tick in _ticks(low, high):
        parts.append(
            f'<text x="{x(tick)}" y="{height - 6}" text-anchor="middle" fill="#555">{tick:g}</text>'
        )
    for number, mixture in enumerate(mixtures):
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(
            f'<text x="{_LEFT + 190 * number}" y="38" fill="{colour}">&#9679; '
            f"{escape(mixture)}</text>"
        )
    for place, variant in enumerate(shown):
        top = 50 + _LINE * place
        parts.append(f'<text x="10" y="{top + 24}">{escape(variant)}</text>')
        dots = [(n, g) for n, m in enumerate(mixtures) for g in found if g.mixture == m]
        dots = [(n, gain) for n, gain in dots if gain.variant == variant]
        rows_here = sum(len(gain.differences) for _, gain in dots)
        line = 0
        for number, gain in dots:
            colour = _COLOURS[number % len(_COLOURS)]
            for value, span in zip(gain.differences, gain.intervals, strict=True):
                start, end = span or (value, value)
                y = round(top + _LINE * (line + 0.5) / rows_here, 1)
                parts.append(
                    f'<line x1="{x(100 * start)}" y1="{y}" x2="{x(100 * end)}" y2="{y}" '
                    f'stroke="{colour}" stroke-width="1.5"/>'
                    f'<circle cx="{x(100 * value)}" cy="{y}" r="3.2" fill="{colour}"/>'
                )
                line += 1
    return "\n".join([*parts, "</svg>"]) + "\n"


def _ticks(low: float, high: float) -> list[float]:
    step = next(step for step in (1, 2, 5, 10, 20, 50) if (high - low) / step <= 12)
    return [float(t) for t in range(-100, 101, step) if low <= t <= high]


def _subsets(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["subset"] for row in rows if row["kind"] == "segmentation"))


def _variant(row: Row) -> str:
    return str(row["settings"]["variant"])


def _mean(values: Sequence[float], sign: str = "") -> str:
    return f"{100 * fmean(values):{sign}.1f}"


def _spread(gain: Gain) -> str:
    if len(gain.differences) == 1:
        if gain.intervals[0] is None:
            return ""
        low, high = gain.intervals[0]
        return f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    low, high = min(gain.differences), max(gain.differences)
    return f" ({100 * low:+.1f} to {100 * high:+.1f})"
