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

from moeseg.evaluation.contents import Published, TextTable, ordered, tables
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
    parts = []
    for table in tables(rows, published):
        names = _text_columns(table)
        lines = [f"## {_escape(table.heading)}", ""]
        lines.append("| " + " | ".join(map(_escape, table.columns)) + " |")
        lines.append("|---" * names + "|--:" * (len(table.columns) - names) + "|")
        for line, cells in enumerate(table.cells):
            texts = [
                f"**{_escape(text)}**" if (line, column) in table.best else _escape(text)
                for column, text in enumerate(cells)
            ]
            lines.append("| " + " | ".join(texts) + " |")
        lines += ["", _escape(table.note)]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def write_tables(folder: Path, rows: Sequence[Row], published: Published | None = None) -> None:
    """Write `results.jsonl`, `table.md`, `table.csv` and `classes.csv` of rows into a folder."""
    write_rows(folder / "results.jsonl", rows)
    write_text(folder / "table.md", render_markdown(rows, published))
    write_text(folder / "table.csv", render_csv(rows))
    write_text(folder / "classes.csv", render_class_csv(rows))


def render_terminal(rows: Iterable[Row], published: Published | None = None) -> Group:
    """Return all tables for `rich.console.Console.print`; as `render_markdown` in all else."""
    shown = []
    for table in tables(rows, published):
        view = Table(
            title=Text(table.heading, style="bold"),
            caption=Text(table.note, style="dim"),
            title_justify="left",
            caption_justify="left",
        )
        names = _text_columns(table)
        for column, head in enumerate(table.columns):
            view.add_column(Text(head), justify="left" if column < names else "right")
        for line, cells in enumerate(table.cells):
            styles = ["bold green" if (line, c) in table.best else "" for c in range(len(cells))]
            view.add_row(*(Text(t, style=s) for t, s in zip(cells, styles, strict=True)))
        shown.append(view)
    return Group(*shown)


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
            + [_percent(number) for number in numbers]
            + [row[key] for key in more]
        )
    return _csv(lines)


def render_class_csv(rows: Iterable[Row]) -> str:
    """Return IoU (percent) and pixel count of each class of the ``segmentation`` rows as CSV."""
    base = ("dataset", "split", "condition", "model", "architecture", "seed", "subset")
    lines: list[list[object]] = [[*base, "height", "width", "class", "iou_percent", "pixels"]]
    for row in ordered(rows, "segmentation"):
        head = [row[key] for key in base] + [*row["size"]]
        for name, iou in row["per_class_iou"].items():
            lines.append([*head, name, _percent(iou), row["per_class_pixels"][name]])
    return _csv(lines)


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 4)


def _text_columns(table: TextTable) -> int:
    """Return how many columns hold names; the others hold numbers."""
    return 1 if table.columns[0] == "model" else 2


def _escape(text: str) -> str:
    """Keep a name from ending a markdown cell or starting markup."""
    for sign in "\\|*_`<":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())


def _csv(lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
