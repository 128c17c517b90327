from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from moeseg.data import SegmentationDataset, Taxonomy, read_manifest
from moeseg.errors import MoesegError
from moeseg.evaluation.collectors import Collector, SegmentationCollector
from moeseg.evaluation.intervals import Blocks
from moeseg.evaluation.runner import evaluating, run_models, unique_experts
from moeseg.insight.agreement import AgreementCollector
from moeseg.insight.detectors import DetectorCollector
from moeseg.insight.frames import FrameCollector
from moeseg.insight.routing import OracleCollector, RoutingCollector
from moeseg.models import Model, build_ensemble, build_mixture
from moeseg.robustness.craft import FrameCounts
from moeseg.types import ExpertOutput, Prediction, Row
from moeseg.uncertainty.collectors import UncertaintyCollector
from moeseg.uncertainty.fitting import PointCollector
from tiny import CLASSES, SIZE, TinyExpert, tiny_expert, write_data

BASE: Row = {
    "split": "test",
    "dataset": "tiny",
    "size": list(SIZE),
    "architecture": "tiny",
    "seed": 0,
    "settings": {},
    "fingerprint": "0",
}


class Keeping:
    """A collector that keeps what it is handed."""

    def __init__(self, needs_experts: bool = False) -> None:
        self.needs_experts = needs_experts
        self.seen: dict[str, Tensor] = {}
        self.ids: dict[str, Tensor] = {}
        self.expert_ids: dict[str, Tensor] = {}
        self.synced = 0

    def update(self, prediction: Prediction, label: Tensor, keys: Sequence[str]) -> None:
        assert label.shape == (len(keys), *SIZE)
        self.seen |= dict(zip(keys, prediction.logits.clone(), strict=True))
        assert prediction.ids is not None
        self.ids |= dict(zip(keys, prediction.ids, strict=True))
        assert (prediction.expert_ids is not None) == self.needs_experts
        if prediction.expert_ids is not None:
            self.expert_ids |= dict(zip(keys, prediction.expert_ids, strict=True))

    def reset(self) -> None:
        pass

    def sync(self) -> None:
        self.synced += 1

    def rows(self) -> list[Row]:
        return []


def some_models() -> dict[str, Model]:
    day, dusk, base = (tiny_expert(seed) for seed in (1, 2, 3))
    return {
        "baseline": base,
        "expert-day": day,
        "expert-dusk": dusk,
        "ensemble-max": build_ensemble([day, dusk], "max"),
        "moe-simple": build_mixture([day, dusk], "simple", size=SIZE),
        "moe-classwise-conv": build_mixture([dusk, day], "classwise", True, size=SIZE),
    }


def some_frames(folder: Path) -> SegmentationDataset:
    csv = write_data(folder)
    catalogue = read_manifest(csv, Taxonomy.load(csv.parent / "taxonomy.yaml"))
    return SegmentationDataset(catalogue.select("day+dusk", "test"), catalogue.read_label, SIZE)


def test_each_prediction_is_the_models_own_on_every_frame(tmp_path: Path) -> None:
    models, frames = some_models(), some_frames(tmp_path)
    kept = {name: Keeping() for name in models}
    run_models(models, frames, {name: [one] for name, one in kept.items()}, batch_size=3)
    for name, model in models.items():
        assert kept[name].synced == 1
        assert len(kept[name].seen) == len(frames)
        for image, _, key in (frames[i] for i in range(len(frames))):
            with torch.inference_mode():
                own = model(image[None]).logits[0]
            assert torch.allclose(kept[name].seen[key], own, atol=1e-5), (name, key)


@pytest.mark.parametrize("scored", [True, False])
def test_classes_of_model_and_experts_come_with_the_prediction(
    tmp_path: Path, scored: bool
) -> None:
    models, frames = some_models(), some_frames(tmp_path)
    kept = {name: Keeping(name.startswith("moe-")) for name in models}
    asked = [name for name in models if scored or name.startswith("moe-")]
    run_models(models, frames, {name: [kept[name]] for name in asked}, batch_size=3)
    for name in asked:
        model = models[name]
        for image, _, key in (frames[i] for i in range(len(frames))):
            with torch.inference_mode():
                whole = model(image[None], expert_logits=True)
            assert torch.equal(kept[name].ids[key], whole.logits[0].argmax(0))
            if name.startswith("moe-"):
                assert whole.expert_logits is not None
                # (1, E, C, H, W) -> (E, H, W), in the mixture's own order of experts
                assert torch.equal(kept[name].expert_ids[key], whole.expert_logits[0].argmax(1))


def test_each_expert_runs_once_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, frames = some_models(), some_frames(tmp_path)
    calls: list[tuple[int, int]] = []
    plain = TinyExpert.output

    def counting(self: TinyExpert, images: Tensor) -> ExpertOutput:
        calls.append((id(self), len(images)))
        return plain(self, images)

    monkeypatch.setattr(TinyExpert, "output", counting)
    run_models(models, frames, {name: [Keeping()] for name in models}, batch_size=3)
    experts = unique_experts(models)
    assert len(experts) == 3
    for expert in experts:
        assert [size for who, size in calls if who == id(expert)] == [3, 3, 2]
    assert len(calls) == 9


def every_collector(
    frames: SegmentationDataset, model: Model, folder: Path, *, published: bool = False
) -> dict[str, Collector]:
    """Return one of each kind of rows, for a mixture of experts that saw day and dusk."""
    name, experts, classes = "moe-classwise-conv", ("dusk", "day"), tuple(CLASSES)
    keys = [frame.key for frame in frames.frames]
    subsets = ("day", "dusk", "day+dusk")
    where = (classes, Blocks.of(frames.frames), subsets, BASE)
    own = {"day": "day"}
    return {
        "segmentation": SegmentationCollector(name, *where),
        "agreement": AgreementCollector(name, experts, *where),
        "routing": RoutingCollector(name, experts, *where, own),
        "oracle": OracleCollector(*where),
        "detectors": DetectorCollector(name, experts, *where, own),
        "uncertainty": UncertaintyCollector(name, 2, True, *where, ("day",), published=published),
        "frames": FrameCollector(name, experts, classes, frames.frames, folder / "frames.csv"),
        "counts": FrameCounts(keys, len(classes)),
        "points": PointCollector(name, model, ("class", "gate"), len(keys)),
    }


@pytest.mark.parametrize("least", [1, 2])
@pytest.mark.parametrize("full", ["images", "update"])
def test_memory_that_does_not_hold_a_batch_is_halved_and_nothing_counts_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], full: str, least: int
) -> None:
    model = some_models()["moe-classwise-conv"]
    frames = some_frames(tmp_path)

    class Small(Keeping):
        """Memory that is full with the second batch, after the first has counted."""

        def update(self, prediction: Prediction, label: Tensor, keys: Sequence[str]) -> None:
            if full == "update" and len(keys) > least and frames.frames[0].key not in keys:
                raise torch.OutOfMemoryError("no memory")

    def change(images: Tensor, label: Tensor, keys: Sequence[str], extents: object) -> Tensor:
        if full == "images" and len(keys) > least and frames.frames[0].key not in keys:
            raise torch.OutOfMemoryError("no memory")
        return images

    def count(folder: Path, batch_size: int) -> dict[str, object]:
        made = every_collector(frames, model, folder)
        every = {"m": [*made.values(), Small(needs_experts=True)]}
        about = {"change": change, "title": "fog-3"}
        run_models({"m": model}, frames, every, batch_size=batch_size, **about)  # type: ignore[arg-type]
        rows = {name: collector.rows() for name, collector in made.items()}
        counts, points = made["counts"], made["points"]
        assert isinstance(counts, FrameCounts)
        assert isinstance(points, PointCollector)
        lines = (folder / "frames.csv").read_text()
        return rows | {"counts": counts.confusion.tolist(), "points": points.fit(), "lines": lines}

    alone = count(tmp_path / "alone", least)
    assert "out of memory" not in capsys.readouterr().err
    assert count(tmp_path / "halved", 2 * least + 1) == alone
    told = capsys.readouterr().err
    assert f"fog-3: out of memory with {2 * least + 1} images at once; once more with" in told


def test_a_batch_that_a_result_hangs_on_is_not_halved(tmp_path: Path) -> None:
    model, frames = some_models()["moe-classwise-conv"], some_frames(tmp_path)

    def change(images: Tensor, label: Tensor, keys: Sequence[str], extents: object) -> Tensor:
        if len(keys) > 1:
            raise torch.OutOfMemoryError("no memory")
        return images

    # the published deviation is divided by the largest of its batch
    every = {"m": [every_collector(frames, model, tmp_path, published=True)["uncertainty"]]}
    with pytest.raises(MoesegError, match=r"out of memory with 3 images.*--set eval.batch_size=N"):
        run_models({"m": model}, frames, every, batch_size=3, change=change)
    run_models({"m": model}, frames, every, batch_size=1, change=change)


def test_memory_that_does_not_hold_a_single_image_is_told(tmp_path: Path) -> None:
    def full(*given: object) -> Tensor:
        raise torch.OutOfMemoryError("no memory")

    models, frames = {"baseline": tiny_expert(0)}, some_frames(tmp_path)
    with pytest.raises(MoesegError, match=r"fog-3: out of memory with a single.*eval.size"):
        run_models(models, frames, {}, batch_size=3, change=full, title="fog-3")


def test_a_model_without_collectors_is_not_combined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = some_models()

    def never(*_: object, **__: object) -> Prediction:
        raise AssertionError

    monkeypatch.setattr(models["ensemble-max"], "combine", never)
    run_models(models, some_frames(tmp_path), {"baseline": [Keeping()]}, batch_size=8)


def test_training_modes_are_as_before_also_after_an_error() -> None:
    expert = tiny_expert(0)
    expert.train()
    first = expert.get_submodule("first")
    first.eval()
    modes = [part.training for part in expert.modules()]

    def fail_inside() -> None:
        with evaluating([expert]):
            assert not any(part.training for part in expert.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert [part.training for part in expert.modules()] == modes
    assert True in modes
    assert False in modes


def counted(folder: Path, *, short: bool = False) -> SegmentationCollector:
    """Count in batches of two, `short` of memory for the second of them."""

    def change(images: Tensor, label: Tensor, keys: Sequence[str], extents: object) -> Tensor:
        if short and seen and len(keys) > 1:
            raise torch.OutOfMemoryError("no memory")
        seen.extend(keys)
        return images

    seen: list[str] = []
    frames = some_frames(folder)
    blocks = Blocks.of(frames.frames)
    collector = SegmentationCollector("moe-simple", tuple(CLASSES), blocks, ("day", "dusk"), BASE)
    models = {"moe-simple": some_models()["moe-simple"]}
    run_models(models, frames, {"moe-simple": [collector]}, batch_size=2, change=change)
    return collector


def test_padding_is_told_with_the_prediction(tmp_path: Path) -> None:
    plain = some_frames(tmp_path)
    padded = SegmentationDataset(plain.frames, plain.read_label, (32, 40), fit="pad")
    squeezed = SegmentationDataset(plain.frames, plain.read_label, (32, 40), fit="squeeze")
    assert SIZE == (24, 32)  # so that 32x40 leaves two rows
    found: dict[str, list[object]] = {}

    class Noting(Keeping):
        def update(self, prediction: Prediction, label: Tensor, keys: Sequence[str]) -> None:
            found.setdefault(str(label.shape), []).append(prediction.extents)

    model = build_mixture(some_models()["moe-simple"].experts, "simple", pool=(2, 2))
    for data in (plain, padded, squeezed):
        found.clear()
        run_models({"m": model}, data, {"m": [Noting()]}, batch_size=3)
        extents = [each for several in found.values() for each in several]
        expected = [((30, 40),) * 3, ((30, 40),) * 3, ((30, 40),) * 2]
        assert extents == (expected if data is padded else [None] * 3)


def take_part(rank: int, folder: Path, short: int | None) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        collector = counted(folder / f"data-{rank}", short=rank == short)
        torch.save(collector.confusion, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("short", [None, 1])
def test_two_processes_share_the_frames_and_count_as_one(tmp_path: Path, short: int | None) -> None:
    spawn(take_part, (tmp_path, short), nprocs=2)  # type: ignore[no-untyped-call]
    alone = counted(tmp_path / "alone").confusion
    for rank in (0, 1):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt", weights_only=True), alone)
    assert int(alone.sum()) == 8 * SIZE[0] * SIZE[1]
