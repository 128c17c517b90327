"""The stages after the experts: their cached outputs, the gates, and the other controls."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from moeseg.errors import UsageError
from moeseg.files import remove
from moeseg.models import (
    Expert,
    Mixture,
    Model,
    build_ensemble,
    build_mixture,
    load,
    referenced_experts,
    save,
)
from moeseg.progress import say
from moeseg.run import Cost, Run, Stage
from moeseg.training.adversarial import Adversary, Perturb, adversary
from moeseg.training.cache import (
    FORMAT,
    CachedOutputs,
    CacheLayout,
    Change,
    GateSource,
    LiveOutputs,
    build_cache,
    plan_cache,
)
from moeseg.training.controls import mean_gate, merge_experts, reestimate_batchnorm
from moeseg.training.cost import attack_factor
from moeseg.training.frames import gate_frames
from moeseg.training.gate import check_gate_choice, train_gates
from moeseg.training.network_stages import (
    data_inputs,
    expert_models,
    expert_stages,
    forward_seconds,
    load_expert,
    model_info,
    planned_network,
    taught_weights,
)
from moeseg.types import Frame

_MERGED_BATCH = 16
"""Frames whose statistics the merged expert's BatchNorm averages, whatever it was trained with."""


def gate_stages(run: Run, perturb: Perturb | None) -> list[Stage]:
    """Return the stages that make every model with a gate, and the other controls."""
    experts = expert_stages(run)
    stages: list[Stage] = []
    if run.study.gated() and not _live(run):
        stages.append(
            Stage(
                name="cache",
                make=_make_cache,
                inputs=_cache_inputs,
                outputs=_cache_outputs,
                scratch=lambda run: [run.folder / "cache"],
                needs=experts,
                cost=_cache_cost,
            )
        )
    if run.study.gated():
        stages.append(
            Stage(
                name="gates",
                make=functools.partial(_make_gates, perturb=perturb),
                inputs=functools.partial(_gate_inputs, perturb=perturb),
                outputs=lambda run: [run.model(name) for name in run.study.gated()],
                scratch=lambda run: [run.log("gates")],
                needs=experts if _live(run) else ("cache", *experts),
                cost=_gate_cost,
            )
        )
    if made := _made_controls(run):
        networks = tuple(f"train-{name}" for name in run.study.networks())
        stages.append(
            Stage(
                name="controls",
                make=_make_controls,
                inputs=_controls_inputs,
                outputs=lambda run: [run.model(name) for name in made],
                needs=(*networks, *(stage.name for stage in stages)),
                cost=_controls_cost,
            )
        )
    return stages


def _made_controls(run: Run) -> list[str]:
    """Return the controls that are made from trained models, not fitted with the gates."""
    return [name for name in run.study.controls if name not in run.study.gated()]


def _controls_inputs(run: Run) -> dict[str, Any]:
    if "merged" in run.study.controls:
        kinds = {_network_kind(run, name) for name in expert_models(run)}
        if len(kinds) > 1:
            raise UsageError(
                "controls: `merged` averages weights and needs experts of one architecture, got "
                f"{len(kinds)}; take it off the list"
            )
    return {
        "controls": _made_controls(run),
        "train": run.frames_print(run.frames(run.study.joined, "train")),
        **data_inputs(run),
    }


def _network_kind(run: Run, network: str) -> str:
    """Return what of an architecture's settings comes into the network, but for its first weights.

    As `merge_experts` compares finished experts.
    """
    architecture = run.study.architecture_of(network).model_copy(update={"pretrained": None})
    arguments = architecture.build_arguments(len(run.catalogue.taxonomy))
    return json.dumps(arguments, sort_keys=True, default=str)


def _live(run: Run) -> bool:
    """Return whether gates are fitted with the experts at work at every step, without a cache."""
    return run.study.gate.end_to_end or _alone(run)


def _alone(run: Run) -> bool:
    """Return whether each mixture is fitted by itself, to experts or frames that are its own."""
    gate = run.study.gate
    return gate.expert_batchnorm == "adapt" or gate.adversarial is not None


def _frozen_experts(run: Run) -> list[Expert]:
    experts = [load_expert(run.model(name)).to(run.device) for name in expert_models(run)]
    for expert in experts:
        expert.requires_grad_(False)
    return experts


def _cache_outputs(run: Run) -> list[Path]:
    return [run.folder / "cache" / part for part in _cache_parts(run)]


def _cache_inputs(run: Run) -> dict[str, Any]:
    gate = run.study.gate
    if gate.pixels == "all":
        _cache_layouts(run)  # a cache over the limit is told before the experts are trained
    kept = gate.cache.model_dump(exclude_defaults=True) | {"format": FORMAT}
    return _shown(run) | {"cache": kept}


def _shown(run: Run) -> dict[str, Any]:
    """Return what gates are shown, from a cache or live."""
    gate = run.study.gate
    return {
        "train": run.frames_print(gate_frames(run)),
        "val": run.frames_print(run.validation_frames(run.study.joined)),
        "flip": run.study.data.augment.flip,
        "pixels": gate.pixels,
        "conv": any(mixture.conv for mixture in run.study.gated().values()),
        "seed": run.study.seed,
        "size": run.study.data.size,
        "taxonomy": run.catalogue.taxonomy.to_json(),
        **run.study.data.model_dump(include={"fit", "label_colours"}, exclude_defaults=True),
    }


def _make_cache(run: Run) -> None:
    gate = run.study.gate
    experts = _frozen_experts(run)
    for part, frames in _cache_parts(run).items():
        build_cache(
            experts,
            run.training_dataset(frames),
            run.folder / "cache" / part,
            gate.cache,
            **_kept(run, part),
            seed=run.study.seed,
            batch_size=gate.batch_size,
            workers=run.study.data.workers,
        )


def _cache_parts(run: Run) -> dict[str, tuple[Frame, ...]]:
    parts = {"train": gate_frames(run), "val": run.validation_frames(run.study.joined)}
    return {part: frames for part, frames in parts.items() if frames}


def _kept(run: Run, part: str) -> dict[str, Any]:
    """Return what of each frame a part of the cache keeps."""
    gate = run.study.gate
    return {
        "mirrored": part == "train" and run.study.data.augment.flip,
        "pixels": None if gate.pixels == "all" else gate.pixels,
        "neighbours": any(mixture.conv for mixture in run.study.gated().values()),
    }


def _cache_layouts(run: Run) -> list[CacheLayout]:
    experts = [planned_network(run, name) for name in expert_models(run)]
    size, cache = run.study.data.size, run.study.gate.cache
    return [
        plan_cache(experts, size, len(frames), cache, **_kept(run, part))
        for part, frames in _cache_parts(run).items()
    ]


def _cache_cost(run: Run) -> Cost:
    layouts = _cache_layouts(run)
    images = sum(layout.records for layout in layouts)
    return Cost(
        forward_seconds(run, expert_models(run), images), sum(layout.bytes for layout in layouts)
    )


def _gate_inputs(run: Run, perturb: Perturb | None) -> dict[str, Any]:
    _adversary(run, perturb)
    gate = run.study.gate.model_dump(exclude_defaults=True)
    mixtures = {
        name: mixture.model_dump(exclude_defaults=True)
        for name, mixture in run.study.gated().items()
    }
    check_gate_choice(run.study.gate, len(run.validation_frames(run.study.joined)))
    weighting = run.study.training.model_dump(
        include={"class_weights", "miou_classes"}, exclude_defaults=True
    )
    return {"gate": gate, "mixtures": mixtures} | weighting | _shown(run) | data_inputs(run)


def _adversary(run: Run, perturb: Perturb | None) -> Adversary | None:
    return adversary(run.study.gate.adversarial, perturb, "gate.adversarial", seed=run.study.seed)


def _gate_source(
    run: Run, part: str, experts: Sequence[Expert], change: Change | None = None
) -> GateSource | None:
    gate = run.study.gate
    frames = _cache_parts(run).get(part)
    if frames is None:
        return None
    training = part == "train"
    if _live(run):
        return LiveOutputs(
            experts,
            run.training_dataset(frames, mirrored=training),
            gate.batch_size,
            run.study.seed,
            training=training,
            shuffle=run.study.data.shuffle,
            adapt=training and gate.expert_batchnorm == "adapt",
            change=change,
            workers=run.study.data.workers,
        )
    return CachedOutputs(
        run.folder / "cache" / part,
        gate.batch_size,
        run.study.seed,
        training=training,
        shuffle=run.study.data.shuffle,
        device=run.device,
    )


def initial_mixtures(
    run: Run, experts: Sequence[Expert], names: Iterable[str]
) -> dict[str, Mixture]:
    """Return models of the study before their gates are fitted, over the given experts."""
    mixtures = {}
    for name in names:
        config = run.study.gated()[name]
        generator = torch.Generator().manual_seed(run.study.seed)
        mixtures[name] = build_mixture(
            experts,
            config.gate,
            config.conv,
            config.pool,
            run.study.data.size,
            expert_batchnorm=run.study.gate.expert_batchnorm,
            generator=generator,
        ).to(run.device)
    return mixtures


def _make_gates(run: Run, perturb: Perturb | None) -> None:
    if not _alone(run):
        _fit_gates(run, list(run.study.gated()), run.log("gates"))
        return
    against = _adversary(run, perturb)
    for name in run.study.gated():
        if not run.model(name).exists():
            _fit_gates(run, [name], run.log("gates") / name, against)


def _fit_gates(run: Run, names: Sequence[str], log: Path, against: Adversary | None = None) -> None:
    experts = _frozen_experts(run)
    mixtures = initial_mixtures(run, experts, names)
    change = None
    if against is not None:
        (alone,) = mixtures.values()
        change = functools.partial(against.change, alone)
    train = _gate_source(run, "train", experts, change)
    assert train is not None
    weights = taught_weights(run, gate_frames(run), run.study.training.class_weights)
    say(f"gates: fitting {', '.join(mixtures)} on {len(gate_frames(run))} frames")
    train_gates(
        mixtures,
        train,
        _gate_source(run, "val", experts),
        run.study.gate,
        log,
        seed=run.study.seed,
        class_weights=None if weights is None else weights.to(run.device),
        miou_classes=run.study.training.miou_classes,
    )
    # a mixture that changed its experts keeps its own
    shared = run.study.gate.expert_batchnorm == "hold"
    folders = [run.model(name) for name in expert_models(run)] if shared else None
    for name, mixture in mixtures.items():
        save(mixture.cpu(), run.model(name), info=model_info(run, name), experts=folders)
        mixture.to(run.device)
    remove(log / "last.pt")


def _make_controls(run: Run) -> None:
    for name in _made_controls(run):
        if name in (seeded := run.study.seeded_baselines()):
            folders = [run.model(network) for network in seeded[name]]
            pair = [load_expert(folder) for folder in folders]
            model: Model = build_ensemble(pair, "mean-probability")
            save(model, run.model(name), info=model_info(run, name), experts=folders)
        elif name == "merged":
            merged = merge_experts([load_expert(run.model(one)) for one in expert_models(run)])
            reestimate_batchnorm(
                merged.to(run.device),
                run.training_dataset(run.frames(run.study.joined, "train")),
                batch_size=_MERGED_BATCH,
                workers=run.study.data.workers,
            )
            save(merged.cpu(), run.model(name), info=model_info(run, name))
        else:
            _make_mean_gate(run, name)


def _make_mean_gate(run: Run, name: str) -> None:
    mixture = load(run.model(name.removeprefix("mean-gate-"))).to(run.device)
    assert isinstance(mixture, Mixture)
    batch_size = run.study.gate.batch_size
    frames: GateSource
    if _live(run):
        data, workers = run.training_dataset(gate_frames(run)), run.study.data.workers
        frames = LiveOutputs(mixture.experts, data, batch_size, training=False, workers=workers)
    else:
        cache = run.folder / "cache" / "train"
        frames = CachedOutputs(cache, batch_size, training=False, device=run.device)
    fixed = mean_gate(mixture, frames).cpu()
    folders = referenced_experts(run.model(name.removeprefix("mean-gate-")))
    save(fixed, run.model(name), info=model_info(run, name), experts=folders or None)


def _controls_cost(run: Run) -> Cost:
    made = _made_controls(run)
    joined = run.study.seeded_baselines()
    passes = sum(name == "merged" or (name not in joined and _live(run)) for name in made)
    frames = passes * len(run.frames(run.study.joined, "train"))
    return Cost(forward_seconds(run, expert_models(run), frames), 0.0)


def _gate_cost(run: Run) -> Cost:
    images = len(gate_frames(run)) * run.study.gate.epochs
    gates = len(run.study.gated())
    seconds = 2e-3 * gates * images  # a sampled step hardly depends on the size
    if _live(run) or run.study.gate.pixels == "all":
        passes = 1 + attack_factor(run.study.gate.adversarial)
        passes *= gates if _alone(run) else 1
        seconds += forward_seconds(run, expert_models(run), images) * passes
    return Cost(seconds, 0.0)
