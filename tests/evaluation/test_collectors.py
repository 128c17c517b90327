"""Collectors: rows against direct counts, batches, ranks, differences."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from moeseg.errors import DataError, UsageError
from moeseg.evaluation.collectors import (
    Collector,
    SegmentationCollector,
    difference_rows,
    members_of,
)
from moeseg.evaluation.intervals import Blocks, bootstrap, interval, resample_counts
from moeseg.evaluation.rows import BASE_KEYS, METRIC_KEYS
from moeseg.metrics import ConfusionMatrix, confusion_matrix, scores
from moeseg.models import Model, MonteCarloDropout, build_ensemble
from moeseg.types import Frame, Prediction, Row
from tiny import tiny_expert

CLASSES = ("Car", "Sky", 'a "b", ü|*')
SUBSETS = ("highway", "urban", "highway+urban")
BASE: Row = {
    "split": "test",
    "dataset": "toy",
    "size": (6, 8),
    "architecture": "tiny",
    "seed": 0,
    "settings": {},
    "fingerprint": "abc",
}


MEMBERS = {
    **{"baseline": 1, "expert-highway": 1, "expert-urban": 1, "ensemble-mean": 2, "merged": 1},
    **{"moe-simple": 2, "moe-classwise": 2, "two-seed": 2, "deep-ensemble-3": 3, "mc-dropout": 2},
    **{"mc-dropout-8": 8, "moe-simple-conv": 3},
}


def _frames() -> list[Frame]:
    return [
        Frame(f"{subset}-{index // 12}", f"{index:03d}", Path("p"), None, subset, "test")
        for subset in ("highway", "urban")
        for index in range(24)
    ]


def _labels() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 3, (48, 6, 8), generator=generator).to(torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
    return labels


def _logits(seed: int, strength: float) -> Tensor:
    """Make logits that lean towards the label by `strength`: (48, 3, 6, 8)."""
    noise = torch.randn(48, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    truth = torch.nn.functional.one_hot(_labels().long().clamp(max=2), 3)  # (48, 6, 8, 3)
    return noise + strength * truth.permute(0, 3, 1, 2)


def _filled(model: str, logits: Tensor, batch: int = 7) -> SegmentationCollector:
    frames, labels = _frames(), _labels()
    collector = SegmentationCollector(model, CLASSES, Blocks.of(frames), SUBSETS, BASE)
    for start in range(0, len(frames), batch):
        part = slice(start, start + batch)
        keys = [frame.key for frame in frames[part]]
        collector.update(Prediction(logits[part]), labels[part], keys)
    return collector


def test_rows_against_direct_counts() -> None:
    logits = _logits(1, 1.0)
    collector: Collector = _filled("baseline", logits)
    rows = collector.rows()
    assert [row["subset"] for row in rows] == list(SUBSETS)
    parts = {"highway": slice(0, 24), "urban": slice(24, 48), "highway+urban": slice(0, 48)}
    for row in rows:
        part = parts[row["subset"]]
        confusion = confusion_matrix(logits[part].argmax(dim=1), _labels()[part], 3)
        expected = scores(confusion)
        assert tuple(row) == BASE_KEYS + METRIC_KEYS["segmentation"]
        assert (row["kind"], row["condition"], row["model"]) == (
            "segmentation",
            "clean",
            "baseline",
        )
        assert row["size"] == [6, 8]
        assert row["images"] == part.stop - part.start
        for key in ("miou", "miou_union", "pixel_accuracy", "class_accuracy", "fw_iou"):
            assert row[key] == getattr(expected, key)
        assert row["per_class_iou"] == dict(zip(CLASSES, expected.per_class_iou, strict=True))
        assert row["per_class_pixels"] == dict(zip(CLASSES, expected.pixels, strict=True))
        assert row["classes_used"] == 3
        assert row["ci_unit"] == "block"
        assert row["ci_units"] == (20 if "+" in row["subset"] else 10)
        low, high = row["ci95"]
        assert low < row["miou"] < high


def test_batching_does_not_matter() -> None:
    logits = _logits(1, 1.0)
    assert _filled("baseline", logits, 1).rows() == _filled("baseline", logits, 48).rows()


def test_block_counts_land_in_the_right_unit() -> None:
    logits, frames, labels = _logits(1, 1.0), _frames(), _labels()
    collector = _filled("baseline", logits)
    units = np.array([collector.blocks.unit_of(frame.key) for frame in frames])
    for unit in range(len(collector.blocks)):
        own = torch.from_numpy(units == unit)
        expected = confusion_matrix(logits[own].argmax(dim=1), labels[own], 3)
        assert torch.equal(collector.confusion[unit], expected)


def test_nothing_counted_gives_null_rows() -> None:
    frames = _frames()
    collector = SegmentationCollector("baseline", CLASSES, Blocks.of(frames), SUBSETS, BASE)
    labels = torch.full((1, 6, 8), 255, dtype=torch.uint8)
    collector.update(Prediction(torch.zeros(1, 3, 6, 8)), labels, [frames[0].key])
    row = collector.rows()[0]
    assert (row["images"], row["miou"], row["ci95"], row["classes_used"]) == (1, None, None, 0)
    assert set(row["per_class_iou"].values()) == {None}


def test_differences_are_paired_and_against_the_best_expert() -> None:
    logits = {
        "baseline": _logits(1, 1.0),
        "expert-highway": _logits(2, 1.0),
        "expert-urban": _logits(3, 1.0),
        "ensemble-mean": _logits(4, 1.0),
        "moe-simple": _logits(5, 4.0),
        "moe-classwise": _logits(1, 1.0),  # the baseline's own
    }
    logits["expert-highway"][:24] = _logits(2, 3.0)[:24]  # each expert better on its own
    logits["expert-urban"][24:] = _logits(3, 3.0)[24:]
    collectors = {name: _filled(name, of_model) for name, of_model in logits.items()}
    rows = difference_rows(collectors, MEMBERS)
    assert len(rows) == 2 * 3 * 3
    by_name = {(r["model"], r["subset"], r["minus"]): r for r in rows}
    assert ("moe-simple", "highway", "expert-highway") in by_name
    assert ("moe-simple", "urban", "expert-urban") in by_name
    assert ("moe-simple", "urban", "expert-highway") not in by_name
    same = by_name["moe-classwise", "highway+urban", "baseline"]
    assert (same["difference"], same["ci95"], same["wins"]) == (0.0, [0.0, 0.0], False)
    won = by_name["moe-simple", "highway", "baseline"]
    assert tuple(won) == BASE_KEYS + METRIC_KEYS["difference"]
    assert won["wins"] is True
    lost = by_name["moe-classwise", "highway", "expert-highway"]
    assert lost["wins"] is False
    assert lost["ci95"][1] < 0.0
    # independent: two bootstraps over the same draws
    ours, _ = collectors["moe-simple"].groups("highway")
    theirs, _ = collectors["baseline"].groups("highway")
    counts = resample_counts(10)
    assert won["ci95"] == interval(bootstrap(ours, counts) - bootstrap(theirs, counts))
    miou = {c: collectors[c].rows()[0]["miou"] for c in ("moe-simple", "baseline")}
    assert won["difference"] == pytest.approx(miou["moe-simple"] - miou["baseline"], abs=1e-15)


def test_a_lead_within_the_interval_is_no_win() -> None:
    pair = [_filled("moe-simple", _logits(1, 1.0)), _filled("baseline", _logits(2, 1.0))]
    pair.sort(key=lambda collector: collector.miou("highway") or 0.0)
    behind, ahead = pair  # of equal strength, but one is ahead by chance
    (row,) = (
        row
        for row in difference_rows({"moe-simple": ahead, "baseline": behind}, MEMBERS)
        if row["subset"] == "highway"
    )
    assert row["difference"] > 0.0
    assert row["ci95"][0] < 0.0 < row["ci95"][1]
    assert row["wins"] is False


def test_differences_leave_out_models_that_are_not_there() -> None:
    collectors = {"moe-simple": _filled("moe-simple", _logits(1, 1.0))}
    assert difference_rows(collectors, MEMBERS) == []
    assert difference_rows({}, MEMBERS) == []
    collectors["baseline"] = _filled("baseline", _logits(2, 1.0))
    assert {row["minus"] for row in difference_rows(collectors, MEMBERS)} == {"baseline"}


def test_differences_are_against_as_many_members() -> None:
    collectors = {name: _filled(name, _logits(7, 1.0)) for name in MEMBERS}
    minus: dict[str, set[str]] = {}
    for row in difference_rows(collectors, MEMBERS):
        minus.setdefault(row["model"], set()).add(row["minus"])
    single = {"baseline", "merged", "expert-highway"}
    two = {"ensemble-mean", "two-seed", "mc-dropout"}
    assert minus == {
        "moe-simple": single | two,
        "moe-classwise": single | two,
        "moe-simple-conv": single | {"deep-ensemble-3"},  # of three experts
    }


def test_members_are_experts_or_samples() -> None:
    experts = [tiny_expert(seed) for seed in range(3)]
    sampled = MonteCarloDropout(tiny_expert(0), 5, rate=0.5)
    models: list[Model] = [*experts[:1], build_ensemble(experts, "mean"), sampled]
    assert [members_of(model) for model in models] == [1, 3, 5]


def test_differences_refuse_another_ground() -> None:
    ours, theirs = _filled("moe-simple", _logits(1, 1.0)), _filled("baseline", _logits(2, 1.0))
    theirs.base["size"] = (12, 16)
    with pytest.raises(UsageError, match="different size"):
        difference_rows({"moe-simple": ours, "baseline": theirs}, MEMBERS)
    theirs.base["size"] = (6, 8)
    theirs.confusion[0, 0, 0] += 1
    with pytest.raises(UsageError, match="different ground truth"):
        difference_rows({"moe-simple": ours, "baseline": theirs}, MEMBERS)


def test_misuse_is_an_error() -> None:
    frames, blocks = _frames(), Blocks.of(_frames())
    with pytest.raises(UsageError, match="more than once"):
        SegmentationCollector("m", ["Car", "Car"], blocks, SUBSETS, BASE)
    with pytest.raises(UsageError, match="unknown subset 'rural'"):
        SegmentationCollector("m", CLASSES, blocks, ["rural"], BASE)
    collector = SegmentationCollector("m", CLASSES, blocks, SUBSETS, BASE)
    label = torch.zeros(1, 6, 8, dtype=torch.uint8)
    with pytest.raises(DataError, match="expected 3 classes from 'm', got 4"):
        collector.update(Prediction(torch.zeros(1, 4, 6, 8)), label, [frames[0].key])
    with pytest.raises(DataError, match="shape"):
        collector.update(Prediction(torch.zeros(1, 3, 6, 9)), label, [frames[0].key])
    with pytest.raises(DataError, match="nowhere/1"):
        collector.update(Prediction(torch.zeros(1, 3, 6, 8)), label, ["nowhere/1"])
    assert int(collector.confusion.sum()) == 0  # nothing half-counted
    for _ in range(4):
        collector.update(Prediction(torch.zeros(1, 3, 6, 8)), label, [frames[0].key])
    with pytest.raises(DataError, match="at most 2 frames of sequence 'highway-0'"):
        collector.rows()
    missing = SegmentationCollector("m", CLASSES, blocks, SUBSETS, {"split": "test"})
    with pytest.raises(DataError, match="'fingerprint'"):
        missing.rows()


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    meeting = (Path(folder) / "store").as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    try:
        frames, labels, logits = _frames(), _labels(), _logits(1, 1.0)
        collector = SegmentationCollector("baseline", CLASSES, Blocks.of(frames), SUBSETS, BASE)
        shell = ConfusionMatrix(3)
        for index in range(rank, 48, 2):
            part = slice(index, index + 1)
            shell.update(logits[part].argmax(dim=1), labels[part])
            with torch.inference_mode():  # as the inference loop calls it
                collector.update(Prediction(logits[part]), labels[part], [frames[index].key])
        with torch.inference_mode():
            collector.sync()
            collector.sync()  # a second call must not sum again
        try:
            collector.update(Prediction(logits[:1]), labels[:1], [frames[0].key])
        except RuntimeError:
            refused = True
        else:
            refused = False
        result = {"rows": collector.rows(), "shell": shell.compute(), "refused": refused}
        torch.save(result, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_give_the_rows_of_one(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=_rank, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in ranks:
        process.start()
    try:
        for process in ranks:
            process.join(timeout=300)
        assert [process.exitcode for process in ranks] == [0, 0]
    finally:
        for process in ranks:
            process.kill()  # nothing where it has ended
    alone = _filled("baseline", _logits(1, 1.0))
    alone.sync()  # no process group: nothing happens
    for rank in range(2):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert result["rows"] == alone.rows()
        assert torch.equal(result["shell"], alone.confusion.sum(dim=0))
        assert result["refused"]
