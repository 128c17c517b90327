from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from moeseg.config import CacheConfig, GateConfig, OptimizerConfig
from moeseg.data import SegmentationDataset, Taxonomy, read_manifest
from moeseg.errors import MoesegError
from moeseg.models import Expert, Mixture, build_expert, build_mixture
from moeseg.training.cache import CachedOutputs, GateSource, LiveOutputs, build_cache, plan_cache
from moeseg.training.gate import _Fit, batch_losses, train_gates
from tiny import SIZE, tiny_expert, write_data

EXACT = CacheConfig(dtype="float32")
ADAM = OptimizerConfig(name="adam", lr=0.01, weight_decay=0.0)


@pytest.fixture
def frames(tmp_path: Path) -> SegmentationDataset:
    csv = write_data(tmp_path / "data", frames=3)
    catalogue = read_manifest(csv, Taxonomy.load(csv.parent / "taxonomy.yaml"))
    return SegmentationDataset(catalogue.select("day+dusk", "train"), catalogue.read_label, SIZE)


@pytest.fixture
def experts() -> list[Expert]:
    return [tiny_expert(1), tiny_expert(2)]


def mixtures_over(experts: list[Expert]) -> dict[str, Mixture]:
    return {
        f"moe-{kind}{'-conv' if conv else ''}": build_mixture(
            experts, kind, conv, size=SIZE, generator=torch.Generator().manual_seed(5)
        )
        for kind in ("simple", "classwise")
        for conv in (False, True)
    }


def cached(
    experts: list[Expert],
    frames: SegmentationDataset,
    folder: Path,
    config: CacheConfig = EXACT,
    *,
    mirrored: bool = False,
    pixels: int | None = 64,
) -> CachedOutputs:
    build_cache(experts, frames, folder, config, mirrored=mirrored, pixels=pixels, neighbours=True)
    return CachedOutputs(folder, batch_size=4, seed=7)


def parameters(mixtures: dict[str, Mixture]) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, mixture in mixtures.items()
        for key, value in mixture.state_dict().items()
        if not key.startswith("members.")
    }


@pytest.mark.parametrize("pixels", ["all", 50])
def test_cached_training_equals_end_to_end_training(
    pixels: str | int, frames: SegmentationDataset, experts: list[Expert], tmp_path: Path
) -> None:
    config = GateConfig.model_validate(
        {"epochs": 2, "pixels": pixels, "choose": "last", "optimizer": ADAM.model_dump()}
    )
    sources: dict[str, GateSource] = {
        "live": LiveOutputs(experts, frames, batch_size=4, seed=7),
        "cache": cached(experts, frames, tmp_path / "cache"),
    }
    results = {}
    for name, source in sources.items():
        mixtures = mixtures_over(experts)
        before = parameters(mixtures)
        train_gates(mixtures, source, None, config, tmp_path / name)
        results[name] = parameters(mixtures)
        assert any(not torch.equal(before[key], results[name][key]) for key in before)
    for key, value in results["live"].items():
        assert torch.allclose(value, results["cache"][key], atol=1e-5), key


def test_each_mixture_trains_as_if_it_were_alone(
    frames: SegmentationDataset, experts: list[Expert], tmp_path: Path
) -> None:
    config = GateConfig(epochs=1, pixels="all", choose="last", optimizer=ADAM)
    source = cached(experts, frames, tmp_path / "cache")
    together, alone = mixtures_over(experts), mixtures_over(experts)
    train_gates(together, source, None, config, tmp_path / "together")
    for name, mixture in alone.items():
        train_gates({name: mixture}, source, None, config, tmp_path / name)
    for key, value in parameters(together).items():
        assert torch.allclose(value, parameters(alone)[key], atol=1e-6), key


def test_resumed_gates_equal_unbroken_ones(
    frames: SegmentationDataset, experts: list[Expert], tmp_path: Path
) -> None:
    source = cached(experts, frames, tmp_path / "cache", mirrored=True)
    config = GateConfig(epochs=4, pixels=30, optimizer=ADAM)
    unbroken = mixtures_over(experts)
    train_gates(unbroken, source, source, config, tmp_path / "unbroken")

    class Killed(Exception):  # noqa: N818 - stands for a signal
        pass

    class Stopping(CachedOutputs):
        def epoch(self, epoch: int):  # type: ignore[no-untyped-def]  # noqa: ANN202
            if epoch == 2:
                raise Killed
            return super().epoch(epoch)

    stopping = Stopping(tmp_path / "cache", batch_size=4, seed=7)
    with pytest.raises(Killed):
        train_gates(mixtures_over(experts), stopping, source, config, tmp_path / "broken")
    resumed = mixtures_over(experts)
    train_gates(resumed, source, source, config, tmp_path / "broken")
    for key, value in parameters(unbroken).items():
        assert torch.equal(value, parameters(resumed)[key]), key


def test_experts_do_not_move(
    frames: SegmentationDataset, experts: list[Expert], tmp_path: Path
) -> None:
    before = [copy.deepcopy(expert.state_dict()) for expert in experts]
    live = LiveOutputs(experts, frames, batch_size=4)
    mixtures = mixtures_over(experts)
    for mixture in mixtures.values():
        mixture.train()
    train_gates(mixtures, live, None, GateConfig(epochs=1, choose="last"), tmp_path)
    for expert, state in zip(experts, before, strict=True):
        for key, value in expert.state_dict().items():
            assert torch.equal(value, state[key]), key


def test_mirrored_records_are_the_outputs_of_mirrored_photos(
    frames: SegmentationDataset, experts: list[Expert], tmp_path: Path
) -> None:
    source = cached(experts, frames, tmp_path / "cache", mirrored=True)
    source.training = False
    image, label, _ = frames[1]
    mirrored = source._batch([len(frames) + 1])
    expected = experts[0].output(image[None].flip(-1))
    assert mirrored.outputs is not None
    assert mirrored.label is not None
    assert torch.allclose(mirrored.outputs[0].logits, expected.logits, atol=1e-6)
    assert torch.equal(mirrored.label[0], label.flip(-1))


def test_an_epoch_shows_each_frame_once_mirrored_by_chance(
    frames: SegmentationDataset, experts: list[Expert], tmp_path: Path
) -> None:
    source = cached(experts, frames, tmp_path / "cache", mirrored=True)
    plain = [source._batch([i]).features[0][0] for i in range(len(frames))]
    turned = [source._batch([len(frames) + i]).features[0][0] for i in range(len(frames))]
    seen = [f for batch in source.epoch(0) for f in batch.features[0]]
    assert len(seen) == len(frames)
    as_plain = sum(any(torch.equal(one, other) for other in plain) for one in seen)
    as_turned = sum(any(torch.equal(one, other) for other in turned) for one in seen)
    assert as_plain + as_turned == len(frames)
    assert 0 < as_turned < len(frames)
    again = [f for batch in source.epoch(0) for f in batch.features[0]]
    assert all(torch.equal(a, b) for a, b in zip(seen, again, strict=True))


def test_above_the_limit_only_points_are_kept(
    frames: SegmentationDataset, experts: list[Expert], tmp_path: Path
) -> None:
    whole = cached(experts, frames, tmp_path / "whole")
    small = CacheConfig(dtype="float32", limit_gb=1e-6)
    source = cached(experts, frames, tmp_path / "points", small, pixels=4000)
    mixtures = mixtures_over(experts)
    generator = torch.Generator().manual_seed(0)
    few = [0, 1, 2, 3]
    exact = batch_losses(mixtures, whole._batch(few), "all", generator)
    points = source._batch(few)
    assert points.outputs is None
    estimate = batch_losses(mixtures, points, 4000, generator)
    for name, loss in exact.items():
        assert estimate[name].item() == pytest.approx(loss.item(), rel=0.03)
        assert estimate[name].item() != loss.item()


def test_above_the_limit_all_pixels_are_refused(
    frames: SegmentationDataset, experts: list[Expert], tmp_path: Path
) -> None:
    with pytest.raises(MoesegError, match=r"gate\.cache\.limit_gb.*gate\.pixels"):
        cached(experts, frames, tmp_path, CacheConfig(limit_gb=1e-6), pixels=None)


def test_a_killed_cache_goes_on_and_ends_at_the_same_bytes(
    frames: SegmentationDataset,
    experts: list[Expert],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("moeseg.training.cache._SHARD_BYTES", 20_000)
    cached(experts, frames, tmp_path / "whole", mirrored=True)
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len(names) > 5
    cached(experts, frames, tmp_path / "killed", mirrored=True)
    for name in ("layout.json", "values-0001.npy"):
        (tmp_path / "killed" / name).unlink()
    cached(experts, frames, tmp_path / "killed", mirrored=True)
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


@pytest.mark.parametrize("limit_gb", [50.0, 1e-9])
def test_planned_bytes_are_what_the_cache_takes(
    frames: SegmentationDataset, experts: list[Expert], tmp_path: Path, limit_gb: float
) -> None:
    config = CacheConfig(limit_gb=limit_gb)
    cached(experts, frames, tmp_path / "cache", config, mirrored=True)
    with torch.device("meta"):
        shapes = [build_expert({"name": "tiny:TinyExpert"}).eval() for _ in experts]
    planned = plan_cache(
        shapes, SIZE, len(frames), config, mirrored=True, pixels=64, neighbours=True
    )
    assert (planned.points > 0) == (limit_gb < 1)
    held = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.npy"))
    headers = 128 * len(list((tmp_path / "cache").glob("*.npy")))
    assert held - headers == planned.bytes


def test_half_precision_cache_is_close(
    frames: SegmentationDataset, experts: list[Expert], tmp_path: Path
) -> None:
    exact = cached(experts, frames, tmp_path / "32")._batch([0, 1])
    half = cached(experts, frames, tmp_path / "16", CacheConfig())._batch([0, 1])
    mixtures = mixtures_over(experts)
    generator = torch.Generator()
    for pixels in ("all", 100):
        a = batch_losses(mixtures, exact, pixels, generator.manual_seed(0))
        b = batch_losses(mixtures, half, pixels, generator.manual_seed(0))
        for name in mixtures:
            assert a[name].item() == pytest.approx(b[name].item(), rel=2e-3)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
def test_sgd_moves_a_constant_gate_as_it_moves_plain_logits(
    experts: list[Expert], momentum: float, decay: float
) -> None:
    """Against logits that SGD moves themselves; a step 900 times as long would end at 1 and 0."""
    mixture = build_mixture(experts, "constant", True)
    config = OptimizerConfig(
        name="sgd", lr=0.05, momentum=momentum, weight_decay=decay, schedule="constant"
    )
    fit = _Fit(mixture, GateConfig(optimizer=config))
    plain = torch.zeros(2, requires_grad=True)
    head = torch.nn.Parameter(torch.eye(3))
    steps = torch.optim.SGD([plain, head], 0.05, momentum=momentum, weight_decay=decay)
    wanted, features = torch.tensor([0.85, 0.15]), [torch.zeros(1, 6, 3, 4)] * 2
    assert mixture.head is not None
    for step in range(400):
        factor = 1 - step / 400
        given = mixture.gate(features)[0, :, 0]
        kernel = mixture.head.weight[:, :, 1, 1]
        fit.step(-(wanted * given.log()).sum() + kernel.square().sum(), 0.05 * factor)
        steps.param_groups[0]["lr"] = 0.05 * factor
        steps.zero_grad()
        loss = -(wanted * plain.log_softmax(0)).sum() + head.square().sum()
        torch.autograd.backward(loss)
        steps.step()
    assert torch.allclose(mixture.gate(features)[0, :, 0], plain.softmax(0), atol=1e-4)
    assert torch.allclose(mixture.head.weight[:, :, 1, 1], head, atol=1e-5)
    assert torch.allclose(plain.softmax(0), wanted, atol=0.06)


def test_resumed_constant_gates_keep_their_own_rate(experts: list[Expert]) -> None:
    config = GateConfig(optimizer=OptimizerConfig(name="sgd", weight_decay=0.0))
    mixtures = [build_mixture(experts, "constant") for _ in range(2)]
    first, second = (_Fit(mixture, config) for mixture in mixtures)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    for fit, mixture in zip((first, second), mixtures, strict=True):
        (logits,) = mixture.gate.parameters()
        before = logits.detach().clone()
        fit.step(logits[0].sum(), 0.9)
        moved = (before - logits.detach()).flatten()
        assert torch.allclose(moved, torch.tensor([0.001, 0.0]))  # 0.9 / 30 ** 2


def test_adam_moves_a_constant_gate_with_the_rate_of_the_study(experts: list[Expert]) -> None:
    fit = _Fit(build_mixture(experts, "constant", True), GateConfig(optimizer=ADAM))
    (group,) = fit.optimizer.param_groups
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (0.01, 0.0, 2)


@pytest.mark.parametrize("source", ["live", "cache"])
def test_unshuffled_gates_see_the_lists_in_order_in_every_epoch(
    frames: SegmentationDataset, experts: list[Expert], tmp_path: Path, source: str
) -> None:
    sources: dict[str, GateSource] = {}
    for shuffle in (False, True):
        if source == "live":
            made: GateSource = LiveOutputs(experts, frames, 4, 7, shuffle=shuffle)
        else:
            cached(experts, frames, tmp_path / "cache")
            made = CachedOutputs(tmp_path / "cache", 4, 7, shuffle=shuffle)
        sources[str(shuffle)] = made
    images = torch.stack([frames[place][0] for place in range(len(frames))])
    listed = experts[0].output(images).gate
    for epoch in (0, 1):
        seen = {
            name: torch.cat([batch.features[0] for batch in made.epoch(epoch)])
            for name, made in sources.items()
        }
        assert torch.allclose(seen["False"], listed, atol=1e-5)
        assert not torch.allclose(seen["True"], listed, atol=1e-5)


def test_nan_loss_names_the_mixture(
    frames: SegmentationDataset, experts: list[Expert], tmp_path: Path
) -> None:
    with torch.no_grad():
        next(iter(experts[0].parameters())).fill_(float("nan"))
    live = LiveOutputs(experts, frames, batch_size=4)
    with pytest.raises(MoesegError, match=r"moe-simple became nan.*gate\.optimizer\.lr"):
        train_gates(
            mixtures_over(experts), live, None, GateConfig(epochs=1, choose="last"), tmp_path
        )
