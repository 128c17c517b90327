"""Evaluating with every measure of insight against evaluating alone, in the same pass.

Two DeepLabv3+ ResNet-101 at 456x456, 38 classes, scored alone and in four mixtures. Takes about
2 minutes on two cores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from measure import figure, interleaved, parse, parser, peak_memory, ratios, report, scaled
from moeseg.evaluation.collectors import Collector, Ground
from moeseg.evaluation.intervals import Blocks
from moeseg.evaluation.runner import run_models
from moeseg.evaluation.stages import segmentation_collector
from moeseg.insight.measures import insight_measures
from moeseg.models import Expert, Model
from subjects import SMOKE_SCORING, RandomFrames, Scoring, four_mixtures, random_experts


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(parser("insight", __doc__), argv)
    at = SMOKE_SCORING if options.smoke else Scoring()
    experts = random_experts(2, at.backbone, at.channels, at.classes)
    models: dict[str, Model] = {f"expert-{k}": expert for k, expert in enumerate(experts)}
    models |= four_mixtures(experts, at.size)
    few, many = (RandomFrames(count, at.size, at.classes) for count in (at.frames, 3 * at.frames))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        seconds = interleaved(
            {
                "alone": lambda: evaluate(models, few, at, None),
                "with insight": lambda: evaluate(models, few, at, folder),
            },
            at.repeats,
        )
        _, alone = peak_memory(lambda: evaluate(models, few, at, None))
        _, with_few = peak_memory(lambda: evaluate(models, few, at, folder))
        _, with_many = peak_memory(lambda: evaluate(models, many, at, folder))
    per_frame = 1e3 / at.frames
    where = f"{at.size[0]}x{at.size[1]}, {at.classes} classes"
    more = ratios(seconds["with insight"], seconds["alone"])
    report(
        "insight",
        f"Evaluation with insight, two DeepLabv3+ {at.backbone} and four mixtures, {where}",
        options,
        asdict(at),
        [
            figure("evaluation alone, a frame", scaled(seconds["alone"], per_frame), "ms"),
            figure("with all insight, a frame", scaled(seconds["with insight"], per_frame), "ms"),
            figure("with insight over alone", more, "x", at_most=1.25),
            figure("alone, peak memory", [alone], "MiB"),
            figure(f"with insight, peak memory, {at.frames} frames", [with_few], "MiB"),
            figure(f"with insight, peak memory, {3 * at.frames} frames", [with_many], "MiB"),
        ],
        [
            "All insight: agreement, four detectors, routing, the oracles and `frames.csv`, of "
            "each mixture. Rows are made once at the end, for any number of frames, and not timed.",
        ],
    )


def evaluate(
    models: Mapping[str, Model], frames: RandomFrames, at: Scoring, folder: Path | None
) -> None:
    """Score models as a study does, with insight if there is a folder for it."""
    ground = Ground(
        classes=tuple(f"class {k}" for k in range(at.classes)),
        frames=frames.frames,
        blocks=Blocks.of(frames.frames),
        subsets=("noise",),
        bases={name: {} for name in models},
        models=models,
        experts={id(one): name for name, one in models.items() if isinstance(one, Expert)},
        trained={name: "noise" for name in models if name.startswith("expert-")},
        folder=folder,
    )
    collectors: dict[str, list[Collector]] = {}
    for name, model in models.items():
        more = insight_measures(name, model, ground) if folder is not None else ()
        collectors[name] = [segmentation_collector(name, ground), *more]
    run_models(models, frames, collectors, batch_size=at.batch)


if __name__ == "__main__":
    main()
