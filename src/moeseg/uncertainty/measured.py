"""Uncertainty of any models on a study's frames: all rows, and the temperatures before them.

The stages of a study and the command on saved models both come here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moeseg.data import limit
from moeseg.errors import UsageError
from moeseg.evaluation.rows import read_rows, write_rows
from moeseg.evaluation.runner import Change, run_models
from moeseg.evaluation.stages import ground_of
from moeseg.models import Model
from moeseg.progress import say
from moeseg.run import Run
from moeseg.types import Frame, Row, Size
from moeseg.uncertainty.differences import difference_rows
from moeseg.uncertainty.fitting import PointCollector
from moeseg.uncertainty.measures import (
    all_rows,
    changed_condition_rows,
    measure_variants,
    thresholds_of,
    variants_of,
)
from moeseg.uncertainty.temperature import Temperature


def uncertainty_rows(
    models: Mapping[str, Model],
    run: Run,
    subsets: Sequence[str],
    base: Row,
    infos: Mapping[str, Mapping[str, Any]],
    fitted: Mapping[str, Sequence[Temperature]],
    frames: Sequence[Frame],
    choosing: Sequence[Frame],
    changes: Mapping[str, Change] | None = None,
    folder: Path | None = None,
) -> list[Row]:
    """Measure models, each without and with its temperatures, and return all rows.

    Args:
        models: by name.
        run: where data, size and settings come from.
        subsets: subsets and joins of the frames that get rows.
        base: keys of every row; its `size` is that of scoring.
        infos: what each model was saved with.
        fitted: temperatures by model.
        frames: that are measured on, each once.
        choosing: that thresholds are chosen on; without any, the rows have none.
        changes: of the images, by condition: the models of `uncertainty.corruptions` are measured
            under each on its frames, without temperature.
        folder: where the rows of a condition are kept, so that a killed call goes on behind it.
    """
    size: Size = (base["size"][0], base["size"][1])
    variants = variants_of(models, fitted)
    settings: dict[str, Any] = {
        "published": run.study.uncertainty.published,
        "batch_size": run.study.eval.batch_size,
        "workers": run.study.data.workers,
        "device": run.device,
    }
    thresholds = None
    if choosing:
        present = tuple(dict.fromkeys(frame.subset for frame in choosing))
        ground = ground_of(models, run, choosing, present, base, infos)
        data = run.dataset(choosing, size)
        thresholds = thresholds_of(measure_variants(variants, ground, data, **settings))
    ground = ground_of(models, run, frames, subsets, base, infos)
    collectors = measure_variants(
        variants, ground, run.dataset(frames, size), thresholds=thresholds, **settings
    )
    rows = [*all_rows(collectors), *difference_rows(collectors)]
    wanted = run.study.uncertainty.corruptions
    if wanted is None or not changes:
        return rows
    named = models if wanted.models is None else wanted.models
    plain = {variant: m for variant, m in variants.items() if variant[1] == "none"}
    plain = {variant: model for variant, model in plain.items() if variant[0] in named}
    fewer = limit(frames, wanted.frames)
    shown = run.dataset(fewer, size)
    how = settings | {"published": False, "thresholds": thresholds}
    if len(fewer) < len(frames):  # changed frames are told from the same frames as they were
        ground = ground_of(models, run, fewer, subsets, base, infos)
        collectors = measure_variants(plain, ground, shown, **how)
    for number, (condition, change) in enumerate(changes.items(), 1):

        def measured(change: Change = change, condition: str = condition) -> list[Row]:
            ground = ground_of(models, run, fewer, subsets, base | {"condition": condition}, infos)
            changed = measure_variants(plain, ground, shown, **how, change=change)
            return changed_condition_rows(collectors, changed)

        say(f"uncertainty {number}/{len(changes)}: {condition}")
        rows += _kept(None if folder is None else folder / f"{condition}.jsonl", measured)
    return rows


def _kept(path: Path | None, make: Callable[[], list[Row]]) -> list[Row]:
    """Return the rows in a file; those that are made, and then lie there, where it is missing."""
    if path is None:
        return make()
    if not path.exists():
        write_rows(path, make())
    return read_rows(path)


def fit_temperatures(
    models: Mapping[str, Model], run: Run, frames: Sequence[Frame], size: Size
) -> dict[str, list[Temperature]]:
    """Fit every temperature of the settings that a model can have, in one pass over the frames.

    Raises:
        UsageError: there is no labelled frame.
    """
    settings = run.study.uncertainty
    check_frames(run, frames)
    points = {
        name: PointCollector(name, model, settings.temperatures, len(frames), settings.fit.pixels)
        for name, model in models.items()
    }
    run_models(
        models,
        run.dataset(frames, size),
        {name: [one] for name, one in points.items()},
        batch_size=run.study.eval.batch_size,
        workers=run.study.data.workers,
        device=run.device,
    )
    return {name: one.fit() for name, one in points.items()}


def check_corrupted_frames(frames: Sequence[Frame], count: int | None) -> None:
    """Make sure that every subset keeps a frame where `count` of all frames are corrupted.

    Raises:
        UsageError: one has none.
    """
    kept = {frame.subset for frame in limit(frames, count)}
    if lost := sorted({frame.subset for frame in frames} - kept):
        raise UsageError(
            f"uncertainty.corruptions.frames: expected frames of every subset, got {count} of "
            f"{len(frames)}, evenly spaced, and none of them of {', '.join(lost)}; take more of "
            "them, or leave the subset out of `uncertainty.subsets`"
        )


def check_frames(run: Run, frames: Sequence[Frame]) -> None:
    """Make sure that there are frames to fit temperatures on.

    Raises:
        UsageError: there are none.
    """
    if not frames:
        fit = run.study.uncertainty.fit
        raise UsageError(
            "uncertainty.temperatures: expected validation frames to fit them on, found none of "
            f"{fit.subset or run.study.joined} in split {fit.split!r}; name frames under "
            "`uncertainty.fit`, or set `uncertainty.temperatures: []`"
        )
