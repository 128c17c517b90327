"""What gates are shown by a study, live and from the cache, and the controls made from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from moeseg.config import load_study
from moeseg.data import SegmentationDataset
from moeseg.models import ConstantGate, load
from moeseg.run import Run
from moeseg.study import run_study
from moeseg.training.cache import CachedOutputs, LiveOutputs
from moeseg.training.gate_stages import _frozen_experts, _gate_source, _make_cache
from tiny import study_settings, write_study

AUGMENT = {"flip": True, "scale": [0.5, 1.5], "jitter": 0.3}
GATE = {"epochs": 1, "batch_size": 4, "pixels": 64}


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    """A study with trained experts, with the augmentation above and the gates of the test."""
    data = study_settings(tmp_path, tmp_path)["data"] | {"augment": AUGMENT}
    gate: dict[str, Any] = getattr(request, "param", {})
    training = study_settings(tmp_path, tmp_path)["training"] | {"epochs": 1}
    file = write_study(
        tmp_path,
        tmp_path / "run",
        data=data,
        training=training,
        gate=GATE | gate,
        controls=["mean-gate-moe-simple"],
        baseline=None,
    )
    made = Run(load_study(file))
    run_study(made, ["expert-day", "expert-dusk"])
    return made


def frames_of(run: Run) -> SegmentationDataset:
    return run.training_dataset(run.frames(run.study.joined, "train"))


@pytest.mark.parametrize(
    "run", [{"expert_batchnorm": "adapt"}, {"end_to_end": True}], indirect=True, ids=str
)
def test_live_gates_are_shown_frames_and_their_mirrors_as_the_cache_holds_them(run: Run) -> None:
    source = _gate_source(run, "train", _frozen_experts(run))
    assert isinstance(source, LiveOutputs)
    plain = frames_of(run)
    turned = 0
    for place in range(len(plain)):
        image, label, _ = plain[place]
        shown, shown_label, _ = source.frames[place, 3]
        mirrored = torch.equal(shown, image.flip(-1))
        assert mirrored or torch.equal(shown, image)
        assert torch.equal(shown_label, label.flip(-1) if mirrored else label)
        turned += mirrored
    assert 0 < turned < len(plain)
    networks = run.training_dataset(run.frames("day", "train"), augmented=True)
    assert not torch.equal(networks[0, 3][0], plain[0][0])  # theirs are scaled and recoloured


def test_unshuffled_data_reach_cached_gates_in_order(run: Run) -> None:
    calm = run.study.data.augment.model_copy(update={"flip": False})
    data = run.study.data.model_copy(update={"shuffle": False, "augment": calm})
    ordered = Run(run.study.model_copy(update={"data": data}))
    experts = _frozen_experts(ordered)
    _make_cache(ordered)
    source = _gate_source(ordered, "train", experts)
    assert isinstance(source, CachedOutputs)
    seen = torch.cat([batch.features[0] for batch in source.epoch(1)])
    frames = frames_of(ordered)
    images = torch.stack([frames[place][0] for place in range(len(frames))])
    assert torch.allclose(seen, experts[0].output(images).gate, atol=1e-2)  # kept as float16


@pytest.mark.parametrize("run", [{"expert_batchnorm": "adapt"}], indirect=True, ids=str)
def test_a_mean_gate_is_that_of_the_experts_that_its_mixture_adapted(run: Run) -> None:
    run_study(run, ["mean-gate-moe-simple"])
    mixture, fixed = (load(run.model(name)) for name in ("moe-simple", "mean-gate-moe-simple"))
    frames = frames_of(run)
    images = torch.stack([frames[place][0] for place in range(len(frames))])
    with torch.inference_mode():
        weights, constant = mixture(images).weights, fixed(images).weights
    assert isinstance(fixed.gate, ConstantGate)
    assert weights is not None
    assert constant is not None
    assert torch.allclose(constant[0], weights.mean(0), atol=1e-6)
    original = load(run.model("expert-day")).state_dict()
    own, kept = (model.experts[0].state_dict() for model in (mixture, fixed))
    assert all(torch.equal(value, kept[key]) for key, value in own.items())
    assert not torch.equal(own["first.1.running_mean"], original["first.1.running_mean"])
