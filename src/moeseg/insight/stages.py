"""The insight stage of a study: pictures of the frames that are worth looking at.

The figures are made with the scores, in one pass (`measures`); here some frames are chosen by them
and predicted once more, for the report's explorer and as sheets.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from moeseg.evaluation.stages import load_models, scored_frames
from moeseg.insight.agreement import MAX_EXPERTS
from moeseg.insight.frames import read_frames
from moeseg.insight.layers import choose_frames, write_layers, write_sheets
from moeseg.insight.measures import FRAMES
from moeseg.insight.saved import SHEETS
from moeseg.run import Cost, Run, Stage
from moeseg.training.network_stages import forward_seconds


def insight_stages(run: Run) -> list[Stage]:
    """Return the stage that writes `insight/layers/clean` and `insight/overlays`, if wanted."""
    if not run.study.insight.frames or len(run.study.experts) > MAX_EXPERTS:
        return []
    sheets = run.folder / "insight" / SHEETS
    layers = run.folder / "insight" / "layers" / "clean"
    return [
        Stage(
            name="insight",
            make=functools.partial(_make, layers=layers),
            inputs=_inputs,
            outputs=lambda run: [layers, *([sheets] if _draws(run) else [])],
            needs=("evaluate",),
            cost=_cost,
        )
    ]


def _draws(run: Run) -> bool:
    """Return whether there is a mixture over the study's own experts, whose agreement is drawn."""
    return bool(run.study.mixtures) and run.study.gate.expert_batchnorm == "hold"


def _inputs(run: Run) -> dict[str, Any]:
    return run.study.insight.model_dump()


def _make(run: Run, layers: Path) -> None:
    chosen = choose_frames(scored_frames(run), run.study.insight.frames, _disagreement(run))
    write_layers(
        load_models(run),
        run.dataset(chosen, size=run.eval_size),
        layers,
        taxonomy=run.catalogue.taxonomy,
        dataset=run.catalogue.dataset,
        batch_size=run.study.eval.batch_size,
        device=run.device,
    )
    if _draws(run):
        sheets = run.folder / "insight" / SHEETS
        write_sheets(layers, [*run.study.mixtures][-1], sheets, scheme=run.study.insight.colours)


def _disagreement(run: Run) -> dict[str, float]:
    """Return each frame's disagreement about the study's last mixture; empty without mixtures."""
    for mixture in reversed(run.study.mixtures):
        lines = read_frames(run.folder / "insight" / mixture / FRAMES)
        return {line["key"]: float(line["disagreement"]) for line in lines}
    return {}


def _cost(run: Run) -> Cost:
    subsets = {frame.subset for frame in scored_frames(run)}
    frames = run.study.insight.frames * len(subsets)
    height, width = run.eval_size
    pictures = frames * (len(run.study.networks()) + len(run.study.mixtures) + 2)
    seconds = 1.5 * forward_seconds(run, run.study.networks(), frames, run.eval_size)
    return Cost(seconds, pictures * height * width / 4)
