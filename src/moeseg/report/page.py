"""The page: a run's folder in, one HTML file out that opens offline and asks for nothing.

The same files give the same bytes. What a run lacks is told on the page, and the rest is shown.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from moeseg import __version__
from moeseg.evaluation.contents import by_ground, ordered
from moeseg.evaluation.table import render_class_csv
from moeseg.files import write_text
from moeseg.insight.agreement import MAX_EXPERTS
from moeseg.report.agreement import agreement
from moeseg.report.calibration import calibration
from moeseg.report.colours import of_models
from moeseg.report.detectors import detectors
from moeseg.report.grouping import place
from moeseg.report.parts import Download
from moeseg.report.reading import RunFiles, read_run
from moeseg.report.routing import routing
from moeseg.report.scores import scores
from moeseg.report.summary import headline_mixture, other_conditions, summarise
from moeseg.types import Row

_HERE = Path(__file__).parent
_NO_FRAMES = (
    "No pictures of frames in this run (`insight/layers` is not there, or empty): `moeseg study` "
    "writes them when the models are scored."
)


def write_report(run_folder: Path, out: Path | None = None) -> Path:
    """Write the report of a run and return its path.

    Args:
        run_folder: a study's folder with `results.jsonl`, finished or not.
        out: the file to write; `report.html` in the run's folder where None.

    Raises:
        UsageError: there is no such folder, or it holds no rows.
        DataError: the rows cannot be read.
        MoesegError: the file cannot be written.
    """
    path = out or run_folder / "report.html"
    write_text(path, render(run_folder))
    return path


def render(run_folder: Path) -> str:
    """Return the report of a run as HTML; raises as `write_report` does."""
    run = read_run(run_folder)
    environment = Environment(
        loader=PackageLoader("moeseg.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["prose"] = _prose
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "separators": (",", ":")}
    rows = list(run.rows)
    mixtures = any(row["model"].startswith("moe-") for row in rows)
    if run.study is not None:
        mixtures = bool(run.study.mixtures)
    sections = [
        scores(rows, run.study.published if run.study else None),
        agreement(rows, mixtures),
        detectors(rows, mixtures),
        routing(rows, mixtures),
    ]
    asked = run.study is not None and run.study.uncertainty.measure
    if asked or run.uncertainty:
        sections.append(calibration(run.uncertainty, asked))
    no_frames = [] if run.explorer.sets else [_NO_FRAMES]
    return environment.get_template("page.html").render(
        title=run.study.name if run.study else "moeseg",
        version=__version__,
        style=_own("figures.css") + _own("page.css"),
        script=_own("page.js") + _own("explorer.js"),
        missing=[*run.missing, *(part.lacking for part in sections if part.lacking), *no_frames],
        summaries=_summaries(run),
        more=other_conditions(rows),
        sections=sections,
        headline=headline_mixture(ordered(rows, "segmentation")),
        classes=_class_data(rows),
        class_file=Download("classes.csv", "text/csv", render_class_csv(rows)),
        explorer=run.explorer.sets,
        no_frames=_NO_FRAMES,
        unknown=_unknown(run.other),
        downloads=[
            Download("results.jsonl", "application/jsonl", _json_lines([*rows, *run.other]))
        ],
    )


def _own(name: str) -> Markup:
    """Return a file of this package, which is safe to stand in the page as it is."""
    return Markup((_HERE / name).read_text(encoding="utf-8"))


def _prose(text: str) -> Markup:
    """Set in code what stands between backticks; all else is escaped."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _summaries(run: RunFiles) -> list[dict[str, Any]]:
    """Return a summary per ground; those of clean images alone, where there are any."""
    grounds = by_ground(run.rows)
    clean = [ground for ground in grounds if ground[3] == "clean"]
    return [
        {"place": place(ground), "answers": summarise(run.study, grounds[ground])}
        for ground in sorted(clean or grounds)
    ]


def _class_data(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what the per-class bars are drawn from."""
    grounds = []
    for ground, of_ground in by_ground(ordered(rows, "segmentation")).items():
        seeded = len({row["seed"] for row in of_ground}) > 1
        bars = [
            {
                "model": f"{row['model']}, seed {row['seed']}" if seeded else row["model"],
                "subset": row["subset"],
                "iou": list(row["per_class_iou"].values()),
                "pixels": list(row["per_class_pixels"].values()),
                "classes": list(row["per_class_iou"]),
            }
            for row in of_ground
        ]
        named = dict.fromkeys(row["model"] for row in of_ground)
        experts = [model for model in named if model.startswith("expert-")]
        # experts come first, so that they have the colours they have in all other plots
        first = [*experts, headline_mixture(of_ground), "baseline"]
        colours = of_models(min(len(experts), MAX_EXPERTS))
        grounds.append({"place": place(ground), "bars": bars, "first": first, "colours": colours})
    return {"grounds": grounds}


def _unknown(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return kinds of rows that this version cannot show, with how many and the rows."""
    found = Counter(row["kind"] for row in rows)
    return [
        {
            "kind": kind,
            "number": number,
            "data": Download(
                "rows.jsonl",
                "application/jsonl",
                _json_lines([row for row in rows if row["kind"] == kind]),
            ),
        }
        for kind, number in sorted(found.items())
    ]


def _json_lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
