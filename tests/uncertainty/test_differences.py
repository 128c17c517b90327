"""Paired differences: which pairs, and numbers against resamples made here."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from moeseg.errors import UsageError
from moeseg.evaluation.contents import tables
from moeseg.evaluation.intervals import Blocks, interval, resample_counts
from moeseg.evaluation.rows import BASE_KEYS, METRIC_KEYS
from moeseg.types import Row
from moeseg.uncertainty.collectors import UncertaintyCollector
from moeseg.uncertainty.differences import Variant, difference_rows
from moeseg.uncertainty.scores import uncertainty
from predicted import KEYS, PARTS, collector, fill, predicted
from routed import BASE, SUBSETS, frames, labels


def some(
    name: str, members: int, columns: int = 0, kind: str = "none", sharp: float = 2.0
) -> tuple[Variant, UncertaintyCollector]:
    base: Row = BASE | {"settings": {} if kind == "none" else {"temperature": kind}}
    empty = collector(name, members, columns > 0, base=base)
    return (name, kind), fill(empty, predicted(members, columns=columns, sharp=sharp))


def of_models(rows: list[Row], subset: str = "urban") -> list[Row]:
    """Return the rows of a subset in which two models, or temperatures, are compared."""
    chosen = [row for row in rows if row["subset"] == subset]
    return [row for row in chosen if row["score"] == row["minus_score"]]


def pairs(rows: list[Row], subset: str = "urban") -> set[tuple[str, str, str, str]]:
    return {
        (
            row["model"],
            row["settings"].get("temperature", "none"),
            row["minus"],
            row["minus_settings"].get("temperature", "none"),
        )
        for row in of_models(rows, subset)
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
    single = [r for r in of_models(rows) if r["minus"] == "baseline"]
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
    rows = {(row["measure"], row["score"]): row for row in of_models(difference_rows(found))}
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


def test_a_lead_within_the_error_of_binning_is_none() -> None:
    found = dict([some("baseline", 1), some("moe-simple", 2, 1)])
    ours, theirs = found["moe-simple", "none"], found["baseline", "none"]
    for one, wrong_above in ((ours, 90), (theirs, 80)):  # all doubt lies in two bins
        one.pixels.zero_()
        one.pixels[:, :, 0, 7], one.pixels[:, :, 0, 9] = 90, 10
        one.pixels[:, :, 1, 7], one.pixels[:, :, 1, 9] = 100 - wrong_above, wrong_above

    def row() -> Row:
        rows = of_models(difference_rows(found))
        return next(r for r in rows if (r["measure"], r["score"]) == ("auroc", "entropy"))

    # 0.9 * 0.9 + (0.9 * 0.1 + 0.1 * 0.9) / 2 = 0.9, and 0.8 * 0.9 + (0.8 * 0.1 + 0.2 * 0.9) / 2
    within = row()
    assert within["difference"] == pytest.approx(0.9 - 0.85)
    assert within["ci95"] == pytest.approx([0.05, 0.05])
    assert within["error_bound"] == pytest.approx(0.18 / 2 + 0.26 / 2)
    assert not within["better"]
    for one in (ours, theirs):  # the same in bins of which none holds both
        right, wrong = one.pixels[:, :, 0].clone(), one.pixels[:, :, 1].clone()
        one.pixels.zero_()
        one.pixels[:, :, 0] = right
        one.pixels[:, :, 1, 8], one.pixels[:, :, 1, 10] = wrong[..., 7], wrong[..., 9]
    apart = row()
    assert apart["error_bound"] == 0.0
    assert apart["difference"] == pytest.approx(0.99 - 0.98)
    assert apart["better"]


def test_unseen_frames_of_two_models_against_resamples_by_hand() -> None:
    shapes = {"moe-simple": (2, 1, 2.0), "baseline": (1, 0, 1.0)}
    found = dict(some(name, *shape[:2], sharp=shape[2]) for name, shape in shapes.items())
    rows = difference_rows(found)
    unseen = [row for row in rows if row["measure"] == "auroc-unseen"]
    assert {(r["model"], r["minus"], r["subset"]) for r in unseen} == {
        ("moe-simple", "baseline", "fog")
    }
    row = next(r for r in unseen if r["score"] == "entropy")
    blocks = Blocks.of(frames())
    units = np.array([blocks.unit_of(key) for key in KEYS])
    fog, known = blocks.members("fog"), blocks.members("highway+urban")
    drawn, other = resample_counts(len(fog)), resample_counts(len(known), seed=1)
    labelled = (labels(42)[:28] != 255).any(2).any(1).numpy()  # others count nothing

    def areas(members: int, columns: int, sharp: float) -> NDArray[np.float64]:
        whole = predicted(members, columns=columns, sharp=sharp)
        mean = uncertainty(whole, "entropy").double().mean((1, 2)).numpy()
        cell = np.floor(np.sqrt(mean) * 4096)
        ahead = cell[28:, None] > cell[None, :28]
        pairs = ahead + (cell[28:, None] == cell[None, :28]) / 2  # (14, 28)
        of_fog = np.stack([units[28:] == u for u in fog]).astype(float)
        of_known = np.stack([(units[:28] == u) & labelled for u in known]).astype(float)
        ordered = of_fog @ pairs @ of_known.T
        number = (drawn @ of_fog.sum(1)) * (other @ of_known.sum(1))
        values = ((drawn @ ordered) * other).sum(1) / number
        return np.append(values, pairs[:, labelled].mean())

    mine, theirs = (areas(*shape) for shape in shapes.values())
    assert row["difference"] == pytest.approx(mine[-1] - theirs[-1], abs=1e-9)
    assert row["ci95"] == pytest.approx(interval(mine[:-1] - theirs[:-1]), abs=1e-9)
    assert (row["ci_unit"], row["ci_units"], row["members"]) == ("block", 10, [2, 1])


def test_unseen_frames_are_told_from_what_both_were_trained_on() -> None:
    whole = predicted(2, columns=1)
    ours = fill(collector("moe-simple", gated=True), whole)
    expert = fill(collector("expert-a", 1, known=("highway",)), predicted(1))
    rows = difference_rows({("moe-simple", "none"): ours, ("expert-a", "none"): expert})
    unseen = [row for row in rows if row["measure"] == "auroc-unseen"]
    assert {row["subset"] for row in unseen} == {"fog"}
    own = fill(collector("moe-simple", gated=True, known=("highway",)), whole).rows()
    place = ("unseen-frames", "fog", "entropy")
    halves = [
        next(r["auroc"] for r in of if (r.get("task"), r["subset"], r.get("score")) == place)
        for of in (own, expert.rows())
    ]
    entropy = next(row for row in unseen if row["score"] == "entropy")
    assert entropy["difference"] == pytest.approx(halves[0] - halves[1], abs=1e-12)
    other = fill(collector("expert-b", 1, known=("fog",)), predicted(1))
    rows = difference_rows({("moe-simple", "none"): ours, ("expert-b", "none"): other})
    assert not [row for row in rows if row["measure"] == "auroc-unseen"]


def test_the_best_score_of_a_model_minus_its_others() -> None:
    variant, made = some("moe-simple", 2, 1)
    rows = [row for row in difference_rows({variant: made}) if row["subset"] == "urban"]
    areas = {
        row["score"]: row["auroc"]
        for row in made.rows()
        if (row["kind"], row["subset"], row.get("task")) == ("detector", "urban", "wrong-pixels")
    }
    best = max(areas, key=lambda score: areas[score])
    assert {(row["model"], row["minus"], row["measure"], row["score"]) for row in rows} == {
        ("moe-simple", "moe-simple", "auroc", best)
    }
    assert [row["minus_score"] for row in rows] == [name for name in areas if name != best]
    for row in rows:
        assert row["difference"] == pytest.approx(areas[best] - areas[row["minus_score"]])
        assert row["ci95"][0] < row["difference"] < row["ci95"][1]
        assert row["better"] == (row["ci95"][0] > row["error_bound"])
    assert any(row["better"] for row in rows)


def test_a_model_minus_its_equal_is_zero() -> None:
    one, other = some("moe-simple", 2, 1), some("two-seed", 2)
    same = fill(collector("two-seed", 2, True), predicted(2, columns=1))
    rows = difference_rows({one[0]: one[1], other[0]: same})
    rows = [row for subset in SUBSETS for row in of_models(rows, subset)]
    assert {row["measure"] for row in rows} == {"ece", "brier", "nll", "auroc", "auroc-unseen"}
    assert {row["difference"] for row in rows} == {0.0}
    assert {tuple(row["ci95"]) for row in rows} == {(0.0, 0.0)}
    assert not any(row["better"] for row in rows)


def test_the_table_of_the_terminal_holds_the_differences() -> None:
    own = some("baseline", 1), some("moe-simple", 2, 1), some("moe-simple", 2, 1, kind="gate")
    found = dict(own)
    rows = difference_rows(found)
    shown = tables([*found["baseline", "none"].rows(), *rows])
    (made,) = [one for one in shown if one.heading.endswith(": paired differences")]
    # of the temperatures of a gate and of scores it tells nothing
    subsets = ["fog", "highway", "urban", "highway+urban"]
    assert [line[:5] for line in made.cells] == [
        (subset, "moe-simple", "none", "baseline", "none") for subset in subsets
    ]
    line = dict(zip(made.columns, made.cells[0], strict=True))
    heads = {
        "NLL": ("nll", None),
        "AUROC, entropy": ("auroc", "entropy"),
        "AUROC of unseen frames, entropy": ("auroc-unseen", "entropy"),
    }
    for head, measure in heads.items():
        (row,) = [
            r
            for r in of_models(rows, "fog")
            if (r["measure"], r["score"]) == measure and r["minus"] == "baseline"
        ]
        low, high = row["ci95"]
        told = f"{row['difference']:+.4f} [{low:+.4f}, {high:+.4f}]" + " better" * row["better"]
        assert line[head] == told
    assert line["AUROC, mutual information"] == "-"  # a single network has none


def test_other_frames_are_refused() -> None:
    one = some("moe-simple", 2, 1)
    half = collector("baseline", 1)
    with pytest.raises(UsageError, match="expected 'moe-simple' and 'baseline' on the same"):
        difference_rows({one[0]: one[1], ("baseline", "none"): half})
    assert difference_rows({}) == []
