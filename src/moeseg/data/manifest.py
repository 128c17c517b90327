"""Any data set as one CSV: `image,label,subset,split` and, if wanted, `sequence`.

Reads the table, not the pictures; whether files are there is seen by `check.py` or on loading.
"""

from __future__ import annotations

import csv
from pathlib import Path

from moeseg.data.catalogue import SPLITS, Catalogue
from moeseg.data.labels import Coding, LabelFormat
from moeseg.data.taxonomy import Taxonomy
from moeseg.errors import DataError, unknown_name
from moeseg.types import Frame

COLUMNS = ("image", "label", "subset", "split")
OPTIONAL = ("sequence",)
_SHOWN = 20  # lines named in a message


def read_manifest(
    path: Path,
    taxonomy: Taxonomy,
    labels: Coding = "colours",
    dataset: str | None = None,
    *,
    strict: bool = True,
) -> Catalogue:
    """Read the frames that a CSV file names.

    Args:
        path: the CSV; paths in it are relative to its folder. The sequence is the image's parent
            folder where the column is absent or empty; the frame is the image's name.
        taxonomy: the label set of the label files.
        labels: ``colours`` for RGB label pictures, ``ids`` for class ids with 255 ignored.
        dataset: name in result rows; None takes the name of the CSV's folder.
        strict: refuse frames that stand in two places; only `check` looks at such data.

    Raises:
        DataError: the file is missing or unreadable, lacks columns or has unknown ones, or lines
            are malformed; all lines are named at once.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(lines, [])]
            rows = [(lines.line_num, row) for row in lines if any(cell.strip() for cell in row)]
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such manifest. Expected a CSV file with the columns {','.join(COLUMNS)}; "
            "say where it lies by the environment variable MOESEG_DATA or by --set data.root=FILE."
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: can't read the manifest: {error}.") from error
    _check_header(path, header)
    problems: list[str] = []
    frames = [
        frame
        for number, row in rows
        if (frame := _frame(path, number, header, row, problems)) is not None
    ]
    if problems:
        more = f"\n... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError("\n".join(problems[:_SHOWN]) + more)
    if not frames:
        raise DataError(f"{path}: expected a line for each frame, got none below the header.")
    name = dataset or path.absolute().parent.name
    return Catalogue(
        name, tuple(frames), LabelFormat(labels, taxonomy, taxonomy), str(path), strict
    )


def _check_header(path: Path, header: list[str]) -> None:
    problems = [f"column {name!r} is missing" for name in COLUMNS if name not in header]
    known = (*COLUMNS, *OPTIONAL)
    problems += [unknown_name("column", name, known) for name in header if name not in known]
    problems += [f"column {name!r} stands twice" for name in known if header.count(name) > 1]
    if problems:
        raise DataError(
            f"{path}:1: expected the columns {','.join(COLUMNS)} and perhaps sequence: "
            f"{'; '.join(problems)}"
        )


def _frame(
    path: Path, number: int, header: list[str], row: list[str], problems: list[str]
) -> Frame | None:
    where = f"{path}:{number}"
    if len(row) != len(header):
        problems.append(f"{where}: expected {len(header)} values, got {len(row)}.")
        return None
    cells = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
    before = len(problems)
    problems += [f"{where}: {name} is empty." for name in COLUMNS if not cells[name]]
    if "+" in cells["subset"]:
        problems.append(f"{where}: expected a subset without '+', got {cells['subset']!r}.")
    split = next((split for split in SPLITS if split == cells["split"]), None)
    if split is None and cells["split"]:
        problems.append(f"{where}: {unknown_name('split', cells['split'], SPLITS)}")
    image = path.parent / cells["image"]
    sequence = cells.get("sequence") or image.absolute().parent.name
    if "/" in sequence or "\\" in sequence or sequence in (".", ".."):
        problems.append(f"{where}: expected a sequence without slashes, got {sequence!r}.")
    if split is None or len(problems) > before:
        return None
    return Frame(sequence, image.stem, image, path.parent / cells["label"], cells["subset"], split)
