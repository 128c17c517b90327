"""The training stages of a study: networks, ensembles, cached expert outputs, gates."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moeseg.config import SECOND, ExpertConfig
from moeseg.data import class_weights, count_classes
from moeseg.errors import CheckpointError
from moeseg.files import remove
from moeseg.models import (
    Expert,
    Mixture,
    Model,
    build_ensemble,
    build_expert,
    build_mixture,
    load,
    load_weights,
    own_source,
    read_info,
    referenced_experts,
    save,
    weights_digest,
)
from moeseg.progress import say, track
from moeseg.run import Cost, Run, Stage, rank
from moeseg.training.cache import (
    CachedOutputs,
    CacheLayout,
    GateSource,
    LiveOutputs,
    build_cache,
    plan_cache,
)
from moeseg.training.controls import mean_gate, merge_experts, reestimate_batchnorm
from moeseg.training.cost import (
    TRAIN_FACTOR,
    expected_seconds,
    parameter_bytes,
    planned_expert,
    planned_flops,
)
from moeseg.training.expert import check_choice, train_expert
from moeseg.training.frames import gate_frames, network_frames
from moeseg.training.gate import check_gate_choice, train_gates
from moeseg.types import Frame


def training_stages(run: Run) -> list[Stage]:
    """Return the stages that train every model of the study, in order."""
    before = ("scenes",) if run.study.data.reader == "synthetic" else ()
    stages = [_network_stage(name, before) for name in run.study.networks()]
    experts = tuple(f"train-expert-{name}" for name in run.study.experts)
    if run.study.ensembles:
        stages.append(
            Stage(
                name="ensembles",
                make=_make_ensembles,
                inputs=lambda run: list(run.study.ensembles),
                outputs=lambda run: [run.model(f"ensemble-{r}") for r in run.study.ensembles],
                needs=experts,
            )
        )
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
                make=_make_gates,
                inputs=_gate_inputs,
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
                inputs=lambda run: [*made, _data_inputs(run)],
                outputs=lambda run: [run.model(name) for name in made],
                needs=(*networks, "gates") if run.study.gated() else networks,
                cost=_controls_cost,
            )
        )
    return stages


def _made_controls(run: Run) -> list[str]:
    """Return the controls that are made from trained models, not fitted with the gates."""
    return [name for name in run.study.controls if name not in run.study.gated()]


def _live(run: Run) -> bool:
    """Return whether gates are fitted with the experts at work at every step, without a cache."""
    gate = run.study.gate
    return gate.end_to_end or gate.expert_batchnorm == "adapt"


def model_info(run: Run, name: str) -> dict[str, Any]:
    """Return what is saved beside a model: what it is called, sees and means."""
    return {
        "name": name,
        "taxonomy": run.catalogue.taxonomy.to_json(),
        "size": list(run.study.data.size),
        "study": run.study.name,
        "seed": run.study.seed_of(name) if name in run.study.networks() else run.study.seed,
        "fit": run.study.data.fit,
    }


def _network_stage(network: str, before: Sequence[str]) -> Stage:
    return Stage(
        name=f"train-{network}",
        make=functools.partial(_make_network, network=network),
        inputs=functools.partial(_network_inputs, network=network),
        outputs=lambda run: [run.model(network)],
        scratch=lambda run: [run.log(network)],
        needs=tuple(before),
        parallel=True,
        cost=functools.partial(_network_cost, network=network),
    )


def _config_of(run: Run, network: str) -> ExpertConfig:
    return run.study.networks()[network]


def _make_network(run: Run, network: str) -> None:
    weights = _config_of(run, network).weights
    expert = initial_network(run, network)
    if weights is not None:
        load_weights(expert, _folder(weights))
    else:
        frames = network_frames(run, network)
        if rank() == 0:
            say(f"{network}: training on {len(frames)} frames of {run.study.subset_of(network)}")
        val = run.validation_frames(run.study.subset_of(network))
        config = run.study.training_of(network)
        train_expert(
            expert,
            run.training_dataset(frames, augmented=True, seed=run.study.seed_of(network)),
            run.training_dataset(val) if val else None,
            config,
            run.log(network),
            seed=run.study.seed_of(network),
            workers=run.study.data.workers,
            shuffle=run.study.data.shuffle,
            class_weights=_class_weights(run, frames, config.class_weights),
        )
    if rank() == 0:
        save(expert, run.model(network), info=model_info(run, network))


def initial_network(run: Run, network: str) -> Expert:
    """Return a network before training; equal architectures of a study start from equal weights."""
    arguments = run.study.architecture_of(network).build_arguments(len(run.catalogue.taxonomy))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.study.seed_of(network))
        return build_expert(arguments)


def _network_inputs(run: Run, network: str) -> dict[str, Any]:
    config = _config_of(run, network)
    architecture = run.study.architecture_of(network).model_dump(exclude_defaults=True)
    name = run.study.architecture_of(network).name
    if ":" in name:
        architecture["source"] = own_source(name)
    if config.weights is not None:
        _check_given(run, config.weights)
        return {
            "architecture": architecture,
            "weights": weights_digest(_folder(config.weights)),
            "seed": run.study.seed_of(network),
            **_data_inputs(run),
        }
    val = run.validation_frames(run.study.subset_of(network))
    check_choice(run.study.training_of(network), len(val))
    # a GPU trains the same network; more processes make larger steps, so they count
    training = run.study.training_of(network).model_dump(
        exclude_defaults=True, exclude={"accelerator"}
    )
    return {
        "architecture": architecture,
        "training": training,
        "train": run.frames_print(network_frames(run, network)),
        "val": run.frames_print(val),
        "seed": run.study.seed_of(network),
        **_data_inputs(run),
    }


def _folder(weights: Path) -> Path:
    """Return the model's folder where a study names the weights file in it."""
    return weights.parent if weights.is_file() else weights


def _check_given(run: Run, weights: Path) -> None:
    given = read_info(_folder(weights)).get("taxonomy")
    wanted = run.catalogue.taxonomy
    if given is not None and tuple(c["name"] for c in given["classes"]) != wanted.classes:
        raise CheckpointError(
            f"{weights}: expected a model of the data's taxonomy {wanted.name}, got one of "
            f"{given['name']} ({len(given['classes'])} classes); set data.taxonomy to the model's"
        )


def _data_inputs(run: Run) -> dict[str, Any]:
    data = run.study.data
    return {
        "taxonomy": run.catalogue.taxonomy.to_json(),
        "size": data.size,
        "augment": data.augment.model_dump(exclude_defaults=True),
        **data.model_dump(include={"fit", "label_colours", "shuffle"}, exclude_defaults=True),
    }


def _network_cost(run: Run, network: str) -> Cost:
    config = run.study.training_of(network)
    expert = _planned(run, network)
    parameters = parameter_bytes(expert)
    if _config_of(run, network).weights is not None:
        return Cost(1.0, parameters)
    frames = len(network_frames(run, network)) * config.epochs
    val = run.validation_frames(run.study.subset_of(network))
    checks = len(val) * (config.epochs // config.val_every)
    flops = _flops(run, network)
    work = flops * (TRAIN_FACTOR * frames + checks) / (config.devices * config.num_nodes)
    moments = 2 if config.optimizer.name == "sgd" else 3  # the weights and what the optimizer keeps
    return Cost(expected_seconds(work, run.device), parameters * (1 + 2 * moments))


def _class_weights(run: Run, frames: Sequence[Frame], method: str) -> Tensor | None:
    if method == "none":
        return None
    counts = count_classes(
        frames,
        run.read_training_label,
        len(run.catalogue.taxonomy),
        workers=run.study.data.workers,
        track=track,
    )
    return torch.from_numpy(class_weights(counts, method))  # type: ignore[arg-type]


def _make_ensembles(run: Run) -> None:
    folders = [run.model(f"expert-{name}") for name in run.study.experts]
    experts = [_expert(run, name) for name in run.study.experts]
    for rule in run.study.ensembles:
        name = f"ensemble-{rule}"
        save(
            build_ensemble(experts, rule),
            run.model(name),
            info=model_info(run, name),
            experts=folders,
        )


def _expert(run: Run, name: str) -> Expert:
    return _loaded_expert(run.model(f"expert-{name}"))


def _loaded_expert(folder: Path) -> Expert:
    expert = load(folder)
    assert isinstance(expert, Expert)
    return expert


def _frozen_experts(run: Run) -> list[Expert]:
    experts = [_expert(run, name).to(run.device) for name in run.study.experts]
    for expert in experts:
        expert.requires_grad_(False)
    return experts


def _cache_outputs(run: Run) -> list[Path]:
    return [run.folder / "cache" / part / "layout.json" for part in _cache_parts(run)]


def _cache_inputs(run: Run) -> dict[str, Any]:
    gate = run.study.gate
    if gate.pixels == "all":
        _cache_layouts(run)  # a cache over the limit is told before the experts are trained
    return {
        "train": run.frames_print(gate_frames(run)),
        "val": run.frames_print(run.validation_frames(run.study.joined)),
        "cache": gate.cache.model_dump(exclude_defaults=True),
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
    experts = [_planned(run, f"expert-{name}") for name in run.study.experts]
    size, cache = run.study.data.size, run.study.gate.cache
    return [
        plan_cache(experts, size, len(frames), cache, **_kept(run, part))
        for part, frames in _cache_parts(run).items()
    ]


def _cache_cost(run: Run) -> Cost:
    layouts = _cache_layouts(run)
    flops = sum(_flops(run, f"expert-{name}") for name in run.study.experts)
    images = sum(layout.records for layout in layouts)
    return Cost(
        expected_seconds(flops * images, run.device), sum(layout.bytes for layout in layouts)
    )


def _flops(run: Run, network: str) -> float:
    architecture = run.study.architecture_of(network).model_dump_json()
    return planned_flops(architecture, len(run.catalogue.taxonomy), run.study.data.size)


def _planned(run: Run, network: str) -> Expert:
    return planned_expert(run.study.architecture_of(network), len(run.catalogue.taxonomy))


def _gate_inputs(run: Run) -> dict[str, Any]:
    gate = run.study.gate.model_dump(exclude_defaults=True)
    mixtures = {
        name: mixture.model_dump(exclude_defaults=True)
        for name, mixture in run.study.gated().items()
    }
    check_gate_choice(run.study.gate, len(run.validation_frames(run.study.joined)))
    weighting = run.study.training.model_dump(
        include={"class_weights", "miou_classes"}, exclude_defaults=True
    )
    return {"gate": gate, "mixtures": mixtures} | weighting | _cache_inputs(run) | _data_inputs(run)


def _gate_source(run: Run, part: str, experts: Sequence[Expert]) -> GateSource | None:
    gate = run.study.gate
    frames = _cache_parts(run).get(part)
    if frames is None:
        return None
    training = part == "train"
    if _live(run):
        return LiveOutputs(
            experts,
            run.training_dataset(frames, augmented=training),
            gate.batch_size,
            run.study.seed,
            training=training,
            shuffle=run.study.data.shuffle,
            adapt=training and gate.expert_batchnorm == "adapt",
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


def initial_mixtures(run: Run, experts: Sequence[Expert]) -> dict[str, Mixture]:
    """Return the study's mixtures before their gates are fitted, over the given experts."""
    mixtures = {}
    for name, config in run.study.gated().items():
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


def _make_gates(run: Run) -> None:
    if run.study.gate.expert_batchnorm == "adapt":
        missing = [name for name in run.study.gated() if not run.model(name).exists()]
        for name in missing:
            # each mixture changes its experts, so it gets and keeps its own
            _fit_gates(run, [name], run.log("gates") / name, shared=False)
    else:
        _fit_gates(run, list(run.study.gated()), run.log("gates"), shared=True)


def _fit_gates(run: Run, names: Sequence[str], log: Path, *, shared: bool) -> None:
    experts = _frozen_experts(run)
    mixtures = {name: one for name, one in initial_mixtures(run, experts).items() if name in names}
    train = _gate_source(run, "train", experts)
    assert train is not None
    weights = _class_weights(run, gate_frames(run), run.study.training.class_weights)
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
    folders = [run.model(f"expert-{name}") for name in run.study.experts] if shared else None
    for name, mixture in mixtures.items():
        save(mixture.cpu(), run.model(name), info=model_info(run, name), experts=folders)
        mixture.to(run.device)
    remove(log / "last.pt")


def _make_controls(run: Run) -> None:
    for name in _made_controls(run):
        if name == "two-seed":
            folders = [run.model("baseline"), run.model(SECOND)]
            pair = [_loaded_expert(folder) for folder in folders]
            model: Model = build_ensemble(pair, "mean-probability")
            save(model, run.model(name), info=model_info(run, name), experts=folders)
        elif name == "merged":
            merged = merge_experts([_expert(run, expert) for expert in run.study.experts])
            reestimate_batchnorm(
                merged.to(run.device),
                run.training_dataset(run.frames(run.study.joined, "train")),
                batch_size=run.study.training.batch_size,
                workers=run.study.data.workers,
            )
            save(merged.cpu(), run.model(name), info=model_info(run, name))
        else:
            _make_mean_gate(run, name)


def _make_mean_gate(run: Run, name: str) -> None:
    mixture = load(run.model(name.removeprefix("mean-gate-"))).to(run.device)
    assert isinstance(mixture, Mixture)
    frames = LiveOutputs(
        mixture.experts,
        run.training_dataset(gate_frames(run)),
        run.study.gate.batch_size,
        training=False,
        workers=run.study.data.workers,
    )
    fixed = mean_gate(mixture, frames).cpu()
    folders = referenced_experts(run.model(name.removeprefix("mean-gate-")))
    save(fixed, run.model(name), info=model_info(run, name), experts=folders or None)


def _controls_cost(run: Run) -> Cost:
    passes = sum(name != "two-seed" for name in _made_controls(run))
    frames = passes * len(run.frames(run.study.joined, "train"))
    flops = sum(_flops(run, f"expert-{name}") for name in run.study.experts)
    return Cost(expected_seconds(flops * frames, run.device), 0.0)


def _gate_cost(run: Run) -> Cost:
    images = len(gate_frames(run)) * run.study.gate.epochs
    gates = len(run.study.gated())
    seconds = 2e-3 * gates * images  # a sampled step hardly depends on the size
    if _live(run) or run.study.gate.pixels == "all":
        alone = run.study.gate.expert_batchnorm == "adapt"
        seconds += _cache_cost(run).seconds * run.study.gate.epochs * (gates if alone else 1)
    return Cost(seconds, 0.0)
