"""The collector of uncertainty: its rows against plain numpy and scikit-learn over all pixels."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from torch.multiprocessing.spawn import spawn

from moeseg.errors import DataError, MoesegError, UsageError
from moeseg.evaluation.intervals import Blocks
from moeseg.evaluation.rows import BASE_KEYS, METRIC_KEYS, read_rows, write_rows
from moeseg.types import Prediction, Row
from moeseg.uncertainty.collectors import UncertaintyCollector, changed_rows
from moeseg.uncertainty.conditional import patches
from moeseg.uncertainty.scores import scores_of, uncertainty
from predicted import KEYS, PARTS, chosen, collector, fill, predicted
from routed import BASE, CLASSES, SUBSETS, frames, labels


def of_kind(rows: list[Row], kind: str, **wanted: object) -> list[Row]:
    return [
        row
        for row in rows
        if row["kind"] == kind and all(row[key] == value for key, value in wanted.items())
    ]


MODELS = {"single": (1, 0), "ensemble": (3, 0), "simple": (2, 1), "class-wise": (2, 3)}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("published", [False, True])
def test_rows_of_each_kind_of_model(name: str, published: bool, tmp_path: Path) -> None:
    members, columns = MODELS[name]
    whole = predicted(members, columns=columns)
    made = collector(members=members, gated=columns > 0, published=published)
    assert made.needs_expert_logits == (members > 1)
    rows = fill(made, whole).rows()
    scores = scores_of(members, columns > 0, published=published)
    for row in rows:
        assert set(row) == set(BASE_KEYS + METRIC_KEYS[row["kind"]])
    write_rows(tmp_path / "rows.jsonl", rows)  # JSON without NaN
    wrong = of_kind(rows, "detector", task="wrong-pixels")
    assert [(r["subset"], r["score"]) for r in wrong] == [(s, n) for s in SUBSETS for n in scores]
    unseen = of_kind(rows, "detector", task="unseen-frames")
    assert [(r["subset"], r["score"]) for r in unseen] == [("fog", n) for n in scores]
    readings = 1 + (1 + len(scores)) * published
    assert len(of_kind(rows, "calibration")) == len(SUBSETS) * readings
    assert len(of_kind(rows, "conditional")) == len(SUBSETS) * len(scores) * (2 + 2 * published)
    assert {r["members"] for r in of_kind(rows, "calibration")} == {members}


def test_calibration_against_plain_numpy() -> None:
    whole, label = predicted(2, columns=3), labels(42).numpy()
    rows = of_kind(fill(collector(gated=True), whole).rows(), "calibration")
    p = whole.logits.double().softmax(1).numpy()
    assert [row["subset"] for row in rows] == list(SUBSETS)
    for row in rows:
        start, stop = PARTS[row["subset"]]
        valid = label[start:stop] != 255
        true = label[start:stop][valid]
        of_pixel = p[start:stop].transpose(0, 2, 3, 1)[valid]  # (n, C)
        confidence, ids = of_pixel.max(1), of_pixel.argmax(1)
        assert row["pixels"] == len(true)
        assert row["accuracy"] == pytest.approx((ids == true).mean())
        assert row["confidence"] == pytest.approx(confidence.mean(), abs=1e-6)
        one_hot = np.eye(3)[true]
        assert row["brier"] == pytest.approx(((of_pixel - one_hot) ** 2).sum(1).mean(), abs=1e-6)
        assert row["nll"] == pytest.approx(log_loss(true, of_pixel, labels=[0, 1, 2]), abs=1e-6)
        gaps, each = [], []
        for low in range(15):
            inside = np.minimum(np.floor(confidence * 15), 14) == low
            if inside.any():
                gap = abs((ids == true)[inside].mean() - confidence[inside].mean())
                gaps.append((inside.mean(), gap))
        for image in range(start, stop):
            known = label[image] != 255
            if not known.any():
                continue  # the second frame is ignored as a whole
            c = p[image].max(0)[known]
            hit = p[image].argmax(0)[known] == label[image][known]
            cell = np.minimum(np.floor(c * 15), 14)
            each.append(sum(abs((hit - c)[cell == b].sum()) for b in range(15)) / known.sum())
        assert row["ece"] == pytest.approx(sum(share * gap for share, gap in gaps), abs=1e-6)
        assert row["mce"] == pytest.approx(max(gap for _, gap in gaps), abs=1e-5)
        assert row["ece_per_image"] == pytest.approx(np.mean(each), abs=1e-6)
        for key, ci95 in (("ece", "ci95"), ("brier", "brier_ci95"), ("nll", "nll_ci95")):
            low, high = row[ci95]
            assert low < high
            assert key == "ece" or low < row[key] < high
        assert list(row["per_class_ece"]) == list(CLASSES)
        assert row["classwise_ece"] == pytest.approx(np.mean(list(row["per_class_ece"].values())))
        assert sum(row["reliability"][0]) == pytest.approx(1.0, abs=1e-4)
        assert (row["reading"], row["confidence_from"]) == ("multi-class", "probability")


def test_class_wise_calibration_of_equal_mass_against_sorted_pixels() -> None:
    whole, label = predicted(2, columns=3), labels(42).numpy()
    rows = of_kind(fill(collector(gated=True), whole).rows(), "calibration")
    p = whole.logits.double().softmax(1).numpy()
    for row in rows:
        start, stop = PARTS[row["subset"]]
        valid = label[start:stop] != 255
        true = label[start:stop][valid]
        of_pixel = p[start:stop].transpose(0, 2, 3, 1)[valid]  # (n, C)
        each = []
        for name in range(3):
            order = of_pixel[:, name].argsort(kind="stable")
            gaps = of_pixel[order, name] - (true == name)[order]
            each.append(sum(abs(part.sum()) for part in np.array_split(gaps, 15)) / len(gaps))
        bound = row["classwise_equal_mass_bound"]
        rounding = 2 * 15 / len(true)  # bounds of whole pixels
        assert abs(row["classwise_ece_equal_mass"] - np.mean(each)) <= bound + rounding
        assert 0 < bound < 0.02
        assert row["classwise_ece_equal_mass"] != row["classwise_ece"]


def test_a_join_may_be_written_with_spaces() -> None:
    blocks = Blocks.of(frames())
    place = ("m", 2, False, CLASSES, blocks, ("highway + urban", "highway+urban"), BASE)
    rows = fill(UncertaintyCollector(*place), predicted(2)).rows()
    spaced, tight = ([row for row in rows if row["subset"] == s] for s in place[5])
    assert len(spaced) == len(tight) > 0
    for one, other in zip(spaced, tight, strict=True):
        assert one | {"subset": other["subset"]} == other
    assert of_kind(spaced, "calibration")[0]["classwise_ece"] is not None


def test_the_state_does_not_grow_with_the_frames() -> None:
    def size(per_subset: int) -> int:
        counted = frames(per_subset)
        some = Blocks.of(counted)
        made = UncertaintyCollector("m", 2, True, CLASSES, some, SUBSETS, BASE, published=True)
        whole, label = predicted(2, columns=1), labels(42)
        for place in range(0, len(counted), 14):
            keys = [frame.key for frame in counted[place : place + 14]]
            made.update(chosen(whole, slice(0, 14)), label[:14], keys)
        assert int(made.images.sum()) == len(counted)
        held = [value for value in vars(made).values() if isinstance(value, torch.Tensor)]
        return sum(one.numel() * one.element_size() for one in held)

    assert size(14) == size(140)


def test_detectors_against_scikit_learn() -> None:
    whole, label = predicted(2, columns=1), labels(42).numpy()
    rows = fill(collector(gated=True), whole).rows()
    assert whole.ids is not None
    for row in of_kind(rows, "detector", task="wrong-pixels"):
        start, stop = PARTS[row["subset"]]
        valid = label[start:stop] != 255
        wrong = (whole.ids[start:stop].numpy() != label[start:stop])[valid]
        score = uncertainty(whole, row["score"])[start:stop].numpy()[valid]
        assert abs(row["auroc"] - roc_auc_score(wrong, score)) <= row["error_bound"] + 1e-6
    unseen, known = np.arange(42) >= 28, (label != 255).any((1, 2))
    assert known.sum() == 41  # a frame without a label counts nothing
    for row in of_kind(rows, "detector", task="unseen-frames"):
        means = uncertainty(whole, row["score"]).double().mean((1, 2)).numpy()
        expected = roc_auc_score(unseen[known], means[known])
        assert (row["images"], row["auroc"]) == (41, pytest.approx(expected, abs=1e-2))


def test_conditional_rows_against_plain_counting() -> None:
    whole, label = predicted(2), labels(42)
    chosen = {("entropy", "pixel"): 0.25, ("mutual-information", "pixel"): 0.5}
    made = collector(thresholds=chosen, published=True)
    rows = fill(made, whole).rows()
    assert whole.ids is not None
    start, stop = PARTS["highway+urban"]
    half = (whole.ids != label).int().masked_fill(label == 255, 2)[start:stop]
    score = uncertainty(whole, "entropy")[start:stop]
    row, patch = of_kind(
        rows, "conditional", subset="highway+urban", score="entropy", reading="correct"
    )
    valid, wrong = (half < 2).numpy(), (half == 1).numpy()
    curve = []
    for point in range(129):
        certain = (score < (point / 128) ** 2).numpy()
        good = (valid & ~wrong & certain).sum() + (wrong & ~certain).sum()
        curve.append(good / valid.sum())
    assert row["curves"]["pavpu"] == pytest.approx(curve, abs=1e-6)
    assert row["counted"] == valid.sum()
    assert row["at_threshold"]["pavpu"] == pytest.approx(curve[64], abs=1e-6)
    assert row["threshold"] == 0.25
    width = np.diff((np.arange(129) / 128) ** 2)
    assert row["pavpu"] == pytest.approx(width @ (np.add(curve[1:], curve[:-1]) / 2), abs=1e-3)
    assert row["ci95"][0] < row["pavpu"] < row["ci95"][1]
    good = sum(int(patches(s[None], h)[1].sum()) for s, h in zip(score, half, strict=True))
    total = sum(len(patches(s[None], h)[1]) for s, h in zip(score, half, strict=True))
    assert (patch["unit"], patch["threshold"]) == ("patch", None)
    assert patch["counted"] == total
    assert patch["curves"]["accurate_certain"][128] == pytest.approx(good / total, abs=1e-6)
    other = of_kind(rows, "conditional", subset="highway+urban", score="expert-variance")[0]
    assert other["threshold"] is None
    assert set(other["at_threshold"].values()) == {None}
    readings = of_kind(rows, "conditional", subset="fog", score="entropy", unit="pixel")
    assert [r["reading"] for r in readings] == ["correct", "published", "published-swapped"]
    assert readings[1]["pavpu"] != readings[0]["pavpu"]


def test_values_at_a_threshold_near_zero_against_plain_counting() -> None:
    whole, label = predicted(2, sharp=40.0), labels(42, seed=9)  # it is often wrong
    edge = (220 / 4096) ** 2
    splits = {("entropy", "pixel"): edge, ("entropy", "patch"): 0.00289}  # next to that edge
    rows = fill(collector(thresholds=splits, published=True), whole, label).rows()
    assert whole.ids is not None
    half = (whole.ids != label).int().masked_fill(label == 255, 2)[:14]
    score = uncertainty(whole, "entropy")[:14]
    of_patches = [patches(s[None], h) for s, h in zip(score, half, strict=True)]
    doubt = torch.cat([s[0] for s, _ in of_patches])
    counted = {
        "pixel": (score[half < 2].numpy() < edge, half[half < 2].numpy() == 0),
        "patch": (doubt.numpy() < edge, torch.cat([good for _, good in of_patches]).numpy()),
    }
    found = of_kind(rows, "conditional", subset="highway", score="entropy")
    for row in found:
        certain, right = counted[row["unit"]]
        if row["reading"] == "published-swapped":
            certain = ~certain  # what has the highest uncertainty is called certain
        ac, ic, iu = (
            (certain & right).sum(),
            (certain & ~right).sum(),
            (~certain & ~right).sum(),
        )
        whole_count = len(right) if row["reading"] == "correct" else ac + 2 * ic + iu
        assert min(ac, ic, iu) > 0
        assert row["threshold"] == splits["entropy", row["unit"]]
        assert row["at_threshold"] == pytest.approx(
            {
                "accurate_certain": ac / (ac + ic),
                "uncertain_inaccurate": iu / (ic + iu),
                "pavpu": (ac + iu) / whole_count,
            }
        )
    assert len(found) == 4


def test_published_readings_of_confidence() -> None:
    whole, label = predicted(2), labels(42)
    rows = of_kind(fill(collector(published=True), whole).rows(), "calibration", subset="urban")
    assert whole.ids is not None
    start, stop = PARTS["urban"]
    known = label[start:stop] != 255
    right = (whole.ids[start:stop] == label[start:stop])[known].numpy()
    sources = ("entropy", "mutual-information", "expert-variance", "probability")
    for source in sources:
        (row,) = [
            r
            for r in rows
            if r["reading"] == "pixel-correctness" and r["confidence_from"] == source
        ]
        if source == "probability":
            confidence = whole.logits.softmax(1).amax(1)[start:stop][known]
        else:
            confidence = 1 - uncertainty(whole, source)[start:stop][known]
        c = confidence.numpy()
        assert row["brier"] == pytest.approx(brier_score_loss(right, c.clip(0, 1)), abs=1e-5)
        assert row["nll"] == pytest.approx(log_loss(right, c), rel=1e-3)
        cell = np.minimum(np.floor(c * 15), 14)
        gap = sum(abs((right - c)[cell == b].sum()) for b in range(15)) / len(c)
        assert row["ece"] == pytest.approx(gap, abs=1e-4)
        assert row["classwise_ece"] is None
    probability = of_kind(rows, "calibration", confidence_from="probability")
    assert probability[0]["ece"] == pytest.approx(probability[1]["ece"], abs=1e-5)
    assert probability[0]["brier"] != probability[1]["brier"]


def test_batching_does_not_matter() -> None:
    whole = predicted(2, columns=3)
    first, other = (fill(collector(gated=True), whole, batch=b).rows() for b in (1, 42))
    for one, two in zip(first, other, strict=True):
        assert one.keys() == two.keys()
        for key in one:
            if isinstance(one[key], float):
                assert one[key] == pytest.approx(two[key], abs=1e-9)
            elif key not in ("ci95", "brier_ci95", "nll_ci95", "per_class_ece"):
                assert one[key] == two[key]


def test_nothing_labelled_counts_nothing() -> None:
    whole, label = predicted(2), torch.full((42, 6, 8), 255, dtype=torch.uint8)
    rows = fill(collector(published=True), whole, label).rows()
    for row in of_kind(rows, "calibration"):
        assert row["pixels"] == 0
        keys = ("accuracy", "ece", "mce", "brier", "nll", "ece_per_image", "ci95", "nll_ci95")
        assert {row[key] for key in keys} == {None}
        assert row["per_class_reliability"] == {}
    for row in of_kind(rows, "conditional"):
        assert (row["counted"], row["pavpu"], row["ci95"]) == (0, None, None)
    for row in of_kind(rows, "detector", task="unseen-frames"):
        assert (row["images"], row["positives"], row["auroc"], row["ci95"]) == (0, None, None, None)


def test_an_ignored_frame_changes_nothing() -> None:
    whole, label = predicted(2), labels(42)
    label[5] = 255
    wild = whole.logits.clone()
    wild[5] *= 50
    assert whole.ids is not None
    pair = [fill(collector(), w, label).rows() for w in (whole, replace(whole, logits=wild))]
    assert pair[0] == pair[1]
    unseen = of_kind(pair[0], "detector", task="unseen-frames")
    assert {(row["subset"], row["images"]) for row in unseen} == {("fog", 40)}  # two have no label


def test_subsets_unseen_follow_what_is_known() -> None:
    whole = predicted(2)
    assert not of_kind(fill(collector(known=()), whole).rows(), "detector", task="unseen-frames")
    rows = fill(collector(known=("fog",)), whole).rows()
    told = {row["subset"] for row in of_kind(rows, "detector", task="unseen-frames")}
    assert told == {"highway", "urban", "highway+urban"}


def test_changed_frames() -> None:
    label = labels(42)
    clean = fill(collector(), predicted(2, sharp=3.0))
    foggy = fill(collector(base=BASE | {"condition": "fog-3"}), predicted(2, sharp=0.3))
    rows = changed_rows(clean, foggy)
    assert [(r["subset"], r["score"]) for r in rows] == [
        (s, n) for s in SUBSETS for n in clean.scores
    ]
    for row in rows:
        assert (row["task"], row["condition"], row["positives"]) == ("changed-frames", "fog-3", 0.5)
        start, stop = PARTS[row["subset"]]
        labelled = (label[start:stop] != 255).flatten(1).any(1)  # others count nothing
        assert row["images"] == 2 * int(labelled.sum())
    entropy = next(r for r in rows if r["subset"] == "urban" and r["score"] == "entropy")
    means = [
        uncertainty(predicted(2, sharp=s), "entropy")[14:28].double().mean((1, 2)).numpy()
        for s in (3.0, 0.3)
    ]
    expected = roc_auc_score([0] * 14 + [1] * 14, np.concatenate(means))
    assert entropy["auroc"] == pytest.approx(expected, abs=1e-2)
    assert entropy["auroc"] > 0.95
    with pytest.raises(DataError, match="expected 'moe-x' clean and changed on the same frames"):
        changed_rows(clean, fill(collector("other"), predicted(2), label))


def test_misuse_is_an_error() -> None:
    whole, label = predicted(2, columns=1), labels(42)
    made = collector(gated=True)
    first = slice(0, 1)
    with pytest.raises(UsageError, match="two members or more, got no expert logits"):
        made.update(replace(chosen(whole, first), expert_logits=None), label[first], KEYS[first])
    with pytest.raises(UsageError, match="expected a mixture with a gate"):
        made.update(replace(chosen(whole, first), weights=None), label[first], KEYS[first])
    with pytest.raises(DataError, match="expected 2 members of 'moe-x', got 3"):
        made.update(chosen(predicted(3, columns=1), first), label[first], KEYS[first])
    fewer = replace(chosen(whole, first), logits=whole.logits[:1, :2])
    with pytest.raises(DataError, match="expected 3 classes"):
        made.update(fewer, label[first], KEYS[first])
    with pytest.raises(DataError, match="nowhere"):
        made.update(chosen(whole, first), label[first], ["nowhere/1"])
    with pytest.raises(DataError, match=r"got \[7\]"):
        made.update(chosen(whole, first), torch.full_like(label[first], 7), KEYS[first])
    assert int(made.images.sum()) == int(made.pixels.sum()) == int(made.fine_counts.sum()) == 0
    lost = chosen(whole, first)
    assert lost.expert_logits is not None
    lost.expert_logits[0, 0, 0, 0, 0] = math.nan
    with pytest.raises(MoesegError, match=r"mutual-information of 'moe-x' on .* NaN at 1 of 48"):
        made.update(lost, label[first], KEYS[first])


def _rank(rank: int, folder: str, whole: Prediction) -> None:
    file = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=file, rank=rank, world_size=2)
    made, label = collector(gated=True, published=True), labels(42)
    for place in range(rank, 42, 2):
        frame = slice(place, place + 1)
        made.update(chosen(whole, frame), label[frame], KEYS[frame])
    made.sync()
    if rank == 0:
        write_rows(Path(folder) / "rows.jsonl", made.rows())
    dist.destroy_process_group()


def test_two_processes_make_the_rows_of_one(tmp_path: Path) -> None:

    whole = predicted(2, columns=3)
    spawn(_rank, (str(tmp_path), whole), nprocs=2)  # type: ignore[no-untyped-call]
    alone = fill(collector(gated=True, published=True), whole, batch=1)
    together = read_rows(tmp_path / "rows.jsonl")
    keys = ("auroc", "ece", "nll", "brier", "classwise_ece", "pavpu", "ece_per_image", "pixels")
    for one, two in zip(alone.rows(), together, strict=True):
        for key in keys:
            if key in one and "deviation" not in str(one.get("score", one.get("confidence_from"))):
                assert one[key] == pytest.approx(two[key], abs=1e-9)
