"""The page: a run's folder in, one HTML file out that opens offline and asks for nothing.

The same files give the same bytes. What a run lacks is told on the page, and the rest is shown.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from moeseg import __version__
from moeseg.evaluation.cells import Ground, by_ground, ground_of, ordered, with_seeds
from moeseg.evaluation.changes import is_changed, read_condition
from moeseg.evaluation.condition_csv import render_condition_csv
from moeseg.evaluation.contents import CLEAN
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
from moeseg.report.robustness import robustness
from moeseg.report.robustness_told import how_robust
from moeseg.report.routing import routing
from moeseg.report.scores import scores
from moeseg.report.summary import Answer, headline_mixture, other_conditions, summarise
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
    clean, robust = _unchanged(rows), robustness(rows)
    sections = [
        scores(clean, run.study.published if run.study else None),
        agreement(clean, mixtures),
        detectors(clean, mixtures),
        routing(clean, mixtures),
        *([robust] if robust else []),
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
        headline=headline_mixture(ordered(clean, "segmentation")),
        classes=_class_data(clean),
        class_file=Download("classes.csv", "text/csv", render_class_csv(clean)),
        explorer=run.explorer.sets,
        no_frames=_NO_FRAMES,
        unknown=_unknown(run.other),
        downloads=_downloads([*rows, *run.other]),
    )


def _own(name: str) -> Markup:
    """Return a file of this package, which is safe to stand in the page as it is."""
    return Markup((_HERE / name).read_text(encoding="utf-8"))


def _prose(text: str) -> Markup:
    """Set in code what stands between backticks; all else is escaped."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _unchanged(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of clean images; where there are none, all but what robustness shows."""
    clean = [row for row in rows if row["condition"] == CLEAN]
    known = ("attack", "corruption")
    return clean or [
        row
        for row in rows
        if not (is_changed(row) and read_condition(row["condition"]).kind in known)
    ]


def _downloads(rows: Sequence[Row]) -> dict[str, Download]:
    """Return the rows by the words of their links.

    Those on changed images, of which there may be thousands, come as a short CSV.
    """
    changed = [row for row in rows if is_changed(row)]
    kept = [row for row in rows if not is_changed(row)]
    words = "all rows but those on changed images" if changed else "all rows"
    found = {words: Download("results.jsonl", "application/jsonl", _json_lines(kept))}
    if changed:
        table = render_condition_csv(changed)
        found["scores on changed images"] = Download("robustness.csv", "text/csv", table)
    return found


def _summaries(run: RunFiles) -> list[dict[str, Any]]:
    """Return a summary per ground; those of clean images alone, where there are any.

    What is said of changed images stands with the clean ones of the same place.
    """
    made: dict[Ground, list[Answer]] = {
        ground: summarise(run.study, rows)
        for ground, rows in by_ground(_unchanged(run.rows)).items()
    }
    places: dict[Ground, list[Row]] = {}
    for row in run.rows:
        dataset, split, size, _ = ground_of(row)
        places.setdefault((dataset, split, size, CLEAN), []).append(row)
    for ground, rows in places.items():
        if answers := how_robust(rows):
            made[ground] = [*made.get(ground, []), *answers]
    return [{"place": place(ground), "answers": made[ground]} for ground in sorted(made)]


def _class_data(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what the per-class bars are drawn from."""
    grounds = []
    for ground, of_ground in by_ground(ordered(rows, "segmentation")).items():
        call = with_seeds(of_ground, itemgetter("model"))
        bars = [
            {
                "model": call(row),
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
