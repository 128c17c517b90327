from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moeseg.errors import CheckpointError
from moeseg.models import (
    Expert,
    Model,
    build_ensemble,
    build_expert,
    build_mixture,
    load,
    load_weights,
    read_info,
    save,
    weights_digest,
)
from moeseg.models import folder as folders
from moeseg.types import Features

SIZE = (16, 24)


class Small(Expert):
    def __init__(self, num_classes: int = 3, width: int = 4) -> None:
        super().__init__(num_classes=num_classes, gate_channels=width, stride=8)
        self.encoder = nn.Sequential(nn.Conv2d(3, width, 8, stride=8), nn.BatchNorm2d(width))
        self.decoder = nn.Conv2d(width, num_classes, 1)

    def features(self, images: Tensor) -> Features:
        return Features(self.encoder(images), (), (images.shape[-2], images.shape[-1]))

    def decode(self, features: Features) -> Tensor:
        logits: Tensor = self.decoder(features.gate)
        return logits


def _expert(seed: int, **more: object) -> Expert:
    torch.manual_seed(seed)
    return build_expert({"name": f"{__name__}:Small", **more})


def _models(experts: list[Expert]) -> list[Model]:
    return [
        build_ensemble(experts, "mean-probability"),
        build_mixture(experts, "simple", size=SIZE),
        build_mixture(experts, "classwise", True, (1, 2)),
    ]


def _same(one: Model, other: Model) -> bool:
    images = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(one.eval()(images).logits, other.eval()(images).logits)


def test_models_come_back_whole(tmp_path: Path) -> None:
    for number, model in enumerate([_expert(0), *_models([_expert(0), _expert(1)])]):
        path = tmp_path / str(number)
        save(model, path, info={"size": [16, 24]})
        assert sorted(one.name for one in path.iterdir()) == ["model.json", "model.safetensors"]
        shutil.move(path, tmp_path / "elsewhere")  # self-contained
        again = load(tmp_path / "elsewhere")
        assert not any(module.training for module in again.modules())
        assert _same(model, again)
        assert read_info(tmp_path / "elsewhere") == {"size": [16, 24]}
        shutil.rmtree(tmp_path / "elsewhere")


def test_loaded_mixture_is_frozen_as_before(tmp_path: Path) -> None:
    save(_models([_expert(0), _expert(1)])[1], tmp_path / "moe")
    model = load(tmp_path / "moe").train()
    assert not any(expert.training for expert in model.experts)
    assert not any(p.requires_grad for expert in model.experts for p in expert.parameters())


def test_loading_leaves_the_random_generator_alone(tmp_path: Path) -> None:
    save(_expert(0), tmp_path / "m")
    state = torch.get_rng_state()
    load(tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), state)


def test_experts_are_referred_to_without_a_copy(tmp_path: Path) -> None:
    run = tmp_path / "run"
    experts = [_expert(0), _expert(1)]
    paths = [run / "experts" / name for name in ("a", "b")]
    for expert, path in zip(experts, paths, strict=True):
        save(expert, path)
    for number, model in enumerate(_models(experts)):
        path = run / "mixtures" / str(number)
        save(model, path, experts=paths)
        document = json.loads((path / "model.json").read_text())
        assert document["references"] == [
            {"path": f"../../experts/{p.name}", "sha256": weights_digest(p)} for p in paths
        ]
        assert b"members." not in (path / "model.safetensors").read_bytes()
        assert _same(model, load(path))
    run.rename(tmp_path / "moved")  # the whole run may move
    assert _same(_models(experts)[0], load(tmp_path / "moved" / "mixtures" / "0"))


def test_referenced_expert_changed_or_missing(tmp_path: Path) -> None:
    experts = [_expert(0), _expert(1)]
    paths = [tmp_path / "a", tmp_path / "b"]
    for expert, path in zip(experts, paths, strict=True):
        save(expert, path)
    save(_models(experts)[1], tmp_path / "moe", experts=paths)
    save(_expert(7), paths[1])
    with pytest.raises(CheckpointError, match=rf"expert in {paths[1]} as it was, got other"):
        load(tmp_path / "moe")
    shutil.rmtree(paths[1])
    with pytest.raises(CheckpointError, match=rf"expert in {paths[1]}, got no such folder"):
        load(tmp_path / "moe")


def test_reference_to_an_expert_that_differs_is_refused(tmp_path: Path) -> None:
    experts = [_expert(0), _expert(1)]
    paths = [tmp_path / "a", tmp_path / "b"]
    for expert, path in zip(experts, paths, strict=True):
        save(expert, path)
    model = _models(experts)[1]
    next(experts[1].buffers()).add_(1)  # BatchNorm drifted
    with pytest.raises(CheckpointError, match="expected expert 2 of the model, got other weights"):
        save(model, tmp_path / "moe", experts=paths)
    with pytest.raises(CheckpointError, match="a folder for each expert of the model, got 1 for 2"):
        save(model, tmp_path / "moe", experts=paths[:1])
    assert not (tmp_path / "moe").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "got no such folder"),
        ({}, "got a folder without model.json"),
        ({"model.json": "{"}, "expected JSON"),
        ({"model.json": '{"a": 1}'}, "expected the keys format, description"),
        ({"model.json": "[]"}, "expected the keys format"),
        (
            {"model.json": '{"format": 99, "description": {}, "info": {}, "sha256": ""}'},
            "expected format 1, got 99",
        ),
        (
            {"model.json": '{"format": 1, "description": {}, "info": {}, "sha256": ""}'},
            "does not build",
        ),
    ],
)
def test_what_is_not_a_model(tmp_path: Path, content: dict[str, str] | None, said: str) -> None:
    path = tmp_path / "model"
    if content is not None:
        path.mkdir()
        for name, text in content.items():
            (path / name).write_text(text)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_unknown_architecture_in_a_file_names_the_file(tmp_path: Path) -> None:
    save(_expert(0), tmp_path / "m")
    file = tmp_path / "m" / "model.json"
    file.write_text(file.read_text().replace(":Small", ":Smal"))
    with pytest.raises(CheckpointError, match=r"model\.json: architecture .*:Smal"):
        load(tmp_path / "m")


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damaged_weights(tmp_path: Path, damage: str) -> None:
    save(_expert(0), tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    whole = file.read_bytes()
    if damage == "cut":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "flip":
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: expected"):
        load(tmp_path / "m")


def test_file_that_is_no_safetensors_at_all(tmp_path: Path) -> None:
    save(_expert(0), tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    old = weights_digest(tmp_path / "m")
    file.write_bytes(b"not tensors")
    description = tmp_path / "m" / "model.json"
    description.write_text(description.read_text().replace(old, weights_digest(tmp_path / "m")))
    with pytest.raises(CheckpointError, match="SafetensorError"):
        load(tmp_path / "m")


def test_tensors_that_do_not_fit_are_listed_by_name(tmp_path: Path) -> None:
    save(_expert(0), tmp_path / "m")
    file = tmp_path / "m" / "model.json"
    document = json.loads(file.read_text())
    document["description"]["architecture"]["num_classes"] = 5
    file.write_text(json.dumps(document))
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "m")
    assert "decoder.weight [5, 4, 1, 1] but file [3, 4, 1, 1]" in str(caught.value)
    assert "class count" in str(caught.value)


def test_weights_of_the_same_architecture(tmp_path: Path) -> None:
    trained, new = _expert(0), _expert(1)
    save(trained, tmp_path / "m")
    assert not _same(trained, new)
    load_weights(new, tmp_path / "m")
    assert _same(trained, new)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"num_classes": 5}, "num_classes: expected 5, got 3"),
        ({"num_classes": 3, "width": 6}, "width: expected 6, got None"),
    ],
)
def test_weights_of_another_architecture(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    save(_expert(0, num_classes=3), tmp_path / "m")
    with pytest.raises(CheckpointError) as caught:
        load_weights(_expert(1, **more), tmp_path / "m")
    assert said in str(caught.value)


def test_weights_of_a_mixture_are_no_experts(tmp_path: Path) -> None:
    save(_models([_expert(0), _expert(1)])[1], tmp_path / "moe")
    with pytest.raises(CheckpointError, match="expected an expert, got a model of kind 'mixture'"):
        load_weights(_expert(0), tmp_path / "moe")


def test_saving_again_replaces_the_model_and_leaves_no_rest(tmp_path: Path) -> None:
    save(_expert(0), tmp_path / "m", info={"n": 1})
    save(_expert(1), tmp_path / "m", info={"n": 2})
    assert read_info(tmp_path / "m") == {"n": 2}
    assert _same(load(tmp_path / "m"), _expert(1))
    assert [one.name for one in tmp_path.iterdir()] == ["m"]


def test_foreign_files_are_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "photos"
    path.mkdir()
    (path / "holiday.png").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"got holiday\.png in it"):
        save(_expert(0), path)
    assert (path / "holiday.png").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="expected a folder, got a file"):
        save(_expert(0), tmp_path / "file")


def test_process_killed_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    save(_expert(0), tmp_path / "m", info={"n": 1})
    (tmp_path / "m").rename(tmp_path / ".m.old")  # where `replaced` keeps it meanwhile
    assert folders._backup(tmp_path / "m") == tmp_path / ".m.old"
    assert read_info(tmp_path / "m") == {"n": 1}
    assert (tmp_path / "m").is_dir()


FULL_DISK = """
import json, resource, sys
from pathlib import Path
from moeseg.errors import MoesegError
from moeseg.models import build_expert, save

architecture, cases = json.loads(sys.argv[1])
expert = build_expert(architecture)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
said = []
for target, limit, length in cases:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        save(expert, Path(target), info={"n": "x" * length})
        said.append([0, "saved"])
    except MoesegError as error:
        said.append([error.exit_code, str(error)])
print(json.dumps(said))
"""


def test_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """The limit strikes in the weights or, where they fit, in the description."""
    architecture = {"name": "frrn-a", "channels": 3, "num_classes": 3}
    old = build_expert(architecture)
    there = [tmp_path / "there" / name for name in ("weights", "description")]
    absent = [tmp_path / "absent" / name for name in ("weights", "description")]
    for path in there:
        save(old, path, info={"n": 1})
    size = (there[0] / "model.safetensors").stat().st_size
    cases = [
        (str(path), limit, length)
        for paths in (there, absent)
        for path, limit, length in zip(paths, (size // 2, size + 1), (1, 2 * size), strict=True)
    ]
    child = subprocess.run(
        [sys.executable, "-c", FULL_DISK, json.dumps([architecture, cases])],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert child.returncode == 0, child.stderr
    for (target, _, _), (code, said) in zip(cases, json.loads(child.stdout), strict=True):
        assert code == 1
        assert f"{target}: expected to write a model" in said
        assert "File too large" in said
    for path in there:
        assert _same(load(path), old)
        assert read_info(path) == {"n": 1}
    assert sorted(one.name for one in (tmp_path / "there").iterdir()) == ["description", "weights"]
    assert list((tmp_path / "absent").iterdir()) == []
