"""A study from its file to its table: which stages there are, in which order, and their state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist
import yaml

from moeseg.data.open import render_scenes, scenes_folder, synthetic_spec
from moeseg.errors import UsageError, unknown_name
from moeseg.evaluation.stages import evaluation_stages
from moeseg.files import write_text
from moeseg.insight.measures import frames_files, insight_measures
from moeseg.insight.stages import insight_stages
from moeseg.progress import say
from moeseg.report import write_report
from moeseg.robustness.attacks import perturb_for_training
from moeseg.robustness.corrupted import changes_of
from moeseg.robustness.stages import robustness_stages
from moeseg.run import Cost, Ledger, Run, Stage, rank
from moeseg.training.adversarial import Perturb
from moeseg.training.stages import training_stages
from moeseg.uncertainty.stages import dropout_stages, uncertainty_stages

PERTURB: Perturb = perturb_for_training
"""The attack that adversarial training takes its frames from."""


def stages(run: Run) -> list[Stage]:
    """Return all stages of a study, in an order in which each finds what it needs."""
    scenes = [_scenes_stage()] if run.study.data.reader == "synthetic" else []
    return [
        *scenes,
        *training_stages(run, PERTURB),
        *dropout_stages(run),
        *evaluation_stages(run, [insight_measures], frames_files),
        *insight_stages(run),
        *robustness_stages(run),
        *uncertainty_stages(run, changes_of),
        _report_stage(run),
    ]


def ledger(run: Run) -> Ledger:
    """Return the state of all stages of a run."""
    return Ledger(run, stages(run))


def run_study(run: Run, only: Sequence[str] | None = None) -> None:
    """Make everything of a study that is not there yet.

    Args:
        run: the study and its folder.
        only: model names; the stages that make these, with what they stand on, and no others.

    Raises:
        UsageError: an unknown model, or another run is at work in the folder.
        MoesegError: a stage failed; what was finished is kept.
    """
    book = ledger(run)
    wanted = book.stages if only is None else _needed(run, book, only)
    for stage in wanted.values():
        stage.inputs(run)  # a wrong name or a missing file is told before hours of training
    if rank() > 0:
        parallel = [name for name, stage in wanted.items() if stage.parallel]
        for name in _with_needs(book, parallel):
            book.follow(book.stages[name])
        _leave_group()
        return
    with run.locked():
        write_text(run.folder / "study.yaml", _settings(run))
        for number, stage in enumerate(wanted.values(), 1):
            head = f"[{number}/{len(wanted)}] {stage.name}"
            if book.state(stage) == "done":
                say(f"{head}: done before")
                continue
            say(head)
            if not stage.parallel:
                _leave_group()
            book.make(stage)
            say(f"{head}: {book.record(stage)['seconds']:.0f} s")


def _settings(run: Run) -> str:
    """Return a study file of all settings, defaults included, that is at work in the run's folder.

    Of single networks only what is set for them stands there: the rest comes from the study's own
    settings, and a default written out would take their place.
    """
    study = run.study
    settings = study.model_dump(mode="json") | {"out": str(run.folder)}
    own = study.model_dump(mode="json", exclude_unset=True)
    settings["experts"] = own["experts"]
    if study.baseline is not None:
        settings["baseline"] = own.get("baseline", {})
    return yaml.safe_dump(settings, sort_keys=False)


def _leave_group() -> None:
    """Close the process group of launched ranks; what follows is rank 0's alone."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def plan(run: Run) -> list[tuple[str, str, Cost]]:
    """Return each stage's name, its state, and the time and disk it is expected to take.

    A finished stage costs the seconds it took and nothing more.
    """
    book = ledger(run)
    lines: list[tuple[str, str, Cost]] = []
    for stage in book.stages.values():
        state = book.state(stage)
        if state == "done":
            lines.append((stage.name, state, Cost(book.record(stage)["seconds"])))
        else:
            lines.append((stage.name, state, stage.cost(run)))
    return lines


def _needed(run: Run, book: Ledger, models: Sequence[str]) -> dict[str, Stage]:
    makers = {f"train-{name}": [name] for name in run.study.networks()}
    makers["ensembles"] = [f"ensemble-{rule}" for rule in run.study.ensembles]
    makers["gates"] = list(run.study.gated())
    makers["controls"] = [name for name in run.study.controls if name not in run.study.gated()]
    makers["mc-dropout"] = list(run.study.uncertainty.dropout)
    known = [name for made in makers.values() for name in made]
    if unknown := [name for name in models if name not in known]:
        raise UsageError("\n".join(unknown_name("model", name, known) for name in unknown))
    return _with_needs(book, [stage for stage, made in makers.items() if set(made) & set(models)])


def _with_needs(book: Ledger, names: Sequence[str]) -> dict[str, Stage]:
    """Return stages and all that they stand on, in order."""
    waiting = list(names)
    wanted: set[str] = set()
    while waiting:
        stage = waiting.pop()
        wanted.add(stage)
        waiting += book.stages[stage].needs
    return {name: stage for name, stage in book.stages.items() if name in wanted}


def _report_stage(run: Run) -> Stage:
    shown = [*insight_stages(run), *robustness_stages(run), *uncertainty_stages(run, changes_of)]
    return Stage(
        name="report",
        make=_make_report,
        inputs=lambda run: run.study.name,
        outputs=lambda run: [run.folder / "report.html"],
        needs=("evaluate", "table", *(stage.name for stage in shown)),
    )


def _make_report(run: Run) -> None:
    write_report(run.folder)


def _scenes_stage() -> Stage:
    return Stage(
        name="scenes",
        make=lambda run: render_scenes(run.study.data, run.folder),
        inputs=lambda run: synthetic_spec(run.study.data).as_json(),
        outputs=lambda run: (),
        stays=lambda run: [_scenes(run) / "spec.json"],
        # a folder that the user named may serve several runs: nothing in it is ever removed
        scratch=lambda run: [] if run.study.data.root else [_scenes(run)],
        cost=_scenes_cost,
    )


def _scenes(run: Run) -> Path:
    return scenes_folder(run.study.data, run.folder)


def _scenes_cost(run: Run) -> Cost:
    spec = synthetic_spec(run.study.data)
    drives = sum(sum(by_split.values()) for by_split in spec.drives.values())
    pixels = drives * spec.frames_per_drive * spec.size[0] * spec.size[1]
    # seconds and bytes a pixel, measured on two cores of a 2023 server
    return Cost(pixels * 1.0e-6, pixels * 2.6)
