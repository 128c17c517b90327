"""What is taken from a file, and what is refused without being run."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moeseg.errors import CheckpointError
from moeseg.interop.reading import read_state

STATE = {
    "first.conv.weight": torch.arange(6.0).reshape(2, 3),
    "first.bn.running_mean": torch.ones(2),
}


def write(path: Path, content: object, *, old: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path


def rename(source: Path, target: Path, old: bytes, new: bytes) -> Path:
    """Copy a checkpoint with other module names in its pickle."""
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(target, "w") as written:
        for name in read.namelist():
            written.writestr(name, read.read(name).replace(old, new))
    return target


def same(state: dict[str, torch.Tensor]) -> bool:
    return list(state) == list(STATE) and all(torch.equal(state[key], STATE[key]) for key in STATE)


class Hostile:
    """Unpickled by pickle itself, this makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("old", [False, True])
def test_state_dict_is_taken_and_the_rest_left(tmp_path: Path, old: bool) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter])
    torch.autograd.backward(parameter.sum())
    optimizer.step()
    content = {
        "state_dict": STATE,
        "epoch": 3,
        "best_pred": 0.5,
        "optimizer": optimizer.state_dict(),
    }
    assert same(read_state(write(tmp_path / "a.pth", content, old=old)))


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numpy_score_is_read_under_both_names(tmp_path: Path, module: bytes) -> None:
    content = {"state_dict": STATE, "best_pred": np.float64(0.4)}
    plain = write(tmp_path / "plain.pth", content)
    with zipfile.ZipFile(plain) as file:
        pickled = file.read("plain/data.pkl")
    (own,) = set(re.findall(rb"numpy\._?core\.multiarray", pickled))
    path = rename(plain, tmp_path / "named.pth", own, module)
    with zipfile.ZipFile(path) as file:
        assert module + b"\nscalar" in file.read("plain/data.pkl")
    with pytest.raises(pickle.UnpicklingError, match="scalar"):  # torch alone refuses it
        torch.load(path, weights_only=True)
    assert same(read_state(path))
    with pytest.raises(pickle.UnpicklingError, match="scalar"):  # and does so again afterwards
        torch.load(path, weights_only=True)


def test_prefix_of_data_parallel_is_dropped(tmp_path: Path) -> None:
    prefixed = {f"module.{key}": value for key, value in STATE.items()}
    assert same(read_state(write(tmp_path / "a.pth", {"state_dict": prefixed})))


@pytest.mark.parametrize("form", ["zip", "old", "bare", "protocol 4"])
def test_hostile_pickle_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pth"
    content = {"state_dict": STATE, "best_pred": Hostile(marker)}
    if form in ("zip", "old"):
        write(path, content, old=form == "old")
    else:
        path.write_bytes(pickle.dumps(content["best_pred"], protocol=4 if "4" in form else 2))
    # torch does not read protocol 4 far enough to see what it would call
    named = "cannot read" if "4" in form else r"\.system, which could run code"
    with pytest.raises(CheckpointError, match=rf"evil\.pth: .*{named}") as got:
        read_state(path)
    assert "weights_only" not in str(got.value)  # torch's own advice would run it
    assert not marker.exists()


def test_only_float64_scalars_of_numpy_are_let_through(tmp_path: Path) -> None:
    for value in (np.ones(3), np.float32(1), np.random.default_rng(0)):
        path = write(tmp_path / "a.pth", {"state_dict": STATE, "best_pred": value})
        with pytest.raises(CheckpointError, match=r"a\.pth"):
            read_state(path)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_half_a_download(tmp_path: Path, old: bool, share: float) -> None:
    content = {"state_dict": {"first.conv.weight": torch.rand(1000)}}
    path = write(tmp_path / "half.pth", content, old=old)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"half\.pth: expected a checkpoint"):
        read_state(path)


@pytest.mark.parametrize(
    "text",
    [b"hello " * 100, b"version https://git-lfs.github.com/spec/v1\n", b"<html>", b"\x89PNG"],
)
def test_other_kinds_of_file(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "page.pth"
    path.write_bytes(text)
    with pytest.raises(CheckpointError, match=r"page\.pth: expected a checkpoint"):
        read_state(path)


def test_absent_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pth.*No such file"):
        read_state(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="Is a directory"):
        read_state(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": STATE, "args": 3}, "key 'state_dict', got args, model"),
        (STATE, r"key 'state_dict', got first.bn.running_mean, first.conv.weight"),
        ([1, 2], "key 'state_dict', got list"),
        ({"state_dict": {}}, "state_dict: expected tensors by key, got none"),
        ({"state_dict": 3}, "state_dict: expected tensors by key, got int"),
        ({"state_dict": {**STATE, "a": 1, "b": "x"}}, r"something else for a \(int\), b \(str\)"),
    ],
)
def test_checkpoints_of_other_projects(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"other\.pth: .*{message}"):
        read_state(write(tmp_path / "other.pth", content))


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (torch.eye(3).to_sparse(), "sparse_coo"),
        (torch.zeros(3, device="meta"), "on meta"),
        (torch.ones(3, dtype=torch.complex64), "complex64"),
        (torch.ones(3, dtype=torch.bool), "bool"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tensors_that_no_weights_can_be(tmp_path: Path, value: torch.Tensor, word: str) -> None:
    path = write(tmp_path / "odd.pth", {"state_dict": {**STATE, "a.weight": value}})
    with pytest.raises(CheckpointError, match=rf"odd\.pth: .*for a\.weight \({word}\)\. Name"):
        read_state(path)


@pytest.mark.filterwarnings("ignore")  # torch calls some of these beta, and others outdated
def test_tensors_in_unusual_forms_are_refused(tmp_path: Path) -> None:
    quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    rows = torch.eye(3).to_sparse_csr()
    for value, word in ((quantised, "qint8"), (nested, "nested"), (rows, "sparse_csr")):
        path = write(tmp_path / "odd.pth", {"state_dict": {"a.weight": value}})
        with pytest.raises(CheckpointError, match=rf"odd\.pth: .*a\.weight \({word}\)"):
            read_state(path)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("value", [np.float32(1), np.int64(3)], ids=["float32", "int64"])
def test_a_whole_file_with_a_scalar_of_another_kind_is_not_called_damaged(
    tmp_path: Path, value: object, old: bool
) -> None:
    path = write(tmp_path / "a.pth", {"state_dict": STATE, "best_pred": value}, old=old)
    with pytest.raises(CheckpointError, match=r"a\.pth: .*a float64 score, got") as got:
        read_state(path)
    assert "save only its state_dict, epoch and best_pred again" in str(got.value)
    assert "download" not in str(got.value)


def test_safetensors_are_no_checkpoint(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_state(tmp_path / "model.safetensors")
