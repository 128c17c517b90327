"""Which collectors a model gets, and what its experts are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeseg.evaluation.collectors import Ground
from moeseg.evaluation.intervals import Blocks
from moeseg.insight.agreement import MAX_EXPERTS
from moeseg.insight.frames import FrameCollector
from moeseg.insight.measures import expert_names, insight_measures
from moeseg.insight.routing import OracleCollector, RoutingCollector
from moeseg.models import Expert, Model, build_ensemble, build_mixture
from routed import BASE, frames
from tiny import CLASSES, SIZE, tiny_expert


def models() -> dict[str, Model]:
    base, again, day, dusk = (tiny_expert(n) for n in range(4))
    return {
        "baseline": base,
        "two-seed": build_ensemble([base, again], "mean"),
        "expert-day": day,
        "expert-dusk": dusk,
        "ensemble-mean": build_ensemble([day, dusk], "mean"),
        "moe-simple": build_mixture([day, dusk], "simple", size=SIZE),
        "moe-turned": build_mixture([dusk, day], "simple", size=SIZE),
    }


def ground(scored: dict[str, Model], folder: Path | None = None) -> Ground:
    listed = tuple(frames(subsets=("day", "dusk")))
    return Ground(
        models=scored,
        classes=tuple(CLASSES),
        frames=listed,
        blocks=Blocks.of(listed),
        subsets=("day", "day+dusk"),
        bases=dict.fromkeys(scored, BASE),
        experts={id(m): name for name, m in scored.items() if isinstance(m, Expert)},
        trained={"baseline": "day+dusk", "expert-day": "day", "expert-dusk": "dusk"},
        folder=folder,
    )


def kinds(scored: dict[str, Model], folder: Path | None = None) -> dict[str, list[str]]:
    on = ground(scored, folder)
    return {
        name: [type(c).__name__.removesuffix("Collector") for c in insight_measures(name, m, on)]
        for name, m in scored.items()
    }


def test_each_model_gets_what_it_can_tell(tmp_path: Path) -> None:
    whole = ["Agreement", "Detector", "Routing", "Frame"]
    assert kinds(models(), tmp_path) == {
        "baseline": [],
        "two-seed": ["Agreement"],
        "expert-day": [],
        "expert-dusk": [],
        "ensemble-mean": ["Agreement", "Oracle"],
        "moe-simple": whole,
        "moe-turned": whole,
    }
    assert kinds(models())["moe-simple"] == whole[:3]
    assert list(tmp_path.iterdir()) == []


def test_the_oracle_is_scored_once_whatever_is_there() -> None:
    every = models()
    alone = {"moe-simple": every["moe-simple"], "moe-turned": every["moe-turned"]}
    assert [name for name, of in kinds(alone).items() if "Oracle" in of] == ["moe-simple"]
    only = {"baseline": every["baseline"]}
    assert kinds(only) == {"baseline": []}


def test_names_and_training_subsets_reach_the_collectors(tmp_path: Path) -> None:
    scored = models()
    on = ground(scored, tmp_path)
    found = insight_measures("moe-turned", scored["moe-turned"], on)
    (routing,) = (c for c in found if isinstance(c, RoutingCollector))
    (lines,) = (c for c in found if isinstance(c, FrameCollector))
    assert routing.experts == lines.experts == ("dusk", "day")
    assert routing.trained == {"day": {"day"}, "dusk": {"dusk"}}
    assert routing.base["architecture"] == BASE["architecture"]
    assert lines.path == tmp_path / "moe-turned" / "frames.csv"
    first = insight_measures("ensemble-mean", scored["ensemble-mean"], on)
    assert any(isinstance(c, OracleCollector) for c in first)


def test_unknown_and_equal_names_are_places() -> None:
    day, dusk = tiny_expert(0), tiny_expert(1)
    pair = build_ensemble([day, dusk], "mean")
    assert expert_names(pair, {}) == ("1", "2")
    assert expert_names(pair, {id(day): "expert-day"}) == ("day", "2")
    assert expert_names(pair, {id(day): "expert-x", id(dusk): "x"}) == ("1", "2")


def test_too_many_experts_are_told_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    many = build_ensemble([tiny_expert(n) for n in range(MAX_EXPERTS + 1)], "mean")
    assert kinds({"ensemble-mean": many}) == {"ensemble-mean": []}
    assert "up to 8 experts, not 9" in capsys.readouterr().err


def test_no_oracle_over_experts_that_a_mixture_changed() -> None:
    scored = models()
    changed = [tiny_expert(n) for n in (7, 8)]
    studied = {name: scored[name] for name in ("expert-day", "expert-dusk")}
    mixture = {"moe-own": build_mixture(changed, "simple", size=SIZE)}
    assert "Oracle" not in kinds(studied | mixture)["moe-own"]
    assert "Oracle" in kinds(dict(mixture))["moe-own"]  # a mixture by itself has no others
