"""The evaluation stages of a study: rows of every model on every subset, tables, contact sheet."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moeseg.data import Taxonomy
from moeseg.evaluation.collectors import (
    Ground,
    Measure,
    SegmentationCollector,
    difference_rows,
    members_of,
)
from moeseg.evaluation.intervals import Blocks
from moeseg.evaluation.rows import METRIC_KEYS, read_rows, write_rows
from moeseg.evaluation.runner import Change, evaluating, run_models
from moeseg.evaluation.sheet import SheetRow, contact_sheet, photo
from moeseg.evaluation.table import write_tables
from moeseg.files import replacing
from moeseg.metrics import class_ids
from moeseg.models import Expert, Model, Segmenter, load
from moeseg.run import Cost, Run, Stage
from moeseg.training.network_stages import AGAINST, forward_seconds, model_info
from moeseg.types import Frame, Row, Size, single_subsets


def evaluation_stages(
    run: Run, measures: Sequence[Measure], files: Callable[[Run], Sequence[Path]]
) -> list[Stage]:
    """Return the stages that score the study's models.

    Args:
        run: the study.
        measures: what is measured beside mIoU.
        files: what the measures write beside their rows.
    """
    made = model_stages(run)
    return [
        Stage(
            name="evaluate",
            make=functools.partial(_make_rows, measures=tuple(measures)),
            inputs=lambda run: _inputs(run) | {"rows": METRIC_KEYS},  # rows of another form go
            outputs=lambda run: [run.folder / "results.jsonl", *files(run)],
            needs=made,
            cost=_cost,
        ),
        Stage(
            name="table",
            make=_make_table,
            inputs=lambda run: run.study.published,
            outputs=lambda run: [
                run.folder / name for name in ("table.md", "table.csv", "classes.csv")
            ],
            needs=("evaluate",),
        ),
        Stage(
            name="sheet",
            make=_make_sheet,
            inputs=_sheet_inputs,
            outputs=lambda run: [run.folder / "frames.png"] if run.study.eval.sheet else [],
            needs=made,
        ),
    ]


def model_stages(run: Run) -> tuple[str, ...]:
    """Return the names of the stages that make the study's models."""
    return (
        *(f"train-{name}" for name in run.study.networks()),
        *(["ensembles"] if run.study.ensembles else []),
        *(["gates"] if run.study.gated() else []),
        *(["controls"] if set(run.study.controls) - set(run.study.gated()) else []),
        *(["mc-dropout"] if run.study.uncertainty.dropout else []),
    )


def load_models(run: Run, names: Sequence[str] | None = None) -> dict[str, Model]:
    """Load models of the study; those built on the same experts share them."""
    shared: dict[Any, Expert] = {}
    return {name: load(run.model(name), shared=shared) for name in names or run.study.model_names()}


def scored_subsets(run: Run) -> tuple[str, ...]:
    """Return the subsets and joins that get a row."""
    if run.study.eval.subsets is not None:
        return run.study.eval.subsets
    present = run.catalogue.subsets(run.study.eval.split)
    joined = [run.study.joined] if set(single_subsets(run.study.joined)) <= set(present) else []
    return tuple(dict.fromkeys((*present, *joined)))


def scored_frames(run: Run, subsets: Sequence[str] | None = None) -> tuple[Frame, ...]:
    """Return every frame of some subsets once; None takes those that get a row."""
    subsets = scored_subsets(run) if subsets is None else subsets
    split = run.study.eval.split
    return tuple(f for name in single_subsets(*subsets) for f in run.catalogue.select(name, split))


def evaluate(
    models: Mapping[str, Model],
    run: Run,
    frames: Sequence[Frame],
    subsets: Sequence[str],
    base: Row,
    infos: Mapping[str, Mapping[str, Any]],
    measures: Sequence[Measure] = (),
    folder: Path | None = None,
    change: Change | None = None,
    stand_ins: Mapping[str, Segmenter] | None = None,
) -> list[Row]:
    """Score models on frames.

    Args:
        models: by name.
        run: where data, size and settings come from.
        frames: what is predicted, each once.
        subsets: subsets and joins of these frames that get a row of each model.
        base: keys of the rows of every model; see `row_base`. Its `size` is that of scoring.
        infos: what each model was saved with; its seed and settings stand in its rows.
        measures: what is measured beside mIoU, in the same pass.
        folder: where measures put files beside their rows; None for none.
        change: what the models see instead of the images; its name is the base's `condition`.
        stand_ins: what predicts in a model's place, over its experts, by the model's name.

    Returns:
        Segmentation rows, then differences of mixtures to the others, then the measures' rows.
    """
    ground = ground_of(models, run, frames, subsets, base, infos, folder)
    scored = {name: segmentation_collector(name, ground) for name in models}
    more = {
        name: [one for measure in measures for one in measure(name, model, ground)]
        for name, model in models.items()
    }
    run_models(
        {**models, **(stand_ins or {})},
        run.dataset(frames, size=(base["size"][0], base["size"][1])),
        {name: [scored[name], *more[name]] for name in models},
        batch_size=run.study.eval.batch_size,
        workers=run.study.data.workers,
        device=run.device,
        change=change,
        title=f"evaluating, {base.get('condition', 'clean')}",
    )
    rows = [row for collector in scored.values() for row in collector.rows()]
    rows += difference_rows(scored, {name: members_of(model) for name, model in models.items()})
    return rows + [row for each in more.values() for one in each for row in one.rows()]


def model_bases(
    models: Mapping[str, Model], base: Row, infos: Mapping[str, Mapping[str, Any]]
) -> dict[str, Row]:
    """Return the keys that all rows of a model share, by its name; arguments as `evaluate`.

    Seed and settings are those that the model was saved with: null and none where it was not.
    """
    bases = {}
    for name, model in models.items():
        info = infos[name]
        against = {key: info[key] for key in AGAINST if key in info}
        bases[name] = base | {
            "architecture": architecture_name(model),
            "seed": info.get("seed"),  # not the study's: the model may be of elsewhere
            "settings": info.get("settings", {}) | against,
        }
    return bases


def ground_of(
    models: Mapping[str, Model],
    run: Run,
    frames: Sequence[Frame],
    subsets: Sequence[str],
    base: Row,
    infos: Mapping[str, Mapping[str, Any]],
    folder: Path | None = None,
) -> Ground:
    """Return what all models of an evaluation share; arguments as `evaluate`."""
    return Ground(
        models=models,
        classes=run.catalogue.taxonomy.classes,
        frames=tuple(frames),
        blocks=Blocks.of(frames),
        subsets=tuple(subsets),
        bases=model_bases(models, base, infos),
        experts={id(model): name for name, model in models.items() if isinstance(model, Expert)},
        trained={name: str(infos[name]["subset"]) for name in models if "subset" in infos[name]},
        folder=folder,
    )


def segmentation_collector(name: str, ground: Ground) -> SegmentationCollector:
    """Return the collector behind the table for one model."""
    place = (ground.classes, ground.blocks, ground.subsets, ground.bases[name])
    return SegmentationCollector(name, *place)


def architecture_name(model: Model) -> str:
    """Return a model's networks in a word, e.g. ``deeplabv3plus-resnet18``."""
    names = [
        "-".join(str(e.description[key]) for key in ("name", "backbone") if key in e.description)
        for e in model.experts
    ]
    return "+".join(dict.fromkeys(names))


def row_base(run: Run, size: Size, fingerprint: str) -> Row:
    """Return the keys that rows of all models share which are scored at `size` (H, W)."""
    return {
        "split": run.study.eval.split,
        "dataset": run.catalogue.dataset,
        "size": list(size),
        "fingerprint": fingerprint[:16],
    }


def _inputs(run: Run) -> dict[str, Any]:
    settings = run.study.eval.model_dump(exclude={"batch_size", "sheet"}, exclude_defaults=True)
    return {
        "eval": settings,
        "frames": run.frames_print(scored_frames(run)),
        "size": run.eval_size,
        "taxonomy": run.catalogue.taxonomy.to_json(),
        "seed": run.study.seed,
        "settings": run.study.habits(),
        "fit": run.study.data.fit,
    }


def _make_rows(run: Run, measures: Sequence[Measure]) -> None:
    base = row_base(run, run.eval_size, run.record("evaluate")["fingerprint"])
    models = load_models(run)
    rows = evaluate(
        models,
        run,
        scored_frames(run),
        scored_subsets(run),
        base,
        {name: model_info(run, name) for name in models},
        measures,
        run.folder / "insight",
    )
    write_rows(run.folder / "results.jsonl", rows)


def _make_table(run: Run) -> None:
    rows = read_rows(run.folder / "results.jsonl")
    write_tables(run.folder, rows, run.study.published)


def _cost(run: Run) -> Cost:
    seconds = forward_seconds(run, run.study.networks(), len(scored_frames(run)), run.eval_size)
    return Cost(1.5 * seconds, 1e6)  # models over shared experts add half: benchmarks/ten_models.py


def _sheet_frames(run: Run) -> list[Frame]:
    count = run.study.eval.sheet
    frames: list[Frame] = []
    for subset in run.catalogue.subsets(run.study.eval.split) if count else ():
        listed = run.catalogue.select(subset, run.study.eval.split)
        frames += [listed[(2 * i + 1) * len(listed) // (2 * count)] for i in range(count)]
    return frames


def _sheet_inputs(run: Run) -> dict[str, Any]:
    frames = run.frames_print(_sheet_frames(run))
    return {"frames": frames, "size": run.eval_size, "fit": run.study.data.fit}


def _make_sheet(run: Run) -> None:
    frames = _sheet_frames(run)
    if not frames:
        return
    taxonomy = run.catalogue.taxonomy
    names = [f"expert-{name}" for name in run.study.experts] + [*run.study.mixtures]
    models = load_models(run, names)
    rows = []
    present: set[int] = set()
    with evaluating(list(models.values())), torch.inference_mode():
        data = run.dataset(frames, size=run.eval_size)
        for number, frame in enumerate(frames):
            image, label, key = data[number]
            found = [class_ids(model(image[None]).logits)[0] for model in models.values()]
            present |= set(np.unique(label.numpy()).tolist())
            cells = [photo(image), taxonomy.decode(label.numpy())]
            cells += [taxonomy.decode(ids.to(torch.uint8).numpy()) for ids in found]
            rows.append(SheetRow((frame.subset, key), tuple(cells)))
    legend = _legend(taxonomy, present)
    sheet = contact_sheet(("photo", "label", *models), rows, legend)
    with replacing(run.folder / "frames.png") as unfinished:
        sheet.save(unfinished, format="PNG")


def _legend(taxonomy: Taxonomy, present: set[int]) -> dict[str, tuple[int, int, int]]:
    ids = [i for i in range(len(taxonomy)) if i in present]
    return {taxonomy.classes[i]: taxonomy.colours[i][0] for i in ids}
