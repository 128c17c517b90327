from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import moeseg.study
from moeseg.config import AdversarialConfig, GateConfig, TrainingConfig, load_study, parse_study
from moeseg.data import SegmentationDataset
from moeseg.errors import UsageError
from moeseg.evaluation.stages import model_bases
from moeseg.models import Expert, Mixture, read_info
from moeseg.run import Run
from moeseg.study import ledger, plan, run_study
from moeseg.training.adversarial import Adversary, adversary
from moeseg.training.cache import CachedOutputs, LiveOutputs, build_cache
from moeseg.training.cost import attack_factor, forward_flops
from moeseg.training.expert import ExpertTraining, train_expert
from moeseg.training.gate import train_gates
from moeseg.training.network_stages import model_info
from moeseg.types import IGNORE, Prediction
from pgd import pgd
from tiny import SIZE, study_settings, tiny_expert, write_data, write_study
from training.test_gate import mixtures_over, parameters
from training.test_train_expert import frames, settings, weights

EPSILON = 24 / 255
STRONG = {"epsilon": "24/255", "steps": 3}


class Noting:
    """Changes nothing, or adds a shift; notes what it was called with."""

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift
        self.models: list[object] = []
        self.modes: list[bool] = []
        self.images: list[Tensor] = []
        self.draws: list[float] = []

    def __call__(
        self,
        model: Callable[[Tensor], Prediction],
        images: Tensor,
        label: Tensor,
        generators: Sequence[torch.Generator],
        *,
        epsilon: float,
        steps: int,
    ) -> Tensor:
        assert isinstance(model, nn.Module)
        assert len(images) == len(label) == len(generators)
        self.models.append(model)
        self.modes += [part.training for part in model.modules()]
        self.images += list(images)
        self.draws += [torch.rand((), generator=one).item() for one in generators]
        with torch.no_grad():
            model(images)
        return images + self.shift


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, list[str]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, *SIZE, generator=generator)
    label = torch.randint(0, 3, (4, *SIZE), generator=generator, dtype=torch.uint8)
    label[:, :3] = IGNORE
    return images, label, ["a/0", "a/1", "b/0", "b/1"]


def accuracy(expert: Expert, shown: SegmentationDataset, *, attacked: bool) -> float:
    right = torch.tensor(0.0)
    for place in range(len(shown)):
        image, label = (one[None] for one in shown[place][:2])
        if attacked:
            stream = [torch.Generator().manual_seed(place)]
            image = pgd(expert, image, label, stream, epsilon=EPSILON, steps=20)
        with torch.no_grad():
            right += (expert(image).logits.argmax(1) == label).float().mean()
    return right.item() / len(shown)


def test_adversarial_training_makes_an_expert_robust(data: Path, tmp_path: Path) -> None:
    train, test = frames(data, "train"), frames(data, "test")
    robust: dict[str, Expert] = {}
    for name, against in (("clean", None), ("adversarial", STRONG)):
        config = settings(epochs=40, batch_size=2, choose="last", adversarial=against)
        robust[name] = train_expert(
            tiny_expert(0), train, None, config, tmp_path / name, perturb=pgd
        )
    assert accuracy(robust["clean"], test, attacked=False) > 0.93
    assert accuracy(robust["adversarial"], test, attacked=False) > 0.88
    under = {name: accuracy(one, test, attacked=True) for name, one in robust.items()}
    assert under["adversarial"] > under["clean"] + 0.08


@pytest.mark.parametrize("killed_after", [1, 2])
def test_resumed_adversarial_training_equals_an_unbroken_one(
    data: Path, tmp_path: Path, killed_after: int
) -> None:
    train = frames(data, "train", augmented=True)
    config = settings(choose="last", adversarial=STRONG | {"share": 0.5})

    class Killed(Exception):  # noqa: N818 - stands for a signal
        pass

    calls = 0

    def dying(*args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        nonlocal calls
        calls += 1
        if calls > killed_after * 2 + 1:  # in the second batch of the next epoch
            raise Killed
        return pgd(*args, **kwargs)

    def trained(out: str, perturb: Any = pgd) -> Expert:  # noqa: ANN401
        return train_expert(
            tiny_expert(0), train, None, config, tmp_path / out, seed=5, perturb=perturb
        )

    unbroken = trained("whole")
    with pytest.raises(Killed):
        trained("broken", dying)
    resumed = trained("broken")
    for key, value in weights(unbroken).items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_other_seeds_and_clean_frames_end_at_other_weights(data: Path, tmp_path: Path) -> None:
    train, ends = frames(data, "train"), []
    for number, against in enumerate((None, STRONG, STRONG | {"steps": 1})):
        config = settings(epochs=1, choose="last", adversarial=against)
        out = tmp_path / str(number)
        ends.append(weights(train_expert(tiny_expert(0), train, None, config, out, perturb=pgd)))
    for one, other in ((0, 1), (1, 2)):
        assert any(not torch.equal(ends[one][key], ends[other][key]) for key in ends[0])


def test_a_step_is_taken_in_training_mode_on_images_made_in_eval_mode(
    batch: tuple[Tensor, Tensor, list[str]],
) -> None:
    images, label, keys = batch
    against = Adversary(pgd, EPSILON, 3, 1.0, seed=4)
    expert = tiny_expert(0)
    module = _module(expert, against)
    module.train()
    torch.manual_seed(1)  # of dropout
    _descend(module.training_step((images, label, keys), 0))
    by_hand = tiny_expert(0)  # in eval mode
    changed = against.change(by_hand, images, label, keys, 0)
    assert 0 < (changed - images).abs().max() <= EPSILON + 1e-6
    torch.manual_seed(1)
    logits = by_hand.train()(changed).logits
    valid = label != IGNORE
    chosen = logits.log_softmax(1).permute(0, 2, 3, 1)[valid]
    (-chosen[torch.arange(len(chosen)), label[valid].long()].mean()).backward()
    for (name, one), other in zip(expert.named_parameters(), by_hand.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)
    for key, value in expert.state_dict().items():  # statistics of one batch, not of the attack's
        torch.testing.assert_close(value, by_hand.state_dict()[key])


def test_the_attack_sees_eval_mode_and_leaves_every_mode_and_gradient(
    batch: tuple[Tensor, Tensor, list[str]],
) -> None:
    images, label, keys = batch
    expert, noting = tiny_expert(0).train(), Noting()
    held = next(part for part in expert.modules() if isinstance(part, nn.BatchNorm2d)).eval()
    before, modes = copy.deepcopy(expert.state_dict()), [p.training for p in expert.modules()]
    Adversary(noting, EPSILON, 3, 1.0, seed=4).change(expert, images, label, keys, 0)
    changed = Adversary(pgd, EPSILON, 3, 1.0, seed=4).change(expert, images, label, keys, 0)
    assert not any(noting.modes)
    assert [part.training for part in expert.modules()] == modes
    assert expert.training
    assert not held.training
    assert not changed.requires_grad
    assert all(p.grad is None and p.requires_grad for p in expert.parameters())
    assert all(torch.equal(value, before[key]) for key, value in expert.state_dict().items())

    def failing(*args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Adversary(failing, EPSILON, 3, 1.0, seed=4).change(expert, images, label, keys, 0)
    assert [part.training for part in expert.modules()] == modes


@pytest.mark.parametrize(("share", "changed"), [(1.0, 4), (0.75, 3), (0.5, 2), (0.3, 1), (0.01, 1)])
def test_a_share_of_each_batch_is_changed_and_the_rest_left_as_it_is(
    batch: tuple[Tensor, Tensor, list[str]], share: float, changed: int
) -> None:
    images, label, keys = batch
    seen: set[int] = set()
    for epoch in range(12):
        noting = Noting(shift=1.0)
        result = Adversary(noting, EPSILON, 3, share, seed=4).change(
            tiny_expert(0), images, label, keys, epoch
        )
        moved = [n for n in range(4) if not torch.equal(result[n], images[n])]
        assert len(moved) == changed
        assert all(torch.equal(result[n], images[n] + 1) for n in moved)
        assert all(torch.equal(a, images[n]) for a, n in zip(noting.images, moved, strict=True))
        seen |= set(moved)
    assert seen == {0, 1, 2, 3}  # it is not always the same frames


def test_draws_hang_on_seed_epoch_and_frame_alone(
    batch: tuple[Tensor, Tensor, list[str]],
) -> None:
    images, label, keys = batch

    def draws(order: Sequence[int], epoch: int = 0, seed: int = 4, share: float = 1.0) -> list[Any]:
        noting, chosen = Noting(), list(order)
        Adversary(noting, EPSILON, 3, share, seed).change(
            tiny_expert(0), images[chosen], label[chosen], [keys[n] for n in chosen], epoch
        )
        return noting.draws

    first = draws([0, 1, 2, 3])
    assert len(set(first)) == 4
    assert draws([3, 0]) == [first[3], first[0]]  # another batch, another process
    assert set(draws([0, 1, 2, 3], share=0.5)) < set(first)
    assert not set(draws([0, 1, 2, 3], epoch=1)) & set(first)
    assert not set(draws([0, 1, 2, 3], seed=5)) & set(first)


def test_the_global_generator_is_left_alone(batch: tuple[Tensor, Tensor, list[str]]) -> None:
    expert, state = tiny_expert(0), torch.get_rng_state()
    Adversary(pgd, EPSILON, 3, 0.5, seed=4).change(expert, *batch, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_mixed_precision_trains_and_a_pass_without_gradients_costs_none(
    data: Path, tmp_path: Path, batch: tuple[Tensor, Tensor, list[str]]
) -> None:
    """`Noting` runs the network without gradients, as an attack does to compare losses."""
    kinds = []

    def watching(*args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        kinds.append(args[0](args[1]).logits.dtype)
        return pgd(*args, **kwargs)

    config = settings(epochs=1, choose="last", precision="bf16-mixed", adversarial=STRONG)
    out, start = tmp_path / "log", weights(tiny_expert(0))
    train = frames(data, "train")
    end = weights(train_expert(tiny_expert(0), train, None, config, out, perturb=watching))
    assert set(kinds) == {torch.bfloat16}
    assert any(not torch.equal(start[key], end[key]) for key in start)
    module = _module(tiny_expert(0), Adversary(Noting(), EPSILON, 3, 1.0, seed=4))
    module.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = module.training_step(batch, 0)
    _descend(loss)
    assert all(p.grad is not None and p.grad.any() for p in module.expert.parameters())


@pytest.mark.slow
def test_two_processes_train_one_network_with_streams_of_their_own(
    data: Path, tmp_path: Path
) -> None:
    script = tmp_path / "two.py"
    script.write_text(
        f"""
import sys
from pathlib import Path
sys.path[:0] = {sys.path!r}
import torch
from pgd import noting_pgd
from training.test_train_expert import frames, settings
from moeseg.training.expert import train_expert
from tiny import tiny_expert

if __name__ == "__main__":
    data, out = Path({str(data)!r}), Path({str(tmp_path)!r})
    config = settings(epochs=2, devices=2, choose="best", adversarial={STRONG!r})
    train, val = frames(data, "train"), frames(data, "val")
    expert = train_expert(tiny_expert(0), train, val, config, out / "log", perturb=noting_pgd)
    torch.save(expert.state_dict(), out / "weights.pt")
"""
    )
    notes = tmp_path / "notes"
    notes.mkdir()
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"NOTES": str(notes)},
    )
    assert done.returncode == 0, done.stderr
    drawn = [path.read_text().split() for path in notes.iterdir()]
    assert [len(one) for one in drawn] == [8, 8]  # 4 frames of each of 2 epochs
    assert len({*drawn[0], *drawn[1]}) == 16
    found, start = torch.load(tmp_path / "weights.pt", weights_only=True), weights(tiny_expert(0))
    assert any(not torch.equal(start[key], found[key]) for key in start)


def test_settings_without_an_attack_are_refused(data: Path, tmp_path: Path) -> None:
    config = settings(choose="last", adversarial=STRONG)
    with pytest.raises(UsageError, match=r"training\.adversarial: expected an attack .* got none"):
        train_expert(tiny_expert(0), frames(data, "train"), None, config, tmp_path / "log")
    assert not (tmp_path / "log").exists()
    assert adversary(None, pgd, "x") is None
    assert adversary(None, None, "x") is None


@pytest.mark.parametrize("steps", [1, 3])
def test_expected_cost_of_an_attack_is_what_it_computes(
    steps: int, batch: tuple[Tensor, Tensor, list[str]]
) -> None:
    images, label, keys = batch
    expert = tiny_expert(0)

    def counted_pgd(model: Callable[[Tensor], Prediction], *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        return pgd(lambda shown: model(shown.clone()), *args, **kwargs)  # the counter needs no leaf

    against = Adversary(counted_pgd, EPSILON, steps, 0.5, seed=0)
    with FlopCounterMode(display=False) as counter:
        against.change(expert, images, label, keys, 0)
    config = AdversarialConfig(epsilon=EPSILON, steps=steps, share=0.5)
    counted = counter.get_total_flops() / (4 * forward_flops(expert, SIZE))
    assert counted == pytest.approx(attack_factor(config))
    assert attack_factor(config) == steps  # two passes a step on half of the frames
    assert attack_factor(None) == 0


@pytest.fixture
def experts() -> list[Expert]:
    return [tiny_expert(1), tiny_expert(2)]


def joined(data: Path) -> SegmentationDataset:
    first = frames(data, "train")
    others = frames(data, "val")
    first.frames = (*first.frames[:6], *others.frames[:2])
    return first


def attacked(mixture: Mixture, shown: SegmentationDataset, perturb: Any = pgd) -> LiveOutputs:  # noqa: ANN401
    against = Adversary(perturb, EPSILON, 3, 1.0, seed=4)
    change = functools.partial(against.change, mixture)
    return LiveOutputs(mixture.experts, shown, batch_size=4, seed=7, change=change)


@pytest.mark.parametrize("name", ["moe-simple", "moe-classwise-conv"])
def test_only_gate_and_head_move(
    data: Path, tmp_path: Path, experts: list[Expert], name: str
) -> None:
    mixture = mixtures_over(experts)[name].train()
    for expert in experts:
        expert.train()
    before = copy.deepcopy(mixture.state_dict())
    noting = Noting(shift=0.05)
    config = GateConfig(epochs=1, pixels=64, choose="last", adversarial=_strong())
    source = attacked(mixture, joined(data), noting)
    train_gates({name: mixture}, source, None, config, tmp_path)
    assert noting.models == [mixture] * 2  # the attack goes through the whole mixture
    assert not any(noting.modes)
    assert mixture.training
    for key, value in mixture.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith("members."), key
    assert all(p.grad is None for expert in experts for p in expert.parameters())


def test_gates_learn_from_the_changed_frames(
    data: Path, tmp_path: Path, experts: list[Expert]
) -> None:
    """What the gate is shown are the experts' outputs for the images that the attack made."""
    mixture, shown = mixtures_over(experts)["moe-simple"], joined(data)
    (first, *_) = attacked(mixture, shown).epoch(0)
    order = LiveOutputs(experts, shown, batch_size=4, seed=7).batches(0)[0]
    items = [shown[place] for place in order]
    images, label = (torch.stack([item[k] for item in items]) for k in (0, 1))  # type: ignore[misc]
    keys = [item[2] for item in items]
    changed = Adversary(pgd, EPSILON, 3, 1.0, seed=4).change(mixture, images, label, keys, 0)
    assert first.outputs is not None
    for expert, output in zip(experts, first.outputs, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(output.logits, expert.output(changed).logits)

    def loss(of: Tensor) -> float:
        return F.cross_entropy(mixture(of).logits, label.long(), ignore_index=IGNORE).item()

    assert loss(changed) > loss(images)


def test_resumed_gate_equals_an_unbroken_one(
    data: Path, tmp_path: Path, experts: list[Expert]
) -> None:
    config = GateConfig(epochs=3, pixels=30, choose="last", adversarial=_strong())
    shown = joined(data)

    class Killed(Exception):  # noqa: N818 - stands for a signal
        pass

    class Stopping(LiveOutputs):
        def epoch(self, epoch: int) -> Iterator[Any]:
            if epoch == 2:
                raise Killed
            return super().epoch(epoch)

    def fitted(out: str, *, stopping: bool = False) -> dict[str, Tensor]:
        mixture = mixtures_over(experts)["moe-classwise-conv"]
        source = attacked(mixture, shown)
        if stopping:
            source.__class__ = Stopping
        train_gates({"moe": mixture}, source, None, config, tmp_path / out)
        return parameters({"moe": mixture})

    unbroken = fitted("whole")
    with pytest.raises(Killed):
        fitted("broken", stopping=True)
    resumed = fitted("broken")
    assert all(torch.equal(value, resumed[key]) for key, value in unbroken.items())


def test_gates_on_frames_that_nobody_changed_are_refused(
    data: Path, tmp_path: Path, experts: list[Expert]
) -> None:
    config = GateConfig(epochs=1, choose="last", adversarial=_strong())
    mixtures, shown = mixtures_over(experts), joined(data)
    cache = GateConfig().cache
    build_cache(experts, shown, tmp_path / "c", cache, mirrored=False, pixels=8, neighbours=True)
    one = {"moe-simple": mixtures["moe-simple"]}
    for source in (LiveOutputs(experts, shown, 4), CachedOutputs(tmp_path / "c", 4)):
        with pytest.raises(UsageError, match=r"gate\.adversarial: .* got 1 and frames as they are"):
            train_gates(one, source, None, config, tmp_path / "fit")
    changed = attacked(mixtures["moe-simple"], shown)
    with pytest.raises(UsageError, match=r"gate\.adversarial: .* got 4 and frames changed"):
        train_gates(mixtures, changed, None, config, tmp_path / "fit")


def study_run(folder: Path, out: str, **changes: object) -> Run:
    return Run(parse_study(study_settings(folder, folder / out) | changes, "test"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A study on clean frames up to its gates."""
    folder = tmp_path_factory.mktemp("study")
    run = Run(load_study(write_study(folder, folder / "clean")))
    run_study(run, ["moe-simple", "moe-classwise-conv"])
    return run


def test_a_study_without_an_attack_is_refused_before_any_work(
    clean: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moeseg.study, "PERTURB", None)
    folder = clean.folder.parent
    training = study_settings(folder, folder)["training"] | {"adversarial": STRONG}
    run = study_run(folder, "none", training=training)
    with pytest.raises(UsageError, match=r"training\.adversarial of baseline: expected an attack"):
        run_study(run)
    gate = {"epochs": 1, "batch_size": 4, "adversarial": STRONG}
    run = study_run(folder, "none", gate=gate)
    with pytest.raises(UsageError, match=r"gate\.adversarial: expected an attack"):
        run_study(run)
    assert not run.folder.exists()


def test_a_study_fits_gates_alone_against_the_attack(
    clean: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moeseg.study, "PERTURB", pgd)
    gate = {"epochs": 2, "batch_size": 4, "pixels": 64, "adversarial": STRONG}
    run = study_run(clean.folder.parent, "gates", gate=gate)
    assert "cache" not in ledger(run).stages
    for stage, other in ((ledger(run).stages[n], ledger(clean)) for n in ("train-expert-day",)):
        assert ledger(run).fingerprint(stage) == other.fingerprint(other.stages[stage.name])
    for name in ("train-expert-day", "train-expert-dusk"):
        assert ledger(run).adopt(ledger(run).stages[name], clean)
    prints = [ledger(one).fingerprint(ledger(one).stages["gates"]) for one in (run, clean)]
    assert prints[0] != prints[1]
    run_study(run, ["moe-simple", "moe-classwise-conv"])
    for name in ("moe-simple", "moe-classwise-conv"):
        one, two = (moeseg.load(each.model(name)) for each in (run, clean))  # type: ignore[operator]
        assert isinstance(one, Mixture)
        theirs = two.state_dict()
        for key, value in one.state_dict().items():
            assert torch.equal(value, theirs[key]) == key.startswith("members."), key
        info = read_info(run.model(name))
        assert info["adversarial"] == {"epsilon": EPSILON, "steps": 3, "share": 1.0}
        row = model_bases({name: one}, {"settings": {}}, {name: info})[name]
        assert row["settings"] == {"adversarial": info["adversarial"]}
        # the experts are referred to, not held a second time
        assert not any("members" in key for key in _stored(run.model(name)))
    assert "adversarial" not in read_info(run.model("expert-day"))


def test_a_study_trains_the_networks_that_ask_for_it(
    clean: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moeseg.study, "PERTURB", pgd)
    experts: dict[str, object] = {"day": {"training": {"adversarial": STRONG}}, "dusk": {}}
    run = study_run(clean.folder.parent, "networks", experts=experts)
    books = [ledger(one) for one in (run, clean)]
    same = {
        name: len({book.fingerprint(book.stages[name]) for book in books}) == 1
        for name in ("train-expert-day", "train-expert-dusk", "train-baseline")
    }
    assert same == {
        "train-expert-day": False,
        "train-expert-dusk": True,
        "train-baseline": True,
    }
    run_study(run, ["expert-day"])
    one, two = (moeseg.load(each.model("expert-day")).state_dict() for each in (run, clean))  # type: ignore[operator]
    assert any(not torch.equal(one[key], two[key]) for key in one)
    assert read_info(run.model("expert-day"))["adversarial"]["steps"] == 3
    # a model built on it says so
    for name in ("ensemble-mean", "moe-simple"):
        info = model_info(run, name)
        assert set(info["adversarial_networks"]) == {"expert-day"}
        assert "adversarial" not in info
        row = model_bases({name: tiny_expert()}, {"settings": {}}, {name: info})[name]
        assert set(row["settings"]) == {"adversarial_networks"}
    assert "adversarial_networks" not in model_info(run, "expert-day")
    assert "adversarial_networks" not in model_info(run, "baseline")


def test_a_killed_study_goes_on_with_the_next_mixture(
    clean: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = {"epochs": 2, "batch_size": 4, "pixels": 64, "adversarial": STRONG}
    calls = 0

    class Killed(Exception):  # noqa: N818 - stands for a signal
        pass

    def dying(*args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        nonlocal calls
        calls += 1
        if calls == 4 * 2 + 6:  # after the first mixture's two epochs of four batches, and five
            raise Killed
        return pgd(*args, **kwargs)

    def run_with(out: str, perturb: Any) -> Run:  # noqa: ANN401
        monkeypatch.setattr(moeseg.study, "PERTURB", perturb)
        run = study_run(clean.folder.parent, out, gate=gate)
        for name in ("train-expert-day", "train-expert-dusk"):
            ledger(run).adopt(ledger(run).stages[name], clean)
        run_study(run, ["moe-simple"])
        return run

    whole = run_with("whole", pgd)
    with pytest.raises(Killed):
        run_with("killed", dying)
    calls = 100
    killed = run_with("killed", dying)
    assert calls == 104  # the second epoch of the second mixture, and nothing else
    for name in ("moe-simple", "moe-classwise-conv"):
        one, two = (moeseg.load(each.model(name)).state_dict() for each in (whole, killed))  # type: ignore[operator]
        assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_the_plan_tells_what_the_attack_costs(clean: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moeseg.study, "PERTURB", pgd)
    folder = clean.folder.parent
    seconds: dict[str, dict[str, float]] = {}
    for kind, against in (("clean", None), ("robust", STRONG | {"steps": 6})):
        settings_ = study_settings(folder, folder)
        settings_["training"] |= {"adversarial": against, "val_every": 3}  # of two epochs: never
        settings_["gate"] |= {"adversarial": against, "end_to_end": True}
        settings_["gate"]["epochs"] = 1000  # a thousand, or rounding hides the experts' passes
        run = Run(parse_study(settings_ | {"out": str(folder / f"plan-{kind}")}, "test"))
        seconds[kind] = {name: cost.seconds for name, _, cost in plan(run)}
    trained = [seconds[kind]["train-expert-day"] for kind in ("robust", "clean")]
    assert trained[0] == pytest.approx((3 + 2 * 6) / 3 * trained[1])
    samples = 2e-3 * 2 * 16 * 1000  # of two gates on 16 frames
    passes = [seconds[kind]["gates"] - samples for kind in ("robust", "clean")]
    assert passes[0] == pytest.approx(2 * (1 + 2 * 6) * passes[1], rel=1e-3)


def _module(expert: Expert, against: Adversary) -> ExpertTraining:
    module = ExpertTraining(expert, TrainingConfig(), steps=1, seed=0, adversary=against)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign] # no trainer
    return module


def _descend(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def _strong() -> AdversarialConfig:
    return AdversarialConfig(epsilon=EPSILON, steps=3)


def _stored(folder: Path) -> list[str]:
    from safetensors import safe_open

    found: list[str] = []
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found += file.keys()
    return found
