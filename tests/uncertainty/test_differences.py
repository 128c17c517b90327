"""Paired differences: which pairs, and numbers against resamples made here."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from moeseg.errors import UsageError
from moeseg.evaluation.intervals import Blocks, interval, resample_counts
from moeseg.evaluation.rows import BASE_KEYS, METRIC_KEYS
from moeseg.types import Row
from moeseg.uncertainty.collectors import UncertaintyCollector
from moeseg.uncertainty.differences import Variant, difference_rows
from moeseg.uncertainty.scores import uncertainty
from predicted import KEYS, PARTS, collector, fill, predicted
from routed import BASE, frames, labels


def some(
    name: str, members: int, columns: int = 0, kind: str = "none", sharp: float = 2.0
) -> tuple[Variant, UncertaintyCollector]:
    base: Row = BASE | {"settings": {} if kind == "none" else {"temperature": kind}}
    empty = collector(name, members, columns > 0, base=base)
    return (name, kind), fill(empty, predicted(members, columns=columns, sharp=sharp))


def pairs(rows: list[Row], subset: str = "urban") -> set[tuple[str, str, str, str]]:
    return {
        (
            row["model"],
            row["settings"].get("temperature", "none"),
            row["minus"],
            row["minus_settings"].get("temperature", "none"),
        )
        for row in rows
        if row["subset"] == subset
    }


def test_pairs_have_equal_members() -> None:
    found = dict(
        [
            some("baseline", 1),
            some("expert-a", 1, sharp=4.0),
            some("expert-b", 1, sharp=1.0),
            some("ensemble-mean", 2),
            some("two-seed", 2),
            some("mc-dropout", 2),
            some("mc-dropout-8", 8),
            some("deep-ensemble-3", 3),
            some("moe-simple", 2, 1),
            some("moe-classwise", 2, 3),
            some("mean-gate-moe-simple", 2, 1),
        ]
    )
    best = {"expert-a": 4.0, "expert-b": 1.0}
    rows = difference_rows(found)
    minus = {"baseline", "ensemble-mean", "two-seed", "mc-dropout"}
    told = pairs(rows)
    for name in ("moe-simple", "moe-classwise"):
        of_mixture = {pair[2] for pair in told if pair[0] == name}
        assert of_mixture - set(best) - {"moe-simple"} == minus
        assert len(of_mixture & set(best)) == 1
    assert ("moe-classwise", "none", "moe-simple", "none") in told
    assert ("moe-simple", "none", "moe-classwise", "none") not in told
    assert {pair[0] for pair in told} == {"moe-simple", "moe-classwise"}
    single = [r for r in rows if r["minus"] == "baseline" and r["subset"] == "urban"]
    measures = [(r["measure"], r["score"]) for r in single if r["model"] == "moe-simple"]
    calibrated = [("ece", None), ("brier", None), ("nll", None)]
    assert measures == [*calibrated, ("auroc", "entropy"), ("auroc", "max-probability")]
    assert single[0]["members"] == [2, 1]
    for row in rows:
        assert set(row) == set(BASE_KEYS + METRIC_KEYS["uncertainty-difference"])


def test_temperatures_are_compared_with_none_and_with_each_other() -> None:
    found = dict(
        [
            some("baseline", 1),
            some("baseline", 1, kind="one", sharp=1.0),
            some("moe-simple", 2, 1),
            some("moe-simple", 2, 1, kind="one", sharp=1.0),
            some("moe-simple", 2, 1, kind="gate", sharp=1.5),
        ]
    )
    assert pairs(difference_rows(found)) == {
        ("moe-simple", "none", "baseline", "none"),
        ("moe-simple", "one", "baseline", "one"),
        ("moe-simple", "gate", "baseline", "one"),
        ("moe-simple", "one", "moe-simple", "none"),
        ("moe-simple", "gate", "moe-simple", "none"),
        ("baseline", "one", "baseline", "none"),
    }


def test_numbers_against_resamples_by_hand() -> None:
    found = dict([some("baseline", 1, sharp=5.0), some("moe-simple", 2, 1)])
    rows = {
        (row["measure"], row["score"]): row
        for row in difference_rows(found)
        if row["subset"] == "urban"
    }
    blocks, label = Blocks.of(frames()), labels(42).numpy()
    start, stop = PARTS["urban"]
    units = np.array([blocks.unit_of(key) for key in KEYS])[start:stop]
    members = blocks.members("urban")
    valid = label[start:stop] != 255
    drawn = resample_counts(len(members))
    values: dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]] = {}
    for whole in (predicted(2, columns=1), predicted(1, sharp=5.0)):
        p = whole.logits.double().softmax(1).numpy()[start:stop].transpose(0, 2, 3, 1)
        true = np.where(valid, label[start:stop], 0)
        own = np.take_along_axis(p, true[..., None], -1)[..., 0]
        nll = np.where(valid, -np.log(own), 0).sum((1, 2))
        brier = np.where(valid, ((p - np.eye(3)[true]) ** 2).sum(-1), 0).sum((1, 2))
        count = valid.sum((1, 2))
        for name, of_frame in (("nll", nll), ("brier", brier)):
            sums = np.array([of_frame[units == u].sum() for u in members])
            counts = np.array([count[units == u].sum() for u in members])
            values.setdefault(name, []).append((drawn @ sums) / (drawn @ counts))
            values.setdefault(f"{name}-mean", []).append(np.array(sums.sum() / counts.sum()))
    for name in ("nll", "brier"):
        mine, theirs = values[name]
        row = rows[name, None]
        assert row["difference"] == pytest.approx(
            float(values[f"{name}-mean"][0] - values[f"{name}-mean"][1]), abs=1e-5
        )
        assert row["ci95"] == pytest.approx(interval(mine - theirs), abs=1e-5)
        assert row["better"] == (row["ci95"][1] < 0)
    assert rows["nll", None]["better"]  # the baseline boasts
    areas = []
    for whole in (predicted(2, columns=1), predicted(1, sharp=5.0)):
        assert whole.ids is not None
        wrong = (whole.ids[start:stop].numpy() != label[start:stop])[valid]
        areas.append(roc_auc_score(wrong, uncertainty(whole, "entropy")[start:stop][valid]))
    row = rows["auroc", "entropy"]
    assert row["difference"] == pytest.approx(areas[0] - areas[1], abs=2e-3)
    assert row["ci95"][0] < row["difference"] < row["ci95"][1]


def test_a_model_minus_its_equal_is_zero() -> None:
    one, other = some("moe-simple", 2, 1), some("two-seed", 2)
    same = fill(collector("two-seed", 2, True), predicted(2, columns=1))
    rows = difference_rows({one[0]: one[1], other[0]: same})
    assert {row["difference"] for row in rows} == {0.0}
    assert {tuple(row["ci95"]) for row in rows} == {(0.0, 0.0)}
    assert not any(row["better"] for row in rows)


def test_other_frames_are_refused() -> None:
    one = some("moe-simple", 2, 1)
    half = collector("baseline", 1)
    with pytest.raises(UsageError, match="expected 'moe-simple' and 'baseline' on the same"):
        difference_rows({one[0]: one[1], ("baseline", "none"): half})
    assert difference_rows({}) == []
