"""The section on agreement: how large each category is, overall and by class, how often right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moeseg.evaluation.cells import ordered, subsets_of
from moeseg.report import figures
from moeseg.report.colours import of_categories
from moeseg.report.grouping import ONE_MODEL, WHISKERS, alike, choice_of, ends, file_of, lacking
from moeseg.report.parts import Figure, Group, Section, csv_file, legend
from moeseg.types import Row


def agreement(rows: Sequence[Row], mixtures: bool) -> Section:
    """Return how large each category of agreement is, and how often it is right."""
    found = ordered(rows, "agreement")
    group = (
        *(f for part in alike(found, *ONE_MODEL) for f in _agreement_of(part)),
        *(f for part in alike(found, *ONE_MODEL, "subset") for f in _class_agreement(part)),
    )
    intro = (
        "At a pixel all experts may agree with the mixture (unanimous), the mixture may follow "
        "some of them, or overrule all (the critical case of the papers, with two experts)."
    )
    title, absent = "Agreement of the experts", lacking("agreement of experts", found, mixtures)
    return Section("agreement", title, intro, (), Group(group), absent)


def _named_categories(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Return categories from agreeing to overruling, and their colours."""
    names = list(dict.fromkeys(str(row["category"]) for row in rows))
    rank = {"unanimous": -1, "overrules": 1}
    followed = [name.removeprefix("follows ") for name in names if name.startswith("follows ")]
    experts = [name for name in followed if "+" not in name]  # rows stand in order of bitmasks
    names.sort(key=lambda name: (rank.get(name, 0), name.count("+")))
    return names, of_categories(names, experts)


def _agreement_of(rows: Sequence[Row]) -> Iterator[Figure]:
    names, colours = _named_categories(rows)
    cells = {(row["subset"], row["category"]): row for row in rows}
    subsets = subsets_of(rows)
    shares = [[_value(cells.get((s, name)), "share") for name in names] for s in subsets]
    keys = ("pixels", "share", "labelled", "right")
    lines = [
        (
            *(row[key] for key in ("model", "subset", "category", *keys)),
            *ends(row["ci95"]),
            *ends(row["right_ci95"]),
        )
        for row in rows
    ]
    more = ("share_low", "share_high", "right_low", "right_high")
    data = csv_file(
        file_of(rows[0], "agreement", "model"), ("model", "subset", "category", *keys, *more), lines
    )
    yield Figure(
        title=f"Who agrees with {rows[0]['model']}",
        svg=figures.stacked_bars(subsets, names, shares, colours),
        caption="Each bar is all pixels of a subset. Grey: every expert sees the mixture's "
        "class. Coloured: the mixture goes with some experts against the others, or with none.",
        data=data,
        choice=choice_of(rows[0], *ONE_MODEL),
        legend=legend(names, colours),
    )
    dots: list[figures.Dot | str] = []
    for subset in subsets:
        dots.append(subset)
        for name in names:
            row = cells.get((subset, name))
            if row is not None:
                interval = figures.pair(row["right_ci95"])
                dots.append(figures.Dot(name, row["right"], interval))
    yield Figure(
        title=f"How often {rows[0]['model']} is right",
        svg=figures.dots(dots, "right pixels in percent of the category"),
        caption="Of the labelled pixels of a category, the share that the mixture gets right. "
        f"Disagreement is worth a warning where its dots lie left of unanimous. {WHISKERS}",
        data=data,
        choice=choice_of(rows[0], *ONE_MODEL),
    )


def _value(row: Row | None, key: str) -> float | None:
    return None if row is None else row[key]


def _class_agreement(rows: Sequence[Row]) -> Iterator[Figure]:
    names, colours = _named_categories(rows)
    by_name = {row["category"]: row for row in rows}
    classes = [
        name
        for name in rows[0]["per_class_share"]
        if any(row["per_class_share"].get(name) is not None for row in rows)
    ]
    if not classes:
        return
    shares = [[by_name[n]["per_class_share"].get(c) for n in names] for c in classes]
    right = [[by_name[n]["per_class_right"].get(c) for n in names] for c in classes]
    lines = [
        (name, category, share, correct)
        for name, of_share, of_right in zip(classes, shares, right, strict=True)
        for category, share, correct in zip(names, of_share, of_right, strict=True)
    ]
    data = csv_file(
        file_of(rows[0], "agreement-classes", "model", "subset"),
        ("class", "category", "share", "right"),
        lines,
    )
    choice = choice_of(rows[0], *ONE_MODEL, "subset")
    where = f"{rows[0]['model']} on {rows[0]['subset']}"
    yield Figure(
        title=f"By class: {where}",
        svg=figures.stacked_bars(classes, names, shares, colours),
        caption="Each bar is all pixels that the label gives the class; the parts are as above. "
        "Little grey: a class that the experts dispute.",
        data=data,
        choice=choice,
        legend=legend(names, colours),
    )
    yield Figure(
        title=f"Right by class: {where}",
        svg=figures.heat_map(classes, names, right),
        caption="Share of right pixels, 0 to 1, of each class in each category; darker is more. "
        "A dash: no labelled pixel.",
        data=data,
        choice=choice,
    )
