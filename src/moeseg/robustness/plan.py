"""From a study's settings to the attacks of a sweep; nothing is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from moeseg.config import RobustnessConfig, Study, SweepConfig, parse_epsilon
from moeseg.errors import UsageError, unknown_name
from moeseg.robustness.attacks import Attack, usual_steps
from moeseg.robustness.paths import ALL, EXPERT, LOGITS, WEIGHTS
from moeseg.robustness.sweep import Unit
from moeseg.training.expert import resolve_precision

LARGEST = 64 / 255
"""A greater radius hides a photo from people too."""


def attack_named(name: str, own: RobustnessConfig) -> Attack:
    """Return an attack by a study's own name for it, or by its short name.

    Raises:
        UsageError: neither is known.
    """
    rough = resolve_precision(own.precision) == "bf16-mixed"
    if name in own.attacks:
        told = own.attacks[name]
        attack = Attack(**told.model_dump() | {"steps": told.steps or usual_steps(told.kind)})
    else:
        attack = Attack.parse(name)
    return replace(attack, precision="bf16-mixed") if rough else attack


def units_of(
    sweep: SweepConfig, own: RobustnessConfig, parts: Mapping[str, Sequence[str]]
) -> list[Unit]:
    """Return every attack of a sweep, in the order of its settings.

    Args:
        sweep: its settings.
        own: where the study's own attacks are named.
        parts: of each model that may be attacked, what an attack may go through.

    Raises:
        UsageError: an unknown model or attack, or a radius that is absurd.
    """
    models = chosen_models(sweep.models, list(parts))
    units = []
    radii = {checked_epsilon(radius): radius for radius in reversed(sweep.epsilons)}
    for name in dict.fromkeys(sweep.attacks):
        attack = attack_named(name, own)
        for epsilon, radius in reversed(radii.items()):
            found = [
                Unit(model, name, attack, radius, epsilon)
                for model in models
                if attack.through in parts[model]
            ]
            if not found:
                raise UsageError(
                    f"attack {name}: none of {', '.join(models)} has a part "
                    f"{attack.through!r}; "
                    + unknown_name("part", attack.through, {p for m in models for p in parts[m]})
                )
            units += found
    return units


def chosen_models(wanted: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """Return the models that are wanted, all that are known where None.

    Raises:
        UsageError: an unknown model.
    """
    models = list(known if wanted is None else wanted)
    if unknown := [name for name in models if name not in known]:
        raise UsageError("\n".join(unknown_name("model", name, known) for name in unknown))
    return models


def planned_parts(study: Study) -> dict[str, tuple[str, ...]]:
    """Return each model of a study and what an attack on it may go through, before it is made."""
    experts = tuple(f"{EXPERT}{place}" for place in range(1, len(study.experts) + 1))
    parts: dict[str, tuple[str, ...]] = {}
    for name in study.model_names():
        seeds = study.seeded_baselines().get(name, ())
        if name in study.networks() or name == "merged" or name in study.uncertainty.dropout:
            parts[name] = (ALL,)
        elif name == "shared-trunk" or _looks(study, name):
            parts[name] = (ALL, *experts, WEIGHTS, LOGITS)
        elif seeds:
            parts[name] = (ALL, *(f"{EXPERT}{place}" for place in range(1, len(seeds) + 1)))
        else:
            parts[name] = (ALL, *experts)
    return parts


def _looks(study: Study, name: str) -> bool:
    """Return whether a model is a mixture whose weights hang on the image."""
    return name in study.mixtures and not study.mixtures[name].gate.startswith("constant")


def checked_epsilon(radius: str) -> float:
    """Return the value of a radius.

    Raises:
        UsageError: it is no number in (0, `LARGEST`].
    """
    epsilon = parse_epsilon(radius)
    if epsilon > LARGEST:
        raise UsageError(
            f"epsilon: expected at most 64/255, beyond which people no longer know the scene, got "
            f"{radius}; pixels are in [0, 1], so write {radius}/255 if grey levels are meant"
        )
    return epsilon
