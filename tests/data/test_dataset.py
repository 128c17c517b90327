from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from contracts_data import fake_manifest
from moeseg.data import Augment, EpochBatches, SegmentationDataset, Taxonomy, read_manifest
from moeseg.errors import UsageError

OWN = Taxonomy("own", ("a", "b", "c"), (((1, 1, 1),), ((2, 2, 2),), ((3, 3, 3),)))
CHANGES = Augment(True, (0.5, 2.0), 0.3)


@pytest.fixture
def data(tmp_path: Path) -> SegmentationDataset:
    rows = [("d", f"{i:03d}", "s", "train") for i in range(5)]
    found = read_manifest(fake_manifest(tmp_path, rows), OWN, "ids")
    return SegmentationDataset(found.select("s", "train"), found.read_label, (8, 16), CHANGES, 3)


def test_an_item_depends_on_seed_place_and_draw_alone(data: SegmentationDataset) -> None:
    first = data[2, 7]
    torch.rand(5)
    data[0, 1]
    assert torch.equal(data[2, 7][0], first[0])
    assert torch.equal(data[2, 7][1], first[1])
    assert torch.equal(data[2][0], data[2, 0][0])
    assert not torch.equal(data[2, 8][0], first[0])
    reseeded = SegmentationDataset(data.frames, data.read_label, data.size, data.augment, 4)
    assert not torch.equal(reseeded[2, 7][0], first[0])
    state = torch.get_rng_state()
    data[2, 7]
    assert torch.equal(torch.get_rng_state(), state)


def test_frames_of_a_draw_are_changed_differently(data: SegmentationDataset) -> None:
    same = SegmentationDataset((data.frames[0],) * 2, data.read_label, data.size, CHANGES, 3)
    assert not torch.equal(same[0, 0][0], same[1, 0][0])


def test_no_size_keeps_the_size_of_the_files(data: SegmentationDataset) -> None:
    plain = SegmentationDataset(data.frames, data.read_label, None)
    assert plain[0][0].shape == (3, 12, 20)
    assert plain[0][1].shape == (12, 20)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_workers_see_the_same_data(data: SegmentationDataset, workers: int) -> None:
    batches = EpochBatches(5, 2, seed=1)
    batches.set_epoch(3)
    expected = [[data[index] for index in batch] for batch in batches]
    loader = DataLoader(
        data,
        batch_sampler=batches,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )
    for (images, labels, keys), items in zip(loader, expected, strict=True):
        assert torch.equal(images, torch.stack([item[0] for item in items]))
        assert torch.equal(labels, torch.stack([item[1] for item in items]))
        assert list(keys) == [item[2] for item in items]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 12, 13, 33])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_each_frame_comes_once_in_even_batches(length: int, size: int) -> None:
    batches = EpochBatches(length, size, seed=0)
    got = list(batches)
    assert len(got) == len(batches) == -(-length // size)
    sizes = [len(batch) for batch in got]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    if size >= 2 and length >= 2:
        assert min(sizes) >= 2
    seen = Counter(index for batch in got for index, _ in batch)
    assert set(seen) == set(range(length))
    twice = 1 if size == 2 and length % 2 and length > 1 else 0
    assert sum(seen.values()) == length + twice


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int, shuffle: bool = True) -> list[int]:
        batches = EpochBatches(20, 4, seed, shuffle)
        batches.set_epoch(epoch)
        drawn = [item for batch in batches for item in batch]
        assert {draw for _, draw in drawn} == {epoch}
        return [index for index, _ in drawn]

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(s, e)) for s in range(3) for e in range(3)}) == 9
    assert order(1, 2, shuffle=False) == list(range(20))


def test_ranks_share_an_epoch() -> None:
    world = 3
    whole = list(EpochBatches(17, 2, seed=5))  # 9 batches
    ranks = [list(EpochBatches(17, 2, 5, rank=rank, world=world)) for rank in range(world)]
    assert [batch for turn in zip(*ranks, strict=True) for batch in turn] == whole
    # 5 batches over 3 ranks: two turns, the sixth batch is the first again
    whole = list(EpochBatches(10, 2, seed=5))
    ranks = [list(EpochBatches(10, 2, 5, rank=rank, world=world)) for rank in range(world)]
    assert [len(rank) for rank in ranks] == [2, 2, 2]
    assert [batch for turn in zip(*ranks, strict=True) for batch in turn] == [*whole, whole[0]]
    # fewer batches than ranks
    ranks = [list(EpochBatches(2, 2, 5, rank=rank, world=world)) for rank in range(world)]
    assert [len(rank) for rank in ranks] == [1, 1, 1]


@pytest.mark.parametrize("wrong", [(0, 2, 0, 1), (3, 0, 0, 1), (3, 2, 2, 2), (3, 2, -1, 2)])
def test_numbers_out_of_range(wrong: tuple[int, int, int, int]) -> None:
    length, size, rank, world = wrong
    with pytest.raises(UsageError, match="expected at least one frame"):
        EpochBatches(length, size, 0, rank=rank, world=world)
