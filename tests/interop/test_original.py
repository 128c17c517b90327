"""Opening, refusing and writing checkpoints; no reference data is needed here."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moeseg.data import Taxonomy
from moeseg.errors import CheckpointError, MoesegError, UsageError
from moeseg.interop.original import export, import_files, load, summary, write
from moeseg.models import (
    Ensemble,
    Expert,
    Gate,
    GateKind,
    Mixture,
    Model,
    build_ensemble,
    build_expert,
    build_mixture,
)
from slow_original import draw_images, slow_logits
from tiny import tiny_expert

FRRN = {"name": "frrn-a-original", "normalisation": "none", "num_classes": 5}
DEEPLAB = {"name": "deeplabv3plus", "normalisation": "none", "num_classes": 5}
SIZE = (48, 80)  # 3x5 cells at stride 16

Shapes = dict[str, tuple[int, ...]]
Change = Callable[[dict[str, Tensor]], None]


@pytest.fixture(autouse=True)
def _no_initial_weights(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Weights that are overwritten, or never looked at, need not be drawn."""
    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", lambda tensor, **_: tensor)
    yield
    _two.cache_clear()


@cache
def _two() -> list[Expert]:
    return [build_expert(FRRN), build_expert(FRRN)]


def _mixture(kind: GateKind = "classwise") -> Mixture:
    return build_mixture(_two(), kind, True, size=SIZE)


@cache
def _frrn_shapes(kind: GateKind = "classwise") -> Shapes:
    return {key: tuple(value.shape) for key, value in export(_mixture(kind)).items()}


def _thin(shapes: Shapes) -> dict[str, Tensor]:
    """Tensors of these shapes that take no room in a file."""
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}


def _random(key: str, shape: tuple[int, ...]) -> Tensor:
    """Draw as `slow_original.draw` does, from a quicker generator."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if leaf == "running_var":
        return torch.rand(shape, generator=generator) + 0.5
    values = torch.randn(shape, generator=generator)
    if leaf in ("running_mean", "bias"):
        return 0.1 * values
    return values.abs() if len(shape) == 1 else values * math.sqrt(2 / math.prod(shape[1:]))


def _file(path: Path, state: Mapping[str, Tensor]) -> Path:
    torch.save({"state_dict": dict(state), "epoch": 0, "best_pred": 0.0}, path)
    return path


def _expert_shapes(shapes: Shapes) -> Shapes:
    return {
        key.removeprefix("expert1."): shape
        for key, shape in shapes.items()
        if key.startswith("expert1.")
    }


# -- what a file gives -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "kind", "conv", "num_classes", "size"),
    [
        ({"name": "frrn-a-original"}, "classwise", True, 38, (48, 80)),
        ({"name": "deeplabv3plus", "backbone": "resnet50"}, "classwise", True, 38, (81, 50)),
        (
            {"name": "deeplabv3plus", "backbone": "resnet50", "output_stride": 8},
            "classwise",
            False,
            19,
            (50, 81),
        ),
    ],
    ids=["frrn-38", "deeplab-38", "deeplab-stride-8"],
)
def test_mixtures_of_other_classes_and_sizes(
    architecture: dict[str, Any],
    kind: GateKind,
    conv: bool,
    num_classes: int,
    size: tuple[int, int],
    tmp_path: Path,
) -> None:
    """Against the original written a second time, from its keys, with experts that differ."""
    common = {"normalisation": "none", "num_classes": num_classes}
    experts = [build_expert({**architecture, **common}) for _ in range(2)]
    shapes = export(build_mixture(experts, kind, conv, size=size))
    state = {key: _random(key, tuple(value.shape)) for key, value in shapes.items()}
    stride = architecture.get("output_stride", 16)
    file = _file(tmp_path / "moe.pth", state)
    try:
        model = load(file, input_size=size, output_stride=stride)
    finally:
        file.unlink()
    images = draw_images((2, 3, *size))
    with torch.inference_mode():
        prediction = model(images, expert_logits=True)
    slow = slow_logits(state, images, dilate=stride == 8)
    assert prediction.logits.shape == slow.shape == (2, num_classes, *size)
    assert (prediction.logits - slow).abs().max() <= 1e-4 * slow.abs().max()
    first, second = prediction.expert_logits.unbind(1)
    assert (first - second).abs().max() > 0.1 * first.abs().max()  # the experts do differ


def test_several_files_make_an_ensemble(tmp_path: Path) -> None:
    shapes = _expert_shapes(_frrn_shapes())
    states = [
        {key: _random(prefix + key, shape) for key, shape in shapes.items()}
        for prefix in ("expert1.", "expert2.")
    ]
    files = [_file(tmp_path / f"{n}.pth", state) for n, state in enumerate(states)]
    images = draw_images((1, 3, 32, 48))
    both = {f"expert{n}.{k}": v for n, state in enumerate(states, 1) for k, v in state.items()}
    for rule in ("mean", "max"):
        model = load(*files, rule=rule)
        assert isinstance(model, Ensemble)
        with torch.inference_mode():
            logits = model(images).logits
        slow = slow_logits(both, images, rule)
        assert (logits - slow).abs().max() <= 1e-4 * slow.abs().max()
    again = load(_file(tmp_path / "both.pth", export(model)), rule="max")
    with torch.inference_mode():
        assert torch.equal(again(images).logits, logits)
    for file in tmp_path.iterdir():
        file.unlink()


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_depth_of_the_backbone_is_told_from_its_blocks(backbone: str, tmp_path: Path) -> None:
    expert = build_expert({**DEEPLAB, "backbone": backbone})
    shapes = {key: tuple(value.shape) for key, value in export(expert).items()}
    model = load(_file(tmp_path / "expert.pth", _thin(shapes)), output_stride=8)
    assert isinstance(model, Expert)
    assert model.description == {**expert.description, "output_stride": 8}
    assert model.description["normalisation"] == "none"


@pytest.mark.parametrize("kind", ["simple", "classwise"])
def test_gate_of_unknown_size_takes_every_map_of_its_cells(kind: GateKind, tmp_path: Path) -> None:
    file = _file(tmp_path / "moe.pth", _thin(_frrn_shapes(kind)))
    model = load(file)
    assert isinstance(model, Mixture)
    assert model.gate.grid == 15
    assert model.gate.columns == (1 if kind == "simple" else 5)
    assert not model.training
    sized = load(file, input_size=SIZE)
    assert isinstance(sized, Mixture)
    assert sized.gate.grid == (3, 5)
    assert f"{'simple' if kind == 'simple' else 'class-wise'} gate of 3x5 cells" in summary(sized)
    with torch.inference_mode():
        model(torch.rand(1, 3, 80, 48))
        with pytest.raises(UsageError, match="expected a feature map of 3x5, got 5x3"):
            sized(torch.rand(1, 3, 80, 48))


def test_loading_leaves_the_generator_alone(tmp_path: Path) -> None:
    file = _file(tmp_path / "expert.pth", _thin(_expert_shapes(_frrn_shapes())))
    before = torch.random.get_rng_state()
    load(file)
    assert torch.equal(torch.random.get_rng_state(), before)


# -- back ------------------------------------------------------------------------------------------


def _drawn_mixture() -> Mixture:
    torch.manual_seed(0)
    model = _mixture()
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.normal_()
        else:
            value.fill_(3)
    return model


def test_there_and_back_is_the_identity(tmp_path: Path) -> None:
    model, file = _drawn_mixture(), tmp_path / "moe.pth"
    write(model, file)
    content = torch.load(file, weights_only=True)
    again = load(file, input_size=SIZE)
    file.unlink()
    assert sorted(content) == ["best_pred", "epoch", "state_dict"]
    state = content["state_dict"]
    for one in (again.state_dict(), model.state_dict()):
        assert list(one) == list(model.state_dict())
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in one.items())
    back = export(again)
    assert list(back) == list(state)
    assert all(torch.equal(back[key], state[key]) for key in state)
    unused = {key: value for key, value in state.items() if key.startswith("expert.")}
    assert len(unused) == 323
    assert all(torch.equal(v, state[f"expert1.{k[7:]}"]) for k, v in unused.items())


def test_gate_keys_by_hand() -> None:
    model = _drawn_mixture()
    state = export(model)
    gate: Any = model.gate
    assert torch.equal(state["gating.gates.4.conv1.weight"], gate.conv1.weight[4:5])
    assert torch.equal(state["gating.gates.4.conv1.bias"], gate.conv1.bias[4:5])
    assert torch.equal(state["gating.gates.2.fc1.weight"], gate.fc1.weight[2])
    assert torch.equal(state["gating.gates.0.fc2.bias"], gate.fc2.bias[0])
    assert model.head is not None
    assert torch.equal(state["conv3x3.weight"], model.head.weight)
    assert state["gating.gates.2.fc1.weight"].shape == (128, 15)
    assert "gating.gates.5.fc1.bias" not in state


def _published() -> Model:
    return build_expert({**FRRN, "name": "frrn-a"})


def _many() -> Model:
    """Several reasons at once."""
    experts = [
        build_expert({"name": "frrn-b", "channels": 3, "num_classes": 5}),
        build_expert({**DEEPLAB, "backbone": "mobilenet_v2", "channels": 8}),
        tiny_expert(num_classes=5),
    ]
    return build_mixture(experts, "classwise", pool=(2, 2))


def _another_gate() -> Model:
    class Other(Gate):
        pass

    return Mixture(_two(), Other([384, 384], grid=15))


def _constant_gate() -> Model:
    return build_mixture(_two(), "constant-classwise")


def _shared_gate() -> Model:
    return build_mixture(_two(), "shared-trunk", size=SIZE)


def _wide_gate() -> Model:
    return Mixture(_two(), Gate([384, 384], grid=15, hidden=64))


def _wide_head() -> Model:
    return Mixture(_two(), Gate([384, 384], grid=15), torch.nn.Conv2d(5, 5, 5, padding=2))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (_published, ["architecture frrn-a (it has deeplabv3plus and frrn-a-original)"]),
        (lambda: build_expert({**FRRN, "normalisation": "imagenet"}), ["normalisation imagenet"]),
        (lambda: build_expert({**FRRN, "channels": 24}), ["channels 24 (it has 48)"]),
        (
            lambda: build_expert({**DEEPLAB, "channels": 8, "low_level_channels": 4}),
            ["channels 8 (it has 256)", "low_level_channels 4 (it has 48)"],
        ),
        (lambda: build_ensemble(_two() * 2, "mean"), ["4 experts"]),
        (
            lambda: build_ensemble(_two(), "mean-probability"),
            ["rule mean-probability (it has mean and max)"],
        ),
        (_another_gate, ["a gate of class Other"]),
        (_constant_gate, ["a gate of class ConstantGate"]),
        (_shared_gate, ["a gate with a shared trunk"]),
        (_wide_gate, ["a gate of 64 hidden units"]),
        (
            _wide_head,
            [
                "a head with kernel_size (5, 5) (it has (3, 3))",
                "a head with padding (2, 2) (it has (1, 1))",
                "a head with a bias (it has none)",
            ],
        ),
        (
            _many,
            [
                "expert 1: architecture frrn-b",
                "expert 1: normalisation imagenet",
                "expert 2: backbone mobilenet_v2",
                "expert 2: channels 8",
                "expert 3: architecture tiny:TinyExpert",
                "3 experts",
                "both): frrn-b, deeplabv3plus on mobilenet_v2, tiny:TinyExpert",
                "a gate pooled to 2x2",
            ],
        ),
    ],
)
def test_what_the_original_cannot_hold_is_refused_by_name(
    make: Callable[[], Model], named: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as got:
        write(make(), tmp_path / "out.pth")
    for reason in named:
        assert reason in str(got.value)
    assert str(got.value).count("; ") == len(named)  # one stands before the last sentence
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_former_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out.pth"
    file.write_text("former")

    def full(content: object, target: Any) -> None:  # noqa: ANN401
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(MoesegError, match=r"cannot write .*out\.pth: No space left"):
        write(build_expert(FRRN), file)
    assert [one.name for one in tmp_path.iterdir()] == ["out.pth"]
    assert file.read_text() == "former"


# -- what does not fit -----------------------------------------------------------------------------


def test_missing_unknown_and_misshapen_keys_are_named_at_once(tmp_path: Path) -> None:
    state = _thin(_frrn_shapes())
    absent = ["expert1.first.conv.bias", "gating.gates.3.fc2.bias", "conv3x3.weight"]
    for key in absent[:2]:
        del state[key]
    state["expert2.more.weight"] = state["conv3x3.bias"] = torch.zeros(2)
    del state["conv3x3.weight"]
    state["gating.gates.1.fc1.weight"] = torch.zeros(128, 12)
    state["expert2.divide.weight"] = torch.zeros(32, 40, 1, 1)
    with pytest.raises(CheckpointError) as got:
        load(_file(tmp_path / "moe.pth", state))
    message = str(got.value)
    assert message.startswith(f"{tmp_path / 'moe.pth'}: ")
    head, absences, unknown, shapes = message.split(": ", 1)[1].split(". ")[:4]
    assert "mixture of 2 experts frrn-a-original, 5 classes" in head
    assert all(key in absences for key in absent)
    assert unknown == "unknown to the model: expert2.more.weight, conv3x3.bias"
    assert "expert2.divide.weight [32, 48, 1, 1] but file [32, 40, 1, 1]" in shapes
    assert "gating.gates.1.fc1.weight [128, 15] but file [128, 12]" in shapes


def test_thirty_keys_of_one_sort_are_all_named(tmp_path: Path) -> None:
    state = _thin(_expert_shapes(_frrn_shapes()))
    absent = list(state)[10:40]
    for key in absent:
        del state[key]
    with pytest.raises(CheckpointError) as got:
        load(_file(tmp_path / "expert.pth", state))
    assert all(f"{key}," in str(got.value) or f"{key}." in str(got.value) for key in absent)


def test_unused_network_may_be_absent_or_strange(tmp_path: Path) -> None:
    state = {k: v for k, v in _thin(_frrn_shapes()).items() if not k.startswith("expert.")}
    load(_file(tmp_path / "moe.pth", state))
    load(_file(tmp_path / "moe.pth", {**state, "expert.strange": torch.zeros(3)}))


def _no_gate(state: dict[str, Tensor]) -> None:
    for key in [key for key in state if key.startswith("gating.")]:
        del state[key]


def _no_second_expert(state: dict[str, Tensor]) -> None:
    for key in [key for key in state if key.startswith("expert2.")]:
        del state[key]


def _no_gate_layer(state: dict[str, Tensor]) -> None:
    for key in [key for key in state if key.endswith("fc1.weight")]:
        del state[key]


def _a_gate_more(state: dict[str, Tensor]) -> None:
    state["gating.gates.5.fc2.bias"] = torch.zeros(2)


def _no_last_weight(state: dict[str, Tensor]) -> None:
    for key in ("expert1.out_conv.weight", "expert2.out_conv.weight"):
        del state[key]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_no_gate, "absent from the file: gating.conv1.weight"),
        (_no_second_expert, "absent from the file: expert2.* (323 keys)"),
        (_no_gate_layer, "absent from the file: gating.gates.0.fc1.weight"),
        (_a_gate_more, "unknown to the model: gating.gates.5.fc2.bias"),
        (_no_last_weight, "absent from the file: expert1.out_conv.weight, expert2.out_conv.weight"),
    ],
)
def test_incomplete_mixtures(change: Change, named: str, tmp_path: Path) -> None:
    state = _thin(_frrn_shapes())
    change(state)
    with pytest.raises(CheckpointError, match=r"moe\.pth") as got:
        load(_file(tmp_path / "moe.pth", state))
    assert named in str(got.value)


def _without(state: dict[str, Tensor], *beginnings: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(beginnings)}


def _complaint(path: Path, state: Mapping[str, Tensor]) -> str:
    with pytest.raises(CheckpointError) as got:
        load(_file(path, state))
    message = str(got.value)
    assert message.startswith(f"{path}: ")
    return message


def test_without_its_class_layers_a_file_is_told_whole(tmp_path: Path) -> None:
    """The number of classes comes from elsewhere, or is left open; all that is absent is named."""
    layers = ("expert1.out_conv", "expert2.out_conv")
    mixture = _without(_thin(_frrn_shapes()), *layers)
    message = _complaint(tmp_path / "moe.pth", _without(mixture, "expert1.first.conv.bias"))
    assert "2 experts frrn-a-original, 5 classes" in message
    absent = ["expert1.first.conv.bias", *(f"{one}.{leaf}" for one in layers for leaf in LEAVES)]
    for key in absent:
        assert key in message
    assert "of another shape" not in message
    expert = _thin(_expert_shapes(_frrn_shapes()))
    message = _complaint(tmp_path / "expert.pth", _without(expert, "out_conv", "divide.bias"))
    assert "expert frrn-a-original, number of classes unknown, got others" in message
    assert "absent from the file: divide.bias, out_conv.weight, out_conv.bias. " in message


LEAVES = ("weight", "bias")


@pytest.mark.parametrize(
    ("backbone", "taken", "groups"),
    [
        ("resnet101", ("backbone.layer3.22.", "backbone.bn1.bias"), "backbone.bn1.bias"),
        ("resnet50", ("backbone.layer3.5.", "backbone.layer4."), "backbone.layer4.* (60 keys)"),
        ("resnet18", ("backbone.",), "backbone.* (120 keys)"),
        ("resnet50", ("backbone.",), "backbone.* (318 keys)"),
    ],
)
def test_without_a_part_of_the_backbone_a_file_is_told_whole(
    backbone: str, taken: tuple[str, ...], groups: str, tmp_path: Path
) -> None:
    expert = build_expert({**DEEPLAB, "backbone": backbone})
    state = _thin({key: tuple(value.shape) for key, value in export(expert).items()})
    left = _without(state, *taken, "classifier.project.1.bias")
    message = _complaint(tmp_path / "expert.pth", left)
    assert f"expert deeplabv3plus on {backbone}, 5 classes" in message
    assert groups in message
    assert "classifier.project.1.bias" in message
    assert "unknown to the model" not in message


def test_hundreds_of_scattered_keys_are_counted_by_their_beginning(tmp_path: Path) -> None:
    state = {
        key: value.expand(2, *value.shape) if ".bn1." in key else value
        for key, value in _thin(_frrn_shapes()).items()
        if not key.endswith(".running_mean")
    }
    state |= {f"other.{number}": torch.zeros(1) for number in range(51)}
    message = _complaint(tmp_path / "moe.pth", state)
    assert "absent from the file: expert1.* (47 of 323 keys), expert2.* (47 of 323 keys)" in message
    assert "unknown to the model: other.* (51 keys)" in message
    shapes = "expert1.reslayers_in.0.bn1.weight [48] but file [2, 48]"
    assert f"expert1.* (92 of 323 keys, such as {shapes})" in message
    assert len(message) < 1000


# -- tensors that no weights can be ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (torch.full((), math.nan), "finite weights, got NaN or infinite ones in divide.bias"),
        (torch.full((), math.inf), "finite weights, got NaN or infinite ones in divide.bias"),
        (torch.full((), 1e300, dtype=torch.float64), "infinite ones in divide.bias"),
        (torch.ones((), dtype=torch.int64), "got whole numbers in divide.bias (torch.int64)"),
    ],
    ids=["nan", "infinite", "too large", "whole"],
)
def test_values_that_no_weights_have(value: Tensor, named: str, tmp_path: Path) -> None:
    state = _thin(_expert_shapes(_frrn_shapes()))
    state["divide.bias"] = value.expand(32)
    assert named in _complaint(tmp_path / "expert.pth", state)


def test_a_small_file_that_claims_giant_tensors_is_refused_before_they_are_made(
    tmp_path: Path,
) -> None:
    state = _thin(_expert_shapes(_frrn_shapes()))
    wide = _thin({"out_conv.weight": (10**9, 48, 1, 1), "out_conv.bias": (10**9,)})
    message = _complaint(tmp_path / "wide.pth", state | wide)
    assert "out_conv.weight: expected at most 255 classes" in message
    message = _complaint(tmp_path / "deep.pth", state | _thin({"divide.bias": (10**12,)}))
    assert "divide.bias [32] but file [1000000000000]" in message
    shapes = dict(_frrn_shapes("simple"))
    shapes["gating.fc1.weight"] = (128, 10**10)
    message = _complaint(tmp_path / "gate.pth", _thin(shapes))
    assert "gating.fc1.weight: expected a model of at most 4.3 GB" in message


def test_experts_of_different_class_counts_in_one_file(tmp_path: Path) -> None:
    state = _thin(_frrn_shapes())
    state["expert2.out_conv.weight"] = torch.zeros(11, 48, 1, 1)
    with pytest.raises(
        CheckpointError,
        match=r"moe\.pth: .*expert1\.out_conv\.weight with 5 and expert2\.out_conv\.weight with 11",
    ):
        load(_file(tmp_path / "moe.pth", state))


def test_experts_of_different_class_counts_in_two_files(tmp_path: Path) -> None:
    shapes = _expert_shapes(_frrn_shapes())
    other = {**shapes, "out_conv.weight": (11, 48, 1, 1), "out_conv.bias": (11,)}
    files = [_file(tmp_path / "a.pth", _thin(shapes)), _file(tmp_path / "b.pth", _thin(other))]
    with pytest.raises(
        CheckpointError, match=r"b\.pth: out_conv\.weight: expected 5 .*a\.pth, got 11"
    ):
        load(*files)


def test_a_taxonomy_of_other_classes_names_a_key_that_the_file_has(tmp_path: Path) -> None:
    state = _thin(_frrn_shapes())
    mixture = _file(tmp_path / "moe.pth", state)
    no_parts = {k: v for k, v in state.items() if k.startswith(("expert1.", "expert2."))}
    ensemble = _file(tmp_path / "both.pth", no_parts)
    expert = _file(tmp_path / "one.pth", _thin(_expert_shapes(_frrn_shapes())))
    for files, key in (
        ([mixture], "expert1.out_conv.weight"),
        ([ensemble], "expert1.out_conv.weight"),
        ([expert], "out_conv.weight"),
        ([expert, expert], "out_conv.weight"),
    ):
        with pytest.raises(UsageError, match=rf"\.pth: {key}: expected the 38 classes of"):
            import_files(files, tmp_path / "out", taxonomy=Taxonomy.load("a2d2-38"))
        held = torch.load(files[0], weights_only=True)["state_dict"]
        assert held[key].shape[0] == 5
    assert not (tmp_path / "out").exists()


def test_a_mixture_is_no_member_of_an_ensemble(tmp_path: Path) -> None:
    mixture = _file(tmp_path / "moe.pth", _thin(_frrn_shapes()))
    expert = _file(tmp_path / "expert.pth", _thin(_expert_shapes(_frrn_shapes())))
    with pytest.raises(CheckpointError, match=r"moe\.pth: expected an expert, .*got mixture"):
        load(expert, mixture)


def test_networks_of_other_projects(tmp_path: Path) -> None:
    for state, message in (
        (
            {"encoder.conv1.weight": torch.zeros(3)},
            "got encoder.conv1.weight. The checkpoint is of",
        ),
        (
            {"expert1.backbone.conv1.weight": torch.zeros(3)},
            "expert1.backbone.conv1.weight [64, 3, 7, 7] but file [3]",
        ),
        ({"out_conv.weight": torch.zeros(())}, "out_conv.weight [1, 48, 1, 1] but file []"),
    ):
        with pytest.raises(CheckpointError, match=r"other\.pth") as got:
            load(_file(tmp_path / "other.pth", state))
        assert message in str(got.value)
    expert = build_expert({**DEEPLAB, "backbone": "resnet18"})
    state = _thin({key: tuple(value.shape) for key, value in export(expert).items()})
    state |= {f"backbone.layer3.{n}.conv1.weight": torch.zeros(1) for n in range(2, 36)}
    with pytest.raises(CheckpointError, match=r"resnet101 3-4-23-3.*got 2-2-36-2 without"):
        load(_file(tmp_path / "other.pth", state))


def test_input_size_that_contradicts_the_gate(tmp_path: Path) -> None:
    file = _file(tmp_path / "moe.pth", _thin(_frrn_shapes()))
    with pytest.raises(
        UsageError,
        match=r"moe\.pth: gating\.gates\.0\.fc1\.weight: expected an input size of 15 cells, got "
        r"64x80, which at stride 16 has 4x5 = 20",
    ):
        load(file, input_size=(64, 80))
    with pytest.raises(UsageError, match=r"moe\.pth: input size: .* multiples of 16, .*33x65"):
        load(file, input_size=(33, 65))
    with pytest.raises(UsageError, match="expected H W > 0, got 0x80"):
        load(file, input_size=(0, 80))


def test_sides_of_any_length_round_up_for_a_deeplab(tmp_path: Path) -> None:
    experts = [build_expert({**DEEPLAB, "backbone": "resnet18"}) for _ in range(2)]
    mixture = export(build_mixture(experts, "simple", size=SIZE))
    shapes = {key: tuple(value.shape) for key, value in mixture.items()}
    model = load(_file(tmp_path / "moe.pth", _thin(shapes)), input_size=(33, 65))
    assert isinstance(model, Mixture)
    assert model.gate.grid == (3, 5)


def test_options_that_the_file_has_no_use_for(tmp_path: Path) -> None:
    mixture = _file(tmp_path / "moe.pth", _thin(_frrn_shapes()))
    with pytest.raises(UsageError, match=r"moe\.pth: rule: expected an ensemble"):
        load(mixture, rule="max")
    with pytest.raises(UsageError, match=r"moe\.pth: output stride: expected 16"):
        load(mixture, output_stride=8)
    expert = _file(tmp_path / "expert.pth", _thin(_expert_shapes(_frrn_shapes())))
    rule: Any = "men"
    with pytest.raises(UsageError, match="Did you mean 'mean'"):
        load(expert, expert, rule=rule)
