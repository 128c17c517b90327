"""The pieces a page is made of: figures with caption and data, tables that sort, sections.

Only values; how they look is page.html, page.css and page.js.
"""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from moeseg.evaluation.contents import TextTable


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of a legend; `dash` is None for an area, a `stroke-dasharray` for a line."""

    name: str
    colour: str
    dash: str | None = None


@dataclass(frozen=True, slots=True)
class Download:
    """A file that the page carries in a link."""

    file: str
    kind: str
    text: str

    @property
    def uri(self) -> str:
        """The content as a data URI."""
        return f"data:{self.kind};base64,{base64.b64encode(self.text.encode()).decode()}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One plot.

    Attributes:
        title: what it shows.
        svg: the drawing.
        caption: how to read it.
        data: the numbers behind it.
        choice: by which choices it is found, e.g. ``{"mixture": "moe-simple"}``.
        legend: may be empty.
    """

    title: str
    svg: str
    caption: str
    data: Download
    choice: Mapping[str, str]
    legend: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """A table's cell."""

    text: str
    best: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table that sorts by every column.

    Attributes:
        title: stands above.
        columns: heads.
        lines: cells, as many as columns.
        names: so many columns at the left hold names.
        note: stands below.
        data: the cells as a CSV.
        choice: by which choices it is found in a group, as a figure is.
        open: seen without a click.
    """

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[Cell, ...], ...]
    names: int
    note: str
    data: Download
    choice: Mapping[str, str] = field(default_factory=dict)
    open: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Figures and tables of which one choice is seen at a time.

    Attributes:
        figures: each seen where its choice is made.
        tables: the same.
        opens: values that are chosen at first, by name; of others the page chooses.
    """

    figures: tuple[Figure, ...]
    tables: tuple[Table, ...] = ()
    opens: Mapping[str, str] = field(default_factory=dict)

    @property
    def choices(self) -> dict[str, list[str]]:
        """All values of each choice that has more than one, in order of appearance."""
        known = [f.choice for f in self.figures] + [t.choice for t in self.tables]
        names = dict.fromkeys(name for choice in known for name in choice)
        found = {
            name: list(dict.fromkeys(choice[name] for choice in known if name in choice))
            for name in names
        }
        return {name: values for name, values in found.items() if len(values) > 1}


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page under one heading.

    Attributes:
        anchor: its address within the page.
        title: its heading.
        intro: what it is about.
        tables: that are always there.
        group: what is found by choices.
        lacking: says what is not there.
        told: sentences about its numbers, each a paragraph.
    """

    anchor: str
    title: str
    intro: str
    tables: tuple[Table, ...]
    group: Group
    lacking: str = ""
    told: tuple[str, ...] = ()


def table(
    title: str,
    columns: Sequence[str],
    cells: Iterable[Sequence[str]],
    *,
    names: int,
    note: str = "",
    file: str,
    best: Iterable[tuple[int, int]] = (),
    filed: Iterable[Sequence[str]] | None = None,
) -> Table:
    """Return a table of texts; a cell that begins with a number sorts by it.

    Args:
        title: stands above.
        columns: heads.
        cells: one sequence per line.
        names: so many columns at the left hold names.
        note: stands below.
        file: name of the CSV.
        best: (line, column) of the cells to set in bold.
        filed: the lines of the CSV, where they are others than those shown.
    """
    texts = [tuple(line) for line in cells]
    bold = set(best)
    lines = tuple(
        tuple(Cell(text, (number, column) in bold) for column, text in enumerate(line))
        for number, line in enumerate(texts)
    )
    return Table(title, tuple(columns), lines, names, note, csv_file(file, columns, filed or texts))


def from_text(
    text: TextTable, choice: Mapping[str, str] | None = None, *, open: bool = False
) -> Table:
    """Return a table of `evaluation`, so that it stands on the page."""
    made = table(
        text.heading,
        text.columns,
        text.cells,
        names=text.names,
        note=text.note,
        file=text.heading,
        best=text.best,
    )
    return replace(made, choice=choice or {}, open=open)


def legend(names: Sequence[str], colours: Sequence[str]) -> tuple[Key, ...]:
    """Return a legend of coloured areas."""
    return tuple(Key(name, colour) for name, colour in zip(names, colours, strict=True))


def csv_file(name: str, columns: Sequence[str], lines: Iterable[Sequence[object]]) -> Download:
    """Return a CSV with a line of heads."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return Download(re.sub(r"[^\w.+-]+", "_", name) + ".csv", "text/csv", text.getvalue())
