"""The stages of uncertainty: MC dropout models, temperatures, and the rows of every variant."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moeseg.config import CorruptionsConfig
from moeseg.errors import UsageError, unknown_name
from moeseg.evaluation.changes import CORRUPTIONS
from moeseg.evaluation.contents import clean_rows
from moeseg.evaluation.rows import METRIC_KEYS, read_rows, write_rows
from moeseg.evaluation.runner import Change
from moeseg.evaluation.stages import (
    load_models,
    model_stages,
    row_base,
    scored_frames,
    scored_subsets,
)
from moeseg.evaluation.table import render_markdown
from moeseg.files import write_text
from moeseg.insight.stages import insight_stages
from moeseg.models import (
    TEMPERATURES,
    Expert,
    MonteCarloDropout,
    save,
)
from moeseg.run import Cost, Run, Stage
from moeseg.training.network_stages import (
    forward_seconds,
    load_expert,
    model_info,
    planned_network,
)
from moeseg.types import Frame, single_subsets
from moeseg.uncertainty.maps import kept_frames, write_maps
from moeseg.uncertainty.measured import (
    check_corrupted_frames,
    check_frames,
    fit_temperatures,
    uncertainty_rows,
)
from moeseg.uncertainty.temperature import load_temperatures, save_temperatures

ROWS = "uncertainty.jsonl"
TABLES = "uncertainty.md"
KINDS_OF_ROWS = ("detector", "calibration", "conditional", "uncertainty-difference")
MAPS = Path("uncertainty") / "maps"
CONDITIONS = Path("uncertainty") / "conditions"

ChangesOf = Callable[[CorruptionsConfig, int], Mapping[str, Change]]
"""Gives the changes of images that settings and a seed ask for, by condition."""


def dropout_stages(run: Run) -> list[Stage]:
    """Return the stage that makes the study's MC dropout models, if it has some."""
    sampled = run.study.uncertainty.dropout
    if not sampled:
        return []
    return [
        Stage(
            name="mc-dropout",
            make=_make_dropout,
            inputs=_dropout_inputs,
            outputs=lambda run: [run.model(name) for name in sampled],
            needs=tuple(dict.fromkeys(f"train-{one.of}" for one in sampled.values())),
        )
    ]


def uncertainty_stages(run: Run, changes_of: ChangesOf) -> list[Stage]:
    """Return the stages that fit temperatures and measure uncertainty, if the study wants them.

    Args:
        run: the study.
        changes_of: gives the changes behind `uncertainty.corruptions`.
    """
    if not run.study.uncertainty.measure:
        return []
    made = model_stages(run)
    stages = []
    if run.study.uncertainty.temperatures:
        stages.append(
            Stage(
                name="temperatures",
                make=_make_temperatures,
                inputs=_fit_inputs,
                outputs=lambda run: [
                    run.model(name) / TEMPERATURES for name in run.study.model_names()
                ],
                needs=made,
                cost=_fit_cost,
            )
        )
    before = tuple(stage.name for stage in stages)
    stages.append(
        Stage(
            name="uncertainty",
            make=functools.partial(_make_rows, changes_of=changes_of),
            inputs=functools.partial(_inputs, changes_of=changes_of),
            outputs=lambda run: [run.folder / ROWS],
            scratch=lambda run: [run.folder / CONDITIONS],
            needs=(*made, *before),
            cost=_cost,
        )
    )
    stages.append(
        Stage(
            name="uncertainty-table",
            make=_make_table,
            inputs=lambda run: None,
            outputs=lambda run: [run.folder / TABLES],
            needs=("uncertainty",),
        )
    )
    kept = tuple(stage.name for stage in insight_stages(run))
    if kept and _mapped(run):
        stages.append(
            Stage(
                name="uncertainty-maps",
                make=_make_maps,
                inputs=_mapped,
                outputs=lambda run: [run.folder / MAPS / "clean"],
                needs=(*made, *kept),
            )
        )
    return stages


def fit_frames(run: Run, *, strict: bool = True) -> tuple[Frame, ...]:
    """Return the frames that temperatures and thresholds are chosen on; may be none.

    Args:
        run: the study.
        strict: False gives none where some of them are measured on too.

    Raises:
        UsageError: an unknown subset is named, or one of the frames is measured on too.
    """
    fit = run.study.uncertainty.fit
    if fit.subset is not None:
        frames = run.catalogue.select(fit.subset, fit.split)
    else:
        present = run.catalogue.subsets(fit.split)
        parts = [part for part in single_subsets(run.study.joined) if part in present]
        frames = run.catalogue.select("+".join(parts), fit.split) if parts else ()
    measured = {frame.key for frame in measured_frames(run)}
    both = [frame.key for frame in frames if frame.key in measured]
    if both and not strict:
        return ()
    if both:
        raise UsageError(
            f"uncertainty.fit: expected frames that are not measured on, got {len(both)} that are, "
            f"e.g. {both[0]!r}; name another subset or split there, or leave the subset out of "
            "`uncertainty.subsets`"
        )
    return frames


def measured_subsets(run: Run) -> tuple[str, ...]:
    """Return the subsets and joins that uncertainty is measured on."""
    return run.study.uncertainty.subsets or scored_subsets(run)


def measured_frames(run: Run) -> tuple[Frame, ...]:
    """Return every frame that uncertainty is measured on, once."""
    return scored_frames(run, measured_subsets(run))


def _sampled(run: Run, name: str, network: Expert) -> MonteCarloDropout:
    config = run.study.uncertainty.dropout[name]
    return MonteCarloDropout(
        network, config.samples, rate=config.rate, layers=config.layers, seed=run.study.seed
    )


def _dropout_inputs(run: Run) -> dict[str, Any]:
    sampled = run.study.uncertainty.dropout
    for name, config in sampled.items():  # a network without dropout is told before it is trained
        _sampled(run, name, planned_network(run, config.of))
    return {name: config.model_dump(mode="json") for name, config in sampled.items()}


def _make_dropout(run: Run) -> None:
    for name, config in run.study.uncertainty.dropout.items():
        folder = run.model(config.of)
        model = _sampled(run, name, load_expert(folder))
        save(model, run.model(name), info=model_info(run, name), experts=[folder])


def _make_temperatures(run: Run) -> None:
    models, frames = load_models(run), fit_frames(run)
    fitted = fit_temperatures(models, run, frames, run.eval_size)
    for name, temperatures in fitted.items():
        save_temperatures(run.model(name), temperatures, frames)


def _changes(run: Run, changes_of: ChangesOf) -> Mapping[str, Change]:
    wanted = run.study.uncertainty.corruptions
    return {} if wanted is None else changes_of(wanted, run.study.seed)


def _make_rows(run: Run, changes_of: ChangesOf) -> None:
    models = load_models(run)
    kinds = run.study.uncertainty.temperatures
    fitted = {
        name: [one for one in load_temperatures(run.model(name)).values() if one.kind in kinds]
        for name in models
    }
    rows = uncertainty_rows(
        models,
        run,
        measured_subsets(run),
        row_base(run, run.eval_size, run.record("uncertainty")["fingerprint"]),
        {name: model_info(run, name) for name in models},
        fitted,
        measured_frames(run),
        fit_frames(run),
        _changes(run, changes_of),
        run.folder / CONDITIONS,
    )
    write_rows(run.folder / ROWS, rows)


def _make_table(run: Run) -> None:
    rows = read_rows(run.folder / ROWS)
    write_text(run.folder / TABLES, render_markdown(clean_rows(rows)))


def _mapped(run: Run) -> list[str]:
    """Return the models whose doubt is drawn: one network, and what joins several of them."""
    drawn = {"baseline", *list(run.study.uncertainty.dropout)[:1], *run.study.mixtures}
    return [name for name in run.study.model_names() if name in drawn]


def _make_maps(run: Run) -> None:
    dirs = kept_frames(run.folder / "insight" / "layers" / "clean")
    frames = [frame for frame in scored_frames(run) if frame.key in dirs]
    write_maps(
        load_models(run, _mapped(run)),
        run.dataset(frames, size=run.eval_size),
        run.folder / MAPS / "clean",
        dirs,
        batch_size=run.study.eval.batch_size,
        device=run.device,
    )


def _fit_inputs(run: Run) -> dict[str, Any]:
    frames = fit_frames(run)
    check_frames(run, frames)
    settings = run.study.uncertainty
    return {
        "temperatures": settings.temperatures,
        "pixels": settings.fit.pixels,
        "frames": run.frames_print(frames),
        "size": run.eval_size,
        "fit": run.study.data.fit,
        "taxonomy": run.catalogue.taxonomy.to_json(),
    }


def _inputs(run: Run, changes_of: ChangesOf) -> dict[str, Any]:
    wanted = run.study.uncertainty.corruptions
    known = run.study.model_names()
    if unknown := [name for name in (wanted and wanted.models) or () if name not in known]:
        raise UsageError("\n".join(unknown_name("model", name, known) for name in unknown))
    if wanted:
        check_corrupted_frames(measured_frames(run), wanted.frames)
    return {
        "conditions": list(_changes(run, changes_of)),
        "changed": wanted and (wanted.models, wanted.frames),
        # a published score is divided by the largest of its batch
        "published": run.study.uncertainty.published and run.study.eval.batch_size,
        "temperatures": run.study.uncertainty.temperatures,
        "subsets": measured_subsets(run),
        "split": run.study.eval.split,
        "frames": run.frames_print(measured_frames(run)),
        "choosing": run.frames_print(fit_frames(run)),
        "size": run.eval_size,
        "fit": run.study.data.fit,
        "taxonomy": run.catalogue.taxonomy.to_json(),
        "seed": run.study.seed,
        "settings": run.study.habits(),
        "rows": {kind: METRIC_KEYS[kind] for kind in KINDS_OF_ROWS},
    }


def _fit_cost(run: Run) -> Cost:
    frames = len(fit_frames(run))
    return Cost(1.5 * forward_seconds(run, run.study.networks(), frames, run.eval_size))


def _cost(run: Run) -> Cost:
    measured, models = len(measured_frames(run)), len(run.study.model_names())
    frames = measured + len(fit_frames(run))
    variants = models * (1 + len(run.study.uncertainty.temperatures))
    shown, scored = frames, variants * frames  # frames that networks see, and scores of a model
    wanted = run.study.uncertainty.corruptions
    if wanted is not None:  # of models without temperature
        passes = len(wanted.names or CORRUPTIONS) * len(wanted.severities)
        changed = passes * min(measured, wanted.frames or measured)
        shown += changed
        scored += changed * len(wanted.models or run.study.model_names())
        variants += passes * len(wanted.models or run.study.model_names())
    classes, (height, width) = len(run.catalogue.taxonomy), run.eval_size
    networks = 1.5 * forward_seconds(run, run.study.networks(), shown, run.eval_size)
    # seconds a logit, measured on one core of a 2023 server
    return Cost(networks + 4e-8 * scored * classes * height * width + 1.0 * variants, 2e6)
