"""The table and the plot of an ablation, rendered from its rows and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from moeseg.evaluation.cells import NONE
from moeseg.evaluation.contents import Verdict, verdict
from moeseg.files import write_text
from moeseg.report.figures import Dot, dots, pair, standalone
from moeseg.types import Row


@dataclass(frozen=True, slots=True)
class Gain:
    """A mixture minus its best expert, over the seeds of one variant; None where none is scored.

    Attributes:
        variant: its name.
        mixture: its name.
        seeds: ascending; all that follows is in their order.
        mious: of the mixture, one a seed, 0..1.
        unions: the same in the published reading.
        best: mIoU of the best expert, one a seed.
        best_unions: the same in the published reading.
        differences: one a seed.
        intervals: 95 % interval of each difference.
        verdicts: "wins", "loses" or "undecided", one a seed.
        collapsed: what the routing rows say of seeds whose gate is dead: "one expert", "constant".
    """

    variant: str
    mixture: str
    seeds: tuple[int, ...]
    mious: tuple[float | None, ...]
    unions: tuple[float | None, ...]
    best: tuple[float | None, ...]
    best_unions: tuple[float | None, ...]
    differences: tuple[float | None, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    verdicts: tuple[Verdict, ...]
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
                    seeds=tuple(row["seed"] for row in own),
                    mious=tuple(row["miou"] for row in mine),
                    unions=tuple(row["miou_union"] for row in mine),
                    best=tuple(row["miou"] for row in best),
                    best_unions=tuple(row["miou_union"] for row in best),
                    differences=tuple(row["difference"] for row in own),
                    intervals=tuple(pair(row["ci95"]) for row in own),
                    verdicts=tuple(verdict([row]) for row in own),
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
            wins, losses = (gain.verdicts.count(word) for word in ("wins", "loses"))
            told = f"wins {wins}, loses {losses} of {len(gain.seeds)}"
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
    """Return an SVG: under each variant the gain of every mixture and seed, with its interval.

    A dot is filled where the seed is decided.
    """
    lines: list[Dot | str] = []
    found = gains(rows, variants, subset)
    for variant in dict.fromkeys(gain.variant for gain in found):
        lines.append(variant)
        for gain in (gain for gain in found if gain.variant == variant):
            several = len(gain.seeds) > 1
            for seed, value, span, word in zip(
                gain.seeds, gain.differences, gain.intervals, gain.verdicts, strict=True
            ):
                name = f"{gain.mixture}, seed {seed}" if several else gain.mixture
                lines.append(Dot(name, value, span, filled=word != "undecided"))
    axis = f"{subset}: mixture minus best expert, mIoU points"
    return standalone(dots(lines, axis, zero=True))


def _subsets(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["subset"] for row in rows if row["kind"] == "segmentation"))


def _variant(row: Row) -> str:
    return str(row["settings"]["variant"])


def _mean(values: Sequence[float | None], sign: str = "") -> str:
    known = [value for value in values if value is not None]
    return f"{100 * fmean(known):{sign}.1f}" if known else NONE


def _spread(gain: Gain) -> str:
    if len(gain.differences) == 1:
        if gain.intervals[0] is None:
            return ""
        low, high = gain.intervals[0]
        return f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    known = [value for value in gain.differences if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    return f" ({100 * low:+.1f} to {100 * high:+.1f})"
