"""Blocks and bootstrap against hand counts and a slow loop."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from moeseg.errors import DataError, UsageError
from moeseg.evaluation.intervals import (
    Blocks,
    bootstrap,
    interval,
    miou_interval,
    resample_counts,
)
from moeseg.types import Frame


def _frames(subset: str, **drives: int) -> list[Frame]:
    return [
        Frame(drive, f"{number:04d}", Path("photo.png"), None, subset, "test")
        for drive, count in drives.items()
        for number in range(count)
    ]


def test_one_drive_becomes_ten_blocks_of_consecutive_frames() -> None:
    frames = _frames("highway", a=25)
    shuffled = random.Random(1).sample(frames, len(frames))
    blocks = Blocks.of(shuffled)
    assert len(blocks) == 10
    units = [blocks.unit_of(frame.key) for frame in frames]  # in time
    assert units == sorted(units)
    assert sorted(set(units)) == list(range(10))
    assert set(blocks.unit_frames) == {2, 3}
    assert sum(blocks.unit_frames) == 25
    assert blocks == Blocks.of(frames)


def test_blocks_nest_in_sequences_and_cut_the_longest() -> None:
    blocks = Blocks.of(_frames("highway", a=90, b=10, c=1))
    # a: 90/8 > 10/1 gives a its 8th; then 90/8 = 11.25 > 10
    assert [blocks.unit_sequence.count(name) for name in "abc"] == [8, 1, 1]
    assert blocks.sequences == ("a", "b", "c")


@pytest.mark.parametrize(("frames", "units"), [(1, 1), (4, 4), (9, 9), (10, 10), (11, 10)])
def test_few_frames_give_as_many_blocks(frames: int, units: int) -> None:
    blocks = Blocks.of(_frames("dusk", a=frames))
    groups, unit = blocks.units_for("dusk")
    assert unit == "block"
    assert len(groups) == len(blocks) == units
    assert sum(blocks.unit_frames) == frames


def test_eight_sequences_are_drawn_as_sequences_seven_as_blocks() -> None:
    drives = {f"d{number}": 3 for number in range(8)}
    blocks = Blocks.of(_frames("urban", **drives))
    groups, unit = blocks.units_for("urban")
    assert unit == "sequence"
    assert len(groups) == 8
    assert all(len({blocks.unit_sequence[u] for u in group}) == 1 for group in groups)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(blocks)))
    del drives["d7"]
    groups, unit = Blocks.of(_frames("urban", **drives)).units_for("urban")
    assert (unit, len(groups)) == ("block", 10)


def test_joins_count_a_shared_sequence_once() -> None:
    day = _frames("day", **{f"d{number}": 2 for number in range(5)})
    dusk = _frames("dusk", e0=2, e1=2)
    shared = [Frame("d0", "9999", Path("p.png"), None, "dusk", "test")]
    blocks = Blocks.of(day + dusk + shared)
    assert blocks.units_for("day+dusk")[1] == "block"  # 5 + 2 sequences, d0 being in both
    assert len(blocks.units_for("day+dusk")[0]) == len(blocks)
    more = Blocks.of(day + dusk + shared + _frames("dusk", e2=2))
    groups, unit = more.units_for("dusk + day")
    assert (unit, len(groups)) == ("sequence", 8)
    (both,) = [group for group in groups if more.unit_sequence[group[0]] == "d0"]
    assert {more.unit_subset[u] for u in both} == {"day", "dusk"}


def test_unknown_names_and_double_frames_are_errors() -> None:
    blocks = Blocks.of(_frames("highway", a=3))
    with pytest.raises(UsageError, match=r"unknown subset 'higway'\. Did you mean 'highway'"):
        blocks.units_for("higway+highway")
    with pytest.raises(DataError, match="got 'a/0007'"):
        blocks.unit_of("a/0007")
    with pytest.raises(DataError, match=r"'a/0001' twice \(subsets 'highway' and 'urban'\)"):
        Blocks.of(_frames("highway", a=3) + _frames("urban", a=2)[1:])


def test_resamples_are_repeatable_and_whole() -> None:
    counts = resample_counts(12, draws=500, seed=3)
    assert counts.shape == (500, 12)
    assert set(counts.sum(axis=1).tolist()) == {12}
    assert np.array_equal(counts, resample_counts(12, draws=500, seed=3))
    assert not np.array_equal(counts, resample_counts(12, draws=500, seed=4))
    # each unit is Binomial(12, 1/12): mean 1, variance 11/12
    assert counts.mean(axis=0) == pytest.approx(np.ones(12), abs=0.2)
    assert counts.var() == pytest.approx(11 / 12, abs=0.1)


def _slow_miou(confusion: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> float:
    values = []
    for c in range(len(confusion)):
        truth = sum(int(v) for v in confusion[c])
        if truth:
            predicted = sum(int(v) for v in confusion[:, c])
            values.append(int(confusion[c, c]) / (truth + predicted - int(confusion[c, c])))
    return sum(values) / len(values) if values else float("nan")


def test_bootstrap_against_a_slow_loop() -> None:
    random_numbers = np.random.default_rng(0)
    confusions = random_numbers.integers(0, 1000, (11, 5, 5))
    confusions[:-1, 4] = 0  # a class whose ground truth lies in one block only
    confusions[:, 2] = 0  # and one without any
    counts = resample_counts(11, draws=60)
    assert (counts[:, -1] == 0).any()
    expected = []
    for draw in counts:
        total = np.zeros((5, 5), dtype=np.int64)
        for unit, times in enumerate(draw):
            for _ in range(times):
                total += confusions[unit]
        expected.append(_slow_miou(total))
    values = bootstrap(confusions, counts)
    assert values == pytest.approx(np.array(expected), abs=1e-14)
    ordered = np.sort(expected)
    # percentile by linear interpolation between order statistics, position q * (n - 1)
    low = ordered[1] + 0.475 * (ordered[2] - ordered[1])  # 0.025 * 59 = 1.475
    high = ordered[57] + 0.525 * (ordered[58] - ordered[57])  # 0.975 * 59 = 57.525
    assert interval(values) == pytest.approx([low, high])


def test_bootstrap_by_hand() -> None:
    right = np.array([[[2, 0], [0, 2]], [[0, 4], [0, 0]]])
    counts = np.array([[2, 0], [1, 1], [0, 2]])
    # first block alone: 1; both: class 0: 2/6, class 1: 2/6; second alone: class 0 only, 0
    assert bootstrap(right, counts).tolist() == pytest.approx([1.0, 1 / 3, 0.0])


def test_paired_with_itself_is_exactly_zero_and_unpaired_is_not() -> None:
    confusions = np.random.default_rng(1).integers(0, 9999, (10, 4, 4))
    assert miou_interval(confusions, confusions) == [0.0, 0.0]
    low, high = miou_interval(confusions) or [0.0, 0.0]
    assert 0.0 < low < high < 1.0
    # shuffled units: the same model on the whole, but no pairs
    wide = miou_interval(confusions, confusions[::-1].copy()) or [0.0, 0.0]
    assert wide[0] < 0.0 < wide[1]


def test_degenerate_intervals() -> None:
    one = np.ones((1, 2, 2), dtype=np.int64)
    assert miou_interval(one) is None  # one unit says nothing of spread
    nothing = np.zeros((10, 2, 2), dtype=np.int64)
    assert miou_interval(nothing) is None
    empty_unit = np.stack([np.eye(2, dtype=np.int64), np.zeros((2, 2), dtype=np.int64)])
    assert miou_interval(empty_unit) == [1.0, 1.0]  # resamples of nothing are left out


def test_coverage_is_near_nominal_for_many_independent_units() -> None:
    # pixels right ~ Bernoulli(0.7) in one class: IoU is the mean, so theory gives the spread
    random_numbers = np.random.default_rng(7)
    hits = random_numbers.binomial(50, 0.7, size=400)
    confusions = np.zeros((400, 2, 2), dtype=np.int64)
    confusions[:, 0, 0], confusions[:, 0, 1] = hits, 50 - hits
    low, high = miou_interval(confusions) or [0.0, 0.0]
    width = 2 * 1.96 * np.sqrt(0.7 * 0.3 / (50 * 400))
    assert high - low == pytest.approx(width, rel=0.15)
    assert low < hits.sum() / 20000 < high
