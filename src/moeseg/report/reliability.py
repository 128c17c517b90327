"""Plots of uncertainty: reliability, risk and coverage, conditional correctness."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from moeseg.evaluation.cells import temperature_of
from moeseg.insight.histograms import edges
from moeseg.report import figures
from moeseg.report.colours import DASHES, LINES
from moeseg.report.grouping import (
    alike,
    choice_of,
    file_of,
    level_of,
    model_at,
    risk_curve,
    thinned,
)
from moeseg.report.parts import Figure, Key, csv_file
from moeseg.types import Row
from moeseg.uncertainty.calibration import reliability as pooled

CURVES = {
    "accurate_certain": (
        "p(accurate | certain)",
        "Of the pixels whose score is below the threshold, the share that is right. Higher is "
        "better; at the right end it is the accuracy.",
    ),
    "uncertain_inaccurate": (
        "p(uncertain | inaccurate)",
        "Of the wrong pixels, the share whose score is not below the threshold. Higher is better.",
    ),
    "pavpu": (
        "PAvPU",
        "Right pixels below the threshold and wrong ones above it, as a share of all. Higher is "
        "better; both ends say nothing of the score.",
    ),
}
"""Key of a curve in a row -> its name and how to read it."""


def reliability(rows: Sequence[Row]) -> Figure:
    """Return the reliability diagram of one model on one subset, by temperature."""
    first = rows[0]
    return _figure(
        first,
        "reliability",
        ("subset", "model"),
        f"Reliability: {first['model']} on {first['subset']}",
        _lines(rows, temperature_of, lambda row: _diagram(row["reliability"])),
        ("confidence", "accuracy"),
        "Each point is one of 15 bins of confidence. On the dotted diagonal confidence is "
        "accuracy; below it the model boasts.",
        diagonal=True,
    )


def severity_figures(clean: Sequence[Row], changed: Sequence[Row]) -> Iterator[Figure]:
    """Yield a reliability diagram of each model on each subset: clean, and by severity.

    Args:
        clean: ``calibration`` rows without temperature.
        changed: the same under conditions; of one severity the pixels of all corruptions count,
            other conditions have lines of their own.
    """
    levels: dict[tuple[object, ...], dict[str, list[Row]]] = {}
    for row in changed:
        own = levels.setdefault(model_at(row), {})
        own.setdefault(level_of(row["condition"]), []).append(row)
    for row in clean:
        own = levels.get(model_at(row), {})
        shown = {"clean": [row], **{name: own[name] for name in sorted(own)}}
        if not own:
            continue
        yield _figure(
            row,
            "reliability by severity",
            ("subset", "model"),
            f"Reliability by severity: {row['model']} on {row['subset']}",
            _lines(
                [{"name": name, "bins": _summed(rows)} for name, rows in shown.items()],
                lambda line: str(line["name"]),
                lambda line: _diagram(line["bins"]),
            ),
            ("confidence", "accuracy"),
            "Each point is one of 15 bins of confidence, over the pixels of all corruptions of a "
            "severity, without temperature. Below the dotted diagonal the model boasts. Clean are "
            "all frames, also where fewer were corrupted.",
            diagonal=True,
        )


def class_figures(rows: Sequence[Row]) -> Iterator[Figure]:
    """Yield a reliability diagram of each class on each subset, all models in it."""
    for part in alike(rows, "subset"):
        classes = dict.fromkeys(name for row in part for name in row["per_class_reliability"])
        for name in classes:
            own = [row for row in part if name in row["per_class_reliability"]]

            def curve(row: Row, name: str = name) -> tuple[list[float], list[float | None]]:
                return _diagram(row["per_class_reliability"][name])

            yield _figure(
                part[0],
                "reliability of a class",
                ("subset",),
                f"Reliability of {name} on {part[0]['subset']}",
                _lines(own, _model, curve),
                ("probability", "share of the class"),
                "Each point is one of 15 bins of the probability of this class, whether it is "
                "predicted or not; on the diagonal it comes true.",
                choice={"class": name},
                diagonal=True,
            )


def risk(rows: Sequence[Row]) -> Figure:
    """Return risk and coverage of one score on one subset, all models in it."""
    first = rows[0]
    lines = _lines(rows, _model, risk_curve)
    top = max((y for line in lines for y in line.ys if y is not None), default=0.0) or 1.0
    return _figure(
        first,
        "risk and coverage",
        ("subset", "score"),
        f"Risk and coverage: {first['score']} on {first['subset']}",
        lines,
        ("coverage: share of pixels kept", "risk"),
        "Keep only the most certain pixels (left), or all (right): the risk is the share of wrong "
        "ones among those kept. The lower and the longer flat, the better.",
        top=top,
        even=True,
    )


def conditional_figures(rows: Sequence[Row]) -> Iterator[Figure]:
    """Yield the three curves of each score on each subset, all models in them."""
    for part in alike(rows, "subset", "score"):
        for name, (plot, caption) in CURVES.items():

            def curve(row: Row, name: str = name) -> tuple[list[float], list[float | None]]:
                ys = thinned(row["curves"][name])
                return edges(max(len(ys) - 1, 1)).tolist(), ys

            yield _figure(
                part[0],
                plot,
                ("subset", "score"),
                f"{plot}: {part[0]['score']} on {part[0]['subset']}",
                _lines(part, _model, curve),
                ("threshold", plot),
                caption,
                even=True,
            )


def _figure(
    first: Row,
    plot: str,
    keys: tuple[str, ...],
    title: str,
    lines: list[figures.Line],
    axes: tuple[str, str],
    caption: str,
    *,
    choice: dict[str, str] | None = None,
    top: float = 1.0,
    diagonal: bool = False,
    even: bool = False,
) -> Figure:
    """Return a plot; the file of `even` lines, which share their xs, has a column for each."""
    columns: tuple[str, ...]
    points: Iterable[tuple[object, ...]]
    if even:
        columns = (axes[0], *(line.name for line in lines))
        points = zip(lines[0].xs, *(line.ys for line in lines), strict=True)
    else:
        columns = ("line", *axes)
        pairs = ((line.name, zip(line.xs, line.ys, strict=True)) for line in lines)
        points = ((name, round(x, 6), y) for name, curve in pairs for x, y in curve)
    extra = choice or {}
    name = "-".join((file_of(first, plot, *keys), *extra.values()))
    return Figure(
        title=title,
        svg=figures.curves(lines, *axes, top=top, diagonal=diagonal),
        caption=caption,
        data=csv_file(name, columns, points),
        choice={"plot": plot} | choice_of(first, *keys) | extra,
        legend=tuple(Key(line.name, line.colour, line.dash) for line in lines),
    )


def _lines(
    rows: Sequence[Row],
    name: Callable[[Row], str],
    curve: Callable[[Row], tuple[list[float], list[float | None]]],
) -> list[figures.Line]:
    """Return one line for each row; colour and dash tell up to 28 apart."""
    styles = [(LINES[i % len(LINES)], DASHES[i % len(DASHES)]) for i in range(len(rows))]
    return [
        figures.Line(name(row), *curve(row), *style)
        for row, style in zip(rows, styles, strict=True)
    ]


def _summed(rows: Sequence[Row]) -> list[list[float | None]]:
    """Return the reliability of the pixels of several rows; see `calibration.reliability`."""
    moments = np.zeros((3, len(rows[0]["reliability"][0])))
    for row in rows:
        # what a bin without a pixel lacks counts nothing
        shares, confidence, accuracy = np.array(row["reliability"], dtype=np.float64)
        count = shares * row["pixels"]
        moments += np.nan_to_num([count, count * accuracy, count * confidence])
    return pooled(moments)


def _diagram(
    bins: tuple[list[float], list[float | None], list[float | None]],
) -> tuple[list[float], list[float | None]]:
    """Return the points of a reliability diagram, bins without a pixel left out."""
    _, confidence, accuracy = bins
    pairs = [
        (x, y) for x, y in zip(confidence, accuracy, strict=True) if x is not None and y is not None
    ]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _model(row: Row) -> str:
    return str(row["model"])
