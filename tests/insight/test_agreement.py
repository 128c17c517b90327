"""Agreement: masks and names by hand, rows against slow loops, batches, ranks of detectors too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from moeseg.errors import DataError, UsageError
from moeseg.evaluation.collectors import Collector
from moeseg.evaluation.intervals import Blocks, interval, resample_counts
from moeseg.evaluation.rows import BASE_KEYS, METRIC_KEYS
from moeseg.insight.agreement import (
    AgreementCollector,
    agreement_mask,
    category_counts,
    category_names,
    disagreement,
)
from moeseg.insight.detectors import DetectorCollector
from moeseg.types import Prediction, Row
from routed import BASE, CLASSES, EXPERTS, SIZE, SUBSETS, frames, labels, part, prediction

PARTS = {"highway": (0, 14), "urban": (14, 28), "fog": (28, 42), "highway+urban": (0, 28)}


def filled(collector: Collector, whole: Prediction, label: Tensor, batch: int = 5) -> list[Row]:
    """Return the rows of a collector that has seen a prediction of all frames."""
    keys = [frame.key for frame in frames()]
    for start in range(0, len(keys), batch):
        chosen = slice(start, start + batch)
        collector.update(part(whole, chosen), label[chosen], keys[chosen])
    collector.sync()
    return collector.rows()


def agreeing(experts: Sequence[str] = EXPERTS) -> AgreementCollector:
    return AgreementCollector("moe-x", experts, CLASSES, Blocks.of(frames()), SUBSETS, BASE)


def test_by_hand_with_two_experts() -> None:
    ids = torch.tensor([[[4, 4, 4, 4, 4]]])
    first = torch.tensor([[4, 4, 7, 7, 7]])
    second = torch.tensor([[4, 7, 4, 7, 8]])  # the experts of one mind, then split
    mask = agreement_mask(ids, torch.stack([first, second])[None])
    assert mask.dtype == torch.uint8
    assert mask.tolist() == [[[3, 1, 2, 0, 0]]]
    names = category_names(("expert-highway", "expert-urban"))
    assert names == ("overrules", "follows highway", "follows urban", "unanimous")
    assert category_counts(mask, 2).tolist() == [[2, 1, 1, 1]]
    assert disagreement(mask, 2).tolist() == [[[0.0, 0.5, 0.5, 1.0, 1.0]]]


def test_names_of_more_experts() -> None:
    assert category_names(["a"]) == ("overrules", "unanimous")
    assert category_names(["a", "b", "c"]) == (
        *("overrules", "follows a", "follows b", "follows a+b"),
        *("follows c", "follows a+c", "follows b+c", "unanimous"),
    )
    assert len(set(category_names("abcdefgh"))) == 256
    with pytest.raises(UsageError, match="1 to 8 experts for their agreement, got 9"):
        category_names("abcdefghi")
    with pytest.raises(UsageError, match="got 9"):
        agreement_mask(torch.zeros(1, 2, 2), torch.zeros(1, 9, 2, 2))


@pytest.mark.parametrize("experts", [1, 2, 3, 8])
def test_masks_against_a_loop(experts: int) -> None:
    generator = torch.Generator().manual_seed(experts)
    ids = torch.randint(0, 3, (3, 5, 4), generator=generator)
    each = torch.randint(0, 3, (3, experts, 5, 4), generator=generator)
    mask, share = agreement_mask(ids, each), disagreement(agreement_mask(ids, each), experts)
    counts = np.zeros((3, 2**experts), np.int64)
    for b, y, x in np.ndindex(3, 5, 4):
        agree = [int(each[b, e, y, x]) == int(ids[b, y, x]) for e in range(experts)]
        expected = sum(2**e for e in range(experts) if agree[e])
        assert int(mask[b, y, x]) == expected
        assert float(share[b, y, x]) == pytest.approx(agree.count(False) / experts)
        counts[b, expected] += 1
    assert category_counts(mask, experts).tolist() == counts.tolist()


def pixels_of(whole: Prediction, experts: int) -> NDArray[Any]:
    """Return the bitmask of each pixel in plain numpy: (N, H, W)."""
    assert whole.ids is not None
    assert whole.expert_ids is not None
    ids, each = whole.ids.numpy(), whole.expert_ids.numpy()
    bits = np.stack([(each[:, e] == ids) * 2**e for e in range(experts)])
    return np.asarray(bits.sum(axis=0))


@pytest.mark.parametrize("experts", [2, 3])
def test_rows_against_a_loop(experts: int) -> None:
    names = ("expert-highway", "expert-urban", "expert-ü")[:experts]
    whole, label = prediction(42, experts=experts), labels(42)
    rows = filled(agreeing(names), whole, label)
    assert len(rows) == len(SUBSETS) * 2**experts
    masks = pixels_of(whole, experts)
    assert whole.ids is not None
    truth, ids = label.numpy(), whole.ids.numpy()
    for number, row in enumerate(rows):
        assert tuple(row) == BASE_KEYS + METRIC_KEYS["agreement"]
        subset, category = SUBSETS[number // 2**experts], number % 2**experts
        assert (row["subset"], row["category"]) == (subset, category_names(names)[category])
        start, stop = PARTS[subset]
        assert row["images"] == stop - start
        own, true, found = (a[start:stop] for a in (masks == category, truth, ids == truth))
        known = true != 255
        assert row["pixels"] == own.sum()
        assert row["share"] == pytest.approx(own.mean())
        assert row["labelled"] == (own & known).sum()
        assert row["right"] == pytest.approx(found[own & known].mean())
        for index, name in enumerate(CLASSES):
            of_class = true == index
            assert row["per_class_share"][name] == pytest.approx(own[of_class].mean())
            assert row["per_class_right"][name] == pytest.approx(found[own & of_class].mean())
        low, high = row["ci95"]
        assert low < row["share"] < high
        assert row["right_ci95"][0] < row["right"] < row["right_ci95"][1]
        assert (row["ci_unit"], row["ci_units"]) == ("block", 20 if "+" in subset else 10)
    for subset in SUBSETS:
        assert sum(r["share"] for r in rows if r["subset"] == subset) == pytest.approx(1.0)


def test_intervals_are_those_of_the_blocks() -> None:
    whole, label, blocks = prediction(42), labels(42), Blocks.of(frames())
    row = next(r for r in filled(agreeing(), whole, label) if r["subset"] == "urban")
    own = (pixels_of(whole, 2) == 0).sum(axis=(1, 2))
    units = np.array([blocks.unit_of(frame.key) for frame in frames()])
    members = blocks.members("urban").tolist()
    per_unit = np.array([own[units == unit].sum() for unit in members])
    every = np.array([(units == unit).sum() for unit in members]) * SIZE[0] * SIZE[1]
    drawn = resample_counts(10)
    assert row["category"] == "overrules"
    assert row["ci95"] == pytest.approx(interval((drawn @ per_unit) / (drawn @ every)))


def test_no_label_and_no_such_category_give_null() -> None:
    whole = prediction(42)
    assert whole.ids is not None
    same = Prediction(
        whole.logits,
        whole.weights,
        ids=whole.ids,
        expert_ids=torch.stack([whole.ids, whole.ids], dim=1),
    )
    rows = filled(agreeing(), same, torch.full((42, *SIZE), 255, dtype=torch.uint8))
    unanimous = rows[3]
    assert (unanimous["category"], unanimous["share"]) == ("unanimous", 1.0)
    assert unanimous["ci95"] == [1.0, 1.0]
    assert (unanimous["labelled"], unanimous["right"], unanimous["right_ci95"]) == (0, None, None)
    assert set(unanimous["per_class_share"].values()) == {None}
    assert set(unanimous["per_class_right"].values()) == {None}
    overrules = filled(agreeing(), same, labels(42))[0]
    assert (overrules["pixels"], overrules["share"], overrules["right"]) == (0, 0.0, None)
    assert set(overrules["per_class_share"].values()) == {0.0}


def test_misuse_is_an_error() -> None:
    whole, label, keys = prediction(42), labels(42), [frame.key for frame in frames()]
    with pytest.raises(UsageError, match="unknown subset 'rural'"):
        AgreementCollector("m", EXPERTS, CLASSES, Blocks.of(frames()), ["rural"], BASE)
    with pytest.raises(DataError, match="expected 3 experts from 'moe-x', got 2"):
        agreeing(("a", "b", "c")).update(whole, label, keys)
    collector = agreeing()
    with pytest.raises(DataError, match="nowhere/1"):
        collector.update(part(whole, slice(0, 1)), label[:1], ["nowhere/1"])
    with pytest.raises(DataError, match=r"label ids 0\.\.2"):
        collector.update(whole, torch.full_like(label, 7), keys)
    assert int(collector.images.sum()) == int(collector.pixels.sum()) == 0  # nothing half-counted
    for _ in range(3):
        collector.update(whole, label, keys)
    with pytest.raises(DataError, match="sampler that does not repeat"):
        collector.rows()


def counted(rank: int = 0, world: int = 1) -> list[Tensor]:
    """Return the states of agreement and detectors over every `world`-th frame, after `sync`."""
    whole, label, keys = prediction(42, columns=3), labels(42), [frame.key for frame in frames()]
    agreement, blocks = agreeing(), Blocks.of(frames())
    detectors = DetectorCollector("moe-x", EXPERTS, CLASSES, blocks, SUBSETS, BASE, {})
    collectors: tuple[Collector, ...] = (agreement, detectors)
    with torch.inference_mode():  # as the inference loop calls them
        for collector in collectors:
            for index in range(rank, 42, world):
                one = slice(index, index + 1)
                collector.update(part(whole, one), label[one], keys[one])
            collector.sync()
            collector.sync()  # a second call must not sum again
            if world > 1:
                with pytest.raises(RuntimeError, match="after sync"):
                    collector.update(part(whole, slice(0, 1)), label[:1], keys[:1])
    states = [agreement.images, agreement.pixels, agreement.found]
    return [*states, detectors.images, detectors.pixels, detectors.frames]


def take_part(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        torch.save(counted(rank, 2), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_count_as_one(tmp_path: Path) -> None:
    spawn(take_part, (tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]
    alone = counted()
    assert [int(state.sum()) for state in alone[:2]] == [42, 42 * SIZE[0] * SIZE[1]]
    for rank in (0, 1):
        states = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert all(torch.equal(*pair) for pair in zip(states, alone, strict=True))


def test_batching_does_not_matter() -> None:
    whole, label = prediction(42, experts=3), labels(42)
    names = ("a", "b", "c")
    assert filled(agreeing(names), whole, label, 1) == filled(agreeing(names), whole, label, 42)


def cropped(whole: Prediction, height: int, width: int) -> Prediction:
    ids, each = whole.ids, whole.expert_ids
    assert ids is not None
    assert each is not None
    return Prediction(
        whole.logits[..., :height, :width],
        whole.weights,
        ids=ids[..., :height, :width],
        expert_ids=each[..., :height, :width],
    )


def test_padding_counts_nowhere() -> None:
    whole, label = prediction(42), labels(42)
    height, width = SIZE[0] - 2, SIZE[1] - 3
    padded = label.clone()
    padded[:, height:], padded[:, :, width:] = 255, 255
    inside = replace(whole, extents=((height, width),) * 42)
    small, small_label = cropped(whole, height, width), label[:, :height, :width]
    assert filled(agreeing(), inside, padded) == filled(agreeing(), small, small_label)
    trained = {"highway": "highway", "urban": "urban"}

    def detecting() -> DetectorCollector:
        blocks = Blocks.of(frames())
        return DetectorCollector("moe-x", EXPERTS, CLASSES, blocks, SUBSETS, BASE, trained)

    found = filled(detecting(), inside, padded)
    assert {row["task"] for row in found} == {"wrong-pixels", "unseen-frames"}
    assert found == filled(detecting(), small, small_label)
