"""The stages that train whole networks, and the ensembles over them; what they share with gates."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moeseg.config import ExpertConfig
from moeseg.data import class_weights, count_classes
from moeseg.errors import CheckpointError, UsageError
from moeseg.models import (
    Expert,
    build_ensemble,
    build_expert,
    load,
    load_weights,
    own_source,
    read_info,
    save,
    weights_digest,
)
from moeseg.progress import say, track
from moeseg.run import Cost, Run, Stage, rank
from moeseg.training.adversarial import Perturb, adversary
from moeseg.training.cost import (
    TRAIN_FACTOR,
    attack_factor,
    expected_seconds,
    parameter_bytes,
    planned_expert,
    planned_flops,
)
from moeseg.training.expert import check_choice, train_expert
from moeseg.training.frames import network_frames
from moeseg.types import Frame, Size


def network_stages(run: Run, perturb: Perturb | None) -> list[Stage]:
    """Return the stages that train networks end to end, then that of the ensembles."""
    before = ("scenes",) if run.study.data.reader == "synthetic" else ()
    stages = [_network_stage(name, before, perturb) for name in run.study.networks()]
    if run.study.ensembles:
        stages.append(
            Stage(
                name="ensembles",
                make=_make_ensembles,
                inputs=lambda run: list(run.study.ensembles),
                outputs=lambda run: [run.model(f"ensemble-{r}") for r in run.study.ensembles],
                needs=expert_stages(run),
            )
        )
    return stages


AGAINST = ("adversarial", "adversarial_networks")
"""Keys of `model_info`: what a network or gate was trained against, and by name the networks that
a model stands on."""


def expert_stages(run: Run) -> tuple[str, ...]:
    """Return the names of the stages that train the experts."""
    return tuple(f"train-{name}" for name in expert_models(run))


def expert_models(run: Run) -> list[str]:
    """Return the model names of the study's experts, e.g. ``expert-highway``, in their order."""
    return [f"expert-{name}" for name in run.study.experts]


def model_info(run: Run, name: str) -> dict[str, Any]:
    """Return what is saved beside a model: what it is called, sees and means."""
    return {
        "name": name,
        "taxonomy": run.catalogue.taxonomy.to_json(),
        "size": list(run.study.data.size),
        "study": run.study.name,
        "seed": run.study.seed_of(name) if name in run.study.networks() else run.study.seed,
        "fit": run.study.data.fit,
        "settings": run.study.habits_of(name),
        **({"subset": run.study.subset_of(name)} if name in run.study.networks() else {}),
        **_attacked(run, name),
    }


def _attacked(run: Run, name: str) -> dict[str, Any]:
    """Return what a model and the networks it stands on were trained against.

    Empty for clean frames and for given weights.
    """
    study = run.study
    networks = {
        network: against.model_dump()
        for network in study.networks_of(name)
        if _config_of(run, network).weights is None
        and (against := study.training_of(network).adversarial)
    }
    gate = study.gate.adversarial if study.has_fitted_gate(name) else None
    own = networks.pop(name, None) or (gate and gate.model_dump())
    return {key: told for key, told in zip(AGAINST, (own, networks), strict=True) if told}


def _network_stage(network: str, before: Sequence[str], perturb: Perturb | None) -> Stage:
    return Stage(
        name=f"train-{network}",
        make=functools.partial(_make_network, network=network, perturb=perturb),
        inputs=functools.partial(_network_inputs, network=network, perturb=perturb),
        outputs=lambda run: [run.model(network)],
        scratch=lambda run: [run.log(network)],
        needs=tuple(before),
        parallel=True,
        cost=functools.partial(_network_cost, network=network),
    )


def _config_of(run: Run, network: str) -> ExpertConfig:
    return run.study.networks()[network]


def _make_network(run: Run, network: str, perturb: Perturb | None) -> None:
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
            class_weights=taught_weights(run, frames, config.class_weights),
            perturb=perturb,
        )
    if rank() == 0:
        save(expert, run.model(network), info=model_info(run, network))


def initial_network(run: Run, network: str) -> Expert:
    """Return a network before training; equal architectures of a study start from equal weights."""
    arguments = run.study.architecture_of(network).build_arguments(len(run.catalogue.taxonomy))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.study.seed_of(network))
        return build_expert(arguments)


def _network_inputs(run: Run, network: str, perturb: Perturb | None) -> dict[str, Any]:
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
            **data_inputs(run),
        }
    train = network_frames(run, network)  # a wrong name is told before missing validation frames
    val = run.validation_frames(run.study.subset_of(network))
    settings = run.study.training_of(network)
    check_choice(settings, len(val))
    adversary(settings.adversarial, perturb, f"training.adversarial of {network}")
    # a GPU trains the same network; more processes make larger steps, so they count
    training = settings.model_dump(exclude_defaults=True, exclude={"accelerator"})
    return {
        "architecture": architecture,
        "training": training,
        "train": run.frames_print(train),
        "val": run.frames_print(val),
        "seed": run.study.seed_of(network),
        **data_inputs(run),
    }


def _folder(weights: Path) -> Path:
    """Return the model's folder where a study names the weights file in it."""
    return weights.parent if weights.is_file() else weights


def _check_given(run: Run, weights: Path) -> None:
    info = read_info(_folder(weights))
    given = info.get("taxonomy")
    wanted = run.catalogue.taxonomy
    if given is not None and tuple(c["name"] for c in given["classes"]) != wanted.classes:
        raise CheckpointError(
            f"{weights}: expected a model of the data's taxonomy {wanted.name}, got one of "
            f"{given['name']} ({len(given['classes'])} classes); set data.taxonomy to the model's"
        )
    check_fit(run, weights, info)


def check_fit(run: Run, path: Path, info: Mapping[str, Any]) -> None:
    """Refuse a saved model whose training frames came to their size in another way than a study's.

    Args:
        run: the study.
        path: of the model, for the message.
        info: what the model was saved with.

    Raises:
        UsageError: they did.
    """
    if (fit := info.get("fit", "pad")) != run.study.data.fit:
        raise UsageError(
            f"{path}: data.fit: expected {fit!r}, as the model saw its training frames, got "
            f"{run.study.data.fit!r}; use the model with --set data.fit={fit}"
        )


def data_inputs(run: Run) -> dict[str, Any]:
    """Return what of the data every training hangs on."""
    data = run.study.data
    return {
        "taxonomy": run.catalogue.taxonomy.to_json(),
        "size": data.size,
        "augment": data.augment.model_dump(exclude_defaults=True),
        **data.model_dump(include={"fit", "label_colours", "shuffle"}, exclude_defaults=True),
    }


def _network_cost(run: Run, network: str) -> Cost:
    config = run.study.training_of(network)
    expert = planned_network(run, network)
    parameters = parameter_bytes(expert)
    if _config_of(run, network).weights is not None:
        return Cost(1.0, parameters)
    frames = len(network_frames(run, network)) * config.epochs
    val = run.validation_frames(run.study.subset_of(network))
    checks = len(val) * (config.epochs // config.val_every)
    flops = flops_of(run, network)
    passes = (TRAIN_FACTOR + attack_factor(config.adversarial)) * frames + checks
    work = flops * passes / (config.devices * config.num_nodes)
    moments = 2 if config.optimizer.name == "sgd" else 3  # the weights and what the optimizer keeps
    return Cost(expected_seconds(work, run.device), parameters * (1 + 2 * moments))


def taught_weights(run: Run, frames: Sequence[Frame], method: str) -> Tensor | None:
    """Return the (C,) class weights of the loss over some frames, or None for none."""
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
    folders = [run.model(name) for name in expert_models(run)]
    experts = [load_expert(folder) for folder in folders]
    for rule in run.study.ensembles:
        name = f"ensemble-{rule}"
        save(
            build_ensemble(experts, rule),
            run.model(name),
            info=model_info(run, name),
            experts=folders,
        )


def load_expert(folder: Path) -> Expert:
    """Return the expert in a folder."""
    expert = load(folder)
    assert isinstance(expert, Expert)
    return expert


def flops_of(run: Run, network: str, size: Size | None = None) -> float:
    """Return the operations of one forward pass of a network of the study.

    Args:
        run: the study.
        network: a model name, e.g. ``expert-highway``.
        size: (H, W) of the image; None is the training size.
    """
    architecture = run.study.architecture_of(network).model_dump_json()
    return planned_flops(architecture, len(run.catalogue.taxonomy), size or run.study.data.size)


def forward_seconds(
    run: Run, networks: Iterable[str], images: int, size: Size | None = None
) -> float:
    """Return how long networks are expected to take over so many images; see `flops_of`."""
    flops = sum(flops_of(run, network, size) for network in networks)
    return expected_seconds(flops * images, run.device)


def planned_network(run: Run, network: str) -> Expert:
    """Return a network of the study on the meta device: shapes without weights."""
    return planned_expert(run.study.architecture_of(network), len(run.catalogue.taxonomy))
