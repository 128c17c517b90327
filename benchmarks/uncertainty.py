"""Evaluating with every score and measure of uncertainty against evaluating alone, in one pass.

Two DeepLabv3+ ResNet-101 at 456x456, 38 classes, scored alone, as an ensemble and in a simple and a
class-wise mixture. And all measures of one 480x640 frame against plain NumPy, with scikit-learn's
Brier score and log loss, at 50 thresholds. Takes about 4 minutes on two cores.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, log_loss

from measure import figure, interleaved, parse, parser, peak_memory, ratios, report, scaled
from moeseg.evaluation.collectors import Collector, Ground
from moeseg.evaluation.intervals import Blocks
from moeseg.evaluation.runner import run_models
from moeseg.evaluation.stages import segmentation_collector
from moeseg.models import Expert, Model, build_ensemble
from moeseg.types import Prediction, Row, Size
from moeseg.uncertainty.collectors import UncertaintyCollector
from moeseg.uncertainty.measures import uncertainty_measure
from subjects import SMOKE_SCORING, RandomFrames, Scoring, four_mixtures, random_experts

Floats = NDArray[np.float64]
_BASE: Row = {
    "split": "test",
    "dataset": "noise",
    "size": [1, 1],
    "architecture": "none",
    "seed": 0,
    "settings": {},
    "fingerprint": "none",
}


@dataclass(frozen=True)
class Single:
    """The one frame that is measured against NumPy."""

    size: Size = (480, 640)
    classes: int = 38
    experts: int = 2
    thresholds: int = 50
    repeats: int = 5


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(parser("uncertainty", __doc__), argv)
    at = SMOKE_SCORING if options.smoke else Scoring()
    one = Single((24, 32), 5, 2, 5, 2) if options.smoke else Single()
    experts = random_experts(2, at.backbone, at.channels, at.classes)
    models: dict[str, Model] = {f"expert-{k}": expert for k, expert in enumerate(experts)}
    models["ensemble-mean-probability"] = build_ensemble(experts, "mean-probability")
    mixtures = four_mixtures(experts, at.size)
    models |= {name: mixtures[name] for name in ("moe-simple", "moe-classwise")}
    few, many = (RandomFrames(count, at.size, at.classes) for count in (at.frames, 3 * at.frames))
    seconds = interleaved(
        {
            "alone": lambda: evaluate(models, few, at, with_uncertainty=False),
            "with uncertainty": lambda: evaluate(models, few, at, with_uncertainty=True),
        },
        at.repeats,
    )
    _, alone = peak_memory(lambda: evaluate(models, few, at, with_uncertainty=False))
    _, with_few = peak_memory(lambda: evaluate(models, few, at, with_uncertainty=True))
    _, with_many = peak_memory(lambda: evaluate(models, many, at, with_uncertainty=True))
    prediction, label = frame_of(one)
    of_frame = interleaved(
        {
            "numpy": lambda: with_numpy(prediction, label, one.thresholds),
            "moeseg": lambda: with_moeseg(prediction, label, one),
        },
        one.repeats,
    )
    per_frame = 1e3 / at.frames
    more = ratios(seconds["with uncertainty"], seconds["alone"])
    faster = ratios(of_frame["numpy"], of_frame["moeseg"])
    where = f"{at.size[0]}x{at.size[1]}, {at.classes} classes"
    frame = f"one frame of {one.size[0]}x{one.size[1]}"
    report(
        "uncertainty",
        f"Evaluation with uncertainty, two DeepLabv3+ {at.backbone} in three models, {where}",
        options,
        {"evaluation": asdict(at), "frame": asdict(one)},
        [
            figure("evaluation alone, a frame", scaled(seconds["alone"], per_frame), "ms"),
            figure("with all, a frame", scaled(seconds["with uncertainty"], per_frame), "ms"),
            figure("with all over alone", more, "x", at_most=1.5),
            figure("alone, peak memory", [alone], "MiB"),
            figure(f"with all, peak memory, {at.frames} frames", [with_few], "MiB"),
            figure(f"with all, peak memory, {3 * at.frames} frames", [with_many], "MiB"),
            figure(f"{frame}, NumPy and scikit-learn", scaled(of_frame["numpy"], 1e3), "ms"),
            figure(f"{frame}, moeseg", scaled(of_frame["moeseg"], 1e3), "ms"),
            figure(f"{frame}, NumPy over moeseg", faster, "x", at_least=15),
        ],
        [
            "All measures: five scores as detectors of wrong pixels and of unseen frames, ECE, MCE "
            "and class-wise ECE in bins of equal width and of equal mass, Brier, NLL, conditional "
            "correctness of pixels and patches, of two experts, an ensemble and two mixtures. Rows "
            "are made once at the end, for any number of frames: of the evaluation they are not "
            "timed, of the one frame they are.",
            f"NumPy: the same five scores of one mixture; of each at {one.thresholds} thresholds "
            "the three conditional shares, Brier score and log loss of what is kept; ECE and MCE "
            "in bins of equal width and of equal mass, ECE of every class, and Brier score and log "
            "loss of all classes once. moeseg gives the curves at 4,097 thresholds from one pass, "
            "and all rows: AUROC, AUPR, FPR, AURC and bounds of error beside those.",
        ],
    )


def evaluate(
    models: Mapping[str, Model], frames: RandomFrames, at: Scoring, *, with_uncertainty: bool
) -> None:
    """Score models as a study does, with or without every measure of uncertainty."""
    ground = Ground(
        classes=tuple(f"class {k}" for k in range(at.classes)),
        frames=frames.frames,
        blocks=Blocks.of(frames.frames),
        subsets=("noise",),
        bases=dict.fromkeys(models, _BASE),
        models=models,
        experts={id(one): name for name, one in models.items() if isinstance(one, Expert)},
        trained={name: "noise" for name in models if name.startswith("expert-")},
    )
    collectors: dict[str, list[Collector]] = {}
    for name, model in models.items():
        more = uncertainty_measure(name, model, ground) if with_uncertainty else ()
        collectors[name] = [segmentation_collector(name, ground), *more]
    run_models(models, frames, collectors, batch_size=at.batch)


def frame_of(one: Single) -> tuple[Prediction, torch.Tensor]:
    """Return a simple mixture's prediction of one frame and its label (1, H, W)."""
    generator = torch.Generator().manual_seed(0)
    coarse = (one.size[0] // 8, one.size[1] // 8)
    small = 4 * torch.randn(one.experts, one.classes, *coarse, generator=generator)
    each = torch.nn.functional.interpolate(small, size=one.size, mode="bilinear")[None]
    weights = torch.rand(1, one.experts, 1, generator=generator).softmax(1)
    logits = (each * weights[..., None, None]).sum(1)
    label = logits.argmax(1)
    other = torch.randint(0, one.classes, label.shape, generator=generator)
    label = torch.where(torch.rand(label.shape, generator=generator) < 0.3, other, label)
    label[:, :2] = 255
    ids = logits.max(1).indices
    return Prediction(logits, weights, each, ids=ids), label.to(torch.uint8)


def with_moeseg(prediction: Prediction, label: torch.Tensor, one: Single) -> None:
    """Count the frame with the collector, and read every measure from its counts."""
    frames = RandomFrames(1, (1, 1), 2)
    collector = UncertaintyCollector(
        "frame",
        one.experts,
        True,
        tuple(f"class {k}" for k in range(one.classes)),
        Blocks.of(frames.frames),
        ("noise",),
        _BASE,
    )
    with torch.inference_mode():
        collector.update(prediction, label, [frames.frames[0].key])
    collector.rows()


def with_numpy(prediction: Prediction, label: torch.Tensor, thresholds: int) -> None:
    """Measure the frame as scripts do it: every score of every pixel, then every threshold."""
    assert prediction.expert_logits is not None
    assert prediction.weights is not None
    p = _softmax(prediction.logits[0].numpy())
    each = np.stack([_softmax(one.numpy()) for one in prediction.expert_logits[0]])
    weights = prediction.weights[0, :, 0].numpy()
    pool = np.tensordot(weights, each, 1)
    entropies = np.array([_entropy(one) for one in each])
    classes, experts = len(p), len(each)
    gate = -(weights * np.log(weights)).sum() / np.log(experts)
    valid = label[0].numpy() != 255
    right = (p.argmax(0) == label[0].numpy())[valid]
    scores = (
        _entropy(p) / np.log(classes),
        (1 - p.max(0)) / (1 - 1 / classes),
        (_entropy(pool) - np.tensordot(weights, entropies, 1)) / np.log(experts),
        (np.tensordot(weights, (each**2).sum(1), 1) - (pool**2).sum(0)) / (1 - 1 / experts),
        np.full(p.shape[1:], gate),
    )
    of_class, true = p[:, valid].astype(np.float64), label[0].numpy()[valid]
    confidence = of_class.max(0)
    _calibration(confidence, right, np.linspace(0, 1, 16))
    _calibration(confidence, right, np.quantile(confidence, np.linspace(0, 1, 16)))
    for one_class, probability in enumerate(of_class):
        _calibration(probability, true == one_class, np.linspace(0, 1, 16))
        brier_score_loss(true == one_class, probability)
    log_loss(true, (of_class / of_class.sum(0)).T, labels=list(range(classes)))
    for score in scores:
        of_pixel = score[valid].clip(0, 1)
        for step in range(1, thresholds + 1):
            _at_threshold(of_pixel, right, step / thresholds)


def _at_threshold(score: Floats, right: NDArray[np.bool_], threshold: float) -> tuple[float, ...]:
    certain = score < threshold
    good, bad = (right & certain).sum(), (~right & ~certain).sum()
    kept = right[certain].astype(float), 1 - score[certain]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one class is left at some thresholds
        proper = (0.0, 0.0)
        if certain.any():
            proper = brier_score_loss(*kept), log_loss(*kept, labels=[0.0, 1.0])
    return (
        good / max(certain.sum(), 1),
        bad / max((~right).sum(), 1),
        (good + bad) / len(score),
        *proper,
    )


def _calibration(
    confidence: Floats, right: NDArray[np.bool_], edges: Floats
) -> tuple[float, float]:
    total, largest = 0.0, 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            gap = abs(confidence[inside].mean() - right[inside].mean())
            total, largest = total + gap * inside.mean(), max(largest, gap)
    return float(total), float(largest)


def _softmax(logits: Floats) -> Floats:
    e = np.exp(logits - logits.max(0))
    probabilities: Floats = e / e.sum(0)
    return probabilities


def _entropy(p: Floats) -> Floats:
    entropy: Floats = -(p * np.log(p + 1e-12)).sum(0)
    return entropy


if __name__ == "__main__":
    main()
