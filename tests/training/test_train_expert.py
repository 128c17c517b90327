from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moeseg.config import OptimizerConfig, TrainingConfig
from moeseg.data import Augment, SegmentationDataset, Taxonomy, read_manifest
from moeseg.errors import MoesegError
from moeseg.models import Expert, build_expert
from moeseg.training.expert import resolve_precision, train_expert
from tiny import SIZE, tiny_expert, write_data

ADAM = OptimizerConfig(name="adam", lr=0.01)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def frames(data: Path, split: str, *, augmented: bool = False) -> SegmentationDataset:
    catalogue = read_manifest(data, Taxonomy.load(data.parent / "taxonomy.yaml"))
    chosen = catalogue.select("day", split)  # type: ignore[arg-type]
    augment = Augment(flip=True, scale=(0.8, 1.2), jitter=0.2) if augmented else None
    return SegmentationDataset(chosen, catalogue.read_label, SIZE, augment, seed=3)


def settings(**changes: object) -> TrainingConfig:
    base = {"epochs": 3, "batch_size": 4, "optimizer": ADAM.model_dump(), "accelerator": "cpu"}
    return TrainingConfig.model_validate(base | changes)


def weights(expert: Expert) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in expert.state_dict().items()}


def logged(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_training_lowers_the_loss_and_logs_every_epoch(data: Path, tmp_path: Path) -> None:
    config = settings(epochs=8, choose="last")
    expert = tiny_expert(0)
    trained = train_expert(
        expert, frames(data, "train", augmented=True), frames(data, "val"), config, tmp_path / "log"
    )
    rows = logged(tmp_path / "log")
    assert [int(row["epoch"]) for row in rows] == list(range(8))
    assert float(rows[-1]["train/loss"]) < 0.8 * float(rows[0]["train/loss"])
    assert float(rows[-1]["val/loss"]) < float(rows[0]["val/loss"])
    assert not trained.training
    assert list((tmp_path / "log").glob("events.out.tfevents.*"))


def test_best_is_the_epoch_of_the_highest_validation_miou(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "log"
    optimizer = {"name": "sgd", "lr": 0.3, "schedule": "constant"}  # unsteady on purpose
    config = settings(epochs=6, optimizer=optimizer, choose="best")
    train_expert(tiny_expert(0), frames(data, "train"), frames(data, "val"), config, out)
    found = torch.load(out / "best.ckpt", weights_only=True)
    mious = [float(row["val/miou"]) for row in logged(out)]
    assert found["epoch"] == mious.index(max(mious))


@pytest.mark.parametrize("killed_after", [1, 2])
def test_resumed_training_equals_unbroken_training_bit_for_bit(
    data: Path, tmp_path: Path, killed_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, val = frames(data, "train", augmented=True), frames(data, "val")
    unbroken = train_expert(tiny_expert(0), train, val, settings(), tmp_path / "whole", seed=5)

    class Killed(Exception):  # noqa: N818 - stands for a signal
        pass

    seen = 0
    fetch = SegmentationDataset.__getitem__

    def dying(self: SegmentationDataset, index: int | tuple[int, int]) -> object:
        nonlocal seen
        if isinstance(index, tuple):
            seen += 1
            if seen > killed_after * len(train) + 3:  # in the middle of the next epoch
                raise Killed
        return fetch(self, index)

    monkeypatch.setattr(SegmentationDataset, "__getitem__", dying)
    with pytest.raises(Killed):
        train_expert(tiny_expert(0), train, val, settings(), tmp_path / "broken", seed=5)
    monkeypatch.undo()
    assert torch.load(tmp_path / "broken" / "last.ckpt", weights_only=True)["epoch"] == (
        killed_after - 1
    )
    resumed = train_expert(tiny_expert(0), train, val, settings(), tmp_path / "broken", seed=5)
    for key, value in weights(unbroken).items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert [row["epoch"] for row in logged(tmp_path / "broken")] == ["0", "1", "2"]


def test_each_epoch_sees_every_frame_in_another_order(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    fetch = SegmentationDataset.__getitem__

    def noting(self: SegmentationDataset, index: int | tuple[int, int]) -> object:
        if isinstance(index, tuple):
            asked.append(index)
        return fetch(self, index)

    monkeypatch.setattr(SegmentationDataset, "__getitem__", noting)
    train = frames(data, "train")
    train_expert(tiny_expert(0), train, None, settings(epochs=2, choose="last"), tmp_path / "log")
    first = [place for place, epoch in asked if epoch == 0]
    second = [place for place, epoch in asked if epoch == 1]
    assert sorted(first) == sorted(second) == list(range(len(train)))
    assert first != second


def test_a_last_batch_of_one_frame_trains(data: Path, tmp_path: Path) -> None:
    train = frames(data, "train")
    train.frames = train.frames[:5]  # batches of four would leave one
    config = settings(epochs=1, batch_size=4, choose="last")
    deeplab = build_expert(
        {"name": "deeplabv3plus", "backbone": "resnet18", "channels": 8, "num_classes": 3}
    )
    train_expert(deeplab, train, None, config, tmp_path / "log")


def test_nan_loss_is_an_error_that_names_frames_and_rate(data: Path, tmp_path: Path) -> None:
    expert = tiny_expert(0)
    with torch.no_grad():
        next(iter(expert.parameters())).fill_(float("nan"))
    with pytest.raises(MoesegError, match=r"became nan in epoch 0.*day-train.*optimizer\.lr"):
        train_expert(expert, frames(data, "train"), None, settings(choose="last"), tmp_path / "log")


@pytest.mark.parametrize("changes", [{"choose": "best"}, {"choose": "last", "early_stopping": 2}])
def test_choice_without_validation_frames_is_refused(
    data: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(MoesegError, match="need validation frames"):
        train_expert(tiny_expert(0), frames(data, "train"), None, settings(**changes), tmp_path)


def test_early_stopping_ends_before_the_last_epoch(data: Path, tmp_path: Path) -> None:
    optimizer = {"name": "sgd", "lr": 1e-9, "schedule": "constant"}  # never gets better
    config = settings(epochs=30, optimizer=optimizer, early_stopping=2, choose="last")
    expert = tiny_expert(0)
    for module in expert.modules():  # nor do running statistics move
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    train_expert(expert, frames(data, "train"), frames(data, "val"), config, tmp_path / "log")
    assert 2 < len(logged(tmp_path / "log")) < 10


def test_a_stopped_training_stays_stopped(data: Path, tmp_path: Path) -> None:
    optimizer = {"name": "sgd", "lr": 1e-9, "schedule": "constant"}
    config = settings(epochs=30, optimizer=optimizer, early_stopping=1, choose="last")
    lengths = []
    for _ in range(2):
        expert = tiny_expert(0)
        for module in expert.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.0
        train_expert(expert, frames(data, "train"), frames(data, "val"), config, tmp_path / "log")
        lengths.append(len(logged(tmp_path / "log")))
    assert lengths[0] == lengths[1] < 30


def test_validation_every_few_epochs_is_not_logged_twice(data: Path, tmp_path: Path) -> None:
    config = settings(epochs=3, val_every=2)
    train_expert(
        tiny_expert(0), frames(data, "train"), frames(data, "val"), config, tmp_path / "log"
    )
    mious = [row["val/miou"] for row in logged(tmp_path / "log")]
    assert [miou == "nan" for miou in mious] == [True, False, True]


def test_precision_auto_is_a_precision() -> None:
    assert resolve_precision("auto") in ("32-true", "bf16-mixed", "16-mixed")
    assert resolve_precision("32-true") == "32-true"


def test_two_processes_train_one_network_and_end_cleanly(data: Path, tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(
        f"""
import sys
from pathlib import Path
sys.path[:0] = {sys.path!r}
import torch
from training.test_train_expert import frames, settings
from moeseg.training.expert import train_expert
from tiny import tiny_expert

if __name__ == "__main__":
    data, out = Path({str(data)!r}), Path({str(tmp_path)!r})
    config = settings(epochs=2, devices=2, choose="best")
    expert = train_expert(
        tiny_expert(0), frames(data, "train"), frames(data, "val"), config, out / "log"
    )
    torch.save(expert.state_dict(), out / "weights.pt")
"""
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "destroy_process_group" not in done.stderr
    found = torch.load(tmp_path / "weights.pt", weights_only=True)
    start = weights(tiny_expert(0))
    assert any(not torch.equal(start[key], found[key]) for key in start)
    rows = logged(tmp_path / "log")
    assert [row["epoch"] for row in rows] == ["0", "1"]
