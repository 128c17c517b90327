"""The section on scores: tables of all models, mIoU and paired differences as dots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter

from moeseg.errors import DataError
from moeseg.evaluation.cells import ordered, with_seeds
from moeseg.evaluation.contents import Published, tables, verdict
from moeseg.report import figures
from moeseg.report.grouping import WHISKERS, alike, choice_of, ends, file_of
from moeseg.report.parts import Figure, Group, Section, csv_file, from_text
from moeseg.types import Row


def scores(rows: Sequence[Row], published: Published | None) -> Section:
    """Return the section from ``segmentation`` and ``difference`` rows of all grounds."""
    lacking, shown = "", []
    try:
        shown = tables(rows, published)
    except DataError as error:
        lacking = f"The tables are left out: {error}"
    if not shown and not lacking:
        lacking = (
            "There are no scores of clean images in this run yet; `moeseg study FILE` writes them."
        )
    made = tuple(from_text(text) for text in shown)
    dots = [
        *_miou_dots(ordered(rows, "segmentation")),
        *_difference_dots(ordered(rows, "difference")),
    ]
    intro = "Every model on every subset. A click on a column's head sorts by it."
    return Section("scores", "Scores", intro, made, Group(tuple(dots)), lacking)


def _miou_dots(rows: Sequence[Row]) -> Iterator[Figure]:
    for part in alike(rows, "subset"):
        first = part[0]
        call = with_seeds(part, itemgetter("model"))
        dots = [figures.Dot(call(row), row["miou"], figures.pair(row["ci95"])) for row in part]
        lines = [(row["model"], row["seed"], row["miou"], *ends(row["ci95"])) for row in part]
        columns = ("model", "seed", "miou", "low", "high")
        yield Figure(
            title=f"mIoU on {first['subset']}",
            svg=figures.dots(dots, "mIoU in percent"),
            caption=f"Further right is better. {WHISKERS} Whether two models differ is read from "
            "their paired difference, not from whiskers that overlap.",
            data=csv_file(file_of(first, "miou", "subset"), columns, lines),
            choice=choice_of(first, "subset"),
        )


def _difference_dots(rows: Sequence[Row]) -> Iterator[Figure]:
    for part in alike(rows, "subset"):
        first = part[0]
        dots: list[figures.Dot | str] = []
        lines = []
        for of_model in alike(part, "model"):
            dots.append(of_model[0]["model"])
            call = with_seeds(of_model, itemgetter("model"))
            for row in of_model:
                said = verdict([row])
                decided = said != "undecided"
                name = f"minus {row['minus']}{call(row).removeprefix(row['model'])}"
                interval = figures.pair(row["ci95"])
                dots.append(figures.Dot(name, row["difference"], interval, decided))
                told = (row["model"], row["minus"], row["seed"], row["difference"])
                lines.append((*told, *ends(row["ci95"]), said))
        columns = ("model", "minus", "seed", "difference", "low", "high", "verdict")
        yield Figure(
            title=f"Mixture minus another model on {first['subset']}",
            svg=figures.dots(dots, "difference of mIoU in percentage points", zero=True),
            caption="Right of the thick line the mixture is better, left of it worse. "
            "Whiskers: 95 % interval of the paired difference, from the same resamples of both "
            "models. Filled: decided; hollow: undecided.",
            data=csv_file(file_of(first, "differences", "subset"), columns, lines),
            choice=choice_of(first, "subset"),
        )
