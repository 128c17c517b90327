"""Uncertainty of saved models, or of all models of a run, on frames of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from moeseg.config import MeasuredCorruptionsConfig
from moeseg.errors import UsageError, unknown_name
from moeseg.evaluation.rows import write_rows
from moeseg.evaluation.saved import common_size, load_saved, open_saved, saved_print
from moeseg.evaluation.stages import evaluate, row_base, scored_frames
from moeseg.files import remove
from moeseg.models import Expert, Model, MonteCarloDropout, Segmenter
from moeseg.run import Run
from moeseg.types import Frame, Row, Size
from moeseg.uncertainty.measured import (
    check_corrupted_frames,
    fit_temperatures,
    uncertainty_rows,
)
from moeseg.uncertainty.measures import variant_name
from moeseg.uncertainty.stages import ChangesOf, fit_frames
from moeseg.uncertainty.temperature import (
    KINDS,
    Temperature,
    Tempered,
    load_temperatures,
    save_temperatures,
)

Temperatures = Literal["saved", "fit", "none"]


def uncertainty_saved(
    run: Run,
    folders: Sequence[Path],
    subsets: Sequence[str],
    *,
    temperatures: Temperatures = "saved",
    samples: int | None = None,
    changes_of: ChangesOf | None = None,
    out: Path | None = None,
) -> list[Row]:
    """Measure the uncertainty of saved models on labelled frames of a study.

    Args:
        run: whose data, `eval` and `uncertainty` settings hold.
        folders: of the models; each is called by its folder's name.
        subsets: subsets and joins that get rows.
        temperatures: those ``saved`` with the models, or ``fit`` now on the frames of
            `uncertainty.fit` and saved with them, or ``none``.
        samples: also measure every single network with MC dropout of so many samples.
        changes_of: gives the changes behind `uncertainty.corruptions`, by default all corruptions;
            None measures no corrupted frames.
        out: file for the rows (JSON lines); None writes none.

    Raises:
        CheckpointError: a folder holds no model, or one of another taxonomy than the data.
        UsageError: no frames to fit on, frames that saved temperatures were fitted on, a network
            without dropout, or an unknown subset.
    """
    wanted = run.study.uncertainty.corruptions or MeasuredCorruptionsConfig()
    study = run.study.uncertainty.model_copy(
        update={"subsets": tuple(subsets), "corruptions": wanted if changes_of else None}
    )
    run = Run(run.study.model_copy(update={"uncertainty": study}), run.folder)
    models, infos = load_saved(run, folders)
    size = run.study.eval.size or common_size(folders)
    places = dict(zip(models, folders, strict=True))
    if samples is not None:
        for name, network in _networks(models).items():
            own = f"{name} mc-dropout-{samples}"
            models[own] = MonteCarloDropout(network, samples, seed=run.study.seed).eval()
            infos[own] = {k: v for k, v in infos[name].items() if k != "subset"}
    frames, choosing = scored_frames(run, subsets), fit_frames(run, strict=temperatures == "fit")
    changes = changes_of(wanted, run.study.seed) if changes_of else None
    if changes:
        check_corrupted_frames(frames, wanted.frames)
    if temperatures == "saved":
        fitted = {name: [*load_temperatures(at, frames).values()] for name, at in places.items()}
    else:
        fitted = _fitted(run, models, places, size, choosing) if temperatures == "fit" else {}
    base = row_base(run, size, saved_print(run, folders, frames, size))
    rows = uncertainty_rows(models, run, subsets, base, infos, fitted, frames, choosing, changes)
    if out is not None:
        write_rows(out, rows)
    return rows


def evaluate_tempered(
    run: Run, folders: Sequence[Path], subsets: Sequence[str], kind: str
) -> list[Row]:
    """Score saved models with a temperature of theirs, as `evaluate_saved` does without.

    Args:
        run: whose data, size and evaluation settings hold.
        folders: of the models; each is called by its folder's name and the temperature.
        subsets: subsets and joins that get a row.
        kind: of temperature.

    Raises:
        CheckpointError: a folder holds no model, or one of another taxonomy than the data.
        UsageError: no such kind, none of it saved with a model, or fitted on a scored frame.
    """
    if kind not in KINDS:
        raise UsageError(f"--temperature: {unknown_name('kind', kind, KINDS)}")
    saved = open_saved(run, folders, subsets)
    tempered: dict[str, Segmenter] = {}
    infos: dict[str, Mapping[str, Any]] = {}
    for (name, model), folder in zip(saved.models.items(), folders, strict=True):
        fitted = load_temperatures(folder, saved.frames)
        if kind not in fitted:
            raise UsageError(
                f"{folder}: expected a temperature {kind!r} that was saved with the model, got "
                f"{', '.join(fitted) or 'none'}; fit it with `moeseg uncertainty --temperatures "
                f"fit --set uncertainty.temperatures=[{','.join([*fitted, kind])}]`, if it can "
                "have it: single networks have one and class, ensembles experts too, mixtures all"
            )
        tempered[name], info = Tempered(model, fitted[kind]), saved.infos[name]
        infos[name] = {**info, "settings": {**info.get("settings", {}), "temperature": kind}}
    rows = evaluate(saved.models, run, saved.frames, subsets, saved.base, infos, stand_ins=tempered)
    names = ("model", "minus")
    return [
        row | {key: variant_name(row[key], kind) for key in names if key in row} for row in rows
    ]


def _networks(models: dict[str, Model]) -> dict[str, Expert]:
    networks = {name: model for name, model in models.items() if isinstance(model, Expert)}
    if not networks:
        raise UsageError(
            "--mc-dropout: expected a single network, which is sampled, got none; name the folder "
            "of one, e.g. baseline"
        )
    return networks


def _fitted(
    run: Run,
    models: Mapping[str, Model],
    places: Mapping[str, Path],
    size: Size,
    choosing: Sequence[Frame],
) -> dict[str, list[Temperature]]:
    """Fit temperatures and save them with the models; those of a run are then not its own."""
    fitted = fit_temperatures(models, run, choosing, size)
    around = {folder.resolve().parent.parent for folder in places.values()}
    with ExitStack() as held:
        for place in around:
            note = place / "stages" / "temperatures.json"
            if note.is_file():
                held.enter_context(Run(run.study, place).locked())
                remove(note)
        for name, folder in places.items():
            save_temperatures(folder, fitted[name], choosing)
    return fitted
