"""Tables from rows, and from nothing else: markdown, CSV and the terminal.

How tables look; what stands in them is made in `contents`. All print percent.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from moeseg.evaluation.cells import ordered
from moeseg.evaluation.contents import Published, TextTable, clean_rows, tables
from moeseg.evaluation.rows import BASE_KEYS, SHARES, write_rows
from moeseg.files import write_text
from moeseg.types import Row


def render_markdown(rows: Iterable[Row], published: Published | None = None) -> str:
    """Return all tables as markdown; the order of the rows has no effect.

    Args:
        rows: of any kind.
        published: figures to stand beside the measured ones on clean images.

    Raises:
        DataError: two rows claim the same cell.
    """
    return as_markdown(tables(rows, published))


def render_terminal(rows: Iterable[Row], published: Published | None = None) -> Group:
    """Return all tables for `rich.console.Console.print`; as `render_markdown` in all else."""
    return as_terminal(tables(rows, published))


def as_markdown(made: Iterable[TextTable]) -> str:
    """Return tables as markdown, one below the other."""
    parts = []
    for table in made:
        lines = [f"## {_escape(table.heading)}", ""]
        lines.append("| " + " | ".join(map(_escape, table.columns)) + " |")
        lines.append("|---" * table.names + "|--:" * (len(table.columns) - table.names) + "|")
        for line, cells in enumerate(table.cells):
            texts = [
                f"**{_escape(text)}**" if (line, column) in table.best else _escape(text)
                for column, text in enumerate(cells)
            ]
            lines.append("| " + " | ".join(texts) + " |")
        lines += ["", _escape(table.note)]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def as_terminal(made: Iterable[TextTable]) -> Group:
    """Return tables for `rich.console.Console.print`."""
    shown = []
    for table in made:
        view = Table(
            title=Text(table.heading, style="bold"),
            caption=Text(table.note, style="dim"),
            title_justify="left",
            caption_justify="left",
        )
        for column, head in enumerate(table.columns):
            view.add_column(Text(head), justify="left" if column < table.names else "right")
        for line, cells in enumerate(table.cells):
            styles = ["bold green" if (line, c) in table.best else "" for c in range(len(cells))]
            view.add_row(*(Text(t, style=s) for t, s in zip(cells, styles, strict=True)))
        shown.append(view)
    return Group(*shown)


def write_tables(folder: Path, rows: Sequence[Row], published: Published | None = None) -> None:
    """Write `results.jsonl`, `table.md`, `table.csv` and `classes.csv` of rows into a folder."""
    write_rows(folder / "results.jsonl", rows)
    write_text(folder / "table.md", render_markdown(rows, published))
    write_text(folder / "table.csv", render_csv(rows))
    write_text(folder / "classes.csv", render_class_csv(rows))


def render_csv(rows: Iterable[Row]) -> str:
    """Return the ``segmentation`` rows as CSV, one line each; readings in percent."""
    base = [key for key in BASE_KEYS if key not in ("kind", "settings", "size")]
    shares = [f"{key}_percent" for key in SHARES["segmentation"]]
    more = ["classes_used", "ci_unit", "ci_units"]
    head = [*base, "height", "width", *shares, "ci95_low_percent", "ci95_high_percent", *more]
    lines: list[list[object]] = [[*head]]
    for row in ordered(rows, "segmentation"):
        numbers = [*(row[key] for key in SHARES["segmentation"]), *(row["ci95"] or (None, None))]
        lines.append(
            [row[key] for key in base]
            + [*row["size"]]
            + [in_percent(number) for number in numbers]
            + [row[key] for key in more]
        )
    return csv_text(lines)


def render_class_csv(rows: Iterable[Row]) -> str:
    """Return IoU (percent) and pixel count of each class of the ``segmentation`` rows as CSV.

    Those of clean images, where there are any.
    """
    base = ("dataset", "split", "condition", "model", "architecture", "seed", "subset")
    lines: list[list[object]] = [[*base, "height", "width", "class", "iou_percent", "pixels"]]
    for row in clean_rows(ordered(rows, "segmentation")):
        head = [row[key] for key in base] + [*row["size"]]
        for name, iou in row["per_class_iou"].items():
            lines.append([*head, name, in_percent(iou), row["per_class_pixels"][name]])
    return csv_text(lines)


def in_percent(share: float | None) -> float | None:
    """Return a share as it stands in a CSV; None as it is."""
    return None if share is None else round(100 * share, 4)


def _escape(text: str) -> str:
    """Keep a name from ending a markdown cell or starting markup."""
    for sign in "\\|*_`<":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())


def csv_text(lines: Iterable[Sequence[object]]) -> str:
    """Return lines as CSV; None is an empty field."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
