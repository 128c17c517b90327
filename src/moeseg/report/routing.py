"""The section on routing: gate weights by subset, by frame, and class by expert."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moeseg.evaluation.cells import ordered
from moeseg.report import figures
from moeseg.report.colours import of_experts
from moeseg.report.grouping import (
    ONE_MODEL,
    alike,
    bracket,
    choice_of,
    file_of,
    lacking,
    number,
    place_of,
)
from moeseg.report.parts import Figure, Group, Section, Table, csv_file, legend, table
from moeseg.types import Row

_GATES = {False: "alive", None: "-", "one expert": "collapsed: one expert"}
_GATES |= {"constant": "collapsed: constant"}


def routing(rows: Sequence[Row], mixtures: bool) -> Section:
    """Return what the gates do: weights by subset, their distribution, class by expert."""
    found = ordered(rows, "routing")
    group = (
        *(f for part in alike(found, *ONE_MODEL) for f in _weights_of(part)),
        *(f for row in found for f in _weights_on(row)),
    )
    intro = (
        "The gate gives each expert a weight per frame (class-wise gates: per frame and class); "
        "weights of a frame sum to 1. A gate that always gives the same answer has collapsed."
    )
    absent = lacking("routing", found, mixtures)
    made = tuple(_routing_table(part) for part in alike(found))
    return Section("routing", "Routing", intro, made, Group(group), absent)


def _experts(row: Row) -> tuple[list[str], list[str]]:
    names = [str(name) for name in row["experts"]]
    return names, of_experts(len(names))


def _weights_of(rows: Sequence[Row]) -> Iterator[Figure]:
    names, colours = _experts(rows[0])
    subsets = [row["subset"] for row in rows]
    shares = [[row["mean_weights"].get(name) for name in names] for row in rows]
    lines = [
        (row["model"], row["subset"], row["seed"], name, row["mean_weights"].get(name))
        for row in rows
        for name in names
    ]
    columns = ("model", "subset", "seed", "expert", "weight")
    yield Figure(
        title=f"Mean gate weights of {rows[0]['model']}",
        svg=figures.stacked_bars(subsets, names, shares, colours),
        caption="Mean over the frames of a subset (and over classes, for class-wise gates). A gate "
        "that knows where it is gives each expert most on its own subset; equal bars on all "
        "subsets say that it does not look at the frame.",
        data=csv_file(file_of(rows[0], "weights", "model"), columns, lines),
        choice=choice_of(rows[0], *ONE_MODEL),
        legend=legend(names, colours),
    )


def _weights_on(row: Row) -> Iterator[Figure]:
    names, colours = _experts(row)
    counts = [row["histogram"][name] for name in names]
    choice = choice_of(row, *ONE_MODEL, "subset")
    lines = [
        (name, bin_ / len(bins), (bin_ + 1) / len(bins), count)
        for name, bins in zip(names, counts, strict=True)
        for bin_, count in enumerate(bins)
    ]
    where = f"{row['model']} on {row['subset']}"
    yield Figure(
        title=f"Weights by frame: {where}",
        svg=figures.histograms(names, counts, colours, "weight of the expert"),
        caption="How many frames give an expert which weight. Bars at 0 and 1: the gate switches "
        "between experts; bars in the middle: it blends them; one bar alone: always the same.",
        data=csv_file(
            file_of(row, "histogram", "model", "subset"), ("expert", "from", "to", "frames"), lines
        ),
        choice=choice,
    )
    if row["class_weights"]:
        classes = list(row["class_weights"])
        values = [[row["class_weights"][c].get(name) for name in names] for c in classes]
        flat = [(c, *line) for c, line in zip(classes, values, strict=True)]
        yield Figure(
            title=f"Class by expert: {where}",
            svg=figures.heat_map(classes, names, values),
            caption="Mean weight of each expert for each class, 0 to 1; darker is more. A line "
            "that is dark at one expert: the gate trusts it with this class.",
            data=csv_file(
                file_of(row, "class-weights", "model", "subset"), ("class", *names), flat
            ),
            choice=choice,
        )


def _routing_table(rows: Sequence[Row]) -> Table:
    lines = [
        (
            row["model"],
            row["subset"],
            _GATES.get(row["collapsed"], str(row["collapsed"])),
            number(row["entropy"]),
            _points(row["concentration"]),
            _points(row["prefers_better"]) + bracket(_percent(row["ci95"]), 1),
            str(row["frames_compared"]),
            _points(row["subset_accuracy"]),
            _points(row["oracle_lost"]),
        )
        for row in rows
    ]
    columns = ("mixture", "subset", "gate", "entropy", "top expert", "prefers the better")
    return table(
        f"{place_of(rows)}: gates",
        (*columns, "frames compared", "tells the subset", "lost to the oracle"),
        lines,
        names=3,
        note="Gate: a verdict is given on joins only, since one answer may be right on one subset. "
        "In percent, but for entropy (0: always one expert, 1: all alike). Top expert: share "
        "of decisions whose largest weight falls on the expert that gets it most often. Lost to "
        "the oracle: mIoU points below taking, per frame, the expert that is better there.",
        file=f"{place_of(rows)}-routing",
    )


def _points(share: float | None) -> str:
    return number(None if share is None else 100 * share, 1)


def _percent(interval: Sequence[float] | None) -> list[float] | None:
    return None if interval is None else [100 * end for end in interval]
