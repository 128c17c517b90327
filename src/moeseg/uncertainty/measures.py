"""Which collector of uncertainty each model of an evaluation gets, and all of its variants.

A variant is a model with one of its temperatures, or without.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from moeseg.data import SegmentationDataset
from moeseg.evaluation.collectors import Collector, Ground, members_of
from moeseg.evaluation.runner import Change, run_models
from moeseg.models import Mixture, Model, Segmenter
from moeseg.types import Row, single_subsets
from moeseg.uncertainty.collectors import Split, UncertaintyCollector, changed_rows
from moeseg.uncertainty.conditional import Unit, best_threshold
from moeseg.uncertainty.differences import Variant, difference_rows
from moeseg.uncertainty.temperature import Temperature, Tempered

Thresholds = Mapping[Variant, Mapping[Split, float]]
"""Of each score of each variant, of pixels and of patches, as `thresholds_of` gives them."""


def uncertainty_measure(name: str, model: Model, ground: Ground) -> Sequence[Collector]:
    """Return the collector of one model without temperature: an `evaluation.collectors.Measure`."""
    return [collector_of(name, model, ground)]


def collector_of(
    name: str,
    model: Model,
    ground: Ground,
    *,
    kind: str = "none",
    thresholds: Mapping[Split, float] | None = None,
    published: bool = False,
) -> UncertaintyCollector:
    """Return the collector of one variant of a model.

    Args:
        name: the model's.
        model: an expert, ensemble, mixture or MC dropout, without temperature.
        ground: what all models of the evaluation share.
        kind: of temperature, which stands in the rows' settings; ``none`` does not.
        thresholds: of its scores.
        published: also give the published readings.
    """
    base = ground.bases[name]
    if kind != "none":
        base = base | {"settings": base["settings"] | {"temperature": kind}}
    return UncertaintyCollector(
        name,
        members_of(model),
        isinstance(model, Mixture),
        ground.classes,
        ground.blocks,
        ground.subsets,
        base,
        _known(name, model, ground),
        thresholds=thresholds,
        published=published,
        twin=_simple_twin(model, ground),
    )


def variants_of(
    models: Mapping[str, Model], fitted: Mapping[str, Iterable[Temperature]]
) -> dict[Variant, Segmenter]:
    """Return every model and, behind it, the model with each of its temperatures."""
    found: dict[Variant, Segmenter] = {}
    for name, model in models.items():
        found[name, "none"] = model
        for one in fitted.get(name, ()):
            found[name, one.kind] = Tempered(model, one)
    return found


def measure_variants(
    variants: Mapping[Variant, Segmenter],
    ground: Ground,
    data: SegmentationDataset,
    *,
    thresholds: Thresholds | None = None,
    published: bool = False,
    batch_size: int = 8,
    workers: int = 0,
    device: torch.device | str = "cpu",
    change: Change | None = None,
) -> dict[Variant, UncertaintyCollector]:
    """Run all variants over frames, each expert once an image, and return their filled collectors.

    Args:
        variants: of the ground's models.
        ground: what they share.
        data: the ground's frames.
        thresholds: by variant.
        published: also give the published readings, of models without temperature.
        batch_size: frames of one forward pass.
        workers: loader processes.
        device: where models run.
        change: what the models see instead of the images; its name is the `condition` of the
            ground's bases.
    """
    chosen = thresholds or {}
    collectors = {
        (name, kind): collector_of(
            name,
            ground.models[name],
            ground,
            kind=kind,
            thresholds=chosen.get((name, kind)),
            published=published and kind == "none",  # they are of models as they were published
        )
        for name, kind in variants
    }
    run_models(
        {variant_name(*variant): model for variant, model in variants.items()},
        data,
        {variant_name(*variant): [one] for variant, one in collectors.items()},
        batch_size=batch_size,
        workers=workers,
        device=device,
        change=change,
    )
    return collectors


def changed_condition_rows(
    clean: Mapping[Variant, UncertaintyCollector],
    changed: Mapping[Variant, UncertaintyCollector],
) -> list[Row]:
    """Return all rows of changed frames, paired differences, and what tells them from clean ones.

    Args:
        clean: collectors of the frames as they are, from `measure_variants`.
        changed: the same of the frames changed, over a ground whose bases carry the `condition`;
            of any of the clean variants.
    """
    told = [row for variant, one in changed.items() for row in changed_rows(clean[variant], one)]
    return [*all_rows(changed), *difference_rows(changed), *told]


def thresholds_of(collectors: Mapping[Variant, UncertaintyCollector]) -> Thresholds:
    """Return where each score splits pixels, and patches, with the greatest PAvPU on all frames."""
    found: dict[Variant, dict[Split, float]] = {}
    for variant, collector in collectors.items():
        # (U, S, 2, N) -> (S, 2, N) each
        counts: dict[Unit, Tensor] = {
            "pixel": collector.pixels.sum(0),
            "patch": collector.patches.sum(0),
        }
        best = {
            (name, unit): best_threshold(*halves[place].numpy())
            for unit, halves in counts.items()
            for place, name in enumerate(collector.scores)
        }
        found[variant] = {split: value for split, value in best.items() if value is not None}
    return found


def all_rows(collectors: Mapping[Variant, UncertaintyCollector]) -> list[Row]:
    """Return the rows of every collector, in their order."""
    return [row for collector in collectors.values() for row in collector.rows()]


def variant_name(name: str, kind: str) -> str:
    """Return the name under which a model with a kind of temperature, or ``none``, is told."""
    return name if kind == "none" else f"{name} with temperature {kind}"


def _simple_twin(model: Model, ground: Ground) -> str:
    """Return the name of the mixture with a simple gate that else is like a class-wise one."""
    if not isinstance(model, Mixture) or model.gate.columns == 1:
        return ""
    others = {name: one for name, one in ground.models.items() if isinstance(one, Mixture)}
    alike = (name for name, one in others.items() if _beside_columns(one) == _beside_columns(model))
    return next((name for name in alike if others[name].gate.columns == 1), "")


def _beside_columns(mixture: Mixture) -> tuple[object, ...]:
    """Return what a mixture is made of, but for the columns of its gate."""
    gate = mixture.gate
    own = [getattr(gate, name, None) for name in ("shared", "pool", "hidden")]
    return type(gate), own, mixture.head is None, [id(expert) for expert in mixture.experts]


def _known(name: str, model: Model, ground: Ground) -> tuple[str, ...]:
    """Return the subsets that a model was trained on; empty if that is not known of every part."""
    if name in ground.trained:
        return single_subsets(ground.trained[name])
    names = [ground.experts.get(id(expert), "") for expert in model.experts]
    known = all(name in ground.trained for name in names)
    return single_subsets(*(ground.trained[name] for name in names)) if known else ()
