"""The inference loop with members, samples and temperatures; changed frames among clean ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from moeseg.data import SegmentationDataset, Taxonomy, read_manifest
from moeseg.data.dataset import Item
from moeseg.evaluation.collectors import Ground, members_of
from moeseg.evaluation.intervals import Blocks
from moeseg.evaluation.runner import run_models
from moeseg.models import (
    Expert,
    Model,
    MonteCarloDropout,
    Segmenter,
    build_ensemble,
    build_mixture,
    key_seeds,
)
from moeseg.types import Prediction, Row
from moeseg.uncertainty.differences import Variant
from moeseg.uncertainty.measures import (
    changed_condition_rows,
    measure_variants,
    thresholds_of,
    uncertainty_measure,
    variants_of,
)
from moeseg.uncertainty.scores import uncertainty
from moeseg.uncertainty.temperature import Temperature
from routed import BASE
from tiny import CLASSES, SIZE, tiny_expert, write_data


class Keeping:
    """A collector that keeps what it is handed, members included."""

    needs_experts = False
    needs_expert_logits = True

    def __init__(self) -> None:
        self.logits: dict[str, Tensor] = {}
        self.members: dict[str, Tensor] = {}
        self.batches: list[Tensor] = []

    def update(self, prediction: Prediction, label: Tensor, keys: Sequence[str]) -> None:
        assert prediction.expert_logits is not None
        self.batches.append(prediction.expert_logits)
        for place, key in enumerate(keys):
            self.logits[key] = prediction.logits[place].clone()
            self.members[key] = prediction.expert_logits[place].clone()

    def reset(self) -> None:
        pass

    def sync(self) -> None:
        pass

    def rows(self) -> list[Row]:
        return []


class Dark(SegmentationDataset):
    """The frames of another data set at a fifth of their light."""

    def __init__(self, plain: SegmentationDataset) -> None:
        super().__init__(plain.frames, plain.read_label, SIZE)

    def __getitem__(self, index: int | tuple[int, int]) -> Item:
        image, label, key = super().__getitem__(index)
        return image / 5, label, key


def some_models() -> dict[str, Model]:
    day, dusk, base = (tiny_expert(seed) for seed in (1, 2, 3))
    return {
        "baseline": base,
        "expert-day": day,
        "expert-dusk": dusk,
        "ensemble-max": build_ensemble([day, dusk], "max"),
        "moe-simple": build_mixture([day, dusk], "simple", size=SIZE),
        "moe-classwise-conv": build_mixture([day, dusk], "classwise", True, size=SIZE),
        "mc-dropout": MonteCarloDropout(base, 3, rate=0.4),
    }


def some_frames(folder: Path) -> SegmentationDataset:
    csv = write_data(folder)
    catalogue = read_manifest(csv, Taxonomy.load(csv.parent / "taxonomy.yaml"))
    return SegmentationDataset(catalogue.select("day+dusk", "test"), catalogue.read_label, SIZE)


def ground_of(models: dict[str, Model], frames: SegmentationDataset, **base: object) -> Ground:
    return Ground(
        models=models,
        classes=tuple(CLASSES),
        frames=frames.frames,
        blocks=Blocks.of(frames.frames),
        subsets=("day", "dusk", "day+dusk"),
        bases=dict.fromkeys(models, BASE | base),
        experts={id(m): name for name, m in models.items() if isinstance(m, Expert)},
        trained={"baseline": "day+dusk", "expert-day": "day", "expert-dusk": "day"},
    )


@pytest.mark.parametrize("batch", [1, 3])
def test_members_come_with_the_prediction(tmp_path: Path, batch: int) -> None:
    models, frames = some_models(), some_frames(tmp_path)
    kept = {name: Keeping() for name in models}
    run_models(models, frames, {name: [one] for name, one in kept.items()}, batch_size=batch)
    for name, model in models.items():
        for image, _, key in (frames[i] for i in range(len(frames))):
            with torch.inference_mode():
                if isinstance(model, MonteCarloDropout):
                    output = model.experts[0].kept_output(image[None])
                    seeded = replace(output, seeds=key_seeds([key]))
                    own = model.combine([seeded], SIZE, expert_logits=True)
                else:
                    own = model(image[None], expert_logits=True)
            assert own.expert_logits is not None
            torch.testing.assert_close(kept[name].logits[key], own.logits[0], atol=1e-5, rtol=0)
            found = kept[name].members[key]
            torch.testing.assert_close(found, own.expert_logits[0], atol=1e-5, rtol=0)
            assert len(found) == members_of(model)
    # mixtures and ensembles over the same experts are handed the same memory
    first, other = kept["moe-simple"].batches[0], kept["ensemble-max"].batches[0]
    assert first.data_ptr() == other.data_ptr()


def test_the_encoder_behind_mc_dropout_runs_once_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, frames = some_models(), some_frames(tmp_path)
    early = models["mc-dropout"].experts[0]
    calls: list[int] = []
    plain = type(early).features

    def counting(self: Expert, images: Tensor) -> object:
        if self is early:
            calls.append(len(images))
        return plain(self, images)

    monkeypatch.setattr(type(early), "features", counting)
    two = {"baseline": early, "mc-dropout": models["mc-dropout"]}
    run_models(two, frames, {name: [Keeping()] for name in two}, batch_size=len(frames))
    # once for both models, three samples as its dropout comes early, two to find that out
    assert sorted(calls) == [1, 1] + [len(frames)] * 4


def test_a_measure_gives_each_model_its_collector(tmp_path: Path) -> None:
    models, frames = some_models(), some_frames(tmp_path)
    ground = ground_of(models, frames)
    made = {name: uncertainty_measure(name, model, ground)[0] for name, model in models.items()}
    trained = {name: sorted(one.trained) for name, one in made.items()}  # type: ignore[attr-defined]
    assert trained["moe-simple"] == trained["expert-day"] == ["day"]
    assert trained["mc-dropout"] == ["day", "dusk"]
    run_models(models, frames, {name: [one] for name, one in made.items()}, batch_size=3)
    for one in made.values():
        assert {row["kind"] for row in one.rows()} == {"detector", "calibration", "conditional"}


def test_a_class_wise_mixture_stands_against_the_simple_one_that_is_else_alike(
    tmp_path: Path,
) -> None:
    models, frames = some_models(), some_frames(tmp_path)
    experts = models["moe-simple"].experts
    models |= {
        "moe-b": build_mixture(experts, "simple", True, size=SIZE),
        "moe-pooled": build_mixture(experts, "classwise", True, pool=(2, 3), size=SIZE),
    }
    ground = ground_of(models, frames)
    made = {name: uncertainty_measure(name, model, ground)[0] for name, model in models.items()}
    twins = {name: one.twin for name, one in made.items()}  # type: ignore[attr-defined]
    assert twins == dict.fromkeys(models, "") | {"moe-classwise-conv": "moe-b"}


def test_variants_and_changed_frames(tmp_path: Path) -> None:
    models, frames = some_models(), some_frames(tmp_path)
    warm = Temperature("one", (2.0,), 0.0, 0.0, 1, 1)
    variants = variants_of(models, {"moe-simple": [warm], "mc-dropout": [warm]})
    assert list(variants)[-3:] == [
        ("moe-classwise-conv", "none"),
        ("mc-dropout", "none"),
        ("mc-dropout", "one"),
    ]
    clean = measure_variants(variants, ground_of(models, frames), frames, published=True)
    thresholds = thresholds_of(clean)
    assert set(thresholds) == set(variants)
    assert set(thresholds["baseline", "none"]) == {
        (score, unit) for score in ("entropy", "max-probability") for unit in ("pixel", "patch")
    }
    alone: dict[Variant, Segmenter] = {v: m for v, m in variants.items() if v[1] == "none"}
    dark = Dark(frames)
    ground = ground_of(models, frames, condition="dark-3")
    changed = measure_variants(alone, ground, dark, thresholds=thresholds)
    rows = changed_condition_rows(clean, changed)
    assert {row["condition"] for row in rows} == {"dark-3"}
    told = [row for row in rows if row.get("task") == "changed-frames"]
    assert {row["model"] for row in told} == set(models)
    (row,) = [
        r
        for r in told
        if (r["model"], r["subset"], r["score"]) == ("moe-simple", "day+dusk", "mutual-information")
    ]
    means = []
    for data in (frames, dark):
        for n in range(len(data)):
            with torch.inference_mode():
                whole = models["moe-simple"](data[n][0][None], expert_logits=True)
            means.append(float(uncertainty(whole, "mutual-information").double().mean()))
    expected = roc_auc_score(np.arange(16) >= 8, means)
    assert row["auroc"] == pytest.approx(expected, abs=0.02)
    thresholded = [r for r in rows if r["kind"] == "conditional" and r["model"] == "baseline"]
    for unit in ("pixel", "patch"):
        own = {r["threshold"] for r in thresholded if (r["score"], r["unit"]) == ("entropy", unit)}
        assert own == {thresholds["baseline", "none"]["entropy", unit]}
    differences = [r for r in rows if r["kind"] == "uncertainty-difference"]
    assert {("moe-simple", "baseline"), ("moe-simple", "moe-simple")} <= {
        (r["model"], r["minus"]) for r in differences
    }
    (entropy,) = [
        r
        for r in differences
        if (r["model"], r["minus"], r["subset"], r["measure"], r["score"])
        == ("moe-simple", "baseline", "day+dusk", "auroc", "entropy")
    ]
    areas = {
        r["model"]: r["auroc"]
        for r in rows
        if (r["subset"], r.get("task"), r.get("score")) == ("day+dusk", "wrong-pixels", "entropy")
    }
    assert entropy["difference"] == pytest.approx(areas["moe-simple"] - areas["baseline"])


def test_thresholds_are_chosen_for_pixels_and_for_patches(tmp_path: Path) -> None:
    frames = some_frames(tmp_path)
    models = {"baseline": some_models()["baseline"]}
    ground = ground_of(models, frames)
    clean = measure_variants(variants_of(models, {}), ground, frames)
    found = thresholds_of(clean)["baseline", "none"]
    counted = clean["baseline", "none"]
    place = counted.scores.index("entropy")
    for unit, state in (("pixel", counted.pixels), ("patch", counted.patches)):
        right, wrong = state.sum(0)[place].double().numpy()
        good = [right[:edge].sum() + wrong[edge:].sum() for edge in range(4097)]
        split = found["entropy", unit]  # type: ignore[index]
        assert split == (int(np.argmax(good)) / 4096) ** 2
    with_them = measure_variants(
        variants_of(models, {}), ground, frames, thresholds=thresholds_of(clean)
    )
    for row in with_them["baseline", "none"].rows():
        if row["kind"] == "conditional" and row["subset"] == "day+dusk":
            assert row["at_threshold"]["pavpu"] >= max(row["curves"]["pavpu"]) - 1e-6
