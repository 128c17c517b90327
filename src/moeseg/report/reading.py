"""What lies in a run's folder, read for the report; what is missing is told, not guessed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from moeseg.config import Study, load_study
from moeseg.errors import DataError, UsageError
from moeseg.evaluation.rows import is_current, read_rows, read_run_rows, validate_row
from moeseg.insight.layers import condition_folder
from moeseg.report.layers import Explorer, read_layers
from moeseg.types import Row

SHOWN_KINDS = ("segmentation", "difference", "agreement", "detector", "routing", "attack")
OF_UNCERTAINTY = ("calibration", "conditional", "uncertainty-difference")
"""Kinds of the section on uncertainty, with the detectors of `uncertainty.jsonl`."""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """A run as the report sees it.

    Attributes:
        rows: those of a known kind that are as their kind wants them.
        uncertainty: of these, what is about uncertainty.
        other: rows of kinds that the report cannot show.
        study: the settings; None where they are not there or cannot be read.
        explorer: pictures of single frames.
        missing: what is not there, and what to do, in sentences.
    """

    rows: tuple[Row, ...]
    uncertainty: tuple[Row, ...]
    other: tuple[Row, ...]
    study: Study | None
    explorer: Explorer
    missing: tuple[str, ...]

    def of(self, kind: str) -> list[Row]:
        """Return the rows of one kind."""
        return [row for row in self.rows if row["kind"] == kind]


def read_run(folder: Path) -> RunFiles:
    """Read a run's folder.

    Raises:
        UsageError: there is no such folder, or no rows are in it.
        DataError: the rows cannot be read.
    """
    if not folder.is_dir():
        raise UsageError(
            f"expected the folder of a run, found none at {folder}; name the `out` of a study, "
            "e.g. runs/demo, or make it with `moeseg study FILE`."
        )
    begun = (folder / "study.yaml").is_file()
    found = read_run_rows(folder)
    scored = (folder / "results.jsonl").is_file()
    if not found and not scored and not begun:
        raise UsageError(
            f"expected results.jsonl in {folder}, found none: nothing was scored there yet; run "
            "`moeseg study FILE` until its table is written, then ask for the report again."
        )
    missing: list[str] = []
    study = _study(folder / "study.yaml", missing)
    measured = study is None or study.uncertainty.measure
    doubts = folder / "uncertainty.jsonl"
    doubted = _rows_in(doubts) if is_current(folder, "uncertainty", measured) else []
    rows: list[Row] = []
    uncertainty: list[Row] = []
    other: list[Row] = []
    for place, row in enumerate([*found, *doubted]):
        doubt = place >= len(found) or row["kind"] in OF_UNCERTAINTY
        if row["kind"] not in (*SHOWN_KINDS, *OF_UNCERTAINTY):
            other.append(row)
            continue
        try:
            validate_row(row)
            (uncertainty if doubt else rows).append(row)
        except DataError as error:
            missing.append(f"Left out: {error}")
        except (TypeError, KeyError, AttributeError, ValueError):
            name = f"{row.get('kind')} row of {row.get('model')!r} on {row.get('subset')!r}"
            missing.append(f"Left out: a {name} whose values are not of their kind.")
    if not rows:
        missing.append(
            "Nothing is scored yet: no rows that can be shown are in results.jsonl. The same "
            "`moeseg study` command goes on where it stopped."
        )
    missing += _half_finished(study, rows)
    maps = folder / "uncertainty" / "maps"
    drawn = maps if is_current(folder, "uncertainty-maps", measured) else None
    shown = None if study is None else _shown(folder, study)
    explorer = read_layers(folder / "insight" / "layers", maps=drawn, shown=shown)
    missing += explorer.missing
    return RunFiles(tuple(rows), tuple(uncertainty), tuple(other), study, explorer, tuple(missing))


def _shown(folder: Path, study: Study) -> list[str]:
    """Return the folders of the conditions that the study draws."""
    attacked = study.robustness.show
    if not is_current(folder, "attack-pictures", bool(attacked)):
        attacked = ()
    return ["clean", *map(condition_folder, attacked)]


def _rows_in(path: Path) -> list[Row]:
    return read_rows(path) if path.is_file() else []


def _study(path: Path, missing: list[str]) -> Study | None:
    if not path.is_file():
        missing.append("study.yaml is not in the run's folder, so its settings are not told.")
        return None
    try:
        return load_study(path)
    except UsageError as error:
        # the message names the file by its folder, which must not change the page
        told = str(error).replace(str(path), path.name)
        missing.append(f"The settings are not told: {told}")
        return None


def _half_finished(study: Study | None, rows: list[Row]) -> list[str]:
    """Say which models of the study were not scored."""
    if study is None:
        return []
    told = []
    found = Counter(row["model"] for row in rows if row["kind"] == "segmentation")
    if absent := [name for name in study.model_names() if not found[name]]:
        told.append(
            f"No scores of {', '.join(absent)}: the run is not finished. The same "
            "`moeseg study` command goes on where it stopped."
        )
    return told
