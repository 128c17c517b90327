"""Evaluating all ten models of a study against the baseline and the two experts alone.

Three DeepLabv3+ ResNet-101 at 456x456, 38 classes: a baseline and two experts, and over the
experts three ensembles and four mixtures. Takes about 3 minutes on two cores.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch

from measure import figure, interleaved, parse, parser, peak_memory, ratios, report, scaled
from moeseg.evaluation.collectors import SegmentationCollector
from moeseg.evaluation.intervals import Blocks
from moeseg.evaluation.runner import run_models
from moeseg.models import RULES, Expert, Segmenter, build_ensemble
from moeseg.types import ExpertOutput, Prediction, Size
from subjects import SMOKE_SCORING, RandomFrames, Scoring, four_mixtures, random_experts


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(parser("ten_models", __doc__), argv)
    at = SMOKE_SCORING if options.smoke else Scoring()
    baseline, *experts = random_experts(3, at.backbone, at.channels, at.classes)
    three: dict[str, Segmenter] = {"baseline": baseline}
    three |= {f"expert-{k}": expert for k, expert in enumerate(experts)}
    ensembles = {f"ensemble-{rule}": build_ensemble(experts, rule) for rule in RULES}
    ten = three | ensembles | four_mixtures(experts, at.size)
    frames = RandomFrames(at.frames, at.size, at.classes)

    seconds = interleaved(
        {
            "three": lambda: evaluate(three, frames, at),
            "ten": lambda: evaluate(ten, frames, at),
        },
        at.repeats,
    )
    three_before, three_peak = peak_memory(lambda: evaluate(three, frames, at))
    ten_before, ten_peak = peak_memory(lambda: evaluate(ten, frames, at))
    shares = [breakdown(ten, frames, at) for _ in range(at.repeats)]
    per_frame = 1e3 / at.frames
    where = f"{at.size[0]}x{at.size[1]}, {at.classes} classes"
    report(
        "ten_models",
        f"Evaluating the ten models of a study, DeepLabv3+ {at.backbone}, {where}",
        options,
        asdict(at),
        [
            figure("baseline and two experts, a frame", scaled(seconds["three"], per_frame), "ms"),
            figure("all ten models, a frame", scaled(seconds["ten"], per_frame), "ms"),
            figure("ten over three", ratios(seconds["ten"], seconds["three"]), "x", at_most=1.5),
            figure("three models, peak memory", [three_peak], "MiB"),
            figure("three models, memory above rest", [three_peak - three_before], "MiB"),
            figure("ten models, peak memory", [ten_peak], "MiB"),
            figure("ten models, memory above rest", [ten_peak - ten_before], "MiB"),
            *(
                figure(f"of the ten: {what}, a frame", [s[what] * per_frame for s in shares], "ms")
                for what in shares[0]
            ),
        ],
        [
            "The parts are timed in runs of their own; `combine` joins, resizes and applies a "
            "head, `count` fills the confusion matrix; classes of pixels are found in the rest.",
        ],
    )


def evaluate(models: Mapping[str, Segmenter], frames: RandomFrames, at: Scoring) -> None:
    """Score models as a study does."""
    collectors = {name: [collector(name, frames, at)] for name in models}
    run_models(models, frames, collectors, batch_size=at.batch)


def collector(name: str, frames: RandomFrames, at: Scoring) -> SegmentationCollector:
    """Return the confusion matrix of a model."""
    classes = [f"class {k}" for k in range(at.classes)]
    return SegmentationCollector(name, classes, Blocks.of(frames.frames), ["noise"], {})


@dataclass
class Clock:
    """Seconds spent, by what on."""

    spent: dict[str, float] = field(default_factory=dict)

    def add(self, what: str, began: float) -> None:
        """Add the time since `began`."""
        self.spent[what] = self.spent.get(what, 0.0) + time.perf_counter() - began


class TimedModel:
    """A model whose `combine` is timed."""

    def __init__(self, name: str, model: Segmenter, clock: Clock) -> None:
        self.name, self.model, self.clock = name, model, clock

    @property
    def experts(self) -> tuple[Expert, ...]:
        """The model's own experts."""
        return self.model.experts

    @property
    def num_classes(self) -> int:
        """The model's number of classes."""
        return self.model.num_classes

    def combine(
        self, outputs: Sequence[ExpertOutput], size: Size, *, expert_logits: bool = False
    ) -> Prediction:
        """Combine as the model does."""
        began = time.perf_counter()
        prediction = self.model.combine(outputs, size, expert_logits=expert_logits)
        self.clock.add(f"{self.name} combine", began)
        return prediction

    def __call__(self, images: torch.Tensor, *, expert_logits: bool = False) -> Prediction:
        """Predict as the model does."""
        return self.model(images, expert_logits=expert_logits)


class TimedCollector(SegmentationCollector):
    """A confusion matrix whose filling is timed."""

    clock: Clock

    def update(self, prediction: Prediction, label: torch.Tensor, keys: Sequence[str]) -> None:
        """Count a batch."""
        began = time.perf_counter()
        super().update(prediction, label, keys)
        self.clock.add("count, all models", began)


def breakdown(
    models: Mapping[str, Segmenter], frames: RandomFrames, at: Scoring
) -> dict[str, float]:
    """Return seconds of one evaluation by part: each model's combine, counting, and the rest."""
    clock = Clock()
    collectors = {}
    for name in models:
        plain = collector(name, frames, at)
        timed = TimedCollector(name, plain.classes, plain.blocks, plain.subsets, {})
        timed.clock = clock
        collectors[name] = [timed]
    shells = {name: TimedModel(name, model, clock) for name, model in models.items()}
    began = time.perf_counter()
    run_models(shells, frames, collectors, batch_size=at.batch)
    whole = time.perf_counter() - began
    return {"experts, classes and loading": whole - sum(clock.spent.values()), **clock.spent}


if __name__ == "__main__":
    main()
