"""The robustness stages of a study: attack sweeps, corruptions, their tables and pictures."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moeseg.config import SweepConfig
from moeseg.data import limit
from moeseg.evaluation.conditions import write_condition_tables
from moeseg.evaluation.rows import FRAMES, METRIC_KEYS, read_run_rows, write_rows
from moeseg.evaluation.runner import Change
from moeseg.evaluation.saved import Saved
from moeseg.evaluation.stages import (
    evaluate,
    load_models,
    model_stages,
    row_base,
    scored_frames,
    scored_subsets,
)
from moeseg.robustness.attacked import attacked_rows, training_frames
from moeseg.robustness.corrupted import changes_of, corrupted_rows
from moeseg.robustness.plan import chosen_models, planned_parts, units_of
from moeseg.robustness.ranks import joined_ranks
from moeseg.robustness.shown import check_shown, layers_folder, write_shown
from moeseg.robustness.sweep import Unit
from moeseg.run import Cost, Run, Stage, rank
from moeseg.training.cost import ATTACK_FACTOR
from moeseg.training.expert import resolve_precision
from moeseg.training.network_stages import expert_models, forward_seconds, model_info
from moeseg.types import Frame, Row


def robustness_stages(run: Run) -> list[Stage]:
    """Return a stage for each sweep, one for corruptions, and those of tables and pictures."""
    made = model_stages(run)
    settings = run.study.robustness
    stages = [
        Stage(
            name=f"attack-{name}",
            make=functools.partial(_make_sweep, name=name),
            inputs=functools.partial(_sweep_inputs, name=name),
            outputs=functools.partial(_rows_of, name=f"attack-{name}"),
            scratch=functools.partial(_scratch_of, name=name),
            needs=made,
            parallel=True,
            cost=functools.partial(_sweep_cost, name=name),
        )
        for name in settings.sweeps
    ]
    if settings.corruptions is not None:
        stages.append(
            Stage(
                name="corruptions",
                make=_make_corrupted,
                inputs=_corrupted_inputs,
                outputs=functools.partial(_rows_of, name="corruptions"),
                scratch=functools.partial(_scratch_of, name="corruptions"),
                needs=made,
                parallel=True,
                cost=_corrupted_cost,
            )
        )
    if stages:
        stages.append(
            Stage(
                name="robustness-table",
                make=lambda run: write_condition_tables(run.folder, read_run_rows(run.folder)),
                inputs=lambda run: None,
                outputs=lambda run: [run.folder / f"robustness.{end}" for end in ("md", "csv")],
                needs=("evaluate", *(stage.name for stage in stages)),
            )
        )
    if settings.show:
        stages.append(
            Stage(
                name="attack-pictures",
                make=write_shown,
                inputs=_shown_inputs,
                outputs=lambda run: [layers_folder(run, c) for c in settings.show],
                needs=made,
            )
        )
    return stages


def folder_of(run: Run) -> Path:
    """Return where the rows of these stages lie."""
    return run.folder / "robustness"


def _rows_of(run: Run, name: str) -> list[Path]:
    return [folder_of(run) / f"{name}.jsonl"]


def _scratch_of(run: Run, name: str) -> list[Path]:
    return [folder_of(run) / "counts" / name]


def _sweep(run: Run, name: str) -> SweepConfig:
    return run.study.robustness.sweeps[name]


def _units(run: Run, name: str) -> list[Unit]:
    return units_of(_sweep(run, name), run.study.robustness, planned_parts(run.study))


def _targets(run: Run, name: str) -> list[str]:
    """Return the models that a sweep scores: those it attacks, or with transfer all it names."""
    if not _sweep(run, name).transfer:
        return list(dict.fromkeys(unit.source for unit in _units(run, name)))
    return chosen_models(_sweep(run, name).models, list(planned_parts(run.study)))


def _subsets(run: Run) -> tuple[str, ...]:
    return run.study.robustness.subsets or scored_subsets(run)


def _all_frames(run: Run) -> tuple[Frame, ...]:
    return scored_frames(run, _subsets(run))


def _frames(run: Run, name: str) -> tuple[Frame, ...]:
    return limit(_all_frames(run), _sweep(run, name).frames)


def _scoring_inputs(run: Run, frames: Sequence[Frame]) -> dict[str, Any]:
    return {
        "frames": run.frames_print(frames),
        "subsets": _subsets(run),
        "size": run.eval_size,
        "taxonomy": run.catalogue.taxonomy.to_json(),
        "seed": run.study.seed,
        "settings": run.study.habits(),
        "fit": run.study.data.fit,
    }


def _sweep_inputs(run: Run, name: str) -> dict[str, Any]:
    units = _units(run, name)
    training = training_frames(run, units)
    return _scoring_inputs(run, _frames(run, name)) | {
        "units": [(unit.source, unit.condition, unit.attack) for unit in units],
        "targets": _targets(run, name),
        "training": run.frames_print(training) if training else None,
        "rows": [*METRIC_KEYS["attack"], FRAMES],  # rows of another form go
    }


def _make_sweep(run: Run, name: str) -> None:
    units, frames = _units(run, name), _frames(run, name)
    models = load_models(run, _targets(run, name))
    (folder,) = _scratch_of(run, name)
    job = f"attack-{name}"
    saved = Saved(
        models=models,
        infos={one: model_info(run, one) for one in models},
        frames=frames,
        subsets=_subsets(run),
        base=row_base(run, run.eval_size, run.record(job)["fingerprint"]),
    )
    rows = attacked_rows(
        run,
        saved,
        {one: run.model(one) for one in models},
        units,
        training=training_frames(run, units),
        transfer=_sweep(run, name).transfer,
        counts=folder,
        job=job,
    )
    if rank() == 0:
        (path,) = _rows_of(run, job)
        write_rows(path, rows)


def _sweep_cost(run: Run, name: str) -> Cost:
    units, frames = _units(run, name), len(_frames(run, name))
    training = len(training_frames(run, units))
    passes = 0.0
    for unit in units:
        networks = 1 if unit.source in run.study.networks() else len(run.study.experts)
        climbed = training if unit.attack.kind.startswith("universal") else frames
        runs = len(unit.attack.parts()) * unit.attack.restarts
        passes += networks * (ATTACK_FACTOR * unit.attack.steps * runs * climbed + 4 * frames)
    single = forward_seconds(run, expert_models(run)[:1], 1, run.eval_size)
    return Cost(passes * single, 1e6)


def _shown_inputs(run: Run) -> dict[str, Any]:
    check_shown(run)
    settings = run.study.robustness
    return _scoring_inputs(run, scored_frames(run)) | {
        "show": settings.show,
        "frames_shown": settings.show_frames,
        "precision": resolve_precision(settings.precision),
        "attacks": {name: own.model_dump() for name, own in settings.attacks.items()},
    }


def _corrupted_inputs(run: Run) -> dict[str, Any]:
    wanted = run.study.robustness.corruptions
    assert wanted is not None
    lacking = _never_clean(run)
    return _scoring_inputs(run, _all_frames(run)) | {
        **({"clean": lacking} if lacking else {}),
        "conditions": list(changes_of(wanted, run.study.seed)),
        "models": _corrupted_models(run),
    }


def _corrupted_models(run: Run) -> list[str]:
    wanted = run.study.robustness.corruptions
    assert wanted is not None
    return chosen_models(wanted.models, run.study.model_names())


def _never_clean(run: Run) -> list[str]:
    """Return the subsets that are corrupted and that the study does not score clean."""
    return [subset for subset in _subsets(run) if subset not in scored_subsets(run)]


def _make_corrupted(run: Run) -> None:
    wanted = run.study.robustness.corruptions
    assert wanted is not None
    models = load_models(run, _corrupted_models(run))
    infos = {one: model_info(run, one) for one in models}
    base = row_base(run, run.eval_size, run.record("corruptions")["fingerprint"])
    frames, subsets, lacking = _all_frames(run), _subsets(run), _never_clean(run)

    def score(change: Change, condition: str) -> list[Row]:
        named = base | {"condition": condition}
        return evaluate(models, run, frames, subsets, named, infos, change=change)

    (folder,) = _scratch_of(run, "corruptions")
    with joined_ranks("corruptions"):
        rows: list[Row] = []
        if lacking:  # what corrupted frames are compared with
            rows += evaluate(models, run, scored_frames(run, lacking), lacking, base, infos)
        rows += corrupted_rows(changes_of(wanted, run.study.seed), score, folder)
    if rank() == 0:
        (path,) = _rows_of(run, "corruptions")
        write_rows(path, rows)


def _corrupted_cost(run: Run) -> Cost:
    wanted = run.study.robustness.corruptions
    assert wanted is not None
    passes = len(changes_of(wanted, run.study.seed))
    seconds = forward_seconds(run, run.study.networks(), len(_all_frames(run)), run.eval_size)
    return Cost(1.5 * passes * seconds, 1e6)
