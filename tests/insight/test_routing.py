"""Routing and oracle: rows by hand, against slow loops, in batches."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeseg.errors import DataError, UsageError
from moeseg.evaluation.collectors import Collector
from moeseg.evaluation.intervals import Blocks, resample_counts
from moeseg.evaluation.rows import BASE_KEYS, METRIC_KEYS
from moeseg.insight.routing import (
    OracleCollector,
    RoutingCollector,
    leaders,
    oracle_ids,
    routing_entropy,
)
from moeseg.types import Prediction, Row
from routed import BASE, CLASSES, EXPERTS, SIZE, SUBSETS, frames, labels, part, prediction

Ids = NDArray[Any]
TRAINED = {"highway": "highway", "urban": "urban"}


def routing(
    whole: Prediction, label: Tensor, batch: int = 5, experts: Sequence[str] = EXPERTS
) -> RoutingCollector:
    """Return a collector that has seen a prediction of all frames."""
    listed = frames()
    collector = RoutingCollector(
        "moe-x", experts, CLASSES, Blocks.of(listed), SUBSETS, BASE, TRAINED
    )
    feed(collector, whole, label, range(0, len(listed), batch), batch)
    return collector


def feed(
    collector: Collector, whole: Prediction, label: Tensor, starts: Sequence[int], batch: int
) -> None:
    keys = [frame.key for frame in frames()]
    for start in starts:
        chosen = slice(start, start + batch)
        collector.update(part(whole, chosen), label[chosen], keys[chosen])


def row_of(rows: Sequence[Row], subset: str, model: str | None = None) -> Row:
    (row,) = (r for r in rows if r["subset"] == subset and model in (None, r["model"]))
    return row


# -- by hand ---------------------------------------------------------------------------------------


def test_entropy_by_hand() -> None:
    weights = torch.tensor([[[0.5, 1.0, 0.25], [0.5, 0.0, 0.75]]])  # (1, 2, 3)
    expected = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert routing_entropy(weights)[0].tolist() == pytest.approx([1.0, 0.0, expected])
    assert routing_entropy(torch.full((1, 3, 1), 1 / 3)).item() == pytest.approx(1.0)
    assert routing_entropy(torch.full((1, 3, 1), 1 / 3)).item() <= 1.0


def test_leaders_share_a_tie_and_nan_never_leads() -> None:
    values = torch.tensor([[0.2, 0.8, 0.1], [0.4, 0.2, 0.4], [math.nan, 0.1, 0.0]])
    assert leaders(values).tolist() == [[0, 1, 0], [0.5, 0, 0.5], [0, 1, 0]]
    assert leaders(torch.full((1, 2), math.nan)).tolist() == [[0, 0]]


def test_a_row_by_hand() -> None:
    """Two drives of two frames; expert 1 knows the first drive, expert 2 the second."""
    listed = frames(2, ("highway", "urban"))
    label = torch.zeros(4, *SIZE, dtype=torch.uint8)
    label[:, :3] = 1
    right, wrong = label.long(), torch.full((4, *SIZE), 2)
    half = right.clone()
    half[:, 3:] = 2  # the sky only: mIoU 0.5
    each = torch.stack(
        [torch.cat([right[:2], wrong[:2]]), torch.cat([half[:2], right[2:]])], dim=1
    )  # (4, 2, H, W)
    first = torch.tensor([0.92, 0.83, 0.63, 0.0])  # on the third frame it trusts the wrong one
    weights = torch.stack([first, 1 - first], dim=1)[..., None]  # (4, 2, 1)
    own = torch.cat([right[:3], wrong[3:]])
    logits = torch.nn.functional.one_hot(own, 3).permute(0, 3, 1, 2).float()
    subsets = ("highway", "highway+urban")
    blocks = Blocks.of(listed)
    collector = RoutingCollector("moe-x", EXPERTS, CLASSES, blocks, subsets, BASE, TRAINED)
    collector.update(
        Prediction(logits, weights, ids=own, expert_ids=each), label, [f.key for f in listed]
    )
    one, both = collector.rows()
    assert tuple(both) == BASE_KEYS + METRIC_KEYS["routing"]
    assert (both["kind"], both["model"], both["images"]) == ("routing", "moe-x", 4)
    assert (both["experts"], both["columns"]) == (["highway", "urban"], 1)
    assert both["mean_weights"] == pytest.approx({"highway": 0.595, "urban": 0.405})
    assert both["class_weights"] is None
    assert [i for i, n in enumerate(both["histogram"]["highway"]) if n] == [0, 12, 16, 18]
    assert both["histogram"]["urban"][19] == 1.0  # a weight of exactly 1
    entropies = [-(p * math.log2(p) + (1 - p) * math.log2(1 - p)) for p in (0.92, 0.83, 0.63)]
    assert both["entropy"] == pytest.approx(sum(entropies) / 4)
    assert both["concentration"] == 0.75
    assert both["collapsed"] is False
    assert (both["prefers_better"], both["frames_compared"]) == (0.75, 4)
    assert both["subset_accuracy"] == 0.75
    # the oracle is right everywhere; the mixture misses one of four frames: IoU 3/4 for both
    assert both["oracle_lost"] == pytest.approx(0.25)
    assert (one["prefers_better"], one["subset_accuracy"], one["collapsed"]) == (1.0, None, None)
    assert one["oracle_lost"] == 0.0
    assert json.loads(json.dumps(both, allow_nan=False)) == both


def test_oracles_by_hand() -> None:
    label = torch.tensor([[[0, 0, 1, 1, 2, 255]]], dtype=torch.uint8)  # (1, 1, 6)
    first = torch.tensor([[[0, 0, 1, 0, 0, 0]]])  # IoU 2/4, 1/2, 0
    second = torch.tensor([[[1, 1, 1, 1, 1, 2]]])  # IoU 0, 2/5, 0
    image, pixel = oracle_ids(torch.stack([first, second], dim=1), label, 3)
    assert torch.equal(image, first)
    assert pixel.tolist() == [[[0, 0, 1, 1, 0, 0]]]  # the fourth pixel from the second expert
    collector = OracleCollector(CLASSES, Blocks.of(frames(1, ("fog",))), ("fog",), BASE)
    assert collector.needs_experts
    batch = Prediction(torch.zeros(1, 3, 1, 6), expert_ids=torch.stack([first, second], dim=1))
    collector.update(batch, label, [frames(1, ("fog",))[0].key])
    by_image, by_pixel = collector.rows()
    assert (by_image["kind"], by_image["model"]) == ("segmentation", "oracle-image")
    assert by_image["miou"] == pytest.approx((2 / 4 + 1 / 2 + 0) / 3)
    assert by_pixel["model"] == "oracle-pixel"
    assert by_pixel["miou"] == pytest.approx((2 / 3 + 1 + 0) / 3)


@pytest.mark.parametrize(
    ("weights", "verdict", "concentration"),
    [
        ([[0.999, 0.001]] * 42, "one expert", 1.0),
        ([[0.7, 0.3]] * 42, "constant", 1.0),
        ([[0.5, 0.5]] * 42, "constant", 0.5),  # a tie is nobody's lead
        ([[0.999, 0.001], [0.001, 0.999]] * 21, False, 0.5),
        ([[0.95, 0.05], [0.75, 0.25]] * 21, False, 1.0),
    ],
)
def test_a_collapsed_gate_is_named_as_such(
    weights: list[list[float]], verdict: object, concentration: float
) -> None:
    whole = replace(prediction(42), weights=torch.tensor(weights)[..., None])
    rows = routing(whole, labels(42)).rows()
    assert row_of(rows, "highway+urban")["collapsed"] == verdict
    assert row_of(rows, "highway+urban")["concentration"] == pytest.approx(concentration)
    assert row_of(rows, "highway")["collapsed"] is None


def test_columns_that_each_trust_one_expert_are_constant_not_one_expert() -> None:
    weights = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).expand(42, 2, 3)
    row = row_of(routing(replace(prediction(42), weights=weights), labels(42)).rows(), "fog")
    assert row["concentration"] == pytest.approx(2 / 3)
    row = row_of(
        routing(replace(prediction(42), weights=weights), labels(42)).rows(), "highway+urban"
    )
    assert row["collapsed"] == "constant"
    assert row["class_weights"]["Sky"] == {"highway": 1.0, "urban": 0.0}
    assert row["class_weights"][CLASSES[2]] == {"highway": 0.0, "urban": 1.0}


# -- against slow loops ----------------------------------------------------------------------------


def slow_miou(ids: Ids, label: Ids) -> float | None:
    """Headline mIoU of pixels, with sets instead of confusion matrices."""
    pixels = [(int(a), int(b)) for a, b in zip(ids.ravel(), label.ravel(), strict=True) if b != 255]
    ious = []
    for c in {b for _, b in pixels}:
        both = sum(a == b == c for a, b in pixels)
        ious.append(both / sum(c in pair for pair in pixels))
    return sum(ious) / len(ious) if ious else None


@pytest.mark.parametrize(("experts", "columns"), [(2, 1), (2, 3), (3, 3)])
def test_rows_against_a_slow_loop(experts: int, columns: int) -> None:
    names = ("highway", "urban", "fog's own")[:experts]
    listed, label = frames(), labels(42)
    whole = prediction(42, experts=experts, columns=columns)
    assert whole.weights is not None
    assert whole.ids is not None
    assert whole.expert_ids is not None
    w = whole.weights.double().numpy()
    ids, each, truth = whole.ids.numpy(), whole.expert_ids.numpy(), label.numpy()
    for row in routing(whole, label, experts=names).rows():
        own = [n for n, f in enumerate(listed) if f.subset in row["subset"].split("+")]
        assert row["images"] == len(own)
        mean = w[own].mean(axis=(0, 2))
        assert row["mean_weights"] == pytest.approx(dict(zip(names, mean, strict=True)))
        for e, name in enumerate(names):
            counts, _ = np.histogram(w[own, e], bins=20, range=(0, 1))
            assert row["histogram"][name] == pytest.approx((counts / columns).tolist())
        if columns > 1:
            for c, label_name in enumerate(CLASSES):
                got = row["class_weights"][label_name]
                assert list(got.values()) == pytest.approx(w[own, :, c].mean(axis=0))
        entropies = -(w[own] * np.log(w[own])).sum(axis=1) / np.log(experts)
        assert row["entropy"] == pytest.approx(entropies.mean())
        top = np.bincount(w[own].argmax(axis=1).ravel(), minlength=experts)
        assert row["concentration"] == pytest.approx(top.max() / top.sum())
        compared = better = right = 0
        chosen: list[Any] = []
        for n in own:
            mious = [slow_miou(each[n, e], truth[n]) for e in range(experts)]
            heavy = int(w[n].mean(axis=1).argmax())
            right += names[heavy] == listed[n].subset
            if mious[0] is None:
                continue
            known = [m or 0.0 for m in mious]
            best = int(np.argmax(known))
            chosen.append((each[n, best], truth[n]))
            if sum(math.isclose(m, known[best], rel_tol=1e-12) for m in known) == 1:
                compared += 1
                better += heavy == best
        assert row["frames_compared"] == compared
        assert row["prefers_better"] == pytest.approx(better / compared)
        oracle = slow_miou(*(np.stack(side) for side in zip(*chosen, strict=True)))
        mixture = slow_miou(ids[own], truth[own])
        assert oracle is not None
        assert mixture is not None
        assert row["oracle_lost"] == pytest.approx(oracle - mixture)
        wanted = right / len(own) if row["subset"] == "highway+urban" else None
        assert row["subset_accuracy"] == pytest.approx(wanted)


def test_the_interval_is_a_bootstrap_of_the_share() -> None:
    collector = routing(prediction(42), labels(42))
    row = row_of(collector.rows(), "highway+urban")
    assert (row["ci_unit"], row["ci_units"]) == ("block", 20)
    groups, _ = collector.blocks.units_for("highway+urban")
    counts = np.array([collector.compared[torch.from_numpy(g)].sum(0).tolist() for g in groups])
    shares = [
        sum(k * hit for k, (_, hit) in zip(draw, counts, strict=True))
        / sum(k * of for k, (of, _) in zip(draw, counts, strict=True))
        for draw in resample_counts(20)
    ]
    assert row["ci95"] == pytest.approx(np.percentile(shares, [2.5, 97.5]).tolist())
    assert row["ci95"][0] < row["prefers_better"] < row["ci95"][1]


def test_oracle_rows_against_a_slow_loop() -> None:
    listed, label, whole = frames(), labels(42), prediction(42)
    collector = OracleCollector(CLASSES, Blocks.of(listed), SUBSETS, BASE)
    feed(collector, whole, label, range(0, 42, 5), 5)
    assert whole.expert_ids is not None
    each, truth = whole.expert_ids.numpy(), label.numpy()
    image, pixel = np.empty((2, *truth.shape), dtype=int)
    for n in range(42):
        mious = [slow_miou(each[n, e], truth[n]) or 0.0 for e in range(2)]
        image[n] = each[n, int(mious[1] > mious[0])]
        for at in np.ndindex(*SIZE):
            right = truth[n][at] in {int(each[n, 0][at]), int(each[n, 1][at])}
            pixel[n][at] = truth[n][at] if right else image[n][at]
    for model, ids in (("oracle-image", image), ("oracle-pixel", pixel)):
        for subset in SUBSETS:
            own = [n for n, f in enumerate(listed) if f.subset in subset.split("+")]
            row = row_of(collector.rows(), subset, model)
            assert row["miou"] == pytest.approx(slow_miou(ids[own], truth[own]))


def test_batching_does_not_matter() -> None:
    whole, label = prediction(42, columns=3), labels(42)
    one, all_ = routing(whole, label, 1).rows(), routing(whole, label, 42).rows()
    for a, b in zip(one, all_, strict=True):
        assert a.keys() == b.keys()
        for key in ("entropy", "concentration", "oracle_lost", "prefers_better", "ci95"):
            assert a[key] == pytest.approx(b[key])
        assert a["histogram"] == b["histogram"]


# -- bad input -------------------------------------------------------------------------------------


def test_frames_without_labels_leave_what_needs_them_null() -> None:
    label = torch.full((42, *SIZE), 255, dtype=torch.uint8)
    row = row_of(routing(prediction(42), label).rows(), "highway+urban")
    assert (row["prefers_better"], row["frames_compared"], row["ci95"]) == (None, 0, None)
    assert row["oracle_lost"] is None
    assert row["subset_accuracy"] is not None


def test_misuse_is_an_error() -> None:
    whole, label = prediction(42), labels(42)
    empty = RoutingCollector("moe-x", EXPERTS, CLASSES, Blocks.of(frames()), SUBSETS, BASE, {})
    with pytest.raises(UsageError, match="moe-x: expected the gate weights of 2 experts, got none"):
        empty.update(replace(whole, weights=None), label, [])
    with pytest.raises(UsageError, match="of 3 experts, got 2"):
        routing(whole, label, experts=("a", "b", "c"))
    with pytest.raises(UsageError, match="unknown subset 'rural'"):
        RoutingCollector("m", EXPERTS, CLASSES, Blocks.of(frames()), ["rural"], BASE, {})
    twice = routing(whole, label)
    feed(twice, whole, label, range(0, 42, 6), 6)
    with pytest.raises(DataError, match="does not repeat frames"):
        twice.rows()
    assert empty.rows() == []
