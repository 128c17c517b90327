"""What stands in the tables: rows gathered into cells, ordered, and written in percent.

Rows that may not be compared (another data set, split, size or condition) never share a table.
Kinds of rows that are not known here are left alone. How a table looks is `table`'s matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from moeseg.evaluation.cells import (
    NONE,
    ORACLE,
    by_ground,
    gather,
    mean_of,
    model_order,
    named,
    opponent_of,
    ordered,
    pair_order,
    subset_order,
    subsets_of,
    temperature_of,
    units_of,
    with_spread,
)
from moeseg.evaluation.intervals import MIN_SEQUENCES
from moeseg.types import Row

Published = Mapping[str, Mapping[str, float]]
"""Model -> subset -> mIoU in percent, as a paper prints it."""

Verdict = Literal["wins", "loses", "undecided"]

CLEAN = "clean"
"""Condition of images that nothing was done to."""

_TOLD = 5e-4  # what binning may do to an AUROC is told from here on
_READINGS = ("miou_union", "pixel_accuracy", "class_accuracy", "fw_iou")

DOUBT: dict[tuple[str, str | None], str] = {
    ("ece", None): "ECE",
    ("brier", None): "Brier",
    ("nll", None): "NLL",
    ("auroc", "entropy"): "AUROC, entropy",
    ("auroc", "mutual-information"): "AUROC, mutual information",
    ("auroc-unseen", "entropy"): "AUROC of unseen frames, entropy",
    ("auroc-unseen", "mutual-information"): "AUROC of unseen frames, mutual information",
}
"""Measure and score of an ``uncertainty-difference`` row -> head of its column."""


@dataclass(frozen=True, slots=True)
class TextTable:
    """One table as text: a heading, column heads, cells, and which of them are best.

    Attributes:
        heading: stands above.
        columns: heads.
        cells: one tuple per line, as long as `columns`.
        best: (line, column) of the cells to set in bold.
        note: stands below.
        names: so many columns at the left hold names, the others numbers.
    """

    heading: str
    columns: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]]
    note: str
    names: int = 1


def tables(rows: Iterable[Row], published: Published | None = None) -> list[TextTable]:
    """Return the tables that `rows` make, by comparable group of rows.

    Rows of detectors and of differences of uncertainty stand in a table where they come with rows
    of calibration.

    Those of clean images, where there are any; `conditions` makes the tables of all others.

    Raises:
        DataError: two rows claim the same cell.
    """
    rows = list(rows)
    shown = clean_rows([*ordered(rows, "segmentation"), *ordered(rows, "difference")])
    scored = by_ground(ordered(shown, "segmentation"))
    differences = by_ground(ordered(shown, "difference"))
    calibrated = by_ground(ordered(rows, "calibration"))
    detected = by_ground(ordered(rows, "detector"))
    doubted = by_ground(ordered(rows, "uncertainty-difference"))
    result = []
    for ground in sorted({*scored, *differences, *calibrated}):
        beside = published if ground[3] == CLEAN else None
        made = []
        if ground in scored:
            made += [_headline(scored[ground], beside or {}), _readings(scored[ground])]
        if ground in differences:
            made.append(_differences(differences[ground]))
        if ground in calibrated:
            made.append(_calibration(calibrated[ground]))
            made.append(_detection(detected.get(ground, [])))
            paired = uncertainty_differences(doubted.get(ground, []))
            made += [paired] if paired.cells else []
        dataset, split, (height, width), condition = ground
        place = f"{dataset} {split}, {height} x {width}, {condition}"
        for table in made:
            result.append(replace(table, heading=f"{place}: {table.heading}"))
    return result


def clean_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of clean images; all rows where there are none."""
    return [row for row in rows if row.get("condition") == CLEAN] or list(rows)


def verdict(rows: Iterable[Row]) -> Verdict:
    """Return what ``difference`` rows of one pair of models say, one row a seed.

    Seeds that say different things leave it undecided; so do too few resampling units.
    """
    words: set[Verdict] = set()
    for row in rows:
        _, high = row["ci95"] or (0.0, 0.0)
        lost = high < 0.0 and row["ci_units"] >= MIN_SEQUENCES
        words.add("wins" if row["wins"] else "loses" if lost else "undecided")
    return words.pop() if len(words) == 1 else "undecided"


def _headline(rows: Sequence[Row], published: Published) -> TextTable:
    subsets = subsets_of(rows)
    told = [s for s in subsets if any(s in of_model for of_model in published.values())]
    cells = gather(rows, named(rows))
    missing = [name for name in published if any(s in published[name] for s in told)]
    models = sorted({*(model for model, _ in cells), *missing}, key=model_order)
    columns = ["model"]
    lines: list[list[str]] = [[model] for model in models]
    best: set[tuple[int, int]] = set()
    for subset in subsets:
        mious = [mean_of(cells.get((model, subset), ()), "miou") for model in models]
        known = [
            None if model.startswith(ORACLE) else value
            for model, value in zip(models, mious, strict=True)
        ]
        top = max((value for value in known if value is not None), default=None)
        for line, (model, miou) in enumerate(zip(models, known, strict=True)):
            lines[line].append(with_spread(cells.get((model, subset), ()), "miou"))
            if miou is not None and miou == top:
                best.add((line, len(columns)))
        columns.append(subset)
        if subset in told:
            for line, model in enumerate(models):
                value = published.get(model, {}).get(subset)
                lines[line].append(NONE if value is None else f"{value:.2f}")
            columns.append(f"{subset} (published)")
    note = (
        "Mean over the classes in the ground truth; best measured model of a column in bold; "
        f"brackets: 95 % interval by bootstrap over {units_of(rows)}."
    )
    if any(model.startswith(ORACLE) for model in models):
        note += (
            " The oracles know the labels: bounds for routing frame by frame (on totals a fixed "
            "choice may come out higher), never best."
        )
    if told:
        note += " Published figures are a paper's, at its size and by its reading of mIoU."
    if any(len(of_cell) > 1 for of_cell in cells.values()):
        note += " Several seeds: mean, and lowest to highest seed."
    table = tuple(map(tuple, lines))
    return TextTable("mIoU in percent", tuple(columns), table, frozenset(best), note)


def _readings(rows: Sequence[Row]) -> TextTable:
    cells = gather(rows, named(rows))
    order = sorted(cells, key=lambda cell: (subset_order(cell[1]), model_order(cell[0])))
    lines = []
    for model, subset in order:
        of_cell = cells[model, subset]
        numbers = [with_spread(of_cell, key, bracket=False) for key in _READINGS]
        used = "/".join(sorted({str(row["classes_used"]) for row in of_cell}))
        images = "/".join(sorted({str(row["images"]) for row in of_cell}))
        lines.append((subset, model, *numbers, used, images))
    columns = (
        "subset",
        "model",
        "mIoU, union",
        "pixel accuracy",
        "class accuracy",
        "fwIoU",
        "classes",
        "images",
    )
    note = "Union: mean over the classes in the ground truth or the prediction."
    return TextTable("other readings in percent", columns, tuple(lines), frozenset(), note, names=2)


def _differences(rows: Sequence[Row]) -> TextTable:
    names = named(rows)

    subsets = subsets_of(rows)
    cells = gather(rows, lambda row: (names(row), opponent_of(row)))
    lines = [
        (*pair, *(difference_text(cells.get((pair, subset), ())) for subset in subsets))
        for pair in sorted({pair for pair, _ in cells}, key=pair_order)
    ]
    note = (
        "Percentage points of mIoU; brackets: 95 % interval of the paired difference, from the "
        f"same resamples of both models, over {units_of(rows)}. Wins or loses: the interval "
        f"excludes 0 (of every seed) and rests on {MIN_SEQUENCES} units or more; the best expert "
        "is chosen on the scored frames."
    )
    columns = ("mixture", "minus", *subsets)
    return TextTable(
        "mixture minus another model", columns, tuple(lines), frozenset(), note, names=2
    )


def uncertainty_differences(rows: Iterable[Row]) -> TextTable:
    """Return ``uncertainty-difference`` rows of one ground that compare two models.

    Of those with temperatures, those with none or a single one.
    """
    rows = list(rows)
    names = named(rows)

    def pair(row: Row) -> tuple[str, str, str, str]:
        theirs = str(row["minus_settings"].get("temperature", "none"))
        return names(row), temperature_of(row), row["minus"], theirs

    shown = [r for r in rows if r["score"] == r["minus_score"]]
    shown = [r for r in shown if {pair(r)[1], pair(r)[3]} <= {"none", "one"}]
    found = gather(shown, lambda row: (*pair(row), row["measure"], row["score"]))
    cells: dict[tuple[str, ...], dict[tuple[str, str | None], str]] = {}
    for ((*models, measure, score), subset), seeds in found.items():
        told = with_spread(seeds, "difference", sign="+", scale=1, digits=4)
        better = " better" if all(row["better"] for row in seeds) else ""
        cells.setdefault((subset, *map(str, models)), {})[str(measure), score] = told + better
    lines = [(*at, *(of.get(measure, NONE) for measure in DOUBT)) for at, of in cells.items()]
    note = (
        "From the same resamples of both models, which have as many members, or the other one. Of "
        "ECE, Brier and NLL less is better, of AUROC more. Better: the 95 % interval excludes 0, "
        f"for AUROC by more than binning may do, from {MIN_SEQUENCES} units or more, in every "
        "seed. Unseen frames are told from those that both models were trained on."
    )
    heads = ("subset", "model", "temperature", "minus", "its temperature", *DOUBT.values())
    return TextTable("paired differences", heads, tuple(lines), frozenset(), note, names=5)


def difference_text(rows: Sequence[Row]) -> str:
    """Write a paired difference, one row a seed: points, interval, verdict, and the expert."""
    mean = mean_of(rows, "difference")
    if mean is None:
        return NONE
    word = verdict(rows)
    against = sorted({str(row["minus"]) for row in rows if row["minus"].startswith("expert-")})
    who = f" ({', '.join(against)})" if against else ""
    return f"{with_spread(rows, 'difference', sign='+')} {word}{who}"


def _calibration(rows: Sequence[Row]) -> TextTable:
    names = named(rows)
    trusted = [row for row in rows if row["reading"] == "multi-class"]
    cells = gather(trusted, lambda row: (names(row), temperature_of(row)))
    spans = {"ece": "ci95", "brier": "brier_ci95", "nll": "nll_ci95"}

    def text(seeds: Sequence[Row], key: str) -> str:
        span = spans.get(key)
        return with_spread(seeds, key, bracket=span is not None, ci95=span or "", scale=1, digits=4)

    readings = ("accuracy", "confidence", "ece", "mce", "classwise_ece", "brier", "nll")
    lines = [
        (
            subset,
            name,
            kind,
            f"{seeds[0]['members']}",
            *(text(seeds, key) for key in readings),
        )
        for ((name, kind), subset), seeds in cells.items()
    ]
    columns = (
        *("subset", "model", "temperature", "members", "accuracy", "confidence", "ECE", "MCE"),
        *("class-wise ECE", "Brier", "NLL"),
    )
    note = "15 equal bins over all labelled pixels; lower is better but for accuracy. "
    note += "Brackets: 95 % interval."
    return TextTable("calibration", columns, tuple(lines), frozenset(), note, names=3)


def _detection(rows: Sequence[Row]) -> TextTable:
    names = named(rows)
    cells = gather(rows, lambda r: (r["task"], names(r), temperature_of(r), r["score"]))
    found: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for ((task, name, kind, score), subset), seeds in cells.items():
        told = with_spread(seeds, "auroc", scale=1, digits=4)
        off = max((row["error_bound"] for row in seeds if row["error_bound"]), default=0.0)
        told += f" \N{PLUS-MINUS SIGN}{off:.4f}" if off >= _TOLD else ""
        found.setdefault((task, subset, name, kind), {})[score] = told
    scores = tuple(dict.fromkeys(row["score"] for row in rows))
    order = sorted(found, key=lambda at: (at[0], subset_order(at[1]), model_order(at[2]), at[3]))
    lines = [(*place, *(found[place].get(score, NONE) for score in scores)) for place in order]
    columns = ("task", "subset", "model", "temperature", *scores)
    note = "AUROC of each score: 0.5 is chance, 1 is perfect. Brackets: 95 % interval. "
    note += "\N{PLUS-MINUS SIGN}: how far that of unbinned scores may lie, if 0.0005 or more."
    return TextTable("detection", columns, tuple(lines), frozenset(), note, names=4)
