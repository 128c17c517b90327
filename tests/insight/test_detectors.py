"""Detectors: scores by hand, rows against scikit-learn on binned pixels and frame means."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from moeseg.errors import DataError, UsageError
from moeseg.evaluation.intervals import Blocks, interval, resample_counts
from moeseg.evaluation.rows import BASE_KEYS, METRIC_KEYS
from moeseg.insight.agreement import agreement_mask, disagreement
from moeseg.insight.detectors import (
    SCORES,
    DetectorCollector,
    gate_margin,
    softmax_scores,
)
from moeseg.insight.histograms import BINS, edges
from moeseg.types import Prediction, Row
from routed import BASE, CLASSES, EXPERTS, SUBSETS, frames, labels, part, prediction

TRAINED = {"highway": "highway", "urban": "urban", "elsewhere": "fog"}
PARTS = {"highway": (0, 14), "urban": (14, 28), "fog": (28, 42), "highway+urban": (0, 28)}


def filled(
    whole: Prediction,
    label: Tensor,
    *,
    batch: int = 5,
    subsets: tuple[str, ...] = SUBSETS,
    trained: dict[str, str] = TRAINED,
) -> list[Row]:
    """Return the rows of a collector that has seen a prediction of all frames."""
    keys = [frame.key for frame in frames()]
    collector = DetectorCollector(
        "moe-x", EXPERTS, CLASSES, Blocks.of(frames()), subsets, BASE, trained
    )
    for start in range(0, len(keys), batch):
        chosen = slice(start, start + batch)
        collector.update(part(whole, chosen), label[chosen], keys[chosen])
    return collector.rows()


def scores_of(whole: Prediction) -> dict[str, NDArray[np.float64]]:
    """Return the four scores (N, H, W) straight from their definitions, in float64."""
    assert whole.ids is not None
    assert whole.expert_ids is not None
    assert whole.weights is not None
    p = whole.logits.double().softmax(dim=1)
    weights = whole.weights.double().sort(dim=1, descending=True).values
    margin = 1 - (weights[:, 0] - weights[:, 1])  # (N, K)
    columns = margin.shape[1]
    chosen = torch.stack([m[i % columns] for m, i in zip(margin, whole.ids, strict=True)])
    return {
        "disagreement": (whole.expert_ids != whole.ids[:, None]).double().mean(1).numpy(),
        "max-probability": (1 - p.amax(dim=1)).numpy(),
        "entropy": (-(p * p.log()).sum(dim=1) / math.log(p.shape[1])).numpy(),
        "gate-margin": chosen.numpy(),
    }


def bins_of(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum(np.searchsorted(edges(), scores, side="right") - 1, BINS - 1)


def test_softmax_scores_by_hand() -> None:
    third = math.log(1 / 4)
    logits = torch.tensor([[0.0, third, 9e3], [0.0, 0.0, -9e3], [-math.inf, -math.inf, 0.0]])
    doubt, entropy = softmax_scores(logits[:, None])  # (3, 1, 3): three pixels of three classes
    # half and half; a fifth and four fifths; certain
    own = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8)) / math.log(3)
    assert doubt.tolist() == [pytest.approx([0.5, 0.2, 0.0], abs=1e-6)]
    assert entropy.tolist() == [pytest.approx([math.log(2) / math.log(3), own, 0.0], abs=1e-6)]
    even = softmax_scores(torch.zeros(5, 2, 2))
    assert even[0].flatten().tolist() == pytest.approx([0.8] * 4)
    assert even[1].flatten().tolist() == pytest.approx([1.0] * 4)
    assert float(even[1].max()) <= 1.0
    assert softmax_scores(torch.randn(1, 2, 2))[1].tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("strip", [1, 500, 2**19])
def test_softmax_scores_against_torch(
    monkeypatch: pytest.MonkeyPatch, strip: int, last: bool
) -> None:
    monkeypatch.setattr("moeseg.insight.detectors.STRIP", strip)
    logits = 5 * torch.randn(2, 6, 17, 9, generator=torch.Generator().manual_seed(0))
    if last:
        logits = logits.contiguous(memory_format=torch.channels_last)
    before = logits.clone()
    for image in logits:
        doubt, entropy = softmax_scores(image)
        p = image.double().softmax(dim=0)
        assert torch.allclose(doubt.double(), 1 - p.amax(0), atol=1e-6)
        expected = torch.special.entr(p).sum(0) / math.log(6)
        assert torch.allclose(entropy.double(), expected, atol=1e-6)
    assert torch.equal(logits, before)


def test_gate_margin_by_hand() -> None:
    ids = torch.tensor([[[0, 1], [2, 0]]])
    weights = torch.tensor([[[0.5, 0.2, 0.0], [0.3, 0.7, 0.0], [0.2, 0.1, 1.0]]])  # (1, 3, 3)
    assert gate_margin(weights, ids).tolist() == [
        [pytest.approx([0.8, 0.5]), pytest.approx([0.0, 0.8])]
    ]
    simple = gate_margin(torch.tensor([[[0.25], [0.75]]]), ids)
    assert simple.tolist() == [[[0.5, 0.5], [0.5, 0.5]]]


@pytest.mark.parametrize("columns", [1, 3])
def test_wrong_pixels_against_scikit_learn(columns: int) -> None:
    whole, label = prediction(42, columns=columns), labels(42)
    rows = [row for row in filled(whole, label) if row["task"] == "wrong-pixels"]
    assert [(r["subset"], r["score"]) for r in rows] == [(s, n) for s in SUBSETS for n in SCORES]
    assert whole.ids is not None
    scores = scores_of(whole)
    for row in rows:
        assert tuple(sorted(row)) == tuple(sorted(BASE_KEYS + METRIC_KEYS["detector"]))
        start, stop = PARTS[row["subset"]]
        assert row["images"] == stop - start
        known = label[start:stop].numpy() != 255
        wrong = (whole.ids[start:stop].numpy() != label[start:stop].numpy())[known]
        raw = scores[row["score"]][start:stop][known]
        binned = bins_of(raw)
        assert row["positives"] == pytest.approx(wrong.mean())
        assert row["auroc"] == pytest.approx(roc_auc_score(wrong, binned), abs=2e-3)
        assert abs(row["auroc"] - roc_auc_score(wrong, raw)) <= row["error_bound"] + 2e-3
        assert row["aupr"] == pytest.approx(average_precision_score(wrong, binned), abs=2e-3)
        assert row["ci95"][0] < row["auroc"] < row["ci95"][1]
        for key in ("aupr", "fpr95", "aurc"):
            low, high = row[f"{key}_ci95"]
            assert 0 <= low <= high <= 1
        assert row["aurc_ci95"][0] < row["aurc"] < row["aurc_ci95"][1]
        assert (row["ci_unit"], row["ci_units"]) == ("block", 20 if "+" in row["subset"] else 10)
        assert len(row["risk"]) == len(row["roc"][0]) == len(row["roc"][1]) == 101
        assert row["risk"][0] is None
        assert row["risk"][100] == pytest.approx(wrong.mean(), abs=1e-6)
        assert (row["roc"][0][0], row["roc"][1][0]) == (0.0, 0.0)
        assert (row["roc"][0][100], row["roc"][1][100]) == (1.0, 1.0)


def test_histograms_are_exact_counts() -> None:
    whole, label, blocks = prediction(42, columns=3), labels(42), Blocks.of(frames())
    collector = DetectorCollector("moe-x", EXPERTS, CLASSES, blocks, SUBSETS, BASE, TRAINED)
    keys = [frame.key for frame in frames()]
    collector.update(whole, label, keys)
    assert whole.ids is not None
    assert whole.expert_ids is not None
    assert whole.weights is not None
    maps = (
        disagreement(agreement_mask(whole.ids, whole.expert_ids), 2),
        *(torch.stack(m) for m in zip(*map(softmax_scores, whole.logits), strict=True)),
        gate_margin(whole.weights, whole.ids),
    )
    units = np.array([blocks.unit_of(key) for key in keys])
    for score, of_all in enumerate(maps):
        for unit in range(len(blocks)):
            own = units == unit
            known = label[own].numpy() != 255
            right = (label[own] == whole.ids[own]).numpy()[known]
            values = of_all[own].numpy()
            for half, kind in enumerate((right, ~right)):
                # numpy's own histogram closes the last bin too
                expected, _ = np.histogram(values[known][kind], bins=edges())
                assert np.array_equal(collector.pixels[unit, score, half].numpy(), expected)
            means = values.mean(axis=(1, 2), dtype=np.float64)
            expected, _ = np.histogram(means, bins=edges())
            assert np.array_equal(collector.frames[unit, score].numpy(), expected)


def test_unseen_frames_against_scikit_learn() -> None:
    whole = prediction(42)
    # fog: every expert differs from the mixture
    assert whole.ids is not None
    assert whole.expert_ids is not None
    each = whole.expert_ids.clone()
    each[28:40] = ((whole.ids + 1) % 3)[28:40, None]
    whole = replace(whole, expert_ids=each)
    rows = [row for row in filled(whole, labels(42)) if row["task"] == "unseen-frames"]
    assert [(r["subset"], r["score"]) for r in rows] == [("fog", name) for name in SCORES]
    unseen = np.arange(42) >= 28
    for row in rows:
        means = bins_of(scores_of(whole)[row["score"]].mean(axis=(1, 2)))
        assert row["images"] == 42
        assert row["positives"] == pytest.approx(1 / 3)
        assert row["auroc"] == pytest.approx(roc_auc_score(unseen, means), abs=1e-2)
        assert row["aupr"] == pytest.approx(average_precision_score(unseen, means), abs=1e-2)
        assert (row["ci_unit"], row["ci_units"]) == ("block", 10)
        assert row["ci95"][0] <= row["auroc"] <= row["ci95"][1]
    # two of the 14 fog frames are as they were
    assert 12 / 14 <= rows[0]["auroc"] < 1.0
    assert rows[0]["fpr95"] is not None


def test_both_sides_of_unseen_frames_are_drawn() -> None:
    whole, label, blocks = prediction(42), labels(42), Blocks.of(frames())
    row = next(r for r in filled(whole, label) if r["task"] == "unseen-frames")
    means = bins_of(scores_of(whole)["disagreement"].mean(axis=(1, 2)))
    units = np.array([blocks.unit_of(frame.key) for frame in frames()])
    fog, others = blocks.members("fog"), blocks.members("highway+urban")
    drawn, other_drawn = resample_counts(10), resample_counts(20, seed=1)
    values = []
    for one, other in zip(drawn, other_drawn, strict=True):
        positives, negatives = (
            np.concatenate([np.repeat(means[units == u], k) for u, k in pairs])
            for pairs in (zip(fog, one, strict=True), zip(others, other, strict=True))
        )
        ahead = positives[:, None] - negatives[None]
        values.append((ahead > 0).mean() + (ahead == 0).mean() / 2)
    assert row["ci95"] == pytest.approx(interval(np.array(values)), abs=1e-12)


@pytest.mark.parametrize(
    ("trained", "subsets", "told"),
    [
        ({"highway": "highway", "urban": "urban+fog"}, SUBSETS, set()),
        ({"highway": "highway"}, SUBSETS, set()),  # the other may have seen all
        ({"highway": "rural", "urban": "rural"}, SUBSETS, set()),  # nothing known is scored
        ({"highway": "highway", "urban": "highway"}, ("urban", "fog"), {"urban", "fog"}),
        ({"highway": "fog", "urban": "fog"}, SUBSETS, {"highway", "urban", "highway+urban"}),
    ],
)
def test_which_subsets_are_unseen(
    trained: dict[str, str], subsets: tuple[str, ...], told: set[str]
) -> None:
    rows = filled(prediction(42), labels(42), trained=trained, subsets=subsets)
    assert {row["subset"] for row in rows if row["task"] == "unseen-frames"} == told


def test_nothing_labelled_and_nothing_wrong() -> None:
    whole, label = prediction(42), labels(42)
    ignored = filled(whole, torch.full_like(label, 255))
    row = ignored[0]
    empty = (
        *("positives", "auroc", "aupr", "fpr95", "aurc", "error_bound"),
        *("ci95", "aupr_ci95", "fpr95_ci95", "aurc_ci95"),
    )
    assert [row[key] for key in empty] == [None] * 10
    assert row["risk"] == [None] * 101
    assert row["roc"] == [[None] * 101] * 2
    assert ignored[-1]["auroc"] is not None  # frames need no label
    assert whole.ids is not None
    perfect = filled(whole, whole.ids.to(torch.uint8))[0]
    known = {"positives": 0.0, "aurc": 0.0, "aurc_ci95": [0.0, 0.0]}
    assert {key: perfect[key] for key in empty} == dict.fromkeys(empty) | known
    assert perfect["risk"] == [None, *[0.0] * 100]


def test_a_detector_that_knows_is_told_from_one_that_does_not() -> None:
    whole, label = prediction(42), labels(42)
    assert whole.ids is not None
    wrong = (whole.ids != label)[:, None]
    each = torch.where(wrong, (whole.ids[:, None] + 1) % 3, whole.ids[:, None])
    rows = filled(replace(whole, expert_ids=each.expand(-1, 2, -1, -1)), label)
    knows, guesses = rows[0], rows[2]
    assert (knows["score"], knows["auroc"], knows["fpr95"]) == ("disagreement", 1.0, 0.0)
    assert knows["error_bound"] == 0.0
    assert knows["aupr"] == pytest.approx(1.0)
    assert knows["aurc"] < guesses["aurc"]
    assert 0.4 < guesses["auroc"] < 0.6


def test_batching_does_not_matter() -> None:
    whole, label = prediction(42, columns=3), labels(42)
    assert filled(whole, label, batch=1) == filled(whole, label, batch=42)


def test_misuse_is_an_error() -> None:
    whole, label, keys = prediction(42), labels(42), [frame.key for frame in frames()]
    blocks = Blocks.of(frames())
    with pytest.raises(UsageError, match="unknown subset 'rural'"):
        DetectorCollector("m", EXPERTS, CLASSES, blocks, ["rural"], BASE, TRAINED)
    collector = DetectorCollector("m", EXPERTS, CLASSES, blocks, SUBSETS, BASE, TRAINED)
    with pytest.raises(DataError, match="no weights from 'm'"):
        collector.update(replace(whole, weights=None), label, keys)
    with pytest.raises(DataError, match="nowhere/1"):
        collector.update(part(whole, slice(0, 1)), label[:1], ["nowhere/1"])
    with pytest.raises(DataError, match=r"label ids 0..2 or 255 \(ignore\), got \[7\]"):
        collector.update(whole, torch.full_like(label, 7), keys)
    assert int(collector.images.sum()) == int(collector.pixels.sum()) == 0  # nothing half-counted
    for _ in range(3):
        collector.update(whole, label, keys)
    with pytest.raises(DataError, match="sampler that does not repeat"):
        collector.rows()
