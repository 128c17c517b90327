"""Which collectors of insight each model of an evaluation gets; what they count lies beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from moeseg.evaluation.collectors import Collector, Ground
from moeseg.insight.agreement import MAX_EXPERTS, AgreementCollector, short
from moeseg.insight.detectors import DetectorCollector
from moeseg.insight.frames import FrameCollector
from moeseg.insight.routing import OracleCollector, RoutingCollector
from moeseg.models import Expert, Mixture, Model, MonteCarloDropout
from moeseg.progress import say
from moeseg.run import Run

FRAMES = "frames.csv"


def insight_measures(name: str, model: Model, ground: Ground) -> Sequence[Collector]:
    """Return the collectors of one model: an `evaluation.collectors.Measure`.

    A single expert gets none; an ensemble that of agreement; a mixture also those of detectors,
    routing and, where the ground has a folder, of `<folder>/<name>/frames.csv`. The oracle goes
    with the first model that joins the study's own experts, so it is scored once; where none is
    scored by itself, with the first model that joins any.

    Args:
        name: the model's.
        model: an expert, ensemble or mixture.
        ground: what all models of the evaluation share.
    """
    if isinstance(model, Expert | MonteCarloDropout):
        return []
    if len(model.experts) > MAX_EXPERTS:
        say(f"{name}: agreement is told of up to {MAX_EXPERTS} experts, not {len(model.experts)}")
        return []
    base = ground.bases[name]
    place = (ground.classes, ground.blocks, ground.subsets, base)
    experts = expert_names(model, ground.experts)
    known = {short(own): subset for own, subset in ground.trained.items()}
    trained = {own: known[own] for own in experts if own in known}
    found: list[Collector] = [AgreementCollector(name, experts, *place)]
    if isinstance(model, Mixture):
        found.append(DetectorCollector(name, experts, *place, trained))
        found.append(RoutingCollector(name, experts, *place, trained))
        if ground.folder is not None:
            path = ground.folder / name / FRAMES
            found.append(FrameCollector(name, experts, ground.classes, ground.frames, path))
    if name == _with_oracle(ground):
        found.append(OracleCollector(*place))
    return found


def frames_files(run: Run) -> list[Path]:
    """Return the files that these collectors write when a study is scored."""
    if len(run.study.experts) > MAX_EXPERTS:
        return []
    fixed = [name for name in run.study.controls if name.startswith("mean-gate-")]
    return [run.folder / "insight" / name / FRAMES for name in (*run.study.gated(), *fixed)]


def expert_names(model: Model, known: Mapping[int, str]) -> tuple[str, ...]:
    """Return a name for each expert of a model, without the prefix ``expert-``.

    Args:
        model: of which the experts are named.
        known: names by `id` of the expert. One that is not there is called by its place, counted
            from 1; so are all of them if two would have one name.
    """
    places = [str(place) for place in range(1, len(model.experts) + 1)]
    names = [short(known.get(id(e), n)) for e, n in zip(model.experts, places, strict=True)]
    return tuple(names if len(set(names)) == len(names) else places)


def _with_oracle(ground: Ground) -> str | None:
    joined = [name for name, model in ground.models.items() if len(model.experts) > 1]
    own = [
        name
        for name in joined
        if all(
            ground.experts.get(id(expert), "").startswith("expert-")
            for expert in ground.models[name].experts
        )
    ]
    studied = any(known.startswith("expert-") for known in ground.experts.values())
    return next(iter(own if studied else joined), None)
